"""7z: the directory stands at the end, so the archive waits in a scratch file (7zFormat.txt).

Read here and not by py7zr, which is LGPL, brings five compiled packages of that licence, and takes
headers of any size into memory. What image archives are packed with is supported: copy, LZMA,
LZMA2, deflate, bzip2, Zstandard, delta and branch filters before LZMA2. AES, PPMd and BCJ2 are
refused by name.
"""

from __future__ import annotations

import bz2
import itertools
import lzma
import stat
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from streams.ingest.compression import Inflater, inflate, zstd_decompressor
from streams.ingest.errors import IngestError
from streams.ingest.limits import Budget
from streams.ingest.members import Member, drain
from streams.ingest.stream import PIECE_BYTES, ByteStream, truncated

_SIGNATURE = b"7z\xbc\xaf\x27\x1c"
_START_BYTES = 32
_MAX_HEADER_BYTES = 64 << 20
_MAX_DICTIONARY_BYTES = 192 << 20
_MAX_CODERS = 4
_MAX_NAME_CHARACTERS = 4096

(_END, _HEADER, _ARCHIVE_PROPERTIES, _ADDITIONAL, _MAIN, _FILES, _PACK, _UNPACK, _SUBSTREAMS,
 _SIZE, _CRC, _FOLDER, _CODER_SIZES, _STREAM_COUNTS, _EMPTY_STREAM, _EMPTY_FILE, _ANTI,
 _NAMES) = range(18)  # fmt: skip
_ATTRIBUTES, _ENCODED_HEADER = 0x15, 0x17
_UNIX_EXTENSION = 0x8000
_REPARSE_POINT = 0x400

_COPY, _LZMA2, _LZMA, _AES = b"\x00", b"\x21", b"\x03\x01\x01", b"\x06\xf1\x07\x01"
_FILTERS = {
    b"\x03": lzma.FILTER_DELTA,
    b"\x04": lzma.FILTER_X86,
    b"\x03\x03\x01\x03": lzma.FILTER_X86,
    b"\x05": lzma.FILTER_POWERPC,
    b"\x03\x03\x02\x05": lzma.FILTER_POWERPC,
    b"\x06": lzma.FILTER_IA64,
    b"\x03\x03\x04\x01": lzma.FILTER_IA64,
    b"\x07": lzma.FILTER_ARM,
    b"\x03\x03\x05\x01": lzma.FILTER_ARM,
    b"\x08": lzma.FILTER_ARMTHUMB,
    b"\x03\x03\x07\x01": lzma.FILTER_ARMTHUMB,
    b"\x09": lzma.FILTER_SPARC,
    b"\x03\x03\x08\x05": lzma.FILTER_SPARC,
}
_SIMPLE: dict[bytes, Callable[[], Any]] = {
    b"\x04\x01\x08": lambda: Inflater(-zlib.MAX_WBITS),
    b"\x04\x02\x02": bz2.BZ2Decompressor,
    b"\x04\xf7\x11\x01": zstd_decompressor,
}


def is_seven_zip(head: bytes) -> bool:
    """Whether the first bytes are those of a 7z archive."""
    return head.startswith(_SIGNATURE)


@dataclass(frozen=True)
class _Coder:
    method: bytes
    properties: bytes


@dataclass
class _Folder:
    """What 7z calls a folder: one packed stream, and the coders that undo it, outermost first."""

    coders: list[_Coder]
    order: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    crc: int | None = None
    fault: IngestError | None = None

    @property
    def size_bytes(self) -> int:
        return self.sizes[self.order[-1]] if self.order else self.sizes[0]


@dataclass
class _Streams:
    """Packed streams, the folders made of them, and the files in each folder."""

    position: int = 0
    packed: list[int] = field(default_factory=list)
    folders: list[_Folder] = field(default_factory=list)
    files: list[list[tuple[int, int | None]]] = field(default_factory=list)


class SevenZipReader:
    """Members of a 7z archive.

    Parameters
    ----------
    stream : ByteStream
        At its beginning.
    budget : Budget
        What the request may cost.
    scratch : callable
        Gives an empty folder for the archive.
    """

    def __init__(self, stream: ByteStream, budget: Budget, scratch: Callable[[], Path]) -> None:
        self._stream = stream
        self._budget = budget
        self._scratch = scratch
        self.boundary: tuple[int, dict[str, int]] = (0, {})

    def members(self) -> Iterator[Member]:
        """Give the members one after the other.

        Raises
        ------
        IngestError
            If the archive cannot be read.
        LimitError
            If the request costs too much.
        """
        path = self._scratch() / "archive.7z"
        try:
            with path.open("w+b") as file:
                for chunk in self._stream.rest():
                    file.write(chunk)
                total = file.tell()
                try:
                    streams, names, empty, attributes = self._directory(file, total)
                except (IndexError, struct.error, ValueError, OverflowError):
                    raise IngestError("damaged", "the archive's directory is damaged") from None
                yield from self._files(file, total, streams, names, empty, attributes)
        finally:
            path.unlink(missing_ok=True)

    def _directory(
        self, file: BinaryIO, total: int
    ) -> tuple[_Streams, list[str], list[bool], list[int]]:
        file.seek(0)
        start = file.read(_START_BYTES)
        if len(start) < _START_BYTES:
            raise truncated()
        (start_crc,) = struct.unpack_from("<L", start, 8)
        offset, size, crc = struct.unpack_from("<QQL", start, 12)
        if zlib.crc32(start[12:]) != start_crc:
            raise IngestError("damaged", "the archive's first header is damaged")
        if not size:
            return _Streams(), [], [], []
        if size > _MAX_HEADER_BYTES:
            raise IngestError("damaged", "the archive's directory is absurdly long")
        if offset + size + _START_BYTES > total:
            raise truncated()
        file.seek(_START_BYTES + offset)
        raw = file.read(size)
        for _ in range(4):
            if zlib.crc32(raw) != crc:
                raise IngestError("damaged", "the archive's directory is damaged")
            cursor = _Cursor(raw)
            kind = cursor.byte()
            if kind == _HEADER:
                return _header(cursor, self._budget.limits.members)
            if kind != _ENCODED_HEADER:
                break
            streams = _streams(cursor)
            folder = streams.folders[0]
            if folder.fault is not None:
                raise folder.fault
            if folder.size_bytes > _MAX_HEADER_BYTES:
                raise IngestError("damaged", "the archive's directory is absurdly long")
            raw = b"".join(self._unpacked(file, total, folder, streams.position, streams.packed[0]))
            crc = zlib.crc32(raw) if folder.crc is None else folder.crc
        raise IngestError("damaged", "the archive's directory is damaged")

    def _files(  # noqa: PLR0917
        self,
        file: BinaryIO,
        total: int,
        streams: _Streams,
        names: list[str],
        empty: list[bool],
        attributes: list[int],
    ) -> Iterator[Member]:
        contents = self._contents(file, total, streams)
        for index, name in enumerate(names):
            self._budget.member()
            content = None if empty[index] else next(contents, None)
            if content is None and not empty[index]:
                raise IngestError("damaged", "the archive names more files than it holds")
            fault = _special(attributes[index]) or (content[1] if content else None)
            if content is None:
                # Folders have no stream; an empty file could be told apart, but says nothing.
                yield Member(name, "folder", iter(()), backslashes=True)
            elif fault is not None:
                yield Member(name, "refused", iter(()), backslashes=True, fault=fault)
            else:
                yield Member(name, "file", content[0], backslashes=True)
            if content is not None:
                drain(content[0])

    def _contents(
        self, file: BinaryIO, total: int, streams: _Streams
    ) -> Iterator[tuple[Iterator[bytes], IngestError | None]]:
        position = streams.position
        for folder, packed, files in zip(
            streams.folders, streams.packed, streams.files, strict=True
        ):
            if folder.fault is not None:
                for _ in files:
                    yield iter(()), folder.fault
            else:
                stream = ByteStream(self._unpacked(file, total, folder, position, packed))
                for size, crc in files:
                    yield _checked(stream, size, crc), None
            position += packed

    def _unpacked(
        self, file: BinaryIO, total: int, folder: _Folder, position: int, packed: int
    ) -> Iterator[bytes]:
        if _START_BYTES + position + packed > total:
            raise truncated()
        chunks = _slice(file, _START_BYTES + position, packed)
        pending: list[dict[str, Any]] = []
        order = folder.order or list(range(len(folder.coders)))
        for index in order:
            coder, size = folder.coders[index], folder.sizes[index]
            if coder.method == _COPY:
                chunks = ByteStream(chunks).pieces(size)
                continue
            if coder.method in _FILTERS:
                continue
            if coder.method in (_LZMA, _LZMA2):
                pending = [
                    _filter(folder.coders[later])
                    for later in order
                    if folder.coders[later].method in _FILTERS
                ][::-1]
                if pending and coder.method == _LZMA:
                    raise IngestError("unsupported-method", "a filter before LZMA (not LZMA2)")
                decompressor: Any = lzma.LZMADecompressor(
                    lzma.FORMAT_RAW, filters=[*pending, _lzma_filter(coder)]
                )
            else:
                decompressor = _SIMPLE[coder.method]()
            chunks = inflate(decompressor, ByteStream(chunks), self._budget, most_bytes=size)
        return chunks


class _Cursor:
    """Reads the directory; whatever leads out of it is an IndexError."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, count: int) -> bytes:
        if count > self.left:
            raise IndexError
        self._at += count
        return self._data[self._at - count : self._at]

    def byte(self) -> int:
        return self.take(1)[0]

    def number(self) -> int:
        """7z's number of one to nine bytes: as many leading ones as further bytes."""
        first = self.byte()
        extra = next((n for n in range(8) if not first & 0x80 >> n), 8)
        value = int.from_bytes(self.take(extra), "little")
        return value if extra == 8 else value | (first & (0x7F >> extra)) << 8 * extra

    def count(self) -> int:
        """Read a number of things that each take at least a bit of what is left."""
        value = self.number()
        if value > 8 * self.left + 8:
            raise IndexError
        return value

    def bits(self, count: int) -> list[bool]:
        raw = self.take((count + 7) // 8)
        return [bool(raw[i // 8] & 0x80 >> i % 8) for i in range(count)]

    def defined(self, count: int) -> list[bool]:
        return [True] * count if self.byte() else self.bits(count)

    def digests(self, count: int) -> list[int | None]:
        known = self.defined(count)
        return [int.from_bytes(self.take(4), "little") if one else None for one in known]


def _header(cursor: _Cursor, most_files: int) -> tuple[_Streams, list[str], list[bool], list[int]]:
    streams = _Streams()
    kind = cursor.byte()
    if kind == _ARCHIVE_PROPERTIES:
        while cursor.byte() != _END:
            cursor.take(cursor.number())
        kind = cursor.byte()
    if kind == _ADDITIONAL:
        _streams(cursor)
        kind = cursor.byte()
    if kind == _MAIN:
        streams = _streams(cursor)
        kind = cursor.byte()
    if kind != _FILES:
        return streams, [], [], []
    count = cursor.count()
    if count > most_files:
        raise IngestError("too-many-members", f"more than {most_files} members")
    names, empty, attributes = [""] * count, [False] * count, [0] * count
    while (kind := cursor.byte()) != _END:
        part = _Cursor(cursor.take(cursor.number()))
        if kind == _EMPTY_STREAM:
            empty = part.bits(count)
        elif kind == _NAMES:
            names = _names(part, count)
        elif kind == _ATTRIBUTES:
            known = part.defined(count)
            part.byte()
            attributes = [int.from_bytes(part.take(4), "little") if one else 0 for one in known]
    if sum(map(len, streams.files)) != count - sum(empty):
        raise IndexError
    return streams, names, empty, attributes


def _names(cursor: _Cursor, count: int) -> list[str]:
    if cursor.byte():
        raise IngestError("unsupported-method", "names outside of the archive's directory")
    raw = cursor.take(cursor.left)
    text = raw.decode("utf-16-le", "replace").split("\0")
    if len(text) < count or max(map(len, text)) > _MAX_NAME_CHARACTERS:
        raise IndexError
    return text[:count]


def _streams(cursor: _Cursor) -> _Streams:
    found = _Streams()
    kind = cursor.byte()
    if kind == _PACK:
        found.position = cursor.number()
        count = cursor.count()
        while (inner := cursor.byte()) != _END:
            if inner == _SIZE:
                found.packed = [cursor.number() for _ in range(count)]
            elif inner == _CRC:
                cursor.digests(count)
            else:
                raise IndexError
        kind = cursor.byte()
    packs: list[int] = []
    if kind == _UNPACK:
        packs = _folders(cursor, found)
        kind = cursor.byte()
    counts = [1] * len(found.folders)
    found.files = [[(folder.size_bytes, folder.crc)] for folder in found.folders]
    if kind == _SUBSTREAMS:
        found.files = _substreams(cursor, found.folders, counts)
        kind = cursor.byte()
    if kind != _END or len(found.packed) != sum(packs):
        raise IndexError
    # A folder of several packed streams (BCJ2) is refused; its streams are passed over as one.
    sizes = iter(found.packed)
    found.packed = [sum(itertools.islice(sizes, pack)) for pack in packs]
    return found


def _folders(cursor: _Cursor, found: _Streams) -> list[int]:
    if cursor.byte() != _FOLDER:
        raise IndexError
    count = cursor.count()
    if cursor.byte():
        raise IndexError
    packs, outs = [], []
    for _ in range(count):
        folder, pack, out = _folder(cursor)
        found.folders.append(folder)
        packs.append(pack)
        outs.append(out)
    if cursor.byte() != _CODER_SIZES:
        raise IndexError
    for folder, out in zip(found.folders, outs, strict=True):
        folder.sizes = [cursor.number() for _ in range(out)]
    while (kind := cursor.byte()) != _END:
        if kind != _CRC:
            raise IndexError
        for folder, crc in zip(found.folders, cursor.digests(count), strict=True):
            folder.crc = crc
    return packs


def _folder(cursor: _Cursor) -> tuple[_Folder, int, int]:
    coder_count = cursor.count()
    if not 1 <= coder_count <= 32:
        raise IndexError
    coders, ins, outs = [], 0, 0
    for _ in range(coder_count):
        flags = cursor.byte()
        method = cursor.take(flags & 0x0F)
        in_count, out_count = (cursor.count(), cursor.count()) if flags & 0x10 else (1, 1)
        properties = cursor.take(cursor.number()) if flags & 0x20 else b""
        coders.append(_Coder(method, properties))
        ins, outs = ins + in_count, outs + out_count
    if not 1 <= outs <= 64 or ins > 64:
        raise IndexError
    pairs = [(cursor.number(), cursor.number()) for _ in range(outs - 1)]
    pack = ins - len(pairs)
    if pack < 1:
        raise IndexError
    packed_in = [cursor.number() for _ in range(pack)] if pack > 1 else []
    del packed_in
    folder = _Folder(coders)
    if ins != coder_count or outs != coder_count or coder_count > _MAX_CODERS:
        folder.fault = IngestError("unsupported-method", "the file is packed by BCJ2 or the like")
    else:
        folder.order = _order(pairs, coder_count)
        folder.fault = _refusal(coders)
    if folder.fault is not None and not folder.order:
        # Its size is that of its last output, as far as anybody can tell.
        folder.order = [outs - 1]
    return folder, pack, outs


def _order(pairs: Sequence[tuple[int, int]], count: int) -> list[int]:
    """Order of the coders from the packed bytes to the file: each takes what another gives."""
    gives_to = {out: into for into, out in pairs}
    takes = {into for into, _ in pairs}
    first = [index for index in range(count) if index not in takes]
    if len(first) != 1 or len(gives_to) != count - 1:
        raise IndexError
    order = first
    while order[-1] in gives_to:
        if len(order) > count:
            raise IndexError
        order.append(gives_to[order[-1]])
    if sorted(order) != list(range(count)):
        raise IndexError
    return order


def _refusal(coders: Sequence[_Coder]) -> IngestError | None:
    methods = [coder.method for coder in coders]
    if _AES in methods:
        return IngestError("encrypted", "the file is encrypted; unpack it where its key is")
    known = {_COPY, _LZMA, _LZMA2, *_FILTERS, *_SIMPLE}
    unknown = [method for method in methods if method not in known]
    if unknown:
        return IngestError(
            "unsupported-method", f"the file is packed by 7z method {unknown[0].hex()}"
        )
    if any(m in _FILTERS for m in methods) and _LZMA2 not in methods:
        return IngestError("unsupported-method", "a filter without LZMA2")
    return None


def _substreams(
    cursor: _Cursor, folders: Sequence[_Folder], counts: list[int]
) -> list[list[tuple[int, int | None]]]:
    kind = cursor.byte()
    if kind == _STREAM_COUNTS:
        counts = [cursor.count() for _ in folders]
        kind = cursor.byte()
    sizes: list[list[int]] = []
    given = kind == _SIZE
    for folder, count in zip(folders, counts, strict=True):
        if count > 1 and not given:
            raise IndexError
        own = [cursor.number() for _ in range(count - 1)] if count else []
        last = folder.size_bytes - sum(own)
        if count and last < 0:
            raise IndexError
        sizes.append([*own, last] if count else [])
    if given:
        kind = cursor.byte()
    crcs: list[list[int | None]] = [
        [folder.crc] if count == 1 else [None] * count
        for folder, count in zip(folders, counts, strict=True)
    ]
    while kind != _END:
        if kind != _CRC:
            raise IndexError
        unknown = [
            (f, i)
            for f, folder in enumerate(folders)
            for i in range(counts[f])
            if not (counts[f] == 1 and folder.crc is not None)
        ]
        for (f, i), crc in zip(unknown, cursor.digests(len(unknown)), strict=True):
            crcs[f][i] = crc
        kind = cursor.byte()
    return [list(zip(own, checks, strict=True)) for own, checks in zip(sizes, crcs, strict=True)]


def _filter(coder: _Coder) -> dict[str, Any]:
    identifier = _FILTERS[coder.method]
    if identifier == lzma.FILTER_DELTA:
        return {"id": identifier, "dist": coder.properties[0] + 1 if coder.properties else 1}
    return {"id": identifier}


def _lzma_filter(coder: _Coder) -> dict[str, Any]:
    properties = coder.properties
    if coder.method == _LZMA2:
        if len(properties) != 1 or properties[0] > 40:
            raise IngestError("damaged", "the LZMA2 properties are not valid")
        bits = properties[0]
        dictionary = (2 | bits & 1) << bits // 2 + 11
        found: dict[str, Any] = {"id": lzma.FILTER_LZMA2}
    else:
        if len(properties) != 5 or properties[0] >= 225:
            raise IngestError("damaged", "the LZMA properties are not valid")
        packed, dictionary = struct.unpack("<BL", properties)
        rest, lc = divmod(packed, 9)
        pb, lp = divmod(rest, 5)
        found = {"id": lzma.FILTER_LZMA1, "lc": lc, "lp": lp, "pb": pb}
    if dictionary > _MAX_DICTIONARY_BYTES:
        raise IngestError(
            "unsupported-method",
            f"packed with a dictionary of more than {_MAX_DICTIONARY_BYTES >> 20} MiB",
        )
    return found | {"dict_size": max(dictionary, 4096)}


def _special(attributes: int) -> IngestError | None:
    mode = attributes >> 16 if attributes & _UNIX_EXTENSION else 0
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR) or attributes & _REPARSE_POINT:
        return IngestError("not-a-file", "the member is a link or device")
    return None


def _slice(file: BinaryIO, start: int, length: int) -> Iterator[bytes]:
    at, end = start, start + length
    while at < end:
        # Others may have moved in the file meanwhile.
        file.seek(at)
        data = file.read(min(PIECE_BYTES, end - at))
        if not data:
            raise truncated()
        at += len(data)
        yield data


def _checked(stream: ByteStream, size_bytes: int, crc: int | None) -> Iterator[bytes]:
    found = 0
    for chunk in stream.pieces(size_bytes):
        found = zlib.crc32(chunk, found)
        yield chunk
    if crc is not None and found != crc:
        raise IngestError("checksum", "the member's bytes are not those that its checksum names")
