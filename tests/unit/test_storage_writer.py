"""The order and the whole of a batch of rows."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from streams.storage.rows import Rows
from streams.storage.writer import merge, write

TABLES = ("files", "header_facts", "image_signals", "embeddings", "predictions", "dead_letters")
batches_of_rows = st.lists(
    st.dictionaries(
        st.sampled_from(TABLES),
        st.lists(st.fixed_dictionaries({"n": st.integers()}), min_size=1, max_size=3),
    )
)


class Sink:
    def __init__(self) -> None:
        self.inserts: list[tuple[str, list[Any]]] = []

    def insert(self, table: str, rows: list[Any]) -> None:
        self.inserts.append((table, rows))


@given(batches_of_rows)
def test_each_table_is_inserted_once_and_files_after_what_they_speak_of(
    batches: list[Rows],
) -> None:
    sink = Sink()
    count = write(sink, batches)
    tables = [table for table, _ in sink.inserts]
    assert len(set(tables)) == len(tables)
    last = [table in ("files", "dead_letters") for table in tables]
    assert last == sorted(last)
    assert count == sum(len(rows) for batch in batches for rows in batch.values())
    for table, rows in sink.inserts:
        assert rows == [row for batch in batches for row in batch.get(table, [])]


@given(batches_of_rows)
def test_merging_leaves_its_input_alone(batches: list[Rows]) -> None:
    before = [{table: list(rows) for table, rows in batch.items()} for batch in batches]
    merge(batches)
    assert batches == before
