"""Errors, requests, sessions, admission, codings: the endpoint's parts that need no engine."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import json
import logging
import struct
import zlib
from typing import Any

import lz4.frame
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("clickhouse_cityhash", reason="pip install 'biodatamine[embedded]'")

from deploy.embedded.clickhouse import codings, formats
from deploy.embedded.clickhouse.block_compression import (
    METHOD_LZ4,
    METHOD_NONE,
    METHOD_ZSTD,
    BlockDecoder,
    checksum,
    encode_block,
)
from deploy.embedded.clickhouse.errors import ServerError, http_status, parse_engine_error
from deploy.embedded.clickhouse.pool import QueryPool
from deploy.embedded.clickhouse.request import (
    Credentials,
    check_credentials,
    check_host,
    parse_credentials,
    parse_request,
)
from deploy.embedded.clickhouse.server import JsonFormatter, main, parse_arguments
from deploy.embedded.clickhouse.sessions import Sessions
from deploy.embedded.clickhouse.waiting import within


@pytest.mark.parametrize(
    ("text", "code", "name", "message"),
    [
        (
            "Code: 115. DB::Exception: Code: 115. DB::Exception: Unknown setting 'x'. "
            "(UNKNOWN_SETTING) (version 26.9.2.1). (UNKNOWN_SETTING)",
            115,
            "UNKNOWN_SETTING",
            "Unknown setting 'x'",
        ),
        (
            "Code: 60. DB::Exception: Table a.b (c) does not exist. (UNKNOWN_TABLE)",
            60,
            "UNKNOWN_TABLE",
            "Table a.b (c) does not exist",
        ),
        (
            "Code: 33. DB::Exception: Cannot read all data. Bytes read: 1. Bytes expected: 8\n"
            ": While executing X. (CANNOT_READ_ALL_DATA) (version 26.9.2.1 (official build))",
            33,
            "CANNOT_READ_ALL_DATA",
            "Cannot read all data. Bytes read: 1. Bytes expected: 8\n: While executing X",
        ),
        ("send_insert does not do this", 1002, "UNKNOWN_EXCEPTION", "send_insert does not do this"),
    ],
)
def test_an_engine_error_is_told_once(text: str, code: int, name: str, message: str) -> None:
    error = parse_engine_error(text)
    assert (error.code, error.name, error.message) == (code, name, message)
    assert error.render("1.2").startswith(f"Code: {code}. DB::Exception: ")
    assert error.render("1.2").endswith(f"({name}) (version 1.2)\n")


@pytest.mark.parametrize(
    ("code", "status"),
    [(60, 404), (81, 404), (115, 404), (62, 400), (516, 403), (194, 401), (241, 500), (159, 408)],
)
def test_http_status_of_an_error_code(code: int, status: int) -> None:
    assert http_status(code) == status


def test_the_url_is_sorted_into_parameters_settings_and_options() -> None:
    query = parse_request(
        "POST",
        "query=SELECT+%7Bx%3AString%7D&param_x=a%5Ct%FF&max_threads=2&session_id=s&session_timeout=9"
        "&compress=1&client_protocol_version=54460&readonly=1",
        {"X-ClickHouse-Database": "d", "X-ClickHouse-Format": "CSV"},
    )
    assert query.query == b"SELECT {x:String}"
    assert query.params["x"].encode("utf-8", "surrogateescape") == b"a\\t\xff"
    assert query.settings == {"max_threads": "2", "readonly": "1"}
    assert (query.session_id, query.session_timeout_seconds, query.compress) == ("s", 9.0, True)
    assert (query.revision, query.readonly, query.database) == (54460, 1, "d")
    assert query.default_format == "CSV"


def test_get_implies_readonly_and_a_query_id_is_made_up() -> None:
    query = parse_request("GET", "query=SELECT+1", {})
    assert query.readonly == 2
    assert len(query.query_id) == 36


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("session_timeout=0", 374),
        ("session_timeout=999999", 374),
        ("session_timeout=x", 374),
        ("readonly=x", 36),
        ("query_id=a%0d%0aX:1", 36),
        ("&".join(f"a{i}=1" for i in range(5000)), 36),
    ],
)
def test_a_bad_url_is_refused(url: str, code: int) -> None:
    with pytest.raises(ServerError) as caught:
        parse_request("POST", url, {})
    assert caught.value.code == code


@given(st.text(), st.text())
def test_any_url_parses_or_is_refused(url: str, header: str) -> None:
    with contextlib.suppress(ServerError):
        parse_request("POST", url, {"X-ClickHouse-Query-Id": header})


def _basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


@pytest.mark.parametrize(
    ("headers", "url"),
    [
        (_basic("u", "p:q"), ""),
        ({"X-ClickHouse-User": "u", "X-ClickHouse-Key": "p:q"}, ""),
        ({}, "user=u&password=p%3Aq"),
    ],
)
def test_three_ways_to_say_who_one_is(headers: dict[str, str], url: str) -> None:
    given_ = parse_credentials(headers, url)
    assert given_ == Credentials("u", "p:q")
    check_credentials(given_, Credentials("u", "p:q"))
    with pytest.raises(ServerError) as caught:
        check_credentials(given_, Credentials("u", "other"))
    assert caught.value.code == 516


@pytest.mark.parametrize(
    ("headers", "url"),
    [
        (_basic("u", "p"), "user=u"),
        ({"Authorization": "Bearer x"}, ""),
        ({"Authorization": "Basic ?"}, ""),
    ],
)
def test_unclear_credentials_are_refused(headers: dict[str, str], url: str) -> None:
    with pytest.raises(ServerError) as caught:
        parse_credentials(headers, url)
    assert caught.value.code == 516


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "127.0.0.1:8123"},
        {"Host": "[::1]:8123"},
        {"Host": "localhost:8123", "Origin": "http://localhost:3000"},
        {"Host": "db.lan:8123"},
        {},
    ],
)
def test_local_hosts_are_served(headers: dict[str, str]) -> None:
    check_host(headers, frozenset({"db.lan"}))


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example:8123"},
        {"Host": "127.0.0.1:8123", "Origin": "https://evil.example"},
        {"Host": "127.0.0.1:8123", "Origin": "http://10.0.0.1"},
        {"Host": "127.0.0.1:8123", "Origin": "null"},
        {"Host": "localhost.evil.example"},
    ],
)
def test_foreign_pages_are_refused(headers: dict[str, str]) -> None:
    with pytest.raises(ServerError) as caught:
        check_host(headers, frozenset())
    assert caught.value.status == 403


class _Connection:
    closed = False

    def close(self) -> None:
        self.closed = True


def _sessions(limit: int = 2) -> tuple[Sessions, list[float], list[_Connection]]:
    now = [0.0]
    made: list[_Connection] = []

    def connect() -> Any:
        made.append(_Connection())
        return made[-1]

    return Sessions(connect, lambda: now[0], limit), now, made


def test_a_session_lives_until_its_timeout() -> None:
    sessions, now, made = _sessions()
    first = sessions.acquire("a", 10, False)
    sessions.release(first)
    now[0] = 9.0
    again = sessions.acquire("a", 10, True)
    assert again is first
    sessions.release(again)
    now[0] = 19.5
    with pytest.raises(ServerError) as caught:
        sessions.acquire("a", 10, True)
    assert caught.value.code == 372
    assert made[0].closed


def test_a_busy_session_is_locked_and_does_not_expire() -> None:
    sessions, now, made = _sessions()
    session = sessions.acquire("a", 1, False)
    now[0] = 100.0
    with pytest.raises(ServerError) as caught:
        sessions.acquire("a", 1, False)
    assert (caught.value.code, caught.value.name) == (373, "SESSION_IS_LOCKED")
    sessions.release(session, close=True)
    assert made[0].closed and len(sessions) == 0


def test_sessions_are_bounded() -> None:
    sessions, _, _ = _sessions(limit=1)
    sessions.acquire("a", 1, False)
    with pytest.raises(ServerError) as caught:
        sessions.acquire("b", 1, False)
    assert caught.value.code == 202


async def test_a_query_waits_for_a_slot_and_is_refused_in_the_end() -> None:
    pool = QueryPool(1, wait_seconds=0.05)
    try:
        async with pool.slot():
            with pytest.raises(ServerError) as caught:
                async with pool.slot():
                    pass
        assert (caught.value.code, caught.value.name) == (202, "TOO_MANY_SIMULTANEOUS_QUERIES")
        async with pool.slot():
            assert pool.running == 1
    finally:
        pool.close()


async def test_a_cancelled_call_is_stopped_and_waited_for() -> None:
    import threading

    pool = QueryPool(1, wait_seconds=1)
    started, stop, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        assert stop.wait(10)
        ended.set()

    try:
        task = asyncio.create_task(pool.call(work, stop.set))
        while not started.is_set():
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended.is_set()
    finally:
        stop.set()
        pool.close()


async def test_a_cancellation_is_not_lost_beside_the_result() -> None:
    undone: list[bool] = []
    release = asyncio.Event()

    async def work() -> bool:
        return await release.wait()

    task = asyncio.create_task(within(10, work(), lambda: undone.append(True)))
    await asyncio.sleep(0)
    release.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    # Now the work is done and its caller has not run yet.
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert undone == [True]


async def test_waiting_ends() -> None:
    with pytest.raises(asyncio.TimeoutError):
        await within(0.01, asyncio.Event().wait())
    assert await within(10, asyncio.sleep(0, "done")) == "done"


CODINGS = sorted({"gzip", "deflate", "zstd", "lz4", codings.choose("br")} - {""})


@pytest.mark.parametrize("coding", CODINGS)
@given(data=st.binary(max_size=5000), cuts=st.lists(st.integers(1, 700), max_size=8))
def test_a_coding_round_trips_however_it_is_cut(coding: str, data: bytes, cuts: list[int]) -> None:
    encoder = codings.encoder(coding)
    encoded = encoder.feed(data[: len(data) // 2]) + encoder.feed(data[len(data) // 2 :])
    encoded += encoder.finish()
    decoder = codings.Decoder(coding)
    out = b""
    for cut in [*cuts, len(encoded)]:
        out += b"".join(decoder.feed(encoded[:cut]))
        encoded = encoded[cut:]
    decoder.finish()
    assert out == data


@pytest.mark.parametrize("coding", CODINGS)
def test_a_broken_or_cut_body_is_told(coding: str) -> None:
    encoder = codings.encoder(coding)
    encoded = encoder.feed(bytes(range(256)) * 40) + encoder.finish()
    decoder = codings.Decoder(coding)
    list(decoder.feed(encoded[:-5]))
    with pytest.raises(ServerError):
        decoder.finish()
    with pytest.raises(ServerError):
        broken = codings.Decoder(coding)
        list(broken.feed(b"\x00garbage\xff" * 100))
        broken.finish()


def test_members_in_a_row_and_bombs_in_steps() -> None:
    decoder = codings.Decoder("gzip")
    assert b"".join(decoder.feed(gzip.compress(b"a") + gzip.compress(b"b"))) == b"ab"
    decoder = codings.Decoder("lz4")
    assert b"".join(decoder.feed(lz4.frame.compress(b"a") + lz4.frame.compress(b"b"))) == b"ab"
    bomb = zlib.compress(bytes(64 << 20))
    assert max(map(len, codings.Decoder("deflate").feed(bomb))) <= codings.STEP_BYTES


@pytest.mark.parametrize(
    ("accepted", "chosen"),
    [
        ("", ""),
        ("identity", ""),
        ("gzip", "gzip"),
        ("lz4,zstd", "lz4"),
        ("gzip;q=0, zstd", "zstd"),
        ("x", ""),
    ],
)
def test_choice_of_a_coding(accepted: str, chosen: str) -> None:
    assert codings.choose(accepted) == chosen


def test_checksum_of_a_known_block() -> None:
    # CityHash128 v1.0.2 of "abc", in the order in which a block carries the halves.
    low, high = struct.unpack("<QQ", checksum(b"abc"))
    assert f"{low:016x}{high:016x}" == "900ff195577748fe13a9176355b20d7e"


@pytest.mark.parametrize("method", [METHOD_LZ4, METHOD_ZSTD, METHOD_NONE])
@given(parts=st.lists(st.binary(max_size=2000), max_size=4), cut=st.integers(1, 300))
def test_blocks_round_trip_however_they_are_cut(method: int, parts: list[bytes], cut: int) -> None:
    encoded = b"".join(encode_block(part, method) for part in parts)
    decoder = BlockDecoder()
    out = b""
    for start in range(0, len(encoded), cut):
        out += b"".join(decoder.feed(encoded[start : start + cut]))
    decoder.finish()
    assert out == b"".join(parts)


@given(st.integers(0), st.integers(1, 255))
def test_a_flipped_byte_in_a_block_is_found(position: int, flip: int) -> None:
    block = bytearray(encode_block(b"some data that compresses well " * 9))
    block[position % len(block)] ^= flip
    with pytest.raises(ServerError):
        decoder = BlockDecoder(1 << 20)
        list(decoder.feed(bytes(block)))
        decoder.finish()


def test_a_lying_block_size_is_refused() -> None:
    body = struct.pack("<BII", METHOD_LZ4, 2**31, 10)
    with pytest.raises(ServerError) as caught:
        list(BlockDecoder(1 << 20).feed(checksum(body) + body))
    assert caught.value.code == 271


def test_headers_of_later_chunks_are_cut_off() -> None:
    joiner = formats.Joiner("CSVWithNames")
    parts = [
        joiner.feed(memoryview(b'"a\nb","c"\n1,2\n')),
        joiner.feed(memoryview(b'"a\nb","c"\n3,4\n')),
    ]
    assert b"".join(parts) + joiner.finish() == b'"a\nb","c"\n1,2\n3,4\n'


@pytest.mark.parametrize(
    "argv",
    [
        ["--path", "x", "--host", "0.0.0.0"],
        ["--path", "x", "--connections", "0"],
        ["--path", "x", "--max-memory-bytes", "1"],
        [],
    ],
)
def test_senseless_arguments_are_refused(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_arguments(argv)
    assert caught.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_other_machines_may_come_in_with_a_password() -> None:
    options = parse_arguments(["--path", "x", "--host", "0.0.0.0", "--password", "p"])
    assert options.host == "0.0.0.0"
    assert callable(main)


def test_a_log_line_of_a_fault_carries_no_message() -> None:
    try:
        raise ValueError("patient data")
    except ValueError as error:
        record = logging.LogRecord(
            "x", logging.ERROR, "f", 1, "unexpected", (), (type(error), error, error.__traceback__)
        )
    line = json.loads(JsonFormatter().format(record))
    assert line["error"] == "ValueError"
    assert "patient" not in json.dumps(line)
