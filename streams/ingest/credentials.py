"""Credentials by reference: a name in the event, the secret in a file or setting of the worker.

A secret is bound to hosts. Without that, whoever may name a reference in a request could have the
secret sent to a machine of their own.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from streams.ingest.errors import IngestError

_REFERENCE = re.compile(r"(secret-file|setting):([A-Za-z0-9][A-Za-z0-9._-]{0,100})")
_MAX_SECRET_BYTES = 65_536
_KINDS = ("basic", "bearer", "header", "query", "options")
_SECRET_PARAMETERS = re.compile(
    r"(?i)(.*[-_])?(access[-_]?token|token|api[-_]?key|apikey|key|secret|password|passwd|pwd|auth"
    r"|sig|signature|credential|security-token)"
)


@dataclass(frozen=True)
class Credential:
    """A secret and where it may be shown.

    Parameters
    ----------
    kind : str
        ``basic``, ``bearer``, ``header``, ``query``, ``options``, or ``token`` for a bare text,
        whose hosts the provider knows.
    hosts : frozenset of str
        Hosts (or buckets) that may see it.
    values : mapping
        The secret itself; it is in no ``repr``.
    """

    kind: str
    hosts: frozenset[str]
    values: Mapping[str, Any] = field(repr=False)

    def headers(self, host: str) -> dict[str, str]:
        """Headers that show it to a host; none where it is not for that host."""
        if host.lower() not in self.hosts:
            return {}
        if self.kind == "basic":
            pair = f"{self.values['username']}:{self.values['password']}".encode()
            return {"Authorization": "Basic " + base64.b64encode(pair).decode()}
        if self.kind == "bearer":
            return {"Authorization": f"Bearer {self.values['token']}"}
        if self.kind == "header":
            return {str(self.values["name"]): str(self.values["value"])}
        return {}

    def query(self, host: str) -> dict[str, str]:
        """Query parameters that show it to a host, such as a signature."""
        if self.kind != "query" or host.lower() not in self.hosts:
            return {}
        return {str(name): str(value) for name, value in self.values["parameters"].items()}


class Credentials:
    """Finds secrets by reference.

    Parameters
    ----------
    folder : Path or None
        Where ``secret-file:NAME`` looks.
    settings : mapping of str to str
        What ``setting:NAME`` names.
    """

    def __init__(self, folder: Path | None, settings: Mapping[str, str] | None = None) -> None:
        self._folder = folder
        self._settings = dict(settings or {})

    def find(self, reference: str | None) -> Credential | None:
        """Read the secret that a reference names.

        Raises
        ------
        IngestError
            If there is none, or it cannot be read; never with anything of its content.
        """
        if not reference:
            return None
        match = _REFERENCE.fullmatch(reference)
        if match is None or ".." in reference:
            raise IngestError(
                "bad-credentials-ref", "a reference is secret-file:NAME or setting:NAME"
            )
        kind, name = match.groups()
        text = self._settings.get(name) if kind == "setting" else self._read(name)
        if text is None:
            raise IngestError(
                "no-such-credentials",
                f"the worker has no {kind} {name}; see BIODATAMINE_INGEST_SECRETS_DIR and "
                "BIODATAMINE_INGEST_CREDENTIALS",
            )
        return parse(text)

    def _read(self, name: str) -> str | None:
        if self._folder is None:
            return None
        try:
            with (self._folder / name).open("rb") as file:
                return file.read(_MAX_SECRET_BYTES).decode("utf-8")
        except (OSError, UnicodeDecodeError):
            return None


def parse(text: str) -> Credential:
    """Read a secret: one bare token, or a JSON object with ``kind`` and ``hosts``.

    Raises
    ------
    IngestError
        If it is neither; the message quotes nothing of it.
    """
    stripped = text.strip()
    if not stripped.startswith("{"):
        if not stripped or any(c.isspace() for c in stripped) or not stripped.isascii():
            raise _malformed()
        return Credential("token", frozenset(), {"token": stripped})
    try:
        found = json.loads(stripped)
    except ValueError:
        raise _malformed() from None
    if "username" in found and "key" in found and "kind" not in found:
        # kaggle.json, as Kaggle's account page makes it.
        return Credential("kaggle", frozenset(), found)
    kind, hosts = found.get("kind"), found.get("hosts")
    needed = {
        "basic": ("username", "password"),
        "bearer": ("token",),
        "header": ("name", "value"),
        "query": ("parameters",),
        "options": ("options",),
    }.get(kind if isinstance(kind, str) else "")
    if (
        needed is None
        or not isinstance(hosts, list)
        or not hosts
        or not all(isinstance(host, str) for host in hosts)
        or not all(name in found for name in needed)
        or not all(isinstance(found[name], str) for name in needed if kind in _KINDS[:3])
        or not all(isinstance(found[name], dict) for name in needed if kind in _KINDS[3:])
        or any(c in str(found[name]) for name in needed for c in "\r\n")
    ):
        raise _malformed()
    return Credential(
        str(kind), frozenset(host.lower() for host in hosts), {n: found[n] for n in needed}
    )


def _malformed() -> IngestError:
    return IngestError(
        "bad-credentials",
        "the secret is neither a bare token nor JSON with kind (basic, bearer, header, query or "
        "options), hosts, and what the kind needs",
    )


def require_no_secrets(url: str) -> None:
    """Refuse a URL that carries credentials: it would stand in events, tables and logs.

    Raises
    ------
    IngestError
        If it has a user or password, or a query parameter named like a secret.
    """
    try:
        parts = urlsplit(url)
        user = parts.username is not None or parts.password is not None
        names = [name for name, _ in parse_qsl(parts.query, keep_blank_values=True)]
    except ValueError:
        raise IngestError("bad-url", "not a URL") from None
    if user:
        raise IngestError(
            "credentials-in-url",
            "put user and password into a secret of the worker and name it by credentials_ref",
        )
    if any(_SECRET_PARAMETERS.fullmatch(name) for name in names):
        raise IngestError(
            "credentials-in-url",
            "the URL's query holds a signature or token: put it into a secret of kind query and "
            "name it by credentials_ref",
        )
