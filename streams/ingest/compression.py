"""Compressed streams, inflated a bounded piece at a time."""

from __future__ import annotations

import bz2
import lzma
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from streams.ingest.errors import IngestError
from streams.ingest.limits import Budget
from streams.ingest.stream import PIECE_BYTES, ByteStream, truncated

if sys.version_info >= (3, 14):  # pragma: no cover
    from compression import zstd
else:
    from backports import zstd

_MEMORY_BYTES = 192 << 20
_ZSTD_WINDOW_LOG = 27  # 128 MiB, what the zstd tool takes without being told to


class _Decompressor(Protocol):
    eof: bool
    needs_input: bool
    unused_data: bytes

    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class Inflater:
    """zlib's decompressor with the manners of bz2's and lzma's.

    Parameters
    ----------
    window_bits : int
        -15 for a raw deflate stream, 31 for gzip (zlib's ``inflateInit2``).
    """

    def __init__(self, window_bits: int) -> None:
        self._inner = zlib.decompressobj(window_bits)
        self.unused_data = b""

    @property
    def eof(self) -> bool:
        """Whether the stream has ended."""
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        """Whether more bytes are wanted."""
        return not self._inner.unconsumed_tail

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        """Inflate at most so many bytes."""
        tail = self._inner.unconsumed_tail
        out = self._inner.decompress(tail + data if tail else data, max(max_length, 0))
        self.unused_data = self._inner.unused_data
        return out


def zstd_decompressor() -> Any:
    """Begin a Zstandard stream (RFC 8878), with a bounded window."""
    return zstd.ZstdDecompressor(
        options={zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG}
    )


MAKERS: dict[str, Callable[[], Any]] = {
    "gz": lambda: Inflater(31),
    "bz2": bz2.BZ2Decompressor,
    "xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY_BYTES),
    "zst": zstd_decompressor,
}
"""How each kind of compressed file is begun."""

_FAULTS = (zlib.error, OSError, EOFError, lzma.LZMAError, zstd.ZstdError, ValueError)
_SUFFIXES = {"gz": (".gz", ".z"), "bz2": (".bz2",), "xz": (".xz",), "zst": (".zst", ".zstd")}
_TAR_SUFFIXES = {".tgz": ".tar", ".tbz2": ".tar", ".tbz": ".tar", ".txz": ".tar", ".tzst": ".tar"}


def inflate(
    decompressor: _Decompressor,
    stream: ByteStream,
    budget: Budget,
    *,
    most_bytes: int = -1,
    piece_bytes: int = PIECE_BYTES,
) -> Iterator[bytes]:
    """Inflate one compressed stream; what follows it is left in ``stream``.

    Parameters
    ----------
    decompressor : object
        Fresh; of bz2's manners.
    stream : ByteStream
        Compressed bytes.
    budget : Budget
        Where what comes out is counted, before it is given.
    most_bytes : int
        Where to stop although no end is marked; -1 for never.
    piece_bytes : int
        How much is fed at once.

    Raises
    ------
    IngestError
        ``truncated`` or ``damaged``.
    LimitError
        If too much comes out.
    """
    left = most_bytes
    while not decompressor.eof and left:
        data = b""
        if decompressor.needs_input:
            data = stream.piece(piece_bytes)
            if not data:
                raise truncated()
        try:
            out = decompressor.decompress(data, PIECE_BYTES if left < 0 else min(PIECE_BYTES, left))
        except MemoryError:
            raise IngestError("damaged", "the compressed data asks for absurd memory") from None
        except _FAULTS as error:
            raise IngestError(
                "damaged", f"the compressed data is damaged ({type(error).__name__})"
            ) from None
        if out:
            budget.inflate(len(out))
            left = left - len(out) if left > 0 else left
            yield out
    stream.push_back(decompressor.unused_data)


def inflate_file(kind: str, stream: ByteStream, budget: Budget) -> Iterator[bytes]:
    """Inflate a compressed file, whose streams may follow each other (RFC 1952 2.2).

    Parameters
    ----------
    kind : str
        ``gz``, ``bz2``, ``xz`` or ``zst``.
    stream, budget : ByteStream, Budget
        As ``inflate``.
    """
    while True:
        yield from inflate(MAKERS[kind](), stream, budget)
        head = stream.peek(6)
        if compressed_kind(head) != kind:
            # Zeros that pad a tape, or anything else: gzip and its kin ignore it as well.
            return


def compressed_kind(head: bytes) -> str:
    """Say by which program a file was compressed, from its first 6 bytes; empty for none."""
    if head.startswith(b"\x1f\x8b\x08"):
        return "gz"
    if head.startswith(b"BZh") and head[3:4].isdigit():
        return "bz2"
    if head.startswith(b"\xfd7zXZ\x00"):
        return "xz"
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        return "zst"
    return ""


def inner_name(name: str, kind: str) -> str:
    """Name of what is in a compressed file: ``a.tgz`` holds ``a.tar``, ``b.dcm.gz`` ``b.dcm``."""
    lower = name.lower()
    for suffix, replacement in _TAR_SUFFIXES.items():
        if lower.endswith(suffix):
            return name[: -len(suffix)] + replacement
    for suffix in _SUFFIXES[kind]:
        if lower.endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return name
