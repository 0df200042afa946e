"""What others do, to compare with: a test per feature on each day's batch.

``ks``: every feature of a day goes through the two-sample Kolmogorov-Smirnov test against the raw
values of the reference; categories as codes in the order of their frequency, missing values below
all others. ``ks+chi2`` is stronger and takes the chi-squared test for categories (rare ones pooled,
so that the test holds its level), as CheXstray does (Soin et al., arXiv:2202.02833). Vectors take
part by the same components that our detector sees. An alarm is raised when the smallest p-value of
a day is below a threshold; the benchmark chooses it so that false alarms are as frequent as ours.
"""

from __future__ import annotations

import numpy as np
from scipy.special import chdtrc, kolmogorov

from streams.profile.drift.channels import Encoder
from streams.profile.drift.sketches import project

_RARE = 0.01
_MISSING = -1e300


class DailyTests:
    """The tests of one reference.

    Parameters
    ----------
    encoder
        Ours, for the categories and the components of vectors.
    columns
        Raw values of the reference.
    count
        Units of the reference.
    day
        Studies in a day's batch.
    """

    def __init__(self, encoder: Encoder, columns: dict, count: int, day: int) -> None:
        self._encoder = encoder
        self._day = day
        self._count = count
        self._sorted = {n: np.sort(v) for n, v in self._numbers(columns).items()}
        cells = encoder.encode(columns, count)
        self._tables = {}
        self._codes = {}
        for place, channel in enumerate(encoder.channels):
            if channel.feature is not None and channel.feature.kind == "categorical":
                size = len(channel.probabilities)
                counts = np.bincount(np.maximum(cells[:, place], 0), minlength=size)
                lookup = np.zeros(size, dtype=int)
                frequent = np.flatnonzero(counts / count >= _RARE)
                lookup[frequent] = np.arange(1, len(frequent) + 1)
                pooled = np.bincount(lookup, weights=counts, minlength=len(frequent) + 1)
                self._tables[place] = (lookup, pooled)
                self._codes[place] = np.sort(cells[:, place].astype(float))

    def smallest_p(self, columns: dict, count: int) -> dict[str, np.ndarray]:
        """Return the smallest p-value of each whole day, float64 ``[days]``, for both variants."""
        days = count // self._day
        best = np.ones(days)
        for name, values in self._numbers(columns).items():
            batch = np.sort(values[: days * self._day].reshape(days, self._day), axis=1)
            best = np.minimum(best, self._ks(batch, self._sorted[name]))
        cells = self._encoder.encode(columns, count)[: days * self._day]
        plain = best
        for place, codes in self._codes.items():
            batch = np.sort(cells[:, place].astype(float).reshape(days, self._day), axis=1)
            plain = np.minimum(plain, self._ks(batch, codes))
        for place, (lookup, reference) in self._tables.items():
            seen = lookup[np.maximum(cells[:, place], 0)].reshape(days, self._day)
            counts = np.stack([(seen == k).sum(axis=1) for k in range(len(reference))], axis=1)
            best = np.minimum(best, self._chi_squared(counts, reference))
        return {"ks": plain, "ks+chi2": best}

    def _numbers(self, columns: dict) -> dict[str, np.ndarray]:
        numbers = {}
        for feature in self._encoder.features:
            column = columns.get(feature.name)
            if column is None:
                continue
            if feature.kind == "numeric":
                numbers[feature.name] = np.where(np.isfinite(column), column, _MISSING)
            elif feature.kind == "vector":
                pca = self._encoder._vectors[feature.name][0]
                for k, values in enumerate(pca.apply(project(np.asarray(column))).T):
                    numbers[f"{feature.name}#{k}"] = values
        return numbers

    def _ks(self, batch: np.ndarray, reference: np.ndarray) -> np.ndarray:
        n, m = batch.shape[1], len(reference)
        rank = np.arange(1, n + 1) / n
        last = np.ones(batch.shape, dtype=bool)
        last[:, :-1] = batch[:, 1:] != batch[:, :-1]
        first = np.ones(batch.shape, dtype=bool)
        first[:, 1:] = last[:, :-1]
        at = np.searchsorted(reference, batch.ravel(), side="right").reshape(batch.shape) / m
        below = np.searchsorted(reference, batch.ravel(), side="left").reshape(batch.shape) / m
        gaps = np.maximum(
            np.where(last, np.abs(rank - at), 0), np.where(first, np.abs(rank - 1 / n - below), 0)
        )
        root = np.sqrt(n * m / (n + m))
        return kolmogorov((root + 0.12 + 0.11 / root) * gaps.max(axis=1))

    def _chi_squared(self, counts: np.ndarray, reference: np.ndarray) -> np.ndarray:
        pooled = counts + reference
        n, m = counts.sum(axis=1, keepdims=True), reference.sum()
        held = pooled > 0
        with np.errstate(divide="ignore", invalid="ignore"):
            terms = (counts * np.sqrt(m / n) - reference * np.sqrt(n / m)) ** 2 / pooled
        statistic = np.where(held, terms, 0.0).sum(axis=1)
        return chdtrc(np.maximum(1, held.sum(axis=1) - 1), statistic)
