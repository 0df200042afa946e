"""Looks at the pixels: one decode, signals, thumbnail, embedding, modality."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from schemas import BlobRef, FileAnalyzed, FileSniffed
from schemas.facts import AbsentModel, Problem
from schemas.identity import event_id
from streams.agents.blob_reading import BlobGoneError, blob_faults
from streams.agents.embedding import EmbedderPort, Seen
from streams.inference.outputs import Ready
from streams.modality.attributes import attributes
from streams.modality.evidence import Evidence
from streams.modality.head import PixelHeadError
from streams.modality.header import decide_from_header
from streams.modality.look import Look, look_at
from streams.modality.model import ModalityModel, decide
from streams.modality.ocr import read_text
from streams.modality.text import text_opinion
from streams.pixels import DecodeError, NoPixels, Rendered, RenderSpec, render
from streams.pixels.facts import image_signals, pixel_facts
from streams.runtime.clock import Clock
from streams.runtime.isolation import Failure, IsolatedPool
from streams.runtime.retry import ServiceFaultError
from streams.runtime.stage import Done, Rejected, Result, Stage, decode_event
from streams.storage.blobs import BlobError, BlobStore

ANALYZE = "analyze"
THUMBNAIL_MEDIA_TYPE = "image/webp"
# While one part of a batch is at the models, the next is decoded.
_PART_FILES = 16

_SPEC = RenderSpec(view_sizes=(), with_display=True)


@dataclass(frozen=True, slots=True)
class Job:
    """One file to decode and look at.

    Parameters
    ----------
    source : Path or bytes
        The file.
    format : str
        What it is.
    view_size : int
        Side of the views in pixels; 0 for none.
    with_text : bool
        Whether to read burnt-in text.
    """

    source: Path | bytes
    format: str
    view_size: int
    with_text: bool


@dataclass(frozen=True, slots=True)
class Looked:
    """A slice without its pixels, and what was seen in them."""

    rendered: Rendered
    look: Look


Decoded = Looked | NoPixels | DecodeError | Failure


def look_job(job: Job) -> Looked | NoPixels | DecodeError:
    """Decode one file and look at it; runs in a process of its own, where a fault is an answer."""
    try:
        answer = render(job.source, job.format, _SPEC)
    except DecodeError as error:
        return error
    if isinstance(answer, NoPixels):
        return answer
    assert answer.display is not None
    read = read_text if job.with_text else None
    look = look_at(answer.display, view_size=job.view_size, read=read)
    return Looked(replace(answer, display=None), look)


class Analyzer:
    """The analyze stage's work on a batch.

    Parameters
    ----------
    blobs : BlobStore
        Where the bytes are.
    thumbnails : BlobStore
        Where thumbnails go; it need not be fsynced, since a replay makes a lost one again.
    pool : IsolatedPool
        Runs ``look_job``.
    embedder : EmbedderPort
        Embeds views.
    model : ModalityModel
        Decides what files show.
    clock : Clock
        The present.
    with_text : bool
        Whether to read burnt-in text.
    """

    def __init__(
        self,
        blobs: BlobStore,
        thumbnails: BlobStore,
        pool: IsolatedPool,
        embedder: EmbedderPort,
        *,
        model: ModalityModel,
        clock: Clock,
        with_text: bool = True,
    ) -> None:
        self._blobs = blobs
        self._thumbnails = thumbnails
        self._pool = pool
        self._embedder = embedder
        self._model = model
        self._clock = clock
        self._with_text = with_text

    async def process(self, events: Sequence[FileSniffed]) -> Sequence[Result]:
        """Analyze a batch; see ``Stage.process``."""
        state = await self._embedder.state()
        view_size = state.input_size if isinstance(state, Ready) else 0
        tasks: list[asyncio.Task[list[Result]]] = []
        try:
            for start in range(0, len(events), _PART_FILES):
                part = events[start : start + _PART_FILES]
                decoded = await self._decode(part, view_size)
                tasks.append(asyncio.create_task(self._finish(part, decoded)))
            return [result for task in tasks for result in await task]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _decode(
        self, events: Sequence[FileSniffed], view_size: int
    ) -> list[Decoded | Rejected | None]:
        prepared = await asyncio.to_thread(
            lambda: [self._job(event, view_size) for event in events]
        )
        jobs = [job for job in prepared if isinstance(job, Job)]
        answers = iter(await self._pool.map(jobs))
        return [next(answers) if isinstance(job, Job) else job for job in prepared]

    def _job(self, event: FileSniffed, view_size: int) -> Job | Rejected | None:
        if event.format == "unknown":
            return None
        source: Path | bytes | None = self._blobs.local_path(event.blob)
        try:
            if source is None:
                with blob_faults():
                    source = self._blobs.read(event.blob)
            return Job(source, event.format, view_size, self._with_text)
        except BlobGoneError as error:
            return Rejected("blob-gone", str(error))

    async def _finish(
        self, events: Sequence[FileSniffed], decoded: Sequence[Decoded | Rejected | None]
    ) -> list[Result]:
        looked = [answer for answer in decoded if isinstance(answer, Looked)]
        seen = iter(await self._see(looked))
        thumbnails = iter(await asyncio.to_thread(self._keep_thumbnails, looked))
        return [
            self._result(
                event,
                answer,
                *((next(seen), next(thumbnails)) if isinstance(answer, Looked) else (None, None)),
            )
            for event, answer in zip(events, decoded, strict=True)
        ]

    async def _see(self, looked: Sequence[Looked]) -> list[Seen | AbsentModel]:
        views = [answer.look.views for answer in looked if answer.look.views is not None]
        if len(views) == len(looked):
            return await self._embedder.look(views)
        # No view was made, since the model was absent when the batch began.
        state = await self._embedder.state()
        if isinstance(state, Ready):
            raise ServiceFaultError("triton", f"model {state.model} has just come back")
        return [AbsentModel(model=state.model, reason=state.reason[:500])] * len(looked)

    def _keep_thumbnails(self, looked: Sequence[Looked]) -> list[BlobRef]:
        try:
            return [
                self._thumbnails.put(answer.rendered.thumbnail, media_type=THUMBNAIL_MEDIA_TYPE)
                for answer in looked
            ]
        except BlobError as error:
            raise ServiceFaultError("blobs", str(error)) from error

    def _result(
        self,
        event: FileSniffed,
        answer: Decoded | Rejected | None,
        seen: Seen | AbsentModel | None,
        thumbnail: BlobRef | None,
    ) -> Result:
        if isinstance(answer, Rejected):
            return answer
        if isinstance(answer, DecodeError):
            return Rejected(answer.reason_code, answer.detail)
        if isinstance(answer, Failure):
            return Rejected(f"decoder-{answer.reason}", answer.detail)
        problems = list(event.problems)
        found: dict[str, object] = {
            "outcome": "not-an-image",
            "modality": decide_from_header(event.header),
        }
        if isinstance(answer, NoPixels):
            found["outcome"] = "no-pixels"
            problems.append(Problem(code=answer.reason))
        elif answer is not None:
            found = {
                "outcome": "decoded",
                "thumbnail": thumbnail,
                **self._found(event, answer, seen),
            }
            notes = answer.rendered.warnings
            problems += [Problem(code=note.code, detail=note.text) for note in notes]
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
                        "problems": tuple(problems[:32]),
                        "processed_at": self._clock(),
                    }
                ),
            )
        )

    def _found(
        self, event: FileSniffed, answer: Looked, seen: Seen | AbsentModel | None
    ) -> dict[str, object]:
        """Say what the pixels show."""
        rendered, look = answer.rendered, answer.look
        absent = [seen] if isinstance(seen, AbsentModel) else []
        stages = None
        if isinstance(seen, Seen):
            try:
                if self._model.head is not None:
                    self._model.head.check(seen.embedding.model_version)
                    stages = seen.stages
            except PixelHeadError as error:
                absent.append(AbsentModel(model="modality-head", reason=str(error)[:500]))
        evidence = Evidence(
            format=event.format,
            header=event.header,
            relpath=event.relpath,
            pixels=pixel_facts(rendered),
            signals=image_signals(rendered),
            features=look.features,
            stages=stages,
            text=text_opinion(look.words),
        )
        return {
            "pixels": evidence.pixels,
            "signals": evidence.signals,
            "quality": rendered.quality.model_copy(
                update={
                    "text_box_count": look.text_box_count,
                    "text_area_fraction": look.text_area_fraction,
                }
            ),
            "modality": decide(evidence, self._model),
            "attributes": attributes(event.header, event.relpath, look.words, evidence.provenance),
            "embedding": seen.embedding if isinstance(seen, Seen) else None,
            "absent_models": tuple(absent),
        }


def analyze_stage(
    blobs: BlobStore,
    thumbnails: BlobStore,
    pool: IsolatedPool,
    embedder: EmbedderPort,
    *,
    model: ModalityModel,
    clock: Clock,
    with_text: bool = True,
) -> Stage[FileSniffed]:
    """Analyze every file that was sniffed."""
    analyzer = Analyzer(
        blobs, thumbnails, pool, embedder, model=model, clock=clock, with_text=with_text
    )
    return Stage(ANALYZE, (FileSniffed.TOPIC,), decode_event, analyzer.process)  # type: ignore[arg-type]
