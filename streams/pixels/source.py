"""Bytes from wherever they are, read within bounds."""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Union, cast

from streams.pixels.limits import Limits
from streams.pixels.outcome import DecodeError

Source = Union[bytes, bytearray, memoryview, str, "os.PathLike[str]", BinaryIO]

# Below this a file is read in one go: parsers then seek in memory.
_READ_WHOLE_BYTES = 32 * 1024 * 1024
_CHUNK_BYTES = 256 * 1024
_ELEMENT_HEAD_BYTES = 8
GZIP_MAGIC = b"\x1f\x8b"


class BoundedReader:
    """A seekable reader that never asks for more than the file has, and counts its calls.

    ``read(4 GiB)`` on a plain file allocates first and reads second; a header with an absurd
    length would cost that memory. The count bounds the time a parser can be kept busy.

    Parameters
    ----------
    stream
        Seekable binary stream.
    size_bytes
        Its length.
    max_reads
        Calls to ``read`` allowed; None for no bound.

    Attributes
    ----------
    overrun
        Whether a value was asked for that lies, in part, behind the end.
    """

    def __init__(self, stream: BinaryIO, size_bytes: int, max_reads: int | None = None) -> None:
        self._stream = stream
        self.size_bytes = size_bytes
        self._reads_left = max_reads
        self.overrun = False
        self.tell = stream.tell
        self._blank_next = False

    def blank_next(self) -> None:
        """Give spaces in place of what the next ``read`` reads."""
        self._blank_next = True

    def read(self, length: int = -1) -> bytes:
        """Read up to ``length`` bytes; all that is left when negative."""
        if self._reads_left is not None:
            self._reads_left -= 1
            if self._reads_left < 0:
                raise DecodeError("too-many-elements", "the header has too many elements")
        wanted = length
        if length > _CHUNK_BYTES:
            length = min(length, max(0, self.size_bytes - self._stream.tell()))
        data = self._stream.read(length)
        # Eight bytes are the head of the next element, which every data set ends by not having.
        if len(data) < wanted != _ELEMENT_HEAD_BYTES:
            self.overrun = True
        if self._blank_next:
            self._blank_next = False
            return b" " * len(data)
        return data

    @property
    def file(self) -> BinaryIO:
        """The reader, typed as what parsers ask for; they use read, seek and tell only."""
        return cast(BinaryIO, self)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to ``offset``; beyond the end is the end."""
        if whence == os.SEEK_SET and offset > self.size_bytes:
            offset = self.size_bytes
            self.overrun = True
        return self._stream.seek(offset, whence)


@contextmanager
def open_source(source: Source, limits: Limits) -> Iterator[tuple[BinaryIO, int]]:
    """Open ``source`` for reading from its start.

    Parameters
    ----------
    source
        The bytes, the path of a local file, or a seekable binary stream (left open).
    limits
        Bounds to hold.

    Yields
    ------
    tuple
        Stream and its length in bytes.

    Raises
    ------
    DecodeError
        ``empty``, ``too-many-bytes`` or ``unreadable``.
    """
    opened: BinaryIO | None = None
    try:
        if isinstance(source, (bytes, bytearray, memoryview)):
            stream: BinaryIO = io.BytesIO(source)
            size_bytes = len(source) if not isinstance(source, memoryview) else source.nbytes
        else:
            try:
                if isinstance(source, (str, os.PathLike)):
                    opened = Path(source).open("rb")  # noqa: SIM115 - yielded, closed below
                    stream = opened
                else:
                    stream = source
                size_bytes = stream.seek(0, os.SEEK_END)
                stream.seek(0)
            except (OSError, ValueError, AttributeError) as error:
                raise DecodeError("unreadable", f"cannot open ({type(error).__name__})") from None
        if size_bytes == 0:
            raise DecodeError("empty", "the file has no bytes")
        if size_bytes > limits.max_file_bytes:
            raise DecodeError(
                "too-many-bytes",
                f"the file has {size_bytes} bytes, the limit is {limits.max_file_bytes}",
            )
        if opened is not None and size_bytes <= _READ_WHOLE_BYTES:
            stream = io.BytesIO(opened.read())
        yield stream, size_bytes
    finally:
        if opened is not None:
            opened.close()


def inflate(stream: BinaryIO, max_bytes: int) -> bytes:
    """Inflate a raw deflate stream (RFC 1951) from the current position.

    Parameters
    ----------
    stream
        Positioned at the first deflated byte.
    max_bytes
        Most bytes that may come out.

    Raises
    ------
    DecodeError
        ``decompression-bomb`` or ``corrupt``. A stream that ends early gives what it has.
    """
    return _decompress_range(stream, -zlib.MAX_WBITS, 0, max_bytes, max_bytes, to_end=True)


def gunzip(stream: BinaryIO, max_bytes: int) -> bytes:
    """Decompress a whole gzip stream (RFC 1952) of at most ``max_bytes``."""
    return _decompress_range(stream, 16 + zlib.MAX_WBITS, 0, max_bytes, max_bytes, to_end=True)


def gunzip_range(stream: BinaryIO, start: int, end: int, max_bytes: int) -> bytes:
    """Decompress bytes ``start`` to ``end`` of a gzip stream, keeping only those.

    Parameters
    ----------
    stream
        Positioned at the start of the gzip stream; members may be concatenated.
    start, end
        Range in decompressed bytes.
    max_bytes
        Most bytes that may be decompressed on the way.

    Returns
    -------
    bytes
        The range; shorter when the stream ends before.
    """
    return _decompress_range(stream, 16 + zlib.MAX_WBITS, start, end, max_bytes, to_end=False)


def _decompress_range(
    stream: BinaryIO, wbits: int, start: int, end: int, max_bytes: int, *, to_end: bool
) -> bytes:
    if not to_end and end > max_bytes:
        raise DecodeError(
            "too-many-bytes", f"{end} decompressed bytes are needed, the limit is {max_bytes}"
        )
    kept = bytearray()
    position = 0
    decompressor = zlib.decompressobj(wbits)
    pending = stream.read(_CHUNK_BYTES)
    try:
        while pending and (to_end or position < end):
            # max_length bounds one step: a bomb is met after a megabyte, not after its end.
            piece = decompressor.decompress(pending, 1 << 20)
            kept += piece[max(0, start - position) : max(0, end - position)]
            position += len(piece)
            if to_end and position > max_bytes:
                raise DecodeError(
                    "decompression-bomb", f"it decompresses to more than {max_bytes} bytes"
                )
            pending = decompressor.unconsumed_tail
            if decompressor.eof:
                if wbits < 0:
                    break
                pending = decompressor.unused_data or stream.read(_CHUNK_BYTES)
                if not pending.startswith(GZIP_MAGIC):
                    break
                decompressor = zlib.decompressobj(wbits)
            elif not pending:
                pending = stream.read(_CHUNK_BYTES)
        if not decompressor.eof and not pending:
            # A stream cut short may still hold the end of its last match.
            piece = decompressor.flush()
            kept += piece[max(0, start - position) : max(0, end - position)]
    except zlib.error:
        if not kept:
            raise DecodeError("corrupt", "the compressed stream is damaged") from None
    return bytes(kept)
