"""Time is passed in: nothing below the commands asks the machine for it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """Read the machine's time, UTC; the clock of a running worker."""
    return datetime.now(timezone.utc)
