"""Mid-planes and maximum-intensity projections of a volume whose slices come one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]

MAX_SIDE: Final = 16_384
MAX_PLANES: Final = 64


def choose_planes(positions_mm: Sequence[float], count: int) -> tuple[int, ...]:
    """Choose slices that stand for a volume: evenly spread over its extent, without its ends.

    By place and not by index, so that a gap or a denser part does not draw them to one side. One
    plane is the mid-plane.

    Parameters
    ----------
    positions_mm : sequence of float
        Place of each slice along the normal, ascending; see ``spread_planes`` where it is unknown.
    count : int
        Planes wanted, 1 to 64; of fewer slices all are chosen.

    Returns
    -------
    tuple of int
        Indices, ascending.

    Raises
    ------
    ValueError
        If the count is out of range or the places descend.
    """
    _check_plane_count(count)
    places = np.asarray(positions_mm, np.float64)
    if (np.diff(places) < 0).any():
        msg = "give the places in ascending order, as check_geometry does for a stack"
        raise ValueError(msg)
    if len(places) <= count:
        return tuple(range(len(places)))
    # Half an interval of the slices lies before the first and after the last one.
    margin = (places[-1] - places[0]) / (2 * (len(places) - 1))
    share = (np.arange(count) + 0.5) / count
    wanted = places[0] - margin + share * (places[-1] - places[0] + 2 * margin)
    chosen: list[int] = []
    for rank, place in enumerate(wanted):
        # Of two equally near the later one, as the middle of an even number is for one file.
        nearest = len(places) - 1 - int(np.argmin(np.abs(places - place)[::-1]))
        least = chosen[-1] + 1 if chosen else 0
        most = len(places) - (count - rank)
        chosen.append(min(max(nearest, least), most))
    return tuple(chosen)


def spread_planes(slice_count: int, count: int) -> tuple[int, ...]:
    """Choose planes as ``choose_planes`` does, of slices that are evenly spaced.

    Parameters
    ----------
    slice_count : int
        Slices there are, however many.
    count : int
        Planes wanted, 1 to 64; of fewer slices all are chosen. One plane is ``slice_count // 2``.

    Raises
    ------
    ValueError
        If the count is out of range.
    """
    _check_plane_count(count)
    if slice_count <= count:
        return tuple(range(slice_count))
    return tuple((2 * rank + 1) * slice_count // (2 * count) for rank in range(count))


def _check_plane_count(count: int) -> None:
    if not 1 <= count <= MAX_PLANES:
        msg = f"1 to {MAX_PLANES} planes can be chosen, not {count}"
        raise ValueError(msg)


@dataclass(frozen=True, slots=True)
class VolumeViews:
    """Pictures of a volume in the unit of its slices.

    Rows of the views across the slices are lines of ``slices_per_line`` slices, first to last.

    Parameters
    ----------
    planes : tuple of ndarray
        The chosen slices, float32 ``[rows, columns]``.
    plane_indices : tuple of int
        Which slices they are.
    through_slices : ndarray
        Maxima along the normal, float32 ``[rows, columns]``.
    through_rows : ndarray
        Maxima over the rows of each slice, float32 ``[lines, columns]``.
    through_columns : ndarray
        Maxima over the columns of each slice, float32 ``[lines, rows]``.
    middle_row, middle_column : ndarray
        Planes across the slices, float32 ``[lines, columns]`` and ``[lines, rows]``.
    slice_count : int
        Slices that were seen.
    skipped_count : int
        Slices of another matrix, which were left out.
    slices_per_line : int
        A power of two.
    """

    planes: tuple[Float32Array, ...] = field(repr=False)
    plane_indices: tuple[int, ...]
    through_slices: Float32Array = field(repr=False)
    through_rows: Float32Array = field(repr=False)
    through_columns: Float32Array = field(repr=False)
    middle_row: Float32Array = field(repr=False)
    middle_column: Float32Array = field(repr=False)
    slice_count: int
    skipped_count: int
    slices_per_line: int


class _Lines:
    """Lines in bounded memory: when it is full, two neighbours become one."""

    def __init__(self, width: int, capacity: int, how: Literal["maximum", "first"]) -> None:
        self._buffer = np.empty((capacity, width), np.float32)
        self._how = how
        self._length = 0
        self._in_last = 0
        self.stride = 1

    def add(self, line: Float32Array) -> None:
        if self._in_last in {0, self.stride}:
            if self._length == len(self._buffer):
                self._fold()
            self._in_last = 0
            self._buffer[self._length] = line
            self._length += 1
        elif self._how == "maximum":
            last = self._buffer[self._length - 1]
            np.fmax(last, line, out=last)
        self._in_last += 1

    def result(self) -> Float32Array:
        return self._buffer[: self._length].copy()

    def _fold(self) -> None:
        half = self._length // 2
        even, odd = self._buffer[0 : self._length : 2], self._buffer[1 : self._length : 2]
        folded = np.fmax(even, odd) if self._how == "maximum" else even.copy()
        self._buffer[:half] = folded
        self._length = half
        self.stride *= 2


class VolumeProjector:
    """Takes the slices of a volume in spatial order, one by one; keeps none but the chosen ones.

    Memory is two slices, the chosen planes, and ``max_lines`` lines for each view across them,
    however many slices there are.

    Parameters
    ----------
    plane_indices : sequence of int
        Slices to keep whole, from ``choose_planes``.
    max_lines : int
        Lines of the views across the slices, an even number.
    """

    def __init__(self, plane_indices: Sequence[int] = (), *, max_lines: int = 1024) -> None:
        if len(plane_indices) > MAX_PLANES:
            msg = f"at most {MAX_PLANES} planes are kept, not {len(plane_indices)}"
            raise ValueError(msg)
        if max_lines < 2 or max_lines % 2:
            msg = f"max_lines must be an even number from 2 on, not {max_lines}"
            raise ValueError(msg)
        self._wanted = frozenset(plane_indices)
        self._max_lines = max_lines
        self._planes: dict[int, Float32Array] = {}
        self._through: Float32Array | None = None
        self._across: tuple[_Lines, _Lines, _Lines, _Lines] | None = None
        self._seen = 0
        self._skipped = 0

    def add(self, plane: NDArray[Any]) -> bool:
        """Take the next slice, ``[rows, columns]``, of any real type.

        Returns
        -------
        bool
            False if it was left out because its matrix is not that of the first slice.

        Raises
        ------
        ValueError
            If it is no grey picture, or larger than 16,384 on a side.
        """
        if plane.ndim != 2 or not 1 <= min(plane.shape) <= max(plane.shape) <= MAX_SIDE:
            msg = (
                f"a slice must be grey, [rows, columns], up to {MAX_SIDE} a side; this one has "
                f"shape {plane.shape}"
            )
            raise ValueError(msg)
        index = self._seen
        self._seen += 1
        values = np.asarray(plane, np.float32)
        if self._through is None or self._across is None:
            rows, columns = values.shape
            self._through = values.copy()
            self._across = (
                _Lines(columns, self._max_lines, "maximum"),
                _Lines(rows, self._max_lines, "maximum"),
                _Lines(columns, self._max_lines, "first"),
                _Lines(rows, self._max_lines, "first"),
            )
        elif values.shape != self._through.shape:
            self._skipped += 1
            return False
        else:
            # fmax passes over what is not a number, as padding often is.
            np.fmax(self._through, values, out=self._through)
        rows, columns = values.shape
        self._across[0].add(np.fmax.reduce(values, axis=0))
        self._across[1].add(np.fmax.reduce(values, axis=1))
        self._across[2].add(values[rows // 2])
        self._across[3].add(values[:, columns // 2])
        if index in self._wanted:
            self._planes[index] = values.copy()
        return True

    def result(self) -> VolumeViews:
        """Return the views of all slices so far.

        Raises
        ------
        ValueError
            Without a slice.
        """
        if self._through is None or self._across is None:
            msg = "a volume without slices has no views; add one first"
            raise ValueError(msg)
        indices = sorted(self._planes)
        return VolumeViews(
            planes=tuple(self._planes[index] for index in indices),
            plane_indices=tuple(indices),
            through_slices=self._through.copy(),
            through_rows=self._across[0].result(),
            through_columns=self._across[1].result(),
            middle_row=self._across[2].result(),
            middle_column=self._across[3].result(),
            slice_count=self._seen,
            skipped_count=self._skipped,
            slices_per_line=self._across[0].stride,
        )
