"""Makes the topics of schemas.topics, and refuses brokers whose topics differ from them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from schemas import TOPICS, Topic
from streams.runtime.retry import ServiceFaultError

_VISIBLE_ATTEMPTS = 100
_VISIBLE_WAIT_SECONDS = 0.1


class TopicMismatchError(RuntimeError):
    """Topics are missing, or have other partition counts than the table; says what to do."""


def missing_and_wrong(
    table: Mapping[str, Topic], partitions: Mapping[str, int]
) -> tuple[list[Topic], list[str]]:
    """Compare the table with a broker.

    Parameters
    ----------
    table : mapping of str to Topic
        What should be.
    partitions : mapping of str to int
        Partition counts of the topics that the broker has.

    Returns
    -------
    list of Topic
        Those that the broker lacks.
    list of str
        What is wrong with those that it has, in words.
    """
    missing = [topic for name, topic in table.items() if name not in partitions]
    wrong = [
        f"{name} has {partitions[name]} partitions, the table says {topic.partitions}"
        for name, topic in table.items()
        if name in partitions and partitions[name] != topic.partitions
    ]
    return missing, wrong


async def ensure_topics(
    bootstrap_servers: str, *, replication_factor: int = 1, create: bool = True
) -> list[Topic]:
    """Make the topics that a broker lacks.

    Parameters
    ----------
    bootstrap_servers : str
        Brokers.
    replication_factor : int
        Copies of each partition.
    create : bool
        Whether to make them, or only to look.

    Returns
    -------
    list of Topic
        Those that were lacking.

    Raises
    ------
    TopicMismatchError
        If a topic that is there has another partition count.
    ServiceFaultError
        If the brokers cannot be reached.
    """
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers, request_timeout_ms=15_000)
    try:
        await admin.start()
        missing = _missing(await _partition_counts(admin))
        if missing and create:
            response = await admin.create_topics(
                [
                    NewTopic(
                        topic.name,
                        topic.partitions,
                        replication_factor,
                        topic_configs={
                            "retention.ms": str(topic.retention_seconds * 1000),
                            "cleanup.policy": "delete",
                        },
                    )
                    for topic in missing
                ]
            )
            for name, code, *_ in response.topic_errors:
                error = for_code(code)
                if code and error is not TopicAlreadyExistsError:
                    raise ServiceFaultError("kafka", f"cannot make topic {name}: {error.__name__}")
            # Brokers tell each other of new topics after they have answered; and what another
            # process made meanwhile has to be right as well.
            for _ in range(_VISIBLE_ATTEMPTS):
                if not _missing(await _partition_counts(admin)):
                    break
                await asyncio.sleep(_VISIBLE_WAIT_SECONDS)
            else:
                names = ", ".join(topic.name for topic in missing)
                raise ServiceFaultError("kafka", f"topics were made but do not appear: {names}")
    except (KafkaError, OSError) as error:
        msg = f"{bootstrap_servers}: {type(error).__name__}: {error}"
        raise ServiceFaultError("kafka", msg) from error
    else:
        return missing
    finally:
        await admin.close()


async def _partition_counts(admin: AIOKafkaAdminClient) -> dict[str, int]:
    # Brokers answer for unknown topics with an error entry, and some make them: so list first.
    names = [name for name in await admin.list_topics() if name in TOPICS]
    described = await admin.describe_topics(names) if names else []
    return {entry["topic"]: len(entry["partitions"]) for entry in described}


def _missing(partitions: Mapping[str, int]) -> list[Topic]:
    missing, wrong = missing_and_wrong(TOPICS, partitions)
    if wrong:
        msg = (
            f"{'; '.join(wrong)}. A key would change its partition: make a new cluster, or "
            "recreate the topics with `kafka-topics.sh` after draining them."
        )
        raise TopicMismatchError(msg)
    return missing
