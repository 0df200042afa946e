"""Do the slices of a series make a volume? Checks on headers alone (PS3.3 C.7.6.2).

Slices of one orientation make a stack, ordered by the place of their first voxel along the normal,
which is row direction x column direction (C.7.6.2.1.1). What is said depends on the set of slices
and not on the order in which they are given.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from streams.series.findings import MAX_PER_CODE, MAX_UIDS, Finding, about, limited
from streams.series.header_checks import matrix_findings, number_findings
from streams.series.slices import SliceHeader
from streams.series.stack import Stack, build_stacks
from streams.series.stack_checks import stack_findings, usual_step_mm

Kind = Literal[
    "stack",
    "stacks",
    "localizer",
    "projections",
    "multi-frame",
    "single",
    "no-geometry",
    "empty",
]

MAX_SLICES: Final = 100_000
_PILOT_SLICES: Final = 5
_PILOT_DEGREES: Final = 60.0


@dataclass(frozen=True, slots=True)
class GeometryReport:
    """What the headers of a series say about it as a volume.

    Parameters
    ----------
    kind : str
        ``stack``: slices of one orientation. ``stacks``: of several. ``localizer``: says so, or is
        two or three steep planes of at most five slices. ``projections``, ``multi-frame``,
        ``single``, ``no-geometry`` (radiographs, captures, reports), ``empty``.
    slice_count : int
        Instances given.
    position_count : int
        Distinct places along the normal in the largest stack.
    order : tuple of str
        SOP Instance UIDs in spatial order, stack after stack, the largest first; without
        geometry by instance number.
    positions_mm : tuple of float
        Place along the normal of each of ``order``; empty without geometry.
    spacing_mm, spacing_min_mm, spacing_max_mm : float or None
        Distance of neighbouring places of the largest stack: the usual, least and largest one.
    extent_mm : float or None
        From its first to its last slice's centre.
    normal : tuple of float or None
        Unit normal of the largest stack, patient coordinates.
    tilt_degrees : float or None
        Angle of the line through its slices with the normal.
    findings : tuple of Finding
        What is odd, in a fixed order.
    """

    kind: Kind
    slice_count: int
    position_count: int
    order: tuple[str, ...]
    positions_mm: tuple[float, ...]
    spacing_mm: float | None
    spacing_min_mm: float | None
    spacing_max_mm: float | None
    extent_mm: float | None
    normal: tuple[float, float, float] | None
    tilt_degrees: float | None
    findings: tuple[Finding, ...]

    @property
    def is_volume(self) -> bool:
        """Whether the slices can be stacked as they are: one stack of two or more, no warning."""
        return (
            self.kind == "stack"
            and self.position_count >= 2
            and all(finding.level == "note" for finding in self.findings)
        )

    def codes(self) -> frozenset[str]:
        """Return the codes of what was found."""
        return frozenset(finding.code for finding in self.findings)


def check_geometry(slices: Iterable[SliceHeader]) -> GeometryReport:
    """Check the geometry of one series.

    Parameters
    ----------
    slices : iterable of SliceHeader
        Its instances in any order; of several with one SOP Instance UID the first in the order of
        their contents counts.

    Raises
    ------
    ValueError
        If there are more than 100,000 slices.
    """
    headers = _distinct(slices)
    findings = matrix_findings(headers)
    stacks: list[Stack] = []
    # A frame's place is in its functional groups, of which headers keep the first frame's.
    is_multi_frame = any((header.frames or 1) > 1 for header in headers)
    if not is_multi_frame:
        stacks, unplaced, invalid = build_stacks(headers)
        findings += _unplaced_findings(len(headers), unplaced, invalid)
    kind: Kind = "multi-frame" if is_multi_frame else _kind(headers, stacks)
    findings += _kind_findings(kind, headers, stacks)
    if kind in ("stack", "stacks"):
        for stack in stacks:
            findings += stack_findings(stack)
    if kind in ("stack", "stacks", "multi-frame", "no-geometry"):
        findings += number_findings(headers)
    return _report(kind, headers, stacks, findings)


def _kind(headers: Sequence[SliceHeader], stacks: Sequence[Stack]) -> Kind:
    if not stacks:
        return "no-geometry" if headers else "empty"
    if any(header.is_localizer for header in headers) or _is_pilot(stacks):
        return "localizer"
    if all(header.is_projection for header in headers):
        return "projections"
    if len(headers) == 1:
        return "single"
    return "stack" if len(stacks) == 1 else "stacks"


def _unplaced_findings(
    count: int, unplaced: Sequence[str], invalid: Sequence[str]
) -> list[Finding]:
    findings = []
    if invalid:
        words = f"{len(invalid)} of {count} slices have an orientation or place that cannot be"
        findings.append(about("invalid-orientation", words, invalid))
    if unplaced:
        words = f"{len(unplaced)} of {count} instances have no place in the patient"
        findings.append(about("no-geometry", words, unplaced))
    return findings


def _kind_findings(
    kind: Kind, headers: Sequence[SliceHeader], stacks: Sequence[Stack]
) -> list[Finding]:
    """Say what a reader must know to read the rest."""
    count, planes = len(headers), float(len(stacks))
    if kind == "multi-frame":
        frames = sum(header.frames or 1 for header in headers)
        words = f"{count} objects with {frames} frames"
        return [Finding("multi-frame", words, (("frame_count", float(frames)),))]
    if kind == "localizer":
        words = f"a localizer of {count} images in {len(stacks)} orientations"
        return [Finding("localizer", words, (("orientation_count", planes),))]
    if kind == "projections":
        words = f"{count} projections from {len(stacks)} directions"
        return [Finding("projections", words, (("direction_count", planes),))]
    if kind == "single":
        return [about("single-slice", "one slice", [headers[0].instance_uid])]
    return [_orientations(stacks)] if kind == "stacks" else []


def _distinct(slices: Iterable[SliceHeader]) -> list[SliceHeader]:
    found: dict[str, SliceHeader] = {}
    for header in slices:
        known = found.get(header.instance_uid)
        if known is None or repr(header) < repr(known):
            found[header.instance_uid] = header
        if len(found) > MAX_SLICES:
            msg = f"a series of more than {MAX_SLICES} slices is not checked; split it"
            raise ValueError(msg)
    return [found[uid] for uid in sorted(found)]


def _report(
    kind: Kind,
    headers: Sequence[SliceHeader],
    stacks: Sequence[Stack],
    findings: Sequence[Finding],
) -> GeometryReport:
    placed = {uid for stack in stacks for uid in stack.uids}
    rest = sorted(
        (header for header in headers if header.instance_uid not in placed),
        key=lambda h: (h.instance_number is None, h.instance_number or 0, h.instance_uid),
    )
    main = stacks[0] if stacks else None
    steps = main.steps_mm if main else []
    usual = usual_step_mm(main) if main else None
    return GeometryReport(
        kind=kind,
        slice_count=len(headers),
        position_count=len(main.places_mm) if main else 0,
        order=(
            *(uid for stack in stacks for uid in stack.uids),
            *(header.instance_uid for header in rest),
        ),
        positions_mm=tuple(place for stack in stacks for place in stack.positions_mm),
        spacing_mm=usual,
        spacing_min_mm=min(steps, default=None),
        spacing_max_mm=max(steps, default=None),
        extent_mm=main.places_mm[-1] - main.places_mm[0] if main else None,
        normal=main.normal if main else None,
        tilt_degrees=main.tilt_degrees if main and steps else None,
        findings=limited(findings),
    )


def _is_pilot(stacks: Sequence[Stack]) -> bool:
    """Tell a localizer that does not say so: two or three steep planes of a few slices each."""
    return (
        2 <= len(stacks) <= 3
        and all(len(stack.uids) <= _PILOT_SLICES for stack in stacks)
        and all(
            one.angle_degrees(two) >= _PILOT_DEGREES
            for one, two in itertools.combinations(stacks, 2)
        )
    )


def _orientations(stacks: Sequence[Stack]) -> Finding:
    widest = max(one.angle_degrees(two) for one, two in itertools.combinations(stacks[:64], 2))
    sizes = ", ".join(str(len(stack.uids)) for stack in stacks[:MAX_PER_CODE])
    return Finding(
        "several-orientations",
        f"{len(stacks)} orientations with {sizes} slices, up to {widest:.1f} degrees apart",
        (("orientation_count", float(len(stacks))), ("angle_degrees", widest)),
        tuple(uid for stack in stacks[1:] for uid in stack.uids)[:MAX_UIDS],
    )
