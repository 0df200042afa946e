"""Association requests: what a peer asks for, and what it gets (PS3.8 section 7.1, PS3.7 annex D).

pynetdicom decodes, negotiates and encodes; here is what a Storage SCP decides, and the reading of
presentation contexts: a request may hold thousands of transfer syntaxes, with which pynetdicom
takes seconds. Everybody else at the door would wait for it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pydicom.uid import UID
from pynetdicom import ALL_TRANSFER_SYNTAXES
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    AsynchronousOperationsWindowNegotiation,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
    SCP_SCU_RoleSelectionNegotiation,
)
from pynetdicom.presentation import PresentationContext, build_context, negotiate_unrestricted

from dicom_gateway.aes.entities import (
    REJECTED_PERMANENT,
    SOURCE_USER,
    AssociationRefused,
)
from dicom_gateway.native.pdu import AbortReason, ProtocolError
from dicom_gateway.storing.part10 import (
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
    MAX_UID_CHARACTERS,
    is_uid,
)
from dicom_gateway.storing.sop_classes import NON_PATIENT_OBJECTS, STORAGE_COMMITMENT, VERIFICATION

_SERVICES = frozenset((VERIFICATION, STORAGE_COMMITMENT))

APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"

MAX_CONTEXTS = 128
"""Presentation contexts of a request: their ids are the odd numbers of a byte (PS3.8 9.3.2.2)."""

MAX_TRANSFER_SYNTAXES = 256
"""Transfer syntaxes of one presentation context; the standard has some sixty."""

MAX_USER_ITEMS = 512
"""Sub-items of the user information: roles and extended negotiation of 128 contexts, and more."""

MayStore = Callable[[str, str], bool]
"""Whether instances of a SOP class in a transfer syntax may come at all."""

_SOURCE_ACSE = 2
_CONTEXT_NAME_NOT_SUPPORTED = 2
_PROTOCOL_VERSION_NOT_SUPPORTED = 2
_ACCEPTED, _NO_ABSTRACT_SYNTAX, _NO_TRANSFER_SYNTAX = 0x00, 0x03, 0x04
_CACHED_REQUESTS = 64
_PLAIN_TITLES = 2 * b"ANY".ljust(16)
_LONGEST_CACHED_BYTES = 32 * 1024

_FIXED_BYTES = 74
_ITEM_HEADER = struct.Struct(">BxH")
_PDU_HEADER = struct.Struct(">BxI")
_CONTEXT_ITEM, _ABSTRACT_ITEM, _SYNTAX_ITEM, _USER_ITEM = 0x20, 0x30, 0x40, 0x50
_CONTEXT_ID_BYTES = 4


def _encoded(kind: int, value: bytes) -> bytes:
    return _ITEM_HEADER.pack(kind, len(value)) + value


# Stands for all contexts in what pynetdicom decodes: it takes no request without one.
_ANY_CONTEXT = _encoded(
    _CONTEXT_ITEM,
    b"\x01\x00\x00\x00"
    + _encoded(_ABSTRACT_ITEM, VERIFICATION.encode())
    + _encoded(_SYNTAX_ITEM, ALL_TRANSFER_SYNTAXES[0].encode()),
)


@dataclass(frozen=True)
class Context:
    """An accepted presentation context."""

    sop_class_uid: str
    transfer_syntax_uid: str


@dataclass(frozen=True)
class Proposed:
    """A presentation context that a peer proposes.

    Parameters
    ----------
    context_id : int
        Odd.
    sop_class_uid : str
        As sent; it need not be a UID.
    transfer_syntax_uids : tuple of str
        In the peer's order; what is no UID is left out.
    """

    context_id: int
    sop_class_uid: str
    transfer_syntax_uids: tuple[str, ...]


@dataclass(frozen=True)
class AssociationRequest:
    """What a peer asks for.

    Parameters
    ----------
    calling_ae_title, called_ae_title : str
        As sent, without the spaces around them.
    max_pdu_bytes : int
        Longest PDU that the peer takes; 0 for no limit.
    pdu : bytes
        The A-ASSOCIATE-RQ.
    contexts : tuple of Proposed
        Presentation contexts.
    primitive : A_ASSOCIATE
        Everything else, as pynetdicom decodes it.
    """

    calling_ae_title: str
    called_ae_title: str
    max_pdu_bytes: int
    pdu: bytes
    contexts: tuple[Proposed, ...]
    primitive: Any


@dataclass(frozen=True)
class Acceptance:
    """What it gets.

    Parameters
    ----------
    pdu : bytes
        The A-ASSOCIATE-AC.
    contexts : mapping of int to Context
        Those that were accepted.
    """

    pdu: bytes
    contexts: Mapping[int, Context]


def read_request(pdu: bytes) -> AssociationRequest:
    """Decode an A-ASSOCIATE-RQ.

    Raises
    ------
    ProtocolError
        If it is not one.
    AssociationRefused
        If it speaks another protocol version or application context.
    """
    primitive, contexts = _decode(pdu)
    if not pdu[7] & 0x01:
        raise AssociationRefused(
            REJECTED_PERMANENT, _SOURCE_ACSE, _PROTOCOL_VERSION_NOT_SUPPORTED, "protocol version"
        )
    if str(primitive.application_context_name) != APPLICATION_CONTEXT:
        raise AssociationRefused(
            REJECTED_PERMANENT, SOURCE_USER, _CONTEXT_NAME_NOT_SUPPORTED, "application context"
        )
    return AssociationRequest(
        calling_ae_title=_title(pdu[26:42]),
        called_ae_title=_title(pdu[10:26]),
        max_pdu_bytes=int(primitive.maximum_length_received or 0),
        pdu=pdu,
        contexts=contexts,
        primitive=primitive,
    )


def accept(
    request: AssociationRequest, *, max_pdu_bytes: int, may_store: MayStore, commitment: bool = True
) -> Acceptance:
    """Negotiate presentation contexts and encode the A-ASSOCIATE-AC.

    Parameters
    ----------
    request : AssociationRequest
        What was asked.
    max_pdu_bytes : int
        Longest PDU that we take.
    may_store : callable
        Tells which SOP classes and transfer syntaxes are accepted.
    commitment : bool
        Whether storage commitment is offered.
    """
    primitive = request.primitive
    extra = {type(item): item for item in primitive.user_information}
    roles: Any = {
        item.sop_class_uid: (bool(item.scu_role), bool(item.scp_role))
        for item in primitive.user_information
        if isinstance(item, SCP_SCU_RoleSelectionNegotiation)
        # Neither role asks for nothing, and pynetdicom has no answer to it.
        and (item.scu_role or item.scp_role)
    }
    proposed = [_allowed(context, may_store) for context in request.contexts]
    results, role_answers = negotiate_unrestricted(proposed, _supported(commitment), roles)
    for context in results:
        if not context.transfer_syntax or context.transfer_syntax == [_NOTHING]:
            context.result = _NO_TRANSFER_SYNTAX
        if context.abstract_syntax == _NOTHING:
            context.result = _NO_ABSTRACT_SYNTAX
    user: list[Any] = [
        _item(MaximumLengthNotification, maximum_length_received=max_pdu_bytes),
        _item(
            ImplementationClassUIDNotification, implementation_class_uid=IMPLEMENTATION_CLASS_UID
        ),
        _item(
            ImplementationVersionNameNotification,
            implementation_version_name=IMPLEMENTATION_VERSION_NAME,
        ),
        *role_answers,
    ]
    if AsynchronousOperationsWindowNegotiation in extra:
        # One at a time, whatever was proposed.
        user.append(
            _item(
                AsynchronousOperationsWindowNegotiation,
                maximum_number_operations_invoked=1,
                maximum_number_operations_performed=1,
            )
        )
    answer = A_ASSOCIATE()
    answer.application_context_name = UID(APPLICATION_CONTEXT)
    answer.calling_ae_title = primitive.calling_ae_title
    answer.called_ae_title = primitive.called_ae_title
    answer.result = 0
    answer.result_source = 1
    answer.presentation_context_definition_results_list = results
    answer.user_information = user
    encoded = A_ASSOCIATE_AC()
    encoded.from_primitive(answer)
    pdu = bytearray(encoded.encode())
    # PS3.8 9.3.3: the titles come back as they were sent, odd or not.
    pdu[10:42] = request.pdu[10:42]
    return Acceptance(
        bytes(pdu),
        {
            int(context.context_id or 0): Context(
                str(context.abstract_syntax), str(context.transfer_syntax[0])
            )
            for context in results
            if context.result == _ACCEPTED
        },
    )


_NOTHING = UID("0")


def _allowed(proposed: Proposed, may_store: MayStore) -> PresentationContext:
    sop_class, syntaxes = proposed.sop_class_uid, proposed.transfer_syntax_uids
    if not is_uid(sop_class):
        sop_class, syntaxes = _NOTHING, ()
    elif sop_class not in _SERVICES:
        syntaxes = tuple(uid for uid in syntaxes if may_store(sop_class, uid))
        # The first is taken, unless pynetdicom knows which syntaxes the SOP class may have.
        if sop_class not in NON_PATIENT_OBJECTS:
            syntaxes = syntaxes[:1]
    allowed = PresentationContext()
    allowed.context_id = proposed.context_id
    allowed.abstract_syntax = UID(sop_class)
    allowed.transfer_syntax = [UID(uid) for uid in syntaxes or (_NOTHING,)]
    return allowed


@lru_cache(maxsize=2)
def _supported(commitment: bool) -> list[PresentationContext]:
    contexts = [build_context(VERIFICATION, ALL_TRANSFER_SYNTAXES[:2])]
    if commitment:
        contexts.append(build_context(STORAGE_COMMITMENT, ALL_TRANSFER_SYNTAXES[:2]))
    contexts += [build_context(uid, ALL_TRANSFER_SYNTAXES) for uid in NON_PATIENT_OBJECTS]
    return contexts


def _decode(pdu: bytes) -> tuple[Any, tuple[Proposed, ...]]:
    # pynetdicom cannot decode titles that are blank or odd; they are read from the bytes, and the
    # same request of many senders is then decoded once: it costs as much as ten instances.
    plain = pdu[:10] + _PLAIN_TITLES + pdu[42:]
    return _decode_cached(plain) if len(plain) <= _LONGEST_CACHED_BYTES else _decode_now(plain)


def _decode_now(pdu: bytes) -> tuple[Any, tuple[Proposed, ...]]:
    if len(pdu) < _FIXED_BYTES:
        raise _undecodable("it is too short")
    contexts: dict[int, Proposed] = {}
    rest = [_ANY_CONTEXT]
    for kind, start, end in _items(pdu, _FIXED_BYTES, len(pdu), at_most=MAX_CONTEXTS + 8):
        if kind == _CONTEXT_ITEM:
            proposed = _read_context(pdu, start, end)
            if proposed.context_id in contexts or not proposed.context_id % 2:
                raise _undecodable("the ids of its presentation contexts are not odd and distinct")
            contexts[proposed.context_id] = proposed
        else:
            if kind == _USER_ITEM:
                # Counted before pynetdicom takes them one by one.
                for _ in _items(pdu, start, end, at_most=MAX_USER_ITEMS):
                    pass
            rest.append(_encoded(kind, pdu[start:end]))
    if not contexts:
        raise _undecodable("no presentation context is proposed")
    items = b"".join(rest)
    length = _FIXED_BYTES - _PDU_HEADER.size + len(items)
    head = _PDU_HEADER.pack(pdu[0], length) + pdu[_PDU_HEADER.size : _FIXED_BYTES]
    try:
        request = A_ASSOCIATE_RQ()
        request.decode(head + items)
        primitive = request.to_primitive()
    except Exception as error:
        # Whatever bytes make pynetdicom's decoder raise: they are no association request.
        raise _undecodable(type(error).__name__) from error
    return primitive, tuple(contexts.values())


def _items(pdu: bytes, start: int, end: int, *, at_most: int) -> Iterator[tuple[int, int, int]]:
    """Yield type, begin and end of the value of each item (PS3.8 9.3.2)."""
    count = 0
    while start < end:
        count += 1
        if end - start < _ITEM_HEADER.size or count > at_most:
            raise _undecodable("its items do not fit together, or are too many")
        kind, length = _ITEM_HEADER.unpack_from(pdu, start)
        start += _ITEM_HEADER.size
        if length > end - start:
            raise _undecodable("an item is longer than what it is in")
        yield kind, start, start + length
        start += length


def _read_context(pdu: bytes, start: int, end: int) -> Proposed:
    if end - start < _CONTEXT_ID_BYTES:
        raise _undecodable("a presentation context has no id")
    sop_class, syntaxes = "", []
    first = start + _CONTEXT_ID_BYTES
    for kind, begin, stop in _items(pdu, first, end, at_most=MAX_TRANSFER_SYNTAXES + 1):
        uid = pdu[begin:stop][: MAX_UID_CHARACTERS + 1].decode("ascii", "replace").strip(" \x00")
        if kind == _ABSTRACT_ITEM:
            sop_class = uid
        elif kind == _SYNTAX_ITEM and is_uid(uid):
            syntaxes.append(uid)
    return Proposed(pdu[start], sop_class, tuple(syntaxes))


def _undecodable(why: str) -> ProtocolError:
    said = f"an A-ASSOCIATE-RQ that cannot be decoded ({why})"
    return ProtocolError(AbortReason.INVALID_PARAMETER, said)


_decode_cached = lru_cache(maxsize=_CACHED_REQUESTS)(_decode_now)


def _item(kind: Any, **values: Any) -> Any:
    item = kind()
    for name, value in values.items():
        setattr(item, name, value)
    return item


def _title(field: bytes) -> str:
    text = field.decode("ascii", "replace").strip(" \x00")
    return "".join(character if character.isprintable() else "?" for character in text)
