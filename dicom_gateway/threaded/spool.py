"""Where a dataset waits while its fragments arrive: memory first, then a file without a name."""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO, Any

from dicom_gateway.storing.statuses import DatasetTooLargeError, OutOfResourcesError, StoreError


class SpooledDataset(BytesIO):
    """The dataset of a C-STORE message as pynetdicom assembles it.

    A write never raises: it runs inside the upper-layer state machine, where an exception would
    end the association without a status. What went wrong is kept in ``failure``, the rest of the
    dataset is read and dropped, and the C-STORE handler answers.

    Parameters
    ----------
    memory_bytes : int
        Up to this size the dataset stays in memory.
    max_bytes : int
        A longer dataset is dropped.
    folder : Path
        Where the file is made; it has no name there, so nothing is left when the process dies.
    """

    def __init__(self, *, memory_bytes: int, max_bytes: int, folder: Path) -> None:
        super().__init__()
        self._memory_bytes = memory_bytes
        self._max_bytes = max_bytes
        self._folder = folder
        self._file: IO[bytes] | None = None
        self.size_bytes = 0
        self.failure: StoreError | None = None

    def write(self, data: Any, /) -> int:
        """Append bytes."""
        size_bytes = len(data)
        if self.failure is not None:
            return size_bytes
        self.size_bytes += size_bytes
        if self.size_bytes > self._max_bytes:
            self._fail(DatasetTooLargeError(f"the limit is {self._max_bytes} bytes"))
            return size_bytes
        try:
            if self._file is None and self.size_bytes > self._memory_bytes:
                self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 (closed below)
                with self.getbuffer() as held:
                    self._file.write(held)
                self._release()
            if self._file is not None:
                self._file.write(data)
            else:
                super().write(data)
        except OSError:
            self._fail(OutOfResourcesError("no space for the dataset while it arrives"))
        return size_bytes

    def _release(self) -> None:
        self.seek(0)
        self.truncate()

    def _fail(self, error: StoreError) -> None:
        self.failure = error
        self._release()
        if self._file is not None:
            self._file.close()
            self._file = None

    @contextmanager
    def view(self) -> Iterator[memoryview]:
        """Give the whole dataset as one buffer, without copying it.

        Raises
        ------
        StoreError
            If it could not be taken.
        """
        if self.failure is not None:
            raise self.failure
        if self._file is None:
            with self.getbuffer() as view:
                yield view
            return
        self._file.flush()
        with (
            mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
            memoryview(mapped) as view,
        ):
            yield view

    def close(self) -> None:
        """Free the memory or the file."""
        if self._file is not None:
            self._file.close()
            self._file = None
        super().close()
