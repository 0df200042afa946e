"""Finds lines of burnt-in text without a model: dense hard strokes on flat ground.

Text that a machine draws over an image differs from anatomy in being of two levels: its strokes
jump by tens of levels from one pixel to the next, and between them nothing changes. Speckle and
trabeculae have as many edges, but of all strengths.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

UInt8Array = npt.NDArray[np.uint8]
BoolArray = npt.NDArray[np.bool_]
AnyArray = npt.NDArray[Any]

# Text is looked for at two scales: letters of 6 to 40 pixels, and large markers and titles.
_FINE_SIDE: Final = 2048
_COARSE_SIDE: Final = 320
_BLOCK: Final = 8
_STROKE_LEVELS: Final = 44
_FLAT_LEVELS: Final = 10
_MIN_STROKES: Final = 5
_MAX_STROKES: Final = 40
# Pixels of a block that are neither stroke nor ground, beyond as many as there are strokes.
_MAX_BLURRED: Final = 6
_MAX_RUNS: Final = 2_000
_MAX_LINES: Final = 96
# Of a line, in pixels of the scale at which it is looked for.
_MIN_HEIGHT: Final = 5
_MAX_HEIGHT: Final = 48
_MIN_WIDTH: Final = 10
# Measured on 250 lines that a reader of text confirmed and 2,000 places with as many edges: these
# keep 80 percent of the lines and 5 percent of the places.
_MIN_ELONGATION: Final = 1.2
_EDGES_PER_LETTER: Final = (1.2, 8.0)
_MIN_CONTRAST: Final = 60
_INK: Final = 0.45
_QUIET_LEVELS: Final = 12
_MIN_QUIET: Final = 0.3
_MIN_TWO_LEVELS: Final = 0.62
_MIN_GAPS_PER_LETTER: Final = 0.4
_MAX_CROSSED: Final = 0.1
_GROUND_WINDOW: Final = np.ones(9)
# One short mark is often chance, a longer one seldom.
_WORD_ELONGATION: Final = 2.0


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of pixels.

    Parameters
    ----------
    top, left, bottom, right : int
        First row and column, and those after the last.
    """

    top: int
    left: int
    bottom: int
    right: int

    @property
    def area(self) -> int:
        """Number of pixels."""
        return max(0, self.bottom - self.top) * max(0, self.right - self.left)

    def overlap(self, other: Box) -> int:
        """Return the number of pixels that both hold."""
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        width = min(self.right, other.right) - max(self.left, other.left)
        return max(0, height) * max(0, width)


def text_lines(display: UInt8Array) -> tuple[Box, ...]:
    """Find where lines of text are likely.

    Parameters
    ----------
    display : ndarray
        uint8 ``[H, W]`` or ``[H, W, 3]``, at full resolution.

    Returns
    -------
    tuple of Box
        In pixels of ``display``, at most 96, from top to bottom.
    """
    if display.ndim not in (2, 3) or min(display.shape[:2]) < 2 * _BLOCK:
        return ()
    found: list[Box] = []
    longest = max(display.shape[:2])
    steps = sorted({max(1, -(-longest // side)) for side in (_FINE_SIDE, _COARSE_SIDE)})
    grey = _grey(display[:: steps[0], :: steps[0]])
    for step in steps:
        inner = max(1, step // steps[0])
        scale = inner * steps[0]
        for line in _lines(_shrunk(grey, inner)):
            box = Box(line.top * scale, line.left * scale, line.bottom * scale, line.right * scale)
            if all(box.overlap(other) < 0.3 * min(box.area, other.area) for other in found):
                found.append(box)
    return tuple(sorted(found, key=lambda box: (box.top, box.left))[:_MAX_LINES])


def text_likely(lines: Sequence[Box]) -> bool:
    """Tell from its ``text_lines`` whether reading a picture is worth the time."""
    return any(
        line.right - line.left >= _WORD_ELONGATION * (line.bottom - line.top) for line in lines
    )


def _grey(display: UInt8Array) -> UInt8Array:
    if display.ndim == 2:
        return np.ascontiguousarray(display)
    return np.asarray(Image.fromarray(np.ascontiguousarray(display)).convert("L"))


def _shrunk(grey: UInt8Array, factor: int) -> UInt8Array:
    """Average squares of ``factor`` pixels a side."""
    if factor == 1:
        return grey
    height, width = (size // factor * factor for size in grey.shape)
    rows = grey[:height, :width].reshape(-1, factor, width).sum(axis=1, dtype=np.uint16)
    sums = rows.reshape(rows.shape[0], -1, factor).sum(axis=2, dtype=np.uint32)
    return np.asarray(sums // (factor * factor), dtype=np.uint8)


def _lines(grey: UInt8Array) -> Iterator[Box]:
    height, width = (size // _BLOCK * _BLOCK for size in grey.shape)
    if min(height, width) < 2 * _BLOCK:
        return
    jumps = np.maximum(grey[:, 1:], grey[:, :-1]) - np.minimum(grey[:, 1:], grey[:, :-1])
    strokes = np.zeros(grey.shape, dtype=np.bool_)
    np.greater(jumps, _STROKE_LEVELS, out=strokes[:, 1:])
    flat = np.ones(grey.shape, dtype=np.bool_)
    np.less_equal(jumps, _FLAT_LEVELS, out=flat[:, 1:])
    stroked, ground = _counts(strokes[:height, :width]), _counts(flat[:height, :width])
    blurred = _BLOCK * _BLOCK - stroked - ground
    mask = (stroked >= _MIN_STROKES) & (stroked <= _MAX_STROKES)
    mask &= blurred <= stroked + _MAX_BLURRED
    # Spaces between words are bridged.
    joined = mask.copy()
    joined[:, 1:] |= mask[:, :-1]
    joined[:, :-1] |= mask[:, 1:]
    for area in _components(joined):
        if area.bottom - area.top > 6 * (area.right - area.left):
            continue
        pixels = Box(*(edge * _BLOCK for edge in (area.top, area.left, area.bottom, area.right)))
        yield from _split(grey, strokes, pixels)


def _counts(marks: BoolArray) -> npt.NDArray[np.int16]:
    """Count the marks of each block."""
    rows = marks.view(np.uint8).reshape(-1, _BLOCK, marks.shape[1]).sum(axis=1, dtype=np.uint8)
    return np.asarray(rows.reshape(rows.shape[0], -1, _BLOCK).sum(axis=2, dtype=np.int16))


def _components(mask: BoolArray) -> list[Box]:
    """Find the bounding boxes of what hangs together, in blocks, run by run."""
    padded = np.zeros((mask.shape[0], mask.shape[1] + 2), dtype=np.int8)
    padded[:, 1:-1] = mask
    edges = np.diff(padded, axis=1)
    rows, starts = np.nonzero(edges == 1)
    stops = np.nonzero(edges == -1)[1]
    if len(rows) > _MAX_RUNS:
        return []
    boxes: list[Box] = []
    parents: list[int] = []

    def root(i: int) -> int:
        while parents[i] != i:
            parents[i] = parents[parents[i]]
            i = parents[i]
        return i

    above: list[tuple[int, int, int]] = []
    here: list[tuple[int, int, int]] = []
    row_of_here = -1
    for row, start, stop in zip(rows.tolist(), starts.tolist(), stops.tolist(), strict=True):
        if row != row_of_here:
            above, here = (here if row == row_of_here + 1 else []), []
            row_of_here = row
        own = len(parents)
        parents.append(own)
        boxes.append(Box(row, start, row + 1, stop))
        for other_start, other_stop, other in above:
            if other_start < stop and start < other_stop:
                one, two = sorted((root(own), root(other)))
                parents[two] = one
                if one != two:
                    boxes[one] = _hull(boxes[one], boxes[two])
        here.append((start, stop, own))
    return [box for i, box in enumerate(boxes) if parents[i] == i]


def _hull(one: Box, other: Box) -> Box:
    return Box(
        min(one.top, other.top),
        min(one.left, other.left),
        max(one.bottom, other.bottom),
        max(one.right, other.right),
    )


def _split(grey: UInt8Array, strokes: BoolArray, area: Box) -> Iterator[Box]:
    """Cut an area into lines at its rows without strokes, and keep those that look written."""
    # The block mask misses ascenders and the letters at both ends by up to a block.
    top, bottom = max(0, area.top - _BLOCK // 2), min(grey.shape[0], area.bottom + _BLOCK // 2)
    marks = strokes[top:bottom, area.left : area.right]
    inked = marks.any(axis=1)
    for first, last in _runs(inked):
        if not _MIN_HEIGHT <= last - first <= _MAX_HEIGHT:
            continue
        columns = np.flatnonzero(marks[first:last].any(axis=0))
        left, right = area.left + int(columns[0]), area.left + int(columns[-1]) + 1
        line = Box(top + first, left, top + last, right)
        if _looks_written(grey, strokes, line):
            yield line


def _runs(marked: BoolArray) -> Iterator[tuple[int, int]]:
    edges = np.diff(np.concatenate(([0], marked.astype(np.int8), [0])))
    yield from zip(
        np.flatnonzero(edges == 1).tolist(), np.flatnonzero(edges == -1).tolist(), strict=True
    )


def _looks_written(grey: UInt8Array, strokes: BoolArray, line: Box) -> bool:
    """Tell letters from texture: two levels, quiet around, and gaps from letter to letter."""
    height, width = line.bottom - line.top, line.right - line.left
    if width < max(_MIN_WIDTH, _MIN_ELONGATION * height):
        return False
    edges = strokes[line.top : line.bottom, line.left : line.right]
    # A letter is about as wide as it is high, and its strokes have two edges each.
    edges_per_letter = float(np.count_nonzero(edges)) / width
    if not _EDGES_PER_LETTER[0] <= edges_per_letter <= _EDGES_PER_LETTER[1]:
        return False
    return _has_letters(grey, line)


def _has_letters(grey: UInt8Array, line: Box) -> bool:
    inside = grey[line.top : line.bottom, line.left : line.right]
    levels = np.bincount(inside.ravel(), minlength=256)
    ground = int(np.convolve(levels, _GROUND_WINDOW, mode="same").argmax())
    away = np.maximum(inside, ground) - np.minimum(inside, ground)
    contrast = int(np.partition(away.ravel(), int(0.97 * away.size))[int(0.97 * away.size)])
    if contrast < _MIN_CONTRAST:
        return False
    ink, quiet = away > _INK * contrast, away <= _QUIET_LEVELS
    two_levels = np.count_nonzero(ink | quiet) >= _MIN_TWO_LEVELS * ink.size
    if not two_levels or np.count_nonzero(quiet) < _MIN_QUIET * ink.size:
        return False
    columns = ink.any(axis=0)
    gaps = np.count_nonzero(columns[:-1] & ~columns[1:])
    if gaps * ink.shape[0] < _MIN_GAPS_PER_LETTER * ink.shape[1]:
        return False
    above = grey[max(0, line.top - 2) : line.top, line.left : line.right]
    below = grey[line.bottom : line.bottom + 2, line.left : line.right]
    around = np.concatenate((above, below)).astype(np.int16)
    crossed = np.count_nonzero(np.abs(around - ground) > _INK * contrast)
    return bool(crossed <= _MAX_CROSSED * max(1, around.size))
