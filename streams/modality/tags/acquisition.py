"""What the machine wrote of how it acquired: parameters that only machines of a kind have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from schemas.facts import HeaderFacts
from streams.modality.cues import Cue, listed, weigh
from streams.modality.labels import (
    CT,
    ES,
    MG,
    MICROSCOPY,
    MR,
    NM,
    OP,
    OPT,
    OTHER,
    PT,
    RADIOGRAPH,
    US,
    XA,
)
from streams.modality.opinion import Opinion

SIGNAL: Final = "acquisition"

_MR_PARAMETERS: Final = (
    ("repetition_time_ms", "TR"),
    ("echo_time_ms", "TE"),
    ("inversion_time_ms", "TI"),
    ("flip_angle_degrees", "flip angle"),
    ("magnetic_field_strength_tesla", "field strength"),
)
# Scanning Sequence (0018,0020), PS3.3 C.8.3.1.
_SEQUENCES: Final = frozenset({"SE", "IR", "GR", "EP", "RM"})
_CT_RESCALE_TYPES: Final = frozenset({"HU", "HU_MOD", "MGML", "Z_EFF", "ED", "EDW"})
# Units (0054,1001) stand in for the rescale type of PET, PS3.3 C.8.9.1.1.3.
_PET_UNITS: Final = frozenset({"BQML", "SUV", "SUVBW", "GML", "PROPCNTS", "PROPCNT", "MLMING"})
_COUNT_UNITS: Final = frozenset({"CNTS", "CPS"})
_MR_RESCALE_TYPES: Final = frozenset({"NORMALIZED", "SIGNAL INTENSITY UNITLESS"})
_PET_KERNEL_PARTS: Final = ("XYZ", "GAUSS", "OSEM", "RAMLA", "BLOB")

# Value of Image Type (0008,0008) from the third on: who writes it.
_MR_TYPES: Final = listed(
    "M|P|R|I|FFE|M_FFE|P_FFE|R_FFE|I_FFE|M_SE|P_SE|M_IR|M_B0|T1|T2|T2_STAR|ADC|TRACEW|FMRI|MOSAIC|"
    "DIS2D|DIS3D|ND|NORM|PHASE_MAP|PHASE|DIFFUSION|ANGIO_TIME|TOF|DIXON|WATER|FAT|IN_PHASE|"
    "OPP_PHASE|SWI|MINIP|EADC|FA|VFRAME|TTEST|PROPELLER"
)
# PS3.3 C.8.5.6.1.1
_US_TYPES: Final = listed(
    "ABDOMINAL|BREAST|ENDOCAVITARY|ENDORECTAL|ENDOVAGINAL|EPICARDIAL|GYNECOLOGY|INTRACARDIAC|"
    "INTRAOPERATIVE|INTRAVASCULAR|MUSCULOSKELETAL|OBSTETRICAL|OPHTHALMIC|RETROPERITONEAL|SCROTAL|"
    "TEE|THYROID|TRANSCRANIAL|TRANSTHORACIC|CARDIOLOGY|SMALL PARTS|NEONATAL HEAD|FETAL HEART"
)
# PS3.3 C.8.4.9.1.1
_NM_TYPES: Final = listed(
    "EMISSION|TRANSMISSION|STATIC|GATED|WHOLE BODY|TOMO|RECON TOMO|GATED TOMO|RECON GATED TOMO"
)
_XA_TYPES: Final = frozenset({"SINGLE PLANE", "BIPLANE A", "BIPLANE B", "SINGLE A", "SINGLE B"})
_SLIDE_TYPES: Final = frozenset({"RESAMPLED", "OVERVIEW", "THUMBNAIL"})
_MG_TYPES: Final = frozenset({"TOMOSYNTHESIS", "STEREO", "TOMO_PROJ", "TOMO_2D", "GENERATED_2D"})
_RT_TYPES: Final = frozenset({"PORTAL", "DRR", "SIMULATOR", "BLANK", "FLUENCE"})
_CT_TYPES: Final = frozenset({"HELIX", "AXIAL_ADD", "CALCIUM", "VIRTUAL_MONO"})

# Patient Position (0018,5100) of those who lie in a machine, PS3.3 C.7.3.1.1.2.
_LYING: Final = listed("HFP|HFS|HFDR|HFDL|FFDR|FFDL|FFP|FFS")


def acquisition_opinion(header: HeaderFacts) -> Opinion | None:
    """Weigh the acquisition parameters of a header.

    Parameters
    ----------
    header : HeaderFacts
        Facts of a DICOM header.

    Returns
    -------
    Opinion or None
        None where the header holds no parameter that tells kinds of machines apart.
    """
    return weigh(SIGNAL, _cues(header))


def _cues(header: HeaderFacts) -> Iterator[Cue]:
    yield from _resonance(header)
    yield from _x_rays(header)
    yield from _reconstruction(header)
    yield from _values(header)
    yield from _image_type(header.image_type)
    yield from _tomography(header)


def _resonance(header: HeaderFacts) -> Iterator[Cue]:
    given = [word for name, word in _MR_PARAMETERS if (getattr(header, name) or 0) > 0]
    if header.scanning_sequence and _SEQUENCES.issuperset(
        code.upper() for code in header.scanning_sequence
    ):
        given.append("scanning sequence")
    if given:
        # One number alone may be an empty form filled in.
        floor = 0.05 if len(given) == 1 else 0.005
        yield Cue(f"{', '.join(given)} given", {MR: 1.0}, floor)


def _x_rays(header: HeaderFacts) -> Iterator[Cue]:
    kvp = header.kvp or 0.0
    if 15 <= kvp < 40:
        yield Cue(f"{kvp:g} kVp", {MG: 1.0, RADIOGRAPH: 0.02}, 0.01)
    elif 40 <= kvp < 70:
        yield Cue(f"{kvp:g} kVp", {RADIOGRAPH: 1.0, XA: 0.7, CT: 0.05, MG: 0.1}, 0.02)
    elif 70 <= kvp <= 160:
        shares = {CT: 1.0, RADIOGRAPH: 0.8, XA: 0.6, PT: 0.05, NM: 0.02}
        yield Cue(f"{kvp:g} kVp", shares, 0.02)
    elif header.exposure_mas and header.exposure_mas > 0:
        shares = {CT: 1.0, RADIOGRAPH: 1.0, MG: 1.0, XA: 0.6}
        yield Cue("an X-ray exposure given", shares, 0.05)


def _reconstruction(header: HeaderFacts) -> Iterator[Cue]:
    kernel = (header.convolution_kernel or "").upper()
    if any(part in kernel for part in _PET_KERNEL_PARTS):
        yield Cue("a smoothing kernel of PET", {PT: 1.0, NM: 0.4, CT: 0.03}, 0.02)
    elif kernel:
        yield Cue("a convolution kernel", {CT: 1.0, PT: 0.1, NM: 0.05, XA: 0.05}, 0.02)


def _values(header: HeaderFacts) -> Iterator[Cue]:
    unit = (header.rescale_type or "").strip().upper()
    slope, intercept = header.rescale_slope, header.rescale_intercept
    if unit in _CT_RESCALE_TYPES:
        yield Cue(f"values in {unit}", {CT: 1.0, XA: 0.02}, 0.01)
    elif unit in _PET_UNITS:
        yield Cue(f"values in {unit}", {PT: 1.0, NM: 0.15}, 0.01)
    elif unit in _COUNT_UNITS:
        yield Cue("values in counts", {PT: 1.0, NM: 1.0}, 0.02)
    elif unit in _MR_RESCALE_TYPES:
        yield Cue("normalised signal intensity", {MR: 1.0}, 0.03)
    elif unit == "OD":
        yield Cue("values in optical density", {RADIOGRAPH: 1.0, MG: 1.0}, 0.05)
    if slope is None or intercept is None:
        return
    if slope == 1 and (-1100 <= intercept <= -900 or intercept == -8192):
        yield Cue(f"rescale intercept {intercept:g}", {CT: 1.0}, 0.02)
    elif slope == 2 and intercept == -4096:
        yield Cue("rescaled as a phase image", {MR: 1.0, CT: 0.1}, 0.03)
    elif intercept == 0 and slope not in (0, 1) and not unit:
        yield Cue(f"rescale slope {slope:.3g}", {PT: 1.0, MR: 0.6, NM: 0.3, CT: 0.05}, 0.03)


def _image_type(values: tuple[str, ...]) -> Iterator[Cue]:
    parts = [part.strip().upper() for value in values for part in value.split("\\")][2:]
    kinds = set(parts)
    if any(part.startswith("CT_SOM") for part in parts) or kinds & _CT_TYPES:
        yield Cue("an image type of CT", {CT: 1.0}, 0.03)
    elif "AXIAL" in kinds:
        yield Cue("image type AXIAL", {CT: 1.0, MR: 0.1, PT: 0.1, NM: 0.1}, 0.05)
    elif "LOCALIZER" in kinds:
        yield Cue("image type LOCALIZER", {CT: 1.0, MR: 0.4}, 0.05)
    for name, known, shares in (
        ("MR", _MR_TYPES, {MR: 1.0, OP: 0.05}),
        ("ultrasound", _US_TYPES, {US: 1.0}),
        ("nuclear medicine", _NM_TYPES, {NM: 1.0, PT: 0.2, CT: 0.05}),
        ("angiography", _XA_TYPES, {XA: 1.0, RADIOGRAPH: 0.1}),
        ("a slide scanner", _SLIDE_TYPES, {MICROSCOPY: 1.0, OTHER: 0.05}),
        ("mammography", _MG_TYPES, {MG: 1.0, OP: 0.05}),
        ("radiotherapy", _RT_TYPES, {RADIOGRAPH: 1.0, OTHER: 1.0}),
    ):
        if kinds & known:
            yield Cue(f"an image type of {name}", shares, 0.03)


def _tomography(header: HeaderFacts) -> Iterator[Cue]:
    position = (header.patient_position or "").upper()
    if position in _LYING:
        shares = {CT: 1.0, MR: 1.0, PT: 1.0, NM: 0.5, XA: 0.2, RADIOGRAPH: 0.05, OTHER: 0.05}
        yield Cue(f"patient position {position}", shares, 0.03)
    if header.image_orientation is not None:
        shares = {CT: 1.0, MR: 1.0, PT: 1.0, NM: 0.5, OPT: 0.1, XA: 0.1, MG: 0.03, US: 0.05}
        yield Cue("an orientation in the patient", shares, 0.02)
    elif (header.slice_thickness_mm or 0) > 0:
        shares = {CT: 1.0, MR: 1.0, PT: 1.0, NM: 0.6, MG: 0.2, OPT: 0.2, MICROSCOPY: 0.2, ES: 0.02}
        yield Cue("a slice thickness", shares, 0.05)
