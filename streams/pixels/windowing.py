"""Stored values to display values: rescale, VOI LUT, windows, percentiles (DICOM PS3.3 C.11)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from streams.pixels.image import AnyArray, Float32Array, UInt8Array, WarningList

Float64Array = npt.NDArray[np.float64]

# The fallback clips this share at both ends, as most viewers do.
_CLIP_PERCENTILES = (0.5, 99.5)
# A table is worth its making up to this many entries.
_MAX_TABLE = 65_536


@dataclass(frozen=True, slots=True)
class Window:
    """A VOI window (PS3.3 C.11.2).

    Parameters
    ----------
    center, width
        In the units of the rescaled values.
    function
        "LINEAR", "LINEAR_EXACT" or "SIGMOID".
    """

    center: float
    width: float
    function: str = "LINEAR"

    @property
    def usable(self) -> bool:
        """Whether both numbers are finite and the width is allowed for the function."""
        if not (np.isfinite(self.center) and np.isfinite(self.width)):
            return False
        return self.width >= 1 if self.function == "LINEAR" else self.width > 0


@dataclass(frozen=True, slots=True)
class Lut:
    """A lookup table with the first input value it maps (PS3.3 C.11.1.1, C.11.2.1.1).

    Parameters
    ----------
    first
        Input value of entry 0; inputs outside take the nearest end.
    entries
        float64 ``[N]``.
    bits
        Significant bits of an entry.
    """

    first: int
    entries: Float64Array
    bits: int

    def apply(self, x: Float64Array) -> Float64Array:
        """Look up every value of ``x``."""
        index = np.clip(np.rint(x) - self.first, 0, len(self.entries) - 1).astype(np.intp)
        return self.entries[index]


@dataclass(frozen=True, slots=True)
class ModalityTransform:
    """Stored values to real-world values: a LUT, or slope and intercept (PS3.3 C.11.1)."""

    slope: float = 1.0
    intercept: float = 0.0
    lut: Lut | None = None

    @property
    def is_identity(self) -> bool:
        """Whether values stay as stored."""
        return self.lut is None and self.slope == 1.0 and self.intercept == 0.0

    def apply(self, x: Float64Array) -> Float64Array:
        """Transform float64 values."""
        if self.lut is not None:
            return self.lut.apply(x)
        return x * self.slope + self.intercept

    def apply_float32(self, stored: AnyArray) -> Float32Array:
        """Transform a stored array into new float32 values, without a float64 copy."""
        if self.lut is not None:
            return self.lut.apply(stored.astype(np.float64)).astype(np.float32)
        values: Float32Array = stored.astype(np.float32)
        if self.slope != 1.0:
            values *= np.float32(self.slope)
        if self.intercept != 0.0:
            values += np.float32(self.intercept)
        return values


def window_fraction(x: npt.NDArray[np.floating[Any]], window: Window) -> Float64Array:
    """Map values to [0, 1] through a window.

    Parameters
    ----------
    x
        Rescaled values.
    window
        A usable window.

    Returns
    -------
    ndarray
        Same shape, 0 for black.

    Notes
    -----
    PS3.3 C.11.2.1.2.1 (LINEAR), C.11.2.1.3.2 (LINEAR_EXACT), C.11.2.1.3.1 (SIGMOID).
    """
    center, width = window.center, window.width
    if window.function == "SIGMOID":
        exponent = np.clip(-4.0 * (x - center) / width, -700.0, 700.0)
        return np.asarray(1.0 / (1.0 + np.exp(exponent)))
    if window.function == "LINEAR_EXACT":
        return np.asarray(np.clip((x - center) / width + 0.5, 0.0, 1.0))
    if width == 1:
        return np.asarray((x > center - 0.5).astype(np.float64))
    return np.asarray(np.clip((x - (center - 0.5)) / (width - 1.0) + 0.5, 0.0, 1.0))


def range_fraction(x: npt.NDArray[np.floating[Any]], low: float, high: float) -> Float64Array:
    """Map [low, high] to [0, 1]; a range without extent maps to 0 below and 1 above it."""
    if high <= low:
        return np.asarray((x > low).astype(np.float64))
    return np.asarray(np.clip((x - low) / (high - low), 0.0, 1.0))


def weighted_percentiles(
    values: Float64Array, counts: npt.NDArray[np.intp], percentiles: tuple[float, float]
) -> tuple[float, float]:
    """Percentiles of a histogram; its extremes when the percentiles coincide.

    Parameters
    ----------
    values
        Value of each bin, in any order.
    counts
        Occurrences of each.
    percentiles
        In [0, 100].
    """
    present = counts > 0
    if not present.any():
        return 0.0, 0.0
    values, counts = values[present], counts[present]
    order = np.argsort(values, kind="stable")
    cumulative = np.cumsum(counts[order])
    ranks = np.asarray(percentiles) / 100.0 * cumulative[-1]
    index = np.minimum(np.searchsorted(cumulative, ranks), len(order) - 1)
    low, high = (float(v) for v in values[order][index])
    if low == high:
        low, high = float(values.min()), float(values.max())
    return low, high


def to_uint8(fraction: npt.NDArray[np.floating[Any]]) -> UInt8Array:
    """Quantise [0, 1] to 0..255, rounding to nearest."""
    return np.asarray(fraction * 255.0 + 0.5).astype(np.uint8)


@dataclass(frozen=True, slots=True)
class Voi:
    """What decides contrast: a VOI LUT, else a window, else percentiles."""

    lut: Lut | None = None
    window: Window | None = None


def _candidates(
    voi: Voi, warnings: WarningList
) -> list[tuple[str, Callable[[Float64Array], Float64Array]]]:
    found: list[tuple[str, Callable[[Float64Array], Float64Array]]] = []
    lut = voi.lut
    if lut is not None:
        # Descriptors often claim fewer bits than the entries use.
        top = max(float(2**lut.bits - 1), float(lut.entries.max(initial=0.0)), 1.0)
        found.append(("voi-lut", lambda x: np.clip(lut.apply(x) / top, 0.0, 1.0)))
    window = voi.window
    if window is not None:
        if window.usable:
            found.append(("window", lambda x: window_fraction(x, window)))
        else:
            warnings.add("window-invalid")
    return found


def display_integers(
    stored: AnyArray,
    modality: ModalityTransform,
    voi: Voi,
    *,
    invert: bool,
    padding: tuple[int, int] | None,
    warnings: WarningList,
) -> tuple[UInt8Array, str]:
    """Window integer pixels through one table of display values.

    Parameters
    ----------
    stored
        Integer or bool ``[H, W]`` as stored.
    modality
        Modality transform.
    voi
        Wanted contrast.
    invert
        True for MONOCHROME1: the lowest value is white.
    padding
        Inclusive range of stored values that are padding, left out of percentiles.
    warnings
        Gets "window-invalid", "window-flat".

    Returns
    -------
    tuple
        uint8 ``[H, W]`` and the name of the windowing used.
    """
    if stored.dtype == np.bool_:
        stored = stored.view(np.uint8)
    low, high = int(stored.min()), int(stored.max())
    if high - low >= _MAX_TABLE:
        values = modality.apply_float32(stored)
        return display_floats(values, voi, invert=invert, padding=None, warnings=warnings)

    domain = np.arange(low, high + 1, dtype=np.int64)
    rescaled = modality.apply(domain.astype(np.float64))
    fraction: Float64Array | None = None
    windowing = "percentile"
    for name, transform in _candidates(voi, warnings):
        fraction = transform(rescaled)
        windowing = name
        if low == high or float(np.ptp(fraction)) > 0.0:
            break
        warnings.add("window-flat")
        fraction, windowing = None, "percentile"

    size = stored.dtype.itemsize
    if size <= 2:
        # Two's complement: viewing as unsigned indexes a full table without a subtraction.
        index = np.ascontiguousarray(stored).view(np.uint8 if size == 1 else np.uint16)
        slots = (domain & (0xFF if size == 1 else 0xFFFF)).astype(np.intp)
        table_size = 256 if size == 1 else _MAX_TABLE
    else:
        index = (stored - stored.dtype.type(low)).astype(np.uint32)
        slots = np.arange(len(domain), dtype=np.intp)
        table_size = len(domain)

    if fraction is None:
        counts = np.bincount(index.ravel(), minlength=table_size)[slots]
        if padding is not None:
            inside = (domain >= padding[0]) & (domain <= padding[1])
            if counts[~inside].any():
                counts = np.where(inside, 0, counts)
        fraction = range_fraction(
            rescaled, *weighted_percentiles(rescaled, counts, _CLIP_PERCENTILES)
        )
    if invert:
        fraction = 1.0 - fraction
    table = np.zeros(table_size, np.uint8)
    table[slots] = to_uint8(fraction)
    return table[index], windowing


def display_floats(
    values: Float32Array,
    voi: Voi,
    *,
    invert: bool,
    padding: float | None,
    warnings: WarningList,
) -> tuple[UInt8Array, str]:
    """Window rescaled float pixels; values that are not finite become black.

    Parameters
    ----------
    values
        float32 ``[H, W]``.
    voi, invert, warnings
        As for :func:`display_integers`.
    padding
        Value that is padding, left out of percentiles.

    Returns
    -------
    tuple
        uint8 ``[H, W]`` and the name of the windowing used.
    """
    finite = np.isfinite(values)
    all_finite = bool(finite.all())
    if not all_finite:
        warnings.add("not-finite")
    known = values if all_finite else values[finite]
    if known.size == 0:
        return np.zeros(values.shape, np.uint8), "percentile"
    low, high = float(known.min()), float(known.max())
    clean = (values if all_finite else np.where(finite, values, low)).astype(np.float64)

    fraction: Float64Array | None = None
    windowing = "percentile"
    for name, transform in _candidates(voi, warnings):
        fraction = transform(clean)
        windowing = name
        if low == high or float(np.ptp(fraction)) > 0.0:
            break
        warnings.add("window-flat")
        fraction, windowing = None, "percentile"
    if fraction is None:
        sample = known if padding is None else known[known != padding]
        fraction = range_fraction(clean, *sample_percentiles(sample if sample.size else known))
    if invert:
        fraction = 1.0 - fraction
    display = to_uint8(fraction)
    if not all_finite:
        display[~finite] = 0
    return display, windowing


def sample_percentiles(
    values: npt.NDArray[Any], percentiles: tuple[float, float] = _CLIP_PERCENTILES
) -> tuple[float, float]:
    """Percentiles of at most some 250,000 evenly spaced values; extremes when they coincide."""
    flat = values.ravel()
    step = max(1, flat.size // 250_000)
    low, high = (float(v) for v in np.percentile(flat[::step], percentiles))
    if low == high:
        low, high = float(flat.min()), float(flat.max())
    return low, high
