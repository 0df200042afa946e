"""Facts made of several elements, or of elements that must not leave the blob as they are."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TypeVar

from schemas.identity import keyed_hash
from streams.sniff import clean, vocabulary
from streams.sniff.dicom import table, values
from streams.sniff.dicom.values import BadValueError, Element
from streams.sniff.report import Report
from streams.sniff.result import SniffContext

T = TypeVar("T")
Get = Callable[[str], "Element | None"]

_DATE_TIME_PATHS = tuple(path for source in table.DATE_TIMES for path in table.expand(source))
_DESCRIPTION_PATHS = tuple(path for source in table.DESCRIPTIONS for path in table.expand(source))


def _read(get: Get, path: str, convert: Callable[[bytes], T], report: Report) -> T | None:
    element = get(path)
    if element is None:
        return None
    try:
        return convert(element.value)
    except BadValueError:
        report.problem("invalid-value", path.rpartition(".")[2])
        return None


def _identity(get: Get, path: str) -> str:
    element = get(path)
    return "" if element is None else clean.identity(values.text(element))


def keys(get: Get, report: Report, context: SniffContext) -> None:
    """Make keyed hashes of the patient, the site and the device.

    A device is known by its serial number, or where there is none by its station name at its
    site; both only count together with the maker.
    """
    key, tenant = context.patient_hash_key, context.tenant
    facts = report.facts
    patient = _identity(get, "PatientID")
    if patient:
        issuer = _identity(get, "IssuerOfPatientID")
        facts["patient_key"] = keyed_hash(key, tenant, issuer, patient)
    # Case and spacing of an institution's name differ between its devices; its address even more.
    site = " ".join(_identity(get, "InstitutionName").casefold().split())
    if site:
        facts["site_key"] = keyed_hash(key, tenant, "site", "institution", site)
    maker = _identity(get, "Manufacturer").casefold()
    serial = _identity(get, "DeviceSerialNumber")
    station = _identity(get, "StationName")
    if serial:
        facts["device_key"] = keyed_hash(key, tenant, "device", "serial", maker, serial)
    elif station:
        facts["device_key"] = keyed_hash(key, tenant, "device", "station", maker, site, station)


def acquired_at(get: Get, report: Report) -> None:
    """Find when the image was acquired: the most specific date and time that can be read.

    DICOM times are local. They are taken by Timezone Offset From UTC (PS3.3 C.12.1.1.8) or by
    their own offset; where there is neither, as UTC. Most files say neither, so that is no
    problem worth a note.
    """
    zone = _read(get, "TimezoneOffsetFromUTC", values.utc_offset, report) or timedelta()
    for path in _DATE_TIME_PATHS:
        moment = _read(get, path, values.date_time, report)
        if moment is not None:
            local, own_zone = moment
            report.facts["acquired_at"] = local - (zone if own_zone is None else own_zone)
            return
    for date_path, time_path in table.DATES_AND_TIMES:
        day = _read(get, date_path, values.date, report)
        if day is not None:
            since_midnight = _read(get, time_path, values.time_of_day, report) or timedelta()
            report.facts["acquired_at"] = day + since_midnight - zone
            return


def age(get: Get, report: Report) -> None:
    """Find the patient's age from the birth date where the header does not say it.

    In whole years, or months below two years: together with the date of the study an exact age
    would be the birth date.
    """
    said = get("PatientAge")
    if said is not None and said.value.strip(b" \0"):
        # Even a wrong one: where an age was blanked out, the birth date is made up as well.
        return
    born = _read(get, "PatientBirthDate", values.date, report)
    if born is None:
        return
    day: datetime | None = None
    for path in ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"):
        day = _read(get, path, values.date, report)
        if day is not None:
            break
    if day is None or day < born:
        return
    months = 12 * (day.year - born.year) + day.month - born.month - (day.day < born.day)
    years = months // 12 if months >= 24 else round(months / 12, 3)
    report.facts["patient_age_years"] = min(float(years), values.MAX_AGE_YEARS)


def description_terms(get: Get, report: Report) -> None:
    """Reduce free text to terms of the closed vocabulary."""
    texts = []
    for path in _DESCRIPTION_PATHS:
        element = get(path)
        if element is not None and element.value:
            texts.append(values.text(element))
    if texts:
        found = vocabulary.terms(texts)
        if found:
            report.facts["description_terms"] = found


def frames(get: Get, report: Report) -> None:
    """Give an image without Number of Frames one frame (PS3.3 C.7.6.6)."""
    facts = report.facts
    said = get("NumberOfFrames")
    if said is not None and said.value.strip(b" \0"):
        return
    if facts.get("rows") and facts.get("columns"):
        facts["frames"] = 1
