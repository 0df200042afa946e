"""What stages say when a blob cannot be read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from streams.runtime.retry import ServiceFaultError
from streams.storage.blobs import BlobError, BlobMissingError


class BlobGoneError(Exception):
    """The blob of an event is not in the store: a fault of this message, not of the store."""


@contextmanager
def blob_faults() -> Iterator[None]:
    """Tell a blob that is gone from a store that is away.

    Raises
    ------
    BlobGoneError
        If the store answers that it has no such blob.
    ServiceFaultError
        If the store cannot be read now.
    """
    try:
        yield
    except BlobMissingError as error:
        raise BlobGoneError(str(error)) from error
    except BlobError as error:
        raise ServiceFaultError("blobs", str(error)) from error
