from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.embedded.errors import AlreadyRunningError
from deploy.embedded.state import (
    Addresses,
    ServiceRecord,
    StackInfo,
    StackLock,
    end_leftovers,
    process_start,
    read_stack,
    state_path,
    write_stack,
)


def info(data_dir: Path, **changes: object) -> StackInfo:
    own = StackInfo(
        pid=os.getpid(),
        process_start=process_start(os.getpid()),
        started_at="2026-01-02T03:04:05+00:00",
        data_dir=str(data_dir),
        addresses=Addresses(kafka_bootstrap_servers="127.0.0.1:9092", dicom_port=11112),
        services={"broker": ServiceRecord(state="ready", pid=1, restarts=2)},
    )
    return dataclasses.replace(own, **changes)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_stack(info(tmp_path))
    assert read_stack(tmp_path) == info(tmp_path)
    assert info(tmp_path).ready


def test_the_state_is_for_its_owner_only(tmp_path: Path) -> None:
    write_stack(info(tmp_path))
    assert state_path(tmp_path).stat().st_mode & 0o077 == 0


def test_no_stack_is_none(tmp_path: Path) -> None:
    assert read_stack(tmp_path) is None


def test_a_dead_supervisor_does_not_count(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    write_stack(info(tmp_path, pid=ended.pid, process_start=1.0))
    assert read_stack(tmp_path) is None


def test_another_process_with_its_number_does_not_count(tmp_path: Path) -> None:
    write_stack(info(tmp_path, process_start=(process_start(os.getpid()) or 0) - 1))
    assert read_stack(tmp_path) is None


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"services": 1, "addresses": {}}', "\x00"])
def test_a_spoilt_state_is_no_stack(tmp_path: Path, content: str) -> None:
    state_path(tmp_path).parent.mkdir()
    state_path(tmp_path).write_text(content)
    assert read_stack(tmp_path) is None
    assert end_leftovers(tmp_path) == []


def test_a_second_lock_names_the_first_and_what_to_do(tmp_path: Path) -> None:
    with StackLock(tmp_path):
        with pytest.raises(AlreadyRunningError) as raised, StackLock(tmp_path):
            pass
        assert f"process {os.getpid()}" in str(raised.value)
        assert "biodatamine status" in str(raised.value)
    with StackLock(tmp_path):
        pass


def test_leftovers_of_a_dead_stack_are_ended_and_strangers_are_not(tmp_path: Path) -> None:
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    left = subprocess.Popen(sleep, start_new_session=True)
    stranger = subprocess.Popen(sleep, start_new_session=True)
    try:
        services = {
            "left": ServiceRecord("ready", pid=left.pid, process_start=process_start(left.pid)),
            # Its number was used again since: the start times differ.
            "gone": ServiceRecord("ready", pid=stranger.pid, process_start=1.0),
            "never": ServiceRecord("waiting"),
        }
        write_stack(info(tmp_path, services=services))
        assert end_leftovers(tmp_path) == ["left"]
        assert left.wait(timeout=20) == -9
        assert stranger.poll() is None
        assert not state_path(tmp_path).exists()
    finally:
        for process in (left, stranger):
            process.kill()
            process.wait()


def test_the_database_is_given_as_one_url() -> None:
    addresses = Addresses(
        clickhouse_url="http://127.0.0.1:8123",
        clickhouse_user="u",
        clickhouse_password="p",
        clickhouse_database="d",
    )
    assert addresses.clickhouse_dsn == "http://u:p@127.0.0.1:8123/d"
    assert Addresses().clickhouse_dsn is None
