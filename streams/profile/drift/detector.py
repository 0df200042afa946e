"""Online detection with a stated expected run time between false alarms.

For every channel a bank of *alternatives* says how its cells could come to be distributed: shifted,
spread or narrowed by so much, one cell mixed in at some weight (another projection, another
scanner; of ranges of numbers only those at the ends), one cell gone. Each alternative ``q`` turns a
unit in cell ``c`` into a likelihood ratio ``q(c) / p(c)`` against the reference ``p``, whose
expectation without drift is 1. Each is followed by the Shiryaev-Roberts recursion
``R = (R + 1) q(c) / p(c)``, and the detector looks at the weighted sum of all ``R``.

Without drift ``R - n`` is a martingale, for one alternative as for the weighted sum, whatever the
dependence between features; so the first time that the sum reaches ``h`` lies, in expectation, at
``h`` units or later (Pollak, Ann. Statist. 13:206, 1985; for banks as here, "e-detectors", Shin,
Ramdas and Rinaldo, New England J. Stat. Data Sci. 2:229, 2024). This is the Bonferroni correction
for free: a feature's weight is its share of the false alarms, the groups of features have equal
shares. And it loses nothing to waiting: evidence counts from the first unit on, not at the end of
the day.

Two things spoil the promise, and both are met:

*The reference is finite.* ``p`` is an estimate from N units, and a long stream would learn the
error. The ratio is divided by ``1 + z s / sqrt(N)`` where ``s`` is the standard deviation of the
ratio under ``p``: then its expectation is at most 1 for all references that the N units do not
rule out. What is left is met by :mod:`.calibrate`, which finds ``h`` by simulation from the
reference with the reference itself drawn again each time (Gandy and Kvaloy, Scand. J. Statist.
40:647, 2013).

*Units are not independent* when one study brings several series, or weekdays differ from
Sundays. Feed one unit per study where that is so, and make references of whole weeks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from streams.profile.drift.channels import Cells, Channel
from streams.profile.drift.sketches import Float64Array

_SHIFTS: Final = (0.3, 0.7, 1.6)
"""Shifts of the normal score of an ordered channel, in standard deviations, both ways."""
_SPREADS: Final = (-0.4, 0.2)
"""Coefficients of the squared normal score: narrowed, spread."""
_WEIGHTS: Final = (0.06, 0.35)
"""Shares at which one cell is mixed in."""
_LEFT: Final = 0.3
"""What is left of a cell that goes away."""
_FREQUENT: Final = 0.15
_CONSTANT: Final = 0.99
_CONSTANT_SHARE: Final = 0.1
"""Share of a channel that hardly ever changes, beside one that does: it needs less."""
MIN_REFERENCE_COUNT: Final = 50
"""A channel with fewer values in the reference is not watched."""
_Z: Final = 1.0
_BLOCK: Final = 32
"""Units at once: few enough that no product of their ratios leaves the range of a float."""


@dataclass(frozen=True, slots=True)
class Alternative:
    """One way in which a channel could have moved.

    ``change`` is up, down, spread or narrowed, or more or less of one ``cell`` (else -1).
    """

    channel: int
    change: str
    cell: int


@dataclass(frozen=True, slots=True)
class Bank:
    """All alternatives of all channels.

    Parameters
    ----------
    alternatives : tuple of Alternative
        Ordered by channel.
    tables : tuple of ndarray
        One per channel, float64 ``[cells + 1, alternatives of it]``: likelihood ratios. The last
        row is of ones: a unit that says nothing (cell -1).
    shares : ndarray
        float64 ``[alternatives]``, each one's share of the false alarms; sums to 1.
    """

    alternatives: tuple[Alternative, ...] = field(repr=False)
    tables: tuple[Float64Array, ...] = field(repr=False)
    shares: Float64Array = field(repr=False)

    def ratios(self, cells: Cells) -> Float64Array:
        """Return the likelihood ratios of units, float64 ``[n, alternatives]``."""
        parts = [table[cells[:, place]] for place, table in enumerate(self.tables)]
        return np.concatenate(parts, axis=1)

    def increments(self, cells: Cells) -> Float64Array | None:
        """Return 0 where a unit says nothing, else 1; None where all units say something.

        Parameters
        ----------
        cells : ndarray
            int16 ``[n, channels]``; the result is float64 ``[n, alternatives]``.
        """
        said = cells >= 0
        if said[:, self.watched].all():
            return None
        return said[:, [a.channel for a in self.alternatives]].astype(np.float64)

    @property
    def watched(self) -> list[int]:
        """Channels that have alternatives."""
        return [place for place, table in enumerate(self.tables) if table.shape[1]]


def make_bank(channels: Sequence[Channel]) -> Bank:
    """Make the alternatives of channels."""
    alternatives: list[Alternative] = []
    tables: list[Float64Array] = []
    shares: list[Float64Array] = []
    for place, (channel, share) in enumerate(zip(channels, _shares(channels), strict=True)):
        if channel.reference_count < MIN_REFERENCE_COUNT:
            tables.append(np.ones((len(channel.probabilities) + 1, 0)))
            continue
        changes, moved, weights = _alternatives(channel)
        ratios = moved / channel.probabilities
        spread = np.sqrt(np.maximum(0.0, (channel.probabilities * ratios**2).sum(axis=1) - 1.0))
        penalty = 1.0 + _Z * spread / np.sqrt(channel.reference_count)
        table = (ratios / penalty[:, None]).T
        tables.append(np.vstack((table, np.ones(len(changes)))))
        alternatives += [Alternative(place, *change) for change in changes]
        shares.append(share * weights / weights.sum())
    return Bank(tuple(alternatives), tuple(tables), np.concatenate(shares))


def _shares(channels: Sequence[Channel]) -> list[float]:
    """Return each channel's share of the false alarms: equal for groups, and within a group."""
    wanted = [
        0.0
        if channel.reference_count < MIN_REFERENCE_COUNT
        else _CONSTANT_SHARE
        if channel.probabilities.max() > _CONSTANT
        else 1.0
        for channel in channels
    ]
    groups: dict[str, float] = {}
    for channel, weight in zip(channels, wanted, strict=True):
        groups[channel.group] = groups.get(channel.group, 0.0) + weight
    total = sum(min(1.0, weight) for weight in groups.values())
    if total <= 0:
        msg = "no feature of this reference has enough values to watch; choose a longer period"
        raise ValueError(msg)
    return [
        weight / max(1.0, groups[channel.group]) / total
        for channel, weight in zip(channels, wanted, strict=True)
    ]


def _alternatives(
    channel: Channel,
) -> tuple[list[tuple[str, int]], Float64Array, Float64Array]:
    """Return changes and their cells, distributions ``[alternatives, cells]``, and shares."""
    probabilities = channel.probabilities
    changes: list[tuple[str, int]] = []
    moved: list[Float64Array] = []
    weights: list[float] = []
    scored = np.isfinite(channel.scores)
    if scored.sum() > 1:
        scores = np.where(scored, channel.scores, 0.0)
        tilts = [
            ("up" if sign > 0 else "down", sign * s * scores) for s in _SHIFTS for sign in (1, -1)
        ]
        tilts += [("spread" if s > 0 else "narrowed", s * scores**2) for s in _SPREADS]
        inside = probabilities[scored].sum()
        for change, exponent in tilts:
            tilted = np.where(scored, probabilities * np.exp(exponent), probabilities)
            tilted[scored] *= inside / tilted[scored].sum()
            changes.append((change, -1))
            moved.append(tilted)
            weights.append(1.0 / len(tilts))
    cells = channel.mixed_in
    for cell in cells:
        for weight in _WEIGHTS:
            mixed = (1.0 - weight) * probabilities
            mixed[cell] += weight
            changes.append(("more", cell))
            moved.append(mixed)
            weights.append(1.0 / (len(cells) * len(_WEIGHTS)))
        if probabilities[cell] >= _FREQUENT:
            rare = probabilities.copy()
            rare[cell] *= _LEFT
            changes.append(("less", cell))
            moved.append(rare / rare.sum())
            weights.append(1.0 / len(cells))
    return changes, np.array(moved), np.array(weights)


class Detector:
    """The Shiryaev-Roberts statistics of a bank, unit by unit.

    Parameters
    ----------
    bank : Bank
        What to look for.
    threshold : float
        The sum at which it alarms; without calibration the stated run time in units.
    """

    def __init__(self, bank: Bank, threshold: float) -> None:
        self.bank = bank
        self.threshold = threshold
        self.statistics: Float64Array = np.zeros(len(bank.shares))
        self.units = 0

    def reset(self) -> None:
        """Begin anew, as if no unit had come."""
        self.statistics = np.zeros(len(self.bank.shares))
        self.units = 0

    @property
    def evidence(self) -> float:
        """The weighted sum; alarms at the threshold."""
        return float(self.statistics @ self.bank.shares)

    def update(self, cells: Cells) -> int | None:
        """Take units in and stop behind the one that raises an alarm.

        Parameters
        ----------
        cells : ndarray
            int16 ``[n, channels]`` in the order of event time.

        Returns
        -------
        int or None
            Index of the unit that raised the alarm; those behind it were not looked at.
        """
        for start in range(0, len(cells), _BLOCK):
            followed = self._follow(cells[start : start + _BLOCK])
            above = np.flatnonzero(followed @ self.bank.shares >= self.threshold)
            if above.size:
                self._stop(followed, int(above[0]))
                return start + int(above[0])
            self._stop(followed, len(followed) - 1)
        return None

    def highest(self, cells: Cells) -> float:
        """Take units in and return the highest evidence on the way."""
        highest = 0.0
        for start in range(0, len(cells), _BLOCK):
            followed = self._follow(cells[start : start + _BLOCK])
            highest = max(highest, float((followed @ self.bank.shares).max()))
            self._stop(followed, len(followed) - 1)
        return highest

    def leading(self) -> int:
        """Return the alternative with the most weighted evidence."""
        return int(np.argmax(self.statistics * self.bank.shares))

    def _follow(self, cells: Cells) -> Float64Array:
        """Return the statistics after each of some units, float64 ``[n, alternatives]``.

        The recursion written out: after n units ``R`` is ``P(n)`` times the sum of ``R`` at the
        begin and all ``1 / P(k)`` before, where ``P(k)`` is the product of the first k ratios.
        """
        ratios = self.bank.ratios(cells)
        products = np.cumprod(ratios, axis=0)
        steps = np.empty_like(products)
        steps[0] = 1.0
        np.divide(1.0, products[:-1], out=steps[1:])
        increments = self.bank.increments(cells)
        if increments is not None:
            steps *= increments
        steps[0] += self.statistics
        np.cumsum(steps, axis=0, out=steps)
        steps *= products
        return steps

    def _stop(self, followed: Float64Array, index: int) -> None:
        self.statistics = followed[index].copy()
        self.units += index + 1


def change_point(bank: Bank, alternative: int, cells: Cells) -> int:
    """Return the first unit after the change that an alternative tells of.

    The maximum-likelihood estimate: the unit from which on the sum of the logarithms of its ratio
    is greatest (Hinkley, Biometrika 57:1, 1970).

    Parameters
    ----------
    bank : Bank
        The alternatives.
    alternative : int
        Which of them.
    cells : ndarray
        int16 ``[n, channels]``, the units up to the alarm; at least one.
    """
    channel = bank.alternatives[alternative].channel
    first = next(k for k, a in enumerate(bank.alternatives) if a.channel == channel)
    ratios = bank.tables[channel][cells[:, channel], alternative - first]
    tail = np.cumsum(np.log(ratios)[::-1])[::-1]
    return int(np.argmax(tail))
