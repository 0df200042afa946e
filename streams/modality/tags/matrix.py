"""The pixel matrix as the header describes it: colour, depth, size, frames, spacing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from schemas.facts import HeaderFacts
from streams.modality.cues import Cue, weigh
from streams.modality.labels import (
    CT,
    ECG,
    ES,
    MG,
    MICROSCOPY,
    MR,
    NM,
    NON_MEDICAL,
    OP,
    OPT,
    OTHER,
    PHOTOGRAPH,
    PT,
    RADIOGRAPH,
    US,
    XA,
)
from streams.modality.opinion import Opinion

SIGNAL: Final = "matrix"

_COLOUR: Final = {
    **dict.fromkeys((US, ES, OP, MICROSCOPY, PHOTOGRAPH), 1.0),
    OTHER: 0.8,
    NON_MEDICAL: 0.8,
    ECG: 0.3,
    OPT: 0.3,
}
_DEEP_GREY: Final = {
    **dict.fromkeys((CT, MR, PT, NM, RADIOGRAPH, MG, XA), 1.0),
    OTHER: 0.1,
    OPT: 0.1,
    US: 0.05,
    NON_MEDICAL: 0.05,
}
_SHALLOW_GREY: Final = {
    **dict.fromkeys((US, XA, OPT), 1.0),
    RADIOGRAPH: 0.6,
    OTHER: 0.4,
    NON_MEDICAL: 0.4,
    OP: 0.3,
    **dict.fromkeys((NM, MG, ECG, CT, MR), 0.2),
}
_PALETTE: Final = {US: 1.0, OTHER: 0.5, NON_MEDICAL: 0.4, NM: 0.2}
# Sizes of video and of screens: (columns, rows).
_VIDEO_SIZES: Final = frozenset(
    {(640, 480), (800, 600), (1024, 768), (768, 576), (720, 576), (720, 480), (1280, 720)}
    | {(1920, 1080), (1280, 960), (1280, 1024), (960, 720), (708, 460), (636, 434)}
)

# MNI and Talairach space in voxels of 2 and 1 mm, as SPM, FSL and fMRIPrep write them.
_BRAIN_GRIDS: Final = frozenset(
    {(91, 109, 91), (79, 95, 79), (181, 217, 181), (182, 218, 182), (193, 229, 193)}
)


def matrix_opinion(header: HeaderFacts) -> Opinion | None:
    """Weigh the shape and encoding of the pixels of a DICOM header.

    Parameters
    ----------
    header : HeaderFacts
        Facts of a DICOM header.

    Returns
    -------
    Opinion or None
        None where the header describes no pixels.
    """
    return weigh(SIGNAL, _cues(header))


def volume_opinion(header: HeaderFacts) -> Opinion | None:
    """Weigh the grid of a volume: its size, its voxels, its points of time.

    Parameters
    ----------
    header : HeaderFacts
        Facts of a NIfTI header.

    Returns
    -------
    Opinion or None
        None where the header describes no grid.
    """
    return weigh(SIGNAL, _grid(header))


def _grid(header: HeaderFacts) -> Iterator[Cue]:
    shape, voxel = header.shape, header.voxel_size_mm
    if len(shape) > 3 and shape[3] > 1:
        yield Cue(f"{shape[3]} points of time", {MR: 1.0, PT: 0.15, CT: 0.1, US: 0.05}, 0.05)
    if shape[:2] == (512, 512):
        yield Cue("slices of 512 x 512", {CT: 1.0, MR: 0.25, PT: 0.03}, 0.05)
    elif shape[:3] in _BRAIN_GRIDS:
        yield Cue("the grid of a brain atlas", {MR: 1.0, OTHER: 0.3, PT: 0.2, CT: 0.1}, 0.05)
    if len(voxel) < 3 or min(voxel) <= 0:
        return
    in_plane, largest, smallest = min(voxel[:2]), max(voxel[:3]), min(voxel[:3])
    text = f"voxels of {smallest:.3g} to {largest:.3g} mm"
    if in_plane >= 3:
        yield Cue(text, {MR: 1.0, PT: 1.0, NM: 0.5, CT: 0.05}, 0.03)
    elif in_plane >= 1.2:
        yield Cue(text, {MR: 1.0, PT: 0.6, NM: 0.2, CT: 0.2}, 0.03)
    elif largest < 1.05 * smallest:
        yield Cue(text, {MR: 1.0, CT: 0.4, OPT: 0.05}, 0.05)
    else:
        yield Cue(text, {CT: 1.0, MR: 1.0, PT: 0.05, OPT: 0.05}, 0.05)


def _cues(header: HeaderFacts) -> Iterator[Cue]:
    yield from _encoding(header)
    yield from _size(header)
    yield from _spacing(header)


def _encoding(header: HeaderFacts) -> Iterator[Cue]:
    photometric = (header.photometric_interpretation or "").upper()
    bits = header.bits_stored or header.bits_allocated or 0
    if (header.samples_per_pixel or 0) >= 3 or photometric.startswith(("RGB", "YBR")):
        yield Cue("colour", _COLOUR, 0.02)
    elif photometric.startswith("PALETTE"):
        yield Cue("palette colour", _PALETTE, 0.03)
    elif photometric.startswith("MONOCHROME") and bits > 8:
        yield Cue(f"{bits} bits of grey", _DEEP_GREY, 0.01)
    elif photometric.startswith("MONOCHROME") and bits == 8:
        yield Cue("8 bits of grey", _SHALLOW_GREY, 0.05)
    if photometric == "MONOCHROME1":
        yield Cue("low values shown bright", {RADIOGRAPH: 1.0, MG: 0.7, PT: 0.3, NM: 0.2}, 0.05)


def _size(header: HeaderFacts) -> Iterator[Cue]:
    rows, columns = header.rows or 0, header.columns or 0
    if rows and columns:
        size, longest = f"{columns} x {rows}", max(rows, columns)
        if (columns, rows) in _VIDEO_SIZES:
            shares = {US: 1.0, ES: 1.0, PHOTOGRAPH: 0.5, OTHER: 0.7, NON_MEDICAL: 0.5, OP: 0.3}
            yield Cue(f"{size}, a size of video", shares, 0.05)
        elif longest > 1200:
            shares = {RADIOGRAPH: 1.0, MG: 1.0, OP: 1.0, PHOTOGRAPH: 0.7, MICROSCOPY: 0.5}
            rest = {NON_MEDICAL: 0.4, OTHER: 0.4, ES: 0.2, XA: 0.15, US: 0.1, ECG: 0.3, NM: 0.05}
            yield Cue(f"{size} pixels", {**shares, **rest}, 0.01)
        elif rows == columns == 512:
            shares = {CT: 1.0, MR: 0.4, XA: 0.7, OPT: 0.2, MICROSCOPY: 0.1}
            yield Cue(size, shares, 0.05)
        elif longest <= 400:
            shares = {MR: 1.0, PT: 1.0, NM: 1.0, MICROSCOPY: 0.4, US: 0.3, OPT: 0.2, CT: 0.1}
            yield Cue(f"{size} pixels", shares, 0.05)
    frames = header.frames or 0
    if frames > 1:
        shares = {XA: 1.0, US: 1.0, MICROSCOPY: 1.0, NM: 1.0, OPT: 1.0, MR: 0.5, CT: 0.3, ES: 0.3}
        yield Cue(f"{frames} frames", {**shares, MG: 0.3, PT: 0.2}, 0.05)


def _spacing(header: HeaderFacts) -> Iterator[Cue]:
    if header.pixel_spacing_mm is None:
        return
    spacing = min(header.pixel_spacing_mm)
    text = f"pixels of {spacing:.3g} mm"
    if 0 < spacing < 0.04:
        yield Cue(text, {MICROSCOPY: 1.0, OPT: 0.6, OP: 0.3, US: 0.05}, 0.02)
    elif 0.04 <= spacing < 0.13:
        yield Cue(text, {MG: 1.0, RADIOGRAPH: 0.6, US: 0.3, CT: 0.05, MR: 0.05, XA: 0.1}, 0.05)
    elif 0.13 <= spacing < 0.25:
        yield Cue(text, {RADIOGRAPH: 1.0, XA: 0.6, CT: 0.2, MR: 0.15, US: 0.3}, 0.05)
    elif 0.25 <= spacing < 1.2:
        yield Cue(text, {CT: 1.0, MR: 1.0, XA: 0.4, US: 0.2, PT: 0.1}, 0.05)
    elif 1.2 <= spacing < 20:
        yield Cue(text, {PT: 1.0, NM: 1.0, MR: 0.7, CT: 0.05}, 0.02)
