from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dicom_gateway.dicomweb.media_types import choose, parse_media_type
from dicom_gateway.dicomweb.multipart import (
    MAX_PART_HEADER_BYTES,
    MAX_PREAMBLE_BYTES,
    FramingError,
    MultipartDecoder,
    PartData,
    PartStart,
    SinglePartDecoder,
    TooManyPartsError,
)

BOUNDARY = "b-0"
DELIMITER = b"\r\n--b-0"
# Where a decoder could go wrong: line ends, dashes, and beginnings of the delimiter.
CONTENT = st.lists(
    st.sampled_from([b"\r", b"\n", b"\r\n", b"-", b"--", b"--b-", b"\r\n--b-", b"b-0", b"x", b"\0"])
).map(b"".join)
HEADERS = st.dictionaries(
    st.sampled_from(["content-type", "content-location", "x-a"]),
    st.text(st.characters(codec="ascii", categories=["L", "N"]), max_size=8),
)


def body(parts: list[tuple[dict[str, str], bytes]]) -> bytes:
    written = b""
    for headers, content in parts:
        written += DELIMITER + b"\r\n"
        written += b"".join(f"{name}: {value}\r\n".encode() for name, value in headers.items())
        written += b"\r\n" + content
    return written + DELIMITER + b"--"


def decode(pieces: list[bytes], max_parts: int = 100) -> list[tuple[dict[str, str], bytes]]:
    decoder = MultipartDecoder(BOUNDARY, max_parts=max_parts)
    found: list[tuple[dict[str, str], bytes]] = []
    complete = 0
    for piece in pieces:
        for event in decoder.feed(piece):
            if isinstance(event, PartStart):
                found.append((dict(event.headers), b""))
            elif isinstance(event, PartData):
                assert len(event.data) > 0
                found[-1] = (found[-1][0], found[-1][1] + bytes(event.data))
            else:
                complete += 1
    assert list(decoder.finish()) == []
    assert complete == len(found)
    return found


def pieces_of(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


@given(st.lists(st.tuples(HEADERS, CONTENT), max_size=4), st.lists(st.integers(0), max_size=6))
@example([({}, b"")], [])
@example([({}, b"\r\n"), ({"x-a": ""}, b"")], [3])
def test_parts_come_back_however_the_body_is_cut(
    parts: list[tuple[dict[str, str], bytes]], cuts: list[int]
) -> None:
    # No sender may choose a boundary that stands in a part (RFC 2046 5.1.1), nor at its begin,
    # where the line break before it ends the headers.
    parts = [(headers, data) for headers, data in parts if DELIMITER not in b"\r\n" + data]
    assert decode(pieces_of(body(parts), cuts)) == parts


@pytest.mark.parametrize("first_line_end", [b"", b"\r\n", b"a preamble\r\n"])
def test_a_cut_at_every_byte(first_line_end: bytes) -> None:
    parts = [
        ({"content-type": "application/dicom"}, b"one\r\n--b-"),
        ({}, b""),
        ({"x-a": "1"}, b"\r\n\r\n--"),
    ]
    whole = first_line_end + body(parts)[2:] + b"\r\nan epilogue\r\n--b-0\r\n"
    for cut in range(len(whole) + 1):
        assert decode([whole[:cut], whole[cut:]]) == parts
    assert decode([whole[at : at + 1] for at in range(len(whole))]) == parts


def test_a_longer_name_than_the_boundary_is_content() -> None:
    # As a multipart body within a part may have it.
    inner = b"\r\n--b-01\r\n\r\nx\r\n--b-01--\r\n--b-0 x\r\n--b-0-\r\n--b-0\r-"
    assert decode([body([({}, inner)])]) == [({}, inner)]


def test_white_space_may_follow_a_delimiter() -> None:
    assert decode([b"--b-0 \t \r\n\r\nx\r\n--b-0--  \r\n"]) == [({}, b"x")]


def test_a_folded_header_line_belongs_to_the_one_before() -> None:
    assert decode([b"--b-0\r\nX-A: 1\r\n\t2\r\n\r\nx\r\n--b-0--"]) == [({"x-a": "1 2"}, b"x")]


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (b"", "no delimiter"),
        (b"--other\r\n\r\nx\r\n--other--", "no delimiter"),
        (b"--b-0", "no delimiter"),
        (b"--b-0\r\n", "before its last delimiter"),
        (b"--b-0\r\n\r\nx", "before its last delimiter"),
        (b"--b-0\r\n\r\nx\r\n--b-0", "before its last delimiter"),
        (b"--b-0\r\n\r\nx\r\n--b-0\r\n", "before its last delimiter"),
        (b"--b-0\r\nno colon\r\n\r\nx\r\n--b-0--", "without a name"),
        (b"--b-0\r\n: x\r\n\r\nx\r\n--b-0--", "without a name"),
        (b"--b-0\r\nX: " + b"x" * MAX_PART_HEADER_BYTES, "header of a part is longer"),
        (b"x" * (MAX_PREAMBLE_BYTES + 100), "hold no delimiter"),
    ],
)
@pytest.mark.parametrize("step", [1, 1 << 20])
def test_a_body_that_is_not_framed(sent: bytes, message: str, step: int) -> None:
    pieces = [sent[at : at + step] for at in range(0, len(sent), step)]
    with pytest.raises(FramingError, match=message):
        decode(pieces)


def test_too_many_parts() -> None:
    parts: list[tuple[dict[str, str], bytes]] = [({}, b"x")] * 4
    assert len(decode([body(parts)], max_parts=4)) == 4
    with pytest.raises(TooManyPartsError, match="more than 3 parts"):
        decode([body(parts)], max_parts=3)


@pytest.mark.parametrize("boundary", ["", "x" * 71, "a\r\nb", "\xe9", "x "])
def test_what_is_no_boundary(boundary: str) -> None:
    with pytest.raises(FramingError, match="1 to 70 printable characters"):
        MultipartDecoder(boundary, max_parts=1)


@given(st.lists(st.binary(max_size=200), max_size=5))
def test_any_bytes_end_in_parts_or_one_error(pieces: list[bytes]) -> None:
    decoder = MultipartDecoder(BOUNDARY, max_parts=3)
    try:
        for piece in pieces:
            list(decoder.feed(piece))
        list(decoder.finish())
    except FramingError:
        pass


def test_nothing_but_the_tail_is_held() -> None:
    decoder = MultipartDecoder(BOUNDARY, max_parts=1)
    list(decoder.feed(b"--b-0\r\n\r\n"))
    for _ in range(100):
        list(decoder.feed(bytes(64 * 1024)))
        assert len(decoder._buffer) <= len(DELIMITER) + 2


def test_a_body_that_is_one_part() -> None:
    decoder = SinglePartDecoder({"content-type": "application/dicom"})
    events = [*decoder.feed(b"ab"), *decoder.feed(b"c"), *decoder.finish()]
    assert b"".join(event.data for event in events if isinstance(event, PartData)) == b"abc"
    assert len(events) == 4
    assert list(SinglePartDecoder({}).finish()) == []


@pytest.mark.parametrize(
    ("text", "boundary"),
    [
        ('multipart/related; type="application/dicom"; boundary=abc', "abc"),
        ('multipart/related;type="application/dicom";boundary="abc"', "abc"),
        ("multipart/related; boundary=abc; type=application/dicom", "abc"),
        ('Multipart/Related ; BOUNDARY="a;b, c=\\"d" ; Type="application/dicom";', 'a;b, c="d'),
        ("multipart/related; type=application/dicom; boundary==_Part(1)?:/", "=_Part(1)?:/"),
        ('multipart/related; boundary=abc; boundary=d; type="application/dicom"', "abc"),
    ],
)
def test_a_content_type(text: str, boundary: str) -> None:
    found = parse_media_type(text)
    assert found.name == "multipart/related"
    assert found.parameters["type"] == "application/dicom"
    assert found.parameters["boundary"] == boundary


@pytest.mark.parametrize(
    "text", ["", "x", "a/b c", 'a/b; c="d', "a/b; c", "/b", "a/b; =c", "a/" + "b" * 5000]
)
def test_what_is_no_content_type(text: str) -> None:
    with pytest.raises(ValueError, match="media type"):
        parse_media_type(text)


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("", "a/json"),
        ("*/*", "a/json"),
        ("a/xml", "a/xml"),
        ("text/html, a/xml;q=0.9, */*;q=0.1", "a/xml"),
        ("a/json;q=0.5, a/xml", "a/xml"),
        ("a/*;q=0.2, a/json;q=0", "a/xml"),
        ('x/y; p=",", a/xml', "a/xml"),
        ("text/html", None),
        ("*/*;q=0", None),
        ("a/xml;q=high", None),
        ("nonsense", None),
    ],
)
def test_the_choice_by_accept(accept: str, chosen: str | None) -> None:
    assert choose(accept, ["a/json", "a/xml"]) == chosen


@given(st.text(max_size=60))
def test_any_accept_is_answered(accept: str) -> None:
    assert choose(accept, ["a/json"]) in ("a/json", None)
