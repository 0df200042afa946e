"""Which features moved since the change, and which of them to name first.

One cause moves many features: a narrower window moves the mean, the median, the entropy and the
embedding. Three rules put the cause first.

*Causes run one way.* What the pixels show follows from how they were acquired, and what a model
says from the pixels; never the other way. So where something of the acquisition moved, it is named
before the image, and the image before the model.

*The data-processing inequality.* Within one of these, what follows from a cause through a channel
that did not change diverges from its reference no more than the cause does. So the greatest
evidence per unit (an estimate of the Kullback-Leibler divergence, in nats) marks the cause.

*The order of the closed list.* An estimate from few units is not exact, and a new scanner is a new
device and a new model alike. Among those with at least 40 % of the greatest divergence, the one
that stands first in the list is named: a modality before its matrix, a view before its kVp.

Only what moved competes: what e-BH discovers over all features, at five percent false discoveries
and under any dependence, and, because at an alarm something moved for sure, what has evidence of
its own (an e-value above e, or the greatest there is) and is not fifty times less likely than the
likeliest. A feature of the acquisition also competes when, since the likeliest feature moved, its
best alternative tells at least 40 % as much, and six nats: an effect can be more conspicuous than
its cause when there are only a few units. The evidence of a feature at an alarm is that of the
detector: the mean over all begins that the change could have had, which is an e-value whatever the
begin. The begin itself is then the most likely one for the cause, not for its noisiest effect.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.special import logsumexp

from streams.profile.drift.channels import Cells, Channel
from streams.profile.drift.detector import Bank, Detector, change_point
from streams.profile.drift.discoveries import e_discoveries
from streams.profile.drift.features import ROLES, Feature
from streams.profile.drift.sketches import Float64Array

FALSE_DISCOVERIES: Final = 0.05
_OWN_NATS: Final = 1.0
_BEHIND_NATS: Final = 4.0
_CAUSE_NATS: Final = 6.0
_NEARLY_GREATEST: Final = 0.4


@dataclass(frozen=True, slots=True)
class Mover:
    """A feature that moved.

    Parameters
    ----------
    feature : Feature
        Which.
    channel : int
        Its channel that tells the most.
    alternative : int
        The alternative of that channel that fits best.
    log_evidence : float
        Logarithm of the e-value of the feature, from the begin of the change on.
    divergence : float
        Evidence of the best alternative per unit, in nats.
    """

    feature: Feature
    channel: int
    alternative: int
    log_evidence: float
    divergence: float


def explain(
    channels: tuple[Channel, ...], bank: Bank, detector: Detector, cells: Cells
) -> tuple[int, tuple[Mover, ...]]:
    """Return the first unit after the change, and what moved, at an alarm.

    Parameters
    ----------
    channels : tuple of Channel
        Of the reference.
    bank : Bank
        Its alternatives.
    detector : Detector
        As the alarm left it.
    cells : ndarray
        int16 ``[n, channels]``: the units up to the alarm, at least one.
    """
    with np.errstate(divide="ignore"):
        sums = np.log(detector.statistics / max(1, detector.units))
    found = _best(channels, bank, sums, len(cells))
    chosen = _moved(found)
    leading = detector.leading()
    if chosen:
        chosen += _causes_behind(channels, bank, cells, found, chosen)
        role = min(ROLES.index(mover.feature.role) for mover in chosen)
        causes = [mover for mover in chosen if ROLES.index(mover.feature.role) == role]
        leading = max(causes, key=lambda mover: mover.log_evidence).alternative
    begin = change_point(bank, leading, cells)
    since = np.log(bank.ratios(cells[begin:])).sum(axis=0)
    measured = _best(channels, bank, since, len(cells) - begin)
    since_begin = {mover.feature.name: mover for mover in measured}
    chosen = [since_begin[mover.feature.name] for mover in chosen]
    return begin, _ordered(channels, chosen)


def movers(channels: tuple[Channel, ...], bank: Bank, cells: Cells) -> tuple[Mover, ...]:
    """Return the features that moved since a known begin, the one to name first at the front.

    Parameters
    ----------
    channels : tuple of Channel
        Of the reference.
    bank : Bank
        Its alternatives.
    cells : ndarray
        int16 ``[n, channels]``: the units since the change.

    Returns
    -------
    tuple of Mover
        Empty when no single feature tells anything: only the whole does.
    """
    if not len(cells):
        return ()
    sums = np.log(bank.ratios(cells)).sum(axis=0)
    return _ordered(channels, _moved(_best(channels, bank, sums, len(cells))))


def _ordered(channels: tuple[Channel, ...], chosen: list[Mover]) -> tuple[Mover, ...]:
    if not chosen:
        return ()
    # The sort is stable: among equals the closed list's order stays.
    chosen = sorted(chosen, key=lambda mover: -mover.divergence)
    role = min(ROLES.index(mover.feature.role) for mover in chosen)
    causes = [mover for mover in chosen if ROLES.index(mover.feature.role) == role]
    enough = causes[0].divergence * _NEARLY_GREATEST
    place = {channel.feature.name: k for k, channel in enumerate(channels) if channel.feature}
    first = min(
        (mover for mover in causes if mover.divergence >= enough),
        key=lambda mover: place[mover.feature.name],
    )
    return (first, *(mover for mover in chosen if mover is not first))


def _moved(found: list[Mover]) -> list[Mover]:
    if not found:
        return []
    discovered = e_discoveries([mover.log_evidence for mover in found], FALSE_DISCOVERIES)
    greatest = max(mover.log_evidence for mover in found)
    if greatest <= 0:
        return []
    needed = min(greatest, max(_OWN_NATS, greatest - _BEHIND_NATS))
    return [
        mover
        for mover, yes in zip(found, discovered, strict=True)
        if yes or mover.log_evidence >= needed
    ]


def _causes_behind(
    channels: tuple[Channel, ...],
    bank: Bank,
    cells: Cells,
    found: list[Mover],
    chosen: list[Mover],
) -> list[Mover]:
    """Return what moved of the acquisition since the likeliest feature did, but tells less."""
    top = max(chosen, key=lambda mover: mover.log_evidence)
    since = cells[change_point(bank, top.alternative, cells) :]
    told = _best(channels, bank, np.log(bank.ratios(since)).sum(axis=0), len(since))
    nats = {mover.feature.name: mover.divergence * len(since) for mover in told}
    needed = max(_CAUSE_NATS, _NEARLY_GREATEST * nats[top.feature.name])
    names = {mover.feature.name for mover in chosen}
    return [
        mover
        for mover in found
        if mover.feature.role == "acquisition"
        and mover.feature.name not in names
        and nats[mover.feature.name] >= needed
    ]


def _best(channels: tuple[Channel, ...], bank: Bank, sums: Float64Array, count: int) -> list[Mover]:
    """Return each watched feature with its best alternative and its e-value."""
    by_feature: dict[str, list[int]] = {}
    features: dict[str, Feature] = {}
    for index, alternative in enumerate(bank.alternatives):
        feature = channels[alternative.channel].feature
        if feature is not None:
            by_feature.setdefault(feature.name, []).append(index)
            features[feature.name] = feature
    result = []
    for name, indices in by_feature.items():
        shares = bank.shares[indices]
        evidence = float(logsumexp(sums[indices], b=shares / shares.sum()))
        best = indices[int(np.argmax(sums[indices]))]
        result.append(
            Mover(
                features[name],
                bank.alternatives[best].channel,
                best,
                evidence,
                float(sums[best]) / count,
            )
        )
    return result
