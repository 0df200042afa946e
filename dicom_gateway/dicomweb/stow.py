"""STOW-RS: instances pushed over HTTP, into the same receiver as those of C-STORE.

``POST /dicomweb/studies`` and ``POST /dicomweb/studies/{study}`` (PS3.18 section 10.5) take DICOM
files as ``multipart/related; type="application/dicom"``, or one file as ``application/dicom``.

======  ==========================================================================================
status  when
======  ==========================================================================================
200     every instance is stored, and durable
202     some are; the body tells which are not, and why
400     no Content-Type, no boundary, a body that is not framed by it, no part, a study that is none
401     credentials are configured and none of them came
403     a page of an origin that is not allowed sent it
406     the Accept header leaves neither application/dicom+json nor application/dicom+xml
408     the body came slower than ``min_bytes_per_second``, or not at all for ``idle_seconds``
409     no instance is stored, for the reasons in the body
413     the request or every instance in it is too large, or it has too many parts
415     another media type, metadata and bulk data among them, or a Content-Encoding
503     as many requests are on their way as may be, or no instance found a place; Retry-After says
        when to come again
======  ==========================================================================================

An instance that is stored stays so whatever becomes of its request; to send it again does no harm.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import ssl
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import structlog
from aiohttp import ClientError, http_exceptions, web
from prometheus_client import Counter, Gauge

from dicom_gateway.dicomweb.credentials import Credentials
from dicom_gateway.dicomweb.media_types import choose, parse_media_type
from dicom_gateway.dicomweb.multipart import (
    FramingError,
    MultipartDecoder,
    SinglePartDecoder,
    TooManyPartsError,
)
from dicom_gateway.dicomweb.response import (
    JSON,
    OFFERED,
    UNAVAILABLE,
    XML,
    Failed,
    Outcome,
    encode_module,
    http_status,
    response_module,
)
from dicom_gateway.dicomweb.upload import (
    DICOM,
    Admission,
    Decoder,
    Upload,
)
from dicom_gateway.logs import places
from dicom_gateway.metrics import Metrics
from dicom_gateway.storing.arrival import Origin
from dicom_gateway.storing.part10 import is_instance_uid
from dicom_gateway.storing.receiver import Receiver
from schemas.facts import Association

PATH = "/dicomweb/studies"
_METHODS = "POST, OPTIONS"
_READ_BYTES = 256 * 1024
_LINGER_SECONDS = 5.0
"""How long the rest of a refused body is read, so that its sender comes to read the answer."""

_MAX_LOGGED_FAILURES = 20
_CLOSE_SECONDS = 1.0

_log = structlog.get_logger("dicom_gateway")

# aiohttp logs a request that it cannot read with its bytes, credentials among them; what matters of
# a request is logged and counted here.
_aiohttp_log = logging.getLogger("dicom_gateway.dicomweb.stow.aiohttp")
_aiohttp_log.disabled = True


class StowListenError(OSError):
    """The server cannot listen; the message says where and what to do."""


@dataclass(frozen=True)
class StowLimits:
    """What a client may ask of the server.

    Parameters
    ----------
    max_requests : int
        Store requests at the same time; one more is answered with 503.
    max_connections : int
        Open connections; for one more, the one that has been silent longest is closed.
    max_request_bytes : int
        Of one request's body.
    max_parts : int
        Of one request.
    idle_seconds : float
        How long a connection may say nothing, or take for the header of a request.
    min_bytes_per_second : int
        Rate of a body, over each ``idle_seconds`` that were spent waiting for it.
    request_seconds : float
        How long one request may take altogether.
    retry_after_seconds : int
        When a client that was answered 503 should come again.
    """

    max_requests: int = 8
    max_connections: int = 256
    max_request_bytes: int = 16 << 30
    max_parts: int = 10_000
    idle_seconds: float = 30.0
    min_bytes_per_second: int = 1024
    request_seconds: float = 3600.0
    retry_after_seconds: int = 10


class _Refusal(Exception):  # noqa: N818 (an answer, not a fault)
    """A request is answered with this status; the message says why and what to do."""

    def __init__(self, status: int, text: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.headers = dict(headers or {})


class Pace:
    """Whether a body comes fast enough, over each stretch of waiting for it.

    Parameters
    ----------
    stretch_seconds : float
        Waiting after which the rate is looked at.
    min_bytes_per_second : int
        What it has to be.
    """

    def __init__(self, stretch_seconds: float, min_bytes_per_second: int) -> None:
        self._stretch_seconds = stretch_seconds
        self._min_bytes_per_second = min_bytes_per_second
        self._waited_seconds = 0.0
        self._received_bytes = 0

    def is_kept(self, waited_seconds: float, received_bytes: int) -> bool:
        """Note one piece; tell whether the stretch that it ended was fast enough."""
        self._waited_seconds += waited_seconds
        self._received_bytes += received_bytes
        if self._waited_seconds < self._stretch_seconds:
            return True
        kept = self._received_bytes >= self._min_bytes_per_second * self._waited_seconds
        self._waited_seconds, self._received_bytes = 0.0, 0
        return kept


class StowServer:
    """Serves STOW-RS from an event loop in a thread of its own.

    Parameters
    ----------
    receiver : Receiver
        Makes the instances durable; called from ``threads`` threads.
    host, port : str, int
        Where it listens; port 0 takes a free one.
    tenant, dataset_id : str
        Whose data arrives here, and the dataset that it joins.
    metrics : Metrics
        Where its counts are registered.
    ssl_context : ssl.SSLContext, optional
        Serves HTTPS with it.
    credentials : Credentials, optional
        Without them everyone may push.
    allowed_origins : collection of str
        Origins of web pages that may push (CORS), ``https://viewer.example`` each; by default none.
    admit : callable, optional
        Rules over SOP classes and transfer syntaxes; see ``Upload``.
    limits : StowLimits
        Bounds.
    threads : int
        That write and fsync.

    Raises
    ------
    StowListenError
        If the address is taken or not ours.
    """

    def __init__(
        self,
        receiver: Receiver,
        *,
        host: str,
        port: int,
        tenant: str,
        dataset_id: str,
        metrics: Metrics,
        ssl_context: ssl.SSLContext | None = None,
        credentials: Credentials | None = None,
        allowed_origins: frozenset[str] = frozenset(),
        admit: Admission | None = None,
        limits: StowLimits | None = None,
        threads: int = 4,
    ) -> None:
        self._limits = limits or StowLimits()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="stow-store")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="stow", daemon=True)
        self._service = _Service(
            receiver,
            self._pool,
            tenant=tenant,
            dataset_id=dataset_id,
            metrics=metrics,
            credentials=credentials,
            allowed_origins=allowed_origins,
            admit=admit,
            limits=self._limits,
        )
        self._closing = threading.Lock()
        self._is_closed = False
        self._thread.start()
        try:
            self.port = self._call(self._listen(host, port, ssl_context))
        except OSError as error:
            self._end()
            msg = (
                f"cannot listen on {host}:{port}: {error}; is another gateway running? "
                "Set BIODATAMINE_STOW_PORT to a free port"
            )
            raise StowListenError(msg) from error
        except BaseException:
            self._end()
            raise
        if credentials is None and not _is_loopback(host):
            _log.warning(
                "stow-open-to-everyone",
                host=host,
                port=self.port,
                hint="set BIODATAMINE_STOW_CREDENTIALS_FILE, or listen on 127.0.0.1",
            )
        elif credentials is not None and ssl_context is None and not _is_loopback(host):
            _log.warning(
                "stow-credentials-in-the-clear",
                host=host,
                port=self.port,
                hint="serve it with TLS: who listens on the network reads the credentials",
            )

    @property
    def is_running(self) -> bool:
        """Whether it takes requests."""
        return not self._is_closed and self._thread.is_alive() and self._server.is_serving()

    def close(self, timeout_seconds: float = 0.0) -> None:
        """Take no new requests, let those on their way end, then break off what is left."""
        with self._closing:
            if self._is_closed:
                return
            self._is_closed = True
            self._call(self._stop(timeout_seconds))
            self._end()

    def _call(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _listen(self, host: str, port: int, ssl_context: ssl.SSLContext | None) -> int:
        self._http = _HttpServer(
            self._service.handle,
            limits=self._limits,
            # A client that leaves ends its request at once, even while nothing is read of it.
            handler_cancellation=True,
            auto_decompress=False,
            access_log=None,
            logger=_aiohttp_log,
            read_bufsize=_READ_BYTES,
            lingering_time=_LINGER_SECONDS,
            keepalive_timeout=self._limits.idle_seconds,
        )
        tls: dict[str, Any] = {}
        if ssl_context is not None:
            tls = {"ssl": ssl_context, "ssl_handshake_timeout": self._limits.idle_seconds}
        self._server = await self._loop.create_server(
            self._http, host, port, backlog=self._limits.max_connections, **tls
        )
        return int(self._server.sockets[0].getsockname()[1])

    async def _stop(self, timeout_seconds: float) -> None:
        self._service.is_stopping = True
        self._server.close()
        with contextlib.suppress(asyncio.TimeoutError, TimeoutError):
            await asyncio.wait_for(self._service.idle.wait(), timeout_seconds)
        self._http.pre_shutdown()
        await self._http.shutdown(_CLOSE_SECONDS)

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._pool.shutdown(wait=True)
        self._loop.close()


class _HttpServer(web.Server):
    """aiohttp's, with a deadline for whoever says nothing and a bound on how many may."""

    def __init__(self, handler: Callable[..., Any], *, limits: StowLimits, **options: Any) -> None:
        super().__init__(self._handle, **options)
        self._answer = handler
        self._limits = limits
        self._silent: dict[Any, asyncio.TimerHandle] = {}
        self._transports: dict[Any, asyncio.Transport] = {}

    def connection_made(self, handler: Any, transport: asyncio.Transport) -> None:
        """Take a connection, and drop the one that has been silent longest if there are many."""
        super().connection_made(handler, transport)
        self._transports[handler] = transport
        self._await_request(handler)
        if len(self._transports) > self._limits.max_connections:
            self._drop(next(iter(self._silent)))

    def connection_lost(self, handler: Any, exc: BaseException | None = None) -> None:
        """Forget a connection."""
        self._no_longer_silent(handler)
        self._transports.pop(handler, None)
        super().connection_lost(handler, exc)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        handler = request.protocol
        self._no_longer_silent(handler)
        try:
            answer: web.StreamResponse = await self._answer(request)
            return answer
        finally:
            if handler in self._transports:
                self._await_request(handler)

    def _await_request(self, handler: Any) -> None:
        loop = asyncio.get_running_loop()
        self._silent[handler] = loop.call_later(
            self._limits.idle_seconds + _LINGER_SECONDS, self._drop, handler
        )

    def _no_longer_silent(self, handler: Any) -> None:
        timer = self._silent.pop(handler, None)
        if timer is not None:
            timer.cancel()

    def _drop(self, handler: Any) -> None:
        self._no_longer_silent(handler)
        transport = self._transports.pop(handler, None)
        if transport is not None:
            transport.abort()


class _Service:
    """Answers requests, in the event loop."""

    def __init__(
        self,
        receiver: Receiver,
        pool: ThreadPoolExecutor,
        *,
        tenant: str,
        dataset_id: str,
        metrics: Metrics,
        credentials: Credentials | None,
        allowed_origins: frozenset[str],
        admit: Admission | None,
        limits: StowLimits,
    ) -> None:
        self._receiver = receiver
        self._pool = pool
        self._tenant = tenant
        self._dataset_id = dataset_id
        self._credentials = credentials
        self._allowed_origins = allowed_origins
        self._admit = admit
        self._limits = limits
        self._running = 0
        self.is_stopping = False
        self.idle = asyncio.Event()
        self.idle.set()
        self._requests = Counter(
            "biodatamine_gateway_stow_requests",
            "STOW-RS requests by HTTP status",
            ["status"],
            registry=metrics.registry,
        )
        self._instances = Counter(
            "biodatamine_gateway_stow_instances",
            "Instances of STOW-RS requests by DICOM status and reason",
            ["status", "reason"],
            registry=metrics.registry,
        )
        self._received_bytes = Counter(
            "biodatamine_gateway_stow_received_bytes",
            "Bytes of STOW-RS bodies",
            registry=metrics.registry,
        )
        self._in_progress = Gauge(
            "biodatamine_gateway_stow_requests_in_progress",
            "STOW-RS requests whose body arrives",
            registry=metrics.registry,
        )

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            answer = await self._route(request)
        except _Refusal as refusal:
            answer = web.Response(
                status=refusal.status, text=f"{refusal}\n", headers=refusal.headers
            )
            _log.warning(
                "stow-refused",
                peer_address=_peer(request),
                status=refusal.status,
                error=str(refusal)[:300],
            )
        except Exception as error:  # noqa: BLE001 (nothing else would tell of it)
            _log.error("stow-fault", error=type(error).__name__, places=places(error))
            answer = web.Response(status=500, text="a fault of the gateway; its log tells more\n")
        if answer.status == 401 and self._credentials:
            for challenge in self._credentials.challenges:
                answer.headers.add("WWW-Authenticate", challenge)
        answer.headers["Server"] = "biodatamine"
        answer.headers["X-Content-Type-Options"] = "nosniff"
        origin = request.headers.get("Origin", "")
        if origin in self._allowed_origins:
            answer.headers["Access-Control-Allow-Origin"] = origin
            answer.headers["Vary"] = "Origin"
        self._requests.labels(str(answer.status)).inc()
        return answer

    async def _route(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.path.rstrip("/")
        study_uid = path[len(PATH) + 1 :] if path.startswith(PATH + "/") else ""
        if path != PATH and (not study_uid or "/" in study_uid):
            raise _Refusal(404, f"there is nothing here; POST to {PATH} or {PATH}/{{study}}")
        origin = request.headers.get("Origin")
        if origin is not None and origin not in self._allowed_origins:
            raise _Refusal(
                403,
                "web pages of this origin may not push; add it to BIODATAMINE_STOW_ALLOWED_ORIGINS",
            )
        if request.method == "OPTIONS":
            return web.Response(status=204, headers=self._options(origin))
        if request.method != "POST":
            raise _Refusal(
                405, "only the Store transaction is served here: POST", {"Allow": _METHODS}
            )
        if self._credentials and not self._credentials.accept(
            request.headers.get("Authorization", "")
        ):
            raise _Refusal(401, "this needs an Authorization header that the gateway knows")
        if study_uid and not is_instance_uid(study_uid):
            raise _Refusal(400, "the study of the URL is not a UID")
        accepted = choose(",".join(request.headers.getall("Accept", [])), OFFERED)
        if accepted is None:
            raise _Refusal(406, f"the answer is {JSON} or {XML}; accept one of them")
        decoder = self._decoder(request)
        if self.is_stopping or self._running >= self._limits.max_requests:
            raise _Refusal(UNAVAILABLE, "too many requests at once; try again", self._retry_after())
        self._running += 1
        self._in_progress.set(self._running)
        self.idle.clear()
        try:
            return await self._store(request, decoder, study_uid, accepted)
        finally:
            self._running -= 1
            self._in_progress.set(self._running)
            if not self._running:
                self.idle.set()

    def _decoder(self, request: web.BaseRequest) -> Decoder:
        coding = request.headers.get("Content-Encoding", "identity").strip().lower()
        if coding not in ("", "identity"):
            raise _Refusal(
                415,
                "a body with a Content-Encoding is not taken: send it as it is",
                {"Accept-Encoding": "identity"},
            )
        try:
            content_type = parse_media_type(request.headers.get("Content-Type", ""))
        except ValueError as error:
            raise _Refusal(
                400, f'{error}: the Content-Type must be multipart/related; type="{DICOM}"'
            ) from None
        if (request.content_length or 0) > self._limits.max_request_bytes:
            raise self._too_large()
        if content_type.name == DICOM:
            return SinglePartDecoder({"content-type": DICOM})
        if content_type.name.startswith("multipart/") and content_type.name != "multipart/related":
            raise _Refusal(400, f'{content_type.name} is not multipart/related; type="{DICOM}"')
        root = content_type.parameters.get("type", DICOM).lower()
        if content_type.name != "multipart/related" or root != DICOM:
            raise _Refusal(
                415,
                f'only multipart/related; type="{DICOM}" is taken, a whole DICOM file in each '
                "part; metadata and bulk data apart are not",
            )
        boundary = content_type.parameters.get("boundary", "")
        try:
            return MultipartDecoder(boundary, max_parts=self._limits.max_parts)
        except FramingError as error:
            raise _Refusal(400, f"the Content-Type has no usable boundary: {error}") from None

    async def _store(
        self, request: web.BaseRequest, decoder: Decoder, study_uid: str, accepted: str
    ) -> web.StreamResponse:
        request_id = uuid.uuid4().hex[:16]
        began = time.monotonic()
        upload = Upload(
            self._receiver,
            decoder,
            origin=Origin(
                tenant=self._tenant,
                dataset_id=self._dataset_id,
                association=Association(
                    association_id=request_id,
                    calling_ae_title="",
                    called_ae_title="",
                    peer_address=_peer(request),
                ),
                source="dicomweb",
            ),
            study_uid=study_uid,
            admit=self._admit,
        )
        broken: _Refusal | None = None
        try:
            if request.headers.get("Expect", "").lower() == "100-continue":
                await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                request.writer.output_size = 0
            await self._read(request, upload)
        except _Refusal as refusal:
            broken = refusal
        except TooManyPartsError as error:
            broken = _Refusal(413, str(error))
        except FramingError as error:
            broken = _Refusal(400, str(error))
        except (ClientError, ConnectionError, http_exceptions.HttpProcessingError, ValueError):
            # aiohttp's words for a body that ends early or whose chunks cannot be read.
            broken = _Refusal(400, "the body broke off")
        finally:
            aborting = self._pool.submit(upload.abort)
            # Behind it: a client may leave while an instance of its is still being written.
            aborting.add_done_callback(
                lambda _: self._count(upload.outcomes, request_id, _peer(request), began, broken)
            )
        await asyncio.wrap_future(aborting)
        return self._answer(upload.outcomes, broken, accepted)

    async def _read(self, request: web.BaseRequest, upload: Upload) -> None:
        limits, loop = self._limits, asyncio.get_running_loop()
        pace = Pace(limits.idle_seconds, limits.min_bytes_per_second)
        began, total_bytes = loop.time(), 0
        while True:
            asked = loop.time()
            try:
                data = await asyncio.wait_for(request.content.readany(), limits.idle_seconds)
            except (asyncio.TimeoutError, TimeoutError):
                raise _Refusal(408, f"no data came for {limits.idle_seconds:g} s") from None
            if not data:
                break
            now = loop.time()
            total_bytes += len(data)
            self._received_bytes.inc(len(data))
            if total_bytes > limits.max_request_bytes:
                raise self._too_large()
            if not pace.is_kept(now - asked, len(data)):
                raise _Refusal(
                    408, f"the body comes slower than {limits.min_bytes_per_second} bytes/s"
                )
            if now - began > limits.request_seconds:
                raise _Refusal(
                    408, f"the request took longer than {limits.request_seconds:g} s; send less"
                )
            await loop.run_in_executor(self._pool, upload.feed, data)
        await loop.run_in_executor(self._pool, upload.finish)

    def _answer(
        self, outcomes: list[Outcome], broken: _Refusal | None, accepted: str
    ) -> web.StreamResponse:
        if broken is not None and not outcomes:
            raise broken
        if not outcomes:
            raise _Refusal(400, f"the body holds no part; send one {DICOM} part for each instance")
        if broken is not None:
            outcomes = [*outcomes, Failed(0x0110, "request-broken-off", str(broken))]
        status = http_status(outcomes, broken.status if broken else None)
        headers = self._retry_after() if status == UNAVAILABLE else {}
        failures = [outcome for outcome in outcomes if isinstance(outcome, Failed)]
        if failures:
            # The module has no place for words (PS3.18 table I.1-1); this header once was for them.
            text = failures[0].comment.encode("ascii", "replace").decode().replace('"', "'")
            more = f" (and {len(failures) - 1} more)" if failures[1:] else ""
            headers["Warning"] = f'299 biodatamine "not stored: {text}{more}"'
        return web.Response(
            status=status,
            body=encode_module(response_module(outcomes), accepted),
            headers={**headers, "Content-Type": accepted},
        )

    def _count(
        self,
        outcomes: list[Outcome],
        request_id: str,
        peer_address: str,
        began: float,
        broken: _Refusal | None,
    ) -> None:
        failures = [outcome for outcome in outcomes if isinstance(outcome, Failed)]
        stored = len(outcomes) - len(failures)
        self._instances.labels("0x0000", "stored").inc(stored)
        for failure in failures:
            self._instances.labels(f"0x{failure.status:04X}", failure.reason).inc()
        for failure in failures[:_MAX_LOGGED_FAILURES]:
            _log.warning(
                "instance-refused",
                association_id=request_id,
                status=f"0x{failure.status:04X}",
                reason=failure.reason,
                error=failure.comment,
            )
        _log.info(
            "stow-request",
            association_id=request_id,
            peer_address=peer_address,
            stored=stored,
            failed=len(failures),
            broken=str(broken) if broken else "",
            seconds=round(time.monotonic() - began, 3),
        )

    def _options(self, origin: str | None) -> dict[str, str]:
        headers = {"Allow": _METHODS, "Accept-Post": f'multipart/related; type="{DICOM}", {DICOM}'}
        if origin is not None:
            headers["Access-Control-Allow-Methods"] = _METHODS
            headers["Access-Control-Allow-Headers"] = "Content-Type, Accept, Authorization"
            headers["Access-Control-Max-Age"] = "600"
        return headers

    def _too_large(self) -> _Refusal:
        return _Refusal(
            413,
            f"a request may have {self._limits.max_request_bytes} bytes; send several, or set "
            "BIODATAMINE_STOW_MAX_REQUEST_BYTES",
        )

    def _retry_after(self) -> dict[str, str]:
        return {"Retry-After": str(self._limits.retry_after_seconds)}


def _peer(request: web.BaseRequest) -> str:
    return str(request.remote or "")[:64]


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
