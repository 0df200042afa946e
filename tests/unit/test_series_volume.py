"""A volume as one entity: its embedding, its planes and projections, its modality."""

from __future__ import annotations

import random
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import schemas
from schemas import codec
from schemas.events import FileAnalyzed
from schemas.facts import Embedding, ModalityDecision
from streams.series.aggregate import EmbeddingMean
from streams.series.geometry import check_geometry
from streams.series.projections import VolumeProjector, choose_planes, spread_planes
from streams.series.slices import SliceHeader
from streams.series.volume import profile_nifti, profile_series
from streams.series.vote import vote_modality

EXAMPLES = Path(schemas.__file__).parent / "examples"


def unit(vector: np.ndarray) -> np.ndarray:
    return (vector / np.linalg.norm(vector, axis=-1, keepdims=True)).astype(np.float32)


# The embedding of a volume.


def mean_of(vectors: np.ndarray) -> Any:
    mean = EmbeddingMean(vectors.shape[1])
    for vector in vectors:
        mean.add(vector)
    return mean.result()


def test_the_mean_of_unit_vectors_is_brought_to_unit_length() -> None:
    vectors = unit(np.random.default_rng(1).normal(1, 0.5, (40, 16)))
    result = mean_of(vectors)
    plain = vectors.astype(np.float64).mean(axis=0)
    assert result.vector == pytest.approx(plain / np.linalg.norm(plain), abs=1e-6)
    assert result.dispersion == pytest.approx(1 - np.linalg.norm(plain), abs=1e-6)
    assert (result.count, result.vector.dtype) == (40, np.float32)


def test_dispersion_is_zero_for_equal_slices_and_one_for_opposite_ones() -> None:
    vector = unit(np.array([3.0, 4.0]))
    assert mean_of(np.stack([vector] * 9)).dispersion == pytest.approx(0, abs=1e-6)
    opposite = mean_of(np.stack([vector, -vector]))
    assert opposite.dispersion == pytest.approx(1)
    assert opposite.vector is None


def test_a_long_slice_counts_no_more_than_a_short_one() -> None:
    result = mean_of(np.array([[1000.0, 0.0], [0.0, 0.001]]))
    assert result.vector == pytest.approx([2**-0.5, 2**-0.5])


def test_what_is_no_direction_is_left_out_and_counted() -> None:
    vectors = np.array([[1.0, 0.0], [0.0, 0.0], [np.nan, 1.0], [np.inf, 0.0]])
    result = mean_of(vectors)
    assert (result.count, result.skipped_count) == (1, 3)
    assert mean_of(vectors[1:]) is None


def test_embeddings_of_two_models_are_not_averaged() -> None:
    mean = EmbeddingMean(3)
    with pytest.raises(ValueError, match="two models"):
        mean.add(np.ones(4))
    with pytest.raises(ValueError, match="two models"):
        mean.merge(EmbeddingMean(4))
    with pytest.raises(ValueError, match="one dimension"):
        EmbeddingMean(0)


@settings(max_examples=50, deadline=None)
@given(
    hnp.arrays(np.float32, (12, 5), elements=st.floats(-1, 1, width=32)),
    st.randoms(use_true_random=False),
    st.integers(0, 12),
)
def test_order_and_parts_do_not_change_a_bit(
    vectors: np.ndarray, chance: random.Random, cut: int
) -> None:
    order = list(range(12))
    chance.shuffle(order)
    parts = EmbeddingMean(5), EmbeddingMean(5)
    for rank, index in enumerate(order):
        parts[rank >= cut].add(vectors[index])
    parts[0].merge(parts[1])
    whole, merged = mean_of(vectors), parts[0].result()
    if whole is None or merged is None:
        assert whole is merged
        return
    assert (whole.count, whole.dispersion) == (merged.count, merged.dispersion)
    assert np.array_equal(whole.vector, merged.vector)


# Planes.


@given(st.integers(1, 300), st.integers(1, 9))
def test_planes_are_spread_alike_with_and_without_places(slice_count: int, count: int) -> None:
    spread = spread_planes(slice_count, count)
    assert spread == choose_planes(range(slice_count), count)
    assert len(set(spread)) == len(spread) == min(slice_count, count)
    assert list(spread) == sorted(spread)
    if count == 1:
        assert spread == (slice_count // 2,)
    if count % 2 and slice_count > count:
        assert spread[count // 2] == slice_count // 2


def test_a_gap_does_not_draw_the_mid_plane_to_one_side() -> None:
    # A hundred thin slices, then ten thick ones over the same distance.
    places = [*range(100), *range(100, 200, 10)]
    (middle,) = choose_planes(places, 1)
    assert abs(places[middle] - 95) <= 3


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=40), st.integers(1, 12))
def test_planes_are_distinct_whatever_the_places(places: list[float], count: int) -> None:
    chosen = choose_planes(sorted(places), count)
    assert len(set(chosen)) == len(chosen) == min(len(places), count)
    assert all(0 <= index < len(places) for index in chosen)


def test_planes_that_cannot_be_chosen_are_refused() -> None:
    with pytest.raises(ValueError, match="1 to 64"):
        choose_planes([1, 2], 0)
    with pytest.raises(ValueError, match="1 to 64"):
        spread_planes(3, 65)
    with pytest.raises(ValueError, match="ascending"):
        choose_planes([2, 1], 1)
    assert spread_planes(2**31, 3)[1] == 2**30


# Projections.


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(np.int16, st.tuples(st.integers(1, 40), st.integers(1, 5), st.integers(1, 6))),
    st.sampled_from([2, 4, 6, 64]),
)
def test_streamed_views_are_those_of_the_whole_volume(volume: np.ndarray, lines: int) -> None:
    wanted = spread_planes(len(volume), 3)
    projector = VolumeProjector(wanted, max_lines=lines)
    for plane in volume:
        assert projector.add(plane)
    views = projector.result()
    assert (views.slice_count, views.skipped_count) == (len(volume), 0)
    assert views.plane_indices == wanted
    assert np.array_equal(np.stack(views.planes), volume[list(wanted)])
    assert np.array_equal(views.through_slices, volume.max(axis=0))
    stride = views.slices_per_line
    starts = range(0, len(volume), stride)
    blocks = [volume[start : start + stride].max(axis=0) for start in starts]
    assert np.array_equal(views.through_rows, np.stack([b.max(axis=0) for b in blocks]))
    assert np.array_equal(views.through_columns, np.stack([b.max(axis=1) for b in blocks]))
    assert np.array_equal(views.middle_row, volume[::stride, volume.shape[1] // 2, :])
    assert np.array_equal(views.middle_column, volume[::stride, :, volume.shape[2] // 2])
    assert len(views.through_rows) <= lines
    assert stride == 1 or len(volume) > lines * stride // 2


def test_memory_does_not_grow_with_the_slices() -> None:
    def peak(count: int) -> int:
        plane = np.zeros((64, 64), np.int16)
        tracemalloc.start()
        projector = VolumeProjector((0, 1), max_lines=32)
        for index in range(count):
            plane[0, 0] = index
            projector.add(plane)
        assert projector.result().through_slices[0, 0] == count - 1
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(3000) < peak(100) + 20_000


def test_a_slice_of_another_matrix_is_left_out_and_counted() -> None:
    projector = VolumeProjector()
    assert projector.add(np.ones((3, 4)))
    assert not projector.add(np.full((4, 3), 9))
    views = projector.result()
    assert (views.slice_count, views.skipped_count, views.through_slices.max()) == (2, 1, 1)


def test_padding_that_is_no_number_is_passed_over() -> None:
    projector = VolumeProjector()
    projector.add(np.array([[np.nan, 1.0]]))
    projector.add(np.array([[2.0, np.nan]]))
    assert projector.result().through_slices.tolist() == [[2, 1]]


def test_what_is_no_grey_slice_is_refused() -> None:
    with pytest.raises(ValueError, match="grey"):
        VolumeProjector().add(np.ones((3, 4, 3)))
    with pytest.raises(ValueError, match="grey"):
        VolumeProjector().add(np.ones((0, 4)))
    with pytest.raises(ValueError, match="add one"):
        VolumeProjector().result()
    with pytest.raises(ValueError, match="even"):
        VolumeProjector(max_lines=3)


# The vote.


def decision(label: str, confidence: float | None = None, **more: Any) -> ModalityDecision:
    return ModalityDecision(
        modality=label, confidence=confidence, method="fusion", method_version="1", **more
    )


def test_confidence_weighs() -> None:
    vote = vote_modality([decision("CT", 0.9), decision("MR", 0.4), decision("MR", 0.4)])
    assert vote is not None
    assert (vote.label, vote.count) == ("CT", 3)
    assert vote.share == pytest.approx(0.9 / 1.7)
    assert vote.confidence == pytest.approx(0.9)
    assert vote.is_mixed
    assert [(r.label, r.count) for r in vote.ranking] == [("CT", 1), ("MR", 2)]


def test_slices_that_agree_make_no_mixed_volume() -> None:
    vote = vote_modality([decision("CT", 0.95)] * 99 + [decision("OTHER", 0.6)])
    assert vote is not None
    assert (vote.label, vote.is_mixed) == ("CT", False)


def test_without_confidence_heads_count_and_none_is_made_up() -> None:
    vote = vote_modality([decision("MR"), decision("MR"), decision("CT")])
    assert vote is not None
    assert (vote.label, vote.share, vote.confidence) == ("MR", pytest.approx(2 / 3), None)
    zero = vote_modality([decision("MR", 0), decision("MR", 0), decision("CT", 0)])
    assert zero is not None
    assert (zero.label, zero.share) == ("MR", pytest.approx(2 / 3))


def test_who_abstains_does_not_vote() -> None:
    vote = vote_modality([decision("unknown", 0.9, abstained=True), decision("CT", 0.2)])
    assert vote is not None
    assert (vote.label, vote.share, vote.abstained_count) == ("CT", 1, 1)
    assert vote_modality([decision("unknown", abstained=True)]) is None
    assert vote_modality([]) is None


@given(
    st.lists(
        st.tuples(st.sampled_from(["CT", "MR", "PT"]), st.none() | st.floats(0, 1)), max_size=20
    ),
    st.randoms(use_true_random=False),
)
def test_the_order_of_the_slices_does_not_matter(
    slices: list[tuple[str, float | None]], chance: random.Random
) -> None:
    decisions = [decision(label, confidence) for label, confidence in slices]
    vote = vote_modality(decisions)
    chance.shuffle(decisions)
    assert vote_modality(decisions) == vote
    if vote is not None:
        assert sum(label.share for label in vote.ranking) == pytest.approx(1)


# Profiles.


def test_a_series_is_one_entity() -> None:
    headers = [
        SliceHeader(
            instance_uid=f"1.{n}",
            instance_number=n,
            position_mm=(0.0, 0.0, 2.0 * (n % 10)),
            orientation=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
            pixel_spacing_mm=(0.5, 0.4),
            rows=100,
            columns=200,
        )
        for n in range(20)
    ]
    vectors = unit(np.random.default_rng(2).normal(1, 0.2, (20, 4)))
    embeddings = [
        Embedding.from_array(vector, model="embedder", model_version="a") for vector in vectors
    ]
    stray = Embedding.from_array(vectors[0][:3], model="embedder", model_version="b")
    profile = profile_series(
        check_geometry(headers), headers, [decision("CT", 0.9)] * 20, [stray, *embeddings]
    )
    assert (profile.kind, profile.is_volume) == ("series", True)
    assert (profile.slice_count, profile.volume_count) == (10, 2)
    assert (profile.rows, profile.columns) == (100, 200)
    assert profile.voxel_size_mm == pytest.approx((0.4, 0.5, 2.0))
    assert profile.extent_mm == pytest.approx((80, 50, 20))
    assert len(profile.plane_indices) == 3
    assert profile.embedding is not None
    assert profile.embedding.count == 20
    assert (profile.embedding_model, profile.embedding_model_version) == ("embedder", "a")
    assert profile.modality is not None
    assert profile.modality.label == "CT"


def test_images_that_make_no_volume_have_a_profile_all_the_same() -> None:
    headers = [SliceHeader(f"1.{n}", rows=10, columns=10) for n in range(5)]
    profile = profile_series(check_geometry(headers), headers, [], [], plane_count=1)
    assert (profile.is_volume, profile.slice_count, profile.volume_count) == (False, 5, 1)
    assert (profile.voxel_size_mm, profile.extent_mm, profile.embedding) == (None, None, None)
    assert profile.plane_indices == (2,)


def analyzed(**header: Any) -> FileAnalyzed:
    event = codec.decode((EXAMPLES / "files-analyzed.json").read_bytes(), FileAnalyzed)
    facts = event.header.model_copy(update=header)
    return event.model_copy(update={"format": "nifti", "header": facts})


def test_a_nifti_file_is_one_entity() -> None:
    event = analyzed(
        shape=(64, 48, 30, 5), voxel_size_mm=(2.0, 2.5, 4.0), rows=48, columns=64, frames=150
    )
    profile = profile_nifti(event)
    assert (profile.kind, profile.is_volume) == ("nifti", True)
    assert (profile.slice_count, profile.volume_count) == (30, 5)
    assert profile.extent_mm == pytest.approx((128, 120, 120))
    assert profile.plane_indices == (5, 15, 25)
    assert profile.embedding is not None
    assert profile.embedding.dispersion == pytest.approx(0, abs=1e-6)
    assert profile.modality is not None
    assert profile.modality.share == 1


def test_a_flat_or_hostile_nifti_has_a_profile_too() -> None:
    flat = profile_nifti(analyzed(shape=(64, 48), voxel_size_mm=(2.0, 2.5)))
    assert (flat.is_volume, flat.slice_count, flat.voxel_size_mm) == (False, 1, None)
    vast = profile_nifti(analyzed(shape=(1, 1, 2**31 - 1), voxel_size_mm=(0.0, 1.0, 1.0)))
    assert (vast.slice_count, vast.voxel_size_mm) == (2**31 - 1, None)
    with pytest.raises(ValueError, match="NIfTI file is wanted"):
        profile_nifti(codec.decode((EXAMPLES / "files-analyzed.json").read_bytes(), FileAnalyzed))
