"""Where instances become durable: one file, one fsync, and nothing else before Success.

An instance is written to a *slot*, an empty file that was made, and its folder fsynced, beforehand.
Behind the instance's bytes goes a trailer with its outbox record. One fdatasync makes both durable;
from then on a crash loses neither, whatever became of the processes. Ledger and blob store follow
at leisure (see ``filing``)::

    [ DICOM file, as it will lie in the blob store ][ record ][ zeros ][ fixed-size end ]

The end tells the sizes, guards the record with a CRC and names the digest of the DICOM file: after
a power cut a slot whose blocks did not all reach the disk is recognised. It was never acknowledged.

Where the file system allows it the bytes go past the page cache (O_DIRECT), in whole blocks: a
cached write costs several times the CPU, and its fdatasync has all the work still before it. That
is what the zeros are for.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import mmap
import os
import struct
import threading
import zlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from dicom_gateway.storing.identifiers import Buffer

_MAGIC = b"BDMSLOT1"
_END = struct.Struct("<QII32s8s")
_SUFFIX = ".slot"
_READ_BYTES = 1 << 20
_BLOCK_BYTES = 4096
_STAGE_BYTES = 1 << 20
_KEPT_STAGES = 4
MAX_RECORD_BYTES = 1 << 20
"""Longest record that a trailer may claim."""

SPARE_SLOTS = 32
"""Slots that wait ready; a burst of more arrivals makes its own, each with a folder fsync."""


@dataclass(frozen=True)
class Stored:
    """A durable instance in the inbox.

    Parameters
    ----------
    name : str
        Its slot.
    sha256 : str
        Digest of the DICOM file.
    size_bytes : int
        Its size without the trailer.
    record : bytes
        What was recorded with it.
    """

    name: str
    sha256: str
    size_bytes: int
    record: bytes


@dataclass(frozen=True)
class Found:
    """What a slot of a gateway that is gone holds.

    Parameters
    ----------
    name : str
        The slot.
    sha256, size_bytes : str, int
        Of its bytes without a trailer.
    record : bytes or None
        What was recorded with an instance that is whole. Without one, the instance either never
        became durable, or its trailer was taken off already because the ledger knows it.
    """

    name: str
    sha256: str
    size_bytes: int
    record: bytes | None


class Slot:
    """A file that takes one instance; closed by ``commit`` or ``discard``."""

    def __init__(self, path: Path, descriptor: int, stages: deque[mmap.mmap]) -> None:
        self._path = path
        self._descriptor = descriptor
        self._stages = stages
        self._stage = _take_stage(stages)
        self._view = memoryview(self._stage)
        self._staged_bytes = 0
        self._digest = hashlib.sha256()
        self.size_bytes = 0

    def write(self, data: Buffer) -> None:
        """Append bytes of the DICOM file.

        Raises
        ------
        OSError
            If the disk cannot take them.
        """
        self._digest.update(data)
        self._append(data)
        self.size_bytes += len(data)

    def _append(self, data: Buffer) -> None:
        position, size_bytes = 0, len(data)
        while position < size_bytes:
            start = self._staged_bytes
            count = min(size_bytes - position, _STAGE_BYTES - start)
            self._view[start : start + count] = data[position : position + count]
            position += count
            self._staged_bytes += count
            if self._staged_bytes == _STAGE_BYTES:
                self._flush()

    def _flush(self) -> None:
        # A stage begins on a page, and only whole blocks are flushed, as O_DIRECT wants it.
        left = self._view[: self._staged_bytes]
        while left:
            left = left[os.write(self._descriptor, left) :]
        self._staged_bytes = 0

    @property
    def sha256(self) -> str:
        """Digest of what was written so far."""
        return self._digest.hexdigest()

    def read_back(self, size_bytes: int, *, offset: int) -> bytes:
        """Read what was written, or as much of it as there is."""
        flushed_bytes = self.size_bytes - self._staged_bytes
        with self._path.open("rb") as file:
            data = file.read(min(flushed_bytes, offset + size_bytes))
        data += self._view[: max(0, offset + size_bytes - flushed_bytes)]
        return data[offset : min(self.size_bytes, offset + size_bytes)]

    def commit(self, record: bytes) -> Stored:
        """Make instance and record durable.

        Raises
        ------
        OSError
            If they are not; nothing may be acknowledged then.
        """
        digest = self._digest.digest()
        self._append(record)
        self._append(bytes(-(self._staged_bytes + _END.size) % _BLOCK_BYTES))
        self._append(_END.pack(self.size_bytes, len(record), zlib.crc32(record), digest, _MAGIC))
        self._flush()
        os.fdatasync(self._descriptor)
        self._close()
        return Stored(self._path.name, digest.hex(), self.size_bytes, record)

    def discard(self) -> None:
        """Remove what was written; harmless after ``commit``."""
        if self._descriptor >= 0:
            self._close()
            with contextlib.suppress(OSError):
                self._path.unlink()

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
            self._view.release()
            if len(self._stages) < _KEPT_STAGES:
                self._stages.append(self._stage)


def _take_stage(stages: deque[mmap.mmap]) -> mmap.mmap:
    try:
        return stages.pop()
    except IndexError:
        return mmap.mmap(-1, _STAGE_BYTES)


class Inbox:
    """Slots of one process.

    Parameters
    ----------
    folder : Path
        Shared by all processes of a gateway.
    token : str
        Makes the names of this process' slots its own.
    spare : int
        Slots that are kept ready.

    Raises
    ------
    OSError
        If no slot can be made.
    """

    def __init__(self, folder: Path, *, token: str, spare: int = SPARE_SLOTS) -> None:
        self._folder = folder
        self._token = token
        self._spare = spare
        self._numbers = itertools.count()
        self._ready: deque[str] = deque()
        self._stages: deque[mmap.mmap] = deque()
        folder.mkdir(parents=True, exist_ok=True)
        self._folder_descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        self._wanted = threading.Event()
        self._closed = False
        try:
            self._flags = _direct_if_possible(folder / f"{token}-try{_SUFFIX}")
            self._make(spare)
        except OSError:
            os.close(self._folder_descriptor)
            raise
        self._thread = threading.Thread(target=self._replenish, name="inbox", daemon=True)
        self._thread.start()

    def take(self) -> Slot:
        """Begin an instance.

        Raises
        ------
        OSError
            If no file can be made.
        """
        while True:
            try:
                name = self._ready.popleft()
            except IndexError:
                self._make(1)
                continue
            if len(self._ready) < self._spare // 2:
                self._wanted.set()
            path = self._folder / name
            return Slot(path, os.open(path, os.O_WRONLY | os.O_CLOEXEC | self._flags), self._stages)

    def close(self) -> None:
        """Remove the slots that nothing was written to."""
        self._closed = True
        self._wanted.set()
        self._thread.join()
        while self._ready:
            with contextlib.suppress(OSError):
                (self._folder / self._ready.popleft()).unlink()
        os.close(self._folder_descriptor)

    def _make(self, count: int) -> None:
        names = [f"{self._token}-{next(self._numbers):x}{_SUFFIX}" for _ in range(count)]
        for name in names:
            os.close(
                os.open(
                    self._folder / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600
                )
            )
        # Only a slot whose name is durable may be written to: its fdatasync is then all there is.
        os.fsync(self._folder_descriptor)
        self._ready.extend(names)

    def _replenish(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()
            if self._closed:
                return
            # A full disk is told to whoever takes a slot.
            with contextlib.suppress(OSError):
                self._make(max(0, self._spare - len(self._ready)))


def _direct_if_possible(path: Path) -> int:
    # Some file systems refuse the flag at open, others the first write.
    direct = getattr(os, "O_DIRECT", 0)
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC | direct, 0o600)
        try:
            os.write(descriptor, mmap.mmap(-1, _BLOCK_BYTES))
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return 0
    finally:
        path.unlink(missing_ok=True)
    return direct


def recover(folder: Path, token: str = "") -> Iterator[Found]:
    """Yield what processes that are gone have left in their slots.

    Parameters
    ----------
    folder : Path
        The inbox.
    token : str
        Of one process; '' for all, when none writes.
    """
    if folder.is_dir():
        for path in sorted(folder.glob(f"{token}*{_SUFFIX}")):
            with path.open("rb") as file:
                stored = _read_trailer(file)
                size_bytes = stored.size_bytes if stored else file.seek(0, os.SEEK_END)
                sha256 = _digest(file, size_bytes)
            whole = stored is not None and stored.sha256 == sha256
            yield Found(path.name, sha256, size_bytes, stored.record if stored and whole else None)


def _read_trailer(file: BinaryIO) -> Stored | None:
    file_bytes = file.seek(0, os.SEEK_END)
    if file_bytes < _END.size:
        return None
    file.seek(file_bytes - _END.size)
    size_bytes, record_bytes, crc, digest, magic = _END.unpack(file.read(_END.size))
    if (
        magic != _MAGIC
        or record_bytes > MAX_RECORD_BYTES
        or not 0 <= file_bytes - size_bytes - record_bytes - _END.size < _BLOCK_BYTES
    ):
        return None
    file.seek(size_bytes)
    record = file.read(record_bytes)
    if zlib.crc32(record) != crc:
        return None
    return Stored("", digest.hex(), size_bytes, record)


def _digest(file: BinaryIO, size_bytes: int) -> str:
    file.seek(0)
    digest = hashlib.sha256()
    while size_bytes:
        piece = file.read(min(size_bytes, _READ_BYTES))
        if not piece:
            break
        digest.update(piece)
        size_bytes -= len(piece)
    return digest.hexdigest()
