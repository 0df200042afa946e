"""The receiver: where an instance names itself, its bounds, and that nothing half-done stays."""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicom_gateway.storing.arrival import Origin
from dicom_gateway.storing.inbox import Inbox, recover
from dicom_gateway.storing.part10 import file_prefix
from dicom_gateway.storing.receiver import Arrival, Incoming, Receiver
from dicom_gateway.storing.statuses import (
    DatasetTooLargeError,
    EmptyDatasetError,
    InvalidInstanceUidError,
    InvalidSopClassError,
    OutOfResourcesError,
    StoreError,
    UidMismatchError,
    UnreadableDatasetError,
)
from schemas import FileReceived, decode
from schemas.facts import Association
from tests.support.upper_layer import CT, EXPLICIT, dataset, pixels

DEFLATED = "1.2.840.10008.1.2.1.99"
UID = "1.2.3.4"
NOW = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
ORIGIN = Origin(
    "t", "d", Association(association_id="a", calling_ae_title="X", called_ae_title="Y")
)
LIMIT = 4 << 20


class Place:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.arrivals: list[Arrival] = []
        self.pressure = ""
        self._box = Inbox(folder, token="p", spare=0)
        self.receiver = Receiver(
            self._box,
            uri=lambda sha256: f"file:///{sha256}",
            on_arrival=self.arrivals.append,
            clock=lambda: NOW,
            max_dataset_bytes=LIMIT,
            pressure=lambda: self.pressure,
        )

    def begin(self, **changes: Any) -> Incoming:
        fields: dict[str, Any] = {
            "sop_class_uid": CT,
            "sop_instance_uid": UID,
            "transfer_syntax_uid": EXPLICIT,
            "origin": ORIGIN,
        }
        return self.receiver.begin(**(fields | changes))

    def store(self, *pieces: bytes, **changes: Any) -> FileReceived:
        incoming = self.begin(**changes)
        for piece in pieces:
            incoming.write(piece)
        incoming.finish()
        return decode(self.arrivals[-1].arrived.value, FileReceived)

    def slots(self) -> list[str]:
        return [path.name for path in self.folder.iterdir()]

    def close(self) -> None:
        self._box.close()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path / "inbox")
    yield made
    made.close()


def cut(data: bytes, step: int) -> list[bytes]:
    return [data[start : start + step] for start in range(0, len(data), step)]


def long_element(size_bytes: int) -> bytes:
    """A private element between SOP Instance and Study Instance UID."""
    return struct.pack("<HH2sHI", 0x0009, 0x1001, b"OB", 0, size_bytes) + os.urandom(size_bytes)


def with_long_head(size_bytes: int) -> bytes:
    whole = dataset(UID)
    at = whole.index(b"\x20\x00\x0d\x00")
    return whole[:at] + long_element(size_bytes) + whole[at:]


@pytest.mark.parametrize("head_bytes", [0, 65_400, 65_536, 70_000, 3 << 20])
@pytest.mark.parametrize("step", [997, 64 * 1024, 1 << 30])
def test_uids_are_found_however_far_behind_they_stand(
    place: Place, head_bytes: int, step: int
) -> None:
    data = with_long_head(head_bytes) + pixels(100_000)
    event = place.store(*cut(data, step))
    assert event.relpath == f"1.2.3/1.2.3.9/{UID}"
    whole = file_prefix(CT, UID, EXPLICIT) + data
    assert event.image_id == hashlib.sha256(whole).hexdigest()
    (found,) = recover(place.folder)
    assert (found.sha256, found.size_bytes) == (event.image_id, len(whole))


def deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize("head_bytes", [0, 100_000, 1 << 20])
def test_deflated_datasets(place: Place, head_bytes: int) -> None:
    data = deflated(with_long_head(head_bytes) + pixels(200_000))
    event = place.store(*cut(data, 10_000), transfer_syntax_uid=DEFLATED)
    assert event.relpath == f"1.2.3/1.2.3.9/{UID}"
    assert event.blob.transfer_syntax == DEFLATED


def test_a_deflated_dataset_that_breaks_off_before_it_names_itself(place: Place) -> None:
    data = deflated(with_long_head(200_000))
    with pytest.raises(UnreadableDatasetError):
        place.store(data[: len(data) // 2], transfer_syntax_uid=DEFLATED)
    assert place.slots() == []


def test_the_longest_dataset_is_taken_and_one_byte_more_is_not(place: Place) -> None:
    data = dataset(UID)
    filled = data + pixels(LIMIT - len(data) - 12)
    place.store(*cut(filled, 1 << 20))
    incoming = place.begin()
    incoming.write(filled)
    with pytest.raises(DatasetTooLargeError):
        incoming.write(b"\x00")
    assert len(place.slots()) == 1
    incoming.abort()


FAULTS: dict[str, tuple[Callable[[Place], object], type[StoreError]]] = {
    "instance": (lambda p: p.begin(sop_instance_uid="../x"), InvalidInstanceUidError),
    "no instance": (lambda p: p.begin(sop_instance_uid=""), InvalidInstanceUidError),
    "class": (lambda p: p.begin(sop_class_uid="CT"), InvalidSopClassError),
    "syntax": (lambda p: p.begin(transfer_syntax_uid=""), UnreadableDatasetError),
    "empty": (lambda p: p.store(), EmptyDatasetError),
    "empty pieces": (lambda p: p.store(b"", b""), EmptyDatasetError),
    "junk": (lambda p: p.store(b"junk" * 40_000), UnreadableDatasetError),
    "other": (lambda p: p.store(dataset("1.9")), UidMismatchError),
    "other class": (lambda p: p.store(dataset(UID, sop_class="1.9")), UidMismatchError),
    "cut": (lambda p: p.store(dataset(UID)[:40]), UnreadableDatasetError),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_refused_leaves_nothing(place: Place, fault: str) -> None:
    act, error = FAULTS[fault]
    with pytest.raises(error):
        act(place)
    assert (place.slots(), place.arrivals) == ([], [])


def test_pressure_refuses_the_beginning(place: Place) -> None:
    place.pressure = "the disk is full"
    with pytest.raises(OutOfResourcesError, match="disk is full"):
        place.begin()
    place.pressure = ""
    place.store(dataset(UID))


def test_an_abort_leaves_nothing_and_comes_too_late_after_finish(place: Place) -> None:
    incoming = place.begin()
    incoming.write(dataset(UID))
    incoming.abort()
    incoming.abort()
    assert place.slots() == []
    done = place.begin()
    done.write(dataset(UID))
    done.finish()
    done.abort()
    assert len(place.slots()) == 1


def test_what_nobody_could_be_told_of_is_durable_all_the_same(tmp_path: Path) -> None:
    def deaf(arrival: Arrival) -> None:
        raise BrokenPipeError

    box = Inbox(tmp_path, token="p", spare=0)
    receiver = Receiver(box, uri=str, on_arrival=deaf, clock=lambda: NOW, max_dataset_bytes=LIMIT)
    incoming = receiver.begin(
        sop_class_uid=CT, sop_instance_uid=UID, transfer_syntax_uid=EXPLICIT, origin=ORIGIN
    )
    incoming.write(dataset(UID))
    with pytest.raises(BrokenPipeError):
        incoming.finish()
    (found,) = recover(tmp_path)
    assert found.record is not None
    box.close()


@settings(max_examples=60, deadline=None)
@given(
    junk=st.binary(max_size=300),
    place_at=st.integers(0, 200),
    syntax=st.sampled_from([EXPLICIT, DEFLATED]),
)
def test_any_bytes_are_stored_or_refused(
    tmp_path_factory: pytest.TempPathFactory, junk: bytes, place_at: int, syntax: str
) -> None:
    place = Place(tmp_path_factory.mktemp("inbox"))
    try:
        whole = dataset(UID)
        data = whole[:place_at] + junk + whole[place_at + len(junk) :]
        try:
            place.store(data, transfer_syntax_uid=syntax)
        except StoreError:
            assert (place.slots(), place.arrivals) == ([], [])
        else:
            assert len(place.slots()) == len(place.arrivals) == 1
    finally:
        place.close()
