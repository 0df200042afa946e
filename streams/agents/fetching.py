"""Serves one request: source to members to blobs to ``files-received``, while it still arrives."""

from __future__ import annotations

import contextlib
import hashlib
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from schemas import UrlRequest, encode
from schemas.identity import file_id
from streams.agents.ingest_events import Receipt, Receipts
from streams.agents.ingest_progress import Checkpoint, Counts, Progress, ProgressStore, spooled
from streams.ingest.compression import compressed_kind
from streams.ingest.errors import IngestError, LimitError, SourceAwayError, SourceChangedError
from streams.ingest.limits import Budget, Limits
from streams.ingest.seven_zip import is_seven_zip
from streams.ingest.sources import Asked, Entry, Provider
from streams.ingest.stream import ByteStream
from streams.ingest.unpack import Fault, Leaf, Mark, Place, Unpacker
from streams.runtime.clock import Clock
from streams.runtime.dead_letters import DeadLetter, subject_of
from streams.runtime.emitter import Outgoing
from streams.runtime.retry import Backoff, ServiceFaultError
from streams.storage.blob_batch import BlobBatch
from streams.storage.blobs import BlobError, BlobStore

INGEST = "ingest"
_BATCH_FILES = 512
_BATCH_BYTES = 24 << 20
_BATCH_SECONDS = 0.5
_CHANGES = 3

Publish = Callable[[Sequence[Outgoing]], None]
Key = tuple[str, str]


class StoppedError(Exception):
    """The worker stops; the request goes on when it starts again."""


class Known(Protocol):
    """Tells which files need not be looked at again."""

    def has_files(self, tenant: str, dataset_id: str) -> bool:
        """Whether the dataset has any file."""

    def unchanged(self, tenant: str, dataset_id: str, keys: Sequence[Key]) -> set[Key]:
        """Those of (file_id, image_id) that are the newest version, and finished."""


@dataclass(frozen=True)
class Outcome:
    """How a request ended.

    Parameters
    ----------
    counts : Counts
        What it gave.
    error : IngestError or None
        Why it was refused.
    """

    counts: Counts
    error: IngestError | None = None


Report = Callable[[UrlRequest, Counts], None]


@dataclass(frozen=True)
class Patience:
    """How long a source that is away is waited for.

    Parameters
    ----------
    total_seconds : float
        From the last byte that came, until the request is refused.
    backoff : Backoff
        Waits in between.
    """

    total_seconds: float = 600.0
    backoff: Backoff = field(default_factory=lambda: Backoff(0.5, 60.0))


@dataclass
class Tools:
    """What fetching needs.

    Parameters
    ----------
    blobs : BlobStore
        Where bytes go.
    providers : sequence of Provider
        Who knows which URL; the first that serves it is asked.
    limits : Limits
        What a request may cost.
    progress : ProgressStore
        Where it is noted how far requests are.
    publish : callable
        Sends messages and returns when the brokers have them; raises ``ServiceFaultError``.
    clock : Clock
        The present.
    known : Known, optional
        Which files are finished.
    report : callable
        Told of progress from time to time.
    patience : Patience
        With sources that are away.
    fsync : bool
        Whether blobs are durable before they are published.
    """

    blobs: BlobStore
    providers: Sequence[Provider]
    limits: Limits
    progress: ProgressStore
    publish: Publish
    clock: Clock
    known: Known | None = None
    report: Report = lambda request, counts: None
    patience: Patience = field(default_factory=Patience)
    fsync: bool = True


class Fetcher:
    """Serves requests, one in each thread that asks.

    Parameters
    ----------
    tools : Tools
        What it needs.
    """

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._chance = random.Random()  # noqa: S311 (spreads retries, protects nothing)

    def fetch(self, request: UrlRequest, stop: threading.Event) -> Outcome:
        """Serve a request to its end, from where an earlier attempt left it.

        Parameters
        ----------
        request : UrlRequest
            What to fetch.
        stop : threading.Event
            Set when the worker stops.

        Raises
        ------
        ServiceFaultError
            If the log or the blob store is away.
        StoppedError
            If the worker stops.
        """
        progress = self._tools.progress.open(request.event_id)
        if progress.checkpoint.done:
            return Outcome(progress.checkpoint.counts)
        try:
            return self._patiently(request, progress, stop)
        except BlobError as error:
            raise ServiceFaultError("blobs", str(error)) from error
        finally:
            progress.release()

    def _patiently(self, request: UrlRequest, progress: Progress, stop: threading.Event) -> Outcome:
        patience, changes = self._tools.patience, 0
        waits = patience.backoff.waits(self._chance)
        since, fetched = time.monotonic(), progress.checkpoint.counts.fetched_bytes
        while True:
            try:
                self._attempt(request, progress, stop)
            except SourceAwayError as error:
                if progress.checkpoint.counts.fetched_bytes > fetched:
                    since, fetched = time.monotonic(), progress.checkpoint.counts.fetched_bytes
                    waits = patience.backoff.waits(self._chance)
                wait = max(next(waits), error.retry_after_seconds or 0.0)
                if time.monotonic() + wait - since > patience.total_seconds:
                    return self._refused(
                        progress,
                        IngestError(
                            "source-away",
                            f"{error.detail}; tried for {patience.total_seconds:.0f} seconds. "
                            "Replay this dead letter when it is back",
                        ),
                    )
                if stop.wait(wait):
                    raise StoppedError from error
            except SourceChangedError:
                changes += 1
                if changes > _CHANGES:
                    return self._refused(
                        progress,
                        IngestError("source-changes", "the file changes while it is fetched"),
                    )
                progress.restart()
            except IngestError as error:
                return self._refused(progress, error)
            else:
                counts = progress.checkpoint.counts
                progress.end(done=True)
                return Outcome(counts)

    @staticmethod
    def _refused(progress: Progress, error: IngestError) -> Outcome:
        counts = progress.checkpoint.counts
        # Whoever replays the dead letter wants another attempt, from the beginning.
        progress.end(done=False)
        return Outcome(counts, error)

    def _attempt(self, request: UrlRequest, progress: Progress, stop: threading.Event) -> None:
        progress.load_names()
        provider = next((p for p in self._tools.providers if p.serves(request.url)), None)
        if provider is None:
            raise IngestError(
                "unsupported-url",
                "http, https, file, s3, gs, az, abfs and sftp URLs are served, as far as the "
                "worker allows them; see BIODATAMINE_INGEST_*",
            )
        with _Batches(self._tools, request, progress, stop) as batches:
            asked = Asked(request.url, request.credentials_ref)
            for index, entry in enumerate(provider.entries(asked)):
                if index >= batches.entry:
                    self._entry(request, progress, batches, index, entry)
            batches.finish()

    def _entry(
        self,
        request: UrlRequest,
        progress: Progress,
        batches: _Batches,
        index: int,
        entry: Entry,
    ) -> None:
        begun = Mark(**batches.mark) if batches.mark else None
        budget = batches.budget
        chunks = self._chunks(request, progress, batches, entry, begun)
        stream = ByteStream(chunks, offset=begun.offset if begun else 0)
        stream.peek(1)
        source = entry.source
        if begun and source.validator and source.validator != batches.validator:
            raise SourceChangedError
        name = batches.name or source.name
        batches.enter(index, source.validator or batches.validator, name)
        place = Place(
            path=_joined(request.relpath, entry.path),
            origin=entry.origin,
            strip_parts=entry.strip_parts,
            subfolder=entry.subfolder,
            promised=entry.origin not in ("local", "upload"),
        )
        unpacker = Unpacker(budget, progress.scratch, place, unpack=entry.unpack)
        for item in unpacker.items(stream, name, source.media_type, begun):
            if isinstance(item, Mark):
                batches.at(item)
            elif isinstance(item, Fault):
                batches.refuse(item)
            else:
                batches.keep(item)
        batches.enter(index + 1)

    def _chunks(
        self,
        request: UrlRequest,
        progress: Progress,
        batches: _Batches,
        entry: Entry,
        begun: Mark | None,
    ) -> Iterator[bytes]:
        source, validator = entry.source, batches.validator
        if begun and begun.offset:
            return batches.counted(source.chunks(begun.offset, validator))
        part = progress.part
        if entry.origin == "local":
            return batches.counted(source.chunks())
        if request.sha256 is not None:
            chunks = batches.counted(spooled(source, part, validator))
            return _verified(chunks, part, request.sha256)
        if part.exists() and validator:
            return batches.counted(spooled(source, part, validator))
        part.unlink(missing_ok=True)
        fresh = batches.counted(source.chunks())
        head = next(fresh, b"")
        while len(head) < 8 and (more := next(fresh, b"")):
            head += more
        # Bytes that can only be read from the beginning are kept, so that a restart has them.
        if compressed_kind(head[:6]) or is_seven_zip(head):
            return _kept(head, fresh, part)
        return _chained(head, fresh)


class _Batches:
    """Files of one attempt on their way out: one batch is filled while another one is published."""

    def __init__(
        self, tools: Tools, request: UrlRequest, progress: Progress, stop: threading.Event
    ) -> None:
        self._tools = tools
        self._request = request
        self._progress = progress
        self._stop = stop
        checkpoint = progress.checkpoint
        self._position = replace(checkpoint, counts=replace(checkpoint.counts))
        self.budget = Budget(tools.limits, members=checkpoint.members)
        self._counts = replace(checkpoint.counts)
        self._ask = tools.known is not None and tools.known.has_files(
            request.tenant, request.dataset_id
        )
        # One batch is written while the one before is on its way to the brokers.
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="ingest-write")
        self._sender = ThreadPoolExecutor(1, thread_name_prefix="ingest-send")
        self._writing: Future[None] | None = None
        self._sending: Future[None] | None = None
        # The last batch whose blobs have their names; it is published once these are durable.
        self._placed: tuple[BlobBatch, Callable[[], None]] | None = None
        self._hurry = threading.Event()
        self._names_given = checkpoint.names
        self._held_names: list[int] = []
        self._names_at_mark: list[int] = []
        self._receipts = Receipts(request)
        self._mark: Mark | None = None
        self._at_mark = (checkpoint.members, self._counts)
        self._begin()

    def __enter__(self) -> _Batches:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            if error is not None and not isinstance(error, StoppedError | ServiceFaultError):
                # What was found before the fault stays found.
                with contextlib.suppress(ServiceFaultError, BlobError):
                    self.flush()
                    self.settle()
        finally:
            self._hurry.set()
            self._writer.shutdown(wait=True)
            self._sender.shutdown(wait=True)
            self._batch.abort()

    @property
    def entry(self) -> int:
        """Entries that are done."""
        return self._position.entry

    @property
    def mark(self) -> dict[str, Any] | None:
        """How far the present entry is."""
        return self._position.mark

    @property
    def validator(self) -> str:
        """What the bytes of the present entry are read with."""
        return self._position.validator

    @property
    def name(self) -> str:
        """File name of the present entry."""
        return self._position.name

    def counted(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """Count what comes in; end when the worker stops."""
        try:
            for chunk in chunks:
                if self._stop.is_set():
                    raise StoppedError
                self.budget.fetch(len(chunk))
                self._counts.fetched_bytes += len(chunk)
                yield chunk
        except IngestError as error:
            # A fault of the source is not one of the member that happens to be read.
            raise LimitError(error.reason, error.detail) from error

    def enter(self, entry: int, validator: str = "", name: str = "") -> None:
        """Note that an entry begins, or is gone on with."""
        before = self._position
        if (entry, validator, name) == (before.entry, before.validator, before.name):
            return
        mark = before.mark if entry == before.entry else None
        self._move(replace(before, entry=entry, validator=validator, name=name, mark=mark))
        if not self._found and not self._letters and self._writing is None:
            # From now on the bytes that are kept can be told from those of another file.
            self._progress.save(self._checkpoint(self._position), [])

    def at(self, mark: Mark) -> None:
        """Note a point from which the request can go on."""
        self._mark = mark
        self._at_mark = (self._members_before(), replace(self._counts))
        if self._held_names:
            self._names_at_mark += self._held_names
            self._held_names = []
        if self._is_full():
            self.flush()

    def keep(self, leaf: Leaf) -> None:
        """Take a file."""
        path, name = self._progress.unique(leaf.path)
        try:
            blob = self._batch.add(leaf.chunks, check=self._require_size)
        except LimitError:
            raise
        except IngestError as error:
            self._fault(path, self.budget.members, error)
            return
        try:
            receipt = self._receipts.of(path, blob, leaf.origin)
        except ValueError:
            self._fault("", self.budget.members, IngestError("bad-name", "no Unicode text"))
            return
        self._found.append(receipt)
        self._held_names.append(name)
        self._bytes += blob.size_bytes
        self._counts.files += 1
        self._counts.bytes += blob.size_bytes
        if self._is_full():
            self.flush()

    def refuse(self, fault: Fault) -> None:
        """Take note of a member that is refused."""
        path = fault.path
        if path:
            path, name = self._progress.unique(path)
            self._held_names.append(name)
        self._fault(path, fault.number, fault.error)

    def flush(self) -> None:
        """Publish what there is while the next batch is filled."""
        if not self._found and not self._letters:
            return
        self._wait_for_writer()
        batch, found, letters = self._batch, self._found, self._letters
        if self._mark is not None:
            members, at_mark = self._at_mark
            self._position = replace(
                self._position, mark=asdict(self._mark), members=members, counts=at_mark
            )
            self._mark = None
        position, names = self._position, self._names_at_mark
        self._names_at_mark = []
        # Where files come fast, the next batch will be here in about as long as this one took.
        age = time.monotonic() - self._began
        self._writing = self._writer.submit(
            self._commit,
            batch,
            lambda: self._publish(found, letters, position, names),
            age if age < _BATCH_SECONDS else 0.0,
        )
        self._begin()

    def finish(self) -> None:
        """Publish what is left; all that was found is counted then."""
        self.flush()
        self.settle()
        self._progress.save(self._checkpoint(self._position), [])

    def settle(self) -> None:
        """Wait until what is being published is."""
        self._wait_for_writer()
        self._writing = None
        self._publish_placed()
        sending, self._sending = self._sending, None
        if sending is not None:
            sending.result()

    def _wait_for_writer(self) -> None:
        self._hurry.set()
        if self._writing is not None:
            self._writing.result()
        self._hurry.clear()

    def _begin(self) -> None:
        self._batch = BlobBatch(self._tools.blobs, fsync=self._tools.fsync)
        self._found: list[Receipt] = []
        self._letters: list[DeadLetter] = []
        self._bytes = 0
        self._began = time.monotonic()

    def _is_full(self) -> bool:
        return (
            len(self._found) + len(self._letters) >= _BATCH_FILES
            or self._bytes >= _BATCH_BYTES
            or time.monotonic() - self._began >= _BATCH_SECONDS
        )

    def _move(self, position: Checkpoint) -> None:
        self._position = replace(
            position, members=self._members_before(), counts=replace(self._counts)
        )
        self._mark = None
        self._names_at_mark += self._held_names
        self._held_names = []

    def _members_before(self) -> int:
        # A mark stands before a member that has been counted already.
        return max(self.budget.members - 1, 0)

    def _checkpoint(self, position: Checkpoint) -> Checkpoint:
        counts = replace(position.counts, unchanged=self._counts.unchanged)
        return replace(position, names=self._names_given, counts=counts)

    def _require_size(self, size_bytes: int) -> None:
        limit = self._tools.limits.file_bytes
        if size_bytes > limit:
            raise IngestError(
                "too-large",
                f"the file has more than {limit} bytes; see BIODATAMINE_INGEST_MAX_FILE_BYTES",
            )

    def _fault(self, path: str, number: int, error: IngestError) -> None:
        request = self._request
        self._counts.refused += 1
        subject = subject_of(request)
        subject.pop("file-id", None)
        if path:
            with contextlib.suppress(ValueError):
                subject["file-id"] = file_id(request.tenant, request.dataset_id, path)
        self._letters.append(
            DeadLetter(
                value=encode(request),
                key=request.request_id.encode(),
                stage=INGEST,
                reason=error.reason,
                error=f"member {number}: {error.detail}" if number else error.detail,
                source_topic=UrlRequest.TOPIC,
                source_partition=-1,
                source_offset=-1,
                failed_at=self._tools.clock(),
                subject=subject,
            )
        )
        if self._counts.refused > self._tools.limits.bad_members:
            raise LimitError(
                "too-many-bad-members",
                f"more than {self._tools.limits.bad_members} members are refused, the last as "
                f"{error.reason}",
            )

    def _commit(
        self, batch: BlobBatch, publish: Callable[[], None], next_in_seconds: float
    ) -> None:
        try:
            batch.write()
            batch.sync()
            # That was also for the names of the batch before.
            self._send_placed()
            batch.place()
        finally:
            batch.abort()
        self._placed = (batch, publish)
        if not self._hurry.wait(2 * next_in_seconds):
            self._publish_placed()

    def _publish_placed(self) -> None:
        if self._placed is not None:
            batch, _ = self._placed
            batch.sync()
            self._send_placed()

    def _send_placed(self) -> None:
        placed, self._placed = self._placed, None
        if placed is None:
            return
        # In order: a checkpoint says that everything before it is published.
        sending, self._sending = self._sending, None
        if sending is not None:
            sending.result()
        self._sending = self._sender.submit(placed[1])

    def _publish(
        self,
        found: list[Receipt],
        letters: list[DeadLetter],
        position: Checkpoint,
        names: list[int],
    ) -> None:
        request = self._request
        fresh = found
        if self._ask and self._tools.known is not None:
            keys = [(receipt.file_id, receipt.image_id) for receipt in found]
            known = self._tools.known.unchanged(request.tenant, request.dataset_id, keys)
            fresh = [r for r in found if (r.file_id, r.image_id) not in known]
            self._counts.unchanged += len(found) - len(fresh)
        self._tools.publish([*(r.message for r in fresh), *(x.message() for x in letters)])
        self._names_given += len(names)
        self._progress.save(self._checkpoint(position), names)
        self._tools.report(request, replace(self._counts))


def _joined(folder: str | None, path: str) -> str:
    return f"{folder}/{path}" if folder and path else folder or path


def _chained(head: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    if head:
        yield head
    yield from rest


def _kept(head: bytes, rest: Iterator[bytes], part: Path) -> Iterator[bytes]:
    with part.open("wb", buffering=0) as file:
        for chunk in _chained(head, rest):
            file.write(chunk)
            yield chunk


def _verified(chunks: Iterator[bytes], part: Path, sha256: str) -> Iterator[bytes]:
    """Read all, compare the digest that the request names, and only then give anything."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    if digest.hexdigest() != sha256:
        part.unlink(missing_ok=True)
        raise LimitError(
            "digest-mismatch", "the bytes are not those of the SHA-256 that the request names"
        )
    with part.open("rb") as file:
        while chunk := file.read(1 << 17):
            yield chunk
