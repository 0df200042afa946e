"""What every event carries, and the value types that events share."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Annotated, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256, lower-case hex")]
Identifier = Annotated[
    str,
    Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@-]*$"),
]
RelPath = Annotated[str, Field(min_length=1, max_length=1024)]


def _require_utc(value: datetime) -> datetime:
    if value.tzinfo is None:
        msg = "must carry a time zone; BioDataMine keeps UTC only"
        raise ValueError(msg)
    try:
        return value.astimezone(timezone.utc)
    except OverflowError:
        msg = "must lie between the years 1 and 9999 in UTC"
        raise ValueError(msg) from None


UtcDatetime = Annotated[datetime, AfterValidator(_require_utc)]


class Value(BaseModel):
    """A frozen value inside an event.

    Unknown fields are ignored on reading, so that a reader survives a writer that is one schema
    ahead of it; a schema only gains optional fields. Validation errors do not show the refused
    values: they may hold what must stay in the blob.
    """

    model_config = ConfigDict(
        frozen=True, extra="ignore", allow_inf_nan=False, hide_input_in_errors=True
    )


class BlobRef(Value):
    """Where the bytes of a file are: bytes never travel in Kafka.

    Parameters
    ----------
    uri : str
        fsspec URL of the blob.
    sha256 : str
        Digest of the bytes; it is the blob's name and the file's ``image_id``.
    size_bytes : int
        Length of the bytes.
    media_type : str
        IANA media type as far as it is known at arrival.
    transfer_syntax : str or None
        DICOM transfer syntax UID of the stored file (PS3.5 section 10), if it is DICOM.
    """

    uri: str = Field(min_length=1, max_length=2048)
    sha256: Sha256
    size_bytes: int = Field(ge=0)
    media_type: str = Field(default="application/octet-stream", max_length=128)
    transfer_syntax: str | None = Field(default=None, max_length=64)


class Event(Value):
    """What every event on every topic carries.

    Parameters
    ----------
    event_id : str
        Made from the event's subject, never from a clock or a random source, so that a replay
        makes the same event again.
    schema_version : int
        Version of the event's schema; it grows when optional fields are added.
    occurred_at : datetime
        When that which the event tells happened (UTC).
    trace_id : str
        One id from the association or request to the row (32 hex digits, W3C Trace Context).
    tenant : str
        Whose data it is.
    """

    TOPIC: ClassVar[str] = ""
    SCHEMA_VERSION: ClassVar[int] = 1

    event_id: str = Field(min_length=1, max_length=64)
    schema_version: int = Field(default=1, ge=1)
    occurred_at: UtcDatetime
    trace_id: str = Field(pattern=r"^[0-9a-f]{32}$")
    tenant: Identifier = "default"
