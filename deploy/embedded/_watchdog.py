"""Kills the process groups of a stack whose supervisor is gone.

Run as a script by the supervisor, which holds the other end of its standard input and writes
``+GROUP`` when a child starts and ``-GROUP`` when its group is gone. End of input with groups left
means that the supervisor was killed: grandchildren, which no parent-death signal reaches, die here.
"""

from __future__ import annotations

import os
import signal
import sys


def main() -> None:
    """Follow the supervisor until it ends."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # only the supervisor's end matters
    groups: set[int] = set()
    for line in sys.stdin:
        sign, group = line[0], int(line[1:])
        if sign == "+":
            groups.add(group)
        else:
            groups.discard(group)
    for group in groups:
        try:
            os.killpg(group, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue


if __name__ == "__main__":
    main()
