"""One embedding for a volume: the mean direction of its slices, and how far they spread."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

# Sums are kept in whole steps of 2**-32: integers add up to the same in any order, so that a
# replay gives the same vector to the last bit. 2**31 unit vectors fit.
_STEPS: Final = float(2**32)
_UNIT_TOLERANCE: Final = 1e-3
_NO_DIRECTION: Final = 1e-6


@dataclass(frozen=True, slots=True)
class MeanEmbedding:
    """The aggregated embedding of a volume.

    Parameters
    ----------
    vector : ndarray or None
        float32 ``[dim]``, unit length; None if the slices point everywhere alike.
    dispersion : float
        1 less the length of the mean of unit vectors, 0 (all alike) to 1: the spherical variance
        of Mardia and Jupp, Directional Statistics (2000), section 9.2.1.
    count : int
        Vectors that it is the mean of.
    skipped_count : int
        Vectors that were zero or not finite.
    """

    vector: NDArray[np.float32] | None = field(repr=False)
    dispersion: float
    count: int
    skipped_count: int


class EmbeddingMean:
    """Adds up the embeddings of a volume's slices, in any order and in parts.

    Parameters
    ----------
    dim : int
        Length of the vectors.
    """

    def __init__(self, dim: int) -> None:
        if dim < 1:
            msg = f"an embedding has at least one dimension, not {dim}"
            raise ValueError(msg)
        self._sum = np.zeros(dim, np.int64)
        self._count = 0
        self._skipped = 0

    def add(self, vector: NDArray[Any]) -> None:
        """Take one slice's embedding, ``[dim]``; it is brought to unit length.

        Raises
        ------
        ValueError
            If it has another length: embeddings of two models cannot be averaged.
        """
        if vector.shape != self._sum.shape:
            msg = f"embeddings of shape {vector.shape} and {self._sum.shape} are of two models"
            raise ValueError(msg)
        values = vector.astype(np.float64)
        length = math.sqrt(float(values @ values)) if np.isfinite(values).all() else math.nan
        if not 0 < length < math.inf:
            self._skipped += 1
            return
        # Already unit vectors are taken as they are: each step exact.
        if abs(length - 1) > _UNIT_TOLERANCE:
            values /= length
        self._sum += np.rint(values * _STEPS).astype(np.int64)
        self._count += 1

    def merge(self, other: EmbeddingMean) -> None:
        """Take what another one has added up."""
        if other._sum.shape != self._sum.shape:
            msg = f"embeddings of shape {other._sum.shape} and {self._sum.shape} are of two models"
            raise ValueError(msg)
        self._sum += other._sum
        self._count += other._count
        self._skipped += other._skipped

    def result(self) -> MeanEmbedding | None:
        """Return the mean; None without a usable vector."""
        if not self._count:
            return None
        mean = self._sum / (_STEPS * self._count)
        length = math.sqrt(float(mean @ mean))
        vector = (mean / length).astype(np.float32) if length > _NO_DIRECTION else None
        dispersion = min(1.0, max(0.0, 1.0 - length))
        return MeanEmbedding(vector, dispersion, self._count, self._skipped)
