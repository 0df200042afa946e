"""What a Store transaction answers: HTTP status and Store Instances Response Module.

PS3.18 sections 10.5.3 and I.1. There is no Retrieve service here, so each Retrieve URL (0008,1190),
of Type 2, is there and empty: a URL that gives nothing would be worse than none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias
from xml.sax.saxutils import escape

from dicom_gateway.storing.statuses import DatasetTooLargeError, OutOfResourcesError

JSON = "application/dicom+json"
PLAIN_JSON = "application/json"
XML = "application/dicom+xml"
OFFERED = (JSON, XML, PLAIN_JSON)
"""Media types of the answer, the default first (PS3.18 section 8.7.5)."""

OK, ACCEPTED, BAD_REQUEST, CONFLICT = 200, 202, 400, 409
TOO_LARGE, UNSUPPORTED_MEDIA_TYPE, UNAVAILABLE = 413, 415, 503

UNSUPPORTED_PART = 0xC003
"""Failure Reason of a part that is not application/dicom."""

_RETRIEVE_URL = "00081190"
_FAILURE_REASON = "00081197"
_KEYWORDS = {
    "00081150": ("UI", "ReferencedSOPClassUID"),
    "00081155": ("UI", "ReferencedSOPInstanceUID"),
    _RETRIEVE_URL: ("UR", "RetrieveURL"),
    _FAILURE_REASON: ("US", "FailureReason"),
    "00081198": ("SQ", "FailedSOPSequence"),
    "00081199": ("SQ", "ReferencedSOPSequence"),
    "0008119A": ("SQ", "OtherFailuresSequence"),
}


@dataclass(frozen=True)
class Stored:
    """An instance that is durable.

    Parameters
    ----------
    sop_class_uid, sop_instance_uid : str
        Its UIDs.
    """

    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True)
class Failed:
    """A part of the request that was not stored.

    Parameters
    ----------
    status : int
        Failure Reason (PS3.18 table I.2-2), as in ``dicom_gateway.storing.statuses``.
    reason : str
        Short stable code of it.
    comment : str
        Reason in words, without values of the dataset.
    sop_class_uid, sop_instance_uid : str
        UIDs of the instance; both empty if it could not be told which instance it is.
    """

    status: int
    reason: str
    comment: str
    sop_class_uid: str = ""
    sop_instance_uid: str = ""


Outcome: TypeAlias = "Stored | Failed"
Element: TypeAlias = "dict[str, Any]"


def http_status(outcomes: Sequence[Outcome], broken: int | None = None) -> int:
    """Tell the HTTP status of a Store transaction (PS3.18 table 10.5.3-1).

    Parameters
    ----------
    outcomes : sequence of Stored or Failed
        What became of each part.
    broken : int, optional
        Status for a body that could not be read to its end.

    Returns
    -------
    int
        200 all stored, 202 some; if none was: ``broken``, or 400 if there was no part, or what all
        failures have in common (413, 415, 503), or 409.
    """
    failures = [outcome for outcome in outcomes if isinstance(outcome, Failed)]
    if len(failures) < len(outcomes):
        return OK if not failures and broken is None else ACCEPTED
    if broken is not None or not outcomes:
        return broken or BAD_REQUEST
    return {
        frozenset({OutOfResourcesError.status}): UNAVAILABLE,
        frozenset({DatasetTooLargeError.status}): TOO_LARGE,
        frozenset({UNSUPPORTED_PART}): UNSUPPORTED_MEDIA_TYPE,
    }.get(frozenset(failure.status for failure in failures), CONFLICT)


def response_module(outcomes: Sequence[Outcome]) -> Element:
    """Make the Store Instances Response Module (PS3.18 table I.1-1) in the DICOM JSON Model."""
    stored, failed, others = [], [], []
    for outcome in outcomes:
        item = {
            "00081150": _value(outcome.sop_class_uid),
            "00081155": _value(outcome.sop_instance_uid),
        }
        if isinstance(outcome, Stored):
            stored.append(item | {_RETRIEVE_URL: []})
        elif outcome.sop_class_uid and outcome.sop_instance_uid:
            failed.append(item | {_FAILURE_REASON: [outcome.status]})
        else:
            others.append({_FAILURE_REASON: [outcome.status]})
    module: dict[str, list[Any]] = {_RETRIEVE_URL: []}
    for tag, items in (("00081198", failed), ("00081199", stored), ("0008119A", others)):
        if items:
            module[tag] = [_dataset(item) for item in items]
    return _dataset(module)


def encode_module(module: Element, media_type: str) -> bytes:
    """Encode a module as DICOM JSON (PS3.18 annex F) or Native DICOM Model (PS3.19 annex A).

    Parameters
    ----------
    module : dict
        From ``response_module``.
    media_type : str
        One of ``OFFERED``.
    """
    if media_type == XML:
        return (
            '<?xml version="1.0" encoding="UTF-8"?>'
            '<NativeDicomModel xmlns="http://dicom.nema.org/PS3.19/models/NativeDICOM" '
            f'xml:space="preserve">{_xml(module)}</NativeDicomModel>'
        ).encode()
    return json.dumps(module, separators=(",", ":")).encode()


def _value(text: str) -> list[Any]:
    return [text] if text else []


def _dataset(values: Mapping[str, list[Any]]) -> Element:
    return {
        tag: {"vr": _KEYWORDS[tag][0], "Value": value} if value else {"vr": _KEYWORDS[tag][0]}
        for tag, value in sorted(values.items())
    }


def _xml(dataset: Element) -> str:
    written = []
    for tag, element in dataset.items():
        vr, keyword = _KEYWORDS[tag]
        inside = "".join(
            f'<Item number="{number}">{_xml(value)}</Item>'
            if vr == "SQ"
            else f'<Value number="{number}">{escape(str(value))}</Value>'
            for number, value in enumerate(element.get("Value", ()), 1)
        )
        written.append(
            f'<DicomAttribute tag="{tag}" vr="{vr}" keyword="{keyword}">{inside}</DicomAttribute>'
        )
    return "".join(written)
