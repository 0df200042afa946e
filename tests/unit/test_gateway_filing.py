"""Filing: a crash after any step, the same twice, and a store that fails and heals."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest

from dicom_gateway.ledger.outbox import Outbox
from dicom_gateway.metrics import Metrics
from dicom_gateway.storing.arrival import Origin
from dicom_gateway.storing.filing import Filer
from dicom_gateway.storing.inbox import Inbox
from dicom_gateway.storing.receiver import Arrival, Receiver
from schemas import FileReceived, decode
from schemas.facts import Association
from streams.storage.blobs import BlobStore
from tests.support.upper_layer import CT, EXPLICIT, dataset

NOW = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
ORIGIN = Origin(
    "t", "d", Association(association_id="a", calling_ae_title="X", called_ae_title="Y")
)


def until(condition: Callable[[], object], what: str, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.01)


class Place:
    """A data folder with what receives and what files."""

    def __init__(self, folder: Path) -> None:
        self.inbox = folder / "inbox"
        self.blobs = folder / "blobs"
        self.store = BlobStore(str(self.blobs))
        self.outbox = Outbox(folder / "outbox.sqlite3")
        self.arrivals: list[Arrival] = []
        self.metrics = Metrics()
        self.told = 0
        self._box = Inbox(self.inbox, token="p", spare=0)
        self.receiver = Receiver(
            self._box,
            uri=self.store.uri,
            on_arrival=self.arrivals.append,
            clock=lambda: NOW,
            max_dataset_bytes=1 << 20,
        )

    def receive(self, uid: str, tail: bytes = b"") -> Arrival:
        incoming = self.receiver.begin(
            sop_class_uid=CT, sop_instance_uid=uid, transfer_syntax_uid=EXPLICIT, origin=ORIGIN
        )
        incoming.write(dataset(uid, tail=tail))
        incoming.finish()
        return self.arrivals[-1]

    def filer(self) -> Filer:
        return Filer(self.inbox, self.store, self.outbox, self.metrics, on_filed=self._tell)

    def _tell(self) -> None:
        self.told += 1

    def events(self) -> list[FileReceived]:
        return [decode(record.value, FileReceived) for record in self.outbox.pending(1000)]

    def slots(self) -> list[str]:
        return [path.name for path in self.inbox.iterdir()]

    def is_orderly(self, instances: int) -> bool:
        """Whether so many are in ledger and store, and nothing in the inbox."""
        events = self.events()
        for event in events:
            data = self.store.read(event.blob)
            assert hashlib.sha256(data).hexdigest() == event.image_id
            assert event.blob.uri == self.store.uri(event.image_id)
        files = [path for path in self.blobs.rglob("*") if path.is_file()]
        assert {path.name for path in files} == {event.image_id for event in events}
        return len(events) == instances and not self.slots()

    def close(self) -> None:
        self.outbox.close()
        self._box.close()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.close()


@pytest.fixture
def running(place: Place) -> Iterator[Filer]:
    filer = place.filer()
    filer.start()
    yield filer
    filer.stop()


# ---- crashes


def record(place: Place, arrival: Arrival) -> None:
    place.outbox.append_all([arrival.arrived]).result()


def truncate(place: Place, arrival: Arrival) -> None:
    with (place.inbox / arrival.slot).open("r+b") as file:
        file.truncate(arrival.arrived.size_bytes)


def rename(place: Place, arrival: Arrival) -> None:
    image_id = arrival.arrived.image_id
    (place.inbox / arrival.slot).rename(place.blobs / image_id[:2] / image_id)


STEPS = (record, truncate, rename)


@pytest.mark.parametrize("done", range(len(STEPS) + 1))
def test_a_crash_after_any_step_is_made_good(place: Place, done: int) -> None:
    arrivals = [place.receive(f"1.2.{index}") for index in range(3)]
    for step in STEPS[:done]:
        step(place, arrivals[1])
    # Instances around it are at other steps.
    record(place, arrivals[0])
    before = len(place.slots())
    assert place.filer().recover() == before
    assert place.is_orderly(3)
    assert place.told == 1
    # To do it again is harmless.
    assert place.filer().recover() == 0
    assert place.is_orderly(3)


def test_what_was_never_durable_is_removed(place: Place) -> None:
    place.receive("1.2.1")
    half = place.receiver.begin(
        sop_class_uid=CT, sop_instance_uid="1.2.2", transfer_syntax_uid=EXPLICIT, origin=ORIGIN
    )
    half.write(dataset("1.2.2"))
    (place.inbox / "p-ff.slot").touch()
    assert len(place.slots()) == 3
    assert place.filer().recover() == 1
    assert place.is_orderly(1)


def test_a_damaged_slot_is_removed_and_the_others_are_filed(place: Place) -> None:
    first, second = place.receive("1.2.1"), place.receive("1.2.2")
    path = place.inbox / first.slot
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    assert place.filer().recover() == 1
    (event,) = place.events()
    assert event.image_id == second.arrived.image_id
    assert place.slots() == []


def test_the_same_instance_twice_in_the_inbox(place: Place) -> None:
    assert place.receive("1.2.1").arrived.image_id == place.receive("1.2.1").arrived.image_id
    assert place.filer().recover() == 2
    assert place.is_orderly(1)


def test_a_record_of_another_version_stops_the_start_and_keeps_the_instance(place: Place) -> None:
    box = Inbox(place.inbox, token="q", spare=0)
    slot = box.take()
    slot.write(b"instance")
    slot.commit(b'{"version": 9}')
    box.close()
    with pytest.raises(OSError, match="version that received it"):
        place.filer().recover()
    assert len(place.slots()) == 1


def test_only_the_slots_of_the_process_that_died_are_touched(place: Place) -> None:
    other = Inbox(place.inbox, token="q", spare=2)
    place.receive("1.2.1")
    assert place.filer().recover("p") == 1
    assert len(place.slots()) == 2
    other.close()


# ---- while it runs


def test_arrivals_are_filed(place: Place, running: Filer) -> None:
    for index in range(300):
        running.submit(place.receive(f"1.2.{index}"))
    assert running.drained(30)
    assert place.is_orderly(300)
    assert running.waiting == (0, 0)
    value = place.metrics.registry.get_sample_value
    assert value("biodatamine_gateway_instances_total", {"disposition": "new"}) == 300


def test_same_and_conflicting_instances(place: Place, running: Filer) -> None:
    for tail in (b"", b"", b"\x28\x00\x10\x00US\x02\x00\x01\x00"):
        running.submit(place.receive("1.2.1", tail))
    assert running.drained(30)
    assert place.is_orderly(2)
    value = place.metrics.registry.get_sample_value
    name = "biodatamine_gateway_instances_total"
    assert [value(name, {"disposition": d}) for d in ("new", "same", "conflict")] == [1, 1, 1]


def test_a_store_that_fails_is_tried_again_and_nobody_is_told_before(place: Place) -> None:
    place.blobs.rename(place.blobs.with_name("away"))
    filer = place.filer()
    filer.start()
    try:
        filer.submit(place.receive("1.2.1"))
        until(lambda: place.outbox.counts().pending == 1, "the ledger knows it")
        assert not filer.drained(0)
        assert (place.events(), place.told) == ([], 0)
        assert filer.waiting[0] == 1
        place.blobs.with_name("away").rename(place.blobs)
        assert filer.drained(30)
        assert place.is_orderly(1)
        assert filer.waiting == (0, 0)
    finally:
        filer.stop()


def test_what_cannot_be_filed_before_the_end_is_filed_at_the_next_start(place: Place) -> None:
    place.blobs.rename(place.blobs.with_name("away"))
    filer = place.filer()
    filer.start()
    filer.submit(place.receive("1.2.1"))
    until(lambda: place.outbox.counts().pending == 1, "the ledger knows it")
    filer.stop()
    assert not filer.is_running
    assert len(place.slots()) == 1
    place.blobs.with_name("away").rename(place.blobs)
    assert place.filer().recover() == 1
    assert place.is_orderly(1)


def test_stop_files_what_waits(place: Place) -> None:
    filer = place.filer()
    for index in range(20):
        filer.submit(place.receive(f"1.2.{index}"))
    filer.start()
    filer.stop()
    assert place.is_orderly(20)
    with contextlib.suppress(RuntimeError):
        filer.stop()


def test_a_process_that_died_is_recovered_after_what_it_said(place: Place, running: Filer) -> None:
    said, unsaid = place.receive("1.2.1"), place.receive("1.2.2")
    running.submit(said)
    running.recover_from("p")
    assert running.drained(30)
    assert place.is_orderly(2)
    assert {event.image_id for event in place.events()} == {
        said.arrived.image_id,
        unsaid.arrived.image_id,
    }


def test_many_threads_submit(place: Place, running: Filer) -> None:
    arrivals = [place.receive(f"1.2.{index}") for index in range(64)]
    threads = [
        threading.Thread(target=lambda some=arrivals[start::4]: [running.submit(a) for a in some])
        for start in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert running.drained(30)
    assert place.is_orderly(64)
