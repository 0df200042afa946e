"""TIFF, BigTIFF and whole-slide pyramids by tifffile, with Pillow behind it."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import tifffile
from PIL import Image

from streams.pixels.image import AnyArray, DecodedImage, Float32Array, UInt8Array, WarningList, thin
from streams.pixels.limits import Limits
from streams.pixels.outcome import DecodeError
from streams.pixels.raster import present_gray, present_pillow
from streams.pixels.slices import SliceStrategy, choose_index

# The largest pyramid level whose longer side fits is read: enough for every view, never the base.
_MAX_LEVEL_SIDE = 2048
_MINISWHITE, _RGB, _PALETTE, _SEPARATED = 0, 2, 3, 5
_PHOTOMETRIC = {0: "MONOCHROME1", 1: "MONOCHROME2", 2: "RGB", 3: "PALETTE COLOR", 5: "CMYK"}
_YCBCR = 6


@dataclass(frozen=True, slots=True)
class _Plane:
    """The page, and the part of it, that stands for the file."""

    page: Any
    rows: int
    columns: int
    frames: int
    index: int
    contiguous_offset: int | None


def decode_tiff(
    stream: BinaryIO, size_bytes: int, strategy: SliceStrategy, limits: Limits
) -> DecodedImage:
    """Decode one page, or one pyramid level, of a TIFF file.

    Parameters
    ----------
    stream, size_bytes
        The file at its start, and its length.
    strategy
        Rule that chooses the page of a multi-page file.
    limits
        Bounds to hold.

    Raises
    ------
    DecodeError
        Among others ``too-many-pixels`` for a slide without a level that is small enough.
    """
    check_ifd_chain(stream, size_bytes, limits.max_pages)
    stream.seek(0)
    warnings = WarningList()
    with tifffile.TiffFile(stream, name="image.tif") as tif:
        plane = _choose_plane(tif, strategy)
        page = plane.page
        samples = int(page.samplesperpixel)
        if page.dtype is None:
            raise DecodeError("unsupported-layout", "unknown TIFF sample format")
        dtype = np.dtype(page.dtype)
        limits.check_frame(page.imagelength, page.imagewidth, samples * dtype.itemsize)
        _check_bytes(page, dtype, samples, plane)
        array = None if int(page.photometric) == _YCBCR else _read(tif, plane, dtype, limits)
        if array is None:
            return _by_pillow(stream, plane, strategy, limits, warnings)
        array, _ = thin(_last_plane(array, page), limits.max_kept_pixels, warnings)
        return _present(array, plane, dtype, strategy, warnings)


def check_ifd_chain(stream: BinaryIO, size_bytes: int, max_pages: int) -> int:
    """Walk the chain of image file directories, and refuse one that is endless.

    Parameters
    ----------
    stream, size_bytes
        The file at its start, and its length.
    max_pages
        Directories allowed.

    Returns
    -------
    int
        How many there are.

    Raises
    ------
    DecodeError
        ``corrupt`` for a loop or no header, ``too-many-elements`` beyond ``max_pages``.
    """
    head = stream.read(16)
    order = {b"II": "<", b"MM": ">"}.get(head[:2], "")
    if not order or len(head) < 8:
        raise DecodeError("corrupt", "it does not start with a TIFF header")
    big = struct.unpack_from(f"{order}H", head, 2)[0] == 43
    if big and len(head) < 16:
        raise DecodeError("truncated", "the BigTIFF header is cut short")
    count_format, offset_format, entry = ("Q", "Q", 20) if big else ("H", "L", 12)
    offset = struct.unpack_from(order + offset_format, head, 8 if big else 4)[0]
    seen: set[int] = set()
    while offset and offset + 2 <= size_bytes:
        if offset in seen:
            raise DecodeError("corrupt", "the directories form a loop")
        seen.add(offset)
        if len(seen) > max_pages:
            raise DecodeError("too-many-elements", f"it has more than {max_pages} pages")
        stream.seek(offset)
        raw = stream.read(struct.calcsize(order + count_format))
        if len(raw) < struct.calcsize(order + count_format):
            break
        entries = struct.unpack(order + count_format, raw)[0]
        at = offset + len(raw) + entries * entry
        if at >= size_bytes:
            break
        stream.seek(at)
        raw = stream.read(struct.calcsize(order + offset_format))
        if len(raw) < struct.calcsize(order + offset_format):
            break
        offset = struct.unpack(order + offset_format, raw)[0]
    if not seen:
        raise DecodeError("truncated", "the first directory lies beyond the end of the file")
    return len(seen)


def _choose_plane(tif: tifffile.TiffFile, strategy: SliceStrategy) -> _Plane:
    series = tif.series[0] if tif.series else None
    if series is None:
        page: Any = tif.pages.first
        return _Plane(page, page.imagelength, page.imagewidth, 1, 0, None)
    base: Any = series.keyframe
    rows, columns = int(base.imagelength), int(base.imagewidth)
    if len(series.levels) > 1:
        fitting = [
            level
            for level in series.levels
            if max(level.keyframe.imagelength, level.keyframe.imagewidth) <= _MAX_LEVEL_SIDE
        ]
        series = fitting[0] if fitting else series.levels[-1]
    keyframe: Any = series.keyframe
    plane_values = math.prod(keyframe.shape)
    frames = max(1, math.prod(series.shape) // max(1, plane_values))
    index = choose_index(strategy, frames)
    if len(series.pages) >= frames:
        page = series.pages[index] or keyframe
        if page is keyframe:
            index = 0 if frames == 1 else index
        return _Plane(page, rows, columns, frames, index, None)
    offset = series.dataoffset
    if offset is None:
        return _Plane(keyframe, rows, columns, frames, 0, None)
    # ImageJ and others describe one page and store all planes behind each other.
    size = plane_values * np.dtype(keyframe.dtype).itemsize
    return _Plane(keyframe, rows, columns, frames, index, offset + index * size)


def _check_bytes(page: Any, dtype: np.dtype[Any], samples: int, plane: _Plane) -> None:
    """Refuse an uncompressed page whose bytes are not there, before it is allocated."""
    if int(page.compression) != 1 or plane.contiguous_offset is not None:
        return
    bits = max(1, int(page.bitspersample))
    wanted = page.imagelength * page.imagewidth * samples * bits // 8
    size_bytes = page.parent.filehandle.size
    there = 0
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False):
        there += max(0, min(count, size_bytes - offset))
    if there < wanted // 2:
        raise DecodeError("truncated", f"the page needs {wanted} bytes and {there} are there")


def _read(
    tif: tifffile.TiffFile, plane: _Plane, dtype: np.dtype[Any], limits: Limits
) -> AnyArray | None:
    """Decode the plane; None when tifffile lacks the codec."""
    if plane.contiguous_offset is not None:
        stored = dtype.newbyteorder(tif.byteorder)
        shape = plane.page.shape
        size = math.prod(shape) * dtype.itemsize
        if size > limits.max_frame_bytes:
            raise DecodeError("too-many-bytes", f"one plane has {size} bytes")
        tif.filehandle.seek(plane.contiguous_offset)
        raw = tif.filehandle.read(size)
        if len(raw) < size:
            raise DecodeError("truncated", f"the plane needs {size} bytes, {len(raw)} are there")
        return np.frombuffer(raw, stored).astype(dtype).reshape(shape)
    try:
        array: AnyArray = plane.page.asarray(maxworkers=1)
    except (MemoryError, RecursionError):
        raise
    except Exception:  # noqa: BLE001 - a codec that is not there, or damage: Pillow tells them apart
        return None
    return array


def _last_plane(array: AnyArray, page: Any) -> AnyArray:
    """Reduce to ``[H, W]`` or ``[H, W, C]``."""
    rows, columns = int(page.imagelength), int(page.imagewidth)
    array = array.reshape([n for n in array.shape if n != 1] or [1])
    if array.ndim == 3 and array.shape[1:] == (rows, columns) and array.shape[2] != 1:
        planar = array.shape[:2] != (rows, columns) or int(page.planarconfig) == 2
        if planar:
            array = array.transpose(1, 2, 0)
    if array.size == rows * columns:
        return array.reshape(rows, columns)
    if array.ndim == 3 and array.shape[:2] == (rows, columns):
        return array
    squeezed = array.reshape(-1, rows, columns) if array.size % (rows * columns) == 0 else None
    if squeezed is None:
        raise DecodeError("unsupported-layout", f"a page of {array.ndim} dimensions")
    chosen: AnyArray = squeezed[len(squeezed) // 2]
    return chosen


def _present(
    array: AnyArray,
    plane: _Plane,
    dtype: np.dtype[Any],
    strategy: SliceStrategy,
    warnings: WarningList,
) -> DecodedImage:
    photometric = int(plane.page.photometric)
    values: Float32Array | None = None
    windowing = "colour"
    if np.issubdtype(array.dtype, np.complexfloating):
        array = np.abs(array)
    display: UInt8Array
    if photometric == _PALETTE and array.ndim == 2 and plane.page.colormap is not None:
        colormap = np.asarray(plane.page.colormap)
        table = (colormap >> 8 if colormap.max() > 0xFF else colormap).astype(np.uint8).T
        display = table[np.minimum(array, len(table) - 1)]
    elif array.ndim == 3 and array.shape[2] >= 3 and photometric in (_RGB, _SEPARATED):
        display = _colour(array, photometric)
    else:
        if array.ndim == 3:
            if array.shape[2] > 2:
                warnings.add("channels-dropped")
            array = np.ascontiguousarray(array[:, :, 0])
        invert = photometric == _MINISWHITE
        if array.dtype == np.uint8:
            display, windowing = array ^ np.uint8(255) if invert else array, "identity"
            values = array.astype(np.float32)
        else:
            display, values, windowing = present_gray(array, warnings, invert=invert)
    return DecodedImage(
        format="tiff",
        display=np.ascontiguousarray(display),
        values=values,
        unit="raw",
        frames=plane.frames,
        rows=plane.rows,
        columns=plane.columns,
        samples=int(plane.page.samplesperpixel),
        bits_stored=min(64, int(plane.page.bitspersample)),
        photometric=_PHOTOMETRIC.get(photometric, "UNKNOWN"),
        slice_strategy=strategy,
        slice_index=plane.index,
        windowing=windowing,
        pixel_spacing_mm=None,
        warnings=warnings.done(),
    )


def _colour(array: AnyArray, photometric: int) -> UInt8Array:
    if array.dtype != np.uint8:
        if np.issubdtype(array.dtype, np.floating):
            top = float(np.nanmax(array)) if np.isfinite(array).any() else 1.0
            scale = 255.0 if top <= 1.0 else 255.0 / max(top, 1e-30)
            array = np.nan_to_num(np.clip(array * scale, 0, 255))
        else:
            shift = 8 * (array.dtype.itemsize - 1)
            array = np.clip(array >> shift if int(array.max()) > 0xFF else array, 0, 255)
        array = array.astype(np.uint8)
    if photometric == _SEPARATED and array.shape[2] >= 4:
        inks = np.ascontiguousarray(array[:, :, :4])
        return np.asarray(Image.fromarray(inks, "CMYK").convert("RGB"))
    return array[:, :, :3]


def _by_pillow(
    stream: BinaryIO,
    plane: _Plane,
    strategy: SliceStrategy,
    limits: Limits,
    warnings: WarningList,
) -> DecodedImage:
    """Read the same page with libtiff, which has the codecs that tifffile lacks."""
    number = plane.page.index
    if not isinstance(number, int):
        raise DecodeError("unsupported-compression", "no decoder reaches this pyramid level")
    warnings.add("fallback-decoder")
    stream.seek(0)
    with Image.open(stream, formats=("TIFF",)) as image:
        if number:
            image.seek(number)
        limits.check_frame(image.height, image.width, 4)
        return present_pillow(
            image,
            name="tiff",
            rows=plane.rows,
            columns=plane.columns,
            frames=plane.frames,
            index=plane.index,
            strategy=strategy,
            limits=limits,
            warnings=warnings,
        )
