"""DICOM to one representative frame."""

from __future__ import annotations

import io
import math
import struct
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

import numpy as np
from PIL import Image
from pydicom.pixels import get_decoder  # type: ignore[attr-defined]
from pydicom.uid import (
    JPEG2000,
    UID,
    ImplicitVRLittleEndian,
    JPEG2000TransferSyntaxes,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
    RLELossless,
)

from streams.pixels.dicom_header import (
    GE_PRIVATE_BIG_ENDIAN_PIXELS,
    DicomHeader,
    ImagePixelModule,
    functional_groups,
    image_pixel_module,
    modality_transform,
    padding_range,
    pixel_spacing_mm,
    read_header,
    value_of,
    voi,
)
from streams.pixels.encapsulated import (
    Frames,
    codestream_size,
    encapsulate,
    locate_frames,
    repair_scan_header,
)
from streams.pixels.image import AnyArray, DecodedImage, UInt8Array, WarningList, thin
from streams.pixels.limits import Limits
from streams.pixels.outcome import DecodeError, NoPixels, is_control_flow
from streams.pixels.palette import apply_palette
from streams.pixels.slices import SliceStrategy, choose_index
from streams.pixels.source import GZIP_MAGIC, gunzip, inflate
from streams.pixels.windowing import display_floats, display_integers

_NATIVE = frozenset(
    {
        "1.2.840.10008.1.2",
        "1.2.840.10008.1.2.1",
        "1.2.840.10008.1.2.1.99",
        "1.2.840.10008.1.2.2",
        GE_PRIVATE_BIG_ENDIAN_PIXELS,
    }
)
_ENCAPSULATED_UNCOMPRESSED = "1.2.840.10008.1.2.1.98"
_DEFLATED_IMAGE_FRAME = "1.2.840.10008.1.2.8.1"
_VIDEO_PREFIXES = ("1.2.840.10008.1.2.4.10", "1.2.840.10008.1.2.7.")
_JPEG_FAMILY = frozenset(
    {
        *JPEGTransferSyntaxes,
        *JPEGLSTransferSyntaxes,
        *JPEG2000TransferSyntaxes,
    }
)
# A native frame cut short is padded when at least this share is there.
_MIN_SHARE = 0.5
# A codestream somewhat larger than Rows x Columns is believed; one far larger is damage or a bomb.
_MAX_GROWTH = 2


@dataclass(frozen=True, slots=True)
class _Frame:
    """One decoded frame: pixels, what they mean, and which of how many it is."""

    array: AnyArray
    photometric: str
    index: int
    frames: int


def decode_dicom(
    stream: BinaryIO, size_bytes: int, strategy: SliceStrategy, limits: Limits
) -> DecodedImage | NoPixels:
    """Decode one frame of a DICOM file and window it.

    Parameters
    ----------
    stream, size_bytes
        The file at its start (Part 10, headerless, or either of them gzipped) and its length.
    strategy
        Rule that chooses the frame.
    limits
        Bounds to hold.

    Raises
    ------
    DecodeError
        When there are pixels that cannot be read.
    """
    warnings = WarningList()
    if stream.read(2) == GZIP_MAGIC:
        stream.seek(0)
        unzipped = gunzip(stream, limits.max_decompressed_bytes)
        stream, size_bytes = io.BytesIO(unzipped), len(unzipped)
    stream.seek(0)
    header = read_header(stream, size_bytes, limits, warnings)
    if isinstance(header, NoPixels):
        return header
    if header.transfer_syntax.startswith(_VIDEO_PREFIXES):
        raise DecodeError("unsupported-transfer-syntax", "video is not decoded")
    module = image_pixel_module(header, warnings)
    limits.check_frame(module.rows, module.columns, module.samples * module.bytes_per_sample)
    if header.pixels.length_bytes == 0:
        raise DecodeError("truncated", "the pixel data element has no bytes")

    if header.pixels.length_bytes is not None:
        if header.transfer_syntax not in _NATIVE:
            warnings.add("encapsulation")
        frame = _native(header, module, strategy, warnings)
    else:
        frame, module = _encapsulated(header, module, strategy, limits, warnings)
    return _present(header, module, frame, strategy=strategy, limits=limits, warnings=warnings)


def _native(
    header: DicomHeader, module: ImagePixelModule, strategy: SliceStrategy, warnings: WarningList
) -> _Frame:
    length_bytes = header.pixels.length_bytes or 0
    subsampled = module.photometric in ("YBR_FULL_422", "YBR_PARTIAL_422") and module.samples == 3
    pixels = module.rows * module.columns
    samples = 2 if subsampled else module.samples
    if subsampled and length_bytes >= pixels * 3 * module.frames:
        # Says 4:2:2 and stores full samples: a common slip of writers.
        subsampled, samples = False, 3
    frame_bits = pixels * samples * module.bits_allocated
    available = max(1, length_bytes * 8 // frame_bits)
    frames = module.frames
    if frames > available:
        warnings.add("frame-count")
        frames = available
    index = choose_index(strategy, frames)
    first_bit = index * frame_bits
    raw = _read_native(header, module, first_bit, frame_bits)
    wanted = math.ceil((first_bit % 8 + frame_bits) / 8)
    if len(raw) < wanted:
        if len(raw) < _MIN_SHARE * wanted:
            raise DecodeError(
                "truncated", f"the frame needs {wanted} bytes and {len(raw)} are there"
            )
        warnings.add("truncated-pixels")
        raw = raw + bytes(wanted - len(raw))
    array = _shape_native(
        raw, header, module, first_bit % 8, subsampled=subsampled, warnings=warnings
    )
    return _Frame(array, module.photometric, index, frames)


def _read_native(
    header: DicomHeader, module: ImagePixelModule, first_bit: int, frame_bits: int
) -> bytes:
    """Read the bytes that hold the frame, with the word swap of big endian OW undone."""
    start, end = first_bit // 8, math.ceil((first_bit + frame_bits) / 8)
    swap = header.big_endian and module.bits_allocated == 8 and header.pixels.vr == "OW"
    low, high = (start - start % 2, end + end % 2) if swap else (start, end)
    high = min(high, header.pixels.length_bytes or 0)
    stream = header.pixels.stream
    stream.seek(header.pixels.offset + low)
    raw = stream.read(high - low)
    if swap:
        even = raw[: len(raw) - len(raw) % 2]
        raw = np.frombuffer(even, "<u2").byteswap().tobytes()
        raw = raw[start - low : start - low + (end - start)]
    return raw


def _shape_native(
    raw: bytes,
    header: DicomHeader,
    module: ImagePixelModule,
    skip_bits: int,
    *,
    subsampled: bool,
    warnings: WarningList,
) -> AnyArray:
    rows, columns, samples = module.rows, module.columns, module.samples
    if module.bits_allocated == 1:
        bits = np.unpackbits(np.frombuffer(raw, np.uint8), bitorder="little")
        flat: AnyArray = bits[skip_bits : skip_bits + rows * columns * samples]
    else:
        dtype = module.dtype(big_endian=header.big_endian)
        flat = np.frombuffer(raw, dtype)
        if not dtype.isnative:
            flat = flat.astype(dtype.newbyteorder("="))
        flat = _significant_bits(flat, module, warnings)
    if subsampled:
        flat = _expand_422(flat)[: rows * columns * 3]
        if flat.size < rows * columns * 3:
            raise DecodeError("inconsistent-header", "4:2:2 data of an odd number of pixels")
        return flat.reshape(rows, columns, 3)
    if samples == 1:
        return flat.reshape(rows, columns)
    if module.planar:
        return flat.reshape(samples, rows, columns).transpose(1, 2, 0)
    return flat.reshape(rows, columns, samples)


def _significant_bits(flat: AnyArray, module: ImagePixelModule, warnings: WarningList) -> AnyArray:
    """Drop bits beside the stored ones (overlays, padding) and extend the sign (PS3.5 8.1.1)."""
    if module.keyword != "PixelData" or module.bits_stored == module.bits_allocated:
        return flat
    if module.high_bit != module.bits_stored - 1:
        warnings.add("high-bit")
    left = module.bits_allocated - 1 - module.high_bit
    right = module.bits_allocated - module.bits_stored
    return np.right_shift(np.left_shift(flat, left), right)


def _expand_422(flat: AnyArray) -> AnyArray:
    """Y1 Y2 Cb Cr to two full pixels (PS3.3 C.7.6.3.1.2)."""
    groups = flat[: flat.size - flat.size % 4].reshape(-1, 4)
    return groups[:, [0, 2, 3, 1, 2, 3]].reshape(-1)


def _encapsulated(
    header: DicomHeader,
    module: ImagePixelModule,
    strategy: SliceStrategy,
    limits: Limits,
    warnings: WarningList,
) -> tuple[_Frame, ImagePixelModule]:
    pixels = header.pixels
    extended = None
    offsets = value_of(header.dataset, "ExtendedOffsetTable")
    lengths = value_of(header.dataset, "ExtendedOffsetTableLengths")
    if isinstance(offsets, bytes) and isinstance(lengths, bytes):
        extended = (offsets, lengths)
    located = locate_frames(
        pixels.stream,
        pixels.offset,
        pixels.size_bytes,
        frames=module.frames,
        extended=extended,
        limits=limits,
    )
    frames = len(located.fragments)
    if frames < module.frames:
        warnings.add("frame-count")
    frames = min(frames, module.frames)
    index = choose_index(strategy, frames)
    codestream = located.read(pixels.stream, index, limits.max_frame_bytes)
    syntax = _effective_syntax(header.transfer_syntax, codestream, warnings)
    if syntax in (_ENCAPSULATED_UNCOMPRESSED, _DEFLATED_IMAGE_FRAME):
        array = _plain_fragment(
            codestream, syntax, header=header, module=module, limits=limits, warnings=warnings
        )
        return _Frame(array, module.photometric, index, frames), module
    size = codestream_size(codestream) if syntax in _JPEG_FAMILY else None
    if syntax in _JPEG_FAMILY and size is None:
        raise DecodeError(
            "corrupt" if located.complete else "truncated",
            f"frame {index} has no {UID(syntax).name} frame header",
        )
    if size is not None:
        rows, columns, components, bits = size
        limits.check_frame(rows, columns, components * (1 if bits <= 8 else 2))
        if rows * columns > _MAX_GROWTH * module.rows * module.columns:
            raise DecodeError(
                "inconsistent-header",
                f"the header says {module.rows} x {module.columns} pixels, "
                f"the codestream {rows} x {columns}",
            )
        if (rows, columns) != (module.rows, module.columns):
            warnings.add("frame-size")
            module = replace(module, rows=rows, columns=columns)
        if components in (1, 3, 4) and components != module.samples:
            warnings.add("photometric")
            photometric = "MONOCHROME2" if components == 1 else "RGB"
            module = replace(module, samples=components, photometric=photometric)
    array, photometric = _decompress(codestream, syntax, module, located, index)
    return _Frame(array, photometric, index, frames), module


def _effective_syntax(declared: str, codestream: bytes, warnings: WarningList) -> str:
    """Return the transfer syntax the codestream is in; the declared one unless it is native."""
    if declared not in _NATIVE:
        return declared
    warnings.add("encapsulation")
    if codestream.startswith(b"\xff\xd8"):
        if b"\xff\xf7" in codestream[:4096]:
            return str(JPEGLSLossless)
        return str(JPEGLosslessSV1 if b"\xff\xc3" in codestream[:65_536] else JPEGBaseline8Bit)
    if b"\xff\x4f\xff\x51" in codestream[:4096]:
        return str(JPEG2000)
    if len(codestream) > 64 and 1 <= struct.unpack("<L", codestream[:4])[0] <= 15:
        return str(RLELossless)
    return _ENCAPSULATED_UNCOMPRESSED


def _plain_fragment(
    codestream: bytes,
    syntax: str,
    *,
    header: DicomHeader,
    module: ImagePixelModule,
    limits: Limits,
    warnings: WarningList,
) -> AnyArray:
    wanted = math.ceil(module.rows * module.columns * module.samples * module.bits_allocated / 8)
    if syntax == _DEFLATED_IMAGE_FRAME:
        # One byte may pad the frame to even length.
        codestream = inflate(io.BytesIO(codestream), min(wanted + 1, limits.max_frame_bytes + 1))
    if len(codestream) < wanted:
        raise DecodeError(
            "truncated", f"the frame needs {wanted} bytes and {len(codestream)} are there"
        )
    return _shape_native(
        codestream[:wanted], header, module, 0, subsampled=False, warnings=warnings
    )


def _decompress(
    codestream: bytes, syntax: str, module: ImagePixelModule, located: Frames, index: int
) -> tuple[AnyArray, str]:
    try:
        decoder = get_decoder(UID(syntax))
    except NotImplementedError:
        raise DecodeError(
            "unsupported-transfer-syntax", "no decoder for the transfer syntax"
        ) from None
    options: dict[str, Any] = {
        "rows": module.rows,
        "columns": module.columns,
        "samples_per_pixel": module.samples,
        "photometric_interpretation": module.photometric,
        "number_of_frames": 1,
        "bits_allocated": module.bits_allocated,
        "bits_stored": module.bits_stored,
        "pixel_representation": int(module.signed),
        "pixel_keyword": "PixelData",
        "planar_configuration": int(module.planar),
    }
    # The order matters for RLE only: pydicom's own decoder there is pure Python.
    plugins = ("pylibjpeg", "") if syntax == RLELossless else ("",)
    attempts = [(plugin, codestream) for plugin in plugins]
    repaired = repair_scan_header(codestream) if syntax in JPEGTransferSyntaxes else None
    if repaired is not None:
        attempts.append(("", repaired))
    for plugin, encoded in attempts:
        try:
            array, properties = decoder.as_array(
                encapsulate(encoded), index=0, raw=True, decoding_plugin=plugin, **options
            )
        except BaseException as error:
            if is_control_flow(error) or isinstance(error, (MemoryError, RecursionError)):
                raise
            continue  # a codec raises what it likes; the next one may do
        return array, str(properties["photometric_interpretation"])
    last = index == len(located.fragments) - 1
    raise DecodeError(
        "truncated" if last and not located.complete else "corrupt",
        f"no decoder could read frame {index} as {UID(syntax).name}",
    )


def _present(
    header: DicomHeader,
    module: ImagePixelModule,
    frame: _Frame,
    *,
    strategy: SliceStrategy,
    limits: Limits,
    warnings: WarningList,
) -> DecodedImage:
    places = functional_groups(header.dataset, frame.index)
    array, _ = thin(frame.array, limits.max_kept_pixels, warnings)
    values = None
    unit, windowing = "raw", "colour"
    if frame.photometric == "PALETTE COLOR":
        big_endian_tables = header.big_endian and header.transfer_syntax != str(
            ImplicitVRLittleEndian
        )
        display = apply_palette(array, header.dataset, big_endian=big_endian_tables)
    elif array.ndim == 3:
        display = _colour(array, module, frame.photometric)
    else:
        invert = frame.photometric == "MONOCHROME1"
        transform, unit = modality_transform(places, module, warnings)
        contrast = voi(places, module, warnings)
        values = transform.apply_float32(array)
        if np.issubdtype(array.dtype, np.floating):
            display, windowing = display_floats(
                values, contrast, invert=invert, padding=None, warnings=warnings
            )
        else:
            display, windowing = display_integers(
                array,
                transform,
                contrast,
                invert=invert,
                padding=padding_range(header.dataset, module),
                warnings=warnings,
            )
    return DecodedImage(
        format="dicom",
        display=np.ascontiguousarray(display),
        values=values,
        unit=unit,
        frames=frame.frames,
        rows=module.rows,
        columns=module.columns,
        samples=module.samples,
        bits_stored=module.bits_stored,
        photometric=module.photometric,
        slice_strategy=strategy,
        slice_index=frame.index,
        windowing=windowing,
        pixel_spacing_mm=pixel_spacing_mm(places),
        warnings=warnings.done(),
    )


def _colour(array: AnyArray, module: ImagePixelModule, photometric: str) -> UInt8Array:
    """Three or four samples of any depth to 8-bit RGB."""
    if array.dtype.itemsize > 1:
        shift = max(0, module.bits_stored - 8)
        array = np.clip(array >> shift, 0, 255)
    array = np.ascontiguousarray(array, dtype=np.uint8)
    if module.bits_allocated == 1:
        array = array * np.uint8(255)
    if array.shape[2] == 4:
        if photometric == "CMYK":
            return np.asarray(Image.fromarray(array, "CMYK").convert("RGB"))
        return array[:, :, 1:4] if photometric == "ARGB" else array[:, :, :3]
    if photometric in ("YBR_FULL", "YBR_FULL_422"):
        return np.asarray(Image.fromarray(array, "YCbCr").convert("RGB"))
    if photometric.startswith("YBR_PARTIAL"):
        # Studio range (PS3.3 C.7.6.3.1.2): stretch to full range, then the same matrix.
        stretched = np.empty_like(array)
        luma = (array[:, :, 0].astype(np.float32) - 16.0) * np.float32(255.0 / 219.0)
        stretched[:, :, 0] = np.clip(luma + 0.5, 0, 255)
        chroma = (array[:, :, 1:].astype(np.float32) - 128.0) * np.float32(255.0 / 224.0)
        stretched[:, :, 1:] = np.clip(chroma + 128.5, 0, 255)
        return np.asarray(Image.fromarray(stretched, "YCbCr").convert("RGB"))
    return array
