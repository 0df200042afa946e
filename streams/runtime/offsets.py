"""Where partitions end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaTimeoutError

_TIMEOUT_SECONDS = 20.0


async def end_offsets(
    consumer: AIOKafkaConsumer, partitions: Sequence[TopicPartition]
) -> dict[TopicPartition, int]:
    """Ask the brokers for the next offset of each partition, by reading its last batch.

    The embedded broker answers a plain question for the end with the first offset of the last
    batch plus one, however many messages that batch has. What it says when it is read from is
    right.

    Parameters
    ----------
    consumer : AIOKafkaConsumer
        A started consumer without a group; it stays assigned to the partitions that hold messages,
        at some place near their ends.
    partitions : sequence of TopicPartition
        Which.

    Raises
    ------
    KafkaError
        If the brokers do not answer.
    """
    ends: dict[TopicPartition, int] = dict(await consumer.end_offsets(partitions))
    begins = await consumer.beginning_offsets(partitions)
    filled = [tp for tp in partitions if begins[tp] < ends[tp]]
    consumer.assign(filled)
    for tp in filled:
        consumer.seek(tp, ends[tp] - 1)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _TIMEOUT_SECONDS
    while unknown := [tp for tp in filled if consumer.highwater(tp) is None]:
        if loop.time() > deadline:
            raise KafkaTimeoutError
        await consumer.getmany(*unknown, timeout_ms=500, max_records=1)
    return ends | {tp: int(consumer.highwater(tp)) for tp in filled}
