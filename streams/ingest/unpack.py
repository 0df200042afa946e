"""Takes a source apart: archives to members, and members that are archives, to some depth."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from schemas.events import Source as Origin
from streams.ingest.compression import MAKERS, compressed_kind, inflate_file, inner_name
from streams.ingest.errors import IngestError, LimitError
from streams.ingest.limits import Budget
from streams.ingest.members import Member
from streams.ingest.names import dataset_path, member_path
from streams.ingest.seven_zip import SevenZipReader, is_seven_zip
from streams.ingest.stream import ByteStream
from streams.ingest.tar_reader import TarReader, is_tar
from streams.ingest.zip_reader import ZipReader, is_zip

Format = Literal["", "zip", "tar", "7z", "gz", "bz2", "xz", "zst"]

_ARCHIVES: dict[Format, Callable[[bytes], bool]] = {
    "zip": is_zip,
    "7z": is_seven_zip,
    "tar": is_tar,
}
_FIRST_BYTES = (b"PK", b"7z", b"\x1f\x8b", b"BZ", b"\xfd7", b"\x28\xb5")
HEAD_BYTES = 512
_PROBE_BYTES = 1 << 16
# Zip files that are one document: taken apart they would be rubbish.
_DOCUMENTS = (
    *(".docx", ".xlsx", ".pptx", ".odt", ".ods", ".odp", ".epub", ".jar", ".war", ".apk", ".whl"),
    *(".npz", ".mrb", ".pt", ".pth", ".ckpt", ".keras", ".kmz", ".3mf", ".ora", ".czi", ".vsix"),
)
# Formats whose files are compressed as a matter of course; the sniffer knows them as they are.
_KEPT_COMPRESSED = (".nii.gz", ".img.gz", ".hdr.gz", ".mgz", ".mgh.gz", ".mnc.gz", ".svgz")
_ARCHIVE_SUFFIXES = (
    *(".zip", ".tar", ".7z", ".tgz", ".tbz2", ".tbz", ".txz", ".tzst"),
    *(".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst"),
)
_HTML = (b"<!doctype html", b"<html", b"<head", b"<script", b"<body")


@dataclass(frozen=True)
class Leaf:
    """A file to keep. Its chunks are read before the next item is asked for.

    Parameters
    ----------
    path : str
        Place in the dataset.
    chunks : iterator of bytes
        Its bytes; raises ``IngestError`` where they are damaged.
    origin : str
        How it came.
    """

    path: str
    chunks: Iterator[bytes]
    origin: Origin


@dataclass(frozen=True)
class Fault:
    """A member that is refused; the others go on.

    Parameters
    ----------
    path : str
        Place that it would have had; empty if it has none.
    number : int
        Which member of the request it is.
    error : IngestError
        Why.
    """

    path: str
    number: int
    error: IngestError


@dataclass(frozen=True)
class Mark:
    """A point from which the same source can be gone on with.

    Parameters
    ----------
    format : str
        Of the source.
    members : int
        Members of the source itself that are done.
    offset : int
        Where the next one begins in the source; 0 where the source has to be read from its
        beginning, and the members that are done left out.
    state : dict
        What the reader has to know.
    """

    format: Format
    members: int = 0
    offset: int = 0
    state: dict[str, int] = field(default_factory=dict)


Item = Leaf | Fault | Mark


@dataclass(frozen=True)
class Place:
    """Where what comes out of a source belongs.

    Parameters
    ----------
    path : str
        Path of the source itself, for a source that is one file; members of an archive come
        below it. Empty to take the name of a file, and to put members at the root.
    origin : str
        How a source that is one file came.
    strip_parts, subfolder : int, str
        As ``sources.Entry``.
    promised : bool
        Whether to hold the source to its name and media type: a web page instead of an archive is
        a fault.
    """

    path: str = ""
    origin: Origin = "url"
    strip_parts: int = 0
    subfolder: str = ""
    promised: bool = True


class Unpacker:
    """Takes one source apart.

    Parameters
    ----------
    budget : Budget
        What the request may cost, all archives together.
    scratch : callable
        Gives an empty folder for what must be seekable.
    place : Place
        Where it belongs.
    unpack : bool
        Whether archives are taken apart at all.
    """

    def __init__(
        self, budget: Budget, scratch: Callable[[], Path], place: Place, *, unpack: bool = True
    ) -> None:
        self._budget = budget
        self._scratch = scratch
        self._place = place
        self._unpack = unpack

    def items(
        self, stream: ByteStream, name: str, media_type: str = "", begun: Mark | None = None
    ) -> Iterator[Item]:
        """Give files, refused members, and points to go on from.

        Parameters
        ----------
        stream : ByteStream
            The source, from its beginning or from ``begun.offset``.
        name : str
            File name of the source.
        media_type : str
            What the other side says that it is.
        begun : Mark, optional
            How far an earlier attempt came.

        Raises
        ------
        IngestError
            If the source as a whole is refused.
        """
        place = self._place
        head = stream.peek(HEAD_BYTES)
        kind = begun.format if begun else self.kind(stream, name)
        if not kind:
            if place.promised:
                _require_kept_promise(head, name, media_type)
            path = place.path or dataset_path(_plain(name))
            yield Leaf(path, stream.rest(), place.origin)
            return
        if kind in MAKERS:
            yield from self._compressed(kind, stream, name, begun)
            return
        yield from self._archive(kind, stream, begun, resumable=True)

    def kind(self, stream: ByteStream, name: str) -> Format:
        """Say what archive or compressed file a stream is; empty for a file to keep as it is."""
        lower = name.lower()
        if not self._unpack or lower.endswith(_DOCUMENTS):
            return ""
        head = stream.peek(HEAD_BYTES)
        if head[:2] not in _FIRST_BYTES and not is_tar(head):
            return ""
        for kind, recognised in _ARCHIVES.items():
            if recognised(head):
                return kind
        compressed = compressed_kind(head[:6])
        if not compressed or lower.endswith(_KEPT_COMPRESSED):
            return ""
        if compressed == "gz" and _is_nifti(stream.peek(_PROBE_BYTES)):
            return ""
        return compressed  # type: ignore[return-value]

    def _compressed(
        self, kind: Format, stream: ByteStream, name: str, begun: Mark | None
    ) -> Iterator[Item]:
        place = self._place
        inner = ByteStream(inflate_file(kind, stream, self._budget))
        named = inner_name(name, kind)
        head = inner.peek(HEAD_BYTES)
        if is_tar(head):
            yield from self._archive("tar", inner, begun, resumable=False, outer=kind)
        elif self.kind(inner, named):
            yield from self._archive(
                self.kind(inner, named), inner, begun, resumable=False, outer=kind
            )
        else:
            path = inner_name(place.path, kind) if place.path else dataset_path(_plain(named))
            yield Leaf(path, inner.rest(), place.origin)

    def _archive(
        self,
        kind: Format,
        stream: ByteStream,
        begun: Mark | None,
        *,
        resumable: bool,
        outer: Format = "",
    ) -> Iterator[Item]:
        if kind in MAKERS:
            raise IngestError("too-deep", "a compressed file inside a compressed file")
        from_offset = resumable and kind != "7z"
        reader = self._reader(kind, stream, begun.state if begun and from_offset else None)
        before = begun.members if begun else 0
        done = before if from_offset else 0
        for member in reader.members():
            if done >= before:
                offset, state = reader.boundary if from_offset else (0, {})
                yield Mark(outer or kind, done, offset, state)
                yield from self._member(member, self._place.path, depth=1, top=True)
            done += 1
        if done == 0 and kind != "tar":
            raise IngestError("empty-archive", "the archive has no members")

    def _reader(self, kind: Format, stream: ByteStream, state: dict[str, int] | None) -> Any:
        if kind == "zip":
            return ZipReader(stream, self._budget, state)
        if kind == "tar":
            return TarReader(stream, self._budget, state)
        return SevenZipReader(stream, self._budget, self._scratch)

    def _member(self, member: Member, folder: str, *, depth: int, top: bool) -> Iterator[Item]:
        number = self._budget.members
        try:
            path = self._path(member, folder, top=top)
        except IngestError as error:
            yield Fault("", number, error)
            return
        if path is None or member.kind == "folder":
            return
        if member.fault is not None:
            yield Fault(path, number, member.fault)
            return
        inner = ByteStream(member.chunks)
        try:
            kind = self.kind(inner, path)
            if not kind:
                yield Leaf(path, inner.rest(), self._member_origin())
                return
            if depth >= self._budget.limits.depth:
                raise IngestError(
                    "too-deep",
                    f"archives inside each other deeper than {self._budget.limits.depth}; "
                    "see BIODATAMINE_INGEST_MAX_DEPTH",
                )
            yield from self._nested(kind, inner, path, depth)
        except LimitError:
            raise
        except IngestError as error:
            yield Fault(path, number, error)

    def _nested(self, kind: Format, stream: ByteStream, path: str, depth: int) -> Iterator[Item]:
        if kind in MAKERS:
            inner = ByteStream(inflate_file(kind, stream, self._budget))
            named = inner_name(path, kind)
            inside = self.kind(inner, named)
            if not inside:
                yield Leaf(named, inner.rest(), self._member_origin())
                return
            if inside != "tar" and depth + 1 >= self._budget.limits.depth:
                raise IngestError("too-deep", "archives inside each other too deep")
            yield from self._nested(inside, inner, path, depth + (inside != "tar"))
            return
        for member in self._reader(kind, stream, None).members():
            yield from self._member(member, path, depth=depth + 1, top=False)

    def _member_origin(self) -> Origin:
        return "repository" if self._place.origin == "repository" else "archive"

    def _path(self, member: Member, folder: str, *, top: bool) -> str | None:
        """Say where a member belongs; None for one that is not wanted."""
        path = member_path(member.name, backslashes=member.backslashes)
        if top and (self._place.strip_parts or self._place.subfolder):
            parts = path.split("/")[self._place.strip_parts :]
            wanted = [part for part in self._place.subfolder.split("/") if part]
            if parts[: len(wanted)] != wanted:
                return None
            path = "/".join(parts[len(wanted) :])
        if not path:
            return None
        if "__MACOSX" in path.split("/")[:-1]:
            # Resource forks that macOS adds; no file of the dataset.
            return None
        return dataset_path(f"{folder}/{path}") if folder else path


def _plain(name: str) -> str:
    try:
        return member_path(name.rpartition("/")[2]) or "file"
    except IngestError:
        return "file"


def _is_nifti(head: bytes) -> bool:
    """Whether a gzip holds NIfTI-1 or -2: magic at 344 and at 4 of the header."""
    try:
        start = zlib.decompressobj(31).decompress(head, 352)
    except zlib.error:
        return False
    return start[344:348] in (b"n+1\0", b"ni1\0") or start[4:8] in (b"n+2\0", b"ni2\0")


def _require_kept_promise(head: bytes, name: str, media_type: str) -> None:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith(_HTML) and not name.lower().endswith((".html", ".htm")):
        raise IngestError(
            "wrong-content-type",
            "a web page came instead of a file: the URL is that of a page, or needs a login",
        )
    if name.lower().endswith(_ARCHIVE_SUFFIXES):
        raise IngestError("not-an-archive", "the name is that of an archive, the bytes are not")
    if media_type in ("application/zip", "application/x-tar", "application/x-7z-compressed"):
        raise IngestError(
            "wrong-content-type", f"the server calls it {media_type}; the bytes are not"
        )
