"""What was received and must be published: a ledger in SQLite that survives kill -9.

One writer thread owns the writing connection. Callers hand it operations and wait; all operations
that wait together go into one transaction and share its fsync (WAL, ``synchronous=FULL``), so many
associations cost hardly more than one.

States of a record::

    pending --acknowledged by the log--> published --row or dead letter exists--> settled
       ^                                     |
       +------------- the log was lost ------+

With a durable log an acknowledgement settles. A settled record keeps its identities, so that the
same instance is recognised for ever, and drops its event: some 300 bytes for each distinct file,
less than the file's own directory entry in the blob store. Nothing else grows.
"""

from __future__ import annotations

import enum
import queue
import sqlite3
import threading
import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from schemas import FileReceived, encode, key_of

ResultT = TypeVar("ResultT")

_LAYOUT = 1
_MAX_GROUP = 512
_PENDING, _PUBLISHED, _SETTLED = 0, 1, 2

_CREATE = """
CREATE TABLE IF NOT EXISTS ledger (
    seq INTEGER PRIMARY KEY,
    event_id BLOB NOT NULL UNIQUE,
    file_id BLOB NOT NULL,
    image_id BLOB NOT NULL,
    sop_instance_uid TEXT NOT NULL,
    received_at TEXT NOT NULL,
    state INTEGER NOT NULL,
    log_partition INTEGER,
    log_offset INTEGER,
    message_key BLOB,
    event BLOB
);
CREATE INDEX IF NOT EXISTS ledger_file ON ledger (file_id);
CREATE INDEX IF NOT EXISTS ledger_open ON ledger (state, seq) WHERE state < 2;
CREATE TABLE IF NOT EXISTS log_position (
    log_partition INTEGER PRIMARY KEY,
    log_offset INTEGER NOT NULL,
    event_id BLOB NOT NULL
);
"""


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
    on_append : callable, optional
        Called, from the writer thread, after new records are durable.

    Raises
    ------
    OutboxError
        If the file cannot be opened or has a layout that this version does not know.
    """

    def __init__(self, path: Path, *, on_append: Callable[[], None] | None = None) -> None:
        self._path = path
        self._on_append = on_append
        self._queue: queue.SimpleQueue[_Operation[Any] | None] = queue.SimpleQueue()
        self._closed = False
        self._lock = threading.Lock()
        # What the open transaction changes; only the writer thread touches it.
        self._pending_change = self._published_change = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = self._connect()
            self._writer.execute("PRAGMA journal_mode=WAL")
            (layout,) = self._writer.execute("PRAGMA user_version").fetchone()
            if layout not in (0, _LAYOUT):
                msg = f"the outbox {path} has layout {layout}; this version knows {_LAYOUT}"
                raise OutboxError(msg)
            self._writer.executescript(_CREATE)
            self._writer.execute(f"PRAGMA user_version={_LAYOUT}")
            counts = dict(
                self._writer.execute(
                    "SELECT state, count(*) FROM ledger WHERE state<2 GROUP BY state"
                )
            )
            self._counts = Counts(counts.get(_PENDING, 0), counts.get(_PUBLISHED, 0))
            self._reader = self._connect()
        except (sqlite3.Error, OSError) as error:
            msg = f"the outbox {path} cannot be opened: {error}; check BIODATAMINE_DATA_DIR"
            raise OutboxError(msg) from error
        self._read_lock = threading.Lock()
        self._thread = threading.Thread(target=self._write_loop, name="outbox", daemon=True)
        self._thread.start()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, isolation_level=None, check_same_thread=False, timeout=30
        )
        connection.execute("PRAGMA synchronous=FULL")
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
        return self._submit(lambda connection: self._append(connection, event)).result()

    def _append(self, connection: sqlite3.Connection, event: FileReceived) -> Disposition:
        event_id = uuid.UUID(event.event_id).bytes
        if connection.execute("SELECT 1 FROM ledger WHERE event_id=?", (event_id,)).fetchone():
            return Disposition.SAME
        file_id = uuid.UUID(event.file_id).bytes
        earlier = connection.execute(
            "SELECT image_id FROM ledger WHERE file_id=? ORDER BY seq DESC LIMIT 1", (file_id,)
        ).fetchone()
        if earlier is not None:
            event = event.model_copy(update={"conflicts_with": bytes(earlier[0]).hex()})
        connection.execute(
            "INSERT INTO ledger (event_id, file_id, image_id, sop_instance_uid, received_at,"
            " state, message_key, event) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                event_id,
                file_id,
                bytes.fromhex(event.image_id),
                event.dicom.instance_uid if event.dicom else "",
                event.received_at.isoformat(),
                _PENDING,
                key_of(event),
                encode(event),
            ),
        )
        self._pending_change += 1
        return Disposition.NEW if earlier is None else Disposition.CONFLICT

    # ---- the publisher's side

    def pending(self, limit: int) -> list[Record]:
        """List records that the log has not acknowledged, in the order of arrival."""
        rows = self._read(
            "SELECT seq, event_id, message_key, event FROM ledger WHERE state=0"
            " ORDER BY seq LIMIT ?",
            (limit,),
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
        return self._submit(
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

        return self._submit(run)

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

        return self._submit(run)

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
        self._writer.close()

    # ---- inside

    def _read(self, sql: str, parameters: tuple[Any, ...]) -> list[Any]:
        with self._read_lock:
            try:
                return self._reader.execute(sql, parameters).fetchall()
            except sqlite3.Error as error:
                msg = f"the outbox {self._path} cannot be read: {error}"
                raise OutboxError(msg) from error

    def _submit(self, run: Callable[[sqlite3.Connection], ResultT]) -> Future[ResultT]:
        operation = _Operation(run, Future())
        with self._lock:
            if self._closed:
                msg = "the outbox is closed"
                raise OutboxError(msg)
            self._queue.put(operation)
        return operation.done

    def _write_loop(self) -> None:
        while True:
            group = self._take_group()
            if not group:
                return
            self._write_group(group)
            if self._on_append is not None and self.counts().pending:
                self._on_append()

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
        connection.execute("BEGIN IMMEDIATE")
        try:
            self._pending_change = self._published_change = 0
            results = [run(connection) for run in runs]
            connection.execute("COMMIT")
        except BaseException:
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
