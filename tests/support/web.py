"""Web servers on loopback that do what tests ask of them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from streams.ingest.addresses import AllowList


@dataclass
class Hit:
    """One request as it came."""

    path: str
    headers: dict[str, str]


@dataclass
class Site:
    """What a server has, and who asked for it."""

    port: int
    answers: dict[str, Callable[[BaseHTTPRequestHandler], None]] = field(default_factory=dict)
    hits: list[Hit] = field(default_factory=list)
    sent_bytes: int = 0

    def url(self, path: str = "/", host: str = "127.0.0.1") -> str:
        """URL of a path."""
        return f"http://{host}:{self.port}{path}"

    def allowed(self, *more: str) -> AllowList:
        """What an operator says to permit this server."""
        return AllowList.parse([f"127.0.0.1:{self.port}", *more])

    def file(
        self,
        path: str,
        data: bytes,
        *,
        etag: str | None = '"one"',
        ranges: bool = True,
        cut_after: int | None = None,
        headers: dict[str, str] | None = None,
        status: int = 200,
    ) -> None:
        """Serve bytes.

        Parameters
        ----------
        path : str
            Under which path.
        data : bytes
            What.
        etag : str or None
            Validator.
        ranges : bool
            Whether ranges are understood.
        cut_after : int or None
            Break the connection after so many bytes of each answer.
        headers : dict, optional
            Further headers.
        status : int
            Answer.
        """

        def answer(request: BaseHTTPRequestHandler) -> None:
            start, code = 0, status
            asked = request.headers.get("Range", "")
            fits = request.headers.get("If-Range") in (None, etag)
            if ranges and asked.startswith("bytes=") and fits:
                start = int(asked[6:].split("-")[0])
                code = 206
            if start >= len(data) > 0:
                request.send_response(416)
                request.send_header("Content-Range", f"bytes */{len(data)}")
                request.send_header("Content-Length", "0")
                request.end_headers()
                return
            body = data[start:]
            request.send_response(code)
            request.send_header("Content-Length", str(len(body)))
            if etag:
                request.send_header("ETag", etag)
            if code == 206:
                request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            for name, value in (headers or {}).items():
                request.send_header(name, value)
            request.end_headers()
            sent = body if cut_after is None else body[:cut_after]
            for at in range(0, len(sent), 1 << 16):
                request.wfile.write(sent[at : at + (1 << 16)])
                self.sent_bytes += len(sent[at : at + (1 << 16)])
            if len(sent) < len(body):
                request.close_connection = True

        self.answers[path] = answer

    def redirect(self, path: str, target: str, status: int = 302) -> None:
        """Redirect."""

        def answer(request: BaseHTTPRequestHandler) -> None:
            request.send_response(status)
            request.send_header("Location", target)
            request.send_header("Content-Length", "0")
            request.end_headers()

        self.answers[path] = answer

    def status(
        self, path: str, status: int, headers: dict[str, str] | None = None, body: bytes = b"{}"
    ) -> None:
        """Answer with a status."""

        def answer(request: BaseHTTPRequestHandler) -> None:
            request.send_response(status)
            for name, value in (headers or {}).items():
                request.send_header(name, value)
            request.send_header("Content-Length", str(len(body)))
            request.end_headers()
            request.wfile.write(body)

        self.answers[path] = answer

    def raw(self, path: str, pieces: Callable[[], Iterator[bytes]]) -> None:
        """Write bytes as they are, in place of an answer."""

        def answer(request: BaseHTTPRequestHandler) -> None:
            request.close_connection = True
            try:
                for piece in pieces():
                    request.wfile.write(piece)
                    request.wfile.flush()
                    self.sent_bytes += len(piece)
            except OSError:
                return

        self.answers[path] = answer


@contextmanager
def site(host: str = "127.0.0.1") -> Iterator[Site]:
    """Run a server for a while."""
    made: Site

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            made.hits.append(Hit(self.path, {k.lower(): v for k, v in self.headers.items()}))
            answer = made.answers.get(self.path) or made.answers.get(self.path.split("?")[0])
            try:
                if answer is None:
                    self.send_error(404)
                else:
                    answer(self)
            except OSError:
                self.close_connection = True

        def log_message(self, format: str, *arguments: Any) -> None:
            del format, arguments

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

        def handle_error(self, request: Any, client_address: Any) -> None:
            del request, client_address

    server = Server((host, 0), Handler)
    made = Site(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def listener(host: str = "127.0.0.1") -> Iterator[tuple[int, list[bytes]]]:
    """Listen on a port that nobody may reach; give it and what arrived."""
    arrived: list[bytes] = []
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as server:
        server.settimeout(0.05)
        done = threading.Event()

        def accept() -> None:
            while not done.is_set():
                try:
                    connection, _ = server.accept()
                except OSError:
                    continue
                arrived.append(b"connected")
                connection.close()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield server.getsockname()[1], arrived
        finally:
            done.set()
            thread.join()
