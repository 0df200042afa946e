"""Requests for storage commitment: from the bytes of an N-ACTION to what is asked (PS3.4 J.3.2).

The dataset is read here and not by pydicom: of an item only two UIDs are wanted, and a hundred
thousand of them must not hold up the process that answers for everything else. Any bytes whatever
end in a request or in one typed error, after one pass and without recursion.

Every way in which an N-ACTION can end has one row (statuses: PS3.7 10.1.4.1.10 and annex C).

=====================  ======  =================================================================
how it ends            status  meaning to the sender
=====================  ======  =================================================================
accepted               0x0000  Success: the request is on disk, a report will follow
NoSuchInstance         0x0112  No such SOP Instance: not the well-known 1.2.840.10008.1.20.1.1
InvalidArgument        0x0115  Invalid argument value: no dataset, no Transaction UID or references,
                               or one of these UIDs is absent or not a UID
NoSuchClass            0x0118  No such SOP Class: not the Storage Commitment Push Model
NoSuchAction           0x0123  No such action: the Action Type ID is not 1
MistypedArgument       0x0212  Mistyped argument: the bytes are no dataset in the negotiated
                               transfer syntax
ResourceLimitation     0x0213  Resource limitation: too many references, or too many requests wait
                               for their report; ask again later, or for fewer
any other exception    0x0110  Processing failure: the request could not be made durable
=====================  ======  =================================================================
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from dicom_gateway.storing.identifiers import LONG_VRS
from dicom_gateway.storing.part10 import is_instance_uid
from dicom_gateway.storing.sop_classes import STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE

PROCESSING_FAILURE = 0x0110

REQUEST_COMMITMENT = 1
"""Action Type ID."""

IMPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2"
EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
TRANSFER_SYNTAXES = (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)
"""What may be negotiated for the Storage Commitment Push Model, the preferred first."""

MAX_REFERENCES = 100_000
MAX_REQUEST_BYTES = 24 << 20
"""Enough for the references with UIDs of 64 characters, in the longest encoding."""

MAX_DEPTH = 16
"""Nesting of sequences without a length, in elements that are skipped."""

_MAX_ELEMENTS = 6 * MAX_REFERENCES

_TRANSACTION_UID = 0x00081195
_REFERENCED_SOP_SEQUENCE = 0x00081199
_REFERENCED_SOP_CLASS_UID = 0x00081150
_REFERENCED_SOP_INSTANCE_UID = 0x00081155
_ITEM = 0xFFFEE000
_ITEM_END = 0xFFFEE00D
_SEQUENCE_END = 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF


class ActionRefusedError(Exception):
    """An N-ACTION request cannot be accepted; the message says why, without values."""

    status: ClassVar[int] = 0x0110
    reason: ClassVar[str] = "processing-failure"


class NoSuchInstanceError(ActionRefusedError):
    """The Requested SOP Instance UID is not the well-known one."""

    status = 0x0112
    reason = "no-such-instance"


class InvalidArgumentError(ActionRefusedError):
    """Something that the request must hold is missing."""

    status = 0x0115
    reason = "invalid-argument"


class NoSuchClassError(ActionRefusedError):
    """The Requested SOP Class UID is not the Storage Commitment Push Model."""

    status = 0x0118
    reason = "no-such-class"


class NoSuchActionError(ActionRefusedError):
    """The Action Type ID is not 1."""

    status = 0x0123
    reason = "no-such-action"


class MistypedArgumentError(ActionRefusedError):
    """The bytes are no dataset in the negotiated transfer syntax."""

    status = 0x0212
    reason = "mistyped-argument"


class ResourceLimitationError(ActionRefusedError):
    """Too many references, or too many requests that wait."""

    status = 0x0213
    reason = "resource-limitation"


class Reference(NamedTuple):
    """One instance for which commitment is asked."""

    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True)
class CommitmentRequest:
    """What an N-ACTION asks for.

    Parameters
    ----------
    transaction_uid : str
        (0008,1195), by which the report names the request.
    references : tuple of Reference
        In the order of the request, each once.
    """

    transaction_uid: str
    references: tuple[Reference, ...]


def parse_action(
    *,
    sop_class_uid: str,
    sop_instance_uid: str,
    action_type: int | None,
    dataset: bytes,
    transfer_syntax_uid: str,
) -> CommitmentRequest:
    """Read an N-ACTION request for storage commitment.

    Parameters
    ----------
    sop_class_uid, sop_instance_uid : str
        (0000,0003) and (0000,1001) of the command.
    action_type : int or None
        (0000,1008) of the command.
    dataset : bytes
        Action Information as received.
    transfer_syntax_uid : str
        Negotiated for the presentation context, one of ``TRANSFER_SYNTAXES``.

    Raises
    ------
    ActionRefusedError
        With the status of the table above.
    """
    if sop_class_uid != STORAGE_COMMITMENT:
        raise NoSuchClassError("the Requested SOP Class is not the Storage Commitment Push Model")
    if sop_instance_uid != STORAGE_COMMITMENT_INSTANCE:
        raise NoSuchInstanceError("the Requested SOP Instance is not the well-known one")
    if action_type != REQUEST_COMMITMENT:
        raise NoSuchActionError("the Action Type ID is not 1 (Request Storage Commitment)")
    if not dataset:
        raise InvalidArgumentError("the request came without a dataset")
    if len(dataset) > MAX_REQUEST_BYTES:
        raise ResourceLimitationError(f"the request is longer than {MAX_REQUEST_BYTES} bytes")
    if transfer_syntax_uid not in TRANSFER_SYNTAXES:
        raise MistypedArgumentError("the transfer syntax is none that is offered for commitment")
    reader = _Reader(dataset, explicit=transfer_syntax_uid == EXPLICIT_VR_LITTLE_ENDIAN)
    transaction_uid, references = reader.read_request()
    if not is_instance_uid(transaction_uid):
        raise InvalidArgumentError("Transaction UID (0008,1195) is absent or not a UID")
    if not references:
        raise InvalidArgumentError("Referenced SOP Sequence (0008,1199) is absent or empty")
    return CommitmentRequest(transaction_uid, tuple(references))


class _Reader:
    """One pass over an encoded dataset; ``offset`` only ever grows."""

    def __init__(self, data: bytes, *, explicit: bool) -> None:
        self._data = data
        self._explicit = explicit
        self._offset = 0
        self._elements = 0
        self._header = struct.Struct("<HHI")

    def read_request(self) -> tuple[str, dict[Reference, None]]:
        transaction_uid = ""
        references: dict[Reference, None] = {}
        end = len(self._data)
        previous = -1
        while self._offset < end:
            tag, length, implicit_inside = self._read_header(end, explicit=self._explicit)
            if tag <= previous:
                # PS3.5 7.1: elements are ordered by increasing tag, each there once.
                raise MistypedArgumentError("the elements are not in order")
            previous = tag
            if tag == _REFERENCED_SOP_SEQUENCE:
                references = self._read_items(
                    length, end, explicit=self._explicit and not implicit_inside
                )
            elif length == _UNDEFINED:
                self._skip_sequence(end, explicit=self._explicit and not implicit_inside)
            else:
                value = self._take(length, end)
                if tag == _TRANSACTION_UID:
                    transaction_uid = _text(value)
        return transaction_uid, references

    def _read_items(self, length: int, end: int, *, explicit: bool) -> dict[Reference, None]:
        references: dict[Reference, None] = {}
        if length != _UNDEFINED:
            end = self._end_of(length, end)
        while length == _UNDEFINED or self._offset < end:
            tag, item_length, _ = self._read_header(end, explicit=False)
            if tag == _SEQUENCE_END and length == _UNDEFINED:
                break
            if tag != _ITEM:
                raise MistypedArgumentError("a sequence holds something else than items")
            references[self._read_reference(item_length, end, explicit=explicit)] = None
            if len(references) > MAX_REFERENCES:
                raise ResourceLimitationError(f"more than {MAX_REFERENCES} references")
        return references

    def _read_reference(self, length: int, end: int, *, explicit: bool) -> Reference:
        found = {_REFERENCED_SOP_CLASS_UID: "", _REFERENCED_SOP_INSTANCE_UID: ""}
        if length != _UNDEFINED:
            end = self._end_of(length, end)
        while length == _UNDEFINED or self._offset < end:
            tag, value_length, implicit_inside = self._read_header(end, explicit=explicit)
            if tag == _ITEM_END and length == _UNDEFINED:
                break
            if value_length == _UNDEFINED:
                self._skip_sequence(end, explicit=explicit and not implicit_inside)
                continue
            value = self._take(value_length, end)
            if tag in found:
                found[tag] = _text(value)
        reference = Reference(*found.values())
        if not all(map(is_instance_uid, reference)):
            # What is no UID cannot be told back in the report either.
            raise InvalidArgumentError("a reference has no SOP Class UID or no SOP Instance UID")
        return reference

    def _end_of(self, length: int, end: int) -> int:
        if self._offset + length > end:
            raise MistypedArgumentError("a length reaches beyond what it lies in")
        return self._offset + length

    def _take(self, length: int, end: int) -> bytes:
        start, self._offset = self._offset, self._end_of(length, end)
        # A UID has 64 characters; what is longer is none, and need not be copied whole.
        return self._data[start : min(self._offset, start + 128)]

    def _read_header(self, end: int, *, explicit: bool) -> tuple[int, int, bool]:
        # Tag, length, and whether a UN of undefined length makes what is inside Implicit VR
        # (PS3.5 6.2.2, note 5). Items and their ends have no VR in any syntax (PS3.5 7.5).
        self._elements += 1
        if self._elements > _MAX_ELEMENTS:
            raise ResourceLimitationError("more elements than a request of this kind can need")
        start = self._offset
        self._offset = self._end_of(8, end)
        group, number, length = self._header.unpack_from(self._data, start)
        tag = group << 16 | number
        if not explicit or group == 0xFFFE:
            return tag, length, False
        vr = self._data[start + 4 : start + 6]
        if vr not in LONG_VRS:
            if not (vr.isalpha() and vr.isupper()):
                raise MistypedArgumentError("an element has no value representation")
            return tag, length >> 16, False
        self._offset = self._end_of(4, end)
        (length,) = struct.unpack_from("<I", self._data, start + 8)
        return tag, length, vr == b"UN"

    def _skip_sequence(self, end: int, *, explicit: bool) -> None:
        # Each entry is an open sequence or item: (is it an item, is it explicit).
        stack = [(False, explicit)]
        while stack:
            if len(stack) > 2 * MAX_DEPTH:
                raise MistypedArgumentError(f"sequences nest deeper than {MAX_DEPTH}")
            is_item, is_explicit = stack[-1]
            tag, length, implicit_inside = self._read_header(end, explicit=is_explicit)
            if tag == (_ITEM_END if is_item else _SEQUENCE_END):
                stack.pop()
            elif is_item == (tag in (_ITEM, _ITEM_END, _SEQUENCE_END)):
                raise MistypedArgumentError("the items of a sequence do not fit together")
            elif length == _UNDEFINED:
                stack.append((not is_item, is_explicit and not implicit_inside))
            else:
                self._offset = self._end_of(length, end)


def _text(value: bytes) -> str:
    return value.decode("ascii", "replace").strip(" \x00")
