from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.filewriter import dcmwrite
from pydicom.sequence import Sequence

from dicom_gateway.storing import identifiers
from dicom_gateway.storing.identifiers import read_identifiers
from dicom_gateway.storing.statuses import StoreError, UidMismatchError, UnreadableDatasetError

IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
JPEG = "1.2.840.10008.1.2.4.50"
SYNTAXES = [IMPLICIT, EXPLICIT, DEFLATED, BIG_ENDIAN, JPEG, "1.2.840.113619.5.2", "1.3.6.1.4.1.9.9"]


def instance(**extra: object) -> Dataset:
    dataset = Dataset()
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    dataset.SOPInstanceUID = "1.2.3.4"
    dataset.StudyInstanceUID = "1.2.3"
    dataset.SeriesInstanceUID = "1.2.3.9"
    for keyword, value in extra.items():
        setattr(dataset, keyword, value)
    return dataset


def encoded(dataset: Dataset, syntax: str = EXPLICIT) -> bytes:
    buffer = io.BytesIO()
    dcmwrite(
        buffer,
        dataset,
        implicit_vr=syntax == IMPLICIT,
        little_endian=syntax != BIG_ENDIAN,
        force_encoding=True,
    )
    data = buffer.getvalue()
    if syntax == DEFLATED:
        deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        return deflater.compress(data) + deflater.flush()
    return data


def nested(depth: int, *, undefined: bool = True) -> Dataset:
    inner = Dataset()
    inner.CodeValue = "X"
    for _ in range(depth):
        outer = Dataset()
        outer.ReferencedImageSequence = Sequence([inner])
        if undefined:
            inner.is_undefined_length_sequence_item = True
            outer["ReferencedImageSequence"].is_undefined_length = True
        inner = outer
    return inner


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, DEFLATED, BIG_ENDIAN])
@pytest.mark.parametrize("undefined", [True, False])
def test_reads_uids_behind_sequences(syntax: str, undefined: bool) -> None:
    dataset = instance(PatientName="A^B", WaveformDataDisplayScale=1.5)
    dataset.update(nested(5, undefined=undefined))
    found = read_identifiers(encoded(dataset, syntax), syntax)
    assert found.sop_class_uid == dataset.SOPClassUID
    assert found.sop_instance_uid == "1.2.3.4"
    assert (found.study_uid, found.series_uid) == ("1.2.3", "1.2.3.9")


def test_agrees_with_pydicom_on_its_own_files() -> None:
    compared = 0
    for path in Path(str(get_testdata_file("CT_small.dcm"))).parent.glob("*.dcm"):
        if path.read_bytes()[128:132] != b"DICM":
            continue
        try:
            header = dcmread(path, stop_before_pixels=True)
            wanted = tuple(
                str(header.get(keyword, ""))
                for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
            )
            syntax = str(header.file_meta.TransferSyntaxUID)
        except Exception:  # noqa: BLE001 (what pydicom cannot read cannot be compared)
            continue
        if not wanted[0] or not header.get("SOPClassUID"):
            continue
        offset = 132 + 12 + header.file_meta.get("FileMetaInformationGroupLength", 0)
        found = read_identifiers(path.read_bytes()[offset:], syntax)
        assert (found.sop_instance_uid, found.study_uid, found.series_uid) == wanted, path.name
        compared += 1
    assert compared > 50


def test_absent_or_invalid_study_counts_as_absent() -> None:
    dataset = instance()
    del dataset.StudyInstanceUID
    dataset.SeriesInstanceUID = "1.2.3.9"
    data = encoded(dataset).replace(b"1.2.3.9\x00", b"../etc/x")
    found = read_identifiers(data, EXPLICIT)
    assert (found.study_uid, found.series_uid) == ("", "")


@pytest.mark.parametrize("keyword", ["SOPClassUID", "SOPInstanceUID"])
def test_a_dataset_that_does_not_name_itself_is_a_mismatch(keyword: str) -> None:
    dataset = instance()
    delattr(dataset, keyword)
    with pytest.raises(UidMismatchError):
        read_identifiers(encoded(dataset), EXPLICIT)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_cut_before_the_series_is_unreadable_or_names_the_same(syntax: str) -> None:
    whole = encoded(instance(Modality="CT"), syntax)
    refused = 0
    for length in range(1, len(whole)):
        try:
            found = read_identifiers(whole[:length], syntax)
        except StoreError:
            refused += 1
        else:
            # Cut between two elements it looks like an instance without study or series.
            assert found.sop_instance_uid == "1.2.3.4"
            assert found.study_uid in ("", "1.2.3")
            assert found.series_uid in ("", "1.2.3.9")
    assert refused > len(whole) * 0.9


def test_cut_behind_the_series_is_read() -> None:
    whole = encoded(instance(PatientComments="x" * 1000, TextValue="x" * 1000))
    assert read_identifiers(whole[:-900], EXPLICIT).sop_instance_uid == "1.2.3.4"


def test_pixel_data_are_never_reached() -> None:
    # An absurd length behind the last UID, as of pixel data that were cut off.
    data = encoded(instance()) + struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, 0xFFFFFFF0)
    assert read_identifiers(data, EXPLICIT).series_uid == "1.2.3.9"


def test_absurd_length_is_unreadable() -> None:
    data = struct.pack("<HH2sHI", 0x0008, 0x0005, b"UN", 0, 0xFFFFFFF0) + encoded(instance())
    with pytest.raises(UnreadableDatasetError, match="breaks off"):
        read_identifiers(data, EXPLICIT)


def test_deep_nesting_is_refused_without_recursion() -> None:
    data = struct.pack("<HHI", 0x0008, 0x1140, 0xFFFFFFFF)
    data += (struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + data) * 20_000
    with pytest.raises(UnreadableDatasetError, match="nest deeper"):
        read_identifiers(data, IMPLICIT)


def test_element_count_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identifiers, "MAX_ELEMENTS", 100)
    data = struct.pack("<HH2sH", 0x0008, 0x0001, b"SH", 0) * 101
    with pytest.raises(UnreadableDatasetError, match="more than 100 elements"):
        read_identifiers(data, EXPLICIT)


def test_deflate_bomb_is_inflated_only_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identifiers, "MAX_INFLATED_BYTES", 1 << 16)
    dataset = Dataset()
    dataset.add_new(0x00080001, "UN", bytes(64 << 20))
    dataset.update(instance())
    with pytest.raises(UnreadableDatasetError):
        read_identifiers(encoded(dataset, DEFLATED), DEFLATED)


def test_deflated_dataset_with_much_behind_its_uids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identifiers, "MAX_INFLATED_BYTES", 1 << 12)
    data = encoded(instance(TextValue="x" * (1 << 20)), DEFLATED)
    assert read_identifiers(data, DEFLATED).sop_instance_uid == "1.2.3.4"


@settings(max_examples=400)
@given(data=st.binary(min_size=1, max_size=400), syntax=st.sampled_from(SYNTAXES))
@example(data=b"\x08\x00\x05\x00CS\xff\xff", syntax=EXPLICIT)
@example(data=b"\x01", syntax=DEFLATED)
def test_any_bytes_end_in_uids_or_the_typed_error(data: bytes, syntax: str) -> None:
    try:
        read_identifiers(data, syntax)
    except StoreError as error:
        assert error.status in (0xA900, 0xC000)
        assert 0 < len(error.comment) <= 64


@settings(max_examples=400)
@given(
    position=st.integers(0, 10_000),
    junk=st.binary(min_size=1, max_size=8),
    syntax=st.sampled_from([IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED]),
)
def test_damage_anywhere_ends_in_uids_or_the_typed_error(
    position: int, junk: bytes, syntax: str
) -> None:
    dataset = instance(Modality="CT", PatientName="A^B")
    dataset.update(nested(3))
    whole = bytearray(encoded(dataset, syntax))
    start = position % len(whole)
    whole[start : start + len(junk)] = junk
    try:
        read_identifiers(bytes(whole), syntax)
    except StoreError as error:
        assert error.status in (0xA900, 0xC000)
