"""A dead letter: the original bytes, and in the headers why and where from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from schemas import Event, FileEvent, UrlRequest
from schemas.identity import file_id
from schemas.topics import DEAD_LETTER_SUFFIX
from streams.runtime.emitter import Outgoing

_MAX_ERROR_CHARACTERS = 1000
# Brokers take messages of 1 MiB unless told otherwise, headers included. A message that came
# compressed may be larger; a dead letter that no broker takes would hold up its stage for ever.
_MAX_VALUE_BYTES = 900_000
_MAX_KEY_BYTES = 16_384
CUT = "cut-from-bytes"
"""Header of a dead letter whose original was too large to keep whole: its length."""


@dataclass(frozen=True)
class DeadLetter:
    """A message that could not be used.

    Parameters
    ----------
    value, key : bytes
        The original message.
    stage : str
        Which stage gave up on it.
    reason : str
        Short stable code.
    error : str
        What went wrong, without values from the file.
    source_topic, source_partition, source_offset : str, int, int
        Where the message stands.
    failed_at : datetime
        When the stage gave up.
    subject : dict
        Names of the file, if the message could be decoded.
    """

    value: bytes
    key: bytes
    stage: str
    reason: str
    error: str
    source_topic: str
    source_partition: int
    source_offset: int
    failed_at: datetime
    subject: Mapping[str, str] = field(default_factory=dict)

    @property
    def topic(self) -> str:
        """Topic that takes it."""
        return self.source_topic + DEAD_LETTER_SUFFIX

    def message(self) -> Outgoing:
        """Make the message: the original bytes, and in the headers, UTF-8, why and where from."""
        texts = {
            "stage": self.stage,
            "reason": self.reason,
            "error": self.error[:_MAX_ERROR_CHARACTERS],
            "source-topic": self.source_topic,
            "source-partition": str(self.source_partition),
            "source-offset": str(self.source_offset),
            "failed-at": self.failed_at.isoformat(),
            **self.subject,
        }
        if len(self.value) > _MAX_VALUE_BYTES or len(self.key) > _MAX_KEY_BYTES:
            texts[CUT] = str(len(self.value))
        # A path in an error may be no Unicode text.
        headers = tuple(
            (name, text.encode("utf-8", "backslashreplace")) for name, text in texts.items()
        )
        key, value = self.key[:_MAX_KEY_BYTES], self.value[:_MAX_VALUE_BYTES]
        return Outgoing(self.topic, key, value, headers)


def subject_of(event: Event | None) -> dict[str, str]:
    """Names by which a dead letter can be found again: those of the file and its trace."""
    if event is None:
        return {}
    names = {"tenant": event.tenant, "trace-id": event.trace_id, "event-id": event.event_id}
    if isinstance(event, FileEvent):
        names |= {
            "dataset-id": event.dataset_id,
            "file-id": event.file_id,
            "image-id": event.image_id,
        }
    elif isinstance(event, UrlRequest):
        # What was not fetched has no image; it is known by the place that it would have taken.
        names["dataset-id"] = event.dataset_id
        if event.relpath is not None:
            names["file-id"] = file_id(event.tenant, event.dataset_id, event.relpath)
    return names


def read_headers(
    headers: Iterable[tuple[str, bytes]] | Mapping[str, bytes] | None,
) -> dict[str, str]:
    """Read the headers of a dead letter; what is not UTF-8 is replaced."""
    items = headers.items() if isinstance(headers, Mapping) else headers or ()
    return {name: (value or b"").decode("utf-8", "replace") for name, value in items}
