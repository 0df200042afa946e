"""Becomes the command that follows ``--``, and dies when the supervisor does.

Run as a script by the supervisor: ``_child.py SUPERVISOR_PID -- COMMAND ARGS...``. Standard library
only, and no imports of ours, so that it starts in a few milliseconds.
"""

from __future__ import annotations

import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    if not sys.platform.startswith("linux"):
        return  # the watchdog alone does it there
    import ctypes  # noqa: PLC0415 - absent from some builds of Python

    # Kept over exec. The kernel sends it when the parent's *thread* ends: the supervisor starts its
    # children from the thread of its event loop, which lives as long as the supervisor does.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def main(arguments: list[str]) -> int:
    """Replace this process by the command."""
    supervisor, separator, *command = arguments
    if separator != "--" or not command:
        return 2
    _die_with_parent()
    if os.getppid() != int(supervisor):
        return 1  # it died before we could ask to be told
    try:
        os.execvpe(command[0], command, os.environ)  # noqa: S606
    except OSError as error:
        sys.stderr.write(f"cannot run {command[0]}: {error.strerror}\n")
        return 127


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
