"""A whole BioDataMine of this machine as a user would run it: ``biodatamine up`` in a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from deploy.embedded.state import StackInfo, read_stack
from streams.storage.clickhouse import ClickHouse

READY_SECONDS = 240.0
COMMAND = (sys.executable, "-m", "streams.cli")


def wait_for(
    condition: Callable[[], Any], *, seconds: float, what: str, pause_seconds: float = 0.1
) -> Any:
    """Return the first truthy answer of a condition; fail when none comes in time."""
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        if time.monotonic() > deadline:
            msg = f"{what}: not within {seconds:.0f} s"
            raise AssertionError(msg)
        time.sleep(pause_seconds)
    return answer


class Stack:
    """One ``biodatamine up``.

    Parameters
    ----------
    data_dir : Path
        Its data folder.
    arguments : sequence of str
        Further arguments of ``up``.
    env : dict, optional
        Further environment variables.
    """

    def __init__(
        self, data_dir: Path, arguments: Sequence[str] = (), env: dict[str, str] | None = None
    ) -> None:
        self.data_dir = data_dir
        self._arguments = list(arguments)
        self._env = {
            name: value for name, value in os.environ.items() if not name.startswith("BIODATAMINE_")
        } | (env or {})
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> StackInfo:
        """Start it and wait until everything is ready."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        with (self.data_dir / "up.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*COMMAND, "up", "--data-dir", str(self.data_dir), *self._arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=self._env,
            )
        return wait_for(self._ready, seconds=READY_SECONDS, what="the stack is ready")

    def _ready(self) -> StackInfo | None:
        assert self._process is not None
        if self._process.poll() is not None:
            log = (self.data_dir / "up.log").read_text(errors="replace")
            msg = f"the stack ended with status {self._process.returncode}:\n{log[-4000:]}"
            raise AssertionError(msg)
        info = read_stack(self.data_dir)
        return info if info and info.pid == self._process.pid and info.ready else None

    @property
    def info(self) -> StackInfo:
        """Where everything is."""
        info = read_stack(self.data_dir)
        assert info is not None
        return info

    @property
    def pid(self) -> int:
        """Process of the supervisor."""
        assert self._process is not None
        return self._process.pid

    def processes(self) -> dict[str, list[psutil.Process]]:
        """Name of each service to its process and all that it started."""
        found = {}
        for name, record in self.info.services.items():
            if record.pid is not None:
                process = psutil.Process(record.pid)
                found[name] = [process, *process.children(recursive=True)]
        return found

    def database(self) -> ClickHouse:
        """Client of its ClickHouse."""
        url = self.info.addresses.clickhouse_dsn
        assert url is not None
        return ClickHouse(url)

    def run(
        self, *arguments: str, check: bool = True, timeout_seconds: float = 600
    ) -> subprocess.CompletedProcess[str]:
        """Run a ``biodatamine`` command against it."""
        done = subprocess.run(
            [*COMMAND, *arguments, "--data-dir", str(self.data_dir)],
            capture_output=True,
            text=True,
            env=self._env | {"COLUMNS": "200"},
            timeout=timeout_seconds,
            check=False,
        )
        if check and done.returncode:
            msg = f"{arguments}: status {done.returncode}\n{done.stdout}\n{done.stderr}"
            raise AssertionError(msg)
        return done

    def stop(self) -> None:
        """Stop it as Ctrl-C does, and check that nothing is left."""
        if self._process is None or self._process.poll() is not None:
            return
        everything = psutil.Process(self.pid).children(recursive=True)
        self._process.send_signal(signal.SIGINT)
        self._process.wait(60)
        _, alive = psutil.wait_procs(everything, timeout=10)
        assert not alive, f"left running: {alive}"

    def kill(self) -> None:
        """Kill -9 the supervisor and everything that it started, all at once."""
        everything = [psutil.Process(self.pid), *psutil.Process(self.pid).children(recursive=True)]
        for process in everything:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        assert self._process is not None
        self._process.wait(30)
        psutil.wait_procs(everything, timeout=30)


@contextmanager
def running_stack(
    data_dir: Path, arguments: Sequence[str] = (), env: dict[str, str] | None = None
) -> Iterator[Stack]:
    """Run a stack for a while."""
    stack = Stack(data_dir, arguments, env)
    try:
        stack.start()
        yield stack
    finally:
        stack.stop()
