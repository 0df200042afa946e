"""The lean walker against pydicom: both must find the same facts in every real file."""

from __future__ import annotations

import csv
import math
import os
import warnings
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import data_store
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence

from schemas.identity import keyed_hash
from streams.sniff import SniffContext, sniff
from streams.sniff.clean import code_string, product_name
from streams.sniff.dicom import table, values

KEY = b"0123456789abcdef"
CONTEXT = SniffContext(KEY, "hospital-a")
CORPUS = Path(os.environ.get("BIODATAMINE_CORPUS", Path(__file__).parents[3] / "shared" / "corpus"))

# pydicom cannot read these either, or reads past their damage in another way.
UNREADABLE = {
    "GH177_D_CLUNIE_CT1_IVRLE_BigEndian_undefined_length.dcm",  # byte order changes halfway
    "GH626.dcm",  # a data set of noise after the file meta information
    "no_meta.dcm",  # one stray byte before the data set: what pydicom finds is noise
}


def _package_files() -> list[Path]:
    roots = [
        Path(pydicom.__file__).parent / "data" / "test_files",
        Path(pydicom.__file__).parent / "data" / "charset_files",
        Path(data_store.__file__).parent / "data",
    ]
    return sorted(p for root in roots for p in root.rglob("*") if p.is_file())


def _corpus_files() -> list[Path]:
    if not (CORPUS / "manifest.csv").is_file():
        return []
    with (CORPUS / "manifest.csv").open(newline="", encoding="utf-8") as file:
        return [CORPUS / row["path"] for row in csv.DictReader(file) if row["format"] == "dicom"]


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, MultiValue) and len(value) else value


def _all(value: Any) -> list[Any]:
    return list(value) if isinstance(value, MultiValue) else [value]


def _floats(value: Any) -> tuple[float, ...]:
    return tuple(float(item) for item in _all(value))


# What each converter of the table means, said again with pydicom's decoded values.
MEANING = {
    values.modality: lambda v: str(v).upper(),
    values.uid: str,
    values.whole: lambda v: int(float(_first(v))),
    values.count: lambda v: int(float(_first(v))),
    values.number: lambda v: float(_first(v)),
    values.thousandths: lambda v: float(_first(v)) / 1000,
    values.pair: _floats,
    values.triple: _floats,
    values.sextuple: _floats,
    values.code: lambda v: code_string(str(_first(v))) or None,
    values.name: lambda v: product_name(str(_first(v))) or None,
    values.codes: lambda v: tuple(code_string(str(item)) for item in _all(v))[:16],
    values.few_codes: lambda v: tuple(code_string(str(item)) for item in _all(v))[:8],
    values.yes_or_no: {"YES": True, "NO": False}.get,
    values.lossy: {"01": True, "00": False, "1": True, "0": False}.get,
    values.signed: bool,
    values.sex: lambda v: v if v in ("F", "M", "O") else None,
    values.laterality: lambda v: v if v in ("L", "R", "B", "U") else None,
    values.contrast: lambda v: str(_first(v)).strip().upper() not in ("NONE", "NO"),
    values.age_years: None,
}


def _lookup(dataset: Dataset, path: str) -> Any:
    node: Any = dataset
    for keyword in path.split("."):
        if isinstance(node, Sequence):
            if not node:
                return None
            node = node[0]
        if not isinstance(node, Dataset):
            return None
        node = getattr(node, "file_meta", {}).get(keyword) or node.get(keyword)
        if node is None:
            return None
    return node


def _expected(dataset: Dataset) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for rule in table.EXPANDED:
        meaning = MEANING[rule.convert]
        if meaning is None or rule.field in facts:
            continue
        try:
            value = _lookup(dataset, rule.path)
            if value is None or value == "" or (isinstance(value, MultiValue) and not value):
                continue
            found = meaning(value)
        except (ValueError, TypeError, OverflowError, NotImplementedError):
            continue
        if found is not None and found != () and not (isinstance(found, tuple) and not any(found)):
            facts[rule.field] = found
    return facts


def _same(found: Any, expected: Any) -> bool:
    if isinstance(expected, float):
        return found is not None and math.isclose(found, expected, rel_tol=1e-9, abs_tol=1e-12)
    if isinstance(expected, tuple) and expected and isinstance(expected[0], float):
        return len(found or ()) == len(expected) and all(map(_same, found, expected))
    return bool(found == expected)


def _instant(day: str, time: str) -> datetime | None:
    # The older form with colons and dots is read as well (ACR-NEMA 2.0).
    parsed_day = pydicom.valuerep.DA(day)
    parsed_time = pydicom.valuerep.TM(time.replace(":", "") or "000000")
    if parsed_day is None or parsed_time is None:
        return None
    return datetime.combine(parsed_day, parsed_time, tzinfo=timezone.utc)


def _check(path: Path) -> str:
    """Compare one file; returns why it could not be compared, or an empty string."""
    size = path.stat().st_size
    if size == 0 or path.name in UNREADABLE:
        return "not comparable"
    with path.open("rb") as file:
        sniffed = sniff(file, size_bytes=size, name=path.name, context=CONTEXT)
    assert "reader-fault" not in {problem.code for problem in sniffed.problems}
    if sniffed.format != "dicom":
        return "not DICOM"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(path, force=True, stop_before_pixels=True)
        expected = _expected(dataset)
        facts = sniffed.header.model_dump()
        invalid = {
            problem.detail for problem in sniffed.problems if problem.code == "invalid-value"
        }
        invalid_fields = {
            rule.field for rule in table.EXPANDED if rule.path.rpartition(".")[2] in invalid
        }
        wrong = {
            name: (facts[name], value)
            for name, value in expected.items()
            if name not in invalid_fields and not _same(facts[name], value)
        }
        assert not wrong, path.name
        allowed = {
            *expected,
            *invalid_fields,
            *("patient_key", "site_key", "device_key", "patient_age_years", "acquired_at"),
            *("description_terms", "frames"),
        }
        invented = {name for name, value in facts.items() if value not in (None, ())} - allowed
        assert not invented, path.name
        patient = str(dataset.get("PatientID") or "").strip()
        if patient.isascii():
            issuer = str(dataset.get("IssuerOfPatientID") or "").strip()
            key = keyed_hash(KEY, "hospital-a", issuer, patient) if patient else None
            assert facts["patient_key"] == key
        _check_time(dataset, facts["acquired_at"], invalid)
    return ""


def _check_time(dataset: Dataset, found: datetime | None, invalid: set[str]) -> None:
    if dataset.get("AcquisitionDateTime") or dataset.get("TimezoneOffsetFromUTC") or invalid:
        return
    if _lookup(dataset, table.expand(table.DATE_TIMES[1])[1]):
        return
    for date_keyword, time_keyword in table.DATES_AND_TIMES:
        day = str(dataset.get(date_keyword) or "").strip("\0 ")
        if day.strip("0"):
            time = str(dataset.get(time_keyword) or "").strip("\0 ")
            assert found == _instant(day, time)
            return


@pytest.mark.parametrize("path", _package_files(), ids=lambda path: path.name)
def test_package_file_has_the_facts_that_pydicom_reads(path: Path) -> None:
    reason = _check(path)
    if path.suffix == ".dcm" and path.name not in UNREADABLE:
        assert not reason


@pytest.mark.skipif(not _corpus_files(), reason="needs the image corpus (BIODATAMINE_CORPUS)")
def test_corpus_files_have_the_facts_that_pydicom_reads() -> None:
    compared = 0
    for path in _corpus_files():
        compared += not _check(path)
    assert compared > 300
