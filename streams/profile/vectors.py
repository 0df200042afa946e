"""Embeddings as they come in, checked and of length one."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from streams.profile.cells import Float32

MOST_DIMENSIONS = 8192


class BadVector(ValueError):  # noqa: N818 - as ``BadInput`` and its kin are called
    """An embedding that cannot be placed; the message says why."""


def unit(vector: ArrayLike, dimensions: int) -> Float32:
    """Return a vector at length one.

    On unit vectors the squared Euclidean distance is twice the cosine distance, so that both put
    neighbours in the same order.

    Parameters
    ----------
    vector
        Shape (dimensions,).
    dimensions
        Length that the scope's model has.

    Raises
    ------
    BadVector
        If the shape is another, a value is not finite, or all are zero.
    """
    values = np.asarray(vector, dtype=np.float64)
    if values.shape != (dimensions,):
        raise BadVector(
            f"an embedding of shape {values.shape} in a scope of {dimensions} dimensions; a model"
            " of another size is another scope"
        )
    length = float(np.sqrt(values @ values))
    if not np.isfinite(length) or length == 0.0:
        raise BadVector("an embedding that is all zero or not finite; embed the image again")
    return (values / length).astype(np.float32)
