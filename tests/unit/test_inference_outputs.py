"""Answers of models are checked before anyone believes them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from streams.inference.errors import (
    BadInput,
    BadOutput,
    InferenceError,
    ModelAbsent,
    ServiceUnavailable,
)
from streams.inference.outputs import require_unit_norm

shapes = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=8)


@given(hnp.arrays(np.float32, shapes, elements=st.floats(0.125, 4, width=32)))
def test_normalised_vectors_pass_unchanged(vectors: np.ndarray) -> None:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert require_unit_norm(unit) is unit


@given(
    hnp.arrays(np.float32, shapes, elements=st.floats(0.125, 4, width=32)),
    st.sampled_from([0, 0.9, 1.1, np.nan, np.inf]),
    st.data(),
)
def test_one_wrong_row_is_found_and_named(
    vectors: np.ndarray, length: float, data: st.DataObject
) -> None:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    row = data.draw(st.integers(0, len(unit) - 1))
    unit[row] *= np.float32(length)
    with pytest.raises(BadOutput, match=f"embedding {row} of {len(unit)} has length"):
        require_unit_norm(unit)


def test_a_single_vector_is_not_a_batch() -> None:
    with pytest.raises(BadOutput, match="expected"):
        require_unit_norm(np.ones(1, np.float32))


def test_only_an_absent_service_is_worth_another_try() -> None:
    assert ServiceUnavailable("x").retryable
    for error in (
        ModelAbsent("embedder", "no weights"),
        BadInput("x"),
        BadOutput("x"),
    ):
        assert isinstance(error, InferenceError)
        assert not error.retryable
    assert ModelAbsent("embedder", "no weights").reason == "no weights"
