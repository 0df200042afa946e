from __future__ import annotations

import os
from pathlib import Path

from deploy.embedded.logs import ChildLog


def test_a_log_is_bounded_while_a_child_holds_it_open(tmp_path: Path) -> None:
    log = ChildLog(tmp_path / "logs" / "broker.log", max_bytes=1000)
    output = log.open()
    try:
        os.write(output, b"old line\n" * 1000)
        log.bound()
        os.write(output, b"new line\n")
    finally:
        os.close(output)
    assert log.path.read_bytes() == b"new line\n"
    older = log.path.with_name("broker.log.1").read_bytes()
    assert len(older) == 1000
    assert older.endswith(b"old line\n")


def test_a_small_log_is_left_alone(tmp_path: Path) -> None:
    log = ChildLog(tmp_path / "broker.log", max_bytes=1000)
    log.bound()
    log.note("starting")
    log.bound()
    assert log.path.read_text() == "--- starting\n"


def test_the_tail_is_the_childs_own_words(tmp_path: Path) -> None:
    log = ChildLog(tmp_path / "broker.log")
    assert log.tail() == []
    output = log.open()
    os.write(output, b"one\n\ntwo\n\xff three\n")
    os.close(output)
    log.note("restarting")
    assert log.tail(2) == ["two", "\ufffd three"]
