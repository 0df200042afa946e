"""When a study is complete: from its series, in the same event time.

It is fed with what ``completion`` says and with its watermark, so that it is a function of the
logs as well. A study completes

- with its *required series*, once: when its rule finds all of them and no series is open;
- by *idle*, when no series is open and none was completed for ``idle_seconds``. What its rule still
  misses is said with it.

A series that opens or changes afterwards makes the next version.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from schemas import identity
from streams.series.outputs import Output, SeriesOpened, SeriesVersion
from streams.series.records import StudyKey
from streams.series.rules import SeriesFacts, StudyRules

_SECOND_US: Final = 1_000_000
_HOUR_US: Final = 3600 * _SECOND_US
_FORMAT: Final = 1

StudyReason = Literal["idle", "required-series"]
StudyRecall = Callable[[StudyKey, int], Mapping[str, Any] | None]
"""As ``completion.Recall``, for studies."""


def never_put_away(key: StudyKey, at_us: int) -> None:
    """Know nothing: a store for those who keep none."""
    del key, at_us


@dataclass(frozen=True, slots=True)
class StudySettings:
    """How long to wait, and how much to remember.

    Parameters
    ----------
    idle_seconds : float
        A study without an open or newly completed series for so long is complete.
    retain_hours : float
        How long a completed study stays in memory, in event time.
    max_series : int
        Series of one study; more are left out of it, and its versions say so.
    """

    idle_seconds: float = 600.0
    retain_hours: float = 48.0
    max_series: int = 10_000

    def __post_init__(self) -> None:
        for name in ("idle_seconds", "retain_hours", "max_series"):
            if not getattr(self, name) > 0:
                msg = f"{name} must be more than 0, and is {getattr(self, name)}"
                raise ValueError(msg)


@dataclass(frozen=True, slots=True)
class StudyVersion:
    """A version of a study is complete.

    Parameters
    ----------
    key : StudyKey
        Its study.
    version : int
        From 1 on.
    reason : str
        ``required-series`` or ``idle``.
    at_us : int
        Event time of the completion, microseconds since 1970 UTC.
    series : tuple of (str, int)
        Its series and their versions, sorted.
    instance_count : int
        Instances of all of them.
    set_hash : str
        SHA-256, hex, of the lines ``series_uid 0x1F set_hash 0x0A`` in ascending order.
    kind : str or None
        The rule that it falls under.
    missing : tuple of str
        Required series that are not there, in words.
    is_truncated : bool
        Whether it has more series than are counted.
    """

    key: StudyKey
    version: int
    reason: StudyReason
    at_us: int
    series: tuple[tuple[str, int], ...]
    instance_count: int
    set_hash: str
    kind: str | None
    missing: tuple[str, ...]
    is_truncated: bool = False

    @property
    def event_id(self) -> str:
        """Name of the version's event: from the study, the version and its set."""
        return identity.event_id("studies-completed", *self.key, str(self.version), self.set_hash)


@dataclass(frozen=True, slots=True)
class StudyPutAway:
    """A completed study was quiet for long and leaves memory; see ``outputs.SeriesPutAway``."""

    key: StudyKey
    at_us: int
    state: dict[str, Any]


StudyOutput = StudyVersion | StudyPutAway


@dataclass(frozen=True, slots=True)
class _Part:
    version: int
    set_hash: str
    facts: SeriesFacts


@dataclass(slots=True)
class _State:
    touched_us: int
    version: int = 0
    is_changed: bool = False
    expects: bool = True
    is_truncated: bool = False
    open: set[str] = field(default_factory=set)
    parts: dict[str, _Part] = field(default_factory=dict)

    def to_plain(self) -> dict[str, Any]:
        parts = [
            [
                uid,
                part.version,
                part.set_hash,
                part.facts.instance_count,
                sorted(part.facts.modalities),
                sorted(part.facts.terms),
            ]
            for uid, part in sorted(self.parts.items())
        ]
        return {
            "touched_us": self.touched_us,
            "version": self.version,
            "is_changed": self.is_changed,
            "expects": self.expects,
            "is_truncated": self.is_truncated,
            "open": sorted(self.open),
            "parts": parts,
        }

    @classmethod
    def from_plain(cls, value: Mapping[str, Any]) -> _State:
        plain = dict(value)
        plain["open"] = set(plain["open"])
        plain["parts"] = {
            uid: _Part(
                version, set_hash, SeriesFacts(uid, count, frozenset(modalities), frozenset(terms))
            )
            for uid, version, set_hash, count, modalities, terms in plain["parts"]
        }
        return cls(**plain)


class StudyCompletion:
    """The state machine of all studies of a worker.

    All series of a study must come to one worker: partition by study.

    Parameters
    ----------
    rules : StudyRules or None
        Required series by kind of study.
    settings : StudySettings
        Times and limits.
    recall : callable
        The store of studies that were put away.
    """

    def __init__(
        self,
        rules: StudyRules | None = None,
        settings: StudySettings = StudySettings(),
        recall: StudyRecall = never_put_away,
    ) -> None:
        self._rules = rules or StudyRules()
        self._recall = recall
        self._max_series = settings.max_series
        self._idle_us = round(settings.idle_seconds * _SECOND_US)
        self._retain_us = round(settings.retain_hours * _HOUR_US)
        self._studies: dict[StudyKey, _State] = {}
        # Put away by this very feed, so that the store cannot know of them yet.
        self._leaving: dict[StudyKey, dict[str, Any]] = {}
        self._changed: set[StudyKey] = set()
        self._timers: list[tuple[int, StudyKey]] = []
        self._armed: dict[StudyKey, int] = {}

    def feed(self, outputs: Iterable[Output], watermark_us: int | None) -> list[StudyOutput]:
        """Take what ``SeriesCompletion.feed`` returned, and its watermark after that.

        Returns
        -------
        list of StudyVersion or StudyPutAway
            In event time; the same sequence for the same logs.
        """
        out: list[StudyOutput] = []
        self._leaving.clear()
        for output in outputs:
            if isinstance(output, SeriesOpened | SeriesVersion) and output.study_uid:
                self._ring_until(output.at_us, out)
                self._take(output, out)
        if watermark_us is not None:
            self._ring_until(watermark_us, out)
        return out

    @property
    def study_count(self) -> int:
        """Studies in memory."""
        return len(self._studies)

    def snapshot(self) -> dict[str, Any]:
        """Return the whole state as JSON values; timers follow from it."""
        studies = [[list(key), state.to_plain()] for key, state in sorted(self._studies.items())]
        return {"format": _FORMAT, "studies": studies}

    def take_changes(self) -> dict[str, Any]:
        """Return what changed since the last call; as ``SeriesCompletion.take_changes``."""
        changed, self._changed = sorted(self._changed), set()
        studies = [[list(k), self._studies[k].to_plain()] for k in changed if k in self._studies]
        gone = [list(key) for key in changed if key not in self._studies]
        return {"format": _FORMAT, "studies": studies, "gone": gone}

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Go on from a snapshot in place of what there is.

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
        self._studies = {
            StudyKey(*key): _State.from_plain(state) for key, state in snapshot["studies"]
        }
        self._timers, self._armed, self._changed = [], {}, set()
        for key, state in self._studies.items():
            self._arm(key, state)

    def _take(self, output: SeriesOpened | SeriesVersion, out: list[StudyOutput]) -> None:
        series = output.key
        key = StudyKey(series.tenant, series.dataset_id, output.study_uid)
        self._changed.add(key)
        state = self._studies.get(key)
        if state is None:
            put_away = self._leaving.pop(key, None) or self._recall(key, output.at_us)
            state = _State(output.at_us) if put_away is None else _State.from_plain(put_away)
            self._studies[key] = state
        uid = series.series_uid
        state.touched_us = max(state.touched_us, output.at_us)
        if isinstance(output, SeriesOpened):
            known = state.parts.keys() | state.open
            if uid in known or len(known) < self._max_series:
                state.open.add(uid)
            else:
                state.is_truncated = True
        elif uid in state.open or uid in state.parts:
            state.open.discard(uid)
            facts = SeriesFacts(
                uid,
                output.instance_count,
                frozenset(code for code, _ in output.modalities),
                frozenset(output.terms),
            )
            state.parts[uid] = _Part(output.version, output.set_hash, facts)
            state.is_changed = True
            if state.expects and not state.open:
                self._complete_if_satisfied(key, state, output.at_us, out)
        self._arm(key, state)

    def _complete_if_satisfied(
        self, key: StudyKey, state: _State, at_us: int, out: list[StudyOutput]
    ) -> None:
        facts = _facts(state)
        rule = self._rules.rule_for(facts)
        if rule is not None and not rule.missing(facts):
            state.expects = False
            out.append(self._complete(key, state, "required-series", at_us))

    def _complete(
        self, key: StudyKey, state: _State, reason: StudyReason, at_us: int
    ) -> StudyVersion:
        state.version += 1
        state.is_changed = False
        facts = _facts(state)
        rule = self._rules.rule_for(facts)
        parts = sorted(state.parts.items())
        lines = "".join(f"{uid}\x1f{part.set_hash}\n" for uid, part in parts)
        return StudyVersion(
            key=key,
            version=state.version,
            reason=reason,
            at_us=at_us,
            series=tuple((uid, part.version) for uid, part in parts),
            instance_count=sum(one.instance_count for one in facts),
            set_hash=hashlib.sha256(lines.encode()).hexdigest(),
            kind=None if rule is None else rule.kind,
            missing=() if rule is None else rule.missing(facts),
            is_truncated=state.is_truncated,
        )

    def _ring_until(self, at_us: int, out: list[StudyOutput]) -> None:
        while self._timers and self._timers[0][0] <= at_us:
            due_us, key = heapq.heappop(self._timers)
            if self._armed.get(key) != due_us:
                continue
            del self._armed[key]
            state = self._studies[key]
            actual_us = self._due_us(state)
            if actual_us is None:
                continue
            if actual_us > due_us:
                self._arm(key, state)
                continue
            self._changed.add(key)
            if state.is_changed:
                out.append(self._complete(key, state, "idle", due_us))
                state.touched_us = due_us
                self._arm(key, state)
            else:
                del self._studies[key]
                if state.version:
                    self._leaving[key] = state.to_plain()
                    out.append(StudyPutAway(key, due_us, self._leaving[key]))

    def _due_us(self, state: _State) -> int | None:
        # An open series completes by itself in a bounded time, and asks again then.
        if state.open:
            return None
        return state.touched_us + (self._idle_us if state.is_changed else self._retain_us)

    def _arm(self, key: StudyKey, state: _State) -> None:
        due_us = self._due_us(state)
        armed_us = self._armed.get(key)
        if due_us is not None and (armed_us is None or due_us < armed_us):
            self._armed[key] = due_us
            heapq.heappush(self._timers, (due_us, key))


def _facts(state: _State) -> list[SeriesFacts]:
    return [part.facts for _, part in sorted(state.parts.items())]
