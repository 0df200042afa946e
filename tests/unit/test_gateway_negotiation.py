"""Association requests: pynetdicom's, odd ones, and any bytes."""

from __future__ import annotations

import struct
import time
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydicom.uid import UID
from pynetdicom import ALL_TRANSFER_SYNTAXES
from pynetdicom.ae import ApplicationEntity
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    AsynchronousOperationsWindowNegotiation,
    ImplementationClassUIDNotification,
    MaximumLengthNotification,
    SCP_SCU_RoleSelectionNegotiation,
    UserIdentityNegotiation,
)
from pynetdicom.presentation import build_context

from dicom_gateway.aes.entities import AssociationRefused
from dicom_gateway.native.negotiation import (
    MAX_CONTEXTS,
    MAX_TRANSFER_SYNTAXES,
    MAX_USER_ITEMS,
    Context,
    MayStore,
    accept,
    read_request,
)
from dicom_gateway.native.pdu import AbortReason, ProtocolError
from dicom_gateway.storing.sop_classes import NON_PATIENT_OBJECTS, STORAGE_COMMITMENT, VERIFICATION
from tests.support.upper_layer import CT, EXPLICIT, IMPLICIT, associate_rq, context, item

MR = "1.2.840.10008.5.1.4.1.1.4"
FIND = "1.2.840.10008.5.1.4.1.2.2.1"
PRIVATE = "1.2.840.113619.5.2"

TAKEN, NO_ABSTRACT, NO_SYNTAX = 0, 3, 4


@pytest.fixture(autouse=True, scope="module")
def _unrestricted() -> Any:
    """As a receive process sets it for itself."""
    from pynetdicom import _config

    before = _config.UNRESTRICTED_STORAGE_SERVICE
    _config.UNRESTRICTED_STORAGE_SERVICE = True
    yield
    _config.UNRESTRICTED_STORAGE_SERVICE = before


def everything(sop_class: str, syntax: str) -> bool:
    return True


def answer(pdu: bytes, may_store: MayStore = everything, **options: Any) -> tuple[Any, Any]:
    """What pynetdicom reads from our answer, and what we hold for accepted."""
    acceptance = accept(read_request(pdu), max_pdu_bytes=65536, may_store=may_store, **options)
    decoded = A_ASSOCIATE_AC()
    decoded.decode(acceptance.pdu)
    return decoded.to_primitive(), acceptance


def results(pdu: bytes, may_store: MayStore = everything, **options: Any) -> dict[int, int]:
    primitive, acceptance = answer(pdu, may_store, **options)
    told = {c.context_id: c.result for c in primitive.presentation_context_definition_results_list}
    assert {number for number, result in told.items() if result == TAKEN} == set(
        acceptance.contexts
    )
    return told


def request_of_pynetdicom(*contexts: Any, user_information: tuple[Any, ...] = ()) -> bytes:
    entity = ApplicationEntity("TESTER")
    primitive = A_ASSOCIATE()
    primitive.application_context_name = UID("1.2.840.10008.3.1.1.1")
    primitive.calling_ae_title, primitive.called_ae_title = "TESTER", "BIODATAMINE"
    length = MaximumLengthNotification()
    length.maximum_length_received = 30000
    implementation = ImplementationClassUIDNotification()
    implementation.implementation_class_uid = entity.implementation_class_uid
    primitive.user_information = [length, implementation, *user_information]
    for index, one in enumerate(contexts):
        one.context_id = 2 * index + 1
    primitive.presentation_context_definition_list = list(contexts)
    encoded = A_ASSOCIATE_RQ()
    encoded.from_primitive(primitive)
    return bytes(encoded.encode())


def filled(kind: Any, **values: Any) -> Any:
    made = kind()
    for name, value in values.items():
        setattr(made, name, value)
    return made


# ---- what pynetdicom asks for


def test_a_request_of_pynetdicom() -> None:
    pdu = request_of_pynetdicom(
        build_context(VERIFICATION),
        build_context(CT, [PRIVATE, EXPLICIT]),
        build_context(FIND),
        build_context(STORAGE_COMMITMENT, EXPLICIT),
        build_context("1.3.12.2.1107.5.9.1", IMPLICIT),
    )
    request = read_request(pdu)
    assert (request.calling_ae_title, request.called_ae_title) == ("TESTER", "BIODATAMINE")
    assert request.max_pdu_bytes == 30000
    primitive, acceptance = answer(pdu)
    assert results(pdu) == {1: TAKEN, 3: TAKEN, 5: NO_ABSTRACT, 7: TAKEN, 9: TAKEN}
    assert acceptance.contexts[3] == Context(CT, PRIVATE)
    assert acceptance.contexts[7] == Context(STORAGE_COMMITMENT, EXPLICIT)
    assert acceptance.pdu[10:42] == pdu[10:42]
    assert primitive.maximum_length_received == 65536
    assert primitive.result == 0


def test_128_contexts_with_every_transfer_syntax() -> None:
    contexts = [build_context(f"1.2.3.{index}", ALL_TRANSFER_SYNTAXES) for index in range(128)]
    pdu = request_of_pynetdicom(*contexts)
    # More than what is kept of earlier requests.
    assert len(pdu) > 100_000
    assert results(pdu) == {2 * index + 1: TAKEN for index in range(128)}


@pytest.mark.parametrize("proposed", [(True, False), (False, True), (True, True)])
def test_roles(proposed: tuple[bool, bool]) -> None:
    role = filled(
        SCP_SCU_RoleSelectionNegotiation,
        sop_class_uid=UID(CT),
        scu_role=proposed[0],
        scp_role=proposed[1],
    )
    primitive, _ = answer(
        request_of_pynetdicom(build_context(CT, EXPLICIT), user_information=(role,))
    )
    (told,) = (
        one for one in primitive.user_information
        if isinstance(one, SCP_SCU_RoleSelectionNegotiation)
    )  # fmt: skip
    # PS3.7 D.3.3.4.2: nothing that was not proposed.
    assert (told.sop_class_uid, told.scu_role, told.scp_role) == (CT, *proposed)


def test_a_role_that_is_none_is_no_fault_of_ours() -> None:
    neither = item(0x54, struct.pack(">H", len(CT)) + CT.encode() + b"\x00\x00")
    try:
        told = results(associate_rq(user_items=neither))
    except ProtocolError:
        return
    assert told[3] == TAKEN


@pytest.mark.parametrize("proposed", [(0, 0), (1, 1), (5, 7)])
def test_an_asynchronous_window_is_answered_with_one(proposed: tuple[int, int]) -> None:
    window = filled(
        AsynchronousOperationsWindowNegotiation,
        maximum_number_operations_invoked=proposed[0],
        maximum_number_operations_performed=proposed[1],
    )
    primitive, _ = answer(
        request_of_pynetdicom(build_context(CT, EXPLICIT), user_information=(window,))
    )
    (told,) = (
        one for one in primitive.user_information
        if isinstance(one, AsynchronousOperationsWindowNegotiation)
    )  # fmt: skip
    assert told.maximum_number_operations_invoked == 1
    assert told.maximum_number_operations_performed == 1


def test_user_identity_is_not_answered() -> None:
    identity = filled(
        UserIdentityNegotiation,
        user_identity_type=2,
        primary_field=b"user",
        secondary_field=b"password",
        positive_response_requested=True,
    )
    primitive, _ = answer(
        request_of_pynetdicom(build_context(CT, EXPLICIT), user_information=(identity,))
    )
    assert not any(isinstance(one, UserIdentityNegotiation) for one in primitive.user_information)


# ---- rules


def test_rules_leave_contexts_out() -> None:
    pdu = associate_rq(
        [
            context(1, CT, PRIVATE, EXPLICIT, IMPLICIT),
            context(3, MR, EXPLICIT),
            context(5, CT, PRIVATE),
            context(7, VERIFICATION, IMPLICIT),
            context(9, STORAGE_COMMITMENT, IMPLICIT),
        ]
    )

    def only_ct_uncompressed(sop_class: str, syntax: str) -> bool:
        return sop_class == CT and syntax in (EXPLICIT, IMPLICIT)

    _, acceptance = answer(pdu, only_ct_uncompressed)
    assert results(pdu, only_ct_uncompressed) == {
        1: TAKEN, 3: NO_SYNTAX, 5: NO_SYNTAX, 7: TAKEN, 9: TAKEN,
    }  # fmt: skip
    assert acceptance.contexts[1] == Context(CT, EXPLICIT)


def test_services_take_only_what_they_can_read() -> None:
    pdu = associate_rq(
        [
            context(1, VERIFICATION, PRIVATE, IMPLICIT),
            context(3, VERIFICATION, PRIVATE),
            context(5, STORAGE_COMMITMENT, "1.2.840.10008.1.2.2"),
        ]
    )
    assert results(pdu) == {1: TAKEN, 3: NO_SYNTAX, 5: NO_SYNTAX}
    assert answer(pdu)[1].contexts[1] == Context(VERIFICATION, IMPLICIT)


def test_commitment_can_be_left_out() -> None:
    pdu = associate_rq([context(1, STORAGE_COMMITMENT, IMPLICIT)])
    assert results(pdu, commitment=False) == {1: NO_ABSTRACT}


def test_objects_without_a_patient() -> None:
    pdu = associate_rq(
        [context(2 * i + 1, uid, EXPLICIT) for i, uid in enumerate(NON_PATIENT_OBJECTS)]
    )
    assert set(results(pdu).values()) == {TAKEN}


# ---- odd requests


@pytest.mark.parametrize(
    ("field", "title"),
    [
        (b"PADDED".ljust(16, b"\0"), "PADDED"),
        (b"   LEADING      ", "LEADING"),
        (b" " * 16, ""),
        (bytes(16), ""),
        (b"a\\b\x07c\x1b[31m\r\nd  ", None),
        (b"\xff" * 16, None),
    ],
)
def test_odd_titles(field: bytes, title: str | None) -> None:
    pdu = associate_rq(called=field, calling=field)
    request = read_request(pdu)
    assert request.called_ae_title == request.calling_ae_title
    assert request.called_ae_title.isprintable()
    if title is not None:
        assert request.called_ae_title == title
    assert answer(pdu)[1].pdu[10:42] == field.ljust(16) * 2


def test_uids_that_are_none_leave_their_context_out_and_no_other() -> None:
    pdu = associate_rq(
        [
            context(1, "CT Image", EXPLICIT),
            context(3, CT, "explicit"),
            context(5, CT, "explicit", EXPLICIT),
            context(7, CT + "\0", EXPLICIT + "\0"),
            context(9, "1" * 70, EXPLICIT),
            context(11, "", EXPLICIT),
            context(13, CT),
        ]
    )
    assert results(pdu) == {
        1: NO_ABSTRACT, 3: NO_SYNTAX, 5: TAKEN, 7: TAKEN, 9: NO_ABSTRACT, 11: NO_ABSTRACT,
        13: NO_SYNTAX,
    }  # fmt: skip
    assert answer(pdu)[1].contexts[7] == Context(CT, EXPLICIT)


def test_a_peer_that_names_no_longest_pdu() -> None:
    body = associate_rq()
    user = body.index(b"\x51\x00\x00\x04")
    cut = body[:user] + body[user + 8 :]
    start = user - 4
    (length,) = struct.unpack_from(">H", cut, start + 2)
    cut = cut[: start + 2] + struct.pack(">H", length - 8) + cut[start + 4 :]
    cut = cut[:2] + struct.pack(">I", len(cut) - 6) + cut[6:]
    try:
        assert read_request(cut).max_pdu_bytes == 0
    except ProtocolError as error:
        assert error.reason is AbortReason.INVALID_PARAMETER


@pytest.mark.parametrize(
    ("changes", "codes"),
    [
        ({"version": 2}, (1, 2, 2)),
        ({"version": 0}, (1, 2, 2)),
        ({"application_context": b"1.2.840.10008.3.1.1.2"}, (1, 1, 2)),
    ],
)
def test_what_is_rejected(changes: dict[str, Any], codes: tuple[int, int, int]) -> None:
    with pytest.raises(AssociationRefused) as refused:
        read_request(associate_rq(**changes))
    assert (refused.value.result, refused.value.source, refused.value.reason) == codes


def test_later_versions_that_still_speak_the_first_are_taken() -> None:
    assert results(associate_rq(version=3))[1] == TAKEN


MANY_SYNTAXES = context(1, CT, *[EXPLICIT] * (MAX_TRANSFER_SYNTAXES + 1))


@pytest.mark.parametrize(
    "pdu",
    [
        associate_rq([]),
        associate_rq([context(1, CT, EXPLICIT)] * 2),
        associate_rq([context(2, CT, EXPLICIT)]),
        associate_rq([context(1, CT, EXPLICIT)] * 10 * MAX_CONTEXTS),
        associate_rq([MANY_SYNTAXES]),
        associate_rq([item(0x20, b"")]),
        associate_rq([item(0x20, b"\x01\x00\x00")]),
        associate_rq([b"\x20\x00\xff\xff"]),
        associate_rq([b"\x20\x00"]),
        associate_rq(user_items=item(0x55, b"") * (MAX_USER_ITEMS + 1)),
        associate_rq()[:70],
        associate_rq()[:74],
        associate_rq()[:-3],
    ],
)
def test_what_cannot_be_decoded(pdu: bytes) -> None:
    with pytest.raises(ProtocolError) as refused:
        read_request(pdu)
    assert refused.value.reason is AbortReason.INVALID_PARAMETER


GOOD = associate_rq()


def settle(pdu: bytes) -> None:
    """Whatever it is, it ends in an answer that can be read, a rejection or an abort."""
    try:
        answer(pdu)
    except (ProtocolError, AssociationRefused):
        return


@settings(max_examples=300)
@given(st.binary(max_size=600))
def test_any_bytes(junk: bytes) -> None:
    settle(GOOD[:74] + junk)
    settle(junk)


@settings(max_examples=300)
@given(st.integers(6, len(GOOD) - 1), st.binary(min_size=1, max_size=6))
@example(GOOD.index(b"\x50"), b"\x50\x00\x00\x00")
def test_damage_anywhere(place: int, junk: bytes) -> None:
    settle(GOOD[:place] + junk + GOOD[place + len(junk) :])
    settle(GOOD[:place] + junk + GOOD[place:])
    settle(GOOD[:place])


@given(
    st.lists(
        st.builds(
            context,
            st.integers(0, 255),
            st.sampled_from([CT, FIND, VERIFICATION, "", "x", "1.2"]) | st.text("0123456789."),
            st.text("0123456789.", max_size=70),
        ),
        max_size=5,
    ),
    st.lists(st.builds(item, st.integers(0x50, 0x5A), st.binary(max_size=40)), max_size=4).map(
        b"".join
    ),
)
def test_any_items(contexts: list[bytes], user_items: bytes) -> None:
    settle(associate_rq(contexts, user_items=user_items))


def test_the_largest_request_holds_nobody_up() -> None:
    """Ten times less work than a second: the door's loop does it while others wait."""
    syntaxes = [f"1.2.840.10008.1.2.{index}" for index in range(60)]
    pdu = associate_rq([context(2 * i + 1, f"1.2.3.{i}", *syntaxes) for i in range(128)])
    began = time.process_time()
    assert len(results(pdu)) == 128
    # Four times through, two of them pynetdicom's; the bound is far above what it takes.
    assert time.process_time() - began < 5.0
