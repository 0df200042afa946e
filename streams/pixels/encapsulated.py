"""Find one frame in an encapsulated pixel data element without reading the others (PS3.5 A.4)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import BinaryIO, NamedTuple

from streams.pixels.limits import Limits
from streams.pixels.outcome import DecodeError

_ITEM = 0xFFFEE000
_DELIMITER = 0xFFFEE0DD
_END_OF_IMAGE = b"\xff\xd9"
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SOF_JPEG_LS = 0xF7


@dataclass(frozen=True, slots=True)
class Frames:
    """Where each frame's fragments are.

    Parameters
    ----------
    fragments
        For each frame, (offset, length) of its fragments' values in the stream.
    complete
        False when the stream ends inside the element.
    """

    fragments: tuple[tuple[tuple[int, int], ...], ...]
    complete: bool

    def read(self, stream: BinaryIO, index: int, max_bytes: int) -> bytes:
        """Read the codestream of frame ``index``.

        Raises
        ------
        DecodeError
            ``too-many-bytes`` when it is longer than ``max_bytes``.
        """
        parts = self.fragments[index]
        total = sum(length for _, length in parts)
        if total > max_bytes:
            raise DecodeError(
                "too-many-bytes", f"the encoded frame has {total} bytes, the limit is {max_bytes}"
            )
        pieces = []
        for offset, length in parts:
            stream.seek(offset)
            pieces.append(stream.read(length))
        return b"".join(pieces)


def locate_frames(
    stream: BinaryIO,
    offset: int,
    size_bytes: int,
    *,
    frames: int,
    extended: tuple[bytes, bytes] | None,
    limits: Limits,
) -> Frames:
    """Group the fragments of an encapsulated element into frames.

    Parameters
    ----------
    stream
        The stream that holds the element.
    offset
        Offset of the element's value: the Basic Offset Table item.
    size_bytes
        Length of the stream.
    frames
        Number of Frames in the header; believed only when nothing better is there.
    extended
        Values of the Extended Offset Table and its lengths, when present.
    limits
        Bounds to hold.

    Raises
    ------
    DecodeError
        ``corrupt``, ``truncated`` or ``too-many-elements``.
    """
    items, complete = _walk_items(stream, offset, size_bytes, limits)
    if not items:
        raise DecodeError(
            "corrupt" if complete else "truncated", "the encapsulated pixel data has no items"
        )
    table_at, table_length = items[0]
    fragments = items[1:]
    if not fragments:
        raise DecodeError(
            "corrupt" if complete else "truncated", "the encapsulated pixel data has no fragments"
        )
    base = table_at + table_length
    if extended is not None:
        located = _by_extended_table(extended, base, size_bytes)
        if located:
            return Frames(located, complete)
    if table_length >= 8 and frames > 1:
        stream.seek(table_at)
        table = stream.read(table_length - table_length % 4)
        starts = struct.unpack(f"<{len(table) // 4}L", table)
        located = _by_basic_table(starts, base, fragments)
        if located:
            return Frames(located, complete)
    if frames == 1:
        return Frames((tuple(fragments),), complete)
    if len(fragments) <= frames:
        return Frames(tuple((fragment,) for fragment in fragments), complete)
    return Frames(_by_end_markers(stream, fragments), complete)


def _walk_items(
    stream: BinaryIO, offset: int, size_bytes: int, limits: Limits
) -> tuple[list[tuple[int, int]], bool]:
    items: list[tuple[int, int]] = []
    position = offset
    while position + 8 <= size_bytes:
        stream.seek(position)
        group, element, length = struct.unpack("<HHL", stream.read(8))
        tag = group << 16 | element
        if tag != _ITEM or length == 0xFFFFFFFF:
            # Anything but a delimiter here is damage; what came before it can still be read.
            return items, tag == _DELIMITER
        if len(items) >= limits.max_fragments:
            raise DecodeError(
                "too-many-elements", f"the pixel data has more than {limits.max_fragments} items"
            )
        start = position + 8
        available = min(length, size_bytes - start)
        items.append((start, available))
        if available < length:
            return items, False
        position = start + length
    return items, False


def _by_extended_table(
    extended: tuple[bytes, bytes], base: int, size_bytes: int
) -> tuple[tuple[tuple[int, int], ...], ...]:
    offsets_raw, lengths_raw = extended
    count = min(len(offsets_raw), len(lengths_raw)) // 8
    offsets = struct.unpack(f"<{count}Q", offsets_raw[: count * 8])
    lengths = struct.unpack(f"<{count}Q", lengths_raw[: count * 8])
    located = []
    for start, length in zip(offsets, lengths, strict=True):
        at = base + start + 8
        if length == 0 or at + length > size_bytes:
            return ()
        located.append(((at, length),))
    return tuple(located)


def _by_basic_table(
    starts: tuple[int, ...], base: int, fragments: list[tuple[int, int]]
) -> tuple[tuple[tuple[int, int], ...], ...]:
    by_start = {at - 8 - base: number for number, (at, _) in enumerate(fragments)}
    numbers = [by_start.get(start) for start in starts]
    known = [number for number in numbers if number is not None]
    if len(known) != len(numbers) or any(a >= b for a, b in pairwise(known)):
        return ()
    ends = [*known[1:], len(fragments)]
    return tuple(tuple(fragments[a:b]) for a, b in zip(known, ends, strict=True))


def _by_end_markers(
    stream: BinaryIO, fragments: list[tuple[int, int]]
) -> tuple[tuple[tuple[int, int], ...], ...]:
    """Split where a fragment ends with the JPEG family's end marker, as PS3.5 A.4 allows."""
    located: list[tuple[tuple[int, int], ...]] = []
    frame: list[tuple[int, int]] = []
    for at, length in fragments:
        frame.append((at, length))
        tail = min(length, 10)
        stream.seek(at + length - tail)
        if _END_OF_IMAGE in stream.read(tail):
            located.append(tuple(frame))
            frame = []
    if frame:
        located.append(tuple(frame))
    return tuple(located)


class CodestreamSize(NamedTuple):
    """What a codestream's own header says."""

    rows: int
    columns: int
    components: int
    bits: int


def codestream_size(codestream: bytes) -> CodestreamSize | None:
    """Read the size from a JPEG, JPEG-LS or JPEG 2000 codestream.

    Parameters
    ----------
    codestream
        One encoded frame; a JP2 container around it is stepped over.

    Returns
    -------
    CodestreamSize or None
        None when there is no such header.

    Notes
    -----
    ITU-T T.81 B.2.2 (frame header), T.87 C.2.2 (SOF55), T.800 A.5.1 (SIZ).
    """
    if codestream.startswith(b"\xff\xd8"):
        return _jpeg_size(codestream)
    start = codestream.find(b"\xff\x4f\xff\x51", 0, 4096)
    siz = codestream[start + 6 : start + 48] if start >= 0 else b""
    if len(siz) < 39:
        return None
    _, x1, y1, x0, y0 = struct.unpack_from(">H4L", siz)
    components = struct.unpack_from(">H", siz, 34)[0]
    return CodestreamSize(y1 - y0, x1 - x0, components, (siz[36] & 0x7F) + 1)


def _jpeg_size(codestream: bytes) -> CodestreamSize | None:
    for marker, at in _jpeg_segments(codestream):
        if (marker in _START_OF_FRAME or marker == _SOF_JPEG_LS) and at + 8 <= len(codestream):
            bits, rows, columns, components = struct.unpack_from(">BHHB", codestream, at + 2)
            return CodestreamSize(rows, columns, components, bits)
    return None


def _jpeg_segments(codestream: bytes) -> Iterator[tuple[int, int]]:
    """Yield (marker, offset of its length field) up to the first scan (T.81 B.1.1)."""
    position = 2
    while position + 4 <= len(codestream) and codestream[position] == 0xFF:
        marker = codestream[position + 1]
        if marker == 0xFF:
            position += 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:
            position += 2
        else:
            yield marker, position + 2
            if marker in (0xD9, 0xDA):
                return
            position += 2 + struct.unpack_from(">H", codestream, position + 2)[0]


def repair_scan_header(codestream: bytes) -> bytes | None:
    """Correct the spectral selection of a sequential JPEG's first scan.

    Early 12-bit encoders wrote an end of spectral selection other than 63, the only value that
    sequential modes allow (T.81 B.2.3); strict decoders refuse it though the data is sound.

    Returns
    -------
    bytes or None
        The corrected codestream; None when there was nothing to correct.
    """
    sequential = False
    for marker, at in _jpeg_segments(codestream):
        if marker in (0xC0, 0xC1):
            sequential = True
        elif marker == 0xDA and sequential and at + 3 <= len(codestream):
            end = at + 3 + 2 * codestream[at + 2]
            if end + 3 <= len(codestream) and codestream[end : end + 3] != b"\x00\x3f\x00":
                return codestream[:end] + b"\x00\x3f\x00" + codestream[end + 3 :]
    return None


def encapsulate(codestream: bytes) -> bytes:
    """Wrap one frame as an encapsulated element's value: empty offset table, one fragment."""
    padding = b"\0" if len(codestream) % 2 else b""
    return b"".join(
        (
            struct.pack("<HHL", 0xFFFE, 0xE000, 0),
            struct.pack("<HHL", 0xFFFE, 0xE000, len(codestream) + len(padding)),
            codestream,
            padding,
            struct.pack("<HHL", 0xFFFE, 0xE0DD, 0),
        )
    )
