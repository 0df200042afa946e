"""What models answer, as values, and the checks that an answer has to pass."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streams.inference.errors import BadOutput

UNIT_NORM_TOLERANCE = 1e-3


@dataclass(frozen=True)
class EmbedResult:
    """Embeddings and what made them.

    Parameters
    ----------
    vectors
        float32, shape (N, D); every row has an L2 norm of 1.
    model
        Name in the model repository.
    version
        Backbone and digest of its weights, as the model reports it with every answer.
    stages
        float32, shape (N, S): pooled activations of the backbone's stages, for heads that look at
        texture; None of a model that gives none.
    """

    vectors: NDArray[np.float32]
    model: str
    version: str
    stages: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Ready:
    """A served model.

    Parameters
    ----------
    model
        Name in the model repository.
    version
        Backbone and digest of its weights.
    input_size
        Side of its square input in pixels.
    dim
        Length of its embedding.
    max_batch_size
        Images that one request may carry.
    """

    model: str
    version: str
    input_size: int
    dim: int
    max_batch_size: int


@dataclass(frozen=True)
class Absent:
    """A model that the server does not serve, and why.

    Parameters
    ----------
    model
        Name in the model repository.
    reason
        The server's own reason.
    """

    model: str
    reason: str


def require_unit_norm(
    vectors: NDArray[np.float32], tolerance: float = UNIT_NORM_TOLERANCE
) -> NDArray[np.float32]:
    """Return ``vectors`` if every row is finite and has an L2 norm of 1.

    Parameters
    ----------
    vectors
        float32, shape (N, D).
    tolerance
        Largest allowed distance of a norm from 1.

    Raises
    ------
    BadOutput
        Some row has not; the message names the first.
    """
    if vectors.ndim != 2:
        raise BadOutput(f"embeddings have shape {vectors.shape}, expected (N, D)")
    norms = np.linalg.norm(vectors, axis=1)
    # Written so that a norm that is not a number counts as off.
    off = ~(np.abs(norms - 1) <= tolerance)
    if off.any():
        row = int(np.argmax(off))
        raise BadOutput(
            f"embedding {row} of {len(vectors)} has length {norms[row]:.4g}, expected 1"
        )
    return vectors
