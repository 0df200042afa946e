"""The embedded ClickHouse endpoint as a process, asked by the clients that people use."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import gzip
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import clickhouse_connect
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError
from clickhouse_connect.driver.external import ExternalData
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("chdb", reason="pip install 'biodatamine[embedded]'")

from deploy.embedded.clickhouse import native
from deploy.embedded.clickhouse.block_compression import BlockDecoder, encode_block
from deploy.embedded.clickhouse.native import BLOCK_INFO, read_varuint, reframe

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
COMMAND = (sys.executable, "-m", "deploy.embedded.clickhouse")


@dataclass
class Server:
    """A running endpoint."""

    process: subprocess.Popen[str]
    port: int
    lines: list[dict[str, Any]] = field(default_factory=list, repr=False)

    def request(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        finally:
            connection.close()

    def sql(self, text: str, body: Any = None, **params: str) -> bytes:
        """Run `text` and return the answer; with a body, the text goes into the URL."""
        if body is None:
            status, _, data = self.request("POST", "/?" + urlencode(params), text.encode())
        else:
            url = "/?" + urlencode({"query": text, **params})
            status, _, data = self.request("POST", url, body)
        assert status == 200, data
        return data

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)


def start(path: Path, *arguments: str) -> Server:
    process = subprocess.Popen(
        [*COMMAND, "--path", str(path), "--port", "0", *arguments],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    server = Server(process, 0)
    for line in process.stderr:
        with contextlib.suppress(ValueError):
            server.lines.append(json.loads(line))
            if server.lines[-1]["event"] == "ready":
                server.port = int(server.lines[-1]["url"].rsplit(":", 1)[1])
                threading.Thread(target=_drain, args=(server,), daemon=True).start()
                return server
    raise AssertionError(f"the server ended with {process.wait(10)}")


def _drain(server: Server) -> None:
    assert server.process.stderr is not None
    for line in server.process.stderr:
        with contextlib.suppress(ValueError):
            server.lines.append(json.loads(line))


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "condition did not come true"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = start(tmp_path_factory.mktemp("a dir & ? %41"))
    yield running
    running.stop()


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    started: list[Server] = []

    def launcher(*arguments: str) -> Server:
        started.append(start(tmp_path / "data", *arguments))
        return started[-1]

    yield launcher
    for running in started:
        if running.process.poll() is None:
            running.process.kill()
            running.process.wait(10)


# --- plain HTTP ----------------------------------------------------------------------------------


def test_health_needs_no_credentials(server: Server) -> None:
    for path in ("/ping", "/", "/replicas_status"):
        assert server.request("GET", path)[::2] == (200, b"Ok.\n")
    status, headers, body = server.request("HEAD", "/ping")
    assert (status, body, headers["Content-Length"]) == (200, b"", "4")
    assert server.request("GET", "/nope")[0] == 404


def test_query_by_get_and_post_and_its_headers(server: Server) -> None:
    url = "/?" + urlencode({"query": "SELECT 1 AS a", "default_format": "JSONEachRow"})
    for method in ("GET", "POST"):
        status, headers, body = server.request(method, url)
        assert (status, body) == (200, b'{"a":1}\n')
        assert headers["X-ClickHouse-Format"] == "JSONEachRow"
        assert headers["Content-Type"] == "application/x-ndjson; charset=UTF-8"
        assert headers["X-ClickHouse-Timezone"] == "UTC"
        assert headers["X-ClickHouse-Server-Display-Name"]
        assert len(headers["X-ClickHouse-Query-Id"]) == 36
        summary = json.loads(headers["X-ClickHouse-Summary"])
        assert summary["result_rows"] == "1"
        assert int(summary["elapsed_ns"]) > 0
    _, headers, body = server.request(
        "POST", "/?query_id=abc", b"SELECT 1", {"X-ClickHouse-Format": "CSV"}
    )
    assert (headers["X-ClickHouse-Query-Id"], headers["X-ClickHouse-Format"]) == ("abc", "CSV")
    assert server.sql("SELECT 1 AS a FORMAT JSONCompactEachRowWithNames") == b'["a"]\n[1]\n'
    status, headers, body = server.request("HEAD", url)
    assert (status, body, headers["Content-Length"]) == (200, b"", "8")


def test_query_split_over_url_and_body(server: Server) -> None:
    assert server.sql("SELECT 1 +", b"1") == b"2\n"


@pytest.mark.parametrize(
    ("text", "status", "code", "name"),
    [
        ("SELECT * FROM nope", 404, 60, "UNKNOWN_TABLE"),
        ("SELECT * FROM nope.nope", 404, 81, "UNKNOWN_DATABASE"),
        ("SELEC", 400, 62, "SYNTAX_ERROR"),
        ("", 400, 62, "SYNTAX_ERROR"),
        ("SELECT 1; SELECT 2", 400, 62, "SYNTAX_ERROR"),
        ("SELECT 1 SETTINGS nope = 1", 404, 115, "UNKNOWN_SETTING"),
        ("SELECT throwIf(1)", 500, 395, "FUNCTION_THROW_IF_VALUE_IS_NON_ZERO"),
        ("SELECT 1 FORMAT Nope", 404, 73, "UNKNOWN_FORMAT"),
        ("SELECT {x:String}", 404, 456, "UNKNOWN_QUERY_PARAMETER"),
        ("SELECT sleep(3) SETTINGS max_execution_time = 0.1", 408, 159, "TIMEOUT_EXCEEDED"),
        ("SELECT * FROM file('/etc/hostname')", 403, 497, "ACCESS_DENIED"),
        ("SELECT * FROM url('http://127.0.0.1:9/', CSV, 'a Int8')", 403, 497, "ACCESS_DENIED"),
        ("SELECT * FROM `/etc/hostname`", 404, 60, "UNKNOWN_TABLE"),
        ("SYSTEM SHUTDOWN", 403, 497, "ACCESS_DENIED"),
        ("INSERT INTO nope VALUES (1)", 404, 60, "UNKNOWN_TABLE"),
    ],
)
def test_errors_as_clickhouse_tells_them(
    server: Server, text: str, status: int, code: int, name: str
) -> None:
    got, headers, body = server.request("POST", "/?default_format=Native", text.encode())
    assert (got, headers["X-ClickHouse-Exception-Code"]) == (status, str(code)), body
    assert body.startswith(f"Code: {code}. DB::Exception: ".encode())
    assert body.count(b"DB::Exception") == 1
    assert f"({name}) (version ".encode() in body
    assert server.sql("SELECT 1") == b"1\n"


def test_an_unknown_setting_in_the_url(server: Server) -> None:
    status, headers, body = server.request("POST", "/?no_such_setting=1", b"SELECT 1")
    assert (status, headers["X-ClickHouse-Exception-Code"]) == (404, "115"), body


def test_a_setting_in_the_url_holds_for_one_query(server: Server) -> None:
    query = "SELECT getSetting('max_block_size')"
    before = server.sql(query)
    assert server.sql(query, max_block_size="777") == b"777\n"
    assert server.sql(query) == before


def test_get_does_not_write(server: Server) -> None:
    for text in ("CREATE DATABASE nope", "INSERT INTO x VALUES (1)", "KILL QUERY WHERE 1"):
        status, headers, body = server.request("GET", "/?query=" + quote(text))
        assert headers["X-ClickHouse-Exception-Code"] == "164", body
        assert status == 500
    status, headers, _ = server.request("POST", "/?readonly=1", b"CREATE DATABASE nope")
    assert headers["X-ClickHouse-Exception-Code"] == "164"


def test_parameters_in_the_url(server: Server) -> None:
    query = "SELECT {s:String}, {a:Array(UInt8)}, {n:Nullable(Int8)}, {t:Identifier} FROM "
    query += "(SELECT 1 AS z)"
    got = server.sql(query, param_s="it's\\ta", param_a="[1,2]", param_n="\\N", param_t="z")
    assert got == b"it\\'s\\ta\t[1,2]\t\\N\t1\n"
    server.sql("CREATE TABLE p (a String) ENGINE = Memory")
    server.sql("INSERT INTO {t:Identifier} FORMAT CSV", b"x\n", param_t="p")
    server.sql("INSERT INTO p VALUES ({v:String})", param_v="y")
    assert server.sql("SELECT a FROM p ORDER BY a") == b"x\ny\n"


def test_a_multipart_form_with_external_tables(server: Server) -> None:
    boundary = "bound"
    parts = [
        ('name="query"', b"SELECT b FROM e JOIN f ON f._1 = e.a WHERE a = {x:UInt8}"),
        ('name="param_x"', b"2"),
        ('name="e_structure"', b"a UInt8, b String"),
        ('name="f_types"', b"UInt8"),
        ('name="e_format"', b"CSV"),
        ('name="e"; filename="e"', b"1,one\n2,two\n"),
        ('name="f"; filename="f"', b"2\n"),
    ]
    body = b"".join(
        f"--{boundary}\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + data + b"\r\n"
        for head, data in parts
    )
    body += f"--{boundary}--\r\n".encode()
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    assert server.request("POST", "/", body, headers)[::2] == (200, b"two\n")
    status, _, text = server.request("POST", "/", body[:-40], headers)
    assert status in (200, 400), text
    assert server.sql("SELECT 1") == b"1\n"


def test_databases(server: Server) -> None:
    server.sql("CREATE DATABASE IF NOT EXISTS other")
    server.sql("CREATE TABLE other.d (a UInt8) ENGINE = MergeTree ORDER BY a")
    server.sql("INSERT INTO d VALUES (5)", database="other")
    assert server.sql("SELECT a FROM d", database="other") == b"5\n"
    _, _, body = server.request(
        "POST", "/", b"SELECT currentDatabase()", {"X-ClickHouse-Database": "other"}
    )
    assert body == b"other\n"
    assert server.sql("SELECT currentDatabase()") == b"default\n"
    status, headers, _ = server.request("POST", "/?database=nope", b"SELECT 1")
    assert (status, headers["X-ClickHouse-Exception-Code"]) == (404, "81")


def test_a_session_keeps_tables_and_settings(server: Server) -> None:
    session = {"session_id": "s1"}
    server.sql("CREATE TEMPORARY TABLE t1 (a UInt8)", **session)
    server.sql("INSERT INTO t1 VALUES (1), (2)", **session)
    assert server.sql("SELECT sum(a) FROM t1", **session) == b"3\n"
    server.sql("SET max_block_size = 111, max_threads = 1", max_insert_threads="3", **session)
    query = "SELECT getSetting('max_block_size'), getSetting('max_insert_threads')"
    default = server.sql("SELECT getSetting('max_insert_threads')").decode().strip()
    assert server.sql(query, **session) == f"111\t{default}\n".encode()
    assert server.sql(query, max_block_size="222", **session) == f"222\t{default}\n".encode()
    assert server.sql(query, **session) == f"111\t{default}\n".encode()
    status, headers, _ = server.request("POST", "/", b"SELECT * FROM t1")
    assert headers["X-ClickHouse-Exception-Code"] == "60"
    server.sql("SELECT 1", close_session="1", **session)
    status, headers, _ = server.request("POST", "/?session_id=s1&session_check=1", b"SELECT 1")
    assert (status, headers["X-ClickHouse-Exception-Code"]) == (500, "372")


def test_a_session_serves_one_query_at_a_time(server: Server) -> None:
    done: list[bytes] = []
    thread = threading.Thread(
        target=lambda: done.append(
            server.sql("SELECT sleep(1.5)", session_id="busy", query_id="slow")
        )
    )
    thread.start()
    wait_for(lambda: b"sleep(1.5)" in server.sql("SELECT query FROM system.processes"))
    _, headers, body = server.request("POST", "/?session_id=busy", b"SELECT 1")
    assert headers["X-ClickHouse-Exception-Code"] == "373"
    assert b"SESSION_IS_LOCKED" in body
    _, headers, _ = server.request("POST", "/?query_id=slow", b"SELECT 1")
    assert headers["X-ClickHouse-Exception-Code"] == "217"
    thread.join()
    assert done == [b"0\n"]


@pytest.mark.parametrize(
    "output", ["JSON", "Parquet", "Pretty", "XML", "CSVWithNames", "RowBinary"]
)
def test_formats_come_through_whole(server: Server, output: str) -> None:
    data = server.sql(f"SELECT number FROM numbers(5) FORMAT {output}")
    assert data
    if output == "JSON":
        assert [row["number"] for row in json.loads(data)["data"]] == ["0", "1", "2", "3", "4"] or [
            row["number"] for row in json.loads(data)["data"]
        ] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "output",
    [
        "CSVWithNamesAndTypes",
        "TSVWithNames",
        "JSONCompactEachRowWithNamesAndTypes",
        "RowBinaryWithNamesAndTypes",
        "Native",
    ],
)
def test_a_streamed_result_is_one_document_that_can_be_loaded(server: Server, output: str) -> None:
    server.sql("CREATE OR REPLACE TABLE big (n UInt64, s String) ENGINE = Memory")
    data = server.sql(
        f"SELECT number AS n, toString(number) AS s FROM numbers(200000) FORMAT {output}"
    )
    server.sql(f"INSERT INTO big FORMAT {output}", data)
    assert server.sql("SELECT count(), sum(n), countIf(s = toString(n)) FROM big") == (
        b"200000\t19999900000\t200000\n"
    )


def test_arrow_stream_is_one_document(server: Server) -> None:
    data = server.sql("SELECT number AS n FROM numbers(200000) FORMAT ArrowStream")
    server.sql("CREATE OR REPLACE TABLE arrow (n UInt64) ENGINE = Memory")
    server.sql("INSERT INTO arrow FORMAT ArrowStream", data)
    assert server.sql("SELECT count(), sum(n) FROM arrow") == b"200000\t19999900000\n"


def test_a_fault_after_the_headers_breaks_the_answer_off(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request(
        "POST", "/", b"SELECT number, throwIf(number = 3000000) FROM numbers(4000000) FORMAT CSV"
    )
    response = connection.getresponse()
    assert response.status == 200
    tag = response.headers["X-ClickHouse-Exception-Tag"]
    with pytest.raises(http.client.IncompleteRead) as caught:
        response.read()
    end = caught.value.partial
    assert f"__exception__\r\n{tag}\r\nCode: 395.".encode() in end
    connection.close()
    status, headers, _ = server.request(
        "POST",
        "/?wait_end_of_query=1",
        b"SELECT number, throwIf(number = 3000000) FROM numbers(4000000) FORMAT CSV",
    )
    assert (status, headers["X-ClickHouse-Exception-Code"]) == (500, "395")


def test_wait_end_of_query_gives_a_whole_answer_with_its_length(server: Server) -> None:
    status, headers, body = server.request(
        "POST", "/?wait_end_of_query=1", b"SELECT number FROM numbers(4000000)"
    )
    assert status == 200
    assert int(headers["Content-Length"]) == len(body)
    assert json.loads(headers["X-ClickHouse-Summary"])["result_rows"] == "4000000"


def test_a_client_that_leaves_stops_its_query(server: Server) -> None:
    text = "SELECT count() FROM numbers(1000000000000) WHERE NOT ignore('leaving')"
    running = "SELECT count() FROM system.processes WHERE query LIKE '%ignore(%leaving%'"
    running += " AND query NOT LIKE '%processes%'"
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    connection.request("POST", "/", text.encode())
    wait_for(lambda: server.sql(running) == b"1\n")
    connection.close()
    wait_for(lambda: server.sql(running) == b"0\n")


# --- compression ---------------------------------------------------------------------------------


def test_http_compression_both_ways(server: Server) -> None:
    server.sql("CREATE TABLE z (a UInt32) ENGINE = Memory")
    body = gzip.compress(b"".join(b"%d\n" % n for n in range(1000)))
    url = "/?query=" + quote("INSERT INTO z FORMAT CSV")
    _, headers, _ = server.request("POST", url, body, {"Content-Encoding": "gzip"})
    assert json.loads(headers["X-ClickHouse-Summary"])["written_rows"] == "1000"
    _, headers, data = server.request(
        "POST", "/?enable_http_compression=1", b"SELECT sum(a) FROM z", {"Accept-Encoding": "gzip"}
    )
    assert (headers["Content-Encoding"], gzip.decompress(data)) == ("gzip", b"499500\n")
    _, headers, _ = server.request("POST", url, b"junk", {"Content-Encoding": "gzip"})
    assert headers["X-ClickHouse-Exception-Code"] == "271"
    _, headers, _ = server.request("POST", url, b"junk", {"Content-Encoding": "nope"})
    assert headers["X-ClickHouse-Exception-Code"] == "89"
    assert server.sql("SELECT count() FROM z") == b"1000\n"


@pytest.mark.parametrize("method", ["LZ4", "ZSTD"])
def test_clickhouse_blocks_both_ways(server: Server, method: str) -> None:
    data = server.sql(
        "SELECT number FROM numbers(300000)", compress="1", network_compression_method=method
    )
    decoder = BlockDecoder()
    plain = b"".join(decoder.feed(data))
    decoder.finish()
    assert plain == b"".join(b"%d\n" % n for n in range(300000))
    server.sql("CREATE OR REPLACE TABLE blocks (a UInt32) ENGINE = Memory")
    body = encode_block(plain[: 1 << 20]) + encode_block(plain[1 << 20 :])
    server.sql("INSERT INTO blocks FORMAT CSV", body, decompress="1")
    assert server.sql("SELECT count(), sum(a) FROM blocks") == b"300000\t44999850000\n"


def test_a_chunked_upload_of_unknown_length(server: Server) -> None:
    server.sql("CREATE TABLE chunked (a UInt32, s String) ENGINE = MergeTree ORDER BY a")

    def rows() -> Iterator[bytes]:
        for start_ in range(0, 200000, 1000):
            yield b"".join(b'{"a":%d,"s":"xxxxxxxxxx"}\n' % n for n in range(start_, start_ + 1000))

    url = "/?query=" + quote("INSERT INTO chunked FORMAT JSONEachRow")
    status, _, body = server.request("POST", url, rows())
    assert status == 200, body
    assert server.sql("SELECT count(), uniqExact(a) FROM chunked") == b"200000\t200000\n"
    # and with the statement inside of the body
    first = b"INSERT INTO chunked FORMAT JSONEachRow\n"
    status, _, body = server.request("POST", "/", iter([first, *rows()]))
    assert status == 200, body
    assert server.sql("SELECT count() FROM chunked") == b"400000\n"


def test_a_client_that_waits_to_be_asked_for_its_body(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(
            b"POST / HTTP/1.1\r\nHost: localhost\r\n"
            b"Expect: 100-continue\r\nContent-Length: 8\r\n\r\n"
        )
        assert connection.recv(100).startswith(b"HTTP/1.1 100 Continue\r\n\r\n")
        connection.sendall(b"SELECT 1")
        answer = connection.recv(4096)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")


def test_one_connection_serves_many_requests_and_errors(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    for text, status in ((b"SELECT 1", 200), (b"SELECT nope", 404), (b"SELECT 2", 200)) * 5:
        connection.request("POST", "/", text)
        response = connection.getresponse()
        assert response.status == status
        response.read()
        assert connection.sock is not None
    connection.close()


def test_binary_rows_survive(server: Server) -> None:
    server.sql("CREATE TABLE bin (a UInt8, s String) ENGINE = Memory")
    text = bytes(range(256))
    body = b"INSERT INTO bin FORMAT RowBinary\n\x0a\x80\x02" + text
    status, _, answer = server.request("POST", "/", body)
    assert status == 200, answer
    assert server.sql("SELECT a, s FROM bin FORMAT RowBinary") == b"\x0a\x80\x02" + text


# --- Native framing against the engine itself ----------------------------------------------------

_SCALARS = st.sampled_from(
    [
        *("UInt8", "Int16", "UInt64", "Int128", "UInt256", "Float32", "Float64", "Bool"),
        *("String", "FixedString(5)", "UUID", "IPv4", "IPv6", "Date", "Date32"),
        *("DateTime", "DateTime('UTC')", "DateTime64(3, 'UTC')"),
        *("Decimal(9, 2)", "Decimal(18, 3)", "Decimal(38, 4)", "Decimal(76, 5)"),
        *("Enum8('a' = 1, 'b\\'),(' = 2)", "Enum16('x' = 300)"),
    ]
)
_PLAIN_KEYS = st.sampled_from(["String", "FixedString(3)", "UInt32", "Date", "DateTime"])
_TYPES = st.recursive(
    st.one_of(
        _SCALARS,
        _SCALARS.map(lambda t: f"Nullable({t})"),
        _PLAIN_KEYS.map(lambda t: f"LowCardinality({t})"),
        _PLAIN_KEYS.map(lambda t: f"LowCardinality(Nullable({t}))"),
    ),
    lambda inner: st.one_of(
        inner.map(lambda t: f"Array({t})"),
        st.lists(inner, min_size=1, max_size=3).map(lambda ts: f"Tuple({', '.join(ts)})"),
        st.lists(inner, min_size=1, max_size=2).map(
            lambda ts: "Tuple(" + ", ".join(f"`n {i}` {t}" for i, t in enumerate(ts)) + ")"
        ),
        inner.map(lambda t: f"Map(String, {t})"),
    ),
    max_leaves=4,
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    types=st.lists(_TYPES, min_size=1, max_size=4), rows=st.integers(0, 60), seed=st.integers(1, 99)
)
def test_column_borders_are_the_engines(
    server: Server, types: list[str], rows: int, seed: int
) -> None:
    structure = ", ".join(f"c{number} {kind}" for number, kind in enumerate(types))
    source = f"generateRandom({_literal(structure)}, {seed}, 8, 3)"
    # A fixed copy, so that each column can be asked for by itself.
    server.sql(
        f"CREATE OR REPLACE TABLE borders ENGINE = Memory AS SELECT * FROM {source} LIMIT {rows}",
        allow_suspicious_low_cardinality_types="1",
    )
    whole = server.sql("SELECT * FROM borders FORMAT Native", max_threads="1")
    singles = [
        server.sql(f"SELECT c{number} FROM borders FORMAT Native", max_threads="1")
        for number in range(len(types))
    ]
    if not rows:
        assert whole == b""
        return
    pieces = reframe(whole, 54460)
    # Pieces: block info, then (header and data of the columns before, flag) in turn, then the rest.
    assert bytes(pieces[0]) == BLOCK_INFO
    assert b"".join(pieces[1::2]) == whole
    assert all(bytes(flag) == b"\x00" for flag in pieces[2::2])
    position = 0
    _, position = read_varuint(whole, 0)
    _, position = read_varuint(whole, position)
    for single in singles:
        columns, start_ = read_varuint(single, 0)
        assert columns == 1
        _, start_ = read_varuint(single, start_)
        assert whole[position : position + len(single) - start_] == single[start_:]
        # The single column's own data is stepped over exactly.
        length, at = read_varuint(single, start_)
        length, type_at = read_varuint(single, at + length)
        column = native.column_of(single[type_at : type_at + length].decode())
        data_at = type_at + length
        assert column.values(single, column.prefix(single, data_at), rows) == len(single)
        position += len(single) - start_
    assert position == len(whole)


def _literal(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


@pytest.mark.parametrize(
    "expression",
    [
        "NULL",
        "[]",
        "[NULL]",
        "tuple()",
        "toIntervalDay(3)",
        "(1, 2)::Point",
        "[(1, 2)]::Ring",
        "number::Variant(String, UInt64)",
        "if(number % 2 = 0, number::Variant(String, UInt64), 'x'::Variant(String, UInt64))",
        "map('a', [toLowCardinality('x')])",
        "toLowCardinality(toString(number % 300))",
        "toLowCardinality(toString(number))",
        "CAST([(1, 'x')], 'Nested(a UInt8, b String)')",
        "toDecimal256(1, 3)",
        "toTime64('12:00:00', 3)",
    ],
)
def test_odd_columns_are_stepped_over(server: Server, expression: str) -> None:
    for rows in (1, 1000):
        data = server.sql(
            f"SELECT 1 AS a, {expression} AS b, 'z' AS c FROM numbers({rows}) FORMAT Native"
        )
        pieces = reframe(data, 54460)
        assert b"".join(pieces[1::2]) == data


def test_a_type_that_cannot_be_framed_says_what_to_do(server: Server) -> None:
    status, headers, body = server.request(
        "POST", "/?client_protocol_version=54460&default_format=Native", b"SELECT 1::Dynamic"
    )
    assert (status, headers["X-ClickHouse-Exception-Code"]) == (501, "48")
    assert b"toString()" in body


# --- clickhouse-connect --------------------------------------------------------------------------


@pytest.fixture
def client(server: Server) -> Iterator[Any]:
    connected = clickhouse_connect.get_client(host="127.0.0.1", port=server.port)
    yield connected
    connected.close()


def test_connect_tables_inserts_and_queries(client: Any) -> None:
    client.command("CREATE DATABASE IF NOT EXISTS cc")
    client.command(
        "CREATE TABLE cc.t (id UInt32, at DateTime64(3, 'UTC'), m Map(String, String), "
        "e Array(Float32), l LowCardinality(String), n Nullable(Int32), v UInt8) "
        "ENGINE = ReplacingMergeTree(v) ORDER BY id"
    )
    at = dt.datetime(2024, 5, 1, 12, 0, 0, 123000, tzinfo=dt.timezone.utc)
    names = ["id", "at", "m", "e", "l", "n", "v"]
    rows = [[1, at, {"a": "b"}, [1.5, 2.5], "x", None, 1], [2, at, {}, [], "y", 5, 1]]
    summary = client.insert("cc.t", rows, column_names=names)
    assert summary.written_rows == 2
    client.insert("cc.t", [[1, at, {"a": "c"}, [0.5], "x", 7, 2]], column_names=names)
    got = client.query("SELECT * FROM cc.t FINAL ORDER BY id").result_rows
    assert [(row[0], row[2], row[3], row[5]) for row in got] == [
        (1, {"a": "c"}, [0.5], 7),
        (2, {}, [], 5),
    ]
    assert got[0][1].replace(tzinfo=dt.timezone.utc) == at
    client.command("ALTER TABLE cc.t ADD COLUMN added String DEFAULT 'd'")
    client.command("CREATE VIEW cc.v AS SELECT id, added FROM cc.t FINAL")
    assert client.query("SELECT * FROM cc.v ORDER BY id").result_rows == [(1, "d"), (2, "d")]
    client.command("CREATE TABLE cc.copy AS cc.t")
    client.command("INSERT INTO cc.copy SELECT * FROM cc.t FINAL")
    assert client.command("SELECT count() FROM cc.copy") == 2
    assert client.command("OPTIMIZE TABLE cc.t FINAL") is not None
    assert client.command("SELECT count() FROM cc.t") == 2
    parts = client.query(
        "SELECT sum(rows) FROM system.parts WHERE active AND database = 'cc' AND table = 't'"
    )
    assert parts.result_rows == [(2,)]
    columns = client.query("SELECT name FROM system.columns WHERE database = 'cc' AND table = 't'")
    assert len(columns.result_rows) == 8
    assert client.query("SELECT * FROM cc.t LIMIT 0").column_names[:2] == ("id", "at")
    assert client.command("EXISTS TABLE cc.t") == 1
    client.command("DROP DATABASE cc")


def test_connect_raw_insert_parameters_streams_and_external_data(client: Any) -> None:
    client.command(
        "CREATE OR REPLACE TABLE raw (id UInt32, s String) ENGINE = MergeTree ORDER BY id"
    )
    client.raw_insert("raw", ["id", "s"], b'{"id":1,"s":"q"}\n', fmt="JSONEachRow")
    packed = gzip.compress(b"2,w\n")
    client.raw_insert("raw", ["id", "s"], packed, fmt="CSV", compression="gzip")
    client.insert("raw", [[3, "async"]], settings={"async_insert": 1, "wait_for_async_insert": 1})
    found = client.query(
        "SELECT s FROM raw WHERE id >= {low:UInt32} ORDER BY id", parameters={"low": 2}
    )
    assert found.result_rows == [("w",), ("async",)]
    tricky = "it's\t\\ \n ü"
    assert client.query("SELECT {x:String}", parameters={"x": tricky}).result_rows == [(tricky,)]
    with client.query_row_block_stream("SELECT number FROM numbers(300000)") as stream:
        assert sum(len(block) for block in stream) == 300000
    extra = ExternalData(
        file_name="ext", data=b"1,a\n2,b\n", fmt="CSV", structure=["a UInt8", "b String"]
    )
    assert client.query("SELECT * FROM ext", external_data=extra).result_rows == [
        (1, "a"),
        (2, "b"),
    ]
    with pytest.raises(DatabaseError, match="UNKNOWN_TABLE") as caught:
        client.query("SELECT * FROM no_such_table")
    assert caught.value.code == 60
    with pytest.raises(DatabaseError, match="UNKNOWN_SETTING"):
        client.query("SELECT 1", settings={"no_such_setting": 1})
    with (
        pytest.raises(DatabaseError, match="3000000"),
        client.query_row_block_stream(
            "SELECT throwIf(number = 3000000) FROM numbers(4000000)"
        ) as stream,
    ):
        for _ in stream:
            pass
    client.command("SET max_block_size = 123")
    assert client.command("SELECT getSetting('max_block_size')") == 123
    client.command("CREATE TEMPORARY TABLE mine (a UInt8)")
    assert client.command("SELECT count() FROM mine") == 0


@pytest.mark.parametrize("coding", ["lz4", "zstd", "gzip", "br"])
def test_connect_compressions(server: Server, coding: str) -> None:
    if coding == "br":
        pytest.importorskip("brotli")
    client = clickhouse_connect.get_client(host="127.0.0.1", port=server.port, compress=coding)
    client.command("CREATE OR REPLACE TABLE comp (a UInt32, s String) ENGINE = Memory")
    client.insert("comp", [[n, f"row {n}"] for n in range(5000)], column_names=["a", "s"])
    assert client.query("SELECT * FROM comp ORDER BY a").result_rows[-1] == (4999, "row 4999")
    client.close()


def test_connect_arrow(client: Any) -> None:
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        pytest.skip(f"pyarrow does not import here: {error}")
    table = client.query_arrow("SELECT number AS n, toString(number) AS s FROM numbers(200000)")
    assert (table.num_rows, table.column_names) == (200000, ["n", "s"])


async def test_connect_async_many_at_once(server: Server) -> None:
    client = await clickhouse_connect.get_async_client(
        host="127.0.0.1", port=server.port, autogenerate_session_id=False
    )
    await client.command("CREATE TABLE many (id UInt32, s String) ENGINE = MergeTree ORDER BY id")

    async def one(number: int) -> int:
        await client.insert("many", [[number, "x"]], column_names=["id", "s"])
        result = await client.query(
            "SELECT count() FROM many WHERE id = {n:UInt32}", parameters={"n": number}
        )
        return int(result.result_rows[0][0])

    assert await asyncio.gather(*(one(n) for n in range(60))) == [1] * 60
    assert (await client.query("SELECT uniqExact(id) FROM many")).result_rows == [(60,)]
    await client.close()


def test_connect_wrong_password(launch: Callable[..., Server]) -> None:
    server = launch("--user", "grafana", "--password", "secret")
    with pytest.raises(DatabaseError, match="AUTHENTICATION_FAILED"):
        clickhouse_connect.get_client(
            host="127.0.0.1", port=server.port, username="grafana", password="wrong"
        )
    client = clickhouse_connect.get_client(
        host="127.0.0.1", port=server.port, username="grafana", password="secret"
    )
    assert client.command("SELECT 1") == 1
    status, headers, _ = server.request("GET", "/?query=SELECT+1")
    assert (status, headers["X-ClickHouse-Exception-Code"]) == (403, "516")
    status, _, body = server.request("GET", "/?query=SELECT+1&user=grafana&password=secret")
    assert (status, body) == (200, b"1\n")
    assert server.request("GET", "/ping")[0] == 200


# --- clickhouse-go -------------------------------------------------------------------------------


def _chgo() -> str:
    named = os.environ.get("BIODATAMINE_CHGO", "")
    path = Path(named) if named else ROOT.parent / "shared" / "clients" / "chgo"
    if not path.is_file():
        pytest.skip("no clickhouse-go client: set BIODATAMINE_CHGO to its path")
    return str(path)


def _go(server: Server, *arguments: str) -> tuple[list[Any], str]:
    done = subprocess.run(
        [_chgo(), f"127.0.0.1:{server.port}", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


@pytest.mark.parametrize("compression", ["none", "lz4", "zstd", "gzip"])
def test_go_reads_every_type_grafana_asks_for(server: Server, compression: str) -> None:
    lines, errors = _go(
        server,
        "-compress",
        compression,
        "SELECT number AS n, toString(number) AS s, toFixedString('ab', 2) AS f, [1.5, 2.5] AS a, "
        "map('k', 'v') AS m, toLowCardinality('lc') AS l, if(number = 0, NULL, 7) AS nu, "
        "toDateTime64('2024-01-02 03:04:05.678', 3, 'UTC') AS t, toDate('2024-01-02') AS d, "
        "toUUID('61f0c404-5cb3-11e7-907b-a6006ad3dba0') AS u, toIPv4('1.2.3.4') AS i, true AS b, "
        "CAST('x', 'Enum8(\\'x\\' = 1)') AS e, toDecimal64(1.25, 2) AS dec, [['p'], []] AS nested, "
        "toLowCardinality(CAST(NULL, 'Nullable(String)')) AS ln FROM numbers(2)",
    )
    assert not errors
    assert lines[0][:3] == ["n", "s", "f"]
    assert len(lines) == 3
    by_name = dict(zip(lines[0], lines[1], strict=True))
    assert (by_name["s"], by_name["m"], by_name["l"], by_name["nu"]) == (
        "0",
        {"k": "v"},
        "lc",
        None,
    )
    assert by_name["a"] == [1.5, 2.5]
    assert by_name["t"].startswith("2024-01-02T03:04:05.678")
    assert (by_name["e"], by_name["ln"], by_name["nested"]) == ("x", None, [["p"], []])


def test_go_pings_reads_many_blocks_and_sees_errors(server: Server) -> None:
    done = subprocess.run(
        [_chgo(), f"127.0.0.1:{server.port}", "-ping"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "server version" in done.stdout
    lines, errors = _go(server, "SELECT number, toString(number) FROM numbers(200000)")
    assert (len(lines), lines[-1], errors) == (200001, [199999, "199999"], "")
    lines, errors = _go(server, "SELECT nope FROM system.one")
    assert "UNKNOWN_IDENTIFIER" in errors
    lines, errors = _go(server, "SELECT 1 AS a WHERE 0")
    assert (len(lines), errors) == (1, "")


# --- @clickhouse/client --------------------------------------------------------------------------

_NODE = """
import { createClient } from '@clickhouse/client';
const client = createClient({ url: process.argv[2], compression: { request: true, response: true },
  clickhouse_settings: { wait_end_of_query: 1 } });
const out = {};
out.ping = (await client.ping()).success;
await client.command({ query: 'CREATE TABLE node (id UInt32, s String, m Map(String, String)) ' +
  'ENGINE = MergeTree ORDER BY id' });
const inserted = await client.insert({ table: 'node',
  values: [{ id: 1, s: 'a', m: { k: 'v' } }, { id: 2, s: "b'\\t", m: {} }],
  format: 'JSONEachRow' });
out.executed = inserted.executed;
out.written = inserted.summary?.written_rows;
const rows = await client.query({
  query: 'SELECT * FROM node WHERE id <= {max:UInt32} ORDER BY id',
  query_params: { max: 2 }, format: 'JSONEachRow' });
out.rows = await rows.json();
const json = await client.query({ query: 'SELECT count() AS c FROM node', format: 'JSON' });
out.count = (await json.json()).data;
let streamed = 0;
const stream = await client.query({ query: 'SELECT number FROM numbers(100000)',
  format: 'JSONEachRow' });
for await (const part of stream.stream()) streamed += part.length;
out.streamed = streamed;
try { await client.query({ query: 'SELECT * FROM nope', format: 'JSON' }); }
catch (error) { out.error = [error.code, error.type]; }
const session = createClient({ url: process.argv[2], session_id: 'node' });
await session.command({ query: 'CREATE TEMPORARY TABLE tmp (a UInt8)' });
await session.insert({ table: 'tmp', values: [[1], [2]], format: 'JSONCompactEachRow' });
const sum = await session.query({ query: 'SELECT sum(a) AS s FROM tmp', format: 'JSONEachRow' });
out.session = await sum.json();
await session.close();
await client.close();
console.log(JSON.stringify(out));
"""


def test_node_client(server: Server, tmp_path: Path) -> None:
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        pytest.skip("node is not installed")
    (tmp_path / "package.json").write_text('{"private": true, "type": "module"}')
    (tmp_path / "main.js").write_text(_NODE)
    subprocess.run(
        [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "@clickhouse/client@^1"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        timeout=240,
    )
    done = subprocess.run(
        [node, "main.js", f"http://127.0.0.1:{server.port}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    out = json.loads(done.stdout)
    assert out["ping"] and out["executed"]
    assert out["written"] == "2"
    assert [row["s"] for row in out["rows"]] == ["a", "b'\t"]
    assert int(out["count"][0]["c"]) == 2
    assert out["streamed"] == 100000
    assert out["error"] == ["60", "UNKNOWN_TABLE"]
    assert int(out["session"][0]["s"]) == 3


# --- the process ---------------------------------------------------------------------------------


def test_acknowledged_rows_survive_kill_9(launch: Callable[..., Server]) -> None:
    server = launch()
    server.sql("CREATE DATABASE keep")
    server.sql("CREATE TABLE keep.t (a UInt64) ENGINE = ReplacingMergeTree ORDER BY a")
    server.sql("CREATE TABLE d (a UInt64) ENGINE = MergeTree ORDER BY a")
    acknowledged = [0, 0]

    def push(table: str, index: int) -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            for number in range(100000):
                server.sql(f"INSERT INTO {table} FORMAT CSV", b"%d\n" % number)
                acknowledged[index] = number + 1

    threads = [
        threading.Thread(target=push, args=("keep.t", 0)),
        threading.Thread(target=push, args=("d", 1)),
    ]
    for thread in threads:
        thread.start()
    wait_for(lambda: min(acknowledged) >= 50)
    server.stop(signal.SIGKILL)
    for thread in threads:
        thread.join()
    again = launch()
    for table, number in zip(("keep.t", "d"), acknowledged, strict=True):
        got = int(again.sql(f"SELECT uniqExact(a) FROM {table} WHERE a < {number}"))
        assert got == number
    fsync = again.sql("SELECT value FROM system.merge_tree_settings WHERE name LIKE 'fsync%'")
    assert fsync == b"1\n1\n"
    assert again.stop() == 0


def test_sigterm_lets_queries_finish(launch: Callable[..., Server]) -> None:
    server = launch("--shutdown-seconds", "20")
    done: list[bytes] = []
    thread = threading.Thread(target=lambda: done.append(server.sql("SELECT sleep(1.5), 7")))
    thread.start()
    wait_for(lambda: b"sleep(1.5)" in server.sql("SELECT query FROM system.processes"))
    assert server.stop() == 0
    thread.join()
    assert done == [b"0\t7\n"]


def test_sigterm_kills_what_does_not_finish(launch: Callable[..., Server]) -> None:
    server = launch("--shutdown-seconds", "0.2")
    answers: list[tuple[int, str | None]] = []

    def ask() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            got = server.request(
                "POST", "/", b"SELECT count() FROM numbers(1000000000000) WHERE number % 3 = 0"
            )
            answers.append((got[0], got[1]["X-ClickHouse-Exception-Code"]))

    thread = threading.Thread(target=ask)
    thread.start()
    wait_for(
        lambda: (
            b"1000000000000"
            in server.sql("SELECT query FROM system.processes WHERE query LIKE 'SELECT count%'")
        )
    )
    assert server.stop() == 0
    thread.join()
    assert answers in ([(500, "394")], [])


def test_a_data_directory_has_one_server(launch: Callable[..., Server], tmp_path: Path) -> None:
    first = launch()
    done = subprocess.run(
        [*COMMAND, "--path", str(tmp_path / "data"), "--port", "0"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 3
    assert f"in use by another server (process {first.process.pid})" in done.stderr
    assert first.sql("SELECT 1") == b"1\n"


def test_a_taken_port_is_told(launch: Callable[..., Server], tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [*COMMAND, "--path", str(tmp_path / "p"), "--port", port],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 2
    assert "cannot listen on" in done.stderr


def test_full_house_waits_then_refuses(launch: Callable[..., Server]) -> None:
    server = launch("--connections", "2", "--queue-seconds", "0.3")
    codes: list[str | None] = []

    def ask() -> None:
        codes.append(
            server.request("POST", "/", b"SELECT sleep(2.5)")[1]["X-ClickHouse-Exception-Code"]
        )

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(codes, key=str) == ["202", "202", None, None]
    assert server.sql("SELECT 1") == b"1\n"


def test_logs_tell_what_ran_and_never_what_was_in_it(launch: Callable[..., Server]) -> None:
    server = launch()
    server.sql("SELECT 'secret-value' AS x", query_id="logged-1")
    server.request("POST", "/?query_id=logged-2", b"SELECT * FROM secret_value")
    wait_for(lambda: sum(line["event"] == "query" for line in server.lines) == 2)
    first, second = [line for line in server.lines if line["event"] == "query"]
    assert (first["query_id"], first["kind"], first["code"], first["result_rows"]) == (
        "logged-1",
        "SELECT",
        0,
        1,
    )
    assert (second["query_id"], second["code"], second["status"]) == ("logged-2", 60, 404)
    assert "secret" not in json.dumps(server.lines)
