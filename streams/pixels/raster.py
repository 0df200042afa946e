"""PNG, JPEG, BMP, WebP and GIF by Pillow."""

from __future__ import annotations

from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps

from streams.pixels.encapsulated import codestream_size
from streams.pixels.image import AnyArray, DecodedImage, Float32Array, UInt8Array, WarningList, thin
from streams.pixels.limits import Limits
from streams.pixels.outcome import DecodeError
from streams.pixels.slices import SliceStrategy, choose_index
from streams.pixels.windowing import (
    ModalityTransform,
    Voi,
    display_floats,
    display_integers,
)

PILLOW_FORMATS = {"png": "PNG", "jpeg": "JPEG", "bmp": "BMP", "webp": "WEBP", "gif": "GIF"}
_ANIMATED = frozenset({"gif", "webp"})
# Above this a JPEG is decoded at half, a quarter or an eighth of its size by the codec itself.
_JPEG_FULL_PIXELS = 16_777_216
# A frame header stands behind the metadata, of which 64 KiB is the most that one segment holds.
_JPEG_HEADER_BYTES = 262_144


def decode_raster(
    stream: BinaryIO, size_bytes: int, name: str, strategy: SliceStrategy, limits: Limits
) -> DecodedImage:
    """Decode a PNG, JPEG, BMP, WebP or GIF file.

    Transparency is composited on black, the background of medical viewers. EXIF orientation is
    applied.

    Parameters
    ----------
    stream, size_bytes
        The file at its start, and its length.
    name
        A key of ``PILLOW_FORMATS``.
    strategy
        Rule that chooses the frame of an animation.
    limits
        Bounds to hold.
    """
    warnings = WarningList()
    frames = 1
    if name == "gif":
        frames = count_gif_frames(stream, size_bytes, limits.max_pages)
        stream.seek(0)
    if name == "jpeg":
        coded = codestream_size(stream.read(_JPEG_HEADER_BYTES))
        stream.seek(0)
        if coded is not None and coded.bits != 8:
            raise DecodeError("unsupported-compression", f"a JPEG of {coded.bits} bits")
    with Image.open(stream, formats=(PILLOW_FORMATS[name],)) as image:
        columns, rows = image.size
        limits.check_frame(rows, columns, 4)
        if name == "webp":
            frames = int(getattr(image, "n_frames", 1))
        index = 0
        if name in _ANIMATED and frames > 1:
            index = choose_index(strategy, frames)
            reachable = max(0, limits.max_animation_pixels // (rows * columns) - 1)
            if index > reachable:
                index = reachable
                warnings.add("first-frame")
            image.seek(index)
        if name == "jpeg" and rows * columns > _JPEG_FULL_PIXELS:
            _draft(image)
        return present_pillow(
            image,
            name=name,
            rows=rows,
            columns=columns,
            frames=frames,
            index=index,
            strategy=strategy,
            limits=limits,
            warnings=warnings,
        )


def _draft(image: Image.Image) -> None:
    side = max(image.size)
    scale = 8
    while scale > 1 and (side // scale) < 2048:
        scale //= 2
    if scale > 1:
        image.draft(image.mode, (image.width // scale, image.height // scale))


def count_gif_frames(stream: BinaryIO, size_bytes: int, max_frames: int) -> int:
    """Count the images of a GIF by stepping over its blocks, decoding nothing.

    Parameters
    ----------
    stream, size_bytes
        The file at its start, and its length.
    max_frames
        Where to stop counting.

    Returns
    -------
    int
        At least 1; what was counted when the file is cut short (GIF89a, appendix A).
    """
    head = stream.read(13)
    if len(head) < 13:
        return 1
    position = 13 + (3 * (2 << (head[10] & 7)) if head[10] & 0x80 else 0)
    frames = 0
    while position < size_bytes and frames < max_frames:
        stream.seek(position)
        kind = stream.read(1)
        if kind == b"!":
            position += 2
        elif kind == b",":
            descriptor = stream.read(9)
            if len(descriptor) < 9:
                break
            frames += 1
            local = 3 * (2 << (descriptor[8] & 7)) if descriptor[8] & 0x80 else 0
            position += 10 + local + 1
        else:
            break
        stream.seek(position)
        while True:
            length = stream.read(1)
            if not length or length == b"\0":
                break
            stream.seek(length[0], 1)
        position = stream.tell()
    return max(1, frames)


def present_pillow(
    image: Image.Image,
    *,
    name: str,
    rows: int,
    columns: int,
    frames: int,
    index: int,
    strategy: SliceStrategy,
    limits: Limits,
    warnings: WarningList,
) -> DecodedImage:
    """Load an opened Pillow image and turn it into a decoded slice.

    Parameters
    ----------
    image
        Positioned at the frame to show, not loaded yet.
    name, rows, columns, frames, index, strategy
        What the result says about the source.
    limits, warnings
        As everywhere in this room.
    """
    bands = len(image.getbands())
    mode = image.mode
    image.load()
    oriented = _upright(image)
    if oriented.size != image.size and (columns > rows) != (oriented.width > oriented.height):
        rows, columns = columns, rows
    values: Float32Array | None = None
    windowing = "identity"
    bits = 8
    display: UInt8Array
    if mode.startswith("I") or mode == "F":
        array, _ = thin(np.asarray(oriented), limits.max_kept_pixels, warnings)
        bits = 16 if mode.startswith("I;16") else 32
        display, values, windowing = present_gray(array, warnings)
    elif mode in ("1", "L"):
        if mode == "1":
            oriented, bits = oriented.convert("L"), 1
        gray: UInt8Array = np.asarray(oriented)
        display, _ = thin(gray, limits.max_kept_pixels, warnings)
        values = display.astype(np.float32)
    else:
        windowing = "colour"
        display = _rgb(oriented, warnings)
        display, _ = thin(display, limits.max_kept_pixels, warnings)
        if mode in ("LA", "La"):
            display = display[:, :, 0]
            values, windowing = display.astype(np.float32), "identity"
    return DecodedImage(
        format=name,
        display=np.ascontiguousarray(display),
        values=values,
        unit="raw",
        frames=frames,
        rows=rows,
        columns=columns,
        samples=bands,
        bits_stored=bits,
        photometric=_photometric(mode),
        slice_strategy=strategy,
        slice_index=index,
        windowing=windowing,
        pixel_spacing_mm=None,
        warnings=warnings.done(),
    )


def present_gray(
    array: AnyArray, warnings: WarningList, *, invert: bool = False
) -> tuple[UInt8Array, Float32Array, str]:
    """Show gray pixels of more than 8 bits, or floats, by percentiles."""
    values: Float32Array = array.astype(np.float32)
    nothing = Voi()
    if np.issubdtype(array.dtype, np.floating):
        display, windowing = display_floats(
            values, nothing, invert=invert, padding=None, warnings=warnings
        )
    else:
        display, windowing = display_integers(
            array, ModalityTransform(), nothing, invert=invert, padding=None, warnings=warnings
        )
    return display, values, windowing


def _upright(image: Image.Image) -> Image.Image:
    try:
        turned: Image.Image | None = ImageOps.exif_transpose(image)
    except Exception:  # noqa: BLE001 - damaged EXIF raises in many ways and matters little
        return image
    return image if turned is None else turned


def _rgb(image: Image.Image, warnings: WarningList) -> UInt8Array:
    has_alpha = image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
    if not has_alpha:
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    rgba: UInt8Array = np.asarray(image.convert("RGBA"))
    alpha = rgba[:, :, 3]
    if not alpha.any():
        warnings.add("alpha-ignored")
        return rgba[:, :, :3]
    if alpha.min() == 255:
        return rgba[:, :, :3]
    weighted: np.ndarray[Any, np.dtype[np.uint16]] = rgba[:, :, :3].astype(np.uint16)
    weighted *= alpha[:, :, np.newaxis]
    weighted += 127
    weighted //= 255
    return weighted.astype(np.uint8)


def _photometric(mode: str) -> str:
    if mode in ("P", "PA"):
        return "PALETTE COLOR"
    if mode in ("CMYK", "YCbCr"):
        return {"CMYK": "CMYK", "YCbCr": "YBR_FULL"}[mode]
    if mode.startswith(("RGB", "HSV", "LAB")):
        return "RGB"
    return "MONOCHROME2"
