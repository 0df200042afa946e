"""What completion tells: a series opened, a version is complete, a series was put away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from schemas import identity
from schemas.events import SeriesCompleted
from streams.series.records import SeriesKey, moment

Reason = Literal["idle", "expected-count", "forced"]


@dataclass(frozen=True, slots=True)
class SeriesOpened:
    """A series has instances that no version counts yet."""

    key: SeriesKey
    study_uid: str
    at_us: int


@dataclass(frozen=True, slots=True)
class SeriesVersion:
    """A version of a series is complete.

    Parameters
    ----------
    key : SeriesKey
        Its series.
    study_uid : str
        Its study: what the first instance said.
    version : int
        From 1 on, one more with each change.
    reason : str
        ``expected-count``: all that the headers announce are here. ``idle``: none came for a while.
        ``forced``: a person asked, or it was open for longer than the limit.
    at_us : int
        Event time of the completion, microseconds since 1970 UTC.
    instance_count : int
        Distinct SOP Instance UIDs.
    conflict_count : int
        Files beyond the first under one SOP Instance UID: other bytes for the same name.
    set_hash : str
        See ``members.Members.set_hash``.
    expected_count : int or None
        What the headers announce, if they agree.
    lowest_number, highest_number : int or None
        Smallest and largest Instance Number.
    modalities : tuple of (str, int)
        Modalities of the headers and their instances, by code.
    terms : tuple of str
        Terms of the descriptions, sorted.
    first_us, last_us : int
        Stamps of the first and of the last instance, microseconds.
    """

    key: SeriesKey
    study_uid: str
    version: int
    reason: Reason
    at_us: int
    instance_count: int
    conflict_count: int
    set_hash: str
    expected_count: int | None
    lowest_number: int | None
    highest_number: int | None
    modalities: tuple[tuple[str, int], ...]
    terms: tuple[str, ...]
    first_us: int
    last_us: int

    @property
    def event_id(self) -> str:
        """Name of the version's event: from the series, the version and its set."""
        return identity.event_id(SeriesCompleted.TOPIC, *self.key, str(self.version), self.set_hash)


@dataclass(frozen=True, slots=True)
class SeriesPutAway:
    """A completed series was quiet for long and leaves memory.

    Parameters
    ----------
    key : SeriesKey
        Its series.
    at_us : int
        Event time: all that is stamped before it is in ``state``, nothing else is.
    state : dict
        What ``recall`` is to return when a late instance comes; JSON.
    """

    key: SeriesKey
    at_us: int
    state: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ArrivalRefused:
    """An instance that no series takes, and why."""

    key: SeriesKey
    instance_uid: str
    image_id: str
    at_us: int
    reason: str


Output = SeriesOpened | SeriesVersion | SeriesPutAway | ArrivalRefused


def completed_event(version: SeriesVersion) -> SeriesCompleted:
    """Make the event of a version; a replay makes the same one."""
    return SeriesCompleted(
        event_id=version.event_id,
        occurred_at=moment(version.at_us),
        trace_id=identity.trace_id("series", *version.key),
        tenant=version.key.tenant,
        dataset_id=version.key.dataset_id,
        series_uid=version.key.series_uid,
        study_uid=version.study_uid,
        version=version.version,
        reason=version.reason,
        instance_count=version.instance_count,
        set_hash=version.set_hash,
    )
