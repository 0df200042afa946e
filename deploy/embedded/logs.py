"""The log of a child: appended by the child itself, bounded by the supervisor."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

DEFAULT_LOG_BYTES = 8 * 2**20


class ChildLog:
    """One log file and its predecessor.

    The child holds the file open for appending, so that it never waits for the supervisor; bounding
    copies the file aside and truncates it in place.

    Parameters
    ----------
    path : Path
        The file; the older part goes to ``PATH.1``.
    max_bytes : int
        Size at which it is moved aside.
    """

    def __init__(self, path: Path, max_bytes: int = DEFAULT_LOG_BYTES) -> None:
        self.path = path
        self._max_bytes = max_bytes

    def open(self) -> int:
        """Descriptor to give to a child as its output; the caller closes it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def note(self, text: str) -> None:
        """Append a line of the supervisor's own."""
        descriptor = self.open()
        try:
            os.write(descriptor, f"--- {text}\n".encode())
        finally:
            os.close(descriptor)

    def bound(self) -> None:
        """Move the file aside when it has grown too large."""
        try:
            size = self.path.stat().st_size
        except FileNotFoundError:
            return
        if size <= self._max_bytes:
            return
        older = self.path.with_name(self.path.name + ".1")
        with self.path.open("rb") as source, older.open("wb") as target:
            # A child gone wild may have written far more than the bound in one interval.
            source.seek(max(0, size - self._max_bytes))
            shutil.copyfileobj(source, target)
        os.truncate(self.path, 0)

    def tail(self, lines: int = 20, max_bytes: int = 16_384) -> list[str]:
        """Last lines, without the supervisor's notes.

        Parameters
        ----------
        lines, max_bytes : int
            Most to return.
        """
        try:
            with self.path.open("rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - max_bytes))
                text = file.read().decode(errors="replace")
        except FileNotFoundError:
            return []
        kept = [line for line in text.splitlines() if line.strip() and not line.startswith("--- ")]
        return kept[-lines:]
