"""The families of modality that the signals vote on, and the codes that belong to each.

Pixels tell a radiograph from a mammogram, but not computed from digital radiography: that is for
the tag to say. So signals vote on families, and the code is chosen within the winning family
(DICOM PS3.3 C.7.3.1.1.1 and PS3.16 CID 29 define the codes).
"""

from __future__ import annotations

from typing import Final

CT: Final = "CT"
MR: Final = "MR"
US: Final = "US"
RADIOGRAPH: Final = "DX"
MG: Final = "MG"
NM: Final = "NM"
PT: Final = "PT"
XA: Final = "XA"
OP: Final = "OP"
OPT: Final = "OPT"
ES: Final = "ES"
MICROSCOPY: Final = "SM"
PHOTOGRAPH: Final = "XC"
ECG: Final = "ECG"
OTHER: Final = "OTHER"
NON_MEDICAL: Final = "NON-MEDICAL"

FAMILIES: Final[tuple[str, ...]] = (
    CT,
    MR,
    US,
    RADIOGRAPH,
    MG,
    NM,
    PT,
    XA,
    OP,
    OPT,
    ES,
    MICROSCOPY,
    PHOTOGRAPH,
    ECG,
    OTHER,
    NON_MEDICAL,
)
"""What is voted on, each named for the code that stands for it. OTHER: documents, dose pages,
fused and derived pictures. XC: photographs of the body, skin above all."""

ABSTAINED: Final = "unknown"
"""The answer when no family is likely enough."""

# Code: its family. What stands in no family (OT, DOC of a picture) claims nothing.
_CODES: Final[dict[str, str]] = {
    **{family: family for family in FAMILIES},
    "CR": RADIOGRAPH,
    "RG": RADIOGRAPH,
    "IO": RADIOGRAPH,
    "PX": RADIOGRAPH,
    "RF": XA,
    "DS": XA,
    "DF": XA,
    "IVUS": US,
    "BDUS": US,
    "OPV": OTHER,
    "IVOCT": OPT,
    "OCT": OPT,
    "OPTENF": OPT,
    "OPTBSV": OPT,
    "GM": MICROSCOPY,
    "DMS": PHOTOGRAPH,
    "EPS": ECG,
    "HD": ECG,
    "DOC": OTHER,
    "SR": OTHER,
    "PR": OTHER,
    "KO": OTHER,
    "SEG": OTHER,
    "REG": OTHER,
    "RTDOSE": OTHER,
    "RTSTRUCT": OTHER,
    "RTPLAN": OTHER,
    "RTIMAGE": RADIOGRAPH,
}

# As people write them in manifests and folders.
_ALIASES: Final[dict[str, str]] = {
    "CR/DX": RADIOGRAPH,
    "DX/CR": RADIOGRAPH,
    "XR": RADIOGRAPH,
    "XRAY": RADIOGRAPH,
    "X-RAY": RADIOGRAPH,
    "MRI": MR,
    "PET": PT,
    "SPECT": NM,
    "XA/RF": XA,
    "SM/GM": MICROSCOPY,
    "DERM": PHOTOGRAPH,
    "DERM(XC)": PHOTOGRAPH,
    "XC/DERM": PHOTOGRAPH,
    "NONMEDICAL": NON_MEDICAL,
    "NON-MEDICAL": NON_MEDICAL,
    "DOCUMENT": OTHER,
    "DOCUMENT/OTHER": OTHER,
}

KIN: Final[tuple[frozenset[str], ...]] = (
    frozenset({RADIOGRAPH, MG, XA}),
    frozenset({NM, PT}),
    frozenset({OP, OPT}),
    frozenset({OTHER, NON_MEDICAL}),
    frozenset({ES, PHOTOGRAPH}),
)
"""Families that share their physics or their use: taking one for another is a minor error."""


def family_of(code: str) -> str | None:
    """Return the family of a modality code or of a name for one; None when it claims nothing.

    Parameters
    ----------
    code : str
        A DICOM code, a family, or a common name; case, spaces and ``_`` do not matter.
    """
    name = code.strip().upper().replace("_", "-").replace(" ", "-")
    return _CODES.get(name) or _ALIASES.get(name)


def are_kin(one: str, other: str) -> bool:
    """Tell whether taking one family for the other is a minor error."""
    return any(one in kin and other in kin for kin in KIN)
