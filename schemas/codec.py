"""Bytes to event and back: JSON, UTF-8, absent fields left out."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Literal, TypeVar

from pydantic import ValidationError

from schemas.base import Event
from schemas.topics import MAX_MESSAGE_BYTES, TOPICS

EventT = TypeVar("EventT", bound=Event)
Reason = Literal["empty", "too-large", "not-json", "invalid", "no-event-topic"]


class CodecError(ValueError):
    """Bytes and event do not fit each other.

    Parameters
    ----------
    reason : str
        Short stable code; it becomes the dead letter's reason.
    detail : str
        Where and why, without the values themselves: they may hold what must stay in the blob.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class DecodeError(CodecError):
    """The bytes are not an event of the wanted type."""


class EncodeError(CodecError):
    """The event does not fit into a message."""


def encode(event: Event) -> bytes:
    """Write an event as JSON bytes.

    Raises
    ------
    EncodeError
        If the message would be larger than ``MAX_MESSAGE_BYTES``.
    """
    data = event.model_dump_json(exclude_none=True, exclude_defaults=False).encode()
    if len(data) >= MAX_MESSAGE_BYTES:
        raise EncodeError(
            "too-large",
            f"{type(event).__name__} takes {len(data)} bytes; the limit is {MAX_MESSAGE_BYTES}",
        )
    return data


def decode(data: bytes | None, value_type: type[EventT]) -> EventT:
    """Read an event of a known type.

    Parameters
    ----------
    data : bytes or None
        Message value.
    value_type : type of Event
        What it should be.

    Raises
    ------
    DecodeError
        If it is not; ``reason`` says which way.
    """
    if not data:
        raise DecodeError("empty", "the message has no value")
    if len(data) > 4 * MAX_MESSAGE_BYTES:
        raise DecodeError("too-large", f"{len(data)} bytes")
    try:
        return value_type.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)
        if first[0]["type"] == "json_invalid":
            raise DecodeError("not-json", f"not a {value_type.__name__} in JSON") from None
        faults = "; ".join(
            f"{_place(fault['loc'], value_type)}: {fault['type']}" for fault in first[:5]
        )
        raise DecodeError("invalid", f"{value_type.__name__}: {faults}"[:500]) from None


def decode_topic(topic: str, data: bytes | None) -> Event:
    """Read an event by the name of the topic that it came from.

    Raises
    ------
    DecodeError
        If the topic carries no events or the bytes are not one.
    """
    known = TOPICS.get(topic)
    if known is None or known.value_type is None:
        raise DecodeError("no-event-topic", f"{topic!r} is not an event topic")
    return decode(data, known.value_type)


def _place(location: tuple[int | str, ...], value_type: type[Event]) -> str:
    # The keys of a mapping are input as well: only names that the schema knows are told.
    known = _field_names(value_type)
    return ".".join(
        str(part) if isinstance(part, int) or part in known else "(key)" for part in location
    )


@lru_cache
def _field_names(value_type: type[Event]) -> frozenset[str]:
    return frozenset(_properties(value_type.model_json_schema()))


def _properties(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        properties = schema.get("properties")
        if isinstance(properties, dict):
            yield from properties
        for value in schema.values():
            yield from _properties(value)
