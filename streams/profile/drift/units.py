"""One unit of drift: a series, whatever the number of its slices.

A CT of 600 slices is one piece of evidence, not 600: slices of one series agree with each other,
and every test that counts them as independent is sure of nonsense. The facts of the files are
reduced to one value per feature: the median of numbers, the most frequent category, the mean of
vectors (brought back to length 1 for embeddings, and projected to 32 dimensions: see
:func:`~streams.profile.drift.sketches.projection`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from schemas.events import FileAnalyzed
from streams.profile.drift.features import (
    CALIBRATION,
    EMBEDDING,
    FEATURES,
    Feature,
    FeatureValue,
    calibration_cell,
)
from streams.profile.drift.sketches import project

Float64Array = NDArray[np.float64]
Column = Float64Array | list[str | None]
"""Numbers float64 ``[n]`` (NaN: missing), categories (None: missing), or vectors ``[n, dim]``
(a row of NaN: missing)."""
Columns = Mapping[str, Column]


@dataclass(frozen=True, slots=True)
class Unit:
    """The facts of one series.

    Parameters
    ----------
    unit_id : str
        Identity across replays: the series, or the file where there is no series.
    study_id : str
        The study it belongs to.
    event_time : datetime
        UTC, when its first file was received: the gateway's clock, which no header can set.
    version : int
        Version of the series; a later one replaces an earlier one as long as that is waiting.
    values : mapping
        Feature name to value; what is missing is left out.
    example : str
        file_id of one file of it, to show.
    """

    unit_id: str
    study_id: str
    event_time: datetime
    values: Mapping[str, FeatureValue] = field(repr=False)
    example: str = ""
    version: int = 1


def unit_of(
    files: Sequence[FileAnalyzed],
    *,
    features: Sequence[Feature] = FEATURES,
    version: int = 1,
    corrections: Mapping[str, str] | None = None,
) -> Unit:
    """Reduce the files of a series to one unit.

    Parameters
    ----------
    files : sequence of FileAnalyzed
        At least one; their order does not matter.
    features : sequence of Feature
        What to take.
    version : int
        Version of the series.
    corrections : mapping, optional
        file_id to the modality that a person gave; makes the value of ``calibration``.

    Raises
    ------
    ValueError
        If there is no file.
    """
    if not files:
        msg = "a unit needs at least one file"
        raise ValueError(msg)
    ordered = sorted(files, key=lambda file: (file.file_id, file.image_id))
    first = ordered[0]
    values: dict[str, FeatureValue] = {}
    for feature in features:
        taken = [value for file in ordered if (value := feature.take(file)) is not None]
        if taken:
            reduced = _reduce(feature, taken)
            if reduced is not None:
                values[feature.name] = reduced
    checked = _calibration(ordered, corrections or {})
    if checked is not None and any(f.name == CALIBRATION for f in features):
        values[CALIBRATION] = checked
    series = first.dicom.series_uid if first.dicom else first.file_id
    study = first.dicom.study_uid if first.dicom else first.file_id
    return Unit(
        unit_id=f"{first.dataset_id}/{series}",
        study_id=f"{first.dataset_id}/{study}",
        event_time=min(file.received_at for file in ordered),
        values=values,
        example=ordered[len(ordered) // 2].file_id,
        version=version,
    )


def _reduce(feature: Feature, taken: Sequence[FeatureValue]) -> FeatureValue | None:
    if feature.kind == "numeric":
        return float(np.median(np.array(taken, dtype=np.float64)))
    if feature.kind == "categorical":
        counts = Counter(str(value) for value in taken)
        # The name decides between equals, so that the order of arrival does not.
        return min(counts, key=lambda category: (-counts[category], category))
    lengths = Counter(len(value) for value in taken if isinstance(value, tuple))
    length = max(lengths, key=lambda n: (lengths[n], n))
    rows = [value for value in taken if isinstance(value, tuple) and len(value) == length]
    mean = np.array(rows, dtype=np.float64).mean(axis=0)
    if feature.name == EMBEDDING:
        norm = float(np.linalg.norm(mean))
        if norm <= 0.0:
            return None
        mean = mean / norm
    return tuple(project(mean[None, :])[0].tolist())


def _calibration(files: Sequence[FileAnalyzed], corrections: Mapping[str, str]) -> str | None:
    for file in files:
        told = corrections.get(file.file_id)
        decision = file.modality
        if told is not None and decision is not None and decision.confidence is not None:
            return calibration_cell(decision.confidence, told == decision.modality)
    return None


def columns_of(units: Sequence[Unit], features: Sequence[Feature]) -> dict[str, Column]:
    """Turn units into one column per feature.

    A vector feature that no unit has is left out. Vectors of another length than the most frequent
    one (a changed model: another scope) count as missing.
    """
    columns: dict[str, Column] = {}
    for feature in features:
        values = [unit.values.get(feature.name) for unit in units]
        if feature.kind == "numeric":
            columns[feature.name] = np.array(
                [v if isinstance(v, (int, float)) else np.nan for v in values], dtype=np.float64
            )
        elif feature.kind == "categorical":
            columns[feature.name] = [v if isinstance(v, str) else None for v in values]
        else:
            lengths = Counter(len(v) for v in values if isinstance(v, tuple))
            if not lengths:
                continue
            length = max(lengths, key=lambda n: (lengths[n], n))
            table = np.full((len(units), length), np.nan)
            for row, value in enumerate(values):
                if isinstance(value, tuple) and len(value) == length:
                    table[row] = value
            columns[feature.name] = table
    return columns
