"""Starting a child in its own session, waiting for it, and ending its whole process group."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from deploy.embedded.logs import ChildLog
from deploy.embedded.watchdog import Watchdog

_LAUNCHER = Path(__file__).with_name("_child.py")


class ChildProcess:
    """A running child.

    Its process id is that of the command itself (the launcher replaces itself by it), and the id of
    its session and process group. Make one with `start`.
    """

    def __init__(self, popen: subprocess.Popen[bytes], watchdog: Watchdog | None) -> None:
        self._popen = popen
        self._watchdog = watchdog
        self._loop = asyncio.get_running_loop()
        self._exit_code: asyncio.Future[int] = self._loop.create_future()
        # A thread of its own: asyncio's child watchers differ between versions of Python and some
        # want the main thread, and the default executor is too small to lend to waiting.
        threading.Thread(target=self._wait, name=f"wait-{popen.pid}", daemon=True).start()

    @classmethod
    def start(
        cls,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path | None = None,
        log: ChildLog,
        watchdog: Watchdog | None = None,
    ) -> ChildProcess:
        """Start a command whose life is bound to that of this process.

        Call it from the thread of the event loop: on Linux the kernel kills the child when the
        thread that started it ends.

        Parameters
        ----------
        argv : sequence of str
            Command.
        env : mapping
            Its whole environment.
        cwd : Path, optional
            Working folder.
        log : ChildLog
            Takes its output.
        watchdog : Watchdog, optional
            Ends its grandchildren when this process is killed.
        """
        output = log.open()
        try:
            popen = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_LAUNCHER), str(os.getpid()), "--", *argv],
                env=dict(env),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        finally:
            os.close(output)
        if watchdog is not None:
            watchdog.add(popen.pid)
        return cls(popen, watchdog)

    @property
    def pid(self) -> int:
        """Process id, and id of its process group."""
        return self._popen.pid

    @property
    def running(self) -> bool:
        """Whether it has not been seen to end."""
        return not self._exit_code.done()

    async def wait(self) -> int:
        """Exit code once it has ended; minus the signal's number when one killed it."""
        return await asyncio.shield(self._exit_code)

    async def stop(self, number: signal.Signals, grace_seconds: float) -> int:
        """Ask it to stop, then kill whatever is left of its process group.

        Parameters
        ----------
        number : signal
            How it is asked.
        grace_seconds : float
            How long it may take.

        Returns
        -------
        int
            Its exit code.
        """
        if self.running:
            # Only the child itself is asked: it knows in which order to end its own children.
            self._signal(number)
            await asyncio.wait([self._exit_code], timeout=grace_seconds)
        return await self.end()

    async def end(self) -> int:
        """Kill whatever is left of its process group, and wait for its end.

        Returns
        -------
        int
            Its exit code.
        """
        self.kill()
        code = await self.wait()
        if self._watchdog is not None:
            self._watchdog.remove(self.pid)
        return code

    def kill(self) -> None:
        """Kill its process group at once, children of a dead child included."""
        # PermissionError: macOS says so of a group of zombies.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def _wait(self) -> None:
        code = self._popen.wait()
        try:
            self._loop.call_soon_threadsafe(self._ended, code)
        except RuntimeError:
            return  # the loop is closed: nobody waits any more

    def _ended(self, code: int) -> None:
        if not self._exit_code.done():
            self._exit_code.set_result(code)


def describe_exit(code: int) -> str:
    """Exit code in words.

    Examples
    --------
    >>> describe_exit(-9)
    'killed by SIGKILL'
    >>> describe_exit(3)
    'exited with 3'
    """
    if code >= 0:
        return f"exited with {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
