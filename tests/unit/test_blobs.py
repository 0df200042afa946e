"""The blob store on real folders and on fsspec file systems."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import BlobRef
from streams.storage import blobs
from streams.storage.blobs import BlobError, BlobMissingError, BlobStore


@pytest.fixture(params=["folder", "file-url", "memory", "remote-folder"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BlobStore]:
    """One store of each kind; local:// goes the way of SFTP: folders, but no local path."""
    if request.param == "memory":
        url = f"memory://{uuid.uuid4().hex}/blobs"
    elif request.param == "remote-folder":
        url = f"local://{tmp_path}/blobs"
    elif request.param == "file-url":
        url = (tmp_path / "with space" / "blobs").as_uri()
    else:
        url = str(tmp_path / "blobs")
    yield BlobStore(url)
    if request.param == "memory":
        with contextlib.suppress(FileNotFoundError):
            fsspec.filesystem("memory").rm(url, recursive=True)


@pytest.fixture
def folder(tmp_path: Path) -> BlobStore:
    return BlobStore(str(tmp_path / "blobs"))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def files(root: Path) -> dict[str, Path]:
    """Finished blobs, by name."""
    return {
        path.name: path
        for path in root.rglob("*")
        if path.is_file() and path.parent.name != "incoming"
    }


def unfinished(root: Path) -> list[Path]:
    return list((root / "incoming").iterdir())


def absent(data: bytes) -> BlobRef:
    return BlobRef(uri="file:///nowhere", sha256=sha256(data), size_bytes=len(data))


# What every kind of store promises


def test_a_blob_is_named_after_its_bytes_and_comes_back(store: BlobStore) -> None:
    data = b"DICM" * 1000
    ref = store.put(data, media_type="application/dicom", transfer_syntax="1.2.840.10008.1.2.1")
    assert ref.sha256 == sha256(data)
    assert ref.size_bytes == len(data)
    assert ref.media_type == "application/dicom"
    assert ref.transfer_syntax == "1.2.840.10008.1.2.1"
    assert ref.uri == store.uri(ref.sha256)
    assert ref.uri.startswith(store.url + "/")
    assert store.exists(ref.sha256)
    assert store.read(ref) == data


def test_the_uri_of_a_blob_leads_to_it_without_us(store: BlobStore) -> None:
    ref = store.put(b"found by anybody")
    if store.local_root is not None:
        # A file URL as RFC 8089 has it: a space in the path is percent-encoded.
        path = Path(unquote(urlsplit(ref.uri).path))
        assert path.is_relative_to(store.local_root)
        assert path.read_bytes() == b"found by anybody"
    else:
        with fsspec.open(ref.uri, "rb") as handle:
            assert handle.read() == b"found by anybody"


def test_an_empty_blob_is_a_blob(store: BlobStore) -> None:
    ref = store.put(b"")
    assert ref.size_bytes == 0
    assert ref.sha256 == sha256(b"")
    assert store.exists(ref.sha256)
    assert store.read(ref) == b""


def test_the_same_bytes_twice_are_one_blob(store: BlobStore) -> None:
    first = store.put(b"twice")
    second = store.put(b"twice")
    assert first == second
    assert store.read(second) == b"twice"
    if store.local_root is not None:
        assert len(files(store.local_root)) == 1
        assert unfinished(store.local_root) == []


def test_nothing_is_visible_before_commit_and_nothing_after_abort(store: BlobStore) -> None:
    writer = store.writer()
    writer.write(b"half of ")
    assert not store.exists(sha256(b"half of "))
    writer.write(b"it")
    assert not store.exists(sha256(b"half of it"))
    writer.abort()
    writer.abort()
    assert not store.exists(sha256(b"half of it"))
    if store.local_root is not None:
        assert files(store.local_root) == {}
        assert unfinished(store.local_root) == []


def test_abort_after_commit_is_harmless(store: BlobStore) -> None:
    writer = store.writer()
    writer.write(b"kept")
    ref = writer.commit()
    writer.abort()
    assert store.read(ref) == b"kept"


@pytest.mark.parametrize("end", ["commit", "abort"])
def test_a_writer_ends_once(store: BlobStore, end: str) -> None:
    writer = store.writer()
    writer.write(b"once")
    getattr(writer, end)()
    with pytest.raises(ValueError, match="begin another"):
        writer.write(b"more")
    with pytest.raises(ValueError, match="begin another"):
        writer.commit()


def test_a_missing_blob_is_named(store: BlobStore) -> None:
    ref = absent(b"never stored")
    assert not store.exists(ref.sha256)
    with pytest.raises(BlobMissingError, match=ref.sha256) as caught:
        store.read(ref)
    assert store.url in str(caught.value)
    with pytest.raises(BlobMissingError), store.open(ref):
        pytest.fail("there is nothing to open")


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "A" * 64, "0" * 63, "0" * 64 + "\n"])
def test_only_digests_are_names(store: BlobStore, name: str) -> None:
    with pytest.raises(ValueError, match="SHA-256"):
        store.exists(name)
    with pytest.raises(ValueError, match="SHA-256"):
        store.uri(name)


def test_an_open_blob_is_seekable_and_closed_afterwards(store: BlobStore) -> None:
    ref = store.put(b"0123456789")
    with store.open(ref) as handle:
        handle.seek(6)
        assert handle.read(2) == b"67"
        handle.seek(0)
        assert handle.read() == b"0123456789"
    # A file in memory is never closed: it is the store itself.
    assert handle.closed or store.url.startswith("memory:")


def test_an_error_of_the_reader_stays_its_own(store: BlobStore) -> None:
    ref = store.put(b"read by somebody who fails")
    with pytest.raises(FileNotFoundError) as caught, store.open(ref):
        raise FileNotFoundError("another file")
    assert not isinstance(caught.value, BlobError)


def test_put_file_stores_what_a_file_holds(store: BlobStore) -> None:
    data = os.urandom(3_000_000)
    ref = store.put_file(io.BytesIO(data), media_type="image/tiff")
    assert ref.sha256 == sha256(data)
    assert ref.size_bytes == len(data)
    assert ref.media_type == "image/tiff"
    assert store.read(ref) == data


def test_a_source_that_breaks_leaves_nothing(store: BlobStore) -> None:
    class Broken(io.RawIOBase):
        pieces = iter([b"first piece"])

        def read(self, size: int = -1) -> bytes:
            for piece in self.pieces:
                return piece
            raise ConnectionResetError("the peer is gone")

    with pytest.raises(ConnectionResetError):
        store.put_file(Broken())  # type: ignore[arg-type]
    assert not store.exists(sha256(b"first piece"))
    if store.local_root is not None:
        assert unfinished(store.local_root) == []


@pytest.mark.parametrize(
    "data",
    [bytearray(b"abcdef"), memoryview(b"abcdef"), memoryview(b"abcdef").cast("H")],
    ids=["bytearray", "memoryview", "16-bit view"],
)
def test_any_buffer_counts_in_bytes(store: BlobStore, data: Any) -> None:
    ref = store.put(data)
    assert ref.size_bytes == 6
    assert store.read(ref) == b"abcdef"


def test_many_writers_of_the_same_bytes_at_once(store: BlobStore) -> None:
    data = os.urandom(200_000)
    with ThreadPoolExecutor(8) as pool:
        refs = list(pool.map(store.put, [data] * 24))
    assert set(refs) == {refs[0]}
    assert store.read(refs[0]) == data
    if store.local_root is not None:
        assert len(files(store.local_root)) == 1
        assert unfinished(store.local_root) == []


@pytest.fixture(scope="module")
def shared_stores(tmp_path_factory: pytest.TempPathFactory) -> list[BlobStore]:
    root = tmp_path_factory.mktemp("shared")
    return [
        BlobStore(str(root / "folder"), fsync=False),
        BlobStore(f"memory://{uuid.uuid4().hex}"),
        BlobStore(f"local://{root}/remote"),
    ]


@settings(deadline=None, max_examples=60)
@given(pieces=st.lists(st.binary(max_size=300), max_size=6))
def test_any_content_in_any_pieces_comes_back(
    shared_stores: list[BlobStore], pieces: list[bytes]
) -> None:
    whole = b"".join(pieces)
    for store in shared_stores:
        writer = store.writer()
        for piece in pieces:
            writer.write(piece)
        ref = writer.commit()
        assert ref == store.put(whole)
        assert ref.sha256 == sha256(whole)
        assert store.read(ref) == whole


# Local folders


def test_the_folder_is_made_with_its_parents(tmp_path: Path) -> None:
    store = BlobStore(str(tmp_path / "a" / "b" / "blobs"))
    assert store.local_root == tmp_path / "a" / "b" / "blobs"
    assert store.read(store.put(b"deep")) == b"deep"


def test_a_store_that_exists_is_opened_again(tmp_path: Path) -> None:
    ref = BlobStore(str(tmp_path)).put(b"from before")
    assert BlobStore(tmp_path.as_uri()).read(ref) == b"from before"


def test_a_folder_that_cannot_be_made_says_what_to_set(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(BlobError, match="BIODATAMINE_BLOB_URL"):
        BlobStore(str(tmp_path / "file" / "blobs"))


def test_a_truncated_blob_under_a_name_is_healed_by_the_next_put(folder: BlobStore) -> None:
    data = b"whole again" * 100
    ref = folder.put(data)
    assert folder.local_root is not None
    (path,) = files(folder.local_root).values()
    path.write_bytes(data[:10])
    folder.put(data)
    assert folder.read(ref) == data


def test_a_write_that_fails_can_not_be_committed(
    folder: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    # RLIMIT_FSIZE makes the kernel itself refuse the bytes past a limit, as a full disk would.
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    writer = folder.writer()
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(BlobError, match="cannot be written"):
            writer.write(b"x" * 10_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    with pytest.raises(ValueError, match="begin another"):
        writer.commit()
    assert folder.local_root is not None
    assert files(folder.local_root) == {}
    assert unfinished(folder.local_root) == []


def test_bytes_are_synced_before_the_name_and_the_name_before_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = BlobStore(str(tmp_path))
    steps: list[str] = []
    real_fsync, real_replace = os.fsync, Path.replace

    def fsync(descriptor: int) -> None:
        steps.append(f"fsync {Path(f'/proc/self/fd/{descriptor}').readlink().parent.name}")
        real_fsync(descriptor)

    def replace(self: Path, target: Path) -> Path:
        steps.append("rename")
        return real_replace(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    store.put(b"durable")
    assert steps == ["fsync incoming", "rename", f"fsync {tmp_path.name}"]
    steps.clear()
    store.put(b"durable")
    assert steps == [f"fsync {tmp_path.name}"]
    steps.clear()
    BlobStore(str(tmp_path), fsync=False).put(b"not so durable")
    assert steps == ["rename"]


def test_a_failing_disk_is_a_blob_error_and_leaves_no_name(
    folder: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(BlobError, match="cannot be made durable"):
        folder.put(b"lost")
    assert folder.local_root is not None
    assert files(folder.local_root) == {}
    assert unfinished(folder.local_root) == []


def test_sweep_removes_only_what_is_old(folder: BlobStore) -> None:
    root = folder.local_root
    assert root is not None
    kept = folder.put(b"finished long ago")
    os.utime(next(iter(files(root).values())), (0, 0))
    abandoned, running = folder.writer(), folder.writer()
    abandoned.write(b"killed")
    (old,) = (path for path in unfinished(root) if path.stat().st_size)
    running.write(b"still writing")
    for path in unfinished(root):
        os.utime(path, (1000, 1000) if path == old else (1900, 1900))
    assert folder.sweep(older_than_seconds=1000, now_seconds=2000) == 0
    assert folder.sweep(older_than_seconds=1000, now_seconds=2001) == 1
    assert not old.exists()
    assert folder.read(running.commit()) == b"still writing"
    assert folder.read(kept) == b"finished long ago"
    abandoned.abort()
    assert folder.sweep(older_than_seconds=0, now_seconds=1e12) == 0


def test_sweep_of_a_remote_store_has_nothing_to_do() -> None:
    assert BlobStore("memory://swept").sweep(older_than_seconds=0, now_seconds=1e12) == 0


# Killed writers

WRITE_HALF = """
import sys, time
from streams.storage.blobs import BlobStore
writer = BlobStore(sys.argv[1]).writer()
writer.write(b"first half, ")
print("half", flush=True)
time.sleep(600)
"""

WRITE_MANY = """
import os, sys
from streams.storage.blobs import BlobStore
store = BlobStore(sys.argv[1])
while True:
    ref = store.put(os.urandom(300_000))
    print(ref.sha256, flush=True)
"""


@contextlib.contextmanager
def writing(code: str, root: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a writer in its own process; it is killed with SIGKILL when the block ends."""
    package_root = Path(blobs.__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(root)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(package_root)},
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait(timeout=30)
        assert process.stdout is not None
        process.stdout.close()


def test_kill_in_mid_write_leaves_nothing_visible(tmp_path: Path) -> None:
    with writing(WRITE_HALF, tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "half\n"
    assert process.returncode == -signal.SIGKILL
    assert files(tmp_path) == {}
    (left,) = unfinished(tmp_path)
    store = BlobStore(str(tmp_path))
    assert not store.exists(sha256(b"first half, "))
    assert store.sweep(older_than_seconds=60, now_seconds=left.stat().st_mtime + 61) == 1
    assert unfinished(tmp_path) == []
    assert store.read(store.put(b"first half, ")) == b"first half, "


@pytest.mark.parametrize("acknowledged", [1, 3, 8])
def test_kill_at_any_moment_leaves_whole_blobs_and_all_that_were_answered(
    tmp_path: Path, acknowledged: int
) -> None:
    with writing(WRITE_MANY, tmp_path) as process:
        assert process.stdout is not None
        answered = [process.stdout.readline().strip() for _ in range(acknowledged)]
        process.kill()
        answered += [line.strip() for line in process.stdout if line.endswith("\n")]
    found = files(tmp_path)
    assert set(answered) <= found.keys()
    # One blob at most was renamed but not answered yet.
    assert len(found) <= len(answered) + 1
    for name, path in found.items():
        data = path.read_bytes()
        assert sha256(data) == name
        assert len(data) == 300_000


# Stores that fail


class FlakyFileSystem(MemoryFileSystem):
    """A remote store whose connection breaks after the first piece of every blob."""

    protocol = "flaky"
    store: dict[str, Any] = {}  # noqa: RUF012 (as in the class above)
    pseudo_dirs = [""]  # noqa: RUF012
    broken = True

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        handle = super()._open(path, mode, **options)
        if mode == "wb" and type(self).broken:
            write = handle.write
            pieces = []

            def write_once(data: bytes) -> int:
                pieces.append(data)
                if len(pieces) > 1:
                    raise RuntimeError("connection lost")
                return write(data)

            handle.write = write_once
        return handle


def test_an_upload_that_breaks_leaves_no_half_blob() -> None:
    fsspec.register_implementation("flaky", FlakyFileSystem, clobber=True)
    store = BlobStore("flaky://hospital/blobs")
    data = os.urandom(3 << 20)
    with pytest.raises(BlobError, match="cannot be stored: connection lost"):
        store.put(data)
    assert not store.exists(sha256(data))
    FlakyFileSystem.broken = False
    ref = store.put(data)
    assert store.read(ref) == data


def test_half_an_object_under_a_name_is_sent_again(tmp_path: Path) -> None:
    store = BlobStore(f"local://{tmp_path}/blobs")
    data = b"all of it" * 50
    ref = store.put(data)
    (path,) = files(tmp_path).values()
    path.write_bytes(data[:7])
    store.put(data)
    assert store.read(ref) == data


def test_a_store_that_cannot_be_written_is_a_blob_error(tmp_path: Path) -> None:
    store = BlobStore(f"local://{tmp_path}/file/blobs")
    (tmp_path / "file").write_bytes(b"in the way")
    with pytest.raises(BlobError, match="cannot be stored"):
        store.put(b"no place")
