"""ClickHouse errors: code, name, HTTP status, and the text a client parses."""

from __future__ import annotations

import re

# Codes this server raises itself; the names are ClickHouse's (src/Common/ErrorCodes.cpp).
NAMES: dict[int, str] = {
    27: "CANNOT_PARSE_INPUT_ASSERTION_FAILED",
    33: "CANNOT_READ_ALL_DATA",
    36: "BAD_ARGUMENTS",
    40: "CHECKSUM_DOESNT_MATCH",
    48: "NOT_IMPLEMENTED",
    62: "SYNTAX_ERROR",
    81: "UNKNOWN_DATABASE",
    89: "UNKNOWN_COMPRESSION_METHOD",
    117: "INCORRECT_DATA",
    159: "TIMEOUT_EXCEEDED",
    164: "READONLY",
    193: "WRONG_PASSWORD",
    202: "TOO_MANY_SIMULTANEOUS_QUERIES",
    209: "SOCKET_TIMEOUT",
    217: "QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING",
    236: "ABORTED",
    241: "MEMORY_LIMIT_EXCEEDED",
    271: "CANNOT_DECOMPRESS",
    372: "SESSION_NOT_FOUND",
    373: "SESSION_IS_LOCKED",
    374: "INVALID_SESSION_TIMEOUT",
    394: "QUERY_WAS_CANCELLED",
    396: "TOO_MANY_ROWS_OR_BYTES",
    497: "ACCESS_DENIED",
    516: "AUTHENTICATION_FAILED",
    1002: "UNKNOWN_EXCEPTION",
}

# ClickHouse's mapping (src/Server/HTTPHandler.cpp, exceptionCodeToHTTPStatus).
_BAD_REQUEST = frozenset(
    (6, 25, 26, 27, 36, 38, 41, 43, 44, 53, 62, 69, 72, 117, 167, 168, 374, 376, 427, 441, 467)
)
_NOT_FOUND = frozenset((46, 47, 50, 56, 60, 63, 73, 78, 81, 115, 304, 336, 370, 429, 456))
_STATUS: dict[int, int] = {
    48: 501,
    159: 408,
    193: 403,
    194: 401,
    192: 403,
    202: 503,  # 500 there; 503 lets a client know that asking again helps
    209: 408,
    497: 403,
    516: 403,
    396: 413,
    512: 403,
}


class ServerError(Exception):
    """A fault that the client is told about in ClickHouse's own words.

    Parameters
    ----------
    code : int
        ClickHouse's error code.
    message : str
        What went wrong and what to do next; without code, name or version.
    name : str, optional
        The code's symbolic name; looked up when the code is one of `NAMES`.
    """

    def __init__(self, code: int, message: str, name: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.name = name or NAMES.get(code, "UNKNOWN_EXCEPTION")

    @property
    def status(self) -> int:
        """The HTTP status that ClickHouse answers for this code."""
        return http_status(self.code)

    def render(self, version: str) -> str:
        """Return the body text: ``Code: N. DB::Exception: ... (NAME) (version ...)``."""
        message = self.message if self.message.endswith((".", "!", "?")) else self.message + "."
        return f"Code: {self.code}. DB::Exception: {message} ({self.name}) (version {version})\n"


def http_status(code: int) -> int:
    """Return the HTTP status for a ClickHouse error code; 500 for the ones without their own."""
    if code in _STATUS:
        return _STATUS[code]
    if code in _NOT_FOUND:
        return 404
    if code in _BAD_REQUEST:
        return 400
    return 500


_PREFIX = re.compile(r"^(?:Streaming query failed: )?Code: (\d+)\. DB::Exception: ")
_SUFFIX = re.compile(r"[\s.]*\((?:version [^()]*(?:\([^()]*\))?|([A-Z][A-Z0-9_]{2,}))\)\s*$")


def parse_engine_error(text: str) -> ServerError:
    """Return the error that chDB's exception text stands for.

    chDB repeats the prefix and the suffix once per layer that rethrew
    (``Code: 115. DB::Exception: Code: 115. DB::Exception: ... (NAME) (version x). (NAME)``);
    clients expect each of them once.
    """
    code, name, rest = 1002, "", text.strip()
    while match := _PREFIX.match(rest):
        code = int(match.group(1))
        rest = rest[match.end() :]
    while match := _SUFFIX.search(rest):
        name = match.group(1) or name
        rest = rest[: match.start()]
    return ServerError(code, rest.strip(), name)
