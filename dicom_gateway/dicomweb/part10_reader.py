"""The head of a DICOM file that somebody else wrote (PS3.10 section 7.1): where its dataset begins.

Only the File Meta Information is read. Its group length is wrong in many files, so the elements
themselves say where it ends.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from dicom_gateway.storing.identifiers import Buffer
from dicom_gateway.storing.statuses import UnreadableDatasetError

MAX_META_BYTES = 64 * 1024
"""Preamble and File Meta Information together; real ones have some hundred bytes."""

_PREAMBLE_BYTES = 128
_START = _PREAMBLE_BYTES + 4
_GROUP = 0x0002
_GROUP_LENGTH, _SOP_CLASS, _SOP_INSTANCE, _TRANSFER_SYNTAX = 0x0000, 0x0002, 0x0003, 0x0010
_LONG_VRS = frozenset((b"OB", b"OW", b"SQ", b"UC", b"UN", b"UR", b"UT"))
_SHORT_VRS = frozenset((b"AE", b"CS", b"LO", b"LT", b"SH", b"ST", b"UI", b"UL", b"US"))
_UNDEFINED = 0xFFFFFFFF


@dataclass(frozen=True)
class FileMeta:
    """What the File Meta Information says.

    Parameters
    ----------
    sop_class_uid, sop_instance_uid, transfer_syntax_uid : str
        (0002,0002), (0002,0003) and (0002,0010); empty where absent.
    size_bytes : int
        Bytes before the dataset, the preamble among them.
    """

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    size_bytes: int


def read_file_meta(head: Buffer, *, at_end: bool) -> FileMeta | None:
    """Read the File Meta Information.

    Parameters
    ----------
    head : bytes-like
        The file's first bytes.
    at_end : bool
        Whether these are all.

    Returns
    -------
    FileMeta or None
        None if it takes more bytes than these to tell.

    Raises
    ------
    UnreadableDatasetError
        If this is no DICOM file, or breaks off, or the information is longer than
        ``MAX_META_BYTES``.
    """
    data = memoryview(head).cast("B")
    if len(data) >= _START and bytes(data[_PREAMBLE_BYTES:_START]) != b"DICM":
        raise _no_file()
    if len(data) >= _START:
        found = _walk(data, at_end=at_end)
        if found is not None:
            return found
    if at_end:
        raise _no_file() if len(data) < _START else _broken_off()
    if len(data) > MAX_META_BYTES:
        msg = f"the File Meta Information does not end within {MAX_META_BYTES} bytes"
        raise UnreadableDatasetError(msg)
    return None


def _walk(data: memoryview, *, at_end: bool) -> FileMeta | None:
    values: dict[int, bytes] = {}
    declared_end = -1
    offset = _START
    while True:
        header = data[offset : offset + 8]
        if len(header) < 8 and not at_end:
            return None
        element = _element(data, offset)
        if element is None:
            # Behind the right length anything may follow, a deflated dataset too; elsewhere an
            # element of this group that cannot be read is a fault.
            if offset != declared_end and header[:2] == _GROUP.to_bytes(2, "little"):
                if len(data) - offset < 12 and not at_end:
                    return None
                msg = "the File Meta Information holds something else than elements"
                raise UnreadableDatasetError(msg)
            return FileMeta(
                _text(values.get(_SOP_CLASS)),
                _text(values.get(_SOP_INSTANCE)),
                _text(values.get(_TRANSFER_SYNTAX)),
                offset,
            )
        number, start, size_bytes = element
        end = start + size_bytes
        if end > MAX_META_BYTES:
            msg = f"the File Meta Information is longer than {MAX_META_BYTES} bytes"
            raise UnreadableDatasetError(msg)
        if end > len(data):
            return None
        values[number] = bytes(data[start:end])
        if number == _GROUP_LENGTH and size_bytes == 4:
            declared_end = end + int(struct.unpack("<I", values[number])[0])
        offset = end


def _element(data: memoryview, offset: int) -> tuple[int, int, int] | None:
    # Number within the group, start and length of the value.
    if len(data) - offset < 8:
        return None
    group, number, vr, length = struct.unpack_from("<HH2sH", data, offset)
    if group != _GROUP:
        return None
    if vr in _SHORT_VRS:
        return number, offset + 8, length
    if vr not in _LONG_VRS or len(data) - offset < 12:
        return None
    (length,) = struct.unpack_from("<I", data, offset + 8)
    return None if length == _UNDEFINED else (number, offset + 12, length)


def _text(value: bytes | None) -> str:
    return (value or b"")[:128].decode("ascii", "replace").strip(" \x00")


def _no_file() -> UnreadableDatasetError:
    return UnreadableDatasetError("no DICOM file: a preamble and DICM must come first")


def _broken_off() -> UnreadableDatasetError:
    return UnreadableDatasetError("the file breaks off in its File Meta Information")
