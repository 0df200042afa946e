"""The ClickHouse client that everything shares: one address, typed faults, no ORM."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

import clickhouse_connect
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError, DataError
from urllib3.exceptions import HTTPError

Row = Mapping[str, Any]

_DATABASE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
# Codes by which ClickHouse refuses the values of an insert (src/Common/ErrorCodes.cpp). All others
# are about the server or the schema: those must stop the stream, not empty it into dead letters.
_BAD_DATA_CODES = frozenset({6, 26, 27, 38, 41, 53, 69, 70, 72, 117, 131, 190, 321, 349, 376, 441})


class StorageUnavailableError(ConnectionError):
    """ClickHouse cannot be reached or cannot work now; trying again later can heal it."""


class BadRowsError(ValueError):
    """ClickHouse refuses values of these rows; trying again cannot heal it."""


@dataclass(frozen=True)
class Address:
    """Where a ClickHouse is and as whom to ask it.

    Parameters
    ----------
    host : str
        Host name.
    port : int
        HTTP port.
    secure : bool
        Whether it speaks HTTPS.
    user, password : str
        Credentials.
    database : str
        Database of BioDataMine's tables.
    """

    host: str
    port: int
    secure: bool
    user: str
    password: str
    database: str

    @classmethod
    def parse(cls, url: str) -> Address:
        """Read ``http[s]://user:password@host:port/database``.

        Raises
        ------
        ValueError
            If the URL is of another kind; the message shows the form.
        """
        msg = "a ClickHouse URL is http[s]://USER:PASSWORD@HOST:PORT/DATABASE"
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            # What it says may quote the password.
            raise ValueError(msg) from None
        database = parts.path.strip("/") or "biodatamine"
        if (
            parts.scheme not in ("http", "https")
            or not parts.hostname
            or not _DATABASE_NAME.fullmatch(database)
        ):
            raise ValueError(msg)
        secure = parts.scheme == "https"
        return cls(
            host=parts.hostname,
            port=port or (8443 if secure else 8123),
            secure=secure,
            user=unquote(parts.username or "default"),
            password=unquote(parts.password or ""),
            database=database,
        )

    def __str__(self) -> str:
        return f"http{'s' if self.secure else ''}://{self.host}:{self.port}/{self.database}"


class ClickHouse:
    """A lazy, thread-safe client; it connects at first use and again after a fault.

    Parameters
    ----------
    url : str
        ``http[s]://user:password@host:port/database``.
    timeout_seconds : float
        How long one request may take.
    """

    def __init__(self, url: str, *, timeout_seconds: float = 60.0) -> None:
        self.address = Address.parse(url)
        self._timeout_seconds = timeout_seconds
        self._lock = threading.Lock()
        self._client: Client | None = None
        self._types: dict[tuple[str, ...], Sequence[Any]] = {}

    def create_database(self, *, cluster: str = "") -> None:
        """Make the database of the URL if it is not there."""
        clause = f" ON CLUSTER '{cluster}'" if cluster else ""
        with _faults(self.address):
            client = self._connect(database="default")
            try:
                client.command(f"CREATE DATABASE IF NOT EXISTS `{self.address.database}`{clause}")
            finally:
                client.close()

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """Run a query and return its rows.

        Parameters
        ----------
        sql : str
            Query; values are given as ``{name:Type}``.
        parameters : mapping, optional
            Values of the parameters.

        Raises
        ------
        StorageUnavailableError
            If the server cannot answer now.
        """
        return self.query_columns(sql, parameters)[1]

    def query_columns(
        self, sql: str, parameters: Mapping[str, Any] | None = None
    ) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        """Run a query and return its column names and rows."""
        with _faults(self.address):
            result = self._get().query(sql, parameters=dict(parameters or {}))
            return tuple(result.column_names), [tuple(row) for row in result.result_rows]

    def command(self, sql: str) -> Any:
        """Run a statement that returns one value or none."""
        with _faults(self.address):
            return self._get().command(sql)

    def insert(self, table: str, rows: Sequence[Row]) -> None:
        """Insert rows that all have the same keys; durable when it returns.

        Raises
        ------
        StorageUnavailableError
            If the server cannot take them now.
        BadRowsError
            If it refuses their values.
        """
        if not rows:
            return
        names = list(rows[0])
        values = [[row[name] for name in names] for row in rows]
        try:
            with _faults(self.address):
                client = self._get()
                types = self._column_types(client, table, names)
            with _faults(self.address, values=True):
                client.insert(table, values, column_names=names, column_types=types)
        except StorageUnavailableError:
            # The table may have changed; its columns are asked for again.
            self._types.clear()
            raise

    def _column_types(self, client: Client, table: str, names: Sequence[str]) -> Sequence[Any]:
        # Asked once for each table: the driver would ask before every insert.
        key = (table, *names)
        if key not in self._types:
            self._types[key] = client.create_insert_context(table, names).column_types
        return self._types[key]

    def ping(self) -> None:
        """Raise StorageUnavailableError unless the server answers."""
        self.query("SELECT 1")

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            if self._client is not None:
                self._client.close()
                self._client = None

    def _get(self) -> Client:
        with self._lock:
            if self._client is None:
                self._client = self._connect(database=self.address.database)
            return self._client

    def _connect(self, *, database: str) -> Client:
        return clickhouse_connect.get_client(
            host=self.address.host,
            port=self.address.port,
            secure=self.address.secure,
            username=self.address.user,
            password=self.address.password,
            database=database,
            send_receive_timeout=int(self._timeout_seconds),
            connect_timeout=10,
            # Threads share this client, and ClickHouse runs one query of a session at a time.
            autogenerate_session_id=False,
            compress="lz4",
        )


class _faults:  # noqa: N801 (used like a function)
    """Turn the driver's exceptions into the two kinds that callers tell apart.

    Parameters
    ----------
    address : Address
        Who was asked.
    values : bool
        Whether values are being written, so that they may be at fault.
    """

    def __init__(self, address: Address, *, values: bool = False) -> None:
        self._address = address
        self._values = values

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, Exception):
            return
        code = getattr(error, "code", None)
        known = isinstance(error, ClickHouseError | OSError | HTTPError)
        # Of what the server or the network says only some codes are about values; everything else
        # that the driver raises while it writes values is.
        if self._values and (code in _BAD_DATA_CODES or not known or isinstance(error, DataError)):
            # The server's text may quote a value, so it stays out of what we say.
            msg = f"ClickHouse refuses values of these rows ({code or type(error).__name__})"
            raise BadRowsError(msg) from error
        text = str(error).splitlines()[0][:500] if str(error) else type(error).__name__
        msg = f"ClickHouse at {self._address}: {text}"
        raise StorageUnavailableError(msg) from error
