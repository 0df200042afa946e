"""Many blobs made durable together.

Two fsyncs for each small file cost far more than all other work on it. Here the files of a batch
wait under names that nobody looks at; one sync of the file system makes all their bytes durable,
then they are renamed, and another sync makes the names durable. A name that is there still holds
all its bytes, whatever was killed meanwhile. Where batch follows batch, the sync for the bytes of
one is the sync for the names of the one before.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import itertools
import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from schemas import BlobRef
from streams.storage.blobs import BlobError, BlobStore

_SENDERS = 8
_WRITERS = 2
_SMALL_BYTES = 1 << 17
_numbers = itertools.count()
# Names of this process alone, whatever machine shares the folder.
_PREFIX = uuid.uuid4().hex


class BlobBatch:
    """Collects blobs; ``commit`` makes them durable and visible.

    Small blobs wait in memory until then, so that whoever adds them does not wait for the disk,
    and a batch can be committed in another thread than the next one is filled in. ``commit`` is
    ``write``, ``sync``, ``place`` and ``sync``; whoever has several batches needs a sync less for
    each if it places one between the syncs of the next.

    Parameters
    ----------
    store : BlobStore
        Where they go.
    fsync : bool
        Whether local blobs are durable when ``commit`` returns.
    """

    def __init__(self, store: BlobStore, *, fsync: bool = True) -> None:
        self._store = store
        self._root = None if store.local_root is None else str(store.local_root)
        self._fsync = fsync
        self._held: dict[str, bytes] = {}
        self._staged: dict[str, str] = {}
        self._sending: list[Future[BlobRef]] = []
        self._senders: ThreadPoolExecutor | None = None

    def add(
        self,
        chunks: Iterable[bytes],
        *,
        media_type: str = "application/octet-stream",
        check: Callable[[int], None] | None = None,
    ) -> BlobRef:
        """Take the bytes of one blob; it is not there before ``commit``.

        Parameters
        ----------
        chunks : iterable of bytes
            The bytes. What it raises leaves nothing behind.
        media_type : str
            What they are.
        check : callable, optional
            Called with the length so far; raises when it is too much.

        Raises
        ------
        BlobError
            If they cannot be kept.
        """
        if self._root is None:
            return self._send(chunks, media_type, check)
        digest = hashlib.sha256()
        size_bytes = 0
        small: list[bytes] = []
        descriptor, path = -1, ""
        try:
            for chunk in chunks:
                size_bytes += len(chunk)
                if check is not None:
                    check(size_bytes)
                digest.update(chunk)
                if descriptor < 0:
                    small.append(chunk)
                    if size_bytes <= _SMALL_BYTES:
                        continue
                    descriptor, path = self._temporary()
                    chunk = b"".join(small)  # noqa: PLW2901
                    small.clear()
                _write(descriptor, chunk)
            ref = self._ref(digest.hexdigest(), size_bytes, media_type)
            if descriptor < 0:
                self._held[ref.sha256] = small[0] if len(small) == 1 else b"".join(small)
            elif ref.sha256 not in self._staged and not self._is_there(ref.sha256, size_bytes):
                self._staged[ref.sha256], path = path, ""
            return ref
        finally:
            if descriptor >= 0:
                os.close(descriptor)
            if path:
                Path(path).unlink(missing_ok=True)

    def commit(self) -> None:
        """Make everything that was added durable and visible.

        Raises
        ------
        BlobError
            If it cannot; adding and committing all again does no harm.
        """
        self.write()
        self.sync()
        self.place()
        # Also what was there already: another writer may not have come to its sync yet.
        self.sync()

    def write(self) -> None:
        """Put on disk, under names that nobody looks at, what waits in memory; it is not durable.

        Raises
        ------
        BlobError
            If it cannot. A store that is not local has it all afterwards.
        """
        sending, self._sending = self._sending, []
        for future in sending:
            future.result()
        with _disk_faults():
            self._write_held()

    def place(self) -> None:
        """Give what was written, and synced, its names; they are not durable before a sync.

        Raises
        ------
        BlobError
            If it cannot.
        """
        with _disk_faults():
            for sha256, path in self._staged.items():
                os.rename(path, f"{self._root}/{sha256[:2]}/{sha256}")  # noqa: PTH104
        self._staged.clear()

    def sync(self) -> None:
        """Make durable what any batch of this store has written and placed so far.

        Raises
        ------
        BlobError
            If it cannot.
        """
        if self._root is None or not self._fsync:
            return
        with _disk_faults():
            descriptor = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY)
            try:
                if _syncfs is None:
                    os.sync()
                elif _syncfs(descriptor):
                    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            finally:
                os.close(descriptor)

    def _ref(self, sha256: str, size_bytes: int, media_type: str) -> BlobRef:
        return BlobRef(
            uri=self._store.uri(sha256),
            sha256=sha256,
            size_bytes=size_bytes,
            media_type=media_type,
        )

    def _write_held(self) -> None:
        held, self._held = self._held, {}
        if len(held) < _WRITERS:
            for sha256, data in held.items():
                self._write_one(sha256, data)
            return
        # Each call into the kernel waits for its turn in the interpreter; some wait together.
        items = list(held.items())
        with ThreadPoolExecutor(_WRITERS, thread_name_prefix="blobs") as writers:
            for done in [
                writers.submit(self._write_some, items[number::_WRITERS])
                for number in range(_WRITERS)
            ]:
                done.result()

    def _write_some(self, items: list[tuple[str, bytes]]) -> None:
        for sha256, data in items:
            self._write_one(sha256, data)

    def _write_one(self, sha256: str, data: bytes) -> None:
        if sha256 in self._staged or self._is_there(sha256, len(data)):
            return
        descriptor, path = self._temporary()
        self._staged[sha256] = path
        try:
            _write(descriptor, data)
        finally:
            os.close(descriptor)

    def abort(self) -> None:
        """Drop what was not committed; harmless afterwards."""
        for path in self._staged.values():
            Path(path).unlink(missing_ok=True)
        self._staged.clear()
        self._held.clear()
        for future in self._sending:
            future.cancel()
        self._sending.clear()
        if self._senders is not None:
            self._senders.shutdown(wait=True, cancel_futures=True)
            self._senders = None

    def _temporary(self) -> tuple[int, str]:
        path = f"{self._root}/incoming/batch-{_PREFIX}-{next(_numbers)}"
        try:
            return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), path
        except OSError as error:
            msg = f"a blob cannot be begun: {error}"
            raise BlobError(msg) from error

    def _is_there(self, sha256: str, size_bytes: int) -> bool:
        try:
            found = os.stat(f"{self._root}/{sha256[:2]}/{sha256}")  # noqa: PTH116
        except OSError:
            return False
        return found.st_size == size_bytes

    def _send(
        self,
        chunks: Iterable[bytes],
        media_type: str,
        check: Callable[[int], None] | None,
    ) -> BlobRef:
        # Round trips to an object store are what takes long: some are under way at once.
        writer = self._store.writer()
        digest = hashlib.sha256()
        size_bytes = 0
        try:
            for chunk in chunks:
                size_bytes += len(chunk)
                if check is not None:
                    check(size_bytes)
                digest.update(chunk)
                writer.write(chunk)
        except BaseException:
            writer.abort()
            raise
        if self._senders is None:
            self._senders = ThreadPoolExecutor(_SENDERS, thread_name_prefix="blobs")
        # What waits is held in memory or a temporary file: not too much of it.
        waiting = [future for future in self._sending if not future.done()]
        if len(waiting) >= 2 * _SENDERS:
            with contextlib.suppress(BlobError):
                waiting[0].result()
        self._sending.append(self._senders.submit(writer.commit, media_type=media_type))
        return self._ref(digest.hexdigest(), size_bytes, media_type)


@contextlib.contextmanager
def _disk_faults() -> Iterator[None]:
    try:
        yield
    except BlobError:
        raise
    except OSError as error:
        msg = f"blobs cannot be made durable: {error}"
        raise BlobError(msg) from error


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(descriptor, view) :]
    except OSError as error:
        msg = f"a blob cannot be written: {error}"
        raise BlobError(msg) from error


def _find_syncfs() -> Callable[[int], int] | None:
    # Linux: the file system of a descriptor, and errors of writing back are told (since 5.8).
    try:
        function = ctypes.CDLL(None, use_errno=True).syncfs
    except (AttributeError, OSError):
        return None
    function.argtypes = [ctypes.c_int]
    function.restype = ctypes.c_int
    return lambda descriptor: int(function(descriptor))


_syncfs = _find_syncfs()
