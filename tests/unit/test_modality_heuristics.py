"""What is measured in a slice is what is there, and nothing hostile breaks it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.modality.crops import VIEWS, content_box, stretched, views
from streams.modality.heuristics import FEATURE_NAMES, describe, is_blank, measure
from streams.pixels import make_view


def value(display: np.ndarray, name: str) -> float:
    return float(measure(display)[FEATURE_NAMES.index(name)])


def disc(side: int = 256, level: int = 180) -> np.ndarray:
    y, x = np.mgrid[:side, :side] - side / 2
    return np.where(np.hypot(y, x) < side * 0.4, level, 0).astype(np.uint8)


def sector(side: int = 256) -> np.ndarray:
    """A fan whose apex is at the top, filled with speckle."""
    y, x = np.mgrid[:side, :side]
    inside = (np.abs(np.arctan2(x - side / 2, y + 1)) < 0.6) & (np.hypot(y, x - side / 2) < side)
    grain = np.random.default_rng(0).rayleigh(60, (side, side))
    return np.where(inside, np.clip(grain, 1, 255), 0).astype(np.uint8)


def photograph(side: int = 200) -> np.ndarray:
    rng = np.random.default_rng(1)
    return rng.integers(40, 220, (side, side, 3), np.uint8)


shapes = st.one_of(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(3)),
    st.sampled_from([(1, 1), (1, 700), (700, 1), (1, 1, 3), (2, 900, 3), (513, 3), (9, 2, 3)]),
)
fillings = st.sampled_from(["zero", "full", "one", "noise", "two-level", "ramp"])


def picture(shape: tuple[int, ...], filling: str, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    size = int(np.prod(shape))
    made = {
        "zero": np.zeros(size),
        "full": np.full(size, 255),
        "one": np.ones(size),
        "noise": rng.integers(0, 256, size),
        "two-level": rng.integers(0, 2, size) * 255,
        "ramp": np.arange(size) % 256,
    }[filling]
    return made.reshape(shape).astype(np.uint8)


@settings(max_examples=80, deadline=None)
@given(shapes, fillings, st.integers(0, 2**16))
def test_any_picture_gives_finite_measures_and_words(
    shape: tuple[int, ...], filling: str, seed: int
) -> None:
    display = picture(shape, filling, seed)
    features = measure(display)
    assert features.dtype == np.float32
    assert features.shape == (len(FEATURE_NAMES),)
    assert np.isfinite(features).all()
    words = describe(features)
    assert words
    assert all(0 < len(word) < 80 for word in words)
    np.testing.assert_array_equal(features, measure(display))


@settings(max_examples=60, deadline=None)
@given(shapes, fillings, st.integers(0, 2**16))
def test_any_picture_has_views(shape: tuple[int, ...], filling: str, seed: int) -> None:
    display = picture(shape, filling, seed)
    made = views(display, 32)
    assert made.dtype == np.uint8
    assert made.shape == (len(VIEWS), 32, 32, 3)
    rows, columns = content_box(display)
    assert display[rows, columns].size


def test_a_frame_and_another_window_leave_the_views_as_they_were() -> None:
    plain = sector()
    framed = np.zeros((plain.shape[0] + 90, plain.shape[1] + 60), np.uint8)
    framed[40:-50, 10:-50] = plain // 2
    content, other = views(plain, 64)[0], views(framed, 64)[0]
    assert np.corrcoef(content.ravel(), other.ravel())[0, 1] > 0.9
    assert abs(float(content.mean()) - float(other.mean())) < 12
    assert make_view(plain, 64).mean() > 1.5 * make_view(framed, 64).mean()


def test_names_are_unique() -> None:
    assert len(set(FEATURE_NAMES)) == len(FEATURE_NAMES)


@pytest.mark.parametrize("level", [0, 7, 255])
def test_a_constant_slice_is_blank(level: int) -> None:
    features = measure(np.full((64, 80), level, np.uint8))
    assert is_blank(features)
    assert describe(features) == ("nearly constant",)
    assert not is_blank(measure(disc()))


def test_a_round_field_of_view_is_told_from_a_full_one() -> None:
    assert "circular field of view" in describe(measure(disc()))
    assert "circular field of view" not in describe(measure(photograph()))
    assert value(disc(), "roundness") > 0.8


def test_a_sector_is_told_from_a_disc() -> None:
    assert "sector-shaped field of view" in describe(measure(sector()))
    assert "sector-shaped field of view" not in describe(measure(disc()))


def test_colour_is_told_from_grey_saved_as_colour() -> None:
    grey = np.repeat(disc()[:, :, np.newaxis], 3, axis=2)
    assert "grey" in describe(measure(grey))
    assert describe(measure(photograph()))[0].startswith("colour")
    assert value(grey, "coloured_share") == 0.0
    red = photograph() // 4
    red[:, :, 0] = 220
    assert value(red, "hue_0") > 0.9


def test_exact_zeros_are_counted() -> None:
    display = np.full((100, 100), 90, np.uint8)
    display[:40] = 0
    assert value(display, "zero_share") == pytest.approx(0.4)
    assert "exact-zero background 40%" in describe(measure(display))


def test_grey_in_three_channels_measures_as_grey() -> None:
    one = sector()
    np.testing.assert_allclose(measure(one), measure(np.repeat(one[..., None], 3, 2)), atol=1e-4)


def test_noise_is_measured_in_levels() -> None:
    rng = np.random.default_rng(3)
    noisy = np.clip(rng.normal(128, 12, (256, 256)), 0, 255).astype(np.uint8)
    assert value(noisy, "noise_sigma") == pytest.approx(12, rel=0.1)
    assert any(word.startswith("noise of 1") for word in describe(measure(noisy)))


def test_jpeg_blocks_raise_blockiness() -> None:
    flat = np.random.default_rng(0).integers(0, 200, (32, 32)).repeat(8, 0).repeat(8, 1)
    smooth = np.add.outer(np.arange(256), np.arange(256)) // 2
    assert value(flat.astype(np.uint8), "blockiness") > value(smooth.astype(np.uint8), "blockiness")


def test_drawn_areas_repeat_their_neighbour() -> None:
    drawn = np.full((200, 200), 250, np.uint8)
    drawn[20:60, 20:180] = 80
    assert "flat areas as drawn graphics have" in describe(measure(drawn))
    assert "flat areas as drawn graphics have" not in describe(measure(sector()))


def test_content_loses_uniform_borders() -> None:
    framed = np.full((300, 400), 12, np.uint8)
    framed[100:220, 80:330] = photograph(256)[:120, :250, 0]
    assert content_box(framed) == (slice(100, 220), slice(80, 330))
    assert content_box(np.full((50, 60), 9, np.uint8)) == (slice(0, 50), slice(0, 60))


def test_stretching_uses_the_whole_range_and_keeps_what_is_flat() -> None:
    dim = (np.arange(10_000) % 41 + 20).reshape(100, 100).astype(np.uint8)
    wide = stretched(dim)
    assert (int(wide.min()), int(wide.max())) == (0, 255)
    assert (np.diff(wide.ravel()[np.argsort(dim.ravel(), kind="stable")].astype(int)) >= 0).all()
    flat = np.full((9, 9, 3), 77, np.uint8)
    np.testing.assert_array_equal(stretched(flat), flat)
