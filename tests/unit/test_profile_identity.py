from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.profile.identity import ClusterEvent, Matching, match


def run(former, label, asleep=None, next_id=100) -> Matching:
    former, label = np.array(former), np.array(label, np.int32)
    asleep = asleep or {}
    awake = frozenset(int(x) for x in former if x >= 0) - set(asleep)
    clusters = int(label.max(initial=-1)) + 1
    return match(former, label, clusters, awake, asleep, next_id)


def test_ids_go_with_the_majority_of_members():
    found = run([7] * 10 + [8] * 10, [1] * 9 + [0] + [0] * 9 + [-1])
    assert list(found.ids) == [8, 7]
    assert found.events == ()
    assert found.next_id == 100


def test_a_cluster_of_newcomers_is_born():
    found = run([7] * 10 + [-1] * 6, [0] * 10 + [1] * 6)
    assert list(found.ids) == [7, 100]
    assert found.events == (ClusterEvent("born", 100),)


def test_the_larger_part_of_a_split_keeps_the_id():
    found = run([7] * 10, [0] * 4 + [1] * 6)
    assert list(found.ids) == [100, 7]
    assert found.events == (ClusterEvent("split", 100, (7,)),)


def test_without_a_majority_all_parts_are_new():
    found = run([7] * 9, [0] * 3 + [1] * 3 + [2] * 3)
    assert list(found.ids) == [100, 101, 102]
    assert {event.kind for event in found.events} == {"split"}
    assert found.asleep == {7: 1}


def test_the_larger_of_two_that_merge_goes_on_and_the_other_is_retired_after_a_grace():
    former = [7] * 10 + [8] * 6
    first = run(former, [0] * 16)
    assert list(first.ids) == [7]
    assert first.events == ()
    assert first.asleep == {8: 1}
    second = run(former, [0] * 16, asleep=first.asleep)
    assert second.events == (ClusterEvent("merged", 8, (7,)),)
    assert second.asleep == {}


def test_a_cluster_that_flickers_wakes_with_its_id():
    first = run([7] * 10 + [8] * 6, [0] * 10 + [-1] * 6)
    assert first.asleep == {8: 1}
    second = run([7] * 10 + [8] * 6, [0] * 10 + [1] * 6, asleep=first.asleep)
    assert list(second.ids) == [7, 8]
    assert second.events == ()
    assert second.asleep == {}


def test_a_cluster_without_members_dies():
    found = run([7] * 10, [0] * 10, asleep={9: 1})
    assert found.events == (ClusterEvent("died", 9),)


def test_nothing_known_and_nothing_found():
    found = match(np.zeros(0, np.int64), np.zeros(0, np.int32), 0, frozenset(), {}, 1)
    assert found.ids.shape == (0,)
    assert found.events == ()


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.tuples(st.integers(-1, 5), st.integers(-1, 5)), min_size=1, max_size=60),
    st.sets(st.integers(0, 5)),
)
def test_no_id_is_given_twice_and_none_is_lost(pairs, sleepers):
    former = np.array([a for a, _ in pairs], np.int64)
    wanted = np.array([b for _, b in pairs], np.int32)
    # Clusters are numbered without gaps.
    kept = np.unique(wanted[wanted >= 0])
    label = np.where(wanted >= 0, np.searchsorted(kept, wanted), -1).astype(np.int32)
    known = {int(x) for x in former if x >= 0} | sleepers
    asleep = dict.fromkeys(sorted(sleepers), 1)
    found = match(former, label, kept.size, frozenset(known - sleepers), asleep, 10)
    ids = [int(x) for x in found.ids]
    assert len(set(ids)) == len(ids) == kept.size
    assert all(one in known or 10 <= one < found.next_id for one in ids)
    retired = {e.cluster for e in found.events if e.kind in ("died", "merged")}
    fresh = {e.cluster for e in found.events if e.kind in ("born", "split")}
    assert fresh == {one for one in ids if one >= 10}
    # Every id goes on, sleeps or is retired: one of the three.
    assert sorted([*(set(ids) & known), *found.asleep, *retired]) == sorted(known)
    for event in found.events:
        if event.kind == "merged":
            assert event.others[0] in ids
