"""One HTTP request, parsed: credentials, query text, parameters, settings, transport options."""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlsplit

from deploy.embedded.clickhouse.errors import ServerError
from deploy.embedded.clickhouse.formats import DEFAULT_FORMAT
from deploy.embedded.clickhouse.sessions import DEFAULT_TIMEOUT_SECONDS, MAX_TIMEOUT_SECONDS

MAX_URL_FIELDS = 4096

# Names in the URL that steer the transport; every other name is a setting (ClickHouse HTTPHandler).
_RESERVED = frozenset(
    [
        "query",
        "database",
        "user",
        "password",
        "quota_key",
        "query_id",
        "session_id",
        "session_timeout",
        "session_check",
        "close_session",
        "default_format",
        "compress",
        "decompress",
        "buffer_size",
        "wait_end_of_query",
        "client_protocol_version",
        "stacktrace",
        "role",
    ]
)
_QUERY_ID = re.compile(r"[\x21-\x7e]{1,256}")
_TRUE = frozenset(("1", "true", "yes", "on"))


@dataclass(frozen=True)
class Credentials:
    """Who the client says it is."""

    user: str
    password: str


@dataclass
class QueryRequest:
    """Everything a query needs besides the body.

    Attributes
    ----------
    query : bytes
        The query text in the URL, may be empty.
    params : dict
        Server-side parameters, without ``param_``, values escaped as in TabSeparated.
    settings : dict
        Settings in the URL, in order.
    readonly : int
        0; 1 and 2 forbid changes (2, also for GET: settings may still change).
    session_timeout_seconds : float
        How long the session is kept when idle.
    revision : int
        The client's ``client_protocol_version``; 0 if it sent none.
    """

    query: bytes = b""
    query_id: str = ""
    database: str = ""
    role: str = ""
    params: dict[str, str] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    form: dict[str, str] = field(default_factory=dict)
    readonly: int = 0
    default_format: str = DEFAULT_FORMAT
    session_id: str = ""
    session_timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS
    session_check: bool = False
    close_session: bool = False
    compress: bool = False
    decompress: bool = False
    wait_end_of_query: bool = False
    revision: int = 0

    def add_form_fields(self, fields: Mapping[str, str], file_names: Sequence[str]) -> None:
        """Take over the fields of a multipart form; fields about its files stay in `form`."""
        for name, value in fields.items():
            if name == "query":
                self.query += b"\n" * bool(self.query) + _to_bytes(value)
            elif name.startswith("param_"):
                self.params[name[len("param_") :]] = value
            else:
                self.settings[name] = value
        for file_name in file_names:
            for suffix in ("structure", "types", "format"):
                key = f"{file_name}_{suffix}"
                if key in self.settings:
                    self.form[key] = self.settings.pop(key)


def parse_request(method: str, query_string: str, headers: Mapping[str, str]) -> QueryRequest:
    """Return what the URL and the headers ask for.

    Parameters
    ----------
    method : str
        HTTP method.
    query_string : str
        Raw, percent-encoded.
    headers : mapping
        Case-insensitive.

    Raises
    ------
    ServerError
        36 for a parameter that does not parse, 374 for a session timeout out of range.
    """
    try:
        pairs = parse_qsl(
            query_string, True, errors="surrogateescape", max_num_fields=MAX_URL_FIELDS
        )
    except ValueError:
        raise ServerError(36, f"More than {MAX_URL_FIELDS} parameters in the URL") from None
    url = dict(pairs)
    request = QueryRequest(
        query=_to_bytes(url.get("query", "")),
        query_id=url.get("query_id") or headers.get("X-ClickHouse-Query-Id") or str(uuid.uuid4()),
        database=url.get("database") or headers.get("X-ClickHouse-Database", ""),
        role=url.get("role", ""),
        default_format=url.get("default_format")
        or headers.get("X-ClickHouse-Format")
        or DEFAULT_FORMAT,
        session_id=url.get("session_id", ""),
        session_check=_flag(url, "session_check"),
        close_session=_flag(url, "close_session"),
        compress=_flag(url, "compress"),
        decompress=_flag(url, "decompress"),
        wait_end_of_query=_flag(url, "wait_end_of_query"),
        revision=_number(url, "client_protocol_version", 0),
    )
    if not _QUERY_ID.fullmatch(request.query_id):
        raise ServerError(36, "A query_id is 1 to 256 printable ASCII characters without blanks")
    for name, value in url.items():
        if name.startswith("param_"):
            request.params[name[len("param_") :]] = value
        elif name not in _RESERVED:
            request.settings[name] = value
    request.session_timeout_seconds = _session_timeout(url)
    request.readonly = _number(request.settings, "readonly", 0)
    if method in ("GET", "HEAD") and not request.readonly:
        request.readonly = 2
    return request


def _to_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _flag(values: Mapping[str, str], name: str) -> bool:
    return values.get(name, "").lower() in _TRUE


def _number(values: Mapping[str, str], name: str, default: int) -> int:
    text = values.get(name, "")
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise ServerError(36, f"{name} in the URL is a number, not {text[:32]!r}")
    return int(text)


def _session_timeout(url: Mapping[str, str]) -> float:
    text = url.get("session_timeout", "")
    if not text:
        return DEFAULT_TIMEOUT_SECONDS
    if not text.isascii() or not text.isdigit() or not 0 < int(text[:9]) <= MAX_TIMEOUT_SECONDS:
        raise ServerError(
            374, f"session_timeout is a number of seconds from 1 to {MAX_TIMEOUT_SECONDS:g}"
        )
    return float(text)


def parse_credentials(headers: Mapping[str, str], query_string: str) -> Credentials:
    """Return the credentials, from exactly one of ClickHouse's headers, basic auth and the URL.

    Raises
    ------
    ServerError
        516 when two of the ways are used together or the basic auth does not parse.
    """
    url = dict(parse_qsl(query_string, True, max_num_fields=MAX_URL_FIELDS))
    authorization = headers.get("Authorization", "")
    own = "X-ClickHouse-User" in headers or "X-ClickHouse-Key" in headers
    in_url = "user" in url or "password" in url
    if bool(authorization) + own + in_url > 1:
        raise ServerError(
            516,
            "Use one way to authenticate: the Authorization header, the X-ClickHouse-User and "
            "X-ClickHouse-Key headers, or user and password in the URL",
        )
    if own:
        return Credentials(
            headers.get("X-ClickHouse-User") or "default", headers.get("X-ClickHouse-Key", "")
        )
    if authorization:
        scheme, _, value = authorization.partition(" ")
        try:
            if scheme.lower() != "basic":
                raise ValueError
            user, _, password = base64.b64decode(value, validate=True).decode().partition(":")
        except (ValueError, binascii.Error):
            raise ServerError(516, "The Authorization header is not HTTP basic auth") from None
        return Credentials(user or "default", password)
    return Credentials(url.get("user") or "default", url.get("password", ""))


def check_credentials(given: Credentials, expected: Credentials) -> None:
    """Raise 516 unless user and password are the expected ones; takes the same time either way."""
    same_user = hmac.compare_digest(given.user.encode(), expected.user.encode())
    same_password = hmac.compare_digest(given.password.encode(), expected.password.encode())
    if not (same_user and same_password):
        raise ServerError(
            516,
            "Authentication failed: password is incorrect, or there is no user with such name",
        )


def check_host(headers: Mapping[str, str], allowed: frozenset[str]) -> None:
    """Refuse what a browser sends on behalf of a foreign page.

    A page on the internet can make a browser on this machine send requests to loopback addresses,
    directly (the Origin header tells) or after pointing its own name here (the Host header tells).

    Parameters
    ----------
    headers : mapping
        Case-insensitive.
    allowed : frozenset of str
        Host names accepted besides loopback names and addresses.
    """
    for header in ("Host", "Origin"):
        value = headers.get(header, "")
        if not value:
            continue
        name = urlsplit(value if header == "Origin" else f"//{value}").hostname or ""
        if not (name in allowed or name == "localhost" or name.endswith(".localhost")):
            try:
                ipaddress.ip_address(name)
                if header == "Origin" and not ipaddress.ip_address(name).is_loopback:
                    raise ValueError
            except ValueError:
                raise ServerError(
                    497,
                    f"Requests with this {header} header are refused; start the server with "
                    "--allow-host NAME to accept a host name",
                ) from None
