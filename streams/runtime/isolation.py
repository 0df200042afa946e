"""Runs a function on many inputs in processes of their own, so that none of them can hurt us.

Image decoders are C libraries that meet hostile input: they crash, hang and ask for absurd memory.
Each process works on one input at a time, so a crash or an overrun names its input exactly; that
input gets an answer, the process a successor, and the others never notice.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import multiprocessing.connection
import os
import resource
import signal
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

_STARTING_SECONDS = 120.0
_ENDING_SECONDS = 2.0
_ORPHAN_GRACE_SECONDS = 2.0
_TAKEN = "taken"


@dataclass(frozen=True)
class Failure:
    """An input that its process did not survive, or an exception that the function raised.

    Parameters
    ----------
    reason : str
        ``crashed``, ``timed-out``, ``raised``, or ``closed`` for one that the pool did not take.
    detail : str
        Signal, seconds, or type of the exception.
    """

    reason: str
    detail: str


class ProcessStartError(RuntimeError):
    """A process does not start: a fault of ours, of no input."""


class IsolatedPool:
    """Processes that run one picklable function.

    Parameters
    ----------
    function : callable
        Top-level function; its input and its answer must be picklable.
    processes : int
        How many inputs to work on at once.
    timeout_seconds : float
        How long one input may take.
    memory_bytes : int
        Address space of a process; beyond it the function sees ``MemoryError``.
    on_restart : callable, optional
        Called for each process that had to be replaced.
    """

    def __init__(
        self,
        function: Callable[[Any], Any],
        *,
        processes: int,
        timeout_seconds: float,
        memory_bytes: int,
        on_restart: Callable[[], None] = lambda: None,
    ) -> None:
        self._workers = [
            _Worker(
                function,
                timeout_seconds=timeout_seconds,
                memory_bytes=memory_bytes,
                on_restart=on_restart,
            )
            for _ in range(processes)
        ]

    async def map(self, inputs: Sequence[Any]) -> list[Any]:
        """Run the function on each input.

        When it is cancelled, inputs in progress are finished, for nobody, before the next call's.

        Returns
        -------
        list
            The answers in the order of the inputs; a ``Failure`` where there is none.

        Raises
        ------
        ProcessStartError
            If a process ends before it can take an input.
        """
        answers: list[Any] = [None] * len(inputs)
        todo = deque(enumerate(inputs))

        def work(worker: _Worker) -> None:
            while True:
                try:
                    index, item = todo.popleft()
                except IndexError:
                    return
                answers[index] = worker.call(item)

        try:
            await asyncio.gather(
                *(asyncio.to_thread(work, worker) for worker in self._workers[: len(inputs)])
            )
        except asyncio.CancelledError:
            todo.clear()
            raise
        return answers

    def close(self) -> None:
        """End the processes; inputs in progress and later ones are answered by a ``Failure``."""
        for worker in self._workers:
            worker.close()


class _Worker:
    def __init__(
        self,
        function: Callable[[Any], Any],
        *,
        timeout_seconds: float,
        memory_bytes: int,
        on_restart: Callable[[], None],
    ) -> None:
        self._function = function
        self._timeout_seconds = timeout_seconds
        self._memory_bytes = memory_bytes
        self._on_restart = on_restart
        # A cancelled map leaves its thread in a call; the next map's thread waits here for its end.
        self._lock = threading.Lock()
        self._process: Any = None
        self._connection: Connection | None = None
        self._closed = False

    def call(self, item: Any) -> Any:
        with self._lock:
            taken, answer = self._try(item)
            if not taken:
                # The process died while it waited for an input: this one is not to blame.
                _, answer = self._try(item)
            return answer

    def _try(self, item: Any) -> tuple[bool, Any]:
        # Whether the process has taken the input, and its answer or why there is none.
        if not self._closed:
            connection = self._connection or self._start()
        if self._closed:
            self._end()
            return True, Failure("closed", "the pool was closed")
        taken = False
        try:
            connection.send(item)
            taken = connection.poll(self._timeout_seconds) and connection.recv() == _TAKEN
            if taken and connection.poll(self._timeout_seconds):
                return True, connection.recv()
            taken = True
            failure = Failure("timed-out", f"after {self._timeout_seconds:g} s")
        except (EOFError, OSError):
            self._process.join(_ENDING_SECONDS)
            failure = Failure("crashed", _exit_text(self._process.exitcode))
        self._end()
        if not self._closed:
            self._on_restart()
        return taken, failure

    def close(self) -> None:
        self._closed = True
        if (process := self._process) is not None:
            process.kill()
        with self._lock:
            self._end()

    def _start(self) -> Connection:
        # `spawn`: a fork of a process with threads and a broker connection is not safe.
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve,
            args=(theirs, self._function, self._memory_bytes, self._timeout_seconds),
            daemon=True,
        )
        self._process.start()
        theirs.close()
        try:
            # Importing what the function needs takes seconds: they are not the input's time.
            if self._connection.poll(_STARTING_SECONDS):
                self._connection.recv()
                return self._connection
        except (EOFError, OSError):
            self._process.join(_ENDING_SECONDS)
        code = self._process.exitcode
        self._end()
        msg = f"a process does not start: {_exit_text(code)}; see its output"
        raise ProcessStartError(msg)

    def _end(self) -> None:
        process, self._process = self._process, None
        connection, self._connection = self._connection, None
        if process is not None:
            process.kill()
            process.join(_ENDING_SECONDS)
        if connection is not None:
            connection.close()


def _serve(
    connection: Connection,
    function: Callable[[Any], Any],
    memory_bytes: int,
    timeout_seconds: float,
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(EOFError, OSError):
        connection.send(None)
        while True:
            item = connection.recv()
            connection.send(_TAKEN)
            # A codec that hangs with the interpreter's lock held stops the thread that watches the
            # parent, too. The parent's patience ends first; without a parent, the kernel ends us.
            signal.setitimer(signal.ITIMER_REAL, timeout_seconds + _ORPHAN_GRACE_SECONDS)
            try:
                answer = function(item)
            except Exception as error:  # noqa: BLE001 (the answer is the only way out)
                answer = Failure("raised", type(error).__name__)
            signal.setitimer(signal.ITIMER_REAL, 0)
            connection.send(answer)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGKILL)


def _exit_text(code: int | None) -> str:
    if code is None:
        return "the process hangs"
    if code < 0:
        with contextlib.suppress(ValueError):
            return signal.Signals(-code).name
    return f"exit status {code}"
