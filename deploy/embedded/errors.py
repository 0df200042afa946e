"""What can go wrong with the local stack, each with what to do next in its message."""

from __future__ import annotations

from collections.abc import Sequence


class StackError(Exception):
    """The stack cannot start or cannot go on; the message says what to do."""


class AlreadyRunningError(StackError):
    """A live stack holds the data folder."""


class PortTakenError(StackError):
    """A port that was asked for is in use."""


class MissingSoftwareError(StackError):
    """A server's binary, library or runtime is not installed."""


class ServiceFailedError(StackError):
    """A service kept dying.

    Parameters
    ----------
    name : str
        The service.
    reason : str
        Why it was given up.
    last_lines : sequence of str
        The end of its log.
    log_path : str
        Where the rest is.
    """

    def __init__(self, name: str, reason: str, last_lines: Sequence[str], log_path: str) -> None:
        self.name = name
        self.reason = reason
        self.last_lines = tuple(last_lines)
        self.log_path = log_path
        tail = "\n".join(f"  {line}" for line in self.last_lines) or "  (it wrote nothing)"
        super().__init__(f"{name} failed: {reason}. Its last lines ({log_path}):\n{tail}")
