"""Command sets, against pynetdicom's encoder and decoder, and any bytes whatever."""

from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import UID
from pynetdicom.dimse_messages import (
    C_ECHO_RQ,
    C_ECHO_RSP,
    C_STORE_RQ,
    C_STORE_RSP,
    N_ACTION_RQ,
    N_ACTION_RSP,
    N_EVENT_REPORT_RQ,
    N_EVENT_REPORT_RSP,
)
from pynetdicom.dimse_primitives import C_ECHO, C_STORE, N_ACTION, N_EVENT_REPORT
from pynetdicom.dsutils import decode, encode

from dicom_gateway.native import command
from dicom_gateway.native.command import Command, read_command, write_event_report, write_response
from dicom_gateway.native.pdu import ProtocolError
from tests.support import upper_layer

uids = st.lists(st.integers(0, 10**9).map(str), min_size=2, max_size=6).map(".".join)
numbers = st.integers(0, 0xFFFF)


def encoded(message: Any, primitive: Any) -> bytes:
    """The command set as pynetdicom puts it on the wire."""
    message.primitive_to_message(primitive)
    data = encode(message.command_set, True, True)
    assert data is not None
    return data


def decoded(data: bytes) -> Any:
    """A command set as pynetdicom reads it."""
    return decode(io.BytesIO(data), True, True)


@given(numbers, uids, uids)
def test_store_requests_of_pynetdicom(message_id: int, sop_class: str, instance: str) -> None:
    said = C_STORE()
    said.MessageID, said.Priority = message_id, 2
    said.AffectedSOPClassUID, said.AffectedSOPInstanceUID = UID(sop_class), UID(instance)
    said.DataSet = io.BytesIO(b"x")
    assert read_command(encoded(C_STORE_RQ(), said)) == Command(
        command.C_STORE_RQ, message_id, True, sop_class, instance
    )


@given(numbers)
def test_echo_requests_of_pynetdicom(message_id: int) -> None:
    said = C_ECHO()
    said.MessageID = message_id
    said.AffectedSOPClassUID = UID("1.2.840.10008.1.1")
    assert read_command(encoded(C_ECHO_RQ(), said)) == Command(
        command.C_ECHO_RQ, message_id, False, "1.2.840.10008.1.1"
    )


@given(numbers, uids, uids, numbers)
def test_action_requests_of_pynetdicom(
    message_id: int, sop_class: str, instance: str, kind: int
) -> None:
    said = N_ACTION()
    said.MessageID, said.ActionTypeID = message_id, kind
    said.RequestedSOPClassUID, said.RequestedSOPInstanceUID = UID(sop_class), UID(instance)
    assert read_command(encoded(N_ACTION_RQ(), said)) == Command(
        command.N_ACTION_RQ, message_id, False, sop_class, instance, type_id=kind
    )


@given(numbers, numbers)
def test_responses_of_pynetdicom_to_our_reports(message_id: int, status: int) -> None:
    said = N_EVENT_REPORT()
    said.MessageIDBeingRespondedTo, said.Status = message_id, status
    read = read_command(encoded(N_EVENT_REPORT_RSP(), said))
    assert (read.is_response, read.message_id, read.status) == (True, message_id, status)


@given(numbers, uids, uids, numbers, st.text(max_size=100))
def test_pynetdicom_reads_our_responses(
    message_id: int, sop_class: str, instance: str, status: int, comment: str
) -> None:
    for field, message in (
        (command.C_STORE_RQ, C_STORE_RSP()),
        (command.C_ECHO_RQ, C_ECHO_RSP()),
        (command.N_ACTION_RQ, N_ACTION_RSP()),
    ):
        request = Command(field, message_id, True, sop_class, instance)
        data = write_response(request, status, comment=comment)
        # Not length alone: the group length has to be what follows it.
        read = decoded(data)
        assert read.CommandGroupLength == len(data) - 12
        assert read.CommandField == field | 0x8000
        assert read.MessageIDBeingRespondedTo == message_id
        assert read.Status == status
        assert (read.AffectedSOPClassUID, read.AffectedSOPInstanceUID) == (sop_class, instance)
        assert len(read.get("ErrorComment", "") or "") <= 64
        message.command_set = read
        message.data_set = None
        assert message.message_to_primitive().Status == status
        assert len(data) % 2 == 0


@given(numbers, uids, uids, numbers)
def test_pynetdicom_reads_our_reports(
    message_id: int, sop_class: str, instance: str, kind: int
) -> None:
    data = write_event_report(
        message_id, sop_class_uid=sop_class, sop_instance_uid=instance, event_type=kind
    )
    message = N_EVENT_REPORT_RQ()
    message.command_set = decoded(data)
    message.data_set = None
    read = message.message_to_primitive()
    assert (read.MessageID, read.EventTypeID) == (message_id, kind)
    assert (read.AffectedSOPClassUID, read.AffectedSOPInstanceUID) == (sop_class, instance)
    # What we sent is also what we would read.
    again = read_command(data)
    assert (again.message_id, again.type_id, again.has_dataset) == (message_id, kind, True)


@pytest.mark.parametrize("uid", ["", "1" * 65, "x" * 200])
def test_what_can_be_no_uid_is_not_said_again(uid: str) -> None:
    request = Command(command.C_STORE_RQ, 1, True, uid, uid)
    read = decoded(write_response(request, 0x0117))
    assert "AffectedSOPInstanceUID" not in read
    assert "AffectedSOPClassUID" not in read


@given(st.binary(max_size=300))
def test_any_bytes_are_a_command_or_an_abort(data: bytes) -> None:
    try:
        read_command(data)
    except ProtocolError:
        return


@given(
    st.integers(0, 0xFFFF),
    st.integers(0, 200),
    st.integers(0, 255),
    st.sampled_from(["affected_instance", "requested_class"]),
    st.text(max_size=150),
)
def test_damage_is_a_command_or_an_abort(
    field: int, place: int, byte: int, name: str, text: str
) -> None:
    data = bytearray(upper_layer.command(field=field, message_id=1, dataset=0, **{name: text}))
    data[place % len(data)] = byte
    try:
        read = read_command(data)
    except ProtocolError:
        return
    assert len(read.sop_instance_uid) <= 128
    write_response(read, 0)


@pytest.mark.parametrize(
    "fields",
    [
        {"message_id": 1, "dataset": 0},
        {"field": 1, "message_id": 1},
        {"field": 1, "dataset": 0},
        {"field": 0x8001, "message_id": 1, "dataset": 0},
    ],
)
def test_what_every_message_has_must_be_there(fields: dict[str, int]) -> None:
    with pytest.raises(ProtocolError):
        read_command(upper_layer.command(**fields))


def test_a_cancel_needs_no_message_id() -> None:
    assert read_command(upper_layer.command(field=0x0FFF, dataset=0x0101)).field == 0x0FFF
