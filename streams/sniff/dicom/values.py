"""Raw DICOM values to Python values, strictly: what a type does not allow is ``BadValueError``."""

from __future__ import annotations

import math
import re
from datetime import datetime, timedelta, timezone
from struct import Struct
from typing import NamedTuple

from pydicom.charset import python_encoding

from streams.sniff import clean


class BadValueError(ValueError):
    """A value that its value representation does not allow; never carries the value."""


class Element(NamedTuple):
    """One element's value as it stands in the file.

    Parameters
    ----------
    vr : str
        Value representation, written or from the dictionary.
    value : bytes
        Raw value.
    little : bool
        Byte order of binary values.
    codec : str
        Python codec of the data set's character set.
    """

    vr: str
    value: bytes
    little: bool
    codec: str


_BINARY = {"US": "H", "SS": "h", "UL": "L", "SL": "l", "UV": "Q", "SV": "q", "FL": "f", "FD": "d"}
_BINARY_STRUCTS = {
    (vr, little): Struct(("<" if little else ">") + code)
    for vr, code in _BINARY.items()
    for little in (True, False)
}
_INTEGER = re.compile(rb"[+-]?[0-9]{1,12}")
_DECIMAL = re.compile(rb"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")
_UID = re.compile(rb"[0-9]+(?:\.[0-9]+)*")
_MODALITY = re.compile(r"[A-Z0-9_]{1,16}")
_AGE = re.compile(rb"([0-9]{1,3})([DWMY])")
_DATE = re.compile(rb"([0-9]{4})[.\-]?([0-9]{2})[.\-]?([0-9]{2})")
_TIME = re.compile(rb"([0-9]{2})(?::?([0-9]{2})(?::?([0-9]{2})(?:\.([0-9]{1,6})[0-9]*)?)?)?")
_OFFSET = re.compile(rb"([+-])([0-9]{2})([0-9]{2})")
_DATE_TIME = re.compile(rb"([0-9]{8})([0-9.]*)([+-][0-9]{4})?")

_PADDING = b" \x00\t\r\n"
_MAX_TERMS = 16
_INT32 = 2**31
_FIRST_YEAR, _LAST_YEAR = 1900, 2199
_MAX_OFFSET_HOURS = 14
MAX_AGE_YEARS = 90.0
"""Ages above 89 are one class: 45 CFR 164.514(b)(2)(i)(C), the HIPAA safe harbour."""

_DAYS_PER_YEAR = 365.25
_YEARS_PER_UNIT = {
    b"D": 1 / _DAYS_PER_YEAR,
    b"W": 7 / _DAYS_PER_YEAR,
    b"M": 1 / 12,
    b"Y": 1.0,
}


def codec_of(value: bytes) -> str:
    """Python codec for a Specific Character Set (PS3.3 C.12.1.1.2), Latin-1 if it is unknown."""
    for term in value.decode("latin-1").split("\\"):
        codec = python_encoding.get(term.strip(" \x00"))
        if codec is not None and term.strip(" \x00"):
            return codec
    return "latin-1"


def text(element: Element) -> str:
    """Decode text; bytes that its character set does not have never raise."""
    raw = element.value.strip(_PADDING)
    if raw.isascii():
        return raw.decode("ascii")
    try:
        return raw.decode(element.codec)
    except (UnicodeError, LookupError):
        return raw.decode("latin-1")


def _first_text(element: Element) -> str:
    return text(element).split("\\", 1)[0].strip(" \x00")


def code(element: Element) -> str | None:
    """Read the first value of a coded term."""
    return clean.code_string(_first_text(element)) or None


def codes(element: Element) -> tuple[str, ...] | None:
    """Read all values of a coded term, at most 16; empty ones keep their place."""
    values = [clean.code_string(part) for part in text(element).split("\\")[:_MAX_TERMS]]
    return tuple(values) if any(values) else None


def few_codes(element: Element) -> tuple[str, ...] | None:
    """Read values of a coded term, at most 8."""
    values = codes(element)
    return values[:8] if values else None


def name(element: Element) -> str | None:
    """Read the name of a product or a maker."""
    return clean.product_name(_first_text(element)) or None


def modality(element: Element) -> str | None:
    """Read a modality (PS3.3 C.7.3.1.1.1).

    Raises
    ------
    BadValueError
        If it is not one code.
    """
    value = text(element).upper()
    if not value:
        return None
    if not _MODALITY.fullmatch(value):
        raise BadValueError
    return value


def uid(element: Element) -> str | None:
    """Read a UID (PS3.5 section 9).

    Raises
    ------
    BadValueError
        If it has other characters than digits and dots, or more than 64.
    """
    value = element.value.strip(_PADDING)
    if not value:
        return None
    if len(value) > 64 or not _UID.fullmatch(value):
        raise BadValueError
    return value.decode("ascii")


def numbers(element: Element) -> list[float]:
    """Read all numbers of a binary or text value.

    Raises
    ------
    BadValueError
        If one is not a finite number.
    """
    value = element.value
    layout = _BINARY_STRUCTS.get((element.vr, element.little))
    found: list[float]
    if layout is not None:
        if len(value) % layout.size:
            raise BadValueError
        found = [item for (item,) in layout.iter_unpack(value)]
    else:
        value = value.strip(_PADDING)
        if not value:
            return []
        found = []
        for part in value.split(b"\\"):
            digits = part.strip(_PADDING)
            if _INTEGER.fullmatch(digits):
                found.append(int(digits))
            elif _DECIMAL.fullmatch(digits):
                found.append(float(digits))
            else:
                raise BadValueError
    for item in found:
        if not math.isfinite(item):
            raise BadValueError
    return found


def number(element: Element) -> float | None:
    """Read the first number."""
    found = numbers(element)
    return float(found[0]) if found else None


def thousandths(element: Element) -> float | None:
    """Read the first number, given in thousandths of the fact's unit."""
    value = number(element)
    return None if value is None else value / 1000


def whole(element: Element) -> int | None:
    """Read the first number as an integer within 32 bits, as IS is (PS3.5 section 6.2).

    Raises
    ------
    BadValueError
        If it has a fraction or is too large.
    """
    found = numbers(element)
    if not found:
        return None
    value = int(found[0])
    if value != found[0] or not -_INT32 <= value < _INT32:
        raise BadValueError
    return value


def count(element: Element) -> int | None:
    """Read an integer that cannot be negative."""
    value = whole(element)
    if value is not None and value < 0:
        raise BadValueError
    return value


def _exactly(element: Element, length: int) -> tuple[float, ...] | None:
    found = numbers(element)
    if not found:
        return None
    if len(found) != length:
        raise BadValueError
    return tuple(float(item) for item in found)


def pair(element: Element) -> tuple[float, ...] | None:
    """Read two spacings.

    Raises
    ------
    BadValueError
        If one is not positive (PS3.3 section 10.7.1.3); zero is how some writers say "unknown".
    """
    found = _exactly(element, 2)
    if found is not None and min(found) <= 0:
        raise BadValueError
    return found


def triple(element: Element) -> tuple[float, ...] | None:
    """Read three numbers."""
    return _exactly(element, 3)


def sextuple(element: Element) -> tuple[float, ...] | None:
    """Read six numbers."""
    return _exactly(element, 6)


def _one_of(element: Element, meanings: dict[str, object]) -> object | None:
    value = _first_text(element).upper()
    if not value:
        return None
    if value not in meanings:
        raise BadValueError
    return meanings[value]


def yes_or_no(element: Element) -> object | None:
    """Read YES or NO."""
    return _one_of(element, {"YES": True, "NO": False})


def lossy(element: Element) -> object | None:
    """Read Lossy Image Compression (PS3.3 C.7.6.1.1.5)."""
    return _one_of(element, {"01": True, "00": False, "1": True, "0": False})


def signed(element: Element) -> object | None:
    """Read Pixel Representation (PS3.3 C.7.6.3)."""
    value = whole(element)
    if value not in (None, 0, 1):
        raise BadValueError
    return None if value is None else bool(value)


def sex(element: Element) -> object | None:
    """Read Patient's Sex; terms for "unknown" are no value."""
    return _one_of(
        element,
        {"F": "F", "M": "M", "O": "O", "FEMALE": "F", "MALE": "M", "OTHER": "O"}
        | dict.fromkeys(("U", "N", "UNKNOWN", "NONE", "ANON", "ANONYMIZED")),
    )


def laterality(element: Element) -> object | None:
    """Read a laterality."""
    return _one_of(
        element,
        {"L": "L", "R": "R", "B": "B", "U": "U", "LEFT": "L", "RIGHT": "R", "BOTH": "B"},
    )


def contrast(element: Element) -> bool | None:
    """Tell whether a contrast agent is named; which one stays in the blob."""
    value = _first_text(element).upper()
    if not value:
        return None
    return value not in {"NO", "NONE", "N", "OFF", "WITHOUT", "NO CONTRAST"}


def age_years(element: Element) -> float | None:
    """Read an age (AS, PS3.5 section 6.2) in years, capped at 90.

    Raises
    ------
    BadValueError
        If it is not three digits and a unit.
    """
    value = element.value.strip(_PADDING).upper()
    if not value or value == b"000Y":
        # The age of a newborn is given in days; this is an age that was blanked out.
        return None
    match = _AGE.fullmatch(value)
    if match is None:
        raise BadValueError
    return min(round(int(match[1]) * _YEARS_PER_UNIT[match[2]], 3), MAX_AGE_YEARS)


def date(value: bytes) -> datetime | None:
    """Read a date (DA, or the older form with dots); one of zeros only is no value.

    Raises
    ------
    BadValueError
        If there is no such day, or it is not between 1900 and 2199.
    """
    value = value.strip(_PADDING)
    if not value.strip(b"0"):
        return None
    match = _DATE.fullmatch(value)
    if match is None or not _FIRST_YEAR <= int(match[1]) <= _LAST_YEAR:
        raise BadValueError
    try:
        return datetime(int(match[1]), int(match[2]), int(match[3]), tzinfo=timezone.utc)
    except ValueError:
        raise BadValueError from None


def time_of_day(value: bytes) -> timedelta | None:
    """Read a time (TM, or the older form with colons) as the time since midnight.

    Raises
    ------
    BadValueError
        If there is no such time.
    """
    value = value.strip(_PADDING)
    if not value:
        return None
    match = _TIME.fullmatch(value)
    if match is None:
        raise BadValueError
    hours, minutes, seconds = int(match[1]), int(match[2] or 0), int(match[3] or 0)
    if hours > 23 or minutes > 59 or seconds > 60:
        raise BadValueError
    # A leap second is the last instant of its minute here.
    return timedelta(
        hours=hours,
        minutes=minutes,
        seconds=min(seconds, 59),
        microseconds=int((match[4] or b"0").ljust(6, b"0")),
    )


def utc_offset(value: bytes) -> timedelta | None:
    """Read an offset from UTC, ``+ZZXX`` (PS3.3 C.12.1.1.8).

    Raises
    ------
    BadValueError
        If it is not one.
    """
    value = value.strip(_PADDING)
    if not value:
        return None
    match = _OFFSET.fullmatch(value)
    if match is None or int(match[2]) > _MAX_OFFSET_HOURS or int(match[3]) > 59:
        raise BadValueError
    offset = timedelta(hours=int(match[2]), minutes=int(match[3]))
    return -offset if match[1] == b"-" else offset


def date_time(value: bytes) -> tuple[datetime, timedelta | None] | None:
    """Read a date-time (DT): local date and time, and its own offset from UTC if it has one.

    Raises
    ------
    BadValueError
        If it is not one, or does not name a day.
    """
    value = value.strip(_PADDING)
    if not value:
        return None
    match = _DATE_TIME.fullmatch(value)
    if match is None:
        raise BadValueError
    day = date(match[1])
    if day is None:
        return None
    return day + (time_of_day(match[2]) or timedelta()), utc_offset(match[3] or b"")
