"""Two questions about an image, kept apart: is it unlike its own scope, and unlike everything seen.

Both compare the distance to its ``min_samples``-th neighbour in a reference with what the
reference's own images have among themselves. The share of them that lie as far out, or farther, is
a conformal p-value (Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World, 2005;
Laxhammar and Falkman, 2010): of images from where the reference came, no more than a share ``a``
falls below ``a``, whatever their distribution. Unlike everything means unlike each of many
references. The largest of their p-values says so: for an image that came from any one of them, it
is at least that one's own, so the rate holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streams.profile.cells import (
    BASIS_SAMPLE,
    Float32,
    assign_cells,
    fit_basis,
    fit_cells,
    number_of_cells,
)
from streams.profile.index import SlotIndex

LEAST_CALIBRATION = 200
CALIBRATION_SAMPLE = 5000
_PROBES = 12
_DIMENSIONS = 96


@dataclass(frozen=True)
class Calibration:
    """Distances that are usual.

    Parameters
    ----------
    squared
        float32, shape (N,), ascending: squared core distances of a reference's own images.
    """

    squared: Float32

    @classmethod
    def of(cls, core: Float32) -> Calibration:
        """Return the calibration by squared core distances in any order."""
        return cls(np.sort(core))

    def p_value(self, squared: float) -> float | None:
        """Return the p-value of a squared core distance; None where too few are known."""
        count = self.squared.shape[0]
        if count < LEAST_CALIBRATION:
            return None
        # Ties count as farther out: the p-value may be too large, never too small.
        farther = count - int(np.searchsorted(self.squared, np.float32(squared), side="left"))
        return (farther + 1) / (count + 1)


def own_core(index: SlotIndex, slot: int, min_samples: int, probes: int) -> float:
    """Return the squared core distance of a slot that is in the index, itself left out."""
    squared, slots = index.search(index.vectors[slot], min_samples + 1, probes)
    squared = squared[slots != slot][:min_samples]
    return float(squared[-1]) if squared.size else float("inf")


@dataclass(frozen=True)
class Neighbour:
    """An image near to another one.

    Parameters
    ----------
    key
        Its key.
    distance
        Euclidean distance of unit vectors, 0 to 2.
    """

    key: str
    distance: float


@dataclass(frozen=True)
class Comparison:
    """What a reference says of an image.

    Parameters
    ----------
    p_value
        Share of the reference that lies as far out; None if the reference is too small to say.
    distance
        Distance to the ``min_samples``-th neighbour.
    nearest
        The nearest images of the reference, nearest first.
    """

    p_value: float | None
    distance: float
    nearest: tuple[Neighbour, ...]


class OutlierReference:
    """Images that are known to be usual, to compare others with. It does not change.

    Parameters
    ----------
    keys
        Key of each vector.
    vectors
        float32, shape (N, D): distinct, of length one. A sample of ten thousand tells nearly as
        much as a million.
    min_samples
        Which neighbour's distance counts.

    Raises
    ------
    ValueError
        If there are no more vectors than ``min_samples``, or not as many keys.
    """

    def __init__(self, keys: Sequence[str], vectors: Float32, min_samples: int = 10) -> None:
        count = vectors.shape[0]
        if count <= min_samples or len(keys) != count:
            raise ValueError(
                f"a reference of {count} vectors and {len(keys)} keys; it needs more than"
                f" {min_samples} vectors and a key for each"
            )
        self._keys = tuple(keys)
        self._min_samples = min_samples
        rows = np.arange(count, dtype=np.int32)
        basis = fit_basis(vectors[:: max(1, count // BASIS_SAMPLE)], _DIMENSIONS)
        coordinates, lengths = basis.project(vectors)
        centroids = fit_cells(coordinates, number_of_cells(count))
        cells = assign_cells(coordinates, centroids)
        self._index = SlotIndex(vectors, basis, centroids)
        self._index.fill(rows, coordinates, lengths, cells)
        # By the very search that images are compared with later: what it misses now and then it
        # misses in both, and the rate holds.
        sample = rows[:: max(1, count // CALIBRATION_SAMPLE)]
        self.calibration = Calibration.of(
            np.array(
                [own_core(self._index, int(row), min_samples, _PROBES) for row in sample],
                np.float32,
            )
        )

    def compare(self, vector: Float32, shown: int = 5) -> Comparison:
        """Compare a vector of length one that is not part of the reference."""
        squared, rows = self._index.search(vector, self._min_samples, _PROBES)
        return Comparison(
            self.calibration.p_value(float(squared[-1])) if squared.size else None,
            float(np.sqrt(squared[-1])) if squared.size else float("inf"),
            tuple(
                Neighbour(self._keys[row], float(np.sqrt(distance)))
                for distance, row in zip(squared[:shown], rows[:shown], strict=True)
            ),
        )


@dataclass(frozen=True)
class Novelty:
    """Whether an image is unlike everything seen.

    Parameters
    ----------
    p_value
        The largest of the references' p-values; None if no reference is large enough.
    likest
        Name of the reference that it resembles most.
    by_reference
        What each says.
    """

    p_value: float | None
    likest: str | None
    by_reference: Mapping[str, Comparison]


def unlike_everything(vector: Float32, references: Mapping[str, OutlierReference]) -> Novelty:
    """Compare an image with the references of many scopes, by name.

    All of one embedding model version: vectors of another are not comparable.
    """
    said = {name: references[name].compare(vector) for name in sorted(references)}
    able = [(one.p_value, name) for name, one in said.items() if one.p_value is not None]
    if not able:
        return Novelty(None, None, said)
    largest = max(p for p, _ in able)
    # Of references that tie at the floor, the nearest is likest.
    likest = min(
        (said[name].nearest[0].distance, name)
        for p, name in able
        if p == largest and said[name].nearest
    )[1]
    return Novelty(largest, likest, said)


@dataclass(frozen=True)
class Deviation:
    """A feature that is not what it usually is.

    Parameters
    ----------
    feature
        Its name.
    value, usual
        What it is, and the median.
    score
        Distance from the median in robust standard deviations; signed.
    """

    feature: str
    value: float
    usual: float
    score: float


class UsualFeatures:
    """Medians and spreads of named numbers (noise, foreground area, rows, window width).

    Parameters
    ----------
    names
        Of the columns.
    table
        float64, shape (N, F); NaN where an image lacks a feature.
    """

    def __init__(self, names: Sequence[str], table: NDArray[np.float64]) -> None:
        self._names = tuple(names)
        self._known = np.isfinite(table).sum(axis=0)
        self._median = np.full(len(names), np.nan)
        self._spread = np.full(len(names), np.nan)
        for column in range(len(names)):
            values = table[np.isfinite(table[:, column]), column]
            if values.size == 0:
                continue
            low, median, high = np.quantile(values, (0.25, 0.5, 0.75))
            self._median[column] = median
            # The normal distribution's quartiles are 1.349 standard deviations apart. A feature
            # that is nearly always one value has quartiles at it: then all values tell the spread.
            spread = (high - low) / 1.349
            self._spread[column] = spread if spread > 0 else float(values.std())

    def deviations(self, features: Mapping[str, float], most: int = 3) -> tuple[Deviation, ...]:
        """Return the features that deviate most, most first; those never known are left out."""
        found = []
        for column, name in enumerate(self._names):
            value = features.get(name, float("nan"))
            if not np.isfinite(value) or self._known[column] < LEAST_CALIBRATION:
                continue
            usual = float(self._median[column])
            # One per mille of the value itself, where a feature never varied at all.
            unit = max(float(self._spread[column]), 1e-3 * abs(usual), 1e-12)
            found.append(Deviation(name, float(value), usual, (float(value) - usual) / unit))
        found.sort(key=lambda one: (-abs(one.score), one.feature))
        return tuple(found[:most])
