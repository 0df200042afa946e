"""How far each stage is behind: messages on its topics that it has not committed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    GroupLoadInProgressError,
    KafkaError,
)
from aiokafka.structs import OffsetAndMetadata

from schemas import TOPICS
from streams.runtime.offsets import end_offsets
from streams.runtime.retry import ServiceFaultError

_COORDINATOR_ATTEMPTS = 50
_COORDINATOR_WAIT_SECONDS = 0.2


def lag_of(
    ends: Mapping[tuple[str, int], int], committed: Mapping[tuple[str, int], int]
) -> dict[str, int]:
    """Sum up by topic how many messages lie between commit and end.

    Parameters
    ----------
    ends : mapping of (topic, partition) to int
        Next offset that the broker will give.
    committed : mapping of (topic, partition) to int
        Next offset that the group will read; a partition without one starts at 0.
    """
    lags: dict[str, int] = {}
    for (topic, partition), end in ends.items():
        behind = end - max(committed.get((topic, partition), 0), 0)
        lags[topic] = lags.get(topic, 0) + max(behind, 0)
    return lags


async def consumer_lag(
    bootstrap_servers: str, groups: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, int]]:
    """Ask the brokers how far consumer groups are behind.

    Parameters
    ----------
    bootstrap_servers : str
        Brokers.
    groups : mapping of str to sequence of str
        Consumer group to the topics that it reads.

    Returns
    -------
    dict
        Consumer group to topic to number of messages.

    Raises
    ------
    ServiceFaultError
        If the brokers cannot be reached.
    """
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap_servers, request_timeout_ms=10_000)
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers, request_timeout_ms=10_000)
    try:
        await consumer.start()
        await admin.start()
        result = {}
        # Commits first: what arrives meanwhile is then counted, never overlooked.
        committed = {
            group: await _committed(admin, group, _partitions(topics))
            for group, topics in groups.items()
        }
        every = {name for topics in groups.values() for name in topics}
        ends = await end_offsets(consumer, _partitions(sorted(every)))
        for group, offsets in committed.items():
            result[group] = lag_of(
                {(tp.topic, tp.partition): ends[tp] for tp in _partitions(groups[group])},
                {(tp.topic, tp.partition): meta.offset for tp, meta in offsets.items()},
            )
    except (KafkaError, OSError) as error:
        raise ServiceFaultError("kafka", f"{bootstrap_servers}: {error!r}") from error
    else:
        return result
    finally:
        await consumer.stop()
        await admin.close()


async def _committed(
    admin: AIOKafkaAdminClient, group: str, partitions: Sequence[TopicPartition]
) -> dict[TopicPartition, OffsetAndMetadata]:
    for _ in range(_COORDINATOR_ATTEMPTS):
        # A new Apache Kafka makes its topic of offsets when it is first asked for one.
        with contextlib.suppress(GroupCoordinatorNotAvailableError, GroupLoadInProgressError):
            return dict(await admin.list_consumer_group_offsets(group, partitions=partitions))
        await asyncio.sleep(_COORDINATOR_WAIT_SECONDS)
    return dict(await admin.list_consumer_group_offsets(group, partitions=partitions))


def _partitions(topics: Sequence[str]) -> list[TopicPartition]:
    return [
        TopicPartition(name, index) for name in topics for index in range(TOPICS[name].partitions)
    ]
