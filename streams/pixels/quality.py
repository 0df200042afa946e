"""Whether a slice is worth looking at: blank, clipped, blurred, noisy.

The measures of MRQy (Sadri et al., "MRQy: an open-source tool for quality control of MR imaging
data", Med Phys 47:6029, 2020, table 1) bear its names in lower case. As there, the foreground is
the convex hull of what Otsu's threshold finds in a blend of the slice and its equalised histogram;
``f`` and ``b`` are the pixels inside and outside, ``F`` is the slice with the outside at zero,
and ``FP`` and ``BP`` are 5 x 5 patches at the largest value inside and outside:

===========  ==========================================================================
mean         mean(f)
rng, var     max(f) - min(f); variance of f
cv_percent   100 std(f) / mean(f)
psnr_db      10 log10(max(F)^2 / MSE(F, its 5 x 5 median))
snr1         std(f) / std(b)
snr2         mean(FP) / std(b)
snr3         mean(FP) / std(FP)
snr4         mean(FP) / std(BP)
cnr          mean(FP - BP) / std(BP)
cvp          std(FP) / mean(FP)
cjv          (std(f) + std(b)) / abs(mean(f) - mean(b))
efc          entropy of F over that of an even image (Atkinson et al., IEEE TMI 16:903, 1997)
fber         median(f^2) / median(b^2)
===========  ==========================================================================

MRQy averages them over the slices of a volume; here there is one slice. Its CPP is left out: the
mean of a filter whose weights sum to zero is a property of the image's border. The source that it
cites (Eramian and Mould, CRV 2005) means the absolute difference to the eight neighbours, which is
``contrast_per_pixel``.

All need intensities that start at no signal: values in HU are raised by 1000, others that have
negative ones by their minimum. Means and deviations look at every k-th row and column, and the
measures that need neighbours at some 2,000 evenly spaced places in full resolution.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from schemas.facts import QualityFacts
from streams.pixels.hashing import picture_hash
from streams.pixels.image import AnyArray, Float32Array, UInt8Array

_SAMPLE_SIDE: Final = 256
_PLACES_A_SIDE: Final = 48
_PATCH: Final = 5
_AIR_HU: Final = 1000.0
_BLANK_STD_LEVELS: Final = 1.0
# 99 in 100 pixels within so many levels of the median.
_CONSTANT_LEVELS: Final = 3
_CONSTANT_SHARE: Final = 0.99
CLIPPED_SHARE: Final = 0.02
"""Share of pixels at the extreme away from the background from which on a slice is clipped."""
BLURRY_FROM: Final = 0.6
"""Blur from which on a slice is blurry. Of 832 images of 16 modalities, most at their scanner's own
resolution, 3 % are above it; after a Gaussian blur of 2 pixels 79 % are, of 3 pixels 94 %."""
_BLUR_SIDE: Final = 384
_BLUR_FULL_SIDE: Final = 1024
_BLUR_REACH: Final = 4
_MIN_GROUND_PIXELS: Final = 64
_ROUNDING: Final = 1e-6

Float64Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


class _Ground(NamedTuple):
    """Thinned intensities, and which of them are foreground."""

    intensities: Float32Array
    is_inside: BoolArray
    step_rows: int
    step_columns: int


def compute_quality(
    display: UInt8Array, values: Float32Array | None = None, unit: str = "raw"
) -> QualityFacts:
    """Measure the quality of one slice.

    Parameters
    ----------
    display
        uint8 ``[H, W]`` or ``[H, W, 3]``.
    values
        float32 ``[H, W]`` before windowing, where there are any; else the display is measured.
    unit
        Unit of ``values``.

    Returns
    -------
    QualityFacts
        Measures that the slice does not allow (a blank one, one without background) are None.
    """
    luminance = _luminance(_thinned(display))
    std_level = float(luminance.std())
    is_blank = std_level < _BLANK_STD_LEVELS
    off = np.abs(luminance.astype(np.int16) - np.int16(np.median(luminance)))
    is_near_constant = is_blank or float((off <= _CONSTANT_LEVELS).mean()) >= _CONSTANT_SHARE
    low, high, is_clipped = _clipping(display, values)
    facts: dict[str, object] = {
        "is_blank": is_blank,
        "is_near_constant": is_near_constant,
        "clipped_low_fraction": low,
        "clipped_high_fraction": high,
        "is_clipped": is_clipped and not is_near_constant,
    }
    if not is_blank:
        blur = blur_of(display)
        # Of a colour, green is nearest to luminance, and costs no pass over all pixels.
        flat = display if display.ndim == 2 else display[:, :, 1]
        source = flat if values is None else values
        facts |= {
            "blur": blur,
            "is_blurry": None if blur is None else blur >= BLURRY_FROM,
            "perceptual_hash": picture_hash(display),
            **_measures(source, unit if values is not None else "raw"),
        }
    return QualityFacts.model_validate(facts)


def blur_of(display: UInt8Array) -> float | None:
    """Measure blur by what blurring again takes away.

    Crete et al., "The blur effect" (SPIE 6492, 2007): the share of the variation between
    neighbours that survives a mean over nine, the larger of both directions. Seen at the scale of a
    screen: larger pictures are averaged to at most 1024 pixels, and the middle 384 are looked at.

    Parameters
    ----------
    display
        uint8 ``[H, W]`` or ``[H, W, 3]``.

    Returns
    -------
    float or None
        0 sharp to 1; None where nothing varies, or there are too few pixels.
    """
    height, width = display.shape[:2]
    factor = -(-max(height, width) // _BLUR_FULL_SIDE)
    side = _BLUR_SIDE * factor
    top, left = max(0, (height - side) // 2), max(0, (width - side) // 2)
    crop = display[top : top + side, left : left + side]
    image = Image.fromarray(np.ascontiguousarray(crop))
    if factor > 1:
        image = image.reduce(factor)
    levels = np.asarray(image.convert("L"), np.int16)
    found = [one for one in (_blur_along(levels), _blur_along(levels.T)) if one is not None]
    return max(found, default=None)


def _blur_along(levels: npt.NDArray[np.int16]) -> float | None:
    reach = _BLUR_REACH
    if levels.shape[0] < 4 * reach:
        return None
    sharp = np.abs(levels[1:] - levels[:-1])[reach:-reach]
    # The means over nine of two neighbours differ by their outermost members.
    again = np.abs(levels[2 * reach + 1 :] - levels[: -2 * reach - 1])
    span = 2 * reach + 1
    total = int(sharp.sum(dtype=np.int64))
    lost = int(np.maximum(span * sharp - again, 0).sum(dtype=np.int64))
    return min(1.0, max(0.0, 1.0 - lost / (span * total))) if total else None


def _thinned(array: AnyArray) -> AnyArray:
    rows, columns = _steps(array)
    return array[::rows, ::columns]


def _steps(array: AnyArray) -> tuple[int, int]:
    height, width = array.shape[:2]
    return -(-height // _SAMPLE_SIDE), -(-width // _SAMPLE_SIDE)


def _luminance(display: AnyArray) -> UInt8Array:
    if display.ndim == 2:
        return display
    return np.asarray(Image.fromarray(np.ascontiguousarray(display)).convert("L"))


def _border(array: AnyArray) -> AnyArray:
    return np.concatenate((array[0], array[-1], array[:, 0], array[:, -1]))


def _clipping(display: UInt8Array, values: Float32Array | None) -> tuple[float, float, bool]:
    """Return the shares at the smallest and the largest value, and whether that is clipping."""
    if values is not None:
        levels = _thinned(values)
        bottom, top = float(levels.min()), float(levels.max())
    elif display.ndim == 3:
        sample = _thinned(display)
        # A colour is lost when one channel is full, or all are empty.
        levels = np.maximum(np.maximum(sample[..., 0], sample[..., 1]), sample[..., 2])
        bottom, top = 0.0, 255.0
    else:
        levels = _thinned(display)
        bottom, top = 0.0, 255.0
    low = float((levels == bottom).mean())
    high = float((levels == top).mean())
    # Where nothing is to be seen the detector may well be at its end; signal is at the other.
    is_dark = float(np.median(_border(levels))) <= (bottom + top) / 2
    return low, high, bottom < top and (high if is_dark else low) >= CLIPPED_SHARE


def _measures(source: AnyArray, unit: str) -> dict[str, float | None]:
    """Compute the measures of MRQy; ``source`` is the slice, ``[H, W]``."""
    ground = _ground(source, unit)
    inside = ground.intensities[ground.is_inside]
    outside = ground.intensities[~ground.is_inside]
    if inside.size < _MIN_GROUND_PIXELS:
        return {}
    zero = _zero(source, unit)
    mean_in, std_in = _mean_std(inside)
    peak = float(inside.max())
    patch = _patch_at(source, ground, ground.is_inside, zero)
    patch_mean, patch_std = _mean_std(patch)
    texture, error = _texture(source, ground, zero)
    facts: dict[str, float | None] = {
        "mean": mean_in,
        "rng": peak - float(inside.min()),
        "var": std_in**2,
        "cv_percent": _ratio(100.0 * std_in, mean_in),
        "psnr_db": _decibels(peak**2, error),
        "snr3": _ratio(patch_mean, patch_std),
        "cvp": _ratio(patch_std, patch_mean),
        "efc": _entropy_focus(ground),
        "contrast_per_pixel": _ratio(texture, float(np.ptp(ground.intensities))),
    }
    if outside.size >= _MIN_GROUND_PIXELS:
        mean_out, std_out = _mean_std(outside)
        other = _patch_at(source, ground, ~ground.is_inside, zero)
        other_mean, other_std = _mean_std(other)
        facts |= {
            "snr1": _ratio(std_in, std_out),
            "snr2": _ratio(patch_mean, std_out),
            "snr4": _ratio(patch_mean, other_std),
            "cnr": _ratio(patch_mean - other_mean, other_std),
            "cjv": _ratio(std_in + std_out, abs(mean_in - mean_out)),
            "fber": _ratio(
                float(np.median(inside.astype(np.float64) ** 2)),
                float(np.median(outside.astype(np.float64) ** 2)),
            ),
        }
    return {name: one for name, one in facts.items() if one is not None and math.isfinite(one)}


def _ratio(above: float, below: float) -> float | None:
    # What rounding leaves of a constant is no noise.
    return above / below if below > 1e-6 * max(1.0, abs(above)) else None


def _decibels(above: float, below: float) -> float | None:
    ratio = _ratio(above, below)
    return None if not ratio else 10.0 * math.log10(ratio)


def _mean_std(sample: Float32Array) -> tuple[float, float]:
    centred = sample.ravel().astype(np.float64)
    mean = float(centred.mean())
    centred -= mean
    return mean, math.sqrt(float(np.square(centred, out=centred).mean()))


def _zero(source: AnyArray, unit: str) -> float:
    """Return the value that stands for no signal."""
    if unit == "HU":
        return -_AIR_HU
    sample = _thinned(source)
    finite = sample[np.isfinite(sample)] if sample.dtype.kind == "f" else sample
    return min(0.0, float(finite.min(initial=0.0)))


def _intensities(values: AnyArray, zero: float) -> Float32Array:
    with np.errstate(over="ignore", invalid="ignore"):
        raised = np.maximum(values.astype(np.float32) - np.float32(zero), 0.0)
    if not np.isfinite(raised).all():
        raised = np.where(np.isfinite(raised), raised, np.float32(0.0))
    found: Float32Array = raised
    return found


def _ground(source: AnyArray, unit: str) -> _Ground:
    """Tell the foreground from the background."""
    intensities = _intensities(_thinned(source), _zero(source, unit))
    peak = float(np.percentile(intensities, 99.9)) or float(intensities.max())
    # Divided, not multiplied: the reciprocal of the smallest numbers is infinite.
    scaled = np.minimum(intensities, peak) / np.float32(peak) if peak > 0 else intensities
    levels = (scaled * np.float32(255.0)).astype(np.uint8)
    counts = np.bincount(levels.ravel(), minlength=256).astype(np.float64)
    # The blend is a function of the level, so that its threshold is one as well.
    plain = np.arange(256.0)
    equal = np.cumsum(counts) / counts.sum() * 255.0
    share_plain = counts[plain > _otsu(counts, plain)].sum() / counts.sum()
    share_equal = counts[equal > _otsu(counts, equal)].sum() / counts.sum()
    blend = share_plain * plain + share_equal * equal
    is_bright = (blend > _otsu(counts, blend))[levels]
    return _Ground(intensities, _convex_hull(is_bright), *_steps(source))


def _otsu(counts: Float64Array, levels: Float64Array) -> float:
    """Return the threshold of Otsu (IEEE TSMC 9:62, 1979) for counts of rising levels."""
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * levels)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return float(levels[int(np.argmax(np.nan_to_num(between)))])


def _convex_hull(mask: BoolArray) -> BoolArray:
    """Fill the convex hull of a mask ``[H, W]``."""
    rows = np.flatnonzero(mask.any(axis=1))
    if rows.size == 0:
        return mask
    lefts = mask[rows].argmax(axis=1)
    rights = mask.shape[1] - 1 - mask[rows][:, ::-1].argmax(axis=1)
    span = np.arange(rows[0], rows[-1] + 1)
    left = np.interp(span, *_lower_chain(rows, lefts))
    right = -np.interp(span, *_lower_chain(rows, -rights))
    columns = np.arange(mask.shape[1])
    hull = np.zeros_like(mask)
    hull[span] = (columns >= left[:, np.newaxis] - _ROUNDING) & (
        columns <= right[:, np.newaxis] + _ROUNDING
    )
    return hull


def _lower_chain(x: npt.NDArray[np.int64], y: npt.NDArray[np.int64]) -> tuple[list[int], list[int]]:
    """Return the lower convex chain of points with rising x (Andrew, IPL 9:216, 1979)."""
    chain: list[tuple[int, int]] = []
    for point in zip(x.tolist(), y.tolist(), strict=True):
        while len(chain) > 1:
            (ax, ay), (bx, by) = chain[-2:]
            if (bx - ax) * (point[1] - ay) > (by - ay) * (point[0] - ax):
                break
            chain.pop()
        chain.append(point)
    return [one for one, _ in chain], [other for _, other in chain]


def _patch_at(source: AnyArray, ground: _Ground, where: BoolArray, zero: float) -> Float32Array:
    """Return the patch around the largest of some intensities, in full resolution."""
    place = int(np.argmax(np.where(where, ground.intensities, -1.0)))
    row, column = np.unravel_index(place, where.shape)
    top = _start(int(row) * ground.step_rows, source.shape[0])
    left = _start(int(column) * ground.step_columns, source.shape[1])
    return _intensities(source[top : top + _PATCH, left : left + _PATCH], zero)


def _start(middle: int, length: int) -> int:
    return max(0, min(middle - _PATCH // 2, length - _PATCH))


def _texture(source: AnyArray, ground: _Ground, zero: float) -> tuple[float, float]:
    """Return the mean difference to the neighbours, and the mean square to the median."""
    height, width = source.shape
    if min(height, width) < _PATCH:
        return 0.0, 0.0
    windows = np.lib.stride_tricks.sliding_window_view(source, (_PATCH, _PATCH))
    row_step = -(-windows.shape[0] // _PLACES_A_SIDE)
    column_step = -(-windows.shape[1] // _PLACES_A_SIDE)
    chosen = windows[::row_step, ::column_step]
    patches = _intensities(chosen.reshape(-1, _PATCH * _PATCH), zero)
    middle = _PATCH * _PATCH // 2
    centres = patches[:, middle]
    around = patches[:, [6, 7, 8, 11, 13, 16, 17, 18]]
    texture = float(np.abs(around - centres[:, np.newaxis]).mean(dtype=np.float64))
    rows = (np.arange(chosen.shape[0]) * row_step + _PATCH // 2) // ground.step_rows
    columns = (np.arange(chosen.shape[1]) * column_step + _PATCH // 2) // ground.step_columns
    inside = ground.is_inside[np.ix_(rows, columns)].ravel()
    medians = np.partition(patches[inside], middle, axis=1)[:, middle]
    off = centres[inside].astype(np.float64) - medians
    return texture, float(np.square(off).sum()) / centres.size


def _entropy_focus(ground: _Ground) -> float | None:
    inside = np.where(ground.is_inside, ground.intensities, 0.0).astype(np.float64)
    energy = math.sqrt(float((inside**2).sum()))
    if energy <= 0:
        return None
    shares = inside[inside > 0] / energy
    count = inside.size
    most = math.sqrt(count) * math.log(math.sqrt(count))
    return float(-(shares * np.log(shares)).sum()) / most if most > 0 else None
