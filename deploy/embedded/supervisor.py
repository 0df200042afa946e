"""Runs the services of a stack, in order, until told to stop or one of them gives up."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path

from deploy.embedded.logs import DEFAULT_LOG_BYTES, ChildLog
from deploy.embedded.runner import ServiceRunner
from deploy.embedded.service import ServiceSpec, ServiceState, ServiceStatus, start_levels
from deploy.embedded.state import (
    Addresses,
    ServiceRecord,
    StackInfo,
    process_start,
    remove_stack,
    write_stack,
)
from deploy.embedded.usage import UsageMeter
from deploy.embedded.waiting import within
from deploy.embedded.watchdog import Watchdog

OnStatus = Callable[["list[ServiceStatus]"], None]


_FORCED_RECYCLE_FACTOR = 8


class Supervisor:
    """Starts services in the order of their dependencies and keeps them running.

    Children that depend on nothing unfinished start side by side. Every child runs in a session of
    its own and dies with this process, however this process dies. One supervisor at a time may use
    a data folder: hold its `StackLock`.

    Parameters
    ----------
    specs : sequence of ServiceSpec
        The services.
    data_dir : Path
        Data folder; logs go to ``logs/NAME.log`` below it, the state to ``run/stack.json``.
    addresses : Addresses, optional
        What the state file says about where things are.
    on_status : callable, optional
        Called with the statuses whenever one changes, and once in each interval.
    interval_seconds : float
        Between samples of memory and CPU, and checks of the logs' sizes.
    max_log_bytes : int
        Size at which a log is moved aside.

    Raises
    ------
    StackError
        When the services' dependencies make no order.
    """

    def __init__(
        self,
        specs: Sequence[ServiceSpec],
        data_dir: Path,
        *,
        addresses: Addresses | None = None,
        on_status: OnStatus | None = None,
        interval_seconds: float = 1.0,
        max_log_bytes: int = DEFAULT_LOG_BYTES,
    ) -> None:
        self._levels = start_levels(specs)
        self._specs = tuple(specs)
        self._data_dir = data_dir.absolute()
        self._addresses = addresses or Addresses()
        self._on_status = on_status
        self._interval_seconds = interval_seconds
        self._max_log_bytes = max_log_bytes
        self._watchdog = Watchdog()
        self._runners: dict[str, ServiceRunner] = {}
        self._started_at = datetime.now(timezone.utc)
        self._written: object = None
        self._changed = asyncio.Event()
        self.all_ready = asyncio.Event()
        """Set while every service is ready."""

    def snapshot(self) -> list[ServiceStatus]:
        """Status of every service, in the order in which they were given."""
        return [self._runners[spec.name].status() for spec in self._specs if self._runners]

    async def run(self, stop: asyncio.Event) -> None:
        """Run until `stop` is set; every service has stopped when it returns or raises.

        Parameters
        ----------
        stop : asyncio.Event
            Ends it in good order.

        Raises
        ------
        ServiceFailedError
            When a service died too often; the message ends with its last log lines.
        StackError
            When a service cannot be started at all.
        """
        self._runners.update((spec.name, self._make_runner(spec)) for spec in self._specs)
        self._watchdog.start()
        try:
            await self._supervise(stop)
        finally:
            await asyncio.shield(self._shut_down())

    def kill_now(self) -> None:
        """Kill every child without waiting for it to finish; `run` then returns soon."""
        for runner in self._runners.values():
            runner.kill()

    def _make_runner(self, spec: ServiceSpec) -> ServiceRunner:
        log = ChildLog(self._data_dir / "logs" / f"{spec.name}.log", self._max_log_bytes)
        return ServiceRunner(
            spec,
            log=log,
            watchdog=self._watchdog,
            runners=self._runners,
            on_change=self._changed.set,
        )

    async def _supervise(self, stop: asyncio.Event) -> None:
        lives = [asyncio.ensure_future(runner.run()) for runner in self._runners.values()]
        duties = [
            asyncio.ensure_future(stop.wait()),
            asyncio.ensure_future(self._publish()),
            asyncio.ensure_future(self._keep_house()),
        ]
        try:
            done, _ = await asyncio.wait({*lives, *duties}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # a life ends only by an error; a duty, by `stop` or by one
        finally:
            for task in (*lives, *duties):
                task.cancel()
            await asyncio.gather(*lives, *duties, return_exceptions=True)

    async def _publish(self) -> None:
        """Tell of changes: to the state file and to whoever watches."""
        while True:
            self._changed.clear()
            self._tell()
            with contextlib.suppress(asyncio.TimeoutError):
                await within(self._interval_seconds, self._changed.wait())

    def _tell(self) -> None:
        statuses = self.snapshot()
        if all(status.state is ServiceState.READY for status in statuses):
            self.all_ready.set()
        else:
            self.all_ready.clear()
        self._write_state(statuses)
        if self._on_status is not None:
            self._on_status(statuses)

    def _write_state(self, statuses: Sequence[ServiceStatus]) -> None:
        info = StackInfo(
            pid=os.getpid(),
            process_start=process_start(os.getpid()),
            started_at=self._started_at.isoformat(),
            data_dir=str(self._data_dir),
            addresses=self._addresses,
            services={
                status.name: ServiceRecord(
                    state=status.state.value,
                    address=status.address,
                    pid=status.pid,
                    process_start=process_start(status.pid) if status.pid else None,
                    restarts=status.restarts,
                )
                for status in statuses
            },
        )
        if info.services != self._written:
            write_stack(info)
            self._written = info.services

    async def _keep_house(self) -> None:
        """Measure, bound the logs, and recycle who has grown too large."""
        meter = UsageMeter()
        while True:
            await asyncio.sleep(self._interval_seconds)
            groups = {runner.pid: runner for runner in self._runners.values() if runner.pid}
            usage = meter.sample(group for group in groups if group)
            for group, runner in groups.items():
                runner.usage = usage.get(group or 0, runner.usage)
                runner.log.bound()
                await self._recycle(runner)

    async def _recycle(self, runner: ServiceRunner) -> None:
        limit, gate = runner.spec.recycle_above_rss_bytes, runner.spec.recycle_when
        if limit is None or gate is None or not runner.ready.is_set():
            return
        if runner.usage.rss_bytes <= limit:
            return
        try:
            harmless = await gate()
        except Exception:  # noqa: BLE001 - not known to be harmless
            harmless = False
        # A machine out of memory harms more than a restart does, whatever is in flight.
        if harmless or runner.usage.rss_bytes > _FORCED_RECYCLE_FACTOR * limit:
            megabytes = runner.usage.rss_bytes >> 20
            runner.ask_restart(f"recycled at {megabytes} MiB (limit {limit >> 20} MiB)")

    async def _shut_down(self) -> None:
        try:
            for level in reversed(self._levels):
                await asyncio.gather(*(self._runners[name].stop() for name in level))
                for name in level:
                    self._runners[name].stopped()
                if self._on_status is not None:
                    with contextlib.suppress(Exception):
                        self._on_status(self.snapshot())
        finally:
            self.kill_now()
            self._watchdog.close()
            remove_stack(self._data_dir)
