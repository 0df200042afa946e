"""From the engine's chunks to the bytes of a response."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import IO, cast

from deploy.embedded.clickhouse import codings, formats, native
from deploy.embedded.clickhouse.block_compression import BLOCK_BYTES, encode_block
from deploy.embedded.clickhouse.engine import Stream
from deploy.embedded.clickhouse.errors import ServerError

BUFFER_BYTES = 1 << 20  # of a result before its headers are sent
SPOOL_MEMORY_BYTES = 16 << 20  # of a result that must be complete before it is sent


class Output:
    """From the engine's chunks to the bytes of the response body.

    Parameters
    ----------
    output_format : str
        The result's format.
    revision : int
        Frame Native blocks for a client of this revision.
    block_method : int
        ClickHouse block compression method, 0 for none.
    coding : str
        HTTP content coding, "" for none.
    """

    def __init__(self, output_format: str, revision: int, block_method: int, coding: str) -> None:
        self._joiner = formats.Joiner(output_format)
        self._revision = revision if output_format.lower() == "native" else 0
        self._block_method = block_method
        self._encoder = codings.encoder(coding) if coding else None

    def feed(self, chunk: memoryview) -> bytes:
        """Take one chunk of the result and return what can be sent."""
        return self._encode(native.reframe(self._joiner.feed(chunk), self._revision))

    def finish(self) -> bytes:
        """Return the end of the body."""
        tail = self._joiner.finish()
        return self._encode([tail] if tail else []) + (
            self._encoder.finish() if self._encoder else b""
        )

    def text(self, message: str) -> bytes:
        """Return a message of the server's own in the body's encoding, ending the body."""
        encoded = self._encode([message.encode()])
        return encoded + (self._encoder.finish() if self._encoder else b"")

    def _encode(self, pieces: list[native.Buffer]) -> bytes:
        data: native.Buffer = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if self._block_method and len(data):
            view = memoryview(data)
            data = b"".join(
                encode_block(bytes(view[start : start + BLOCK_BYTES]), self._block_method)
                for start in range(0, len(view), BLOCK_BYTES)
            )
        return self._encoder.feed(data) if self._encoder else bytes(data)


class Result:
    """A query's answer under way: run the blocking methods in a thread."""

    def __init__(self, output: Output, whole: memoryview | None, stream: Stream | None) -> None:
        self._output = output
        self._whole = whole
        self._stream = stream
        self.ended = False

    def read(self, least: int) -> bytes:
        """Return encoded bytes, at least `least` unless the result ends."""
        parts: list[bytes] = []
        size = 0
        while size < least and not self.ended:
            chunk, self._whole = self._whole, None
            if chunk is None and self._stream is not None:
                chunk = self._stream.next()
            if chunk is None:
                self.ended = True
                part = self._output.finish()
            else:
                part = self._output.feed(chunk)
            parts.append(part)
            size += len(part)
        return b"".join(parts)

    def read_to_file(self, directory: Path) -> IO[bytes]:
        """Return the whole answer as a file that stays in memory while it is small."""
        spool = tempfile.SpooledTemporaryFile(SPOOL_MEMORY_BYTES, dir=str(directory))  # noqa: SIM115
        while not self.ended:
            spool.write(self.read(BUFFER_BYTES))
        return cast("IO[bytes]", spool)

    def close(self) -> None:
        """Stop the query."""
        if self._stream is not None:
            self._stream.close()


def late_error(error: ServerError, tag: str, version: str) -> str:
    """Return the trailer that clients look for when a query fails after its headers were sent."""
    message = error.render(version)
    size = len(message.encode("utf-8", "surrogateescape"))
    return f"\r\n__exception__\r\n{tag}\r\n{message}{size} {tag}\r\n__exception__\r\n"
