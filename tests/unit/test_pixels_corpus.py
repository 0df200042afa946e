"""Real files: the shared corpus where it is present, and what pydicom's packages carry."""

from __future__ import annotations

import csv
import os
from collections import Counter
from pathlib import Path

import pytest
from pydicom.data import get_testdata_files

from streams.pixels import FORMATS, DecodeError, NoPixels, Rendered, RenderSpec, render

ROOT = Path(
    os.environ.get("BIODATAMINE_CORPUS")
    or Path(__file__).resolve().parents[2].parent / "shared" / "corpus"
)
SPEC = RenderSpec(view_sizes=(32,), thumbnail_max_side=0)


def rows() -> list[dict[str, str]]:
    manifest = ROOT / "manifest.csv"
    if not manifest.is_file():
        return []
    with manifest.open(newline="", encoding="utf-8") as lines:
        return [
            row
            for row in csv.DictReader(lines)
            if row["format"].removesuffix(".gz") in FORMATS and (ROOT / row["path"]).is_file()
        ]


def test_every_real_image_of_the_corpus_decodes() -> None:
    found = rows()
    if not found:
        pytest.skip("no corpus; set BIODATAMINE_CORPUS to its folder")
    failed = []
    for row in found:
        if row["content"] != "real":
            continue
        try:
            result = render(ROOT / row["path"], row["format"].removesuffix(".gz"), SPEC)
        except DecodeError as error:
            failed.append((row["path"], error.reason_code))
            continue
        if not isinstance(result, Rendered):
            failed.append((row["path"], result.reason))
    assert failed == []


def test_the_rest_of_the_corpus_ends_in_an_outcome() -> None:
    found = rows()
    if not found:
        pytest.skip("no corpus; set BIODATAMINE_CORPUS to its folder")
    outcomes: Counter[str] = Counter()
    for row in found:
        if row["content"] == "real":
            continue
        try:
            result = render(ROOT / row["path"], row["format"].removesuffix(".gz"), SPEC)
            outcomes["no-pixels" if isinstance(result, NoPixels) else "decoded"] += 1
        except DecodeError as error:
            outcomes[error.reason_code] += 1
    assert outcomes["decoded"] > 50, outcomes
    assert outcomes["no-pixels"] > 20, outcomes


def test_every_file_of_pydicoms_packages_ends_in_an_outcome() -> None:
    outcomes: Counter[str] = Counter()
    for path in get_testdata_files("**/*.dcm"):
        try:
            result = render(path, "dicom", SPEC)
            outcomes["no-pixels" if isinstance(result, NoPixels) else "decoded"] += 1
        except DecodeError as error:
            outcomes[error.reason_code] += 1
    assert outcomes["decoded"] >= 50, outcomes
