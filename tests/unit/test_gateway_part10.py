from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread

from dicom_gateway.storing.part10 import (
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
    PREAMBLE,
    file_prefix,
    is_instance_uid,
    is_uid,
)

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
UIDS = st.from_regex(r"[0-2](\.(0|[1-9][0-9]{0,8})){1,6}", fullmatch=True)


@given(sop_class=UIDS, instance=UIDS, syntax=UIDS)
def test_pydicom_reads_back_what_was_written(sop_class: str, instance: str, syntax: str) -> None:
    prefix = file_prefix(sop_class, instance, syntax)
    meta = dcmread(io.BytesIO(prefix)).file_meta
    assert prefix[:132] == PREAMBLE == bytes(128) + b"DICM"
    # Group length counts from behind its own value to the end of the group (PS3.10 7.1).
    assert meta.FileMetaInformationGroupLength == len(prefix) - 132 - 12
    assert meta.FileMetaInformationVersion == b"\x00\x01"
    assert meta.MediaStorageSOPClassUID == sop_class
    assert meta.MediaStorageSOPInstanceUID == instance
    assert meta.TransferSyntaxUID == syntax
    assert meta.ImplementationClassUID == IMPLEMENTATION_CLASS_UID
    assert meta.ImplementationVersionName == IMPLEMENTATION_VERSION_NAME
    assert len(meta) == 7


def test_prefix_never_changes() -> None:
    # The digests of all stored files follow from it.
    assert file_prefix(CT, "1.2.3", EXPLICIT)[128:].hex() == (
        "4449434d"
        "02000000554c0400a4000000"
        "020001004f42000002000000" "0001"
        "020002005549" "1a00" "312e322e3834302e31303030382e352e312e342e312e312e3200"
        "020003005549" "0600" "312e322e3300"
        "020010005549" "1400" "312e322e3834302e31303030382e312e322e3100"
        "020012005549" "2c00"
        "322e32352e313438303431333634323036393135313133393036333330373131313036323933343337323031"
        "020013005348" "0e00" "42494f444154414d494e455f3120"
    )  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "1.2.",
        ".1",
        "1..2",
        "../../etc/passwd",
        "1.2/3",
        "1.2\x00",
        "1 2",
        "1" * 65,
        "1.\uff12",
    ],
)
def test_what_is_no_uid(text: str) -> None:
    assert not is_uid(text)
    with pytest.raises(ValueError, match="needs UIDs"):
        file_prefix(CT, text, EXPLICIT)


@pytest.mark.parametrize("text", ["1", "1.2.840.10008.1.2", "1.02.3", "1" * 64])
def test_what_is_a_uid(text: str) -> None:
    assert is_uid(text)
    assert is_instance_uid(text)


def test_digests_name_instances_but_no_classes() -> None:
    digest = "dccc9599087131742838cc1162a630fea87ba9bf61ac09bfda90d4adfa5ddaed"
    assert is_instance_uid(digest)
    assert not is_uid(digest)
    assert dcmread(io.BytesIO(file_prefix(CT, digest, EXPLICIT))).file_meta[0x00020003].value
    for text in ("smith", "..", "a/b", "a.", digest + "0", ""):
        assert not is_instance_uid(text)
