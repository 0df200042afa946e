from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from streams.profile.refit import ClusterParameters, refit
from streams.profile.scope import ScopeProfile
from streams.profile.values import Absorbed, Arrival, ProfileParameters
from streams.profile.vectors import BadVector
from tests.bench.clusters import Mixture, arrivals_of

DIMENSIONS = 48
SMALL = ProfileParameters(limit=1500, refit_every=150, refit_lag=70, span_seconds=1e9)


def mixture(seed: int, components: int = 6) -> Mixture:
    return Mixture(seed, components=components, dimensions=DIMENSIONS, intrinsic=5, factors=24)


def arrivals(stream: Mixture, count: int, first: int = 0) -> list[Arrival]:
    return arrivals_of(*stream.draw(count), first)


def joined(parts: list[Absorbed]) -> tuple:
    def plain(update):
        clusters = [
            (c.cluster, c.size, c.images, c.kinds, c.exemplars, c.place, c.centroid.tobytes())
            for c in update.clusters
        ]
        return (update.arrival, update.events, clusters, update.unclustered, update.moves)

    return (
        [one for part in parts for one in part.placements],
        [plain(one) for part in parts for one in part.updates],
        [one for part in parts for one in part.moves],
    )


def test_a_replay_in_other_batches_and_beside_other_threads_says_the_same():
    stream = arrivals(mixture(1), 2600)
    first = ScopeProfile(DIMENSIONS, SMALL)
    whole = joined([first.absorb(stream)])
    with ThreadPoolExecutor(1) as pool:
        second = ScopeProfile(DIMENSIONS, SMALL, lambda snapshot: pool.submit(refit, snapshot))
        chance = np.random.default_rng(0)
        parts, begin = [], 0
        while begin < len(stream):
            end = begin + int(chance.integers(1, 90))
            parts.append(second.absorb(stream[begin:end]))
            begin = end
        assert joined(parts) == whole
    assert first.counts() == second.counts()
    assert first.members() == second.members()


def test_what_is_said_at_once_is_what_the_stream_is_made_of():
    stream = mixture(2)
    profile = ScopeProfile(DIMENSIONS, SMALL)
    profile.absorb(arrivals(stream, 2000))
    assert 6 <= len(profile.clusters) <= 8
    vectors, labels = stream.draw(100)
    placed = profile.absorb(arrivals_of(vectors, labels, 2000)).placements
    of_cluster = {c.cluster: max(c.kinds, key=c.kinds.__getitem__) for c in profile.clusters}
    clustered = [(one, label) for one, label in zip(placed, labels, strict=True) if one.cluster]
    assert len(clustered) > 70
    right = [of_cluster[one.cluster] == str(label) for one, label in clustered]
    assert np.mean(right) > 0.97
    for one in placed:
        assert len(one.nearest) == 5
        assert 0 <= one.outlier_score <= 1
        assert one.place is not None
        assert one.admitted


def test_copies_are_counted_once_and_kept_in_mind():
    profile = ScopeProfile(DIMENSIONS, SMALL)
    stream = arrivals(mixture(3), 600)
    profile.absorb(stream)
    distinct = len(profile.window)
    typical = profile.clusters[0].exemplars[0]
    original = next(one for one in stream if one.key == typical)
    again = [Arrival(f"copy {i}", 600.0 + i, np.asarray(original.vector) * 3) for i in range(3000)]
    said = profile.absorb(again)
    assert len(profile.window) == distinct
    assert {one.twin for one in said.placements} == {typical}
    assert not any(one.outlier for one in said.placements)
    cluster = profile.members()[typical]
    shown = next(one for one in said.updates[-1].clusters if one.cluster == cluster)
    assert shown.images > 2000 > shown.size


def test_late_arrivals_are_placed_but_not_taken_in():
    options = ProfileParameters(limit=1500, refit_every=150, refit_lag=70, span_seconds=500.0)
    profile = ScopeProfile(DIMENSIONS, options)
    stream = mixture(4)
    profile.absorb(arrivals(stream, 1000))
    assert len(profile.window) <= 501
    vectors, _ = stream.draw(1)
    said = profile.absorb([Arrival("late", 100.0, vectors[0])]).placements[0]
    assert not said.admitted
    assert "late" not in profile.members()


def test_a_cluster_that_forms_between_refits_is_announced_and_confirmed():
    options = ProfileParameters(
        limit=1500,
        refit_every=1500,
        refit_lag=200,
        span_seconds=1e9,
        clusters=ClusterParameters(most_cluster_size=15),
    )
    stream = mixture(5)
    profile = ScopeProfile(DIMENSIONS, options)
    profile.absorb(arrivals(stream, 2500))
    fresh = str(stream.add_component(0.3))
    born = None
    while profile.arrivals < 4300:
        for update in profile.absorb(arrivals(stream, 1, profile.arrivals)).updates:
            for event in update.events:
                mine = next((c for c in update.clusters if c.cluster == event.cluster), None)
                if mine and mine.kinds.get(fresh, 0) > 0.5 * mine.images and born is None:
                    born = mine
    assert born is not None
    assert born.provisional
    assert born.size == 15
    lasting = next(one for one in profile.clusters if one.cluster == born.cluster)
    assert not lasting.provisional
    assert lasting.size > born.size


def test_a_cluster_that_nobody_sends_any_more_is_retired():
    stream = mixture(6)
    profile = ScopeProfile(DIMENSIONS, SMALL)
    profile.absorb(arrivals(stream, 2000))
    leaving = max(profile.clusters, key=lambda one: one.kinds.get("3", 0)).cluster
    stream.remove_component(3)
    events = []
    for _ in range(5):
        said = profile.absorb(arrivals(stream, 500, profile.arrivals))
        events += [event for update in said.updates for event in update.events]
    assert ("died", leaving) in [(event.kind, event.cluster) for event in events]
    assert leaving not in [one.cluster for one in profile.clusters]
    assert leaving not in profile.counts()


def test_summaries_add_up_to_the_window():
    profile = ScopeProfile(DIMENSIONS, SMALL)
    said = profile.absorb(arrivals(mixture(7), 2500))
    update = said.updates[-1]
    assert sum(one.size for one in update.clusters) + update.unclustered == update.distinct
    for one in update.clusters:
        assert sum(one.kinds.values()) == one.images >= one.size >= 10
        assert np.linalg.norm(one.centroid) == pytest.approx(1.0, abs=1e-5)
        assert one.first_seconds <= one.last_seconds
        assert one.exemplars


def test_every_move_is_told():
    stream = mixture(8)
    profile = ScopeProfile(DIMENSIONS, SMALL)
    told: dict[str, int | None] = {}
    for _ in range(25):
        said = profile.absorb(arrivals(stream, 100, profile.arrivals))
        # Within a batch: what was said on arrival, then in order of the updates, then the rest.
        for one in said.placements:
            told[one.key] = one.cluster
        moves = [move for update in said.updates for move in update.moves]
        for move in [*moves, *said.moves]:
            told[move.key] = move.after
    members = profile.members()
    wrong = [key for key, cluster in members.items() if told[key] != cluster]
    assert len(wrong) <= 0.01 * len(members)


def test_a_rebuilt_profile_keeps_the_ids():
    stream = mixture(9)
    profile = ScopeProfile(DIMENSIONS, SMALL)
    before = arrivals(stream, 2000)
    profile.absorb(before)
    members = profile.members()
    again = ScopeProfile(DIMENSIONS, SMALL)
    rows = [
        Arrival(one.key, one.event_time_seconds, one.vector, one.kind, {}, members[one.key])
        for one in before
        if one.key in members
    ]
    update = again.rebuild(iter(rows), counted=2000, next_id=50)
    assert again.arrivals == 2000
    assert {one.cluster for one in update.clusters} == {one.cluster for one in profile.clusters}
    now = again.members()
    assert set(now) == set(members)
    assert np.mean([now[key] == members[key] for key in members]) > 0.97
    with pytest.raises(ValueError, match="new"):
        again.rebuild(iter(rows), counted=2000)
    again.absorb(arrivals(stream, 500, 2000))
    assert again.arrivals == 2500


def test_the_caller_can_see_what_the_next_arrival_waits_for():
    profile = ScopeProfile(DIMENSIONS, SMALL)
    stream = arrivals(mixture(10), 1700)
    profile.absorb(stream[:200])
    assert profile.pending is not None
    left = profile.until_wait
    assert left is not None
    profile.absorb(stream[200 : 200 + left])
    assert profile.waits_for is profile.pending is not None
    profile.absorb(stream[200 + left : 201 + left])
    assert profile.waits_for is None


def test_outliers_come_with_reasons():
    names = ("noise", "rows")
    options = ProfileParameters(
        limit=1500, refit_every=150, refit_lag=70, span_seconds=1e9, feature_names=names
    )
    profile = ScopeProfile(DIMENSIONS, options)
    vectors, _ = mixture(11).draw(1500)
    chance = np.random.default_rng(0)
    profile.absorb(
        [
            Arrival(str(i), i, vectors[i], "CT", {"noise": chance.normal(5, 1), "rows": 512.0})
            for i in range(1500)
        ]
    )
    odd = -vectors[0]
    said = profile.absorb([Arrival("odd", 1500, odd, "CT", {"noise": 5.0, "rows": 64.0})])
    placed = said.placements[0]
    assert placed.outlier
    assert placed.p_value is not None
    assert placed.p_value < 0.005
    assert placed.cluster is None
    assert placed.deviations[0].feature == "rows"
    assert placed.deviations[0].usual == 512.0
    assert [one.distance for one in placed.nearest] == sorted(
        one.distance for one in placed.nearest
    )


def test_an_unusable_vector_is_refused_and_leaves_the_profile_as_it_was():
    profile = ScopeProfile(DIMENSIONS, SMALL)
    with pytest.raises(BadVector):
        profile.absorb([Arrival("bad", 0.0, np.zeros(DIMENSIONS))])
    assert profile.arrivals == 0
    assert len(profile.window) == 0


@pytest.mark.parametrize("wrong", [{"refit_lag": 200}, {"refit_lag": 0}, {"first_refit": 1}])
def test_parameters_that_cannot_work_are_refused(wrong):
    with pytest.raises(ValueError, match="must be"):
        ProfileParameters(**{"refit_every": 150, "refit_lag": 70, **wrong})
