"""Connections that reach allowed addresses only, and give up slow peers.

The check stands where the connection is made: the name is resolved once, every address of the
answer is checked, and the socket goes to the checked address. Nothing resolves the name a second
time, so a resolver that changes its mind (DNS rebinding) changes nothing. TLS still verifies the
certificate against the name.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Iterable, Sequence
from ipaddress import ip_address
from typing import Any

import httpcore
import httpx

from streams.ingest.addresses import Address, AllowList, require_plain_host
from streams.ingest.errors import IngestError, SourceAwayError
from streams.ingest.limits import Limits

Resolve = Callable[[str, int], Sequence[Address]]
Monotonic = Callable[[], float]

_MAX_ADDRESSES = 16


def resolve(host: str, port: int) -> Sequence[Address]:
    """Ask the system's resolver.

    Raises
    ------
    OSError
        If the name has no address, or the resolver does not answer.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [ip_address(entry[4][0]) for entry in found[:_MAX_ADDRESSES]]


class Guard:
    """Decides which address a host name may be reached at.

    Parameters
    ----------
    allowed : AllowList
        What an operator permits.
    resolver : callable
        Host and port to addresses.
    """

    def __init__(self, allowed: AllowList, resolver: Resolve = resolve) -> None:
        self._allowed = allowed
        self._resolver = resolver

    def addresses(self, host: str, port: int) -> list[Address]:
        """Resolve a host once and check every address of the answer.

        Raises
        ------
        IngestError
            If the host is a number in disguise, or any of its addresses may not be reached.
        OSError
            If the name cannot be resolved.
        """
        require_plain_host(host)
        try:
            found = list(dict.fromkeys(self._resolver(host, port)))
        except UnicodeError:
            raise IngestError("bad-url", "the URL's host is no host name") from None
        if not found:
            msg = "the name has no address"
            raise OSError(msg)
        if not all(self._allowed.permits(host, address, port) for address in found):
            # The address itself is not told: the answer must not map somebody's network.
            raise IngestError(
                "forbidden-address",
                f"{host} port {port} is not on the public internet, or the port is not a web port; "
                "an operator can allow it with BIODATAMINE_INGEST_ALLOWED_HOSTS",
            )
        return found


class GuardedBackend(httpcore.NetworkBackend):
    """Opens sockets for httpcore, through a guard.

    Parameters
    ----------
    guard : Guard
        Decides where to.
    limits : Limits
        How slow a peer may be.
    clock : callable
        Seconds, monotonic.
    """

    def __init__(self, guard: Guard, limits: Limits, clock: Monotonic = time.monotonic) -> None:
        self._guard = guard
        self._limits = limits
        self._clock = clock
        self._inner = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect to the first checked address that answers."""
        try:
            addresses = self._guard.addresses(host, port)
        except OSError as error:
            msg = f"{host} cannot be resolved"
            raise SourceAwayError(msg) from error
        last: Exception | None = None
        for address in addresses:
            try:
                stream = self._inner.connect_tcp(
                    str(address), port, timeout, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                last = error
                continue
            return PacedStream(stream, self._limits, self._clock)
        assert last is not None
        raise last

    def connect_unix_socket(self, *args: Any, **kwargs: Any) -> httpcore.NetworkStream:
        """Refuse: no request names a socket of this machine."""
        msg = "no unix sockets"
        raise httpcore.ConnectError(msg)

    def sleep(self, seconds: float) -> None:
        """Wait."""
        self._inner.sleep(seconds)


class PacedStream(httpcore.NetworkStream):
    """A connection that ends when its peer drips.

    A timeout for each read lets a peer hold a connection for ever with one byte at a time, in the
    headers as well as in the body. Only time spent waiting counts, not the time that we take to
    work on what came.

    Parameters
    ----------
    inner : NetworkStream
        The connection.
    limits : Limits
        How much must come in how long.
    clock : callable
        Seconds, monotonic.
    """

    def __init__(
        self, inner: httpcore.NetworkStream, limits: Limits, clock: Monotonic = time.monotonic
    ) -> None:
        self._inner = inner
        self._limits = limits
        self._clock = clock
        self._waited_seconds = 0.0
        self._window_bytes = 0

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Read what is there.

        Raises
        ------
        httpcore.ReadTimeout
            If nothing came, or too little over the window.
        """
        began = self._clock()
        data = self._inner.read(max_bytes, timeout)
        self._waited_seconds += self._clock() - began
        self._window_bytes += len(data)
        if self._waited_seconds >= self._limits.slow_window_seconds:
            if self._window_bytes < self._limits.slow_bytes_per_second * self._waited_seconds:
                msg = "the peer sends too slowly"
                raise httpcore.ReadTimeout(msg)
            self._waited_seconds, self._window_bytes = 0.0, 0
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send all."""
        self._inner.write(buffer, timeout)

    def close(self) -> None:
        """Hang up."""
        self._inner.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        """Go on encrypted; the certificate must be one of the name in the URL."""
        inner = self._inner.start_tls(ssl_context, server_hostname, timeout)
        return PacedStream(inner, self._limits, self._clock)

    def get_extra_info(self, info: str) -> Any:
        """Tell about the socket."""
        return self._inner.get_extra_info(info)


class GuardedTransport(httpx.BaseTransport):
    """Carries httpx's requests over guarded connections; knows no proxies.

    Parameters
    ----------
    backend : GuardedBackend
        Opens the connections.
    """

    def __init__(self, backend: GuardedBackend) -> None:
        self._pool = httpcore.ConnectionPool(
            ssl_context=ssl.create_default_context(),
            max_connections=8,
            max_keepalive_connections=2,
            keepalive_expiry=15.0,
            http1=True,
            http2=False,
            network_backend=backend,
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request; redirects are the caller's.

        Raises
        ------
        IngestError
            If the host may not be reached.
        httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError
            As httpcore says them.
        """
        response = self._pool.handle_request(
            httpcore.Request(
                method=request.method,
                url=httpcore.URL(
                    scheme=request.url.raw_scheme,
                    host=request.url.raw_host,
                    port=request.url.port,
                    target=request.url.raw_path,
                ),
                headers=request.headers.raw,
                content=request.stream,
                extensions=request.extensions,
            )
        )
        return httpx.Response(
            status_code=response.status,
            headers=response.headers,
            stream=_Body(response.stream),
            extensions=response.extensions,
        )

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()


class _Body(httpx.SyncByteStream):
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __iter__(self) -> Any:
        return iter(self._stream)

    def close(self) -> None:
        self._stream.close()
