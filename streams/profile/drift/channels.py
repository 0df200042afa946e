"""Channels: every feature as one or more sequences of cells with known reference probabilities.

A detector that looks at each unit as it comes wants to know how likely what it sees was. So the
values of a feature are put into a few cells: the categories of the reference, the distinct values
of a number that has few, else ranges between quantiles of the reference that are finer at the
tails. "Missing" is a cell, and so is "never seen".

Numbers that each scanner sets for itself (its windows, its protocol, its noise) get a second
channel, the ratio to the median of the scanner's model: the spread between models would hide a
shift of all of them. A vector becomes its leading principal components and its Mahalanobis
distance, each cut at quantiles. One more channel, ``joint``, is how surprising the whole unit is:
it sees what is odd in combination.

What the reference never showed still has a probability: that of the next value being new is about
the share of values that were seen once (Good, Biometrika 40:237, 1953).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from streams.profile.drift.features import Feature
from streams.profile.drift.reference import Reference
from streams.profile.drift.sketches import (
    CategorySketch,
    Float64Array,
    Int64Array,
    NumericSketch,
    VectorSketch,
    bucket_of,
    project,
    value_of,
)
from streams.profile.drift.units import Column, Columns, Unit, columns_of

Cells = NDArray[np.int16]
"""One row per unit and one column per channel; -1: this unit says nothing there."""

JOINT: Final = "joint"
MISSING: Final = 0
NOVEL: Final = 1
"""Every channel begins with these two cells; NOVEL is empty where values are ranges."""
_FIRST_LABELS: Final = ("missing", "never seen")
_FEW_VALUES: Final = 24
_MAX_NAMED_CATEGORIES: Final = 40
_LEVELS: Final = (0.001, 0.02, 0.06, 0.14, 0.26, 0.42, 0.58, 0.74, 0.86, 0.94, 0.98, 0.999)
_HEAVY_SHARE: Final = 0.05
_COMPONENTS: Final = 6
MODEL: Final = "header.manufacturer_model"
_SET_BY_SCANNER: Final = frozenset({"display", "protocol", "texture"})
_MIN_OF_MODEL: Final = 20


@dataclass(frozen=True, slots=True)
class Channel:
    """One sequence of cells.

    Parameters
    ----------
    name : str
        Name of the feature, and for vectors the component after ``#``.
    feature : Feature or None
        Whose; None for the joint channel.
    probabilities : ndarray
        float64 ``[cells]``, of the reference; sums to 1.
    scores : ndarray
        float64 ``[cells]``: normal score of each cell for ordered values; NaN where a cell has no
        place in an order.
    reference_count : int
        Units behind the probabilities.
    labels : tuple of str
        What to call each cell.
    ranges : bool
        Whether the cells are ranges of a number, from low to high.
    """

    name: str
    feature: Feature | None
    probabilities: Float64Array = field(repr=False)
    scores: Float64Array = field(repr=False)
    reference_count: int
    labels: tuple[str, ...] = field(repr=False)
    ranges: bool = False

    @property
    def mixed_in(self) -> tuple[int, ...]:
        """Cells that something new may fall into: all, and of ranges those at the ends."""
        cells = range(len(self.probabilities))
        return (*cells[:4], *cells[-2:]) if self.ranges and len(cells) > 6 else tuple(cells)

    @property
    def group(self) -> str:
        """Group of its feature."""
        return self.feature.group if self.feature else JOINT


@dataclass(frozen=True, slots=True)
class _Ranges:
    """Cells of ordered integers: every distinct one, or ranges that end at ``edges``."""

    edges: Int64Array
    distinct: bool

    @property
    def size(self) -> int:
        """Number of cells, MISSING and NOVEL and what lies above the last range among them."""
        return len(self.edges) + (2 if self.distinct else 3)

    def encode(self, values: Int64Array, present: NDArray[np.bool_]) -> Cells:
        place = np.searchsorted(self.edges, values, side="left")
        cells = place + 2
        if self.distinct:
            inside = np.minimum(place, len(self.edges) - 1)
            cells = np.where(self.edges[inside] == values, cells, NOVEL)
        return np.where(present, cells, MISSING).astype(np.int16)

    def labels(self) -> tuple[str, ...]:
        values = [f"{value:.4g}" for value in value_of(self.edges).tolist()]
        if self.distinct:
            return (*_FIRST_LABELS, *values)
        between = [f"{low} to {high}" for low, high in pairwise(values)]
        return (*_FIRST_LABELS, f"up to {values[0]}", *between, f"above {values[-1]}")


def _ranges(values: Int64Array, counts: Int64Array) -> _Ranges:
    if len(values) <= _FEW_VALUES:
        return _Ranges(values, distinct=True)
    share = counts / counts.sum()
    cumulative = np.cumsum(share)
    edges = {int(values[np.searchsorted(cumulative, level)]) for level in _LEVELS}
    for value in values[share >= _HEAVY_SHARE].tolist():
        edges |= {value - 1, value}
    return _Ranges(np.array(sorted(edges), dtype=np.int64), distinct=False)


def _channel(
    name: str,
    feature: Feature | None,
    counts: Int64Array,
    singles: int,
    labels: tuple[str, ...],
    *,
    ordered: bool,
    ranges: bool = False,
) -> Channel:
    """Make a channel of the reference's counts per cell, MISSING and NOVEL first."""
    total = int(counts.sum())
    weights = counts.astype(np.float64)
    weights[NOVEL] = weights[NOVEL] + max(1, singles)
    weights = np.maximum(weights, 0.5)
    probabilities = weights / weights.sum()
    scores = np.full(len(counts), np.nan)
    if ordered and len(counts) > 3:
        inner = probabilities[2:] / probabilities[2:].sum()
        scores[2:] = ndtri(np.cumsum(inner) - inner / 2)
    return Channel(name, feature, probabilities, scores, total, labels, ranges)


@dataclass(frozen=True, slots=True)
class _Relative:
    """The median of a number for each model of scanner, and the cells of the ratio to it."""

    medians: dict[str | None, float]
    ranges: _Ranges

    def encode(self, values: Float64Array, models: Sequence[str | None]) -> Cells:
        return _encode_ranges(self.ranges, _ratio(values, models, self.medians))


def _ratio(
    values: Float64Array, models: Sequence[str | None], medians: dict[str | None, float]
) -> Float64Array:
    own = np.fromiter((medians.get(m, np.nan) for m in models), np.float64, count=len(models))
    return values / own


def _medians(values: Float64Array, models: Sequence[str | None]) -> dict[str | None, float]:
    """Return the medians of models with enough values; those near zero give no ratio."""
    by_model: dict[str | None, list[float]] = {}
    for value, model in zip(values.tolist(), models, strict=True):
        if np.isfinite(value):
            by_model.setdefault(model, []).append(value)
    found = {m: float(np.median(v)) for m, v in by_model.items() if len(v) >= _MIN_OF_MODEL}
    return {model: median for model, median in found.items() if abs(median) > 1e-9}


@dataclass(frozen=True, slots=True)
class _Pca:
    """Principal components of projected vectors, and the distance from their mean."""

    mean: Float64Array
    basis: Float64Array
    whitening: Float64Array

    def apply(self, vectors: Float64Array) -> Float64Array:
        """Return components and distance, float64 ``[n, components + 1]``."""
        centred = vectors - self.mean
        white = centred @ self.whitening
        distance = np.sqrt((white**2).sum(axis=1))
        return np.column_stack((centred @ self.basis, distance))


def _pca(sketch: VectorSketch) -> _Pca:
    covariance = sketch.covariance()
    size = covariance.shape[0]
    # A little of the mean variance keeps directions without any from dividing by nothing.
    ridge = max(1e-12, 0.01 * float(np.trace(covariance)) / size)
    variances, vectors = np.linalg.eigh(covariance + ridge * np.eye(size))
    vectors = vectors[:, ::-1]
    variances = variances[::-1]
    largest = np.abs(vectors).argmax(axis=0)
    vectors = vectors * np.sign(vectors[largest, np.arange(size)])
    scaled = vectors / np.sqrt(variances)
    return _Pca(sketch.mean(), scaled[:, :_COMPONENTS], scaled)


class Encoder:
    """Turns units into cells, by one reference.

    Parameters
    ----------
    reference : Reference
        Where the cells and their probabilities come from.

    Attributes
    ----------
    channels : tuple of Channel
        What :meth:`encode` returns a column for.
    sampled : ndarray
        Cells of the reference's sample, int16 ``[n, channels]``.
    """

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        self.features = reference.features
        self._categories: dict[str, dict[str | None, int]] = {}
        self._numbers: dict[str, _Ranges] = {}
        self._relatives: dict[str, _Relative] = {}
        self._vectors: dict[str, tuple[_Pca, tuple[_Ranges, ...]]] = {}
        self._skips: list[int] = []
        channels: list[Channel] = []
        sample = reference.profile.sampled_columns()
        for feature in self.features:
            sketch = reference.profile.sketches.get(feature.name)
            made: list[Channel] = []
            if isinstance(sketch, CategorySketch):
                made = [self._category(feature, sketch)]
            elif isinstance(sketch, NumericSketch):
                made = [self._number(feature, sketch), *self._relative(feature, sample)]
            elif isinstance(sketch, VectorSketch) and sketch.count and feature.name in sample:
                made = self._vector(feature, sketch, np.asarray(sample[feature.name]))
            if feature.skip_missing:
                self._skips += range(len(channels), len(channels) + len(made))
            channels += made
        self._plain = tuple(channels)
        groups = Counter(channel.group for channel in channels)
        self._surprise = [
            -np.log(channel.probabilities) / groups[channel.group] for channel in channels
        ]
        plain = self._encode(sample, len(reference.profile.sample), projected=True)
        whole = self._joint(plain)
        buckets, counts = np.unique(whole, return_counts=True)
        self._whole = _ranges(buckets, counts)
        joint = self._whole.encode(whole, np.ones(len(whole), dtype=np.bool_))
        self.sampled: Cells = np.column_stack((plain, joint))
        self.channels = (
            *self._plain,
            _channel(
                JOINT,
                None,
                np.bincount(joint, minlength=self._whole.size),
                1,
                self._whole.labels(),
                ordered=True,
                ranges=not self._whole.distinct,
            ),
        )

    def encode(self, columns: Columns, count: int) -> Cells:
        """Return the cells of units given as columns, int16 ``[count, channels]``."""
        plain = self._encode(columns, count, projected=False)
        whole = self._whole.encode(self._joint(plain), np.ones(count, dtype=np.bool_))
        return np.column_stack((plain, whole))

    def encode_units(self, units: Sequence[Unit]) -> Cells:
        """Return the cells of units, int16 ``[len(units), channels]``."""
        return self.encode(columns_of(units, self.features), len(units))

    def _joint(self, cells: Cells) -> Int64Array:
        total = np.zeros(cells.shape[0])
        for column, surprise in enumerate(self._surprise):
            chosen = cells[:, column]
            total += np.where(chosen >= 0, surprise[chosen], 0.0)
        return bucket_of(total)

    def _encode(self, columns: Columns, count: int, *, projected: bool) -> Cells:
        parts: list[Cells] = []
        models = _models(columns, count)
        for feature in self.features:
            column = columns.get(feature.name)
            if feature.name in self._categories:
                parts.append(self._encode_category(feature.name, column, count))
            elif feature.name in self._numbers:
                numbers = (
                    np.full(count, np.nan) if column is None else np.asarray(column, np.float64)
                )
                parts.append(_encode_ranges(self._numbers[feature.name], numbers))
                if feature.name in self._relatives:
                    parts.append(self._relatives[feature.name].encode(numbers, models))
            elif feature.name in self._vectors:
                parts.append(self._encode_vector(feature.name, column, count, projected=projected))
        cells = np.column_stack(parts) if parts else np.zeros((count, 0), dtype=np.int16)
        for column_index in self._skips:
            chosen = cells[:, column_index]
            cells[:, column_index] = np.where(chosen == MISSING, -1, chosen)
        return cells

    def _encode_category(self, name: str, column: Column | None, count: int) -> Cells:
        table = self._categories[name]
        if column is None:
            return np.full(count, MISSING, dtype=np.int16)
        return np.fromiter(
            (table.get(v, NOVEL) for v in column),
            dtype=np.int16,
            count=count,
        )

    def _encode_vector(
        self, name: str, column: Column | None, count: int, *, projected: bool
    ) -> Cells:
        pca, ranges = self._vectors[name]
        derived = np.full((count, len(ranges)), np.nan)
        if column is not None:
            vectors = np.asarray(column, dtype=np.float64)
            if not projected:
                vectors = project(vectors)
            if vectors.shape[1] == pca.mean.size:
                derived = pca.apply(vectors)
        return np.column_stack([_encode_ranges(r, derived[:, k]) for k, r in enumerate(ranges)])

    def _category(self, feature: Feature, sketch: CategorySketch) -> Channel:
        ordered = sorted(sketch.counts, key=lambda name: (-sketch.counts[name], name))
        named = ordered[:_MAX_NAMED_CATEGORIES]
        rest = ordered[_MAX_NAMED_CATEGORIES:]
        table: dict[str | None, int] = {None: MISSING}
        table.update({name: place + 2 for place, name in enumerate(named)})
        # Rare categories share a cell behind the named ones; only what is new is novel.
        table.update(dict.fromkeys(rest, len(named) + 2))
        counts = [0 if feature.skip_missing else sketch.missing, sketch.other]
        counts += [sketch.counts[name] for name in named]
        counts += [sum(sketch.counts[name] for name in rest)] if rest else []
        singles = sum(1 for count in sketch.counts.values() if count == 1)
        self._categories[feature.name] = table
        labels = (*_FIRST_LABELS, *named, *(["one of the rare ones"] if rest else []))
        return _channel(feature.name, feature, np.array(counts), singles, labels, ordered=False)

    def _number(self, feature: Feature, sketch: NumericSketch) -> Channel:
        buckets, counts = sketch.arrays()
        ranges = _ranges(buckets, counts) if len(buckets) else _Ranges(np.zeros(1, np.int64), True)
        self._numbers[feature.name] = ranges
        cells = ranges.encode(buckets, np.ones(len(buckets), dtype=np.bool_))
        held = np.bincount(cells, weights=counts, minlength=ranges.size).astype(np.int64)
        held[MISSING] = 0 if feature.skip_missing else sketch.missing
        singles = int((counts == 1).sum()) if ranges.distinct else 1
        return _channel(
            feature.name,
            feature,
            held,
            singles,
            ranges.labels(),
            ordered=True,
            ranges=not ranges.distinct,
        )

    def _relative(self, feature: Feature, sample: Columns) -> list[Channel]:
        column, models = sample.get(feature.name), sample.get(MODEL)
        if feature.group not in _SET_BY_SCANNER or column is None or models is None:
            return []
        values, names = np.asarray(column, np.float64), _models(sample, len(column))
        medians = _medians(values, names)
        if len(medians) < 2:
            return []
        ratios = _ratio(values, names, medians)
        buckets, counts = np.unique(bucket_of(ratios[np.isfinite(ratios)]), return_counts=True)
        cut = _ranges(buckets, counts)
        held = np.bincount(_encode_ranges(cut, ratios), minlength=cut.size)
        self._relatives[feature.name] = _Relative(medians, cut)
        singles = int((counts == 1).sum()) if cut.distinct else 1
        name = f"{feature.name}#by-model"
        return [
            _channel(
                name, feature, held, singles, cut.labels(), ordered=True, ranges=not cut.distinct
            )
        ]

    def _vector(
        self, feature: Feature, sketch: VectorSketch, sampled: Float64Array
    ) -> list[Channel]:
        pca = _pca(sketch)
        derived = pca.apply(sampled)
        channels, ranges = [], []
        for component in range(derived.shape[1]):
            values = derived[:, component]
            present = np.isfinite(values)
            buckets, counts = np.unique(bucket_of(values[present]), return_counts=True)
            cut = _ranges(buckets, counts)
            held = np.bincount(_encode_ranges(cut, values), minlength=cut.size)
            name = "distance" if component == derived.shape[1] - 1 else f"{component + 1}"
            channels.append(
                _channel(
                    f"{feature.name}#{name}",
                    feature,
                    held,
                    1,
                    cut.labels(),
                    ordered=True,
                    ranges=not cut.distinct,
                )
            )
            ranges.append(cut)
        self._vectors[feature.name] = (pca, tuple(ranges))
        return channels


def _models(columns: Columns, count: int) -> list[str | None]:
    column = columns.get(MODEL)
    if column is None:
        return [None] * count
    return [value if isinstance(value, str) else None for value in column]


def _encode_ranges(ranges: _Ranges, values: Float64Array) -> Cells:
    present = np.isfinite(values)
    return ranges.encode(bucket_of(np.where(present, values, 0.0)), present)
