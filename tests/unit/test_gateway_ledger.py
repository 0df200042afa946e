"""The ledger's groups, lookups and the way of an older file to the present layout."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest

from dicom_gateway.ledger.outbox import Acknowledged, Disposition, HeldInstance, Outbox, OutboxError
from dicom_gateway.storing.arrived import Arrived
from schemas import BlobRef, FileReceived, decode, encode
from schemas.events import received
from schemas.facts import DicomUids

NOW = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
NEW, SAME, CONFLICT = Disposition.NEW, Disposition.SAME, Disposition.CONFLICT

# As the first release made it; user_version 1.
LAYOUT_1 = """
CREATE TABLE ledger (
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
CREATE INDEX ledger_file ON ledger (file_id);
CREATE INDEX ledger_open ON ledger (state, seq) WHERE state < 2;
CREATE TABLE log_position (
    log_partition INTEGER PRIMARY KEY,
    log_offset INTEGER NOT NULL,
    event_id BLOB NOT NULL
);
PRAGMA journal_mode=WAL;
PRAGMA user_version=1;
"""


def event(
    instance: str, content: str = "", *, tenant: str = "t", sop_class: str = CT, series: str = "1.2"
) -> FileReceived:
    sha256 = hashlib.sha256((content or instance).encode()).hexdigest()
    return received(
        tenant=tenant,
        dataset_id="d",
        relpath=f"1.1/{series}/{instance}",
        blob=BlobRef(uri=f"file:///{sha256}", sha256=sha256, size_bytes=7),
        source="dicom",
        received_at=NOW,
        dicom=DicomUids(
            study_uid="1.1", series_uid=series, instance_uid=instance, sop_class_uid=sop_class
        ),
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox.sqlite3"


@pytest.fixture
def outbox(path: Path) -> Iterator[Outbox]:
    box = Outbox(path)
    yield box
    box.close()


def values(outbox: Outbox) -> list[FileReceived]:
    outbox.release()
    return [decode(record.value, FileReceived) for record in outbox.pending(10_000)]


# ---- groups


def test_an_arrival_is_the_same_whether_made_of_the_event_or_of_its_bytes() -> None:
    for one in (
        event("1.5"),
        event("1.5").model_copy(update={"dicom": None}),
        event("1.5").model_copy(update={"received_at": NOW.replace(microsecond=120)}),
    ):
        assert Arrived.of_encoded(encode(one)) == Arrived.of(one)


@pytest.mark.parametrize("junk", [b"", b"{", b"[]", b"{}", b'{"image_id": 5}', b"\xff"])
def test_bytes_that_are_no_event_make_no_arrival(junk: bytes) -> None:
    with pytest.raises(ValueError, match=r"no files-received event|column \d"):
        Arrived.of_encoded(junk)


def test_a_group_is_told_apart_within_itself_and_against_what_was_there(outbox: Outbox) -> None:
    first, second, third = event("1.5", "a"), event("1.5", "b"), event("1.5", "c")
    other = event("1.6")
    group = [Arrived.of(e) for e in (first, first, second, other)]
    assert outbox.append_all(group).result() == [NEW, SAME, CONFLICT, NEW]
    assert outbox.append_all([Arrived.of(e) for e in (third, second)]).result() == [CONFLICT, SAME]
    got = values(outbox)
    assert [e.event_id for e in got] == [e.event_id for e in (first, second, other, third)]
    assert [e.conflicts_with for e in got] == [None, first.image_id, None, second.image_id]
    assert outbox.counts().pending == 4


def test_a_group_stores_the_bytes_as_they_are(outbox: Outbox) -> None:
    one = Arrived.of(event("1.5"))
    outbox.append_all([one]).result()
    outbox.release()
    (record,) = outbox.pending(9)
    assert (record.key, record.value, record.event_id) == (one.key, one.value, one.event_id)


def test_a_group_is_recorded_whole_or_not_at_all(outbox: Outbox) -> None:
    good = Arrived.of(event("1.5"))
    bad = Arrived(**{**vars(Arrived.of(event("1.6"))), "file_id": "no uuid"})
    with pytest.raises(ValueError, match="hex"):
        outbox.append_all([good, bad]).result()
    assert outbox.counts().pending == 0
    assert outbox.append_all([good]).result() == [NEW]
    assert outbox.append_all([]).result() == []


def test_a_group_is_one_transaction(outbox: Outbox) -> None:
    statements: list[str] = []
    outbox._writer.set_trace_callback(statements.append)
    outbox.append_all([Arrived.of(event(f"1.{i}")) for i in range(100)]).result()
    outbox._writer.set_trace_callback(None)
    assert statements.count("COMMIT") == 1


def test_a_record_is_published_only_when_it_is_released(outbox: Outbox) -> None:
    first, second = (Arrived.of(event(f"1.{i}")) for i in range(2))
    outbox.append_all([first]).result()
    assert outbox.pending(9) == []
    outbox.release()
    outbox.append_all([second]).result()
    assert [r.event_id for r in outbox.pending(9)] == [first.event_id]
    outbox.release()
    assert [r.event_id for r in outbox.pending(9)] == [first.event_id, second.event_id]


def test_a_group_that_is_rolled_back_releases_none_that_comes_later(outbox: Outbox) -> None:
    def fail(connection: sqlite3.Connection) -> None:
        outbox._append_all(connection, [Arrived.of(event(f"1.{i}")) for i in range(5)])
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        outbox.transact(fail).result()
    outbox.release()
    outbox.append_all([Arrived.of(event("1.9"))]).result()
    assert outbox.pending(9) == []


# ---- lookups


def test_instances_are_found_by_tenant_and_uid(outbox: Outbox) -> None:
    a, b, c = event("1.5", "a"), event("1.5", "b", series="1.3"), event("1.6", sop_class=MR)
    foreign = event("1.7", tenant="other")
    outbox.append_all([Arrived.of(e) for e in (a, b, c, foreign)]).result()
    assert outbox.find_instances("t", ["1.5", "1.6", "1.7", "1.8", "1.5"]) == {
        "1.5": [HeldInstance(CT, a.image_id, 7), HeldInstance(CT, b.image_id, 7)],
        "1.6": [HeldInstance(MR, c.image_id, 7)],
    }
    assert outbox.find_instances("t", []) == {}
    outbox.release()
    outbox.mark_published(
        [Acknowledged(r.seq, r.event_id, 0, 1) for r in outbox.pending(9)], settled=True
    ).result()
    assert set(outbox.find_instances("other", ["1.5", "1.7"])) == {"1.7"}


def test_many_are_found_over_many_pieces(outbox: Outbox) -> None:
    events = [event(f"1.{i}") for i in range(1000)]
    outbox.append_all([Arrived.of(e) for e in events[::2]]).result()
    asked = [f"1.{i}" for i in range(1000)]
    assert set(outbox.find_instances("t", iter(asked))) == set(asked[::2])
    held = outbox.holds_image(e.image_id for e in events)
    assert held == {e.image_id for e in events[::2]}


def test_images_that_start_alike_are_told_apart(outbox: Outbox) -> None:
    one = event("1.5")
    outbox.append(one)
    alike = one.image_id[:16] + "0" * 48
    assert outbox.holds_image([alike]) == set()
    assert outbox.holds_image([alike, one.image_id]) == {one.image_id}


def test_lookups_use_their_indexes(outbox: Outbox) -> None:
    from dicom_gateway.ledger import outbox as module

    for sql, count, index in (
        (module._FIND_INSTANCES, 257, "ledger_instance"),
        (module._HOLDS_IMAGE, 256, "ledger_image"),
    ):
        plan = outbox.query(f"EXPLAIN QUERY PLAN {sql}", ("x",) * count)
        assert any(index in row[3] for row in plan)


# ---- from layout 1


def old_file(path: Path, events: list[FileReceived], *, settled: int) -> None:
    """Write a file as the first release did; the first ``settled`` records without event."""
    import uuid

    connection = sqlite3.connect(path)
    connection.executescript(LAYOUT_1)
    for i, one in enumerate(events):
        connection.execute(
            "INSERT INTO ledger (event_id, file_id, image_id, sop_instance_uid, received_at,"
            " state, message_key, event) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                uuid.UUID(one.event_id).bytes,
                uuid.UUID(one.file_id).bytes,
                bytes.fromhex(one.image_id),
                one.dicom.instance_uid if one.dicom else "",
                one.received_at.isoformat(),
                2 if i < settled else i % 2,
                None if i < settled else one.image_id.encode(),
                None if i < settled else encode(one),
            ),
        )
    connection.execute(
        "INSERT INTO log_position VALUES (3, 17, x'00112233445566778899aabbccddeeff')"
    )
    connection.commit()
    connection.close()


def test_a_file_of_layout_1_keeps_everything_and_learns_what_its_events_tell(path: Path) -> None:
    events = [event(f"1.{i}", sop_class=MR, tenant="a") for i in range(2500)]
    old_file(path, events, settled=300)
    box = Outbox(path)
    assert (box.counts().pending, box.counts().published) == (1100, 1100)
    assert {e.event_id for e in values(box)} == {e.event_id for e in events[300::2]}
    assert box.positions()[3].offset == 17
    # Settled records have dropped what would tell their tenant.
    assert box.find_instances("a", ["1.0", "1.299", "1.300", "1.2499"]) == {
        f"1.{i}": [HeldInstance(MR, events[i].image_id, 7)] for i in (300, 2499)
    }
    assert box.find_instances("", ["1.0"]) == {"1.0": [HeldInstance("", events[0].image_id, -1)]}
    assert box.holds_image([events[0].image_id]) == {events[0].image_id}
    again = box.append_all([Arrived.of(e) for e in (events[0], event("1.0", "x", tenant="a"))])
    assert again.result() == [SAME, CONFLICT]
    box.close()
    Outbox(path).close()
    with sqlite3.connect(path) as other:
        assert other.execute("PRAGMA user_version").fetchone() == (2,)


def test_a_migration_that_fails_leaves_the_file_as_it_was(path: Path) -> None:
    events = [event(f"1.{i}") for i in range(3)]
    old_file(path, events, settled=0)
    with sqlite3.connect(path) as other:
        other.execute("UPDATE ledger SET event=? WHERE seq=3", (b"{",))
    with pytest.raises(OutboxError, match="record 3"):
        Outbox(path)
    with sqlite3.connect(path) as other:
        columns = [row[1] for row in other.execute("PRAGMA table_info(ledger)")]
        assert other.execute("PRAGMA user_version").fetchone() == (1,)
        assert "tenant" not in columns
        other.execute("UPDATE ledger SET event=? WHERE seq=3", (encode(events[2]),))
    other.close()
    box = Outbox(path)
    assert len(box.find_instances("t", ["1.0", "1.1", "1.2"])) == 3
    box.close()
