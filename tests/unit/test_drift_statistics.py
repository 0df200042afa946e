"""Tests hold their level, effects have the size they should, and corrections are the known ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from streams.profile.drift.discoveries import (
    benjamini_hochberg,
    benjamini_yekutieli,
    e_discoveries,
)
from streams.profile.drift.features import BY_NAME, FEATURES
from streams.profile.drift.profile import Profile
from streams.profile.drift.statistics import compare

_AGE = BY_NAME["header.patient_age_years"]
_VIEW = BY_NAME["header.view_position"]
_EMBEDDING = BY_NAME["embedding"]


def _profile(feature, column, start=0):
    profile = Profile((feature,))
    profile.add_columns([f"u{start + k}" for k in range(len(column))], {feature.name: column})
    return profile


def test_numeric_effect_and_test_agree_with_scipy():
    random = np.random.default_rng(1)
    before, after = random.normal(50, 5, 3000), random.normal(53, 5, 400)
    found = compare(_AGE, _profile(_AGE, before), _profile(_AGE, after), 1)
    known = stats.ks_2samp(before, after, method="asymp")
    assert found.effect == pytest.approx(0.6, abs=0.15)
    assert found.low < 0.6 < found.high
    assert np.log10(found.p_value) == pytest.approx(np.log10(known.pvalue), rel=0.15)
    assert found.effect == pytest.approx(stats.wasserstein_distance(before, after) / 5, rel=0.05)
    assert found.psi > 0.2


def test_missing_values_are_drift_too():
    random = np.random.default_rng(2)
    before = random.normal(50, 5, 2000)
    after = np.where(random.random(300) < 0.2, np.nan, random.normal(50, 5, 300))
    found = compare(_AGE, _profile(_AGE, before), _profile(_AGE, after), 1)
    assert found.p_value < 1e-6
    assert found.effect < 0.2


@pytest.mark.parametrize("feature", [_AGE, _VIEW, _EMBEDDING], ids=lambda f: f.kind)
def test_the_tests_hold_their_level(feature):
    p_values = []
    for seed in range(120):
        random = np.random.default_rng(seed)

        def draw(count, random=random):
            if feature.kind == "numeric":
                return random.lognormal(2, 0.5, count)
            if feature.kind == "categorical":
                return random.choice(["PA", "AP", "LL"], count, p=[0.7, 0.29, 0.01]).tolist()
            return random.standard_normal((count, 8))

        reference, window = _profile(feature, draw(600)), _profile(feature, draw(120), 10_000)
        p_values.append(compare(feature, reference, window, seed, draws=0).p_value)
    # Binomial bounds that a correct level of 10 % passes all but once in ten thousand times.
    low, high = stats.binom.ppf((1e-4, 1 - 1e-4), 120, 0.1)
    found = sum(p <= 0.1 for p in p_values)
    assert found <= high
    if feature.kind != "categorical":
        assert found >= low


def test_categories_and_vectors_that_moved_are_found():
    random = np.random.default_rng(3)
    before = random.choice(["PA", "AP"], 2000, p=[0.6, 0.4]).tolist()
    after = random.choice(["PA", "AP", "LL"], 200, p=[0.5, 0.35, 0.15]).tolist()
    view = compare(_VIEW, _profile(_VIEW, before), _profile(_VIEW, after), 1)
    assert view.p_value < 1e-6
    assert 0.1 < view.low < view.effect < view.high <= 1
    old, new = random.standard_normal((800, 16)), random.standard_normal((200, 16))
    new[:, 0] += 1.0
    moved = compare(_EMBEDDING, _profile(_EMBEDDING, old), _profile(_EMBEDDING, new), 1)
    same = compare(
        _EMBEDDING,
        _profile(_EMBEDDING, old),
        _profile(_EMBEDDING, random.standard_normal((200, 16))),
        1,
    )
    assert moved.p_value < 1e-4 < same.p_value
    assert moved.low > 0


def test_comparison_follows_from_its_seed():
    random = np.random.default_rng(4)
    old = _profile(_EMBEDDING, random.standard_normal((300, 6)))
    new = _profile(_EMBEDDING, random.standard_normal((90, 6)))
    assert compare(_EMBEDDING, old, new, 5) == compare(_EMBEDDING, old, new, 5)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_adjusted_p_values_are_those_of_scipy(p_values):
    for ours, method in ((benjamini_hochberg, "bh"), (benjamini_yekutieli, "by")):
        assert np.allclose(ours(p_values), stats.false_discovery_control(p_values, method=method))


def test_e_values_need_more_where_there_are_many():
    assert e_discoveries([3.1], 0.05).tolist() == [True]
    assert e_discoveries([3.1] + [0.0] * 30, 0.05).sum() == 0
    assert e_discoveries([3.1] * 31, 0.05).all()
    assert e_discoveries([], 0.05).tolist() == []


def test_every_kind_is_watched():
    assert {f.kind for f in FEATURES} == {"numeric", "categorical", "vector"}
    assert len({f.name for f in FEATURES}) == len(FEATURES)
