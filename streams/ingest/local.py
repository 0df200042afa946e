"""Files of this machine, from folders that the operator has allowed."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast
from urllib.parse import unquote_to_bytes, urlsplit

MAX_RELPATH_CHARACTERS = 1024
"""What an event takes (``schemas.base.RelPath``)."""

_DIGEST_CHARACTERS = 16


class IngestError(Exception):
    """A request that cannot be served.

    Parameters
    ----------
    reason : str
        Short stable code; it becomes the dead letter's reason.
    detail : str
        What is wrong and what to do.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


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

    def read(self, size_bytes: int) -> bytes:
        data = self._file.read(size_bytes)
        self._read_bytes += len(data)
        self.require(self._read_bytes)
        return data


def dataset_path(name: str) -> str:
    r"""Say where a file stands in a dataset, as text that an event can hold.

    Parameters
    ----------
    name : str
        Path relative to the dataset. Bytes of it that are no text come as surrogates, as Python
        reads file names; they are written as ``\xNN``. Of a path that is too long, a digest of all
        of it takes the place of its beginning.
    """
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    if len(text) <= MAX_RELPATH_CHARACTERS:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:_DIGEST_CHARACTERS]
    return f"{digest}~{text[len(digest) + 1 - MAX_RELPATH_CHARACTERS :]}"
