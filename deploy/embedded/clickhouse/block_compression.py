"""ClickHouse's own block compression: ``compress=1`` on answers, ``decompress=1`` on uploads.

A block is a 16-byte CityHash128 (version 1.0.2, as ClickHouse keeps it) of all that follows, then
one method byte, the size of header plus payload, the size of the data, and the payload.
Source: ClickHouse src/Compression/CompressedReadBufferBase.cpp.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator

import lz4.block
from clickhouse_cityhash.cityhash import CityHash128  # type: ignore[import-untyped]

from deploy.embedded.clickhouse.errors import ServerError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

METHOD_NONE = 0x02
METHOD_LZ4 = 0x82
METHOD_ZSTD = 0x90
_HEADER = struct.Struct("<BII")
_CHECKSUM_BYTES = 16
BLOCK_BYTES = 1 << 20
MAX_BLOCK_BYTES = 1 << 30  # ClickHouse's DBMS_MAX_COMPRESSED_SIZE
_UINT64 = (1 << 64) - 1


def checksum(data: bytes) -> bytes:
    """Return CityHash128 of `data` as the 16 bytes that precede a block."""
    value: int = CityHash128(data)
    return struct.pack("<QQ", value >> 64, value & _UINT64)


def encode_block(data: bytes, method: int = METHOD_LZ4) -> bytes:
    """Return `data` as one compressed block with its checksum."""
    if method == METHOD_LZ4:
        payload = lz4.block.compress(data, store_size=False)
    elif method == METHOD_ZSTD:
        payload = zstd.compress(data, level=1)
    else:
        payload = data
    body = _HEADER.pack(method, _HEADER.size + len(payload), len(data)) + payload
    return checksum(body) + bytes(body)


class BlockDecoder:
    """Turns a stream of compressed blocks, cut anywhere, back into data.

    Parameters
    ----------
    max_block_bytes : int
        The largest compressed or plain block that is accepted.
    """

    def __init__(self, max_block_bytes: int = MAX_BLOCK_BYTES) -> None:
        self._buffer = bytearray()
        self._max = max_block_bytes

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Take the next bytes and yield the data of every block that is complete.

        Raises
        ------
        ServerError
            40: wrong checksum, 89: unknown method, 271: a payload that does not decode.
        """
        buffer = self._buffer
        buffer += chunk
        prefix = _CHECKSUM_BYTES + _HEADER.size
        while len(buffer) >= prefix:
            method, packed_size, plain_size = _HEADER.unpack_from(buffer, _CHECKSUM_BYTES)
            if not _HEADER.size <= packed_size <= self._max or plain_size > self._max:
                raise ServerError(271, f"A compressed block is larger than {self._max} bytes")
            end = _CHECKSUM_BYTES + packed_size
            if len(buffer) < end:
                return
            body = bytes(buffer[_CHECKSUM_BYTES:end])
            if bytes(buffer[:_CHECKSUM_BYTES]) != checksum(body):
                raise ServerError(40, "Checksum doesn't match: a compressed block is corrupt")
            del buffer[:end]
            yield _decode(method, body[_HEADER.size :], plain_size)

    def finish(self) -> None:
        """Check that the stream ended between two blocks."""
        if self._buffer:
            raise ServerError(33, "Cannot read all data: a compressed block ends too early")


def _decode(method: int, payload: bytes, plain_size: int) -> bytes:
    try:
        if method == METHOD_LZ4:
            data = (
                lz4.block.decompress(payload, uncompressed_size=plain_size) if plain_size else b""
            )
        elif method == METHOD_ZSTD:
            data = zstd.ZstdDecompressor().decompress(payload, max_length=plain_size)
        elif method == METHOD_NONE:
            data = payload
        else:
            raise ServerError(
                89, f"Unknown compression method 0x{method:02x}; send LZ4, ZSTD or none"
            )
    except (lz4.block.LZ4BlockError, zstd.ZstdError, ValueError) as error:
        raise ServerError(271, "Cannot decompress a block") from error
    if len(data) != plain_size:
        raise ServerError(271, "Cannot decompress a block: its size is not the one it states")
    return bytes(data)
