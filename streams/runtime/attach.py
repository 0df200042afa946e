"""Joins a stage to a Faust app: one agent, batches, offsets committed only when work is durable.

Faust 0.15.3 acknowledges a batch when its agent raises or is cancelled. Each message is therefore
held by a reference of our own, which is given back only after the batch has come to its end; a
cancelled batch keeps its references, its offsets stay uncommitted, and the messages come again.
What waits behind a batch must not be acknowledged either when the batch is cancelled: the stream's
own acknowledging, which ``take_events`` restores when it ends, is switched off beforehand.
"""

from __future__ import annotations

from typing import Any

import faust

from streams.runtime.runner import Runner
from streams.runtime.stage import Incoming


def attach(
    app: faust.App, runner: Runner[Any], *, batch_max_events: int, batch_within_seconds: float
) -> None:
    """Add an agent that runs a stage.

    Parameters
    ----------
    app : faust.App
        App whose consumer group is the stage's own.
    runner : Runner
        Runs the stage.
    batch_max_events : int
        Most events taken at once.
    batch_within_seconds : float
        Longest wait for a batch to fill.
    """
    topic = app.topic(
        *runner.stage.topics,
        key_type=bytes,
        value_type=bytes,
        key_serializer="raw",
        value_serializer="raw",
    )

    async def consume(stream: Any) -> None:
        stream.enable_acks = False
        async for events in stream.take_events(batch_max_events, within=batch_within_seconds):
            for event in events:
                event.message.incref()
            await runner.run([_incoming(event.message) for event in events])
            for event in events:
                event.message.decref()

    app.agent(topic, name=runner.stage.name, concurrency=1)(consume)


def _incoming(message: Any) -> Incoming:
    headers = message.headers or {}
    return Incoming(
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        key=message.key or b"",
        value=message.value or b"",
        headers=dict(headers.items() if hasattr(headers, "items") else headers),
    )
