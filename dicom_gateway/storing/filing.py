"""From the inbox to the ledger and the blob store: what is durable already becomes orderly.

For each group of arrivals, in this order, so that a crash at any point loses nothing:

1. the ledger records them, in one transaction;
2. their files lose the trailer and move into the blob store, whose folders are fsynced;
3. the publisher may have them.

A crash before 1 leaves slots with a trailer, one before 2 leaves records without a blob and slots
with or without a trailer; ``Filer.recover`` finishes both. Nobody is told of a file before it is
where its event says.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeAlias

import structlog

from dicom_gateway.ledger.outbox import Disposition, Outbox
from dicom_gateway.metrics import Metrics
from dicom_gateway.storing.arrived import Arrived
from dicom_gateway.storing.inbox import recover
from dicom_gateway.storing.receiver import Arrival
from streams.storage.blobs import Adopted, BlobStore

_log = structlog.get_logger("dicom_gateway")

_MAX_GROUP = 256
_GATHER_SECONDS = 0.1
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 5.0


class _End:
    """After everything that was submitted."""


_END = _End()
_Mark: TypeAlias = "threading.Event | str | _End | None"


class Filer:
    """One thread that files what arrives.

    Parameters
    ----------
    folder : Path
        The inbox.
    store : BlobStore
        Takes the files.
    outbox : Outbox
        Takes the records.
    metrics : Metrics
        Counts.
    on_filed : callable, optional
        Called after each group.
    """

    def __init__(
        self,
        folder: Path,
        store: BlobStore,
        outbox: Outbox,
        metrics: Metrics,
        *,
        on_filed: Callable[[], None] = lambda: None,
    ) -> None:
        self._folder = folder
        self._store = store
        self._outbox = outbox
        self._metrics = metrics
        self._on_filed = on_filed
        self._queue: queue.SimpleQueue[Arrival | _Mark] = queue.SimpleQueue()
        self._waiting_bytes = 0
        self._waiting = 0
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="filer", daemon=True)

    def recover(self, token: str = "") -> int:
        """File what processes that are gone had made durable; return how many instances.

        Parameters
        ----------
        token : str
            Of one process; '' for all, before any runs.

        Raises
        ------
        OSError
            If it cannot be done; at its start the gateway must not go on then.
        """
        found = list(recover(self._folder, token))
        records = [_record(one.name, one.record) for one in found if one.record is not None]
        for start in range(0, len(records), _MAX_GROUP):
            self._outbox.append_all(records[start : start + _MAX_GROUP]).result()
        known = self._outbox.holds_image(one.sha256 for one in found)
        # What the ledger does not know was never acknowledged.
        kept = [one for one in found if one.record is not None or one.sha256 in known]
        self._store.adopt(
            Adopted(self._folder / one.name, one.sha256, one.size_bytes) for one in kept
        )
        for one in found:
            if one not in kept:
                (self._folder / one.name).unlink(missing_ok=True)
        self._outbox.release()
        self._on_filed()
        return len(kept)

    def recover_from(self, token: str) -> None:
        """Recover, after all that was submitted before, what a process that died has left."""
        self._queue.put(token)

    def start(self) -> None:
        """Begin to file."""
        self._thread.start()

    def submit(self, arrival: Arrival) -> None:
        """Take a durable instance; returns at once."""
        with self._lock:
            self._waiting += 1
            self._waiting_bytes += arrival.arrived.size_bytes
        self._queue.put(arrival)

    def drained(self, timeout_seconds: float) -> bool:
        """Wait until all that was submitted before is filed; return whether it is."""
        mark = threading.Event()
        self._queue.put(mark)
        return mark.wait(timeout_seconds)

    @property
    def waiting(self) -> tuple[int, int]:
        """Instances in the inbox that are not filed, and their bytes."""
        with self._lock:
            return self._waiting, self._waiting_bytes

    @property
    def is_running(self) -> bool:
        """Whether it files."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """File what waits, and end; what cannot be filed now stays in the inbox."""
        self._stopping.set()
        self._queue.put(_END)
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        ended = False
        while not ended:
            group, rest = self._take_group()
            if group:
                self._file(group)
            if isinstance(rest, threading.Event):
                rest.set()
            elif isinstance(rest, str):
                self._try(partial(self.recover, rest), f"slots of {rest}")
            ended = rest is _END

    def _take_group(self) -> tuple[list[Arrival], _Mark]:
        group: list[Arrival] = []
        item = self._queue.get()
        # Nobody waits for the filing; a transaction and its fsyncs serve all that come meanwhile.
        until = time.monotonic() + _GATHER_SECONDS
        while isinstance(item, Arrival):
            group.append(item)
            if len(group) == _MAX_GROUP:
                return group, None
            try:
                item = self._queue.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                return group, None
        return group, item

    def _try(self, work: Callable[[], object], what: str) -> bool:
        pause_seconds = _FIRST_PAUSE_SECONDS
        while True:
            try:
                work()
            except Exception as error:  # noqa: BLE001 (whatever it is, the instances are safe)
                _log.warning(
                    "not-filed",
                    what=what,
                    error=f"{type(error).__name__}: {error}"[:300],
                    hint="they are durable in the inbox and will be tried again",
                )
                if self._stopping.wait(pause_seconds):
                    return False
                pause_seconds = min(2 * pause_seconds, _LONGEST_PAUSE_SECONDS)
            else:
                return True

    def _file(self, group: Sequence[Arrival]) -> None:
        dispositions: list[Disposition] = []

        def work() -> None:
            if not dispositions:
                records = [arrival.arrived for arrival in group]
                dispositions.extend(self._outbox.append_all(records).result())
            self._store.adopt(
                Adopted(
                    self._folder / arrival.slot,
                    arrival.arrived.image_id,
                    arrival.arrived.size_bytes,
                )
                for arrival in group
            )

        if not self._try(work, f"{len(group)} instances"):
            return
        self._outbox.release()
        with self._lock:
            self._waiting -= len(group)
            self._waiting_bytes -= sum(arrival.arrived.size_bytes for arrival in group)
        self._on_filed()
        for arrival, disposition in zip(group, dispositions, strict=True):
            self._metrics.instances.labels(disposition.value).inc()
            if disposition is Disposition.CONFLICT:
                _log.warning(
                    "conflicting-instance",
                    instance_uid=arrival.arrived.sop_instance_uid,
                    hint="other bytes came earlier under the same UIDs; both are kept",
                )


def _record(slot: str, value: bytes) -> Arrived:
    try:
        return Arrived.of_encoded(value)
    except ValueError as error:
        msg = (
            f"{slot} in the inbox holds an instance that was acknowledged, recorded in a way that "
            f"this version does not know ({error}): start the version that received it once more"
        )
        raise OSError(msg) from error
