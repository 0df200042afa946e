"""From a dataset as it was received to a DICOM file (PS3.10 section 7.1).

The dataset is not touched. What goes before it follows from the dataset alone: no AE title, no
clock, no release of ours. The same dataset in the same transfer syntax therefore always makes the
same file, and with it the same ``image_id``.
"""

from __future__ import annotations

import re
import struct

IMPLEMENTATION_CLASS_UID = "2.25.148041364206915113906330711106293437201"
"""Who wrote the file. Never change it: the digests of all files follow from it."""

IMPLEMENTATION_VERSION_NAME = "BIODATAMINE_1"
"""Version of this layout, not of the software, for the same reason."""

PREAMBLE = bytes(128) + b"DICM"

_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_HEX_UID = re.compile(r"[0-9a-fA-F]+(\.[0-9a-fA-F]+)*")
MAX_UID_CHARACTERS = 64


def is_uid(text: str) -> bool:
    """Whether a text is a UID as far as senders in the field keep to PS3.5 section 9.1.

    Digits and dots, at most 64 characters. Leading zeros of a component are let through: old
    modalities write them, and nothing depends on them.
    """
    return len(text) <= MAX_UID_CHARACTERS and _UID.fullmatch(text) is not None


def is_instance_uid(text: str) -> bool:
    """Whether a text names a study, series or instance.

    A UID, or a hexadecimal digest in its place, as some de-identification leaves it: such files are
    many, and no other sender will come with better ones.
    """
    return len(text) <= MAX_UID_CHARACTERS and _HEX_UID.fullmatch(text) is not None


def file_prefix(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> bytes:
    """Preamble and File Meta Information for a dataset.

    Parameters
    ----------
    sop_class_uid, sop_instance_uid : str
        Media Storage SOP Class and Instance UID.
    transfer_syntax_uid : str
        In which the dataset is encoded, as negotiated.

    Returns
    -------
    bytes
        What goes before the dataset: PS3.10 table 7.1-1, Explicit VR Little Endian, with the right
        group length.

    Raises
    ------
    ValueError
        If one of them is not a UID.
    """
    if not (
        is_uid(sop_class_uid) and is_instance_uid(sop_instance_uid) and is_uid(transfer_syntax_uid)
    ):
        msg = "File Meta Information needs UIDs"
        raise ValueError(msg)
    group = b"".join(
        (
            struct.pack("<HH2sHI", 0x0002, 0x0001, b"OB", 0, 2) + b"\x00\x01",
            _element(0x0002, b"UI", sop_class_uid, b"\x00"),
            _element(0x0003, b"UI", sop_instance_uid, b"\x00"),
            _element(0x0010, b"UI", transfer_syntax_uid, b"\x00"),
            _element(0x0012, b"UI", IMPLEMENTATION_CLASS_UID, b"\x00"),
            _element(0x0013, b"SH", IMPLEMENTATION_VERSION_NAME, b" "),
        )
    )
    return PREAMBLE + struct.pack("<HH2sHI", 0x0002, 0x0000, b"UL", 4, len(group)) + group


def _element(number: int, vr: bytes, text: str, padding: bytes) -> bytes:
    value = text.encode("ascii")
    if len(value) % 2:
        value += padding
    return struct.pack("<HH2sH", 0x0002, number, vr, len(value)) + value
