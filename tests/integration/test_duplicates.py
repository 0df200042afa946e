"""Duplicates of a dataset, found by a real ClickHouse and told by the command."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import schemas.identity
from schemas import FileAnalyzed, decode
from streams.cli import app
from streams.commands.duplicates import find_duplicates
from streams.storage.clickhouse import ClickHouse
from streams.storage.rows import rows_of
from streams.storage.writer import write
from tests.support.servers import Server, clickhouse_url

pytestmark = pytest.mark.integration

EXAMPLE = decode(
    (Path(schemas.__file__).parent / "examples" / "files-analyzed.json").read_bytes(), FileAnalyzed
)
CAT, DOG = 0xE1C6399C8E3166CB, 0x1234_5678_9ABC_DEF0
WHERE = {"tenant": EXAMPLE.tenant, "dataset": EXAMPLE.dataset_id}


def analyzed(
    relpath: str,
    content: int,
    picture: int | None,
    *,
    series_uid: str = "",
    near_constant: bool = False,
    dataset_id: str = EXAMPLE.dataset_id,
) -> FileAnalyzed:
    """The event of a file of some content that shows some picture."""
    digest = f"{content:064x}"
    file = schemas.identity.file_id(EXAMPLE.tenant, dataset_id, relpath)
    assert EXAMPLE.quality is not None
    hashed = None if picture is None else f"{picture:016x}"
    return EXAMPLE.model_copy(
        update={
            "event_id": str(uuid.uuid5(uuid.NAMESPACE_OID, relpath + digest)),
            "file_id": file,
            "image_id": digest,
            "dataset_id": dataset_id,
            "relpath": relpath,
            "blob": EXAMPLE.blob.model_copy(update={"sha256": digest}),
            "dicom": None,
            "header": EXAMPLE.header.model_copy(update={"series_uid": series_uid or None}),
            "quality": EXAMPLE.quality.model_copy(
                update={
                    "perceptual_hash": hashed,
                    "is_blank": hashed is None,
                    "is_near_constant": near_constant or hashed is None,
                }
            ),
        }
    )


FILES = [
    # One picture four times: twice the same bytes, a re-encoded copy, a slightly other hash.
    analyzed("cat.png", 1, CAT),
    analyzed("copies/cat.png", 1, CAT),
    analyzed("copies/cat.jpg", 2, CAT),
    analyzed("copies/small.webp", 3, CAT ^ 0b10101),
    analyzed("dog.png", 4, DOG),
    # Blank ones have no hash, nearly constant ones resemble each other.
    analyzed("blank-1.png", 5, None),
    analyzed("blank-2.png", 6, None),
    analyzed("speck-1.png", 7, 0xF0F0, near_constant=True),
    analyzed("speck-2.png", 8, 0xF0F0, near_constant=True),
    # Slices of one series.
    *(
        analyzed(f"scan/{number}.dcm", 20 + number, (DOG ^ (0xFF << 32)) ^ (1 << number),
                 series_uid="1.2.3")
        for number in range(5)
    ),
    analyzed("elsewhere.png", 1, CAT, dataset_id="another"),
]  # fmt: skip


def put(database: ClickHouse, files: list[FileAnalyzed]) -> None:
    write(database, [rows_of(file) for file in files])


def test_copies_are_found_and_blanks_and_slices_are_not(database: ClickHouse) -> None:
    put(database, FILES)
    found = find_duplicates(database, WHERE)
    assert found["same_bytes"] == {"groups": 1, "files": 2}
    assert found["same_picture"] == {"groups": 1, "files": 4}
    assert found["largest"] == [
        {
            "files": 4,
            "contents": 3,
            "examples": ["cat.png", "copies/cat.png", "copies/small.webp"],
        }
    ]
    assert found["is_complete"]
    # Doing it twice changes nothing.
    put(database, FILES)
    assert find_duplicates(database, WHERE) == found


def test_no_answer_is_no_second_modality_of_a_dataset(database: ClickHouse) -> None:
    def shows(file: FileAnalyzed, **decision: Any) -> FileAnalyzed:
        assert file.modality is not None
        return file.model_copy(update={"modality": file.modality.model_copy(update=decision)})

    summary = "SELECT mixed_modality, modality_unknown, modality_conflicts FROM datasets"
    files = [analyzed(f"{number}.dcm", number, None) for number in range(3)]
    put(database, [files[0], shows(files[1], modality="unknown", abstained=True)])
    assert database.query(summary) == [(False, 1, 0)]
    put(database, [shows(files[2], modality="MR", conflict=True, conflict_reason="pixels")])
    assert database.query(summary) == [(True, 1, 1)]


def test_a_version_that_was_replaced_is_no_duplicate(database: ClickHouse) -> None:
    put(database, [analyzed("a.png", 1, CAT), analyzed("b.png", 2, CAT)])
    assert find_duplicates(database, WHERE)["same_picture"]["groups"] == 1
    later = EXAMPLE.received_at.replace(year=EXAMPLE.received_at.year + 1)
    newer = analyzed("b.png", 3, DOG).model_copy(update={"received_at": later})
    put(database, [newer])
    assert find_duplicates(database, WHERE)["same_picture"]["groups"] == 0


def test_slices_of_two_series_that_agree_are_told(database: ClickHouse) -> None:
    put(
        database,
        [
            analyzed("first", 1, CAT, series_uid="1.2.3"),
            analyzed("second", 2, CAT ^ 1, series_uid="1.2.4"),
        ],
    )
    assert find_duplicates(database, WHERE)["same_picture"] == {"groups": 1, "files": 2}


def test_what_was_left_out_to_bound_the_work_is_told(database: ClickHouse) -> None:
    put(database, FILES)
    found = find_duplicates(database, WHERE, max_pictures=1)
    assert (found["is_complete"], found["pictures"]) == (False, 1)
    # The picture of the most files comes first.
    assert found["same_picture"] == {"groups": 1, "files": 3}


def test_an_empty_dataset_has_none(database: ClickHouse) -> None:
    found = find_duplicates(database, WHERE)
    assert found["same_bytes"] == {"groups": 0, "files": 0}
    assert found["largest"] == []
    assert found["is_complete"]


def test_the_command_tells_them(
    clickhouse: Server, database: ClickHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(database, FILES)
    url = clickhouse_url(clickhouse, database.address.database)
    monkeypatch.setenv("BIODATAMINE_CLICKHOUSE_URL", url)
    arguments = ["datasets", "show", EXAMPLE.dataset_id, "--tenant", EXAMPLE.tenant]

    def run(*more: str) -> Any:
        result = CliRunner().invoke(app, [*arguments, *more])
        assert result.exit_code == 0, result.output
        return result.stdout

    told = json.loads(run("--json"))["duplicates"]
    assert told == find_duplicates(database, WHERE)
    text = run()
    assert "same picture" in text
    assert "copies/small.webp" in text
