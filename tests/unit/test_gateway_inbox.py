"""Slots: what is durable in them is found again, and damage anywhere is seen."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dicom_gateway.storing.inbox import Found, Inbox, Stored, recover

RECORD = b'{"an": "event"}'
BLOCK = 4096


@contextmanager
def inbox(spare: int = 1, token: str = "a") -> Iterator[tuple[Inbox, Path]]:
    with tempfile.TemporaryDirectory() as name:
        made = Inbox(Path(name), token=token, spare=spare)
        try:
            yield made, Path(name)
        finally:
            made.close()


def commit(box: Inbox, *pieces: bytes, record: bytes = RECORD) -> Stored:
    slot = box.take()
    for piece in pieces:
        slot.write(piece)
    return slot.commit(record)


def content_of(folder: Path, stored: Stored) -> bytes:
    return (folder / stored.name).read_bytes()[: stored.size_bytes]


def found(folder: Path, name: str) -> Found:
    (one,) = (one for one in recover(folder) if one.name == name)
    return one


@settings(max_examples=40, deadline=None)
@given(st.lists(st.binary(max_size=9000), max_size=4), st.integers(0, 1), st.binary(max_size=5000))
@example([bytes((1 << 20) - 3), b"abcdef" * 3], 0, RECORD)
@example([bytes(3 << 20)], 0, RECORD)
def test_what_is_committed_is_found(pieces: list[bytes], spare: int, record: bytes) -> None:
    with inbox(spare) as (box, folder):
        stored = commit(box, *pieces, record=record)
        whole = b"".join(pieces)
        digest = hashlib.sha256(whole).hexdigest()
        assert stored == Stored(stored.name, digest, len(whole), record)
        assert content_of(folder, stored) == whole
        assert found(folder, stored.name) == Found(stored.name, digest, len(whole), record)


@pytest.fixture(scope="module")
def slot_bytes() -> bytes:
    """A slot of one block, so that every byte of it can be tried."""
    with inbox() as (box, folder):
        stored = commit(box, os.urandom(300))
        data = (folder / stored.name).read_bytes()
    assert len(data) == BLOCK
    return data


def test_every_truncation_is_seen(slot_bytes: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a-0.slot"
    for length in range(len(slot_bytes)):
        path.write_bytes(slot_bytes[:length])
        (one,) = recover(tmp_path)
        assert one.record is None, length
        # Where the trailer was taken off in order, the ledger knows the file by its digest.
        assert one.sha256 == hashlib.sha256(slot_bytes[:length]).hexdigest()
        assert one.size_bytes == length


def test_a_flipped_byte_anywhere_is_seen(slot_bytes: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a-0.slot"
    path.write_bytes(slot_bytes)
    (whole,) = recover(tmp_path)
    assert whole.record == RECORD
    filling = range(300 + len(RECORD), BLOCK - 56)
    for index in range(len(slot_bytes)):
        damaged = bytearray(slot_bytes)
        damaged[index] ^= 0x01
        path.write_bytes(damaged)
        (one,) = recover(tmp_path)
        if index in filling:
            # Zeros that fill the block; nothing depends on them.
            assert one == whole
        else:
            assert one.record is None, index


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_block_that_did_not_reach_the_disk_is_seen(data: st.DataObject) -> None:
    with inbox() as (box, folder):
        stored = commit(box, os.urandom(data.draw(st.integers(1, 40_000))))
        path = folder / stored.name
        blocks = path.stat().st_size // BLOCK
        lost = data.draw(st.integers(0, blocks - 1))
        with path.open("r+b") as file:
            file.seek(lost * BLOCK)
            file.write(bytes(BLOCK))
        assert found(folder, stored.name).record is None


@given(st.binary(max_size=500))
def test_any_bytes_are_no_instance(junk: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "a-0.slot").write_bytes(junk)
        (one,) = recover(Path(name))
        assert (one.record, one.size_bytes) == (None, len(junk))


def test_a_discarded_slot_is_gone_and_a_committed_one_stays() -> None:
    with inbox(spare=4) as (box, folder):
        slot = box.take()
        slot.write(b"half")
        slot.discard()
        slot.discard()
        stored = commit(box, b"whole")
        other = box.take()
        other.write(b"x")
        other.commit(RECORD)
        other.discard()
        assert content_of(folder, stored) == b"whole"
        assert sum(one.record is not None for one in recover(folder)) == 2


def test_spare_slots_are_removed_at_the_end_and_what_is_durable_is_not() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        box = Inbox(folder, token="a", spare=5)
        assert len(list(folder.glob("*.slot"))) == 5
        stored = commit(box, b"x")
        box.close()
        assert [path.name for path in folder.iterdir()] == [stored.name]


def test_slots_are_found_by_the_process_that_made_them() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        boxes = [Inbox(folder, token=token, spare=0) for token in ("aa", "ab")]
        first, second = (commit(box, b"x") for box in boxes)
        assert [one.name for one in recover(folder, "aa")] == [first.name]
        assert {one.name for one in recover(folder)} == {first.name, second.name}
        for box in boxes:
            box.close()


def test_an_inbox_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    assert list(recover(tmp_path / "missing")) == []


def test_without_spare_slots_each_makes_its_own() -> None:
    with inbox(spare=0) as (box, folder):
        assert len({commit(box, b"x").name for _ in range(5)}) == 5
        assert len(list(recover(folder))) == 5


READS: tuple[Callable[[int], tuple[int, int]], ...] = (
    lambda length: (length, 0),
    lambda length: (10, max(0, length - 5)),
    lambda length: (length, length // 2),
    lambda length: (1, length + 7),
)


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("size_bytes", [0, 100, (1 << 20) - 1, 1 << 20, (1 << 20) + 5000])
def test_what_was_written_can_be_read_before_it_is_durable(
    read: Callable[[int], tuple[int, int]], size_bytes: int
) -> None:
    with inbox() as (box, _):
        whole = os.urandom(size_bytes)
        slot = box.take()
        slot.write(whole)
        size, offset = read(size_bytes)
        assert slot.read_back(size, offset=offset) == whole[offset : offset + size]
        slot.discard()
