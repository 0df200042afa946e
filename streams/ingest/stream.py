"""Bytes that come piece by piece, read as a file that knows no way back."""

from __future__ import annotations

from collections.abc import Iterator

from streams.ingest.errors import IngestError

PIECE_BYTES = 1 << 17


class ByteStream:
    """Reads chunks as they come; looks ahead a little.

    Parameters
    ----------
    chunks : iterator of bytes
        Where they come from; it is asked only when bytes are needed.
    offset : int
        Where the first chunk stands in the whole.
    """

    def __init__(self, chunks: Iterator[bytes], *, offset: int = 0) -> None:
        self._chunks = chunks
        self._buffer = b""
        self._start = 0
        self.offset = offset

    def peek(self, size_bytes: int) -> bytes:
        """Look at the next bytes without taking them; fewer only at the end."""
        if len(self._buffer) - self._start < size_bytes:
            self._fill(size_bytes)
        return self._buffer[self._start : self._start + size_bytes]

    def _fill(self, size_bytes: int) -> None:
        left = self._buffer[self._start :]
        parts, length = [left] if left else [], len(left)
        while length < size_bytes:
            chunk = next(self._chunks, None)
            if chunk is None:
                break
            parts.append(chunk)
            length += len(chunk)
        # One chunk, as most small members are, is not copied.
        self._buffer = parts[0] if len(parts) == 1 else b"".join(parts)
        self._start = 0

    def read(self, size_bytes: int) -> bytes:
        """Take bytes; fewer only at the end."""
        data = self.peek(size_bytes)
        self._start += len(data)
        self.offset += len(data)
        return data

    def exactly(self, size_bytes: int) -> bytes:
        """Take bytes.

        Raises
        ------
        IngestError
            ``truncated`` if there are fewer.
        """
        data = self.read(size_bytes)
        if len(data) < size_bytes:
            raise truncated()
        return data

    def piece(self, most_bytes: int = PIECE_BYTES) -> bytes:
        """Take what is at hand, at most so much; empty only at the end."""
        if self._start == len(self._buffer):
            self._buffer, self._start = next(self._chunks, b""), 0
            while not self._buffer:
                chunk = next(self._chunks, None)
                if chunk is None:
                    return b""
                self._buffer = chunk
        if self._start == 0 and len(self._buffer) <= most_bytes:
            data, self._buffer = self._buffer, b""
        else:
            data = self._buffer[self._start : self._start + most_bytes]
            self._start += len(data)
        self.offset += len(data)
        return data

    def push_back(self, data: bytes) -> None:
        """Put bytes that were taken last back in front."""
        if not data:
            return
        if self._start >= len(data):
            self._start -= len(data)
        else:
            self._buffer = data + self._buffer[self._start :]
            self._start = 0
        self.offset -= len(data)

    def pieces(self, size_bytes: int) -> Iterator[bytes]:
        """Take so many bytes, piece by piece.

        Raises
        ------
        IngestError
            ``truncated`` if there are fewer.
        """
        left = size_bytes
        while left:
            data = self.piece(min(left, PIECE_BYTES))
            if not data:
                raise truncated()
            left -= len(data)
            yield data

    def skip(self, size_bytes: int) -> None:
        """Leave bytes out.

        Raises
        ------
        IngestError
            ``truncated`` if there are fewer.
        """
        for _ in self.pieces(size_bytes):
            pass

    def rest(self) -> Iterator[bytes]:
        """Take everything to the end."""
        while data := self.piece():
            yield data


def truncated() -> IngestError:
    """Make the error of a stream that ends early."""
    return IngestError("truncated", "the archive ends early: it was cut off, or never finished")
