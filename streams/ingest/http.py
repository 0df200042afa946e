"""HTTP(S): one URL, one source, taken up again where it broke off."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

import httpx

from streams.ingest.credentials import Credential, Credentials, require_no_secrets
from streams.ingest.errors import IngestError, LimitError, SourceAwayError, SourceChangedError
from streams.ingest.sources import Asked, Entry
from streams.ingest.web import Web, require_success

_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", re.ASCII)
_FILE_NAME = re.compile(r"""filename\s*=\s*(?:"([^"]*)"|([^;\s]+))""", re.IGNORECASE)
_FILE_NAME_UTF8 = re.compile(r"filename\*\s*=\s*UTF-8''([^;\s]+)", re.IGNORECASE)
_PATIENCE = 5


class HttpProvider:
    """Any http or https URL.

    Parameters
    ----------
    web : Web
        Makes the requests.
    credentials : Credentials
        Finds secrets.
    """

    def __init__(self, web: Web, credentials: Credentials) -> None:
        self._web = web
        self._credentials = credentials

    def serves(self, url: str) -> bool:
        """Whether it is http or https."""
        return url.lower().startswith(("http://", "https://"))

    def entries(self, asked: Asked) -> Iterator[Entry]:
        """Give the one source."""
        require_no_secrets(asked.url)
        credential = self._credentials.find(asked.credentials_ref)
        if credential is not None and not credential.hosts:
            raise IngestError(
                "bad-credentials",
                "a secret for a URL must be JSON that names the hosts which may see it",
            )
        yield Entry(HttpSource(self._web, asked.url, credential=credential))


class HttpSource:
    """The bytes under a URL.

    A connection that breaks is made again from where it broke, as long as the server says that the
    bytes are still the same (RFC 9110 13.1.5, 14).

    Parameters
    ----------
    web : Web
        Makes the requests.
    url : str
        Where.
    headers : mapping, optional
        Further headers.
    credential : Credential, optional
        Shown to its hosts.
    what : str
        Who answers, in errors.
    refusals : mapping of int to (str, str), optional
        Statuses that mean something of their own: reason and what to do.
    """

    def __init__(
        self,
        web: Web,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        credential: Credential | None = None,
        what: str = "the server",
        refusals: Mapping[int, tuple[str, str]] | None = None,
    ) -> None:
        self._web = web
        self._url = url
        self._headers = dict(headers or {})
        self._credential = credential
        self._what = what
        self._refusals = refusals or {}
        self.name = _name_of(url)
        self.media_type = ""
        self.validator = ""
        self.size_bytes: int | None = None

    def chunks(  # noqa: PLR0912
        self, offset: int = 0, validator: str = ""
    ) -> Iterator[bytes]:
        """Read from an offset to the end."""
        deadline = time.monotonic() + self._web.limits.request_seconds
        position, failures = offset, 0
        digest, expected = None, None
        while True:
            began = position
            try:
                with self._web.get(
                    self._url,
                    headers=self._headers | _range_headers(position, validator),
                    credential=self._credential,
                ) as response:
                    if _is_at_end(response, position):
                        break
                    skip = self._begin(response, position, validator)
                    validator = self.validator
                    expected = _sha256_of(response.headers) or expected
                    if position == 0 and expected is not None:
                        digest = hashlib.sha256()
                    for chunk in response.iter_raw():
                        if time.monotonic() > deadline:
                            raise LimitError(
                                "took-too-long",
                                f"not done in {self._web.limits.request_seconds:.0f} seconds; "
                                "see BIODATAMINE_INGEST_MAX_SECONDS",
                            )
                        if skip:
                            kept = chunk[skip:]
                            skip -= min(skip, len(chunk))
                        else:
                            kept = chunk
                        if not kept:
                            continue
                        position += len(kept)
                        if digest is not None:
                            digest.update(kept)
                        yield kept
                    if skip:
                        raise SourceChangedError
                    if self.size_bytes is not None and position < self.size_bytes:
                        raise SourceAwayError("the connection ended early")
            except SourceAwayError:
                # A server that gives some bytes each time is worth asking again.
                failures = 0 if position > began else failures + 1
                if position == offset or failures >= _PATIENCE or not self.validator:
                    raise
                time.sleep(min(0.1 * 2**failures, 2.0))
                continue
            break
        if expected is not None and digest is not None and digest.digest() != expected:
            raise IngestError(
                "digest-mismatch", "the bytes are not those of the digest that the server sent"
            )

    def _begin(self, response: httpx.Response, position: int, validator: str) -> int:
        """Look at the headers; return how many bytes of the body to leave out."""
        if response.status_code == 416 and position:
            raise SourceChangedError
        if response.status_code in self._refusals:
            raise IngestError(*self._refusals[response.status_code])
        require_success(response, self._what)
        headers = response.headers
        if headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
            raise IngestError(
                "bad-response", f"{self._what} sends an encoded body that was not asked for"
            )
        found = _validator_of(headers)
        total: int | None
        if response.status_code == 206:
            match = _CONTENT_RANGE.fullmatch(headers.get("content-range", "").strip())
            if match is None or int(match[1]) != position:
                raise IngestError("bad-response", f"{self._what} sends another range than asked")
            total = None if match[3] == "*" else int(match[3])
            skip = 0
        else:
            length = headers.get("content-length", "")
            total = int(length) if length.isdecimal() and len(length) < 19 else None
            skip = position
        if position and validator and found and found != validator:
            raise SourceChangedError
        if position and not validator:
            # Nothing says that these are the bytes that were begun with.
            raise SourceChangedError
        limit = self._web.limits.download_bytes
        if total is not None and total > limit:
            raise LimitError(
                "download-too-large",
                f"{self._what} says {total} bytes, the limit is {limit}; "
                "see BIODATAMINE_INGEST_MAX_DOWNLOAD_BYTES",
            )
        self.validator = found or validator
        self.size_bytes = total
        self.media_type = headers.get("content-type", "").split(";")[0].strip().lower()[:128]
        self.name = _name_in(headers.get("content-disposition", "")) or self.name
        return skip


def _is_at_end(response: httpx.Response, position: int) -> bool:
    # If-Range comes first (RFC 9110 13.2.2): the bytes are the same, and all of them were read.
    if response.status_code != 416 or not position:
        return False
    stated = str(response.headers.get("content-range", ""))
    return stated.replace(" ", "") == f"bytes*/{position}"


def _range_headers(position: int, validator: str) -> dict[str, str]:
    if not position:
        return {}
    headers = {"Range": f"bytes={position}-"}
    kind, _, value = validator.partition(":")
    if kind in ("etag", "modified"):
        headers["If-Range"] = value
    return headers


def _validator_of(headers: Mapping[str, str]) -> str:
    etag = headers.get("etag", "").strip()
    if etag and not etag.startswith("W/") and len(etag) <= 512:
        return f"etag:{etag}"
    modified = headers.get("last-modified", "").strip()
    if modified and len(modified) <= 64:
        return f"modified:{modified}"
    return f"weak:{etag}" if etag and len(etag) <= 512 else ""


def _sha256_of(headers: Mapping[str, str]) -> bytes | None:
    # RFC 9530, and RFC 3230 that came before. `Content-Digest` is of the range, not of the file.
    for name, pattern in (
        ("repr-digest", r"sha-256=:([A-Za-z0-9+/=]{44}):"),
        ("digest", r"sha-256=([A-Za-z0-9+/=]{44})"),
    ):
        match = re.search(pattern, headers.get(name, ""), re.IGNORECASE)
        if match:
            try:
                return base64.b64decode(match[1], validate=True)
            except binascii.Error:
                return None
    return None


def _name_of(url: str) -> str:
    return unquote(PurePosixPath(urlsplit(url).path).name, errors="replace")[:255]


def _name_in(disposition: str) -> str:
    match = _FILE_NAME_UTF8.search(disposition)
    if match:
        text = unquote(match[1], errors="replace")
    else:
        match = _FILE_NAME.search(disposition)
        if not match:
            return ""
        text = match[1] or match[2] or ""
    name = text.replace("\\", "/").rpartition("/")[2]
    return name[:255] if name not in (".", "..") else ""
