"""Reading a topic from its beginning to its present end, and sending dead letters again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from schemas import TOPICS
from streams.runtime.dead_letters import CUT, read_headers
from streams.runtime.emitter import Emitter, Outgoing
from streams.runtime.offsets import end_offsets
from streams.runtime.retry import ServiceFaultError
from streams.runtime.stage import Incoming


async def read_topics(bootstrap_servers: str, topics: Sequence[str]) -> AsyncIterator[Incoming]:
    """Yield every message that stands on the topics now; what comes later is left.

    Parameters
    ----------
    bootstrap_servers : str
        Brokers.
    topics : sequence of str
        Names of the topics.

    Raises
    ------
    ServiceFaultError
        If the brokers cannot be reached.
    """
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap_servers, enable_auto_commit=False, auto_offset_reset="earliest"
    )
    try:
        await consumer.start()
        partitions = [
            TopicPartition(name, index)
            for name in topics
            for index in range(TOPICS[name].partitions)
        ]
        ends = await end_offsets(consumer, partitions)
        begins = await consumer.beginning_offsets(partitions)
        todo = {tp for tp in partitions if begins[tp] < ends[tp]}
        for partition in todo:
            consumer.seek(partition, begins[partition])
        while todo:
            for partition, records in (await consumer.getmany(*todo, timeout_ms=1000)).items():
                for record in records:
                    if record.offset < ends[partition]:
                        yield Incoming(
                            topic=record.topic,
                            partition=record.partition,
                            offset=record.offset,
                            key=record.key or b"",
                            value=record.value or b"",
                            headers=dict(record.headers),
                        )
            for partition in list(todo):
                if await consumer.position(partition) >= ends[partition]:
                    todo.discard(partition)
    except (KafkaError, OSError) as error:
        raise ServiceFaultError("kafka", f"{bootstrap_servers}: {error!r}") from error
    finally:
        await consumer.stop()


async def send_again(emitter: Emitter, letters: Sequence[Incoming]) -> int:
    """Send the original bytes of dead letters to the topics that they came from.

    Returns
    -------
    int
        How many were sent. Those whose original was too large to keep whole are left.
    """
    messages = []
    for letter in letters:
        headers = read_headers(letter.headers)
        topic = headers.get("source-topic", "")
        if CUT not in headers and topic in TOPICS and TOPICS[topic].value_type is not None:
            messages.append(Outgoing(topic, letter.key, letter.value))
    await emitter.send(messages)
    return len(messages)
