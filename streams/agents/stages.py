"""Which stages there are, and what each is made from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from streams.agents import analyze, ingest, sniff, store
from streams.agents.embedding import EmbedderPort
from streams.inference.triton import Embedder
from streams.modality.model import RELEASED, ModalityModel
from streams.runtime.clock import Clock
from streams.runtime.emitter import Emitter
from streams.runtime.isolation import IsolatedPool
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
    emitter : Emitter, optional
        Takes what a stage publishes before its batch is done.
    """

    settings: Settings
    metrics: Metrics
    clock: Clock
    closers: list[Callable[[], None]]
    emitter: Emitter | None = None

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


def _sniff(context: Context) -> Stage[Any]:
    return sniff.sniff_stage(context.blobs, context.settings.patient_key, context.clock)


def _analyze(context: Context) -> Stage[Any]:
    settings = context.settings
    pool = IsolatedPool(
        analyze.look_job,
        processes=settings.decode_processes,
        timeout_seconds=settings.decode_timeout_seconds,
        memory_bytes=settings.decode_memory_bytes,
        on_restart=lambda: context.metrics.count("biodatamine_decoder_restarts"),
    )
    context.closers.append(pool.close)
    embedder = Embedder(settings.triton_url, model=settings.embedder_model)
    port = EmbedderPort(embedder, context.clock)
    # A place of their own: a received file with the bytes of a thumbnail must still be fsynced.
    thumbnails = BlobStore(f"{settings.blobs.rstrip('/')}/thumbnails", fsync=False)
    model = ModalityModel.load(settings.modality_model or RELEASED)
    return analyze.analyze_stage(
        context.blobs,
        thumbnails,
        pool,
        port,
        model=model,
        clock=context.clock,
        with_text=settings.read_text,
    )


def _ingest(context: Context) -> Stage[Any]:
    settings, made = context.settings, None
    if context.emitter is not None:
        made = ingest.make_ingest(
            settings,
            context.blobs,
            context.database,
            emitter=context.emitter,
            clock=context.clock,
        )
        context.closers.append(made.close)
    return ingest.ingest_stage(
        context.blobs,
        settings.ingest_roots,
        max_file_bytes=settings.ingest_max_file_bytes,
        ingest=made,
    )


FACTORIES: dict[str, Callable[[Context], Stage[Any]]] = {
    ingest.INGEST: _ingest,
    sniff.SNIFF: _sniff,
    analyze.ANALYZE: _analyze,
    store.STORE: lambda context: store.store_stage(context.database, context.metrics),
    store.DEAD_LETTERS: lambda context: store.dead_letter_stage(
        context.database, context.metrics, context.clock
    ),
}

TOPICS_BY_STAGE: dict[str, tuple[str, ...]] = {
    ingest.INGEST: ("url-requests",),
    sniff.SNIFF: ("files-received",),
    analyze.ANALYZE: ("files-sniffed",),
    store.STORE: store.STORED_TOPICS,
    store.DEAD_LETTERS: store.STORED_DEAD_LETTERS,
}
"""What each stage reads; ``status`` shows its lag there."""
