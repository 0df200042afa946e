"""How a DICOM data set is encoded, from its transfer syntax or from its first bytes."""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

from pydicom.datadict import dictionary_VR

from streams.sniff.window import Window


class Encoding(NamedTuple):
    """Byte order and whether value representations are written (PS3.5 section 7.1)."""

    explicit: bool
    little: bool
    name: str


IMPLICIT_LITTLE = Encoding(explicit=False, little=True, name="Implicit VR Little Endian")
EXPLICIT_LITTLE = Encoding(explicit=True, little=True, name="Explicit VR Little Endian")
EXPLICIT_BIG = Encoding(explicit=True, little=False, name="Explicit VR Big Endian")
ENCODINGS = (EXPLICIT_LITTLE, IMPLICIT_LITTLE, EXPLICIT_BIG)

# PS3.5 Annex A. Every other syntax, the encapsulated ones among them, is explicit little endian.
_BY_TRANSFER_SYNTAX = {
    "1.2.840.10008.1.2": IMPLICIT_LITTLE,
    "1.2.840.10008.1.2.2": EXPLICIT_BIG,
    # GE's private syntax: an implicit little endian data set with big endian pixels.
    "1.2.840.113619.5.2": IMPLICIT_LITTLE,
}
DEFLATED_SYNTAXES = frozenset(
    {
        "1.2.840.10008.1.2.1.99",
        "1.2.840.10008.1.2.4.95",
        "1.2.840.10008.1.2.4.205",
    }
)

UNDEFINED_LENGTH = 0xFFFFFFFF

LONG_VRS = frozenset(
    {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
)
"""Value representations with a 4-byte length in explicit encodings (PS3.5 section 7.1.2)."""

SHORT_VRS = frozenset(
    {
        *(b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FL", b"FD", b"IS", b"LO", b"LT"),
        *(b"PN", b"SH", b"SL", b"SS", b"ST", b"TM", b"UI", b"UL", b"US"),
    }
)

_HEADS = {
    True: (Struct("<HH2sH").unpack_from, Struct("<L").unpack_from),
    False: (Struct(">HH2sH").unpack_from, Struct(">L").unpack_from),
}

_TEXT_VRS = frozenset({b"AS", b"CS", b"DA", b"DS", b"DT", b"IS", b"TM", b"UI"})
_PRINTABLE = frozenset(range(0x20, 0x7F)) | {0x00}
_PROBE_BYTES = 4096
_WANTED_MATCHES = 5
_ENOUGH_MATCHES = 3
_FIRST_GROUPS = frozenset({0x0002, 0x0008})
_LAST_FIRST_GROUP = 0x00FF


def of_transfer_syntax(uid: str) -> Encoding:
    """Return the encoding that a transfer syntax UID stands for (PS3.5 Annex A)."""
    return _BY_TRANSFER_SYNTAX.get(uid, EXPLICIT_LITTLE)


def _dictionary_vrs(tag: int) -> frozenset[bytes]:
    try:
        return frozenset(part.encode() for part in str(dictionary_VR(tag)).split(" or "))
    except KeyError:
        return frozenset()


class _Head(NamedTuple):
    """One element's head: tag, written value representation, value length, own length."""

    tag: int
    vr: bytes
    length: int
    size: int


def _head_at(data: bytes, pos: int, encoding: Encoding) -> _Head | None:
    head, length_of = _HEADS[encoding.little]
    if len(data) - pos < 8:
        return None
    group, element, vr, length = head(data, pos)
    size = 8
    if not encoding.explicit:
        vr = b""
        length = length_of(data, pos + 4)[0]
    elif vr in LONG_VRS:
        if len(data) - pos < 12:
            return None
        length = length_of(data, pos + 8)[0]
        size = 12
    return _Head((group << 16) | element, vr, length, size)


def _fits(head: _Head, value: bytes, room: int) -> bool:
    """Tell whether an element can be nothing but DICOM."""
    is_group_length = head.tag & 0xFFFF == 0
    # A private element does not count: anything could be one.
    known = frozenset({b"UL"}) if is_group_length else _dictionary_vrs(head.tag)
    if not known or (head.vr and head.vr not in known | {b"UN"}):
        return False
    if head.length == UNDEFINED_LENGTH:
        return not known.isdisjoint({b"SQ", b"OB", b"OW", b"UN"})
    if head.length > room or (is_group_length and head.length != 4):
        return False
    return known.isdisjoint(_TEXT_VRS) or _PRINTABLE.issuperset(value)


def _matches(data: bytes, remaining: int, encoding: Encoding) -> tuple[int, bool]:
    """Count elements from the start of ``data`` that can be nothing but DICOM.

    Returns
    -------
    tuple of (int, bool)
        The count, and whether counting ended because the bytes did, not because one did not fit.
    """
    pos = count = 0
    last_tag = -1
    while count < _WANTED_MATCHES:
        head = _head_at(data, pos, encoding)
        if head is None:
            return count, True
        if head.tag <= last_tag or (not count and head.tag >> 16 not in _FIRST_GROUPS):
            break
        start = pos + head.size
        if not _fits(head, data[start : start + min(head.length, 128)], remaining - start):
            break
        count += 1
        if head.length == UNDEFINED_LENGTH:
            # What is in a sequence is not looked at.
            return count, True
        last_tag = head.tag
        pos = start + head.length
    return count, False


def guess(window: Window, pos: int) -> Encoding | None:
    """Find the encoding of a data set without file meta information.

    Strict, so that text or noise never becomes DICOM: the first elements must stand in the data
    dictionary (PS3.6), in ascending order, with the dictionary's value representation, lengths
    inside the file, and printable values where they are text.
    """
    data = window.take(pos, _PROBE_BYTES)
    remaining = window.size - pos
    for encoding in ENCODINGS:
        count, ran_out = _matches(data, remaining, encoding)
        if count >= _ENOUGH_MATCHES or (count == _ENOUGH_MATCHES - 1 and ran_out):
            return encoding
    return None


def really(declared: Encoding, window: Window, pos: int) -> Encoding:
    """Correct a declared encoding by the first element of the data set.

    Writers do declare one encoding and use another. The declared one is kept unless its first
    element makes no sense in it.
    """
    data = window.take(pos, 12)
    if len(data) < 8:
        return declared
    head, _ = _HEADS[declared.little]
    group, _element, vr, _length = head(data, 0)
    written = vr in SHORT_VRS or vr in LONG_VRS
    if group <= _LAST_FIRST_GROUP:
        if written == declared.explicit or not declared.little:
            return declared
        if written:
            return EXPLICIT_LITTLE
        if not (vr.isalpha() and vr.isupper()):
            return IMPLICIT_LITTLE
    return guess(window, pos) or declared
