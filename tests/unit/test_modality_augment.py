"""Copies are as exports make them, the same for the same seed, and keep what they show."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.modality.learning import augment


def grey(height: int = 120, width: int = 90) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return ((x * 2 + y) % 256).astype(np.uint8)


def colour(height: int = 120, width: int = 90) -> np.ndarray:
    return np.stack([grey(height, width), grey(height, width) // 2, grey(height, width) // 5], 2)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.sampled_from([(), (3,)]), st.integers(0, 2**31))
def test_any_picture_has_a_copy(
    height: int, width: int, channels: tuple[int, ...], seed: int
) -> None:
    display = np.random.default_rng(seed).integers(0, 256, (height, width, *channels), np.uint8)
    before = display.copy()
    copy = augment.export(display, np.random.default_rng(seed))
    assert copy.dtype == np.uint8
    assert copy.ndim in (2, 3)
    assert copy.size
    assert copy.shape[2:] in ((), (3,))
    assert max(copy.shape[:2]) <= 1024
    np.testing.assert_array_equal(display, before)
    np.testing.assert_array_equal(copy, augment.export(display, np.random.default_rng(seed)))


def test_seeds_give_different_copies() -> None:
    copies = [augment.export(grey(), np.random.default_rng(seed)) for seed in range(8)]
    assert len({(copy.shape, copy.tobytes()) for copy in copies}) == 8


def test_a_large_picture_is_reduced() -> None:
    assert augment.shrink(np.zeros((3000, 100), np.uint8), 300).shape == (300, 10)
    small = grey()
    assert augment.shrink(small, 300) is small


def test_inversion_is_of_grey_only() -> None:
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(augment.invert(grey(), rng), 255 - grey())
    np.testing.assert_array_equal(augment.invert(colour(), rng), colour())


def test_a_tint_keeps_the_order_of_brightness() -> None:
    tinted = augment.tint(grey(), np.random.default_rng(2))
    assert tinted.shape == (*grey().shape, 3)
    order = np.argsort(grey().ravel(), kind="stable")
    assert (np.diff(tinted.sum(axis=2).ravel()[order]) >= 0).all()
    np.testing.assert_array_equal(augment.tint(colour(), np.random.default_rng(2)), colour())


@pytest.mark.parametrize("step", [augment.frame, augment.screenshot])
def test_the_picture_is_inside_of_its_frame(step: object) -> None:
    display = grey(128, 128)
    for seed in range(6):
        framed = step(display, np.random.default_rng(seed))  # type: ignore[operator]
        plane = framed if framed.ndim == 2 else framed[:, :, 0]
        height, width = plane.shape
        assert height >= 128
        assert width >= 128
        places = (
            np.array_equal(plane[top : top + 128, left : left + 128], display)
            for top in range(height - 127)
            for left in range(width - 127)
        )
        assert any(places)


def test_text_is_burned_into_corners_only() -> None:
    flat = np.full((400, 400), 40, np.uint8)
    changed = augment.label(flat, np.random.default_rng(1)) != flat
    assert changed.any()
    assert not changed[170:230, 170:230].any()


def test_a_cut_is_a_part_of_the_picture() -> None:
    part = augment.cut(grey(), np.random.default_rng(3))
    assert part.size < grey().size
    assert np.shares_memory(part, part.base)
    assert part.shape[0] >= 120 * 0.4


def test_windows_keep_the_order_of_levels_and_shading_is_smooth() -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert (np.diff(augment.window(ramp, np.random.default_rng(5)).ravel().astype(int)) >= 0).all()
    shaded = augment.shade(np.full((90, 90), 100, np.uint8), np.random.default_rng(5)).astype(int)
    assert np.abs(np.diff(shaded, axis=0)).max() < 8
    assert shaded.std() > 1


def test_grey_is_recognised_through_jpeg() -> None:
    three = np.repeat(grey()[:, :, None], 3, axis=2)
    assert augment.is_grey(three)
    assert augment.is_grey(augment.compress(three, np.random.default_rng(0)))
    assert not augment.is_grey(colour())
