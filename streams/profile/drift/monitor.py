"""A scope's drift as its units come in: windows, detector, alerts.

Units are taken in the order of event time, not of arrival. A unit waits until the watermark (the
latest event time seen, less the allowed lateness) has passed it; units of one time are taken in
the order of their identities. What comes behind the watermark is late: it is counted and left out.
So a unit that comes twice is either still waiting, and replaced, or late: nothing is counted twice,
and everything follows from the sequence of units alone, whatever the batches they come in. No
clock is read.

Alerts have hysteresis. One is raised when the detector's evidence reaches the threshold. From then
on the detector rests, and the opposite question is asked with the same rigour: do the features
that moved look like the reference again rather than like what they had become? The cumulative sum
of that likelihood ratio (Page, Biometrika 41:100, 1954) has to reach twice the logarithm of the
stated run time for every feature that carries the alert: a drift that lasts is taken for over more
rarely than calm is taken for drift, also where it is not quite the alternative it was taken for.
Then the alert is cleared and the detector begins anew. A weak drift does not flap.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Final, Literal

import numpy as np

from schemas.facts import DriftedFeature
from streams.profile.drift.calibrate import Calibration
from streams.profile.drift.channels import Cells, Encoder
from streams.profile.drift.detector import Alternative, Detector, make_bank
from streams.profile.drift.explain import Mover, explain, movers
from streams.profile.drift.points import DEFAULT_MIN_UNITS, Band, DriftPoint, drift_point
from streams.profile.drift.profile import Profile
from streams.profile.drift.sketches import Float64Array
from streams.profile.drift.statistics import compare
from streams.profile.drift.units import Unit

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MAX_FEATURES: Final = 16
_MAX_EXAMPLES: Final = 8
_MAX_LOOKED_AT: Final = 512
_CHUNK: Final = 256


@dataclass(frozen=True, slots=True)
class MonitorSettings:
    """How a scope is watched.

    Parameters
    ----------
    window_seconds : int
        Length of the windows of drift points, aligned to 1970.
    lateness_seconds : int
        How far behind the latest event time a unit may come.
    min_units : int
        Fewer units in a window are ``insufficient``.
    history_units : int
        How far back the begin of a change is looked for.
    max_waiting : int
        Units that wait at most; beyond that the oldest are taken early.
    """

    window_seconds: int = 86_400
    lateness_seconds: int = 3_600
    min_units: int = DEFAULT_MIN_UNITS
    history_units: int = 4_096
    max_waiting: int = 20_000


@dataclass(frozen=True, slots=True)
class Alert:
    """A change of state of a scope.

    Parameters
    ----------
    state : {"raised", "continuing", "cleared"}
        Raised by a unit, continuing with each window that ends, cleared by a unit.
    reference : str
        Version of the reference.
    since : datetime
        Estimated begin of the change, event time.
    at : datetime
        Event time of the unit or the end of the window that gave the alert.
    unit_count, study_count : int
        Series and studies since the change.
    index : float or None
        Index of the last measured window.
    features : tuple of DriftedFeature
        What moved, the one that explains the most at the front. Effect sizes are of the units since
        the change; p-values are inverse e-values of the same units, which hold for any number of
        them, given the begin: what keeps false alarms rare is the detector. Empty when only the
        combination of features is odd.
    changes : tuple of str
        In words, one for each feature: ``up``, ``more LL``.
    """

    state: Literal["raised", "continuing", "cleared"]
    reference: str
    since: datetime
    at: datetime
    unit_count: int
    study_count: int
    index: float | None
    features: tuple[DriftedFeature, ...]
    changes: tuple[str, ...] = ()


@dataclass(slots=True)
class _Raised:
    """The alert that stands: what moved, and the sums that would clear it."""

    since: datetime
    carriers: list[int]
    back: Float64Array
    units: list[Unit] = field(default_factory=list)
    cells: list[Cells] = field(default_factory=list)
    unit_count: int = 0
    studies: set[str] = field(default_factory=set)


class DriftMonitor:
    """Watches one scope; see the module.

    Parameters
    ----------
    encoder : Encoder
        Of the reference.
    calibration : Calibration
        Of the same reference.
    band : Band
        Of the same reference.
    settings : MonitorSettings
        How to watch.

    Raises
    ------
    ValueError
        If the calibration belongs to another reference.
    """

    def __init__(
        self,
        encoder: Encoder,
        calibration: Calibration,
        band: Band,
        settings: MonitorSettings | None = None,
    ) -> None:
        if calibration.reference != encoder.reference.version:
            msg = "the calibration is of another reference; calibrate this one"
            raise ValueError(msg)
        self.reference = encoder.reference
        self.settings = settings or MonitorSettings()
        self.late_count = 0
        self._encoder = encoder
        self._band = band
        self._bank = make_bank(encoder.channels)
        self._detector = Detector(self._bank, calibration.threshold)
        self._back_enough = 2 * math.log(calibration.run_time_units)
        self._waiting: dict[str, Unit] = {}
        self._order: list[tuple[datetime, str]] = []
        self._watermark: datetime | None = None
        self._history: deque[tuple[Unit, Cells]] = deque(maxlen=self.settings.history_units)
        self._window: Profile | None = None
        self._window_units: list[Unit] = []
        self._window_studies: set[str] = set()
        self._window_since = _EPOCH
        self._index: float | None = None
        self._raised: _Raised | None = None

    @property
    def raised(self) -> bool:
        """Whether an alert stands."""
        return self._raised is not None

    def add(self, units: Iterable[Unit]) -> list[DriftPoint | Alert]:
        """Take units in the order of their arrival; return what follows, in event time."""
        results: list[DriftPoint | Alert] = []
        for unit in units:
            self._arrive(unit)
            while self._order and (
                self._order[0][0] <= self._taken_until()
                or len(self._waiting) > self.settings.max_waiting
            ):
                results += self._next()
        return results

    def finish(self) -> list[DriftPoint | Alert]:
        """Take all that waits and close the window: the end of a replay."""
        results: list[DriftPoint | Alert] = []
        while self._order:
            results += self._next()
        if self._window is not None:
            results += self._close_window()
        return results

    def _taken_until(self) -> datetime:
        return self._watermark or _EPOCH

    def _arrive(self, unit: Unit) -> None:
        if unit.event_time <= self._taken_until():
            self.late_count += 1
            return
        held = self._waiting.get(unit.unit_id)
        if held is not None and held.version > unit.version:
            return
        self._waiting[unit.unit_id] = unit
        heapq.heappush(self._order, (unit.event_time, unit.unit_id))
        mark = unit.event_time - timedelta(seconds=self.settings.lateness_seconds)
        if mark > self._taken_until():
            self._watermark = mark

    def _next(self) -> list[DriftPoint | Alert]:
        event_time, unit_id = heapq.heappop(self._order)
        unit = self._waiting.get(unit_id)
        if unit is None or unit.event_time != event_time:
            # An entry of a version that was replaced.
            return []
        del self._waiting[unit_id]
        # A full waiting room takes units early; what comes before them is late from then on.
        if event_time > self._taken_until():
            self._watermark = event_time
        return self._take(unit)

    def _take(self, unit: Unit) -> list[DriftPoint | Alert]:
        results: list[DriftPoint | Alert] = []
        seconds = self.settings.window_seconds
        passed = (unit.event_time - _EPOCH) // timedelta(seconds=seconds)
        since = _EPOCH + timedelta(seconds=passed * seconds)
        if self._window is not None and since != self._window_since:
            results += self._close_window()
        if self._window is None:
            self._window = Profile(self.reference.features, sample_size=_MAX_LOOKED_AT)
            self._window_since = since
        self._window_units.append(unit)
        if len(self._window_units) >= _CHUNK:
            self._window.add(self._window_units)
            self._window_units = []
        self._window_studies.add(unit.study_id)
        cells = self._encoder.encode_units([unit])
        if self._raised is None:
            self._history.append((unit, cells))
            if self._detector.update(cells) is not None:
                results.append(self._raise(unit))
        elif self._looks_back(self._raised, unit, cells):
            results.append(self._clear(self._raised, unit))
        return results

    def _raise(self, unit: Unit) -> Alert:
        cells = np.concatenate([c for _, c in self._history])
        begin, found = explain(self._encoder.channels, self._bank, self._detector, cells)
        units = [u for u, _ in self._history][begin:]
        # What moved nearly as much as the first carries the alert; without any, the whole does.
        carriers = [m.alternative for m in found if m.divergence >= found[0].divergence / 2]
        carriers = carriers or [self._detector.leading()]
        raised = _Raised(
            since=units[0].event_time,
            carriers=carriers,
            back=np.zeros(len(carriers)),
            units=units[-_MAX_LOOKED_AT:],
            cells=[c for _, c in self._history][begin:][-_MAX_LOOKED_AT:],
            unit_count=len(units),
            studies={u.study_id for u in units},
        )
        self._raised = raised
        return self._alert("raised", raised, unit.event_time, found)

    def _looks_back(self, raised: _Raised, unit: Unit, cells: Cells) -> bool:
        """Count a unit of an alert, and tell whether all that moved is back."""
        logs = np.log(self._bank.ratios(cells))[0, raised.carriers]
        raised.back = np.maximum(0.0, raised.back - logs)
        raised.unit_count += 1
        raised.studies.add(unit.study_id)
        raised.units.append(unit)
        raised.cells.append(cells)
        if len(raised.units) > 2 * _MAX_LOOKED_AT:
            del raised.units[:-_MAX_LOOKED_AT]
            del raised.cells[:-_MAX_LOOKED_AT]
        return bool((raised.back >= self._back_enough).all())

    def _clear(self, raised: _Raised, unit: Unit) -> Alert:
        alert = Alert(
            "cleared",
            self.reference.version,
            raised.since,
            unit.event_time,
            raised.unit_count,
            len(raised.studies),
            self._index,
            (),
        )
        self._raised = None
        self._history.clear()
        self._detector.reset()
        return alert

    def _close_window(self) -> list[DriftPoint | Alert]:
        assert self._window is not None
        self._window.add(self._window_units)
        self._window_units = []
        until = self._window_since + timedelta(seconds=self.settings.window_seconds)
        point = drift_point(
            self.reference,
            self._band,
            self._window,
            self._window_since,
            until,
            study_count=len(self._window_studies),
            min_units=self.settings.min_units,
        )
        self._window = None
        self._window_studies = set()
        if point.index is not None:
            self._index = point.index
        results: list[DriftPoint | Alert] = [point]
        if self._raised is not None:
            results.append(self._alert("continuing", self._raised, until))
        return results

    def _alert(
        self,
        state: Literal["raised", "continuing"],
        raised: _Raised,
        at: datetime,
        moved: tuple[Mover, ...] | None = None,
    ) -> Alert:
        cells = np.concatenate(raised.cells[-_MAX_LOOKED_AT:])
        units = raised.units[-_MAX_LOOKED_AT:]
        if moved is None:
            moved = movers(self._encoder.channels, self._bank, cells)
        found = moved[:_MAX_FEATURES]
        profile = Profile(self.reference.features, sample_size=_MAX_LOOKED_AT)
        profile.add(units)
        described = [self._describe(mover, profile, units, cells) for mover in found]
        return Alert(
            state,
            self.reference.version,
            raised.since,
            at,
            raised.unit_count,
            len(raised.studies),
            self._index,
            tuple(described),
            tuple(self._words(self._bank.alternatives[m.alternative]) for m in found),
        )

    def _describe(
        self, mover: Mover, profile: Profile, units: list[Unit], cells: Cells
    ) -> DriftedFeature:
        logs = np.log(self._bank.ratios(cells)[:, mover.alternative])
        shown = np.argsort(-logs, kind="stable")[:_MAX_EXAMPLES]
        examples = tuple(units[k].example for k in shown.tolist() if logs[k] > 0)
        p_value = min(1.0, math.exp(-mover.log_evidence))
        name = mover.feature.name
        comparison = compare(mover.feature, self.reference.profile, profile, self.reference.seed)
        if comparison is None:
            return DriftedFeature(
                feature=name,
                statistic="nats-per-unit",
                effect_size=mover.divergence,
                p_value=p_value,
                examples=examples,
            )
        return DriftedFeature(
            feature=name,
            statistic=comparison.statistic,
            effect_size=comparison.effect,
            effect_low=comparison.low,
            effect_high=comparison.high,
            p_value=p_value,
            examples=examples,
        )

    def _words(self, alternative: Alternative) -> str:
        if alternative.cell < 0:
            return alternative.change
        channel = self._encoder.channels[alternative.channel]
        return f"{alternative.change} {channel.labels[alternative.cell]}"


__all__ = ["Alert", "DriftMonitor", "MonitorSettings"]
