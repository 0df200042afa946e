"""Tar, read from front to back (POSIX.1-2017 pax, ustar, and GNU's long names).

The headers are parsed by the standard library; its reader is not used, since it takes a pax header
of any length into memory.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator

from streams.ingest.errors import IngestError
from streams.ingest.limits import Budget
from streams.ingest.members import Member
from streams.ingest.stream import ByteStream

_BLOCK_BYTES = 512
_MAX_HEADER_BYTES = 1 << 20
_MAX_MEMBER_BYTES = 1 << 60
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_LINKS = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
}


def is_tar(head: bytes) -> bool:
    """Whether the first 512 bytes are a tar header: what its checksum says."""
    if len(head) < _BLOCK_BYTES or not head[0] or head[257:262] not in (b"ustar", bytes(5)):
        return False
    try:
        tarfile.TarInfo.frombuf(head[:_BLOCK_BYTES], "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError):
        return False
    return True


class TarReader:
    """Members of a tar.

    Parameters
    ----------
    stream : ByteStream
        At its beginning, or between two members.
    budget : Budget
        What the request may cost.
    state : dict, optional
        Nothing has to be known to go on.
    """

    def __init__(
        self, stream: ByteStream, budget: Budget, state: dict[str, int] | None = None
    ) -> None:
        del state
        self._stream = stream
        self._budget = budget
        self.boundary: tuple[int, dict[str, int]] = (stream.offset, {})
        """Where the member that was given last begins, its extended headers included."""

    def members(self) -> Iterator[Member]:
        """Give the members one after the other.

        Raises
        ------
        IngestError
            If the archive cannot be followed any further.
        LimitError
            If the request costs too much.
        """
        stream = self._stream
        pending: dict[str, str] = {}
        begins = stream.offset
        while True:
            block = stream.read(_BLOCK_BYTES)
            if block.count(0) == len(block):
                # A block of zeros ends it; many tools leave the end out when they are cut off.
                if not block:
                    raise IngestError("truncated", "the archive ends without its end mark")
                return
            if len(block) < _BLOCK_BYTES:
                raise IngestError("truncated", "the archive ends within a header")
            info = self._parsed(block)
            self._budget.member()
            if info.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE):
                records = _pax(self._small(info.size))
                if info.type != tarfile.XGLTYPE:
                    pending |= records
                continue
            if info.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
                text = self._small(info.size).split(b"\0")[0].decode("utf-8", "surrogateescape")
                if info.type == tarfile.GNUTYPE_LONGNAME:
                    pending["path"] = text
                continue
            self.boundary = (begins, {})
            yield from self._member(info, pending)
            pending = {}
            begins = stream.offset

    @staticmethod
    def _parsed(block: bytes) -> tarfile.TarInfo:
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except (tarfile.HeaderError, ValueError):
            raise IngestError("damaged", "a header of the archive is damaged") from None
        if not 0 <= info.size < _MAX_MEMBER_BYTES:
            raise IngestError("damaged", "a header of the archive tells an absurd size")
        return info

    def _small(self, size_bytes: int) -> bytes:
        if size_bytes > _MAX_HEADER_BYTES:
            raise IngestError("damaged", "an extended header of the archive is absurdly long")
        data = self._stream.exactly(size_bytes)
        self._stream.skip(_padding(size_bytes))
        return data

    def _member(self, info: tarfile.TarInfo, pending: dict[str, str]) -> Iterator[Member]:
        stream = self._stream
        name = pending.get("path", info.name)
        size_text = pending.get("size", "")
        size_bytes = info.size
        if size_text.isdecimal() and len(size_text) < 19:
            size_bytes = int(size_text)
        if info.type in _LINKS or info.type == tarfile.DIRTYPE:
            # Some writers give a hard link the size of its target, and no data.
            size_bytes = 0
        end = stream.offset + size_bytes
        sparse = info.type == tarfile.GNUTYPE_SPARSE or any(
            key.startswith("GNU.sparse.") for key in pending
        )
        if info.type == tarfile.DIRTYPE or (info.type == tarfile.AREGTYPE and name.endswith("/")):
            yield Member(name, "folder", iter(()))
        elif sparse:
            yield _refused(name, "unsupported-method", "the member is a sparse file of GNU tar")
            if info.type == tarfile.GNUTYPE_SPARSE:
                raise IngestError("unsupported-method", "the archive holds GNU sparse files")
        elif info.type in _LINKS:
            yield _refused(name, "not-a-file", f"the member is {_LINKS[info.type]}")
        elif info.type in _FILES:
            yield Member(name, "file", stream.pieces(size_bytes))
        else:
            yield _refused(name, "not-a-file", "the member is of an unknown type")
        stream.skip(end - stream.offset)
        padding = _padding(size_bytes)
        # The last member of an archive that was cut off at its end may lack it.
        if len(stream.read(padding)) < padding:
            raise IngestError("truncated", "the archive ends within a member")


def _padding(size_bytes: int) -> int:
    return -size_bytes % _BLOCK_BYTES


def _refused(name: str, reason: str, detail: str) -> Member:
    return Member(name, "refused", iter(()), fault=IngestError(reason, detail))


def _pax(data: bytes) -> dict[str, str]:
    r"""Read pax records ``LENGTH KEY=VALUE\n``; stop at the first that is none."""
    records: dict[str, str] = {}
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 20)
        if space < 0 or not data[at:space].isdigit():
            break
        end = at + int(data[at:space])
        if end <= space or end > len(data):
            break
        key, _, value = data[space + 1 : end - 1].partition(b"=")
        records[key.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        at = end
    return records
