"""What the HTTP layer must know about formats: content types, and how streamed chunks join.

chDB formats every chunk of a streamed result as a document of its own. For row formats the chunks
simply follow each other; formats with a header repeat it in every chunk, and it is cut off here.
Formats with a frame around all rows (JSON, Parquet, Pretty...) are not streamed.
"""

from __future__ import annotations

from deploy.embedded.clickhouse.native import Buffer, read_varuint

DEFAULT_FORMAT = "TabSeparated"

_PLAIN = frozenset(
    name.lower()
    for name in [
        "Native",
        "TabSeparated",
        "TSV",
        "TabSeparatedRaw",
        "TSVRaw",
        "CSV",
        "TSKV",
        "JSONEachRow",
        "JSONLines",
        "NDJSON",
        "JSONStringsEachRow",
        "JSONCompactEachRow",
        "JSONCompactStringsEachRow",
        "RowBinary",
        "LineAsString",
        "RawBLOB",
        "MsgPack",
    ]
)
_HEADER_LINES: dict[str, int] = {}
for _base in ("TabSeparated", "TSV", "TabSeparatedRaw", "TSVRaw", "JSONCompactEachRow"):
    _HEADER_LINES[f"{_base}WithNames".lower()] = 1
    _HEADER_LINES[f"{_base}WithNamesAndTypes".lower()] = 2
_HEADER_LINES["jsoncompactstringseachrowwithnames"] = 1
_HEADER_LINES["jsoncompactstringseachrowwithnamesandtypes"] = 2
_CSV_HEADER_LINES = {"csvwithnames": 1, "csvwithnamesandtypes": 2}
_BINARY_HEADER_LISTS = {"rowbinarywithnames": 1, "rowbinarywithnamesandtypes": 2}
_ARROW_END = b"\xff\xff\xff\xff\x00\x00\x00\x00"


def content_type(output_format: str) -> str:  # noqa: PLR0911 - a table of cases
    """Return the Content-Type that ClickHouse answers for a format."""
    name = output_format.lower()
    if name in ("jsoneachrow", "jsonlines", "ndjson") or name.startswith("jsoncompacteachrow"):
        return "application/x-ndjson; charset=UTF-8"
    if name.startswith("json"):
        return "application/json; charset=UTF-8"
    if name.startswith("csv"):
        header = "present" if "withnames" in name else "absent"
        return f"text/csv; charset=UTF-8; header={header}"
    if name.startswith(("tsv", "tabseparated", "tskv")):
        return "text/tab-separated-values; charset=UTF-8"
    if name == "xml":
        return "application/xml; charset=UTF-8"
    if name.startswith(("pretty", "vertical", "values", "markdown", "sqlinsert", "lineasstring")):
        return "text/plain; charset=UTF-8"
    return "application/octet-stream"


def is_streamable(output_format: str) -> bool:
    """Return whether chunks of this format can be joined into one document."""
    name = output_format.lower()
    return (
        name in _PLAIN
        or name in _HEADER_LINES
        or name in _CSV_HEADER_LINES
        or name in _BINARY_HEADER_LISTS
        or name == "arrowstream"
    )


class Joiner:
    """Joins the chunks of one streamed result.

    Parameters
    ----------
    output_format : str
        A format for which `is_streamable` holds.
    """

    def __init__(self, output_format: str) -> None:
        self._name = output_format.lower()
        self._first = True
        self._tail = b""

    def feed(self, chunk: memoryview) -> memoryview:
        """Return the part of `chunk` that belongs into the joined document."""
        first, self._first = self._first, False
        start, end = (0, len(chunk)) if first else (header_length(self._name, chunk), len(chunk))
        if self._name == "arrowstream" and bytes(chunk[-len(_ARROW_END) :]) == _ARROW_END:
            end -= len(_ARROW_END)
            self._tail = _ARROW_END
        return chunk[start:end]

    def finish(self) -> bytes:
        """Return what ends the document."""
        return self._tail


def header_length(output_format: str, chunk: Buffer) -> int:
    """Return how many bytes of `chunk` are the header of the format."""
    name = output_format.lower()
    if name in _HEADER_LINES:
        return _skip_lines(chunk, _HEADER_LINES[name], quote=None)
    if name in _CSV_HEADER_LINES:
        return _skip_lines(chunk, _CSV_HEADER_LINES[name], quote=ord('"'))
    if name in _BINARY_HEADER_LISTS:
        columns, position = read_varuint(chunk, 0)
        for _ in range(columns * _BINARY_HEADER_LISTS[name]):
            length, position = read_varuint(chunk, position)
            position += length
        return position
    if name == "arrowstream":
        # The schema message: continuation marker, metadata length, metadata; it has no body.
        return 8 + int.from_bytes(chunk[4:8], "little")
    return 0


def _skip_lines(chunk: Buffer, lines: int, quote: int | None) -> int:
    inside = False
    for position, byte in enumerate(chunk):
        if byte == quote:
            inside = not inside
        elif byte == 0x0A and not inside:
            lines -= 1
            if lines == 0:
                return position + 1
    return len(chunk)
