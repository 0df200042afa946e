"""The one table of topics: name, key, partitions, retention, value type (DESIGN.md section 5)."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from schemas import events
from schemas.base import Event

_DAY_SECONDS = 86_400
MAX_MESSAGE_BYTES = 64 * 1024
"""A message stays under 64 KB; a larger one is a fault of its maker."""

DEAD_LETTER_SUFFIX = "-dlq"


@dataclass(frozen=True)
class Topic:
    """One topic.

    Parameters
    ----------
    name : str
        Topic name; hyphens, no dots or underscores.
    key : str
        Field of the value that is the message key; it decides the partition.
    partitions : int
        Partition count; start-up stops where the broker's differs.
    retention_seconds : int
        How long the broker keeps messages.
    value_type : type of Event or None
        Class of the value; None for dead letters, which hold the original bytes.
    summary : str
        What a message tells.
    """

    name: str
    key: str
    partitions: int
    retention_seconds: int
    value_type: type[Event] | None
    summary: str

    @property
    def dead_letters(self) -> str:
        """Name of the topic that takes this topic's dead letters."""
        return self.name + DEAD_LETTER_SUFFIX


def _file_topic(value_type: type[Event], summary: str) -> Topic:
    return Topic(value_type.TOPIC, "image_id", 8, 7 * _DAY_SECONDS, value_type, summary)


EVENT_TOPICS: tuple[Topic, ...] = (
    Topic(
        "url-requests", "request_id", 4, 7 * _DAY_SECONDS, events.UrlRequest,
        "where to fetch from, for which tenant and dataset, credentials by reference",
    ),
    _file_topic(events.FileReceived, "a file is durable: BlobRef, source, dataset, AE titles"),
    _file_topic(events.FileSniffed, "format, header facts, header and path signals"),
    _file_topic(events.FileAnalyzed, "image signals, modality, predictions, embedding, quality"),
    Topic(
        "series-completed", "series_uid", 4, 30 * _DAY_SECONDS, events.SeriesCompleted,
        "version, reason, instance count, set hash",
    ),
    Topic(
        "clusters-updated", "scope", 4, 30 * _DAY_SECONDS, events.ClustersUpdated,
        "cluster summaries with stable ids",
    ),
    Topic(
        "drift-alerts", "scope", 4, 90 * _DAY_SECONDS, events.DriftAlert,
        "what moved, by how much, since when, which features",
    ),
    Topic(
        "feedback", "file_id", 4, 90 * _DAY_SECONDS, events.Feedback,
        "a person's correction",
    ),
)  # fmt: skip

DEAD_LETTER_TOPICS: tuple[Topic, ...] = tuple(
    Topic(
        topic.dead_letters, topic.key, 1, 90 * _DAY_SECONDS, None,
        f"original bytes of {topic.name} that could not be used, with the reason in headers",
    )
    for topic in EVENT_TOPICS
)  # fmt: skip

TOPICS: dict[str, Topic] = {topic.name: topic for topic in EVENT_TOPICS + DEAD_LETTER_TOPICS}


def topic_of(event: Event | type[Event]) -> Topic:
    """Return the topic on which an event travels."""
    return TOPICS[event.TOPIC]


def key_of(event: Event) -> bytes:
    """Return the message key of an event, UTF-8."""
    return str(getattr(event, topic_of(event).key)).encode()


def partition_of(key: bytes, all_partitions: Sequence[int], available: Sequence[int]) -> int:
    """Choose the partition of a key: CRC-32 modulo the count, as librdkafka does by default.

    Every producer of ours uses it, since one key must always go to one partition. Kafka's own
    murmur2 would do as well, but in Python it costs a quarter of a millisecond for an image id.

    Parameters
    ----------
    key : bytes
        Message key.
    all_partitions, available : sequence of int
        Partitions of the topic, and those with a leader now; a key waits for its own.
    """
    del available
    return all_partitions[zlib.crc32(key) % len(all_partitions)]


def is_dead_letter_topic(name: str) -> bool:
    """Whether a topic takes dead letters."""
    return name.endswith(DEAD_LETTER_SUFFIX)
