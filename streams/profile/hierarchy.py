"""HDBSCAN's hierarchy: what splits off as the density rises, and which of it are clusters.

The spanning tree is taken apart from its longest edge down. A split into two parts of at least
``min_cluster_size`` makes two nodes; a smaller part falls out of its node (Campello, Moulavi and
Sander, PAKDD 2013; McInnes and Healy, Accelerated Hierarchical Density Based Clustering, ICDMW
2017). Density is lambda, one over the distance. The nodes of most excess of mass are the clusters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streams.profile.cells import Int32
from streams.profile.compiled import compiled
from streams.profile.spanning import SpanningTree, find

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Hierarchy:
    """The condensed tree. Node 0 is the whole; a parent comes before its children.

    Parameters
    ----------
    parent
        int32, shape (M,): the node that it split from; -1 of node 0.
    birth
        float64, shape (M,): lambda at which it appeared.
    size
        int32, shape (M,): vectors at its birth.
    node
        int32, shape (N,): the node that each vector fell out of.
    density
        float64, shape (N,): lambda at which it did.
    stability
        float64, shape (M,): excess of mass.
    death
        float64, shape (M,): the highest lambda at which anything left the node, or split it.
    densest
        float64, shape (M,): the highest lambda at or below the node.
    """

    parent: Int32
    birth: Float64
    size: Int32
    node: Int32
    density: Float64
    stability: Float64
    death: Float64
    densest: Float64


def condense(tree: SpanningTree, min_cluster_size: int) -> Hierarchy:
    """Return the condensed tree of a spanning tree over N >= 2 vectors."""
    count = tree.left.shape[0] + 1
    children, sizes = _dendrogram(tree.left, tree.right)
    # Twice the splits that are possible, and the root.
    most = 2 * (count // max(1, min_cluster_size)) + 3
    parent = np.full(most, -1, np.int32)
    birth = np.zeros(most)
    node_sizes = np.zeros(most, np.int32)
    node = np.zeros(count, np.int32)
    density = np.zeros(count)
    made = _condense(
        children,
        sizes,
        tree.lengths,
        min_cluster_size,
        parent,
        birth,
        node_sizes,
        node,
        density,
    )
    parent, birth, node_sizes = parent[:made], birth[:made], node_sizes[:made]
    stability: Float64 = np.zeros(made)
    np.add.at(stability, node, density - birth[node])
    death = np.zeros(made)
    np.maximum.at(death, node, density)
    np.maximum.at(death, parent[1:], birth[1:])
    densest = death.copy()
    for child in range(made - 1, 0, -1):
        above = parent[child]
        stability[above] += (birth[child] - birth[above]) * node_sizes[child]
        densest[above] = max(densest[above], densest[child])
    return Hierarchy(parent, birth, node_sizes, node, density, stability, death, densest)


@compiled
def _dendrogram(left: Any, right: Any) -> Any:
    edges = left.shape[0]
    count = edges + 1
    part = np.arange(2 * count - 1).astype(np.int32)
    children = np.empty((edges, 2), np.int32)
    sizes = np.ones(2 * count - 1, np.int32)
    for edge in range(edges):
        a = find(part, left[edge])
        b = find(part, right[edge])
        children[edge, 0], children[edge, 1] = a, b
        joined = count + edge
        part[a] = joined
        part[b] = joined
        sizes[joined] = sizes[a] + sizes[b]
    return children, sizes


@compiled
def _condense(  # noqa: PLR0917
    children: Any,
    sizes: Any,
    lengths: Any,
    least: Any,
    parent: Any,
    birth: Any,
    node_sizes: Any,
    node: Any,
    density: Any,
) -> Any:
    edges = children.shape[0]
    count = edges + 1
    # Of every joint of the dendrogram: the node that it is in, and whether it fell out, and when.
    inside = np.zeros(2 * count - 1, np.int32)
    fell = np.zeros(2 * count - 1)
    node_sizes[0] = count
    made = 1
    for edge in range(edges - 1, -1, -1):
        joint = count + edge
        here = inside[joint]
        if fell[joint] > 0.0:
            for side in range(2):
                inside[children[edge, side]] = here
                fell[children[edge, side]] = fell[joint]
            continue
        rate = 1.0 / lengths[edge]
        splits = sizes[children[edge, 0]] >= least and sizes[children[edge, 1]] >= least
        for side in range(2):
            child = children[edge, side]
            if splits:
                parent[made] = here
                birth[made] = rate
                node_sizes[made] = sizes[child]
                inside[child] = made
                made += 1
            else:
                inside[child] = here
                if sizes[child] < least:
                    fell[child] = rate
    for member in range(count):
        node[member] = inside[member]
        density[member] = fell[member]
    return made


def select(hierarchy: Hierarchy, favour: Float64 | None = None) -> NDArray[np.int64]:
    """Return the nodes that are clusters: those of most excess of mass, never node 0.

    Parameters
    ----------
    hierarchy
        The condensed tree.
    favour
        float64, shape (M,): what a node's stability is multiplied by before it is weighed against
        its children's; above 1 for what was a cluster before, so that a near tie does not flicker.
    """
    nodes = hierarchy.parent.shape[0]
    own = hierarchy.stability if favour is None else hierarchy.stability * favour
    below = np.zeros(nodes)
    chosen = np.zeros(nodes, bool)
    has_children = np.zeros(nodes, bool)
    has_children[hierarchy.parent[1:]] = True
    for node in range(nodes - 1, 0, -1):
        chosen[node] = not has_children[node] or own[node] >= below[node]
        below[hierarchy.parent[node]] += own[node] if chosen[node] else below[node]
    covered = np.zeros(nodes, bool)
    for node in range(1, nodes):
        above = hierarchy.parent[node]
        covered[node] = covered[above] or (above > 0 and chosen[above])
        if covered[node]:
            chosen[node] = False
    return np.flatnonzero(chosen)


def label_nodes(hierarchy: Hierarchy, clusters: NDArray[np.int64]) -> Int32:
    """Return for every node the number of the cluster that it is in, or -1: int32, shape (M,)."""
    labels = np.full(hierarchy.parent.shape[0], -1, np.int32)
    labels[clusters] = np.arange(clusters.shape[0], dtype=np.int32)
    for node in range(1, labels.shape[0]):
        if labels[node] < 0:
            labels[node] = labels[hierarchy.parent[node]]
    return labels
