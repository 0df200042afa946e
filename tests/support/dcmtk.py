"""dcmtk's senders: several ``dcmsend`` at once, with the times that they themselves note."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# Each line with the time in seconds: what dcmtk's tools do before and after the association (load
# the dictionary, look into each file) is no work of a receiver.
_LOG = """\
log4cplus.rootLogger = INFO, console
log4cplus.appender.console = log4cplus::ConsoleAppender
log4cplus.appender.console.layout = log4cplus::PatternLayout
log4cplus.appender.console.layout.ConversionPattern = %D{%s.%q} %m%n
"""
_LINE = re.compile(r"(\d+\.\d{3}) (.*)")
_ASKED = "Requesting Association"
_ANSWERED = "Received C-STORE Response"
_STORED = "Received C-STORE Response (Success)"
_TOOLS = ("dcmsend", "storescu", "storescp", "echoscu")


def missing_tools() -> list[str]:
    """Names of dcmtk's tools that are not installed here."""
    return [name for name in _TOOLS if shutil.which(name) is None]


def dcmtk_env(*, nodelay: bool) -> dict[str, str]:
    """Environment of a program made with dcmtk.

    Parameters
    ----------
    nodelay : bool
        Whether it disables Nagle's algorithm. dcmtk leaves it on by default since 3.6.2, and
        ``TCP_NODELAY=1`` turns it off (dcmtk's envvars.txt).
    """
    env = {name: value for name, value in os.environ.items() if name != "TCP_NODELAY"}
    return env | ({"TCP_NODELAY": "1"} if nodelay else {})


@dataclass(frozen=True)
class Push:
    """What became of the instances of several senders.

    Parameters
    ----------
    stored : int
        Answered with Success.
    seconds : float
        From the first association's request to the last answer.
    log : str
        What the senders said.
    """

    stored: int
    seconds: float
    log: str


def push(
    groups: Sequence[Sequence[Path]],
    *,
    port: int,
    folder: Path,
    nodelay: bool = True,
    called_aet: str = "BIODATAMINE",
    timeout_seconds: float = 600.0,
) -> Push:
    """Send each group over an association of its own, all at once.

    Parameters
    ----------
    groups : sequence of sequence of Path
        One ``dcmsend`` each.
    port : int
        Of the receiver, on this machine.
    folder : Path
        Takes the senders' logs.
    nodelay : bool
        See ``dcmtk_env``.
    called_aet : str
        AE title of the receiver.
    timeout_seconds : float
        How long a sender may take.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "log.cfg"
    config.write_text(_LOG)
    logs = [folder / f"{index}.log" for index in range(len(groups))]
    with contextlib.ExitStack() as stack:
        senders = []
        for group, log in zip(groups, logs, strict=True):
            output = stack.enter_context(log.open("wb"))
            sender = subprocess.Popen(
                ["dcmsend", "-lc", str(config), "-nuc", "-aec", called_aet,
                 "127.0.0.1", str(port), *map(str, group)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dcmtk_env(nodelay=nodelay),
            )  # fmt: skip
            stack.callback(_end, sender)
            senders.append(sender)
        for sender in senders:
            sender.wait(timeout_seconds)
    return _read("".join(log.read_text(errors="replace") for log in logs))


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
        process.wait()


def _read(log: str) -> Push:
    lines = [found.groups() for found in map(_LINE.fullmatch, log.splitlines()) if found]
    asked = [float(at) for at, said in lines if said.startswith(_ASKED)]
    answered = [float(at) for at, said in lines if said.startswith(_ANSWERED)]
    return Push(
        stored=sum(said.startswith(_STORED) for _, said in lines),
        seconds=max(answered) - min(asked) if asked and answered else 0.0,
        log=log,
    )
