"""The process: command line, data directory lock, listening socket, shutdown."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import ipaddress
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from deploy.embedded.clickhouse.engine import Engine
from deploy.embedded.clickhouse.engine_config import EngineLimits
from deploy.embedded.clickhouse.http_app import HttpApp, HttpOptions
from deploy.embedded.clickhouse.pool import QueryPool
from deploy.embedded.clickhouse.request import Credentials
from deploy.embedded.clickhouse.sessions import Sessions

MAX_URL_BYTES = 1 << 20  # ClickHouse's http_max_uri_size
KEEPALIVE_SECONDS = 600.0  # longer than clients keep idle connections: theirs to close
EXIT_USAGE = 2
EXIT_LOCKED = 3
_EXPIRE_SECONDS = 5.0

logger = logging.getLogger("clickhouse")


@dataclass(frozen=True)
class ServerOptions:
    """The command line; see `parse_arguments`."""

    path: Path
    host: str = "127.0.0.1"
    port: int = 8123
    user: str = "default"
    password: str = ""
    connections: int = 16
    queue_seconds: float = 10.0
    shutdown_seconds: float = 10.0
    max_memory_bytes: int = 2 << 30
    allowed_hosts: frozenset[str] = frozenset()


class DataDirectoryLockedError(Exception):
    """Another server uses the data directory."""


def parse_arguments(argv: Sequence[str]) -> ServerOptions:
    """Return the options in `argv`; exits with status 2 and a message when they make no sense."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.embedded.clickhouse",
        description="Serve ClickHouse's HTTP interface from an embedded engine.",
    )
    parser.add_argument("--path", type=Path, required=True, help="data directory, made when absent")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to bind (default: %(default)s)"
    )
    parser.add_argument(
        "--port", type=int, default=8123, help="0 picks a free one (default: %(default)s)"
    )
    parser.add_argument("--user", default="default", help="user name (default: %(default)s)")
    parser.add_argument(
        "--password",
        default=os.environ.get("CLICKHOUSE_PASSWORD", ""),
        help="password; better given in the environment variable CLICKHOUSE_PASSWORD",
    )
    parser.add_argument(
        "--connections",
        type=int,
        default=16,
        help="queries that run at a time (default: %(default)s)",
    )
    parser.add_argument(
        "--queue-seconds",
        type=float,
        default=10.0,
        help="how long a query waits for a connection, then fails with 202 (default: %(default)s)",
    )
    parser.add_argument(
        "--shutdown-seconds",
        type=float,
        default=10.0,
        help="how long running queries may go on after SIGTERM (default: %(default)s)",
    )
    parser.add_argument(
        "--max-memory-bytes",
        type=int,
        default=2 << 30,
        help="memory of all queries and merges together (default: %(default)s)",
    )
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="also accept requests for this host name on a loopback address; repeatable",
    )
    given = parser.parse_args(argv)
    if given.connections < 1 or given.connections > 256:
        parser.error("--connections must be from 1 to 256")
    if given.max_memory_bytes < 256 << 20:
        parser.error("--max-memory-bytes must be at least 268435456 (256 MiB)")
    if given.queue_seconds < 0 or given.shutdown_seconds < 0:
        parser.error("--queue-seconds and --shutdown-seconds must not be negative")
    if not given.password and not is_loopback(given.host):
        parser.error(
            f"--host {given.host} is reachable from other machines: give a password "
            "(CLICKHOUSE_PASSWORD), or bind 127.0.0.1"
        )
    return ServerOptions(
        path=given.path,
        host=given.host,
        port=given.port,
        user=given.user,
        password=given.password,
        connections=given.connections,
        queue_seconds=given.queue_seconds,
        shutdown_seconds=given.shutdown_seconds,
        max_memory_bytes=given.max_memory_bytes,
        allowed_hosts=frozenset(name.lower() for name in given.allow_host),
    )


def is_loopback(host: str) -> bool:
    """Return whether a server bound to `host` can only be reached from this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the data directory for this process; the lock goes with the process, however it ends.

    Raises
    ------
    DataDirectoryLockedError
        When another process holds it.
    """
    descriptor = os.open(directory / "server.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise DataDirectoryLockedError(
                f"{directory} is in use by another server (process {holder}). "
                "Stop that one, or give another --path"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)


class JsonFormatter(logging.Formatter):
    """One JSON object per line; no query text and no data ever get here."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line for `record`."""
        line: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[0] is not None:
            trace = record.exc_info[2]
            while trace is not None and trace.tb_next is not None:
                trace = trace.tb_next
            line["error"] = record.exc_info[0].__name__
            if trace is not None:
                line["at"] = f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
        return json.dumps(line, separators=(",", ":"))


def _log_to_stderr() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logger.setLevel(logging.INFO)


async def serve(options: ServerOptions, engine: Engine) -> bool:
    """Serve until SIGTERM or SIGINT; return whether every query ended in time."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    pool = QueryPool(options.connections, options.queue_seconds)
    sessions = Sessions(engine.connect, time.monotonic)
    app = HttpApp(
        engine,
        pool,
        sessions,
        HttpOptions(
            Credentials(options.user, options.password),
            display_name=socket.gethostname(),
            allowed_hosts=options.allowed_hosts if is_loopback(options.host) else None,
        ),
    )
    server = web.Server(
        app.handle,
        handler_cancellation=True,
        auto_decompress=False,
        access_log=None,
        max_line_size=MAX_URL_BYTES,
        max_field_size=MAX_URL_BYTES,
        keepalive_timeout=KEEPALIVE_SECONDS,
    )
    runner = web.ServerRunner(server, handle_signals=False)
    await runner.setup()
    site = web.TCPSite(runner, options.host, options.port, backlog=1024)
    try:
        await site.start()
        port = runner.addresses[0][1]
        logger.info(
            "ready",
            extra={
                "fields": {
                    "url": f"http://{options.host}:{port}",
                    "version": engine.version,
                    "pid": os.getpid(),
                }
            },
        )
        while not stop.is_set():
            with contextlib.suppress(asyncio.TimeoutError, TimeoutError):
                await asyncio.wait_for(stop.wait(), _EXPIRE_SECONDS)
            sessions.expire()
        logger.info("stopping", extra={"fields": {"running": pool.running}})
        await site.stop()
        if not await _drained(pool, options.shutdown_seconds):
            await pool.call(engine.kill)
        drained = await _drained(pool, 5.0)
        server.pre_shutdown()
        await runner.cleanup()
        return drained
    finally:
        sessions.close()
        pool.close()


async def _drained(pool: QueryPool, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while pool.running and time.monotonic() < deadline:  # noqa: ASYNC110 - two ends to wait for
        await asyncio.sleep(0.02)
    return not pool.running


def main(argv: Sequence[str] | None = None) -> int:
    """Run the server; return the process's exit status.

    0: stopped by SIGTERM or SIGINT. 2: wrong arguments or an address that cannot be bound.
    3: the data directory is in use.
    """
    options = parse_arguments(sys.argv[1:] if argv is None else argv)
    _log_to_stderr()
    # The engine's clock face: rows must not depend on where the machine stands.
    os.environ["TZ"] = "UTC"
    time.tzset()
    directory = options.path.absolute()
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        with locked(directory):
            engine = Engine(directory, EngineLimits(options.max_memory_bytes))
            try:
                drained = asyncio.run(serve(options, engine))
            except OSError as error:
                sys.stderr.write(
                    f"cannot listen on {options.host}:{options.port}: {error.strerror}. "
                    "Give another --port, or 0 for a free one\n"
                )
                engine.close()
                return EXIT_USAGE
            if not drained:
                # A thread still is inside the engine; closing under it would crash. Rows that were
                # acknowledged are on disk.
                logger.warning("queries did not end in time")
                sys.stderr.flush()
                os._exit(0)
            engine.close()
    except DataDirectoryLockedError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_LOCKED
    logger.info("stopped")
    return 0
