"""The volumetric profile: a series of slices and a NIfTI file are each one entity."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from schemas.events import FileAnalyzed
from schemas.facts import Embedding, ModalityDecision
from streams.series.aggregate import EmbeddingMean, MeanEmbedding
from streams.series.geometry import GeometryReport
from streams.series.projections import choose_planes, spread_planes
from streams.series.slices import SliceHeader
from streams.series.vote import ModalityVote, vote_modality

_Key = TypeVar("_Key", bound=tuple[Any, ...])


@dataclass(frozen=True, slots=True)
class VolumeProfile:
    """What is known of a volume as a whole.

    Parameters
    ----------
    kind : str
        ``series`` or ``nifti``.
    is_volume : bool
        Whether its slices make a volume as they are.
    slice_count : int
        Slices of one volume: positions of the stack, size of a NIfTI file's third axis. Instances
        where there is no stack.
    volume_count : int
        Volumes at the same place: phases, echoes, directions, the fourth axis and beyond.
    rows, columns : int or None
        The commonest matrix.
    voxel_size_mm : tuple of float or None
        Distance of columns, of rows, of slices.
    extent_mm : tuple of float or None
        Size along the same axes, whole voxels.
    plane_indices : tuple of int
        Slices that stand for it, in spatial order; of an odd number the middle one is its
        mid-plane.
    modality : ModalityVote or None
        Vote of its slices.
    embedding : MeanEmbedding or None
        Mean of its slices' embeddings.
    embedding_model, embedding_model_version : str
        Which model's; empty without an embedding.
    """

    kind: Literal["series", "nifti"]
    is_volume: bool
    slice_count: int
    volume_count: int
    rows: int | None
    columns: int | None
    voxel_size_mm: tuple[float, float, float] | None
    extent_mm: tuple[float, float, float] | None
    plane_indices: tuple[int, ...]
    modality: ModalityVote | None
    embedding: MeanEmbedding | None
    embedding_model: str
    embedding_model_version: str


def profile_series(
    report: GeometryReport,
    headers: Sequence[SliceHeader],
    decisions: Iterable[ModalityDecision],
    embeddings: Iterable[Embedding],
    *,
    plane_count: int = 3,
) -> VolumeProfile:
    """Make the profile of a series.

    Parameters
    ----------
    report : GeometryReport
        From ``check_geometry`` of the same headers.
    headers : sequence of SliceHeader
        Its instances.
    decisions : iterable of ModalityDecision
        Decision on each instance that has one.
    embeddings : iterable of Embedding
        Embedding of each instance that has one. Of several models the commonest counts, of equally
        common ones the first by name.
    plane_count : int
        Planes to choose.
    """
    repeats = max(1, round(report.slice_count / report.position_count)) if _is_stack(report) else 1
    matrices = Counter((h.rows, h.columns) for h in headers if h.rows and h.columns)
    rows, columns = _commonest(matrices) or (None, None)
    spacings = Counter(h.pixel_spacing_mm for h in headers if h.pixel_spacing_mm)
    spacing = _commonest(spacings)
    voxel_size = (
        (spacing[1], spacing[0], report.spacing_mm) if spacing and report.spacing_mm else None
    )
    slice_count = report.position_count if _is_stack(report) else report.slice_count
    mean, model, version = _mean(embeddings)
    return VolumeProfile(
        kind="series",
        is_volume=report.is_volume,
        slice_count=slice_count,
        volume_count=repeats,
        rows=rows,
        columns=columns,
        voxel_size_mm=voxel_size,
        extent_mm=_extent(voxel_size, (columns, rows), report.extent_mm),
        plane_indices=_planes(report, plane_count),
        modality=vote_modality(decisions),
        embedding=mean,
        embedding_model=model,
        embedding_model_version=version,
    )


def profile_nifti(event: FileAnalyzed, *, plane_count: int = 3) -> VolumeProfile:
    """Make the profile of a NIfTI file: all of it stands in one event.

    Parameters
    ----------
    event : FileAnalyzed
        Of the file.
    plane_count : int
        Planes to choose.

    Raises
    ------
    ValueError
        If the file is no NIfTI.
    """
    if event.format not in {"nifti", "nifti-pair"}:
        msg = f"a NIfTI file is wanted, and this one is {event.format}"
        raise ValueError(msg)
    header = event.header
    shape = header.shape
    depth = shape[2] if len(shape) > 2 else 1
    size = header.voxel_size_mm
    voxel_size = (size[0], size[1], size[2]) if len(size) >= 3 and min(size[:3]) > 0 else None
    extent = (
        (voxel_size[0] * shape[0], voxel_size[1] * shape[1], voxel_size[2] * shape[2])
        if voxel_size and len(shape) >= 3
        else None
    )
    mean, model, version = _mean([event.embedding] if event.embedding else [])
    return VolumeProfile(
        kind="nifti",
        is_volume=depth > 1,
        slice_count=depth,
        volume_count=math.prod(shape[3:]),
        rows=header.rows,
        columns=header.columns,
        voxel_size_mm=voxel_size,
        extent_mm=extent,
        plane_indices=spread_planes(depth, plane_count),
        modality=vote_modality([event.modality] if event.modality else []),
        embedding=mean,
        embedding_model=model,
        embedding_model_version=version,
    )


def _is_stack(report: GeometryReport) -> bool:
    return report.kind == "stack" and report.position_count > 0


def _planes(report: GeometryReport, count: int) -> tuple[int, ...]:
    if report.kind == "stack":
        return choose_planes(sorted(report.positions_mm), count)
    return spread_planes(report.slice_count, count)


def _extent(
    voxel_size_mm: tuple[float, float, float] | None,
    matrix: tuple[int | None, int | None],
    between_centres_mm: float | None,
) -> tuple[float, float, float] | None:
    columns, rows = matrix
    if voxel_size_mm is None or between_centres_mm is None or not columns or not rows:
        return None
    x, y, z = voxel_size_mm
    return (x * columns, y * rows, between_centres_mm + z)


def _mean(embeddings: Iterable[Embedding]) -> tuple[MeanEmbedding | None, str, str]:
    sums: dict[tuple[str, str, int], EmbeddingMean] = {}
    counts: Counter[tuple[str, str, int]] = Counter()
    for embedding in embeddings:
        key = (embedding.model, embedding.model_version, embedding.dim)
        if key not in sums:
            sums[key] = EmbeddingMean(embedding.dim)
        sums[key].add(embedding.to_array())
        counts[key] += 1
    commonest = _commonest(counts)
    if commonest is None:
        return None, "", ""
    return sums[commonest].result(), commonest[0], commonest[1]


def _commonest(counts: Counter[_Key]) -> _Key | None:
    return min(counts, key=lambda key: (-counts[key], key)) if counts else None
