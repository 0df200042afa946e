"""How good the answers are: accuracy, coverage, calibration, each with an interval over sources."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streams.modality.labels import FAMILIES, are_kin
from streams.modality.opinion import Float64Array

BINS = 15
NOTHING = -1
_RESAMPLES = 1000
_INTERVAL = (2.5, 97.5)


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure with its 95 % interval, from resampling sources."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Answers:
    """What was answered, beside what is true.

    Parameters
    ----------
    truth, best : ndarray
        intp ``[N]``, indices into ``FAMILIES``; ``NOTHING`` as best where no signal spoke.
    confidence : ndarray
        float64 ``[N]``, of ``best``.
    abstained : ndarray
        bool ``[N]``.
    sources : sequence of str
        Of every file.
    """

    truth: NDArray[np.intp]
    best: NDArray[np.intp]
    confidence: Float64Array
    abstained: NDArray[np.bool_]
    sources: Sequence[str]

    def only(self, rows: NDArray[np.bool_] | NDArray[np.intp]) -> Answers:
        """Return some of the rows."""
        places = np.flatnonzero(rows) if rows.dtype == bool else rows
        return Answers(
            self.truth[places],
            self.best[places],
            self.confidence[places],
            self.abstained[places],
            [self.sources[place] for place in places],
        )


def accuracy(answers: Answers) -> float:
    """Share of files whose likeliest family is right, abstained or not."""
    return float((answers.truth == answers.best).mean()) if len(answers.truth) else float("nan")


def coverage(answers: Answers) -> float:
    """Share of files that got an answer."""
    return float((~answers.abstained).mean()) if len(answers.truth) else float("nan")


def answered_accuracy(answers: Answers) -> float:
    """Share of the answers given that are right."""
    return accuracy(answers.only(~answers.abstained))


def minor_errors(answers: Answers) -> float:
    """Share of files whose likeliest family is wrong, but kin to the true one."""
    wrong = [
        best not in {NOTHING, truth} and are_kin(FAMILIES[truth], FAMILIES[best])
        for truth, best in zip(answers.truth, answers.best, strict=True)
    ]
    return float(np.mean(wrong)) if wrong else float("nan")


def source_accuracy(answers: Answers) -> float:
    """Mean over sources of each one's accuracy: a source with many files counts once."""
    by_source: dict[str, list[bool]] = {}
    for source, right in zip(answers.sources, answers.truth == answers.best, strict=True):
        by_source.setdefault(source, []).append(bool(right))
    return float(np.mean([np.mean(r) for r in by_source.values()])) if by_source else float("nan")


def calibration_error(answers: Answers) -> float:
    """Return the expected calibration error over equal-width bins (Guo et al., ICML 2017)."""
    total = len(answers.truth)
    if not total:
        return float("nan")
    return float(
        sum(abs(right - mean) * count for mean, right, count in reliability_curve(answers)) / total
    )


def reliability_curve(answers: Answers) -> list[tuple[float, float, int]]:
    """Return mean confidence, accuracy and count of each bin that holds files."""
    bins = np.minimum((answers.confidence * BINS).astype(int), BINS - 1)
    right = answers.truth == answers.best
    return [
        (float(answers.confidence[held].mean()), float(right[held].mean()), int(held.sum()))
        for held in (bins == index for index in range(BINS))
        if held.any()
    ]


def confusion(answers: Answers) -> NDArray[np.intp]:
    """Count files by true (rows) and likeliest (columns) family; ``[K, K]``."""
    table = np.zeros((len(FAMILIES), len(FAMILIES)), np.intp)
    named = answers.best != NOTHING
    np.add.at(table, (answers.truth[named], answers.best[named]), 1)
    return table


def with_interval(
    measure: Callable[[Answers], float], answers: Answers, *, seed: int = 0
) -> Figure:
    """Measure, and measure again on sources drawn with replacement.

    Files of one source stand or fall together, so that they are drawn together
    (cluster bootstrap; Field and Welsh, JRSS B 69:369, 2007).
    """
    value = measure(answers)
    rows: dict[str, list[int]] = {}
    for row, source in enumerate(answers.sources):
        rows.setdefault(source, []).append(row)
    members = [np.array(held, np.intp) for held in rows.values()]
    if len(members) < 2:
        return Figure(value, float("nan"), float("nan"))
    random = np.random.default_rng(seed)
    drawn = [
        measure(
            answers.only(
                np.concatenate(
                    [members[i] for i in random.integers(len(members), size=len(members))]
                )
            )
        )
        for _ in range(_RESAMPLES)
    ]
    if np.isnan(drawn).all():
        return Figure(value, float("nan"), float("nan"))
    low, high = np.nanpercentile(drawn, _INTERVAL)
    return Figure(value, float(low), float(high))
