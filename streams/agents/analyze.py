"""Looks at the pixels: one decode, signals, thumbnail, embedding, modality."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from schemas import BlobRef, FileAnalyzed, FileSniffed
from schemas.facts import AbsentModel, Embedding, ImageSignals, PixelFacts, Problem
from schemas.identity import event_id
from streams.agents.blob_reading import BlobGoneError, blob_faults
from streams.agents.embedding import EmbedderPort
from streams.inference.outputs import Ready
from streams.modality.header import decide_from_header
from streams.pixels import DecodeError, NoPixels, Rendered, RenderSpec, render
from streams.runtime.clock import Clock
from streams.runtime.isolation import Failure, IsolatedPool
from streams.runtime.retry import ServiceFaultError
from streams.runtime.stage import Done, Rejected, Result, Stage, decode_event
from streams.storage.blobs import BlobError, BlobStore

ANALYZE = "analyze"
THUMBNAIL_MEDIA_TYPE = "image/webp"
# While one part of a batch is at the models, the next is decoded.
_PART_FILES = 16

Job = tuple[Path | bytes, str, RenderSpec]
Decoded = Rendered | NoPixels | DecodeError | Failure


def render_job(job: Job) -> Rendered | NoPixels | DecodeError:
    """Render one file; runs in a process of its own, where a fault is an answer."""
    source, format_name, spec = job
    try:
        return render(source, format_name, spec)
    except DecodeError as error:
        return error


class Analyzer:
    """The analyze stage's work on a batch.

    Parameters
    ----------
    blobs : BlobStore
        Where the bytes are.
    thumbnails : BlobStore
        Where thumbnails go; it need not be fsynced, since a replay makes a lost one again.
    pool : IsolatedPool
        Runs ``render_job``.
    embedder : EmbedderPort
        Embeds views.
    clock : Clock
        The present.
    """

    def __init__(
        self,
        blobs: BlobStore,
        thumbnails: BlobStore,
        pool: IsolatedPool,
        embedder: EmbedderPort,
        clock: Clock,
    ) -> None:
        self._blobs = blobs
        self._thumbnails = thumbnails
        self._pool = pool
        self._embedder = embedder
        self._clock = clock

    async def process(self, events: Sequence[FileSniffed]) -> Sequence[Result]:
        """Analyze a batch; see ``Stage.process``."""
        state = await self._embedder.state()
        sizes = (state.input_size,) if isinstance(state, Ready) else ()
        spec = RenderSpec(view_sizes=sizes)
        tasks: list[asyncio.Task[list[Result]]] = []
        try:
            for start in range(0, len(events), _PART_FILES):
                part = events[start : start + _PART_FILES]
                decoded = await self._decode(part, spec)
                tasks.append(asyncio.create_task(self._finish(part, decoded)))
            return [result for task in tasks for result in await task]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _decode(
        self, events: Sequence[FileSniffed], spec: RenderSpec
    ) -> list[Decoded | Rejected | None]:
        prepared = await asyncio.to_thread(lambda: [self._job(event, spec) for event in events])
        jobs = [job for job in prepared if isinstance(job, tuple)]
        answers = iter(await self._pool.map(jobs))
        return [next(answers) if isinstance(job, tuple) else job for job in prepared]

    def _job(self, event: FileSniffed, spec: RenderSpec) -> Job | Rejected | None:
        if event.format == "unknown":
            return None
        if (path := self._blobs.local_path(event.blob)) is not None:
            return path, event.format, spec
        try:
            with blob_faults():
                return self._blobs.read(event.blob), event.format, spec
        except BlobGoneError as error:
            return Rejected("blob-gone", str(error))

    async def _finish(
        self, events: Sequence[FileSniffed], decoded: Sequence[Decoded | Rejected | None]
    ) -> list[Result]:
        rendered = [answer for answer in decoded if isinstance(answer, Rendered)]
        embedded = iter(await self._embed(rendered))
        thumbnails = iter(await asyncio.to_thread(self._keep_thumbnails, rendered))
        return [
            self._result(
                event,
                answer,
                *(
                    (next(embedded), next(thumbnails))
                    if isinstance(answer, Rendered)
                    else (None, None)
                ),
            )
            for event, answer in zip(events, decoded, strict=True)
        ]

    async def _embed(self, rendered: Sequence[Rendered]) -> list[Embedding | AbsentModel]:
        if not rendered:
            return []
        if all(answer.views for answer in rendered):
            return await self._embedder.embed([answer.views[0] for answer in rendered])
        # No view was made, since the model was absent when the batch began.
        state = await self._embedder.state()
        if isinstance(state, Ready):
            raise ServiceFaultError("triton", f"model {state.model} has just come back")
        return [AbsentModel(model=state.model, reason=state.reason[:500])] * len(rendered)

    def _keep_thumbnails(self, rendered: Sequence[Rendered]) -> list[BlobRef]:
        try:
            return [
                self._thumbnails.put(answer.thumbnail, media_type=THUMBNAIL_MEDIA_TYPE)
                for answer in rendered
            ]
        except BlobError as error:
            raise ServiceFaultError("blobs", str(error)) from error

    def _result(
        self,
        event: FileSniffed,
        answer: Decoded | Rejected | None,
        embedded: Embedding | AbsentModel | None,
        thumbnail: BlobRef | None,
    ) -> Result:
        if isinstance(answer, Rejected):
            return answer
        if isinstance(answer, DecodeError):
            return Rejected(answer.reason_code, answer.detail)
        if isinstance(answer, Failure):
            return Rejected(f"decoder-{answer.reason}", answer.detail)
        problems = list(event.problems)
        found: dict[str, object] = {"outcome": "not-an-image"}
        if isinstance(answer, NoPixels):
            found = {"outcome": "no-pixels"}
            problems.append(Problem(code=answer.reason))
        elif answer is not None:
            found = {
                "outcome": "decoded",
                "pixels": _pixel_facts(answer),
                "signals": ImageSignals.model_validate(asdict(answer.signals)),
                "quality": answer.quality,
                "thumbnail": thumbnail,
                "embedding": embedded if isinstance(embedded, Embedding) else None,
                "absent_models": (embedded,) if isinstance(embedded, AbsentModel) else (),
            }
            problems += [Problem(code=note.code, detail=note.text) for note in answer.warnings]
        carried = event.model_dump(
            exclude={
                "event_id",
                "schema_version",
                "format_evidence",
                "suffix",
                "problems",
                "processed_at",
            }
        )
        return Done(
            (
                FileAnalyzed.model_validate(
                    {
                        **carried,
                        **found,
                        "event_id": event_id(FileAnalyzed.TOPIC, event.event_id),
                        "modality": decide_from_header(event.header),
                        "problems": tuple(problems[:32]),
                        "processed_at": self._clock(),
                    }
                ),
            )
        )


def _pixel_facts(answer: Rendered) -> PixelFacts:
    info = answer.info
    return PixelFacts(
        rows=info.rows,
        columns=info.columns,
        frames=info.frames,
        samples_per_pixel=info.samples,
        bit_depth=info.bits_stored,
        photometric_interpretation=info.photometric[:64],
        slice_strategy=info.slice_strategy,
        slice_index=info.slice_index,
        unit=info.unit[:16],
    )


def analyze_stage(
    blobs: BlobStore,
    thumbnails: BlobStore,
    pool: IsolatedPool,
    embedder: EmbedderPort,
    clock: Clock,
) -> Stage[FileSniffed]:
    """Analyze every file that was sniffed."""
    analyzer = Analyzer(blobs, thumbnails, pool, embedder, clock)
    return Stage(ANALYZE, (FileSniffed.TOPIC,), decode_event, analyzer.process)  # type: ignore[arg-type]
