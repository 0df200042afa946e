"""Hostile files of every format, made byte by byte: bombs, absurd headers, damage, odd text."""

from __future__ import annotations

import base64
import io
import random
import struct
import zlib
from collections.abc import Mapping
from functools import cache

import numpy as np
from PIL import Image

from dicom_gateway.storing.part10 import PREAMBLE

CT = "1.2.840.10008.5.1.4.1.1.2"
SC = "1.2.840.10008.5.1.4.1.1.7"
EXPLICIT = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
RLE = "1.2.840.10008.1.2.5"
JPEG = "1.2.840.10008.1.2.4.50"
JPEG_LS = "1.2.840.10008.1.2.4.80"
JPEG_2000 = "1.2.840.10008.1.2.4.90"

PATIENT = "ZZHOSTILE^PATIENT"
"""In every DICOM file that is made here; it must turn up in no log and no table."""

STUDY, SERIES = "1.2.826.0.1.3680043.10.1445.7.1", "1.2.826.0.1.3680043.10.1445.7.1.1"
UNDEFINED = 0xFFFFFFFF

_SOP_CLASS, _INSTANCE = 0x00080016, 0x00080018
_PIXELS = 0x7FE00010
_LONG = {"OB", "OW", "SQ", "UN", "UT", "UC"}
_SIDE = 64

Elements = Mapping[int, tuple[str, bytes] | None]


def instance_uid(name: str) -> str:
    """Make a SOP Instance UID of a name."""
    return f"1.2.826.0.1.3680043.10.1445.7.2.{zlib.crc32(name.encode())}"


def element(tag: int, vr: str, value: bytes, *, length: int | None = None) -> bytes:
    """Encode an element in Explicit VR Little Endian, with a length that may be a lie."""
    if len(value) % 2:
        value += b"\x00" if vr in ("UI", "OB", "UN") else b" "
    stated = len(value) if length is None else length
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr.encode())
    long_form = vr in _LONG
    return head + (struct.pack("<xxL", stated) if long_form else struct.pack("<H", stated)) + value


def uint16(value: int) -> tuple[str, bytes]:
    """Value of a US element."""
    return "US", struct.pack("<H", value)


def dataset(name: str, changes: Elements | None = None, *, tail: bytes = b"") -> bytes:
    """Encode a CT slice of 64 x 64 pixels, with changes.

    Parameters
    ----------
    name : str
        Gives the SOP Instance UID.
    changes : mapping, optional
        Tag to VR and value; None leaves the element out.
    tail : bytes
        What follows, in place of the pixel data.
    """
    pixels = np.random.default_rng(zlib.crc32(name.encode())).integers(0, 2000, (_SIDE, _SIDE))
    elements: dict[int, tuple[str, bytes] | None] = {
        _SOP_CLASS: ("UI", CT.encode()),
        _INSTANCE: ("UI", instance_uid(name).encode()),
        0x00080060: ("CS", b"CT"),
        0x00081030: ("LO", b"CHEST ROUTINE"),
        0x00100010: ("PN", PATIENT.encode()),
        0x00100020: ("LO", b"ZZHOSTILE-ID"),
        0x0020000D: ("UI", STUDY.encode()),
        0x0020000E: ("UI", SERIES.encode()),
        0x00280002: uint16(1),
        0x00280004: ("CS", b"MONOCHROME2"),
        0x00280010: uint16(_SIDE),
        0x00280011: uint16(_SIDE),
        0x00280100: uint16(16),
        0x00280101: uint16(16),
        0x00280102: uint16(15),
        0x00280103: uint16(0),
        _PIXELS: None if tail else ("OW", pixels.astype("<u2").tobytes()),
        **(changes or {}),
    }
    encoded = [element(tag, *found) for tag, found in sorted(elements.items()) if found]
    return b"".join(encoded) + tail


def encapsulated(*fragments: bytes, stated: int | None = None, end: bool = True) -> bytes:
    """Encode pixel data as fragments (PS3.5 A.4); ``stated`` is the length of the last one."""
    items = [b"", *fragments]
    parts = [element(_PIXELS, "OB", b"", length=UNDEFINED)]
    for number, fragment in enumerate(items):
        last = stated if stated is not None and number == len(items) - 1 else len(fragment)
        parts.append(struct.pack("<HHL", 0xFFFE, 0xE000, last) + fragment)
    return b"".join(parts) + (struct.pack("<HHL", 0xFFFE, 0xE0DD, 0) if end else b"")


def compressed(name: str, codestream: bytes, *, bits: int = 8, side: int = _SIDE) -> bytes:
    """Encode a slice whose pixels are one fragment."""
    changes = {
        0x00280010: uint16(side),
        0x00280011: uint16(side),
        0x00280100: uint16(bits),
        0x00280101: uint16(bits),
        0x00280102: uint16(bits - 1),
    }
    padded = codestream + b"\x00" * (len(codestream) % 2)
    return dataset(name, changes, tail=encapsulated(padded))


def part10(
    data: bytes, *, syntax: str = EXPLICIT, sop_class: str = CT, instance: str = "1.2.3"
) -> bytes:
    """Put preamble and File Meta Information before a dataset, whatever the UIDs hold."""
    group = (
        element(0x00020002, "UI", sop_class.encode())
        + element(0x00020003, "UI", instance.encode())
        + element(0x00020010, "UI", syntax.encode())
    )
    return PREAMBLE + element(0x00020000, "UL", struct.pack("<L", len(group))) + group + data


def nested(levels: int, *, tag: int = 0x00400275) -> bytes:
    """Encode sequences inside each other, all of undefined length."""
    opening = element(tag, "SQ", b"", length=UNDEFINED) + struct.pack(
        "<HHL", 0xFFFE, 0xE000, UNDEFINED
    )
    closing = struct.pack("<HHLHHL", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    return opening * levels + closing * levels


def nested_with_lengths(levels: int, *, tag: int = 0x00400275) -> bytes:
    """Encode sequences inside each other, all of stated length."""
    parts: list[bytes] = []
    inside = 0
    for _ in range(levels):
        item = struct.pack("<HHL", 0xFFFE, 0xE000, inside)
        parts.append(element(tag, "SQ", b"", length=inside + 8) + item)
        inside += 20
    return b"".join(reversed(parts))


@cache
def _zeros_block(megabytes: int) -> bytes:
    # A full flush ends a block on a byte, and nothing refers back over it: it can be repeated.
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(bytes(megabytes << 20)) + packer.flush(zlib.Z_FULL_FLUSH)


def deflate(head: bytes, *, zero_gigabytes: int = 0) -> bytes:
    """Deflate bytes and then gigabytes of zeros; a gigabyte takes a megabyte."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    start = packer.compress(head) + packer.flush(zlib.Z_FULL_FLUSH)
    end = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS).flush()
    return start + _zeros_block(64) * (16 * zero_gigabytes) + end


def gzipped(head: bytes, *, zero_gigabytes: int = 0) -> bytes:
    """Gzip bytes and then gigabytes of zeros, in one member."""
    return (
        b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03"
        + deflate(head, zero_gigabytes=zero_gigabytes)
        + struct.pack("<LL", 0, len(head) & UNDEFINED)
    )


def _chunk(kind: bytes, value: bytes) -> bytes:
    return (
        struct.pack(">L", len(value)) + kind + value + struct.pack(">L", zlib.crc32(kind + value))
    )


def png(
    width: int, height: int, *, data: bytes | None = None, extra: tuple[bytes, bytes] | None = None
) -> bytes:
    """Encode an 8-bit grey PNG whose header says what it likes.

    Parameters
    ----------
    width, height : int
        What the header says.
    data : bytes, optional
        The IDAT chunk; by default black pixels that fit.
    extra : (bytes, bytes), optional
        Type and value of a further chunk before the pixels.
    """
    if data is None:
        data = zlib.compress(bytes((width + 1) * height))
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", struct.pack(">LLBBBBB", width, height, 8, 0, 0, 0, 0))
        + (_chunk(*extra) if extra else b"")
        + _chunk(b"IDAT", data)
        + _chunk(b"IEND", b"")
    )


def zlib_zeros(gigabytes: int) -> bytes:
    """Gigabytes of zeros as a zlib stream."""
    return b"\x78\x9c" + deflate(b"", zero_gigabytes=gigabytes) + bytes(4)


def tiff(width: int, height: int, *, bits: int = 16, strip_bytes: int = 64) -> bytes:
    """Encode a TIFF of one strip whose header says what it likes."""
    tags = [
        (256, 4, width),
        (257, 4, height),
        (258, 3, bits),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, 8),
        (277, 3, 1),
        (278, 4, height),
        (279, 4, strip_bytes),
    ]
    directory = b"".join(struct.pack("<HHLL", tag, kind, 1, value) for tag, kind, value in tags)
    pixels = bytes(64)
    return (
        b"II*\x00"
        + struct.pack("<L", 8 + len(pixels))
        + pixels
        + struct.pack("<H", len(tags))
        + directory
        + bytes(4)
    )


def tiff_that_loops() -> bytes:
    """Encode a TIFF whose only directory names itself as the next one."""
    return tiff(8, 8, bits=8)[:-4] + struct.pack("<L", 8 + 64)


def bmp(width: int, height: int) -> bytes:
    """Encode the header of an 8-bit BMP, and a few pixels."""
    header = struct.pack("<LllHHLLllLL", 40, width, height, 1, 8, 0, 0, 0, 0, 256, 0)
    return b"BM" + struct.pack("<LHHL", 2_000, 0, 0, 14 + 40 + 1024) + header + bytes(1024 + 64)


def gif(width: int, height: int) -> bytes:
    """Encode a small GIF and let its header and frame say another size."""
    raw = bytearray(encode(grey(16), "GIF"))
    size = struct.pack("<HH", width, height)
    raw[6:10] = size
    frame = raw.index(b",\x00\x00\x00\x00")
    raw[frame + 5 : frame + 9] = size
    return bytes(raw)


def jpeg_header(width: int, height: int) -> bytes:
    """Encode a small JPEG and let its frame header say another size."""
    raw = bytearray(encode(grey(16), "JPEG"))
    frame = raw.index(b"\xff\xc0")
    raw[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(raw)


def slow_jpeg(side: int, scans: int) -> bytes:
    """Encode a sound progressive JPEG with one of its scans repeated.

    Each scan holds 46 bytes, and the decoder goes over the whole image for it.
    """
    buffer = io.BytesIO()
    Image.new("L", (side, side), 128).save(buffer, "JPEG", progressive=True, quality=50)
    raw = buffer.getvalue()
    starts = [at for at in range(len(raw) - 1) if raw[at : at + 2] == b"\xff\xda"]
    return raw[: starts[2]] + raw[starts[1] : starts[2]] * scans + b"\xff\xd9"


def hanging_jpeg_ls(side: int) -> bytes:
    """Encode 1 KB of damaged JPEG-LS (found by fuzzing) that keeps CharLS busy without an end."""
    head = bytearray.fromhex("ffd8fff7000b0800000000010111 00ffda0008010000010000")
    head[7:11] = struct.pack(">HH", side, side)
    return bytes(head) + zlib.decompress(base64.b64decode(_HANGING_JPEG_LS)) + b"\xff\xd9"


_HANGING_JPEG_LS = (
    "eNo9UiFLhEEQnQkXDWcXLHYRLAqCGPQf6MFh8RdYRZgpBoNZwWAUk9kiWGyHBqsIphMNBpOG8b2Z3Vu+2Z2dmTc77/GJ"
    "iAtMw1ThDGBh16+7d7/q7kh4Rp7Cdh7DsvaKhc/AVYr7EeB5GctYBJi6YVMcmt7nF7AeFrYumVUZ7WsVI7yF2Au6IZJ3"
    "5QLi3BP95tpHFenNVxmip/PcF4GyfG4ofEc1RKxQzTgKuWa+2tSY7HNg8q5EMCHaCpSl9O3Ms8G096r85gipv5Ii5iDY"
    "Mlt+sEIma1UqSeyhAanZghWRHCDspGm7kcopupgPwwZFOifJ+tibiZ4Mt30mhvhKp8nvwn0KRycFLhT1h8CHUuyP7y+p"
    "Nsy9y3GKY+lWyZoqcOkP4d/kcNP+B/8HxrWqjw=="
)


def jpeg_2000_header(width: int, height: int, *, tile: int) -> bytes:
    """Encode a JPEG 2000 codestream with a main header and nothing of its tiles."""
    size = struct.pack(">HHLLLLLLLLH", 41, 0, width, height, 0, 0, tile, tile, 0, 0, 1)
    return (
        b"\xff\x4f\xff\x51"
        + size
        + b"\x07\x01\x01"
        + b"\xff\x52\x00\x0c\x00\x00\x00\x01\x00\x05\x04\x04\x00\x01"
        + b"\xff\x5c\x00\x13\x40"
        + bytes(16)
        + b"\xff\x90\x00\x0a\x00\x00\x00\x00\x00\x00\x00\x01\xff\x93"
        + bytes(32)
        + b"\xff\xd9"
    )


def rle(segments: int, *offsets: int, data: bytes = b"") -> bytes:
    """Encode an RLE frame (PS3.5 annex G) with a header that says what it likes."""
    table = [*offsets, *[0] * (15 - len(offsets))]
    return struct.pack("<16L", segments, *table) + data


def nifti(
    dim: tuple[int, ...],
    *,
    datatype: int = 4,
    bits: int = 16,
    vox_offset: float = 352.0,
    slope: float = 1.0,
    data: bytes = b"",
) -> bytes:
    """Encode a NIfTI-1 header that says what it likes, and the data behind it.

    Parameters
    ----------
    dim : tuple of int
        All eight of them, the number of dimensions first.
    datatype, bits : int
        Code of the voxel type, and its width.
    vox_offset, slope : float
        Where voxels begin, and what they are multiplied by.
    data : bytes
        What follows the header.
    """
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, *dim)
    struct.pack_into("<hh", header, 70, datatype, bits)
    struct.pack_into("<8f", header, 76, 1, 1, 1, 1, 1, 1, 1, 1)
    struct.pack_into("<fff", header, 108, vox_offset, slope, 0.0)
    header[344:348] = b"n+1\x00"
    return bytes(header) + data


def sound_nifti(seed: int = 1) -> bytes:
    """Encode a small NIfTI-1 volume."""
    voxels = np.random.default_rng(seed).integers(0, 900, (12, 14, 10)).astype("<i2")
    return nifti((3, 10, 14, 12, 1, 1, 1, 1), data=voxels.tobytes())


def grey(side: int, seed: int = 1) -> Image.Image:
    """Make a square of noise."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (side, side), np.uint8))


def encode(image: Image.Image, format_name: str) -> bytes:
    """Encode an image with Pillow."""
    buffer = io.BytesIO()
    image.save(buffer, format_name)
    return buffer.getvalue()


def noise(size_bytes: int, seed: int = 1) -> bytes:
    """Make bytes that mean nothing."""
    return random.Random(seed).randbytes(size_bytes)
