"""Clusters that form between two refits, from images that no cluster would take.

An image without a cluster is linked to neighbours without one that lie within a reach: the
distance at which the usual cluster of the last refit came to be. What hangs together in numbers
enough for a cluster is announced as one; the next refit confirms it, its images in hand, or lets
it go. This is DBSCAN, arrival by arrival, at one density (Ester et al., Incremental Clustering
for Mining in a Data Warehousing Environment, VLDB 1998).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable


class Gathering:
    """Groups of images that hang together, by slot."""

    def __init__(self) -> None:
        self._group: dict[int, int] = {}
        self._members: dict[int, list[int]] = {}
        self._next = 0

    def __len__(self) -> int:
        return len(self._group)

    def forget(self, slot: int) -> None:
        """Leave a slot out from now on; what it linked stays linked."""
        group = self._group.pop(slot, None)
        if group is None:
            return
        members = self._members[group]
        members.remove(slot)
        if not members:
            del self._members[group]

    def link(self, slot: int, near: Iterable[int]) -> int:
        """Add a slot and link it to ``near`` slots; return how many hang together with it."""
        group = self._group.get(slot)
        if group is None:
            group = self._next
            self._next += 1
            self._group[slot] = group
            self._members[group] = [slot]
        for other in near:
            theirs = self._group.get(other)
            if theirs is None or theirs == group:
                continue
            # The smaller moves to the larger; of equals, the younger.
            small, large = sorted((group, theirs), key=lambda one: (len(self._members[one]), -one))
            moving = self._members.pop(small)
            self._members[large].extend(moving)
            for member in moving:
                self._group[member] = large
            group = large
        return len(self._members[group])

    def take(self, slot: int) -> list[int]:
        """Remove and return all that hang together with a slot, ascending."""
        members = sorted(self._members.pop(self._group[slot]))
        for member in members:
            del self._group[member]
        return members

    def keep(self, stays: Callable[[int], bool]) -> None:
        """Forget the slots for which ``stays`` is false."""
        for slot in [one for one in self._group if not stays(one)]:
            self.forget(slot)
