"""Content-addressed blobs: the only place where image bytes live.

A blob's name is the SHA-256 of its bytes. On a local folder a blob is written beside its place,
fsynced, renamed and the folder fsynced, so that a name that is there holds all its bytes whatever
was killed meanwhile. Any other fsspec URL (S3, GCS, Azure, SFTP) takes the blob as one object; how
durable it is then is the store's promise, and a half object of a store without atomic writes is
sent again by the next writer of the same bytes.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast
from urllib.parse import unquote, urlsplit

import fsspec

from schemas import BlobRef

_SHA256 = re.compile(r"[0-9a-f]{64}")
_TEMPORARY = "incoming"
_PIECE_BYTES = 1 << 20


class BlobError(OSError):
    """A blob could not be written or read; the message says which and what to check."""


class BlobMissingError(BlobError):
    """No blob with this digest is in the store."""


class BlobWriter(Protocol):
    """Takes the bytes of one blob piece by piece; nothing is visible before ``commit``."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append bytes."""

    def commit(
        self,
        *,
        media_type: str = "application/octet-stream",
        transfer_syntax: str | None = None,
    ) -> BlobRef:
        """Make the blob durable and visible; return where it is."""

    def abort(self) -> None:
        """Drop what was written; harmless after ``commit``."""


@dataclass(frozen=True)
class Adopted:
    """A finished local file that becomes a blob.

    Parameters
    ----------
    path : Path
        Where it lies now.
    sha256, size_bytes : str, int
        Digest and size of the blob; the file may be longer.
    """

    path: Path
    sha256: str
    size_bytes: int


class BlobStore:
    """Blobs under one fsspec URL.

    Parameters
    ----------
    url : str
        A folder path, ``file://`` URL or any fsspec URL with a prefix.
    fsync : bool
        Whether a local blob is durable before ``put`` or ``commit`` returns.
    options : dict, optional
        Options for the fsspec file system, such as ``endpoint_url``.

    Raises
    ------
    BlobError
        If the folder cannot be made.
    """

    def __init__(
        self, url: str, *, fsync: bool = True, options: dict[str, Any] | None = None
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme in ("", "file"):
            self._local: Path | None = Path(
                unquote(parts.path) if parts.scheme == "file" else url
            ).absolute()
            self._prefix = self._local.as_uri()
            self._filesystem: Any = None
            try:
                _lay_out(self._local, fsync=fsync)
            except OSError as error:
                msg = (
                    f"the blob folder cannot be made: {error}; "
                    "set BIODATAMINE_BLOB_URL to a writable place"
                )
                raise BlobError(msg) from error
        else:
            self._local = None
            self._prefix = url.rstrip("/")
            self._filesystem, _ = fsspec.core.url_to_fs(url, **(options or {}))
        self._fsync = fsync

    @property
    def url(self) -> str:
        """URL under which all blobs lie."""
        return self._prefix

    @property
    def local_root(self) -> Path | None:
        """Folder of the blobs if they are local."""
        return self._local

    def uri(self, sha256: str) -> str:
        """URL of the blob with this digest."""
        return f"{self._prefix}/{_name(sha256)}"

    def exists(self, sha256: str) -> bool:
        """Whether the store holds the blob with this digest."""
        if self._local is not None:
            return (self._local / _name(sha256)).is_file()
        uri = self.uri(sha256)
        with _as_blob_error(f"blob {sha256} cannot be looked up in {self._prefix}"):
            return bool(self._filesystem.exists(uri))

    def writer(self) -> BlobWriter:
        """Begin a blob whose bytes come piece by piece."""
        if self._local is not None:
            return _LocalWriter(self, self._local, fsync=self._fsync)
        return _RemoteWriter(self, self._filesystem)

    def put(
        self,
        data: bytes | bytearray | memoryview,
        *,
        media_type: str = "application/octet-stream",
        transfer_syntax: str | None = None,
    ) -> BlobRef:
        """Store bytes; the same bytes twice are one blob.

        Raises
        ------
        BlobError
            If the store cannot take them.
        """
        writer = self.writer()
        try:
            writer.write(data)
            return writer.commit(media_type=media_type, transfer_syntax=transfer_syntax)
        finally:
            writer.abort()

    def put_file(
        self, source: BinaryIO, *, media_type: str = "application/octet-stream"
    ) -> BlobRef:
        """Store what a binary file holds, in pieces of 1 MiB."""
        writer = self.writer()
        try:
            while piece := source.read(_PIECE_BYTES):
                writer.write(piece)
            return writer.commit(media_type=media_type)
        finally:
            writer.abort()

    def adopt(self, files: Iterable[Adopted]) -> None:
        """Take finished local files in as blobs; afterwards they are gone from where they were.

        Beside a local store they are moved, not copied, and all folders are fsynced once.

        Parameters
        ----------
        files : iterable of Adopted
            Their first ``size_bytes`` are durable, and what ``sha256`` says.

        Raises
        ------
        BlobError
            If one cannot be taken in. Those before it are; to do it all again is harmless.
        """
        touched: set[Path] = set()
        for file in files:
            with _as_blob_error(f"blob {file.sha256} cannot be taken in"):
                if self._local is None:
                    self._send_file(file)
                else:
                    touched.add(self._move_in(file, self._local))
        if self._fsync:
            with _as_blob_error("blobs cannot be made durable"):
                for folder in touched:
                    _fsync_folder(folder)

    def _move_in(self, file: Adopted, root: Path) -> Path:
        target = root / _name(file.sha256)
        if _has_size(target, file.size_bytes):
            # The same bytes again, or the same call again.
            file.path.unlink(missing_ok=True)
            return target.parent
        try:
            os.truncate(file.path, file.size_bytes)
            file.path.replace(target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            self._send_file(file)
        return target.parent

    def _send_file(self, file: Adopted) -> None:
        writer, left = self.writer(), file.size_bytes
        try:
            with file.path.open("rb") as source:
                while left and (piece := source.read(min(left, _PIECE_BYTES))):
                    writer.write(piece)
                    left -= len(piece)
            writer.commit()
        finally:
            writer.abort()
        file.path.unlink(missing_ok=True)

    def holds(self, sha256: str, size_bytes: int) -> bool:
        """Whether the store holds the blob with this digest, whole as far as its size tells."""
        if self._local is not None:
            return _has_size(self._local / _name(sha256), size_bytes)
        return self.exists(sha256)

    def local_path(self, ref: BlobRef) -> Path | None:
        """Path of a blob if the store is a local folder and holds it."""
        if self._local is None:
            return None
        path = self._local / _name(ref.sha256)
        return path if path.is_file() else None

    @contextlib.contextmanager
    def open(self, ref: BlobRef) -> Iterator[BinaryIO]:
        """Open a blob for reading; seekable.

        Raises
        ------
        BlobMissingError
            If it is not there.
        BlobError
            If it cannot be read.
        """
        with _as_blob_error(f"blob {ref.sha256} cannot be read from {self._prefix}"):
            handle = (
                (self._local / _name(ref.sha256)).open("rb")
                if self._local is not None
                else cast("BinaryIO", self._filesystem.open(self.uri(ref.sha256), "rb"))
            )
        with handle:
            yield handle

    def read(self, ref: BlobRef) -> bytes:
        """Read a blob whole.

        Raises
        ------
        BlobError
            As ``open``.
        """
        with (
            self.open(ref) as handle,
            _as_blob_error(f"blob {ref.sha256} cannot be read from {self._prefix}"),
        ):
            return handle.read()

    def sweep(self, *, older_than_seconds: float, now_seconds: float) -> int:
        """Remove unfinished local blobs that a killed process left; return how many.

        Parameters
        ----------
        older_than_seconds : float
            Age from which an unfinished blob cannot belong to a running writer.
        now_seconds : float
            The present, seconds since the epoch.
        """
        if self._local is None:
            return 0
        removed = 0
        for path in (self._local / _TEMPORARY).iterdir():
            with contextlib.suppress(FileNotFoundError):
                if now_seconds - path.stat().st_mtime > older_than_seconds:
                    path.unlink()
                    removed += 1
        return removed


def _name(sha256: str) -> str:
    if not _SHA256.fullmatch(sha256):
        msg = "a blob's name is a SHA-256 in lower-case hex"
        raise ValueError(msg)
    return f"{sha256[:2]}/{sha256}"


@contextlib.contextmanager
def _as_blob_error(what: str) -> Iterator[None]:
    try:
        yield
    except BlobError:
        raise
    except FileNotFoundError as error:
        msg = f"{what}: it is not there ({error})"
        raise BlobMissingError(msg) from error
    except Exception as error:
        # The back ends of fsspec share no class of errors: botocore's, aiohttp's and paramiko's
        # reach us as they are.
        msg = f"{what}: {error}"
        raise BlobError(msg) from error


def _has_size(path: Path, size_bytes: int) -> bool:
    try:
        return path.stat().st_size == size_bytes
    except FileNotFoundError:
        return False


def _octets(data: bytes | bytearray | memoryview) -> memoryview:
    # A view of 16-bit pixels has half as many elements as bytes.
    return memoryview(data).cast("B")


def _closed() -> ValueError:
    return ValueError("this blob is committed or aborted already; begin another with writer()")


def _lay_out(root: Path, *, fsync: bool) -> None:
    # All 256 folders are made, and durable, before the first blob: no put has to wait for one, or
    # wonder whether another writer has made it but not yet fsynced it.
    (root / _TEMPORARY).mkdir(parents=True, exist_ok=True)
    if not (root / "ff").is_dir():
        for index in range(256):
            (root / f"{index:02x}").mkdir(exist_ok=True)
    if fsync:
        # Also where all is there: who made it may have been killed before this line.
        _fsync_folder(root)
        for folder in root.parents:
            # Which of them are new is not known any more; some may not be ours to open.
            with contextlib.suppress(OSError):
                _fsync_folder(folder)


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _LocalWriter:
    def __init__(self, store: BlobStore, root: Path, *, fsync: bool) -> None:
        self._store = store
        self._root = root
        self._fsync = fsync
        self._digest = hashlib.sha256()
        self._size_bytes = 0
        try:
            descriptor, name = tempfile.mkstemp(dir=root / _TEMPORARY)
        except OSError as error:
            msg = f"a blob cannot be begun: {error}"
            raise BlobError(msg) from error
        self._file: BinaryIO | None = os.fdopen(descriptor, "wb", buffering=0)
        self._path = Path(name)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._file is None:
            raise _closed()
        view = _octets(data)
        self._digest.update(view)
        self._size_bytes += len(view)
        try:
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            # Digest and file differ from here on: nobody may commit them.
            self.abort()
            msg = f"a blob cannot be written: {error}"
            raise BlobError(msg) from error

    def commit(
        self,
        *,
        media_type: str = "application/octet-stream",
        transfer_syntax: str | None = None,
    ) -> BlobRef:
        if self._file is None:
            raise _closed()
        sha256 = self._digest.hexdigest()
        target = self._root / _name(sha256)
        try:
            # Another length: left by a store that did not fsync and lost power. Ours heals it.
            if _has_size(target, self._size_bytes):
                # The same bytes are there already, but another writer may have renamed them an
                # instant ago and not yet fsynced the folder: wait for that on our own.
                if self._fsync:
                    _fsync_folder(target.parent)
            else:
                if self._fsync:
                    os.fsync(self._file.fileno())
                self._path.replace(target)
                if self._fsync:
                    _fsync_folder(target.parent)
        except OSError as error:
            msg = f"blob {sha256} cannot be made durable: {error}"
            raise BlobError(msg) from error
        finally:
            self.abort()
        return BlobRef(
            uri=self._store.uri(sha256),
            sha256=sha256,
            size_bytes=self._size_bytes,
            media_type=media_type,
            transfer_syntax=transfer_syntax,
        )

    def abort(self) -> None:
        if self._file is None:
            return
        self._file.close()
        self._file = None
        self._path.unlink(missing_ok=True)


class _RemoteWriter:
    # The name is known only when all bytes are, so they wait in a spooled local file.
    def __init__(self, store: BlobStore, filesystem: Any) -> None:
        self._store = store
        self._filesystem = filesystem
        self._digest = hashlib.sha256()
        self._size_bytes = 0
        self._spool = tempfile.SpooledTemporaryFile(max_size=32 << 20)  # noqa: SIM115 (closed in abort)
        self._open = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._open:
            raise _closed()
        view = _octets(data)
        self._digest.update(view)
        self._size_bytes += len(view)
        try:
            self._spool.write(view)
        except OSError as error:
            self.abort()
            msg = f"a blob cannot be kept in {tempfile.gettempdir()} before it is sent: {error}"
            raise BlobError(msg) from error

    def commit(
        self,
        *,
        media_type: str = "application/octet-stream",
        transfer_syntax: str | None = None,
    ) -> BlobRef:
        if not self._open:
            raise _closed()
        sha256 = self._digest.hexdigest()
        uri = self._store.uri(sha256)
        try:
            with _as_blob_error(f"blob {sha256} cannot be stored"):
                # A store without atomic writes (SFTP) may hold half a blob under its name.
                if self._size_in_store(uri) != self._size_bytes:
                    self._send(uri)
        finally:
            self.abort()
        return BlobRef(
            uri=uri,
            sha256=sha256,
            size_bytes=self._size_bytes,
            media_type=media_type,
            transfer_syntax=transfer_syntax,
        )

    def abort(self) -> None:
        self._open = False
        self._spool.close()

    def _size_in_store(self, uri: str) -> int | None:
        # None where the store does not tell sizes, -1 where it has no such object.
        try:
            return cast("int | None", self._filesystem.info(uri)["size"])
        except FileNotFoundError:
            return -1

    def _with_folder(self, uri: str, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except FileNotFoundError:
            # Object stores have no folders; others want theirs made.
            self._filesystem.makedirs(uri.rsplit("/", 1)[0], exist_ok=True)
            return work()

    def _send(self, uri: str) -> None:
        target: Any = None
        try:
            # Where the store can, the object appears whole, and half of one hides nobody else's.
            target = self._with_folder(
                uri, lambda: self._filesystem.open(uri, "wb", autocommit=False)
            )
            self._spool.seek(0)
            with target:
                while piece := self._spool.read(_PIECE_BYTES):
                    target.write(piece)
            self._with_folder(uri, target.commit)
            self._filesystem.invalidate_cache()
            stored_bytes = self._size_in_store(uri)
            if stored_bytes not in (self._size_bytes, None):
                msg = f"the store holds {stored_bytes} of {self._size_bytes} bytes"
                raise BlobError(msg)
        except Exception:
            # Closing a file of a store that knows no commit sends what it has, whole or not; nobody
            # may find that.
            with contextlib.suppress(Exception):
                target.discard()
            with contextlib.suppress(Exception):
                if self._size_in_store(uri) != self._size_bytes:
                    self._filesystem.rm_file(uri)
            raise
