"""Drains the outbox to the log, in order, for as long as the process lives.

It runs in a thread of its own and shares nothing with C-STORE but the outbox: a log that is away,
slow or forgetful never delays or fails a sender. Every fault of the log ends the session, and a new
one begins after a pause; what was not acknowledged is still pending.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from typing import Literal, Protocol

import structlog
from aiokafka.errors import KafkaError

from dicom_gateway.ledger.log import LogSession, SendOutcome, TopicMissingError
from dicom_gateway.ledger.outbox import Outbox, OutboxError
from dicom_gateway.metrics import Metrics
from schemas import FileReceived, Topic, topic_of

_log = structlog.get_logger("dicom_gateway")

BATCH_RECORDS = 500
SETTLE_RECORDS = 1000
"""Records about which one question is asked."""

_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 5.0

State = Literal["connecting", "waiting-for-topic", "publishing", "away", "stopped"]


class SettlementCheck(Protocol):
    """Knows which files have arrived where they were going."""

    async def settled(self, keys: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
        """Return those (file_id, image_id) that have a final row or a dead letter.

        An error that this raises is logged, and the question asked again later.
        """


class Publisher:
    """Publishes the records of an outbox.

    Parameters
    ----------
    outbox : Outbox
        Where records come from, and where it is noted how far they got.
    bootstrap_servers : str
        Brokers, ``host:port`` separated by commas.
    log_is_durable : bool
        Whether an acknowledgement settles a record.
    settlement : SettlementCheck or None
        Asked about published records when the log is not durable. Without one they stay
        unsettled, and are published again whenever the log is lost.
    settle_interval_seconds : float
        Pause between two such questions.
    metrics : Metrics
        Counts.
    topic : Topic, optional
        Where events go.
    """

    def __init__(
        self,
        outbox: Outbox,
        *,
        bootstrap_servers: str,
        log_is_durable: bool,
        settlement: SettlementCheck | None,
        settle_interval_seconds: float,
        metrics: Metrics,
        topic: Topic | None = None,
    ) -> None:
        self._outbox = outbox
        self._bootstrap_servers = bootstrap_servers
        self._log_is_durable = log_is_durable
        self._settlement = settlement
        self._settle_interval_seconds = settle_interval_seconds
        self._metrics = metrics
        self._topic = topic or topic_of(FileReceived)
        self._state: State = "connecting"
        self._asked_up_to_seq = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()
        self._stopping = False
        self._drain_until = 0.0
        self._thread = threading.Thread(target=self._run_thread, name="publisher", daemon=True)

    @property
    def state(self) -> State:
        """What it is doing."""
        return self._state

    @property
    def is_running(self) -> bool:
        """Whether its thread lives."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def notify(self) -> None:
        """Say that there are new records; from any thread."""
        loop = self._loop
        if loop is not None and not loop.is_closed():
            try:
                loop.call_soon_threadsafe(self._wake.set)
            except RuntimeError:
                # The loop closed in between: there is nobody left to wake.
                return

    def stop(self, drain_seconds: float) -> None:
        """Publish what is pending for at most so long, unless the log is away; then end."""
        self._drain_until = time.monotonic() + drain_seconds
        self._stopping = True
        self.notify()
        self._thread.join()

    # ---- inside the thread

    def _run_thread(self) -> None:
        asyncio.run(self._run())
        self._state = "stopped"

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        if self._log_is_durable and self._outbox.counts().published:
            # They were published to a log that was not durable, and this is another one.
            await asyncio.wrap_future(self._outbox.log_lost())
        pause_seconds = _FIRST_PAUSE_SECONDS
        while not self._is_over():
            began = time.monotonic()
            try:
                session = await LogSession.open(self._bootstrap_servers, self._topic)
                try:
                    await self._work(session)
                finally:
                    await session.close()
            except TopicMissingError as error:
                self._note("waiting-for-topic", error)
            except (KafkaError, OSError, asyncio.TimeoutError) as error:
                self._note("away", error)
            except Exception as error:  # noqa: BLE001 (a fault of ours must not end publishing)
                _log.exception("publisher-fault")
                self._note("away", error)
            if self._stopping:
                # Either all is published or the log is away; what is left is pending, and durable.
                return
            if time.monotonic() - began > 2 * _LONGEST_PAUSE_SECONDS:
                pause_seconds = _FIRST_PAUSE_SECONDS
            await self._pause(pause_seconds)
            pause_seconds = min(2 * pause_seconds, _LONGEST_PAUSE_SECONDS)

    def _is_over(self) -> bool:
        if not self._stopping:
            return False
        return time.monotonic() >= self._drain_until or not self._outbox.counts().pending

    def _note(self, state: State, error: BaseException) -> None:
        self._metrics.publish_failures.labels(type(error).__name__).inc()
        if self._state != state:
            _log.warning(
                "log-away",
                state=state,
                error=f"{type(error).__name__}: {error}"[:300],
                pending=self._outbox.counts().pending,
                hint="C-STORE goes on; what arrives waits in the outbox",
            )
        self._state = state

    async def _pause(self, seconds: float) -> None:
        # New records do not end a pause: the log is away, and they can wait.
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0 and not self._stopping:
            await self._wait_for_news(left)

    async def _wait_for_news(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._wake.wait(), seconds)
        except asyncio.TimeoutError:
            return
        self._wake.clear()

    async def _work(self, session: LogSession) -> None:
        await session.require_topic()
        await self._verify_log(session)
        if self._state != "publishing":
            _log.info("log-reached", pending=self._outbox.counts().pending)
        self._state = "publishing"
        next_settle = time.monotonic() + self._settle_interval_seconds
        while not self._is_over():
            records = self._outbox.pending(BATCH_RECORDS)
            if records:
                await self._take(await session.send(records))
            if self._stopping and not self._outbox.counts().pending:
                return
            now = time.monotonic()
            waits_to_settle = not self._log_is_durable and self._outbox.counts().published > 0
            if waits_to_settle and now >= next_settle:
                await self._settle()
                await session.require_topic()
                await self._verify_log(session)
                next_settle = time.monotonic() + self._settle_interval_seconds
            elif not records:
                await self._wait_for_news(
                    max(0.01, next_settle - now)
                    if waits_to_settle
                    else self._settle_interval_seconds
                )

    async def _take(self, outcome: SendOutcome) -> None:
        acknowledged = outcome.acknowledged
        if acknowledged:
            if not self._log_is_durable:
                positions = self._outbox.positions()
                if any(
                    0 <= ack.offset <= positions[ack.partition].offset
                    for ack in acknowledged
                    if ack.partition in positions
                ):
                    await self._lose_log("an acknowledged offset came again")
            await asyncio.wrap_future(
                self._outbox.mark_published(acknowledged, settled=self._log_is_durable)
            )
            self._metrics.published.inc(len(acknowledged))
        if outcome.error is not None:
            raise outcome.error

    async def _verify_log(self, session: LogSession) -> None:
        if self._log_is_durable:
            return
        positions = self._outbox.positions()
        if positions and not await session.still_holds(positions):
            await self._lose_log("a published record is not there any more")

    async def _lose_log(self, why: str) -> None:
        again = await asyncio.wrap_future(self._outbox.log_lost())
        self._asked_up_to_seq = 0
        self._metrics.log_losses.inc()
        _log.warning("log-lost", why=why, published_again=again)

    async def _settle(self) -> None:
        if self._settlement is None:
            return
        asked = self._outbox.unsettled(SETTLE_RECORDS, after_seq=self._asked_up_to_seq)
        if not asked:
            # The end was reached: begin again with the oldest, so that one that never settles does
            # not keep the others from being asked about.
            asked = self._outbox.unsettled(SETTLE_RECORDS)
        if not asked:
            return
        self._asked_up_to_seq = asked[-1].seq
        try:
            settled = await self._settlement.settled([(one.file_id, one.image_id) for one in asked])
        except Exception as error:  # noqa: BLE001 (whatever the check is made of, it may be away)
            _log.warning("settlement-unknown", error=f"{type(error).__name__}: {error}"[:300])
            return
        seqs = [one.seq for one in asked if (one.file_id, one.image_id) in settled]
        if seqs:
            try:
                await asyncio.wrap_future(self._outbox.settle(seqs))
            except OutboxError as error:
                _log.warning("settlement-not-noted", error=str(error)[:300])
                return
            self._metrics.settled.inc(len(seqs))
