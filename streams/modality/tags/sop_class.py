"""The families that a SOP class stores (PS3.4 B.5 and the retired classes of PS3.6 A)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pydicom.uid import UID

from streams.modality.labels import (
    CT,
    ECG,
    ES,
    MG,
    MICROSCOPY,
    MR,
    NM,
    OP,
    OPT,
    OTHER,
    PHOTOGRAPH,
    PT,
    RADIOGRAPH,
    US,
    XA,
)
from streams.modality.opinion import Opinion, claim

SIGNAL: Final = "sop-class"
_ROOT: Final = "1.2.840.10008.5.1.4.1.1."

# Below the storage root; classes that any machine may use (secondary capture, raw data, hardcopy)
# are left out: they claim nothing.
_ONE_FAMILY: Final[Mapping[str, str]] = {
    CT: "2 2.1 2.2 501.1",
    MR: "4 4.1 4.2 4.3 4.4",
    US: "3 3.1 6 6.1 6.2 6.3",
    RADIOGRAPH: "1 1.1 1.1.1 1.3 1.3.1",
    MG: "1.2 1.2.1 13.1.3 13.1.4 13.1.5",
    NM: "5 20",
    PT: "128 128.1 130",
    XA: "12.1 12.1.1 12.2 12.2.1 12.3",
    OP: "77.1.5.1 77.1.5.2 77.1.5.5 77.1.5.6",
    OPT: "14.1 14.2 77.1.5.4 77.1.5.7 77.1.5.8",
    ES: "77.1.1 77.1.1.1",
    MICROSCOPY: "77.1.2 77.1.2.1 77.1.3 77.1.6 77.1.8 77.1.9",
    PHOTOGRAPH: "77.1.4 77.1.4.1 77.1.7",
    ECG: "9.1.1 9.1.2 9.1.3 9.1.4 9.2.1 9.3.1",
    OTHER: "66.4 66.5 66.7 79.1 80.1 81.1 82.1 88.11 88.22 88.33 88.34 88.35 88.67 104.1 104.2 "
    "11.1 11.2 11.3 11.4 481.2 481.3 481.5 481.8",
}
_SEVERAL: Final[Mapping[str, Mapping[str, float]]] = {
    # Cone beams: a volume of a C-arm, or of a head.
    "13.1.1": {XA: 1.0, CT: 0.7},
    "13.1.2": {CT: 1.0, RADIOGRAPH: 0.5, XA: 0.2},
    "30": {MR: 1.0, OTHER: 1.0, CT: 0.3, PT: 0.3, NM: 0.2},
    "77.1": {ES: 1.0, MICROSCOPY: 1.0, PHOTOGRAPH: 1.0, OP: 1.0},
    "77.2": {ES: 1.0, MICROSCOPY: 1.0, PHOTOGRAPH: 1.0, OP: 1.0},
    # Portal images, and what a planning system draws.
    "481.1": {RADIOGRAPH: 1.0, OTHER: 1.0},
    "481.23": {RADIOGRAPH: 1.0, OTHER: 1.0},
    "481.24": {RADIOGRAPH: 1.0, OTHER: 1.0},
}

SOP_CLASS_SHARES: Final[Mapping[str, Mapping[str, float]]] = {
    **{f"{_ROOT}{n}": {f: 1.0} for f, numbers in _ONE_FAMILY.items() for n in numbers.split()},
    **{f"{_ROOT}{number}": shares for number, shares in _SEVERAL.items()},
}
"""SOP Class UID: families with their shares."""


def sop_class_name(uid: str) -> str:
    """Return the name that PS3.6 gives a SOP class, or the UID itself when it gives none."""
    return UID(uid).name


def sop_class_opinion(uid: str | None) -> Opinion | None:
    """Take a SOP Class UID (0008,0016) at its word; None when any machine may write it."""
    shares = SOP_CLASS_SHARES.get(uid or "")
    if uid is None or shares is None:
        return None
    return claim(SIGNAL, shares, f"SOP Class is {sop_class_name(uid)}")
