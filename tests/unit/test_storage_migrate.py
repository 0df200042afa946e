"""Migrations as text and as a plan."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.storage.migrate import (
    _LEDGER,
    Migration,
    MigrationError,
    load,
    pending,
    statements,
)

EVERY = load()
CLUSTER = "shards_1"


def test_migrations_are_numbered_without_gaps() -> None:
    assert [migration.version for migration in EVERY] == list(range(1, len(EVERY) + 1))


def test_statements_end_at_a_semicolon_at_the_end_of_a_line() -> None:
    sql = """
    -- a remark; with a semicolon
    CREATE TABLE a (x String COMMENT 'one; two') ENGINE = Log;
      -- another
    INSERT INTO a VALUES ('x');  \nSELECT 1
    """
    assert statements(sql) == (
        "CREATE TABLE a (x String COMMENT 'one; two') ENGINE = Log",
        "INSERT INTO a VALUES ('x')",
        "SELECT 1",
    )


@pytest.mark.parametrize("sql", ["", "\n;\n", "-- only a remark", ";;\n ;"])
def test_nothing_is_no_statement(sql: str) -> None:
    assert all(";" not in part or part.strip(";") == "" for part in statements(sql))


@given(st.lists(st.from_regex(r"SELECT [a-z0-9 ',]{1,20}[a-z0-9]", fullmatch=True), max_size=5))
def test_what_is_joined_comes_apart_again(parts: list[str]) -> None:
    assert statements(";\n".join(parts)) == tuple(parts)


@pytest.mark.parametrize("migration", EVERY, ids=lambda migration: migration.name)
def test_on_one_node_nothing_speaks_of_clusters(migration: Migration) -> None:
    text = " ".join(statements(migration.sql))
    assert "${" not in text
    assert "ON CLUSTER" not in text
    assert "Replicated" not in text


@pytest.mark.parametrize(
    "sql", [*(migration.sql for migration in EVERY), _LEDGER], ids=[*(m.name for m in EVERY), "_"]
)
def test_on_a_cluster_every_object_is_everywhere_and_every_table_replicated(sql: str) -> None:
    for statement in statements(sql, cluster=CLUSTER):
        assert "${" not in statement
        assert re.match(rf"(CREATE|ALTER|DROP)\b[^(]*?\bON CLUSTER '{CLUSTER}'", statement), (
            statement[:80]
        )
        if statement.startswith("CREATE TABLE"):
            engine = re.search(r"ENGINE = (\w+)", statement)
            assert engine is not None
            assert engine[1] == "ReplicatedReplacingMergeTree"


@pytest.mark.parametrize("migration", EVERY, ids=lambda migration: migration.name)
def test_every_statement_can_run_twice(migration: Migration) -> None:
    for statement in statements(migration.sql):
        assert re.match(
            r"CREATE (TABLE|MATERIALIZED VIEW) IF NOT EXISTS |CREATE OR REPLACE VIEW |"
            r"ALTER TABLE \S+\s+(ADD|DROP|MODIFY) COLUMN IF (NOT )?EXISTS |DROP \w+ IF EXISTS ",
            statement,
        ), statement[:80]


@pytest.mark.parametrize("migration", EVERY, ids=lambda migration: migration.name)
def test_rows_are_durable_when_an_insert_returns(migration: Migration) -> None:
    for statement in statements(migration.sql):
        if statement.startswith("CREATE TABLE"):
            assert "fsync_after_insert = 1" in statement
            assert "fsync_part_directory = 1" in statement


# What is left to do


def made(*versions: int) -> tuple[Migration, ...]:
    return tuple(Migration(version, f"step_{version}", f"SELECT {version}") for version in versions)


def digests(*migrations: Migration) -> dict[int, str]:
    return {migration.version: migration.sha256 for migration in migrations}


@pytest.mark.parametrize("done", [0, 1, 2, 3])
def test_what_was_not_applied_is_left_to_do_in_order(done: int) -> None:
    steps = made(1, 2, 3)
    assert pending(reversed(steps), digests(*steps[:done])) == steps[done:]


def test_a_changed_migration_is_refused_by_name() -> None:
    steps = made(1, 2)
    with pytest.raises(MigrationError, match="0001_step_1 was changed"):
        pending(steps, digests(*steps) | {1: "other"})


def test_a_database_that_is_ahead_is_refused() -> None:
    steps = made(1, 2)
    with pytest.raises(MigrationError, match="0002, which this version"):
        pending(steps[:1], digests(*steps))
