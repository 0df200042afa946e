"""Messages of received files, made quickly: all files of a request share most of their event."""

from __future__ import annotations

from typing import Any, NamedTuple

import orjson

from schemas import BlobRef, FileReceived, UrlRequest, encode
from schemas.events import Source, received
from schemas.identity import event_id, file_id
from streams.ingest.names import MAX_RELPATH_CHARACTERS
from streams.runtime.emitter import Outgoing


class Receipt(NamedTuple):
    """A file that was received.

    Parameters
    ----------
    file_id, image_id : str
        Its place and its bytes.
    message : Outgoing
        Its event, encoded.
    """

    file_id: str
    image_id: str
    message: Outgoing


class Receipts:
    """Makes the messages of one request's files.

    The first event is made and validated as every other stage does it; for the next ones only what
    differs from file to file is written into it: the same bytes at a fraction of the cost.

    Parameters
    ----------
    request : UrlRequest
        Whose files.
    """

    def __init__(self, request: UrlRequest) -> None:
        self._request = request
        self._shared: dict[str, Any] = {}
        self._headers = (("trace-id", request.trace_id.encode()),)

    def of(self, relpath: str, blob: BlobRef, source: Source) -> Receipt:
        """Make the message of a file.

        Parameters
        ----------
        relpath : str
            Its path in the dataset.
        blob : BlobRef
            Its bytes.
        source : str
            How it came.

        Raises
        ------
        ValueError
            If the path is outside the contract.
        """
        request = self._request
        if not self._shared:
            self._shared = orjson.loads(encode(self._validated(relpath, blob, source)))
        if not 1 <= len(relpath) <= MAX_RELPATH_CHARACTERS:
            msg = "the path is outside the contract"
            raise ValueError(msg)
        file = file_id(request.tenant, request.dataset_id, relpath)
        value = self._shared | {
            "event_id": event_id(FileReceived.TOPIC, file, blob.sha256),
            "file_id": file,
            "image_id": blob.sha256,
            "relpath": relpath,
            "blob": {
                "uri": blob.uri,
                "sha256": blob.sha256,
                "size_bytes": blob.size_bytes,
                "media_type": blob.media_type,
            },
            "source": source,
        }
        message = Outgoing(
            FileReceived.TOPIC, blob.sha256.encode(), orjson.dumps(value), self._headers
        )
        return Receipt(file, blob.sha256, message)

    def _validated(self, relpath: str, blob: BlobRef, source: Source) -> FileReceived:
        request = self._request
        return received(
            tenant=request.tenant,
            dataset_id=request.dataset_id,
            relpath=relpath,
            blob=blob,
            source=source,
            # The request's time, so that the same request makes the same event again.
            received_at=request.occurred_at,
            trace_id=request.trace_id,
            request_id=request.request_id,
        )
