"""What geometry needs to know of one instance of a series."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from schemas.facts import HeaderFacts

# Image Type, value 3 and beyond: defined terms of PS3.3 C.8.3.1.1.1 and C.8.16.1.3, and usage.
_PROJECTIONS: Final = frozenset({"PROJECTION IMAGE", "MAX_IP", "MIN_IP", "MIP", "PROJECTION"})


@dataclass(frozen=True, slots=True)
class SliceHeader:
    """The place and the matrix of one instance (PS3.3 C.7.6.2, C.7.6.3).

    Parameters
    ----------
    instance_uid : str
        SOP Instance UID; it names the slice in findings.
    instance_number : int or None
        Instance Number (0020,0013).
    position_mm : tuple of float or None
        Image Position (Patient): centre of the first voxel, patient coordinates.
    orientation : tuple of float or None
        Image Orientation (Patient): direction cosines of a row, then of a column.
    pixel_spacing_mm : tuple of float or None
        Distance of rows, distance of columns.
    rows, columns, frames : int or None
        The matrix.
    slice_thickness_mm, spacing_between_slices_mm : float or None
        As the header states them.
    frame_of_reference_uid : str or None
        What positions are relative to.
    is_localizer : bool
        Whether it calls itself a localizer.
    is_projection : bool
        Whether it calls itself a projection through a volume.
    """

    instance_uid: str
    instance_number: int | None = None
    position_mm: tuple[float, float, float] | None = None
    orientation: tuple[float, float, float, float, float, float] | None = None
    pixel_spacing_mm: tuple[float, float] | None = None
    rows: int | None = None
    columns: int | None = None
    frames: int | None = None
    slice_thickness_mm: float | None = None
    spacing_between_slices_mm: float | None = None
    frame_of_reference_uid: str | None = None
    is_localizer: bool = False
    is_projection: bool = False


def slice_of(instance_uid: str, header: HeaderFacts) -> SliceHeader:
    """Take what geometry needs from a header."""
    kinds, terms = set(header.image_type), set(header.description_terms)
    return SliceHeader(
        instance_uid=instance_uid,
        instance_number=header.instance_number,
        position_mm=header.image_position_mm,
        orientation=header.image_orientation,
        pixel_spacing_mm=header.pixel_spacing_mm,
        rows=header.rows,
        columns=header.columns,
        frames=header.frames,
        slice_thickness_mm=header.slice_thickness_mm,
        spacing_between_slices_mm=header.spacing_between_slices_mm,
        frame_of_reference_uid=header.frame_of_reference_uid,
        is_localizer="LOCALIZER" in kinds or "localizer" in terms,
        is_projection=not kinds.isdisjoint(_PROJECTIONS),
    )
