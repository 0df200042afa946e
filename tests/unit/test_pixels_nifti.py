"""NIfTI decoding against nibabel's own canonical arrays."""

from __future__ import annotations

import gzip
import io

import nibabel as nib
import numpy as np
import pytest

from streams.pixels import DecodedImage, DecodeError, Limits, decode
from streams.pixels.source import gunzip_range

RNG = np.random.default_rng(7)
VOLUME = RNG.integers(-500, 1500, (6, 8, 10)).astype(np.int16)


def affine(codes: str, zooms: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> np.ndarray:
    """An affine whose voxel axes point along ``codes``."""
    ornt = nib.orientations.axcodes2ornt(codes)
    matrix = np.zeros((4, 4))
    matrix[3, 3] = 1
    for axis, (target, flip) in enumerate(ornt):
        matrix[int(target), axis] = flip * zooms[axis]
    return matrix


def decoded(raw: bytes, **options: object) -> DecodedImage:
    result = decode(raw, "nifti", **options)
    assert isinstance(result, DecodedImage)
    return result


@pytest.mark.parametrize("codes", ["RAS", "LPS", "LAS", "PSR", "SAR", "ILP", "ASL", "RSP"])
@pytest.mark.parametrize("zipped", [False, True])
def test_the_middle_axial_slice_is_the_canonical_one(codes: str, zipped: bool) -> None:
    image = nib.Nifti1Image(VOLUME, affine(codes))
    raw = image.to_bytes()
    result = decoded(gzip.compress(raw) if zipped else raw)
    canonical = nib.as_closest_canonical(image).get_fdata()
    middle = canonical[:, :, canonical.shape[2] // 2]
    # Radiological view: row 0 is anterior, column 0 is the patient's right.
    np.testing.assert_array_equal(result.values, middle[::-1, ::-1].T)
    assert result.slice_strategy == "middle-axial"
    assert result.slice_index == canonical.shape[2] // 2


def test_spacing_is_that_of_rows_and_columns() -> None:
    result = decoded(nib.Nifti1Image(VOLUME, affine("RAS", (2.0, 3.0, 4.0))).to_bytes())
    assert result.pixel_spacing_mm == (3.0, 2.0)


def test_nifti2_slope_and_the_first_of_several_volumes() -> None:
    data = np.stack([VOLUME, VOLUME + 1000], axis=-1)
    image = nib.Nifti2Image(data, affine("RAS"))
    image.header.set_slope_inter(0.5, 3.0)
    raw = bytearray(image.to_bytes())
    header = nib.Nifti2Header(bytes(raw[:540]), check=False)
    header["scl_slope"], header["scl_inter"] = 0.5, 3.0
    raw[:540] = header.binaryblock
    stored = np.frombuffer(bytes(raw[544:]), np.int16).reshape(data.shape, order="F")
    result = decoded(bytes(raw))
    expected = stored[:, :, 5, 0] * 0.5 + 3.0
    np.testing.assert_allclose(result.values, expected[::-1, ::-1].T)
    assert result.frames == 20


def test_a_pair_needs_both_halves() -> None:
    image = nib.Nifti1Pair(VOLUME, affine("RAS"))
    files = {name: nib.FileHolder(fileobj=io.BytesIO()) for name in ("header", "image")}
    image.to_file_map(files)
    header, data = (files[name].fileobj.getvalue() for name in ("header", "image"))
    result = decode(header, "nifti-pair", companion=data)
    assert isinstance(result, DecodedImage)
    np.testing.assert_array_equal(result.values, VOLUME[::-1, ::-1, 5].T)
    for half in (header, data):
        with pytest.raises(DecodeError) as caught:
            decode(half, "nifti-pair")
        assert caught.value.reason_code == "missing-companion"


def test_complex_and_colour_types() -> None:
    data = (RNG.normal(size=(4, 5, 3)) + 1j * RNG.normal(size=(4, 5, 3))).astype(np.complex64)
    result = decoded(nib.Nifti1Image(data, affine("RAS")).to_bytes())
    np.testing.assert_allclose(result.values, np.abs(data[::-1, ::-1, 1].T), rtol=1e-6)
    rgb = np.zeros((4, 5, 3), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    rgb["G"] = RNG.integers(0, 255, (4, 5, 3))
    result = decoded(nib.Nifti1Image(rgb, affine("RAS")).to_bytes())
    np.testing.assert_array_equal(result.display[:, :, 1], rgb["G"][::-1, ::-1, 1].T)
    assert result.values is None
    assert not result.display[:, :, 0].any()


def test_a_single_slice_is_shown_whatever_its_orientation() -> None:
    sagittal = nib.Nifti1Image(VOLUME[:1], affine("RAS"))
    result = decoded(sagittal.to_bytes())
    assert result.slice_strategy == "middle-sagittal"
    assert result.display.shape == (10, 8)


def test_no_orientation_is_a_warning() -> None:
    image = nib.Nifti1Image(VOLUME, None)
    image.header["pixdim"][1:4] = 0
    image.header["sform_code"] = image.header["qform_code"] = 0
    raw = bytearray(image.to_bytes())
    header = nib.Nifti1Header(bytes(raw[:348]), check=False)
    header["pixdim"][1:4] = np.nan
    header["sform_code"] = header["qform_code"] = 0
    raw[:348] = header.binaryblock
    result = decoded(bytes(raw))
    assert [w.code for w in result.warnings] == ["orientation-unknown"]
    assert result.display.shape == (8, 6)


def test_only_the_needed_part_of_a_gzip_stream_is_decompressed() -> None:
    # The stream is damaged behind the middle slice: that slice is read all the same.
    big = RNG.integers(0, 4000, (64, 64, 64)).astype(np.int16)
    raw = gzip.compress(nib.Nifti1Image(big, affine("RAS")).to_bytes(), 1)
    damaged = raw[: int(len(raw) * 0.6)]
    result = decoded(damaged)
    np.testing.assert_array_equal(result.values, big[::-1, ::-1, 32].T)


def test_a_gzip_bomb_costs_no_more_than_the_slice() -> None:
    header = nib.Nifti1Image(VOLUME, affine("RAS")).header.copy()
    header.set_data_shape((6, 8, 30_000))
    body = bytes(200_000_000)
    raw = gzip.compress(header.binaryblock + b"\0\0\0\0" + body, 1)
    result = decoded(raw, limits=Limits(max_decompressed_bytes=2_000_000))
    assert result.display.shape == (8, 6)
    header.set_data_shape((6, 8, 32_000))
    header["vox_offset"] = 100_000_000
    raw = gzip.compress(header.binaryblock + b"\0\0\0\0" + body, 1)
    with pytest.raises(DecodeError) as caught:
        decoded(raw, limits=Limits(max_decompressed_bytes=2_000_000))
    assert caught.value.reason_code == "too-many-bytes"


@pytest.mark.parametrize(
    ("dims", "reason"),
    [
        ((32_767, 32_767, 1), "too-many-pixels"),
        ((3000, 3000, 3000), "truncated"),
        ((0, 10, 10), "inconsistent-header"),
        ((-5, 10, 10), "inconsistent-header"),
    ],
)
def test_absurd_sizes_are_refused(dims: tuple[int, int, int], reason: str) -> None:
    raw = bytearray(nib.Nifti1Image(VOLUME, affine("RAS")).to_bytes())
    header = nib.Nifti1Header(bytes(raw[:348]), check=False)
    header["dim"][1:4] = dims
    raw[:348] = header.binaryblock
    with pytest.raises(DecodeError) as caught:
        decoded(bytes(raw))
    assert caught.value.reason_code == reason


def test_ranges_of_concatenated_gzip_members() -> None:
    members = gzip.compress(b"abcdef") + gzip.compress(b"ghijkl")
    assert gunzip_range(io.BytesIO(members), 4, 9, 100) == b"efghi"
    assert gunzip_range(io.BytesIO(members), 10, 50, 100) == b"kl"
