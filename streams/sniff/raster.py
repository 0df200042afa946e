"""Headers of PNG, GIF, BMP and WebP: a few fixed fields each."""

from __future__ import annotations

from struct import Struct

from streams.sniff.report import Report

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

_U16_BIG = Struct(">H").unpack_from
_IHDR = Struct(">LLBB").unpack_from
_GIF_SCREEN = Struct("<HHB").unpack_from
_BMP_INFO = Struct("<iiHHL").unpack_from
_BMP_CORE = Struct("<HHHH").unpack_from
_BMP_HEADER_SIZES = frozenset({12, 16, 40, 52, 56, 64, 108, 124})

# PNG colour type (W3C PNG section 11.2.1): samples, and DICOM's name of the interpretation.
_PNG_COLOURS = {
    0: (1, "MONOCHROME2"),
    2: (3, "RGB"),
    3: (1, "PALETTE COLOR"),
    4: (2, "MONOCHROME2"),
    6: (4, "RGB"),
}


def _size(report: Report, columns: int, rows: int) -> None:
    for name, value in (("columns", columns), ("rows", rows)):
        if value > 0:
            report.facts[name] = value
        else:
            report.problem("invalid-value", name)


def is_png(head: bytes) -> bool:
    """Tell PNG by its signature."""
    return head.startswith(PNG_SIGNATURE)


def read_png(head: bytes, report: Report) -> None:
    """Read the image header chunk (W3C PNG section 11.2.1)."""
    if len(head) < 26:
        report.problem("truncated", "the file ends before its image header")
        return
    columns, rows, depth, colour = _IHDR(head, 16)
    if head[12:16] not in (b"IHDR", b"CgBI") or colour not in _PNG_COLOURS:
        report.problem("malformed-header", "no valid image header chunk")
        return
    _size(report, columns, rows)
    samples, interpretation = _PNG_COLOURS[colour]
    report.facts["samples_per_pixel"] = samples
    report.facts["photometric_interpretation"] = interpretation
    if depth in (1, 2, 4, 8, 16):
        report.facts["bits_allocated"] = depth
    else:
        report.problem("invalid-value", "bit depth")
    report.facts["frames"] = 1
    report.facts["pixel_signed"] = False


def is_gif(head: bytes) -> bool:
    """Tell GIF by its signature."""
    return head.startswith((b"GIF87a", b"GIF89a"))


def read_gif(head: bytes, report: Report) -> None:
    """Read the logical screen (GIF89a section 18); frames would take a walk over all data."""
    if len(head) < 13:
        report.problem("truncated", "the file ends before its screen descriptor")
        return
    columns, rows, _packed = _GIF_SCREEN(head, 6)
    _size(report, columns, rows)
    report.facts.update(
        samples_per_pixel=1,
        bits_allocated=8,
        photometric_interpretation="PALETTE COLOR",
        pixel_signed=False,
    )


def is_bmp(head: bytes) -> bool:
    """Tell BMP by its signature, reserved zeros and the size of its second header."""
    return (
        head.startswith(b"BM")
        and len(head) >= 18
        and head[6:10] == b"\0\0\0\0"
        and int.from_bytes(head[14:18], "little") in _BMP_HEADER_SIZES
    )


def read_bmp(head: bytes, report: Report) -> None:
    """Read the bitmap header (BITMAPCOREHEADER or BITMAPINFOHEADER and later)."""
    core = int.from_bytes(head[14:18], "little") == 12
    if len(head) < (26 if core else 34):
        report.problem("truncated", "the file ends before its bitmap header")
        return
    if core:
        columns, rows, _planes, bits = _BMP_CORE(head, 18)
    else:
        columns, rows, _planes, bits, _compression = _BMP_INFO(head, 18)
    # Negative rows: top row first.
    _size(report, columns, abs(rows))
    if bits in (1, 2, 4, 8):
        samples, depth, interpretation = 1, 8 if bits == 8 else bits, "PALETTE COLOR"
    elif bits in (16, 24, 32):
        samples, depth, interpretation = (4 if bits == 32 else 3), 8, "RGB"
    else:
        report.problem("invalid-value", "bits per pixel")
        return
    report.facts.update(
        samples_per_pixel=samples,
        bits_allocated=depth,
        photometric_interpretation=interpretation,
        pixel_signed=False,
        frames=1,
    )


def is_webp(head: bytes) -> bool:
    """Tell WebP by its RIFF container."""
    return head.startswith(b"RIFF") and head[8:12] == b"WEBP"


def read_webp(head: bytes, report: Report) -> None:
    """Read the first chunk (RFC 9649 section 2)."""
    if len(head) < 30:
        report.problem("truncated", "the file ends before its first chunk")
        return
    kind = head[12:16]
    lossy: bool | None = None
    frames: int | None = 1
    has_alpha = False
    if kind == b"VP8 " and head[23:26] == b"\x9d\x01\x2a":
        columns = int.from_bytes(head[26:28], "little") & 0x3FFF
        rows = int.from_bytes(head[28:30], "little") & 0x3FFF
        lossy = True
    elif kind == b"VP8L" and head[20] == 0x2F:
        packed = int.from_bytes(head[21:25], "little")
        columns = (packed & 0x3FFF) + 1
        rows = ((packed >> 14) & 0x3FFF) + 1
        has_alpha = bool(packed >> 28 & 1)
        lossy = False
    elif kind == b"VP8X":
        columns = int.from_bytes(head[24:27], "little") + 1
        rows = int.from_bytes(head[27:30], "little") + 1
        has_alpha = bool(head[20] & 0x10)
        frames = None if head[20] & 0x02 else 1
    else:
        report.problem("malformed-header", "no known first chunk")
        return
    _size(report, columns, rows)
    report.facts.update(
        samples_per_pixel=4 if has_alpha else 3,
        bits_allocated=8,
        photometric_interpretation="RGB",
        pixel_signed=False,
    )
    if lossy is not None:
        report.facts["lossy_compressed"] = lossy
    if frames is not None:
        report.facts["frames"] = frames
