"""The sniff stage on real files of a real blob store."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from pydicom.data import get_testdata_file

from schemas import FileReceived, FileSniffed, decode, encode
from schemas.events import received
from schemas.facts import DicomUids
from streams.agents.sniff import sniff_stage
from streams.runtime.retry import ServiceFaultError
from streams.runtime.stage import Done, Rejected, Result
from streams.storage.blobs import BlobStore

NOW = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
LATER = NOW + timedelta(seconds=3)
KEY = b"a key of enough bytes"
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b55"
    "0000000a49444154789c636800000082008177cd72b60000000049454e44ae426082"
)


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(str(tmp_path / "blobs"), fsync=False)


def event_of(blobs: BlobStore, data: bytes, name: str, **given: object) -> FileReceived:
    return received(
        tenant="clinic",
        dataset_id="mixed",
        relpath=name,
        blob=blobs.put(data),
        source="local",
        received_at=NOW,
        **given,  # type: ignore[arg-type]
    )


async def sniff(blobs: BlobStore, *events: FileReceived) -> list[Result]:
    return list(await sniff_stage(blobs, KEY, lambda: LATER).process(events))


def sniffed(result: Result) -> FileSniffed:
    assert isinstance(result, Done), result
    (event,) = result.events
    assert isinstance(event, FileSniffed)
    assert decode(encode(event), FileSniffed) == event
    return event


def _read_ct() -> bytes:
    path = get_testdata_file("CT_small.dcm")
    assert path is not None
    return Path(str(path)).read_bytes()


CT = _read_ct()


async def test_a_dicom_file_gives_its_facts_and_keeps_its_patient(blobs: BlobStore) -> None:
    (result,) = await sniff(blobs, event_of(blobs, CT, "folder/ct.dcm"))
    event = sniffed(result)
    assert event.format == "dicom"
    assert event.header.modality == "CT"
    assert (event.header.rows, event.header.columns) == (128, 128)
    assert event.suffix == ".dcm"
    assert event.blob.transfer_syntax == event.header.transfer_syntax_uid
    assert event.processed_at == LATER
    assert event.header.patient_key is not None
    assert b"CompressedSamples" in CT  # the patient's name in this file
    assert b"CompressedSamples" not in encode(event)


async def test_what_was_known_is_carried_on(blobs: BlobStore) -> None:
    before = event_of(blobs, PNG, "a.png", request_id="r-1", trace_id="0" * 31 + "1")
    (result,) = await sniff(blobs, before)
    event = sniffed(result)
    changed = {"event_id", "blob", "schema_version"}
    for name in set(FileReceived.model_fields) - changed:
        assert getattr(event, name) == getattr(before, name), name
    assert event.blob.media_type == "image/png"
    assert event.blob.model_copy(update={"media_type": before.blob.media_type}) == before.blob


async def test_the_name_of_a_received_instance_says_nothing(blobs: BlobStore) -> None:
    uids = DicomUids(study_uid="1", series_uid="2", instance_uid="3.4", sop_class_uid="5")
    (result,) = await sniff(blobs, event_of(blobs, CT, "1/2/3.4", dicom=uids))
    assert sniffed(result).suffix == ""


async def test_the_same_event_twice_is_the_same_answer(blobs: BlobStore) -> None:
    event = event_of(blobs, CT, "ct.dcm")
    first, second = await sniff(blobs, event, event)
    assert sniffed(first) == sniffed(second)


async def test_each_answer_belongs_to_its_file(blobs: BlobStore) -> None:
    gone = event_of(blobs, PNG, "gone.png")
    gone = gone.model_copy(update={"blob": gone.blob.model_copy(update={"sha256": "0" * 64})})
    results = await sniff(
        blobs,
        event_of(blobs, PNG, "a.png"),
        event_of(blobs, b"", "empty.png"),
        gone,
        event_of(blobs, b"only text", "notes.dcm"),
        event_of(blobs, CT[:700], "cut.dcm"),
        event_of(blobs, CT, "ct.dcm"),
    )
    picture, empty, missing, notes, cut, ct = results
    assert sniffed(picture).format == "png"
    assert isinstance(empty, Rejected) or sniffed(empty).format == "unknown"
    assert isinstance(missing, Rejected)
    assert missing.reason == "blob-gone"
    assert sniffed(notes).format == "unknown"
    assert sniffed(cut).format == "dicom"
    assert sniffed(cut).problems
    assert sniffed(ct).header.modality == "CT"


async def test_a_blob_that_is_no_file_is_waited_out(blobs: BlobStore, tmp_path: Path) -> None:
    event = event_of(blobs, PNG, "a.png")
    path = tmp_path / "blobs" / event.blob.sha256[:2] / event.blob.sha256
    path.unlink()
    path.mkdir()
    with pytest.raises(ServiceFaultError) as caught:
        await sniff(blobs, event)
    assert caught.value.service == "blobs"
