"""Runs a stage over batches so that no exception leaves it and nothing is lost (DESIGN.md 4.4).

A fault in a message makes a dead letter of that message alone. A fault in a service is waited out
in place. An error that nobody foresaw is narrowed down to the message that causes it; when such
errors come in a row, the fault is ours, and the stage stops instead of emptying its topic.
"""

from __future__ import annotations

import asyncio
import random
import traceback
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Generic, TypeVar

import structlog

from schemas import CodecError, Event, FileEvent
from schemas.topics import is_dead_letter_topic
from streams.runtime.clock import Clock
from streams.runtime.dead_letters import DeadLetter, subject_of
from streams.runtime.emitter import Emitter, Outgoing
from streams.runtime.health import Health
from streams.runtime.metrics import Metrics
from streams.runtime.retry import Backoff, ServiceFaultError
from streams.runtime.stage import Done, Incoming, ItemT, Rejected, Result, Stage

_ResultT = TypeVar("_ResultT")
_log = structlog.get_logger(__name__)

INTERNAL_ERROR = "internal-error"


@dataclass(frozen=True)
class RunnerOptions:
    """How a runner waits and when it gives up.

    Parameters
    ----------
    backoff : Backoff
        Waits between attempts at a service.
    internal_error_limit : int
        Unforeseen errors in a row after which the stage stops.
    """

    backoff: Backoff = field(default_factory=Backoff)
    internal_error_limit: int = 100


class Runner(Generic[ItemT]):
    """Runs one stage.

    Parameters
    ----------
    stage : Stage
        What to run.
    emitter : Emitter
        Takes events and dead letters.
    metrics, health : Metrics, Health
        Where to tell how it goes.
    clock : Clock
        The present.
    options : RunnerOptions
        Waits and limits.
    sleep : callable
        Waits a number of seconds; tests pass their own.
    """

    def __init__(
        self,
        stage: Stage[ItemT],
        *,
        emitter: Emitter,
        metrics: Metrics,
        health: Health,
        clock: Clock,
        options: RunnerOptions | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.stage = stage
        self._emitter = emitter
        self._metrics = metrics
        self._health = health
        self._clock = clock
        self._options = options or RunnerOptions()
        self._sleep = sleep
        self._chance = random.Random()  # noqa: S311 (spreads retries, protects nothing)
        self._internal_errors = 0

    async def run(self, messages: Sequence[Incoming]) -> None:
        """Bring a batch to its end: every message done or a dead letter, and both durable.

        Raises nothing but ``asyncio.CancelledError``; when it returns, the offsets may be
        committed.
        """
        begun = self._clock()
        items: list[tuple[Incoming, ItemT]] = []
        dead: list[DeadLetter] = []
        for message in messages:
            try:
                items.append((message, self.stage.decode(message)))
            except CodecError as error:
                dead.append(self._dead_letter(message, None, Rejected(error.reason, error.detail)))
            except Exception as error:  # noqa: BLE001 (no exception leaves an agent)
                dead.append(self._dead_letter(message, None, await self._unforeseen(error)))
        results = await self._results(items)
        outgoing: list[Outgoing] = []
        for (message, item), result in zip(items, results, strict=True):
            if isinstance(result, Done):
                try:
                    outgoing.extend([Outgoing.of(event) for event in result.events])
                    continue
                except CodecError as error:
                    result = Rejected(error.reason, error.detail)  # noqa: PLW2901
                except Exception as error:  # noqa: BLE001 (no exception leaves an agent)
                    result = await self._unforeseen(error)  # noqa: PLW2901
            dead.append(self._dead_letter(message, item, result))
        # What cannot be used on a dead-letter topic stands in the log; it goes no further.
        letters = [letter for letter in dead if not is_dead_letter_topic(letter.source_topic)]
        await self._patiently(
            lambda: self._send([*outgoing, *(letter.message() for letter in letters)])
        )
        self._observe(begun, len(messages), [item for _, item in items], dead)

    async def _send(self, messages: Sequence[Outgoing]) -> None:
        try:
            await self._emitter.send(messages)
        except ServiceFaultError:
            raise
        except Exception as error:
            # Whatever a client library says, these messages are not sent.
            raise ServiceFaultError("kafka", f"unforeseen {type(error).__name__}") from error

    async def _results(self, items: Sequence[tuple[Incoming, ItemT]]) -> Sequence[Result]:
        if not items:
            return ()
        try:
            results = await self._patiently(lambda: self.stage.process([item for _, item in items]))
            _require_one_each(results, len(items))
        except Exception as error:  # noqa: BLE001 (no exception leaves an agent)
            if len(items) > 1:
                # One of them spoils the batch: each alone, so that its mates do not suffer.
                return [(await self._results([item]))[0] for item in items]
            return (await self._unforeseen(error),)
        self._internal_errors = 0
        return results

    async def _unforeseen(self, error: Exception) -> Rejected:
        frames = [
            f"{Path(frame.filename).name}:{frame.lineno} {frame.name}"
            for frame in traceback.extract_tb(error.__traceback__)
        ]
        # The type and the way to it are enough to find it; the message might quote the file.
        _log.error(
            "unforeseen error", stage=self.stage.name, error=type(error).__name__, frames=frames
        )
        await self._count_internal_error(error)
        place = frames[-1] if frames else "?"
        return Rejected(INTERNAL_ERROR, f"{type(error).__name__} at {place}")

    async def _count_internal_error(self, error: Exception) -> None:
        self._internal_errors += 1
        if self._internal_errors < self._options.internal_error_limit:
            return
        reason = (
            f"{self._internal_errors} internal errors in a row, the last a "
            f"{type(error).__name__}; this is a fault of the worker, not of the files: "
            "see its log, mend it, restart it"
        )
        self._health.fault(self.stage.name, reason, permanent=True)
        _log.error("stage stopped", stage=self.stage.name, reason=reason)
        # The batch stays uncommitted; only the end of the process leaves this wait.
        await asyncio.Event().wait()

    async def _patiently(self, attempt: Callable[[], Awaitable[_ResultT]]) -> _ResultT:
        waits = self._options.backoff.waits(self._chance)
        while True:
            try:
                result = await attempt()
            except ServiceFaultError as fault:
                seconds = self._health.fault(self.stage.name, str(fault))
                self._metrics.count(
                    "biodatamine_retries", stage=self.stage.name, service=fault.service
                )
                self._metrics.set("biodatamine_stalled_seconds", seconds, stage=self.stage.name)
                wait = next(waits)
                _log.warning(
                    "service away, trying again",
                    stage=self.stage.name,
                    service=fault.service,
                    error=fault.detail[:300],
                    stalled_seconds=round(seconds, 1),
                    wait_seconds=round(wait, 2),
                )
                await self._sleep(wait)
                continue
            if self._health.clear(self.stage.name):
                self._metrics.set("biodatamine_stalled_seconds", 0, stage=self.stage.name)
                _log.info("service back", stage=self.stage.name)
            return result

    def _dead_letter(self, message: Incoming, item: ItemT | None, rejected: Rejected) -> DeadLetter:
        _log.warning(
            "dead letter",
            stage=self.stage.name,
            reason=rejected.reason,
            error=rejected.error[:300],
            topic=message.topic,
            partition=message.partition,
            offset=message.offset,
        )
        return DeadLetter(
            value=message.value,
            key=message.key,
            stage=self.stage.name,
            reason=rejected.reason,
            error=rejected.error,
            source_topic=message.topic,
            source_partition=message.partition,
            source_offset=message.offset,
            failed_at=self._clock(),
            subject=subject_of(item if isinstance(item, Event) else None),
        )

    def _observe(
        self, begun: datetime, count: int, items: Sequence[ItemT], dead: Sequence[DeadLetter]
    ) -> None:
        name, now = self.stage.name, self._clock()
        self._metrics.observe("biodatamine_batch_events", count, stage=name)
        self._metrics.observe(
            "biodatamine_batch_seconds", (now - begun).total_seconds(), stage=name
        )
        self._metrics.count("biodatamine_events", count - len(dead), stage=name, outcome="done")
        for letter in dead:
            self._metrics.count("biodatamine_events", stage=name, outcome="dead-lettered")
            self._metrics.count("biodatamine_dead_letters", stage=name, reason=letter.reason)
        for item in items:
            if isinstance(item, FileEvent):
                self._metrics.observe(
                    "biodatamine_arrival_to_done_seconds",
                    max((now - item.received_at).total_seconds(), 0.0),
                    stage=name,
                )


def _require_one_each(results: Sequence[Result], count: int) -> None:
    if len(results) != count or not all(isinstance(r, Done | Rejected) for r in results):
        msg = f"a stage must give one result for each of its {count} items"
        raise TypeError(msg)


__all__ = ["INTERNAL_ERROR", "Runner", "RunnerOptions"]
