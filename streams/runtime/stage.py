"""What a stage is: topics in, a function from items to results, and nothing about Kafka.

A stage takes a batch, works on all of it, and gives one result for each item: ``Done`` with the
events that follow, or ``Rejected`` with a reason. A service that is away is a
``ServiceFaultError``; the runner then tries the whole batch again, so work must bear repetition.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from schemas import Event, decode_topic

ItemT = TypeVar("ItemT")


class UnknownStageError(ValueError):
    """A stage was asked for that does not exist; the message lists those that do."""


@dataclass(frozen=True)
class Incoming:
    """A message as it came.

    Parameters
    ----------
    topic, partition, offset : str, int, int
        Where it stands.
    key, value : bytes
        What it holds; empty where Kafka had none.
    headers : mapping of str to bytes
        Its headers.
    """

    topic: str
    partition: int
    offset: int
    key: bytes
    value: bytes
    headers: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Done:
    """The item is finished; these events follow from it."""

    events: tuple[Event, ...] = ()


@dataclass(frozen=True)
class Rejected:
    """The item cannot be used; it becomes a dead letter.

    Parameters
    ----------
    reason : str
        Short stable code.
    error : str
        What went wrong, without values from the file.
    """

    reason: str
    error: str


Result = Done | Rejected


@dataclass(frozen=True)
class Stage(Generic[ItemT]):
    """One step of a file's way.

    Parameters
    ----------
    name : str
        Names the consumer group, the metrics and the dead letters.
    topics : tuple of str
        Where its messages come from.
    decode : callable
        Message to item; raises ``schemas.DecodeError`` for one that is none.
    process : callable
        Items to results, one for each item, in the same order.
    """

    name: str
    topics: tuple[str, ...]
    decode: Callable[[Incoming], ItemT]
    process: Callable[[Sequence[ItemT]], Awaitable[Sequence[Result]]]


def decode_event(message: Incoming) -> Event:
    """Read a message of an event topic; the ``decode`` of most stages.

    Raises
    ------
    DecodeError
        If it is not an event of its topic.
    """
    return decode_topic(message.topic, message.value)
