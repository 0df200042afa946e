"""No identity of a person, a site or a visit leaves the blob through sniffing."""

from __future__ import annotations

import io
import re
import warnings
from dataclasses import asdict
from pathlib import Path

import data_store
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from streams.sniff import SniffContext, Sniffed, sniff
from streams.sniff.vocabulary import TERMS

CONTEXT = SniffContext(b"0123456789abcdef")

IDENTIFYING = frozenset(
    {
        *("PatientName", "PatientID", "PatientBirthDate", "PatientBirthTime", "OtherPatientIDs"),
        *("OtherPatientNames", "PatientAddress", "PatientTelephoneNumbers", "PatientComments"),
        *(
            "PatientMotherBirthName",
            "MilitaryRank",
            "EthnicGroup",
            "Occupation",
            "IssuerOfPatientID",
        ),
        *(
            "AdditionalPatientHistory",
            "MedicalRecordLocator",
            "PatientBirthName",
            "ResponsiblePerson",
        ),
        *("AccessionNumber", "StudyID", "AdmissionID", "InstitutionName", "InstitutionAddress"),
        *("InstitutionalDepartmentName", "ReferringPhysicianName", "PerformingPhysicianName"),
        *("OperatorsName", "PhysiciansOfRecord", "NameOfPhysiciansReadingStudy", "StationName"),
        *("RequestingPhysician", "DeviceSerialNumber", "RequestingService", "ImageComments"),
        *("PersonName", "ScheduledPerformingPhysicianName", "PersonAddress", "StudyComments"),
        *("PerformedProcedureStepID", "ScheduledProcedureStepID", "RequestedProcedureID"),
        *("DeviceUID", "ContentCreatorName", "VerifyingObserverName", "VerifyingOrganization"),
    }
)
# Allow-listed UIDs and times may share digits with a birth date or a study id.
# Makers and image types that test files also write into their made-up patients and sites.
PUBLIC_WORDS = frozenset({"toshiba", "offis", "perfusion", "here"})
NUMERIC_FIELDS = ("uid", "acquired_at", "_key")


def _package_files() -> list[Path]:
    roots = [
        Path(pydicom.__file__).parent / "data" / "test_files",
        Path(pydicom.__file__).parent / "data" / "charset_files",
        Path(data_store.__file__).parent / "data",
    ]
    return sorted(p for root in roots for p in root.rglob("*") if p.is_file())


def _identities(dataset: Dataset, found: set[str]) -> None:
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                _identities(item, found)
        elif element.keyword in IDENTIFYING:
            for value in str(element.value).replace("\\", "^").split("^"):
                found.add(value.strip())


def _strings(node: object, name: str = "") -> list[tuple[str, str]]:
    if isinstance(node, dict):
        return [pair for key, value in node.items() for pair in _strings(value, key)]
    if isinstance(node, (list, tuple)):
        return [pair for value in node for pair in _strings(value, name)]
    return [(name, node)] if isinstance(node, str) else []


def _everything_said(sniffed: Sniffed) -> list[tuple[str, str]]:
    plain = asdict(sniffed)
    plain["header"] = sniffed.header.model_dump(mode="json")
    plain["problems"] = [problem.model_dump() for problem in sniffed.problems]
    return _strings(plain)


@pytest.mark.parametrize("path", _package_files(), ids=lambda path: path.name)
def test_no_identity_of_a_real_file_is_said(path: Path) -> None:
    with path.open("rb") as file:
        sniffed = sniff(file, size_bytes=path.stat().st_size, name=path.name, context=CONTEXT)
    if sniffed.format != "dicom":
        return
    identities: set[str] = set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dataset = pydicom.dcmread(path, force=True, stop_before_pixels=True)
            _identities(dataset, identities)
        except Exception as error:  # noqa: BLE001 - whatever pydicom says of its broken files
            pytest.skip(f"pydicom cannot read it: {type(error).__name__}")
    assert set(sniffed.header.description_terms) <= TERMS
    for name, said in _everything_said(sniffed):
        if any(part in name for part in NUMERIC_FIELDS) or name == "description_terms":
            continue
        for identity in identities:
            if len(identity) >= 4 and identity.lower() not in PUBLIC_WORDS:
                assert identity.lower() not in said.lower(), name


SECRETS = {
    "PatientName": "Quibberton^Zelda",
    "PatientID": "MRN-7741-ZQ",
    "PatientBirthDate": "19610317",
    "OtherPatientIDs": "SSN-555-77",
    "AccessionNumber": "ACC9988",
    "InstitutionName": "Saint Wobble Hospital",
    "InstitutionAddress": "12 Nowhere Lane",
    "ReferringPhysicianName": "Fnord^Egon",
    "OperatorsName": "Plugh^Xyzzy",
    "StationName": "WOBBLE-CT-3",
    "DeviceSerialNumber": "SN-44-KKJ",
    "StudyID": "VISIT-31337",
    "StudyDescription": "CT Thorax Quibberton MRN-7741-ZQ with contrast",
    "SeriesDescription": "axial Zelda Quibberton for Dr Fnord",
    "ProtocolName": "Saint Wobble Hospital low dose chest",
    "ImageComments": "call Zelda",
    "IssuerOfPatientID": "WOBBLENET",
}


def dicom_bytes(**elements: object) -> bytes:
    dataset = Dataset()
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = "1.2.3.4"
    dataset.Modality = "CT"
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def sniff_bytes(data: bytes, name: str = "", context: SniffContext = CONTEXT) -> Sniffed:
    return sniff(io.BytesIO(data), size_bytes=len(data), name=name, context=context)


def test_only_terms_and_keyed_hashes_remain_of_a_named_patient() -> None:
    sniffed = sniff_bytes(dicom_bytes(**SECRETS, StudyDate="20240102"), name="zelda.quibberton")
    said = " ".join(value for _, value in _everything_said(sniffed)).lower()
    for secret in SECRETS.values():
        for word in re.findall(r"[a-z0-9]{4,}", secret.lower()):
            if word not in {"thorax", "with", "contrast", "axial", "chest", "dose"}:
                assert word not in said, word
    header = sniffed.header
    assert {"ct", "chest", "with-contrast", "axial", "low-dose"} <= set(header.description_terms)
    assert header.patient_key is not None
    assert header.site_key is not None
    assert header.device_key is not None
    assert header.patient_age_years == 62.0
    assert sniffed.suffix == ""


def test_keys_differ_between_secrets_tenants_and_issuers_and_stay_the_same_otherwise() -> None:
    data = dicom_bytes(PatientID="77", InstitutionName="St. A", DeviceSerialNumber="5")
    same = sniff_bytes(data).header
    padded = sniff_bytes(
        dicom_bytes(PatientID="77 ", InstitutionName="ST.  A", DeviceSerialNumber="5 ")
    ).header
    assert (same.patient_key, same.site_key, same.device_key) == (
        padded.patient_key,
        padded.site_key,
        padded.device_key,
    )
    other_secret = SniffContext(b"another secret 16")
    other_tenant = SniffContext(b"0123456789abcdef", "hospital-b")
    for other in (
        sniff_bytes(data, context=other_secret).header,
        sniff_bytes(data, context=other_tenant).header,
        sniff_bytes(dicom_bytes(PatientID="77", IssuerOfPatientID="X")).header,
    ):
        assert other.patient_key != same.patient_key
    assert sniff_bytes(dicom_bytes(PatientID="")).header.patient_key is None
    assert "secret" not in repr(other_secret)


def test_a_key_does_not_depend_on_the_character_set_that_wrote_the_id() -> None:
    latin = dicom_bytes(SpecificCharacterSet="ISO_IR 100", PatientID="Müller-7")
    unicode = dicom_bytes(SpecificCharacterSet="ISO_IR 192", PatientID="Müller-7")
    assert sniff_bytes(latin).header.patient_key == sniff_bytes(unicode).header.patient_key


def test_a_short_key_is_refused_before_any_file_is_read() -> None:
    with pytest.raises(ValueError, match="BIODATAMINE_PATIENT_HASH_KEY"):
        SniffContext(b"short")


@given(st.text(max_size=64))
def test_a_suffix_is_told_only_if_it_is_a_known_one(suffix: str) -> None:
    known = {".png", ".dcm", ".nii.gz"}
    said = sniff_bytes(b"just some text", name=f"scan.{suffix}").suffix
    assert said == "" or f"scan.{suffix}".lower().endswith(said)
    assert sniff_bytes(b"just some text", name="a/b.c/SCAN.PNG").suffix in known
