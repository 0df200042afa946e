"""How a window differs from the reference: effect with interval, and a test, from sketches.

==================== ======================================== ================================
feature              effect size                              test
==================== ======================================== ================================
numeric              Wasserstein-1 over the robust standard   Kolmogorov-Smirnov; missing
                     deviation of the reference               values lie below all numbers
categorical          Jensen-Shannon distance, 0 to 1          chi-squared, rare cells pooled
vector               maximum mean discrepancy (Gretton et     permutations, with a gamma
                     al., JMLR 13:723, 2012), on random       distribution through their
                     Fourier features (Rahimi and Recht,      moments (Gretton et al., NIPS
                     NIPS 2007), bandwidth: median distance   2009)
==================== ======================================== ================================

The population stability index is given beside them: PSI of deciles, above 0.25 by custom a major
change. Intervals are 95 % basic bootstrap intervals, which correct what noise adds to quantities
that cannot be negative. The index is made of ``standardised``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.special import chdtrc, gammaincc, kolmogorov

from streams.profile.drift.features import Feature
from streams.profile.drift.profile import Profile
from streams.profile.drift.sketches import (
    CategorySketch,
    Float64Array,
    NumericSketch,
    VectorSketch,
    value_of,
)

_DRAWS: Final = 200
_PERMUTATIONS: Final = 200
_FREQUENCIES: Final = 64
_LANDMARKS: Final = 512
_EXPECTED: Final = 5.0
_KOLMOGOROV_MEAN: Final = 0.8687
_KOLMOGOROV_STD: Final = 0.2603


@dataclass(frozen=True, slots=True)
class Comparison:
    """One feature of a window beside the reference.

    Parameters
    ----------
    feature : str
        Its name.
    statistic : str
        What the effect size is: ``wasserstein/std``, ``jensen-shannon`` or ``mmd``.
    effect, low, high : float
        Effect size and its 95 % interval.
    test : str
        What the p-value is of: ``ks``, ``chi-squared`` or ``permutation``.
    p_value : float
        Of the test, before any correction for the number of features.
    standardised : float
        Test statistic on a scale that does not depend on the window's size: about 0 without drift,
        in standard deviations where its asymptotic law holds.
    psi : float or None
        Population stability index; none for vectors.
    count : int
        Units of the window that had a say.
    """

    feature: str
    statistic: str
    effect: float
    low: float
    high: float
    test: str
    p_value: float
    standardised: float
    psi: float | None
    count: int


def compare(
    feature: Feature, reference: Profile, window: Profile, seed: int, *, draws: int = _DRAWS
) -> Comparison | None:
    """Compare one feature of a window with the reference.

    Parameters
    ----------
    feature : Feature
        Which.
    reference, window : Profile
        The two sets of units.
    seed : int
        Of the bootstrap and the permutations, below 2**32.
    draws : int
        Bootstrap draws; 0 leaves the interval empty (low and high are the effect).

    Returns
    -------
    Comparison or None
        None when one of the two has nothing to compare.
    """
    ours, theirs = window.sketches.get(feature.name), reference.sketches.get(feature.name)
    random = np.random.RandomState(seed)
    if isinstance(ours, NumericSketch) and isinstance(theirs, NumericSketch):
        return _numeric(feature, theirs, ours, random, draws)
    if isinstance(ours, CategorySketch) and isinstance(theirs, CategorySketch):
        return _categorical(feature, theirs, ours, random, draws)
    if isinstance(ours, VectorSketch) and isinstance(theirs, VectorSketch):
        before = reference.sampled_columns().get(feature.name)
        after = window.sampled_columns().get(feature.name)
        if before is None or after is None:
            return None
        return _vector(feature, np.asarray(before), np.asarray(after), random, draws)
    return None


def _resample(random: np.random.RandomState, counts: Float64Array, draws: int) -> Float64Array:
    total = int(counts.sum())
    return np.asarray(random.multinomial(total, counts / counts.sum(), size=draws), np.float64)


def _interval(effect: float, drawn: Float64Array) -> tuple[float, float]:
    if not drawn.size:
        return effect, effect
    low, high = np.quantile(drawn, (0.025, 0.975))
    return max(0.0, 2 * effect - float(high)), max(0.0, 2 * effect - float(low))


def _numeric(
    feature: Feature,
    reference: NumericSketch,
    window: NumericSketch,
    random: np.random.RandomState,
    draws: int,
) -> Comparison | None:
    buckets = np.array(sorted({*reference.counts, *window.counts}), dtype=np.int64)
    before = np.array([reference.counts.get(b, 0) for b in buckets.tolist()], dtype=np.float64)
    after = np.array([window.counts.get(b, 0) for b in buckets.tolist()], dtype=np.float64)
    lacking = (0, 0) if feature.skip_missing else (reference.missing, window.missing)
    # Missing values have a place below all numbers: one test for both ways of drifting.
    all_before, all_after = np.r_[lacking[0], before], np.r_[lacking[1], after]
    if all_before.sum() < 1 or all_after.sum() < 1:
        return None
    gap = np.abs(_cdf(all_before) - _cdf(all_after)).max()
    effective = _effective(all_before.sum(), all_after.sum())
    root = math.sqrt(effective)
    # Stephens's correction (JRSS B 32:115, 1970) makes the asymptotic law hold from n = 5 on.
    p_value = float(kolmogorov((root + 0.12 + 0.11 / root) * gap))
    standardised = (root * float(gap) - _KOLMOGOROV_MEAN) / _KOLMOGOROV_STD
    effect, low, high = 0.0, 0.0, 0.0
    if before.sum() and after.sum():
        values = value_of(buckets)
        scale = _scale(values, before)
        effect = float(_wasserstein(values, before, after)) / scale
        drawn = np.zeros(0)
        if draws:
            drawn = _wasserstein(
                values, _resample(random, before, draws), _resample(random, after, draws)
            )
        low, high = _interval(effect, drawn / scale)
    return Comparison(
        feature.name,
        "wasserstein/std",
        effect,
        low,
        high,
        "ks",
        p_value,
        standardised,
        _psi(*_deciles(all_before, all_after)),
        int(all_after.sum()),
    )


def _cdf(counts: Float64Array) -> Float64Array:
    summed = np.cumsum(counts, axis=-1)
    return np.asarray(summed / np.maximum(summed[..., -1:], 1.0))


def _wasserstein(values: Float64Array, before: Float64Array, after: Float64Array) -> Float64Array:
    gaps = np.abs(_cdf(before) - _cdf(after))[..., :-1]
    return np.asarray((gaps * np.diff(values)).sum(axis=-1))


def _scale(values: Float64Array, counts: Float64Array) -> float:
    cdf = _cdf(counts)
    low, high = values[np.searchsorted(cdf, 0.1587)], values[np.searchsorted(cdf, 0.8413)]
    scale = float(high - low) / 2
    if scale <= 0:
        mean = float(values @ counts) / float(counts.sum())
        scale = math.sqrt(max(0.0, float((values - mean) ** 2 @ counts) / float(counts.sum())))
    # A constant has no spread to measure by: one percent of it is then one unit.
    return scale if scale > 0 else max(1e-9, 0.01 * abs(float(values[counts.argmax()])))


def _deciles(before: Float64Array, after: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Pool ordered counts, missing first, into missing and the deciles of the reference."""
    tenth = np.minimum(9, (10 * (_cdf(before[1:]) - 1e-12)).astype(np.int64)) + 1
    place = np.r_[0, tenth]
    return (
        np.bincount(place, weights=before, minlength=11).astype(np.float64),
        np.bincount(place, weights=after, minlength=11).astype(np.float64),
    )


def _psi(before: Float64Array, after: Float64Array) -> float:
    held = (before + after) > 0
    p = (before[held] + 0.5) / (before[held] + 0.5).sum()
    q = (after[held] + 0.5) / (after[held] + 0.5).sum()
    return float(((q - p) * np.log(q / p)).sum())


def _effective(before: float, after: float) -> float:
    return float(before * after / (before + after))


def _categorical(
    feature: Feature,
    reference: CategorySketch,
    window: CategorySketch,
    random: np.random.RandomState,
    draws: int,
) -> Comparison | None:
    names = sorted({*reference.counts, *window.counts})
    lacking = (0, 0) if feature.skip_missing else (reference.missing, window.missing)
    before = np.array(
        [*(reference.counts.get(n, 0) for n in names), reference.other, lacking[0]], np.float64
    )
    after = np.array(
        [*(window.counts.get(n, 0) for n in names), window.other, lacking[1]], np.float64
    )
    if before.sum() < 1 or after.sum() < 1:
        return None
    statistic, freedom = _chi_squared(before, after)
    effect = float(_jensen_shannon(before, after))
    drawn = np.zeros(0)
    if draws:
        drawn = _jensen_shannon(_resample(random, before, draws), _resample(random, after, draws))
    low, high = _interval(effect, drawn)
    return Comparison(
        feature.name,
        "jensen-shannon",
        effect,
        low,
        min(1.0, high),
        "chi-squared",
        float(chdtrc(freedom, statistic)) if freedom else 1.0,
        (statistic - freedom) / math.sqrt(2 * freedom) if freedom else 0.0,
        _psi(before, after),
        int(after.sum()),
    )


def _chi_squared(before: Float64Array, after: Float64Array) -> tuple[float, int]:
    """Return the two-sample statistic and its degrees of freedom; rare cells are pooled."""
    total = before + after
    share = after.sum() / total.sum()
    rare = total * min(share, 1 - share) < _EXPECTED
    table = np.array(
        [np.r_[before[~rare], before[rare].sum()], np.r_[after[~rare], after[rare].sum()]]
    )
    table = table[:, table.sum(axis=0) > 0]
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    return float(((table - expected) ** 2 / expected).sum()), table.shape[1] - 1


def _jensen_shannon(before: Float64Array, after: Float64Array) -> Float64Array:
    p = before / before.sum(axis=-1, keepdims=True)
    q = after / after.sum(axis=-1, keepdims=True)
    middle = (p + q) / 2

    def bits(a: Float64Array) -> Float64Array:
        with np.errstate(divide="ignore", invalid="ignore"):
            terms = np.where(a > 0, a * np.log2(a / middle), 0.0)
        return np.asarray(terms.sum(axis=-1))

    return np.sqrt(np.clip((bits(p) + bits(q)) / 2, 0.0, 1.0))


def _vector(
    feature: Feature,
    before: Float64Array,
    after: Float64Array,
    random: np.random.RandomState,
    draws: int,
) -> Comparison | None:
    before = before[np.isfinite(before).all(axis=1)][:_LANDMARKS]
    after = after[np.isfinite(after).all(axis=1)][:_LANDMARKS]
    if len(before) < 2 or len(after) < 2 or before.shape[1] != after.shape[1]:
        return None
    waves = _fourier(np.vstack((before, after)), before, random)
    old, new = waves[: len(before)], waves[len(before) :]
    squared = float(((old.mean(axis=0) - new.mean(axis=0)) ** 2).sum())
    excess = _excess(old) + _excess(new)
    effect = math.sqrt(max(0.0, squared - excess))
    order = np.argsort(random.random_sample((_PERMUTATIONS, len(waves))), axis=1)
    chosen = np.zeros((_PERMUTATIONS, len(waves)))
    np.put_along_axis(chosen, order[:, : len(new)], 1.0, axis=1)
    sums = chosen @ waves
    differences = sums / len(new) - (waves.sum(axis=0) - sums) / len(old)
    null = (differences**2).sum(axis=1)
    mean, variance = float(null.mean()), max(1e-30, float(null.var()))
    drawn = np.zeros(0)
    if draws:
        a = _resample(random, np.ones(len(old)), draws) @ old / len(old)
        b = _resample(random, np.ones(len(new)), draws) @ new / len(new)
        # Drawing again adds the noise of the sample a second time.
        drawn = np.sqrt(np.maximum(0.0, ((a - b) ** 2).sum(axis=1) - 2 * excess))
    low, high = (effect, effect) if not draws else np.quantile(drawn, (0.025, 0.975)).tolist()
    return Comparison(
        feature.name,
        "mmd",
        effect,
        float(low),
        float(high),
        "permutation",
        float(gammaincc(mean**2 / variance, squared * mean / variance)),
        (squared - mean) / math.sqrt(variance),
        None,
        len(after),
    )


def _fourier(
    vectors: Float64Array, landmarks: Float64Array, random: np.random.RandomState
) -> Float64Array:
    """Return random Fourier features of a Gaussian kernel, float64 ``[n, 2 * 64]``."""
    few = landmarks[:200]
    squares = ((few[:, None, :] - few[None, :, :]) ** 2).sum(axis=2)
    bandwidth = math.sqrt(max(1e-12, float(np.median(squares[np.triu_indices(len(few), 1)]))))
    angles = vectors @ (random.standard_normal((vectors.shape[1], _FREQUENCIES)) / bandwidth)
    return np.hstack((np.cos(angles), np.sin(angles))) / math.sqrt(_FREQUENCIES)


def _excess(waves: Float64Array) -> float:
    """Return what the noise of a finite sample adds to the squared distance of its mean."""
    return float(waves.var(axis=0, ddof=1).sum()) / len(waves)
