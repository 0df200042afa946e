"""Messages made quickly are the bytes that the contract's own codec writes."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import BlobRef, FileReceived, UrlRequest, decode
from schemas.events import received
from streams.agents.ingest_events import Receipts
from streams.agents.ingest_requests import make_request
from streams.runtime.emitter import Outgoing

NOW = datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=timezone.utc)
SOURCES = st.sampled_from(["archive", "url", "repository", "upload", "local"])
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=1024)
FILES = st.lists(
    st.tuples(TEXT, st.integers(0, 2**40), st.binary(min_size=32, max_size=32), SOURCES),
    min_size=1,
    max_size=5,
)


def asked() -> UrlRequest:
    return make_request(url="https://example.org/x.zip", tenant="t", now=NOW)


def blob(sha256: bytes, size_bytes: int) -> BlobRef:
    name = sha256.hex()
    return BlobRef(uri=f"file:///blobs/{name[:2]}/{name}", sha256=name, size_bytes=size_bytes)


@given(FILES)
def test_they_are_those_of_the_slow_way(files: list[tuple[str, int, bytes, str]]) -> None:
    request = asked()
    receipts = Receipts(request)
    for relpath, size_bytes, sha256, source in files:
        ref = blob(sha256, size_bytes)
        event = received(
            tenant=request.tenant,
            dataset_id=request.dataset_id,
            relpath=relpath,
            blob=ref,
            source=source,  # type: ignore[arg-type]
            received_at=request.occurred_at,
            trace_id=request.trace_id,
            request_id=request.request_id,
        )
        found = receipts.of(relpath, ref, source)  # type: ignore[arg-type]
        assert found.message == Outgoing.of(event)
        assert (found.file_id, found.image_id) == (event.file_id, event.image_id)
        assert decode(found.message.value, FileReceived) == event


@pytest.mark.parametrize("relpath", ["", "x" * 1025, "a/\udcff.dcm"])
@pytest.mark.parametrize("first", [True, False])
def test_a_path_outside_the_contract_is_refused(relpath: str, first: bool) -> None:
    receipts = Receipts(asked())
    if not first:
        receipts.of("a.dcm", blob(bytes(32), 1), "archive")
    with pytest.raises(ValueError):
        receipts.of(relpath, blob(bytes(32), 1), "archive")
