"""A refit: HDBSCAN of a whole window, as a function of a snapshot.

The refit runs beside the stream, in a thread (its loops and matrix products run without Python's
lock) or in a process that shares the vectors' memory. It reads nothing but the snapshot, draws no
random number and looks at no clock, so the same snapshot gives the same answer whenever it ends,
on any number of threads. (The basis comes of a matrix product: with another BLAS, or another number
of its own threads, its last bits differ: keep OPENBLAS_NUM_THREADS at 1 to compare replays.)

What is exact and what is not: distances are, and the tree over the graph of neighbours is; the
graph misses a neighbour here and there, and the bridges between separate groups are the shortest
found. `biodatamine bench clusters` measures what that costs against the `hdbscan` package.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from streams.profile.cells import (
    BASIS_SAMPLE,
    Basis,
    Float32,
    Int32,
    assign_cells,
    fit_basis,
    fit_cells,
    number_of_cells,
)
from streams.profile.hierarchy import Float64, Hierarchy, condense, label_nodes, select
from streams.profile.landmarks import LandmarkMap, lay_out
from streams.profile.neighbours import nearest_neighbours
from streams.profile.spanning import core_squared, spanning_tree

Int64 = NDArray[np.int64]

_CENTRE_SAMPLE = 4096
_PLACE_SAMPLE = 64
_EXEMPLAR_POOL = 64
_SAME_CLUSTER = 0.5


@dataclass(frozen=True)
class ClusterParameters:
    """What a cluster is, and how hard to look.

    Parameters
    ----------
    min_samples
        Neighbours within a core distance; HDBSCAN's ``min_samples``.
    least_cluster_size, most_cluster_size, cluster_share
        ``min_cluster_size`` is this share of the window, between these bounds.
    hysteresis
        Share by which another division must beat one that has a cluster's members together, before
        it replaces it.
    dimensions
        Directions of the basis.
    neighbours
        Neighbours that an arrival is placed by.
    graph
        Neighbours in a refit's graph. Where groups touch, the shortest way between them joins
        vectors that are not among each other's nearest few: 16 are too few for that, 48 do.
    probes, descents
        Cells searched per cell in a refit, and passes over neighbours of neighbours.
    exemplars
        Images that a cluster is shown by.
    """

    min_samples: int = 10
    least_cluster_size: int = 10
    most_cluster_size: int = 100
    cluster_share: float = 0.01
    hysteresis: float = 0.1
    dimensions: int = 160
    neighbours: int = 16
    graph: int = 48
    probes: int = 10
    descents: int = 1
    exemplars: int = 8

    def min_cluster_size(self, count: int) -> int:
        """Return how many of ``count`` distinct vectors make a cluster."""
        share = round(self.cluster_share * count)
        return max(2, self.least_cluster_size, min(self.most_cluster_size, share))


@dataclass(frozen=True)
class Snapshot:
    """What a refit reads.

    Parameters
    ----------
    arrival
        Number of the arrival after which it was taken.
    vectors
        float32, shape (M, D): the window's store; the rows in ``slots`` do not change until the
        refit is applied.
    slots
        int32, shape (N,), ascending.
    former
        int64, shape (N,): the lasting id of the cluster that each was in, or -1.
    parameters
        What a cluster is.
    map
        The map whose places are kept; None for the first.
    threads
        Threads that the refit may use; they change no result.
    """

    arrival: int
    vectors: Float32
    slots: Int32
    former: Int64
    parameters: ClusterParameters = field(default_factory=ClusterParameters)
    map: LandmarkMap | None = None
    threads: int = 1


@dataclass(frozen=True)
class Fitted:
    """What a refit found. Clusters are numbered 0 to L - 1, of this refit only.

    Parameters
    ----------
    arrival, slots
        As in the snapshot.
    basis, centroids
        The index's directions, and its cells, float32 (C, P).
    coordinates, lengths, cells
        float32 (N, P), float32 (N,), int32 (N,): every slot's projection and cell.
    core
        float32, shape (N,): squared core distances.
    hierarchy
        HDBSCAN's condensed tree over the slots.
    node_label
        int32, shape (nodes,): the cluster that a node lies in, or -1.
    roots
        int64, shape (L,): the node that a cluster is.
    label, membership, outlier
        int32, float64, float64, shape (N,): cluster or -1; HDBSCAN's membership, 0 to 1; GLOSH
        outlier score, 0 to 1.
    centroid
        float32, shape (L, D): means of members, at length one.
    place
        float32, shape (L, 2): on the map.
    exemplar_slots
        For each cluster, slots of its exemplars, most typical first.
    map
        Landmarks and their places.
    """

    arrival: int
    slots: Int32
    basis: Basis
    centroids: Float32
    coordinates: Float32
    lengths: Float32
    cells: Int32
    core: Float32
    hierarchy: Hierarchy
    node_label: Int32
    roots: Int64
    label: Int32
    membership: Float64
    outlier: Float64
    centroid: Float32
    place: Float32
    exemplar_slots: tuple[tuple[int, ...], ...]
    map: LandmarkMap


def refit(snapshot: Snapshot) -> Fitted:
    """Cluster a snapshot of at least two vectors.

    Raises
    ------
    ValueError
        If there are fewer than two.
    """
    slots, options = snapshot.slots, snapshot.parameters
    if slots.shape[0] < 2:
        raise ValueError("a refit needs two vectors or more; wait for more arrivals")
    basis, coordinates, lengths, centroids, cells = _index(snapshot)
    neighbours = nearest_neighbours(
        snapshot.vectors,
        slots,
        coordinates,
        lengths,
        cells,
        centroids,
        max(options.graph, options.min_samples),
        options.probes,
        options.descents,
        snapshot.threads,
    )
    core = core_squared(neighbours, options.min_samples)
    tree = spanning_tree(snapshot.vectors, slots, neighbours, core)
    hierarchy = condense(tree, options.min_cluster_size(slots.shape[0]))
    favour = _favour(hierarchy, snapshot.former, options.hysteresis)
    roots = select(hierarchy, favour)
    node_label = label_nodes(hierarchy, roots)
    label = node_label[hierarchy.node]
    top = np.where(label >= 0, hierarchy.death[roots[label]] if roots.size else 0.0, 1.0)
    membership = np.where(label >= 0, np.minimum(hierarchy.density / top, 1.0), 0.0)
    outlier = 1.0 - hierarchy.density / hierarchy.densest[hierarchy.node]
    layout = lay_out(_landmarks(snapshot.vectors, slots, cells, centroids.shape[0]), snapshot.map)
    centroid, place, exemplars = _portraits(
        snapshot.vectors, slots, label, hierarchy.density, roots.shape[0], layout, options.exemplars
    )
    return Fitted(
        arrival=snapshot.arrival,
        slots=slots,
        basis=basis,
        centroids=centroids,
        coordinates=coordinates,
        lengths=lengths,
        cells=cells,
        core=core,
        hierarchy=hierarchy,
        node_label=node_label,
        roots=roots,
        label=label,
        membership=membership,
        outlier=outlier,
        centroid=centroid,
        place=place,
        exemplar_slots=exemplars,
        map=layout,
    )


def _index(snapshot: Snapshot) -> tuple[Basis, Float32, Float32, Float32, Int32]:
    slots = snapshot.slots
    # Evenly taken rows tell the basis; the store may have gaps, so rows are named by slot.
    step = max(1, slots.shape[0] // BASIS_SAMPLE)
    basis = fit_basis(snapshot.vectors[slots[::step]], snapshot.parameters.dimensions)
    coordinates, lengths = basis.project_rows(snapshot.vectors, slots)
    seeds = None
    if snapshot.map is not None:
        seeds, _ = basis.project(snapshot.map.landmarks)
    centroids = fit_cells(coordinates, number_of_cells(slots.shape[0]), seeds)
    return basis, coordinates, lengths, centroids, assign_cells(coordinates, centroids)


def _favour(hierarchy: Hierarchy, former: Int64, hysteresis: float) -> Float64 | None:
    """Return what nodes gain that hold a former cluster's members, and little else."""
    known, index = np.unique(former, return_inverse=True)
    if known.size and known[0] == -1:
        known, index = known[1:], index - 1
    if known.size == 0:
        return None
    nodes = hierarchy.parent.shape[0]
    overlap = np.zeros((nodes, known.size), np.int64)
    inside = index >= 0
    np.add.at(overlap, (hierarchy.node[inside], index[inside]), 1)
    for node in range(nodes - 1, 0, -1):
        overlap[hierarchy.parent[node]] += overlap[node]
    held = overlap.sum(axis=1, keepdims=True)
    either = held + overlap[0][None, :] - overlap
    likeness = overlap / np.maximum(either, 1)
    favour = np.ones(nodes)
    best = likeness.argmax(axis=0)
    alike = likeness[best, np.arange(known.size)] >= _SAME_CLUSTER
    favour[best[alike]] = 1.0 + hysteresis
    return favour


def _landmarks(vectors: Float32, slots: Int32, cells: Int32, count: int) -> Float32:
    order = np.argsort(cells, kind="stable")
    bounds = np.searchsorted(cells[order], np.arange(count + 1))
    landmarks = []
    for cell in range(count):
        members = slots[order[bounds[cell] : bounds[cell + 1]]]
        if members.size:
            landmarks.append(vectors[members[:_CENTRE_SAMPLE]].mean(axis=0))
    return np.ascontiguousarray(landmarks, dtype=np.float32)


def _portraits(  # noqa: PLR0917
    vectors: Float32,
    slots: Int32,
    label: Int32,
    density: Float64,
    clusters: int,
    layout: LandmarkMap,
    exemplars: int,
) -> tuple[Float32, Float32, tuple[tuple[int, ...], ...]]:
    order = np.argsort(label, kind="stable")
    bounds = np.searchsorted(label[order], np.arange(clusters + 1))
    centroid = np.zeros((clusters, vectors.shape[1]), np.float32)
    place = np.zeros((clusters, 2), np.float32)
    shown: list[tuple[int, ...]] = []
    for cluster in range(clusters):
        members = order[bounds[cluster] : bounds[cluster + 1]]
        rows = slots[members]
        step = max(1, rows.size // _CENTRE_SAMPLE)
        mean = vectors[rows[::step]].mean(axis=0, dtype=np.float64)
        centroid[cluster] = mean / max(float(np.linalg.norm(mean)), 1e-12)
        step = max(1, rows.size // _PLACE_SAMPLE)
        place[cluster] = layout.locate(vectors[rows[::step]]).mean(axis=0)
        densest = members[np.argsort(-density[members], kind="stable")[:_EXEMPLAR_POOL]]
        shown.append(_spread(vectors, slots[densest], exemplars))
    return centroid, place, tuple(shown)


def _spread(vectors: Float32, pool: Int32, wanted: int) -> tuple[int, ...]:
    """Return the densest, then again and again the one farthest from those taken."""
    rows = vectors[pool]
    taken = [0]
    nearest = ((rows - rows[0]) ** 2).sum(axis=1)
    while len(taken) < min(wanted, pool.shape[0]):
        following = int(nearest.argmax())
        if following in taken:
            break
        taken.append(following)
        nearest = np.minimum(nearest, ((rows - rows[following]) ** 2).sum(axis=1))
    return tuple(int(pool[place]) for place in taken)
