"""Runs a function on many inputs in processes of their own, so that none of them can hurt us.

Image decoders are C libraries that meet hostile input: they crash, hang and ask for absurd memory.
Each process works on one input at a time, so a crash or an overrun names its input exactly; that
input gets an answer, the process a successor, and the others never notice.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import resource
import signal
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

_ENDING_SECONDS = 2.0


@dataclass(frozen=True)
class Failure:
    """An input that its process did not survive, or an exception that the function raised.

    Parameters
    ----------
    reason : str
        ``crashed``, ``timed-out`` or ``raised``.
    detail : str
        Signal, seconds, or type of the exception.
    """

    reason: str
    detail: str


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
        self._on_restart = on_restart
        self._workers = [
            _Worker(function, timeout_seconds=timeout_seconds, memory_bytes=memory_bytes)
            for _ in range(processes)
        ]

    async def map(self, inputs: Sequence[Any]) -> list[Any]:
        """Run the function on each input.

        Returns
        -------
        list
            The answers in the order of the inputs; a ``Failure`` where there is none.
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
                if isinstance(answers[index], Failure) and not worker.alive:
                    self._on_restart()

        try:
            await asyncio.gather(
                *(asyncio.to_thread(work, worker) for worker in self._workers[: len(inputs)])
            )
        except asyncio.CancelledError:
            todo.clear()
            raise
        return answers

    def close(self) -> None:
        """End the processes."""
        for worker in self._workers:
            worker.close()


class _Worker:
    def __init__(
        self, function: Callable[[Any], Any], *, timeout_seconds: float, memory_bytes: int
    ) -> None:
        self._function = function
        self._timeout_seconds = timeout_seconds
        self._memory_bytes = memory_bytes
        self._process: Any = None
        self._connection: Connection | None = None

    @property
    def alive(self) -> bool:
        return self._process is not None

    def call(self, item: Any) -> Any:
        connection = self._connection or self._start()
        try:
            connection.send(item)
            if connection.poll(self._timeout_seconds):
                return connection.recv()
            failure = Failure("timed-out", f"after {self._timeout_seconds:g} s")
        except (EOFError, OSError):
            self._process.join(_ENDING_SECONDS)
            failure = Failure("crashed", _exit_text(self._process.exitcode))
        self.close()
        return failure

    def _start(self) -> Connection:
        # `spawn`: a fork of a process with threads and a broker connection is not safe.
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, self._function, self._memory_bytes), daemon=True
        )
        self._process.start()
        theirs.close()
        return self._connection

    def close(self) -> None:
        process, self._process = self._process, None
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        if process is not None:
            process.kill()
            process.join(_ENDING_SECONDS)


def _serve(connection: Connection, function: Callable[[Any], Any], memory_bytes: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # The worker's death closes the pipe, which ends this loop and the process.
    with contextlib.suppress(EOFError, OSError):
        while True:
            item = connection.recv()
            try:
                answer = function(item)
            except Exception as error:  # noqa: BLE001 (the answer is the only way out)
                answer = Failure("raised", type(error).__name__)
            connection.send(answer)


def _exit_text(code: int | None) -> str:
    if code is None:
        return "the process hangs"
    if code < 0:
        with contextlib.suppress(ValueError):
            return signal.Signals(-code).name
    return f"exit status {code}"
