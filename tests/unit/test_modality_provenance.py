"""How pixels came into a file."""

from __future__ import annotations

from typing import Any

import pytest

from schemas.facts import FORMATS, HeaderFacts
from streams.modality.opinion import PROVENANCES
from streams.modality.provenance import provenance_of

STORAGE = "1.2.840.10008.5.1.4.1.1."


@pytest.mark.parametrize(
    "facts",
    [
        {"sop_class_uid": f"{STORAGE}7"},
        {"sop_class_uid": f"{STORAGE}7.4", "kvp": 120.0},
        {"sop_class_uid": f"{STORAGE}2", "image_type": ("DERIVED", "SECONDARY", "SCREEN SAVE")},
        {"image_type": ("DERIVED\\SECONDARY\\Screen Save",)},
        {"image_type": ("DERIVED", "SECONDARY")},
        {"conversion_type": "WSD"},
        {"conversion_type": "DF", "modality": "MG"},
        {"sop_class_uid": "1.2.840.10008.5.1.1.30"},
    ],
)
def test_captures(facts: dict[str, Any]) -> None:
    assert provenance_of("dicom", HeaderFacts(**facts)) == "dicom-capture"


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"sop_class_uid": f"{STORAGE}2", "image_type": ("ORIGINAL", "PRIMARY", "AXIAL")},
        # Machines call what they compute of their own images secondary as well.
        {"image_type": ("DERIVED", "SECONDARY", "MPR"), "echo_time_ms": 2.8},
        {"image_type": ("ORIGINAL", "SECONDARY", "M_SE"), "repetition_time_ms": 4000.0},
        {"conversion_type": "DI"},
        {"sop_class_uid": f"{STORAGE}77.1.6", "conversion_type": "SI"},
    ],
)
def test_originals(facts: dict[str, Any]) -> None:
    assert provenance_of("dicom", HeaderFacts(**facts)) == "dicom"


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_has_one(name: str) -> None:
    provenance = provenance_of(name, HeaderFacts(conversion_type="WSD"))
    assert provenance in PROVENANCES
    assert (provenance == "volume") == name.startswith("nifti")
    assert (provenance == "dicom-capture") == (name == "dicom")
