"""Which stages there are, and what each is made from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from streams.agents import store
from streams.runtime.clock import Clock
from streams.runtime.metrics import Metrics
from streams.runtime.stage import Stage
from streams.settings import Settings
from streams.storage.blobs import BlobStore
from streams.storage.clickhouse import ClickHouse


@dataclass
class Context:
    """What stages are made from; each part is made when a stage first asks for it.

    Parameters
    ----------
    settings : Settings
        Addresses and limits.
    metrics : Metrics
        Where stages count.
    clock : Clock
        The present.
    closers : list of callable
        Where a part leaves what closes it.
    """

    settings: Settings
    metrics: Metrics
    clock: Clock
    closers: list[Callable[[], None]]

    @cached_property
    def database(self) -> ClickHouse:
        """ClickHouse of the settings."""
        database = ClickHouse(self.settings.clickhouse_url)
        self.closers.append(database.close)
        return database

    @cached_property
    def blobs(self) -> BlobStore:
        """Blob store of the settings."""
        return BlobStore(self.settings.blobs)


FACTORIES: dict[str, Callable[[Context], Stage[Any]]] = {
    store.STORE: lambda context: store.store_stage(context.database, context.metrics),
    store.DEAD_LETTERS: lambda context: store.dead_letter_stage(
        context.database, context.metrics, context.clock
    ),
}
