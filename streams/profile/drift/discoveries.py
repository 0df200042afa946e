"""False-discovery control over features.

Features are dependent in ways that nobody knows, so the corrections that hold under any
dependence are the ones in use: Benjamini-Yekutieli for p-values, e-BH for e-values. The classical
Benjamini-Hochberg, which needs positive dependence, is there to compare.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def benjamini_hochberg(p_values: Sequence[float]) -> NDArray[np.float64]:
    """Return adjusted p-values, float64 ``[n]`` (Benjamini and Hochberg, JRSS B 57:289, 1995)."""
    return _step_up(p_values, 1.0)


def benjamini_yekutieli(p_values: Sequence[float]) -> NDArray[np.float64]:
    """Return adjusted p-values, float64 ``[n]`` (Ann. Statist. 29:1165, 2001): any dependence."""
    harmonic = sum(1.0 / k for k in range(1, len(p_values) + 1))
    return _step_up(p_values, harmonic)


def _step_up(p_values: Sequence[float], factor: float) -> NDArray[np.float64]:
    values = np.asarray(p_values, dtype=np.float64)
    number = len(values)
    order = np.argsort(values, kind="stable")
    scaled = values[order] * factor * number / np.arange(1, number + 1)
    adjusted = np.empty(number)
    adjusted[order] = np.minimum(1.0, np.minimum.accumulate(scaled[::-1])[::-1])
    return adjusted


def e_discoveries(log_e_values: Sequence[float], level: float) -> NDArray[np.bool_]:
    """Return which hypotheses e-BH rejects, bool ``[n]`` (Wang and Ramdas, JRSS B 84:822, 2022).

    Parameters
    ----------
    log_e_values : sequence of float
        Natural logarithms of e-values: of evidence whose expectation without drift is at most 1.
    level : float
        Share of the discoveries that may be false.
    """
    values = np.asarray(log_e_values, dtype=np.float64)
    number = len(values)
    ordered = np.sort(values)[::-1]
    needed = np.log(number / (level * np.arange(1, number + 1))) if number else ordered
    held = np.flatnonzero(ordered >= needed)
    if not held.size:
        return np.zeros(number, dtype=np.bool_)
    return np.asarray(values >= ordered[held[-1]])
