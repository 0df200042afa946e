"""A coarse index: a low-dimensional basis, and the cells that a window falls into.

Image embeddings have some hundred coordinates but vary along a few tens of directions. In the basis
of the principal components, with mean ``m`` and projection ``P``,

    ||x - y||^2  =  ||x - m||^2 + ||y - m||^2 - 2 Px.Py - 2 (residuals' inner product)

and the last term is near zero between vectors of many dimensions. So the first three terms find
candidates, at a tenth of the cost, and the full vectors decide among them. Cells are those of
k-means in the basis (an inverted file: Jegou et al., Product Quantization for Nearest Neighbor
Search, TPAMI 33, 2011); a search looks into the nearest few.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streams.profile.compiled import compiled, dot

Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]

BASIS_SAMPLE = 12_000
_CELLS_SAMPLE_PER_CELL = 40
_LLOYD_ROUNDS = 6
_SEEDED_ROUNDS = 3
_BLOCK = 16_384


@dataclass(frozen=True)
class Basis:
    """Principal directions of a window.

    Parameters
    ----------
    mean
        float32, shape (D,).
    directions
        float32, shape (P, D); orthonormal rows, of descending variance.
    """

    mean: Float32
    directions: Float32

    def project(self, vectors: Float32) -> tuple[Float32, Float32]:
        """Return coordinates, shape (N, P), and squared distances to the mean, shape (N,)."""
        return self.project_rows(vectors, np.arange(vectors.shape[0], dtype=np.int32))

    def project_rows(self, vectors: Float32, rows: Int32) -> tuple[Float32, Float32]:
        """Return the same of some ``rows``, int32 (N,), of ``vectors``, block by block."""
        count = rows.shape[0]
        coordinates = np.empty((count, self.directions.shape[0]), np.float32)
        lengths = np.empty(count, np.float32)
        for begin in range(0, count, _BLOCK):
            centred = vectors[rows[begin : begin + _BLOCK]] - self.mean
            coordinates[begin : begin + _BLOCK] = centred @ self.directions.T
            lengths[begin : begin + _BLOCK] = np.einsum("ij,ij->i", centred, centred)
        return coordinates, lengths


def fit_basis(vectors: Float32, dimensions: int) -> Basis:
    """Return the leading principal directions of a sample.

    Parameters
    ----------
    vectors
        float32, shape (N, D), N >= 1.
    dimensions
        Directions to keep; fewer where D or N is smaller.
    """
    mean = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
    centred = vectors - mean
    _, directions = np.linalg.eigh(centred.T @ centred)
    kept = directions[:, ::-1][:, :dimensions].T
    # The sign of an eigenvector is arbitrary; its largest coordinate shall be positive.
    largest = np.abs(kept).argmax(axis=1)
    signs = np.sign(kept[np.arange(kept.shape[0]), largest])
    return Basis(mean, np.ascontiguousarray(kept * signs[:, None], dtype=np.float32))


def number_of_cells(count: int) -> int:
    """Return how many cells a window of ``count`` vectors is divided into."""
    return int(max(1, min(512, count // 64, round(1.6 * count**0.5))))


def fit_cells(coordinates: Float32, count: int, seeds: Float32 | None = None) -> Float32:
    """Return the centroids of k-means over evenly taken rows: float32, shape (count, P).

    Parameters
    ----------
    coordinates
        float32, shape (N, P).
    count
        Cells, at most N.
    seeds
        Where to begin, shape (S, P); those of the former window keep cells in place.
    """
    step = max(1, coordinates.shape[0] // (count * _CELLS_SAMPLE_PER_CELL))
    sample = np.ascontiguousarray(coordinates[::step])
    spread = np.linspace(0, coordinates.shape[0] - 1, count).astype(np.int64)
    centroids = coordinates[spread].copy()
    if seeds is not None:
        kept = min(count, seeds.shape[0])
        centroids[:kept] = seeds[:kept]
    for _ in range(_LLOYD_ROUNDS if seeds is None else _SEEDED_ROUNDS):
        nearest = assign_cells(sample, centroids)
        sizes = np.bincount(nearest, minlength=count)
        order = np.argsort(nearest, kind="stable")
        bounds = np.concatenate(([0], np.cumsum(sizes)))
        filled = np.flatnonzero(sizes)
        sums = np.add.reduceat(sample[order], bounds[filled], axis=0, dtype=np.float64)
        centroids[filled] = (sums / sizes[filled, None]).astype(np.float32)
        # An empty cell takes a row of the fullest, which has too many.
        empty = np.flatnonzero(sizes == 0)
        if empty.size:
            fullest = np.argsort(-sizes, kind="stable")[: empty.size]
            centroids[empty] = sample[order[bounds[fullest] + sizes[fullest] // 2]]
    return centroids


def assign_cells(coordinates: Float32, centroids: Float32) -> Int32:
    """Return the nearest centroid of every row: int32, shape (N,)."""
    half = 0.5 * np.einsum("ij,ij->i", centroids, centroids)
    nearest = np.empty(coordinates.shape[0], np.int32)
    for begin in range(0, coordinates.shape[0], _BLOCK):
        block = coordinates[begin : begin + _BLOCK]
        nearest[begin : begin + _BLOCK] = (block @ centroids.T - half).argmax(axis=1)
    return nearest


@compiled
def project_one(vector: Any, mean: Any, directions: Any, coordinates: Any) -> Any:
    """Project one vector into ``coordinates``; return its squared distance to the mean."""
    centred = vector - mean
    for i in range(directions.shape[0]):
        coordinates[i] = dot(directions[i], centred)
    return dot(centred, centred)


@compiled
def rank_cells(coordinates: Any, centroids: Any, halves: Any, distances: Any, cells: Any) -> None:
    """Fill ``cells``, int32 (K,), with the nearest cells, nearest first.

    ``halves`` are half the centroids' squared lengths; ``distances``, float32 (K,), is scratch.
    """
    distances[:] = np.inf
    cells[:] = -1
    last = distances.shape[0] - 1
    for cell in range(centroids.shape[0]):
        distance = halves[cell] - dot(coordinates, centroids[cell])
        if distance < distances[last]:
            place = last
            while place > 0 and distances[place - 1] > distance:
                distances[place] = distances[place - 1]
                cells[place] = cells[place - 1]
                place -= 1
            distances[place] = distance
            cells[place] = cell
