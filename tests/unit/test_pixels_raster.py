"""PNG, JPEG, BMP, WebP, GIF and TIFF decoding."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from streams.pixels import DecodedImage, DecodeError, Limits, decode
from streams.pixels.raster import count_gif_frames
from streams.pixels.tiff import check_ifd_chain

RNG = np.random.default_rng(3)
RGB = RNG.integers(0, 256, (30, 40, 3), np.uint8)
DEEP = RNG.integers(0, 4096, (30, 40)).astype(np.uint16)


def saved(image: Image.Image, name: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


def decoded(raw: bytes, name: str, **options: object) -> DecodedImage:
    result = decode(raw, name, **options)
    assert isinstance(result, DecodedImage)
    return result


@pytest.mark.parametrize(
    ("name", "lossless"), [("png", {}), ("bmp", {}), ("webp", {"lossless": True})]
)
def test_lossless_colour_is_exact(name: str, lossless: dict[str, bool]) -> None:
    result = decoded(saved(Image.fromarray(RGB), name.upper(), **lossless), name)
    np.testing.assert_array_equal(result.display, RGB)
    assert (result.rows, result.columns, result.samples, result.values) == (30, 40, 3, None)


def test_sixteen_bit_png_keeps_its_values() -> None:
    result = decoded(saved(Image.fromarray(DEEP), "PNG"), "png")
    np.testing.assert_array_equal(result.values, DEEP)
    assert (result.bits_stored, result.windowing) == (16, "percentile")
    assert result.display.min() == 0
    assert result.display.max() == 255


def test_gray_stays_gray() -> None:
    gray = RGB[:, :, 0]
    result = decoded(saved(Image.fromarray(gray), "PNG"), "png")
    np.testing.assert_array_equal(result.display, gray)
    np.testing.assert_array_equal(result.values, gray)
    assert result.windowing == "identity"


def test_a_palette_is_applied() -> None:
    image = Image.fromarray(RGB).quantize(16)
    result = decoded(saved(image, "PNG"), "png")
    np.testing.assert_array_equal(result.display, np.asarray(image.convert("RGB")))
    assert result.photometric == "PALETTE COLOR"


def test_transparency_is_composited_on_black() -> None:
    rgba = np.dstack([RGB, np.zeros((30, 40), np.uint8)])
    rgba[:10, :, 3] = 255
    rgba[10:20, :, 3] = 128
    result = decoded(saved(Image.fromarray(rgba), "PNG"), "png")
    np.testing.assert_array_equal(result.display[:10], RGB[:10])
    half = RGB[10:20].astype(float) * 128 / 255
    assert np.abs(result.display[10:20] - half).max() <= 0.51
    assert not result.display[20:].any()


def test_full_transparency_does_not_hide_the_image() -> None:
    rgba = np.dstack([RGB, np.zeros((30, 40), np.uint8)])
    result = decoded(saved(Image.fromarray(rgba), "PNG"), "png")
    np.testing.assert_array_equal(result.display, RGB)
    assert [w.code for w in result.warnings] == ["alpha-ignored"]


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 270 degrees to view
    gradient = np.repeat(np.arange(0, 240, 6, dtype=np.uint8)[np.newaxis], 30, axis=0)
    raw = saved(Image.fromarray(gradient), "JPEG", quality=95, exif=exif)
    result = decoded(raw, "jpeg")
    assert result.display.shape == (40, 30)
    assert (result.rows, result.columns) == (40, 30)
    assert result.display[0].mean() < result.display[-1].mean()


def test_cmyk_jpeg_is_shown_in_rgb() -> None:
    raw = saved(Image.new("CMYK", (16, 16), (255, 0, 0, 0)), "JPEG", quality=100)
    pixel = decoded(raw, "jpeg").display[8, 8].astype(int)
    assert pixel[0] < 20
    assert pixel[1] > 230
    assert pixel[2] > 230


@pytest.mark.parametrize("name", ["gif", "webp"])
def test_the_middle_frame_of_an_animation(name: str) -> None:
    frames = [Image.new("RGB", (8, 8), (n * 40, 0, 0)) for n in range(5)]
    options = {"lossless": True} if name == "webp" else {}
    raw = saved(
        frames[0], name.upper(), save_all=True, append_images=frames[1:], duration=50, **options
    )
    result = decoded(raw, name)
    assert (result.frames, result.slice_index) == (5, 2)
    assert result.display[4, 4].tolist() == [80, 0, 0]
    near = decoded(raw, name, limits=Limits(max_animation_pixels=128))
    assert near.slice_index == 1
    assert [w.code for w in near.warnings] == ["first-frame"]


def test_gif_frames_are_counted_without_decoding() -> None:
    frames = [Image.new("RGB", (8, 8), (n * 20, 0, 0)) for n in range(12)]
    raw = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert count_gif_frames(io.BytesIO(raw), len(raw), 1000) == 12
    assert count_gif_frames(io.BytesIO(raw), len(raw), 5) == 5
    assert count_gif_frames(io.BytesIO(raw[:20]), 20, 5) == 1


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">L", len(body)) + kind + body + struct.pack(">L", zlib.crc32(kind + body))
        )

    body = struct.pack(">LLBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", body) + chunk(b"IDAT", zlib.compress(b"\0"))


@pytest.mark.parametrize("side", [4000, 5000, 20_000])
def test_a_large_header_over_few_bytes_is_refused(side: int) -> None:
    with pytest.raises(DecodeError) as caught:
        decoded(png_header(side, side), "png", limits=Limits(max_frame_pixels=20_000_000))
    assert caught.value.reason_code == ("truncated" if side == 4000 else "too-many-pixels")


def test_a_text_chunk_bomb_is_refused() -> None:
    raw = saved(Image.fromarray(RGB), "PNG")
    text = b"Comment\0\0" + zlib.compress(bytes(30_000_000), 9)
    chunk = struct.pack(">L", len(text)) + b"zTXt" + text
    chunk += struct.pack(">L", zlib.crc32(b"zTXt" + text))
    with pytest.raises(DecodeError) as caught:
        decoded(raw[:33] + chunk + raw[33:], "png")
    assert caught.value.reason_code == "decompression-bomb"


def test_truncation_has_its_own_reason() -> None:
    raw = saved(Image.fromarray(RGB), "JPEG")
    with pytest.raises(DecodeError) as caught:
        decoded(raw[:-300], "jpeg")
    assert caught.value.reason_code == "truncated"


def test_a_format_is_not_guessed_again() -> None:
    with pytest.raises(DecodeError) as caught:
        decoded(saved(Image.fromarray(RGB), "PNG"), "jpeg")
    assert caught.value.reason_code == "corrupt"
    with pytest.raises(DecodeError) as caught:
        decoded(b"%PDF-1.4", "pdf")
    assert caught.value.reason_code == "unsupported-format"
    with pytest.raises(DecodeError) as caught:
        decoded(b"", "png")
    assert caught.value.reason_code == "empty"


def tiff(array: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "zlib"},
        {"compression": "zlib", "predictor": True},
        {"tile": (16, 16), "compression": "zlib"},
        {"byteorder": ">"},
        {"bigtiff": True},
    ],
)
def test_sixteen_bit_tiff_keeps_its_values(options: dict[str, object]) -> None:
    result = decoded(tiff(DEEP, **options), "tiff")
    np.testing.assert_array_equal(result.values, DEEP)
    assert result.bits_stored == 16


def test_float_and_planar_and_inverted_tiff() -> None:
    floats = RNG.normal(size=(20, 30)).astype(np.float32)
    np.testing.assert_array_equal(decoded(tiff(floats), "tiff").values, floats)
    planar = tiff(RGB.transpose(2, 0, 1), photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(decoded(planar, "tiff").display, RGB)
    inverted = decoded(tiff(RGB[:, :, 0], photometric="miniswhite"), "tiff")
    np.testing.assert_array_equal(inverted.display, 255 - RGB[:, :, 0])


@pytest.mark.parametrize("imagej", [False, True])
def test_the_middle_page_of_a_stack(imagej: bool) -> None:
    stack = np.stack([DEEP + n for n in range(6)]).astype(np.uint16)
    result = decoded(tiff(stack, imagej=imagej), "tiff")
    assert (result.frames, result.slice_index) == (6, 3)
    np.testing.assert_array_equal(result.values, stack[3])


def test_a_codec_that_tifffile_lacks_is_read_by_pillow() -> None:
    raw = saved(Image.fromarray(RGB), "TIFF", compression="tiff_lzw")
    result = decoded(raw, "tiff")
    np.testing.assert_array_equal(result.display, RGB)


def test_a_slide_is_read_at_a_level_that_fits() -> None:
    buffer = io.BytesIO()
    base = np.zeros((4096, 6144, 3), np.uint8)
    with tifffile.TiffWriter(buffer) as writer:
        options = {"tile": (256, 256), "photometric": "rgb", "compression": "zlib"}
        writer.write(base, subifds=2, **options)
        writer.write(np.full((2048, 3072, 3), 80, np.uint8), subfiletype=1, **options)
        writer.write(np.full((1024, 1536, 3), 160, np.uint8), subfiletype=1, **options)
    result = decoded(buffer.getvalue(), "tiff", limits=Limits(max_frame_pixels=2_000_000))
    assert result.display.shape == (1024, 1536, 3)
    assert result.display[0, 0].tolist() == [160, 160, 160]
    assert (result.rows, result.columns) == (4096, 6144)


def test_directories_in_a_loop_are_refused() -> None:
    raw = bytearray(tiff(np.stack([DEEP, DEEP]), photometric="minisblack", metadata=None))
    count = check_ifd_chain(io.BytesIO(raw), len(raw), 10)
    assert count == 2
    first = struct.unpack_from("<L", raw, 4)[0]
    second_at = first + 2 + 12 * struct.unpack_from("<H", raw, first)[0]
    second = struct.unpack_from("<L", raw, second_at)[0]
    struct.pack_into("<L", raw, second + 2 + 12 * struct.unpack_from("<H", raw, second)[0], first)
    with pytest.raises(DecodeError) as caught:
        decoded(bytes(raw), "tiff")
    assert caught.value.reason_code == "corrupt"
    with pytest.raises(DecodeError) as caught:
        decoded(tiff(np.stack([DEEP] * 5), metadata=None), "tiff", limits=Limits(max_pages=3))
    assert caught.value.reason_code == "too-many-elements"


def test_a_tiff_without_its_bytes_is_refused_before_allocation() -> None:
    raw = tiff(np.zeros((64, 64), np.uint8), metadata=None)
    page = bytearray(raw)
    with tifffile.TiffFile(io.BytesIO(raw)) as tif:
        for name in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            tag = tif.pages[0].tags[name]
            struct.pack_into("<H" if tag.dtype == 3 else "<L", page, tag.valueoffset, 14_000)
    with pytest.raises(DecodeError) as caught:
        decoded(bytes(page), "tiff")
    assert caught.value.reason_code == "truncated"
