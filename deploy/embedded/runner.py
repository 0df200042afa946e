"""The life of one service: wait, start, become ready, die, start again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Literal

from deploy.embedded.errors import ServiceFailedError, StackError
from deploy.embedded.logs import ChildLog
from deploy.embedded.process import ChildProcess, describe_exit
from deploy.embedded.service import (
    Liveness,
    RestartBudget,
    ServiceSpec,
    ServiceState,
    ServiceStatus,
)
from deploy.embedded.usage import Usage
from deploy.embedded.waiting import within
from deploy.embedded.watchdog import Watchdog

_FIRST_POLL_SECONDS = 0.05
_LONGEST_POLL_SECONDS = 0.5


class ServiceRunner:
    """Runs one service until it is cancelled or gives up.

    Parameters
    ----------
    spec : ServiceSpec
        What to run.
    log : ChildLog
        Takes its output.
    watchdog : Watchdog
        Ends its grandchildren if this process is killed.
    runners : mapping of str to ServiceRunner
        All runners of the stack, this one among them.
    on_change : callable
        Called whenever the status has changed.
    """

    def __init__(
        self,
        spec: ServiceSpec,
        *,
        log: ChildLog,
        watchdog: Watchdog,
        runners: Mapping[str, ServiceRunner],
        on_change: Callable[[], None],
    ) -> None:
        self.spec = spec
        self.log = log
        self.ready = asyncio.Event()
        self.usage = Usage()
        self._watchdog = watchdog
        self._runners = runners
        self._on_change = on_change
        self._process: ChildProcess | None = None
        self._restart_asked = asyncio.Event()
        self._stopping = asyncio.Lock()
        self._state = ServiceState.WAITING
        self._since = _now()
        self._restarts = 0
        self._last_error = ""

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self._process.pid if self._process is not None and self._process.running else None

    def status(self) -> ServiceStatus:
        """Tell what is known of it now."""
        return ServiceStatus(
            name=self.spec.name,
            state=self._state,
            address=self.spec.address,
            since=self._since,
            pid=self.pid,
            restarts=self._restarts,
            last_error=self._last_error,
            rss_bytes=self.usage.rss_bytes if self.pid else 0,
            cpu_percent=self.usage.cpu_percent if self.pid else 0.0,
        )

    def ask_restart(self, reason: str) -> None:
        """Have it stopped and started again, once what it depends on is ready."""
        if self._state in (ServiceState.STARTING, ServiceState.READY):
            self._last_error = reason
            self.log.note(f"{_now().isoformat(timespec='seconds')} restarting: {reason}")
            self._restart_asked.set()

    async def run(self) -> None:
        """Keep it running.

        Raises
        ------
        ServiceFailedError
            When it died more often than its policy allows.
        StackError
            When it cannot be started at all.
        """
        clock = asyncio.get_running_loop().time
        budget = RestartBudget(self.spec.restart)
        while True:
            await self._dependencies_ready()
            try:
                reason = await self._live(budget)
            finally:
                self.ready.clear()
            if reason is None:  # somebody asked for a restart
                await self._stop_dependents()
                await self.stop()
            else:
                self._last_error = reason
                await self._end_dependents(f"{self.spec.name} {reason}")
                await self._end_group()
            self._restarts += 1
            self._become(ServiceState.RESTARTING)
            if reason is None:
                continue
            delay = budget.died(clock())
            if delay is None:
                self._become(ServiceState.FAILED)
                raise ServiceFailedError(
                    self.spec.name,
                    f"{reason}, after {self._restarts - 1} restarts",
                    self.log.tail(),
                    str(self.log.path),
                )
            await asyncio.sleep(delay)

    async def stop(self) -> None:
        """Stop its process, if any, and whatever it started."""
        async with self._stopping:  # a second request to stop must not look like impatience
            if self._process is not None:
                await self._process.stop(self.spec.stop_signal, self.spec.stop_grace_seconds)
                self._process = None

    def kill(self) -> None:
        """Kill its process group without asking."""
        if self._process is not None:
            self._process.kill()

    def stopped(self) -> None:
        """Show that the stack has stopped it."""
        self.ready.clear()
        if self._state is not ServiceState.FAILED:
            self._become(ServiceState.STOPPED)

    async def _dependencies_ready(self) -> None:
        needed = [self._runners[name].ready for name in self.spec.depends_on]
        while not all(event.is_set() for event in needed):
            for event in needed:
                await event.wait()

    async def _live(self, budget: RestartBudget) -> str | None:
        """One life: returns why it ended, or None when a restart was asked for."""
        self._restart_asked.clear()
        self._become(ServiceState.STARTING)
        try:
            if self.spec.before_start is not None:
                await self.spec.before_start()
            process = self._spawn()
        except StackError:
            self._become(ServiceState.FAILED)
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a failed start
            return f"could not be started: {type(error).__name__}: {error}"
        died = asyncio.ensure_future(process.wait())
        asked = asyncio.ensure_future(self._restart_asked.wait())
        getting_ready = asyncio.ensure_future(self._get_ready())
        try:
            await asyncio.wait(
                {died, asked, getting_ready},
                timeout=self.spec.ready_timeout_seconds,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if asked.done():
                return None
            if died.done():
                return describe_exit(died.result())
            if not getting_ready.done():
                waited = f"{self.spec.ready_timeout_seconds:.0f} s"
                return f"was not ready after {waited}: {self._last_error or 'no reason given'}"
            if (fault := getting_ready.result()) is not None:
                return fault
            budget.became_ready()
            self._last_error = ""
            self._become(ServiceState.READY)
            self.ready.set()
            return await self._until_dead(process.pid, died, asked)
        finally:
            for task in (died, asked, getting_ready):
                task.cancel()
            await asyncio.gather(died, asked, getting_ready, return_exceptions=True)

    async def _until_dead(
        self, pid: int, died: asyncio.Task[int], asked: asyncio.Task[Literal[True]]
    ) -> str | None:
        """Wait for the end of a ready service; returns as `_live` does."""
        failing = asyncio.ensure_future(self._watch(pid, self.spec.liveness))
        try:
            await asyncio.wait({died, asked, failing}, return_when=asyncio.FIRST_COMPLETED)
            if asked.done():
                return None
            if died.done():
                return describe_exit(died.result())
            # It is killed, not asked to stop: what is broken does not finish its work, and while
            # it tried, its clients would take "shutting down" for an answer.
            self.log.note(f"{_now().isoformat(timespec='seconds')} killing: {failing.result()}")
            return failing.result()
        finally:
            failing.cancel()
            await asyncio.gather(failing, return_exceptions=True)

    async def _watch(self, pid: int, liveness: Liveness | None) -> str:
        """Ask whether it works until it has not too often in a row; returns the last fault."""
        while liveness is None:
            await asyncio.Event().wait()  # nothing but its end is a fault
        faults = 0
        while True:
            try:
                fault = await within(liveness.timeout_seconds, liveness.check(pid))
            except asyncio.TimeoutError:
                fault = f"did not say whether it works within {liveness.timeout_seconds:.0f} s"
            except Exception as error:  # noqa: BLE001 - a check that fails does not say "works"
                fault = f"could not be checked: {type(error).__name__}: {error}"
            faults = 0 if fault is None else faults + 1
            if fault is not None and faults >= liveness.max_faults:
                return fault
            self._last_error = fault or ""
            await asyncio.sleep(liveness.interval_seconds)

    def _spawn(self) -> ChildProcess:
        # Nothing is awaited between start and assignment: a cancelled stack knows its child.
        self.log.note(f"{_now().isoformat(timespec='seconds')} starting")
        self._process = ChildProcess.start(
            self.spec.argv,
            env=self.spec.env,
            cwd=self.spec.cwd,
            log=self.log,
            watchdog=self._watchdog,
        )
        self._on_change()
        return self._process

    async def _get_ready(self) -> str | None:
        """Poll until it is ready, then run its hook; returns the hook's fault, if any."""
        pause = _FIRST_POLL_SECONDS
        while self.spec.ready is not None:
            try:
                reason = await self.spec.ready()
            except Exception as error:  # noqa: BLE001 - a check that fails says "not ready"
                reason = f"{type(error).__name__}: {error}"
            if reason is None:
                break
            self._last_error = reason
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_POLL_SECONDS)
        if self.spec.after_ready is not None:
            try:
                await self.spec.after_ready()
            except StackError:
                raise
            except Exception as error:  # noqa: BLE001 - tried again at the next start
                return f"could not be set up: {type(error).__name__}: {error}"
        return None

    def _restart_dependents(self, reason: str) -> None:
        for name in self.spec.restart_dependents:
            self._runners[name].ask_restart(reason)

    async def _stop_dependents(self) -> None:
        """Before a restart in good order: what would lose its footing goes first."""
        self._restart_dependents(f"{self.spec.name} is restarted")
        for name in self.spec.restart_dependents:
            await self._runners[name].stop()

    async def _end_dependents(self, reason: str) -> None:
        """After a death: what knew the dead one must be gone before its successor serves.

        A worker that survived would commit the dead broker's offsets to the new one, and its own
        successor would then pass over as many messages of the new log.
        """
        self._restart_dependents(reason)
        for name in self.spec.restart_dependents:
            await self._runners[name]._end_group()

    async def _end_group(self) -> None:
        if self._process is not None:
            await self._process.end()
            self._process = None

    def _become(self, state: ServiceState) -> None:
        self._state = state
        self._since = _now()
        self._on_change()


def _now() -> datetime:
    return datetime.now(timezone.utc)
