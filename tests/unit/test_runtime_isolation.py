"""Processes that meet hostile input: each fault is one answer, and nothing outlives its parent."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from streams.runtime.isolation import Failure, IsolatedPool, ProcessStartError

ROOT = Path(__file__).resolve().parents[2]
MEMORY_BYTES = 2 << 30
PATIENCE_SECONDS = 60.0


def job(order: tuple[str, Any]) -> Any:
    """Do what is ordered; runs in the pool's processes."""
    what, argument = order
    if what == "echo":
        return argument
    if what == "pid":
        return os.getpid()
    if what == "wait-for":
        return _wait_for(Path(argument))
    if what == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if what == "exit":
        os._exit(argument)
    if what == "raise":
        raise ValueError(argument)
    if what == "allocate":
        return len(bytearray(argument))
    if what == "unpicklable":
        return threading.Lock()
    if what == "touch-and-hang":
        Path(argument).write_text(str(os.getpid()))
        _hang()
    if what == "touch-and-hang-in-c":
        Path(argument).write_text(str(os.getpid()))
        # Unlike ctypes.CDLL this keeps the interpreter's lock, as most decoders do.
        ctypes.PyDLL(None).sleep(600)
    raise AssertionError(what)


def _hang() -> None:
    while True:
        time.sleep(0.01)


def _wait_for(path: Path) -> str:
    while not path.exists():
        time.sleep(0.005)
    return path.read_text()


def wait_until(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"{what}: not in time"
        time.sleep(0.01)
    return answer


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Trial:
    """A pool and the count of its restarts."""

    def __init__(self, *, processes: int = 1, timeout_seconds: float = PATIENCE_SECONDS) -> None:
        self.restarts = 0
        self.pool = IsolatedPool(
            job,
            processes=processes,
            timeout_seconds=timeout_seconds,
            memory_bytes=MEMORY_BYTES,
            on_restart=self.restarted,
        )

    def restarted(self) -> None:
        self.restarts += 1


@pytest.fixture
def trial() -> Iterator[Trial]:
    made = Trial()
    yield made
    made.pool.close()


@pytest.fixture
def hasty() -> Iterator[Trial]:
    made = Trial(timeout_seconds=0.5)
    yield made
    made.pool.close()


async def test_answers_come_in_the_order_of_the_inputs(tmp_path: Path) -> None:
    trial = Trial(processes=2)
    try:
        gate = tmp_path / "gate"
        # The first input cannot end before the second: two processes, each at its own pace.
        running = asyncio.ensure_future(
            trial.pool.map([("wait-for", str(gate)), *(("echo", i) for i in range(20))])
        )
        await asyncio.sleep(0)
        gate.write_text("open")
        assert await running == ["open", *range(20)]
    finally:
        trial.pool.close()
    assert trial.restarts == 0


async def test_no_inputs_start_no_process(trial: Trial) -> None:
    children = psutil.Process().children()
    assert await trial.pool.map([]) == []
    assert psutil.Process().children() == children


async def test_a_crash_is_the_answer_of_its_input_alone(trial: Trial) -> None:
    answers = await trial.pool.map([("echo", 1), ("segfault", None), ("echo", 2), ("exit", 3)])
    assert answers == [
        1,
        Failure("crashed", "SIGSEGV"),
        2,
        Failure("crashed", "exit status 3"),
    ]
    assert trial.restarts == 2
    assert await trial.pool.map([("echo", 4)]) == [4]


async def test_a_hang_ends_with_its_time(hasty: Trial) -> None:
    # Starting a process, which takes longer than this, is not the input's time.
    (pid,) = await hasty.pool.map([("pid", None)])
    answers = await hasty.pool.map([("touch-and-hang", os.devnull), ("echo", 1)])
    assert answers == [Failure("timed-out", "after 0.5 s"), 1]
    assert not alive(pid)
    assert hasty.restarts == 1


def _refuse_to_load() -> None:
    raise ImportError


class Unloadable:
    """A function that no other process can load."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _refuse_to_load, ()

    def __call__(self, order: Any) -> Any:
        raise AssertionError


async def test_processes_that_do_not_start_are_our_fault_and_no_input_s() -> None:
    pool = IsolatedPool(Unloadable(), processes=1, timeout_seconds=5, memory_bytes=MEMORY_BYTES)
    with pytest.raises(ProcessStartError, match="exit status 1"):
        await pool.map([1])
    pool.close()


async def test_an_exception_keeps_its_process_and_says_its_type_only(trial: Trial) -> None:
    (pid,) = await trial.pool.map([("pid", None)])
    answers = await trial.pool.map([("raise", "DOE^JANE"), ("pid", None)])
    assert answers == [Failure("raised", "ValueError"), pid]
    assert trial.restarts == 0


async def test_memory_is_bounded(trial: Trial) -> None:
    answers = await trial.pool.map([("allocate", MEMORY_BYTES * 4), ("allocate", 1 << 20)])
    assert answers == [Failure("raised", "MemoryError"), 1 << 20]


async def test_an_answer_that_cannot_travel_is_a_crash(trial: Trial) -> None:
    answers = await trial.pool.map([("unpicklable", None), ("echo", 1)])
    assert answers == [Failure("crashed", "exit status 1"), 1]


async def test_a_process_that_dies_between_inputs_blames_none(trial: Trial) -> None:
    (pid,) = await trial.pool.map([("pid", None)])
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not alive(pid), "the process is dead")
    assert await trial.pool.map([("echo", 1)]) == [1]
    assert trial.restarts == 1


async def test_after_a_cancellation_answers_do_not_mix(trial: Trial, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    await trial.pool.map([("echo", 0)])
    cancelled = asyncio.ensure_future(
        trial.pool.map([("wait-for", str(gate)), ("touch-and-hang", str(tmp_path / "never"))])
    )
    await asyncio.sleep(0)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    following = asyncio.ensure_future(trial.pool.map([("echo", 1), ("echo", 2)]))
    await asyncio.sleep(0)
    gate.write_text("answer of the cancelled one")
    assert await following == [1, 2]
    assert not (tmp_path / "never").exists(), "inputs that were not begun are dropped"


async def test_close_ends_what_is_in_progress(tmp_path: Path) -> None:
    trial = Trial()
    mark = tmp_path / "pid"
    running = asyncio.ensure_future(
        trial.pool.map([("touch-and-hang", str(mark)), ("echo", "later")])
    )
    await asyncio.to_thread(wait_until, lambda: mark.exists() and mark.read_text(), "it hangs")
    await asyncio.to_thread(trial.pool.close)
    assert await running == [
        Failure("crashed", "SIGKILL"),
        Failure("closed", "the pool was closed"),
    ]
    assert not alive(int(mark.read_text()))
    assert trial.restarts == 0


PARENT = """
import asyncio, sys
from streams.runtime.isolation import IsolatedPool
from tests.unit.test_runtime_isolation import job

if __name__ == "__main__":
    pool = IsolatedPool(job, processes=1, timeout_seconds=1.5, memory_bytes=4 << 30)
    asyncio.run(pool.map([("pid", None)]))
    print("ready", flush=True)
    asyncio.run(pool.map([(sys.argv[1], sys.argv[2])]))
    sys.stdin.read()
"""


@pytest.mark.parametrize("how", ["pid", "touch-and-hang", "touch-and-hang-in-c"])
def test_no_process_outlives_a_killed_parent(how: str, tmp_path: Path) -> None:
    script, mark = tmp_path / "parent.py", tmp_path / "pid"
    script.write_text(PARENT)
    parent = subprocess.Popen(
        [sys.executable, str(script), how, str(mark)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ready\n"
        if how != "pid":
            wait_until(mark.exists, "the job hangs")
        children = psutil.Process(parent.pid).children(recursive=True)
        assert children
    finally:
        parent.kill()
        parent.wait()
    wait_until(lambda: not any(alive(child.pid) for child in children), "all children are gone")
