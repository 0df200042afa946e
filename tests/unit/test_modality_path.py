"""What paths say of the modality, and what they are not asked."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.modality.labels import FAMILIES
from streams.modality.opinion import MAX_EVIDENCE_CHARS, Opinion
from streams.modality.path import path_opinion, path_words
from streams.modality.path_words import SCRIPTS, STEMS, SUFFIXES, WORDS
from streams.modality.terms import TERM_SHARES


def said(path: str) -> Opinion:
    opinion = path_opinion(path)
    assert opinion is not None, path
    return opinion


def share(opinion: Opinion, family: str) -> float:
    return float(opinion.probabilities()[FAMILIES.index(family)])


@pytest.mark.parametrize(
    ("path", "family"),
    [
        ("us_0001.png", "US"),
        ("data/BUSI/benign (12).png", "US"),
        ("Schilddruese_Ultraschall_03.jpg", "US"),
        ("\u00e9chographie abdominale/3.png", "US"),
        ("\u0423\u0417\u0418/a.png", "US"),
        ("mammo/IM1.png", "MG"),
        ("Mammografien/a.jpg", "MG"),
        ("P105_R_CM_MLO.jpg", "MG"),
        ("irm_cerebrale_axial.png", "MR"),
        ("sub-01_T1w.nii.gz", "MR"),
        ("kopf_mrt_t2.nii.gz", "MR"),
        ("FLAIR-003.png", "MR"),
        ("TAC torace/1.dcm", "CT"),
        ("brainCT/slice_012.png", "CT"),
        ("CT0012.dcm", "CT"),
        ("rx_torax.jpg", "DX"),
        ("ChestXRay_001.png", "DX"),
        ("chest x-ray/4.png", "DX"),
        ("cxr123.png", "DX"),
        ("fundus_left.png", "OP"),
        ("retina_OCT_7.png", "OPT"),
        ("ISIC_0024306.jpg", "XC"),
        ("kvasir-seg/images/cju0.jpg", "ES"),
        ("histology/patch_3.png", "SM"),
        ("B12.svs", "SM"),
        ("ECG_25mm.png", "ECG"),
        ("coronary_angiogram_4.png", "XA"),
        ("szintigraphie/knochen.png", "NM"),
        ("FDG-PET/0001.png", "PT"),
        ("\u5fc3\u7535\u56fe/1.jpg", "ECG"),
    ],
)
def test_words_abbreviations_and_languages(path: str, family: str) -> None:
    assert said(path).label == family


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "IMG_1234.jpg",
        "1.2.840.113619.2.55.3/1.2.840.113619.2.55.4/1.2.840.113619.2.55.5.dcm",
        "b2f0ac9e11/deadbeef1234.png",
        "a3f9ct12us7.png",
        "4f6b1d2c-ab12-4c00-8f3a-0011ce22fa33/fa12ce34.png",
        "focus/project/octopus/mrs_smith/petra.png",
        "0001/000002/12.dcm",
    ],
)
def test_identifiers_and_everyday_words_claim_nothing(path: str) -> None:
    assert path_opinion(path) is None


def test_short_words_are_vague() -> None:
    assert share(said("us_0001.png"), "US") < share(said("ultrasound_0001.png"), "US") - 0.2
    # A patient's folder is no PET.
    assert share(said("pt_003/scan.png"), "PT") < 0.3


def test_the_nearer_word_counts_more_and_contradictions_share() -> None:
    opinion = said("mri/2021/ct_3.png")
    assert opinion.label == "CT"
    assert share(opinion, "MR") > 0.1
    both = said("ultrasound_ct.png")
    assert share(both, "US") == pytest.approx(share(both, "CT"))
    assert share(both, "US") < 0.5


def test_a_word_repeated_in_every_folder_is_one_word() -> None:
    once, often = said("ct/a.png"), said("ct/ct/ct/ct/a.png")
    assert share(often, "CT") == pytest.approx(share(once, "CT"))


def test_evidence_holds_no_word_of_the_path_that_is_not_listed() -> None:
    opinion = said("Mustermann_Erika_19700101/mrt_kopf.png")
    assert opinion.evidence == "the path says: mrt"


def test_tables_name_families_and_are_lower_case() -> None:
    for table in (WORDS, dict(STEMS), SUFFIXES):
        for word, (shares, floor) in table.items():
            assert set(shares) <= set(FAMILIES), word
            assert 0 < floor < 1, word
            assert word == word.lower()
            assert word.isascii()
    for meant in SCRIPTS.values():
        assert meant in WORDS or any(stem in meant for stem, _ in STEMS), meant


def test_words_of_a_path() -> None:
    assert path_words("a1b2c3d4e5/ChestPA/R_MLO_2.nii.gz") == ("Chest", "PA", "R", "MLO", "2")


@given(st.text(max_size=600))
def test_any_path_is_read(path: str) -> None:
    opinion = path_opinion(path)
    if opinion is not None:
        assert np.isfinite(opinion.log_likelihoods).all()
        assert len(opinion.evidence) <= MAX_EVIDENCE_CHARS
        lead, _, words = opinion.evidence.partition(": ")
        assert lead == "the path says"
        known = {*WORDS, *dict(STEMS), *SUFFIXES, *TERM_SHARES}
        assert set(words.split(", ")) <= known
    assert all(word.isascii() for word in path_words(path))


@given(
    st.lists(st.sampled_from(sorted(WORDS)), min_size=1, max_size=40),
    st.sampled_from("/_- "),
)
def test_any_words_make_one_finite_opinion(words: list[str], separator: str) -> None:
    opinion = path_opinion(separator.join(words))
    assert opinion is None or np.isfinite(opinion.log_likelihoods).all()


def test_a_path_as_long_as_a_message_is_bounded() -> None:
    opinion = path_opinion("mri/" * 100_000 + "ct.png")
    assert opinion is not None
    assert opinion.label == "CT"
