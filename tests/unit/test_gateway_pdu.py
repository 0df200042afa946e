"""The upper layer after the association stands: any bytes, cut anywhere."""

from __future__ import annotations

import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_gateway.native.pdu import (
    AbortReason,
    Ending,
    Fragment,
    ProtocolError,
    UpperLayer,
    abort_pdu,
    data_pdu,
    data_pdus,
    reject_pdu,
)
from tests.support.upper_layer import RELEASE_RQ, p_data, pdv

MAX_PDU = 4096

Said = tuple[object, ...]


def items(upper: UpperLayer, *pieces: bytes) -> list[Said]:
    """What pieces of a stream make, until the first that is against the protocol."""
    said: list[Said] = []
    for piece in pieces:
        try:
            for item in upper.feed(memoryview(piece)):
                if isinstance(item, Fragment):
                    said.append((item.context_id, item.is_command, item.is_last, bytes(item.data)))
                else:
                    said.append((item,))
        except ProtocolError as error:
            return [*said, (error.reason, str(error))]
    return said


def joined(said: list[Said]) -> list[Said]:
    """Fragments that are pieces of one PDV, as one; how they are cut does not matter."""
    whole: list[Said] = []
    for one in said:
        last = whole[-1] if whole else ()
        if len(one) == len(last) == 4 and one[:2] == last[:2] and not last[2]:
            assert isinstance(last[3], bytes)
            assert isinstance(one[3], bytes)
            whole[-1] = (*one[:3], last[3] + one[3])
        else:
            whole.append(one)
    return whole


values = st.builds(pdv, st.integers(0, 255), st.integers(0, 255), st.binary(max_size=80))
good_pdus = st.one_of(
    st.lists(values, min_size=1, max_size=4).map(lambda made: p_data(*made)),
    st.just(RELEASE_RQ),
    st.just(abort_pdu(AbortReason.NOT_SPECIFIED)),
)
any_pdus = st.one_of(
    good_pdus,
    st.binary(max_size=40),
    st.builds(
        lambda kind, length, body: struct.pack(">BxI", kind, length) + body,
        st.integers(0, 9),
        st.integers(0, 0xFFFFFFFF) | st.integers(0, 60),
        st.binary(max_size=60),
    ),
)


def cut(data: bytes, at: list[int]) -> list[bytes]:
    marks = [0, *sorted({min(mark, len(data)) for mark in at}), len(data)]
    return [data[start:end] for start, end in pairwise(marks)]


@given(st.lists(any_pdus, max_size=6).map(b"".join), st.lists(st.integers(0, 600), max_size=12))
def test_a_stream_says_the_same_however_it_is_cut(data: bytes, at: list[int]) -> None:
    whole = joined(items(UpperLayer(MAX_PDU), data))
    assert joined(items(UpperLayer(MAX_PDU), *cut(data, at))) == whole
    assert joined(items(UpperLayer(MAX_PDU), *(data[i : i + 1] for i in range(len(data))))) == whole


@given(st.binary(max_size=4000), st.lists(st.integers(0, 4000), max_size=5))
def test_any_bytes_end_in_items_or_in_an_abort_and_are_not_kept(data: bytes, at: list[int]) -> None:
    upper = UpperLayer(MAX_PDU)
    for piece in cut(data, at):
        # Nothing else is raised, and all that stays is less than a header.
        said = items(upper, piece)
        assert len(upper._header) <= 6
        assert sum(len(one[3]) for one in said if isinstance(one[-1], bytes)) <= len(piece)
        if said and isinstance(said[-1][0], AbortReason):
            return


@given(
    st.lists(
        st.tuples(st.integers(0, 255), st.binary(max_size=3000), st.booleans()),
        min_size=1,
        max_size=5,
    ),
    st.integers(0, 2000),
)
def test_what_is_encoded_comes_out_again(
    messages: list[tuple[int, bytes, bool]], max_pdu_bytes: int
) -> None:
    sent = b"".join(
        data_pdus(number, data, is_command=is_command, max_pdu_bytes=max_pdu_bytes)
        for number, data, is_command in messages
    )
    got: list[Said] = []
    data = b""
    for number, is_command, is_last, piece in items(
        UpperLayer(max(1024, max_pdu_bytes or 9000)), sent
    ):
        data += piece
        if is_last:
            got.append((number, data, is_command))
            data = b""
    assert got == messages
    assert not data


@given(st.integers(0, 255), st.binary(max_size=500), st.booleans())
def test_one_pdu_for_what_is_short(number: int, data: bytes, is_command: bool) -> None:
    sent = data_pdu(number, data, is_command=is_command)
    assert sent == data_pdus(number, data, is_command=is_command, max_pdu_bytes=4096)
    assert items(UpperLayer(MAX_PDU), sent) == [(number, is_command, True, data)]


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        # Length of a PDV counts its two bytes of context id and control header.
        (struct.pack(">BxIIBB", 0x04, 6, 0, 1, 3), AbortReason.INVALID_PARAMETER),
        (struct.pack(">BxIIBB", 0x04, 6, 1, 1, 3), AbortReason.INVALID_PARAMETER),
        (struct.pack(">BxIIBB", 0x04, 6, 3, 1, 3) + b"x", AbortReason.INVALID_PARAMETER),
        (struct.pack(">BxIIBB", 0x04, 6, 0xFFFFFFFF, 1, 3), AbortReason.INVALID_PARAMETER),
        # What is left behind a PDV is too short for another.
        (struct.pack(">BxIIBB", 0x04, 9, 2, 1, 3) + b"abc", AbortReason.INVALID_PARAMETER),
        (struct.pack(">BxI", 0x04, 0), AbortReason.INVALID_PARAMETER),
        (struct.pack(">BxI", 0x04, 5), AbortReason.INVALID_PARAMETER),
        (struct.pack(">BxI", 0x04, MAX_PDU + 1), AbortReason.INVALID_PARAMETER),
        (struct.pack(">BxI", 0x04, 1_500_000_000), AbortReason.INVALID_PARAMETER),
        (struct.pack(">BxI", 0x05, 5), AbortReason.INVALID_PARAMETER),
        (struct.pack(">BxI", 0x07, 0), AbortReason.INVALID_PARAMETER),
        (struct.pack(">BxI", 0x01, 200), AbortReason.UNEXPECTED_PDU),
        (struct.pack(">BxI", 0x02, 200), AbortReason.UNEXPECTED_PDU),
        (struct.pack(">BxI", 0x03, 4), AbortReason.UNEXPECTED_PDU),
        (struct.pack(">BxI", 0x06, 4), AbortReason.UNEXPECTED_PDU),
        (struct.pack(">BxI", 0x00, 4), AbortReason.UNRECOGNIZED_PDU),
        (struct.pack(">BxI", 0x08, 4), AbortReason.UNRECOGNIZED_PDU),
        (b"GET / HTTP/1.1", AbortReason.UNRECOGNIZED_PDU),
    ],
)
def test_each_fault_has_its_reason(sent: bytes, reason: AbortReason) -> None:
    (said,) = items(UpperLayer(MAX_PDU), sent)
    assert said[0] is reason


def test_pdus_of_the_negotiated_length_are_taken() -> None:
    data = bytes(MAX_PDU - 6)
    assert items(UpperLayer(MAX_PDU), p_data(pdv(1, 2, data))) == [(1, False, True, data)]


def test_a_pdv_without_data_ends_a_dataset() -> None:
    sent = p_data(pdv(1, 0, b"ab"), pdv(1, 2, b""))
    assert items(UpperLayer(MAX_PDU), sent) == [(1, False, False, b"ab"), (1, False, True, b"")]


def test_it_is_between_pdus_only_where_all_is_whole() -> None:
    for sent in (p_data(pdv(1, 2, b"ab"), pdv(3, 3, b"c")), RELEASE_RQ):
        upper = UpperLayer(MAX_PDU)
        assert upper.is_between_pdus
        for index in range(len(sent)):
            list(upper.feed(memoryview(sent[index : index + 1])))
            assert upper.is_between_pdus == (index == len(sent) - 1), (sent, index)


def test_data_are_views_of_what_was_fed() -> None:
    sent = bytearray(p_data(pdv(1, 2, b"abc")))
    (fragment,) = UpperLayer(MAX_PDU).feed(memoryview(sent))
    assert isinstance(fragment, Fragment)
    assert fragment.data.obj is sent


def test_what_a_peer_is_told() -> None:
    assert items(UpperLayer(MAX_PDU), abort_pdu(AbortReason.UNEXPECTED_PDU)) == [(Ending.ABORTED,)]
    assert abort_pdu(AbortReason.INVALID_PARAMETER)[-2:] == bytes((2, 6))
    assert reject_pdu(2, 3, 2) == bytes((3, 0, 0, 0, 0, 4, 0, 2, 3, 2))
