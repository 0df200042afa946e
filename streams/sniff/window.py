"""Random access to a file's header through few, small, counted reads."""

from __future__ import annotations

from typing import BinaryIO

from streams.sniff.result import SniffError, SniffLimits


class LimitReachedError(Exception):
    """The header asks for more bytes than may be read of one file."""


class Window:
    """One stretch of the file in memory, moved by need and never past a budget.

    ``data[i]`` is the byte at offset ``base + i``. Hot loops use the two directly and call
    ``load`` when they run out.

    Parameters
    ----------
    source : BinaryIO
        Seekable file.
    size_bytes : int
        Length of the file; nothing is read past it.
    limits : SniffLimits
        How much may be read.
    is_cut : bool
        The file is the inflated beginning of a longer stream, so its end is not the end.
    """

    __slots__ = ("_limit", "_next", "_source", "base", "bytes_read", "data", "is_cut", "size")

    def __init__(
        self, source: BinaryIO, size_bytes: int, limits: SniffLimits, *, is_cut: bool = False
    ) -> None:
        self._source = source
        self._limit = limits.header_bytes
        self._next = limits.next_read_bytes
        self.size = size_bytes
        self.is_cut = is_cut
        self.bytes_read = 0
        self.base = 0
        self.data = b""
        self._read(0, limits.first_read_bytes)

    def load(self, offset: int, need_bytes: int) -> None:
        """Move the window to ``offset``, with ``need_bytes`` in it unless the file ends first.

        Raises
        ------
        LimitReachedError
            If the budget does not allow it.
        SniffError
            If the source cannot be read.
        """
        have = min(need_bytes, max(self.size - offset, 0))
        if self._limit - self.bytes_read < have:
            raise LimitReachedError
        self._read(offset, max(need_bytes, self._next))

    def take(self, offset: int, length_bytes: int) -> bytes:
        """Bytes at ``offset``, fewer where the file ends; raises as ``load`` does."""
        start = offset - self.base
        if start < 0 or start + length_bytes > len(self.data):
            self.load(offset, length_bytes)
            start = 0
        return self.data[start : start + length_bytes]

    def _read(self, offset: int, length_bytes: int) -> None:
        length = min(length_bytes, self.size - offset, self._limit - self.bytes_read)
        parts: list[bytes] = []
        got = 0
        if length > 0:
            try:
                self._source.seek(offset)
                while got < length:
                    part = self._source.read(length - got)
                    if not part:
                        # Shorter than it was said to be: its end is here.
                        self.size = offset + got
                        break
                    parts.append(part)
                    got += len(part)
            except Exception as error:
                # Sources are foreign: local files, fsspec stores, archives. Whatever they raise
                # means that the bytes cannot be had; the cause stays attached.
                detail = f"reading {length} bytes at {offset}: {type(error).__name__}"
                raise SniffError("unreadable", detail) from error
        self.base = offset
        self.data = parts[0] if len(parts) == 1 else b"".join(parts)
        self.bytes_read += got
