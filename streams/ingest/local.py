"""Files of this machine, from folders that the operator has allowed."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast
from urllib.parse import unquote_to_bytes, urlsplit

from streams.ingest.errors import IngestError
from streams.ingest.names import MAX_RELPATH_CHARACTERS, dataset_path

__all__ = [
    "MAX_RELPATH_CHARACTERS",
    "IngestError",
    "dataset_path",
    "open_bounded",
    "resolve",
    "resolve_allowed",
]


def resolve(url: str, roots: Sequence[Path]) -> Path:
    """Find the regular file that a ``file://`` URL names, under an allowed folder.

    Parameters
    ----------
    url : str
        ``file:///...``.
    roots : sequence of Path
        Allowed folders.

    Returns
    -------
    Path
        The file, with every symbolic link followed, so that what was checked is what is read.

    Raises
    ------
    IngestError
        If the URL is of another kind, or the file is absent, outside, or not a regular file. Of
        what lies outside, the answer does not tell whether it exists.
    """
    path = resolve_allowed(url, roots)
    try:
        path = path.resolve(strict=True)
        regular = path.is_file()
    except (OSError, RuntimeError) as error:
        raise IngestError(
            "not-found", f"the file cannot be found ({type(error).__name__})"
        ) from None
    if not regular:
        raise IngestError("not-a-file", "the path is not a regular file")
    return path


def resolve_allowed(url: str, roots: Sequence[Path]) -> Path:
    """Find the path that a ``file://`` URL names, whatever is there, under an allowed folder.

    Raises
    ------
    IngestError
        If the URL is of another kind, or leads outside.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        raise IngestError("unsupported-url", "not a URL; file:///PATH is served") from None
    if parts.scheme != "file" or parts.netloc not in ("", "localhost"):
        raise IngestError("unsupported-url", "file:///PATH is served, no other scheme or host")
    try:
        # A file name is bytes; what is no text in it is kept, and finds the file.
        raw = os.fsdecode(unquote_to_bytes(parts.path))
    except UnicodeEncodeError:
        raw = ""
    if "\0" in raw or not raw.startswith("/"):
        raise IngestError("unsupported-url", "the path is not absolute, or holds a NUL")
    try:
        path = Path(raw).resolve()
        allowed = any(path.is_relative_to(root.resolve()) for root in roots)
    except (OSError, RuntimeError):
        allowed = False
    if not allowed:
        raise IngestError(
            "outside-roots", "the file is in no allowed folder; see BIODATAMINE_INGEST_ROOTS"
        )
    return path


@contextmanager
def open_bounded(path: Path, max_bytes: int) -> Iterator[BinaryIO]:
    """Open a file that is read whole.

    Parameters
    ----------
    path : Path
        As ``resolve`` found it; what took its place since is judged again.
    max_bytes : int
        Most that it may hold, also when it grows while it is read.

    Yields
    ------
    BinaryIO
        Its ``read`` raises ``IngestError`` beyond the bound.

    Raises
    ------
    IngestError
        If it is not a regular file, or too large.
    OSError
        If it cannot be opened.
    """
    # Without O_NONBLOCK, opening a pipe would wait for somebody to write to it.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise IngestError("not-a-file", "the path is not a regular file")
        bounded = _Bounded(cast("BinaryIO", file), max_bytes)
        bounded.require(status.st_size)
        yield cast("BinaryIO", bounded)


class _Bounded:
    def __init__(self, file: BinaryIO, max_bytes: int) -> None:
        self._file = file
        self._max_bytes = max_bytes
        self._read_bytes = 0

    def require(self, size_bytes: int) -> None:
        if size_bytes > self._max_bytes:
            raise IngestError(
                "too-large",
                f"the file has {size_bytes} bytes or more, the limit is {self._max_bytes}; "
                "see BIODATAMINE_INGEST_MAX_FILE_BYTES",
            )

    def fileno(self) -> int:
        return self._file.fileno()

    def read(self, size_bytes: int) -> bytes:
        data = self._file.read(size_bytes)
        self._read_bytes += len(data)
        self.require(self._read_bytes)
        return data
