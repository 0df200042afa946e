"""What each format is told by, and which facts its first bytes give."""

from __future__ import annotations

import gzip
import io
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import tifffile
from PIL import Image

from schemas.facts import FORMATS
from streams.sniff import PROBLEM_CODES, SniffContext, Sniffed, SniffError, sniff

CONTEXT = SniffContext(b"0123456789abcdef")
NIBABEL_FILES = Path(nib.__file__).parent / "tests" / "data"


def sniff_bytes(data: bytes, name: str = "") -> Sniffed:
    sniffed = sniff(io.BytesIO(data), size_bytes=len(data), name=name, context=CONTEXT)
    assert sniffed.format in FORMATS
    assert {problem.code for problem in sniffed.problems} <= set(PROBLEM_CODES)
    assert len(sniffed.format_evidence) <= 256
    return sniffed


def codes(sniffed: Sniffed) -> set[str]:
    return {problem.code for problem in sniffed.problems}


def picture(mode: str, file_format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image = Image.new(mode, (13, 7))
    if mode == "P":
        image.putpalette(bytes(range(256)) * 3)
    image.save(file, file_format, **options)
    return file.getvalue()


@pytest.mark.parametrize("name", ["", "x", "x.dcm", "x.nii.gz", "x.txt", "x.jpg", "x.tiff"])
@pytest.mark.parametrize(
    ("mode", "file_format", "found", "samples", "bits", "interpretation"),
    [
        ("L", "PNG", "png", 1, 8, "MONOCHROME2"),
        ("1", "PNG", "png", 1, 1, "MONOCHROME2"),
        ("I;16", "PNG", "png", 1, 16, "MONOCHROME2"),
        ("RGBA", "PNG", "png", 4, 8, "RGB"),
        ("P", "PNG", "png", 1, 8, "PALETTE COLOR"),
        ("L", "JPEG", "jpeg", 1, 8, "MONOCHROME2"),
        ("RGB", "JPEG", "jpeg", 3, 8, "YBR_FULL"),
        ("CMYK", "JPEG", "jpeg", 4, 8, "CMYK"),
        ("L", "TIFF", "tiff", 1, 8, "MONOCHROME2"),
        ("RGB", "TIFF", "tiff", 3, 8, "RGB"),
        ("I;16", "TIFF", "tiff", 1, 16, "MONOCHROME2"),
        ("RGB", "BMP", "bmp", 3, 8, "RGB"),
        ("P", "BMP", "bmp", 1, 8, "PALETTE COLOR"),
        ("RGB", "WEBP", "webp", 3, 8, "RGB"),
        ("P", "GIF", "gif", 1, 8, "PALETTE COLOR"),
    ],
)
def test_pictures_whatever_their_name(
    mode: str, file_format: str, found: str, samples: int, bits: int, interpretation: str, name: str
) -> None:
    sniffed = sniff_bytes(picture(mode, file_format), name)
    header = sniffed.header
    assert sniffed.format == found
    assert sniffed.media_type == f"image/{found}"
    assert (header.columns, header.rows) == (13, 7)
    assert (header.samples_per_pixel, header.bits_allocated) == (samples, bits)
    assert header.photometric_interpretation == interpretation
    promised = {"x.dcm": "dicom", "x.nii.gz": "nifti", "x.jpg": "jpeg", "x.tiff": "tiff"}.get(name)
    wrong = promised is not None and promised != found
    assert codes(sniffed) == ({"suffix-mismatch"} if wrong else set())


@pytest.mark.parametrize("lossless", [True, False])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_webp_of_every_kind_of_chunk(lossless: bool, mode: str) -> None:
    header = sniff_bytes(picture(mode, "WEBP", lossless=lossless)).header
    assert (header.columns, header.rows) == (13, 7)


def test_animations_do_not_claim_one_frame() -> None:
    frames = [Image.new("RGB", (13, 7), color) for color in ("red", "blue")]
    for file_format in ("WEBP", "GIF"):
        file = io.BytesIO()
        frames[0].save(file, file_format, save_all=True, append_images=frames[1:])
        header = sniff_bytes(file.getvalue()).header
        assert (header.columns, header.rows, header.frames) == (13, 7, None)


def test_jpeg_frame_header_is_found_behind_large_segments() -> None:
    plain = picture("RGB", "JPEG")
    segment = b"\xff\xe2" + struct.pack(">H", 65535) + bytes(65533)
    data = plain[:2] + segment * 5 + plain[2:]
    sniffed = sniff_bytes(data)
    assert (sniffed.format, sniffed.header.columns, sniffed.header.rows) == ("jpeg", 13, 7)
    assert sniffed.header.lossy_compressed is True
    assert sniffed.bytes_read < 100_000


@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize(
    ("dtype", "bits", "signed"),
    [("uint8", 8, False), ("uint16", 16, False), ("int16", 16, True), ("float32", 32, None)],
)
def test_tiff_stacks_of_both_kinds_and_byte_orders(
    bigtiff: bool, byteorder: Any, dtype: str, bits: int, signed: bool | None
) -> None:
    file = io.BytesIO()
    with tifffile.TiffWriter(file, bigtiff=bigtiff, byteorder=byteorder) as writer:
        for _ in range(3):
            writer.write(np.zeros((7, 13), dtype), photometric="minisblack", contiguous=False)
    sniffed = sniff_bytes(file.getvalue())
    header = sniffed.header
    assert sniffed.format == "tiff"
    assert ("BigTIFF" in sniffed.format_evidence) == bigtiff
    assert (header.columns, header.rows, header.frames) == (13, 7, 3)
    assert (header.bits_allocated, header.pixel_signed) == (bits, signed)
    assert not sniffed.problems


def test_tiff_directories_in_a_loop_end() -> None:
    entry = struct.pack("<HHLHH", 256, 3, 1, 5, 0) + struct.pack("<HHLHH", 257, 3, 1, 6, 0)
    data = b"II*\0" + struct.pack("<L", 8) + struct.pack("<H", 2) + entry + struct.pack("<L", 8)
    sniffed = sniff_bytes(data)
    assert (sniffed.header.columns, sniffed.header.rows, sniffed.header.frames) == (5, 6, 1)
    assert codes(sniffed) == {"malformed-header"}


@pytest.mark.parametrize("as_gzip", [False, True])
@pytest.mark.parametrize("version", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("endianness", ["<", ">"])
def test_nifti_of_both_versions_and_byte_orders(
    version: Any, endianness: str, as_gzip: bool
) -> None:
    header = version.header_class(endianness=endianness)
    image = version(np.zeros((5, 6, 7, 2), "int16"), np.diag([0.5, 0.75, 2.0, 1]), header)
    image.set_data_dtype("int16")
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"] = b"T1 mprage of Jane Quibberton"
    image.header.set_slope_inter(2.0, -5.0)
    data = image.to_bytes()
    sniffed = sniff_bytes(gzip.compress(data) if as_gzip else data)
    facts = sniffed.header
    assert sniffed.format == "nifti"
    assert facts.shape == (5, 6, 7, 2)
    assert (facts.columns, facts.rows, facts.frames) == (5, 6, 14)
    assert facts.voxel_size_mm == pytest.approx((0.5, 0.75, 2.0))
    assert (facts.bits_allocated, facts.pixel_signed) == (16, True)
    assert (facts.rescale_slope, facts.rescale_intercept) == (2.0, -5.0)
    assert facts.description_terms == ("t1", "mprage")
    assert not sniffed.problems
    assert sniffed.media_type == ("application/gzip" if as_gzip else "application/x-nifti")


@pytest.mark.parametrize(("unit", "scale"), [("micron", 1e-3), ("meter", 1e3), ("unknown", 1.0)])
def test_nifti_voxel_sizes_are_in_millimetres(unit: str, scale: float) -> None:
    image = nib.Nifti1Image(np.zeros((5, 6, 7), "uint8"), np.diag([2.0, 3.0, 4.0, 1]))
    image.header.set_xyzt_units(unit)
    facts = sniff_bytes(image.to_bytes()).header
    assert facts.voxel_size_mm == pytest.approx((2 * scale, 3 * scale, 4 * scale))


@pytest.mark.parametrize("image_class", [nib.Nifti1Pair, nib.Nifti2Pair, nib.AnalyzeImage])
def test_header_and_image_halves_of_a_pair(image_class: Any) -> None:
    image = image_class(np.arange(5 * 6 * 70, dtype="int16").reshape(5, 6, 70), np.eye(4))
    files = image_class.make_file_map({"header": io.BytesIO(), "image": io.BytesIO()})
    image.to_file_map(files)
    header_half = files["header"].fileobj.getvalue()
    image_half = files["image"].fileobj.getvalue()
    found = sniff_bytes(header_half)
    assert (found.format, found.header.shape) == ("nifti-pair", (5, 6, 70))
    assert "truncated" not in codes(found)
    by_name = sniff_bytes(image_half, "brain.img")
    assert by_name.format == "nifti-pair"
    assert codes(by_name) == {"format-by-name"}
    assert sniff_bytes(image_half, "brain.dat").format == "unknown"
    assert sniff_bytes(image_half).format == "unknown"


def test_an_img_that_is_something_else_is_not_taken_for_half_a_pair() -> None:
    disk = bytes(510) + b"\x55\xaa" + bytes(4096)
    assert sniff_bytes(disk, "backup.img").format == "unknown"
    assert sniff_bytes(b"Dear reader, " * 200, "letter.img").format == "unknown"
    assert sniff_bytes(b"\x00\x91\x82", "tiny.img").format == "unknown"
    assert sniff_bytes(picture("L", "PNG"), "x.img").format == "png"


@pytest.mark.parametrize("path", sorted(NIBABEL_FILES.glob("*.nii*")), ids=lambda path: path.name)
def test_nifti_facts_are_those_of_nibabel(path: Path) -> None:
    with path.open("rb") as file:
        facts = sniff(file, size_bytes=path.stat().st_size, context=CONTEXT).header
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = nib.load(path)
    # CIFTI-2 wraps a NIfTI-2 header; it is the header that is compared.
    header = getattr(image, "nifti_header", image.header)
    assert facts.shape == header.get_data_shape()
    assert header.get_xyzt_units()[0] in ("mm", "unknown")
    assert facts.voxel_size_mm == pytest.approx(tuple(map(float, header.get_zooms()[:3])))


def test_a_nifti_whose_voxels_are_missing_says_so() -> None:
    data = nib.Nifti1Image(np.zeros((50, 60, 7), "int16"), np.eye(4)).to_bytes()
    assert codes(sniff_bytes(data[:5000])) == {"truncated"}
    assert sniff_bytes(data[:5000]).header.shape == (50, 60, 7)


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a", b"b")
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "words", "code"),
    [
        (zipped(), "zip archive", "unknown-format"),
        (b"%PDF-1.7\n%\xe2\xe3", "PDF", "unknown-format"),
        (b"<!DOCTYPE html><html>", "HTML", "unknown-format"),
        (b"\xef\xbb\xbf  <html lang=en>", "HTML", "unknown-format"),
        (b"just a note\n", "text", "unknown-format"),
        ("Größe und Maß. ".encode("latin-1") * 20, "text, not UTF-8", "unknown-format"),
        ("\ufeffhello world".encode("utf-16-le"), "text, UTF-16", "unknown-format"),
        (b"\0\0\0\x20ftypisom" + bytes(30), "MP4 video", "unknown-format"),
        (b"NRRD0004\ntype: short\n", "NRRD", "unsupported-format"),
        (b"ObjectType = Image\nNDims = 3\n", "MetaImage", "unsupported-format"),
        (b"\x89HDF\r\n\x1a\n" + bytes(20), "HDF5 (MINC2 among others)", "unknown-format"),
        (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(9), "JPEG 2000", "unsupported-format"),
        (b"\xff\x4f\xff\x51" + bytes(20), "JPEG 2000 codestream", "unsupported-format"),
        (
            bytes.fromhex("ffd8fff7000b08000700 0d 01011100".replace(" ", "")) + bytes(40),
            "JPEG-LS frame header",
            "unsupported-format",
        ),
        (b"P5\n3 3 255\n", "PNM image", "unsupported-format"),
        (gzip.compress(b"hello there"), "gzip of text", "unknown-format"),
        (gzip.compress(zipped()), "gzip of zip archive", "unknown-format"),
        (gzip.compress(bytes(128) + b"DICM" + bytes(40)), "gzip of DICOM", "unknown-format"),
        (b"\x1f\x8b\x08" + b"\xff" * 50, "gzip signature, not a gzip stream", "corrupt-gzip"),
        (bytes(range(1, 32)) * 40, "no known signature", "unknown-format"),
        (b"\0", "no known signature", "unknown-format"),
    ],
)
def test_what_is_no_image_is_named(data: bytes, words: str, code: str) -> None:
    sniffed = sniff_bytes(data)
    assert (sniffed.format, sniffed.format_evidence) == ("unknown", words)
    assert code in codes(sniffed)


def test_no_bytes_cannot_be_a_row() -> None:
    for size in (0, 10):
        with pytest.raises(SniffError) as caught:
            sniff(io.BytesIO(b""), size_bytes=size, context=CONTEXT)
        assert caught.value.reason_code == "empty"


class _Broken(io.BytesIO):
    def read(self, size: int | None = -1, /) -> bytes:
        raise TimeoutError("the store is away")


def test_a_source_that_cannot_be_read_cannot_be_a_row_and_says_why() -> None:
    with pytest.raises(SniffError) as caught:
        sniff(_Broken(b"x"), size_bytes=1, context=CONTEXT)
    assert caught.value.reason_code == "unreadable"
    assert isinstance(caught.value.__cause__, TimeoutError)


def test_a_source_shorter_than_announced_is_truncated() -> None:
    data = picture("L", "PNG")
    sniffed = sniff(io.BytesIO(data), size_bytes=len(data) + 10, context=CONTEXT)
    assert sniffed.format == "png"
    assert codes(sniffed) == {"truncated"}


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF"])
def test_every_beginning_of_a_picture_is_a_row(file_format: str) -> None:
    data = picture("RGB" if file_format != "GIF" else "P", file_format)
    for length in range(1, min(len(data), 700)):
        sniffed = sniff_bytes(data[:length])
        assert "reader-fault" not in codes(sniffed)
