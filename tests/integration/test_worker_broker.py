"""Topics, sending, reading and lag on real brokers."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timezone

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from deploy.embedded.ports import free_port
from schemas import TOPICS, Topic
from streams.runtime import lag, replay, topics
from streams.runtime.dead_letters import CUT, DeadLetter, read_headers
from streams.runtime.emitter import Emitter, Outgoing
from streams.runtime.lag import consumer_lag
from streams.runtime.replay import read_topics, send_again
from streams.runtime.retry import ServiceFaultError
from streams.runtime.stage import Incoming
from streams.runtime.topics import TopicMismatchError, ensure_topics
from tests.support.servers import Server

pytestmark = pytest.mark.integration

NOW = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
_numbers = itertools.count()


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> dict[str, Topic]:
    """A topic table of the test's own: an event topic and its dead letters."""
    prefix = f"trial-{os.getpid()}-{next(_numbers)}"
    events, dead = TOPICS["feedback"], TOPICS["feedback-dlq"]
    made = {
        f"{prefix}-events": replace(events, name=f"{prefix}-events", partitions=4),
        f"{prefix}-events-dlq": replace(dead, name=f"{prefix}-events-dlq"),
    }
    for module in (topics, lag, replay):
        monkeypatch.setattr(module, "TOPICS", made)
    return made


@pytest.fixture
async def emitter(bare_broker: Server, is_kafka: bool) -> AsyncIterator[Emitter]:
    made = Emitter(bare_broker.address, idempotent=is_kafka)
    yield made
    await made.stop()


async def read_all(broker: Server, *names: str) -> list[Incoming]:
    return [message async for message in read_topics(broker.address, names)]


async def test_topics_are_made_once(bare_broker: Server, table: dict[str, Topic]) -> None:
    missing = await ensure_topics(bare_broker.address, create=False)
    assert [topic.name for topic in missing] == list(table)
    assert await ensure_topics(bare_broker.address) == missing
    assert await ensure_topics(bare_broker.address) == []
    assert await ensure_topics(bare_broker.address, create=False) == []


async def test_the_real_table_can_be_made(broker: Server) -> None:
    assert await ensure_topics(broker.address) == []


async def test_another_partition_count_stops_with_what_to_do(
    bare_broker: Server, table: dict[str, Topic]
) -> None:
    name = next(iter(table))
    admin = AIOKafkaAdminClient(bootstrap_servers=bare_broker.address)
    await admin.start()
    await admin.create_topics([NewTopic(name, 3, 1)])
    while name not in await admin.list_topics():
        await asyncio.sleep(0.05)
    await admin.close()
    with pytest.raises(TopicMismatchError) as caught:
        await ensure_topics(bare_broker.address)
    assert f"{name} has 3 partitions, the table says 4" in str(caught.value)
    assert "recreate the topics" in str(caught.value)
    # Nothing was made beside it.
    table.pop(name)
    assert len(await ensure_topics(bare_broker.address, create=False)) == 1


async def test_topics_that_another_process_makes_meanwhile_are_looked_at_too(
    bare_broker: Server, table: dict[str, Topic], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = next(iter(table))
    create = AIOKafkaAdminClient.create_topics

    async def be_second(admin: AIOKafkaAdminClient, wanted: list[NewTopic]) -> object:
        await create(admin, [NewTopic(name, 2, 1)])
        return await create(admin, wanted)

    monkeypatch.setattr(AIOKafkaAdminClient, "create_topics", be_second)
    with pytest.raises(TopicMismatchError, match=f"{name} has 2 partitions"):
        await ensure_topics(bare_broker.address)


async def test_brokers_that_are_away_are_a_service_fault() -> None:
    address = f"127.0.0.1:{free_port()}"
    emitter = Emitter(address)
    with pytest.raises(ServiceFaultError, match="kafka"):
        await emitter.send([Outgoing("feedback", b"k", b"v")])
    await emitter.stop()
    with pytest.raises(ServiceFaultError, match=address):
        await ensure_topics(address)
    with pytest.raises(ServiceFaultError, match=address):
        await consumer_lag(address, {"group": ["feedback"]})
    with pytest.raises(ServiceFaultError, match=address):
        [message async for message in read_topics(address, ["feedback"])]


async def test_what_is_sent_is_read_whole_in_order_of_its_key(
    bare_broker: Server, table: dict[str, Topic], emitter: Emitter
) -> None:
    name = next(iter(table))
    await ensure_topics(bare_broker.address)
    assert await read_all(bare_broker, name) == []
    sent = [
        Outgoing(name, b"key %d" % (number % 10), b"%d" % number, (("trace-id", b"t"),))
        for number in range(500)
    ]
    await emitter.send([])
    # Batches of many messages and of one: the ends of partitions lie within a batch or behind it.
    for start, stop in ((0, 300), (300, 499), (499, 500)):
        await emitter.send(sent[start:stop])
        found = await read_all(bare_broker, *table)
        assert sorted(int(message.value) for message in found) == list(range(stop))
    for key in {message.key for message in sent}:
        numbers = [int(message.value) for message in found if message.key == key]
        assert numbers == sorted(numbers)
    assert all(message.headers == {"trace-id": b"t"} for message in found)


async def test_what_comes_while_reading_is_left(
    bare_broker: Server, table: dict[str, Topic], emitter: Emitter
) -> None:
    name = next(iter(table))
    await ensure_topics(bare_broker.address)
    await emitter.send([Outgoing(name, b"k", b"%d" % number) for number in range(5)])
    found = []
    async for message in read_topics(bare_broker.address, [name]):
        found.append(message.value)
        await emitter.send([Outgoing(name, b"k", b"late")])
    assert found == [b"0", b"1", b"2", b"3", b"4"]


async def test_lag_is_what_a_group_has_not_committed(
    bare_broker: Server, table: dict[str, Topic], emitter: Emitter
) -> None:
    name = next(iter(table))
    group = f"{name}-group"
    await ensure_topics(bare_broker.address)
    assert await consumer_lag(bare_broker.address, {group: [name]}) == {group: {name: 0}}
    await emitter.send([Outgoing(name, b"%d" % number, b"v") for number in range(100)])
    assert await consumer_lag(bare_broker.address, {group: [name]}) == {group: {name: 100}}
    consumer = AIOKafkaConsumer(
        name,
        bootstrap_servers=bare_broker.address,
        group_id=group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    await consumer.start()
    try:
        read = 0
        while read < 100:
            batches = await consumer.getmany(timeout_ms=500)
            read += sum(len(records) for records in batches.values())
        await consumer.commit()
    finally:
        await consumer.stop()
    await emitter.send([Outgoing(name, b"more", b"v")] * 3)
    other = f"{group}-other"
    assert await consumer_lag(bare_broker.address, {group: [name], other: list(table)}) == {
        group: {name: 3},
        other: {name: 103, f"{name}-dlq": 0},
    }


async def test_a_dead_letter_comes_back_as_it_was_and_once(
    bare_broker: Server, table: dict[str, Topic], emitter: Emitter
) -> None:
    name, dead = table
    await ensure_topics(bare_broker.address)
    letters = [
        DeadLetter(
            value=value,
            key=b"original key",
            stage="sniff",
            reason="not-json",
            error="é",
            source_topic=topic,
            source_partition=1,
            source_offset=2,
            failed_at=NOW,
        ).message()
        for topic, value in (
            (name, b"\xff original"),
            (name, b"x" * 3_000_000),
            ("no-topic-of-ours", b"stray"),
        )
    ]
    await emitter.send([replace(letter, topic=dead) for letter in letters])
    found = await read_all(bare_broker, dead)
    assert len(found) == 3
    assert read_headers(found[0].headers)["error"] == "é"
    (cut,) = [message for message in found if CUT in message.headers]
    assert read_headers(cut.headers)[CUT] == "3000000"
    assert await send_again(emitter, found) == 1
    (again,) = await read_all(bare_broker, name)
    assert (again.key, again.value) == (b"original key", b"\xff original")


async def test_a_sender_works_again_when_its_broker_is_back(
    bare_broker: Server, table: dict[str, Topic], emitter: Emitter, is_kafka: bool
) -> None:
    if is_kafka:
        pytest.skip("the session's Apache Kafka stays up")
    name = next(iter(table))
    await ensure_topics(bare_broker.address)
    await emitter.send([Outgoing(name, b"k", b"before")])
    bare_broker.kill()
    with pytest.raises(ServiceFaultError):
        await emitter.send([Outgoing(name, b"k", b"while away")])
    bare_broker.start()
    await ensure_topics(bare_broker.address)
    await emitter.send([Outgoing(name, b"k", b"after")])
    assert [message.value for message in await read_all(bare_broker, name)] == [b"after"]
