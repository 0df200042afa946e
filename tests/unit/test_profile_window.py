from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.profile.cells import assign_cells, fit_basis, fit_cells
from streams.profile.index import SlotIndex
from streams.profile.vectors import BadVector, unit
from streams.profile.window import EmbeddingWindow

DIMENSIONS = 6


def axis(number: int) -> np.ndarray:
    """Return vectors that are all far from each other."""
    return unit(np.random.default_rng(number).standard_normal(DIMENSIONS), DIMENSIONS)


def make(limit: int = 4, headroom: int = 3, span: float = 100.0) -> EmbeddingWindow:
    return EmbeddingWindow(DIMENSIONS, limit, headroom, span)


def held(window: EmbeddingWindow) -> list[str]:
    return sorted(window.keys[slot] for slot in window.slots())


def test_the_least_recently_seen_leaves_first():
    window = make()
    slots = [window.admit(name, i, axis(i))[0] for i, name in enumerate("abcd")]
    window.repeat(slots[0], 4)
    _, left = window.admit("e", 5, axis(5))
    assert left == [slots[1]]
    assert held(window) == ["a", "c", "d", "e"]
    assert window.copies[slots[0]] == 2


def test_what_is_older_than_the_span_leaves_whatever_its_order():
    window = make(limit=10)
    window.admit("new", 150, axis(1))
    window.admit("late but in time", 60, axis(2))
    _, left = window.admit("newer", 161, axis(3))
    assert len(left) == 1
    assert held(window) == ["new", "newer"]
    assert window.is_late(60.9)
    assert not window.is_late(61.0)


def test_an_older_copy_does_not_make_a_picture_older():
    window = make(limit=10)
    slot, _ = window.admit("a", 100, axis(1))
    window.repeat(slot, 10)
    _, left = window.admit("b", 150, axis(2))
    assert left == []
    assert window.first_seconds[slot] == 10
    assert window.seen_seconds[slot] == 100


def test_slots_that_are_held_keep_their_vectors():
    window = make(limit=2, headroom=2)
    first, _ = window.admit("a", 0, axis(0))
    window.admit("b", 1, axis(1))
    window.hold()
    window.admit("c", 2, axis(2))
    window.admit("d", 3, axis(3))
    assert np.array_equal(window.vectors[first], axis(0))
    window.release()
    slot, _ = window.admit("e", 4, axis(4))
    window.admit("f", 5, axis(5))
    assert held(window) == ["e", "f"]
    assert np.array_equal(window.vectors[slot], axis(4))


def test_a_hold_beyond_the_headroom_is_refused_with_its_reason():
    window = make(limit=2, headroom=1)
    window.hold()
    for i in range(4):
        window.admit(str(i), i, axis(i))
    with pytest.raises(RuntimeError, match="headroom"):
        window.admit("4", 4, axis(4))


OPERATIONS = st.lists(
    st.tuples(st.integers(0, 30), st.floats(0, 300, allow_nan=False, width=32)), max_size=60
)


@settings(deadline=None, max_examples=60)
@given(OPERATIONS, st.integers(2, 6))
def test_the_window_is_what_a_plain_list_says(operations, limit):
    window = make(limit=limit, span=100.0)
    plain: list[list] = []  # [picture, last seen], least recently seen first
    slot_of: dict[int, int] = {}
    newest = -np.inf
    for picture, seconds in operations:
        if seconds < newest - 100.0:
            assert window.is_late(seconds)
            continue
        newest = max(newest, seconds)
        there = next((entry for entry in plain if entry[0] == picture), None)
        if there is not None:
            window.repeat(slot_of[picture], seconds)
            plain.remove(there)
            plain.append([picture, max(there[1], seconds)])
            plain = [entry for entry in plain if entry[1] >= newest - 100.0]
        else:
            slot_of[picture], _ = window.admit(str(picture), seconds, axis(picture))
            plain = [entry for entry in plain if entry[1] >= newest - 100.0]
            plain = [*plain[max(0, len(plain) + 1 - limit) :], [picture, seconds]]
        assert held(window) == sorted(str(entry[0]) for entry in plain)
        assert len(window) == len(plain)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_a_search_of_all_cells_finds_the_nearest_after_any_comings_and_goings(seed):
    chance = np.random.default_rng(seed)
    vectors = chance.standard_normal((300, 12)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    basis = fit_basis(vectors, 12)
    coordinates, lengths = basis.project(vectors)
    centroids = fit_cells(coordinates, 7)
    index = SlotIndex(vectors, basis, centroids)
    begin = np.arange(100, dtype=np.int32)
    index.fill(begin, coordinates[:100], lengths[:100], assign_cells(coordinates, centroids)[:100])
    inside = set(range(100))
    for _ in range(400):
        slot = int(chance.integers(300))
        if slot in inside:
            index.remove(slot)
            inside.remove(slot)
        else:
            index.add(slot)
            inside.add(slot)
    query = vectors[int(chance.integers(300))]
    squared, slots = index.search(query, 5, 7)
    rows = np.array(sorted(inside))
    exact = ((vectors[rows] - query) ** 2).sum(axis=1)
    assert np.allclose(squared, np.sort(exact)[:5], atol=1e-5)
    assert set(slots) <= inside
    assert list(squared) == sorted(squared)


@pytest.mark.parametrize(
    "vector", [np.zeros(4), [1, np.nan, 0, 0], [np.inf, 0, 0, 0], [1, 2, 3], [[1, 2, 3, 4]]]
)
def test_unusable_vectors_are_refused(vector):
    with pytest.raises(BadVector):
        unit(vector, 4)


def test_a_vector_has_length_one_whatever_its_size():
    for size in (1e-20, 1.0, 1e20):
        assert np.linalg.norm(unit(np.array([3.0, 4.0]) * size, 2)) == pytest.approx(1.0)
