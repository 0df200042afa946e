"""How far each request has come, so that a killed worker goes on where it was.

Local files beside the blobs' data folder: a small JSON object for each request that is not
finished, the hashes of the paths that it has given, and for sources that cannot be entered in the
middle (compressed tars, 7z) the bytes that came so far. All of it goes when the request ends; a
marker stays for as long as the log may bring the request again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from streams.ingest.errors import SourceChangedError
from streams.ingest.sources import Source

_NAME = re.compile(r"[A-Za-z0-9-]{1,64}")


@dataclass
class Counts:
    """What a request has given so far.

    Parameters
    ----------
    files, bytes : int
        Files found, and their bytes.
    unchanged : int
        Those that were known already with the same bytes.
    refused : int
        Members that were refused.
    fetched_bytes : int
        Bytes that came over the network or disk.
    """

    files: int = 0
    bytes: int = 0
    unchanged: int = 0
    refused: int = 0
    fetched_bytes: int = 0


@dataclass
class Checkpoint:
    """A point from which a request goes on.

    Parameters
    ----------
    entry : int
        Entries of the provider that are done.
    validator : str
        What the bytes of the present entry were read with.
    name : str
        File name of the present entry.
    mark : dict or None
        ``unpack.Mark`` of the present entry.
    members : int
        Members of all archives so far.
    names : int
        How many paths were given so far.
    counts : Counts
        What was given so far.
    done : bool
        Whether the request is finished.
    """

    entry: int = 0
    validator: str = ""
    name: str = ""
    mark: dict[str, Any] | None = None
    members: int = 0
    names: int = 0
    counts: Counts = field(default_factory=Counts)
    done: bool = False


class ProgressStore:
    """The progress of all requests of a worker.

    Parameters
    ----------
    folder : Path
        Where it is kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def open(self, event_id: str) -> Progress:
        """Take up a request, or begin it."""
        if not _NAME.fullmatch(event_id):
            event_id = hashlib.sha256(event_id.encode("utf-8", "replace")).hexdigest()
        return Progress(self._folder / event_id)

    def clear_workspaces(self) -> int:
        """Remove the workspaces that a killed worker left; return how many."""
        found = [path for path in self._folder.glob("*.work") if not _lives(path)]
        for path in found:
            shutil.rmtree(path, ignore_errors=True)
        return len(found)

    def sweep(self, *, older_than_seconds: float, now_seconds: float) -> int:
        """Remove what belongs to requests that the log has forgotten; return how many files.

        Parameters
        ----------
        older_than_seconds : float
            Longer than the log keeps requests.
        now_seconds : float
            The present, seconds since the epoch.
        """
        removed = 0
        for path in self._folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if now_seconds - path.stat().st_mtime > older_than_seconds and path.is_file():
                    path.unlink()
                    removed += 1
        return removed


class Progress:
    """The progress of one request.

    Parameters
    ----------
    base : Path
        Path of its files, without their suffixes.
    """

    def __init__(self, base: Path) -> None:
        self._base = base
        self.checkpoint = self._read()
        self.seen: dict[int, int] = {}
        self._names: BinaryIO | None = None

    @property
    def part(self) -> Path:
        """File that takes the bytes of a source which cannot be entered in the middle."""
        return self._path(".part")

    def load_names(self) -> None:
        """Read the paths that were given before the checkpoint, and forget later ones."""
        self.seen = {}
        path, kept = self._path(".names"), self.checkpoint.names
        file = path.open("a+b")
        file.seek(0)
        found = array("Q")
        found.frombytes(file.read(8 * kept))
        file.truncate(8 * len(found))
        for name in found:
            self.seen[name] = self.seen.get(name, 0) + 1
        self.checkpoint.names = len(found)
        self._close_names()
        self._names = file

    def unique(self, path: str) -> tuple[str, int]:
        """Give a path that this request has not given yet, and its hash.

        A second member of one name gets a number, always the same one: nothing of what came is
        hidden by another file, and the same archive gives the same paths again.
        """
        candidate = path
        while True:
            name = _hash(candidate)
            before = self.seen.get(name, 0)
            self.seen[name] = before + 1
            if not before:
                return candidate, name
            stem, dot, suffix = path.rpartition(".")
            if not dot or "/" in suffix or not stem or stem.endswith("/"):
                stem, suffix = path, ""
            number = before + 1
            candidate = f"{stem}~{number}{dot if suffix else ''}{suffix}"[-1024:]

    def save(self, checkpoint: Checkpoint, names: list[int]) -> None:
        """Note how far the request is; what came before is durable."""
        if self._names is not None and names:
            self._names.write(array("Q", names).tobytes())
            self._names.flush()
        self._write(checkpoint)

    def scratch(self) -> Path:
        """Make the workspace of the request, empty."""
        path = self._path(f".{os.getpid()}.work")
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder = path / str(len(list(path.iterdir())))
        folder.mkdir()
        return folder

    def restart(self) -> None:
        """Forget everything: the source is another one now."""
        self._close_names()
        for suffix in (".json", ".names", ".part"):
            self._path(suffix).unlink(missing_ok=True)
        self.checkpoint = Checkpoint()

    def end(self, *, done: bool) -> None:
        """Remove everything; after success a marker stays."""
        self.release()
        self._path(".names").unlink(missing_ok=True)
        self.part.unlink(missing_ok=True)
        if done:
            self._write(Checkpoint(counts=self.checkpoint.counts, done=True))
        else:
            self._path(".json").unlink(missing_ok=True)

    def release(self) -> None:
        """Close what is open and remove the workspace; what is noted stays."""
        self._close_names()
        shutil.rmtree(self._path(f".{os.getpid()}.work"), ignore_errors=True)

    def _write(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        path = self._path(".json")
        temporary = path.with_suffix(".json.new")
        temporary.write_bytes(orjson.dumps(checkpoint))
        temporary.replace(path)

    def _read(self) -> Checkpoint:
        try:
            found = orjson.loads(self._path(".json").read_bytes())
            return Checkpoint(**{**found, "counts": Counts(**found["counts"])})
        except (OSError, ValueError, TypeError, KeyError):
            # Nothing there, or what a power failure left of it: from the beginning.
            return Checkpoint()

    def _close_names(self) -> None:
        if self._names is not None:
            self._names.close()
            self._names = None

    def _path(self, suffix: str) -> Path:
        return self._base.with_name(self._base.name + suffix)


def spooled(source: Source, part: Path, validator: str) -> Iterator[bytes]:
    """Read a source from its beginning, from the kept bytes as far as they go.

    Parameters
    ----------
    source : Source
        Where the rest comes from.
    part : Path
        File that keeps what comes; it grows.
    validator : str
        What the kept bytes were read with; empty if there are none.

    Raises
    ------
    SourceChangedError
        If the rest is that of another file.
    """
    with part.open("a+b") as file:
        kept = file.seek(0, os.SEEK_END)
        if kept and not validator:
            file.truncate(0)
            kept = 0
        at = 0
        while at < kept:
            # The file has one position, and the end of this loop moves it.
            data = os.pread(file.fileno(), min(1 << 17, kept - at), at)
            if not data:
                raise SourceChangedError
            at += len(data)
            yield data
        for chunk in source.chunks(kept, validator if kept else ""):
            file.write(chunk)
            file.flush()
            yield chunk


def _lives(workspace: Path) -> bool:
    # Another worker of this data folder may be at work in it.
    pid = workspace.name.split(".")[-2]
    if not pid.isdecimal() or int(pid) == os.getpid():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _hash(text: str) -> int:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8)
    return int.from_bytes(digest.digest(), "little")
