"""Free text becomes terms of a closed vocabulary, or nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.sniff import vocabulary
from streams.sniff.vocabulary import MAX_TERMS, TERMS, terms


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("AX T2 FLAIR", ("axial", "t2", "flair")),
        ("t1_mprage_sag_p2_iso", ("t1", "mprage", "sagittal")),
        ("AxT1w", ("axial", "t1")),
        ("Schädel nativ", ("skull", "without-contrast")),
        ("SCHAEDEL NATIV", ("skull", "without-contrast")),
        ("IRM cérébrale coupes axiales", ("mr", "brain", "axial")),
        ("TC de tórax sin contraste", ("ct", "chest", "without-contrast")),
        ("Ressonância do joelho", ("mr", "knee")),
        ("Risonanza encefalo", ("mr", "brain")),
        ("Röntgen thorax liggend bekken", ("radiograph", "chest", "pelvis")),
        ("Lower Leg", ("lower-leg",)),
        ("lower something leg", ("leg",)),
        ("C-Spine lateral", ("cervical-spine", "lateral")),
        ("chest CHEST Thorax", ("chest",)),
        ("John Doe 1961-03-17", ()),
        ("", ()),
    ],
)
def test_known_words_become_terms(text: str, expected: tuple[str, ...]) -> None:
    assert terms([text]) == expected


@given(st.lists(st.text(), max_size=8))
def test_only_vocabulary_leaves_and_never_much(texts: list[str]) -> None:
    found = terms(texts)
    assert set(found) <= TERMS
    assert len(found) <= MAX_TERMS
    assert len(set(found)) == len(found)


@given(st.lists(st.sampled_from(sorted(vocabulary._LOOKUP)), max_size=100))
def test_any_number_of_known_words_stays_bounded(words: list[str]) -> None:
    assert len(terms([" ".join(words)] * 40)) <= MAX_TERMS


def test_no_spelling_stands_for_two_terms() -> None:
    seen: dict[str, str] = {}
    for term, written in vocabulary._TERMS.items():
        for spelling in vocabulary._spellings(term, written):
            assert seen.setdefault(spelling, term) == term, spelling
            assert len(term) <= 64
