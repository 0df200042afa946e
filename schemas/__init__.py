"""The contract: events, topics, codec, identities.

Everything that crosses a process boundary in BioDataMine is described here and nowhere else.
This package imports nothing of ours.
"""

from schemas.base import BlobRef, Event
from schemas.codec import CodecError, DecodeError, EncodeError, decode, decode_topic, encode
from schemas.events import (
    ClustersUpdated,
    DriftAlert,
    Feedback,
    FileAnalyzed,
    FileEvent,
    FileReceived,
    FileSniffed,
    SeriesCompleted,
    UrlRequest,
)
from schemas.topics import EVENT_TOPICS, TOPICS, Topic, key_of, topic_of

__all__ = [
    "EVENT_TOPICS",
    "TOPICS",
    "BlobRef",
    "ClustersUpdated",
    "CodecError",
    "DecodeError",
    "DriftAlert",
    "EncodeError",
    "Event",
    "Feedback",
    "FileAnalyzed",
    "FileEvent",
    "FileReceived",
    "FileSniffed",
    "SeriesCompleted",
    "Topic",
    "UrlRequest",
    "decode",
    "decode_topic",
    "encode",
    "key_of",
    "topic_of",
]
