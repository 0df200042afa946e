"""The DICOM upper layer once an association stands (PS3.8 section 9.3): bytes to fragments.

No I/O. Bytes go in as they come from the network, in pieces of any size; what comes out are views
of those same bytes, so that a dataset is copied only by the kernel. Nothing is kept but headers of
six bytes: memory does not depend on how long a PDU claims to be.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

PDU_HEADER_BYTES = 6
_PDV_HEADER_BYTES = 6
_RELEASE_OR_ABORT_BYTES = 4
_LEAST_PDU_BYTES = 1024

ASSOCIATE_RQ, ASSOCIATE_AC, ASSOCIATE_RJ = 0x01, 0x02, 0x03
P_DATA_TF, RELEASE_RQ, RELEASE_RP, ABORT = 0x04, 0x05, 0x06, 0x07
_KNOWN = frozenset(range(ASSOCIATE_RQ, ABORT + 1))

_LENGTH = struct.Struct(">xxI")
_PDV = struct.Struct(">IBB")
_PDU_AND_PDV = struct.Struct(">BxIIBB")


class AbortReason(enum.IntEnum):
    """Why a provider aborts (PS3.8 table 9-26)."""

    NOT_SPECIFIED = 0
    UNRECOGNIZED_PDU = 1
    UNEXPECTED_PDU = 2
    UNRECOGNIZED_PARAMETER = 4
    UNEXPECTED_PARAMETER = 5
    INVALID_PARAMETER = 6


class ProtocolError(Exception):
    """The peer broke the upper layer protocol: the association is aborted.

    Parameters
    ----------
    reason : AbortReason
        For the A-ABORT.
    said : str
        For our log.
    """

    def __init__(self, reason: AbortReason, said: str) -> None:
        super().__init__(said)
        self.reason = reason


@dataclass
class Fragment:
    """A piece of a Presentation Data Value.

    Parameters
    ----------
    context_id : int
        Presentation context.
    is_command : bool
        Whether it belongs to a command set, else to a dataset.
    is_last : bool
        Whether the message's command set or dataset ends with it.
    data : memoryview
        The bytes; valid until the next piece is fed.
    """

    __slots__ = ("context_id", "data", "is_command", "is_last")
    context_id: int
    is_command: bool
    is_last: bool
    data: memoryview


class Ending(enum.Enum):
    """How a peer ends an association."""

    RELEASE_REQUESTED = "release"
    ABORTED = "abort"


Item: TypeAlias = "Fragment | Ending"


class UpperLayer:
    """The receiving half of an established association.

    Parameters
    ----------
    max_pdu_bytes : int
        Longest P-DATA-TF that was negotiated (PS3.8 annex D.1).
    """

    def __init__(self, max_pdu_bytes: int) -> None:
        self._max_pdu_bytes = max_pdu_bytes
        self._header = bytearray()
        self._pdu_left = 0
        self._data_left = 0
        self._context_id = 0
        self._control = 0
        self._ending: Ending | None = None

    @property
    def is_between_pdus(self) -> bool:
        """Whether everything that was begun has come whole."""
        return not (self._header or self._pdu_left or self._data_left or self._ending)

    def feed(self, data: memoryview) -> Iterator[Item]:
        """Take what the network gave; yield what it holds.

        Raises
        ------
        ProtocolError
            If a PDU is unknown, unexpected, longer than negotiated, or does not fit together.
        """
        position, end = 0, len(data)
        while position < end:
            if self._data_left:
                size_bytes = min(self._data_left, end - position)
                self._data_left -= size_bytes
                self._pdu_left -= size_bytes
                yield self._fragment(data[position : position + size_bytes])
                position += size_bytes
                continue
            needed = _PDV_HEADER_BYTES if self._pdu_left else PDU_HEADER_BYTES
            if self._ending is not None:
                needed = _RELEASE_OR_ABORT_BYTES
            size_bytes = min(needed - len(self._header), end - position)
            self._header += data[position : position + size_bytes]
            position += size_bytes
            if len(self._header) < needed:
                return
            header, self._header = self._header, bytearray()
            if self._ending is not None:
                ending, self._ending = self._ending, None
                yield ending
            elif self._pdu_left:
                empty = self._begin_pdv(header)
                if empty is not None:
                    yield empty
            else:
                self._begin_pdu(header)

    def _fragment(self, data: memoryview) -> Fragment:
        is_last = not self._data_left and bool(self._control & 0x02)
        return Fragment(self._context_id, bool(self._control & 0x01), is_last, data)

    def _begin_pdu(self, header: bytearray) -> None:
        kind = header[0]
        (length,) = _LENGTH.unpack(header)
        if kind == P_DATA_TF:
            if length > self._max_pdu_bytes:
                raise ProtocolError(
                    AbortReason.INVALID_PARAMETER,
                    f"a P-DATA-TF of {length} bytes; {self._max_pdu_bytes} were negotiated",
                )
            if length < _PDV_HEADER_BYTES:
                raise ProtocolError(AbortReason.INVALID_PARAMETER, f"a P-DATA-TF of {length} bytes")
            self._pdu_left = length
        elif kind in (RELEASE_RQ, ABORT):
            if length != _RELEASE_OR_ABORT_BYTES:
                raise ProtocolError(
                    AbortReason.INVALID_PARAMETER, f"a PDU of type {kind:#04x}, {length} bytes"
                )
            self._ending = Ending.ABORTED if kind == ABORT else Ending.RELEASE_REQUESTED
        elif kind in _KNOWN:
            raise ProtocolError(
                AbortReason.UNEXPECTED_PDU, f"a PDU of type {kind:#04x} in an open association"
            )
        else:
            raise ProtocolError(AbortReason.UNRECOGNIZED_PDU, f"a PDU of type {kind:#04x}")

    def _begin_pdv(self, header: bytearray) -> Fragment | None:
        length, self._context_id, self._control = _PDV.unpack(header)
        # The length counts the context id and the control header (PS3.8 9.3.5.1).
        data_bytes = length - 2
        left = self._pdu_left - _PDV_HEADER_BYTES
        if not 0 <= data_bytes <= left or 0 < left - data_bytes < _PDV_HEADER_BYTES:
            raise ProtocolError(
                AbortReason.INVALID_PARAMETER,
                f"a PDV of length {length} where {self._pdu_left} bytes of the PDU are left",
            )
        self._pdu_left = left
        self._data_left = data_bytes
        return None if data_bytes else self._fragment(memoryview(b""))


def data_pdu(context_id: int, data: bytes, *, is_command: bool) -> bytes:
    """Encode one P-DATA-TF with one PDV that is the last of its kind (PS3.8 9.3.5)."""
    control = 0x03 if is_command else 0x02
    return _PDU_AND_PDV.pack(P_DATA_TF, len(data) + 6, len(data) + 2, context_id, control) + data


def data_pdus(context_id: int, data: bytes, *, is_command: bool, max_pdu_bytes: int) -> bytes:
    """Encode a command set or dataset as P-DATA-TF PDUs that the peer can take.

    Parameters
    ----------
    context_id : int
        Presentation context.
    data : bytes
        What is sent.
    is_command : bool
        Whether it is a command set.
    max_pdu_bytes : int
        What the peer said that it takes; 0 for no limit (PS3.8 annex D.1.1). Less than 1 KiB, which
        nobody means, counts as 1 KiB: single bytes would become a hundred times as many.
    """
    step = max(_LEAST_PDU_BYTES, max_pdu_bytes) - _PDV_HEADER_BYTES
    if not max_pdu_bytes:
        step = len(data) or 1
    pieces = [data[start : start + step] for start in range(0, len(data), step)] or [b""]
    kind = 0x01 if is_command else 0x00
    return b"".join(
        _PDU_AND_PDV.pack(
            P_DATA_TF,
            len(piece) + 6,
            len(piece) + 2,
            context_id,
            kind | (0x02 if index == len(pieces) - 1 else 0x00),
        )
        + piece
        for index, piece in enumerate(pieces)
    )


RELEASE_RESPONSE = bytes((RELEASE_RP, 0, 0, 0, 0, 4, 0, 0, 0, 0))
RELEASE_REQUEST = bytes((RELEASE_RQ, 0, 0, 0, 0, 4, 0, 0, 0, 0))


def abort_pdu(reason: AbortReason) -> bytes:
    """Encode an A-ABORT of the service provider (PS3.8 9.3.8)."""
    return bytes((ABORT, 0, 0, 0, 0, 4, 0, 0, 2, reason))


def reject_pdu(result: int, source: int, reason: int) -> bytes:
    """Encode an A-ASSOCIATE-RJ (PS3.8 9.3.4)."""
    return bytes((ASSOCIATE_RJ, 0, 0, 0, 0, 4, 0, result, source, reason))
