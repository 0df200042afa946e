"""Just enough SQL lexing to route a statement: where inline data begins, which format it names.

The engine parses SQL; this module only has to find token borders exactly as ClickHouse's lexer does
(strings, quoted identifiers, comments, heredocs), so nothing inside a literal is ever taken for a
keyword. Text is latin-1, one character per byte, so offsets are byte offsets.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_TOKEN = re.compile(
    r"""
    (?P<space>[\s\x00]+|--[^\n]*|\#[ !][^\n]*|/\*.*?\*/)
  | (?P<string>'[^'\\]*(?:(?:\\.|'')[^'\\]*)*')
  | (?P<quoted>"[^"\\]*(?:(?:\\.|"")[^"\\]*)*"|`[^`\\]*(?:(?:\\.|``)[^`\\]*)*`)
  | (?P<heredoc>\$(?P<tag>\w*)\$.*?\$(?P=tag)\$)
  | (?P<word>[A-Za-z_][A-Za-z0-9_$]*)
  | (?P<number>[0-9][A-Za-z0-9_.]*)
  | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)

# Functions and engines that reach files of the host by name. The engine's grants stop the rest.
_HOST_FUNCTIONS = frozenset({"file", "python", "filelog", "embeddedrocksdb", "executablepool"})


@dataclass(frozen=True)
class Token:
    """One token with its place: `kind` is a group name of the lexer, `text` as written."""

    kind: str
    text: str
    start: int
    end: int
    depth: int

    @property
    def upper(self) -> str:
        """The text in upper case if it is a bare word, otherwise empty."""
        return self.text.upper() if self.kind == "word" else ""

    @property
    def name(self) -> str:
        """The identifier, lower case and without quotes; empty for other tokens."""
        if self.kind == "word":
            return self.text.lower()
        return self.text[1:-1].lower() if self.kind == "quoted" else ""


@dataclass(frozen=True)
class Insert:
    """An INSERT whose rows follow as data: what to run, the format, where the data starts."""

    head: str
    input_format: str
    data_start: int


@dataclass(frozen=True)
class Statement:
    """What routing needs to know about one statement.

    Attributes
    ----------
    kind : str
        First keyword, upper case ("SELECT", "INSERT", ...); "WITH", "(" and "FROM" are "SELECT".
    insert : Insert or None
        Set for an INSERT with data.
    output_format : str
        The name after the statement's own FORMAT, or empty.
    denied : str
        A clause or function that this server refuses, or empty.
    """

    kind: str
    insert: Insert | None = None
    output_format: str = ""
    denied: str = ""


def tokens(text: str) -> Iterator[Token]:
    """Yield the tokens of `text` without white space and comments, with their bracket depth."""
    depth = 0
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup or "other"
        if kind == "tag":
            kind = "heredoc"
        if kind == "space":
            continue
        piece = match.group()
        if kind == "other" and piece in ")]}":
            depth = max(0, depth - 1)
        yield Token(kind, piece, match.start(), match.end(), depth)
        if kind == "other" and piece in "([{":
            depth += 1


def analyse(text: str) -> Statement:
    """Return what routing needs to know about the statement in `text`.

    Parameters
    ----------
    text : str
        SQL, possibly followed by the data of an INSERT, decoded as latin-1.
    """
    stream = tokens(text)
    first = next(stream, None)
    if first is None:
        return Statement("")
    if first.upper == "INSERT":
        return _analyse_insert(text, stream)
    kind = (
        "SELECT" if first.upper in ("WITH", "FROM", "SELECT") or first.text == "(" else first.upper
    )
    output_format, denied = _scan_query(first, stream)
    return Statement(kind, None, output_format, denied)


def _scan_query(first: Token, rest: Iterator[Token]) -> tuple[str, str]:
    previous, output_format, denied, in_settings = first, "", "", False
    for token in rest:
        denied = denied or _denied(previous, token)
        if output_format and not in_settings and token.text != ";":
            # FORMAT x is the clause only when nothing but SETTINGS follows; else it was a column.
            in_settings = token.upper == "SETTINGS"
            output_format = output_format if in_settings else ""
        if not output_format and token.depth == 0 and previous.upper == "FORMAT":
            output_format = token.text if token.kind == "word" else ""
        previous = token
    return output_format, denied


def _denied(previous: Token, token: Token) -> str:
    if token.upper in ("OUTFILE", "INFILE") and previous.upper in ("INTO", "FROM"):
        return f"{previous.upper} {token.upper}"
    if token.text == "(" and previous.name in _HOST_FUNCTIONS:
        return f"{previous.name}()"
    return ""


def _analyse_insert(text: str, stream: Iterator[Token]) -> Statement:  # noqa: PLR0911
    denied = ""
    previous: Token | None = None
    target_seen = False
    for token in stream:
        if previous is not None:
            denied = denied or _denied(previous, token)
        word = token.upper if token.depth == 0 else ""
        if not target_seen:
            # INTO, TABLE and FUNCTION precede the target, which may be named like a keyword.
            if word in ("INTO", "FUNCTION") or (
                word == "TABLE" and previous is not None and previous.upper == "INTO"
            ):
                previous = token
                continue
            target_seen = True
        elif previous is not None and previous.text == ".":
            pass
        elif word == "VALUES":
            return Statement("INSERT", Insert(text[: token.start], "Values", token.end), "", denied)
        elif word == "FORMAT":
            name = next(stream, None)
            if name is None or name.kind != "word":
                return Statement("INSERT", None, "", denied)
            if name.upper == "VALUES":
                return Statement(
                    "INSERT", Insert(text[: token.start], "Values", name.end), "", denied
                )
            start = _data_start(text, name.end)
            return Statement("INSERT", Insert(text[: token.start], name.text, start), "", denied)
        elif (
            word in ("SELECT", "WITH", "WATCH")
            or (token.text == "(" and previous is not None and previous.text == ")")
            or (token.text == "(" and token.depth == 0 and _is_subquery(text, token.end))
        ):
            output_format, more = _scan_query(token, stream)
            return Statement("INSERT SELECT", None, output_format, denied or more)
        previous = token
    if not target_seen:
        return Statement("INSERT", None, "", denied)
    # No FORMAT and no VALUES: the data, if any, is in the request's default format.
    head = text.rstrip().rstrip(";")
    return Statement("INSERT", Insert(head, "", len(text)), "", denied)


def _is_subquery(text: str, start: int) -> bool:
    following = next(tokens(text[start : start + 4096]), None)
    return following is not None and following.upper in ("SELECT", "WITH")


def _data_start(text: str, end: int) -> int:
    """Skip blanks and one line end after the format's name, as ClickHouse's parser does."""
    while end < len(text) and text[end] in " \t\f":
        end += 1
    if text[end : end + 1] == "\r":
        end += 1
    if text[end : end + 1] == "\n":
        end += 1
    return end


def quote(value: str) -> str:
    """Return `value` as an SQL string literal."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def quote_name(name: str) -> str:
    """Return `name` as a quoted SQL identifier."""
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"
