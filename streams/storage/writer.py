"""Collects the rows of a batch and inserts them, one insert for each table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from streams.storage.clickhouse import Row
from streams.storage.rows import Rows

# `files` and `dead_letters` say how far a file is, so they come after what they speak of.
_LAST = ("files", "dead_letters")


class RowSink(Protocol):
    """What takes rows; ClickHouse does."""

    def insert(self, table: str, rows: list[Row]) -> Any:
        """Insert rows that all have the same keys; durable when it returns."""


def merge(batches: Iterable[Rows]) -> Rows:
    """Join the rows of many events, table by table, in the order in which to insert them."""
    merged: Rows = {}
    for batch in batches:
        for table, rows in batch.items():
            merged.setdefault(table, []).extend(rows)
    return dict(sorted(merged.items(), key=lambda item: (item[0] in _LAST, item[0])))


def write(sink: RowSink, batches: Iterable[Rows]) -> int:
    """Insert the rows of many events; return how many there were.

    A fault in the middle leaves some tables written. The batch is then written again as a whole,
    which changes nothing in those, since every row has a key made from its event.
    """
    count = 0
    for table, rows in merge(batches).items():
        sink.insert(table, rows)  # type: ignore[arg-type]
        count += len(rows)
    return count
