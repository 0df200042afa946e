"""The supervisor's side of the watchdog process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_SCRIPT = Path(__file__).with_name("_watchdog.py")


class Watchdog:
    """Keeps a watchdog process that knows every process group of the stack."""

    def __init__(self) -> None:
        self._groups: set[int] = set()
        self._process: subprocess.Popen[str] | None = None

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start it; it ends with this process."""
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
        )

    def add(self, group: int) -> None:
        """Have a process group killed should this process vanish."""
        self._groups.add(group)
        self._tell(f"+{group}\n")

    def remove(self, group: int) -> None:
        """Forget a group that is gone, since its number may be used again."""
        self._groups.discard(group)
        self._tell(f"-{group}\n")

    def close(self) -> None:
        """End it without harm: nothing that is still listed is killed."""
        if self._process is None:
            return
        for group in list(self._groups):
            self.remove(group)
        process, self._process = self._process, None
        if process.stdin is not None:
            process.stdin.close()
        process.wait()

    def _tell(self, line: str) -> None:
        if self._process is None or self._process.stdin is None:
            return
        try:
            self._process.stdin.write(line)
            self._process.stdin.flush()
        except BrokenPipeError:
            self._process.wait()  # somebody killed it: start another that knows the same groups
            self.start()
            for group in self._groups:
                self._process.stdin.write(f"+{group}\n")
            self._process.stdin.flush()
