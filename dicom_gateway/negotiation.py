"""Association requests: what a peer asks for, and what it gets (PS3.8 section 7.1, PS3.7 annex D).

pynetdicom decodes, negotiates and encodes; here is only what a Storage SCP decides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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

from dicom_gateway.entities import (
    REJECTED_PERMANENT,
    SOURCE_USER,
    AssociationRefused,
)
from dicom_gateway.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_gateway.pdu import AbortReason, ProtocolError
from dicom_gateway.sop_classes import NON_PATIENT_OBJECTS, STORAGE_COMMITMENT, VERIFICATION

APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"

MayStore = Callable[[str, str], bool]
"""Whether instances of a SOP class in a transfer syntax may come at all."""

_SOURCE_ACSE = 2
_CONTEXT_NAME_NOT_SUPPORTED = 2
_PROTOCOL_VERSION_NOT_SUPPORTED = 2
_ACCEPTED, _NO_ABSTRACT_SYNTAX, _NO_TRANSFER_SYNTAX = 0x00, 0x03, 0x04
_CACHED_REQUESTS = 64
_PLAIN_TITLES = 2 * b"ANY".ljust(16)
_LONGEST_CACHED_BYTES = 32 * 1024


@dataclass(frozen=True)
class Context:
    """An accepted presentation context."""

    sop_class_uid: str
    transfer_syntax_uid: str


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
    """

    calling_ae_title: str
    called_ae_title: str
    max_pdu_bytes: int
    pdu: bytes


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
    primitive = _decode(pdu)
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
    primitive = _decode(request.pdu)
    extra = {type(item): item for item in primitive.user_information}
    roles: Any = {
        item.sop_class_uid: (bool(item.scu_role), bool(item.scp_role))
        for item in primitive.user_information
        if isinstance(item, SCP_SCU_RoleSelectionNegotiation)
    }
    proposed = [
        _allowed(context, may_store) for context in primitive.presentation_context_definition_list
    ]
    results, role_answers = negotiate_unrestricted(proposed, _supported(commitment), roles)
    for context in results:
        if not context.transfer_syntax or context.transfer_syntax == [_NOTHING]:
            context.result = _NO_TRANSFER_SYNTAX
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


def _allowed(context: PresentationContext, may_store: MayStore) -> PresentationContext:
    sop_class = str(context.abstract_syntax)
    if sop_class in (VERIFICATION, STORAGE_COMMITMENT):
        return context
    syntaxes = [uid for uid in context.transfer_syntax if may_store(sop_class, str(uid))]
    allowed = PresentationContext()
    allowed.context_id = context.context_id
    allowed.abstract_syntax = context.abstract_syntax
    allowed.transfer_syntax = list(syntaxes or [_NOTHING])
    return allowed


@lru_cache(maxsize=2)
def _supported(commitment: bool) -> list[PresentationContext]:
    contexts = [build_context(VERIFICATION, ALL_TRANSFER_SYNTAXES[:2])]
    if commitment:
        contexts.append(build_context(STORAGE_COMMITMENT, ALL_TRANSFER_SYNTAXES[:2]))
    contexts += [build_context(uid, ALL_TRANSFER_SYNTAXES) for uid in NON_PATIENT_OBJECTS]
    return contexts


def _decode(pdu: bytes) -> Any:
    # pynetdicom cannot decode titles that are blank or odd; they are read from the bytes, and the
    # same request of many senders is then decoded once: it costs as much as ten instances.
    plain = pdu[:10] + _PLAIN_TITLES + pdu[42:]
    return _decode_cached(plain) if len(plain) <= _LONGEST_CACHED_BYTES else _decode_now(plain)


def _decode_now(pdu: bytes) -> Any:
    try:
        request = A_ASSOCIATE_RQ()
        request.decode(pdu)
        primitive = request.to_primitive()
        if not primitive.presentation_context_definition_list:
            msg = "no presentation context is proposed"
            raise ProtocolError(AbortReason.INVALID_PARAMETER, msg)
    except ProtocolError:
        raise
    except Exception as error:
        # Whatever bytes make pynetdicom's decoder raise: they are no association request.
        said = f"an A-ASSOCIATE-RQ that cannot be decoded ({type(error).__name__})"
        raise ProtocolError(AbortReason.INVALID_PARAMETER, said) from error
    return primitive


_decode_cached = lru_cache(maxsize=_CACHED_REQUESTS)(_decode_now)


def _item(kind: Any, **values: Any) -> Any:
    item = kind()
    for name, value in values.items():
        setattr(item, name, value)
    return item


def _title(field: bytes) -> str:
    text = field.decode("ascii", "replace").strip(" \x00")
    return "".join(character if character.isprintable() else "?" for character in text)
