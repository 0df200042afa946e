"""Formats and transfer syntaxes of the demo's files, by their bytes, whatever they are called.

The reference is another program for each format: pydicom, Pillow, tifffile, nibabel.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import nibabel as nib
import pydicom
import pytest
import tifffile
from PIL import Image
from pydicom.uid import AllTransferSyntaxes

from schemas.facts import FORMATS
from streams.commands.demo import make_samples
from streams.sniff import SniffContext, Sniffed, sniff
from tests.support.mutations import seeds
from tests.support.syntaxes import make_instance

CONTEXT = SniffContext(b"0123456789abcdef")
SUFFIXES = (
    "", ".dcm", ".DCM", ".ima", ".dicom", ".nii", ".nii.gz", ".hdr", ".img", ".img.gz", ".png",
    ".jpg", ".jpeg", ".tif", ".tiff", ".svs", ".bmp", ".webp", ".gif", ".gz", ".zip", ".txt",
    ".json", ".pdf", ".mp4", ".dat", ".none-of-these", ".",
)  # fmt: skip
# DICOM that lacks preamble or file meta information; pydicom is told to read it.
HEADERLESS = {
    "ExplVR_BigEndNoMeta.dcm", "ExplVR_LitEndNoMeta.dcm", "rtstruct.dcm", "OT-PAL-8-face.dcm",
}  # fmt: skip
NO_IMAGES = {
    "README", "README.txt", "crayons.icc", "rtplan.dump", "rtstruct.dump", "test1.json",
    "test_PN.json", "zipMR.gz", "notes.dcm", "empty.png",
    # The first byte is missing, so that pydicom reads one element of 38 kB.
    "no_meta.dcm",
}  # fmt: skip


def found_in(data: bytes, suffix: str) -> Sniffed:
    return sniff(io.BytesIO(data), size_bytes=len(data), name=f"file{suffix}", context=CONTEXT)


def whatever_the_suffix(data: bytes) -> Sniffed:
    """Sniff under every name; the answers must agree in all but the remark about the name."""
    answers = [found_in(data, suffix) for suffix in SUFFIXES]
    first = answers[0]
    for suffix, answer in zip(SUFFIXES, answers, strict=True):
        assert (answer.format, answer.format_evidence, answer.header) == (
            first.format,
            first.format_evidence,
            first.header,
        ), suffix
        told = [p for p in answer.problems if p.code != "suffix-mismatch"]
        assert told == list(first.problems), suffix
    return first


@pytest.fixture(scope="module")
def demo_files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    samples = make_samples(tmp_path_factory.mktemp("demo"))
    found = [path for folder in samples.dicom for path in sorted(folder.rglob("*"))]
    return [path for path in found if path.is_file()] + [path for path, _ in samples.other]


def reference(path: Path) -> tuple[str, str | None]:
    """What other programs say: format and transfer syntax."""
    if path.name.endswith((".nii", ".nii.gz")):
        # The header of a truncated one is whole.
        nib.load(path)
        return "nifti", None
    if path.name in HEADERLESS:
        return "dicom", None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(path, stop_before_pixels=True)
        return "dicom", dataset.file_meta.get("TransferSyntaxUID")
    except pydicom.errors.InvalidDicomError:
        if path.suffix == ".tif":
            with tifffile.TiffFile(path) as file:
                assert file.pages.first.shape
            return "tiff", None
        with Image.open(path) as image:
            return str(image.format).lower(), None


def test_each_file_of_the_demo_is_what_its_bytes_say(demo_files: list[Path]) -> None:
    seen: set[str] = set()
    syntaxes: set[str] = set()
    for path in demo_files:
        if path.name in NO_IMAGES:
            continue
        found = whatever_the_suffix(path.read_bytes())
        expected, syntax = reference(path)
        assert found.format == expected, path
        assert found.header.transfer_syntax_uid == (syntax or None), path
        seen.add(expected)
        syntaxes.add(str(syntax))
    assert seen == {"dicom", "nifti", "png", "jpeg", "tiff", "gif"}
    # Native of three encodings, deflated, RLE, JPEG (lossless too), JPEG-LS, JPEG 2000.
    of_the_demo = ("1.2", "1.2.1", "1.2.2", "1.2.1.99", "1.2.5", "1.2.4.50", "1.2.4.51",
                   "1.2.4.70", "1.2.4.80", "1.2.4.90", "1.2.4.91")  # fmt: skip
    assert {f"1.2.840.10008.{syntax}" for syntax in of_the_demo} <= syntaxes


def test_what_is_no_image_is_none_under_any_name(demo_files: list[Path]) -> None:
    others = [path for path in demo_files if path.name in NO_IMAGES and path.stat().st_size]
    assert len(others) >= 8
    for path in others:
        for suffix in SUFFIXES:
            found = found_in(path.read_bytes(), suffix)
            # The data half of a pair has no signature; there the name is all there is.
            by_name = suffix in (".img", ".img.gz") and found.format == "nifti-pair"
            assert found.format == "unknown" or by_name, (path, suffix)


@pytest.mark.parametrize("uid", [str(uid) for uid in AllTransferSyntaxes])
def test_each_transfer_syntax_is_told(uid: str, tmp_path: Path) -> None:
    make_instance(tmp_path / "instance", uid)
    found = whatever_the_suffix((tmp_path / "instance").read_bytes())
    assert found.format == "dicom"
    assert found.header.transfer_syntax_uid == uid
    assert (found.header.rows, found.header.columns) == (64, 64)


def test_each_variant_of_each_format_is_told() -> None:
    variants = [seed for seed in seeds() if seed.format != "dicom"]
    assert {seed.format for seed in variants} == set(FORMATS) - {"dicom", "unknown"}
    for seed in variants:
        assert whatever_the_suffix(seed.data).format == seed.format, seed.name
