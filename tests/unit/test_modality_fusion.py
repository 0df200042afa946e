"""The pool: absent signals, reliabilities that are learned, abstention, conflicts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.modality.fusion import Fusion, fuse, pool
from streams.modality.labels import FAMILIES
from streams.modality.learning.fusion import Example, fit_fusion, source_weights
from streams.modality.opinion import PROVENANCES, Opinion, Provenance, claim

SIGNALS = ("modality-tag", "sop-class", "pixels", "path")


def fusion(
    weights: dict[str, float] | None = None,
    *,
    doubt: float = 0.01,
    answer_from: float = 0.6,
    thin: frozenset[str] = frozenset(),
) -> Fusion:
    weights = weights or dict.fromkeys(SIGNALS, 0.6)
    return Fusion(
        {(signal, place): weight for signal, weight in weights.items() for place in PROVENANCES},
        doubt=doubt,
        answer_from=answer_from,
        novelty_limit=0.99,
        thin=thin,
    )


def says(signal: str, family: str) -> Opinion:
    return claim(signal, {family: 1.0}, f"{signal} names {family}")


opinions = st.lists(
    st.builds(says, st.sampled_from((*SIGNALS, "never learned")), st.sampled_from(FAMILIES)),
    max_size=8,
)


@given(opinions, st.sampled_from(PROVENANCES), st.floats(0, 1))
def test_every_set_of_opinions_has_an_answer(
    given_opinions: list[Opinion], provenance: Provenance, novelty: float
) -> None:
    fused = fuse(given_opinions, provenance, fusion(), novelty=novelty)
    assert fused.probabilities.sum() == pytest.approx(1)
    assert (fused.probabilities > 0).all()
    assert fused.abstained == bool(fused.reason)
    assert fused.confidence == fused.probabilities.max()


@given(opinions, st.randoms())
def test_the_order_of_opinions_changes_nothing(given_opinions: list[Opinion], random) -> None:
    mixed = list(given_opinions)
    random.shuffle(mixed)
    np.testing.assert_allclose(
        pool(given_opinions, "dicom", fusion()), pool(mixed, "dicom", fusion())
    )


def test_where_the_head_speaks_the_measures_do_not_count_twice() -> None:
    weights = fusion({"pixels": 0.8, "heuristics": 0.8})
    head, measures = says("pixels", "CT"), says("heuristics", "MR")
    np.testing.assert_allclose(
        pool([head, measures], "picture", weights), pool([head], "picture", weights)
    )
    assert fuse([measures], "picture", weights).family == "MR"


def test_nothing_said_is_no_answer() -> None:
    fused = fuse((), "picture", fusion())
    assert fused.answer == "unknown"
    assert fused.confidence == pytest.approx(1 / len(FAMILIES))
    assert "nothing speaks" in fused.reason


def test_a_signal_that_was_never_learned_does_not_count() -> None:
    heard = pool([says("never learned", "CT")], "dicom", fusion())
    np.testing.assert_allclose(heard, pool((), "dicom", fusion()))


def test_pixels_and_sop_class_outvote_a_wrong_tag_and_the_conflict_is_told() -> None:
    heard = [says("modality-tag", "MR"), says("sop-class", "CT"), says("pixels", "CT")]
    assert fuse(heard, "dicom", fusion()).answer == "CT"
    trusted = fusion({"modality-tag": 1.5, "sop-class": 0.2, "pixels": 0.8, "path": 0.1})
    conflict = fuse(heard, "dicom", trusted).conflict_reason
    assert "MR" in conflict
    assert "CT" in conflict


def test_a_mammogram_that_is_tagged_as_a_radiograph_is_a_conflict() -> None:
    heard = [says("modality-tag", "DX"), says("pixels", "MG")]
    reason = fuse(heard, "dicom", fusion()).conflict_reason
    assert "DX" in reason
    assert "MG" in reason


def test_equal_claims_against_each_other_are_no_answer() -> None:
    fused = fuse([says("path", "US"), says("pixels", "CT")], "picture", fusion())
    assert fused.abstained
    assert fused.reason == "CT (0.44) is not sure enough; next is US (0.44)"


def test_pixels_alone_do_not_decide_on_a_family_that_too_few_sources_taught() -> None:
    thin = fusion(thin=frozenset({"ES"}))
    assert fuse([says("pixels", "ES")], "picture", thin).abstained
    assert fuse([says("pixels", "ES"), says("modality-tag", "ES")], "dicom", thin).answer == "ES"


def test_strange_pixels_count_for_nothing_and_the_tag_still_does() -> None:
    pixels, tag = says("pixels", "CT"), says("modality-tag", "US")
    assert fuse([pixels, tag], "dicom", fusion(), novelty=1.0).answer == "US"
    alone = fuse([pixels], "picture", fusion(), novelty=1.0)
    assert alone.abstained
    assert alone.family == "CT"
    assert "unlike" in alone.reason


def test_a_vague_word_does_not_name_a_family_that_too_few_sources_taught() -> None:
    thin = fusion(thin=frozenset({"NM"}))
    vague = claim("path", {"NM": 1.0, "PT": 0.9, "CT": 0.9}, "the path says: nuclear")
    assert fuse([vague, says("pixels", "NM")], "picture", thin).abstained


def learnable(seed: int = 0, files: int = 400) -> list[Example]:
    """Signals that are right in 98, 70 and 100/K percent of the files, in two provenances."""
    random = np.random.default_rng(seed)
    made = []
    for index in range(files):
        family = FAMILIES[index % 6]
        truth: Provenance = "dicom" if index % 2 else "picture"
        heard = []
        for signal, right in (("pixels", 0.98), ("path", 0.70), ("modality-tag", 1 / 6)):
            said = family if random.random() < right else FAMILIES[random.integers(6)]
            heard.append(says(signal, said))
        made.append(Example(heard, truth, family, f"source {index % 40}"))
    return made


def test_reliability_is_learned_from_how_often_a_signal_is_right() -> None:
    learned = fit_fusion(learnable(), thin=frozenset(), novelty_limit=0.99)
    for place in ("dicom", "picture"):
        pixels, path, tag = (
            learned.reliability(signal, place) for signal in ("pixels", "path", "modality-tag")
        )
        assert pixels > 1.5 * path
        assert path > 1.5 * tag
    right = [
        fuse(example.opinions, example.provenance, learned).family == example.family
        for example in learnable(seed=1)
    ]
    assert np.mean(right) > 0.95


def test_learning_twice_gives_the_same() -> None:
    first, second = (
        fit_fusion(learnable(files=60), thin=frozenset(), novelty_limit=0.99) for _ in range(2)
    )
    assert first == second


def test_learning_from_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no labelled file"):
        fit_fusion([], thin=frozenset(), novelty_limit=0.99)


@given(
    st.lists(
        st.tuples(st.sampled_from(FAMILIES[:4]), st.sampled_from("abcde")), min_size=1, max_size=60
    )
)
def test_a_large_source_weighs_less_for_each_of_its_files(pairs: list[tuple[str, str]]) -> None:
    families, sources = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    weights = source_weights(families, sources)
    assert weights.mean() == pytest.approx(1)
    size = {pair: pairs.count(pair) for pair in pairs}
    for one, first in zip(pairs, weights, strict=True):
        for other, second in zip(pairs, weights, strict=True):
            if one[0] == other[0] and size[one] > size[other]:
                assert first < second
