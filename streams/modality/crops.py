"""The views of one slice that the embedder looks at: its content, and its texture.

A small network sees a square of 224 pixels. The content in that square shows what was imaged, and
loses texture; the grain of speckle, quantum noise and interpolation shows only near native
resolution. So there is one view of each scale. (A third one, of the whole slice with its borders,
made the head no better.)
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from streams.pixels.views import background_level, make_view

UInt8Array = NDArray[np.uint8]

VIEWS: Final[tuple[str, ...]] = ("content", "detail")
"""What :func:`views` returns, in this order; ``content`` is the view that clusters live on."""

# A pixel belongs to the content when it is this far from the level of the border.
_CONTENT_LEVELS: Final = 12
# The box is found on a thinned slice of no more than this many pixels a side.
_SEARCH_SIDE: Final = 256
# A row belongs to the content when more than this share of it does: text and dust do not count.
_ROW_SHARE: Final = 0.02
_STRETCH_PERCENTILES: Final = (0.5, 99.5)
_MIN_STRETCH_LEVELS: Final = 8


def views(display: UInt8Array, size: int = 224) -> UInt8Array:
    """Make the views of a slice, as the embedder takes them.

    Parameters
    ----------
    display
        uint8 ``[H, W]`` or ``[H, W, 3]``, at least one pixel.
    size
        Side of a view in pixels.

    Returns
    -------
    ndarray
        uint8 ``[len(VIEWS), size, size, 3]``. ``content`` is :func:`streams.pixels.make_view` of
        what is left without uniform borders, its contrast stretched: an export with a frame and
        another window looks as its original does. ``detail`` is the square in the middle of the
        content at native resolution, stretched likewise.
    """
    rows, columns = content_box(display)
    content, shrink = display, _shrink(display, rows, columns, size)
    if shrink > 1:
        # Whole multiples by averaging: a quarter of the time of resizing all of a large slice.
        content = np.asarray(Image.fromarray(np.ascontiguousarray(display)).reduce(shrink))
    part = content[_scaled(rows, shrink), _scaled(columns, shrink)]
    middle = _middle(display[rows, columns], size)
    return np.stack([stretched(make_view(part, size)), stretched(make_view(middle, size))])


def content_box(display: UInt8Array) -> tuple[slice, slice]:
    """Find the rectangle without uniform borders.

    Parameters
    ----------
    display
        uint8 ``[H, W]`` or ``[H, W, 3]``.

    Returns
    -------
    tuple of slice
        Rows and columns; all of them when there is no content, or next to none.
    """
    height, width = display.shape[:2]
    step_y, step_x = -(-height // _SEARCH_SIDE), -(-width // _SEARCH_SIDE)
    thin = display[::step_y, ::step_x]
    level = np.asarray(background_level(thin), np.int16)
    distance = np.abs(thin.astype(np.int16) - (level if thin.ndim == 3 else level[0]))
    inside = (distance.max(axis=2) if thin.ndim == 3 else distance) > _CONTENT_LEVELS
    rows = np.flatnonzero(inside.mean(axis=1) > _ROW_SHARE)
    columns = np.flatnonzero(inside.mean(axis=0) > _ROW_SHARE)
    if not (rows.size and columns.size):
        return slice(0, height), slice(0, width)
    top, bottom = int(rows[0]) * step_y, min(height, int(rows[-1] + 1) * step_y)
    left, right = int(columns[0]) * step_x, min(width, int(columns[-1] + 1) * step_x)
    if (bottom - top) * 16 < height or (right - left) * 16 < width:
        return slice(0, height), slice(0, width)
    return slice(top, bottom), slice(left, right)


def stretched(view: UInt8Array) -> UInt8Array:
    """Spread the levels over 0 to 255, the same for all channels.

    Parameters
    ----------
    view
        uint8, any shape. One whose levels hardly differ is returned as it is.
    """
    counts = np.cumsum(np.bincount(view.ravel(), minlength=256))
    low, high = (
        int(np.searchsorted(counts, counts[-1] * share / 100)) for share in _STRETCH_PERCENTILES
    )
    if high - low < _MIN_STRETCH_LEVELS:
        return view
    table = np.clip((np.arange(256) - low) * (255.0 / (high - low)), 0, 255)
    return np.asarray(np.rint(table).astype(np.uint8)[view])


def _middle(content: UInt8Array, size: int) -> UInt8Array:
    height, width = content.shape[:2]
    side = min(size, height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return content[top : top + side, left : left + side]


def _shrink(display: UInt8Array, rows: slice, columns: slice, size: int) -> int:
    """Whole factor that leaves the content at least twice as large as the view."""
    longer = max(rows.stop - rows.start, columns.stop - columns.start)
    most = min(display.shape[:2]) // 8
    return int(max(1, min(longer // (2 * size), most)))


def _scaled(place: slice, shrink: int) -> slice:
    return slice(place.start // shrink, max(place.start // shrink + 1, -(-place.stop // shrink)))
