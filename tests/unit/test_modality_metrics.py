"""Figures by hand, folds that keep sources together, intervals that know about sources."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.modality.labels import FAMILIES
from streams.modality.learning import metrics
from streams.modality.learning.metrics import Answers
from streams.modality.learning.splits import folds_by_source


def answers(
    truth: str, best: str, confidence: list[float], abstained: str = "", sources: str = ""
) -> Answers:
    """One letter a file: C CT, M MR, D DX, G MG."""
    place = {"C": "CT", "M": "MR", "D": "DX", "G": "MG"}
    return Answers(
        truth=np.array([FAMILIES.index(place[letter]) for letter in truth]),
        best=np.array([FAMILIES.index(place[letter]) for letter in best]),
        confidence=np.array(confidence),
        abstained=np.array([letter == "x" for letter in abstained or "." * len(truth)]),
        sources=list(sources or "abcdefgh"[: len(truth)]),
    )


FOUR = answers("CCDM", "CMGM", [0.95, 0.55, 0.55, 0.75], abstained=".x..")


def test_figures_by_hand() -> None:
    assert metrics.accuracy(FOUR) == 0.5
    assert metrics.coverage(FOUR) == 0.75
    assert metrics.answered_accuracy(FOUR) == pytest.approx(2 / 3)
    assert metrics.minor_errors(FOUR) == 0.25
    # Bins: 0.95 right; 0.55 twice, both wrong; 0.75 right.
    expected = (0.05 + 2 * 0.55 + 0.25) / 4
    assert metrics.calibration_error(FOUR) == pytest.approx(expected)
    table = metrics.confusion(FOUR)
    assert table.sum() == 4
    assert table[FAMILIES.index("DX"), FAMILIES.index("MG")] == 1


def test_a_source_counts_once() -> None:
    uneven = answers("CCCCM", "CCCCC", [0.9] * 5, sources="aaaab")
    assert metrics.accuracy(uneven) == 0.8
    assert metrics.source_accuracy(uneven) == 0.5


def test_the_interval_is_wider_when_files_stand_and_fall_together() -> None:
    truth, best = "C" * 40, "C" * 20 + "M" * 20
    alone = answers(truth, best, [0.9] * 40, sources="".join(chr(200 + i) for i in range(40)))
    together = answers(truth, best, [0.9] * 40, sources="".join("abcd"[i // 10] for i in range(40)))
    narrow, wide = (metrics.with_interval(metrics.accuracy, a) for a in (alone, together))
    assert narrow.value == wide.value == 0.5
    assert narrow.low <= 0.5 <= narrow.high
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


def test_one_source_has_no_interval() -> None:
    figure = metrics.with_interval(metrics.accuracy, answers("CM", "CM", [0.9, 0.9], sources="aa"))
    assert figure.value == 1
    assert np.isnan(figure.low)


files = st.lists(
    st.tuples(st.sampled_from(FAMILIES[:5]), st.sampled_from("abcdefghij")), min_size=1, max_size=80
)


@given(files, st.integers(1, 4), st.integers(0, 3))
def test_no_source_is_split(pairs: list[tuple[str, str]], count: int, seed: int) -> None:
    families, sources = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    if len(set(sources)) < count:
        with pytest.raises(ValueError, match="as many sources"):
            folds_by_source(families, sources, count, seed)
        return
    folds = folds_by_source(families, sources, count, seed)
    assert set(folds) == set(range(count))
    held = {
        source: {int(f) for f, s in zip(folds, sources, strict=True) if s == source}
        for source in sources
    }
    assert all(len(found) == 1 for found in held.values())


def test_every_fold_has_each_family_that_has_enough_sources() -> None:
    families = [family for family in FAMILIES[:4] for _ in range(10)]
    sources = [f"{family} {index // 2}" for family in FAMILIES[:4] for index in range(10)]
    folds = folds_by_source(families, sources, 5)
    for fold in range(5):
        assert {f for f, where in zip(families, folds, strict=True) if where == fold} == set(
            FAMILIES[:4]
        )
