"""Fetches what requests name: URL, archive, repository, upload or folder to ``files-received``."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from threading import Event as Flag
from typing import Any

import structlog

from schemas import UrlRequest
from schemas.events import received
from streams.agents.fetching import (
    INGEST,
    Fetcher,
    Known,
    Patience,
    Publish,
    StoppedError,
    Tools,
)
from streams.agents.ingest_progress import Counts, ProgressStore
from streams.agents.ingest_roots import record_roots
from streams.agents.uploads import UploadProvider, upload_store
from streams.ingest.addresses import AllowList
from streams.ingest.credentials import Credentials
from streams.ingest.errors import IngestError
from streams.ingest.files import FileProvider
from streams.ingest.github import GitHubProvider
from streams.ingest.http import HttpProvider
from streams.ingest.kaggle import KaggleProvider
from streams.ingest.limits import Budget, Limits
from streams.ingest.local import open_bounded, resolve
from streams.ingest.names import dataset_path
from streams.ingest.sources import Provider
from streams.ingest.stores import StoreProvider
from streams.ingest.stream import ByteStream
from streams.ingest.unpack import Place, Unpacker
from streams.ingest.web import Web
from streams.runtime.clock import Clock
from streams.runtime.emitter import Emitter, Outgoing
from streams.runtime.retry import ServiceFaultError
from streams.runtime.stage import Done, Rejected, Result, Stage, decode_event
from streams.settings import Settings
from streams.storage.blobs import BlobError, BlobStore
from streams.storage.clickhouse import BadRowsError, ClickHouse, StorageUnavailableError
from streams.storage.request_rows import FAILED, FETCHED, FETCHING, request_row
from streams.storage.versions import CurrentVersions

__all__ = ["INGEST", "Ingest", "ingest_stage", "make_ingest"]

_REMEMBERED_SECONDS = 8 * 86_400.0
"""Longer than the log keeps requests (``schemas.topics``)."""

_REPORT_SECONDS = 1.0
_SEND_TRIES = 5
_log = structlog.get_logger(__name__)

WriteRows = Callable[[Sequence[dict[str, Any]]], None]


def ingest_stage(
    blobs: BlobStore,
    roots: Sequence[Path],
    *,
    max_file_bytes: int,
    ingest: Ingest | None = None,
) -> Stage[UrlRequest]:
    """Fetch what requests name.

    Parameters
    ----------
    blobs : BlobStore
        Where the bytes go.
    roots : sequence of Path
        Folders from which ``file://`` may read.
    max_file_bytes : int
        Largest file that is kept.
    ingest : Ingest, optional
        Serves archives, folders and every other URL; without it a stage takes single files only.
    """
    probe = Unpacker(Budget(Limits()), Path, Place())

    def plain(request: UrlRequest) -> Result | None:
        """Serve a request for a single file of this machine; None for any other."""
        single = request.url.startswith("file:") and not request.url.endswith("/")
        if ingest is not None and (not single or request.sha256):
            return None
        try:
            path = resolve(request.url, roots)
            with open_bounded(path, max_file_bytes) as file:
                if ingest is not None:
                    head = file.read(1 << 16)
                    if probe.kind(ByteStream(iter([head])), path.name):
                        return None
                    file = _Again(head, file)  # type: ignore[assignment] # noqa: PLW2901
                blob = blobs.put_file(file)
        except IngestError as error:
            return Rejected(error.reason, error.detail)
        except BlobError as error:
            raise ServiceFaultError("blobs", str(error)) from error
        except OSError as error:
            return Rejected("unreadable", f"the file cannot be read ({type(error).__name__})")
        try:
            event = received(
                tenant=request.tenant,
                dataset_id=request.dataset_id,
                relpath=request.relpath or dataset_path(path.name),
                blob=blob,
                source="local",
                # The request's time, so that the same request makes the same event again.
                received_at=request.occurred_at,
                trace_id=request.trace_id,
                request_id=request.request_id,
            )
        except ValueError:
            return Rejected("bad-name", "the file's name is no Unicode text; give a relpath")
        return Done((event,))

    async def process(requests: Sequence[UrlRequest]) -> Sequence[Result]:
        results = await asyncio.to_thread(lambda: [plain(request) for request in requests])
        if ingest is None:
            return [result for result in results if result is not None]
        return await ingest.finish(requests, results)

    return Stage(INGEST, (UrlRequest.TOPIC,), decode_event, process)  # type: ignore[arg-type]


class _Again:
    """A file of which the beginning was read already."""

    def __init__(self, head: bytes, file: Any) -> None:
        self._head = head
        self._file = file

    def read(self, size_bytes: int) -> bytes:
        if self._head:
            head, self._head = self._head, b""
            return head
        return bytes(self._file.read(size_bytes))


class Ingest:
    """Serves requests that are more than one file of this machine.

    Parameters
    ----------
    tools : callable
        Makes the tools, given what publishes and what is told of progress.
    emitter : Emitter
        Takes the messages.
    write_rows : callable, optional
        Takes rows of ``ingest_requests``.
    parallel : int
        Requests at the same time.
    on_end : callable
        Told of each request that has ended.
    """

    def __init__(
        self,
        tools: Callable[[Publish, Callable[[UrlRequest, Counts], None]], Tools],
        *,
        emitter: Emitter,
        write_rows: WriteRows | None,
        parallel: int,
        on_end: Callable[[UrlRequest], None] = lambda request: None,
    ) -> None:
        self._emitter = emitter
        self._write_rows = write_rows
        self._on_end = on_end
        self._threads = ThreadPoolExecutor(parallel, thread_name_prefix="ingest")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = Flag()
        self._reported: dict[str, float] = {}
        self._fetcher = Fetcher(tools(self._publish, self._report))

    def close(self) -> None:
        """Have every thread come to an end; what is not finished goes on at the next start."""
        self._stop.set()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def finish(
        self, requests: Sequence[UrlRequest], results: Sequence[Result | None]
    ) -> list[Result]:
        """Serve those that have no result yet; write down how each one ended.

        Parameters
        ----------
        requests : sequence of UrlRequest
            A batch.
        results : sequence of Result or None
            Those that are known.

        Raises
        ------
        ServiceFaultError
            If the log, the blob store or ClickHouse is away. What was fetched is not fetched
            again when the batch is tried again.
        """
        self._loop = asyncio.get_running_loop()
        stop = Flag()
        # The log may bring a request twice: one thread serves both.
        waiting: dict[str, asyncio.Future[tuple[Result, Counts]]] = {}
        for request, result in zip(requests, results, strict=True):
            if result is None and request.event_id not in waiting:
                waiting[request.event_id] = asyncio.ensure_future(
                    self._loop.run_in_executor(self._threads, self._serve, request, stop)
                )
        try:
            answers = await asyncio.gather(*waiting.values(), return_exceptions=True)
        except asyncio.CancelledError:
            stop.set()
            raise
        served = dict(zip(waiting, answers, strict=True))
        ended: list[tuple[Result, Counts]] = []
        fault: BaseException | None = None
        for request, result in zip(requests, results, strict=True):
            if result is not None:
                ended.append((result, _counts_of(result)))
                continue
            one = served[request.event_id]
            if isinstance(one, BaseException):
                fault = fault or one
            else:
                ended.append(one)
        if isinstance(fault, StoppedError):
            # Only the end of the process leaves this wait: the batch stays uncommitted.
            await asyncio.Event().wait()
        if fault is not None:
            raise fault
        await asyncio.to_thread(self._write_ends, requests, ended)
        return [result for result, _ in ended]

    def _serve(self, request: UrlRequest, stop: Flag) -> tuple[Result, Counts]:
        outcome = self._fetcher.fetch(request, _Either(stop, self._stop))  # type: ignore[arg-type]
        self._reported.pop(request.event_id, None)
        if outcome.error is not None:
            return Rejected(outcome.error.reason, outcome.error.detail), outcome.counts
        return Done(), outcome.counts

    def _write_ends(
        self, requests: Sequence[UrlRequest], ended: Sequence[tuple[Result, Counts]]
    ) -> None:
        rows = [
            _row(request, FETCHED, counts)
            if isinstance(result, Done)
            else _row(request, FAILED, counts, reason=result.reason, error=result.error)
            for request, (result, counts) in zip(requests, ended, strict=True)
        ]
        if self._write_rows is not None:
            try:
                self._write_rows(rows)
            except StorageUnavailableError as error:
                raise ServiceFaultError("clickhouse", str(error)) from error
            except BadRowsError as error:
                _log.error("rows of requests refused", error=str(error))
        for request in requests:
            self._on_end(request)

    def _publish(self, messages: Sequence[Outgoing]) -> None:
        loop = self._loop
        assert loop is not None
        for attempt in range(_SEND_TRIES):
            future = asyncio.run_coroutine_threadsafe(self._emitter.send(messages), loop)
            try:
                return future.result()
            except ServiceFaultError:
                # Giving the request up costs what its source cannot take up again.
                if attempt + 1 == _SEND_TRIES or self._stop.wait(0.2 * 2**attempt):
                    raise
        return None

    def _report(self, request: UrlRequest, counts: Counts) -> None:
        now = time.monotonic()
        if self._write_rows is None:
            return
        if now - self._reported.get(request.event_id, -_REPORT_SECONDS) < _REPORT_SECONDS:
            return
        self._reported[request.event_id] = now
        try:
            self._write_rows([_row(request, FETCHING, counts)])
        except (StorageUnavailableError, BadRowsError):
            # It is for the eye only; the end of the request is written with patience.
            _log.debug("progress not written", request_id=request.request_id)


class _Either:
    """Set when one of two flags is."""

    def __init__(self, one: Flag, other: Flag) -> None:
        self._one, self._other = one, other

    def is_set(self) -> bool:
        return self._one.is_set() or self._other.is_set()

    def wait(self, seconds: float) -> bool:
        until = time.monotonic() + seconds
        while not self.is_set():
            left = until - time.monotonic()
            if left <= 0:
                return False
            self._one.wait(min(left, 0.5))
        return True


def _counts_of(result: Result) -> Counts:
    if isinstance(result, Rejected):
        return Counts()
    sizes = [event.blob.size_bytes for event in result.events if hasattr(event, "blob")]
    return Counts(files=len(sizes), bytes=sum(sizes), fetched_bytes=sum(sizes))


def _row(
    request: UrlRequest, state: str, counts: Counts, *, reason: str = "", error: str = ""
) -> dict[str, Any]:
    found = asdict(counts)
    found["file_bytes"] = found.pop("bytes")
    return request_row(request, state, **found, reason=reason, error=error)


def limits_of(settings: Settings) -> Limits:
    """Read the bounds of a request from the settings."""
    return Limits(
        file_bytes=settings.ingest_max_file_bytes,
        download_bytes=settings.ingest_max_download_bytes,
        inflated_bytes=settings.ingest_max_unpacked_bytes,
        ratio=settings.ingest_max_ratio,
        members=settings.ingest_max_members,
        depth=settings.ingest_max_depth,
        request_seconds=settings.ingest_max_seconds,
    )


def providers_of(settings: Settings, limits: Limits, uploads: BlobStore) -> list[Provider]:
    """Make all providers; the first that serves a URL is asked, so the particular come first."""
    allowed = AllowList.parse(settings.ingest_allowed_hosts, settings.ingest_allowed_ports)
    web = Web(limits, allowed)
    credentials = Credentials(
        settings.ingest_secrets,
        {name: value.get_secret_value() for name, value in settings.ingest_credentials.items()},
    )
    return [
        UploadProvider(uploads),
        FileProvider(
            settings.ingest_roots, max_bytes=limits.download_bytes, max_files=limits.members
        ),
        GitHubProvider(
            web, credentials, api_url=settings.github_api_url, site=settings.github_site
        ),
        KaggleProvider(web, credentials, api_url=settings.kaggle_api_url),
        HttpProvider(web, credentials),
        StoreProvider(
            settings.ingest_store_schemes,
            credentials,
            web.guard,
            max_bytes=limits.download_bytes,
            max_files=limits.members,
            options=settings.ingest_store_options,
        ),
    ]


def make_ingest(
    settings: Settings,
    blobs: BlobStore,
    database: ClickHouse | None,
    *,
    emitter: Emitter,
    clock: Clock,
) -> Ingest:
    """Put together what serves requests, from the settings.

    Parameters
    ----------
    settings : Settings
        Bounds, allow-lists, secrets.
    blobs : BlobStore
        Where files go.
    database : ClickHouse, optional
        Tells what is known, and takes rows of requests.
    emitter : Emitter
        Takes the messages.
    clock : Clock
        The present.
    """
    limits = limits_of(settings)
    uploads = upload_store(settings.blobs)
    progress = ProgressStore(settings.data_dir.absolute() / "ingest")
    record_roots(settings.data_dir.absolute(), settings.ingest_roots)
    progress.clear_workspaces()
    progress.sweep(older_than_seconds=_REMEMBERED_SECONDS, now_seconds=clock().timestamp())
    known: Known | None = CurrentVersions(database) if database is not None else None
    remover = UploadProvider(uploads)

    def tools(publish: Publish, report: Callable[[UrlRequest, Counts], None]) -> Tools:
        return Tools(
            blobs=blobs,
            providers=providers_of(settings, limits, uploads),
            limits=limits,
            progress=progress,
            publish=publish,
            clock=clock,
            known=known,
            report=report,
            patience=Patience(total_seconds=settings.ingest_patience_seconds),
        )

    def write_rows(rows: Sequence[dict[str, Any]]) -> None:
        assert database is not None
        database.insert("ingest_requests", list(rows))

    return Ingest(
        tools,
        emitter=emitter,
        write_rows=write_rows if database is not None else None,
        parallel=settings.ingest_parallel,
        on_end=lambda request: remover.remove(request.url),
    )
