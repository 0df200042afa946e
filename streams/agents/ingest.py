"""Fetches what a request names: URL to blob to ``files-received``."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from schemas import UrlRequest
from schemas.events import received
from streams.ingest.local import IngestError, dataset_path, open_bounded, resolve
from streams.runtime.retry import ServiceFaultError
from streams.runtime.stage import Done, Rejected, Result, Stage, decode_event
from streams.storage.blobs import BlobError, BlobStore

INGEST = "ingest"


def ingest_stage(
    blobs: BlobStore, roots: Sequence[Path], *, max_file_bytes: int
) -> Stage[UrlRequest]:
    """Fetch files that requests name.

    Parameters
    ----------
    blobs : BlobStore
        Where the bytes go.
    roots : sequence of Path
        Folders from which ``file://`` may read.
    max_file_bytes : int
        Largest file that is fetched.
    """

    def fetch(request: UrlRequest) -> Result:
        try:
            path = resolve(request.url, roots)
            with open_bounded(path, max_file_bytes) as file:
                blob = blobs.put_file(file)
        except IngestError as error:
            return Rejected(error.reason, error.detail)
        except BlobError as error:
            raise ServiceFaultError("blobs", str(error)) from error
        except OSError as error:
            return Rejected("unreadable", f"the file cannot be read ({type(error).__name__})")
        try:
            event = received(
                tenant=request.tenant,
                dataset_id=request.dataset_id,
                relpath=request.relpath or dataset_path(path.name),
                blob=blob,
                source="local",
                # The request's time, so that the same request makes the same event again.
                received_at=request.occurred_at,
                trace_id=request.trace_id,
                request_id=request.request_id,
            )
        except ValueError:
            return Rejected("bad-name", "the file's name is no Unicode text; give a relpath")
        return Done((event,))

    async def process(requests: Sequence[UrlRequest]) -> Sequence[Result]:
        return await asyncio.to_thread(lambda: [fetch(request) for request in requests])

    return Stage(INGEST, (UrlRequest.TOPIC,), decode_event, process)  # type: ignore[arg-type]
