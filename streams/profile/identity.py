"""Clusters keep their ids from one refit to the next while their members are mostly the same.

A cluster of the new refit carries a former id on when it holds more than half of that id's images
that are still clustered, and they make more than half of its own images that were known before.
Both being majorities, no id can go to two clusters, nor two ids to one. An id that no cluster
carries on sleeps: its images remember it, and a cluster that takes up most of them wakes it again.
After ``grace`` refits asleep it is retired, and said to have died, merged or split.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from streams.profile.cells import Int32

Int64 = NDArray[np.int64]
EventKind = Literal["born", "died", "split", "merged"]

GRACE = 2
_MAJORITY = 0.5


@dataclass(frozen=True)
class ClusterEvent:
    """Something that happened to a cluster's identity.

    Parameters
    ----------
    kind
        ``born``: new, from images that were in no cluster, or in many. ``split``: new, and most of
        its images come from ``others[0]``. ``merged``: retired, and most of its images are in
        ``others[0]`` now. ``died``: retired, its images gone or scattered.
    cluster
        Whose identity.
    others
        See ``kind``; empty for ``born`` and ``died``.
    """

    kind: EventKind
    cluster: int
    others: tuple[int, ...] = ()


@dataclass(frozen=True)
class Matching:
    """Identities after a refit.

    Parameters
    ----------
    ids
        int64, shape (L,): lasting id of each cluster.
    asleep
        Ids that no cluster carries, and for how many refits so far.
    events
        What to announce, births first.
    next_id
        The first id that has not been given.
    """

    ids: Int64
    asleep: Mapping[int, int]
    events: tuple[ClusterEvent, ...]
    next_id: int


def match(  # noqa: PLR0917
    former: Int64,
    label: Int32,
    clusters: int,
    awake: frozenset[int],
    asleep: Mapping[int, int],
    next_id: int,
    grace: int = GRACE,
) -> Matching:
    """Carry ids over to the clusters of a refit.

    Parameters
    ----------
    former
        int64, shape (N,): the id that each image has or remembers, or -1.
    label
        int32, shape (N,): its cluster in the refit, or -1.
    clusters
        L.
    awake
        Ids that clusters carried before.
    asleep
        Ids that sleep, and for how many refits.
    next_id
        The first id that has not been given.
    grace
        Refits that an id may sleep.
    """
    known = sorted(awake | set(asleep))
    column = {cluster: place for place, cluster in enumerate(known)}
    overlap = np.zeros((len(known), clusters), np.int64)
    counted = (label >= 0) & (former >= 0)
    places = np.array([column.get(int(c), -1) for c in np.unique(former[counted])], np.int64)
    rows = places[np.searchsorted(np.unique(former[counted]), former[counted])]
    valid = rows >= 0
    np.add.at(overlap, (rows[valid], label[counted][valid]), 1)
    of_id = overlap.sum(axis=1)
    of_cluster = overlap.sum(axis=0)
    ids = np.full(clusters, -1, np.int64)
    events: list[ClusterEvent] = []
    for cluster in range(clusters):
        if of_cluster[cluster] == 0:
            continue
        place = int(overlap[:, cluster].argmax())
        shared = overlap[place, cluster]
        if shared > _MAJORITY * of_cluster[cluster] and shared > _MAJORITY * of_id[place]:
            ids[cluster] = known[place]
    for cluster in range(clusters):
        if ids[cluster] >= 0:
            continue
        ids[cluster] = next_id
        next_id += 1
        place = int(overlap[:, cluster].argmax()) if known else -1
        if place >= 0 and overlap[place, cluster] > _MAJORITY * of_cluster[cluster]:
            events.append(ClusterEvent("split", int(ids[cluster]), (known[place],)))
        else:
            events.append(ClusterEvent("born", int(ids[cluster])))
    carried = {int(cluster) for cluster in ids}
    sleeping: dict[int, int] = {}
    for place, cluster_id in enumerate(known):
        if cluster_id in carried:
            continue
        slept = asleep.get(cluster_id, 0) + 1
        if slept < grace:
            sleeping[cluster_id] = slept
            continue
        heir = int(overlap[place].argmax()) if clusters else -1
        if heir >= 0 and overlap[place, heir] > _MAJORITY * of_id[place]:
            events.append(ClusterEvent("merged", cluster_id, (int(ids[heir]),)))
        else:
            events.append(ClusterEvent("died", cluster_id))
    return Matching(ids, sleeping, tuple(events), next_id)
