"""chDB behind a small typed surface: connections, queries, streamed results, streamed inserts.

All calls block and release the GIL while the engine works; `http_app` runs them in threads. One
process holds one engine. A connection is cheap (0.1 ms) and carries its own settings, current
database and temporary tables, so every request gets a fresh one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.embedded.clickhouse import engine_config
from deploy.embedded.clickhouse.errors import ServerError, parse_engine_error
from deploy.embedded.clickhouse.native import read_varuint
from deploy.embedded.clickhouse.sql import quote, quote_name

_DATABASE_DIRECTORY = "db"


@dataclass
class Statistics:
    """What one query did, for X-ClickHouse-Summary and the log. Times in seconds."""

    read_rows: int = 0
    read_bytes: int = 0
    written_rows: int = 0
    written_bytes: int = 0
    result_rows: int = 0
    result_bytes: int = 0

    def add(self, result: Any) -> None:
        """Add the counters of a chDB query result or of one streamed chunk."""
        self.read_rows += result.storage_rows_read()
        self.read_bytes += result.storage_bytes_read()
        self.written_rows += result.rows_written()
        self.written_bytes += result.bytes_written()
        self.result_rows += result.rows_read()
        self.result_bytes += result.size()


@contextmanager
def _engine_errors() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise parse_engine_error(str(error)) from None


class Stream:
    """A running SELECT that is read chunk by chunk; each chunk is a document of its own."""

    def __init__(self, connection: Any, result: Any) -> None:
        self._connection = connection
        self._result = result
        self.statistics = Statistics()
        self._chunks = 0
        self._done = False

    def next(self) -> memoryview | None:
        """Return the next chunk, None at the end. An empty result yields its header, if any."""
        if self._done:
            return None
        with _engine_errors():
            try:
                chunk = self._connection.streaming_fetch_result(self._result)
            except RuntimeError:
                self._done = True
                raise
        if chunk is None:
            self._done = True
            return None
        self.statistics.add(chunk)
        self._chunks += 1
        if chunk.rows_read() == 0:
            self._done = True
            return _view(chunk) if self._chunks == 1 and chunk.size() else None
        return _view(chunk)

    def close(self) -> None:
        """Stop the query if it still runs."""
        if not self._done:
            self._done = True
            with _engine_errors():
                self._connection.streaming_cancel_query(self._result)


class Inserter:
    """A running INSERT that takes its data in pieces; `finish` commits it."""

    def __init__(self, connection: Any, handle: Any) -> None:
        self._connection = connection
        self._handle = handle
        self.ended = False

    def append(self, data: bytes) -> None:
        """Hand the engine the next bytes, in the format given when the insert was opened."""
        with _engine_errors():
            self._connection.insert_append(self._handle, data)

    def finish(self) -> Statistics:
        """Write the rows and return what was written, once it is on disk."""
        self.ended = True
        with _engine_errors():
            result = self._connection.insert_done(self._handle)
        statistics = Statistics()
        statistics.add(result)
        statistics.result_rows = statistics.result_bytes = 0
        statistics.read_rows = statistics.read_rows or statistics.written_rows
        statistics.read_bytes = statistics.read_bytes or statistics.written_bytes
        return statistics

    def cancel(self) -> None:
        """Give up; rows that were not written yet are dropped."""
        if not self.ended:
            self.ended = True
            with _engine_errors():
                self._connection.insert_cancel(self._handle)


class Connection:
    """One chDB connection. Not for two threads at a time."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    def use(self, database: str) -> None:
        """Make `database` the current one."""
        self.execute(f"USE {quote_name(database)}")

    def apply(self, settings: Mapping[str, str]) -> None:
        """Set settings, or parameters under the name ``param_x``, for the rest of the connection.

        Raises
        ------
        ServerError
            115 for a setting that does not exist, 27 or others for a value that does not parse.
        """
        if settings:
            body = ", ".join(f"{_setting_name(n)} = {quote(v)}" for n, v in settings.items())
            self.execute(f"SET {body}")

    def changed_settings(self, names: Iterable[str]) -> dict[str, str | None]:
        """Return each name's value if it differs from the default, otherwise None."""
        wanted = list(names)
        listed = ", ".join(quote(name) for name in wanted)
        data, _ = self.execute(
            f"SELECT name, value FROM system.settings WHERE changed AND name IN ({listed})",  # noqa: S608 - quoted
            "RowBinary",
        )
        return {**dict.fromkeys(wanted), **_string_pairs(data)}

    def restore(self, values: Mapping[str, str | None]) -> None:
        """Put back values that `changed_settings` returned."""
        parts = [
            f"{_setting_name(name)} = {'DEFAULT' if value is None else quote(value)}"
            for name, value in values.items()
        ]
        if parts:
            self.execute("SET " + ", ".join(parts))

    def execute(
        self, sql: str | bytes, output_format: str = "Null", params: Mapping[str, str] | None = None
    ) -> tuple[memoryview, Statistics]:
        """Run a statement and return its whole result, formatted, with its statistics."""
        with _engine_errors():
            result = self._raw.query(sql, output_format, params=dict(params or {}))
            if result.has_error():
                raise RuntimeError(result.error_message())
        statistics = Statistics()
        statistics.add(result)
        return _view(result), statistics

    def stream(self, sql: str | bytes, output_format: str, params: Mapping[str, str]) -> Stream:
        """Start a SELECT whose result is read chunk by chunk."""
        with _engine_errors():
            return Stream(self._raw, self._raw.send_query(sql, output_format, params=dict(params)))

    def insert(self, head: str | bytes, input_format: str) -> Inserter:
        """Start an INSERT; `head` ends before its FORMAT clause."""
        with _engine_errors():
            return Inserter(self._raw, self._raw.send_insert(head, input_format))

    def classify(self, sql: str | bytes) -> tuple[str, int]:
        """Return READ_ONLY, MUTATING, CONTROL or UNKNOWN, and the number of statements."""
        facts = self._raw.classify_query(sql)
        return facts["query_class"].name, facts["statement_count"]

    def close(self) -> None:
        """Release the connection with its settings and temporary tables."""
        self._raw.close()


_DATABASE_UUID = re.compile(r"UUID '([0-9a-f-]{36})'")


class Engine:
    """The process's chDB engine on one data directory.

    Parameters
    ----------
    directory : pathlib.Path
        Holds the configuration files and, in ``db/``, the data. The process's working directory
        becomes this one: chDB's connection string cannot quote special characters in a path.
    limits : EngineLimits
        Memory limits.
    """

    def __init__(self, directory: Path, limits: engine_config.EngineLimits) -> None:
        engine_config.write_config(directory, limits)
        os.chdir(directory)
        (directory / "user_files").mkdir(exist_ok=True)
        self.temporary_directory = directory / "tmp"
        self.temporary_directory.mkdir(exist_ok=True)
        # chDB starts threads and reads TZ: import it in the server process only, and this late.
        from chdb import _chdb  # noqa: PLC0415

        # Signals are the server's: chDB must not install handlers over asyncio's.
        _chdb.set_signal_handlers_enabled(0)  # type: ignore[attr-defined]
        self._connect: Callable[[str], Any] = _chdb.connect  # type: ignore[attr-defined]
        _forget_empty_default(directory / _DATABASE_DIRECTORY)
        with _engine_errors():
            self._root = Connection(
                self._connect(f"{_DATABASE_DIRECTORY}?config-file={engine_config.SERVER_FILE}")
            )
        self._open_default_database()
        data, _ = self._root.execute("SELECT version(), timezone()", "RowBinary")
        ((self.version, self.timezone),) = _string_pairs(data).items()

    def _open_default_database(self) -> None:
        """Make `default` a plain Atomic database.

        chDB overlays it with one that takes unknown table names for paths of files to read.
        """
        stored = Path(_DATABASE_DIRECTORY, "metadata", "default.sql").exists()
        data, _ = self._root.execute(
            "SELECT name, engine FROM system.databases WHERE name = 'default'", "RowBinary"
        )
        if _string_pairs(data).get("default") == "Atomic":
            return
        self._root.execute("DETACH DATABASE IF EXISTS default")
        self._root.execute(
            "ATTACH DATABASE default" if stored else "CREATE DATABASE default ENGINE = Atomic"
        )

    def connect(self) -> Connection:
        """Return a new connection with default settings in the database `default`."""
        with _engine_errors():
            return Connection(self._connect(_DATABASE_DIRECTORY))

    def kill(self, tag: str = "") -> None:
        """Cancel the queries that were started with ``log_comment = tag``; all, without a tag."""
        condition = f"Settings['log_comment'] = {quote(tag)}" if tag else "query NOT LIKE 'KILL%'"
        connection = self.connect()
        try:
            connection.execute(f"KILL QUERY WHERE {condition} ASYNC")
        finally:
            connection.close()

    def close(self) -> None:
        """Shut the engine down; every other connection must be closed before."""
        self._root.close()


def _forget_empty_default(root: Path) -> None:
    """Remove the record of a database `default` that holds no table, so that it is made anew.

    chDB opens `default` before we do, and an Atomic database without tables leaves nothing on disk
    but its record: attaching it again then fails ("Cannot find UUID mapping").
    """
    record = root / "metadata" / "default.sql"
    if not record.is_file():
        return
    match = _DATABASE_UUID.search(record.read_text(encoding="utf-8"))
    if match is None:
        return
    uuid = match[1]
    if not any((root / "store" / uuid[:3] / uuid).glob("*.sql")):
        record.unlink()


def _view(result: Any) -> memoryview:
    # A view into chDB's buffer would have to keep `result` alive through every later slice;
    # one copy is the price of a plain, safe object.
    return memoryview(result.bytes())


def _string_pairs(data: memoryview) -> dict[str, str]:
    """Decode RowBinary rows of two strings."""
    pairs: dict[str, str] = {}
    position = 0
    while position < len(data):
        texts = []
        for _ in range(2):
            length, position = read_varuint(data, position)
            texts.append(str(data[position : position + length], "utf-8", "replace"))
            position += length
        pairs[texts[0]] = texts[1]
    return pairs


def _setting_name(name: str) -> str:
    if not name.replace("_", "a").isalnum() or not name.isascii():
        raise ServerError(115, f"Unknown setting {name[:64]!r}", "UNKNOWN_SETTING")
    return name
