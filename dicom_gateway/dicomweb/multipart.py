"""The framing of a multipart body (RFC 2046 section 5.1), taken apart while it arrives.

Nothing is held but what may be the beginning of a delimiter, and the header of one part. aiohttp
has a reader of its own; it splits quoted parameters, trusts a part's Content-Length, and changes
the interpreter's warning filters for every chunk, which threads share.
"""

from __future__ import annotations

import enum
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

MAX_BOUNDARY_CHARACTERS = 70
"""RFC 2046 section 5.1.1."""

MAX_PART_HEADER_BYTES = 8 * 1024
MAX_PREAMBLE_BYTES = 64 * 1024
"""Bytes before the first delimiter; they mean nothing, and are mostly a wrong boundary."""

MAX_PADDING_BYTES = 64
"""White space that a transport may put behind a delimiter."""


class FramingError(Exception):
    """A body is not framed as its Content-Type says; the message says how."""


class TooManyPartsError(FramingError):
    """A body has more parts than it may."""


@dataclass(frozen=True)
class PartStart:
    """A part begins; its headers by name in lower case."""

    headers: Mapping[str, str]


@dataclass(frozen=True)
class PartData:
    """Some bytes of the part's content."""

    data: memoryview


@dataclass(frozen=True)
class PartEnd:
    """The part is complete."""


PartEvent: TypeAlias = "PartStart | PartData | PartEnd"


class _State(enum.Enum):
    PREAMBLE = enum.auto()
    HEADER = enum.auto()
    CONTENT = enum.auto()
    EPILOGUE = enum.auto()


class _Follows(enum.Enum):
    PART = enum.auto()
    END = enum.auto()
    CONTENT = enum.auto()
    UNKNOWN = enum.auto()


class MultipartDecoder:
    """Turns the pieces of a multipart body into its parts.

    Parameters
    ----------
    boundary : str
        Of the Content-Type.
    max_parts : int
        How many parts may come.

    Raises
    ------
    FramingError
        If the boundary is none.
    """

    def __init__(self, boundary: str, *, max_parts: int) -> None:
        if (
            not 0 < len(boundary) <= MAX_BOUNDARY_CHARACTERS
            or not boundary.isascii()
            or not boundary.isprintable()
            or boundary.endswith(" ")
        ):
            msg = f"the boundary must have 1 to {MAX_BOUNDARY_CHARACTERS} printable characters"
            raise FramingError(msg)
        self._delimiter = b"\r\n--" + boundary.encode("ascii")
        self._max_parts = max_parts
        self._parts = 0
        self._preamble_bytes = 0
        self._state = _State.PREAMBLE
        # The first delimiter may come without the line end that belongs to all others.
        self._buffer = b"\r\n"
        # Of the buffer's first bytes these are no content: the line end of a header, which is
        # that of the next delimiter too when the part is empty.
        self._skip = 0

    def feed(self, data: bytes) -> Iterator[PartEvent]:
        """Take the next bytes, and give what they complete; to be exhausted.

        Raises
        ------
        FramingError
            If they cannot be a part of such a body.
        """
        buffer = self._buffer + data
        offset = 0
        while self._state is not _State.EPILOGUE:
            before = (self._state, offset)
            if self._state is _State.HEADER:
                end = buffer.find(b"\r\n\r\n", offset)
                if (end if end >= 0 else len(buffer)) - offset > MAX_PART_HEADER_BYTES:
                    msg = f"the header of a part is longer than {MAX_PART_HEADER_BYTES} bytes"
                    raise FramingError(msg)
                if end >= 0:
                    headers = _headers(buffer[offset + 2 : end])
                    self._state, self._skip, offset = _State.CONTENT, 2, end + 2
                    yield PartStart(headers)
            else:
                found, end, follows = self._find_delimiter(buffer, offset)
                offset = yield from self._content(buffer, offset, found)
                if follows is not _Follows.UNKNOWN:
                    offset = end
                    yield from self._delimited(follows)
            if before == (self._state, offset):
                break
        self._buffer = b"" if self._state is _State.EPILOGUE else buffer[offset:]

    def finish(self) -> Iterator[PartEvent]:
        """Say that no more bytes come.

        Raises
        ------
        FramingError
            If the last delimiter is missing.
        """
        if self._state is not _State.EPILOGUE:
            msg = (
                "the body holds no delimiter of the boundary in its Content-Type"
                if self._state is _State.PREAMBLE
                else "the body ends before its last delimiter"
            )
            raise FramingError(msg)
        yield from ()

    def _find_delimiter(self, buffer: bytes, offset: int) -> tuple[int, int, _Follows]:
        # Up to where the bytes are content for certain, where the delimiter ends, what follows it.
        search = offset
        while (found := buffer.find(self._delimiter, search)) >= 0:
            end, follows = _what_follows(buffer, found + len(self._delimiter))
            if follows is not _Follows.CONTENT:
                return found, end, follows
            search = found + 2
        return max(search, len(buffer) - len(self._delimiter) + 1), 0, _Follows.UNKNOWN

    def _content(self, buffer: bytes, offset: int, end: int) -> Generator[PartEvent, None, int]:
        start = offset + self._skip
        if end <= start:
            return offset
        if self._state is _State.PREAMBLE:
            self._preamble_bytes += end - start
            if self._preamble_bytes > MAX_PREAMBLE_BYTES:
                msg = (
                    f"the first {MAX_PREAMBLE_BYTES} bytes of the body hold no delimiter of the "
                    "boundary in its Content-Type"
                )
                raise FramingError(msg)
        else:
            yield PartData(memoryview(buffer)[start:end])
        self._skip = 0
        return end

    def _delimited(self, follows: _Follows) -> Iterator[PartEvent]:
        if self._state is _State.CONTENT:
            yield PartEnd()
        self._skip = 0
        if follows is _Follows.END:
            self._state = _State.EPILOGUE
            return
        self._parts += 1
        if self._parts > self._max_parts:
            msg = f"more than {self._max_parts} parts in one request; send several"
            raise TooManyPartsError(msg)
        self._state = _State.HEADER


class SinglePartDecoder:
    """A body that is one part by itself, with the interface of ``MultipartDecoder``.

    Parameters
    ----------
    headers : mapping
        What the part's headers would be.
    """

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = headers
        self._begun = False

    def feed(self, data: bytes) -> Iterator[PartEvent]:
        """Take the next bytes."""
        if not self._begun:
            self._begun = True
            yield PartStart(self._headers)
        yield PartData(memoryview(data))

    def finish(self) -> Iterator[PartEvent]:
        """Say that no more bytes come."""
        if self._begun:
            yield PartEnd()


def _what_follows(buffer: bytes, at: int) -> tuple[int, _Follows]:
    if buffer.startswith(b"--", at):
        return at + 2, _Follows.END
    end = at
    while end < min(len(buffer), at + MAX_PADDING_BYTES) and buffer[end] in b" \t":
        end += 1
    rest = buffer[end : end + 2]
    if rest == b"\r\n":
        # The line end stays: with the one behind an empty header it makes the empty line.
        return end, _Follows.PART
    if rest in (b"", b"\r") or (rest == b"-" and end == at):
        return at, _Follows.UNKNOWN
    # RFC 2046 forbids it, yet pixels do as they like: a longer name than the boundary's.
    return at, _Follows.CONTENT


def _headers(block: bytes) -> dict[str, str]:
    headers: dict[str, str] = {}
    last = ""
    for line in block.decode("latin-1").split("\r\n") if block else ():
        if line[:1] in (" ", "\t") and last:
            headers[last] += " " + line.strip()
            continue
        name, colon, value = line.partition(":")
        if not colon or not name.strip() or not name.isprintable():
            msg = "a part has a header line without a name"
            raise FramingError(msg)
        last = name.strip().lower()
        headers[last] = value.strip()
    return headers
