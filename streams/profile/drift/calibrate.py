"""The threshold that gives the stated run time between false alarms, by simulation.

The reference's sample of whole units plays the stream, so all dependence between features is in
it. For each run a reference of the same size is drawn from it again and the detector is built on
that one: the run then errs about its stream as the real detector errs about the real one. The
threshold is the quantile of the runs' highest evidence at which the rate of alarms is the stated
one. Chance is seeded by the reference's version, with a generator whose stream is frozen for good
(NumPy's ``RandomState``): the same reference gives the same threshold everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from streams.profile.drift.channels import Cells, Channel, Encoder
from streams.profile.drift.detector import MIN_REFERENCE_COUNT, Detector, make_bank

DEFAULT_RUN_TIME_UNITS: Final = 10_000
MARGIN: Final = 2.0
"""The simulated rate of false alarms is the stated one over this."""
_RUNS: Final = 64


@dataclass(frozen=True, slots=True)
class Calibration:
    """What makes a reference's detector keep its promise.

    Parameters
    ----------
    reference : str
        Version of the reference.
    run_time_units : int
        Expected units between two false alarms, at least.
    threshold : float
        Evidence at which the detector alarms.
    """

    reference: str
    run_time_units: int
    threshold: float


def calibrate(
    encoder: Encoder,
    *,
    run_time_units: int = DEFAULT_RUN_TIME_UNITS,
    runs: int = _RUNS,
) -> Calibration:
    """Find the threshold of a reference.

    Parameters
    ----------
    encoder : Encoder
        Of the reference.
    run_time_units : int
        Units (series or studies) that shall pass between two false alarms, on average or more.
    runs : int
        Simulated streams, each as long as the run time.

    Raises
    ------
    ValueError
        If the run time is below 100 units.
    """
    if run_time_units < 100:
        msg = "a run time below 100 units is a stream of false alarms; choose a longer one"
        raise ValueError(msg)
    reference = encoder.reference
    random = np.random.RandomState(reference.seed)
    sampled = encoder.sampled
    highest = []
    for _ in range(runs):
        drawn = sampled[random.randint(0, len(sampled), size=reference.profile.unit_count)]
        bank = make_bank(redrawn(encoder.channels, drawn))
        stream = sampled[random.randint(0, len(sampled), size=run_time_units)]
        highest.append(Detector(bank, math.inf).highest(stream))
    # Alarms are rare and so nearly a Poisson process; this is the share of runs that may have one.
    share = -math.expm1(-1.0 / MARGIN)
    threshold = float(np.quantile(highest, 1.0 - share))
    return Calibration(reference.version, run_time_units, threshold)


def redrawn(channels: Sequence[Channel], drawn: Cells) -> tuple[Channel, ...]:
    """Return channels with the probabilities of other units, each of as many as its reference."""
    result = []
    for place, channel in enumerate(channels):
        if channel.reference_count < MIN_REFERENCE_COUNT:
            result.append(channel)
            continue
        cells = drawn[: channel.reference_count, place]
        counts = np.bincount(cells[cells >= 0], minlength=len(channel.probabilities))
        weights = np.maximum(counts.astype(np.float64), 0.5)
        weights[1] = max(weights[1], 1.0)
        result.append(replace(channel, probabilities=weights / weights.sum()))
    return tuple(result)
