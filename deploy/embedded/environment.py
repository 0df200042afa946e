"""Environment of the children."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

PROJECT_ROOT = Path(__file__).resolve().parents[2]


def child_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Environment for a child: ours, unbuffered Python output, and what is given.

    Parameters
    ----------
    extra : mapping, optional
        Variables to set.
    """
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    # `python -m deploy...` and `python -m streams...` work from a checkout that is not installed.
    environment["PYTHONPATH"] = join_paths(PROJECT_ROOT, os.environ.get("PYTHONPATH"))
    environment.update(extra or {})
    return environment


def python_module(module: str, *arguments: str) -> tuple[str, ...]:
    """Command that runs a module with the Python that runs us."""
    return (sys.executable, "-u", "-m", module, *arguments)


def join_paths(*paths: Path | str | None) -> str:
    """Search path of those given, without repetitions.

    Examples
    --------
    >>> join_paths("/a", None, "/b:/a")
    '/a:/b'
    """
    parts = [part for path in paths if path for part in str(path).split(os.pathsep) if part]
    return os.pathsep.join(dict.fromkeys(parts))
