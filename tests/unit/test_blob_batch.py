"""Many blobs at once: nothing is visible before, everything is after, nothing is left behind."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from streams.storage.blob_batch import BlobBatch
from streams.storage.blobs import BlobError, BlobStore

SMALL, LARGE = b"small", bytes(range(256)) * 2000


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    if request.param == "local":
        return BlobStore(str(tmp_path / "blobs"))
    return BlobStore(f"memory://batch-{tmp_path.name}")


def incoming(store: BlobStore) -> list[Path]:
    return list((store.local_root / "incoming").iterdir()) if store.local_root else []


@pytest.mark.parametrize("fsync", [True, False])
def test_what_is_committed_is_there(store: BlobStore, fsync: bool) -> None:
    batch = BlobBatch(store, fsync=fsync)
    refs = [batch.add([data[:3], data[3:]]) for data in (SMALL, LARGE, b"", SMALL)]
    batch.commit()
    for ref, data in zip(refs, (SMALL, LARGE, b"", SMALL), strict=True):
        assert ref == store.put(data)
        assert store.read(ref) == data
        assert ref.sha256 == hashlib.sha256(data).hexdigest()
    batch.abort()
    assert incoming(store) == []
    assert store.exists(refs[0].sha256)


def test_nothing_is_visible_before(tmp_path: Path) -> None:
    store = BlobStore(str(tmp_path))
    batch = BlobBatch(store)
    refs = [batch.add([data]) for data in (SMALL, LARGE)]
    assert not any(store.exists(ref.sha256) for ref in refs)
    batch.abort()
    assert incoming(store) == []
    batch.commit()
    assert not any(store.exists(ref.sha256) for ref in refs)


def test_what_fails_leaves_nothing_behind(store: BlobStore) -> None:
    def failing(size: int) -> Iterator[bytes]:
        yield bytes(size)
        raise ZeroDivisionError

    def check(size_bytes: int) -> None:
        if size_bytes > 100:
            raise OverflowError

    batch = BlobBatch(store)
    for size in (10, 1 << 20):
        with pytest.raises(ZeroDivisionError):
            batch.add(failing(size))
    with pytest.raises(OverflowError):
        batch.add([SMALL, LARGE], check=check)
    kept = batch.add([SMALL], check=check)
    batch.commit()
    assert store.read(kept) == SMALL
    assert incoming(store) == []


def test_a_half_blob_of_a_power_failure_is_healed(tmp_path: Path) -> None:
    store = BlobStore(str(tmp_path))
    ref = store.put(LARGE)
    path = store.local_path(ref)
    assert path is not None
    path.write_bytes(LARGE[:10])
    batch = BlobBatch(store)
    batch.add([LARGE])
    batch.commit()
    assert store.read(ref) == LARGE


def test_a_folder_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    store = BlobStore(str(tmp_path))
    (tmp_path / "incoming").rmdir()
    batch = BlobBatch(store)
    with pytest.raises(BlobError, match="cannot be begun"):
        batch.add([LARGE])
    batch.add([SMALL])
    with pytest.raises(BlobError):
        batch.commit()


def test_one_sync_serves_the_names_of_one_batch_and_the_bytes_of_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = BlobStore(str(tmp_path))
    seen: list[tuple[int, int]] = []

    def syncfs(descriptor: int) -> int:
        del descriptor
        named = [path for path in tmp_path.glob("??/*") if path.is_file()]
        seen.append((len(named), len(incoming(store))))
        return 0

    monkeypatch.setattr("streams.storage.blob_batch._syncfs", syncfs)
    batches = [BlobBatch(store) for _ in range(3)]
    for number, batch in enumerate(batches):
        refs = [batch.add([b"%d" % number, data]) for data in (SMALL, LARGE)]
        batch.write()
        batch.sync()
        assert not any(store.exists(ref.sha256) for ref in refs)
        batch.place()
        assert all(store.exists(ref.sha256) for ref in refs)
    batches[-1].sync()
    assert seen == [(0, 2), (2, 2), (4, 2), (6, 0)]
