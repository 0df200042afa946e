"""Watermarks: refusing begins at one mark, ends at another, and does not flutter between them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dicom_gateway.storing.watermarks import Load, Watermarks

MARKS = Watermarks(
    min_free_bytes=100, resume_free_bytes=150, max_inbox_bytes=1000, max_outbox_records=50
)
EASY = Load(free_bytes=10_000, inbox_bytes=0, outbox_records=0)


def said(marks: Watermarks, loads: list[Load]) -> list[str]:
    refusing, all_said = "", []
    for load in loads:
        refusing = marks.pressure(load, is_refusing=bool(refusing))
        all_said.append(refusing)
    return all_said


def test_free_space() -> None:
    loads = [Load(free, 0, 0) for free in (200, 100, 99, 100, 149, 150, 149, 100, 99)]
    assert [bool(why) for why in said(MARKS, loads)] == [
        False, False, True, True, True, False, False, False, True,
    ]  # fmt: skip
    assert "disk is full" in said(MARKS, loads)[2]


def test_what_waits_to_be_filed() -> None:
    loads = [Load(10_000, waiting, 0) for waiting in (999, 1000, 801, 800, 799, 999)]
    assert [bool(why) for why in said(MARKS, loads)] == [False, True, True, True, False, False]
    assert "inbox" in said(MARKS, loads)[1]


def test_what_waits_for_the_log() -> None:
    loads = [Load(10_000, 0, waiting) for waiting in (49, 50, 41, 40, 39, 49)]
    assert [bool(why) for why in said(MARKS, loads)] == [False, True, True, True, False, False]
    assert "outbox" in said(MARKS, loads)[1]


def test_a_resume_mark_below_the_other_does_not_flutter() -> None:
    marks = Watermarks(
        min_free_bytes=100, resume_free_bytes=0, max_inbox_bytes=1, max_outbox_records=1
    )
    assert [bool(why) for why in said(marks, [Load(f, 0, 0) for f in (99, 99, 100, 99)])] == [
        True, True, False, True,
    ]  # fmt: skip


loads = st.builds(Load, st.integers(0, 300), st.integers(0, 1200), st.integers(0, 60))


@given(st.lists(loads, max_size=20))
def test_refusing_keeps_what_taking_would_refuse(sequence: list[Load]) -> None:
    refusing = ""
    for load in sequence:
        strict = MARKS.pressure(load, is_refusing=True)
        lenient = MARKS.pressure(load, is_refusing=False)
        # Whoever refuses is never easier to please than whoever takes.
        assert strict or not lenient
        refusing = MARKS.pressure(load, is_refusing=bool(refusing))
        # For the sender's log (PS3.7 E.1: 64 characters).
        assert len(refusing) <= 64
    assert MARKS.pressure(EASY, is_refusing=bool(refusing)) == ""
