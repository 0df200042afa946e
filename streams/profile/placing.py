"""Where a new image belongs in a hierarchy that was fitted without it.

It hangs on the neighbour that it reaches most easily, at the density of that reach, and belongs to
the smallest node that existed at that density: what `hdbscan.approximate_predict` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from streams.profile.cells import Float32, Int32
from streams.profile.compiled import compiled
from streams.profile.hierarchy import Float64


@dataclass(frozen=True)
class Place:
    """A place in the hierarchy.

    Parameters
    ----------
    node
        Node of the condensed tree; -1 if no neighbour has one.
    label
        Cluster of the refit, or -1.
    membership
        0 to 1; HDBSCAN's probability.
    outlier
        GLOSH score, 0 to 1; 1 where there is no neighbour to compare with.
    """

    node: int
    label: int
    membership: float
    outlier: float


def place(  # noqa: PLR0917
    squared: Float32,
    slots: Int32,
    own_core: float,
    core: Float32,
    node: Int32,
    parent: Int32,
    birth: Float64,
    densest: Float64,
    node_label: Int32,
    root_death: Float64,
) -> Place:
    """Place one image.

    Parameters
    ----------
    squared, slots
        float32 and int32, shape (K,): its nearest neighbours, nearest first.
    own_core
        Its squared core distance.
    core, node
        float32 and int32, shape (M,): squared core distance and node of every slot; -1 where a
        slot has no node.
    parent, birth, densest, node_label
        Of every node of the condensed tree.
    root_death
        float64, shape (L,): the density from which on a cluster's members belong to it wholly.
    """
    found, density = _hang(squared, slots, own_core, core, node, parent, birth)
    if found < 0:
        return Place(-1, -1, 0.0, 1.0)
    label = int(node_label[found])
    membership = min(1.0, density / float(root_death[label])) if label >= 0 else 0.0
    return Place(int(found), label, membership, max(0.0, 1.0 - density / float(densest[found])))


@compiled
def _hang(  # noqa: PLR0917
    squared: Any, slots: Any, own_core: Any, core: Any, node: Any, parent: Any, birth: Any
) -> Any:
    best = np.inf
    found = -1
    for i in range(slots.shape[0]):
        slot = slots[i]
        if node[slot] < 0:
            continue
        reach = max(float(squared[i]), float(own_core), float(core[slot]))
        if reach < best:
            best = reach
            found = node[slot]
    if found < 0:
        return -1, 0.0
    density = 1.0 / np.sqrt(max(best, 1e-12))
    while found > 0 and birth[found] > density:
        found = parent[found]
    return found, density
