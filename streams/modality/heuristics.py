"""What can be measured in a slice without a network: colour, background, shape, texture, layout.

The measures are those in which the families differ by physics and by how they are shown:
speckle grows with the signal (ultrasound), Rician noise fills the air of MR, exact zeros surround
scan-converted sectors and reconstructed circles, quantum noise of projections has a flat spectrum,
counts in nuclear medicine are coarse and smooth, drawn graphics repeat their neighbour exactly.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]
UInt8Array = NDArray[np.uint8]
Mask = NDArray[np.bool_]

# Layout is measured on the slice reduced to this longer side, texture at native resolution.
_SMALL_SIDE: Final = 192
_PATCH_SIDE: Final = 256
_FOREGROUND_LEVELS: Final = 10
_CHROMA_LEVELS: Final = 16
_BLANK_STD_LEVELS: Final = 1.0
_BANDS: Final = 7
_BLOCK: Final = 8
_HUES: Final = 6
_QUANTILES: Final = (1, 5, 25, 50, 75, 95, 99)
_TINY: Final = 1e-6


def measure(display: UInt8Array) -> Float32Array:
    """Measure a slice.

    Parameters
    ----------
    display
        uint8 ``[H, W]`` or ``[H, W, 3]``, at least one pixel.

    Returns
    -------
    ndarray
        float32 ``[len(FEATURE_NAMES)]``, finite whatever the picture.
    """
    small = _reduced(display, _SMALL_SIDE)
    grey = _luminance(small)
    patch = _luminance(_central(display, _PATCH_SIDE))
    found = {
        **_size(display),
        **_colour(small),
        **_levels(grey),
        **_exactness(_luminance(_thinned(display, 512))),
        **_layout(grey),
        **_gradients(grey, "small"),
        **_gradients(patch, "detail"),
        **_spectrum(grey, "small"),
        **_spectrum(patch, "detail"),
        **_blocks(grey, "small"),
        **_blocks(patch, "detail"),
        **_grain(patch),
        **_compression(patch),
    }
    vector = np.fromiter((found[name] for name in FEATURE_NAMES), np.float64, len(FEATURE_NAMES))
    return np.asarray(np.nan_to_num(vector, posinf=0.0, neginf=0.0), np.float32)


def is_blank(features: Float32Array) -> bool:
    """Tell whether the slice is nearly constant, so that its pixels say nothing."""
    return _value(features, "std") < _BLANK_STD_LEVELS


def describe(features: Float32Array) -> tuple[str, ...]:
    """Say in short words what stands out, the most telling first.

    Parameters
    ----------
    features
        What :func:`measure` returned.
    """
    if is_blank(features):
        return ("nearly constant",)
    words = [*_colour_words(features), *_shape_words(features), *_texture_words(features)]
    return tuple(words) or ("nothing that stands out",)


def _value(features: Float32Array, name: str) -> float:
    return float(features[_INDEX[name]])


def _colour_words(features: Float32Array) -> list[str]:
    share = _value(features, "coloured_share")
    zero, border = _value(features, "zero_share"), _value(features, "border_level")
    words = []
    if share > 0.5:
        background = ", no background" if _value(features, "background_share") < 0.1 else ""
        words.append(f"colour{background}")
    elif share > 0.005:
        words.append(f"grey with {share:.0%} coloured")
    else:
        words.append("grey")
    if zero > 0.15:
        words.append(f"exact-zero background {zero:.0%}")
    elif border > 235 and _value(features, "background_share") > 0.2:
        words.append(f"white background {_value(features, 'background_share'):.0%}")
    return words


def _shape_words(features: Float32Array) -> list[str]:
    words = []
    if _value(features, "sector") > 0.35 and _value(features, "background_share") > 0.2:
        words.append("sector-shaped field of view")
    elif _value(features, "roundness") > 0.75:
        words.append("circular field of view")
    if _value(features, "mirror_correlation") > 0.9:
        words.append("left and right alike")
    if _value(features, "corner_detail") > 0.12:
        words.append("fine marks in the corners")
    aspect = 2.0 ** _value(features, "log_aspect")
    if aspect > 1.8 or aspect < 1 / 1.8:
        words.append(f"{aspect:.1f} times as wide as high")
    return words


def _texture_words(features: Float32Array) -> list[str]:
    words = []
    if _value(features, "equal_neighbours") > 0.6:
        words.append("flat areas as drawn graphics have")
    if _value(features, "speckle") > 0.5:
        words.append("contrast grows with brightness, as speckle does")
    if _value(features, "small_edge_share") > 0.35:
        words.append("dense edges")
    elif _value(features, "small_edge_share") < 0.04:
        words.append("hardly any edges")
    noise = _value(features, "noise_sigma")
    if noise > 6:
        words.append(f"noise of {noise:.0f} levels")
    return words


def _size(display: UInt8Array) -> dict[str, float]:
    height, width = display.shape[:2]
    return {
        "log_aspect": float(np.log2(width / height)),
        "log_side": float(np.log2(max(height, width))),
    }


def _colour(small: UInt8Array) -> dict[str, float]:
    names = ["coloured_share", "colourfulness", "saturation", *(f"hue_{i}" for i in range(_HUES))]
    found = dict.fromkeys(names, 0.0)
    if small.ndim == 2:
        return found
    red, green, blue = (small[:, :, channel].astype(np.float32) for channel in range(3))
    top = np.maximum(np.maximum(red, green), blue)
    spread = top - np.minimum(np.minimum(red, green), blue)
    coloured = spread > _CHROMA_LEVELS
    found["coloured_share"] = float(coloured.mean())
    # Hasler & Suesstrunk, Measuring colorfulness in natural images (SPIE 5007, 2003).
    first, second = red - green, (red + green) / 2 - blue
    found["colourfulness"] = float(
        np.hypot(first.std(), second.std()) + 0.3 * np.hypot(first.mean(), second.mean())
    )
    found["saturation"] = float((spread / np.maximum(top, 1)).mean())
    if coloured.any():
        r, g, b = red[coloured], green[coloured], blue[coloured]
        hue = np.arctan2(np.sqrt(3) * (g - b), 2 * r - g - b)
        sector = np.floor((hue / (2 * np.pi) + 1 / (2 * _HUES)) * _HUES).astype(int) % _HUES
        weights = spread[coloured]
        counts = np.bincount(sector, weights=weights, minlength=_HUES)
        # Weighted by how much of the picture is coloured at all.
        shares = counts / max(float(counts.sum()), _TINY) * found["coloured_share"]
        found.update({f"hue_{i}": float(shares[i]) for i in range(_HUES)})
    return found


def _levels(grey: UInt8Array) -> dict[str, float]:
    counts = np.bincount(grey.ravel(), minlength=256)
    shares = counts / counts.sum()
    levels = np.arange(256)
    mean = float(shares @ levels)
    std = float(np.sqrt(max(0.0, float(shares @ (levels - mean) ** 2))))
    third = float(shares @ (levels - mean) ** 3) / max(std, 1.0) ** 3
    fourth = float(shares @ (levels - mean) ** 4) / max(std, 1.0) ** 4
    cumulative = np.cumsum(shares)
    found = {f"p{q:02d}": float(np.searchsorted(cumulative, q / 100 - _TINY)) for q in _QUANTILES}
    some = shares[shares > 0]
    return found | {
        "mean": mean,
        "std": std,
        "skewness": float(np.clip(third, -8, 8)),
        "log_kurtosis": float(np.log1p(min(fourth, 1e4))),
        "entropy_bits": abs(float(-(some * np.log2(some)).sum())),
    }


def _exactness(grey: UInt8Array) -> dict[str, float]:
    counts = np.bincount(grey.ravel(), minlength=256)
    total = counts.sum()
    equal_x = equal_y = 0.0
    if grey.shape[1] > 1:
        beside, here = grey[:, 1:], grey[:, :-1]
        equal_x = float(((beside == here) & (here > 2)).sum()) / max(1, int((here > 2).sum()))
    if grey.shape[0] > 1:
        below, here = grey[1:], grey[:-1]
        equal_y = float(((below == here) & (here > 2)).sum()) / max(1, int((here > 2).sum()))
    return {
        "zero_share": float(counts[0] / total),
        "white_share": float(counts[255] / total),
        "near_zero_share": float(counts[1:6].sum() / total),
        "used_levels": float(np.count_nonzero(counts)),
        "top_level_share": float(counts[1:].max() / total),
        "equal_neighbours": (equal_x + equal_y) / 2,
    }


def _layout(grey: UInt8Array) -> dict[str, float]:
    height, width = grey.shape
    y = grey.astype(np.int16)
    border = np.concatenate((y[0], y[-1], y[:, 0], y[:, -1]))
    level = float(np.median(border))
    inside: Mask = np.abs(y - level) > _FOREGROUND_LEVELS
    rows = np.flatnonzero(inside.mean(axis=1) > 0.02)
    columns = np.flatnonzero(inside.mean(axis=0) > 0.02)
    if not (rows.size and columns.size):
        rows, columns = np.arange(height), np.arange(width)
    box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    body, values = inside[box], grey[box].astype(np.float32)
    corners = _corner_boxes(grey)
    air = y[~inside]
    return {
        "border_level": level,
        "border_std": float(border.std()),
        "background_share": 1.0 - float(inside.mean()),
        "background_std": float(air.std()) if air.size else 0.0,
        "box_height": body.shape[0] / height,
        "box_width": body.shape[1] / width,
        "box_fill": float(body.mean()),
        "touch_top": float(inside[0].mean()),
        "touch_bottom": float(inside[-1].mean()),
        "touch_left": float(inside[:, 0].mean()),
        "touch_right": float(inside[:, -1].mean()),
        "sector": _sector(body),
        "roundness": _roundness(body),
        "mirror_correlation": _correlation(values, values[:, ::-1]),
        "flip_correlation": _correlation(values, values[::-1]),
        "corner_detail": corners[0],
        "corner_mean": corners[1],
        "middle_over_rest": _middle_over_rest(values),
        "rim_over_core": _rim_over_core(values, body),
    }


def _sector(body: Mask) -> float:
    """How much wider the lower rows are than the upper ones, -1 to 1."""
    thirds = np.array_split(body, 3)
    if len(body) < 9:
        return 0.0
    upper = float(thirds[0][: max(1, len(thirds[0]) // 2)].mean())
    lower = float(thirds[1].mean())
    return (lower - upper) / max(lower + upper, _TINY)


def _roundness(body: Mask) -> float:
    """Share inside of the inscribed ellipse minus share in its corners, -1 to 1."""
    y = np.linspace(-1, 1, body.shape[0])[:, np.newaxis]
    x = np.linspace(-1, 1, body.shape[1])[np.newaxis, :]
    radius = np.hypot(y, x)
    inner, outer = body[radius < 0.97], body[radius > 1.03]
    if not (inner.size and outer.size):
        return 0.0
    return float(inner.mean()) - float(outer.mean())


def _corner_boxes(grey: UInt8Array) -> tuple[float, float]:
    """Mean step between neighbours in the corners, as a share of full scale, and mean level."""
    height, width = grey.shape
    tall, wide = max(1, height // 5), max(1, width // 5)
    boxes = [
        grey[ys, xs]
        for ys in (slice(tall), slice(-tall, None))
        for xs in (slice(wide), slice(-wide, None))
    ]
    y = np.stack(boxes).astype(np.float32)
    if min(tall, wide) < 2:
        return 0.0, float(y.mean())
    across, down = np.abs(np.diff(y, axis=2)), np.abs(np.diff(y, axis=1))
    return float((across.mean() + down.mean()) / 32), float(y.mean())


def _correlation(one: Float32Array, other: Float32Array) -> float:
    a, b = one - one.mean(), other - other.mean()
    scale = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / scale if scale > _TINY else 0.0


def _middle_over_rest(values: Float32Array) -> float:
    height, width = values.shape
    middle = values[height // 4 : -(height // 4) or None, width // 4 : -(width // 4) or None]
    return float(np.log((middle.mean() + 4) / (values.mean() + 4)))


def _rim_over_core(values: Float32Array, body: Mask) -> float:
    """Log ratio of the level at the rim of the foreground to its core; skull or compressed edge."""
    if body.sum() < 64:
        return 0.0
    core = body.copy()
    step = max(1, min(body.shape) // 16)
    for axis in (0, 1):
        for shift in (step, -step):
            core &= np.roll(body, shift, axis)
    core[:step] = core[-step:] = False
    core[:, :step] = core[:, -step:] = False
    rim = body & ~core
    if not (core.any() and rim.any()):
        return 0.0
    return float(np.log((values[rim].mean() + 4) / (values[core].mean() + 4)))


def _gradients(grey: UInt8Array, prefix: str) -> dict[str, float]:
    names = ("gradient", "edge_share", "strong_share", "upright", "axial", "laplacian", "ratio")
    found = dict.fromkeys((f"{prefix}_{name}" for name in names), 0.0)
    if min(grey.shape) < 3:
        return found
    y = grey.astype(np.float32)
    dx, dy = (y[1:-1, 2:] - y[1:-1, :-2]) / 2, (y[2:, 1:-1] - y[:-2, 1:-1]) / 2
    size = np.hypot(dx, dy)
    tissue = np.abs(y[1:-1, 1:-1] - float(np.median(y[:, [0, -1]]))) > _FOREGROUND_LEVELS
    chosen = size[tissue] if tissue.sum() >= 32 else size.ravel()
    contrast = float(y.std()) + 1.0
    energy_x, energy_y = float((dx * dx).sum()), float((dy * dy).sum())
    angle = np.arctan2(dy, dx)
    straight = np.abs(np.sin(2 * angle)) < 0.1
    laplacian = y[1:-1, 2:] + y[1:-1, :-2] + y[2:, 1:-1] + y[:-2, 1:-1] - 4 * y[1:-1, 1:-1]
    strong = size > 8
    return {
        f"{prefix}_gradient": float(np.log1p(chosen.mean())),
        f"{prefix}_edge_share": float((chosen > 0.2 * contrast).mean()),
        f"{prefix}_strong_share": float((chosen > 40).mean()),
        f"{prefix}_upright": float(np.log((energy_x + 1) / (energy_y + 1))),
        f"{prefix}_axial": float(straight[strong].mean()) if strong.any() else 0.0,
        f"{prefix}_laplacian": float(np.log1p(np.abs(laplacian).mean())),
        f"{prefix}_ratio": float(np.abs(laplacian).mean() / (size.mean() + 0.1)),
    }


def _spectrum(grey: UInt8Array, prefix: str) -> dict[str, float]:
    """Log power in rings of spatial frequency, relative to all of them, and anisotropy."""
    names = [*(f"{prefix}_power_{i}" for i in range(_BANDS)), f"{prefix}_anisotropy"]
    found = dict.fromkeys(names, 0.0)
    side = min(128, *grey.shape)
    if side < 16:
        return found
    y = _central(grey, side).astype(np.float32)
    taper = np.hanning(side).astype(np.float32)
    power = np.abs(np.fft.rfft2((y - y.mean()) * taper[:, np.newaxis] * taper)) ** 2
    fy = np.abs(np.fft.fftfreq(side))[:, np.newaxis]
    fx = np.fft.rfftfreq(side)[np.newaxis, :]
    radius = np.hypot(fy, fx)
    # Octaves from two cycles per side up, so that bands mean the same at every side.
    edges = np.geomspace(2 / 128, 0.5, _BANDS + 1)
    rings = np.digitize(radius, edges).ravel()
    sums = np.bincount(rings, weights=power.ravel(), minlength=_BANDS + 2)[1 : _BANDS + 1]
    total = float(sums.sum()) + 1.0
    found.update(
        {f"{prefix}_power_{i}": float(np.log(sums[i] / total + 1e-7)) for i in range(_BANDS)}
    )
    fine = radius > 0.1
    upright, level = float(power[fine & (fx > fy)].sum()), float(power[fine & (fx < fy)].sum())
    found[f"{prefix}_anisotropy"] = float(np.log((upright + 1) / (level + 1)))
    return found


def _blocks(grey: UInt8Array, prefix: str) -> dict[str, float]:
    """Statistics of 8 by 8 blocks: how contrast is spread, and how it follows brightness."""
    names = ["block_low", "block_middle", "block_high", "flat_blocks"]
    if prefix == "detail":
        names += ["speckle"]
    else:
        names += ["spread_correlation"]
    found = {name if name == "speckle" else f"{prefix}_{name}": 0.0 for name in names}
    rows, columns = grey.shape[0] // _BLOCK, grey.shape[1] // _BLOCK
    if rows * columns < 4:
        return found
    y = grey[: rows * _BLOCK, : columns * _BLOCK].astype(np.float32)
    tiles = y.reshape(rows, _BLOCK, columns, _BLOCK).transpose(0, 2, 1, 3).reshape(-1, _BLOCK**2)
    means, stds = tiles.mean(axis=1), tiles.std(axis=1)
    low, middle, high = np.percentile(stds, (10, 50, 90))
    found[f"{prefix}_block_low"] = float(np.log1p(low))
    found[f"{prefix}_block_middle"] = float(np.log1p(middle))
    found[f"{prefix}_block_high"] = float(np.log1p(high))
    found[f"{prefix}_flat_blocks"] = float((stds < 1.0).mean())
    lit = (means > 8) & (means < 247)
    follow = _correlation(means[lit], stds[lit]) if lit.sum() > 8 else 0.0
    found["speckle" if prefix == "detail" else f"{prefix}_spread_correlation"] = follow
    return found


def _grain(patch: UInt8Array) -> dict[str, float]:
    """Noise and the correlation of neighbours: interpolation, point spread, lateral resolution."""
    names = ("noise_sigma", "lag_x", "lag_y", "lag2_x", "lag2_y", "residual_kurtosis")
    found = dict.fromkeys(names, 0.0)
    if min(patch.shape) < 8:
        return found
    y = patch.astype(np.float32)
    across = y[:, :-2] + y[:, 2:] - 2 * y[:, 1:-1]
    # Immerkaer, Fast noise variance estimation (CVIU 64:300, 1996), by the median.
    mask = np.abs(across[:-2] + across[2:] - 2 * across[1:-1])
    found["noise_sigma"] = float(np.median(mask[::2, ::2])) * 1.4826 / 6.0
    smooth = (y[:, :-4] + y[:, 1:-3] + y[:, 2:-2] + y[:, 3:-1] + y[:, 4:]) / 5
    rest = y[:, 2:-2] - smooth
    square = rest * rest
    found["residual_kurtosis"] = float(
        np.log1p((square * square).mean() / max(float(square.mean()) ** 2, 1e-3))
    )
    for name, one, other in (
        ("lag_x", y[:, 1:], y[:, :-1]),
        ("lag_y", y[1:], y[:-1]),
        ("lag2_x", y[:, 3:], y[:, :-3]),
        ("lag2_y", y[3:], y[:-3]),
    ):
        # As a decorrelation: differences near one are what tells resolutions apart.
        found[name] = float(np.log(1.0001 - _correlation(one, other)))
    return found


def _compression(patch: UInt8Array) -> dict[str, float]:
    """Compare steps across every eighth column with the others: 8 by 8 JPEG blocks."""
    if patch.shape[1] < 32:
        return {"blockiness": 0.0}
    steps = np.abs(np.diff(patch.astype(np.int16), axis=1)).mean(axis=0)
    phases = np.array([steps[phase::8].mean() for phase in range(8)])
    return {"blockiness": float(np.log((phases.max() + 0.2) / (np.median(phases) + 0.2)))}


def _luminance(display: UInt8Array) -> UInt8Array:
    """ITU-R BT.601 luma, as Pillow computes it."""
    if display.ndim == 2:
        return display
    return np.asarray(Image.fromarray(np.ascontiguousarray(display)).convert("L"))


def _reduced(display: UInt8Array, side: int) -> UInt8Array:
    height, width = display.shape[:2]
    longer = max(height, width)
    if longer <= side:
        return display
    size = (max(1, round(width * side / longer)), max(1, round(height * side / longer)))
    image = Image.fromarray(np.ascontiguousarray(display))
    return np.asarray(image.resize(size, Image.Resampling.BOX, reducing_gap=2.0))


def _thinned(display: UInt8Array, side: int) -> UInt8Array:
    """Take the middle of large slices: exactness needs true neighbours."""
    height, width = display.shape[:2]
    if max(height, width) <= 2 * side:
        return display
    # Bands of whole rows and columns: keeps borders, which a central square would lose.
    rows = slice(None) if height <= side else slice((height - side) // 2, (height + side) // 2)
    return display[rows][:, :: max(1, width // (2 * side))]


def _central(display: UInt8Array, side: int) -> UInt8Array:
    height, width = display.shape[:2]
    top, left = max(0, (height - side) // 2), max(0, (width - side) // 2)
    return display[top : top + side, left : left + side]


def _names() -> tuple[str, ...]:
    grey = np.zeros((1, 1), np.uint8)
    parts = (
        _size(grey),
        _colour(grey),
        _levels(grey),
        _exactness(grey),
        _layout(grey),
        *(part(grey, scale) for part in (_gradients, _spectrum, _blocks) for scale in _SCALES),
        _grain(grey),
        _compression(grey),
    )
    return tuple(name for part in parts for name in part)


_SCALES: Final = ("small", "detail")
FEATURE_NAMES: Final = _names()
"""What each number of :func:`measure` is."""
_INDEX: Final = {name: place for place, name in enumerate(FEATURE_NAMES)}
