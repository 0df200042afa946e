"""The ingest stage on real files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

import pytest

from schemas import FileReceived, UrlRequest, decode
from schemas.identity import event_id, file_id
from streams.agents.ingest import Ingest, ingest_stage, make_ingest
from streams.runtime.dead_letters import read_headers
from streams.runtime.emitter import Outgoing
from streams.runtime.retry import ServiceFaultError
from streams.runtime.stage import Done, Rejected, Result, Stage
from streams.settings import Settings
from streams.storage.blobs import BlobStore
from tests.support.archives import zipped

NOW = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(str(tmp_path / "blobs"), fsync=False)


def request(url: str, **given: object) -> UrlRequest:
    return UrlRequest(
        event_id=event_id(UrlRequest.TOPIC, url),
        occurred_at=NOW,
        trace_id="1" * 32,
        tenant="clinic",
        request_id="r-1",
        dataset_id="local",
        url=url,
        **given,  # type: ignore[arg-type]
    )


async def ingest(blobs: BlobStore, root: Path, *requests: UrlRequest) -> list[Result]:
    return list(await ingest_stage(blobs, [root], max_file_bytes=1000).process(requests))


async def test_a_file_becomes_a_blob_and_an_event(blobs: BlobStore, root: Path) -> None:
    (root / "a.png").write_bytes(b"bytes")
    asked = request((root / "a.png").as_uri(), relpath="sub/a.png")
    first, second = await ingest(blobs, root, asked, asked)
    assert first == second, "the same request makes the same event again"
    assert isinstance(first, Done)
    (event,) = first.events
    assert isinstance(event, FileReceived)
    assert event.image_id == hashlib.sha256(b"bytes").hexdigest()
    assert event.file_id == file_id("clinic", "local", "sub/a.png")
    assert (event.received_at, event.trace_id, event.request_id) == (NOW, "1" * 32, "r-1")
    assert blobs.read(event.blob) == b"bytes"


async def test_what_cannot_be_fetched_says_why_and_its_mates_come(
    blobs: BlobStore, root: Path, tmp_path: Path
) -> None:
    (root / "a.png").write_bytes(b"a")
    (tmp_path / "secret").write_bytes(b"secret")
    (root / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(root / "fifo")
    undecodable = os.fsdecode(bytes(root) + b"/\xff.png")
    Path(undecodable).write_bytes(b"b")
    (root / "named").symlink_to(undecodable)
    names = ("link", "fifo", "missing", "named", "a.png")
    results = await ingest(blobs, root, *(request(f"{root.as_uri()}/{name}") for name in names))
    reasons = [result.reason if isinstance(result, Rejected) else "" for result in results]
    assert reasons == ["outside-roots", "not-a-file", "not-found", "", ""]
    named = results[names.index("named")]
    assert isinstance(named, Done)
    assert named.events[0].relpath == "\\xff.png"  # type: ignore[attr-defined]
    assert not blobs.exists(hashlib.sha256(b"secret").hexdigest())


async def test_a_store_that_takes_nothing_is_waited_out(
    blobs: BlobStore, root: Path, tmp_path: Path
) -> None:
    (root / "a.png").write_bytes(b"a")
    (tmp_path / "blobs" / "incoming").rename(tmp_path / "away")
    with pytest.raises(ServiceFaultError) as caught:
        await ingest(blobs, root, request((root / "a.png").as_uri()))
    assert caught.value.service == "blobs"


async def test_a_file_that_is_too_large_is_not_copied(blobs: BlobStore, root: Path) -> None:
    (root / "large").write_bytes(bytes(1001))
    (root / "largest").write_bytes(bytes(1000))
    names = ("large", "largest")
    large, largest = await ingest(blobs, root, *(request((root / n).as_uri()) for n in names))
    assert isinstance(large, Rejected)
    assert large.reason == "too-large"
    assert isinstance(largest, Done)


# With everything that a worker has: archives, folders, and what is written of each request


class Log:
    """Takes messages in place of a broker; the integration tests have a real one."""

    def __init__(self) -> None:
        self.sent: list[Outgoing] = []

    async def send(self, messages: Sequence[Outgoing]) -> None:
        self.sent.extend(messages)


def whole(tmp_path: Path, blobs: BlobStore, root: Path, log: Log) -> tuple[Stage, Ingest]:
    given = Settings(data_dir=tmp_path, blob_url=blobs.url, ingest_roots=(root,))
    made = make_ingest(given, blobs, None, emitter=log, clock=lambda: NOW)  # type: ignore[arg-type]
    return ingest_stage(blobs, [root], max_file_bytes=1 << 20, ingest=made), made


async def test_archives_and_folders_are_taken_apart_and_files_are_not(
    tmp_path: Path, blobs: BlobStore, root: Path
) -> None:
    (root / "set").mkdir()
    (root / "a.png").write_bytes(b"a")
    (root / "set" / "b.zip").write_bytes(zipped({"c.png": b"c", "../d.png": b"d"}))
    (root / "bad.zip").write_bytes(zipped({"c.png": b"c" * 9999})[:-30])
    log = Log()
    stage, made = whole(tmp_path, blobs, root, log)
    plain, bad = request((root / "a.png").as_uri()), request((root / "bad.zip").as_uri())
    folder = request((root / "set").as_uri() + "/", relpath="there")
    results = await stage.process([plain, folder, bad, folder])
    made.close()
    assert [type(result) for result in results] == [Done, Done, Rejected, Done]
    assert isinstance(results[0], Done)
    assert [event.relpath for event in results[0].events] == ["a.png"]  # type: ignore[attr-defined]
    assert isinstance(results[2], Rejected)
    assert results[2].reason == "truncated"
    events = [decode(m.value, FileReceived) for m in log.sent if m.topic == FileReceived.TOPIC]
    assert sorted(event.relpath for event in events) == ["c.png", "there/b.zip/c.png"]
    letters = [read_headers(m.headers) for m in log.sent if m.topic == "url-requests-dlq"]
    assert [letter["reason"] for letter in letters] == ["unsafe-path"]
    assert letters[0]["dataset-id"] == "local"
