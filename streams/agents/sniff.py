"""Finds out what arrived: first bytes to format and header facts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import PurePosixPath

from schemas import FileReceived, FileSniffed
from schemas.identity import event_id
from streams.agents.blob_reading import BlobGoneError, blob_faults
from streams.runtime.clock import Clock
from streams.runtime.stage import Done, Rejected, Result, Stage, decode_event
from streams.sniff import SniffContext, SniffError, sniff
from streams.storage.blobs import BlobStore

SNIFF = "sniff"


def sniff_stage(blobs: BlobStore, patient_key: bytes, clock: Clock) -> Stage[FileReceived]:
    """Sniff every file that is received.

    Parameters
    ----------
    blobs : BlobStore
        Where the bytes are.
    patient_key : bytes
        Secret of the patient pseudonyms.
    clock : Clock
        The present.
    """

    def sniff_one(event: FileReceived) -> Result:
        name = PurePosixPath(event.relpath).name if event.dicom is None else ""
        context = SniffContext(patient_hash_key=patient_key, tenant=event.tenant)
        try:
            with blob_faults(), blobs.open(event.blob) as source:
                found = sniff(source, size_bytes=event.blob.size_bytes, name=name, context=context)
        except SniffError as error:
            return Rejected(error.reason_code, error.detail)
        except BlobGoneError as error:
            return Rejected("blob-gone", str(error))
        blob = event.blob.model_copy(
            update={
                "media_type": found.media_type,
                "transfer_syntax": event.blob.transfer_syntax or found.header.transfer_syntax_uid,
            }
        )
        carried = event.model_dump(exclude={"event_id", "occurred_at", "schema_version", "blob"})
        return Done(
            (
                FileSniffed(
                    **carried,
                    event_id=event_id(FileSniffed.TOPIC, event.event_id),
                    occurred_at=event.occurred_at,
                    blob=blob,
                    format=found.format,
                    format_evidence=found.format_evidence,
                    suffix="".join(PurePosixPath(name).suffixes[-2:])[-32:].lower(),
                    header=found.header,
                    problems=found.problems,
                    processed_at=clock(),
                ),
            )
        )

    async def process(events: Sequence[FileReceived]) -> Sequence[Result]:
        return await asyncio.to_thread(lambda: [sniff_one(event) for event in events])

    return Stage(SNIFF, (FileReceived.TOPIC,), decode_event, process)  # type: ignore[arg-type]
