"""Column borders in ClickHouse's Native format, and the framing that newer clients ask for.

A client that sends ``client_protocol_version`` expects a block-info prefix before each block and a
custom-serialization byte after each column's type. The engine in chDB writes revision 0, with
neither, so the blocks are walked column by column and the bytes put in. Only borders are computed;
no value is decoded.

Source: ClickHouse src/Formats/NativeWriter.cpp, src/DataTypes/Serializations/,
src/Core/BlockInfo.cpp.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeAlias

from deploy.embedded.clickhouse.errors import ServerError

# field 1: is_overflows=0; field 2: bucket_num=-1; 0 ends the list.
BLOCK_INFO = b"\x01\x00\x02\xff\xff\xff\xff\x00"
REVISION_BLOCK_INFO = 1
REVISION_CUSTOM_SERIALIZATION = 54454

Buffer: TypeAlias = "bytes | memoryview"
Skipper: TypeAlias = Callable[[Buffer, int, int], int]
"""(buffer, position, rows) -> position after the column's values"""

_FIXED_BYTES: dict[str, int] = {
    **{f"{sign}Int{bits}": bits // 8 for sign in ("", "U") for bits in (8, 16, 32, 64, 128, 256)},
    **{"Float32": 4, "Float64": 8, "BFloat16": 2, "Bool": 1},
    **{"Date": 2, "Date32": 4, "DateTime": 4, "DateTime64": 8, "Time": 4, "Time64": 8},
    **{"UUID": 16, "IPv4": 4, "IPv6": 16, "Enum8": 1, "Enum16": 2, "Nothing": 1},
    **{"Decimal32": 4, "Decimal64": 8, "Decimal128": 16, "Decimal256": 32},
    **{f"Interval{unit}": 8 for unit in ("Nanosecond", "Microsecond", "Millisecond", "Second")},
    **{
        f"Interval{unit}": 8
        for unit in ("Minute", "Hour", "Day", "Week", "Month", "Quarter", "Year")
    },
}
_GEO: dict[str, str] = {
    "Point": "Tuple(Float64, Float64)",
    "Ring": "Array(Tuple(Float64, Float64))",
    "LineString": "Array(Tuple(Float64, Float64))",
    "Polygon": "Array(Array(Tuple(Float64, Float64)))",
    "MultiLineString": "Array(Array(Tuple(Float64, Float64)))",
    "MultiPolygon": "Array(Array(Array(Tuple(Float64, Float64))))",
}
_INDEX_BYTES = (1, 2, 4, 8)
_HAS_ADDITIONAL_KEYS = 1 << 9
_NEED_GLOBAL_DICTIONARY = 1 << 8
_MAX_TYPE_DEPTH = 64


class TruncatedError(ServerError):
    """The buffer ends inside a block."""

    def __init__(self) -> None:
        super().__init__(33, "Cannot read all data: a Native block ends too early")


def read_varuint(data: Buffer, position: int) -> tuple[int, int]:
    """Return the LEB128 number at `position` and the position after it."""
    value = shift = 0
    while True:
        if position >= len(data):
            raise TruncatedError
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ServerError(117, "A number in a Native block is longer than 64 bits")


def _advance(data: Buffer, position: int, count: int) -> int:
    position += count
    if position > len(data):
        raise TruncatedError
    return position


def _read_u64(data: Buffer, position: int) -> int:
    return int.from_bytes(data[position : _advance(data, position, 8)], "little")


# --- the type grammar -----------------------------------------------------------------------------


def split_arguments(text: str) -> list[str]:
    """Split ``a, b(c, d), 'x,y'`` at the commas outside of brackets and quotes."""
    parts: list[str] = []
    depth = start = 0
    position = 0
    while position < len(text):
        char = text[position]
        if char in "'`\"":
            position += 1
            while position < len(text) and text[position] != char:
                position += 2 if text[position] == "\\" else 1
        elif char == "(":
            depth += 1
        elif char == ")":
            depth -= 1
        elif char == "," and depth == 0:
            parts.append(text[start:position].strip())
            start = position + 1
        position += 1
    last = text[start:].strip()
    return [*parts, last] if last else parts


_ELEMENT_NAME = re.compile(
    r"^(?:`(?:[^`\\]|\\.)*`|\"(?:[^\"\\]|\\.)*\"|[A-Za-z_]\w*)\s+(?=\S)", re.DOTALL
)


def _element_type(argument: str) -> str:
    """Drop the name of a named tuple's element: ```a` UInt8`` -> ``UInt8``."""
    match = _ELEMENT_NAME.match(argument)
    return argument[match.end() :] if match else argument


class _Column:
    """How to step over one column: a prefix once per column, then the values of all rows."""

    def __init__(self, values: Skipper, prefix: Callable[[Buffer, int], int] | None = None) -> None:
        self.values = values
        self.prefix = prefix or (lambda data, position: position)


def _fixed(width: int) -> _Column:
    return _Column(lambda data, position, rows: _advance(data, position, width * rows))


def _skip_strings(data: Buffer, position: int, rows: int) -> int:
    end = len(data)
    for _ in range(rows):
        if position >= end:
            raise TruncatedError
        length = data[position]
        if length < 0x80:
            position += 1 + length
        else:
            length, position = read_varuint(data, position)
            position += length
    if position > end:
        raise TruncatedError
    return position


def _nullable(inner: _Column) -> _Column:
    return _Column(lambda d, p, n: inner.values(d, _advance(d, p, n), n), inner.prefix)


def _array(inner: _Column) -> _Column:
    def values(data: Buffer, position: int, rows: int) -> int:
        after = _advance(data, position, 8 * rows)
        total = _read_u64(data, after - 8) if rows else 0
        return inner.values(data, after, total)

    return _Column(values, inner.prefix)


def _tuple(elements: list[_Column]) -> _Column:
    def values(data: Buffer, position: int, rows: int) -> int:
        if not elements:
            return _advance(data, position, rows)
        for element in elements:
            position = element.values(data, position, rows)
        return position

    def prefix(data: Buffer, position: int) -> int:
        for element in elements:
            position = element.prefix(data, position)
        return position

    return _Column(values, prefix)


def _low_cardinality(dictionary: _Column) -> _Column:
    def values(data: Buffer, position: int, rows: int) -> int:
        seen = 0
        while seen < rows:
            flags = _read_u64(data, position)
            position += 8
            if flags & _NEED_GLOBAL_DICTIONARY:
                raise ServerError(
                    48, "LowCardinality with a shared dictionary is not part of Native"
                )
            if flags & _HAS_ADDITIONAL_KEYS:
                keys = _read_u64(data, position)
                position = dictionary.values(data, position + 8, keys)
            count = _read_u64(data, position)
            position = _advance(data, position + 8, count * _INDEX_BYTES[flags & 3])
            if not count:
                raise TruncatedError
            seen += count
        return position

    return _Column(values, lambda data, position: _advance(data, position, 8))


def _variant(alternatives: list[_Column]) -> _Column:
    def values(data: Buffer, position: int, rows: int) -> int:
        after = _advance(data, position, rows)
        discriminators = bytes(data[position:after])
        for number, alternative in enumerate(alternatives):
            count = discriminators.count(number)
            if count:
                after = alternative.values(data, after, count)
        return after

    def prefix(data: Buffer, position: int) -> int:
        mode = _read_u64(data, position)
        if mode != 0:
            raise ServerError(48, "Variant in compact mode is not part of Native")
        position += 8
        for alternative in alternatives:
            position = alternative.prefix(data, position)
        return position

    return _Column(values, prefix)


def column_of(type_name: str, depth: int = 0) -> _Column:  # noqa: PLR0911, PLR0912 - one case a type
    """Return how to step over a column of the type `type_name`.

    Raises
    ------
    ServerError
        Code 48 for a type whose layout is not known here (Dynamic, JSON, AggregateFunction, ...).
    """
    if depth > _MAX_TYPE_DEPTH:
        raise ServerError(36, f"A type is nested more than {_MAX_TYPE_DEPTH} deep")
    name, _, rest = type_name.strip().partition("(")
    name = name.strip()
    arguments = split_arguments(rest[: rest.rindex(")")]) if ")" in rest else []

    def inner(index: int) -> _Column:
        return column_of(arguments[index], depth + 1)

    if name == "Decimal":
        precision = int(arguments[0])
        return _fixed(
            4 if precision <= 9 else 8 if precision <= 18 else 16 if precision <= 38 else 32
        )
    if name in _FIXED_BYTES:
        return _fixed(_FIXED_BYTES[name])
    if name == "String":
        return _Column(_skip_strings)
    if name == "FixedString":
        return _fixed(int(arguments[0]))
    if name == "Nullable":
        return _nullable(inner(0))
    if name == "Array":
        return _array(inner(0))
    if name == "Map":
        return _array(_tuple([inner(0), inner(1)]))
    if name in ("Tuple", "Nested"):
        elements = [column_of(_element_type(a), depth + 1) for a in arguments]
        return _tuple(elements) if name == "Tuple" else _array(_tuple(elements))
    if name == "LowCardinality":
        # The dictionary keeps the NULL as one of its keys, so it is written without a null map.
        key = arguments[0]
        key = key[len("Nullable(") : -1] if key.startswith("Nullable(") else key
        return _low_cardinality(column_of(key, depth + 1))
    if name == "Variant":
        return _variant([column_of(a, depth + 1) for a in sorted(arguments)])
    if name == "SimpleAggregateFunction":
        return inner(1)
    if name in _GEO:
        return column_of(_GEO[name], depth + 1)
    raise ServerError(
        48,
        f"A column of type {name} cannot be sent in Native format to a client that asks for "
        f"client_protocol_version; cast it, for example with toString() or toJSONString()",
    )


# --- reframing ------------------------------------------------------------------------------------


def reframe(data: Buffer, revision: int) -> list[Buffer]:
    """Return `data`, whole Native blocks of revision 0, framed for a client of `revision`.

    Parameters
    ----------
    data : bytes or memoryview
        One or more complete Native blocks.
    revision : int
        The client's ``client_protocol_version``.

    Returns
    -------
    list of bytes or memoryview
        Pieces to send in order; the columns' data is not copied.
    """
    if revision < REVISION_BLOCK_INFO:
        return [data]
    flag = b"\x00" if revision >= REVISION_CUSTOM_SERIALIZATION else b""
    view = memoryview(data)
    pieces: list[Buffer] = []
    position, end = 0, len(view)
    while position < end:
        pieces.append(BLOCK_INFO)
        start = position
        columns, position = read_varuint(view, position)
        rows, position = read_varuint(view, position)
        for _ in range(columns):
            length, position = read_varuint(view, position)
            position = _advance(view, position, length)
            length, type_start = read_varuint(view, position)
            position = _advance(view, type_start, length)
            pieces += (view[start:position], flag)
            start = position
            if rows:
                column = column_of(str(view[type_start:position], "utf-8"))
                position = column.values(view, column.prefix(view, position), rows)
        pieces.append(view[start:position])
    return pieces
