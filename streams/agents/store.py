"""Keeps what the other stages found: events and dead letters to ClickHouse rows."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from schemas import Event, FileAnalyzed, FileReceived, FileSniffed, UrlRequest
from schemas.topics import DEAD_LETTER_TOPICS
from streams.runtime.clock import Clock
from streams.runtime.dead_letters import read_headers
from streams.runtime.metrics import Metrics
from streams.runtime.retry import ServiceFaultError
from streams.runtime.stage import Done, Incoming, Rejected, Result, Stage, decode_event
from streams.storage.clickhouse import BadRowsError, ClickHouse, StorageUnavailableError
from streams.storage.rows import Rows, dead_letter_row, rows_of
from streams.storage.writer import write

STORE, DEAD_LETTERS = "store", "dead-letters"
STORED_TOPICS = (UrlRequest.TOPIC, FileReceived.TOPIC, FileSniffed.TOPIC, FileAnalyzed.TOPIC)
STORED_DEAD_LETTERS = tuple(topic.name for topic in DEAD_LETTER_TOPICS)


def store_stage(database: ClickHouse, metrics: Metrics) -> Stage[Event]:
    """Store every file event, and every request as queued.

    Parameters
    ----------
    database : ClickHouse
        Where the rows go.
    metrics : Metrics
        Where they are counted.
    """

    async def process(events: Sequence[Event]) -> Sequence[Result]:
        try:
            await _write(database, [rows_of(event) for event in events], metrics, STORE)
        except BadRowsError as error:
            if len(events) > 1:
                raise  # the runner then gives each event alone
            return [Rejected("refused-by-database", str(error))]
        return [Done()] * len(events)

    return Stage(STORE, STORED_TOPICS, decode_event, process)


@dataclass(frozen=True)
class Letter:
    """A dead letter as it stands on its topic."""

    headers: dict[str, str]
    value: bytes


def dead_letter_stage(database: ClickHouse, metrics: Metrics, clock: Clock) -> Stage[Letter]:
    """Store every dead letter, of whatever topic."""

    def decode(message: Incoming) -> Letter:
        return Letter(read_headers(message.headers), message.value)

    async def process(letters: Sequence[Letter]) -> Sequence[Result]:
        rows: Rows = {
            "dead_letters": [
                dead_letter_row(letter.headers, letter.value, failed_at=_failed_at(letter, clock))
                for letter in letters
            ]
        }
        try:
            await _write(database, [rows], metrics, DEAD_LETTERS)
        except BadRowsError as error:
            if len(letters) > 1:
                raise  # as above
            return [Rejected("refused-by-database", str(error))]
        return [Done()] * len(letters)

    return Stage(DEAD_LETTERS, STORED_DEAD_LETTERS, decode, process)


def _failed_at(letter: Letter, clock: Clock) -> datetime:
    try:
        failed_at = datetime.fromisoformat(letter.headers["failed-at"])
    except (KeyError, ValueError):
        return clock()
    return failed_at if failed_at.tzinfo is not None else clock()


async def _write(
    database: ClickHouse, batches: Sequence[Rows], metrics: Metrics, stage: str
) -> None:
    try:
        count = await asyncio.to_thread(write, database, batches)
    except StorageUnavailableError as error:
        raise ServiceFaultError("clickhouse", str(error)) from error
    metrics.count("biodatamine_rows_written", count, stage=stage)
