"""The profile of a set of units: one sketch per feature, and a sample of whole units.

References and windows are the same thing, so a week is the merge of its days, and a reference is
a profile that was frozen. The sample holds the units whose identities have the smallest hashes
(bottom-k; Cohen, J. Comput. Syst. Sci. 55:441, 1997): uniform, mergeable, and the same whatever
the order. It keeps what separate sketches lose: how features hang together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from streams.profile.drift.features import Feature
from streams.profile.drift.sketches import (
    CategorySketch,
    Float64Array,
    NumericSketch,
    Sketch,
    VectorSketch,
    project,
)
from streams.profile.drift.units import Column, Columns, Unit, columns_of

DEFAULT_SAMPLE_SIZE: Final = 2048
Row = tuple[float | str | tuple[float, ...] | None, ...]
"""One sampled unit: a value for each feature, vectors projected; None is missing."""


def unit_rank(unit_id: str) -> str:
    """Return the place of a unit in the sample: a hash that tells nothing of the identity."""
    return hashlib.sha256(f"drift-sample/{unit_id}".encode()).hexdigest()[:24]


@dataclass(slots=True)
class Profile:
    """Sketches of units; see the module.

    Parameters
    ----------
    features : tuple of Feature
        What is watched; profiles merge when these agree.
    sample_size : int
        How many whole units are kept at most.
    """

    features: tuple[Feature, ...]
    sample_size: int = DEFAULT_SAMPLE_SIZE
    unit_count: int = 0
    sketches: dict[str, Sketch] = field(default_factory=dict)
    sample: dict[str, Row] = field(default_factory=dict)

    def add(self, units: Sequence[Unit]) -> None:
        """Count units; each must come once."""
        if units:
            self.add_columns([u.unit_id for u in units], columns_of(units, self.features))

    def add_columns(self, unit_ids: Sequence[str], columns: Columns) -> None:
        """Count units that are given as columns."""
        projected: dict[str, Column] = {}
        for feature in self.features:
            column = columns.get(feature.name)
            if column is None:
                self._lack(feature, len(unit_ids))
                continue
            if isinstance(column, np.ndarray) and feature.kind == "vector":
                column = project(column)
            projected[feature.name] = column
            self._count(feature, column)
        self.unit_count += len(unit_ids)
        self._sample(unit_ids, projected)

    def merge(self, other: Profile) -> None:
        """Take in the units of another profile.

        Raises
        ------
        ValueError
            If it watches other features.
        """
        if [f.name for f in other.features] != [f.name for f in self.features]:
            msg = "profiles of different features do not merge; make both with one list"
            raise ValueError(msg)
        self.unit_count += other.unit_count
        for name, sketch in other.sketches.items():
            mine = self.sketches.setdefault(name, type(sketch)())
            # Both sides were made for one feature, so they are of one class.
            mine.merge(sketch)  # type: ignore[arg-type]
        self.sample.update(other.sample)
        self._trim()

    def _lack(self, feature: Feature, number: int) -> None:
        if feature.kind != "vector":
            empty: Column = (
                np.full(number, np.nan) if feature.kind == "numeric" else [None] * number
            )
            self._count(feature, empty)
        else:
            sketch = self.sketches.setdefault(feature.name, VectorSketch())
            sketch.missing += number

    def _count(self, feature: Feature, column: Column) -> None:
        if feature.kind == "numeric":
            numeric = self.sketches.setdefault(feature.name, NumericSketch())
            assert isinstance(numeric, NumericSketch)
            numeric.add(np.asarray(column, dtype=np.float64))
        elif feature.kind == "categorical":
            categories = self.sketches.setdefault(feature.name, CategorySketch())
            assert isinstance(categories, CategorySketch)
            categories.add(v if isinstance(v, str) else None for v in column)
        else:
            vectors = self.sketches.setdefault(feature.name, VectorSketch())
            assert isinstance(vectors, VectorSketch)
            vectors.add(np.asarray(column, dtype=np.float64))

    def _sample(self, unit_ids: Sequence[str], columns: Columns) -> None:
        threshold = max(self.sample) if len(self.sample) >= self.sample_size else None
        for index, unit_id in enumerate(unit_ids):
            rank = unit_rank(unit_id)
            if threshold is None or rank < threshold:
                self.sample[rank] = tuple(
                    _cell(columns.get(feature.name), index) for feature in self.features
                )
        self._trim()

    def _trim(self) -> None:
        if len(self.sample) > self.sample_size:
            for rank in sorted(self.sample)[self.sample_size :]:
                del self.sample[rank]

    def sampled_columns(self) -> dict[str, Column]:
        """Return the sample as columns in the order of the hashes; vectors are projected."""
        return self._columns([self.sample[rank] for rank in sorted(self.sample)])

    def add_rows(self, rows: Sequence[Row]) -> None:
        """Count rows of a sample (a simulated window); a row may come more than once."""
        columns = self._columns(rows)
        for feature in self.features:
            if feature.name in columns:
                self._count(feature, columns[feature.name])
            else:
                self._lack(feature, len(rows))
        self._sample([f"row-{self.unit_count + k}" for k in range(len(rows))], columns)
        self.unit_count += len(rows)

    def _columns(self, rows: Sequence[Row]) -> dict[str, Column]:
        columns: dict[str, Column] = {}
        for place, feature in enumerate(self.features):
            values = [row[place] for row in rows]
            if feature.kind == "categorical":
                columns[feature.name] = [v if isinstance(v, str) else None for v in values]
            elif feature.kind == "numeric":
                columns[feature.name] = np.array(
                    [v if isinstance(v, float) else np.nan for v in values]
                )
            else:
                table = _table(values)
                if table.size:
                    columns[feature.name] = table
        return columns


def _cell(column: Column | None, index: int) -> float | str | tuple[float, ...] | None:
    if column is None:
        return None
    if isinstance(column, np.ndarray):
        value = column[index]
        if not bool(np.isfinite(value).all()):
            return None
        # Single precision: what a reference is stored in.
        if column.ndim == 1:
            return float(value)
        return tuple(np.asarray(value, dtype=np.float32).astype(np.float64).tolist())
    return column[index]


def _table(values: Sequence[float | str | tuple[float, ...] | None]) -> Float64Array:
    length = max((len(v) for v in values if isinstance(v, tuple)), default=0)
    table = np.full((len(values), length), np.nan)
    for row, value in enumerate(values):
        if isinstance(value, tuple):
            table[row] = value
    return table
