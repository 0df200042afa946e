"""Admission: how many queries run at a time, and how long the next one waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

from deploy.embedded.clickhouse.errors import ServerError
from deploy.embedded.clickhouse.waiting import within

T = TypeVar("T")

_CANCEL_SECONDS = 0.25


class QueryPool:
    """A bounded number of slots, each with a thread for the engine's blocking calls.

    Parameters
    ----------
    slots : int
        Queries that run at a time.
    wait_seconds : float
        How long a query waits for a slot before it is refused with code 202.
    """

    def __init__(self, slots: int, wait_seconds: float) -> None:
        self.slots = slots
        self._wait_seconds = wait_seconds
        self._semaphore = asyncio.Semaphore(slots)
        # Two more threads, so that a query can be killed while every slot is taken.
        self._threads = ThreadPoolExecutor(slots + 2, thread_name_prefix="query")
        self.running = 0

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Hold a slot for one query.

        Raises
        ------
        ServerError
            202 when none came free in time.
        """
        if self._semaphore.locked():
            try:
                semaphore = self._semaphore
                await within(self._wait_seconds, semaphore.acquire(), semaphore.release)
            except asyncio.TimeoutError:
                raise ServerError(
                    202,
                    f"Too many simultaneous queries: all {self.slots} connections were busy for "
                    f"{self._wait_seconds:g} s. Try again, or start with more --connections",
                ) from None
        else:
            await self._semaphore.acquire()
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1
            self._semaphore.release()

    async def call(self, function: Callable[[], T], cancel: Callable[[], None] | None = None) -> T:
        """Run a blocking call in a thread and return its result.

        Parameters
        ----------
        function : callable
            The blocking call.
        cancel : callable, optional
            Ends `function` early, called in another thread when the caller is cancelled. The caller
            is held until `function` has ended: nobody may close a connection under the engine.
        """
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._threads, function)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            while cancel is not None and not future.done():
                # Again and again: the first one may come before the engine has begun.
                await asyncio.wait([loop.run_in_executor(self._threads, cancel)])
                await asyncio.wait([future], timeout=_CANCEL_SECONDS)
            await asyncio.wait([future])
            if not future.cancelled():
                future.exception()
            raise

    def close(self) -> None:
        """Release the threads; the ones in a call are not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)
