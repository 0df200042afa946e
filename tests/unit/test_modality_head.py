"""A head learns what sources share, knows what it does not know, and is the same from a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from streams.modality.head import (
    HEURISTICS,
    PIXELS,
    Calibration,
    PixelHead,
    PixelHeadError,
    restrained,
)
from streams.modality.heuristics import FEATURE_NAMES, measure
from streams.modality.labels import CT, FAMILIES, MR, NM, US
from streams.modality.learning.head import (
    TrainingImages,
    balanced_weights,
    divide,
    fit,
    out_of_fold,
)

VIEWS, WIDTH = 3, 12
EMBEDDER = "tiny-0123456789ab"


def images(seed: int = 0, per_source: int = 12) -> TrainingImages:
    """Three families of six sources each, and one of a single source.

    A family shows in the first numbers of a view, a source shifts the others as much.
    """
    rng = np.random.default_rng(seed)
    stages, features, families, sources, originals = [], [], [], [], []
    for family in (CT, MR, US, NM):
        for source in range(1 if family == NM else 6):
            shift = rng.normal(0, 3, (VIEWS, WIDTH))
            shift[:, :4] = 0
            for _ in range(per_source):
                one = shift + rng.normal(0, 1, (VIEWS, WIDTH))
                one[:, (CT, MR, US, NM).index(family)] += 6
                measured = rng.normal(0, 1, len(FEATURE_NAMES))
                measured[(CT, MR, US, NM).index(family)] += 3
                measured[FEATURE_NAMES.index("std")] = rng.uniform(30, 60)
                original = len(stages)
                for copy in range(2):
                    stages.append(one + copy * rng.normal(0, 0.5, one.shape))
                    features.append(measured)
                    families.append(FAMILIES.index(family))
                    sources.append(f"{family}-{source}")
                    originals.append(original)
    return TrainingImages(
        np.array(stages, np.float32),
        np.array(features, np.float32),
        np.array(families, np.int64),
        np.array(sources),
        np.array(originals, np.int64),
    )


@pytest.fixture(scope="module")
def data() -> TrainingImages:
    return images()


@pytest.fixture(scope="module")
def head(data: TrainingImages) -> PixelHead:
    return fit(data, embedder_version=EMBEDDER)


def test_unseen_sources_are_told_apart(data: TrainingImages) -> None:
    found = out_of_fold(data)
    truth = data.families[found.rows]
    known = truth != FAMILIES.index(NM)
    assert found.pixels.shape == found.heuristics.shape == (len(found.rows), len(FAMILIES))
    assert (found.rows == data.rows()).all()
    assert (found.pixels.argmax(axis=1) == truth)[known].mean() > 0.95
    assert (found.heuristics.argmax(axis=1) == truth)[known].mean() > 0.6
    # No head that was asked about the single source had seen its family.
    assert not (found.pixels.argmax(axis=1) == truth)[~known].any()
    assert found.novelty[~known].mean() > found.novelty[known].mean() + 0.3


def test_confidence_is_what_it_is_worth(data: TrainingImages) -> None:
    found = out_of_fold(data)
    truth = data.families[found.rows]
    probabilities = np.exp(found.pixels)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-9)
    hits = (probabilities.argmax(axis=1) == truth).mean()
    assert abs(probabilities.max(axis=1).mean() - hits) < 0.08


def test_fitting_is_deterministic(data: TrainingImages, head: PixelHead) -> None:
    again = fit(data, embedder_version=EMBEDDER)
    assert again.version == head.version
    assert head.version.startswith("pixels-")
    np.testing.assert_array_equal(again.pixels[0].weights, head.pixels[0].weights)
    assert fit(images(seed=9), embedder_version=EMBEDDER).version != head.version


def test_a_head_is_the_same_from_a_file(
    data: TrainingImages, head: PixelHead, tmp_path: Path
) -> None:
    head.save(tmp_path / "head.npz")
    again = PixelHead.load(tmp_path / "head.npz")
    assert again.version == head.version
    assert again.embedder_version == EMBEDDER
    assert again.views == head.views
    rows = data.rows()
    np.testing.assert_array_equal(
        again.pixels_log_likelihoods(data.stages[rows], data.features[rows]),
        head.pixels_log_likelihoods(data.stages[rows], data.features[rows]),
    )
    assert again.novelty(data.stages[0]) == head.novelty(data.stages[0])


def test_opinions_name_their_reasons(data: TrainingImages, head: PixelHead) -> None:
    row = int(np.flatnonzero(data.families == FAMILIES.index(MR))[0])
    pixels, measures = head.opinions(data.stages[row], data.features[row])
    assert (pixels.signal, measures.signal) == (PIXELS, HEURISTICS)
    assert pixels.label == MR
    assert pixels.evidence.startswith("looks most like MR (0.")
    assert measures.evidence
    (alone,) = head.opinions(None, data.features[row])
    assert alone.signal == HEURISTICS
    np.testing.assert_array_equal(alone.log_likelihoods, measures.log_likelihoods)


def test_a_blank_slice_says_nothing(data: TrainingImages, head: PixelHead) -> None:
    blank = measure(np.full((64, 64), 3, np.uint8))
    assert head.opinions(data.stages[0], blank) == ()
    assert head.opinions(None, blank) == ()


def test_a_family_of_one_source_gets_no_more_than_an_even_chance(
    data: TrainingImages, head: PixelHead
) -> None:
    rows = data.families == FAMILIES.index(NM)
    found = head.pixels_log_likelihoods(data.stages[rows], data.features[rows])
    assert np.exp(found).max() <= 0.5 + 1e-9
    assert not head.known[FAMILIES.index(NM)]
    assert head.known[[FAMILIES.index(f) for f in (CT, MR, US)]].all()


def test_what_is_unlike_everything_is_novel(data: TrainingImages, head: PixelHead) -> None:
    strange = data.stages[0] - 40
    assert head.novelty(strange) == 1.0
    assert "less like what is known" in head.opinions(strange, data.features[0])[0].evidence
    assert np.mean([head.novelty(data.stages[row]) for row in data.rows()[:60]]) < 0.5


def test_another_embedder_is_refused(head: PixelHead) -> None:
    head.check(EMBEDDER)
    with pytest.raises(PixelHeadError, match=r"trained on embedder tiny-0123456789ab.*other-1"):
        head.check("other-1")


def test_generated_pictures_are_no_source(data: TrainingImages) -> None:
    counted = ~np.isin(data.sources, [f"MR-{i}" for i in range(1, 6)])
    head = fit(replace(data, counted=counted), embedder_version=EMBEDDER)
    assert not head.known[FAMILIES.index(MR)]
    assert head.known[FAMILIES.index(CT)]
    with pytest.raises(ValueError, match="counted"):
        replace(data, counted=counted[1:])


@pytest.mark.parametrize("damage", ["absent", "text", "empty", "array", "cut", "names"])
def test_a_damaged_file_is_refused(head: PixelHead, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "head.npz"
    head.save(path)
    if damage == "absent":
        path.unlink()
    elif damage == "text":
        path.write_text("no head")
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "array":
        np.save(path.open("wb"), np.zeros(3))
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-2000])
    else:
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
        arrays["description"] = np.array(str(arrays["description"]).replace("log_aspect", "size"))
        np.savez(path, **arrays)
    with pytest.raises(PixelHeadError, match="modality train"):
        PixelHead.load(path)


def test_folds_never_split_a_source(data: TrainingImages) -> None:
    folds = divide(data.families, data.sources, 4, seed=1)
    for source in np.unique(data.sources):
        assert len(set(folds[data.sources == source])) == 1
    for family in (CT, MR, US):
        assert len(set(folds[data.families == FAMILIES.index(family)])) >= 3
    np.testing.assert_array_equal(folds, divide(data.families, data.sources, 4, seed=1))
    with pytest.raises(ValueError, match="folds of"):
        divide(data.families, data.sources, 99, seed=1)


def test_a_large_source_does_not_outvote_small_ones() -> None:
    families = np.zeros(110, np.int64)
    sources = np.array(["large"] * 100 + ["small"] * 10)
    weights = balanced_weights(families, sources)
    assert weights.mean() == pytest.approx(1)
    assert weights[sources == "large"].sum() < 2 * weights[sources == "small"].sum()


def test_arrays_must_belong_together(data: TrainingImages) -> None:
    with pytest.raises(ValueError, match="differ in length"):
        replace(data, families=data.families[:-1])
    with pytest.raises(ValueError, match="originals"):
        replace(data, originals=data.originals + len(data.originals))
    with pytest.raises(ValueError, match="its original's source"):
        replace(data, sources=np.arange(len(data.sources)).astype(str))
    with pytest.raises(ValueError, match="places in FAMILIES"):
        replace(data, families=data.families + 99)


def test_doubt_bounds_what_scores_can_claim() -> None:
    calibration = Calibration(1.0, 0.1, np.zeros(len(FAMILIES)))
    scores = np.zeros(len(FAMILIES))
    scores[0] = 1e6
    found = np.exp(calibration.log_likelihoods(scores))
    assert found[0] == pytest.approx(0.9 + 0.1 / len(FAMILIES))
    everything = np.ones(len(FAMILIES), np.bool_)
    np.testing.assert_allclose(np.exp(restrained(np.log(found), everything)), found)
