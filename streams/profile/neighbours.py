"""The nearest neighbours of every vector of a window.

Three passes: the nearest cells are searched in the basis; then neighbours of neighbours, because a
neighbour of a neighbour is likely one (NN-descent: Dong, Charikar and Li, WWW 2011); then the full
vectors decide order and distance. Every row is worked out by itself from what the former pass left,
so the result does not depend on how rows are spread over threads.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from streams.profile.cells import Float32, Int32
from streams.profile.compiled import compiled, keep_nearest, squared_distance

_DESCENT_FROM = 12


@dataclass(frozen=True)
class Neighbours:
    """Approximate nearest neighbours with exact distances.

    Parameters
    ----------
    members
        int32, shape (N, K): rows, nearest first; -1 where there are fewer than K others.
    squared
        float32, shape (N, K): squared Euclidean distances; infinite where there is none.
    """

    members: Int32
    squared: Float32


def in_rows(count: int, threads: int, work: Callable[[int, int], None]) -> None:
    """Call ``work(begin, end)`` over slices of ``count`` rows, on ``threads`` threads."""
    pieces = 1 if threads == 1 else threads * 8
    bounds = np.linspace(0, count, pieces + 1).astype(int)
    spans = [(int(a), int(b)) for a, b in pairwise(bounds) if b > a]
    if threads == 1:
        for begin, end in spans:
            work(begin, end)
        return
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(work, begin, end) for begin, end in spans]:
            done.result()


def nearest_neighbours(  # noqa: PLR0917
    vectors: Float32,
    rows: Int32,
    coordinates: Float32,
    lengths: Float32,
    cell_of: Int32,
    centroids: Float32,
    neighbours: int,
    probes: int,
    descents: int,
    threads: int,
) -> Neighbours:
    """Return the ``neighbours`` nearest others of every row.

    Parameters
    ----------
    vectors
        float32, shape (M, D).
    rows
        int32, shape (N,): which of them make the window.
    coordinates, lengths, cell_of
        float32 (N, P), float32 (N,), int32 (N,): their projection, and their cells.
    centroids
        float32, shape (C, P).
    neighbours
        K.
    probes
        Cells that are searched for a row.
    descents
        Passes over neighbours of neighbours.
    threads
        Threads to use.
    """
    count = rows.shape[0]
    order = np.argsort(cell_of, kind="stable").astype(np.int32)
    starts = np.searchsorted(cell_of[order], np.arange(centroids.shape[0] + 1)).astype(np.int32)
    points = np.ascontiguousarray(coordinates[order])
    halves = np.ascontiguousarray(0.5 * lengths[order])
    near = _near_cells(centroids, probes)
    wanted = neighbours + max(8, neighbours // 4)
    squared = np.full((count, wanted), np.inf, np.float32)
    members = np.full((count, wanted), -1, np.int32)
    in_rows(
        centroids.shape[0],
        threads,
        lambda a, b: _search_cells(points, halves, starts, near, squared, members, a, b),
    )
    sources = np.ascontiguousarray(rows[order])
    exact = np.full((count, neighbours), np.inf, np.float32)
    final = np.full((count, neighbours), -1, np.int32)
    in_rows(count, threads, lambda a, b: _decide(vectors, sources, members, exact, final, a, b))
    for _ in range(descents):
        last_exact, last_final = exact, final
        exact, final = last_exact.copy(), last_final.copy()
        in_rows(
            count,
            threads,
            lambda a, b, m=members, s=last_exact, k=last_final, t=exact, n=final: _descend(  # type: ignore[misc]
                vectors, sources, m, k, t, n, _DESCENT_FROM, a, b
            ),
        )
    # From the order of cells back to the order of rows.
    back = np.empty((count, neighbours), np.int32)
    back[order] = np.where(final >= 0, order[final], -1)
    distances = np.empty((count, neighbours), np.float32)
    distances[order] = exact
    return Neighbours(back, distances)


def _near_cells(centroids: Float32, probes: int) -> Int32:
    squares = np.einsum("ij,ij->i", centroids, centroids)
    distances = squares[:, None] + squares[None, :] - 2.0 * (centroids @ centroids.T)
    np.fill_diagonal(distances, -1.0)
    kept = min(probes, centroids.shape[0])
    return np.ascontiguousarray(
        np.argsort(distances, axis=1, kind="stable")[:, :kept], dtype=np.int32
    )


def _search_cells(  # noqa: PLR0917
    points: Float32,
    halves: Float32,
    starts: Int32,
    near: Int32,
    squared: Float32,
    members: Int32,
    begin: int,
    end: int,
) -> None:
    """Search some cells: a matrix product for each pair of neighbouring cells."""
    sizes = np.diff(starts)
    widest = int(sizes[near[begin:end]].sum(axis=1).max())
    buffer = np.empty((int(sizes[begin:end].max()) or 1, widest), np.float32)
    for cell in range(begin, end):
        first, last = int(starts[cell]), int(starts[cell + 1])
        if first == last:
            continue
        width = 0
        for other in near[cell]:
            if sizes[other]:
                there = points[starts[other] : starts[other + 1]]
                np.matmul(
                    points[first:last],
                    there.T,
                    out=buffer[: last - first, width : width + sizes[other]],
                )
                width += int(sizes[other])
        _select(buffer, halves, starts, near[cell], first, last, squared, members)


@compiled
def _select(  # noqa: PLR0917
    products: Any,
    halves: Any,
    starts: Any,
    cells: Any,
    first: Any,
    last: Any,
    squared: Any,
    members: Any,
) -> None:
    # Half the squared distance is a + b - product; a, the row's own half, changes no order.
    # The kept are a heap, its farthest on top: a shorter way in than through a sorted list.
    width = squared.shape[1]
    for row in range(first, last):
        heap = squared[row]
        kept = members[row]
        column = 0
        for cell in cells:
            for other in range(starts[cell], starts[cell + 1]):
                distance = halves[other] - products[row - first, column]
                column += 1
                if distance < heap[0] and other != row:
                    place = 0
                    while True:
                        child = 2 * place + 1
                        if child >= width:
                            break
                        if child + 1 < width and heap[child + 1] > heap[child]:
                            child += 1
                        if heap[child] <= distance:
                            break
                        heap[place] = heap[child]
                        kept[place] = kept[child]
                        place = child
                    heap[place] = distance
                    kept[place] = other


@compiled
def _descend(  # noqa: PLR0917
    vectors: Any,
    sources: Any,
    seen: Any,
    old_members: Any,
    squared: Any,
    members: Any,
    width: Any,
    begin: Any,
    end: Any,
) -> None:
    last = squared.shape[1] - 1
    width = min(width, squared.shape[1])
    tried = np.empty(seen.shape[1] + width * width, np.int32)
    for row in range(begin, end):
        known = 0
        for other in seen[row]:
            tried[known] = other
            known += 1
        for first in range(width):
            via = old_members[row, first]
            if via < 0:
                break
            for second in range(width):
                other = old_members[via, second]
                if other < 0:
                    break
                if other == row:
                    continue
                again = False
                for place in range(known):
                    if tried[place] == other:
                        again = True
                        break
                if again:
                    continue
                tried[known] = other
                known += 1
                distance = squared_distance(vectors[sources[row]], vectors[sources[other]])
                if distance < squared[row, last]:
                    keep_nearest(squared[row], members[row], distance, other)


@compiled
def _decide(  # noqa: PLR0917
    vectors: Any,
    sources: Any,
    candidates: Any,
    squared: Any,
    members: Any,
    begin: Any,
    end: Any,
) -> None:
    for row in range(begin, end):
        for place in range(candidates.shape[1]):
            other = candidates[row, place]
            if other < 0:
                continue
            keep_nearest(
                squared[row],
                members[row],
                squared_distance(vectors[sources[row]], vectors[sources[other]]),
                other,
            )
