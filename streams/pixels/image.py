"""The decoded slice, and the notes a decoder leaves with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

UInt8Array = npt.NDArray[np.uint8]
Float32Array = npt.NDArray[np.float32]
AnyArray = npt.NDArray[Any]

WARNING_TEXTS: dict[str, str] = {
    "truncated-pixels": "the frame ends early; the missing part is shown as zero",
    "frame-count": "the number of frames in the header does not match the pixel data",
    "frame-size": "rows and columns differ from the codestream, whose size was used",
    "thinned": "the frame is large; every k-th row and column was kept",
    "window-invalid": "the window in the header is unusable; percentiles were used",
    "window-flat": "the window in the header shows nothing; percentiles were used",
    "lut-invalid": "a lookup table in the header is unusable and was ignored",
    "photometric": "the photometric interpretation does not fit the samples per pixel",
    "high-bit": "the stored bits do not end at the lowest bit; they were shifted",
    "encapsulation": "the pixel data is encapsulated otherwise than its transfer syntax says",
    "transfer-syntax-missing": "no transfer syntax in the file; it was inferred",
    "orientation-unknown": "no usable orientation; the stored axes are shown",
    "scaling-invalid": "the value scaling in the header is unusable and was ignored",
    "not-finite": "some values are not finite; they are shown as zero",
    "alpha-ignored": "the image is fully transparent; its alpha channel was ignored",
    "first-frame": "the middle frame is out of reach; an earlier one was taken",
    "fallback-decoder": "the preferred decoder could not read this; another one did",
    "channels-dropped": "more channels than a colour image has; the first one is shown",
}


@dataclass(frozen=True, slots=True)
class DecodeWarning:
    """Something a reader of the result should know.

    Parameters
    ----------
    code
        A key of ``WARNING_TEXTS``.
    """

    code: str

    @property
    def text(self) -> str:
        """The code in words."""
        return WARNING_TEXTS[self.code]


class WarningList:
    """Collects warnings in the order they arise, each once."""

    def __init__(self) -> None:
        self._codes: dict[str, None] = {}

    def add(self, code: str) -> None:
        """Note ``code``, a key of ``WARNING_TEXTS``."""
        if code not in WARNING_TEXTS:
            raise KeyError(code)
        self._codes[code] = None

    def done(self) -> tuple[DecodeWarning, ...]:
        """Return what was noted."""
        return tuple(DecodeWarning(code) for code in self._codes)


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """One representative slice of a file.

    Parameters
    ----------
    format
        The format it was decoded as.
    display
        uint8 ``[H, W]`` or ``[H, W, 3]`` RGB, as a viewer would show it.
    values
        float32 ``[H, W]`` in ``unit`` before windowing; None for colour.
    unit
        "HU", "Gy", "BQML", ... when the file says so, else "raw".
    frames, rows, columns, samples
        Shape of the source: slices, pages or frames; pixels; samples per pixel. ``display`` is
        smaller than rows x columns when "thinned" is among the warnings.
    bits_stored
        Significant bits of one sample.
    photometric
        Photometric interpretation of the source, in DICOM's terms; "UNKNOWN" when unlisted.
    slice_strategy
        Name of the rule that chose the slice.
    slice_index
        Zero-based index of the chosen slice along the source's frames.
    windowing
        How ``values`` became ``display``: "window", "voi-lut", "percentile", "identity" or
        "colour".
    pixel_spacing_mm
        Distance between rows and between columns, when known.
    warnings
        What a reader of the result should know.
    """

    format: str
    display: UInt8Array = field(repr=False)
    values: Float32Array | None = field(repr=False)
    unit: str
    frames: int
    rows: int
    columns: int
    samples: int
    bits_stored: int
    photometric: str
    slice_strategy: str
    slice_index: int
    windowing: str
    pixel_spacing_mm: tuple[float, float] | None
    warnings: tuple[DecodeWarning, ...]


def thin(array: AnyArray, max_pixels: int, warnings: WarningList) -> tuple[AnyArray, int]:
    """Keep every k-th row and column so that at most ``max_pixels`` are left.

    Parameters
    ----------
    array
        ``[H, W]`` or ``[H, W, C]``.
    max_pixels
        Largest H x W to return.
    warnings
        Gets "thinned" when k > 1.

    Returns
    -------
    tuple
        The array (a copy when thinned, so that the large one can be freed) and k.
    """
    step = 1
    height, width = array.shape[:2]
    while -(-height // step) * -(-width // step) > max_pixels:
        step += 1
    if step == 1:
        return array, 1
    warnings.add("thinned")
    return np.ascontiguousarray(array[::step, ::step]), step
