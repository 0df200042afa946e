"""What exports do to a picture, imitated: the same anatomy as other programs write it.

A head that has seen a class from two sources knows their compression, window and frame as well as
the class. Each copy goes through a chance chain of the steps that viewers, slides, papers and web
pages put between the scanner and the file. Every step keeps what the picture shows.
"""

from __future__ import annotations

import io
import string
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

UInt8Array = NDArray[np.uint8]
Rng = np.random.Generator

_MIN_SIDE: Final = 16
_MAX_SIDE: Final = 1024
_RESAMPLING: Final = (
    Image.Resampling.NEAREST,
    Image.Resampling.BOX,
    Image.Resampling.BILINEAR,
    Image.Resampling.BICUBIC,
    Image.Resampling.LANCZOS,
)
# Black through colour to white, as nuclear medicine and printers tint: control points of red,
# green and blue.
_PALETTES: Final = (
    ((0, 128, 255, 255, 255), (0, 0, 64, 192, 255), (0, 0, 0, 64, 255)),  # hot iron
    ((0, 60, 120, 190, 255), (0, 55, 108, 172, 240), (0, 45, 90, 145, 215)),  # sepia film
    ((0, 52, 112, 180, 250), (0, 60, 122, 190, 253), (0, 72, 140, 208, 255)),  # blue film base
)


def export(display: UInt8Array, rng: Rng) -> UInt8Array:
    """Return the picture as some export might have written it.

    Parameters
    ----------
    display
        uint8 ``[H, W]`` or ``[H, W, 3]``, at least one pixel.
    rng
        Decides everything; the same state gives the same copy.

    Returns
    -------
    ndarray
        uint8 ``[h, w]`` or ``[h, w, 3]``, no side longer than 1024 pixels.
    """
    picture = shrink(display, _MAX_SIDE)
    for step, probability in _CHAIN:
        if rng.random() < probability:
            picture = step(picture, rng)
    return shrink(picture, _MAX_SIDE)


def shrink(display: UInt8Array, max_side: int) -> UInt8Array:
    """Reduce a picture to a longer side, by area; a smaller one is returned as it is."""
    longer = max(display.shape[:2])
    return display if longer <= max_side else _resized(display, max_side / longer)


def mirror(display: UInt8Array, _rng: Rng) -> UInt8Array:
    """Exchange left and right."""
    return np.ascontiguousarray(display[:, ::-1])


def turn(display: UInt8Array, rng: Rng) -> UInt8Array:
    """Turn by 90, 180 or 270 degrees."""
    return np.ascontiguousarray(np.rot90(display, int(rng.integers(1, 4))))


def tilt(display: UInt8Array, rng: Rng) -> UInt8Array:
    """Turn by up to 25 degrees; what comes into sight is black."""
    image = Image.fromarray(np.ascontiguousarray(display))
    return np.asarray(image.rotate(float(rng.uniform(-25, 25)), Image.Resampling.BILINEAR))


def cut(display: UInt8Array, rng: Rng) -> UInt8Array:
    """Keep a rectangle of 45 to 97 percent of each side."""
    height, width = display.shape[:2]
    new_height = max(min(height, _MIN_SIDE), round(height * rng.uniform(0.45, 0.97)))
    new_width = max(min(width, _MIN_SIDE), round(width * rng.uniform(0.45, 0.97)))
    top = int(rng.integers(0, height - new_height + 1))
    left = int(rng.integers(0, width - new_width + 1))
    return display[top : top + new_height, left : left + new_width]


def window(display: UInt8Array, rng: Rng) -> UInt8Array:
    """Show another window: gain, offset and gamma, clipped at both ends."""
    levels = np.linspace(0, 1, 256)
    centre, gain = rng.uniform(0.35, 0.65), np.exp(rng.uniform(np.log(0.6), np.log(1.9)))
    curve = np.clip((levels - centre) * gain + 0.5 + rng.uniform(-0.12, 0.12), 0, 1)
    curve = curve ** np.exp(rng.uniform(np.log(0.55), np.log(1.8)))
    return np.asarray(np.rint(curve * 255).astype(np.uint8)[display])


def shade(display: UInt8Array, rng: Rng) -> UInt8Array:
    """Multiply by a smooth field of 0.5 to 1.5: coil, heel effect, gain, light."""
    height, width = display.shape[:2]
    coarse = Image.fromarray(rng.uniform(0.5, 1.5, (3, 3)).astype(np.float32))
    field = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
    shaded = display * (field if display.ndim == 2 else field[:, :, np.newaxis])
    return np.asarray(np.clip(np.rint(shaded), 0, 255).astype(np.uint8))


def sharpen(display: UInt8Array, rng: Rng) -> UInt8Array:
    """Mask unsharp, as consoles and picture programs do."""
    image = Image.fromarray(np.ascontiguousarray(display))
    radius, percent = float(rng.uniform(0.7, 3)), int(rng.integers(40, 200))
    return np.asarray(image.filter(ImageFilter.UnsharpMask(radius, percent, 0)))


def posterise(display: UInt8Array, rng: Rng) -> UInt8Array:
    """Keep 8 to 48 levels, as palettes do."""
    step = 256 / int(rng.integers(8, 49))
    table = np.clip(np.rint(np.floor(np.arange(256) / step) * step), 0, 255).astype(np.uint8)
    return np.asarray(table[display])


def invert(display: UInt8Array, _rng: Rng) -> UInt8Array:
    """Exchange black and white (MONOCHROME1 read as MONOCHROME2); colour stays."""
    return np.asarray(~display) if is_grey(display) else display


def tint(display: UInt8Array, rng: Rng) -> UInt8Array:
    """Colour a grey picture as film, paper or a nuclear medicine palette does."""
    if not is_grey(display):
        return display
    grey = display if display.ndim == 2 else display[:, :, 0]
    points = np.linspace(0, 255, 5)
    palette = _PALETTES[int(rng.integers(len(_PALETTES)))]
    tables = [np.rint(np.interp(np.arange(256), points, channel)) for channel in palette]
    return np.stack([table.astype(np.uint8)[grey] for table in tables], axis=2)


def recolour(display: UInt8Array, rng: Rng) -> UInt8Array:
    """Shift the white balance of a colour picture; grey stays."""
    if is_grey(display):
        return display
    gains = np.exp(rng.uniform(-0.2, 0.2, 3))
    return np.asarray(np.clip(np.rint(display * gains), 0, 255).astype(np.uint8))


def rescale(display: UInt8Array, rng: Rng) -> UInt8Array:
    """Resize with the filter of some program, down or up, sometimes there and back."""
    longer = max(display.shape[:2])
    target = np.exp(rng.uniform(np.log(96), np.log(_MAX_SIDE)))
    method = _RESAMPLING[int(rng.integers(len(_RESAMPLING)))]
    return _resized(display, float(target) / longer, method)


def stretch(display: UInt8Array, rng: Rng) -> UInt8Array:
    """Change the aspect ratio by up to a third, as pixels that are not square do."""
    height, width = display.shape[:2]
    factor = float(np.exp(rng.uniform(-0.28, 0.28)))
    image = Image.fromarray(np.ascontiguousarray(display))
    size = (max(1, round(width * factor)), max(1, height))
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR))


def smooth(display: UInt8Array, rng: Rng) -> UInt8Array:
    """Blur a little, by 0.3 to 1.5 pixels."""
    image = Image.fromarray(np.ascontiguousarray(display))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 1.5)))))


def roughen(display: UInt8Array, rng: Rng) -> UInt8Array:
    """Add normal noise of 1 to 8 levels, the same in all channels."""
    noise = rng.normal(0, rng.uniform(1, 8), display.shape[:2])
    noisy = display + (noise if display.ndim == 2 else noise[:, :, np.newaxis])
    return np.asarray(np.clip(np.rint(noisy), 0, 255).astype(np.uint8))


def frame(display: UInt8Array, rng: Rng) -> UInt8Array:
    """Put a uniform border around: letterbox, film edge, slide."""
    height, width = display.shape[:2]
    shares = rng.uniform(0, 0.25, 4) * (rng.random(4) < 0.6)
    top, bottom = (round(height * float(share)) for share in shares[:2])
    left, right = (round(width * float(share)) for share in shares[2:])
    level = int(rng.choice([0, 0, 0, 255, int(rng.integers(256))]))
    framed = np.full((height + top + bottom, width + left + right, *display.shape[2:]), level)
    framed = framed.astype(np.uint8)
    framed[top : top + height, left : left + width] = display
    return framed


def label(display: UInt8Array, rng: Rng) -> UInt8Array:
    """Burn lines of text into corners."""
    image = Image.fromarray(np.ascontiguousarray(display))
    height, width = display.shape[:2]
    if min(height, width) < 4 * _MIN_SIDE:
        return display
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=max(7, round(max(height, width) * rng.uniform(0.015, 0.04))))
    fill = _colour(image, int(rng.choice([255, 230, 200, 0])))
    for corner in rng.permutation(4)[: int(rng.integers(1, 5))]:
        text = "\n".join(_words(rng) for _ in range(int(rng.integers(1, 6))))
        box = draw.multiline_textbbox((0, 0), text, font=font)
        x = 4 if corner % 2 == 0 else max(4, width - round(box[2]) - 4)
        y = 4 if corner < 2 else max(4, height - round(box[3]) - 4)
        draw.multiline_text((x, y), text, font=font, fill=fill)
    return np.asarray(image)


def screenshot(display: UInt8Array, rng: Rng) -> UInt8Array:
    """Show the picture in the window of a viewer: title, tool bar, side panel, text."""
    height, width = display.shape[:2]
    if min(height, width) < 4 * _MIN_SIDE:
        return display
    dark = bool(rng.random() < 0.6)
    panel = int(rng.integers(15, 80)) if dark else int(rng.integers(180, 256))
    top = round(height * float(rng.uniform(0.04, 0.14)))
    left = round(width * float(rng.uniform(0, 0.3)))
    right = round(width * float(rng.choice([0, 0, 0.2])))
    size = (width + left + right, height + top)
    image = Image.new("RGB", size, (panel, panel, min(255, panel + int(rng.integers(0, 30)))))
    image.paste(Image.fromarray(np.ascontiguousarray(display)).convert("RGB"), (left, top))
    draw = ImageDraw.Draw(image)
    ink = (225, 225, 225) if dark else (30, 30, 30)
    font = ImageFont.load_default(size=max(7, round(height * 0.022)))
    for x in range(6, size[0] - top, max(8, round(top * 1.2))):
        if rng.random() < 0.6:
            shade = tuple(int(v) for v in rng.integers(60, 220, 3))
            draw.rectangle((x, top // 4, x + top // 2, top * 3 // 4), fill=shade)
    for y in range(top + 4, size[1] - 4, max(8, round(height * 0.05))):
        if left > 40 and rng.random() < 0.7:
            draw.text((4, y), _words(rng), font=font, fill=ink)
    # Panels are wider than the picture only by what is not covered by it.
    image.paste(Image.fromarray(np.ascontiguousarray(display)).convert("RGB"), (left, top))
    return np.asarray(image)


def compress(display: UInt8Array, rng: Rng) -> UInt8Array:
    """Go through JPEG with a quality of 25 to 95."""
    buffer = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(display))
    image.save(buffer, "JPEG", quality=int(rng.integers(25, 96)))
    return np.asarray(Image.open(buffer))


def is_grey(display: UInt8Array) -> bool:
    """Tell whether all channels are equal, next to what JPEG's chroma rounding does."""
    if display.ndim == 2:
        return True
    sample = display[:: max(1, len(display) // 128), :: max(1, display.shape[1] // 128)]
    spread = sample.max(axis=2).astype(np.int16) - sample.min(axis=2)
    return float((spread > 16).mean()) < 0.005


_CHAIN: Final[tuple[tuple[Callable[[UInt8Array, Rng], UInt8Array], float], ...]] = (
    (mirror, 0.4),
    (turn, 0.08),
    (tilt, 0.15),
    (cut, 0.5),
    (stretch, 0.2),
    (shade, 0.2),
    (window, 0.6),
    (invert, 0.12),
    (recolour, 0.4),
    (tint, 0.06),
    (posterise, 0.05),
    (sharpen, 0.15),
    (smooth, 0.2),
    (roughen, 0.15),
    (rescale, 0.5),
    (label, 0.2),
    (frame, 0.25),
    (screenshot, 0.1),
    (compress, 0.6),
)


def _resized(
    display: UInt8Array, scale: float, method: Image.Resampling = Image.Resampling.BOX
) -> UInt8Array:
    height, width = display.shape[:2]
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(np.ascontiguousarray(display)).resize(size, method))


def _words(rng: Rng) -> str:
    letters = string.ascii_uppercase + string.digits + " .:/-"
    return "".join(rng.choice(list(letters), int(rng.integers(3, 16))))


def _colour(image: Image.Image, level: int) -> int | tuple[int, int, int]:
    return level if image.mode == "L" else (level, level, level)
