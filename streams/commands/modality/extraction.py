"""Labelled files to evidence: decoded, measured, embedded and read once, in processes, and kept."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from schemas.facts import HeaderFacts, ImageSignals, PixelFacts
from streams.commands.modality.manifest import Row
from streams.modality.evidence import Evidence
from streams.modality.look import Look, look_at
from streams.modality.opinion import Opinion

Float32Array = NDArray[np.float32]

# Raised when what is kept would come out otherwise.
_VERSION = "2"
_TIMEOUT_SECONDS = 180.0
_MEMORY_BYTES = 12 << 30
# What one process works on before the next progress is shown.
_BATCH = 16
_NO_KEY = bytes(32)
# Who was imaged, when and where: no signal asks, and what is kept shall not say.
_PERSONAL = (
    "patient_key", "site_key", "device_key", "patient_age_years", "patient_sex", "acquired_at",
    "study_uid", "series_uid", "instance_uid", "frame_of_reference_uid",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Extracted:
    """What was found in one file.

    Parameters
    ----------
    evidence
        What the signals are asked about; without pixels where there are none to decode.
    problem
        Why there are no pixels; empty otherwise.
    copy_features
        float32 ``[copies, F]``: measurements of augmented copies.
    copy_stages
        float32 ``[copies, V, S]``.
    """

    evidence: Evidence
    problem: str = ""
    copy_features: Float32Array | None = field(default=None, repr=False)
    copy_stages: Float32Array | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Job:
    """One file to extract.

    Parameters
    ----------
    file
        Where it lies.
    name
        Its path, as the path signal is shown it.
    copies
        Augmented copies to make.
    with_text
        Whether to read burnt-in text.
    kept_in
        Folder of what was extracted before; None to keep nothing.
    """

    file: Path
    name: str
    copies: int = 0
    with_text: bool = True
    kept_in: Path | None = None


def extract(
    rows: Sequence[Row],
    *,
    copies: Sequence[int] | None = None,
    with_text: bool = True,
    jobs: int = 0,
    kept_in: Path | None = None,
    on_progress: Callable[[int], None] = lambda done: None,
) -> list[Extracted]:
    """Extract all files.

    Parameters
    ----------
    rows : sequence of Row
        What to extract.
    copies : sequence of int, optional
        Augmented copies of each row's picture, for training; none by default.
    with_text : bool
        Whether to read burnt-in text.
    jobs : int
        Processes; 0 for one for each core.
    kept_in : Path, optional
        Folder where results are kept by content, and found again.
    on_progress : callable
        Told how many files are done.

    Returns
    -------
    list of Extracted
        In the order of the rows; a file that kills its process has a problem and no pixels.
    """
    from streams.runtime.isolation import Failure, IsolatedPool

    if kept_in is not None:
        kept_in.mkdir(parents=True, exist_ok=True)
    pool = IsolatedPool(
        extract_job,
        processes=min(jobs or _cores(), len(rows)),
        timeout_seconds=_TIMEOUT_SECONDS,
        memory_bytes=_MEMORY_BYTES,
    )
    todo = [
        Job(row.file, row.name, count, with_text, kept_in)
        for row, count in zip(rows, copies or [0] * len(rows), strict=True)
    ]

    async def run() -> list[Extracted]:
        answers: list[Extracted] = []
        for start in range(0, len(todo), _BATCH):
            part = todo[start : start + _BATCH]
            answers += [
                Extracted(Evidence("unknown", HeaderFacts(), job.name), f"decoder-{found.reason}")
                if isinstance(found, Failure)
                else found
                for job, found in zip(part, await pool.map(part), strict=True)
            ]
            on_progress(len(answers))
        return answers

    try:
        return asyncio.run(run())
    finally:
        pool.close()


def extract_job(job: Job) -> Extracted:
    """Extract one file, or find what was extracted of the same bytes before."""
    if job.kept_in is None:
        return _extracted(job)
    content = hashlib.sha256(job.file.read_bytes()).hexdigest()
    kept = job.kept_in / f"{content}-{job.copies}-{_fingerprint(job.with_text)}.npz"
    if kept.is_file():
        return _read(kept, job.name)
    found = _extracted(job)
    partial = kept.with_suffix(f".{os.getpid()}")
    partial.write_bytes(_written(found))
    partial.replace(kept)
    return found


def _extracted(job: Job) -> Extracted:
    from streams.pixels import DecodeError, NoPixels, RenderSpec, render
    from streams.sniff import SniffContext, SniffError, sniff

    try:
        with job.file.open("rb") as source:
            found = sniff(
                source,
                size_bytes=job.file.stat().st_size,
                name=job.file.name,
                context=SniffContext(patient_hash_key=_NO_KEY, tenant="modality"),
            )
    except (SniffError, OSError) as error:
        reason = getattr(error, "reason_code", "unreadable")
        return Extracted(Evidence("unknown", HeaderFacts(), job.name), reason)
    header = found.header.model_copy(update=dict.fromkeys(_PERSONAL))
    bare = Evidence(found.format, header, job.name)
    if found.format == "unknown":
        return Extracted(bare, "not-an-image")
    try:
        answer = render(
            job.file,
            found.format,
            RenderSpec(view_sizes=(), thumbnail_max_side=0, with_display=True),
        )
    except DecodeError as error:
        return Extracted(bare, error.reason_code)
    if isinstance(answer, NoPixels):
        return Extracted(bare, answer.reason)
    return _looked_at(job, bare, answer)


def _looked_at(job: Job, bare: Evidence, answer: Any) -> Extracted:
    from streams.modality.learning.augment import export
    from streams.modality.ocr import read_text
    from streams.modality.text import text_opinion
    from streams.pixels.facts import image_signals, pixel_facts

    display, backbone = answer.display, _backbone()
    size = backbone.input_size
    seen = look_at(display, view_size=size, read=read_text if job.with_text else None)
    random = np.random.default_rng(int.from_bytes(hashlib.sha256(display).digest()[:8], "big"))
    copies = [look_at(export(display, random), view_size=size) for _ in range(job.copies)]
    evidence = Evidence(
        format=bare.format,
        header=bare.header,
        relpath=bare.relpath,
        pixels=pixel_facts(answer),
        signals=image_signals(answer),
        features=seen.features,
        stages=_stages(backbone, seen),
        text=text_opinion(seen.words),
    )
    if not copies:
        return Extracted(evidence)
    return Extracted(
        evidence,
        copy_features=np.stack([copy.features for copy in copies]),
        copy_stages=np.stack([_stages(backbone, copy) for copy in copies]),
    )


def _stages(backbone: Any, seen: Look) -> Float32Array:
    _, stages = backbone.embed_with_stages(seen.views)
    return np.asarray(stages, np.float32)


@functools.cache
def _backbone() -> Any:
    from model_repository.backbone import load_backbone
    from model_repository.spec import EmbedderSpec

    return load_backbone(EmbedderSpec(device="cpu", threads=1))


def embedder_version() -> str:
    """Name the embedder that extraction uses.

    Raises
    ------
    WeightsError
        There are no weights for it; the message says where to get some.
    """
    return str(_backbone().version)


def _fingerprint(with_text: bool) -> str:
    """Name everything that decides what is extracted of the same bytes."""
    from streams.modality.crops import VIEWS
    from streams.modality.heuristics import FEATURE_NAMES

    parts = (_VERSION, embedder_version(), VIEWS, FEATURE_NAMES, with_text)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _written(found: Extracted) -> bytes:
    evidence = found.evidence
    facts = {
        "format": evidence.format,
        "header": evidence.header.model_dump(mode="json"),
        "pixels": evidence.pixels and evidence.pixels.model_dump(mode="json"),
        "signals": evidence.signals and evidence.signals.model_dump(mode="json"),
        "text_evidence": evidence.text and evidence.text.evidence,
        "problem": found.problem,
    }
    arrays: dict[str, Any] = {
        "features": evidence.features,
        "stages": evidence.stages,
        "text": evidence.text and evidence.text.log_likelihoods,
        "copy_features": found.copy_features,
        "copy_stages": found.copy_stages,
    }
    buffer = io.BytesIO()
    np.savez(
        buffer,
        facts=np.frombuffer(orjson.dumps(facts), np.uint8),
        **{name: array for name, array in arrays.items() if array is not None},
    )
    return buffer.getvalue()


def _read(path: Path, name: str) -> Extracted:
    with np.load(path, allow_pickle=False) as kept:
        facts = orjson.loads(kept["facts"].tobytes())
        arrays = {key: kept[key] for key in kept.files if key != "facts"}
    evidence = Evidence(
        format=facts["format"],
        header=HeaderFacts.model_validate(facts["header"]),
        relpath=name,
        pixels=facts["pixels"] and PixelFacts.model_validate(facts["pixels"]),
        signals=facts["signals"] and ImageSignals.model_validate(facts["signals"]),
        features=arrays.get("features"),
        stages=arrays.get("stages"),
        text=Opinion("text", arrays["text"], facts["text_evidence"]) if "text" in arrays else None,
    )
    return Extracted(
        evidence, facts["problem"], arrays.get("copy_features"), arrays.get("copy_stages")
    )


def _cores() -> int:
    return len(os.sched_getaffinity(0))
