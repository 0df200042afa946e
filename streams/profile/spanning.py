"""The minimum spanning tree of mutual reachability, from a graph of nearest neighbours.

Mutual reachability of two vectors is the largest of their distance and their two core distances, a
core distance being that to the ``min_samples``-th neighbour (Campello, Moulavi and Sander,
Density-Based Clustering Based on Hierarchical Density Estimates, PAKDD 2013). Inside what the graph
connects, its edges are those of the full tree but for a few; between what it leaves apart, the
shortest bridges are looked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streams.profile.cells import Float32, Int32
from streams.profile.compiled import compiled, squared_distance
from streams.profile.neighbours import Neighbours

_NEAR_PARTS = 8
_SHORTEST_SQUARED = 1e-12


@dataclass(frozen=True)
class SpanningTree:
    """Edges of a spanning tree, shortest first.

    Parameters
    ----------
    left, right
        int32, shape (N - 1,): rows.
    lengths
        float64, shape (N - 1,): mutual reachability distances.
    """

    left: Int32
    right: Int32
    lengths: NDArray[np.float64]


def core_squared(neighbours: Neighbours, min_samples: int) -> Float32:
    """Return squared core distances, shape (N,); the last known neighbour's where too few."""
    column = min(min_samples, neighbours.squared.shape[1]) - 1
    finite = np.where(np.isfinite(neighbours.squared), neighbours.squared, -np.inf)
    core = finite[:, : column + 1].max(axis=1)
    squared: Float32 = np.maximum(core, _SHORTEST_SQUARED).astype(np.float32)
    return squared


def spanning_tree(
    vectors: Float32, rows: Int32, neighbours: Neighbours, core: Float32
) -> SpanningTree:
    """Return the minimum spanning tree of mutual reachability.

    Parameters
    ----------
    vectors
        float32, shape (M, D).
    rows
        int32, shape (N,): which of them make the window; N >= 2.
    neighbours
        Of every row, N by K.
    core
        float32, shape (N,): squared core distances.
    """
    count, width = neighbours.members.shape
    left = np.repeat(np.arange(count, dtype=np.int32), width)
    right = neighbours.members.ravel()
    keep = right >= 0
    left, right, distances = left[keep], right[keep], neighbours.squared.ravel()[keep]
    weights = np.maximum(distances, np.maximum(core[left], core[right]))
    part = np.arange(count, dtype=np.int32)
    chosen = [_grow(part, left, right, weights)]
    while True:
        roots = _roots(part)
        _, part_of = np.unique(roots, return_inverse=True)
        if int(part_of.max()) == 0:
            break
        bridges = _bridges(vectors, rows, core, part_of.astype(np.int32))
        chosen.append(_grow(part, *bridges))
    tree = [np.concatenate(column) for column in zip(*chosen, strict=True)]
    order = np.argsort(tree[2], kind="stable")
    return SpanningTree(tree[0][order], tree[1][order], np.sqrt(tree[2][order], dtype=np.float64))


def _grow(part: Int32, left: Int32, right: Int32, weights: Float32) -> tuple[Int32, Int32, Float32]:
    # Kruskal's algorithm: shortest first, unless it would close a ring.
    order = np.argsort(weights, kind="stable").astype(np.int32)
    taken = _kruskal(part, left, right, order)
    return left[taken], right[taken], weights[taken]


@compiled
def find(part: Any, member: Any) -> Any:
    """Return the root of ``member`` in a union-find forest, halving the way there."""
    while part[member] != member:
        part[member] = part[part[member]]
        member = part[member]
    return member


@compiled
def _kruskal(part: Any, left: Any, right: Any, order: Any) -> Any:
    taken = np.empty(part.shape[0], np.int32)
    count = 0
    for edge in order:
        a = find(part, left[edge])
        b = find(part, right[edge])
        if a != b:
            # The smaller index is the root, whichever side it came from.
            if a < b:
                part[b] = a
            else:
                part[a] = b
            taken[count] = edge
            count += 1
    return taken[:count]


@compiled
def _roots(part: Any) -> Any:
    roots = np.empty(part.shape[0], np.int32)
    for member in range(part.shape[0]):
        roots[member] = find(part, member)
    return roots


def _bridges(
    vectors: Float32, rows: Int32, core: Float32, part_of: Int32
) -> tuple[Int32, Int32, Float32]:
    """Return the shortest edge found from every part to each of the parts nearest to it."""
    order = np.argsort(part_of, kind="stable").astype(np.int32)
    sizes = np.bincount(part_of)
    starts = np.concatenate(([0], np.cumsum(sizes))).astype(np.int32)
    parts = sizes.shape[0]
    centres = np.empty((parts, vectors.shape[1]), np.float32)
    for number in range(parts):
        centres[number] = vectors[rows[order[starts[number] : starts[number + 1]]]].mean(axis=0)
    squares = np.einsum("ij,ij->i", centres, centres)
    pairs = set()
    kept = min(_NEAR_PARTS, parts - 1)
    for number in range(parts):
        distances = squares - 2.0 * (centres @ centres[number])
        distances[number] = np.inf
        for other in np.argsort(distances, kind="stable")[:kept]:
            pairs.add((min(number, int(other)), max(number, int(other))))
    wanted = np.array(sorted(pairs), np.int32)
    left = np.empty(wanted.shape[0], np.int32)
    right = np.empty(wanted.shape[0], np.int32)
    weights = np.empty(wanted.shape[0], np.float32)
    _shortest(vectors, rows, core, order, starts, centres, wanted, left, right, weights)
    return left, right, weights


@compiled
def _shortest(  # noqa: PLR0917
    vectors: Any,
    rows: Any,
    core: Any,
    order: Any,
    starts: Any,
    centres: Any,
    pairs: Any,
    left: Any,
    right: Any,
    weights: Any,
) -> None:
    # From the member nearest to the other part's centre, to and fro until it gets no shorter.
    for pair in range(pairs.shape[0]):
        a, b = pairs[pair, 0], pairs[pair, 1]
        if starts[a + 1] - starts[a] > starts[b + 1] - starts[b]:
            a, b = b, a
        best = np.float32(np.inf)
        start = order[starts[a]]
        for place in range(starts[a], starts[a + 1]):
            distance = squared_distance(vectors[rows[order[place]]], centres[b])
            if distance < best:
                best = distance
                start = order[place]
        here, there = start, start
        best = np.float32(np.inf)
        side = b
        while True:
            improved = False
            for place in range(starts[side], starts[side + 1]):
                other = order[place]
                if max(core[here], core[other]) >= best:
                    continue
                weight = max(
                    squared_distance(vectors[rows[here]], vectors[rows[other]]),
                    core[here],
                    core[other],
                )
                if weight < best:
                    best = weight
                    there = other
                    improved = True
            if not improved:
                break
            left[pair], right[pair], weights[pair] = here, there, best
            here, there = there, here
            side = a if side == b else b
