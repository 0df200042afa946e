"""Sketches: what is kept of many units so that statistics need no look at the units again.

All sketches are *exactly* mergeable: they hold integers and sets only, so that the same units give
the same sketch whatever their order, their batches and the workers that saw them. Floating-point
sums do not have this property, which is why moments are kept in fixed point.

========================= =========================================== ========================
sketch                    what it holds                               ClickHouse holds it as
========================= =========================================== ========================
:class:`NumericSketch`    count per logarithmic bucket, as DDSketch   ``sumMap([bucket], [1])``
                          (Masson et al., VLDB 12:2195, 2019)
:class:`CategorySketch`   count per category, bounded by a bottom-k   ``sumMap([category], [1])``
                          of hashes
:class:`VectorSketch`     fixed-point sums of a projected vector and  ``sumForEach(array)``
                          of its products
bottom-k sample           whole units with the smallest hashes        ``groupArraySorted(k)`` on
(:mod:`.profile`)                                                     ``(hash, row)``
========================= =========================================== ========================

The bucket of a number in SQL is
``toInt32(if(abs(x) < 1e-9, 0, sign(x) * (ceil(log(abs(x)) / 0.01) + 2073)))``; it keeps relative
accuracy of half a percent over 21 decades. t-digests (``quantilesTDigestState``) are smaller, but
depend on the order of merging, which DESIGN.md's promise 3 forbids.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

Float64Array = NDArray[np.float64]
Int64Array = NDArray[np.int64]

LOG_STEP: Final = 0.01
SMALLEST: Final = 1e-9
LARGEST: Final = 1e12
_OFFSET: Final = 2073
MAX_CATEGORIES: Final = 1024
VECTOR_DIMENSIONS: Final = 32
_FIXED_POINT: Final = 1 << 16
_VECTOR_BOUND: Final = 8.0


def bucket_of(values: Float64Array) -> Int64Array:
    """Return the bucket of each finite value; buckets grow with values.

    Parameters
    ----------
    values : ndarray
        float64 ``[n]``, finite. Beyond 1e12 they count as 1e12, below 1e-9 as 0.
    """
    size = np.abs(values)
    clipped = np.clip(size, SMALLEST, LARGEST)
    bucket = np.ceil(np.log(clipped) / LOG_STEP).astype(np.int64) + _OFFSET
    signed = np.where(values < 0, -bucket, bucket)
    return np.where(size < SMALLEST, np.int64(0), signed).astype(np.int64)


def value_of(buckets: Int64Array) -> Float64Array:
    """Return a value in the middle of each bucket, float64 ``[n]``."""
    middle = np.exp((np.abs(buckets) - _OFFSET - 0.5) * LOG_STEP)
    return np.asarray(np.where(buckets == 0, 0.0, np.sign(buckets) * middle))


@dataclass(slots=True)
class NumericSketch:
    """Counts of numbers in logarithmic buckets, and of missing ones."""

    counts: dict[int, int] = field(default_factory=dict)
    missing: int = 0

    def add(self, values: Float64Array) -> None:
        """Count values, float64 ``[n]``; what is not finite counts as missing."""
        finite = np.isfinite(values)
        buckets, counts = np.unique(bucket_of(values[finite]), return_counts=True)
        for bucket, count in zip(buckets.tolist(), counts.tolist(), strict=True):
            self.counts[bucket] = self.counts.get(bucket, 0) + count
        self.missing += int(values.size - finite.sum())

    def merge(self, other: NumericSketch) -> None:
        """Take in the counts of another sketch."""
        for bucket, count in other.counts.items():
            self.counts[bucket] = self.counts.get(bucket, 0) + count
        self.missing += other.missing

    @property
    def present(self) -> int:
        """How many values were there."""
        return sum(self.counts.values())

    def arrays(self) -> tuple[Int64Array, Int64Array]:
        """Return buckets in order and their counts, both int64 ``[k]``."""
        ordered = sorted(self.counts.items())
        return (
            np.array([b for b, _ in ordered], dtype=np.int64),
            np.array([c for _, c in ordered], dtype=np.int64),
        )


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


@dataclass(slots=True)
class CategorySketch:
    """Counts of categories, of missing ones, and of those that were one too many.

    At most :data:`MAX_CATEGORIES` are kept: those whose hashes are the smallest. Whether a
    category is among them depends on the set of categories alone, and one that is at the end
    always was, so its count is exact and the order of arrival makes no difference.
    """

    counts: dict[str, int] = field(default_factory=dict)
    other: int = 0
    missing: int = 0

    def add(self, values: Iterable[str | None]) -> None:
        """Count values; None counts as missing."""
        for value in values:
            if value is None:
                self.missing += 1
            else:
                self.counts[value] = self.counts.get(value, 0) + 1
                if len(self.counts) > 2 * MAX_CATEGORIES:
                    self._bound()
        self._bound()

    def merge(self, other: CategorySketch) -> None:
        """Take in the counts of another sketch."""
        for value, count in other.counts.items():
            self.counts[value] = self.counts.get(value, 0) + count
        self.other += other.other
        self.missing += other.missing
        self._bound()

    def _bound(self) -> None:
        if len(self.counts) > MAX_CATEGORIES:
            ordered = sorted(self.counts, key=lambda value: (_hash(value), value))
            for value in ordered[MAX_CATEGORIES:]:
                self.other += self.counts.pop(value)

    @property
    def present(self) -> int:
        """How many values were there."""
        return sum(self.counts.values()) + self.other


@lru_cache(maxsize=8)
def projection(dimensions: int) -> Float64Array:
    """Return the fixed random projection of vectors of this length, float64 ``[dimensions, 32]``.

    Signs from a hash (Achlioptas, JCSS 66:671, 2003), so that no version of any library changes
    them; lengths are kept on average (Johnson and Lindenstrauss). Short vectors stay as they are.
    """
    if dimensions <= VECTOR_DIMENSIONS:
        return np.eye(dimensions)
    bits = dimensions * VECTOR_DIMENSIONS
    digest = hashlib.shake_256(f"biodatamine/drift/{dimensions}".encode()).digest((bits + 7) // 8)
    signs = np.unpackbits(np.frombuffer(digest, dtype=np.uint8))[:bits].astype(np.float64) * 2 - 1
    return np.asarray(signs.reshape(dimensions, VECTOR_DIMENSIONS) / np.sqrt(VECTOR_DIMENSIONS))


def project(vectors: Float64Array) -> Float64Array:
    """Project ``[n, dim]`` to ``[n, min(dim, 32)]``, float64; rows of NaN stay such."""
    return np.asarray(vectors @ projection(vectors.shape[1]))


@dataclass(slots=True)
class VectorSketch:
    """Mean and covariance of projected vectors, in fixed point."""

    count: int = 0
    missing: int = 0
    sums: Int64Array = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    products: Int64Array = field(default_factory=lambda: np.zeros((0, 0), dtype=np.int64))

    def add(self, projected: Float64Array) -> None:
        """Count projected vectors, float64 ``[n, k]``; rows that are not finite are missing.

        Raises
        ------
        ValueError
            If ``k`` is not that of the vectors before.
        """
        finite = np.isfinite(projected).all(axis=1)
        self.missing += int(projected.shape[0] - finite.sum())
        kept = np.clip(projected[finite], -_VECTOR_BOUND, _VECTOR_BOUND)
        if not kept.shape[0]:
            return
        self._shape(kept.shape[1])
        fixed = np.rint(kept * _FIXED_POINT).astype(np.int64)
        self.count += int(fixed.shape[0])
        self.sums += fixed.sum(axis=0)
        # Exact: 64 bits hold the products of 30 million units at the bound, of more in practice.
        self.products += fixed.T @ fixed

    def merge(self, other: VectorSketch) -> None:
        """Take in the sums of another sketch.

        Raises
        ------
        ValueError
            If it is of vectors of another length.
        """
        self.missing += other.missing
        if other.count:
            self._shape(other.sums.size)
            self.count += other.count
            self.sums += other.sums
            self.products += other.products

    def _shape(self, dimensions: int) -> None:
        if not self.count:
            self.sums = np.zeros(dimensions, dtype=np.int64)
            self.products = np.zeros((dimensions, dimensions), dtype=np.int64)
        elif self.sums.size != dimensions:
            msg = (
                f"vectors of length {dimensions} do not belong to a sketch of {self.sums.size}; "
                "a changed model needs a reference of its own"
            )
            raise ValueError(msg)

    def mean(self) -> Float64Array:
        """Return the mean, float64 ``[k]``; zeros when empty."""
        return np.asarray(self.sums / (max(1, self.count) * _FIXED_POINT))

    def covariance(self) -> Float64Array:
        """Return the covariance, float64 ``[k, k]``."""
        mean = self.mean()
        second = self.products / (max(1, self.count) * float(_FIXED_POINT) ** 2)
        return np.asarray(second - np.outer(mean, mean))


Sketch = NumericSketch | CategorySketch | VectorSketch
