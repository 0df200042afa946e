"""The rolling window of one scope: the distinct embeddings that count as now.

It holds at most so many distinct vectors, and none that was last seen longer ago, in event time,
than its span. A vector nearer than a threshold to one that is held is the same picture once more:
it raises that one's count and refreshes it, and takes no place; a test image that a modality sends
ten thousand times pushes nothing out. What is least recently seen leaves first. Late arrivals
within the span are admitted; older ones are not.

Slots of what has left may be quarantined, so that a refit can read the vectors where they are while
the stream goes on: see ``hold`` and ``release``.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from streams.profile.cells import Basis, Float32, Int32
from streams.profile.index import SlotIndex


class EmbeddingWindow:
    """Distinct vectors by slot, oldest to newest, with an index over them.

    Parameters
    ----------
    dimensions
        Length of a vector.
    limit
        Distinct vectors at most.
    headroom
        Slots beyond ``limit``: vectors that may be admitted while slots are held.
    span_seconds
        Event time that the window covers.
    """

    def __init__(self, dimensions: int, limit: int, headroom: int, span_seconds: float) -> None:
        slots = limit + headroom + 1
        self.limit = limit
        self.span_seconds = span_seconds
        self.vectors: Float32 = np.zeros((slots, dimensions), np.float32)
        self.keys: list[str] = [""] * slots
        self.copies: NDArray[np.int64] = np.zeros(slots, np.int64)
        self.seen_seconds: NDArray[np.float64] = np.full(slots, -np.inf)
        self.first_seconds: NDArray[np.float64] = np.full(slots, np.inf)
        self.used: NDArray[np.bool_] = np.zeros(slots, np.bool_)
        self.newest_seconds = -np.inf
        # Before the first fit there are few vectors: one cell, and every direction is kept.
        self.index = SlotIndex(
            self.vectors,
            Basis(np.zeros(dimensions, np.float32), np.eye(dimensions, dtype=np.float32)),
            np.zeros((1, dimensions), np.float32),
        )
        self._free = list(range(slots - 1, -1, -1))
        self._order: OrderedDict[int, None] = OrderedDict()
        self._by_time: list[tuple[float, int]] = []
        self._held: list[int] | None = None

    def __len__(self) -> int:
        return len(self._order)

    def slots(self) -> Int32:
        """Return the slots in use, ascending."""
        return np.flatnonzero(self.used).astype(np.int32)

    def is_late(self, event_time_seconds: float) -> bool:
        """Say whether an event time lies before the window."""
        return event_time_seconds < self.newest_seconds - self.span_seconds

    def admit(self, key: str, event_time_seconds: float, vector: Float32) -> tuple[int, list[int]]:
        """Take a distinct vector in.

        Returns
        -------
        slot : int
            Where it lies.
        left : list of int
            Slots that it pushed out, or that its event time made too old.
        """
        left = self._advance(event_time_seconds)
        if len(self._order) >= self.limit:
            left.append(self._leave(next(iter(self._order))))
        if not self._free:
            raise RuntimeError("no free slot: a refit is held for longer than the headroom")
        slot = self._free.pop()
        self.vectors[slot] = vector
        self.keys[slot] = key
        self.copies[slot] = 1
        self.first_seconds[slot] = event_time_seconds
        self.used[slot] = True
        self._order[slot] = None
        self._date(slot, event_time_seconds)
        self.index.add(slot)
        return slot, left

    def repeat(self, slot: int, event_time_seconds: float) -> list[int]:
        """Count a slot's picture once more; return the slots that became too old."""
        self.copies[slot] += 1
        self._order.move_to_end(slot)
        if event_time_seconds > self.seen_seconds[slot]:
            self._date(slot, event_time_seconds)
        self.first_seconds[slot] = min(self.first_seconds[slot], event_time_seconds)
        return self._advance(event_time_seconds)

    def hold(self) -> None:
        """Keep the vectors of what leaves from now on, until ``release``."""
        self._held = []

    def release(self) -> None:
        """Let slots be used again."""
        # Last freed, first used, in the order in which they left: the same in every replay.
        self._free.extend(self._held or [])
        self._held = None

    def _date(self, slot: int, event_time_seconds: float) -> None:
        self.seen_seconds[slot] = event_time_seconds
        heapq.heappush(self._by_time, (event_time_seconds, slot))
        if len(self._by_time) > 4 * self.vectors.shape[0]:
            self._by_time = [(float(self.seen_seconds[s]), s) for s in self._order]
            heapq.heapify(self._by_time)

    def _advance(self, event_time_seconds: float) -> list[int]:
        self.newest_seconds = max(self.newest_seconds, event_time_seconds)
        since = self.newest_seconds - self.span_seconds
        left = []
        while self._by_time and self._by_time[0][0] < since:
            dated, slot = heapq.heappop(self._by_time)
            # A slot that was seen again, or used again, has another date by now.
            if self.used[slot] and self.seen_seconds[slot] == dated:
                left.append(self._leave(slot))
        return left

    def _leave(self, slot: int) -> int:
        del self._order[slot]
        self.used[slot] = False
        self.index.remove(slot)
        if self._held is None:
            self._free.append(slot)
        else:
            self._held.append(slot)
        return slot
