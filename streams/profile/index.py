"""The window's index while the stream runs: vectors come and go one by one.

Every cell keeps a list of slots in one pool. A vector is added at the end of its cell's list and
removed by moving the last one into its place, so that both cost the same however long the stream
has run. A search looks into the nearest cells for candidates by the basis, and orders those by the
full vectors. Each query is worked out by itself: batches of another size change no answer.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from streams.profile.cells import Basis, Float32, Int32, project_one, rank_cells
from streams.profile.compiled import compiled, dot, keep_nearest, squared_distance

_SPARE_PER_CELL = 16
_HEAD = 48


class SlotIndex:
    """Finds the nearest of the slots in use.

    Parameters
    ----------
    vectors
        float32, shape (M, D): the window's store, row by slot; read, never written.
    basis
        Directions for candidates.
    centroids
        float32, shape (C, P).
    """

    def __init__(self, vectors: Float32, basis: Basis, centroids: Float32) -> None:
        slots = vectors.shape[0]
        self.vectors = vectors
        self.basis = basis
        self.centroids = np.ascontiguousarray(centroids)
        self._halves = (0.5 * np.einsum("ij,ij->i", centroids, centroids)).astype(np.float32)
        self._coordinates = np.empty((slots, centroids.shape[1]), np.float32)
        self._half_lengths = np.empty(slots, np.float32)
        # Length of what lies beyond the leading directions: it bounds what they can contribute.
        self._tails = np.empty(slots, np.float32)
        self.cell = np.full(slots, -1, np.int32)
        self._position = np.full(slots, -1, np.int32)
        self._lay_out(np.zeros(centroids.shape[0], np.int64))

    def _lay_out(self, sizes: Any) -> None:
        rooms = 2 * sizes + _SPARE_PER_CELL
        self._starts = np.concatenate(([0], np.cumsum(rooms)[:-1])).astype(np.int64)
        self._rooms = rooms.astype(np.int64)
        self._sizes = np.zeros(sizes.shape[0], np.int64)
        # Lists that outgrow their room move to the end; half of the pool is for that.
        self._end = int(rooms.sum())
        self._pool = np.empty(self._end + 2 * self.vectors.shape[0], np.int32)

    def fill(self, slots: Int32, coordinates: Float32, lengths: Float32, cells: Int32) -> None:
        """Add many slots whose projection is known.

        Parameters
        ----------
        slots
            int32, shape (N,): none of them in the index.
        coordinates, lengths, cells
            float32 (N, P), float32 (N,), int32 (N,).
        """
        self._coordinates[slots] = coordinates
        self._half_lengths[slots] = 0.5 * lengths
        beyond = coordinates[:, _HEAD:]
        self._tails[slots] = np.sqrt(np.einsum("ij,ij->i", beyond, beyond))
        self.cell[slots] = cells
        self._relay()

    def _relay(self) -> None:
        """Lay all lists out anew, in the order of slots."""
        used = np.flatnonzero(self.cell >= 0).astype(np.int32)
        order = used[np.argsort(self.cell[used], kind="stable")]
        sizes = np.bincount(self.cell[used], minlength=self.centroids.shape[0])
        self._lay_out(sizes)
        firsts = np.concatenate(([0], np.cumsum(sizes)[:-1]))
        positions = np.arange(order.shape[0]) - np.repeat(firsts, sizes)
        self._pool[np.repeat(self._starts, sizes) + positions] = order
        self._position[order] = positions
        self._sizes[:] = sizes

    def add(self, slot: int) -> None:
        """Add a slot whose vector has been written."""
        length = project_one(
            self.vectors[slot], self.basis.mean, self.basis.directions, self._coordinates[slot]
        )
        self._half_lengths[slot] = 0.5 * length
        beyond = self._coordinates[slot, _HEAD:]
        self._tails[slot] = np.sqrt(dot(beyond, beyond)) if beyond.shape[0] else 0.0
        distances = np.empty(1, np.float32)
        nearest = np.empty(1, np.int32)
        rank_cells(self._coordinates[slot], self.centroids, self._halves, distances, nearest)
        cell = int(nearest[0])
        size = int(self._sizes[cell])
        if size == self._rooms[cell]:
            room = 2 * size
            if self._end + room > self._pool.shape[0]:
                self.cell[slot] = cell
                self._relay()
                return
            start = self._starts[cell]
            self._pool[self._end : self._end + size] = self._pool[start : start + size]
            self._starts[cell] = self._end
            self._rooms[cell] = room
            self._end += room
        self._pool[self._starts[cell] + size] = slot
        self._position[slot] = size
        self._sizes[cell] = size + 1
        self.cell[slot] = cell

    def remove(self, slot: int) -> None:
        """Forget a slot."""
        cell = int(self.cell[slot])
        last = int(self._sizes[cell]) - 1
        start = int(self._starts[cell])
        place = int(self._position[slot])
        mover = self._pool[start + last]
        self._pool[start + place] = mover
        self._position[mover] = place
        self._sizes[cell] = last
        self.cell[slot] = -1
        self._position[slot] = -1

    def search(self, vector: Float32, neighbours: int, probes: int) -> tuple[Float32, Int32]:
        """Return squared distances, ascending, and slots of the nearest: at most ``neighbours``."""
        wanted = neighbours + neighbours // 2
        squared = np.empty(neighbours, np.float32)
        slots = np.empty(neighbours, np.int32)
        found = _search(
            vector,
            self.vectors,
            self.basis.mean,
            self.basis.directions,
            self.centroids,
            self._halves,
            self._coordinates,
            self._half_lengths,
            self._tails,
            _HEAD,
            self._pool,
            self._starts,
            self._sizes,
            min(probes, self.centroids.shape[0]),
            wanted,
            squared,
            slots,
        )
        return squared[:found], slots[:found]


@compiled
def _search(  # noqa: PLR0917
    vector: Any,
    vectors: Any,
    mean: Any,
    directions: Any,
    centroids: Any,
    halves: Any,
    coordinates: Any,
    half_lengths: Any,
    tails: Any,
    head: Any,
    pool: Any,
    starts: Any,
    sizes: Any,
    probes: Any,
    wanted: Any,
    squared: Any,
    slots: Any,
) -> Any:
    point = np.empty(directions.shape[0], np.float32)
    project_one(vector, mean, directions, point)
    cell_distances = np.empty(probes, np.float32)
    cells = np.empty(probes, np.int32)
    rank_cells(point, centroids, halves, cell_distances, cells)
    head = min(head, point.shape[0])
    front = point[:head]
    back = point[head:]
    tail = np.float32(0.0)
    if back.shape[0] > 0:
        tail = np.sqrt(dot(back, back))
    near = np.full(wanted, np.inf, np.float32)
    candidates = np.full(wanted, -1, np.int32)
    for cell in cells:
        if cell < 0:
            break
        for place in range(starts[cell], starts[cell] + sizes[cell]):
            slot = pool[place]
            distance = half_lengths[slot] - dot(front, coordinates[slot, :head])
            # Cauchy and Schwarz: the other directions bring it no nearer than this.
            if distance - tail * tails[slot] >= near[wanted - 1]:
                continue
            if back.shape[0] > 0:
                distance -= dot(back, coordinates[slot, head:])
            if distance < near[wanted - 1]:
                keep_nearest(near, candidates, distance, slot)
    squared[:] = np.inf
    slots[:] = -1
    for slot in candidates:
        if slot < 0:
            break
        keep_nearest(squared, slots, squared_distance(vector, vectors[slot]), slot)
    found = 0
    while found < slots.shape[0] and slots[found] >= 0:
        found += 1
    return found
