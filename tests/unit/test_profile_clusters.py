from __future__ import annotations

from dataclasses import fields

import hdbscan
import numpy as np
import pytest
from hdbscan._hdbscan_linkage import label as linkage
from hdbscan._hdbscan_tree import outlier_scores
from hdbscan.hdbscan_ import _tree_to_labels
from sklearn.metrics import adjusted_rand_score

from streams.profile.cells import fit_basis, fit_cells, number_of_cells
from streams.profile.compiled import keep_nearest
from streams.profile.hierarchy import Hierarchy, condense, label_nodes, select
from streams.profile.neighbours import Neighbours
from streams.profile.placing import place
from streams.profile.refit import ClusterParameters, Fitted, Snapshot, refit
from streams.profile.spanning import core_squared, spanning_tree
from tests.bench.clusters import Mixture, exact_tree, reference_labels


def mixture(seed: int, components: int = 8) -> Mixture:
    return Mixture(seed, components=components, dimensions=96, intrinsic=12, factors=64)


def all_neighbours(vectors: np.ndarray) -> Neighbours:
    squared = ((vectors[:, None].astype(np.float64) - vectors[None]) ** 2).sum(axis=2)
    np.fill_diagonal(squared, np.inf)
    order = np.argsort(squared, axis=1, kind="stable")[:, :-1]
    return Neighbours(
        order.astype(np.int32), np.take_along_axis(squared, order, axis=1).astype(np.float32)
    )


def snapshot(vectors: np.ndarray, former: np.ndarray | None = None, **more) -> Snapshot:
    count = vectors.shape[0]
    none = np.full(count, -1, np.int64)
    return Snapshot(
        arrival=count,
        vectors=vectors,
        slots=np.arange(count, dtype=np.int32),
        former=none if former is None else former,
        **more,
    )


@pytest.mark.parametrize("seed", range(4))
def test_over_all_neighbours_it_is_hdbscan(seed):
    # Of trees of equal length ours and the package's may take different ones, so what is compared
    # exactly is what it makes of ours.
    vectors, _ = mixture(seed).draw(250)
    neighbours = all_neighbours(vectors)
    core = core_squared(neighbours, 5)
    tree = spanning_tree(vectors, np.arange(250, dtype=np.int32), neighbours, core)
    hierarchy = condense(tree, 8)
    roots = select(hierarchy)
    label = label_nodes(hierarchy, roots)[hierarchy.node]
    edges = np.column_stack((tree.left, tree.right, tree.lengths)).astype(np.float64)
    linked = linkage(edges)
    labels, probabilities, _, condensed, _ = _tree_to_labels(vectors, linked, min_cluster_size=8)
    assert adjusted_rand_score(labels, label) == 1.0
    top = hierarchy.death[roots[label]]
    membership = np.where(label >= 0, np.minimum(hierarchy.density / top, 1), 0)
    assert np.allclose(membership, probabilities)
    outlier = 1 - hierarchy.density / hierarchy.densest[hierarchy.node]
    assert np.allclose(outlier, outlier_scores(condensed))
    whole = hdbscan.HDBSCAN(min_cluster_size=8, min_samples=5, algorithm="generic")
    assert adjusted_rand_score(whole.fit_predict(vectors.astype(np.float64)), label) >= 0.95


@pytest.mark.parametrize("seed", range(3))
def test_the_exact_tree_of_the_benchmark_gives_what_the_package_gives(seed):
    vectors, _ = mixture(seed).draw(600)
    theirs = hdbscan.HDBSCAN(min_cluster_size=10, min_samples=10, algorithm="generic")
    labels = theirs.fit_predict(vectors.astype(np.float64))
    assert adjusted_rand_score(labels, reference_labels(vectors, 10, 10)) == 1.0
    _, _, lengths = exact_tree(vectors, 10)
    neighbours = all_neighbours(vectors)
    full = spanning_tree(
        vectors, np.arange(600, dtype=np.int32), neighbours, core_squared(neighbours, 10)
    )
    assert lengths.sum() == pytest.approx(full.lengths.sum(), rel=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_a_refit_agrees_with_the_reference(seed):
    vectors, truth = mixture(seed).draw(3000)
    fitted = refit(snapshot(vectors))
    reference = reference_labels(vectors, 10, 30)
    assert adjusted_rand_score(reference, fitted.label) >= 0.97
    assert adjusted_rand_score(truth, fitted.label) >= 0.9


def test_groups_that_are_far_apart_are_bridged_where_they_are_nearest():
    chance = np.random.default_rng(3)
    groups = [
        chance.normal(0, 0.02, (80, 3)) + centre for centre in ((1, 0, 0), (0, 1, 0), (0.6, 0.6, 0))
    ]
    vectors = np.concatenate(groups).astype(np.float32)
    near = all_neighbours(vectors)
    few = Neighbours(near.members[:, :8].copy(), near.squared[:, :8].copy())
    core = core_squared(few, 5)
    rows = np.arange(240, dtype=np.int32)
    tree = spanning_tree(vectors, rows, few, core)
    full = spanning_tree(vectors, rows, near, core)
    assert tree.lengths.shape == (239,)
    assert np.allclose(tree.lengths[-2:], full.lengths[-2:], rtol=0.02)


def same(first: Fitted, second: Fitted) -> bool:
    for one in fields(Fitted):
        a, b = getattr(first, one.name), getattr(second, one.name)
        if isinstance(a, np.ndarray) and not np.array_equal(a, b):
            return False
    return np.array_equal(first.map.places, second.map.places)


def test_neither_threads_nor_repetition_change_a_refit():
    vectors, _ = mixture(5).draw(2000)
    first = refit(snapshot(vectors))
    assert same(first, refit(snapshot(vectors)))
    assert same(first, refit(snapshot(vectors, threads=3)))


def test_slots_may_have_gaps():
    vectors, _ = mixture(6).draw(1500)
    spread = np.full((3000, 96), np.nan, np.float32)
    slots = np.sort(np.random.default_rng(0).permutation(3000)[:1500]).astype(np.int32)
    spread[slots] = vectors
    plain = refit(snapshot(vectors))
    gappy = refit(Snapshot(1500, spread, slots, np.full(1500, -1, np.int64)))
    assert np.array_equal(plain.label, gappy.label)
    assert all(slot in slots for shown in gappy.exemplar_slots for slot in shown)


def test_exemplars_are_members_and_centroids_are_theirs():
    vectors, _ = mixture(7).draw(1500)
    fitted = refit(snapshot(vectors))
    assert fitted.roots.size >= 5
    for cluster, shown in enumerate(fitted.exemplar_slots):
        assert 1 <= len(shown) <= 8
        assert len(set(shown)) == len(shown)
        assert (fitted.label[list(shown)] == cluster).all()
        mean = vectors[fitted.label == cluster].mean(axis=0)
        assert np.allclose(fitted.centroid[cluster], mean / np.linalg.norm(mean), atol=1e-5)


def test_a_refit_of_one_vector_is_refused():
    with pytest.raises(ValueError, match="two vectors"):
        refit(snapshot(np.ones((1, 4), np.float32)))


@pytest.mark.parametrize("count", [2, 3, 11, 40])
def test_a_handful_can_be_refitted(count):
    vectors, _ = mixture(8).draw(count)
    fitted = refit(snapshot(vectors))
    assert fitted.label.shape == (count,)
    assert np.isfinite(fitted.map.places).all()


def test_what_is_placed_later_goes_where_a_refit_puts_it():
    stream = mixture(9)
    vectors, _ = stream.draw(3000)
    fitted = refit(snapshot(vectors))
    fresh, _ = stream.draw(400)
    tree = fitted.hierarchy
    placed = []
    for vector in fresh:
        squared = ((vectors - vector) ** 2).sum(axis=1)
        slots = np.argsort(squared, kind="stable")[:16].astype(np.int32)
        near = squared[slots]
        spot = place(
            near,
            slots,
            float(near[9]),
            fitted.core,
            tree.node,
            tree.parent,
            tree.birth,
            tree.densest,
            fitted.node_label,
            tree.death[fitted.roots],
        )
        assert 0 <= spot.membership <= 1
        assert 0 <= spot.outlier <= 1
        placed.append(spot.label)
    again = refit(snapshot(np.concatenate((vectors, fresh)))).label[3000:]
    assert adjusted_rand_score(again, placed) >= 0.95


def test_of_two_near_equal_divisions_the_former_one_stays():
    # Node 1 splits into 2 and 3, whose stabilities together are a hair above its own.
    hierarchy = Hierarchy(
        parent=np.array([-1, 0, 1, 1, 0], np.int32),
        birth=np.array([0.0, 1.0, 2.0, 2.0, 1.0]),
        size=np.array([100, 60, 30, 30, 40], np.int32),
        node=np.zeros(0, np.int32),
        density=np.zeros(0),
        stability=np.array([0.0, 100.0, 51.0, 50.0, 80.0]),
        death=np.ones(5),
        densest=np.ones(5),
    )
    assert list(select(hierarchy)) == [2, 3, 4]
    assert list(select(hierarchy, np.array([1, 1.1, 1, 1, 1]))) == [1, 4]


def test_a_refit_favours_what_it_found_before():
    vectors, _ = mixture(11).draw(1500)
    first = refit(snapshot(vectors))
    former = np.where(first.label >= 0, first.label + 40, -1).astype(np.int64)
    again = refit(snapshot(vectors, former, map=first.map))
    assert np.array_equal(first.label, again.label)
    # Had two clusters been one, they would stay one if that is nearly as good: at any price here.
    tree = first.hierarchy
    split = next(
        (tree.parent[a], a, b)
        for a in first.roots
        for b in first.roots
        if a < b and tree.parent[a] == tree.parent[b] > 0
    )
    both = np.isin(first.node_label[tree.node], first.node_label[list(split[1:])])
    former[both] = 7
    generous = ClusterParameters(hysteresis=1e6)
    merged = refit(snapshot(vectors, former, parameters=generous))
    assert len(set(merged.label[both])) == 1
    assert merged.roots.size == first.roots.size - 1


def test_a_list_of_nearest_keeps_the_smallest_in_order():
    chance = np.random.default_rng(1)
    distances = chance.random(50).astype(np.float32)
    kept, members = np.full(7, np.inf, np.float32), np.full(7, -1, np.int32)
    for member, distance in enumerate(distances):
        keep_nearest(kept, members, distance, np.int32(member))
    assert np.array_equal(kept, np.sort(distances)[:7])
    assert np.array_equal(members, np.argsort(distances)[:7])


def test_the_basis_keeps_distances_and_cells_are_all_used():
    vectors, _ = mixture(10).draw(2000)
    basis = fit_basis(vectors, 96)
    coordinates, lengths = basis.project(vectors)
    assert np.allclose(basis.directions @ basis.directions.T, np.eye(96), atol=1e-4)
    assert np.allclose((coordinates**2).sum(axis=1), lengths, atol=1e-4)
    centroids = fit_cells(coordinates, number_of_cells(2000))
    assert np.isfinite(centroids).all()
    assert len(np.unique(centroids, axis=0)) == number_of_cells(2000)


def test_parameters_scale_the_least_cluster_with_the_window():
    options = ClusterParameters()
    assert [options.min_cluster_size(n) for n in (50, 1000, 5000, 100_000)] == [10, 10, 50, 100]
