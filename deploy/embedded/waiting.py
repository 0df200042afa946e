"""Waiting for a limited time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

Result = TypeVar("Result")


async def within(seconds: float, awaitable: Awaitable[Result]) -> Result:
    """Await something for a limited time.

    Unlike `asyncio.wait_for` before Python 3.12, a cancellation that arrives together with the
    result is not lost.

    Parameters
    ----------
    seconds : float
        How long at most.
    awaitable : awaitable
        What to wait for; it is cancelled when the time is up, or when the caller is cancelled.

    Raises
    ------
    asyncio.TimeoutError
        When the time is up.
    """
    task = asyncio.ensure_future(awaitable)
    try:
        await asyncio.wait({task}, timeout=seconds)
        if not task.done():
            raise asyncio.TimeoutError
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
