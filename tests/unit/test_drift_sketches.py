"""Sketches merge exactly, stay bounded, and hold what statistics need."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.profile.drift.sketches import (
    MAX_CATEGORIES,
    CategorySketch,
    NumericSketch,
    VectorSketch,
    bucket_of,
    project,
    projection,
    value_of,
)

_numbers = st.lists(
    st.floats(allow_nan=True, allow_infinity=True, width=64), min_size=0, max_size=40
)


@given(st.lists(st.floats(-1e11, 1e11), min_size=1, max_size=50))
def test_buckets_keep_order_and_value(values):
    array = np.sort(np.array(values, dtype=np.float64))
    buckets = bucket_of(array)
    assert (np.diff(buckets) >= 0).all()
    back = value_of(buckets)
    large = np.abs(array) > 1e-8
    assert np.allclose(back[large], array[large], rtol=0.0051)
    assert (np.abs(back[~large]) <= 1.1e-8).all()


@given(_numbers, st.integers(1, 7))
def test_numeric_sketch_does_not_depend_on_order_or_batches(values, batch):
    array = np.array(values, dtype=np.float64)
    whole = NumericSketch()
    whole.add(array)
    parts = NumericSketch()
    for start in range(0, len(array), batch):
        part = NumericSketch()
        part.add(array[::-1][start : start + batch])
        parts.merge(part)
    assert parts == whole
    assert whole.present + whole.missing == len(array)


def test_categories_are_bounded_and_counted_exactly():
    names = [f"c{k}" for k in range(3 * MAX_CATEGORIES)]
    stream = names + names[::3]
    forward, backward = CategorySketch(), CategorySketch()
    forward.add(stream)
    for name in reversed(stream):
        one = CategorySketch()
        one.add([name])
        backward.merge(one)
    assert len(forward.counts) == MAX_CATEGORIES
    assert forward == backward
    assert forward.present == len(stream)
    assert all(count == stream.count(name) for name, count in list(forward.counts.items())[:50])


@settings(max_examples=30)
@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 2**31))
def test_vector_sketch_is_exact_in_any_order(count, batch, seed):
    vectors = np.random.default_rng(seed).standard_normal((count, 5))
    whole = VectorSketch()
    whole.add(vectors)
    parts = VectorSketch()
    for start in range(0, count, batch):
        part = VectorSketch()
        part.add(vectors[::-1][start : start + batch])
        parts.merge(part)
    assert (parts.sums == whole.sums).all()
    assert (parts.products == whole.products).all()
    assert np.allclose(whole.mean(), vectors.mean(axis=0), atol=1e-4)
    assert np.allclose(whole.covariance(), np.cov(vectors.T, bias=True), atol=1e-3)


def test_vectors_of_another_model_are_refused():
    sketch = VectorSketch()
    sketch.add(np.ones((3, 5)))
    with pytest.raises(ValueError, match="reference of its own"):
        sketch.add(np.ones((3, 6)))


def test_projection_keeps_lengths_and_never_changes():
    vectors = np.random.default_rng(1).standard_normal((400, 768))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    lengths = np.linalg.norm(project(vectors), axis=1)
    assert lengths.mean() == pytest.approx(1.0, abs=0.05)
    # Pinned: stored references are in these coordinates.
    assert np.sign(projection(768)[0, :8]).tolist() == PINNED_SIGNS
    assert (project(vectors[:, :20]) == vectors[:, :20]).all()


PINNED_SIGNS = [1.0, 1.0, -1.0, -1.0, -1.0, -1.0, -1.0, -1.0]
