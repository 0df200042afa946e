"""How often a confidence was right, by people's word: counts in bins, for drift of calibration.

The counts add up over files, days and workers, and ClickHouse can make them with a GROUP BY. They
are of files that somebody looked at: people correct what struck them as wrong, so the share of
correct ones is not the accuracy on all files. Its change over time is what tells.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from streams.series.feedback import Label

BIN_COUNT: Final = 10
"""Bins of equal width over [0, 1]; the last one holds 1."""
_Z: Final = 1.959963984540054


def _same(one: str, other: str) -> bool:
    return one == other


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Files whose confidence lay in one bin.

    Parameters
    ----------
    low, high : float
        Bounds of the confidence.
    correct_count, incorrect_count : int
        As people say.
    confidence_sum : float
        Of all of them.
    """

    low: float
    high: float
    correct_count: int
    incorrect_count: int
    confidence_sum: float

    @property
    def count(self) -> int:
        """Files in the bin."""
        return self.correct_count + self.incorrect_count

    @property
    def accuracy(self) -> float | None:
        """Share of correct ones; None of an empty bin."""
        return self.correct_count / self.count if self.count else None

    @property
    def accuracy_interval(self) -> tuple[float, float]:
        """95 % interval of the share (Wilson, JASA 22:209, 1927); 0 to 1 of an empty bin."""
        if not self.count:
            return (0.0, 1.0)
        share, n = self.correct_count / self.count, self.count
        centre = share + _Z**2 / (2 * n)
        half = _Z * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n * n))
        scale = 1 + _Z**2 / n
        return (max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale))


@dataclass(frozen=True, slots=True)
class Reliability:
    """Counts of correct and incorrect labels by confidence.

    Parameters
    ----------
    bins : tuple of ReliabilityBin
        By rising confidence.
    unbinned_correct_count, unbinned_incorrect_count : int
        Of labels without a confidence.
    """

    bins: tuple[ReliabilityBin, ...]
    unbinned_correct_count: int = 0
    unbinned_incorrect_count: int = 0

    @property
    def count(self) -> int:
        """Labels with a confidence that somebody looked at."""
        return sum(one.count for one in self.bins)

    @property
    def calibration_error(self) -> float | None:
        """Expected calibration error (Naeini et al., AAAI 2015); None without labels."""
        if not self.count:
            return None
        gaps = (abs(one.correct_count - one.confidence_sum) for one in self.bins)
        return math.fsum(gaps) / self.count

    def __add__(self, other: Reliability) -> Reliability:
        """Add the counts of other files."""
        bins = tuple(
            ReliabilityBin(
                one.low,
                one.high,
                one.correct_count + two.correct_count,
                one.incorrect_count + two.incorrect_count,
                one.confidence_sum + two.confidence_sum,
            )
            for one, two in zip(self.bins, other.bins, strict=True)
        )
        return Reliability(
            bins,
            self.unbinned_correct_count + other.unbinned_correct_count,
            self.unbinned_incorrect_count + other.unbinned_incorrect_count,
        )


def bin_of(confidence: float) -> int:
    """Return the bin of a confidence from 0 to 1."""
    return min(BIN_COUNT - 1, max(0, int(confidence * BIN_COUNT)))


def count_reliability(
    labels: Iterable[Label], is_same: Callable[[str, str], bool] = _same
) -> Reliability:
    """Count what people said about the machine's labels.

    Parameters
    ----------
    labels : iterable of Label
        Each file once, with the correction that holds; those that nobody looked at, or where the
        correction was withdrawn, are passed over.
    is_same : callable
        Whether two labels mean the same, such as two codes of one family.
    """
    confidences: list[list[float]] = [[] for _ in range(BIN_COUNT)]
    correct = [0] * BIN_COUNT
    unbinned = [0, 0]
    for label in labels:
        correction = label.correction
        if correction is None or correction.value is None or label.analysed is None:
            continue
        right = is_same(correction.value, label.analysed)
        if label.confidence is None:
            unbinned[right] += 1
            continue
        index = bin_of(label.confidence)
        confidences[index].append(label.confidence)
        correct[index] += right
    bins = tuple(
        ReliabilityBin(
            low=index / BIN_COUNT,
            high=(index + 1) / BIN_COUNT,
            correct_count=correct[index],
            incorrect_count=len(found) - correct[index],
            confidence_sum=math.fsum(found),
        )
        for index, found in enumerate(confidences)
    )
    return Reliability(bins, unbinned[True], unbinned[False])
