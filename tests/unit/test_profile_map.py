from __future__ import annotations

import numpy as np

from streams.profile.landmarks import lay_out
from streams.profile.scope import ScopeProfile
from streams.profile.values import ProfileParameters
from tests.bench.clusters import Mixture, arrivals_of


def mixture(seed: int) -> Mixture:
    return Mixture(seed, components=6, dimensions=48, intrinsic=5, factors=24)


def cells(stream: Mixture, count: int = 60) -> np.ndarray:
    return stream.draw(count)[0]


def size(places: np.ndarray) -> float:
    return float(np.linalg.norm(places.max(axis=0) - places.min(axis=0)))


def test_a_flat_world_is_mapped_as_it_is():
    chance = np.random.default_rng(0)
    flat = chance.random((40, 2))
    lifted = (flat @ np.linalg.qr(chance.standard_normal((10, 2)))[0].T).astype(np.float32)
    places = lay_out(lifted, None).places
    real = np.linalg.norm(flat[:, None] - flat[None], axis=2)
    mapped = np.linalg.norm(places[:, None] - places[None], axis=2)
    assert np.allclose(real, mapped, atol=0.02)


def test_a_map_is_the_same_again():
    landmarks = cells(mixture(1))
    assert np.array_equal(lay_out(landmarks, None).places, lay_out(landmarks, None).places)


def test_the_former_map_holds_its_landmarks_in_place():
    stream = mixture(2)
    first = lay_out(cells(stream), None)
    moved = first.landmarks + np.random.default_rng(0).normal(0, 0.01, first.landmarks.shape)
    second = lay_out(moved.astype(np.float32), first)
    step = np.linalg.norm(second.places - first.places, axis=1)
    assert np.median(step) < 0.05 * size(first.places)
    # A map begun anew goes elsewhere, or the test would say nothing.
    anew = lay_out(moved[::-1].astype(np.float32), None).places[::-1]
    assert np.median(np.linalg.norm(anew - first.places, axis=1)) > np.median(step)


def test_a_landmark_is_located_where_it_lies():
    layout = lay_out(cells(mixture(3)), None)
    assert np.allclose(layout.locate(layout.landmarks), layout.places, atol=1e-3)


def test_near_vectors_lie_near_each_other():
    stream = mixture(4)
    layout = lay_out(cells(stream, 80), None)
    vectors, _ = stream.draw(200)
    nudged = vectors + np.random.default_rng(1).normal(0, 1e-4, vectors.shape).astype(np.float32)
    step = np.linalg.norm(layout.locate(vectors) - layout.locate(nudged), axis=1)
    assert step.max() < 0.02 * size(layout.places)


def test_clusters_do_not_jump_from_refit_to_refit():
    stream = mixture(5)
    options = ProfileParameters(limit=1500, refit_every=150, refit_lag=70, span_seconds=1e9)
    profile = ScopeProfile(48, options)
    profile.absorb(arrivals_of(*stream.draw(2000), 0))
    former = {one.cluster: np.array(one.place) for one in profile.clusters}
    steps = []
    for _ in range(10):
        said = profile.absorb(arrivals_of(*stream.draw(150), profile.arrivals))
        for update in said.updates:
            now = {one.cluster: np.array(one.place) for one in update.clusters}
            extent = size(np.array(list(now.values())))
            steps += [np.linalg.norm(now[c] - former[c]) / extent for c in now if c in former]
            former = now
    assert len(steps) > 30
    assert np.median(steps) < 0.02
    assert max(steps) < 0.08


def test_one_place_and_no_spread():
    layout = lay_out(np.ones((1, 4), np.float32), None)
    assert layout.locate(np.zeros((3, 4), np.float32)).shape == (3, 2)
    assert np.isfinite(layout.places).all()
    twins = lay_out(np.ones((5, 4), np.float32), None)
    assert np.isfinite(twins.places).all()
