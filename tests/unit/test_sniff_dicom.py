"""DICOM in its encodings and oddities, and the table from elements to facts."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from schemas.facts import HeaderFacts
from streams.sniff import SniffContext, Sniffed, SniffLimits, sniff
from streams.sniff.dicom import table

CONTEXT = SniffContext(b"0123456789abcdef")
TEST_FILES = Path(pydicom.__file__).parent / "data" / "test_files"
SYNTAXES = [
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
]


def sniff_bytes(data: bytes, name: str = "", context: SniffContext = CONTEXT) -> Sniffed:
    sniffed = sniff(io.BytesIO(data), size_bytes=len(data), name=name, context=context)
    assert "reader-fault" not in codes(sniffed)
    return sniffed


def codes(sniffed: Sniffed) -> set[str]:
    return {problem.code for problem in sniffed.problems}


def details(sniffed: Sniffed) -> set[str]:
    return {problem.detail for problem in sniffed.problems}


def dataset(**elements: Any) -> Dataset:
    made = Dataset()
    made.SOPClassUID = CTImageStorage
    made.SOPInstanceUID = "1.2.3.4"
    made.Modality = "CT"
    made.Rows, made.Columns = 32, 48
    made.PixelSpacing = [0.5, 0.25]
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    return made


def part10(made: Dataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = syntax
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made.save_as(file, enforce_file_format=True)
    return file.getvalue()


def bare(made: Dataset, syntax: str) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pydicom.dcmwrite(
            file,
            made,
            implicit_vr=syntax == ImplicitVRLittleEndian,
            little_endian=syntax != ExplicitVRBigEndian,
            enforce_file_format=False,
        )
    return file.getvalue()


def element(tag: int, vr: str, value: bytes) -> bytes:
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr.encode())
    if vr in {"OB", "OW", "SQ", "UN", "UT"}:
        return head + struct.pack("<HL", 0, len(value)) + value
    return head + struct.pack("<H", len(value)) + value


def raw_file(*elements: bytes) -> bytes:
    meta = element(0x00020010, "UI", b"1.2.840.10008.1.2.1\0")
    return bytes(128) + b"DICM" + meta + b"".join(elements)


@pytest.mark.parametrize("name", ["", "IM000001", "x.png", "x.dcm", "x.nii"])
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_every_encoding_of_part_10_gives_the_same_facts(syntax: str, name: str) -> None:
    sniffed = sniff_bytes(part10(dataset(), syntax), name)
    assert sniffed.format == "dicom"
    assert sniffed.media_type == "application/dicom"
    assert sniffed.format_evidence.startswith("DICM at offset 128")
    assert sniffed.header.transfer_syntax_uid == syntax
    assert (sniffed.header.rows, sniffed.header.columns) == (32, 48)
    assert sniffed.header.pixel_spacing_mm == (0.5, 0.25)
    assert codes(sniffed) <= {"suffix-mismatch"}


@pytest.mark.parametrize("syntax", SYNTAXES[:3])
def test_a_headerless_data_set_is_dicom(syntax: Any) -> None:
    sniffed = sniff_bytes(bare(dataset(), syntax))
    assert sniffed.format == "dicom"
    assert sniffed.format_evidence == (f"group 0008 elements parse without preamble, {syntax.name}")
    assert sniffed.header.rows == 32
    assert codes(sniffed) == {"missing-file-meta"}


def test_file_meta_without_preamble_is_dicom() -> None:
    data = part10(dataset())[132:]
    sniffed = sniff_bytes(data)
    assert sniffed.format_evidence.startswith("group 0002 elements parse without preamble")
    assert sniffed.header.transfer_syntax_uid == ExplicitVRLittleEndian
    assert sniffed.header.rows == 32


def test_a_preamble_without_file_meta_is_dicom() -> None:
    for syntax in SYNTAXES[:3]:
        sniffed = sniff_bytes(b"any preamble".ljust(128) + b"DICM" + bare(dataset(), syntax))
        assert sniffed.header.rows == 32
        assert codes(sniffed) == {"missing-file-meta"}


@pytest.mark.parametrize("preamble", [b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08"])
def test_dicom_with_a_tiff_preamble_is_dicom(preamble: bytes) -> None:
    data = preamble.ljust(128, b"\0") + part10(dataset())[128:]
    sniffed = sniff_bytes(data, "slide.tif")
    assert sniffed.format == "dicom"
    assert "TIFF preamble" in sniffed.format_evidence
    assert "suffix-mismatch" in codes(sniffed)


def test_a_dicomdir_is_dicom_and_says_so() -> None:
    path = TEST_FILES / "dicomdirtests" / "DICOMDIR"
    sniffed = sniff_bytes(path.read_bytes(), "DICOMDIR")
    assert sniffed.format == "dicom"
    assert sniffed.format_evidence.endswith("a DICOMDIR")
    assert sniffed.header.patient_key is None


def test_an_encoding_other_than_declared_is_read_and_told() -> None:
    for declared, written in [
        (ExplicitVRLittleEndian, ImplicitVRLittleEndian),
        (ImplicitVRLittleEndian, ExplicitVRLittleEndian),
        (ExplicitVRLittleEndian, ExplicitVRBigEndian),
    ]:
        meta = element(0x00020010, "UI", declared.encode().ljust(20, b"\0"))
        data = bytes(128) + b"DICM" + meta + bare(dataset(), written)
        sniffed = sniff_bytes(data)
        assert sniffed.header.rows == 32
        assert codes(sniffed) == {"encoding-mismatch"}


def enhanced_mr(*, in_shared: bool) -> Dataset:
    group = Dataset()
    for sequence, elements in {
        "PixelMeasuresSequence": {
            "PixelSpacing": [1.5, 1.25],
            "SliceThickness": 4,
            "SpacingBetweenSlices": 5,
        },
        "PlanePositionSequence": {"ImagePositionPatient": [1, 2, 3]},
        "PlaneOrientationSequence": {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]},
        "PixelValueTransformationSequence": {
            "RescaleSlope": 2,
            "RescaleIntercept": -1024,
            "RescaleType": "US",
        },
        "FrameVOILUTSequence": {"WindowCenter": 40, "WindowWidth": 400},
        "MRTimingAndRelatedParametersSequence": {"RepetitionTime": 500, "FlipAngle": 15},
        "MREchoSequence": {"EffectiveEchoTime": 12.5},
        "FrameContentSequence": {"FrameAcquisitionDateTime": "20240506070809.5+0200"},
        "FrameAnatomySequence": {"FrameLaterality": "L"},
    }.items():
        item = Dataset()
        for keyword, value in elements.items():
            setattr(item, keyword, value)
        setattr(group, sequence, Sequence([item]))
    made = dataset(SOPClassUID=EnhancedMRImageStorage, Modality="MR", NumberOfFrames=3)
    del made.PixelSpacing
    second = Dataset()
    measures = Dataset()
    measures.PixelSpacing = [9, 9]
    second.PixelMeasuresSequence = Sequence([measures])
    made.SharedFunctionalGroupsSequence = Sequence([group] if in_shared else [Dataset()])
    made.PerFrameFunctionalGroupsSequence = Sequence(
        [Dataset() if in_shared else group, second, second]
    )
    return made


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("in_shared", [False, True])
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_enhanced_objects_are_read_in_their_functional_groups(
    syntax: str, in_shared: bool, undefined: bool
) -> None:
    made = enhanced_mr(in_shared=in_shared)
    for keyword in table.FUNCTIONAL_GROUPS:
        made[keyword].is_undefined_length = undefined
        for item in made[keyword].value:
            item.is_undefined_length_sequence_item = undefined
            for inner in item:
                inner.is_undefined_length = undefined
    facts = sniff_bytes(part10(made, syntax)).header
    assert facts.frames == 3
    assert facts.pixel_spacing_mm == (1.5, 1.25)
    assert (facts.slice_thickness_mm, facts.spacing_between_slices_mm) == (4, 5)
    assert facts.image_position_mm == (1, 2, 3)
    assert facts.image_orientation == (1, 0, 0, 0, 1, 0)
    assert (facts.rescale_slope, facts.rescale_intercept, facts.rescale_type) == (2, -1024, "US")
    assert (facts.window_center, facts.window_width) == (40, 400)
    assert (facts.repetition_time_ms, facts.flip_angle_degrees, facts.echo_time_ms) == (
        500,
        15,
        12.5,
    )
    assert facts.laterality == "L"
    assert facts.acquired_at == datetime(2024, 5, 6, 5, 8, 9, 500000, tzinfo=timezone.utc)


UTC_NOON = datetime(2024, 3, 1, 12, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("elements", "expected", "invalid"),
    [
        ({"AcquisitionDateTime": "20240301120000"}, UTC_NOON, set()),
        ({"AcquisitionDateTime": "20240301140000+0200"}, UTC_NOON, set()),
        (
            {"AcquisitionDateTime": "20240301070000", "TimezoneOffsetFromUTC": "-0500"},
            UTC_NOON,
            set(),
        ),
        (
            {
                "AcquisitionDateTime": "20240301140000+0200",
                "TimezoneOffsetFromUTC": "-0500",
                "StudyDate": "20200101",
            },
            UTC_NOON,
            set(),
        ),
        ({"AcquisitionDate": "20240301", "AcquisitionTime": "120000.000"}, UTC_NOON, set()),
        ({"ContentDate": "2024.03.01", "ContentTime": "12:00:00"}, UTC_NOON, set()),
        (
            {"AcquisitionDate": "20241301", "StudyDate": "20240301", "StudyTime": "12"},
            UTC_NOON,
            {"AcquisitionDate"},
        ),
        (
            {"SeriesDate": "20240301", "SeriesTime": "99"},
            datetime(2024, 3, 1, tzinfo=timezone.utc),
            {"SeriesTime"},
        ),
        ({"StudyDate": "00000000"}, None, set()),
        ({"StudyDate": "20230229"}, None, {"StudyDate"}),
        ({"StudyTime": "120000"}, None, set()),
        ({}, None, set()),
    ],
)
def test_acquired_at_is_the_most_specific_time_that_can_be_read(
    elements: dict[str, str], expected: datetime | None, invalid: set[str]
) -> None:
    tags = {keyword: pydicom.datadict.tag_for_keyword(keyword) for keyword in elements}
    data = raw_file(
        element(0x00080005, "CS", b"ISO_IR 100"),
        *(
            element(int(tags[key] or 0), pydicom.datadict.dictionary_VR(key), padded(value))
            for key, value in sorted(elements.items(), key=lambda pair: tags[pair[0]] or 0)
        ),
    )
    sniffed = sniff_bytes(data)
    assert sniffed.header.acquired_at == expected
    assert details(sniffed) == invalid


def padded(value: str) -> bytes:
    return value.encode() + b" " * (len(value) % 2)


@pytest.mark.parametrize(
    ("age", "years"),
    [
        ("065Y", 65.0),
        ("012M", 1.0),
        ("003D", 0.008),
        ("002W", 0.038),
        ("089Y", 89.0),
        ("090Y", 90.0),
        ("113Y", 90.0),
    ],
)
def test_age_is_in_years_and_ends_at_90(age: str, years: float) -> None:
    data = raw_file(element(0x00101010, "AS", age.encode()))
    assert sniff_bytes(data).header.patient_age_years == pytest.approx(years)


@pytest.mark.parametrize(
    ("born", "studied", "years"),
    [
        ("19900615", "20240614", 33.0),
        ("19900615", "20240615", 34.0),
        ("20230601", "20240601", 1.0),
        ("20240401", "20240601", 0.167),
        ("19010101", "20240601", 90.0),
        ("20240602", "20240601", None),
    ],
)
def test_age_from_the_birth_date_is_no_finer_than_years(
    born: str, studied: str, years: float | None
) -> None:
    data = raw_file(
        element(0x00080020, "DA", studied.encode()), element(0x00100030, "DA", born.encode())
    )
    assert sniff_bytes(data).header.patient_age_years == years


@pytest.mark.parametrize(
    ("tag", "vr", "value", "field"),
    [
        (0x00080060, "CS", b"C T!", "modality"),
        (0x0020000D, "UI", b"1.2.3x", "study_uid"),
        (0x00180050, "DS", b"NaN ", "slice_thickness_mm"),
        (0x00180050, "DS", b"1_0 ", "slice_thickness_mm"),
        (0x00180050, "DS", b"1e999 ", "slice_thickness_mm"),
        (0x00280008, "IS", b"-1", "frames"),
        (0x00280008, "IS", b"99999999999 ", "frames"),
        (0x00280010, "US", b"abc", "rows"),
        (0x00280030, "DS", b"0.5 ", "pixel_spacing_mm"),
        (0x00280030, "DS", b"0\\0 ", "pixel_spacing_mm"),
        (0x00280030, "DS", b"1\\x ", "pixel_spacing_mm"),
        (0x00200032, "DS", b"1\\2 ", "image_position_mm"),
        (0x00101010, "AS", b"65", "patient_age_years"),
        (0x00200060, "CS", b"X ", "laterality"),
        (0x00189332, "FD", struct.pack("<d", float("inf")), "exposure_mas"),
    ],
)
def test_a_wrong_value_is_named_and_never_shown(
    tag: int, vr: str, value: bytes, field: str
) -> None:
    sniffed = sniff_bytes(raw_file(element(tag, vr, value)))
    assert not getattr(sniffed.header, field)
    assert codes(sniffed) == {"invalid-value"}
    assert details(sniffed) == {pydicom.datadict.keyword_for_tag(tag)}


def test_a_window_and_a_kernel_of_many_values_give_the_first() -> None:
    made = dataset(WindowCenter=[40, 400], WindowWidth=[80, 1000], ConvolutionKernel=["B30f", "2"])
    facts = sniff_bytes(part10(made)).header
    assert (facts.window_center, facts.window_width) == (40, 80)
    assert facts.convolution_kernel == "B30f"


@pytest.mark.parametrize(
    "charset", [b"ISO_IR 999", b"\xff\xfe", b"\\ISO 2022 IR 87", b"ISO_IR 192", b"ISO 2022 IR 149"]
)
def test_no_character_set_stops_a_file(charset: bytes) -> None:
    data = raw_file(
        element(0x00080005, "CS", charset + b" " * (len(charset) % 2)),
        element(0x00080060, "CS", b"MR"),
        element(0x0008103E, "LO", b"\x1b$B\xff\xfeknee\x80 "),
        element(0x00100020, "LO", b"\x1b$BZ\xff\xfe\x80"),
    )
    sniffed = sniff_bytes(data)
    assert sniffed.header.modality == "MR"
    assert sniffed.header.patient_key is not None


def test_facts_before_a_break_are_kept() -> None:
    data = part10(dataset(PatientID="7", StudyDescription="knee"))
    for length in range(140, len(data)):
        sniffed = sniff_bytes(data[:length])
        assert sniffed.format == "dicom"
        assert codes(sniffed) <= {"truncated", "missing-file-meta", "header-limit"}
    cut = sniff_bytes(data[:-10])
    assert cut.header.modality == "CT"
    assert codes(cut) == {"truncated"}


def test_missing_pixels_are_told_from_the_header_alone() -> None:
    made = dataset(BitsAllocated=16, PixelRepresentation=0, SamplesPerPixel=1)
    made.PixelData = bytes(32 * 48 * 2)
    data = part10(made)
    assert codes(sniff_bytes(data)) == set()
    sniffed = sniff_bytes(data[:-1])
    assert codes(sniffed) == {"truncated"}
    assert "(7FE0,0010)" in sniffed.problems[0].detail


def test_the_contract_is_fed_by_exactly_one_table() -> None:
    derived = {"patient_key", "site_key", "device_key", "acquired_at", "description_terms"}
    volumes_only = {"shape", "voxel_size_mm"}
    assert {rule.field for rule in table.RULES} == (
        set(HeaderFacts.model_fields) - derived - volumes_only
    )
    assert all(" " not in vr for vr in table.DICTIONARY_VR.values())


def test_deflated_data_is_inflated_within_bounds() -> None:
    bomb = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    elements = element(0x00080060, "CS", b"MR") + element(0x00091010, "OB", bytes(64 << 20))
    packed = bomb.compress(elements) + bomb.flush()
    meta = element(0x00020010, "UI", DeflatedExplicitVRLittleEndian.encode())
    data = bytes(128) + b"DICM" + meta + packed
    sniffed = sniff_bytes(data)
    assert sniffed.header.modality == "MR"
    assert codes(sniffed) == {"header-limit"}
    broken = bytes(128) + b"DICM" + meta + b"\xff" * 100
    assert codes(sniff_bytes(broken)) == {"malformed-header"}


UNDEFINED = b"\xff\xff\xff\xff"
ITEM = struct.pack("<HH", 0xFFFE, 0xE000)
ITEM_END = struct.pack("<HHL", 0xFFFE, 0xE00D, 0)
SEQUENCE_END = struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)


def nested(depth: int, tag: int = 0x00091010) -> bytes:
    head = struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, b"SQ", 0)
    return (
        (head + UNDEFINED + ITEM + UNDEFINED) * depth
        + element(0x00080100, "SH", b"X ")
        + (ITEM_END + SEQUENCE_END) * depth
    )


def test_nesting_is_passed_to_a_limit() -> None:
    after = element(0x00280010, "US", struct.pack("<H", 77))
    assert sniff_bytes(raw_file(nested(30), after)).header.rows == 77
    deep = sniff_bytes(raw_file(element(0x00080060, "CS", b"MR"), nested(50_000), after))
    assert deep.header.modality == "MR"
    assert codes(deep) == {"depth-limit"}


def test_many_elements_are_walked_to_a_limit() -> None:
    data = raw_file(element(0x00080060, "CS", b"MR"), element(0x00091010, "LO", b"") * 30_000)
    sniffed = sniff_bytes(data)
    assert sniffed.header.modality == "MR"
    assert codes(sniffed) == {"element-limit"}


def test_a_header_beyond_the_byte_limit_gives_the_facts_so_far() -> None:
    limits = SniffLimits(header_bytes=40_000)
    elements = [element(0x00080060, "CS", b"MR")]
    elements += [element(0x00091010, "LO", bytes(5000)) for _ in range(50)]
    data = raw_file(*elements, element(0x00280010, "US", b"\x10\0"))
    sniffed = sniff_bytes(data, context=SniffContext(b"0123456789abcdef", limits=limits))
    assert sniffed.header.modality == "MR"
    assert sniffed.bytes_read <= 40_000
    assert codes(sniffed) == {"header-limit"}
    assert sniff_bytes(data).header.rows == 16


def test_a_private_element_of_four_gigabytes_is_a_break() -> None:
    giant = struct.pack("<HH2sHL", 9, 0x1010, b"OB", 0, 0xFFFFFFF0)
    sniffed = sniff_bytes(raw_file(element(0x00080060, "CS", b"MR"), giant))
    assert sniffed.header.modality == "MR"
    assert codes(sniffed) == {"truncated"}


def test_an_oversized_value_is_named_not_read() -> None:
    data = raw_file(element(0x00080060, "CS", b"MR"), element(0x0008103E, "UT", b"knee " * 10_000))
    sniffed = sniff_bytes(data)
    assert (codes(sniffed), details(sniffed)) == ({"oversized-value"}, {"SeriesDescription"})
    assert sniffed.header.description_terms == ()


def test_problems_are_bounded() -> None:
    wrong = b"".join(
        element(rule_tag, "ST", b"?!")
        for rule_tag in sorted(tag for tag, node in table.TREE.items() if isinstance(node, str))
        if rule_tag > 0x00080000
    )
    sniffed = sniff_bytes(raw_file(wrong))
    assert len(sniffed.problems) == 32
    assert sniffed.problems[-1].code == "more-problems"
