"""What completion is fed with: arrivals, ticks and orders, each with its event time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Final, NamedTuple

from schemas.events import FileAnalyzed, FileSniffed

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND: Final = timedelta(microseconds=1)


class SeriesKey(NamedTuple):
    """Which series: the same Series Instance UID in another dataset is another series."""

    tenant: str
    dataset_id: str
    series_uid: str


class StudyKey(NamedTuple):
    """Which study."""

    tenant: str
    dataset_id: str
    study_uid: str


@dataclass(frozen=True, slots=True)
class Arrival:
    """One instance of a series is here.

    Parameters
    ----------
    source : str
        The log that it was read from, a partition's name; see ``watermark``.
    key : SeriesKey
        Its series.
    study_uid, instance_uid : str
        Study and SOP Instance UID (PS3.3 C.7.2.1, C.12.1).
    image_id : str
        SHA-256 of its bytes.
    at_us : int
        Event time, microseconds since 1970 UTC.
    expected_count : int or None
        Images in Acquisition (0020,1002), or 1 for a file that is a volume of its own.
    is_whole : bool
        Whether the file is all there is of its series, as a NIfTI volume is.
    instance_number : int or None
        Instance Number (0020,0013).
    modality : str or None
        Modality of the header.
    terms : tuple of str
        Terms of its descriptions.
    """

    source: str
    key: SeriesKey
    study_uid: str
    instance_uid: str
    image_id: str
    at_us: int
    expected_count: int | None = None
    is_whole: bool = False
    instance_number: int | None = None
    modality: str | None = None
    terms: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Tick:
    """A source has nothing older than this time to come: punctuation for a quiet log.

    Parameters
    ----------
    source : str
        Which log.
    at_us : int
        Event time that it has reached, microseconds since 1970 UTC.
    """

    source: str
    at_us: int


@dataclass(frozen=True, slots=True)
class Force:
    """A person asks that a series count as complete with what there is."""

    source: str
    key: SeriesKey
    at_us: int


Record = Arrival | Tick | Force


def microseconds(moment: datetime) -> int:
    """Count the microseconds from 1970 to a moment, exactly.

    Raises
    ------
    ValueError
        If the moment has no time zone.
    """
    if moment.tzinfo is None:
        msg = "a moment must carry a time zone; BioDataMine keeps UTC only"
        raise ValueError(msg)
    return (moment - _EPOCH) // _MICROSECOND


def moment(at_us: int) -> datetime:
    """Return the moment that ``microseconds`` counted to, UTC."""
    return _EPOCH + at_us * _MICROSECOND


def record_of(event: FileSniffed | FileAnalyzed, source: str) -> Arrival | Tick:
    """Make the record that a file's event tells of.

    The event time is ``received_at``, but never later than ``processed_at``: a gateway whose clock
    runs ahead would otherwise take the time of its whole partition with it. Both stand in the
    event, so that a replay reads the same time.

    A NIfTI file is one volume: a series of its own, under its file_id.

    Parameters
    ----------
    event : FileSniffed or FileAnalyzed
        Any file's event.
    source : str
        The log that it was read from.

    Returns
    -------
    Arrival or Tick
        A file that belongs to no series still tells how far its log is.
    """
    header = event.header
    at_us = microseconds(min(event.received_at, event.processed_at))
    if event.format == "nifti":
        return Arrival(
            source=source,
            key=SeriesKey(event.tenant, event.dataset_id, event.file_id),
            study_uid="",
            instance_uid=event.file_id,
            image_id=event.image_id,
            at_us=at_us,
            expected_count=1,
            is_whole=True,
            modality=header.modality,
            terms=header.description_terms,
        )
    uids = event.dicom
    series_uid = uids.series_uid if uids else header.series_uid
    instance_uid = uids.instance_uid if uids else header.instance_uid
    if event.format != "dicom" or not series_uid or not instance_uid:
        return Tick(source, at_us)
    return Arrival(
        source=source,
        key=SeriesKey(event.tenant, event.dataset_id, series_uid),
        study_uid=(uids.study_uid if uids else header.study_uid) or "",
        instance_uid=instance_uid,
        image_id=event.image_id,
        at_us=at_us,
        expected_count=header.images_in_acquisition,
        instance_number=header.instance_number,
        modality=header.modality,
        terms=header.description_terms,
    )
