from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.embedded.errors import PortTakenError, StackError
from deploy.embedded.ports import PortBook, PortRequest, free_port, is_free


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(1)
        yield server.getsockname()[1]


def request(usual: int, asked: int | None = None, key: str = "kafka") -> PortRequest:
    return PortRequest(key=key, use="the broker", usual=usual, asked=asked, option=f"--{key}-port")


def test_the_usual_port_is_taken_when_it_is_free(tmp_path: Path) -> None:
    usual = free_port()
    assert PortBook(tmp_path / "ports.json").claim(request(usual)) == usual


def test_another_is_taken_when_it_is_not(tmp_path: Path, taken: int) -> None:
    port = PortBook(tmp_path / "ports.json").claim(request(taken))
    assert port != taken
    assert is_free(port)


def test_a_port_asked_for_that_is_taken_is_an_error_that_says_what_to_do(
    tmp_path: Path, taken: int
) -> None:
    with pytest.raises(PortTakenError) as raised:
        PortBook(tmp_path / "ports.json").claim(request(9092, asked=taken))
    message = str(raised.value)
    assert f"port {taken}, asked for the broker, is in use" in message
    assert "--kafka-port PORT" in message


def test_zero_asks_for_any(tmp_path: Path) -> None:
    usual = free_port()
    assert PortBook(tmp_path / "ports.json").claim(request(usual, asked=0)) == usual


def test_the_same_port_is_not_given_twice(tmp_path: Path) -> None:
    book = PortBook(tmp_path / "ports.json")
    usual = free_port()
    assert book.claim(request(usual)) != book.claim(request(usual, key="other"))
    with pytest.raises(PortTakenError, match="and for kafka"):
        book.claim(request(1, asked=usual, key="third"))


def test_no_port_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="70000 is no port"):
        PortBook(tmp_path / "ports.json").claim(request(1, asked=70000))


def test_ports_are_remembered(tmp_path: Path, taken: int) -> None:
    path = tmp_path / "run" / "ports.json"
    first = PortBook(path)
    port = first.claim(request(taken))
    first.save()
    usual = free_port()
    assert PortBook(path).claim(request(usual)) == port  # although its usual one is free now


def test_a_part_left_out_once_keeps_its_port(tmp_path: Path, taken: int) -> None:
    path = tmp_path / "ports.json"
    first = PortBook(path)
    port = first.claim(request(taken))
    first.save()
    second = PortBook(path)
    second.claim(request(free_port(), key="other"))
    second.save()
    assert PortBook(path).claim(request(taken)) == port


@pytest.mark.parametrize("content", ["", "[1]", '{"kafka": "x"}', '{"kafka": 99999}', "\x00"])
def test_a_spoilt_memory_is_no_harm(tmp_path: Path, content: str) -> None:
    path = tmp_path / "ports.json"
    path.write_text(content)
    usual = free_port()
    assert PortBook(path).claim(request(usual)) == usual
