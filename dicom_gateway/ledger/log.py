"""The log as the publisher sees it: one session with the brokers, by the Kafka protocol alone.

Topics are made by ``biodatamine topics``, never here. Brokers like to make a topic as soon as a
client names it, with a partition count of their own choosing; so this client only ever asks for the
metadata of all topics, and sends nothing before the topic is there with the right count.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, UnknownError, UnknownTopicOrPartitionError, for_code
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import TopicPartition

from dicom_gateway.ledger.outbox import Acknowledged, LogPosition, Record
from schemas import DecodeError, FileReceived, Topic, decode
from schemas.topics import partition_of

_log = structlog.get_logger("dicom_gateway")

REQUEST_TIMEOUT_SECONDS = 10.0
"""How long one request may take; also how long a batch is retried without idempotence."""

BATCH_TIMEOUT_SECONDS = 120.0
"""After this long without an acknowledgement the session is given up and a new one begun."""

_STOP_SECONDS = 5.0
_FETCH_BYTES = 1 << 20
# Spent where there is nothing to give; the embedded broker needs some of it even where there is.
_FETCH_WAIT_MS = 1000
_NO_ERROR = 0


class TopicMissingError(KafkaError):  # type: ignore[misc]
    """The topic is not there, or with another partition count; ``biodatamine topics`` makes it."""


@dataclasses.dataclass(frozen=True)
class SendOutcome:
    """What became of a batch.

    Parameters
    ----------
    acknowledged : sequence of Acknowledged
        In the order of the batch. Of the records with one key only those before the first failure:
        what came after it is sent again behind it.
    error : Exception or None
        The first failure.
    """

    acknowledged: Sequence[Acknowledged]
    error: BaseException | None


class LogSession:
    """A producer, and the questions that the publisher asks about the log.

    Parameters
    ----------
    producer : AIOKafkaProducer
        Started.
    topic : Topic
        Where events go.
    """

    def __init__(self, producer: Any, topic: Topic) -> None:
        self._producer = producer
        self._topic = topic

    @classmethod
    async def open(cls, bootstrap_servers: str, topic: Topic) -> LogSession:
        """Connect and wait for nothing: raises when the brokers are away.

        Raises
        ------
        KafkaError, OSError
            If no broker answers.
        """
        try:
            return cls(await _start(bootstrap_servers, idempotent=True), topic)
        except UnknownError:
            # The embedded broker answers InitProducerId with an unknown error. aiokafka keeps one
            # batch in flight for each partition and retries in order, so what is lost without
            # idempotence is only that a repeated event may stand in the log twice.
            _log.info("log-without-idempotence")
            return cls(await _start(bootstrap_servers, idempotent=False), topic)

    async def close(self) -> None:
        """Disconnect; what is not acknowledged by then stays pending."""
        # The producer's stop waits until everything is flushed, which may be never.
        with contextlib.suppress(KafkaError, asyncio.TimeoutError):
            await asyncio.wait_for(self._producer.stop(), _STOP_SECONDS)
            return
        with contextlib.suppress(KafkaError, asyncio.TimeoutError):
            await asyncio.wait_for(self._producer._sender.close(), _STOP_SECONDS)
        await self._producer.client.close()

    async def require_topic(self) -> None:
        """Look whether the topic is there.

        Raises
        ------
        TopicMissingError
            If not, or with another partition count than the table of topics says.
        """
        if not await self._producer.client.force_metadata_update():
            msg = "no broker answers"
            raise KafkaError(msg)
        self._require_known_topic()

    def _require_known_topic(self) -> None:
        partitions = self._producer.client.cluster.partitions_for_topic(self._topic.name)
        if not partitions:
            msg = f"topic {self._topic.name} is missing; run `biodatamine topics`"
            raise TopicMissingError(msg)
        if len(partitions) != self._topic.partitions:
            msg = (
                f"topic {self._topic.name} has {len(partitions)} partitions, not "
                f"{self._topic.partitions}; run `biodatamine topics`"
            )
            raise TopicMissingError(msg)

    async def send(self, records: Sequence[Record]) -> SendOutcome:
        """Send a batch in order and wait for its acknowledgements."""
        futures: list[asyncio.Future[Any]] = []
        error: BaseException | None = None
        try:
            for record in records:
                # Nothing runs between this look and the producer's own, so that it never finds
                # the topic unknown and has a broker make it.
                self._require_known_topic()
                futures.append(
                    await self._producer.send(self._topic.name, value=record.value, key=record.key)
                )
        except (KafkaError, OSError, asyncio.TimeoutError) as failure:
            error = failure
        if futures:
            await asyncio.wait(futures, timeout=BATCH_TIMEOUT_SECONDS)
        acknowledged: list[Acknowledged] = []
        failed_keys: set[bytes] = {record.key for record in records[len(futures) :]}
        for record, future in zip(records, futures, strict=False):
            if not future.done():
                error = error or KafkaError("the log does not acknowledge")
                failed_keys.add(record.key)
            elif future.exception() is not None:
                error = error or future.exception()
                failed_keys.add(record.key)
            elif record.key not in failed_keys:
                done = future.result()
                acknowledged.append(
                    Acknowledged(record.seq, record.event_id, done.partition, done.offset)
                )
        return SendOutcome(acknowledged, error)

    async def still_holds(self, positions: Mapping[int, LogPosition]) -> bool:
        """Whether the log still holds the last record that each partition acknowledged.

        The records themselves are fetched and compared by event id: an end offset alone says
        nothing once others have written to a log that began anew (and the embedded broker's
        ListOffsets counts batches, not records). A record that retention removed counts as held.

        Raises
        ------
        KafkaError, OSError
            If the log does not answer.
        """
        client = self._producer.client
        by_leader: dict[int, list[int]] = {}
        for partition in positions:
            leader = client.cluster.leader_for_partition(
                TopicPartition(self._topic.name, partition)
            )
            if leader is None or leader == -1:
                raise UnknownTopicOrPartitionError(f"partition {partition} has no leader")
            by_leader.setdefault(leader, []).append(partition)
        for leader, partitions in by_leader.items():
            for partition in partitions:
                if not await self._holds(leader, partition, positions[partition]):
                    return False
        return True

    async def _holds(self, leader: int, partition: int, position: LogPosition) -> bool:
        request = FetchRequest(
            max_wait_time=_FETCH_WAIT_MS,
            min_bytes=1,
            max_bytes=_FETCH_BYTES,
            isolation_level=0,
            topics=[(self._topic.name, [(partition, position.offset, _FETCH_BYTES)])],
        )
        response = (await self._producer.client.send(leader, request)).to_object()
        answers = [answer for topic in response["topics"] for answer in topic["partitions"]]
        if not answers:
            # The embedded broker says nothing about a partition that has nothing to give.
            return False
        answer = answers[0]
        error = for_code(answer["error_code"])
        if error.errno == _OFFSET_OUT_OF_RANGE:
            return bool(answer.get("log_start_offset", -1) > position.offset)
        if error.errno != _NO_ERROR:
            raise error(f"partition {partition} of {self._topic.name} cannot be read")
        if answer["highwater_offset"] <= position.offset:
            return False
        for offset, value in _records(answer["message_set"]):
            if offset == position.offset:
                return _event_id(value) == position.event_id
        return True


_OFFSET_OUT_OF_RANGE = 1


def _records(data: bytes | None) -> list[tuple[int, bytes | None]]:
    records = MemoryRecords(bytes(data or b""))
    found: list[tuple[int, bytes | None]] = []
    while records.has_next():
        batch = records.next_batch()
        found.extend((record.offset, record.value) for record in batch)
    return found


def _event_id(value: bytes | None) -> str | None:
    try:
        return decode(value, FileReceived).event_id
    except DecodeError:
        return None


async def _start(bootstrap_servers: str, *, idempotent: bool) -> Any:
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap_servers,
        client_id="biodatamine-gateway",
        acks="all",
        partitioner=partition_of,
        enable_idempotence=idempotent,
        request_timeout_ms=int(REQUEST_TIMEOUT_SECONDS * 1000),
        retry_backoff_ms=200,
        metadata_max_age_ms=30_000,
    )
    try:
        await producer.start()
    except BaseException:
        with contextlib.suppress(Exception):
            await producer.stop()
        raise
    return producer
