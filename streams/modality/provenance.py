"""How the pixels came into the file: off the machine, off a screen, as a volume, as a picture."""

from __future__ import annotations

from typing import Final

from schemas.facts import Format, HeaderFacts
from streams.modality.opinion import Provenance

_STORAGE: Final = "1.2.840.10008.5.1.4.1.1."
CAPTURE_SOP_CLASSES: Final[frozenset[str]] = frozenset(
    {f"{_STORAGE}7", *(f"{_STORAGE}7.{kind}" for kind in range(1, 5))}
    # Pages that were printed, and what a report holds.
    | {"1.2.840.10008.5.1.1.27", "1.2.840.10008.5.1.1.29", "1.2.840.10008.5.1.1.30"}
)
"""Secondary capture and hardcopy storage (PS3.4 B.5, and its retired classes)."""

# Conversion Type (0008,0064), PS3.3 C.8.6.1: digitised video, film, print, drawn, synthesised on
# a workstation. DI, a digital interface, is how originals come.
_CAPTURE_CONVERSIONS: Final = frozenset({"DV", "DF", "SD", "SI", "DRW", "SYN", "WSD"})
# Values of Image Type (0008,0008) beyond ORIGINAL and PRIMARY that name pictures of a screen, or
# pages made of other images.
_CAPTURE_TYPES: Final = frozenset(
    {"SCREEN SAVE", "SCREENSAVE", "SCREEN_SAVE", "SCREENSHOT", "SCREEN CAPTURE", "CAPTURE"}
    | {"SECONDARY CAPTURE", "FILMED", "REPORT", "DOSE_INFO"}
)
# Machines mark what they compute (reformats, maps, a second reconstruction) SECONDARY as well: only
# without any trace of the machine is it a capture.
_PARAMETERS: Final = (
    "kvp",
    "repetition_time_ms",
    "echo_time_ms",
    "convolution_kernel",
    "image_orientation",
    "magnetic_field_strength_tesla",
)


def provenance_of(format_name: Format | str, header: HeaderFacts) -> Provenance:
    """Tell how the pixels came into a file.

    Parameters
    ----------
    format_name : str
        What the file is, of ``schemas.facts.FORMATS``.
    header : HeaderFacts
        Facts of its header.

    Returns
    -------
    Provenance
        ``dicom-capture`` for secondary captures, screenshots and digitised film (PS3.3 C.8.6.1,
        C.7.6.1.1.2); ``dicom`` for other DICOM images; ``volume`` for NIfTI; else ``picture``.
    """
    if format_name in ("nifti", "nifti-pair"):
        return "volume"
    if format_name != "dicom":
        return "picture"
    return "dicom-capture" if _is_capture(header) else "dicom"


def _is_capture(header: HeaderFacts) -> bool:
    if header.sop_class_uid in CAPTURE_SOP_CLASSES:
        return True
    kinds = {
        part.strip().upper() for value in header.image_type for part in (value, *value.split("\\"))
    }
    if kinds & _CAPTURE_TYPES:
        return True
    traced = any(getattr(header, name) is not None for name in _PARAMETERS)
    if traced:
        return False
    if "SECONDARY" in kinds:
        return True
    # A whole slide image is synthesised of its tiles, and an original all the same.
    microscopy = (header.sop_class_uid or "").startswith(f"{_STORAGE}77.1.6")
    return (header.conversion_type or "").upper() in _CAPTURE_CONVERSIONS and not microscopy
