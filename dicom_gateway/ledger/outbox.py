"""What was received and must be published: a ledger in SQLite that survives kill -9.

One writer thread owns the writing connection. Callers hand it operations and wait; all operations
that wait together go into one transaction and share its fsync (WAL, ``synchronous=FULL``), so many
associations cost hardly more than one.

States of a record::

    pending --acknowledged by the log--> published --row or dead letter exists--> settled
       ^                                     |
       +------------- the log was lost ------+

With a durable log an acknowledgement settles. A settled record keeps its identities, so that the
same instance is recognised for ever, and drops its event: some 350 bytes for each distinct file.
Nothing else grows.
"""

from __future__ import annotations

import enum
import itertools
import queue
import sqlite3
import threading
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from dicom_gateway.ledger.layout import LayoutError, bring_up_to_date
from dicom_gateway.storing.arrived import Arrived
from schemas import FileReceived, decode, encode

ResultT = TypeVar("ResultT")

_MAX_GROUP = 512
_PENDING, _PUBLISHED, _SETTLED = 0, 1, 2
_LOOK_UP_AT_ONCE = 256
"""Values of one IN list; a fixed number, so that SQLite prepares each statement once."""


class OutboxError(OSError):
    """A record could not be made durable; the message says what to check."""


class Disposition(enum.Enum):
    """What a record was to the ledger."""

    NEW = "new"
    SAME = "same"
    """The same bytes at the same place were there already: nothing was recorded."""
    CONFLICT = "conflict"
    """Other bytes were there at the same place: both are kept, the event names the earlier."""


@dataclass(frozen=True)
class Record:
    """A record to be published: its place in the order of arrival, message key and event bytes."""

    seq: int
    event_id: str
    key: bytes
    value: bytes


@dataclass(frozen=True)
class Acknowledged:
    """Where the log put a record; offset -1 when the broker did not say."""

    seq: int
    event_id: str
    partition: int
    offset: int


@dataclass(frozen=True)
class Unsettled:
    """A published record of which it is not known yet whether its row exists."""

    seq: int
    file_id: str
    image_id: str


class HeldInstance(NamedTuple):
    """One file that the ledger knows for a SOP Instance UID.

    ``size_bytes`` is -1 where the record does not tell it.
    """

    sop_class_uid: str
    image_id: str
    size_bytes: int


@dataclass(frozen=True)
class LogPosition:
    """The last record that a partition of the log acknowledged."""

    offset: int
    event_id: str


@dataclass(frozen=True)
class Counts:
    """Records that are not done."""

    pending: int
    published: int


@dataclass
class _Operation(Generic[ResultT]):
    run: Callable[[sqlite3.Connection], ResultT]
    done: Future[ResultT]


class Outbox:
    """The ledger of one gateway.

    Parameters
    ----------
    path : Path
        The SQLite file; its folder is made.

    Raises
    ------
    OutboxError
        If the file cannot be opened or has a layout that this version does not know.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._queue: queue.SimpleQueue[_Operation[Any] | None] = queue.SimpleQueue()
        self._closed = False
        self._lock = threading.Lock()
        # What the open transaction changes; only the writer thread touches it.
        self._pending_change = self._published_change = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = self._connect()
            self._writer.execute("PRAGMA journal_mode=WAL")
            bring_up_to_date(self._writer)
            counts = dict(
                self._writer.execute(
                    "SELECT state, count(*) FROM ledger WHERE state<2 GROUP BY state"
                )
            )
            self._counts = Counts(counts.get(_PENDING, 0), counts.get(_PUBLISHED, 0))
            (last,) = self._writer.execute("SELECT coalesce(max(seq), 0) FROM ledger").fetchone()
            self._appended_seq: int = last
            self._released_seq: int = last
            self._reader = self._connect()
            # Lookups of many rows shall not hold up the publisher's short reads.
            self._lookup = self._connect()
        except LayoutError as error:
            msg = f"the outbox {path} cannot be opened: {error}"
            raise OutboxError(msg) from error
        except (sqlite3.Error, OSError) as error:
            msg = f"the outbox {path} cannot be opened: {error}; check BIODATAMINE_DATA_DIR"
            raise OutboxError(msg) from error
        self._read_lock = threading.Lock()
        self._lookup_lock = threading.Lock()
        self._thread = threading.Thread(target=self._write_loop, name="outbox", daemon=True)
        self._thread.start()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, isolation_level=None, check_same_thread=False, timeout=30
        )
        connection.execute("PRAGMA synchronous=FULL")
        # 16 MiB of WAL: the indexes' pages are hit at random, and each is then copied home once
        # for several transactions.
        connection.execute("PRAGMA wal_autocheckpoint=4096")
        return connection

    # ---- the gateway's side

    def append(self, event: FileReceived) -> Disposition:
        """Record an arrival; return when it is on disk.

        Parameters
        ----------
        event : FileReceived
            Without ``conflicts_with``: only the ledger knows what came earlier.

        Raises
        ------
        OutboxError
            If it could not be made durable.
        """
        disposition = self.append_all([Arrived.of(event)]).result()[0]
        self.release()
        return disposition

    def append_all(self, arrived: Sequence[Arrived]) -> Future[list[Disposition]]:
        """Record arrivals, all in one transaction or none; done when they are on disk.

        Parameters
        ----------
        arrived : sequence of Arrived
            In the order of arrival; the same instance may be there more than once.

        Returns
        -------
        Future of list of Disposition
            One for each, in the same order. Its exception is an ``OutboxError`` if they could not
            be made durable, a ``ValueError`` if one of them is malformed.
        """
        return self.transact(lambda connection: self._append_all(connection, arrived))

    def _append_all(
        self, connection: sqlite3.Connection, arrived: Sequence[Arrived]
    ) -> list[Disposition]:
        execute = connection.execute
        dispositions: list[Disposition] = []
        rows: list[tuple[Any, ...]] = []
        events: set[bytes] = set()
        # What came for a place within this group, before it is in the table.
        latest: dict[bytes, str] = {}
        for one in arrived:
            event_id, file_id = _uuid_bytes(one.event_id), _uuid_bytes(one.file_id)
            # An event is named after place and bytes, so its like can only be at the same place.
            there = execute(
                "SELECT event_id, image_id FROM ledger WHERE file_id=? ORDER BY seq DESC",
                (file_id,),
            ).fetchall()
            if event_id in events or any(row[0] == event_id for row in there):
                dispositions.append(Disposition.SAME)
                continue
            earlier = latest.get(file_id)
            if earlier is None and there:
                earlier = there[0][1].hex()
            events.add(event_id)
            latest[file_id] = one.image_id
            dispositions.append(Disposition.NEW if earlier is None else Disposition.CONFLICT)
            rows.append(
                (
                    event_id,
                    file_id,
                    bytes.fromhex(one.image_id),
                    one.sop_instance_uid,
                    one.sop_class_uid,
                    one.tenant,
                    one.size_bytes,
                    one.received_at,
                    one.key,
                    one.value if earlier is None else _in_conflict(one.value, earlier),
                )
            )
        connection.executemany(
            "INSERT INTO ledger (event_id, file_id, image_id, sop_instance_uid, sop_class_uid,"
            " tenant, size_bytes, received_at, state, message_key, event)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?)",
            rows,
        )
        self._pending_change += len(rows)
        if rows:
            (self._appended_seq,) = execute("SELECT max(seq) FROM ledger").fetchone()
        return dispositions

    def release(self) -> None:
        """Let the publisher have what was appended so far: its blobs are where its events say."""
        self._released_seq = self._appended_seq

    # ---- what is held

    def find_instances(
        self, tenant: str, sop_instance_uids: Iterable[str]
    ) -> dict[str, list[HeldInstance]]:
        """Look up instances by their UID.

        Parameters
        ----------
        tenant : str
            Whose data they are.
        sop_instance_uids : iterable of str
            Any number.

        Returns
        -------
        dict
            For each UID that is known its files, in the order of arrival; several where other bytes
            came under the same UID.
        """
        found: defaultdict[str, list[HeldInstance]] = defaultdict(list)
        for some in _in_pieces(sop_instance_uids):
            for uid, sop_class_uid, image_id, size_bytes in self.query(
                _FIND_INSTANCES,
                (*some, tenant),
            ):
                found[uid].append(HeldInstance(sop_class_uid, bytes(image_id).hex(), size_bytes))
        return dict(found)

    def holds_image(self, image_ids: Iterable[str]) -> set[str]:
        """Tell which of these images (SHA-256, hex) have a record, of whatever tenant."""
        held: set[str] = set()
        for some in _in_pieces(bytes.fromhex(image_id) for image_id in image_ids):
            starts = tuple(image and image[:8] for image in some)
            rows = self.query(_HOLDS_IMAGE, starts)
            held.update(image.hex() for (image,) in rows if image in some)
        return held

    # ---- the publisher's side

    def pending(self, limit: int) -> list[Record]:
        """List released records that the log has not acknowledged, in the order of arrival."""
        rows = self._read(
            "SELECT seq, event_id, message_key, event FROM ledger WHERE state=0"
            " AND seq<=? ORDER BY seq LIMIT ?",
            (self._released_seq, limit),
        )
        return [
            Record(seq, str(uuid.UUID(bytes=name)), key, value) for seq, name, key, value in rows
        ]

    def unsettled(self, limit: int, *, after_seq: int = 0) -> list[Unsettled]:
        """List records that are published and not settled, in the order of arrival."""
        rows = self._read(
            "SELECT seq, file_id, image_id FROM ledger WHERE state=1 AND seq>?"
            " ORDER BY seq LIMIT ?",
            (after_seq, limit),
        )
        return [
            Unsettled(seq, str(uuid.UUID(bytes=file_id)), bytes(image_id).hex())
            for seq, file_id, image_id in rows
        ]

    def positions(self) -> dict[int, LogPosition]:
        """For each partition the last record that it acknowledged."""
        rows = self._read("SELECT log_partition, log_offset, event_id FROM log_position", ())
        return {
            partition: LogPosition(offset, str(uuid.UUID(bytes=name)))
            for partition, offset, name in rows
        }

    def mark_published(
        self, acknowledged: Sequence[Acknowledged], *, settled: bool
    ) -> Future[None]:
        """Note what the log acknowledged; ``settled`` when that is all there is to wait for."""
        return self.transact(
            lambda connection: self._mark_published(connection, acknowledged, settled=settled)
        )

    def _mark_published(
        self, connection: sqlite3.Connection, acknowledged: Sequence[Acknowledged], *, settled: bool
    ) -> None:
        moved = connection.executemany(
            "UPDATE ledger SET state=?, log_partition=?, log_offset=?,"
            " message_key=iif(?, NULL, message_key), event=iif(?, NULL, event)"
            " WHERE seq=? AND state=0",
            [
                (_SETTLED if settled else _PUBLISHED, ack.partition, ack.offset,
                 settled, settled, ack.seq)
                for ack in acknowledged
            ],
        ).rowcount  # fmt: skip
        self._pending_change -= moved
        if settled:
            return
        self._published_change += moved
        connection.executemany(
            "INSERT INTO log_position VALUES (?, ?, ?) ON CONFLICT (log_partition) DO UPDATE"
            " SET log_offset=excluded.log_offset, event_id=excluded.event_id",
            [
                (ack.partition, ack.offset, uuid.UUID(ack.event_id).bytes)
                for ack in sorted(acknowledged, key=lambda ack: ack.offset)
                if ack.offset >= 0
            ],
        )

    def settle(self, seqs: Iterable[int]) -> Future[None]:
        """Note that the rows or dead letters of these records exist; their events are dropped."""
        values = [(seq,) for seq in seqs]

        def run(connection: sqlite3.Connection) -> None:
            self._published_change -= connection.executemany(
                "UPDATE ledger SET state=2, message_key=NULL, event=NULL WHERE seq=? AND state=1",
                values,
            ).rowcount

        return self.transact(run)

    def log_lost(self) -> Future[int]:
        """Make everything that was published and not settled pending again; return how many."""

        def run(connection: sqlite3.Connection) -> int:
            connection.execute("DELETE FROM log_position")
            moved = connection.execute(
                "UPDATE ledger SET state=0, log_partition=NULL, log_offset=NULL WHERE state=1"
            ).rowcount
            self._published_change -= moved
            self._pending_change += moved
            return moved

        return self.transact(run)

    def counts(self) -> Counts:
        """How many records are pending and how many published but not settled."""
        with self._lock:
            return self._counts

    @property
    def is_running(self) -> bool:
        """Whether the writer thread takes records."""
        return self._thread.is_alive() and not self._closed

    def close(self) -> None:
        """Write what waits, and close the file."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._queue.put(None)
        self._thread.join()
        with self._read_lock:
            self._reader.close()
        with self._lookup_lock:
            self._lookup.close()
        self._writer.close()

    # ---- for tables beside the ledger, in the same file

    def transact(self, run: Callable[[sqlite3.Connection], ResultT]) -> Future[ResultT]:
        """Run an operation on the writing connection, within the next shared transaction.

        Raises
        ------
        OutboxError
            If the ledger is closed. What ``run`` raises is in the future.
        """
        operation = _Operation(run, Future())
        with self._lock:
            if self._closed:
                msg = "the outbox is closed"
                raise OutboxError(msg)
            self._queue.put(operation)
        return operation.done

    def query(self, sql: str, parameters: tuple[Any, ...]) -> list[Any]:
        """Read rows on a connection of its own, without waiting for the writer.

        Raises
        ------
        OutboxError
            If they cannot be read.
        """
        with self._lookup_lock:
            return self._fetch(self._lookup, sql, parameters)

    # ---- inside

    def _read(self, sql: str, parameters: tuple[Any, ...]) -> list[Any]:
        with self._read_lock:
            return self._fetch(self._reader, sql, parameters)

    def _fetch(
        self, connection: sqlite3.Connection, sql: str, parameters: tuple[Any, ...]
    ) -> list[Any]:
        try:
            return connection.execute(sql, parameters).fetchall()
        except sqlite3.Error as error:
            msg = f"the outbox {self._path} cannot be read: {error}"
            raise OutboxError(msg) from error

    def _write_loop(self) -> None:
        while True:
            group = self._take_group()
            if not group:
                return
            self._write_group(group)

    def _take_group(self) -> list[_Operation[Any]]:
        group: list[_Operation[Any]] = []
        operation = self._queue.get()
        while operation is not None:
            group.append(operation)
            if len(group) == _MAX_GROUP:
                return group
            try:
                operation = self._queue.get_nowait()
            except queue.Empty:
                return group
        if group:
            # The end was reached inside a group: leave it for the next turn.
            self._queue.put(None)
        return group

    def _write_group(self, group: list[_Operation[Any]]) -> None:
        try:
            results = self._transact([operation.run for operation in group])
        except Exception as error:  # noqa: BLE001 (whatever it was, it belongs to a waiting caller)
            if len(group) > 1:
                # One operation's fault is not the others': each gets a transaction of its own.
                for operation in group:
                    self._write_group([operation])
                return
            group[0].done.set_exception(self._explained(error))
            return
        for operation, result in zip(group, results, strict=True):
            operation.done.set_result(result)

    def _transact(self, runs: list[Callable[[sqlite3.Connection], Any]]) -> list[Any]:
        connection = self._writer
        appended_seq = self._appended_seq
        connection.execute("BEGIN IMMEDIATE")
        try:
            self._pending_change = self._published_change = 0
            results = [run(connection) for run in runs]
            connection.execute("COMMIT")
        except BaseException:
            # Rows to come will have these numbers: they must not be released with the earlier ones.
            self._appended_seq = appended_seq
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        with self._lock:
            self._counts = Counts(
                self._counts.pending + self._pending_change,
                self._counts.published + self._published_change,
            )
        return results

    def _explained(self, error: BaseException) -> BaseException:
        if isinstance(error, sqlite3.Error):
            explained = OutboxError(f"the outbox {self._path} cannot take a record: {error}")
            explained.__cause__ = error
            return explained
        return error


_MARKS = ", ".join("?" * _LOOK_UP_AT_ONCE)
_FIND_INSTANCES = (
    "SELECT sop_instance_uid, sop_class_uid, image_id, size_bytes FROM ledger"  # noqa: S608 (marks)
    f" WHERE sop_instance_uid IN ({_MARKS}) AND tenant=? ORDER BY seq"
)
_HOLDS_IMAGE = f"SELECT image_id FROM ledger WHERE substr(image_id, 1, 8) IN ({_MARKS})"  # noqa: S608 (marks)


def _in_pieces(values: Iterable[Any]) -> Iterator[tuple[Any, ...]]:
    # The last piece is filled up with NULL, which equals nothing.
    rest = iter(values)
    while piece := tuple(itertools.islice(rest, _LOOK_UP_AT_ONCE)):
        yield piece + (None,) * (_LOOK_UP_AT_ONCE - len(piece))


def _uuid_bytes(text: str) -> bytes:
    data = bytes.fromhex(text.replace("-", ""))
    if len(data) != 16:
        msg = "an event or file id is no UUID"
        raise ValueError(msg)
    return data


def _in_conflict(value: bytes, earlier: str) -> bytes:
    event = decode(value, FileReceived)
    return encode(event.model_copy(update={"conflicts_with": earlier}))
