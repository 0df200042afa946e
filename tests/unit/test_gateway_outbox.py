from __future__ import annotations

import hashlib
import sqlite3
import threading
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest

from dicom_gateway.ledger.outbox import Acknowledged, Disposition, LogPosition, Outbox, OutboxError
from schemas import BlobRef, FileReceived, decode
from schemas.events import received

NOW = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)


def event(place: str, content: str = "", at: datetime = NOW) -> FileReceived:
    sha256 = hashlib.sha256((content or place).encode()).hexdigest()
    return received(
        tenant="t",
        dataset_id="d",
        relpath=place,
        blob=BlobRef(uri=f"file:///{sha256}", sha256=sha256, size_bytes=1),
        source="dicom",
        received_at=at,
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gateway" / "outbox.sqlite3"


@pytest.fixture
def outbox(path: Path) -> Iterator[Outbox]:
    box = Outbox(path)
    yield box
    box.close()


def acknowledge(outbox: Outbox, *, settled: bool, partition: int = 0, base: int = 0) -> None:
    acks = [
        Acknowledged(record.seq, record.event_id, partition, base + i)
        for i, record in enumerate(outbox.pending(100))
    ]
    outbox.mark_published(acks, settled=settled).result()


def test_records_come_out_in_order_of_arrival_and_as_they_went_in(outbox: Outbox) -> None:
    events = [event(f"p{i}") for i in range(5)]
    assert [outbox.append(e) for e in events] == [Disposition.NEW] * 5
    records = outbox.pending(3)
    assert [decode(r.value, FileReceived) for r in records] == events[:3]
    assert [r.key for r in records] == [e.image_id.encode() for e in events[:3]]
    assert [r.event_id for r in records] == [e.event_id for e in events[:3]]


def test_same_bytes_again_are_no_record(outbox: Outbox) -> None:
    outbox.append(event("p"))
    assert outbox.append(event("p", at=NOW.replace(hour=13))) is Disposition.SAME
    assert [decode(r.value, FileReceived).received_at for r in outbox.pending(9)] == [NOW]


@pytest.mark.parametrize("settled", [True, False])
def test_same_bytes_again_are_no_record_after_publishing_and_restart(
    path: Path, settled: bool
) -> None:
    first = Outbox(path)
    first.append(event("p"))
    acknowledge(first, settled=settled)
    first.close()
    second = Outbox(path)
    assert second.append(event("p")) is Disposition.SAME
    assert second.pending(9) == []
    second.close()


def test_other_bytes_at_the_same_place_name_the_earlier(outbox: Outbox) -> None:
    first, second, third = event("p", "a"), event("p", "b"), event("p", "c")
    assert outbox.append(first) is Disposition.NEW
    assert outbox.append(second) is Disposition.CONFLICT
    assert outbox.append(third) is Disposition.CONFLICT
    got = [decode(r.value, FileReceived) for r in outbox.pending(9)]
    assert [e.conflicts_with for e in got] == [None, first.image_id, second.image_id]
    assert [e.event_id for e in got] == [first.event_id, second.event_id, third.event_id]
    assert outbox.append(first) is Disposition.SAME


def test_same_bytes_at_another_place_are_another_record(outbox: Outbox) -> None:
    outbox.append(event("p", "a"))
    assert outbox.append(event("q", "a")) is Disposition.NEW


def test_what_append_returned_from_is_on_disk(path: Path, outbox: Outbox) -> None:
    outbox.append(event("p"))
    other = sqlite3.connect(path)
    assert other.execute("SELECT count(*) FROM ledger").fetchone() == (1,)
    assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    other.close()
    assert outbox._writer.execute("PRAGMA synchronous").fetchone() == (2,)


def test_states_and_counts(outbox: Outbox) -> None:
    for i in range(3):
        outbox.append(event(f"p{i}"))
    assert (outbox.counts().pending, outbox.counts().published) == (3, 0)
    acknowledge(outbox, settled=False, partition=4, base=10)
    assert (outbox.counts().pending, outbox.counts().published) == (0, 3)
    assert outbox.positions() == {4: LogPosition(12, event("p2").event_id)}
    first, *others = outbox.unsettled(9)
    assert (first.file_id, first.image_id) == (event("p0").file_id, event("p0").image_id)
    assert outbox.unsettled(9, after_seq=first.seq) == others
    outbox.settle([first.seq]).result()
    assert (outbox.counts().pending, outbox.counts().published) == (0, 2)
    assert outbox.log_lost().result() == 2
    assert (outbox.counts().pending, outbox.counts().published) == (2, 0)
    assert outbox.positions() == {}
    assert [r.event_id for r in outbox.pending(9)] == [event("p1").event_id, event("p2").event_id]


def test_counts_survive_a_restart(path: Path) -> None:
    first = Outbox(path)
    first.append(event("p"))
    acknowledge(first, settled=False)
    first.append(event("q"))
    first.close()
    second = Outbox(path)
    assert (second.counts().pending, second.counts().published) == (1, 1)
    second.close()


def test_a_settled_record_keeps_its_identity_and_drops_its_event(
    path: Path, outbox: Outbox
) -> None:
    outbox.append(event("p"))
    acknowledge(outbox, settled=True)
    other = sqlite3.connect(path)
    row = other.execute("SELECT state, event, message_key, file_id FROM ledger").fetchone()
    other.close()
    assert row[:3] == (2, None, None)
    assert row[3]


def test_an_unknown_offset_is_no_position(outbox: Outbox) -> None:
    outbox.append(event("p"))
    acknowledge(outbox, settled=False, base=-1)
    assert outbox.positions() == {}
    assert outbox.counts().published == 1


def test_many_threads_at_once_lose_nothing_and_share_transactions(outbox: Outbox) -> None:
    statements: list[str] = []
    outbox._writer.set_trace_callback(statements.append)
    start = threading.Barrier(16)

    def work(worker: int) -> None:
        start.wait()
        for i in range(25):
            outbox.append(event(f"{worker}/{i}"))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    outbox._writer.set_trace_callback(None)
    assert outbox.counts().pending == 400
    assert len({r.event_id for r in outbox.pending(1000)}) == 400
    assert statements.count("COMMIT") < 400


def test_one_bad_record_does_not_spoil_the_group(outbox: Outbox) -> None:
    bad = event("bad").model_copy(update={"event_id": "not a uuid"})
    outcomes: list[object] = []
    start = threading.Barrier(9)

    def work(one: FileReceived) -> None:
        start.wait()
        try:
            outcomes.append(outbox.append(one))
        except ValueError as error:
            outcomes.append(error)

    threads = [
        threading.Thread(target=work, args=(one,))
        for one in [bad, *(event(f"p{i}") for i in range(8))]
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count(Disposition.NEW) == 8
    assert outbox.counts().pending == 8


def test_a_full_disk_is_an_outbox_error_and_passes(outbox: Outbox) -> None:
    pages = outbox._writer.execute("PRAGMA page_count").fetchone()[0]
    outbox._writer.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(OutboxError, match="full"):
        for i in range(1000):
            outbox.append(event(f"p{i}"))
    before = outbox.counts().pending
    outbox._writer.execute(f"PRAGMA max_page_count={pages + 1000}")
    assert outbox.append(event("later")) is Disposition.NEW
    assert outbox.counts().pending == before + 1 == len(outbox.pending(2000))


def test_closed_outbox_refuses(path: Path) -> None:
    box = Outbox(path)
    box.close()
    box.close()
    assert not box.is_running
    with pytest.raises(OutboxError, match="closed"):
        box.append(event("p"))


def test_unknown_layout_and_foreign_files_are_refused(path: Path, tmp_path: Path) -> None:
    Outbox(path).close()
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA user_version=99")
    other.close()
    with pytest.raises(OutboxError, match="layout 99"):
        Outbox(path)
    junk = tmp_path / "junk.sqlite3"
    junk.write_bytes(b"this is no database, whatever its name says" * 100)
    with pytest.raises(OutboxError, match="cannot be opened"):
        Outbox(junk)
