"""Every example of every event becomes rows that the real tables take, and take once.

The rows are kept under snapshots/; ``UPDATE_SNAPSHOTS=1`` writes them anew.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import uuid
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import schemas
from schemas import Event, FileAnalyzed, FileReceived, FileSniffed, decode_topic, encode
from schemas.facts import Attribute, HeaderFacts, ImageSignals, ModalityDecision, QualityFacts, Vote
from streams.runtime.dead_letters import DeadLetter, read_headers, subject_of
from streams.storage.clickhouse import BadRowsError, ClickHouse, StorageUnavailableError
from streams.storage.migrate import load, migrate, statements
from streams.storage.rows import Rows, dead_letter_row, rows_of
from streams.storage.settlement import ClickHouseSettlement
from streams.storage.writer import merge, write
from tests.support.servers import Server, clickhouse_server, clickhouse_url

EXAMPLES = sorted((Path(schemas.__file__).parent / "examples").iterdir())
SNAPSHOTS = Path(__file__).parent / "snapshots"
DEAD_LETTER = "dead-letter"
NOW = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)


def event_of(path: Path) -> Event:
    event = decode_topic(path.name.split(".")[0], path.read_bytes())
    assert encode(event)
    return event


def letter_row() -> dict[str, Any]:
    event = event_of(next(path for path in EXAMPLES if path.stem == "files-sniffed"))
    letter = DeadLetter(
        value=encode(event),
        key=b"key",
        stage="analyze",
        reason="truncated",
        error="the pixel data ends early",
        source_topic=FileSniffed.TOPIC,
        source_partition=3,
        source_offset=41,
        failed_at=NOW,
        subject=subject_of(event),
    )
    return dead_letter_row(read_headers(letter.message().headers), letter.value, failed_at=NOW)


def all_rows() -> dict[str, Rows]:
    rows = {path.stem: rows_of(event_of(path)) for path in EXAMPLES}
    return rows | {DEAD_LETTER: {"dead_letters": [letter_row()]}}


ROWS = all_rows()
WITH_ROWS = {name: rows for name, rows in ROWS.items() if rows}


# Snapshots


def as_json(rows: Rows) -> str:
    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return [float(number) for number in value]
        if isinstance(value, datetime):
            return value.isoformat()
        if isinstance(value, uuid.UUID):
            return str(value)
        msg = f"no plain form of {type(value).__name__}"
        raise TypeError(msg)

    return json.dumps(rows, default=plain, indent=1, ensure_ascii=False) + "\n"


@pytest.mark.parametrize("name", sorted(ROWS))
def test_an_example_makes_the_rows_of_its_snapshot(name: str) -> None:
    path = SNAPSHOTS / f"{name}.json"
    text = as_json(ROWS[name])
    if os.environ.get("UPDATE_SNAPSHOTS"):
        SNAPSHOTS.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert path.exists(), "run once with UPDATE_SNAPSHOTS=1 and look at what it wrote"
    assert text == path.read_text(encoding="utf-8")


def test_no_snapshot_is_an_orphan() -> None:
    orphans = {path.stem for path in SNAPSHOTS.iterdir()} - set(ROWS)
    assert not orphans, "remove them, or bring their examples back"


def test_every_table_has_a_snapshot() -> None:
    tables = {table for rows in ROWS.values() for table in rows}
    assert tables == {
        "files", "header_facts", "image_signals", "image_quality", "modality_decisions",
        "embeddings", "predictions", "dead_letters", "ingest_requests",
    }  # fmt: skip


@pytest.mark.parametrize("name", sorted(ROWS))
def test_rows_do_not_depend_on_the_clock_or_on_chance(name: str) -> None:
    again = {DEAD_LETTER: {"dead_letters": [letter_row()]}}.get(name)
    if again is None:
        again = rows_of(event_of(next(path for path in EXAMPLES if path.stem == name)))
    assert as_json(again) == as_json(ROWS[name])


# The real tables


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = clickhouse_server(tmp_path_factory.mktemp("rows"))
    made.start()
    yield made
    made.stop()


_names = itertools.count()


@pytest.fixture
def database(server: Server) -> Iterator[ClickHouse]:
    """Migrated, empty tables."""
    made = ClickHouse(clickhouse_url(server, f"rows_{next(_names)}"))
    migrate(made)
    yield made
    made.command(f"DROP DATABASE {made.address.database}")
    made.close()


@pytest.fixture(scope="module")
def schema(server: Server) -> Iterator[ClickHouse]:
    made = ClickHouse(clickhouse_url(server, "rows_schema"))
    migrate(made)
    yield made
    made.close()


def columns_of(database: ClickHouse, table: str) -> dict[str, str]:
    return dict(
        database.query(
            "SELECT name, type FROM system.columns WHERE database = {db:String} "
            "AND table = {table:String}",
            {"db": database.address.database, "table": table},
        )
    )


def select(database: ClickHouse, sql: str, **parameters: Any) -> list[dict[str, Any]]:
    names, rows = database.query_columns(sql, parameters)
    return [dict(zip(names, row, strict=True)) for row in rows]


@pytest.mark.integration
@pytest.mark.parametrize("name", sorted(WITH_ROWS))
def test_rows_fill_every_column_and_no_other(schema: ClickHouse, name: str) -> None:
    for table, rows in WITH_ROWS[name].items():
        expected = set(columns_of(schema, table))
        for row in rows:
            assert set(row) == expected, table


@pytest.mark.integration
def test_each_header_fact_and_each_signal_has_one_column(schema: ClickHouse) -> None:
    key = {"tenant", "dataset_id", "file_id", "image_id", "received_at"}
    facts = columns_of(schema, "header_facts")
    assert set(facts) - key - {"format", "format_evidence", "suffix"} == set(
        HeaderFacts.model_fields
    )
    signals = columns_of(schema, "image_signals")
    assert set(signals) - key - {"modality", "slice_strategy", "slice_index", "unit"} == set(
        ImageSignals.model_fields
    )
    quality = columns_of(schema, "image_quality")
    assert set(quality) - key - {"modality"} == set(QualityFacts.model_fields)
    assert all(quality[name].startswith("Nullable(") for name in QualityFacts.model_fields)
    decision = columns_of(schema, "modality_decisions")
    lists = {f"vote_{name}{'s' * (name[-1] != 's')}" for name in Vote.model_fields}
    lists |= {f"attribute_{name}{'s' * (name[-1] != 's')}" for name in Attribute.model_fields}
    assert set(decision) - key == (set(ModalityDecision.model_fields) - {"votes"}) | lists


@pytest.mark.integration
def test_a_fact_that_may_be_absent_may_be_null(schema: ClickHouse) -> None:
    types = columns_of(schema, "header_facts")
    for name, field in HeaderFacts.model_fields.items():
        assert field.default in (None, ()), name
        assert "Nullable(" in types[name] or types[name].startswith("Array("), name


@pytest.mark.integration
@pytest.mark.parametrize("name", sorted(WITH_ROWS))
def test_rows_come_back_as_they_went_in(database: ClickHouse, name: str) -> None:
    write(database, [WITH_ROWS[name]])
    for table, rows in WITH_ROWS[name].items():
        names = ", ".join(f"`{column}`" for column in rows[0])
        found = select(database, f"SELECT {names} FROM {table} FINAL")
        assert sorted(map(comparable, found)) == sorted(map(comparable, rows))


def comparable(row: dict[str, Any]) -> str:
    def plain(value: Any) -> Any:
        if isinstance(value, float | np.floating):
            return float(np.float32(value))  # scores and ages are kept as Float32
        if isinstance(value, datetime):
            aware = value if value.tzinfo else value.replace(tzinfo=timezone.utc)
            milliseconds = aware.microsecond // 1000 * 1000  # DateTime64(3)
            return aware.astimezone(timezone.utc).replace(microsecond=milliseconds).isoformat()
        if isinstance(value, tuple | list | np.ndarray):
            return [plain(one) for one in value]
        return str(value) if isinstance(value, uuid.UUID) else value

    return json.dumps({name: plain(value) for name, value in row.items()}, sort_keys=True)


COUNTED = (
    "files", "header_facts", "image_signals", "image_quality", "modality_decisions", "embeddings",
    "predictions", "dead_letters", "ingest_requests",
)  # fmt: skip


def counts(database: ClickHouse) -> dict[str, int]:
    return {table: database.query(f"SELECT count() FROM {table} FINAL")[0][0] for table in COUNTED}


@pytest.mark.integration
def test_writing_everything_again_changes_no_result(database: ClickHouse) -> None:
    batches = list(WITH_ROWS.values())
    written = write(database, batches)
    assert written == sum(len(rows) for rows in merge(batches).values())
    before = counts(database), snapshot_of_views(database)
    assert all(before[0].values())
    write(database, reversed(batches))
    write(database, batches[:3])
    assert (counts(database), snapshot_of_views(database)) == before
    for table in COUNTED:
        database.command(f"OPTIMIZE TABLE {table} FINAL")
    assert (counts(database), snapshot_of_views(database)) == before


def snapshot_of_views(database: ClickHouse) -> list[str]:
    return [
        str(database.query(f"SELECT * FROM {view} ORDER BY ALL"))
        for view in ("files_latest", "datasets", "modality_votes", "image_attributes")
    ]


@pytest.mark.integration
def test_votes_and_attributes_are_those_of_the_latest_decision(database: ClickHouse) -> None:
    analyzed = way_of_a_file()[2]
    decision = analyzed.modality
    assert decision is not None
    write(database, [rows_of(analyzed)])
    votes = "SELECT signal, label, weight, confidence, evidence FROM modality_votes ORDER BY signal"
    told = sorted((v.signal, v.label, v.weight, v.confidence, v.evidence) for v in decision.votes)
    assert database.query(votes) == told
    attributes = "SELECT name, value, confidence, evidence FROM image_attributes ORDER BY name"
    assert database.query(attributes) == sorted(
        (a.name, a.value, a.confidence, a.evidence) for a in analyzed.attributes
    )
    # Another method votes with fewer signals: none of the earlier ones is left.
    fewer = decision.model_copy(update={"votes": decision.votes[:1], "abstained": True})
    write(database, [rows_of(analyzed.model_copy(update={"modality": fewer, "attributes": ()}))])
    assert database.query(votes) == told[:1]
    assert database.query(attributes) == []
    assert database.query("SELECT abstained, family FROM modality_decisions FINAL") == [
        (True, decision.family)
    ]


@pytest.mark.integration
def test_a_database_with_data_takes_the_later_migrations(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = ClickHouse(clickhouse_url(server, f"rows_{next(_names)}"))
    migrations = load()
    try:
        with monkeypatch.context() as patch:
            patch.setattr("streams.storage.migrate.load", lambda: migrations[:7])
            migrate(database)
        rows = rows_of(way_of_a_file()[2])
        old = {name: rows[name] for name in ("image_signals", "embeddings", "files")}
        write(database, [old])
        before = database.query("SELECT * FROM files_latest")
        assert [one.version for one in migrate(database)] == [m.version for m in migrations[7:]]
        assert database.query("SELECT * FROM files_latest") == before
        # A replay fills what the old version did not know.
        write(database, [rows])
        assert database.query("SELECT * FROM files_latest") == before
        assert database.query("SELECT count() FROM image_quality FINAL") == [(1,)]
    finally:
        database.command(f"DROP DATABASE {database.address.database}")
        database.close()


# The stages of one file, in any order


def way_of_a_file() -> tuple[FileReceived, FileSniffed, FileAnalyzed]:
    by_name = {path.stem: event_of(path) for path in EXAMPLES}
    way = tuple(by_name[topic] for topic in ("files-received", "files-sniffed", "files-analyzed"))
    assert len({event.file_id for event in way}) == 1, "the plain examples tell of one file"
    return way  # type: ignore[return-value]


@pytest.mark.integration
def test_in_whatever_order_the_stages_come_the_richest_row_stays(database: ClickHouse) -> None:
    way = way_of_a_file()
    found = []
    for order in itertools.permutations(way):
        for table in COUNTED:
            database.command(f"TRUNCATE TABLE {table}")
        for event in order:
            write(database, [rows_of(event)])
        found.append(select(database, "SELECT * FROM files_latest"))
    assert all(rows == found[0] for rows in found)
    (row,) = found[0]
    assert row["status"] == row["stage"] == "analyzed"
    assert row["outcome"] == way[2].outcome


@pytest.mark.integration
def test_a_file_s_status_follows_its_stages(database: ClickHouse) -> None:
    received, sniffed, analyzed = way_of_a_file()
    for event, status in ((received, "received"), (sniffed, "sniffed")):
        write(database, [rows_of(event)])
        assert statuses(database) == [(status, "", "", 1, False)]
    letter = letter_row()
    assert letter["file_id"] == uuid.UUID(sniffed.file_id)
    write(database, [{"dead_letters": [letter]}])
    assert statuses(database) == [("failed", "truncated", "analyze", 1, False)]
    later = letter | {
        "dead_letter_id": uuid.uuid5(letter["dead_letter_id"], "later"),
        "reason": "decoder-crashed",
        "failed_at": NOW + timedelta(hours=1),
    }
    write(database, [{"dead_letters": [later]}])
    assert statuses(database)[0][:2] == ("failed", "decoder-crashed")
    # A replay that succeeds is what counts in the end.
    write(database, [rows_of(analyzed)])
    assert statuses(database)[0][0] == "analyzed"


def statuses(database: ClickHouse) -> list[tuple[Any, ...]]:
    return database.query(
        "SELECT status, failure_reason, failure_stage, versions, conflict FROM files_latest"
    )


def version(event: FileReceived, number: int, hours: int) -> FileReceived:
    digest = f"{number:064x}"
    return event.model_copy(
        update={
            "image_id": digest,
            "blob": event.blob.model_copy(update={"sha256": digest}),
            "event_id": str(uuid.uuid5(uuid.NAMESPACE_OID, digest)),
            "received_at": event.received_at + timedelta(hours=hours),
        }
    )


@pytest.mark.integration
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_other_bytes_for_the_same_instance_are_a_version_and_a_conflict(
    database: ClickHouse, order: Sequence[int]
) -> None:
    first = way_of_a_file()[0]
    assert first.dicom is not None
    versions = [first, version(first, 7, 1), version(first, 8, 2)]
    write(database, [rows_of(versions[index]) for index in order])
    (row,) = select(database, "SELECT * FROM files_latest")
    assert row["image_id"] == versions[2].image_id, "the newest is shown"
    assert (row["versions"], row["conflict"]) == (3, True)
    assert counts(database)["files"] == 3, "all are kept"
    (dataset,) = select(database, "SELECT * FROM datasets")
    assert (dataset["files"], dataset["conflicts"]) == (1, 1)


@pytest.mark.integration
def test_a_version_that_failed_does_not_hide_a_sound_one(database: ClickHouse) -> None:
    received, _, analyzed = way_of_a_file()
    cut = version(received, 7, 1)
    letter = letter_row() | {"file_id": uuid.UUID(cut.file_id), "image_id": cut.image_id}
    write(database, [rows_of(analyzed), rows_of(cut), {"dead_letters": [letter]}])
    (row,) = select(database, "SELECT * FROM files_latest")
    assert (row["image_id"], row["status"], row["conflict"]) == (
        analyzed.image_id,
        "analyzed",
        True,
    )


@pytest.mark.integration
def test_versions_of_a_file_that_is_no_dicom_instance_are_no_conflict(
    database: ClickHouse,
) -> None:
    first = way_of_a_file()[0].model_copy(update={"dicom": None})
    write(database, [rows_of(first), rows_of(version(first, 7, 1))])
    assert statuses(database) == [("received", "", "", 2, False)]


@pytest.mark.integration
def test_datasets_count_each_file_once(database: ClickHouse) -> None:
    received, sniffed, analyzed = way_of_a_file()
    other = version(received, 9, 3).model_copy(
        update={"file_id": str(uuid.uuid5(uuid.NAMESPACE_OID, "other file"))}
    )
    elsewhere = other.model_copy(
        update={
            "dataset_id": "elsewhere",
            "file_id": str(uuid.uuid5(uuid.NAMESPACE_OID, "elsewhere")),
        }
    )
    batches = [rows_of(event) for event in (received, sniffed, analyzed, other, elsewhere)]
    write(database, batches)
    write(database, batches)
    rows = {row["dataset_id"]: row for row in select(database, "SELECT * FROM datasets")}
    here = rows[received.dataset_id]
    assert (here["files"], here["analyzed"], here["in_progress"], here["failed"]) == (2, 1, 1, 0)
    assert here["size_bytes"] == received.blob.size_bytes * 2
    assert here["studies"] == here["series"] == 1
    assert analyzed.modality is not None
    assert here["modality_counts"][analyzed.modality.modality] == 1
    assert sum(here["format_counts"].values()) == 2
    assert rows["elsewhere"]["files"] == 1


@pytest.mark.integration
def test_letters_that_are_none_of_ours_still_become_a_row(database: ClickHouse) -> None:
    hostile = {
        "file-id": "no uuid",
        "source-partition": "99999999999999999999",
        "source-offset": "²",
        "failed-at": "yesterday",
        "error": "\x00 \ufffd",
    }
    row = dead_letter_row(hostile, b"\xff" * 10, failed_at=NOW)
    assert (row["file_id"], row["source_partition"], row["source_offset"]) == (None, -1, -1)
    write(database, [{"dead_letters": [row]}])
    write(database, [{"dead_letters": [dead_letter_row({}, b"", failed_at=NOW)]}])
    assert counts(database)["dead_letters"] == 2


@pytest.mark.integration
def test_the_same_letter_again_is_one_row_with_its_last_time(database: ClickHouse) -> None:
    letter = letter_row()
    write(database, [{"dead_letters": [letter]}])
    write(database, [{"dead_letters": [letter | {"failed_at": NOW + timedelta(hours=2)}]}])
    (row,) = select(database, "SELECT failed_at FROM dead_letters FINAL")
    assert comparable(row) == comparable({"failed_at": NOW + timedelta(hours=2)})


# What the real engine refuses


@pytest.mark.integration
@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("size_bytes", -1),
        ("size_bytes", 1 << 64),
        ("size_bytes", "many"),
        ("file_id", "no uuid"),
        ("relpath", "half a surrogate \udcff"),
        ("received_at", "yesterday"),
        ("tenant", None),
    ],
)
def test_values_that_do_not_fit_are_bad_rows(database: ClickHouse, column: str, value: Any) -> None:
    (row,) = rows_of(way_of_a_file()[0])["files"]
    with pytest.raises(BadRowsError):
        database.insert("files", [row, row | {column: value}])
    assert counts(database)["files"] == 0
    database.insert("files", [row])
    assert counts(database)["files"] == 1


@pytest.mark.integration
def test_a_schema_that_does_not_fit_is_waited_out_and_blames_no_row(
    database: ClickHouse,
) -> None:
    (row,) = rows_of(way_of_a_file()[0])["files"]
    with pytest.raises(StorageUnavailableError):
        database.insert("files", [row | {"a_column_of_tomorrow": 1}])
    database.command("RENAME TABLE files TO files_away")
    with pytest.raises(StorageUnavailableError, match="files"):
        database.insert("files", [row])
    database.command("RENAME TABLE files_away TO files")
    database.insert("files", [row])
    away = ClickHouse(str(database.address).replace("http://", "http://tester:secret@") + "_no")
    with pytest.raises(StorageUnavailableError):
        away.insert("files", [row])
    wrong = ClickHouse(str(database.address).replace("http://", "http://tester:wrong@"))
    with pytest.raises(StorageUnavailableError):
        wrong.insert("files", [row])


@pytest.mark.integration
def test_a_file_is_settled_by_its_last_row_or_by_a_dead_letter(database: ClickHouse) -> None:
    settlement = ClickHouseSettlement(database)
    received, _, analyzed = way_of_a_file()
    key = (received.file_id, received.image_id)
    other = (received.file_id, "0" * 64)

    def settled() -> set[tuple[str, str]]:
        return asyncio.run(settlement.settled([key, other]))

    write(database, [rows_of(received)])
    assert settled() == set()
    write(database, [{"dead_letters": [letter_row()]}])
    assert settled() == {key}
    database.command("TRUNCATE TABLE dead_letters")
    write(database, [rows_of(analyzed)])
    assert settled() == {key}


# Migrations on the real engine


@pytest.mark.integration
def test_migrating_again_changes_nothing(server: Server) -> None:
    database = ClickHouse(clickhouse_url(server, "rows_migrated"))
    assert [m.version for m in migrate(database)] == [m.version for m in load()]
    tables = "SELECT name, create_table_query FROM system.tables WHERE database = 'rows_migrated'"
    before = sorted(database.query(tables))
    ledger = database.query("SELECT * FROM schema_migrations FINAL ORDER BY version")
    assert migrate(database) == ()
    assert sorted(database.query(tables)) == before
    assert database.query("SELECT * FROM schema_migrations FINAL ORDER BY version") == ledger
    database.close()


@pytest.mark.integration
def test_a_migration_that_was_cut_off_starts_over(server: Server) -> None:
    database = ClickHouse(clickhouse_url(server, "rows_cut_off"))
    database.create_database()
    first, second = load()[:2]
    # As a kill leaves it: one file whole and half of the next, none of them in the ledger.
    for statement in (*statements(first.sql), statements(second.sql)[0]):
        database.command(statement)
    assert migrate(database) == load()
    write(database, list(WITH_ROWS.values()))
    assert migrate(database) == ()
    assert all(counts(database).values())
    database.close()


def test_a_file_that_fails_again_in_another_message_is_one_dead_letter() -> None:
    headers = {
        "stage": "sniff",
        "reason": "empty",
        "source-topic": "files-received",
        "file-id": str(uuid.uuid5(uuid.NAMESPACE_URL, "file")),
        "image-id": "0" * 64,
    }

    def name(value: bytes, **changed: str) -> uuid.UUID:
        row = dead_letter_row(headers | changed, value, failed_at=NOW)
        return row["dead_letter_id"]

    assert name(b"sent at nine") == name(b"sent at ten")
    assert name(b"", **{"image-id": "1" * 64}) != name(b"")
    assert name(b"", reason="truncated") != name(b"")
    assert name(b"one", **{"file-id": ""}) != name(b"two", **{"file-id": ""})
