"""Zip, read from front to back while it still arrives (PKWARE APPNOTE 6.3.10).

Members come from their local headers; the central directory at the end is compared with what was
seen. Bytes are read once, so members that overlap (a bomb of that kind) cannot be counted twice:
they end as a directory that disagrees.
"""

from __future__ import annotations

import bz2
import lzma
import stat
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from streams.ingest.compression import Inflater, inflate, zstd_decompressor
from streams.ingest.errors import IngestError, LimitError
from streams.ingest.limits import Budget
from streams.ingest.members import Member, drain
from streams.ingest.names import zip_name
from streams.ingest.stream import ByteStream, truncated

_LOCAL, _CENTRAL, _DESCRIPTOR = b"PK\x03\x04", b"PK\x01\x02", b"PK\x07\x08"
_END, _END64, _LOCATOR64 = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
_HEAD_BYTES = 128
_LOCAL_HEADER = struct.Struct("<4s5H3L2H")
_CENTRAL_HEADER = struct.Struct("<4s6H3L5H2L")
_ENCRYPTED, _STREAMED, _UTF8 = 1 << 0, 1 << 3, 1 << 11
_STORED, _DEFLATED, _LZMA = 0, 8, 14
_SMALL_BYTES = 1 << 20
_UNKNOWN32, _UNKNOWN64 = 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF
_SCAN_BYTES = 1 << 16
_MAX_DICTIONARY_BYTES = 192 << 20

_MAKERS: dict[int, Callable[[], Any]] = {
    _DEFLATED: lambda: Inflater(-zlib.MAX_WBITS),
    12: bz2.BZ2Decompressor,
    93: zstd_decompressor,
    95: lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MAX_DICTIONARY_BYTES),
}
_METHODS = frozenset((_STORED, _LZMA, *_MAKERS))


def is_zip(head: bytes) -> bool:
    """Whether the first bytes are those of a zip, also of an empty one."""
    return head.startswith((_LOCAL, _END))


@dataclass
class _Header:
    flags: int
    method: int
    crc: int
    packed_bytes: int
    size_bytes: int
    name: str

    @property
    def size_is_known(self) -> bool:
        return not (self.flags & _STREAMED and self.packed_bytes in (0, _UNKNOWN32, _UNKNOWN64))


class ZipReader:
    """Members of a zip.

    Parameters
    ----------
    stream : ByteStream
        At its beginning, or at the local header that ``state`` was taken at.
    budget : Budget
        What the request may cost.
    state : dict, optional
        From ``boundary`` of an earlier reader of the same bytes.
    """

    def __init__(
        self, stream: ByteStream, budget: Budget, state: dict[str, int] | None = None
    ) -> None:
        self._stream = stream
        self._budget = budget
        self._count = state["count"] if state else 0
        self._sum = state["sum"] if state else 0
        self.boundary: tuple[int, dict[str, int]] = (stream.offset, {})
        """Where the member that was given last begins, and the state of a reader there."""

    def members(self) -> Iterator[Member]:
        """Give the members one after the other.

        Raises
        ------
        IngestError
            If the archive cannot be followed any further.
        LimitError
            If the request costs too much.
        """
        stream = self._stream
        while True:
            # The header, and mostly the name behind it: looked for once, not piece by piece.
            head = stream.peek(_HEAD_BYTES)
            if head[:4] != _LOCAL:
                break
            offset = stream.offset
            self.boundary = (offset, {"count": self._count, "sum": self._sum})
            self._budget.member()
            header = self._header(head)
            self._count += 1
            self._sum = (self._sum + _mark(offset)) & _UNKNOWN64
            yield from self._member(header)
        yield from self._directory(head[:4])

    def _header(self, head: bytes) -> _Header:
        if len(head) < _LOCAL_HEADER.size:
            raise truncated()
        _, _, flags, method, _, _, crc, packed, size, name_length, extra_length = (
            _LOCAL_HEADER.unpack_from(head)
        )
        raw = self._stream.exactly(_LOCAL_HEADER.size + name_length + extra_length)
        name_end = _LOCAL_HEADER.size + name_length
        raw_name, extra = raw[_LOCAL_HEADER.size : name_end], raw[name_end:]
        name, (size, packed) = _read_extra(
            raw_name, extra, utf8=bool(flags & _UTF8), sizes=(size, packed)
        )
        return _Header(flags, method, crc, packed, size, name)

    def _member(self, header: _Header) -> Iterator[Member]:
        stream, start = self._stream, self._stream.offset
        fault = _refusal(header)
        if header.size_is_known:
            if fault is not None:
                chunks: Iterator[bytes] = iter(())
            elif _is_small(header):
                chunks = self._whole(header)
            else:
                chunks = self._known(header)
            yield self._made(header, chunks, fault)
            # Whatever was or was not read of it, the next one begins there.
            if left := start + header.packed_bytes - stream.offset:
                stream.skip(left)
            if header.flags & _STREAMED:
                self._take_descriptor(header.packed_bytes)
            return
        if fault is not None:
            raise IngestError(
                fault.reason,
                f"{fault.detail}; where this member ends is not known, so neither is the next",
            )
        chunks = (
            self._stored_to_descriptor() if header.method == _STORED else self._streamed(header)
        )
        failed: list[IngestError] = []
        watched = _watched(chunks, failed)
        yield self._made(header, watched, None)
        drain(watched)
        if failed and failed[0].reason != "checksum":
            raise failed[0]

    @staticmethod
    def _made(header: _Header, chunks: Iterator[bytes], fault: IngestError | None) -> Member:
        folder = header.name.endswith("/") and header.size_bytes == 0
        kind = "folder" if folder else "refused" if fault else "file"
        return Member(header.name, kind, chunks, backslashes=True, fault=fault)  # type: ignore[arg-type]

    def _whole(self, header: _Header) -> Iterator[bytes]:
        # What most members are: small, and by far the quickest in one go.
        data = self._stream.exactly(header.packed_bytes)
        if header.method != _STORED:
            decompressor = zlib.decompressobj(-zlib.MAX_WBITS)
            try:
                data = decompressor.decompress(data, header.size_bytes + 1)
            except zlib.error:
                raise IngestError("damaged", "the compressed data is damaged") from None
            self._budget.inflate(len(data))
        if len(data) != header.size_bytes or zlib.crc32(data) != header.crc:
            raise _checksum()
        if data:
            yield data

    def _known(self, header: _Header) -> Iterator[bytes]:
        crc, size_bytes = 0, 0
        packed = self._stream.pieces(header.packed_bytes)
        if header.method == _STORED:
            chunks = packed
        else:
            inner = ByteStream(packed)
            if header.method == _LZMA:
                chunks = inflate(_lzma(inner), inner, self._budget, most_bytes=header.size_bytes)
            else:
                chunks = inflate(_MAKERS[header.method](), inner, self._budget)
        for chunk in chunks:
            crc = zlib.crc32(chunk, crc)
            size_bytes += len(chunk)
            yield chunk
        streamed = header.flags & _STREAMED and not header.crc
        if not streamed and (crc, size_bytes) != (header.crc, header.size_bytes):
            raise _checksum()

    def _streamed(self, header: _Header) -> Iterator[bytes]:
        if header.method == _LZMA:
            raise IngestError("unsupported-method", "LZMA without a size in the local header")
        stream, start = self._stream, self._stream.offset
        crc, size_bytes = 0, 0
        for chunk in inflate(_MAKERS[header.method](), stream, self._budget, piece_bytes=1 << 14):
            crc = zlib.crc32(chunk, crc)
            size_bytes += len(chunk)
            yield chunk
        stated = self._take_descriptor(stream.offset - start)
        if stated != (crc, size_bytes):
            raise _checksum()

    def _stored_to_descriptor(self) -> Iterator[bytes]:
        # Only the descriptor tells where such a member ends: a signature is one when the sum and
        # length behind it are those of all that came before.
        stream = self._stream
        crc, size_bytes = 0, 0
        while True:
            window = stream.peek(_SCAN_BYTES)
            found = window.find(_DESCRIPTOR)
            if found < 0:
                if len(window) < _SCAN_BYTES:
                    raise IngestError("truncated", "the archive ends within a member")
                found = len(window) - len(_DESCRIPTOR) + 1
            if found:
                data = stream.read(found)
                crc = zlib.crc32(data, crc)
                size_bytes += len(data)
                yield data
                continue
            for form in ("<4sLLL", "<4sLQQ"):
                raw = stream.peek(struct.calcsize(form))
                if len(raw) == struct.calcsize(form) and struct.unpack(form, raw)[1:] == (
                    crc, size_bytes, size_bytes,
                ):  # fmt: skip
                    stream.read(len(raw))
                    return
            data = stream.read(1)
            crc = zlib.crc32(data, crc)
            size_bytes += 1
            yield data

    def _take_descriptor(self, packed_bytes: int) -> tuple[int, int]:
        """Take the data descriptor (4.3.9), of which there are four forms; return CRC and size."""
        raw = self._stream.peek(24)
        signature = 4 if raw.startswith(_DESCRIPTOR) else 0
        for form in ("<LLL", "<LQQ"):
            length = signature + struct.calcsize(form)
            if len(raw) < length:
                continue
            crc, packed, size = struct.unpack_from(form, raw, signature)
            if packed == packed_bytes & (_UNKNOWN32 if form == "<LLL" else _UNKNOWN64):
                self._stream.read(length)
                return crc, size
        if len(raw) < 12:
            raise IngestError("truncated", "the archive ends within a member")
        raise IngestError("damaged", "a member is not followed by its data descriptor")

    def _directory(self, signature: bytes) -> Iterator[Member]:
        if not signature:
            raise IngestError("truncated", "the archive ends without its directory")
        count, total = 0, 0
        while signature == _CENTRAL:
            mark, refused = self._directory_entry()
            count += 1
            total = (total + mark) & _UNKNOWN64
            if count > self._count:
                break
            if refused is not None:
                yield refused
            signature = self._stream.peek(4)
        if count == self._count and signature not in (_END, _END64, _LOCATOR64):
            if len(signature) < 4:
                raise IngestError("truncated", "the archive ends within its directory")
            raise IngestError("damaged", "what follows a member is neither member nor directory")
        if (count, total) != (self._count, self._sum):
            raise IngestError(
                "directory-disagrees",
                "the archive's directory and its members do not fit: members overlap, are hidden, "
                "or were removed; pack it again",
            )

    def _directory_entry(self) -> tuple[int, Member | None]:
        stream = self._stream
        fields = _CENTRAL_HEADER.unpack(stream.exactly(_CENTRAL_HEADER.size))
        flags, size, packed = fields[3], fields[9], fields[8]
        name_length, extra_length, comment_length = fields[10:13]
        attributes, offset = fields[15], fields[16]
        raw_name = stream.exactly(name_length)
        extra = stream.exactly(extra_length)
        if comment_length:
            stream.skip(comment_length)
        name, (_, _, offset) = _read_extra(
            raw_name, extra, utf8=bool(flags & _UTF8), sizes=(size, packed, offset)
        )
        mode = attributes >> 16
        refused = None
        if fields[1] >> 8 == 3 and stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
            what = "a symbolic link" if stat.S_ISLNK(mode) else "a device or pipe"
            refused = Member(
                name,
                "refused",
                iter(()),
                backslashes=True,
                fault=IngestError("not-a-file", f"the member is {what}"),
            )
        return _mark(offset), refused


def _is_small(header: _Header) -> bool:
    return (
        header.method in (_STORED, _DEFLATED)
        and header.packed_bytes <= _SMALL_BYTES
        and header.size_bytes <= _SMALL_BYTES
        and (not header.flags & _STREAMED or header.crc != 0)
    )


def _mark(offset: int) -> int:
    # Order does not matter to the sum, but every offset does.
    return (offset * offset * 0x9E3779B97F4A7C15 + offset * 0xC2B2AE3D27D4EB4F + 1) & _UNKNOWN64


def _read_extra(
    raw_name: bytes, extra: bytes, *, utf8: bool, sizes: tuple[int, ...]
) -> tuple[str, tuple[int, ...]]:
    """Read the name, and the sizes that stand in the zip64 field where they are too large."""
    name = zip_name(raw_name, utf8=utf8)
    found, at = list(sizes), 0
    while at + 4 <= len(extra):
        tag, length = struct.unpack_from("<HH", extra, at)
        value = extra[at + 4 : at + 4 + length]
        at += 4 + length
        if tag == 0x0001:
            wide = 0
            for index, size in enumerate(found):
                if size == _UNKNOWN32 and wide + 8 <= len(value):
                    found[index] = struct.unpack_from("<Q", value, wide)[0]
                    wide += 8
        elif tag == 0x7075 and len(value) > 5 and _sum_of(value) == zlib.crc32(raw_name):
            # Info-ZIP's Unicode path, which is of this name only if its sum fits.
            name = zip_name(value[5:], utf8=True)
    return name, tuple(found)


def _sum_of(value: bytes) -> int:
    return int.from_bytes(value[1:5], "little")


def _refusal(header: _Header) -> IngestError | None:
    if header.flags & _ENCRYPTED:
        return IngestError("encrypted", "the member is encrypted; unpack it where its key is")
    if header.method not in _METHODS:
        return IngestError("unsupported-method", f"the member is packed by method {header.method}")
    return None


def _lzma(inner: ByteStream) -> Any:
    # APPNOTE 5.8.8: version, length of the properties, properties; then a raw stream.
    _, length = struct.unpack("<HH", inner.exactly(4))
    properties = inner.exactly(length)
    if length != 5 or properties[0] >= 9 * 5 * 5:
        raise IngestError("damaged", "the LZMA properties are not valid")
    packed, dictionary = struct.unpack("<BL", properties)
    if dictionary > _MAX_DICTIONARY_BYTES:
        raise IngestError("unsupported-method", "the LZMA dictionary is too large")
    rest, lc = divmod(packed, 9)
    pb, lp = divmod(rest, 5)
    return lzma.LZMADecompressor(
        lzma.FORMAT_RAW,
        filters=[
            {
                "id": lzma.FILTER_LZMA1,
                "dict_size": max(dictionary, 4096),
                "lc": lc,
                "lp": lp,
                "pb": pb,
            }
        ],
    )


def _watched(chunks: Iterator[bytes], failed: list[IngestError]) -> Iterator[bytes]:
    try:
        yield from chunks
    except LimitError:
        raise
    except IngestError as error:
        failed.append(error)
        raise


def _checksum() -> IngestError:
    return IngestError("checksum", "the member's bytes are not those that its checksum names")
