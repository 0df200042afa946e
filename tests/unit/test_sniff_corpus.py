"""Sniffing against a corpus whose formats were told by its makers."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest

from schemas.facts import FORMATS
from streams.sniff import PROBLEM_CODES, SniffContext, sniff

CONTEXT = SniffContext(b"0123456789abcdef")
CORPUS = Path(os.environ.get("BIODATAMINE_CORPUS", Path(__file__).parents[3] / "shared" / "corpus"))
MANIFEST = CORPUS / "manifest.csv"

# Names that the manifest uses and the contract does not: what sniffing answers, and why.
OTHER_NAMES = {
    "nifti.gz": ("nifti", "in gzip"),
    "dicom.gz": ("unknown", "gzip of DICOM"),
    "nrrd": ("unknown", "NRRD"),
    "pnm": ("unknown", "PNM image"),
}
JPEG_LS = "JPEG-LS frame header"  # the manifest calls these jpeg

pytestmark = pytest.mark.skipif(
    not MANIFEST.is_file(), reason="needs the image corpus (BIODATAMINE_CORPUS)"
)


def test_formats_and_sizes_are_those_of_the_manifest() -> None:
    with MANIFEST.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 1000
    for row in rows:
        path = CORPUS / row["path"]
        with path.open("rb", buffering=0) as file:
            sniffed = sniff(
                file,  # type: ignore[arg-type]
                size_bytes=path.stat().st_size,
                name=path.name,
                context=CONTEXT,
            )
        assert {problem.code for problem in sniffed.problems} <= set(PROBLEM_CODES)
        assert "reader-fault" not in {problem.code for problem in sniffed.problems}
        if row["format"] in OTHER_NAMES:
            expected, words = OTHER_NAMES[row["format"]]
            assert (sniffed.format, words in sniffed.format_evidence) == (expected, True), path
        elif sniffed.format_evidence == JPEG_LS:
            assert path.suffix == ".jls"
        else:
            assert sniffed.format == row["format"], path
            assert sniffed.format in FORMATS
        # For volumes the manifest gives the size of a preview.
        if row["width"] and sniffed.header.columns and sniffed.format != "nifti":
            found = {sniffed.header.columns, sniffed.header.rows}
            # As a set: a TIFF or JPEG may be told to be turned when it is shown.
            assert found == {int(row["width"]), int(row["height"])}, path
        if row["header_modality"] and row["format"] == "dicom":
            assert sniffed.header.modality == row["header_modality"], path
        if sniffed.header.frames and row["frames"] and sniffed.format == "dicom":
            assert sniffed.header.frames == int(row["frames"]), path
