"""HTTP content codings, as streams: gzip, deflate, br, zstd and lz4 (frame), both ways."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Protocol

import lz4.frame

from deploy.embedded.clickhouse.errors import ServerError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

try:
    import brotli  # type: ignore[import-untyped]
except ImportError:  # the coding is then not offered
    brotli = None

# One step of decoding yields at most this much, so a bomb never becomes one huge buffer.
STEP_BYTES = 1 << 20


class Encoder(Protocol):
    """A running compression."""

    def feed(self, data: bytes | memoryview) -> bytes:
        """Take data, return what is ready to send."""

    def finish(self) -> bytes:
        """Return the rest."""


class _ZlibEncoder:
    def __init__(self, wbits: int) -> None:
        self._stream = zlib.compressobj(level=1, wbits=wbits)

    def feed(self, data: bytes | memoryview) -> bytes:
        return self._stream.compress(data)

    def finish(self) -> bytes:
        return self._stream.flush()


class _BrotliEncoder:
    def __init__(self) -> None:
        self._stream = brotli.Compressor(quality=1)

    def feed(self, data: bytes | memoryview) -> bytes:
        return bytes(self._stream.process(bytes(data)))

    def finish(self) -> bytes:
        return bytes(self._stream.finish())


class _ZstdEncoder:
    def __init__(self) -> None:
        self._stream = zstd.ZstdCompressor(level=1)

    def feed(self, data: bytes | memoryview) -> bytes:
        return bytes(self._stream.compress(data))

    def finish(self) -> bytes:
        return bytes(self._stream.flush())


class _Lz4Encoder:
    def __init__(self) -> None:
        self._stream = lz4.frame.LZ4FrameCompressor()
        self._begun = False

    def feed(self, data: bytes | memoryview) -> bytes:
        head = b"" if self._begun else bytes(self._stream.begin())
        self._begun = True
        return head + bytes(self._stream.compress(data))

    def finish(self) -> bytes:
        head = b"" if self._begun else bytes(self._stream.begin())
        return head + bytes(self._stream.flush())


_ENCODERS: dict[str, Callable[[], Encoder]] = {
    "gzip": lambda: _ZlibEncoder(31),
    "deflate": lambda: _ZlibEncoder(15),
    "zstd": _ZstdEncoder,
    "lz4": _Lz4Encoder,
}
if brotli is not None:
    _ENCODERS["br"] = _BrotliEncoder

# The server's order of preference, ClickHouse's own (HTTPHandlerRequestFilter / CompressionMethod).
_PREFERENCE = ("br", "lz4", "gzip", "deflate", "zstd")


def choose(accept_encoding: str) -> str:
    """Return the coding to answer with, or "" when the client asks for none that is known here."""
    offered: set[str] = set()
    for part in accept_encoding.split(","):
        name, _, quality = part.strip().partition(";")
        if quality.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000"):
            offered.add(name.strip().lower())
    return next((name for name in _PREFERENCE if name in offered and name in _ENCODERS), "")


def encoder(coding: str) -> Encoder:
    """Return a new encoder for a coding that `choose` returned."""
    return _ENCODERS[coding]()


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    @property
    def needs_input(self) -> bool: ...

    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _ZlibDecompressor:
    def __init__(self, wbits: int) -> None:
        self._stream = zlib.decompressobj(wbits)

    @property
    def eof(self) -> bool:
        return self._stream.eof

    @property
    def unused_data(self) -> bytes:
        return self._stream.unused_data

    @property
    def needs_input(self) -> bool:
        return not self._stream.unconsumed_tail

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        return self._stream.decompress(self._stream.unconsumed_tail + data, max(0, max_length))


class _BrotliDecompressor:
    def __init__(self) -> None:
        self._stream = brotli.Decompressor()

    @property
    def unused_data(self) -> bytes:
        return b""

    @property
    def eof(self) -> bool:
        return bool(self._stream.is_finished())

    @property
    def needs_input(self) -> bool:
        return bool(self._stream.can_accept_more_data())

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        return bytes(self._stream.process(data, output_buffer_limit=max_length))


_DECODERS: dict[str, Callable[[], _Decompressor]] = {
    "gzip": lambda: _ZlibDecompressor(31),
    "deflate": lambda: _ZlibDecompressor(15),
    "zstd": zstd.ZstdDecompressor,
    "lz4": lz4.frame.LZ4FrameDecompressor,
}
if brotli is not None:
    _DECODERS["br"] = _BrotliDecompressor


class Decoder:
    """Decodes an upload in any cut, several members in a row included.

    Parameters
    ----------
    coding : str
        The request's Content-Encoding.

    Raises
    ------
    ServerError
        89 when the coding is unknown, 271 when the data does not decode.
    """

    def __init__(self, coding: str) -> None:
        if coding not in _DECODERS:
            known = ", ".join(sorted(_DECODERS))
            raise ServerError(89, f"Unknown content encoding {coding!r}; this server reads {known}")
        self._coding = coding
        self._stream = _DECODERS[coding]()
        self._touched = False

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Take encoded bytes and yield data in pieces of at most `STEP_BYTES`."""
        try:
            while chunk or not self._stream.needs_input:
                if self._stream.eof:
                    if not chunk:
                        return
                    self._stream = _DECODERS[self._coding]()
                self._touched = True
                data = self._stream.decompress(chunk, STEP_BYTES)
                chunk = bytes(self._stream.unused_data or b"") if self._stream.eof else b""
                if data:
                    yield data
                elif not chunk:
                    return
        except (zlib.error, zstd.ZstdError, RuntimeError, EOFError, ValueError) as error:
            raise ServerError(271, f"Cannot decode the body as {self._coding}") from error
        except Exception as error:
            if brotli is not None and isinstance(error, brotli.error):
                raise ServerError(271, f"Cannot decode the body as {self._coding}") from error
            raise

    def finish(self) -> None:
        """Check that the last member is complete."""
        if self._touched and not self._stream.eof:
            raise ServerError(33, f"Cannot read all data: the {self._coding} body ends too early")
