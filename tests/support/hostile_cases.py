"""The hostile datasets and files of the acceptance test, and how each may end."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from dicom_gateway.storing.statuses import PROCESSING_FAILURE, STORE_ERRORS
from tests.support import hostile as h

DOOR_STATUSES = frozenset(error.status for error in STORE_ERRORS) - {PROCESSING_FAILURE}
"""With what a C-STORE may be refused: ``dicom_gateway.storing.statuses`` documents them. A
processing failure is a fault of ours, and no answer to bad input."""

TIMED_OUT = "decoder-timed-out"


@dataclass(frozen=True)
class Fate:
    """How a file may end: refused with a status, or dead with a reason, or in a row."""

    statuses: frozenset[int] = frozenset()
    reasons: frozenset[str] = frozenset()
    outcomes: frozenset[str] = frozenset()


def refused(*statuses: int) -> Fate:
    """Not taken at the door."""
    return Fate(statuses=frozenset(statuses))


def dead(*reasons: str) -> Fate:
    """One dead letter with one of these reasons."""
    return Fate(reasons=frozenset(reasons))


def row(outcome: str, *reasons: str) -> Fate:
    """Analyzed; or one dead letter, where a slow machine or a stricter library may say so."""
    return Fate(outcomes=frozenset({outcome}), reasons=frozenset(reasons))


@dataclass(frozen=True)
class Stored:
    """A dataset that is sent by C-STORE."""

    data: Callable[[], bytes]
    fate: Fate
    syntax: str = h.EXPLICIT
    sop_class: str | None = None
    instance: str | None = None
    uids: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Ingested:
    """A file that is ingested; ``name`` if its name is the point."""

    data: Callable[[], bytes]
    fate: Fate
    name: bytes = b""


def _cut(data: bytes, share: float) -> bytes:
    return data[: int(len(data) * share)]


_LONG = b"1.2." + b"3" * 90
_TRICK = b"../../../../tmp/evil"
_UIDS = (0x00080018, 0x0020000D, 0x0020000E)
_AFTER_SERIES = 0x00204000


def _text(charset: bytes, value: bytes) -> dict[int, tuple[str, bytes]]:
    return {
        0x00080005: ("CS", charset),
        0x00081030: ("LO", value),
        0x0008103E: ("LO", value),
        0x00100010: ("PN", h.PATIENT.encode() + b"=" + value),
        0x00180015: ("CS", value[:16]),
        0x00204000: ("LT", value),
    }


_HUGE = {0x00280010: h.uint16(65535), 0x00280011: h.uint16(65535)}
_GIGABYTES = {
    0x00280010: h.uint16(10_000),
    0x00280011: h.uint16(10_000),
    0x00280008: ("IS", b"20"),
}


def _deflate_bomb(name: str) -> bytes:
    pixels = h.element(0x7FE00010, "OW", b"", length=0xFFFFFFFE)
    return h.deflate(h.dataset(name, _GIGABYTES, tail=pixels), zero_gigabytes=4)


STORED: dict[str, Stored] = {
    # not DICOM
    "noise": Stored(lambda: h.noise(4096), refused(0xC000)),
    "text": Stored(lambda: b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", refused(0xC000)),
    "zeros": Stored(lambda: bytes(4096), refused(0xA900)),
    "ones": Stored(lambda: b"\xff" * 4096, refused(0xC000)),
    "a-png": Stored(lambda: h.encode(h.grey(32), "PNG"), refused(0xC000)),
    "a-part-10-file": Stored(lambda: h.part10(h.dataset("a-part-10-file")), refused(0xA900)),
    "one-byte": Stored(lambda: b"\x08", refused(0xC000)),
    "nothing": Stored(lambda: b"", refused(0xC001)),
    "noise-as-deflate": Stored(lambda: h.noise(4096), refused(0xC000), syntax=h.DEFLATED),
    # truncated
    **{
        f"cut-at-{size}": Stored(lambda size=size: h.dataset(f"cut-at-{size}")[:size], fate)
        for fate, sizes in {
            refused(0xC000): (1, 7, 9, 30, 45, 100, 150, 200),
            row("no-pixels", "truncated"): (250, 300),
            dead("truncated"): (350, 400, 450, 500, 1000),
            row("decoded"): (8000,),
        }.items()
        for size in sizes
    },
    "cut-deflate": Stored(
        lambda: _cut(h.deflate(h.dataset("cut-deflate")), 0.6), row("decoded"), syntax=h.DEFLATED
    ),
    # bombs
    "deflate-bomb": Stored(
        lambda: _deflate_bomb("deflate-bomb"),
        dead("decompression-bomb", TIMED_OUT),
        syntax=h.DEFLATED,
    ),
    "deflate-bomb-before-uids": Stored(
        lambda: h.deflate(h.element(0x00080001, "UN", b"", length=0xFFFFFFF0), zero_gigabytes=2),
        refused(0xC000),
        syntax=h.DEFLATED,
    ),
    # absurd headers
    "4e9-pixels": Stored(lambda: h.dataset("4e9-pixels", _HUGE), dead("too-many-pixels")),
    "2e9-frames": Stored(
        lambda: h.dataset("2e9-frames", {0x00280008: ("IS", b"2147483647")}), row("decoded")
    ),
    "no-rows": Stored(
        lambda: h.dataset("no-rows", {0x00280010: h.uint16(0)}), dead("inconsistent-header")
    ),
    "65535-samples": Stored(
        lambda: h.dataset("65535-samples", {0x00280002: h.uint16(65535)}),
        dead("unsupported-layout"),
    ),
    **{
        f"{bits}-bits": Stored(
            lambda bits=bits: h.dataset(
                f"{bits}-bits", {0x00280100: h.uint16(bits), 0x00280101: h.uint16(bits)}
            ),
            dead("unsupported-layout"),
        )
        for bits in (0, 7, 65535)
    },
    "infinite-window": Stored(
        lambda: h.dataset(
            "infinite-window",
            {
                0x00281050: ("DS", b"1e999"),
                0x00281051: ("DS", b"NaN"),
                0x00281052: ("DS", b"-1e308"),
                0x00281053: ("DS", b"1e308"),
            },
        ),
        row("decoded"),
    ),
    "absurd-palette": Stored(
        lambda: h.dataset(
            "absurd-palette",
            {
                0x00280004: ("CS", b"PALETTE COLOR"),
                **{0x00281101 + i: ("US", struct.pack("<3H", 0, 65535, 99)) for i in range(3)},
                **{0x00281201 + i: ("OW", b"\x01\x02") for i in range(3)},
            },
        ),
        row("decoded"),
    ),
    # absurd lengths
    "length-before-uids": Stored(
        lambda: (
            h.element(0x00080001, "UN", b"", length=0xFFFFFFF0) + h.dataset("length-before-uids")
        ),
        refused(0xC000),
    ),
    "length-after-uids": Stored(
        lambda: h.dataset(
            "length-after-uids", tail=h.element(_AFTER_SERIES, "UT", b"abc ", length=0xFFFFFFF0)
        ),
        dead("truncated"),
    ),
    "length-of-pixels": Stored(
        lambda: h.dataset(
            "length-of-pixels",
            tail=h.element(0x7FE00010, "OW", bytes(100), length=0xFFFFFFFE),
        ),
        dead("truncated"),
    ),
    "nested-before-uids": Stored(
        lambda: h.nested(10_000, tag=0x00080006) + h.dataset("nested-before-uids"), refused(0xC000)
    ),
    "nested-after-uids": Stored(
        lambda: h.dataset("nested-after-uids", tail=h.nested(10_000)), dead("too-deep")
    ),
    "nested-with-lengths": Stored(
        lambda: h.dataset("nested-with-lengths", tail=h.nested_with_lengths(10_000)),
        row("no-pixels"),
    ),
    "nested-without-end": Stored(
        lambda: h.dataset("nested-without-end", tail=_cut(h.nested(10_000), 0.4)), dead("too-deep")
    ),
    # text
    "unknown-charset": Stored(
        lambda: h.dataset("unknown-charset", _text(b"ISO_IR 9999\\NONSENSE", b"\xe9\xff")),
        row("decoded"),
    ),
    "bad-escapes": Stored(
        lambda: h.dataset(
            "bad-escapes",
            _text(b"\\ISO 2022 IR 87\\ISO 2022 IR 149", b"\x1b$B\x1b\x1b(Z\xff\x1b$)"),
        ),
        row("decoded"),
    ),
    "invalid-utf-8": Stored(
        lambda: h.dataset("invalid-utf-8", _text(b"ISO_IR 192", b"\xff\xfe\xc3\x28\xed\xa0\x80")),
        row("decoded"),
    ),
    "nuls": Stored(
        lambda: h.dataset("nuls", _text(b"\0ISO_IR\0", b"A\0B\0\0C\r\n\x1b[31m")), row("decoded")
    ),
    "long-text": Stored(
        lambda: h.dataset("long-text", _text(b"ISO_IR 100", b"x" * 60_000)), row("decoded")
    ),
    # UIDs
    "no-instance-uid": Stored(
        lambda: h.dataset("no-instance-uid", {0x00080018: None}), refused(0xA900)
    ),
    "no-class-uid": Stored(lambda: h.dataset("no-class-uid", {0x00080016: None}), refused(0xA900)),
    "other-instance-uid": Stored(
        lambda: h.dataset("other-instance-uid", {0x00080018: ("UI", b"1.2.3")}), refused(0xA900)
    ),
    "no-study": Stored(
        lambda: h.dataset("no-study", {0x0020000D: None, 0x0020000E: None}),
        row("decoded"),
        uids={"study": "", "series": ""},
    ),
    "long-study-uid": Stored(
        lambda: h.dataset("long-study-uid", {0x0020000D: ("UI", _LONG)}),
        row("decoded"),
        uids={"study": ""},
    ),
    "path-in-study-uid": Stored(
        lambda: h.dataset(
            "path-in-study-uid", {0x0020000D: ("UI", _TRICK), 0x0020000E: ("UI", b"/etc")}
        ),
        row("decoded"),
        uids={"study": "", "series": ""},
    ),
    "command-without-uid": Stored(
        lambda: h.dataset("command-without-uid"), refused(0x0117), instance=""
    ),
    "command-with-long-uid": Stored(
        lambda: h.dataset("command-with-long-uid", {0x00080018: ("UI", _LONG)}),
        refused(0x0117),
        instance=_LONG.decode(),
    ),
    "command-with-path": Stored(
        lambda: h.dataset("command-with-path", {0x00080018: ("UI", _TRICK)}),
        refused(0x0117),
        instance=_TRICK.decode(),
    ),
    "command-with-class-path": Stored(
        lambda: h.dataset("command-with-class-path", {0x00080016: ("UI", _TRICK)}),
        refused(0x0122),
        sop_class=_TRICK.decode(),
    ),
    # fragments
    "no-fragments": Stored(
        lambda: h.dataset("no-fragments", tail=h.encapsulated()), dead("corrupt"), syntax=h.JPEG
    ),
    "endless-fragment": Stored(
        lambda: h.dataset(
            "endless-fragment",
            tail=h.encapsulated(h.jpeg_header(64, 64), stated=0xFFFFFFF0, end=False),
        ),
        dead("truncated"),
        syntax=h.JPEG,
    ),
    "100000-fragments": Stored(
        lambda: h.dataset("100000-fragments", tail=h.encapsulated(*[b""] * 100_000)),
        dead("corrupt"),
        syntax=h.JPEG,
    ),
    **{
        f"noise-as-{name}": Stored(
            lambda name=name: h.compressed(f"noise-as-{name}", h.noise(5000)),
            dead("corrupt"),
            syntax=syntax,
        )
        for name, syntax in {
            "jpeg": h.JPEG,
            "jpeg-ls": h.JPEG_LS,
            "jpeg-2000": h.JPEG_2000,
            "rle": h.RLE,
        }.items()
    },
    "4e9-pixels-of-jpeg": Stored(
        lambda: h.compressed("4e9-pixels-of-jpeg", h.jpeg_header(65500, 65500), side=65500),
        dead("too-many-pixels"),
        syntax=h.JPEG,
    ),
    "jpeg-of-another-size": Stored(
        lambda: h.compressed("jpeg-of-another-size", h.jpeg_header(14_000, 14_000)),
        dead("inconsistent-header"),
        syntax=h.JPEG,
    ),
    "cut-jpeg": Stored(
        lambda: h.compressed("cut-jpeg", _cut(h.encode(h.grey(64), "JPEG"), 0.5)),
        row("decoded"),
        syntax=h.JPEG,
    ),
    "hanging-jpeg-ls": Stored(
        lambda: h.compressed("hanging-jpeg-ls", h.hanging_jpeg_ls(500), side=500),
        dead(TIMED_OUT),
        syntax=h.JPEG_LS,
    ),
    "1e19-pixels-of-jpeg-2000": Stored(
        lambda: h.compressed(
            "1e19-pixels-of-jpeg-2000",
            h.jpeg_2000_header(0xFFFFFFFF, 0xFFFFFFFF, tile=0xFFFFFFFF),
        ),
        dead("too-many-pixels"),
        syntax=h.JPEG_2000,
    ),
    "tiles-of-one-pixel": Stored(
        lambda: h.compressed(
            "tiles-of-one-pixel", h.jpeg_2000_header(12_000, 12_000, tile=1), side=12_000
        ),
        dead("corrupt"),
        syntax=h.JPEG_2000,
    ),
    "rle-without-segments": Stored(
        lambda: h.compressed("rle-without-segments", h.rle(0)), dead("corrupt"), syntax=h.RLE
    ),
    "rle-with-4e9-segments": Stored(
        lambda: h.compressed("rle-with-4e9-segments", h.rle(0xFFFFFFFF, 64, 64)),
        dead("corrupt"),
        syntax=h.RLE,
    ),
    "rle-beyond-the-end": Stored(
        lambda: h.compressed("rle-beyond-the-end", h.rle(1, 0xFFFFFFF0)),
        dead("corrupt"),
        syntax=h.RLE,
    ),
    "rle-bomb": Stored(
        lambda: h.compressed("rle-bomb", h.rle(1, 64, data=b"\x81\x00" * 500_000)),
        row("decoded"),
        syntax=h.RLE,
    ),
}

_DICOM = h.part10(h.dataset("ingested"))
_NIFTI = h.sound_nifti()
_CUBE = (3, 8, 8, 8, 1, 1, 1, 1)
_VOLUME = h.nifti((3, 10_000, 10_000, 50, 1, 1, 1, 1))

INGESTED: dict[str, Ingested] = {
    # nothing and not enough
    **{
        f"empty{suffix}": Ingested(lambda: b"", dead("empty"))
        for suffix in (".dcm", ".png", ".nii.gz", "")
    },
    **{
        f"cut-dicom-{size}": Ingested(lambda size=size: _DICOM[:size], fate)
        for fate, sizes in {
            row("not-an-image"): (1, 100, 131),
            dead("truncated"): (132, 133, 140, 200, 300, 400, 600, 700),
            row("decoded"): (5000,),
        }.items()
        for size in sizes
    },
    **{
        f"cut-{share}{suffix}": Ingested(lambda make=make, share=share: _cut(make(), share), fate)
        for suffix, make in {
            ".nii.gz": lambda: h.gzipped(_NIFTI),
            ".nii": lambda: _NIFTI,
        }.items()
        for share, fate in {
            0.01: row("not-an-image"),
            0.1: dead("truncated"),
            0.5: dead("truncated"),
            0.95: row("decoded"),
        }.items()
    },
    **{
        f"cut-{share}.{suffix}": Ingested(
            lambda name=name, share=share: _cut(h.encode(h.grey(64), name), share),
            dead("truncated", "corrupt"),
        )
        for suffix, name in {
            "png": "PNG",
            "tif": "TIFF",
            "jpg": "JPEG",
            "webp": "WEBP",
            "bmp": "BMP",
            "gif": "GIF",
        }.items()
        for share in (0.01, 0.1, 0.5, 0.95)
    },
    # wrong suffix
    "a-png.dcm": Ingested(lambda: h.encode(h.grey(33), "PNG"), row("decoded")),
    "a-dicom.png": Ingested(lambda: h.part10(h.dataset("a-dicom.png")), row("decoded")),
    "a-nifti.tif": Ingested(lambda: h.sound_nifti(3), row("decoded")),
    "a-text.dcm": Ingested(lambda: b"Dear colleague,\n" * 50, row("not-an-image")),
    "a-program.nii.gz": Ingested(lambda: b"\x7fELF" + h.noise(3000), row("not-an-image")),
    "headerless": Ingested(lambda: h.dataset("headerless"), row("decoded")),
    # bombs
    "deflate-bomb.dcm": Ingested(
        lambda: h.part10(_deflate_bomb("deflate-bomb.dcm"), syntax=h.DEFLATED),
        dead("decompression-bomb", TIMED_OUT),
    ),
    "zeros.nii.gz": Ingested(lambda: h.gzipped(b"", zero_gigabytes=10), row("not-an-image")),
    "volume.nii.gz": Ingested(
        lambda: h.gzipped(_VOLUME, zero_gigabytes=10), dead("too-many-bytes")
    ),
    "slice.nii.gz": Ingested(
        lambda: h.gzipped(h.nifti((2, 13_000, 13_000, 1, 1, 1, 1, 1)), zero_gigabytes=1),
        row("decoded", TIMED_OUT),
    ),
    "dicom.dcm.gz": Ingested(
        lambda: h.gzipped(
            h.part10(h.dataset("z", tail=h.element(0x7FE00010, "OW", b"", length=0xFFFFFFFE))),
            zero_gigabytes=3,
        ),
        dead("compression-bomb"),
    ),
    "in-a-text-chunk.png": Ingested(
        lambda: h.png(8, 8, extra=(b"zTXt", b"Comment\0\0" + h.zlib_zeros(2))),
        dead("decompression-bomb"),
    ),
    "in-a-profile.png": Ingested(
        lambda: h.png(8, 8, extra=(b"iCCP", b"icc\0\0" + h.zlib_zeros(2))),
        dead("decompression-bomb"),
    ),
    "behind-the-pixels.png": Ingested(lambda: h.png(8, 8, data=h.zlib_zeros(3)), row("decoded")),
    # absurd sizes
    "1e10.png": Ingested(
        lambda: h.png(100_000, 100_000, data=h.zlib_zeros(1)), dead("too-many-pixels")
    ),
    "4e18.png": Ingested(lambda: h.png(0x7FFFFFFF, 0x7FFFFFFF, data=b""), dead("too-many-pixels")),
    "1e10.tif": Ingested(lambda: h.tiff(100_000, 100_000), dead("too-many-pixels")),
    "1e19.tif": Ingested(lambda: h.tiff(0xFFFFFFFF, 0xFFFFFFFF), dead("too-many-pixels")),
    "strip.tif": Ingested(lambda: h.tiff(64, 64, strip_bytes=0xFFFFFFF0), dead("truncated")),
    "loop.tif": Ingested(h.tiff_that_loops, dead("corrupt")),
    "1e10.bmp": Ingested(lambda: h.bmp(100_000, 100_000), dead("too-many-pixels")),
    "negative.bmp": Ingested(lambda: h.bmp(-100, -0x80000000), dead("too-many-pixels")),
    "4e9.gif": Ingested(lambda: h.gif(65535, 65535), dead("too-many-pixels")),
    "4e9.jpg": Ingested(lambda: h.jpeg_header(65500, 65500), dead("too-many-pixels")),
    "1e8.jpg": Ingested(lambda: h.jpeg_header(13_000, 13_000), row("decoded", TIMED_OUT)),
    "slow.jpg": Ingested(lambda: h.slow_jpeg(6000, 20_000), dead(TIMED_OUT)),
    **{
        f"{name}.nii": Ingested(make, dead("inconsistent-header"))
        for name, make in {
            "negative": lambda: h.nifti((3, -64, -64, 5, 1, 1, 1, 1), data=bytes(64)),
            "no-dimensions": lambda: h.nifti((0, 1, 1, 1, 1, 1, 1, 1), data=bytes(64)),
            "9-dimensions": lambda: h.nifti((9, 8, 8, 8, 1, 1, 1, 1), data=bytes(2048)),
            "zero": lambda: h.nifti((3, 0, 0, 0, 0, 0, 0, 0), data=bytes(64)),
            "beyond": lambda: h.nifti(_CUBE, vox_offset=1e30, data=bytes(999)),
            "before": lambda: h.nifti(_CUBE, vox_offset=-1e6, data=bytes(2048)),
            "nan": lambda: h.nifti(_CUBE, vox_offset=float("nan"), data=bytes(2048)),
        }.items()
    },
    "huge.nii": Ingested(
        lambda: h.nifti((7, *[32767] * 7), data=bytes(64)), dead("too-many-pixels")
    ),
    "infinite-slope.nii": Ingested(
        lambda: h.nifti(_CUBE, slope=float("inf"), data=h.noise(1024)), row("decoded")
    ),
    "no-type.nii": Ingested(
        lambda: h.nifti(_CUBE, datatype=999, data=bytes(1024)), dead("unsupported-layout")
    ),
    # UIDs and text by this door
    "no-uids.dcm": Ingested(
        lambda: h.part10(
            h.dataset("x", dict.fromkeys((0x00080016, *_UIDS))),
            sop_class="",
            instance="",
        ),
        row("decoded"),
    ),
    "long-uids.dcm": Ingested(
        lambda: h.part10(
            h.dataset("x", dict.fromkeys(_UIDS, ("UI", _LONG))),
            instance=_LONG.decode(),
        ),
        row("decoded"),
    ),
    "path-uids.dcm": Ingested(
        lambda: h.part10(
            h.dataset("x", dict.fromkeys(_UIDS, ("UI", _TRICK))),
            instance=_TRICK.decode(),
            syntax="../../etc",
        ),
        row("decoded"),
    ),
    "nested.dcm": Ingested(
        lambda: h.part10(h.dataset("nested.dcm", tail=h.nested(10_000, tag=0x00080006))),
        dead("too-deep"),
    ),
    "bad-text.dcm": Ingested(
        lambda: h.part10(h.dataset("bad-text.dcm", _text(b"\xff\\\\", b"\x1b$\xff\0"))),
        row("decoded"),
    ),
    # names
    **{
        f"name-{number}": Ingested(
            lambda number=number: h.encode(h.grey(24, 100 + number), "PNG"),
            row("decoded"),
            name=name,
        )
        for number, name in enumerate(
            (
                b"\xff\xfe not utf-8 \xe9.png",
                b"-rf.png",
                b"--help",
                b"new\nline\r\x1b[31m.png",
                b"%2e%2e%2f%00 100%.png",
                b"#fragment?query=1.png",
                "\u202egnp.\U0001f9e0".encode(),
                b"x" * 251 + b".png",
                b"/".join([b"d" * 200] * 6) + b"/deep.png",
                b" .png ",
                b"back\\slash..\\..\\.png",
            )
        )
    },
}
