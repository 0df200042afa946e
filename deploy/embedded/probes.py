"""Ready checks: each asks a server what its own clients would ask."""

from __future__ import annotations

import asyncio
import contextlib
from urllib.parse import urlsplit

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from deploy.embedded.service import ReadyCheck
from deploy.embedded.waiting import within

_TIMEOUT_SECONDS = 5.0
_MAX_RESPONSE_BYTES = 65_536


def http_ready(url: str, *, body: bytes = b"", any_status: bool = False) -> ReadyCheck:
    """Check that a URL is answered.

    Parameters
    ----------
    url : str
        ``http://HOST:PORT/PATH``.
    body : bytes
        What the answer must start with.
    any_status : bool
        Whether any HTTP answer will do, instead of 200 alone.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "127.0.0.1", parts.port or 80
    request = (
        f"GET {parts.path or '/'} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n"
    ).encode()

    async def ask() -> str | None:
        reader, writer = await asyncio.open_connection(host, port)
        try:
            writer.write(request)
            await writer.drain()
            answer = await _read_bounded(reader)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        head, _, content = answer.partition(b"\r\n\r\n")
        status = head.split(b" ", 2)[1:2]
        if not head.startswith(b"HTTP/") or not status:
            return f"{url} did not answer in HTTP"
        if status[0] != b"200" and not any_status:
            return f"{url} answered {status[0].decode(errors='replace')}"
        if body not in content:
            return f"{url} answered something else than {body!r}"
        return None

    return _bounded(ask, url)


def tcp_ready(host: str, port: int) -> ReadyCheck:
    """Check that a port accepts connections."""

    async def ask() -> str | None:
        _, writer = await asyncio.open_connection(host, port)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return None

    return _bounded(ask, f"{host}:{port}")


def kafka_ready(bootstrap_servers: str) -> ReadyCheck:
    """Check that a broker answers a metadata request of the Kafka protocol."""

    async def ask() -> str | None:
        client = AIOKafkaAdminClient(
            bootstrap_servers=bootstrap_servers, request_timeout_ms=int(_TIMEOUT_SECONDS * 1000)
        )
        try:
            await client.start()
            await client.describe_cluster()
        except KafkaError as error:
            return f"no metadata from {bootstrap_servers}: {error}"
        finally:
            await client.close()
        return None

    host, _, port = bootstrap_servers.split(",", maxsplit=1)[0].rpartition(":")
    listening = tcp_ready(host, int(port))

    async def check() -> str | None:
        # aiokafka logs an error for each broker that it cannot reach: knock first.
        return await listening() or await _bounded(ask, bootstrap_servers)()

    return check


def _bounded(ask: ReadyCheck, what: str) -> ReadyCheck:
    async def check() -> str | None:
        try:
            return await within(_TIMEOUT_SECONDS, ask())
        except asyncio.TimeoutError:
            return f"{what} did not answer within {_TIMEOUT_SECONDS:.0f} s"
        except OSError as error:
            return f"{what} does not accept connections: {error.strerror or error}"

    return check


async def _read_bounded(reader: asyncio.StreamReader) -> bytes:
    answer = b""
    while len(answer) < _MAX_RESPONSE_BYTES:
        part = await reader.read(_MAX_RESPONSE_BYTES)
        if not part:
            break
        answer += part
    return answer
