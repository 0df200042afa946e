"""Signals, views, thumbnails and the one call that makes them all."""

from __future__ import annotations

import io
import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageFilter

from streams.pixels import (
    DecodeError,
    Limits,
    NoPixels,
    Rendered,
    RenderSpec,
    compute_signals,
    make_view,
    render,
    thumbnail,
)

RNG = np.random.default_rng(11)


def disc(background: int = 0, level: int = 180) -> np.ndarray:
    y, x = np.mgrid[:256, :256]
    return np.where((y - 128) ** 2 + (x - 128) ** 2 < 80**2, level, background).astype(np.uint8)


def test_a_constant_image_is_blank() -> None:
    signals = compute_signals(np.full((40, 50), 77, np.uint8))
    assert signals.is_blank
    assert signals.entropy_bits == 0
    assert signals.foreground_fraction == 0
    assert signals.std == 0
    assert signals.mean == 77
    assert signals.histogram[77 // 8] == 1


def test_foreground_is_what_differs_from_the_border() -> None:
    share = np.pi * 80**2 / 256**2
    for image in (disc(), disc(250, 90)):
        assert compute_signals(image).foreground_fraction == pytest.approx(share, abs=0.005)
        assert not compute_signals(image).is_blank


def test_three_equal_channels_are_not_colour() -> None:
    gray = np.repeat(disc()[:, :, np.newaxis], 3, axis=2)
    assert not compute_signals(gray).is_color
    tinted = gray.copy()
    tinted[100:140, 100:140, 0] = 20
    signals = compute_signals(tinted)
    assert signals.is_color
    assert signals.color_fraction == pytest.approx(40 * 40 / 256**2, abs=1e-6)


@pytest.mark.parametrize("sigma", [2.0, 6.0, 12.0])
def test_noise_is_measured_where_there_is_signal(sigma: float) -> None:
    clean = disc(0, 120).astype(float)
    noisy = np.where(clean > 0, clean + RNG.normal(0, sigma, clean.shape), 0)
    estimate = compute_signals(np.clip(noisy, 0, 255).astype(np.uint8)).noise_sigma
    assert estimate == pytest.approx(sigma, rel=0.2)


def test_blur_lowers_sharpness() -> None:
    image = Image.fromarray(RNG.integers(0, 255, (200, 200), np.uint8))
    blurred = np.asarray(image.filter(ImageFilter.GaussianBlur(2)))
    assert compute_signals(blurred).sharpness < 0.05 * compute_signals(np.asarray(image)).sharpness


def test_statistics_are_of_the_values_when_there_are_any() -> None:
    values = np.linspace(-1000, 1000, 100 * 100, dtype=np.float32).reshape(100, 100)
    values[0, 0] = np.nan
    signals = compute_signals(np.zeros((100, 100), np.uint8), values)
    assert signals.mean == pytest.approx(0, abs=0.5)
    assert signals.std == pytest.approx(2000 / 12**0.5, rel=0.01)
    assert signals.p50 == pytest.approx(0, abs=1)
    assert signals.maximum == 1000
    assert signals.p01 < signals.p05 < signals.p95 < signals.p99


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(
        np.uint8,
        st.one_of(
            st.tuples(st.integers(1, 40), st.integers(1, 40)),
            st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(3)),
            st.just((1, 3000)),
        ),
    ),
    st.sampled_from([1, 16, 224]),
)
def test_any_image_has_signals_a_view_and_a_thumbnail(image: np.ndarray, size: int) -> None:
    signals = compute_signals(image)
    assert sum(signals.histogram) == pytest.approx(1)
    assert 0 <= signals.entropy_bits <= 8
    assert 0 <= signals.foreground_fraction <= 1
    view = make_view(image, size)
    assert view.shape == (size, size, 3)
    assert view.dtype == np.uint8
    picture = Image.open(io.BytesIO(thumbnail(image, 64)))
    assert max(picture.size) <= 64
    assert picture.format == "WEBP"


def test_a_view_keeps_the_whole_image_and_its_aspect() -> None:
    wide = np.full((50, 100), 30, np.uint8)
    wide[:, :10] = wide[:, -10:] = 200  # markers at both edges
    wide[0] = wide[-1] = 30
    view = make_view(wide, 100)
    assert (view[24:26] == 30).all()  # padding with the median of the border
    assert (view[50, 1:9] == 200).all()
    assert (view[50, -9:-1] == 200).all()
    assert (view[50, 20:80] == 30).all()


def test_a_view_of_a_square_of_the_same_size_is_the_image() -> None:
    image = RNG.integers(0, 255, (64, 64, 3), np.uint8)
    np.testing.assert_array_equal(make_view(image, 64), image)


def test_the_thumbnail_is_deterministic() -> None:
    image = RNG.integers(0, 255, (500, 300), np.uint8)
    assert thumbnail(image) == thumbnail(image.copy())
    assert Image.open(io.BytesIO(thumbnail(image))).size == (154, 256)


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def test_render_makes_everything_and_survives_pickling(tmp_path: Path) -> None:
    path = tmp_path / "disc.png"
    path.write_bytes(png(disc()))
    spec = RenderSpec(view_sizes=(224, 518), with_display=True)
    rendered = pickle.loads(pickle.dumps(render(path, "png", spec)))
    assert isinstance(rendered, Rendered)
    assert [view.shape for view in rendered.views] == [(224, 224, 3), (518, 518, 3)]
    assert rendered.info.rows == 256
    assert rendered.signals == compute_signals(disc(), disc().astype(np.float32))
    np.testing.assert_array_equal(rendered.display, disc())
    assert render(path, "png", RenderSpec(thumbnail_max_side=0)).thumbnail == b""


def test_render_runs_in_another_process_and_its_error_comes_back() -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert isinstance(pool.submit(render, png(disc()), "png").result(), Rendered)
        failed = pool.submit(render, b"nothing", "png", RenderSpec(limits=Limits()))
        with pytest.raises(DecodeError) as caught:
            failed.result()
    assert caught.value.reason_code == "corrupt"
    assert str(caught.value).startswith("corrupt: ")


def test_outcomes_are_values() -> None:
    assert NoPixels("waveform") == pickle.loads(pickle.dumps(NoPixels("waveform")))


def test_a_path_that_is_not_there_is_unreadable(tmp_path: Path) -> None:
    with pytest.raises(DecodeError) as caught:
        render(tmp_path / "absent.png", "png")
    assert caught.value.reason_code == "unreadable"
    assert "absent" not in str(caught.value)
