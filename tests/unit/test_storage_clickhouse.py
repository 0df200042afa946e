"""Addresses and faults of the ClickHouse client, as far as no server is needed."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from urllib.parse import quote

import pytest
from clickhouse_connect.driver.exceptions import DatabaseError, DataError, OperationalError
from hypothesis import given
from hypothesis import strategies as st
from urllib3.exceptions import ProtocolError

from streams.storage.clickhouse import (
    Address,
    BadRowsError,
    ClickHouse,
    StorageUnavailableError,
    _faults,
)
from streams.storage.settlement import ClickHouseSettlement

words = st.text(min_size=1, max_size=20).filter(lambda text: "\r" not in text)
hosts = st.one_of(
    st.from_regex(r"[a-z][a-z0-9]{0,10}(\.[a-z]{2,5})?", fullmatch=True),
    st.ip_addresses(v=4).map(str),
)
names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,63}", fullmatch=True)


@given(st.booleans(), words, st.one_of(st.just(""), words), hosts, st.integers(1, 65535), names)
def test_an_address_says_what_its_url_says(
    secure: bool, user: str, password: str, host: str, port: int, database: str
) -> None:
    scheme = "https" if secure else "http"
    try:
        credentials = f"{quote(user, safe='')}:{quote(password, safe='')}"
    except UnicodeEncodeError:
        return
    address = Address.parse(f"{scheme}://{credentials}@{host}:{port}/{database}")
    assert address == Address(host, port, secure, user, password, database)
    assert str(address) == f"{scheme}://{host}:{port}/{database}"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://db", Address("db", 8123, False, "default", "", "biodatamine")),
        ("https://db/", Address("db", 8443, True, "default", "", "biodatamine")),
        ("http://[::1]:9/x", Address("::1", 9, False, "default", "", "x")),
    ],
)
def test_what_is_left_out_has_its_usual_value(url: str, expected: Address) -> None:
    assert Address.parse(url) == expected


@given(st.text())
def test_any_text_is_an_address_or_a_clear_refusal(text: str) -> None:
    try:
        address = Address.parse(text)
    except ValueError as error:
        assert "http[s]://USER:PASSWORD@HOST:PORT/DATABASE" in str(error)
    else:
        assert address.host


@pytest.mark.parametrize(
    "url",
    [
        "",
        "db:8123",
        "tcp://db:9000/x",
        "http:///x",
        "http://db/a/b",
        "http://db/1st",
        "http://db/x`; DROP",
        "http://db:99999/x",
        "http://db:port/x",
        "http://[::1/x",
    ],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"http\[s\]://USER"):
        Address.parse(url)


def test_an_address_is_printed_without_its_secret() -> None:
    address = Address.parse("http://me:hidden@db/x")
    assert "hidden" not in str(address)


# Faults


@contextmanager
def deaf_server(answer: bytes = b"") -> Iterator[int]:
    """Accept connections, read, answer these bytes, hang up."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    connection.sendall(answer)

        thread = Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def client(port: int) -> ClickHouse:
    return ClickHouse(f"http://me:hidden@127.0.0.1:{port}/x", timeout_seconds=5)


def test_a_server_that_is_away_is_unavailable_and_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    database = client(port)
    for ask in (
        database.ping,
        database.create_database,
        lambda: database.command("SELECT 1"),
        lambda: database.insert("files", [{"a": 1}]),
    ):
        with pytest.raises(StorageUnavailableError) as caught:
            ask()
        assert f"http://127.0.0.1:{port}/x" in str(caught.value)
        assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\ncut off",
        b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 3\r\n\r\nno\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n<p>no</p>",
    ],
    ids=["hangs-up", "cut-off", "bad-gateway", "no-http", "another-server"],
)
def test_a_server_that_does_not_speak_clearly_is_unavailable(answer: bytes) -> None:
    with deaf_server(answer) as port, pytest.raises(StorageUnavailableError):
        client(port).insert("files", [{"a": 1}])


def raised(error: Exception, *, values: bool = True) -> Exception:
    with (
        pytest.raises((StorageUnavailableError, BadRowsError)) as caught,
        _faults(Address.parse("http://db/x"), values=values),
    ):
        raise error
    return caught.value


@pytest.mark.parametrize("code", [27, 53, 70, 131, 321])
def test_refused_values_are_bad_rows_and_are_not_quoted(code: int) -> None:
    error = raised(DatabaseError("Cannot parse 'DOE^JANE'", code=code))
    assert isinstance(error, BadRowsError)
    assert str(code) in str(error)
    assert "DOE" not in str(error)


@pytest.mark.parametrize(
    "error",
    [
        DatabaseError("unknown table", code=60),
        DatabaseError("unknown database", code=81),
        DatabaseError("no such column in table", code=16),
        DatabaseError("authentication failed", code=516),
        DatabaseError("memory limit exceeded", code=241),
        DatabaseError("too many parts", code=252),
        DatabaseError("read only", code=242),
        DatabaseError("who knows"),
        OperationalError("connection refused"),
        OSError("broken pipe"),
        ProtocolError("connection broken"),
        DatabaseError(""),
    ],
)
def test_all_other_faults_must_be_waited_out(error: Exception) -> None:
    assert isinstance(raised(error), StorageUnavailableError)


@pytest.mark.parametrize(
    "error",
    [
        DataError("overflow"),
        TypeError("no number"),
        OverflowError("too large"),
        UnicodeEncodeError("utf-8", "\udcff", 0, 1, "surrogates"),
    ],
)
def test_values_that_the_driver_cannot_write_are_bad_rows(error: Exception) -> None:
    assert isinstance(raised(error), BadRowsError)


@pytest.mark.parametrize("error", [TypeError("confused"), DatabaseError("type", code=53)])
def test_where_no_values_are_written_none_are_bad(error: Exception) -> None:
    assert isinstance(raised(error, values=False), StorageUnavailableError)


def test_while_clickhouse_is_away_nothing_counts_as_settled() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settlement = ClickHouseSettlement(client(port))
    key = ("00000000-0000-0000-0000-000000000000", "0" * 64)
    assert asyncio.run(settlement.settled([key])) == set()
    assert asyncio.run(settlement.settled([])) == set()
