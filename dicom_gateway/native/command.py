"""Command sets of DIMSE messages (PS3.7 section 6.3, annex E), as far as a Storage SCP needs them.

A command set is Implicit VR Little Endian, short, and the same for every instance; reading it with
a general parser would cost more than receiving the pixels.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from dicom_gateway.native.pdu import AbortReason, ProtocolError
from dicom_gateway.storing.part10 import MAX_UID_CHARACTERS

MAX_COMMAND_BYTES = 64 * 1024
"""Longest command set; real ones have some hundred bytes."""

C_STORE_RQ, C_ECHO_RQ, C_CANCEL_RQ = 0x0001, 0x0030, 0x0FFF
N_EVENT_REPORT_RQ, N_ACTION_RQ = 0x0100, 0x0130
RESPONSE = 0x8000

SUCCESS = 0x0000
UNRECOGNIZED_OPERATION = 0x0211

_NO_DATASET = 0x0101
_AFFECTED_SOP_CLASS, _REQUESTED_SOP_CLASS = 0x0002, 0x0003
_COMMAND_FIELD, _MESSAGE_ID, _MESSAGE_ID_RESPONDED = 0x0100, 0x0110, 0x0120
_DATASET_TYPE, _STATUS, _ERROR_COMMENT = 0x0800, 0x0900, 0x0902
_AFFECTED_INSTANCE, _REQUESTED_INSTANCE = 0x1000, 0x1001
_EVENT_TYPE, _ACTION_TYPE = 0x1002, 0x1008

_ELEMENT = struct.Struct("<HHI")
_GROUP_LENGTH = struct.Struct("<HHII")


@dataclass(frozen=True)
class Command:
    """What a command set says.

    Parameters
    ----------
    field : int
        Command Field (0000,0100).
    message_id : int
        Message ID, or in a response the ID that it responds to.
    has_dataset : bool
        Whether a dataset follows.
    sop_class_uid, sop_instance_uid : str
        Affected or Requested; '' where absent.
    status : int
        Of a response.
    type_id : int
        Event or Action Type ID.
    """

    field: int
    message_id: int
    has_dataset: bool
    sop_class_uid: str = ""
    sop_instance_uid: str = ""
    status: int = 0
    type_id: int = 0

    @property
    def is_response(self) -> bool:
        """Whether the peer answers something that we asked."""
        return bool(self.field & RESPONSE)


def read_command(data: bytes | bytearray) -> Command:
    """Decode a command set.

    Raises
    ------
    ProtocolError
        If it is none, or lacks what every message has.
    """
    values: dict[int, bytes] = {}
    position, end = 0, len(data)
    while position < end:
        if end - position < _ELEMENT.size:
            raise _broken("breaks off")
        group, element, length = _ELEMENT.unpack_from(data, position)
        position += _ELEMENT.size
        if group or length > end - position:
            raise _broken("holds an element that is not one of a command")
        values[element] = bytes(data[position : position + length])
        position += length
    field, kind = _number(values, _COMMAND_FIELD), _number(values, _DATASET_TYPE)
    if field is None or kind is None:
        raise _broken("has no Command Field or no Command Data Set Type")
    message_id = _number(values, _MESSAGE_ID_RESPONDED if field & RESPONSE else _MESSAGE_ID)
    if message_id is None and field != C_CANCEL_RQ:
        raise _broken("has no Message ID")
    return Command(
        field=field,
        message_id=message_id or 0,
        has_dataset=kind != _NO_DATASET,
        sop_class_uid=_uid(values, _AFFECTED_SOP_CLASS) or _uid(values, _REQUESTED_SOP_CLASS),
        sop_instance_uid=_uid(values, _AFFECTED_INSTANCE) or _uid(values, _REQUESTED_INSTANCE),
        status=_number(values, _STATUS) or 0,
        type_id=_number(values, _EVENT_TYPE) or _number(values, _ACTION_TYPE) or 0,
    )


def write_response(
    request: Command, status: int, *, comment: str = "", type_id: int | None = None
) -> bytes:
    """Encode the response to a request (PS3.7 9.3 and 10.3), without a dataset.

    Parameters
    ----------
    request : Command
        What is answered.
    status : int
        DIMSE status.
    comment : str
        Error Comment (0000,0902); its first 64 characters, ASCII.
    type_id : int, optional
        Action Type ID of an N-ACTION response.
    """
    values: dict[int, bytes] = {
        _COMMAND_FIELD: struct.pack("<H", request.field | RESPONSE),
        _MESSAGE_ID_RESPONDED: struct.pack("<H", request.message_id),
        _DATASET_TYPE: struct.pack("<H", _NO_DATASET),
        _STATUS: struct.pack("<H", status),
    }
    # A response names the SOP class and instance as affected, whatever the request called them;
    # what cannot be a UID is not said again: senders choke on it.
    for element, uid in (
        (_AFFECTED_SOP_CLASS, request.sop_class_uid),
        (_AFFECTED_INSTANCE, request.sop_instance_uid),
    ):
        if 0 < len(uid) <= MAX_UID_CHARACTERS:
            values[element] = _padded_uid(uid)
    if comment:
        text = comment[:64].encode("ascii", "replace")
        values[_ERROR_COMMENT] = text + b" " * (len(text) % 2)
    if type_id is not None:
        values[_ACTION_TYPE] = struct.pack("<H", type_id)
    return _encode(values)


def write_event_report(
    message_id: int, *, sop_class_uid: str, sop_instance_uid: str, event_type: int
) -> bytes:
    """Encode an N-EVENT-REPORT request that a dataset follows (PS3.7 10.3.1)."""
    return _encode(
        {
            _AFFECTED_SOP_CLASS: _padded_uid(sop_class_uid),
            _COMMAND_FIELD: struct.pack("<H", N_EVENT_REPORT_RQ),
            _MESSAGE_ID: struct.pack("<H", message_id),
            _DATASET_TYPE: struct.pack("<H", 0x0102),
            _AFFECTED_INSTANCE: _padded_uid(sop_instance_uid),
            _EVENT_TYPE: struct.pack("<H", event_type),
        }
    )


def _encode(values: Mapping[int, bytes]) -> bytes:
    body = b"".join(
        _ELEMENT.pack(0, element, len(value)) + value for element, value in sorted(values.items())
    )
    return _GROUP_LENGTH.pack(0, 0, 4, len(body)) + body


def _number(values: Mapping[int, bytes], element: int) -> int | None:
    value = values.get(element, b"")
    return int.from_bytes(value, "little") if len(value) == 2 else None


def _uid(values: Mapping[int, bytes], element: int) -> str:
    # Longer than a UID can be stays so: the handler has a status for it. Not ASCII, likewise.
    return values.get(element, b"")[:128].decode("ascii", "replace").strip(" \x00")


def _padded_uid(uid: str) -> bytes:
    value = uid.encode("ascii", "replace")
    return value + b"\x00" * (len(value) % 2)


def _broken(what: str) -> ProtocolError:
    return ProtocolError(AbortReason.INVALID_PARAMETER, f"a command set that {what}")
