"""TIFF and BigTIFF headers: the first image directory, and how many there are (TIFF 6.0)."""

from __future__ import annotations

from struct import Struct

from streams.sniff.report import Report
from streams.sniff.result import SniffLimits
from streams.sniff.window import LimitReachedError, Window

_IMAGE_WIDTH = 256
_IMAGE_LENGTH = 257
_BITS_PER_SAMPLE = 258
_COMPRESSION = 259
_PHOTOMETRIC = 262
_SAMPLES_PER_PIXEL = 277
_SAMPLE_FORMAT = 339
_WANTED = frozenset(
    {
        _IMAGE_WIDTH,
        _IMAGE_LENGTH,
        _BITS_PER_SAMPLE,
        _COMPRESSION,
        _PHOTOMETRIC,
        _SAMPLES_PER_PIXEL,
        _SAMPLE_FORMAT,
    }
)
_PHOTOMETRIC_NAMES = {
    0: "MONOCHROME1",
    1: "MONOCHROME2",
    2: "RGB",
    3: "PALETTE COLOR",
    5: "CMYK",
    6: "YBR_FULL",
}
_LOSSY = frozenset({6, 7, 33003, 33005, 34712, 34892, 50001})
_TYPES = {1: "B", 3: "H", 4: "L", 16: "Q"}
_MAX_ENTRIES = 512
_MAX_INT = 2**31 - 1


def is_tiff(head: bytes) -> bool:
    """Tell TIFF and BigTIFF by byte order mark and version."""
    return head.startswith((b"II*\0", b"MM\0*")) or is_big_tiff(head)


def is_big_tiff(head: bytes) -> bool:
    """Tell BigTIFF by version 43 and 8-byte offsets."""
    return head.startswith((b"II+\0\x08\0\0\0", b"MM\0+\0\x08\0\0"))


def read(window: Window, limits: SniffLimits, report: Report) -> None:
    """Read the first directory's facts and count directories as frames.

    In a pyramid or with a thumbnail, directories are not frames of one image; the count is what
    the file says it has. It is left out when there are more than the limit.
    """
    try:
        _Reader(window, limits, report).read()
    except LimitReachedError:
        report.problem("header-limit", "facts up to here are kept")


class _Reader:
    """The layout of one file: byte order and width of its offsets."""

    def __init__(self, window: Window, limits: SniffLimits, report: Report) -> None:
        self._window = window
        self._limits = limits
        self._report = report
        head = window.take(0, 16)
        order = "<" if head[:2] == b"II" else ">"
        self._order = order
        self._big = is_big_tiff(head)
        self._head = head
        self._count = Struct(order + ("Q" if self._big else "H"))
        self._offset = Struct(order + ("Q" if self._big else "L"))
        self._entry_bytes = 20 if self._big else 12

    def read(self) -> None:
        at = 8 if self._big else 4
        if len(self._head) < at + self._offset.size:
            self._report.problem("truncated", "the file ends before its first directory")
            return
        (pos,) = self._offset.unpack_from(self._head, at)
        seen: set[int] = set()
        while pos and pos not in seen:
            if len(seen) >= self._limits.image_directories:
                return
            following = self._directory(pos, is_first=not seen)
            seen.add(pos)
            if following is None:
                return
            pos = following
        if pos:
            self._report.problem("malformed-header", "image directories form a loop")
        if seen:
            self._report.facts["frames"] = len(seen)
        else:
            self._report.problem("malformed-header", "no image directory")

    def _directory(self, pos: int, *, is_first: bool) -> int | None:
        raw_count = self._window.take(pos, self._count.size)
        if len(raw_count) < self._count.size:
            self._report.problem("truncated", "the file ends before an image directory")
            return None
        (entries,) = self._count.unpack(raw_count)
        if not 0 < entries <= _MAX_ENTRIES:
            self._report.problem("malformed-header", "an image directory without sane length")
            return None
        pos += self._count.size
        length = entries * self._entry_bytes
        body = self._window.take(pos, length + self._offset.size)
        if is_first:
            self._facts(body[:length])
        if len(body) < length + self._offset.size:
            self._report.problem("truncated", "the file ends inside an image directory")
            return None
        return int(self._offset.unpack_from(body, length)[0])

    def _facts(self, body: bytes) -> None:
        found: dict[int, int] = {}
        tag_and_type = Struct(self._order + "HH").unpack_from
        for at in range(0, len(body) - self._entry_bytes + 1, self._entry_bytes):
            tag, kind = tag_and_type(body, at)
            if tag in _WANTED:
                value = self._value(kind, body[at + 4 : at + self._entry_bytes])
                if value is None or value > _MAX_INT:
                    self._report.problem("invalid-value", f"TIFF tag {tag}")
                else:
                    found[tag] = value
        facts = self._report.facts
        for name, tag in (("columns", _IMAGE_WIDTH), ("rows", _IMAGE_LENGTH)):
            if found.get(tag):
                facts[name] = found[tag]
            elif tag not in found:
                self._report.problem("malformed-header", f"no TIFF tag {tag}")
        facts["samples_per_pixel"] = found.get(_SAMPLES_PER_PIXEL, 1)
        facts["bits_allocated"] = found.get(_BITS_PER_SAMPLE, 1)
        interpretation = _PHOTOMETRIC_NAMES.get(found.get(_PHOTOMETRIC, -1))
        if interpretation:
            facts["photometric_interpretation"] = interpretation
        # Sample Format: 1 unsigned, 2 signed; 3 is floating point, which has no such bit.
        signed = {1: False, 2: True}.get(found.get(_SAMPLE_FORMAT, 1))
        if signed is not None:
            facts["pixel_signed"] = signed
        if found.get(_COMPRESSION) in _LOSSY:
            facts["lossy_compressed"] = True

    def _value(self, kind: int, rest: bytes) -> int | None:
        """Read the first value of an entry: inline where it fits, else where it points to."""
        code = _TYPES.get(kind)
        if code is None:
            return None
        one = Struct(self._order + code)
        (count,) = self._offset.unpack_from(rest)
        inline = rest[self._offset.size :]
        if count < 1:
            return None
        if count * one.size <= len(inline):
            return int(one.unpack_from(inline)[0])
        (where,) = self._offset.unpack_from(inline)
        raw = self._window.take(where, one.size)
        return int(one.unpack(raw)[0]) if len(raw) == one.size else None
