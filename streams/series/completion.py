"""When a series is complete: a state machine over event time.

What it tells is a function of the logs alone. Records are stamped and held back until the
watermark has passed their stamp (``watermark``), then taken in the order of (stamp, series,
instance); a timer that is due at a stamp comes before the records of that stamp. So interleaving,
batches, restarts and the wall clock change when something is said, but never what: versions,
times, ids and their order are the same in a replay.

A series completes

- by *expected count*, at the stamp at which as many SOP Instance UIDs are there as the headers
  announce (Images in Acquisition, 0020,1002). Once per series; headers that disagree announce
  nothing, and neither does a count of one;
- by *idle*, when no new instance is stamped for ``idle_seconds``;
- *forced*, when somebody asks, or when it has been open for ``max_open_seconds``.

An instance that comes afterwards opens the series again, and the next version counts it. The same
instance with the same bytes changes nothing and keeps no timer from firing.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from streams.series.outputs import ArrivalRefused, Output, Reason, SeriesOpened, SeriesPutAway
from streams.series.records import Arrival, Force, Record, SeriesKey, Tick
from streams.series.state import SeriesState
from streams.series.watermark import Watermarks

_SECOND_US: Final = 1_000_000
_HOUR_US: Final = 3600 * _SECOND_US
_FORMAT: Final = 1

Recall = Callable[[SeriesKey, int], Mapping[str, Any] | None]
"""The store's answer to a series that is not in memory, at a stamp in microseconds: the ``state``
of its latest ``SeriesPutAway`` with ``at_us`` not after the stamp, or None. Of later ones a replay
must not hear: they know instances that it has yet to read."""


def never_put_away(key: SeriesKey, stamp_us: int) -> None:
    """Know nothing: a store for those who keep none."""
    del key, stamp_us


@dataclass(frozen=True, slots=True)
class CompletionSettings:
    """How long to wait, and how much to remember.

    Parameters
    ----------
    idle_seconds : float
        A series without a new instance for so long is complete.
    disorder_seconds : float
        By how much records of one log may be out of order; also the delay of what is said.
    max_open_seconds : float
        A series that never rests gets a version after so long.
    retain_hours : float
        How long a completed series stays in memory after its last instance, in event time.
    expected_minimum : int
        Smallest announced count that is believed.
    max_series : int
        Series in memory; completed ones beyond it are put away early.
    max_members : int
        Instances of one series; more are refused.
    """

    idle_seconds: float = 60.0
    disorder_seconds: float = 10.0
    max_open_seconds: float = 6 * 3600.0
    retain_hours: float = 24.0
    expected_minimum: int = 2
    max_series: int = 100_000
    max_members: int = 100_000

    def __post_init__(self) -> None:
        for name, least in (("idle_seconds", 0), ("max_open_seconds", 0), ("retain_hours", 0)):
            if not getattr(self, name) > least:
                msg = f"{name} must be more than {least}, and is {getattr(self, name)}"
                raise ValueError(msg)
        for name in ("expected_minimum", "max_series", "max_members"):
            if getattr(self, name) < 1:
                msg = f"{name} must be at least 1, and is {getattr(self, name)}"
                raise ValueError(msg)


# A pending record: stamp, then what orders records of one stamp, whichever log they come from.
_Pending = tuple[int, SeriesKey, int, str, str, int, Arrival | Force]


class SeriesCompletion:
    """The state machine of all series of a worker.

    Parameters
    ----------
    sources : iterable of str
        All logs that records come from.
    settings : CompletionSettings
        Times and limits.
    recall : callable
        The store of series that were put away.
    """

    def __init__(
        self,
        sources: Iterable[str],
        settings: CompletionSettings = CompletionSettings(),
        recall: Recall = never_put_away,
    ) -> None:
        self._settings = settings
        self._recall = recall
        self._watermarks = Watermarks(sources, round(settings.disorder_seconds * _SECOND_US))
        self._idle_us = round(settings.idle_seconds * _SECOND_US)
        self._max_open_us = round(settings.max_open_seconds * _SECOND_US)
        self._retain_us = round(settings.retain_hours * _HOUR_US)
        self._series: dict[SeriesKey, SeriesState] = {}
        # Completed series, the one that was touched first in front.
        self._settled: dict[SeriesKey, None] = {}
        # Put away by this very feed, so that the store cannot know of them yet.
        self._leaving: dict[SeriesKey, dict[str, Any]] = {}
        self._changed: set[SeriesKey] = set()
        self._pending: list[_Pending] = []
        self._serial = 0
        self._timers: list[tuple[int, SeriesKey]] = []
        self._armed: dict[SeriesKey, int] = {}

    def feed(self, records: Iterable[Record]) -> list[Output]:
        """Take records, any number at a time; return what follows from them.

        Parameters
        ----------
        records : iterable of Arrival, Tick or Force
            In the order of their logs; how the logs interleave does not matter.

        Returns
        -------
        list of Output
            In event time. Over many calls they make one sequence, the same for the same logs. The
            store must know of each ``SeriesPutAway`` before the next call.

        Raises
        ------
        ValueError
            If a record's source was not named.
        """
        self._leaving.clear()
        for record in records:
            stamp_us = self._watermarks.stamp(record.source, record.at_us)
            if isinstance(record, Tick):
                continue
            is_order = isinstance(record, Force)
            uid, image = ("", "") if isinstance(record, Force) else _names(record)
            self._serial += 1
            heapq.heappush(
                self._pending,
                (stamp_us, record.key, int(is_order), uid, image, self._serial, record),
            )
        return self._advance()

    @property
    def watermark_us(self) -> int | None:
        """Event time up to which all is said; None until every source has told a time."""
        return self._watermarks.low_us

    @property
    def clocks(self) -> Mapping[str, int | None]:
        """Clock of each source; the least hold the others back and need records or a tick."""
        return self._watermarks.clocks

    @property
    def pending_count(self) -> int:
        """Records that wait for the watermark. When it grows, read the sources that lag."""
        return len(self._pending)

    @property
    def series_count(self) -> int:
        """Series in memory."""
        return len(self._series)

    @property
    def open_count(self) -> int:
        """Series with instances that no version counts yet."""
        return len(self._series) - len(self._settled)

    def unknown(self, records: Iterable[Record]) -> set[SeriesKey]:
        """Return the series of records that are not in memory: those to ask the store for."""
        keys = {record.key for record in records if isinstance(record, Arrival)}
        return {key for key in keys if key not in self._series}

    def snapshot(self) -> dict[str, Any]:
        """Return the whole state as JSON values; timers follow from it."""
        return {
            "format": _FORMAT,
            "clocks": dict(self._watermarks.clocks),
            "series": [[list(k), s.to_plain()] for k, s in sorted(self._series.items())],
            "settled": [list(key) for key in self._settled],
            "pending": self._plain_pending(),
        }

    def take_changes(self) -> dict[str, Any]:
        """Return what changed since the last call, to be laid over an earlier snapshot.

        It costs as much as the batch, where ``snapshot`` costs as much as the memory: series in
        it replace those of the same key, those in ``gone`` leave, the rest replaces its like. A
        state that is laid together so may lack ``settled``.
        """
        changed, self._changed = sorted(self._changed), set()
        return {
            "format": _FORMAT,
            "clocks": dict(self._watermarks.clocks),
            "series": [[list(k), self._series[k].to_plain()] for k in changed if k in self._series],
            "gone": [list(key) for key in changed if key not in self._series],
            "pending": self._plain_pending(),
        }

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Go on from a snapshot in place of what there is.

        Records that were fed before the snapshot may be fed again, as happens when the offsets
        were not committed any more: no version changes.

        Raises
        ------
        ValueError
            If it was written by another version.
        """
        if snapshot.get("format") != _FORMAT:
            msg = (
                f"the state has format {snapshot.get('format')!r} and this program reads {_FORMAT}:"
                " drop it and replay the topic"
            )
            raise ValueError(msg)
        self._watermarks.restore(snapshot["clocks"])
        self._series = {
            SeriesKey(*key): SeriesState.from_plain(state) for key, state in snapshot["series"]
        }
        self._timers, self._armed = [], {}
        for key, state in self._series.items():
            self._arm(key, self._due_us(state))
        settled = snapshot.get("settled")
        if settled is None:
            quiet = [(_settled_us(s), k) for k, s in self._series.items() if s.changed_us is None]
            settled = [key for _, key in sorted(quiet)]
        self._settled = {SeriesKey(*key): None for key in settled}
        self._changed = set()
        self._pending, self._serial = [], 0
        for stamp, kind, fields in snapshot["pending"]:
            self._serial += 1
            record = _record(kind, fields)
            uid, image = ("", "") if isinstance(record, Force) else _names(record)
            rank = int(isinstance(record, Force))
            self._pending.append((stamp, record.key, rank, uid, image, self._serial, record))
        heapq.heapify(self._pending)

    def _plain_pending(self) -> list[list[Any]]:
        return [
            [stamp, type(record).__name__, asdict(record)]
            for stamp, *_, record in sorted(self._pending, key=lambda entry: entry[:6])
        ]

    def _advance(self) -> list[Output]:
        out: list[Output] = []
        low = self._watermarks.low_us
        if low is None:
            return out
        pending, timers = self._pending, self._timers
        while True:
            # A stamp at the watermark itself may still get company from another log.
            stamp = pending[0][0] if pending and pending[0][0] < low else None
            due = timers[0][0] if timers and timers[0][0] <= low else None
            if due is not None and (stamp is None or due <= stamp):
                self._ring(*heapq.heappop(timers), out)
            elif stamp is not None:
                record = heapq.heappop(pending)[-1]
                if isinstance(record, Force):
                    self._force(record, stamp, out)
                else:
                    self._take(record, stamp, out)
            else:
                return out

    def _take(self, arrival: Arrival, stamp_us: int, out: list[Output]) -> None:
        key = arrival.key
        self._changed.add(key)
        state = self._series.get(key) or self._enter(arrival, stamp_us)
        members = state.members
        if members.member_count >= self._settings.max_members and not members.holds(
            arrival.instance_uid, arrival.image_id
        ):
            reason = f"the series has {self._settings.max_members} instances already"
            out.append(
                ArrivalRefused(key, arrival.instance_uid, arrival.image_id, stamp_us, reason)
            )
            return
        was_settled = state.changed_us is None
        if not state.add(arrival, stamp_us, expected_minimum=self._settings.expected_minimum):
            if was_settled:
                self._settle(key)
                self._relieve(stamp_us, out)
            return
        if was_settled:
            self._settled.pop(key, None)
            out.append(SeriesOpened(key, state.study_uid, stamp_us))
        if state.reached_expectation:
            self._complete(key, state, "expected-count", stamp_us, out)
        else:
            self._arm(key, self._due_us(state))

    def _enter(self, arrival: Arrival, stamp_us: int) -> SeriesState:
        put_away = self._leaving.pop(arrival.key, None) or self._recall(arrival.key, stamp_us)
        if put_away is None:
            state = SeriesState(arrival.study_uid, stamp_us, stamp_us, stamp_us)
        else:
            state = SeriesState.from_plain(put_away)
            state.touched_us = stamp_us
        self._series[arrival.key] = state
        self._settle(arrival.key)
        self._arm(arrival.key, self._due_us(state))
        return state

    def _force(self, order: Force, stamp_us: int, out: list[Output]) -> None:
        state = self._series.get(order.key)
        # Without new instances there is nothing to complete.
        if state is not None and state.changed_us is not None:
            self._complete(order.key, state, "forced", stamp_us, out)

    def _complete(
        self, key: SeriesKey, state: SeriesState, reason: Reason, at_us: int, out: list[Output]
    ) -> None:
        self._changed.add(key)
        out.append(state.complete(key, reason, at_us))
        self._settle(key)
        self._arm(key, self._due_us(state))
        self._relieve(at_us, out)

    def _ring(self, due_us: int, key: SeriesKey, out: list[Output]) -> None:
        if self._armed.get(key) != due_us:
            return
        del self._armed[key]
        state = self._series[key]
        actual_us = self._due_us(state)
        if actual_us > due_us:
            # An instance came since it was armed.
            self._arm(key, actual_us)
        elif state.changed_us is None:
            self._put_away(key, due_us, out)
        else:
            is_idle = state.last_us + self._idle_us <= due_us
            self._complete(key, state, "idle" if is_idle else "forced", due_us, out)

    def _due_us(self, state: SeriesState) -> int:
        if state.changed_us is not None:
            return min(state.last_us + self._idle_us, state.changed_us + self._max_open_us)
        return _settled_us(state) + self._retain_us

    def _arm(self, key: SeriesKey, due_us: int) -> None:
        # One live timer a series. A later due needs none: the earlier one rings and asks again.
        armed_us = self._armed.get(key)
        if armed_us is None or due_us < armed_us:
            self._armed[key] = due_us
            heapq.heappush(self._timers, (due_us, key))

    def _settle(self, key: SeriesKey) -> None:
        self._settled.pop(key, None)
        self._settled[key] = None

    def _relieve(self, at_us: int, out: list[Output]) -> None:
        # What was touched at this very stamp stays: its state would hold part of the stamp.
        while len(self._series) > self._settings.max_series and self._settled:
            key = next(iter(self._settled))
            if self._series[key].touched_us >= at_us:
                return
            self._put_away(key, at_us, out)

    def _put_away(self, key: SeriesKey, at_us: int, out: list[Output]) -> None:
        self._changed.add(key)
        state = self._series.pop(key)
        self._settled.pop(key, None)
        self._armed.pop(key, None)
        if state.version:
            self._leaving[key] = state.to_plain()
            out.append(SeriesPutAway(key, at_us, self._leaving[key]))


def _settled_us(state: SeriesState) -> int:
    return max(state.touched_us, state.version_us)


def _names(arrival: Arrival) -> tuple[str, str]:
    return arrival.instance_uid, arrival.image_id


def _record(kind: str, fields: Mapping[str, Any]) -> Arrival | Force:
    plain = dict(fields)
    plain["key"] = SeriesKey(*plain["key"])
    if kind == "Force":
        return Force(**plain)
    plain["terms"] = tuple(plain["terms"])
    return Arrival(**plain)
