"""Waiting with a bound, without losing a cancellation.

``asyncio.wait_for`` before Python 3.12 swallows a cancellation that arrives together with the
result; the query of a client that has left would then run on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def within(
    seconds: float, work: Coroutine[Any, Any, T], undo: Callable[[], None] | None = None
) -> T:
    """Return what `work` returns.

    Parameters
    ----------
    seconds : float
        How long it may take.
    work : coroutine
        Cancelled when the time is over or the caller is cancelled.
    undo : callable, optional
        Called when the caller is cancelled although `work` was done: its result is lost.

    Raises
    ------
    asyncio.TimeoutError
        When the time is over.
    """
    task = asyncio.ensure_future(work)
    # A fault after the caller is gone has nobody to go to.
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    try:
        await asyncio.wait({task}, timeout=seconds)
    except asyncio.CancelledError:
        if task.done():
            if undo is not None and not task.cancelled() and task.exception() is None:
                undo()
        else:
            task.cancel()
        raise
    if not task.done():
        task.cancel()
        raise asyncio.TimeoutError
    return task.result()
