"""Drift points: one window of event time beside the reference, and one index for the scope.

The index is in the spirit of CheXstray's multi-modal concordance (Soin et al., arXiv:2202.02833;
Merkow et al., arXiv:2410.13174): the weighted mean of standardised statistics of all features.
There, statistics are standardised by their mean and deviation over windows of the reference, cut
at 10, and weighted by their correlation with a model's performance where that is known. Here,

* each statistic is brought to one scale for windows of all sizes (:mod:`.statistics`), then
  standardised by its mean and deviation over windows drawn from the reference, and cut at 10,
* groups of features have equal weights, and the features of a group share its weight: twenty
  statistics of one histogram shall not outvote the scanner, and no performance is known,
* the mean is standardised again by windows drawn from the reference, so that an index of 0 is what
  no drift looks like on average, and 1 is one standard deviation of such windows away.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal

import numpy as np

from streams.profile.drift.discoveries import benjamini_yekutieli
from streams.profile.drift.profile import Profile
from streams.profile.drift.reference import Reference
from streams.profile.drift.statistics import Comparison, compare

DEFAULT_MIN_UNITS: Final = 50
_CUT: Final = 10.0
_BAND_UNITS: Final = 200
_BAND_WINDOWS: Final = 40
_LEAST: Final = 0.25


@dataclass(frozen=True, slots=True)
class Band:
    """What statistics and index are without drift.

    Parameters
    ----------
    features : mapping
        Feature name to mean and standard deviation of its statistic.
    mean, std : float
        Of the weighted mean of all.
    """

    features: Mapping[str, tuple[float, float]] = field(repr=False)
    mean: float
    std: float


@dataclass(frozen=True, slots=True)
class DriftPoint:
    """One window beside its reference.

    Parameters
    ----------
    reference : str
        Version of the reference.
    since, until : datetime
        Event time of the window, UTC; ``until`` is not part of it.
    state : {"measured", "insufficient"}
        Insufficient: fewer units than the least that a statement needs; nothing is stated.
    unit_count, study_count : int
        Series and studies in the window.
    index : float or None
        Standard deviations from no drift.
    comparisons : tuple of Comparison
        All features that both have, in the order of the closed list.
    drifted : tuple of str
        Features with an adjusted p-value (Benjamini-Yekutieli) of at most 0.05.
    """

    reference: str
    since: datetime
    until: datetime
    state: Literal["measured", "insufficient"]
    unit_count: int
    study_count: int
    index: float | None = None
    comparisons: tuple[Comparison, ...] = field(default=(), repr=False)
    drifted: tuple[str, ...] = ()


def weighted_mean(
    comparisons: Sequence[Comparison],
    reference: Reference,
    bands: Mapping[str, tuple[float, float]],
) -> float:
    """Return the mean over groups of the mean over features, each standardised and cut at 10."""
    groups = {feature.name: feature.group for feature in reference.features}
    sizes = Counter(groups[c.feature] for c in comparisons)
    total = sum(
        float(np.clip((c.standardised - mean) / std, -_CUT, _CUT)) / sizes[groups[c.feature]]
        for c in comparisons
        for mean, std in [bands.get(c.feature, (0.0, 1.0))]
    )
    return total / max(1, len(sizes))


def compare_all(
    reference: Reference, window: Profile, *, intervals: bool = True
) -> tuple[Comparison, ...]:
    """Compare every feature that both have."""
    found = []
    for place, feature in enumerate(reference.features):
        # Each feature has its own chance, so that adding one changes no other.
        seed = (reference.seed + 7919 * place) % 2**32
        options = {} if intervals else {"draws": 0}
        comparison = compare(feature, reference.profile, window, seed, **options)
        if comparison is not None:
            found.append(comparison)
    return tuple(found)


def make_band(reference: Reference) -> Band:
    """Find mean and deviation of statistics and index over windows drawn from the reference."""
    random = np.random.RandomState(reference.seed)
    ranks = sorted(reference.profile.sample)
    rows = [reference.profile.sample[rank] for rank in ranks]
    drawn = []
    for _ in range(_BAND_WINDOWS):
        window = Profile(reference.features, sample_size=_BAND_UNITS)
        chosen = random.randint(0, len(rows), size=_BAND_UNITS)
        window.add_rows([rows[k] for k in chosen.tolist()])
        drawn.append(compare_all(reference, window, intervals=False))
    features: dict[str, tuple[float, float]] = {}
    for same in zip(*drawn, strict=True):
        values = [comparison.standardised for comparison in same]
        # What never varies in the reference would otherwise be infinitely far at once.
        features[same[0].feature] = float(np.mean(values)), max(_LEAST, float(np.std(values)))
    means = [weighted_mean(comparisons, reference, features) for comparisons in drawn]
    return Band(features, float(np.mean(means)), max(_LEAST / 10, float(np.std(means))))


def drift_point(
    reference: Reference,
    band: Band,
    window: Profile,
    since: datetime,
    until: datetime,
    *,
    study_count: int,
    min_units: int = DEFAULT_MIN_UNITS,
) -> DriftPoint:
    """Compare a window with the reference.

    Parameters
    ----------
    reference : Reference
        What it should look like.
    band : Band
        Of the reference (:func:`make_band`).
    window : Profile
        Units of the window; a merge of its parts is as good as all at once.
    since, until : datetime
        Event time of the window, UTC.
    study_count : int
        Studies behind the units.
    min_units : int
        Fewer units than this give the answer ``insufficient``.
    """
    if window.unit_count < min_units:
        return DriftPoint(
            reference.version, since, until, "insufficient", window.unit_count, study_count
        )
    comparisons = compare_all(reference, window)
    adjusted = benjamini_yekutieli([c.p_value for c in comparisons])
    drifted = tuple(
        c.feature for c, p in zip(comparisons, adjusted.tolist(), strict=True) if p <= 0.05
    )
    index = (weighted_mean(comparisons, reference, band.features) - band.mean) / band.std
    return DriftPoint(
        reference.version,
        since,
        until,
        "measured",
        window.unit_count,
        study_count,
        index,
        comparisons,
        drifted,
    )
