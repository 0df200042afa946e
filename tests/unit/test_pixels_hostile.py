"""Damaged files of every format end as a DecodeError, and within bounds."""

from __future__ import annotations

import gzip
import io
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.data import get_testdata_file

from streams.pixels import (
    REASON_CODES,
    DecodedImage,
    DecodeError,
    Limits,
    NoPixels,
    decode,
)
from tests.support import hostile as h

LIMITS = Limits(
    max_frame_pixels=1_000_000,
    max_frame_bytes=8_000_000,
    max_decompressed_bytes=8_000_000,
    max_kept_pixels=250_000,
    max_header_reads=100_000,
)
PILLOW = ("png", "jpeg", "webp", "bmp", "gif")
DICOM = (
    "CT_small.dcm",
    "MR_small_RLE.dcm",
    "MR_small_bigendian.dcm",
    "MR_small_jp2klossless.dcm",
    "MR_small_jpeg_ls_lossless.dcm",
    "JPGExtended.dcm",
    "SC_rgb_small_odd.dcm",
    "SC_rgb_jpeg_dcmtk.dcm",
    "image_dfl.dcm",
    "rtdose.dcm",
    "liver_1frame.dcm",
)


@cache
def sample(name: str) -> tuple[str, bytes] | None:
    """A small sound file and its format."""
    rng = np.random.default_rng(5)
    rgb = rng.integers(0, 255, (40, 50, 3), np.uint8)
    if name in PILLOW:
        buffer = io.BytesIO()
        frames = [Image.fromarray(np.roll(rgb, n, 0)) for n in range(3)]
        animated = {"save_all": True, "append_images": frames[1:]} if name == "gif" else {}
        frames[0].save(buffer, name.upper(), **animated)
        return name, buffer.getvalue()
    if name.startswith("tiff"):
        buffer = io.BytesIO()
        options = {"compression": "zlib", "tile": (16, 16)} if name == "tiff-tiled" else {}
        tifffile.imwrite(buffer, rng.integers(0, 60_000, (3, 40, 50), np.uint16), **options)
        return "tiff", buffer.getvalue()
    if name.startswith("nifti"):
        volume = rng.integers(0, 900, (12, 14, 10)).astype(np.int16)
        raw = nib.Nifti1Image(volume, np.diag([2, -2, 3, 1])).to_bytes()
        return "nifti", gzip.compress(raw) if name == "nifti-gz" else raw
    path = get_testdata_file(name, download=False)
    return None if path is None else ("dicom", Path(path).read_bytes())


NAMES = (*PILLOW, "tiff", "tiff-tiled", "nifti", "nifti-gz", *DICOM)


@pytest.mark.parametrize("name", NAMES)
def test_the_sound_file_decodes(name: str) -> None:
    found = sample(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    format_name, raw = found
    assert isinstance(decode(raw, format_name, limits=LIMITS), DecodedImage)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_flipped_bytes_and_truncation(name: str, data: st.DataObject) -> None:
    found = sample(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    format_name, sound = found
    raw = bytearray(sound)
    # Headers are at the front: that is where damage is most telling.
    reach = data.draw(st.sampled_from([min(400, len(raw)), min(3000, len(raw)), len(raw)]))
    for _ in range(data.draw(st.integers(0, 12))):
        position = data.draw(st.integers(0, reach - 1))
        raw[position] = data.draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]) | st.integers(0, 255))
    if data.draw(st.booleans()):
        raw = raw[: data.draw(st.integers(0, len(raw)))]
    try:
        result = decode(bytes(raw), format_name, limits=LIMITS)
    except DecodeError as error:
        assert error.reason_code in REASON_CODES
        assert len(error.detail) < 200
        return
    if isinstance(result, NoPixels):
        return
    height, width = result.display.shape[:2]
    assert height * width <= LIMITS.max_kept_pixels
    assert result.display.dtype == np.uint8
    assert result.display.ndim == 2 or result.display.shape[2] == 3
    if result.values is not None:
        assert result.values.shape == (height, width)
        assert result.values.dtype == np.float32


@pytest.mark.parametrize("format_name", ["dicom", "nifti", "nifti-pair", "tiff", "png", "gif"])
@settings(max_examples=40, deadline=None)
@given(st.binary(min_size=1, max_size=2000))
def test_noise_of_every_format(format_name: str, raw: bytes) -> None:
    try:
        result = decode(raw, format_name, limits=LIMITS)
    except DecodeError as error:
        assert error.reason_code in REASON_CODES
    else:
        assert isinstance(result, (DecodedImage, NoPixels))


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=600))
def test_noise_behind_a_dicom_prefix(tail: bytes) -> None:
    try:
        decode(bytes(128) + b"DICM" + tail, "dicom", limits=LIMITS)
    except DecodeError as error:
        assert error.reason_code in REASON_CODES


@pytest.mark.parametrize("syntax", [h.EXPLICIT, h.DEFLATED])
@pytest.mark.parametrize(
    "charset", [b"\0ISO_IR\0", b"", b"\xff\xfe", b"\\" * 500, b"ISO_IR 9999", b"\x1b(Z", b"utf_16"]
)
def test_no_character_set_stops_the_pixels(charset: bytes, syntax: str) -> None:
    raw = h.dataset("text", {0x00080005: ("CS", charset), 0x00080070: ("LO", b"\0\xff\x1b")})
    packed = h.deflate(raw) if syntax == h.DEFLATED else raw
    found = decode(h.part10(packed, syntax=syntax), "dicom", limits=LIMITS)
    plain = decode(h.part10(h.dataset("text")), "dicom", limits=LIMITS)
    assert isinstance(found, DecodedImage)
    assert isinstance(plain, DecodedImage)
    assert np.array_equal(found.display, plain.display)
