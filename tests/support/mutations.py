"""Sound files of every format, and seeded ways to damage them.

The DICOM strategies are those that the documentation of dicom-fuzzer lists for files (preamble,
header, metadata, structure, length fields, VR, transfer syntax, pixel data, compressed pixels,
sequences, private tags, encodings, empty values, calibration, deflate bombs, references,
multi-frame), written anew. Beside them stand the plain ones for every format: flipped bits, bytes
and words, truncation, splices, and blocks that are zeroed, repeated, moved or dropped.
"""

from __future__ import annotations

import gzip
import io
import random
import struct
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np
import tifffile
from PIL import Image
from pydicom import dcmread
from pydicom.filereader import data_element_generator
from pydicom.uid import UID

_MAX_SEED_BYTES = 300_000
_PREFIX = 132
UNDEFINED = 0xFFFFFFFF
_LONG_VRS = frozenset(
    {"OB", "OW", "OF", "OD", "OL", "OV", "SQ", "UN", "UT", "UC", "UR", "SV", "UV"}
)
_PIXELS = 0x7FE00010
_DEFLATED = "1.2.840.10008.1.2.1.99"


@dataclass(frozen=True)
class Span:
    """One top-level element of a DICOM file.

    Parameters
    ----------
    tag : int
        Its tag.
    vr : str
        As written; empty in an implicit encoding.
    start, value, end : int
        Where its head, its value, and the next element begin.
    """

    tag: int
    vr: str
    start: int
    value: int
    end: int


@dataclass(frozen=True)
class Seed:
    """A sound file.

    Parameters
    ----------
    name, format : str
        Where it comes from, and what it is.
    data : bytes
        Its bytes.
    spans : tuple of Span
        Elements of the data set, for DICOM that is not deflated.
    order : str
        Byte order of the data set, ``<`` or ``>``.
    implicit : bool
        Whether the data set has no written value representations.
    """

    name: str
    format: str
    data: bytes
    spans: tuple[Span, ...] = ()
    order: str = "<"
    implicit: bool = False


@dataclass(frozen=True)
class Mutant:
    """A damaged file, and how it came to be."""

    index: int
    strategy: str
    seed: str
    format: str
    data: bytes

    def __str__(self) -> str:
        return f"{self.index}: {self.strategy} of {self.seed}"


# Seeds


def _package(name: str, inside: str) -> Path:
    spec = find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / inside


def _spans(data: bytes) -> tuple[tuple[Span, ...], str, bool]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _parse(data)


def _parse(data: bytes) -> tuple[tuple[Span, ...], str, bool]:
    stream = io.BytesIO(data)
    dataset = dcmread(stream, stop_before_pixels=True, force=True)
    syntax = UID(dataset.file_meta.get("TransferSyntaxUID", "1.2.840.10008.1.2"))
    if syntax == _DEFLATED:
        return (), "<", False
    implicit, little = dataset.original_encoding
    implicit, little = bool(implicit), bool(little)
    meta_length = dataset.file_meta.get("FileMetaInformationGroupLength")
    if meta_length is None or data[128:132] != b"DICM":
        return (), "<", False
    start = _PREFIX + 12 + int(meta_length)
    stream.seek(start)
    heads: list[tuple[int, str, int, int]] = []
    for raw in data_element_generator(stream, implicit, little):
        vr = "" if implicit else str(raw.VR)
        where = getattr(raw, "value_tell", None) or raw.file_tell
        heads.append((int(raw.tag), vr, where - (12 if vr in _LONG_VRS else 8), where))
    ends = [head[2] for head in heads[1:]] + [len(data)]
    spans = tuple(Span(*head, end) for head, end in zip(heads, ends, strict=True))
    return spans, "<" if little else ">", implicit


def _dicom_seed(path: Path) -> Seed:
    data = path.read_bytes()
    try:
        spans, order, implicit = _spans(data)
    except Exception:  # noqa: BLE001 - many of these files are damaged on purpose
        spans, order, implicit = (), "<", False
    return Seed(path.name, "dicom", data, spans, order, implicit)


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _made() -> list[Seed]:
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:64, :80]
    gray = (120 + 60 * np.sin(x / 5) * np.cos(y / 7) + rng.normal(0, 6, x.shape)).astype(np.uint8)
    rgb = Image.fromarray(np.stack([gray, gray[::-1], gray[:, ::-1]], axis=2))
    frames = [rgb.rotate(20 * n) for n in range(3)]
    found = [
        Seed("made.png", "png", _saved(rgb, "PNG")),
        Seed("palette.png", "png", _saved(rgb.quantize(16), "PNG")),
        Seed("sixteen.png", "png", _saved(Image.fromarray(gray.astype(np.uint16) * 200), "PNG")),
        Seed("made.jpg", "jpeg", _saved(rgb, "JPEG")),
        Seed("progressive.jpg", "jpeg", _saved(rgb, "JPEG", progressive=True)),
        Seed("made.bmp", "bmp", _saved(rgb, "BMP")),
        Seed("palette.bmp", "bmp", _saved(rgb.quantize(16), "BMP")),
        Seed("made.webp", "webp", _saved(rgb, "WEBP")),
        Seed("lossless.webp", "webp", _saved(rgb, "WEBP", lossless=True)),
        Seed("moving.webp", "webp", _saved(frames[0], "WEBP", save_all=True,
                                           append_images=frames[1:])),
        Seed("moving.gif", "gif", _saved(frames[0], "GIF", save_all=True,
                                         append_images=frames[1:])),
    ]  # fmt: skip
    for name, options in (
        ("plain.tif", {"photometric": "minisblack"}),
        ("tiled.tif", {"compression": "zlib", "tile": (16, 16), "photometric": "minisblack"}),
        ("big.tif", {"bigtiff": True, "photometric": "minisblack"}),
        ("motorola.tif", {"byteorder": ">", "photometric": "minisblack"}),
    ):
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, rng.integers(0, 60_000, (3, 40, 50), np.uint16), **options)
        found.append(Seed(name, "tiff", buffer.getvalue()))
    found.append(Seed("lzw.tif", "tiff", _saved(rgb, "TIFF", compression="tiff_lzw")))
    found.append(Seed("jpeg.tif", "tiff", _saved(rgb, "TIFF", compression="jpeg")))
    volume = rng.integers(0, 900, (12, 14, 10)).astype(np.int16)
    affine = np.diag([2.0, -2.0, 3.0, 1.0])
    raw = nib.Nifti1Image(volume, affine).to_bytes()
    found += [
        Seed("made.nii", "nifti", raw),
        Seed("made.nii.gz", "nifti", gzip.compress(raw, mtime=0)),
        Seed("second.nii", "nifti", nib.Nifti2Image(volume, affine).to_bytes()),
        Seed("float.nii", "nifti", nib.Nifti1Image(volume.astype(np.float32), affine).to_bytes()),
        # The header half of a pair stands alone.
        Seed("made.hdr", "nifti-pair", raw[:344] + b"ni1\0"),
    ]
    return found


@cache
def seeds() -> tuple[Seed, ...]:
    """Sound files: real DICOM of every transfer syntax in the packages, and one or more of each
    other format."""
    folders = (_package("pydicom", "data/test_files"), _package("data_store", "data"))
    paths = [path for folder in folders for path in sorted(folder.glob("*.dcm"))]
    dicom = [_dicom_seed(path) for path in paths if 200 < path.stat().st_size <= _MAX_SEED_BYTES]
    samples = [
        Seed(name, kind, (_package(package, folder) / name).read_bytes())
        for package, folder, name, kind in (
            ("nibabel", "tests/data", "example_nifti2.nii.gz", "nifti"),
            ("nibabel", "tests/data", "anatomical.nii", "nifti"),
            ("skimage", "data", "cell.png", "png"),
            ("skimage", "data", "no_time_for_that_tiny.gif", "gif"),
            ("skimage", "data", "multipage.tif", "tiff"),
        )
        if (_package(package, folder) / name).stat().st_size <= 2 * _MAX_SEED_BYTES
    ]
    return (*dicom, *samples, *_made())


@cache
def _by_format(format_name: str, *, parsed: bool = False) -> tuple[Seed, ...]:
    return tuple(
        seed for seed in seeds() if seed.format == format_name and (seed.spans or not parsed)
    )


FORMATS = ("dicom", "png", "jpeg", "tiff", "bmp", "webp", "gif", "nifti", "nifti-pair")


# Values that break readers

_WORDS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF)
_LONGS = (*_WORDS, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFF0, 0xFFFFFFFE, UNDEFINED)
_TEXTS: tuple[bytes, ...] = (
    b"", b" ", b"\0", b"\0" * 8, b"A" * 64, b"A" * 65, b"A" * 1024, b"9" * 400, b"-1", b"0",
    b"1e400",
    b"nan", b"inf", b"-1e308", b"1\\2\\3\\4\\5\\6\\7", b"\\" * 300, b"%s%n%x%p",
    b"../../etc/passwd",
    b"'; DROP TABLE files; --", b"<script>", b"\xff\xfe\xfd", b"\x1b$B\x30\x21", "ÄÖÜ名前".encode(),
    b"\x1b(" * 100, b"20261399", b"00000000", b"99999999", b"250000.999999", b"1." * 40, b"1..2",
    b"1.2.",
    b"\xe2\x80\xae\xe2\x80\x8b", b"^^^^^", b"=" * 20, b"0" * 4096, b"YES", b"MONOCHROME2", b"RGB",
)  # fmt: skip
_SYNTAXES = (
    "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", _DEFLATED,
    "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51",
    "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.80",
    "1.2.840.10008.1.2.4.81", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91",
    "1.2.840.10008.1.2.4.94", "1.2.840.10008.1.2.4.100", "1.2.840.10008.1.2.4.102",
    "1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.203", "1.2.3.4", "", "not a uid",
)  # fmt: skip
_VRS = (
    b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"FL", b"FD", b"IS", b"LO", b"OB", b"OW", b"OF",
    b"PN",
    b"SQ", b"UI", b"UL", b"UN", b"US", b"UT", b"UV", b"SV", b"ZZ", b"  ", b"\0\0", b"--", b"us",
    b"??",
)  # fmt: skip
_SOP_CLASSES = (
    "1.2.840.10008.1.3.10", "1.2.840.10008.5.1.4.1.1.104.1", "1.2.840.10008.5.1.4.1.1.481.2",
    "1.2.840.10008.5.1.4.1.1.481.3", "1.2.840.10008.5.1.4.1.1.66.4",
    "1.2.840.10008.5.1.4.1.1.88.11",
    "1.2.840.10008.5.1.4.1.1.9.1.1", "1.2.840.10008.5.1.4.1.1.128", "1.2.840.10008.5.1.4.1.1.20",
    "1.2.840.10008.5.1.4.1.1.77.1.6", "1.2.840.10008.5.1.4.1.1.30",
)  # fmt: skip
_PREAMBLES = (
    b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08", b"MZ\x90\0", b"\x7fELF\2\1\1", b"%PDF-1.7", b"PK\3\4",
    b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"BM", b"RIFF\0\0\0\0WEBP",
    b"\x1f\x8b\x08",
    b"\x5c\x01\0\0",
)  # fmt: skip
_IMAGE_PIXEL = {
    0x00280002: "US", 0x00280004: "CS", 0x00280006: "US", 0x00280008: "IS", 0x00280010: "US",
    0x00280011: "US", 0x00280100: "US", 0x00280101: "US", 0x00280102: "US", 0x00280103: "US",
    0x00280034: "IS", 0x00280120: "US",
}  # fmt: skip
_PHOTOMETRIC = (
    b"MONOCHROME1", b"MONOCHROME2", b"PALETTE COLOR ", b"RGB ", b"YBR_FULL", b"YBR_FULL_422",
    b"YBR_ICT ", b"YBR_RCT ", b"HSV ", b"CMYK", b"XYB ", b"",
)  # fmt: skip
_CALIBRATION = {
    0x00281050: "DS", 0x00281051: "DS", 0x00281052: "DS", 0x00281053: "DS", 0x00281054: "LO",
    0x00280030: "DS", 0x00181164: "DS", 0x00180050: "DS", 0x00200037: "DS", 0x00200032: "DS",
    0x30040002: "CS", 0x3004000E: "DS", 0x3004000C: "DS", 0x00541321: "DS",
}  # fmt: skip

Rng = random.Random
Strategy = Callable[[Seed, Rng], bytes]


# What every format suffers


def flip_bits(seed: Seed, rng: Rng) -> bytes:
    """Flip a few bits, mostly near the front, where headers are."""
    raw = bytearray(seed.data)
    for _ in range(rng.choice((1, 2, 4, 8, 32))):
        raw[rng.randrange(_reach(raw, rng))] ^= 1 << rng.randrange(8)
    return bytes(raw)


def set_bytes(seed: Seed, rng: Rng) -> bytes:
    """Set a few bytes to what breaks readers."""
    raw = bytearray(seed.data)
    for _ in range(rng.choice((1, 2, 4, 16))):
        raw[rng.randrange(_reach(raw, rng))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, 0x20, 0x5C))
    return bytes(raw)


def set_integers(seed: Seed, rng: Rng) -> bytes:
    """Set 16-, 32- or 64-bit integers to extremes: sizes, offsets and counts."""
    raw = bytearray(seed.data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        layout = rng.choice(("<H", ">H", "<L", ">L", "<L", ">L", "<Q", ">Q"))
        value = rng.choice(_LONGS) & ((1 << 8 * struct.calcsize(layout)) - 1)
        where = rng.randrange(_reach(raw, rng))
        if rng.random() < 0.7:
            where -= where % 2
        packed = struct.pack(layout, value)[: len(raw) - where]
        raw[where : where + len(packed)] = packed
    return bytes(raw)


def _reach(raw: bytearray, rng: Rng) -> int:
    return min(len(raw), rng.choice((64, 400, 3000, len(raw))))


def truncate(seed: Seed, rng: Rng) -> bytes:
    """End early, or go on with zeros or noise."""
    data = seed.data
    cut = data[: rng.randrange(1, rng.choice((min(600, len(data)), len(data))) + 1)]
    kind = rng.randrange(4)
    if kind == 0:
        return cut + bytes(rng.randrange(1, 5000))
    if kind == 1:
        return cut + rng.randbytes(rng.randrange(1, 5000))
    return cut


def splice(seed: Seed, rng: Rng) -> bytes:
    """Join the beginning of one file and the end of another, of any format."""
    other = rng.choice(seeds()).data if rng.random() < 0.5 else rng.choice(
        _by_format(seed.format)
    ).data  # fmt: skip
    head = rng.randrange(1, min(len(seed.data), 4000) + 1)
    if rng.random() < 0.3:
        return seed.data[:head] + other
    tail = rng.randrange(min(len(other), 8000))
    return seed.data[:head] + other[tail:]


def damage_block(seed: Seed, rng: Rng) -> bytes:
    """Zero, fill, drop, repeat, move or randomise a block."""
    data = seed.data
    size = rng.randrange(1, min(len(data), rng.choice((16, 256, 4096))) + 1)
    start = rng.randrange(len(data) - size + 1)
    block, before, after = data[start : start + size], data[:start], data[start + size :]
    new = rng.choice(
        (bytes(size), b"\xff" * size, b"", block * rng.randrange(2, 20), rng.randbytes(size))
    )
    if rng.random() < 0.15 and after:
        where = rng.randrange(len(after))
        return before + after[:where] + block + after[where:]
    return before + new + after


# What is done to DICOM


def _replace(seed: Seed, span: Span, new: bytes) -> bytes:
    return seed.data[: span.start] + new + seed.data[span.end :]


def _insert(seed: Seed, new: bytes, *, tag: int) -> bytes:
    """Put an element at its place, or in the place of the one that is there."""
    for span in seed.spans:
        if span.tag == tag:
            return _replace(seed, span, new)
        if span.tag > tag:
            return seed.data[: span.start] + new + seed.data[span.start :]
    return seed.data + new


def _element(seed: Seed, tag: int, vr: str, value: bytes, *, length: int | None = None) -> bytes:
    stated = len(value) if length is None else length
    head = struct.pack(seed.order + "HH", tag >> 16, tag & 0xFFFF)
    if seed.implicit:
        return head + struct.pack(seed.order + "L", stated & UNDEFINED) + value
    head += vr.encode()
    if vr in _LONG_VRS:
        return head + b"\0\0" + struct.pack(seed.order + "L", stated & UNDEFINED) + value
    return head + struct.pack(seed.order + "H", stated & 0xFFFF) + value


def _binary(seed: Seed, vr: str, rng: Rng) -> bytes:
    """Encode a value that breaks readers, for a VR."""
    if vr == "US":
        return struct.pack(seed.order + "H", rng.choice(_WORDS)) * rng.choice((1, 1, 1, 2))
    text = rng.choice(_TEXTS)
    return text + b" " * (len(text) % 2)


def _header_span(seed: Seed, rng: Rng) -> Span:
    spans = [span for span in seed.spans if span.tag < 0x7FE00000]
    return rng.choice(spans or list(seed.spans))


def preamble(seed: Seed, rng: Rng) -> bytes:
    """Begin like another format, or without preamble, prefix or file meta information."""
    data = seed.data
    kind = rng.randrange(6)
    if kind == 0:
        return data[_PREFIX:]
    if kind == 1:
        return data[128:]
    if kind == 2:
        return (
            data[:128] + rng.choice((b"dicm", b"DICN", b"\0\0\0\0", b"DICMDICM")) + data[_PREFIX:]
        )
    if kind == 3 and seed.spans:
        return data[seed.spans[0].start :]
    if kind == 4:
        return data[: rng.randrange(1, 140)]
    start = rng.choice(_PREAMBLES)
    return start + data[len(start) :]


def header_text(seed: Seed, rng: Rng) -> bytes:
    """Give elements values that their VR does not allow."""
    span = _header_span(seed, rng)
    value = rng.choice(_TEXTS)
    return _replace(seed, span, _element(seed, span.tag, span.vr or "LO", value))


def empty_values(seed: Seed, rng: Rng) -> bytes:
    """Leave values empty."""
    span = rng.choice(seed.spans)
    return _replace(seed, span, _element(seed, span.tag, span.vr or "LO", b""))


def structure(seed: Seed, rng: Rng) -> bytes:
    """Delete, repeat, swap or retag elements."""
    one, other = sorted((rng.choice(seed.spans), rng.choice(seed.spans)), key=lambda s: s.start)
    data = seed.data
    kind = rng.randrange(5)
    if kind == 0:
        return _replace(seed, one, b"")
    if kind == 1:
        return _replace(seed, one, data[one.start : one.end] * rng.choice((2, 3, 50)))
    if kind == 2 and one.end <= other.start:
        return b"".join(
            (
                data[: one.start],
                data[other.start : other.end],
                data[one.end : other.start],
                data[one.start : one.end],
                data[other.end :],
            )
        )
    tag = rng.choice((0, 1, 0x00020010, 0x00080000, 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD, 0xFFFCFFFC,
                      0x7FE00010, 0xFFFFFFFF, rng.getrandbits(32)))  # fmt: skip
    head = struct.pack(seed.order + "HH", tag >> 16, tag & 0xFFFF)
    if kind == 3:
        return data[: one.start] + head + data[one.start + 4 :]
    return data[: one.start] + head + rng.randbytes(8) + data[one.start :]


def length_field(seed: Seed, rng: Rng) -> bytes:
    """Let elements claim other lengths than they have."""
    raw = bytearray(seed.data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        span = rng.choice(seed.spans)
        real = span.end - span.value
        wide = seed.implicit or span.vr in _LONG_VRS
        stated = rng.choice((0, 1, real - 1, real + 1, real * 2, len(raw), *_LONGS))
        width = 4 if wide else 2
        packed = struct.pack(seed.order + ("L" if wide else "H"), stated & ((1 << 8 * width) - 1))
        raw[span.value - width : span.value] = packed
    return bytes(raw)


def value_representation(seed: Seed, rng: Rng) -> bytes:
    """Write other value representations."""
    raw = bytearray(seed.data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        span = rng.choice(seed.spans)
        raw[span.start + 4 : span.start + 6] = rng.choice(_VRS)
    return bytes(raw)


def transfer_syntax(seed: Seed, rng: Rng) -> bytes:
    """Declare another transfer syntax than the data set is written in."""
    data = seed.data
    where = data.find(b"\x02\0\x10\0UI", _PREFIX, 2000)
    if where < 0:
        return flip_bits(seed, rng)
    (length,) = struct.unpack_from("<H", data, where + 6)
    new = rng.choice(_SYNTAXES).encode()
    new += b"\0" * (len(new) % 2)
    head = data[: where + 6] + struct.pack("<H", len(new)) + new
    return head + data[where + 8 + length :]


def image_pixel(seed: Seed, rng: Rng) -> bytes:
    """Contradict the pixel data: rows, columns, bits, samples, frames, photometric terms."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        tag = rng.choice(tuple(_IMAGE_PIXEL))
        vr = _IMAGE_PIXEL[tag]
        value = rng.choice(_PHOTOMETRIC) if tag == 0x00280004 else _binary(seed, vr, rng)
        if tag == 0x00280008:
            value = rng.choice(
                (b"0 ", b"-1", b"2 ", b"99", b"65535 ", b"2147483647", b"1e9 ", b"x ")
            )
        seed = _again(seed, _insert(seed, _element(seed, tag, vr, value), tag=tag))
    return seed.data


def _again(seed: Seed, data: bytes) -> Seed:
    """Move the spans along after one element was put in place or put in."""
    try:
        spans, order, implicit = _spans(data)
    except Exception:  # noqa: BLE001 - damaged as it should be; the last damage is enough
        return Seed(seed.name, seed.format, data, seed.spans[:1], seed.order, seed.implicit)
    return Seed(seed.name, seed.format, data, spans or seed.spans[:1], order, implicit)


def calibration(seed: Seed, rng: Rng) -> bytes:
    """Break rescale, window, spacing, orientation and dose scaling."""
    tag = rng.choice(tuple(_CALIBRATION))
    value = rng.choice((b"0 ", b"-1", b"1e308 ", b"-1e308", b"1e-320", b"nan ", b"inf ", b"",
                        b"\\ ",
                        b"0\\0 ", b"-1\\-1 ", b"1\\0\\0\\1\\0\\0 ", b"0\\0\\0\\0\\0\\0 ", b"x ",
                        b"1e400 "))  # fmt: skip
    return _insert(seed, _element(seed, tag, _CALIBRATION[tag], value), tag=tag)


def pixel_data(seed: Seed, rng: Rng) -> bytes:
    """Shorten, lengthen or replace the pixel data, or make it encapsulated."""
    span = next((span for span in seed.spans if span.tag == _PIXELS), None)
    if span is None:
        return damage_block(seed, rng)
    old = seed.data[span.value : span.end]
    kind = rng.randrange(6)
    if kind == 0:
        return seed.data[: span.value + rng.randrange(len(old) + 1)]
    if kind == 1:
        return _replace(seed, span, _element(seed, _PIXELS, "OW", b""))
    if kind == 2:
        return _replace(seed, span, _element(seed, _PIXELS, "OW", old[: len(old) // 2] * 5))
    if kind == 3:
        noise = rng.randbytes(min(len(old), 4096))
        return _replace(seed, span, _element(seed, _PIXELS, "OB", noise))
    items = b"".join(_item(seed, one) for one in _pieces(old, rng))
    head = _element(seed, _PIXELS, "OB", b"", length=UNDEFINED)
    return _replace(seed, span, head + items + (_item(seed, b"", tag=0xE0DD) if kind == 4 else b""))


def _item(seed: Seed, value: bytes, *, tag: int = 0xE000, length: int | None = None) -> bytes:
    stated = len(value) if length is None else length
    return struct.pack(seed.order + "HHL", 0xFFFE, tag, stated & UNDEFINED) + value


def _pieces(data: bytes, rng: Rng) -> list[bytes]:
    count = rng.choice((0, 1, 2, 5, 200))
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(count))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def compressed_pixels(seed: Seed, rng: Rng) -> bytes:
    """Break fragments, the offset table and codestreams."""
    where = seed.data.rfind(b"\xe0\x7f\x10\0")
    if where < 0 or where + 20 > len(seed.data):
        return damage_block(seed, rng)
    raw = bytearray(seed.data)
    for _ in range(rng.choice((1, 2, 6))):
        kind = rng.randrange(4)
        marks = [at for at in range(where, min(len(raw) - 8, where + 4000))
                 if raw[at : at + 3] == b"\xfe\xff\x00"]  # fmt: skip
        if kind == 0 and marks:
            at = rng.choice(marks) + 4
            raw[at : at + 4] = struct.pack("<L", rng.choice(_LONGS))
        elif kind == 1 and marks:
            at = rng.choice(marks)
            raw[at : at + 4] = rng.choice((b"\xfe\xff\xdd\xe0", b"\xfe\xff\x0d\xe0", b"\0\0\0\0"))
        elif kind == 2:
            # Markers of JPEG, JPEG-LS and JPEG 2000 begin with FF.
            marker = [at for at in range(where, min(len(raw) - 4, where + 3000)) if raw[at] == 0xFF]
            if marker:
                raw[rng.choice(marker) + rng.choice((1, 2, 3))] = rng.choice(
                    (0, 1, 0xFF, 0xC3, 0xDA)
                )
        else:
            at = rng.randrange(where, len(raw))
            raw[at] ^= 1 << rng.randrange(8)
    return bytes(raw)


def sequences(seed: Seed, rng: Rng) -> bytes:
    """Nest deeply, leave delimiters out, or let items claim too much."""
    tag = rng.choice((0x00081140, 0x00400275, 0x52009229, 0x52009230, 0x00280103, 0x00291010))
    levels = rng.choice((1, 5, 40, 1000, 5000))
    kind = rng.randrange(5)
    head = _element(seed, tag, "SQ", b"", length=UNDEFINED)
    if kind == 0:
        body = (head + _item(seed, b"", length=UNDEFINED)) * levels
        return _insert(seed, body, tag=tag)
    if kind == 1:
        close = _item(seed, b"", tag=0xE00D) + _item(seed, b"", tag=0xE0DD)
        body = (head + _item(seed, b"", length=UNDEFINED)) * levels + close * levels
        return _insert(seed, body, tag=tag)
    if kind == 2:
        items = _item(seed, b"") * rng.choice((0, 1, 100, 30_000)) + _item(seed, b"", tag=0xE0DD)
        return _insert(seed, head + items, tag=tag)
    if kind == 3:
        inner = _item(seed, rng.randbytes(rng.randrange(40)), length=rng.choice(_LONGS))
        return _insert(seed, _element(seed, tag, "SQ", inner, length=rng.choice(_LONGS)), tag=tag)
    return _insert(seed, _element(seed, tag, rng.choice(("SQ", "UN")), b"", length=0), tag=tag)


def private_tags(seed: Seed, rng: Rng) -> bytes:
    """Add private elements without creators, in great number or of great length."""
    group = rng.choice((0x0009, 0x0011, 0x0029, 0x0043, 0x7FE1, 0x0001, 0xFFFF))
    parts = []
    for _ in range(rng.choice((1, 10, 500, 3000))):
        tag = (group << 16) | rng.getrandbits(16)
        vr = rng.choice(("UN", "LO", "OB", "DS", "SQ"))
        stated = rng.choice((None, None, None, *_LONGS))
        parts.append(_element(seed, tag, vr, rng.randbytes(2 * rng.randrange(20)), length=stated))
    return _insert(seed, b"".join(parts), tag=group << 16)


def encodings(seed: Seed, rng: Rng) -> bytes:
    """Declare character sets that do not exist, and text that they do not have."""
    charset = rng.choice((b"ISO 2022 IR 87", b"ISO_IR 999", b"GB18030 ", b"\\ISO 2022 IR 149",
                          b"utf-16",
                          b"ISO_IR 192", b"\\" * 200, b"\x1b$B ", b"idna",
                          b"punycode"))  # fmt: skip
    changed = _again(seed, _insert(seed, _element(seed, 0x00080005, "CS", charset), tag=0x00080005))
    return header_text(changed, rng)


def other_object(seed: Seed, rng: Rng) -> bytes:
    """Claim to be another kind of object."""
    value = rng.choice(_SOP_CLASSES).encode()
    return _insert(
        seed, _element(seed, 0x00080016, "UI", value + b"\0" * (len(value) % 2)), tag=0x00080016
    )


def multi_frame(seed: Seed, rng: Rng) -> bytes:
    """Claim frames, functional groups and offset tables that are not there."""
    frames = rng.choice((b"2 ", b"0 ", b"1000", b"65536 ", b"2147483647"))
    changed = _again(seed, _insert(seed, _element(seed, 0x00280008, "IS", frames), tag=0x00280008))
    kind = rng.randrange(3)
    if kind == 0:
        return changed.data
    if kind == 1:
        table = struct.pack("<4Q", 0, 8, rng.getrandbits(63), rng.getrandbits(64))
        return _insert(changed, _element(changed, 0x7FE00001, "OV", table), tag=0x7FE00001)
    inner = _item(changed, _element(changed, 0x00280010, "US", b"\xff\xff"))
    group = _element(changed, 0x52009230, "SQ", inner * rng.choice((1, 3, 2000)))
    return _insert(changed, group, tag=0x52009230)


def deflated(seed: Seed, rng: Rng) -> bytes:
    """Deflate the data set: well, cut, damaged, or to a bomb."""
    start = seed.spans[0].start
    body = seed.data[start:]
    kind = rng.randrange(4)
    if kind == 0:
        body += bytes(rng.choice((1 << 20, 1 << 23, 1 << 25)))
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    packed = packer.compress(body) + packer.flush()
    if kind == 1:
        packed = packed[: rng.randrange(len(packed))]
    elif kind == 2:
        damaged = bytearray(packed)
        damaged[rng.randrange(len(damaged))] ^= 0xFF
        packed = bytes(damaged)
    meta = transfer_syntax_meta(_DEFLATED)
    return bytes(128) + b"DICM" + meta + packed


def transfer_syntax_meta(syntax: str) -> bytes:
    """Encode a file meta group that holds nothing but a transfer syntax."""
    value = syntax.encode() + b"\0" * (len(syntax) % 2)
    element = b"\x02\0\x10\0UI" + struct.pack("<H", len(value)) + value
    return b"\x02\0\0\0UL\x04\0" + struct.pack("<L", len(element)) + element


def references(seed: Seed, rng: Rng) -> bytes:
    """Refer to itself, to nothing, and with UIDs that are none."""
    uid = rng.choice((b"1.2.3", b"0", b"." * 64, b"1." + b"9" * 200, b"", b"\0" * 64))
    item = _item(seed, _element(seed, 0x00081155, "UI", uid + b"\0" * (len(uid) % 2)))
    sequence = _element(seed, 0x00081140, "SQ", item * rng.choice((1, 100, 5000)))
    return _insert(seed, sequence, tag=0x00081140)


PLAIN: tuple[Strategy, ...] = (
    flip_bits, set_bytes, set_integers, truncate, splice, damage_block,
)  # fmt: skip
DICOM: tuple[Strategy, ...] = (
    preamble, header_text, empty_values, structure, length_field, value_representation,
    transfer_syntax, image_pixel, calibration, pixel_data, compressed_pixels, sequences,
    private_tags, encodings, other_object, multi_frame, deflated, references,
)  # fmt: skip
_DICOM_NAMES = frozenset(strategy.__name__ for strategy in DICOM)
# The strategies of DICOM and the plain ones each make about half of the mutants.
_PLANS = tuple(
    [("dicom", strategy, strategy.__name__) for strategy in DICOM] * 3
    + [(kind, strategy, strategy.__name__) for strategy in PLAIN for kind in FORMATS]
)


def mutant(index: int, *, seed: int = 0) -> Mutant:
    """Make one damaged file; the same index and seed give the same bytes.

    Parameters
    ----------
    index : int
        Which one. Strategies and formats take turns, so that any run of some hundred has all.
    seed : int
        Another seed gives other damage.
    """
    rng = random.Random(f"{seed}/{index}")
    kind, strategy, name = _PLANS[index % len(_PLANS)]
    pool = _by_format(kind, parsed=name in _DICOM_NAMES)
    chosen = rng.choice(pool)
    data = strategy(chosen, rng)
    if rng.random() < 0.15:
        # Damage upon damage.
        again = rng.choice((flip_bits, set_integers, truncate))
        data = again(Seed(chosen.name, kind, data), rng) if data else data
    return Mutant(index, name, chosen.name, kind, data)
