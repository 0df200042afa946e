"""Quality of a slice: flags that fire where they should, and measures that are what they say."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageFilter
from pydicom.data import get_testdata_file

from schemas.facts import QualityFacts
from streams.pixels import Rendered, RenderSpec, render
from streams.pixels.quality import BLURRY_FROM, blur_of, compute_quality

FLAGS = ("is_blank", "is_near_constant", "is_clipped", "is_blurry")


def phantom(noise: float = 3.0, side: int = 256) -> np.ndarray:
    """A textured disc on a dark, noisy background; float32, never negative."""
    rng = np.random.default_rng(7)
    y, x = np.mgrid[:side, :side]
    inside = (y - side / 2) ** 2 + (x - side / 2) ** 2 < (side / 3) ** 2
    values = np.where(inside, 150 + 40 * np.sin(x / 3) * np.cos(y / 4), 10)
    return np.maximum(values + rng.normal(0, noise, values.shape), 0).astype(np.float32)


def shown(values: np.ndarray) -> np.ndarray:
    return np.clip(values, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (40, 50), (40, 50, 3)])
def test_a_constant_image_is_blank_and_has_no_measures(shape: tuple[int, ...]) -> None:
    quality = compute_quality(np.full(shape, 77, np.uint8))
    assert quality.is_blank
    assert quality.is_near_constant
    assert not quality.is_clipped
    assert quality.perceptual_hash is None
    assert (quality.snr1, quality.blur, quality.is_blurry) == (None, None, None)


def test_a_speck_on_a_flat_ground_is_near_constant_and_not_blank() -> None:
    image = np.full((256, 256), 30, np.uint8)
    image[100:120, 100:120] = 250
    quality = compute_quality(image)
    assert (quality.is_blank, quality.is_near_constant) == (False, True)
    image[:, :30] = 90
    assert not compute_quality(image).is_near_constant


def test_clipped_is_a_share_at_the_end_where_the_signal_is() -> None:
    values = phantom()
    assert not compute_quality(shown(values), values).is_clipped
    over = np.minimum(values, 160)
    quality = compute_quality(shown(over), over)
    assert quality.is_clipped
    expected = float((over[::1, ::1] == 160).mean())
    assert quality.clipped_high_fraction == pytest.approx(expected, abs=0.01)
    # A background at zero is no lost signal, and neither is one at the top of a negative.
    masked = np.where(values < 40, 0, values).astype(np.float32)
    found = compute_quality(shown(masked), masked)
    assert not found.is_clipped
    assert found.clipped_low_fraction is not None
    assert found.clipped_low_fraction > 0.5
    assert not compute_quality(255 - shown(masked), 255 - masked).is_clipped


def test_a_colour_is_clipped_when_a_channel_is_full() -> None:
    image = np.repeat(shown(phantom())[:, :, np.newaxis], 3, axis=2)
    assert not compute_quality(image).is_clipped
    image[100:150, 100:150, 0] = 255
    assert compute_quality(image).is_clipped


def test_blur_grows_with_the_radius_and_flags_what_is_blurred() -> None:
    image = Image.fromarray(shown(phantom()))
    found = [blur_of(np.asarray(image.filter(ImageFilter.GaussianBlur(r)))) for r in (0, 1, 2, 4)]
    assert None not in found
    assert found == sorted(found)  # type: ignore[type-var]
    assert compute_quality(np.asarray(image)).is_blurry is False
    assert compute_quality(np.asarray(image.filter(ImageFilter.GaussianBlur(4)))).is_blurry


def test_a_picture_is_as_blurred_as_its_copy_on_a_screen() -> None:
    # Large pictures are judged at the scale at which they are looked at.
    image = Image.fromarray(shown(phantom(side=1000)))
    large = image.resize((3000, 3000), Image.Resampling.BICUBIC)
    one, other = blur_of(np.asarray(image)), blur_of(np.asarray(large))
    assert one is not None
    assert other == pytest.approx(one, abs=0.1)


@pytest.mark.parametrize("shape", [(1, 1), (4, 4), (15, 15), (5, 4000)])
def test_blur_of_too_few_pixels_is_unknown(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    found = blur_of(rng.integers(0, 255, shape).astype(np.uint8))
    assert found is None or 0 <= found <= 1


def plain_measures(values: np.ndarray) -> dict[str, float]:
    """The definitions in plain terms, on a disc that is its own convex hull."""
    height, width = values.shape
    y, x = np.mgrid[:height, :width]
    inside = (y - height / 2) ** 2 + (x - width / 2) ** 2 < (width / 3) ** 2
    f, b = values[inside], values[~inside]
    masked = np.where(inside, values, 0)

    def patch(where: np.ndarray) -> np.ndarray:
        row, column = np.unravel_index(np.argmax(np.where(where, values, -1)), values.shape)
        top, left = (min(max(0, v - 2), n - 5) for v, n in ((row, height), (column, width)))
        return values[top : top + 5, left : left + 5]

    fp, bp = patch(inside), patch(~inside)
    energy = math.sqrt(float((masked**2).sum()))
    shares = masked[masked > 0] / energy
    most = math.sqrt(masked.size) * math.log(math.sqrt(masked.size))
    return {
        "mean": f.mean(),
        "rng": np.ptp(f),
        "var": f.var(),
        "cv_percent": 100 * f.std() / f.mean(),
        "snr1": f.std() / b.std(),
        "snr2": fp.mean() / b.std(),
        "snr3": fp.mean() / fp.std(),
        "snr4": fp.mean() / bp.std(),
        "cnr": (fp.mean() - bp.mean()) / bp.std(),
        "cvp": fp.std() / fp.mean(),
        "cjv": (f.std() + b.std()) / abs(f.mean() - b.mean()),
        "efc": -(shares * np.log(shares)).sum() / most,
        "fber": np.median(f**2) / np.median(b**2),
    }


def test_measures_are_what_their_definitions_give() -> None:
    values = phantom()
    found = compute_quality(shown(values), values)
    for name, expected in plain_measures(values).items():
        # The hull's rim is a pixel's matter.
        near = 0.25 if name in ("snr1", "snr2", "snr4", "cnr") else 0.05
        assert getattr(found, name) == pytest.approx(float(expected), rel=near), name


def test_psnr_is_that_of_the_median_filter() -> None:
    values = phantom(noise=6.0)
    image = Image.fromarray(shown(values))
    smooth = np.asarray(image.filter(ImageFilter.MedianFilter(5)), np.float64)
    y, x = np.mgrid[:256, :256]
    inside = (y - 128) ** 2 + (x - 128) ** 2 < (256 / 3) ** 2
    error = float((((np.asarray(image) - smooth) ** 2) * inside).mean())
    expected = 10 * math.log10(float(np.asarray(image)[inside].max()) ** 2 / error)
    assert compute_quality(np.asarray(image)).psnr_db == pytest.approx(expected, abs=1.0)


def test_noise_lowers_the_signal_to_noise_ratios() -> None:
    clean, noisy = (compute_quality(shown(phantom(n)), phantom(n)) for n in (1.0, 12.0))
    for name in ("snr2", "psnr_db", "fber"):
        assert getattr(clean, name) > getattr(noisy, name), name
    assert clean.cjv is not None
    assert noisy.cjv is not None
    assert clean.cjv < noisy.cjv


def test_ratios_do_not_change_with_the_scale() -> None:
    values = phantom()
    one, other = (compute_quality(shown(values), k * values) for k in (1, 20))
    for name in ("cv_percent", "psnr_db", "snr1", "snr2", "snr3", "snr4", "cnr", "cvp", "cjv"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-3), name
    assert other.mean == pytest.approx(20 * float(one.mean or 0), rel=1e-4)


def test_hounsfield_units_are_measured_from_air() -> None:
    values = phantom()
    plain, hu = (
        compute_quality(shown(values), values),
        compute_quality(shown(values), values - 1000, "HU"),
    )
    for name in ("mean", "cv_percent", "snr2", "fber"):
        assert getattr(hu, name) == pytest.approx(getattr(plain, name), rel=1e-3), name


def test_no_background_leaves_its_measures_empty() -> None:
    rng = np.random.default_rng(3)
    values = rng.normal(120, 20, (200, 200)).clip(0).astype(np.float32)
    quality = compute_quality(shown(values), values)
    assert quality.mean is not None
    assert (quality.snr1, quality.cjv) == (None, None)


@settings(max_examples=80, deadline=None)
@given(
    hnp.arrays(
        np.uint8,
        st.one_of(
            hnp.array_shapes(min_dims=2, max_dims=2, max_side=40),
            st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(3)),
        ),
    ),
    st.sampled_from(["raw", "HU"]),
)
def test_any_display_has_a_quality(display: np.ndarray, unit: str) -> None:
    quality = compute_quality(display)
    assert QualityFacts.model_validate_json(quality.model_dump_json()) == quality
    if display.ndim == 2:
        values = display.astype(np.float32) * 100 - 500
        values.flat[0] = np.nan
        values.flat[-1] = np.inf
        compute_quality(display, values, unit)


@pytest.mark.filterwarnings("error")
@settings(max_examples=80, deadline=None)
@given(hnp.arrays(np.float32, (12, 17), elements=st.floats(width=32)))
def test_any_values_have_a_quality(values: np.ndarray) -> None:
    display = np.zeros((12, 17), np.uint8)
    display[3:7, 4:9] = 200
    quality = compute_quality(display, values)
    assert all(getattr(quality, name) in (True, False, None) for name in FLAGS)


def test_rendering_tells_the_quality_of_the_slice() -> None:
    path = get_testdata_file("CT_small.dcm", download=False)
    assert path is not None
    rendered = render(Path(path), "dicom", RenderSpec(view_sizes=()))
    assert isinstance(rendered, Rendered)
    assert rendered.quality.perceptual_hash is not None
    assert not rendered.quality.is_blank
    assert rendered.quality.text_box_count is None
    assert (rendered.quality.blur or 0) < BLURRY_FROM
    buffer = io.BytesIO()
    Image.new("L", (64, 64), 9).save(buffer, "PNG")
    blank = render(buffer.getvalue(), "png", RenderSpec(view_sizes=()))
    assert isinstance(blank, Rendered)
    assert blank.quality.is_blank
