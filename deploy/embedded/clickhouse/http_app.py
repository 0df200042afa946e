"""The HTTP side: one handler that turns requests into engine calls and results into responses."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import string
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import IO

from aiohttp import web

from deploy.embedded.clickhouse import codings, formats
from deploy.embedded.clickhouse.answers import BUFFER_BYTES, Output, Result, late_error
from deploy.embedded.clickhouse.block_compression import METHOD_LZ4, METHOD_ZSTD
from deploy.embedded.clickhouse.engine import Connection, Engine, Inserter, Statistics
from deploy.embedded.clickhouse.errors import ServerError
from deploy.embedded.clickhouse.pool import QueryPool
from deploy.embedded.clickhouse.request import (
    Credentials,
    QueryRequest,
    check_credentials,
    check_host,
    parse_credentials,
    parse_request,
)
from deploy.embedded.clickhouse.sessions import Session, Sessions
from deploy.embedded.clickhouse.sql import Insert, Statement, analyse, quote_name, tokens
from deploy.embedded.clickhouse.uploads import (
    Body,
    ExternalTable,
    external_table,
    load_table,
    read_form,
)

PREFIX_BYTES = 1 << 20  # read before the statement is looked at; an INSERT's head must fit
MAX_QUERY_BYTES = 16 << 20  # of a statement that is not an INSERT with data
_METHODS = ("GET", "HEAD", "POST", "PUT", "OPTIONS")
_FALSE = ("0", "false")

logger = logging.getLogger("clickhouse")


@dataclass(frozen=True)
class HttpOptions:
    """What the handler may be told.

    Attributes
    ----------
    credentials : Credentials
        The one user.
    display_name : str
        For X-ClickHouse-Server-Display-Name.
    body_timeout_seconds : float
        How long an upload may pause.
    allowed_hosts : frozenset of str or None
        Host names accepted besides loopback ones; None: any (not bound to loopback).
    """

    credentials: Credentials
    display_name: str = "biodatamine"
    body_timeout_seconds: float = 60.0
    allowed_hosts: frozenset[str] | None = frozenset()


@dataclass
class Job:
    """One query on its way through the engine.

    Attributes
    ----------
    data : bytes
        The query's text; of an INSERT its first part, with the data that came along.
    body, ended
        Where the rest of the data comes from, and whether there is none.
    """

    http: web.BaseRequest
    query: QueryRequest
    headers: dict[str, str]
    started: float
    statement: Statement = field(default_factory=lambda: Statement(""))
    data: bytes = b""
    body: Body | None = None
    ended: bool = True
    tables: list[ExternalTable] = field(default_factory=list)
    session: Session | None = None
    statistics: Statistics = field(default_factory=Statistics)

    @property
    def kill_tag(self) -> str:
        """The ``log_comment`` under which the query can be found and killed."""
        return self.query.settings["log_comment"]


class HttpApp:
    """The request handler.

    Parameters
    ----------
    engine : Engine
        The open engine.
    pool : QueryPool
        Slots and threads for queries.
    sessions : Sessions
        The HTTP sessions.
    options : HttpOptions
        Credentials and limits.
    clock : callable
        Monotonic seconds.
    """

    def __init__(
        self,
        engine: Engine,
        pool: QueryPool,
        sessions: Sessions,
        options: HttpOptions,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._pool = pool
        self._sessions = sessions
        self._options = options
        self._clock = clock
        self._running: set[str] = set()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one HTTP request."""
        url = request.rel_url.raw_query_string
        try:
            if self._options.allowed_hosts is not None:
                check_host(request.headers, self._options.allowed_hosts)
            early = self._without_query(request, url)
            if early is not None:
                return early
            given = parse_credentials(request.headers, url)
            check_credentials(given, self._options.credentials)
            query = parse_request(request.method, url, request.headers)
        except ServerError as error:
            return self._error(error, {})
        return await self._query(request, query)

    def _without_query(self, request: web.BaseRequest, url: str) -> web.Response | None:
        path, method = request.path, request.method
        if path in ("/ping", "/replicas_status"):
            return self._ok()
        if path not in ("/", "/query"):
            return web.Response(
                status=404,
                text=f"There is no handle {path[:128]}\n\nUse / or /ping for health checks.\n"
                "Send queries to /?query=... with the method GET or POST.\n",
            )
        if method not in _METHODS:
            raise ServerError(48, f"Method {method} is not supported")
        if method == "OPTIONS":
            return web.Response(status=204, headers={"Allow": ", ".join(_METHODS)})
        return self._ok() if method in ("GET", "HEAD") and not url else None

    def _ok(self) -> web.Response:
        return web.Response(
            body=b"Ok.\n",
            headers={
                "Content-Type": "text/html; charset=UTF-8",
                "X-ClickHouse-Server-Display-Name": self._options.display_name,
            },
        )

    def _error(self, error: ServerError, headers: dict[str, str]) -> web.Response:
        return web.Response(
            status=error.status,
            body=error.render(self._engine.version).encode("utf-8", "surrogateescape"),
            headers={
                **headers,
                "Content-Type": "text/plain; charset=UTF-8",
                "X-ClickHouse-Server-Display-Name": self._options.display_name,
                "X-ClickHouse-Exception-Code": str(error.code),
            },
        )

    # --- one query --------------------------------------------------------------------------------

    async def _query(self, request: web.BaseRequest, query: QueryRequest) -> web.StreamResponse:
        headers = {
            "X-ClickHouse-Server-Display-Name": self._options.display_name,
            "X-ClickHouse-Query-Id": query.query_id,
            "X-ClickHouse-Timezone": self._engine.timezone,
        }
        job = Job(request, query, headers, self._clock())
        code, status = 394, 499  # unless told otherwise: the client went away
        if query.query_id in self._running:
            message = f"Query with id = {query.query_id} is already running"
            return self._error(ServerError(217, message), headers)
        self._running.add(query.query_id)
        try:
            response = await self._run(job)
            status = response.status
            code = int(response.headers.get("X-ClickHouse-Exception-Code", 0))
            return response
        except ServerError as error:
            code, status = error.code, error.status
            return self._error(error, headers)
        except ConnectionError:
            return web.Response(status=status, headers=headers)  # nobody is there to read it
        except asyncio.CancelledError:
            raise
        except Exception:
            code, status = 1002, 500
            logger.exception("unexpected", extra={"fields": {"query_id": query.query_id}})
            message = "The server failed on this query; its log says where"
            return self._error(ServerError(1002, message), headers)
        finally:
            self._running.discard(query.query_id)
            self._log(job, status, code)

    def _log(self, job: Job, status: int, code: int) -> None:
        fields = {
            "query_id": job.query.query_id,
            "kind": job.statement.kind if job.statement.kind.isalpha() else "OTHER",
            "ms": round((self._clock() - job.started) * 1000, 2),
            "read_rows": job.statistics.read_rows,
            "written_rows": job.statistics.written_rows,
            "result_rows": job.statistics.result_rows,
            "status": status,
            "code": code,
        }
        logger.info("query", extra={"fields": fields})

    async def _run(self, job: Job) -> web.StreamResponse:
        await self._read_query(job)
        query = job.query
        async with AsyncExitStack() as stack:
            if query.session_id:
                job.session = self._sessions.acquire(
                    query.session_id, query.session_timeout_seconds, query.session_check
                )
                stack.callback(self._release, job.session, job)
            await stack.enter_async_context(self._pool.slot())
            query.settings.setdefault("log_comment", f"{query.query_id} {job.started:.6f}")
            if job.session is None:
                connection = self._engine.connect()
                stack.callback(connection.close)
            else:
                connection = job.session.connection
                stack.push_async_callback(self._restore, job.session, job)
            if job.statement.insert is not None:
                return await self._insert(job, connection, job.statement.insert)
            return await self._select(job, connection)

    async def _read_query(self, job: Job) -> None:
        """Read as much of the request as shows the statement, and refuse what is not served.

        The whole text is the query in the URL, a line break, and the body.
        """
        if job.http.headers.get("Expect", "").lower() == "100-continue":
            await job.http.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if job.http.content_type == "multipart/form-data":
            fields, files = await read_form(job.http, self._options.body_timeout_seconds)
            job.query.add_form_fields(fields, list(files))
            job.tables = [external_table(n, data, job.query.form) for n, data in files.items()]
            job.data = job.query.query
        elif job.http.body_exists:
            timeout_seconds = self._options.body_timeout_seconds
            job.body = Body(job.http, job.query.decompress, timeout_seconds)
            job.data, job.ended = await job.body.read(PREFIX_BYTES)
        if job.body is None:
            job.data = job.query.query
        elif job.query.query:
            job.data = job.query.query + b"\n" + job.data
        job.statement = analyse(job.data.decode("latin-1"))
        if job.statement.insert is None and not job.ended and job.body is not None:
            while not job.ended:
                more, job.ended = await job.body.read(PREFIX_BYTES)
                job.data += more
                if len(job.data) > MAX_QUERY_BYTES:
                    raise ServerError(62, f"A query is longer than {MAX_QUERY_BYTES} bytes")
            text = job.data.decode("latin-1")
            job.statement = await self._pool.call(lambda: analyse(text))
        if job.statement.denied:
            raise ServerError(
                497,
                f"{job.statement.denied} reaches files of the server's machine, which this server "
                "does not allow; send data with the request, read results from the response",
            )
        if not job.statement.kind:
            raise ServerError(62, "Syntax error: the query is empty")
        if job.statement.insert is not None and job.query.readonly:
            raise _readonly(job.http.method)

    def _prepare(self, job: Job, connection: Connection) -> None:
        """Bring a connection into the state the request asks for. Blocking."""
        query, session = job.query, job.session
        if session is not None:
            unknown = [name for name in query.settings if name not in session.baseline]
            if unknown:
                session.baseline.update(connection.changed_settings(unknown))
        settings = dict(query.settings)
        readonly = settings.pop("readonly", "0")
        connection.apply(settings)
        if query.database:
            connection.use(query.database)
        if query.role:
            connection.execute(f"SET ROLE {quote_name(query.role)}")
        for table in job.tables:
            load_table(connection, table)
        if job.statement.insert is not None:
            connection.apply({f"param_{name}": value for name, value in query.params.items()})
            return
        kind, count = connection.classify(job.data)
        if count > 1:
            raise ServerError(62, "Syntax error: Multi-statements are not allowed")
        may_run = kind in ("READ_ONLY", "UNKNOWN") or (
            query.readonly == 2 and job.statement.kind in ("SET", "USE")
        )
        if query.readonly and not may_run:
            raise _readonly(job.http.method)
        # The setting cannot be taken back, so a session's connection must not get it.
        if session is None and readonly not in ("", "0"):
            connection.apply({"readonly": readonly})

    async def _restore(self, session: Session, job: Job) -> None:
        """Undo the URL's settings, which hold for one query, on the session's connection."""
        own: set[str] = set()
        if job.statement.kind == "SET":
            # What SET changed is the session's from now on; it is read again when overridden next.
            own = {token.name for token in tokens(job.data.decode("latin-1"))}
            for name in own:
                session.baseline.pop(name, None)
        overridden = {
            name: value
            for name, value in session.baseline.items()
            if name in job.query.settings and name not in own
        }
        try:
            await self._pool.call(lambda: session.connection.restore(overridden))
        except ServerError:
            job.query.close_session = True  # better no session than one with another's settings

    def _release(self, session: Session, job: Job) -> None:
        self._sessions.release(session, job.query.close_session)

    # --- answers ----------------------------------------------------------------------------------

    async def _select(self, job: Job, connection: Connection) -> web.StreamResponse:
        query, statement = job.query, job.statement
        output_format = statement.output_format or query.default_format
        coding = ""
        if query.settings.get("enable_http_compression", "1").lower() not in _FALSE:
            coding = codings.choose(job.http.headers.get("Accept-Encoding", ""))
        output = Output(output_format, query.revision, _block_method(query), coding)

        opened: list[Result] = []  # also when the client leaves while `begin` runs

        def begin() -> bytes | IO[bytes]:
            self._prepare(job, connection)
            stream = whole = None
            if statement.kind == "SELECT" and formats.is_streamable(output_format):
                stream = connection.stream(job.data, query.default_format, query.params)
                job.statistics = stream.statistics
            else:
                whole, job.statistics = connection.execute(
                    job.data, query.default_format, query.params
                )
            result = Result(output, whole if whole else None, stream)
            opened.append(result)
            if query.wait_end_of_query:
                return result.read_to_file(self._engine.temporary_directory)
            return result.read(BUFFER_BYTES)

        try:
            begun = await self._pool.call(begin, lambda: self._engine.kill(job.kill_tag))
            result = opened[0]
            job.headers["Content-Type"] = formats.content_type(output_format)
            job.headers["X-ClickHouse-Format"] = output_format
            job.headers["X-ClickHouse-Summary"] = self._summary(job)
            if coding:
                job.headers["Content-Encoding"] = coding
                job.headers["Vary"] = "Accept-Encoding"
            if not isinstance(begun, bytes):
                with begun:
                    return await _send_file(job, begun)
            if result.ended:
                return web.Response(body=begun, headers=job.headers)
            if job.http.method == "HEAD":
                return web.Response(headers=job.headers)
            return await self._send_stream(job, result, output, begun)
        finally:
            for result in opened:
                if not result.ended:
                    await self._pool.call(result.close)

    async def _send_stream(
        self, job: Job, result: Result, output: Output, begun: bytes
    ) -> web.StreamResponse:
        tag = "".join(secrets.choice(string.ascii_lowercase) for _ in range(16))
        response = web.StreamResponse(headers=job.headers)
        response.headers["X-ClickHouse-Exception-Tag"] = tag
        response.enable_chunked_encoding()
        await response.prepare(job.http)
        await response.write(begun)
        try:
            while not result.ended:
                piece = await self._pool.call(
                    lambda: result.read(BUFFER_BYTES), lambda: self._engine.kill(job.kill_tag)
                )
                await response.write(piece)
        except ServerError as error:
            # The status line is gone: mark the fault in the body and break the connection off.
            await response.write(output.text(late_error(error, tag, self._engine.version)))
            response.headers["X-ClickHouse-Exception-Code"] = str(error.code)
            if job.http.transport is not None:
                job.http.transport.close()
            return response
        await response.write_eof()
        return response

    async def _insert(self, job: Job, connection: Connection, insert: Insert) -> web.Response:
        head, data = insert.head.encode("latin-1"), job.data[insert.data_start :]
        job.data = b""

        opened: list[Inserter] = []

        def begin() -> Statistics | None:
            self._prepare(job, connection)
            opened.append(connection.insert(head, insert.input_format or _input_format(job.query)))
            if data:
                opened[0].append(data)
            return opened[0].finish() if job.ended else None

        try:
            statistics = await self._pool.call(begin)
            job.statistics = statistics or await self._insert_rest(job, opened[0])
        finally:
            for inserter in opened:
                if not inserter.ended:
                    await self._pool.call(inserter.cancel)
        job.headers["Content-Type"] = formats.content_type(job.query.default_format)
        job.headers["X-ClickHouse-Format"] = job.query.default_format
        job.headers["X-ClickHouse-Summary"] = self._summary(job)
        return web.Response(headers=job.headers)

    async def _insert_rest(self, job: Job, inserter: Inserter) -> Statistics:
        while not job.ended and job.body is not None:
            piece, job.ended = await job.body.read(PREFIX_BYTES)
            if piece:
                await self._pool.call(lambda data=piece: inserter.append(data))  # type: ignore[misc]
        return await self._pool.call(inserter.finish)

    def _summary(self, job: Job) -> str:
        done = job.statistics
        values = {
            "read_rows": done.read_rows,
            "read_bytes": done.read_bytes,
            "written_rows": done.written_rows,
            "written_bytes": done.written_bytes,
            "total_rows_to_read": 0,
            "result_rows": done.result_rows or done.written_rows,
            "result_bytes": done.result_bytes or done.written_bytes,
            "elapsed_ns": int((self._clock() - job.started) * 1e9),
        }
        return json.dumps(
            {name: str(value) for name, value in values.items()}, separators=(",", ":")
        )


async def _send_file(job: Job, spool: IO[bytes]) -> web.StreamResponse:
    response = web.StreamResponse(headers=job.headers)
    response.content_length = spool.tell()
    spool.seek(0)
    await response.prepare(job.http)
    while piece := spool.read(BUFFER_BYTES):
        await response.write(piece)
    await response.write_eof()
    return response


def _block_method(query: QueryRequest) -> int:
    if not query.compress:
        return 0
    asked = query.settings.get("network_compression_method", "LZ4").upper()
    return METHOD_ZSTD if asked == "ZSTD" else METHOD_LZ4


def _input_format(query: QueryRequest) -> str:
    return "Values" if query.default_format == formats.DEFAULT_FORMAT else query.default_format


def _readonly(method: str) -> ServerError:
    hint = ""
    if method in ("GET", "HEAD"):
        hint = (
            ". For queries over HTTP, method GET implies readonly."
            " You should use method POST for modifying queries"
        )
    return ServerError(164, f"Cannot execute query in readonly mode{hint}")
