"""Archives for tests, sound and hostile, made byte by byte where no tool makes them."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Mapping

from tests.support.hostile import deflate

Files = Mapping[str, bytes] | Iterable[tuple[str, bytes]]


def _pairs(files: Files) -> list[tuple[str, bytes]]:
    return list(files.items() if isinstance(files, Mapping) else files)


class Unseekable(io.RawIOBase):
    """Takes what is written, and knows no way back: writers then use data descriptors."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        taken = bytes(data)  # type: ignore[call-overload]
        self.data += taken
        return len(taken)


def zipped(
    files: Files,
    *,
    method: int = zipfile.ZIP_DEFLATED,
    streamed: bool = False,
    comment: bytes = b"",
) -> bytes:
    """Make a zip; ``streamed`` as a program does that cannot seek back."""
    target = Unseekable() if streamed else io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with zipfile.ZipFile(target, "w", method) as archive:  # type: ignore[arg-type]
            for name, data in _pairs(files):
                archive.writestr(name, data)
            archive.comment = comment
    return bytes(target.data) if isinstance(target, Unseekable) else target.getvalue()


def zip_entry(
    name: bytes,
    packed: bytes,
    *,
    size_bytes: int,
    crc: int,
    method: int = 8,
    flags: int = 0,
    extra: bytes = b"",
) -> bytes:
    """Make a local header and what follows it."""
    header = struct.pack(
        "<4s5H3L2H", b"PK\x03\x04", 20, flags, method, 0, 0, crc, len(packed), size_bytes,
        len(name), len(extra),
    )  # fmt: skip
    return header + name + extra + packed


def zip_directory(entries: Iterable[tuple[bytes, int, int]]) -> bytes:
    """Make a central directory of (name, offset, unix mode), and its end."""
    found = b""
    count = 0
    for name, offset, mode in entries:
        found += struct.pack(
            "<4s6H3L5H2L", b"PK\x01\x02", 3 << 8 | 20, 20, 0, 0, 0, 0, 0, 0, 0,
            len(name), 0, 0, 0, 0, mode << 16, offset,
        ) + name  # fmt: skip
        count += 1
    return found + struct.pack(
        "<4s4H2LH", b"PK\x05\x06", 0, 0, count & 0xFFFF, count & 0xFFFF, len(found), 0, 0
    )


def zip_bomb(gigabytes: int, name: bytes = b"zeros.bin") -> bytes:
    """Make a zip of one member that inflates to gigabytes of zeros."""
    packed = deflate(b"", zero_gigabytes=gigabytes)
    size = gigabytes << 30
    entry = zip_entry(name, packed, size_bytes=min(size, 0xFFFFFFFE), crc=0)
    return entry + zip_directory([(name, 0, 0o100644)])


def many_members(count: int) -> bytes:
    """Make a zip of empty members."""
    entries, local = [], bytearray()
    for number in range(count):
        name = b"%d" % number
        entries.append((name, len(local), 0o100644))
        local += zip_entry(name, b"", size_bytes=0, crc=0, method=0)
    return bytes(local) + zip_directory(entries)


def overlapping(count: int) -> bytes:
    """Make a zip whose directory has many members that share one body (Fifield, WOOT 2019)."""
    data = bytes(1 << 16)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(data) + packer.flush()
    entry = zip_entry(b"kernel", packed, size_bytes=len(data), crc=zlib.crc32(data))
    return entry + zip_directory([(b"%d" % n, 0, 0o100644) for n in range(count)])


def nested_bomb(levels: int, width: int, gigabytes: int) -> bytes:
    """Make zips inside zips as 42.zip has them: few bytes, and at the bottom many gigabytes."""
    inner = zip_bomb(gigabytes)
    for _ in range(levels):
        inner = zipped([(f"lib {n:x}.zip", inner) for n in range(width)])
    return inner


def tarred(files: Files, *, mode: str = "w", format: int = tarfile.PAX_FORMAT) -> bytes:
    """Make a tar; ``mode`` as tarfile's, with its compression."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode, format=format) as archive:  # type: ignore[call-overload]
        for name, data in _pairs(files):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def tar_of(*members: tarfile.TarInfo | tuple[tarfile.TarInfo, bytes]) -> bytes:
    """Make a tar of members of any type."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for member in members:
            info, data = member if isinstance(member, tuple) else (member, b"")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    """Describe a link, device or pipe."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


# 7z (7zFormat.txt): what py7zr or 7-Zip would write, in plain.


def _number(value: int) -> bytes:
    for extra in range(8):
        if value < 1 << (7 * (extra + 1)):
            first = (0xFF << (8 - extra)) & 0xFF
            return bytes([first | value >> 8 * extra]) + (value & (1 << 8 * extra) - 1).to_bytes(
                extra, "little"
            )
    return b"\xff" + value.to_bytes(8, "little")


def _raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


_SEVEN_ZIP_METHODS = {
    "copy": (b"\x00", b"", lambda data: data),
    "lzma2": (
        b"\x21",
        bytes([18]),
        lambda data: lzma.compress(
            data, lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 20}]
        ),
    ),
    "lzma": (
        b"\x03\x01\x01",
        struct.pack("<BL", 93, 1 << 20),
        lambda data: lzma.compress(
            data, lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA1, "dict_size": 1 << 20}]
        ),
    ),
    "deflate": (b"\x04\x01\x08", b"", _raw_deflate),
    "bzip2": (b"\x04\x02\x02", b"", bz2.compress),
    "aes": (b"\x06\xf1\x07\x01", b"\x13\x00", lambda data: data),
    "ppmd": (b"\x03\x04\x01", b"\x06\x00\x00\x01\x00", lambda data: data),
}


def seven_zipped(
    files: Files, *, method: str = "lzma2", attributes: Mapping[str, int] | None = None
) -> bytes:
    """Make a 7z of one solid folder; folders are names that end with a slash."""
    pairs = _pairs(files)
    identifier, properties, pack = _SEVEN_ZIP_METHODS[method]
    contents = [data for name, data in pairs if not name.endswith("/")]
    plain = b"".join(contents)
    packed = pack(plain)
    coder = bytes([len(identifier) | (0x20 if properties else 0)]) + identifier
    if properties:
        coder += _number(len(properties)) + properties
    header = b"\x01\x04"
    header += b"\x06" + _number(0) + _number(1) + b"\x09" + _number(len(packed)) + b"\x00"
    header += b"\x07\x0b" + _number(1) + b"\x00" + _number(1) + coder
    header += b"\x0c" + _number(len(plain)) + b"\x00"
    header += b"\x08\x0d" + _number(len(contents))
    if len(contents) > 1:
        header += b"\x09" + b"".join(_number(len(data)) for data in contents[:-1])
    header += b"\x0a\x01" + b"".join(struct.pack("<L", zlib.crc32(data)) for data in contents)
    header += b"\x00\x00"
    header += b"\x05" + _number(len(pairs))
    empty = [name.endswith("/") for name, _ in pairs]
    if any(empty):
        bits = _bits(empty)
        header += b"\x0e" + _number(len(bits)) + bits
    names = b"\x00" + b"".join(name.rstrip("/").encode("utf-16-le") + b"\0\0" for name, _ in pairs)
    header += b"\x11" + _number(len(names)) + names
    if attributes:
        raw = b"\x01\x00" + b"".join(struct.pack("<L", attributes.get(n, 0)) for n, _ in pairs)
        header += b"\x15" + _number(len(raw)) + raw
    header += b"\x00\x00"
    return _seven_zip(packed, header)


def _bits(values: list[bool]) -> bytes:
    out = bytearray((len(values) + 7) // 8)
    for index, value in enumerate(values):
        if value:
            out[index // 8] |= 0x80 >> index % 8
    return bytes(out)


def _seven_zip(body: bytes, header: bytes) -> bytes:
    start = struct.pack("<QQL", len(body), len(header), zlib.crc32(header))
    return (
        b"7z\xbc\xaf\x27\x1c\x00\x04" + struct.pack("<L", zlib.crc32(start)) + start + body + header
    )


def with_encoded_header(archive: bytes) -> bytes:
    """Pack the directory of a 7z as 7-Zip does by default."""
    offset, size = struct.unpack_from("<QQ", archive, 12)
    body, header = archive[32 : 32 + offset], archive[32 + offset : 32 + offset + size]
    packed = _SEVEN_ZIP_METHODS["lzma"][2](header)
    encoded = b"\x17\x06" + _number(len(body)) + _number(1) + b"\x09" + _number(len(packed)) + b"\0"
    encoded += b"\x07\x0b\x01\x00\x01\x23\x03\x01\x01\x05" + struct.pack("<BL", 93, 1 << 20)
    encoded += b"\x0c" + _number(len(header))
    encoded += b"\x0a\x01" + struct.pack("<L", zlib.crc32(header)) + b"\x00\x00"
    return _seven_zip(body + packed, encoded)


def gz(data: bytes) -> bytes:
    """Gzip bytes, always to the same bytes."""
    return gzip.compress(data, mtime=0)
