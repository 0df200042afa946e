"""HTTP requests as ingest makes them: guarded, bounded, every redirect checked again."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any
from urllib.parse import urlsplit

import httpcore
import httpx

from streams.ingest.addresses import AllowList, require_plain_host
from streams.ingest.credentials import Credential
from streams.ingest.errors import IngestError, SourceAwayError
from streams.ingest.guard import Guard, GuardedBackend, GuardedTransport, Resolve, resolve
from streams.ingest.limits import Limits

_AGENT = "BioDataMine"
_MAX_URL_CHARACTERS = 8192
_MAX_JSON_BYTES = 4 << 20
_AWAY = (
    httpcore.NetworkError,
    httpcore.TimeoutException,
    httpcore.ProtocolError,
    httpx.TransportError,
)


class Web:
    """A client for what requests name.

    Parameters
    ----------
    limits : Limits
        How long, how slow, how many redirects.
    allowed : AllowList
        Hosts besides the public internet.
    resolver : callable
        Host and port to addresses.
    """

    def __init__(
        self, limits: Limits, allowed: AllowList | None = None, *, resolver: Resolve = resolve
    ) -> None:
        self.limits = limits
        self.guard = Guard(allowed or AllowList(), resolver)
        self._transport = GuardedTransport(GuardedBackend(self.guard, limits))
        self._timeout = httpx.Timeout(limits.idle_seconds, pool=None)

    def close(self) -> None:
        """Close all connections."""
        self._transport.close()

    @contextmanager
    def get(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        credential: Credential | None = None,
    ) -> Iterator[httpx.Response]:
        """Send GET, follow redirects, give the first answer that is none.

        Parameters
        ----------
        url : str
            ``http`` or ``https``.
        headers : mapping, optional
            Further headers; they go along a redirect.
        credential : Credential, optional
            Shown to those of its hosts only, also after a redirect, and never over plain HTTP
            once the way was encrypted.

        Yields
        ------
        httpx.Response
            Its body is not read yet.

        Raises
        ------
        IngestError
            If a host may not be reached, or the redirects do not end.
        SourceAwayError
            If the other side cannot be reached or breaks the connection.
        """
        place = _parsed(url)
        for _ in range(self.limits.redirects + 1):
            response = self._send(place, headers or {}, credential)
            try:
                if not response.has_redirect_location:
                    with _network():
                        yield response
                    return
                target = _redirected(place, response.headers["location"])
            finally:
                response.close()
            if place.scheme == "https" and target.scheme == "http":
                # What was asked for privately is not told to the whole way.
                credential = None
            place = target
        raise IngestError(
            "too-many-redirects", f"more than {self.limits.redirects} redirects; give the last URL"
        )

    def get_json(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        credential: Credential | None = None,
    ) -> tuple[int, httpx.Headers, Any]:
        """Ask an API; status, headers and the JSON value, None where it is none.

        Raises
        ------
        IngestError
            As ``get``, or if the answer is too large.
        SourceAwayError
            As ``get``.
        """
        with self.get(url, headers=headers, credential=credential) as response:
            body = bytearray()
            for chunk in response.iter_raw():
                body += chunk
                if len(body) > _MAX_JSON_BYTES:
                    raise IngestError("bad-response", "the API's answer is too large")
            try:
                value = httpx.Response(200, content=bytes(body)).json()
            except (ValueError, RecursionError):
                value = None
            return response.status_code, response.headers, value

    def _send(
        self, place: httpx.URL, headers: Mapping[str, str], credential: Credential | None
    ) -> httpx.Response:
        sent = {
            "Host": place.netloc.decode("ascii"),
            "User-Agent": _AGENT,
            "Accept": "*/*",
            # Lengths and ranges are then those of the file itself, and nothing inflates on the way.
            "Accept-Encoding": "identity",
            **headers,
        }
        if credential is not None:
            sent |= credential.headers(place.host)
            query = credential.query(place.host)
            if query:
                place = place.copy_merge_params(query)
        request = httpx.Request(
            "GET", place, headers=sent, extensions={"timeout": self._timeout.as_dict()}
        )
        try:
            with _network():
                return self._transport.handle_request(request)
        except (httpcore.UnsupportedProtocol, ValueError, UnicodeError) as error:
            raise IngestError("bad-url", "the URL cannot be used") from error


@contextmanager
def _network() -> Iterator[None]:
    # What httpcore says may quote the URL.
    try:
        yield
    except httpcore.ConnectTimeout as error:
        raise SourceAwayError("no connection in time") from error
    except httpcore.ReadTimeout as error:
        slow = "too slowly" if "slowly" in str(error) else "nothing in time"
        raise SourceAwayError(f"the server sends {slow}") from error
    except httpcore.ConnectError as error:
        text = str(error)
        if "certificate" in text.lower():
            raise IngestError("bad-certificate", "the server's certificate is not valid") from error
        raise SourceAwayError("the server cannot be reached") from error
    except _AWAY as error:
        raise SourceAwayError(f"the connection broke ({type(error).__name__})") from error


def _parsed(url: str) -> httpx.URL:
    try:
        place = httpx.URL(url)
    except (httpx.InvalidURL, TypeError, ValueError, UnicodeError):
        raise IngestError("bad-url", "not a URL") from None
    return _required(place)


def _redirected(place: httpx.URL, location: str) -> httpx.URL:
    try:
        return _required(place.join(location))
    except (httpx.InvalidURL, ValueError, UnicodeError):
        raise IngestError("bad-redirect", "the server redirects to what is no URL") from None


def _required(place: httpx.URL) -> httpx.URL:
    if place.scheme not in ("http", "https"):
        raise IngestError("bad-url", "only http and https are followed")
    if place.userinfo:
        raise IngestError("credentials-in-url", "a URL with user or password is not followed")
    if len(str(place)) > _MAX_URL_CHARACTERS:
        raise IngestError("bad-url", "the URL is too long")
    require_plain_host(place.raw_host.decode("ascii", "replace").strip("[]"))
    return place.copy_with(fragment=None)


def page_path(url: str, site: str) -> list[str] | None:
    """Split the path of an https page of a site, with or without ``www.``; None for another URL."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    if parts.scheme != "https" or (parts.hostname or "").removeprefix("www.") != site:
        return None
    return [part for part in parts.path.split("/") if part]


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """Read ``Retry-After`` (RFC 9110 10.2.3), or GitHub's time of the next quota."""
    text = headers.get("retry-after", "").strip()
    if text.isdecimal() and len(text) < 9:
        return float(text)
    now = datetime.now(timezone.utc)
    try:
        when = email.utils.parsedate_to_datetime(text)
    except ValueError:
        reset = headers.get("x-ratelimit-reset", "")
        if headers.get("x-ratelimit-remaining") == "0" and reset.isdecimal() and len(reset) < 12:
            return max(float(reset) - time.time(), 1.0)
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=timezone.utc)
    return max((when - now).total_seconds(), 0.0)


def require_success(response: httpx.Response, what: str = "the server") -> None:
    """Turn an answer other than success into what can be done about it.

    Raises
    ------
    SourceAwayError
        For 408, 425, 429 and 5xx: these can heal.
    IngestError
        For every other: the same request would be refused again.
    """
    status = response.status_code
    if status in (200, 206):
        return
    if status in (408, 425, 429) or status >= 500:
        raise SourceAwayError(
            f"{what} answers {status}", retry_after_seconds=retry_after_seconds(response.headers)
        )
    reason, hint = {
        401: ("unauthorized", "give credentials_ref, or renew the secret that it names"),
        403: ("forbidden", "the credentials do not reach this far, or there are none"),
        404: ("not-found", "check the URL; what needs a login may answer the same"),
        407: ("proxy-needed", "proxies are not supported"),
        410: ("not-found", "what was there is gone for good"),
        416: ("bad-range", "the server knows less of the file than was read"),
    }.get(status, ("bad-response", "check the URL in a browser"))
    raise IngestError(reason, f"{what} answers {status}: {hint}")
