"""The conformance statement says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydicom.uid import UID
from pynetdicom import ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts

from dicom_gateway import GatewaySettings
from dicom_gateway.commitment import judge as commitment_judge
from dicom_gateway.commitment import request as commitment_request
from dicom_gateway.dicomweb import stow
from dicom_gateway.peers import tls
from dicom_gateway.storing import part10, sop_classes, statuses

STATEMENT = (Path(__file__).parents[2] / "deploy" / "conformance.md").read_text(encoding="utf-8")
_SETTING = re.compile(r"`((?:DICOM|MIN|MAX|RESUME)_[A-Z_]+)")


def section(title: str) -> str:
    """Text between a heading that begins with the title and the next heading of any level."""
    found = re.search(rf"^#+ {re.escape(title)}.*\n((?:(?!#).*\n)*)", STATEMENT, re.MULTILINE)
    assert found, f"no section {title}"
    return found[1]


def rows(text: str, *, columns: int) -> list[list[str]]:
    """Cells of all table rows of a text, without code marks, headings and rules left out."""
    kept = []
    lines = text.splitlines()
    for index, line in enumerate(lines):
        cells = [cell.strip().strip("`") for cell in line.strip("|").split(" | ")]
        heads = index + 1 < len(lines) and set(lines[index + 1]) == {"|", " ", "-"}
        if line.startswith("| ") and len(cells) == columns and not heads:
            kept.append(cells)
    return [cells for cells in kept if set("".join(cells)) != {"-"}]


def test_statuses_of_c_store() -> None:
    said = {cells[0]: int(cells[1], 16) for cells in rows(section("3.2.6"), columns=3)}
    assert said.pop("stored, or ignored by a rule of the Application Entity") == statuses.SUCCESS
    assert said.pop("any other exception") == statuses.PROCESSING_FAILURE
    assert said == {
        kind.__name__.removesuffix("Error"): kind.status for kind in statuses.STORE_ERRORS
    }


def test_statuses_of_n_action() -> None:
    table = section("3.2.7").split("Failure Reasons")[0]
    said = {cells[0]: int(cells[1], 16) for cells in rows(table, columns=3)}
    assert said.pop("accepted") == 0x0000
    assert said.pop("any other exception") == commitment_request.PROCESSING_FAILURE
    assert said == {
        kind.__name__.removesuffix("Error"): kind.status
        for kind in commitment_request.ActionRefusedError.__subclasses__()
    }


def test_failure_reasons_of_storage_commitment() -> None:
    table = section("3.2.7").split("Failure Reasons")[1]
    said = {cells[0]: int(cells[1], 16) for cells in rows(table, columns=3)}
    assert said == {reason.name: int(reason) for reason in commitment_judge.FailureReason}


def test_http_statuses_of_stow() -> None:
    said = {cells[0] for cells in rows(section("3.3"), columns=2) if cells[0].isdigit()}
    assert said == set(re.findall(r"^(\d{3})  ", stow.__doc__ or "", re.MULTILINE))
    assert f"`{stow.PATH}`" in section("3.3")


def test_storage_sop_classes() -> None:
    said = {cells[1]: cells[0] for cells in rows(section("Annex A"), columns=2)}
    known = {str(context.abstract_syntax) for context in AllStoragePresentationContexts}
    known |= {str(uid) for uid in sop_classes.NON_PATIENT_OBJECTS}
    # A later pynetdicom may know more: add them to the annex.
    assert known - set(said) == set()
    assert {uid for uid in said if not uid.startswith("1.2.840.10008.5.1.4.")} == set()
    named = {uid: name for uid, name in said.items() if UID(uid).name != uid}
    assert {uid: UID(uid).name for uid in named} == named


def test_transfer_syntaxes() -> None:
    said = {cells[1]: cells[0] for cells in rows(section("Annex B"), columns=2)}
    assert set(map(str, ALL_TRANSFER_SYNTAXES)) - set(said) == set()
    assert all(UID(uid).is_transfer_syntax or UID(uid).name == uid for uid in said)


@pytest.mark.parametrize("uid", [sop_classes.VERIFICATION, sop_classes.STORAGE_COMMITMENT])
def test_other_sop_classes_and_their_roles(uid: str) -> None:
    (roles,) = (cells[2:] for cells in rows(section("3.2.1"), columns=4) if cells[1] == uid)
    assert roles == {sop_classes.VERIFICATION: ["Yes", "Yes"]}.get(uid, ["No", "Yes"])
    for table in ("3.2.3", "3.2.4"):
        assert f"`{uid}`" in section(table)


def test_who_we_say_that_we_are() -> None:
    said = dict(rows(section("3.2.2"), columns=2))
    assert said["Implementation Class UID"] == part10.IMPLEMENTATION_CLASS_UID
    assert said["Implementation Version Name"] == part10.IMPLEMENTATION_VERSION_NAME


def test_limits_are_the_defaults() -> None:
    checked = 0
    for name, value in rows(section("3.2.2"), columns=2):
        setting = re.search(r"setting `(DICOM_[A-Z_]+)", value)
        number = re.match(r"\d+", value)
        if setting and number:
            default = GatewaySettings.model_fields[setting[1].lower()].default
            assert int(number[0]) == default, name
            checked += 1
    assert checked == 7


def test_every_setting_that_is_named_exists() -> None:
    named = set(_SETTING.findall(STATEMENT))
    assert len(named) > 8
    assert {name for name in named if name.lower() not in GatewaySettings.model_fields} == set()


def test_tls_suites() -> None:
    (said,) = (v for k, v in rows(section("6 "), columns=2) if k == "Suites of TLS 1.2")
    assert tuple(re.findall(r"[A-Z0-9-]{10,}", said)) == tls.TLS_1_2_SUITES
