"""Slices of one orientation, ordered by their place along the normal (PS3.3 C.7.6.2.1.1)."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from streams.series.slices import SliceHeader

_Float64 = NDArray[np.float64]

# Cosines are written with as few as three digits.
_UNIT_TOLERANCE: Final = 0.01
_SAME_DEGREES: Final = 0.5
_SAME_PLACE_MM: Final = 0.01
_MAX_ORIENTATIONS: Final = 1024
_FARTHEST_MM: Final = 1e6


@dataclass(frozen=True, slots=True)
class Stack:
    """A stack of parallel slices.

    Parameters
    ----------
    normal : tuple of float
        Unit normal, patient coordinates.
    uids : tuple of str
        SOP Instance UIDs by place, then by instance number.
    positions_mm : tuple of float
        Place of each along the normal.
    places_mm : tuple of float
        Distinct places.
    uids_by_place : tuple of tuple of str
        Slices of each place.
    off_line_mm : tuple of float
        How far each of ``uids`` lies beside the line through the others.
    tilt_degrees : float
        Angle of that line with the normal.
    stated_spacing_mm : float or None
        Commonest Spacing Between Slices of the headers.
    numbers : dict
        Instance number of each slice.
    """

    normal: tuple[float, float, float]
    uids: tuple[str, ...]
    positions_mm: tuple[float, ...]
    places_mm: tuple[float, ...]
    uids_by_place: tuple[tuple[str, ...], ...]
    off_line_mm: tuple[float, ...]
    tilt_degrees: float
    stated_spacing_mm: float | None
    numbers: dict[str, int | None]

    @property
    def steps_mm(self) -> list[float]:
        """Distances of neighbouring places."""
        return [b - a for a, b in zip(self.places_mm, self.places_mm[1:], strict=False)]

    def angle_degrees(self, other: Stack) -> float:
        """Return the angle of two stacks' planes, 0 to 90 degrees."""
        cosine = abs(sum(a * b for a, b in zip(self.normal, other.normal, strict=True)))
        return math.degrees(math.acos(min(1.0, cosine)))


def build_stacks(
    headers: Sequence[SliceHeader],
) -> tuple[list[Stack], list[str], list[str]]:
    """Sort slices into stacks.

    Parameters
    ----------
    headers : sequence of SliceHeader
        Ordered by SOP Instance UID, each once.

    Returns
    -------
    stacks : list of Stack
        The largest first.
    unplaced : list of str
        Slices without position or orientation.
    invalid : list of str
        Slices whose orientation is no pair of unit vectors at a right angle, or whose position
        is farther away than a kilometre.
    """
    placed: list[SliceHeader] = []
    axes: list[_Float64] = []
    unplaced, invalid = [], []
    for header in headers:
        if header.position_mm is None or header.orientation is None:
            unplaced.append(header.instance_uid)
            continue
        pair = _unit_axes(header.orientation)
        if pair is None or not max(map(abs, header.position_mm)) < _FARTHEST_MM:
            invalid.append(header.instance_uid)
        else:
            placed.append(header)
            axes.append(pair)
    if not placed:
        return [], unplaced, invalid
    stacks = []
    for orientation, indices in _by_orientation(np.stack(axes)):
        stacks.append(_stack([placed[i] for i in indices], orientation))
    stacks.sort(key=lambda stack: (-len(stack.uids), stack.normal, stack.uids))
    return stacks, unplaced, invalid


def _unit_axes(orientation: Sequence[float]) -> _Float64 | None:
    """Return the two directions as unit vectors at a right angle, [2, 3]; None if they are none."""
    pair = np.asarray(orientation, np.float64).reshape(2, 3)
    lengths = np.linalg.norm(pair, axis=1)
    if not (np.abs(lengths - 1) <= _UNIT_TOLERANCE).all():
        return None
    pair = pair / lengths[:, np.newaxis]
    lean = float(pair[0] @ pair[1])
    if abs(lean) > _UNIT_TOLERANCE:
        return None
    column = pair[1] - lean * pair[0]
    axes: _Float64 = np.stack([pair[0], column / np.linalg.norm(column)])
    return axes


def _by_orientation(axes: _Float64) -> list[tuple[_Float64, list[int]]]:
    """Group orientations [n, 2, 3] that lie within half a degree of the commonest of the group."""
    # Adding zero takes the sign from a negative zero.
    keys = [tuple(row) for row in (np.round(axes.reshape(-1, 6), 4) + 0.0).tolist()]
    indices_of: dict[tuple[float, ...], list[int]] = defaultdict(list)
    for index, key in enumerate(keys):
        indices_of[key].append(index)
    limit = math.cos(math.radians(_SAME_DEGREES))
    leaders = np.empty((0, 2, 3))
    members: list[list[int]] = []
    for _, indices in sorted(indices_of.items(), key=lambda item: (-len(item[1]), item[0])):
        pair = axes[indices[0]]
        # The smaller cosine of the two axes decides.
        likeness = np.einsum("gij,ij->gi", leaders, pair).min(axis=1)
        best = int(np.argmax(likeness)) if len(likeness) else -1
        if best < 0 or (likeness[best] < limit and len(leaders) < _MAX_ORIENTATIONS):
            leaders = np.concatenate([leaders, pair[np.newaxis]])
            members.append([])
            best = len(leaders) - 1
        members[best] += indices
    return [(leader, sorted(found)) for leader, found in zip(leaders, members, strict=True)]


def _stack(headers: Sequence[SliceHeader], axes: _Float64) -> Stack:
    normal = np.cross(axes[0], axes[1])
    points = np.asarray([header.position_mm for header in headers], np.float64)
    along = points @ normal
    order = sorted(
        range(len(headers)),
        key=lambda i: (
            float(along[i]),
            headers[i].instance_number is None,
            headers[i].instance_number or 0,
            headers[i].instance_uid,
        ),
    )
    places = _places(along, order, _same_place_mm(headers))
    # Within a place the number decides, whatever the last digit of the position says.
    places = [
        sorted(
            place,
            key=lambda i: (
                headers[i].instance_number is None,
                headers[i].instance_number or 0,
                headers[i].instance_uid,
            ),
        )
        for place in places
    ]
    places_mm = np.asarray([math.fsum(along[i] for i in place) / len(place) for place in places])
    flat = [i for place in places for i in place]
    tilt, off_line = _line(points @ axes.T, places, places_mm)
    return Stack(
        normal=(float(normal[0]) + 0.0, float(normal[1]) + 0.0, float(normal[2]) + 0.0),
        uids=tuple(headers[i].instance_uid for i in flat),
        positions_mm=tuple(float(along[i]) for i in flat),
        places_mm=tuple(places_mm.tolist()),
        uids_by_place=tuple(tuple(headers[i].instance_uid for i in place) for place in places),
        off_line_mm=tuple(float(off_line[i]) for i in flat),
        tilt_degrees=tilt,
        stated_spacing_mm=_commonest([header.spacing_between_slices_mm for header in headers]),
        numbers={header.instance_uid: header.instance_number for header in headers},
    )


def _places(along: _Float64, order: Sequence[int], same_mm: float) -> list[list[int]]:
    places: list[list[int]] = []
    for index in order:
        if places and along[index] - along[places[-1][0]] <= same_mm:
            places[-1].append(index)
        else:
            places.append([index])
    return places


def _same_place_mm(headers: Sequence[SliceHeader]) -> float:
    # Thin slices of small animals lie as near as others are equal.
    thickness = [abs(h.slice_thickness_mm) for h in headers if h.slice_thickness_mm]
    return min([_SAME_PLACE_MM, *(0.1 * mm for mm in thickness)])


def _line(
    sideways: _Float64, places: Sequence[Sequence[int]], places_mm: _Float64
) -> tuple[float, _Float64]:
    """Fit a line to how slices shift within their plane, [n, 2], from place to place.

    Medians, so that one slice that is off does not bend it. Returns the angle of the line with the
    normal in degrees, and each slice's distance from the line in mm.
    """
    if len(places) < 2:
        centre = np.median(sideways, axis=0)
        return 0.0, np.linalg.norm(sideways - centre, axis=1)
    at = np.asarray([np.median(sideways[list(place)], axis=0) for place in places])
    slope = np.median(np.diff(at, axis=0) / np.diff(places_mm)[:, np.newaxis], axis=0)
    start = np.median(at - places_mm[:, np.newaxis] * slope, axis=0)
    distance = np.empty(len(sideways))
    for place, place_mm in zip(places, places_mm, strict=True):
        rows = list(place)
        distance[rows] = np.linalg.norm(sideways[rows] - start - slope * place_mm, axis=1)
    return math.degrees(math.atan(float(np.linalg.norm(slope)))), distance


def _commonest(values: Sequence[float | None]) -> float | None:
    # NM writes negative spacings for the direction (PS3.3 C.8.4.15).
    counts = Counter(round(abs(value), 4) for value in values if value)
    if not counts:
        return None
    return min(counts.items(), key=lambda item: (-item[1], item[0]))[0] or None
