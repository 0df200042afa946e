"""The UIDs of an encoded dataset, read without decoding anything else.

One walk over the element headers up to Series Instance UID (0020,000E); values are skipped by their
length, nested sequences without recursion. The pixel data are never reached, so the size of a
dataset does not matter. Every bound is fixed, and any bytes whatever end in UIDs or in one typed
error.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import TypeAlias

from dicom_gateway.storing.part10 import is_instance_uid
from dicom_gateway.storing.statuses import UidMismatchError, UnreadableDatasetError

Buffer: TypeAlias = "bytes | bytearray | memoryview"

MAX_ELEMENTS = 100_000
"""Elements, nested ones among them, before Series Instance UID; real headers have hundreds."""

MAX_DEPTH = 32
"""Nesting of sequences without a length."""

MAX_INFLATED_BYTES = 8 << 20
"""How much of a deflated dataset is inflated to find its UIDs."""

EXPLICIT_VR_BIG_ENDIAN = "1.2.840.10008.1.2.2"
_DEFLATED = frozenset({
    "1.2.840.10008.1.2.1.99",  # Deflated Explicit VR Little Endian
    "1.2.840.10008.1.2.4.95",  # JPIP Referenced Deflate
    "1.2.840.10008.1.2.4.205",  # JPIP HTJ2K Referenced Deflate
})  # fmt: skip

_SOP_CLASS = 0x00080016
_SOP_INSTANCE = 0x00080018
_STUDY = 0x0020000D
_SERIES = 0x0020000E
_WANTED = frozenset({_SOP_CLASS, _SOP_INSTANCE, _STUDY, _SERIES})

_ITEM = 0xFFFEE000
_ITEM_END = 0xFFFEE00D
_SEQUENCE_END = 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
_ELEMENT_BYTES = 8
_LENGTH_BYTES = 4
_TAG_BYTES = 4

LONG_VRS = frozenset(
    (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
)
_SHORT_VRS = frozenset(
    (b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN",
     b"SH", b"SL", b"SS", b"ST", b"TM", b"UI", b"UL", b"US")
)  # fmt: skip


@dataclass(frozen=True)
class Identifiers:
    """By which UIDs a dataset names itself.

    Parameters
    ----------
    sop_class_uid, sop_instance_uid : str
        (0008,0016) and (0008,0018).
    study_uid, series_uid : str
        (0020,000D) and (0020,000E). Empty where the dataset has none, as a Color Palette or Hanging
        Protocol rightly has, or holds something there that is not a UID.
    """

    sop_class_uid: str
    sop_instance_uid: str
    study_uid: str
    series_uid: str


class IncompleteHeaderError(UnreadableDatasetError):
    """The bytes break off before the Series Instance UID; with more of them there may be one."""


def read_identifiers(
    dataset: Buffer, transfer_syntax_uid: str, *, is_whole: bool = True
) -> Identifiers:
    """Read the UIDs of an encoded dataset.

    Parameters
    ----------
    dataset : bytes-like
        Dataset without preamble and File Meta Information, as in a C-STORE message; or its begin.
    transfer_syntax_uid : str
        In which it is encoded.
    is_whole : bool
        Whether the bytes are the whole dataset.

    Raises
    ------
    IncompleteHeaderError
        If they break off before the last of the UIDs.
    UnreadableDatasetError
        If the bytes are no dataset in that transfer syntax.
    UidMismatchError
        If they are, and name no SOP Class or SOP Instance.
    """
    data = memoryview(dataset).cast("B")
    cut = False
    if transfer_syntax_uid in _DEFLATED:
        data, cut = _inflate(data)
    little = transfer_syntax_uid != EXPLICIT_VR_BIG_ENDIAN
    # The first element says whether value representations are there. Private syntaxes tell it in
    # no other way, and some files contradict their syntax; a wrong guess fails, and never misleads,
    # because what is found has to be what the command names.
    explicit = bytes(data[4:6]) in LONG_VRS | _SHORT_VRS
    walk = _Walk(data, explicit=explicit, little=little)
    values = walk.run()
    if (cut or not is_whole) and walk.at_end and _SERIES not in values:
        msg = "no UIDs in the part of the dataset that is searched for them"
        raise IncompleteHeaderError(msg)
    sop_class, sop_instance = values.get(_SOP_CLASS, ""), values.get(_SOP_INSTANCE, "")
    if not sop_class or not sop_instance:
        msg = "the dataset holds no SOP Class UID or no SOP Instance UID"
        raise UidMismatchError(msg)
    return Identifiers(
        sop_class, sop_instance, _uid_or_none(values, _STUDY), _uid_or_none(values, _SERIES)
    )


def _uid_or_none(values: dict[int, str], tag: int) -> str:
    text = values.get(tag, "")
    return text if is_instance_uid(text) else ""


def _inflate(data: memoryview) -> tuple[memoryview, bool]:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = inflater.decompress(data, MAX_INFLATED_BYTES)
    except zlib.error:
        msg = "the dataset is not deflated as its transfer syntax says"
        raise UnreadableDatasetError(msg) from None
    return memoryview(inflated), not inflater.eof


class _Walk:
    """One pass over the element headers; ``offset`` only ever grows."""

    def __init__(self, data: memoryview, *, explicit: bool, little: bool) -> None:
        order = "<" if little else ">"
        self._data = data
        self._length32 = struct.Struct(order + "I")
        self._tag = struct.Struct(order + "HH")
        self._element = struct.Struct(order + "HHI")
        self._explicit_element = struct.Struct(order + "HH2sH")
        self._explicit = explicit
        self._offset = 0
        self._count = 0

    @property
    def at_end(self) -> bool:
        return self._offset == len(self._data)

    def run(self) -> dict[int, str]:  # noqa: PLR0912 (the hot loop, in one piece)
        # Some hundred turns for each instance: one unpacking an element, and hardly a call.
        data, end = self._data, len(self._data)
        unpack = self._explicit_element.unpack_from if self._explicit else self._element.unpack_from
        length32 = self._length32.unpack_from
        explicit, offset = self._explicit, self._offset
        found: dict[int, str] = {}
        previous = -1
        while offset < end:
            if end - offset < _ELEMENT_BYTES:
                self._offset = offset
                self._end_at_tag()
                break
            vr = b""
            if explicit:
                group, element, vr, length = unpack(data, offset)
            else:
                group, element, length = unpack(data, offset)
            tag = group << 16 | element
            if tag > _SERIES:
                # PS3.5 7.1: elements are ordered by increasing tag.
                break
            if tag < previous:
                msg = "the elements of the dataset are not in order"
                raise UnreadableDatasetError(msg)
            previous = tag
            self._count_element()
            offset += _ELEMENT_BYTES
            if explicit and vr not in _SHORT_VRS:
                if vr not in LONG_VRS:
                    msg = "an element has no value representation"
                    raise UnreadableDatasetError(msg)
                if end - offset < _LENGTH_BYTES:
                    self._offset = offset
                    self._skip(_LENGTH_BYTES)
                (length,) = length32(data, offset)
                offset += _LENGTH_BYTES
            if length == _UNDEFINED:
                self._offset = offset
                self._skip_sequence(explicit=explicit and vr != b"UN")
                offset = self._offset
                continue
            if length > end - offset:
                self._offset = offset
                self._skip(length)
            if tag in _WANTED:
                found[tag] = _text(data[offset : offset + length])
            offset += length
        self._offset = offset
        if previous < 0:
            msg = "the bytes hold no element of an instance"
            raise UnreadableDatasetError(msg)
        return found

    def _end_at_tag(self) -> None:
        # The bytes end inside an element's header; if that is past the UIDs, it does not matter.
        start = self._offset
        self._skip(_TAG_BYTES)
        group, element = self._tag.unpack_from(self._data, start)
        if group << 16 | element <= _SERIES:
            self._skip(_ELEMENT_BYTES)
        self._offset = start

    def _count_element(self) -> None:
        self._count += 1
        if self._count > MAX_ELEMENTS:
            msg = f"more than {MAX_ELEMENTS} elements before the Series Instance UID"
            raise UnreadableDatasetError(msg)

    def _skip(self, size_bytes: int) -> None:
        self._offset += size_bytes
        if self._offset > len(self._data):
            msg = "the dataset breaks off before its Series Instance UID"
            raise IncompleteHeaderError(msg)

    def _skip_sequence(self, *, explicit: bool) -> None:
        # Each entry of the stack is an open sequence or item: (is it an item, is it explicit).
        data, end, length32 = self._data, len(self._data), self._length32.unpack_from
        tag_and_length, with_vr = self._element.unpack_from, self._explicit_element.unpack_from
        stack = [(False, explicit)]
        while stack:
            if len(stack) > 2 * MAX_DEPTH:
                msg = f"sequences nest deeper than {MAX_DEPTH}"
                raise UnreadableDatasetError(msg)
            is_item, is_explicit = stack[-1]
            offset = self._offset
            if end - offset < _ELEMENT_BYTES:
                self._skip(_ELEMENT_BYTES)
            group, element, length = tag_and_length(data, offset)
            self._count_element()
            self._offset = offset + _ELEMENT_BYTES
            if group == _ITEM >> 16:
                self._skip_delimiter(group << 16 | element, length, stack)
                continue
            if not is_item:
                msg = "a sequence holds something else than items"
                raise UnreadableDatasetError(msg)
            vr = b""
            if is_explicit:
                _, _, vr, length = with_vr(data, offset)
                if vr in LONG_VRS:
                    self._skip(_LENGTH_BYTES)
                    (length,) = length32(data, offset + _ELEMENT_BYTES)
                elif vr not in _SHORT_VRS:
                    msg = "an element has no value representation"
                    raise UnreadableDatasetError(msg)
            if length == _UNDEFINED:
                # UN of undefined length is a sequence in Implicit VR (PS3.5 6.2.2, note 5).
                stack.append((False, is_explicit and vr != b"UN"))
            else:
                self._skip(length)

    def _skip_delimiter(self, tag: int, length: int, stack: list[tuple[bool, bool]]) -> None:
        is_item, is_explicit = stack[-1]
        if tag == _ITEM and not is_item:
            if length == _UNDEFINED:
                stack.append((True, is_explicit))
            else:
                self._skip(length)
        elif tag == (_ITEM_END if is_item else _SEQUENCE_END):
            stack.pop()
        else:
            msg = "the items of a sequence do not fit together"
            raise UnreadableDatasetError(msg)


def _text(value: memoryview) -> str:
    # A UID has 64 characters; what is longer is none, and need not be copied whole to see that.
    return bytes(value[:128]).decode("ascii", "replace").strip(" \x00")
