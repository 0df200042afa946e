"""A date is a date, in headers, paths and pictures; OCT is still OCT."""

from __future__ import annotations

import pytest

from streams.modality.path import path_opinion
from streams.modality.text import text_opinion
from streams.sniff.months import without_months
from streams.sniff.vocabulary import terms

DATES = (
    "12 OCT 2019", "12-Oct-2019", "12OCT2019", "Oct 12, 2019", "2019 OCT 12", "OCT 2019",
    "2019_OCT_0001", "1.Oct.1999", "Date 12-Oct-2019 14:33",
)  # fmt: skip


@pytest.mark.parametrize("text", DATES)
def test_october_is_no_modality(text: str) -> None:
    assert "oct" not in without_months(text).lower()
    assert text_opinion([text]) is None
    assert terms([text]) == ()
    named = path_opinion(f"{text.replace(' ', '_')}.png")
    assert named is None or named.label != "OPT"


@pytest.mark.parametrize("text", ["OCT", "macula OCT", "OCT 0001", "SD-OCT volume", "octopus"])
def test_what_is_no_date_stays(text: str) -> None:
    assert without_months(text) == text


def test_oct_is_heard_where_it_is_meant() -> None:
    opinion = text_opinion(["OCT", "ART (16)"])
    assert opinion is not None
    assert opinion.label == "OPT"
    assert "oct" in terms(["Macula OCT"])


def test_a_lady_is_no_spectroscopy() -> None:
    assert terms(["Mrs Smith"]) == ()
