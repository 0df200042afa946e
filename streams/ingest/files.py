"""Files and folders of this machine, under allowed roots."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

from streams.ingest.errors import IngestError, LimitError, SourceChangedError
from streams.ingest.local import open_bounded, resolve, resolve_allowed
from streams.ingest.names import dataset_path
from streams.ingest.sources import Asked, Entry
from streams.ingest.stream import PIECE_BYTES


class FileProvider:
    """``file:///PATH`` of a file, or of a folder with all files below it.

    Parameters
    ----------
    roots : sequence of Path
        Folders from which it may read.
    max_bytes : int
        Largest file or archive.
    max_files : int
        Most files of a folder.
    """

    def __init__(self, roots: Sequence[Path], *, max_bytes: int, max_files: int) -> None:
        self._roots = roots
        self._max_bytes = max_bytes
        self._max_files = max_files

    def serves(self, url: str) -> bool:
        """Whether it is a file URL."""
        return url.lower().startswith("file:")

    def entries(self, asked: Asked) -> Iterator[Entry]:
        """Give the file, or the files of the folder by name."""
        folder = self._folder(asked.url)
        if folder is None:
            path = resolve(asked.url, self._roots)
            yield Entry(FileSource(path, self._max_bytes), origin="local")
            return
        for count, path in enumerate(_walk(folder), 1):
            if count > self._max_files:
                raise LimitError("too-many-members", f"more than {self._max_files} files")
            relative = dataset_path(str(path.relative_to(folder)))
            yield Entry(FileSource(path, self._max_bytes), path=relative, origin="local")

    def _folder(self, url: str) -> Path | None:
        try:
            raw = os.fsdecode(unquote_to_bytes(urlsplit(url).path))
        except ValueError:
            return None
        if not raw.endswith("/"):
            return None
        path = resolve_allowed(url, self._roots)
        return path if path.is_dir() else None


class FileSource:
    """The bytes of one file.

    Parameters
    ----------
    path : Path
        Checked.
    max_bytes : int
        Most that it may hold.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self.name = path.name
        self.media_type = ""
        self.validator = ""

    def chunks(self, offset: int = 0, validator: str = "") -> Iterator[bytes]:
        """Read from an offset to the end."""
        try:
            with open_bounded(self._path, self._max_bytes) as file:
                status = os.fstat(file.fileno())
                self.validator = f"{status.st_ino}:{status.st_size}:{status.st_mtime_ns}"
                if offset and validator != self.validator:
                    raise SourceChangedError
                if offset:
                    os.lseek(file.fileno(), offset, os.SEEK_SET)
                while data := file.read(PIECE_BYTES):
                    yield data
        except OSError as error:
            raise IngestError(
                "unreadable", f"the file cannot be read ({type(error).__name__})"
            ) from None


def _walk(folder: Path) -> Iterator[Path]:
    # By name, so that a request which goes on meets the files in the same order. Links are left
    # out: what they lead to is somewhere else.
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path))
        elif entry.is_file(follow_symlinks=False):
            yield Path(entry.path)
