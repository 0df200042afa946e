"""DICOM decoding against pydicom's own processing, and against values worked out by hand."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import apply_color_lut, apply_modality_lut, pixel_array
from pydicom.sequence import Sequence
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from streams.pixels import DecodedImage, DecodeError, Limits, NoPixels, decode
from streams.pixels.encapsulated import codestream_size, repair_scan_header
from streams.pixels.palette import expand_segments


def dataset(array: np.ndarray, syntax: str = ExplicitVRLittleEndian, **elements: object) -> Dataset:
    """A minimal image of one sample, or of three when the last axis is three."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.file_meta.MediaStorageSOPClassUID = CTImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    ds.SOPClassUID = CTImageStorage
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID
    ds.Modality = "CT"
    colour = array.ndim > 2 and array.shape[-1] == 3
    frames = array.shape[0] if array.ndim == (4 if colour else 3) else 1
    ds.Rows, ds.Columns = (array.shape[-3:-1]) if colour else array.shape[-2:]
    ds.SamplesPerPixel = 3 if colour else 1
    if colour:
        ds.PlanarConfiguration = 0
    ds.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if frames > 1:
        ds.NumberOfFrames = frames
    ds.BitsAllocated = 8 * array.dtype.itemsize
    ds.BitsStored = ds.BitsAllocated
    ds.HighBit = ds.BitsStored - 1
    ds.PixelRepresentation = int(array.dtype.kind == "i")
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    raw = array.astype(array.dtype.newbyteorder(order)).tobytes()
    ds.PixelData = raw + b"\0" * (len(raw) % 2)
    ds["PixelData"].VR = "OW" if array.dtype.itemsize > 1 else "OB"
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    return ds


def written(ds: Dataset) -> bytes:
    buffer = io.BytesIO()
    syntax = ds.file_meta.TransferSyntaxUID
    ds.save_as(
        buffer,
        enforce_file_format=True,
        implicit_vr=None if syntax.is_encapsulated else syntax.is_implicit_VR,
        little_endian=None if syntax.is_encapsulated else syntax.is_little_endian,
    )
    return buffer.getvalue()


def image(ds: Dataset | bytes, **options: object) -> DecodedImage:
    result = decode(ds if isinstance(ds, bytes) else written(ds), "dicom", **options)
    assert isinstance(result, DecodedImage)
    return result


def codes(result: DecodedImage) -> list[str]:
    return [warning.code for warning in result.warnings]


RAMP = np.arange(-1024, 3072, dtype=np.int16).reshape(64, 64)


@pytest.mark.parametrize(
    "syntax",
    [
        ImplicitVRLittleEndian,
        ExplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
        RLELossless,
        JPEGLSLossless,
        JPEG2000Lossless,
    ],
)
def test_a_transfer_syntax_does_not_change_the_pixels(syntax: str) -> None:
    if syntax in (RLELossless, JPEGLSLossless, JPEG2000Lossless):
        ds = dataset(RAMP, BitsStored=16)
        ds.compress(syntax)
    else:
        ds = dataset(RAMP, syntax)
    ds.RescaleSlope, ds.RescaleIntercept = 2, -10
    result = image(ds)
    np.testing.assert_array_equal(result.values, RAMP.astype(np.float32) * 2 - 10)
    assert (result.unit, result.rows, result.columns, result.bits_stored) == ("HU", 64, 64, 16)


def test_a_linear_window_follows_the_standards_own_formula() -> None:
    # PS3.3 C.11.2.1.2.1: c=40, w=80 clips at or below 0 and above 79.
    ds = dataset(RAMP, WindowCenter=40, WindowWidth=80)
    result = image(ds)
    x = RAMP.astype(float)
    expected = np.clip((x - 39.5) / 79 + 0.5, 0, 1) * 255
    assert np.abs(result.display - expected).max() <= 0.5 + 1e-9
    assert result.display[RAMP <= 0].max() == 0
    assert result.display[RAMP > 79].min() == 255
    assert result.windowing == "window"


@pytest.mark.parametrize("function", ["LINEAR_EXACT", "SIGMOID"])
def test_other_window_functions(function: str) -> None:
    result = image(dataset(RAMP, WindowCenter=100, WindowWidth=400, VOILUTFunction=function))
    x = RAMP.astype(float)
    if function == "SIGMOID":
        expected = 255 / (1 + np.exp(-4 * (x - 100) / 400))
    else:
        expected = np.clip((x - 100) / 400 + 0.5, 0, 1) * 255
    assert np.abs(result.display - expected).max() <= 0.5 + 1e-9


def test_the_first_of_several_windows_is_used() -> None:
    several = image(dataset(RAMP, WindowCenter=[40, 600], WindowWidth=[80, 2000]))
    one = image(dataset(RAMP, WindowCenter=40, WindowWidth=80))
    np.testing.assert_array_equal(several.display, one.display)


def test_monochrome1_shows_the_lowest_value_white() -> None:
    plain = image(dataset(RAMP, WindowCenter=500, WindowWidth=1000))
    inverted = image(
        dataset(RAMP, WindowCenter=500, WindowWidth=1000, PhotometricInterpretation="MONOCHROME1")
    )
    difference = inverted.display.astype(int) - (255 - plain.display.astype(int))
    assert np.abs(difference).max() <= 1
    np.testing.assert_array_equal(inverted.values, plain.values)


def test_without_a_window_percentiles_leave_padding_out() -> None:
    array = np.full((64, 64), -2000, np.int16)
    array[16:48, 16:48] = np.arange(1024, dtype=np.int16).reshape(32, 32)
    with_padding = image(dataset(array, PixelPaddingValue=-2000))
    assert with_padding.windowing == "percentile"
    inner = with_padding.display[16:48, 16:48]
    assert inner.min() == 0
    assert inner.max() == 255
    assert with_padding.display[0, 0] == 0
    without = image(dataset(array))
    assert without.display[16:48, 16:48].min() > 100  # the padding took the contrast


def test_a_window_that_shows_nothing_gives_way_to_percentiles() -> None:
    result = image(dataset(RAMP, WindowCenter=30_000, WindowWidth=10))
    assert codes(result) == ["window-flat"]
    assert result.windowing == "percentile"
    assert result.display.min() == 0
    assert result.display.max() == 255


def test_a_window_without_width_gives_way_to_percentiles() -> None:
    result = image(dataset(RAMP, WindowCenter=40, WindowWidth=0))
    assert codes(result) == ["window-invalid"]


def lut_item(first: int, entries: np.ndarray, bits: int) -> Dataset:
    item = Dataset()
    item.add_new(0x00283002, "US", [len(entries), first, bits])
    item.add_new(0x00283006, "OW", entries.astype("<u2").tobytes())
    return item


def test_modality_and_voi_luts() -> None:
    array = np.arange(256, dtype=np.uint8).reshape(16, 16)
    modality = lut_item(0, np.arange(256) * 4, 16)
    modality.ModalityLUTType = "OD"
    voi = lut_item(0, np.linspace(0, 4095, 1021).round()[::-1], 12)
    result = image(
        dataset(array, ModalityLUTSequence=Sequence([modality]), VOILUTSequence=Sequence([voi]))
    )
    np.testing.assert_array_equal(result.values, array.astype(np.float32) * 4)
    assert (result.unit, result.windowing) == ("OD", "voi-lut")
    assert result.display[0, 0] == 255
    assert result.display[-1, -1] == 0


def test_bits_beside_the_stored_ones_are_dropped_and_the_sign_extended() -> None:
    values = np.arange(-2048, 2048, dtype=np.int16).reshape(64, 64)
    dirty = (values & 0x0FFF) | np.int16(0x5000)  # an overlay in the unused bits
    result = image(dataset(dirty, BitsStored=12, HighBit=11))
    np.testing.assert_array_equal(result.values, values.astype(np.float32))


def test_only_the_chosen_frame_is_decoded() -> None:
    frames = np.stack([np.full((8, 8), n, np.uint16) for n in range(7)])
    middle = image(dataset(frames))
    assert (middle.slice_index, middle.slice_strategy, middle.frames) == (3, "middle", 7)
    assert middle.values is not None
    assert set(middle.values.ravel()) == {3.0}
    first = image(dataset(frames), strategy="first")
    assert first.values is not None
    assert set(first.values.ravel()) == {0.0}


def test_a_frame_count_that_lies_is_corrected_from_the_bytes() -> None:
    frames = np.stack([np.full((8, 8), n, np.uint16) for n in range(4)])
    result = image(dataset(frames, NumberOfFrames=2_000_000_000))
    assert "frame-count" in codes(result)
    assert (result.frames, result.slice_index) == (4, 2)


def test_functional_groups_hold_the_window_and_scale_of_their_frame() -> None:
    frames = np.stack([RAMP] * 3)
    per_frame = []
    for number in range(3):
        group, voi, scale = Dataset(), Dataset(), Dataset()
        voi.WindowCenter, voi.WindowWidth = 100 * number, 200
        scale.RescaleSlope, scale.RescaleIntercept, scale.RescaleType = 1, number, "HU"
        group.FrameVOILUTSequence = Sequence([voi])
        group.PixelValueTransformationSequence = Sequence([scale])
        per_frame.append(group)
    shared, measures = Dataset(), Dataset()
    measures.PixelSpacing = [0.5, 0.25]
    shared.PixelMeasuresSequence = Sequence([measures])
    ds = dataset(
        frames,
        SOPClassUID=EnhancedCTImageStorage,
        PerFrameFunctionalGroupsSequence=Sequence(per_frame),
        SharedFunctionalGroupsSequence=Sequence([shared]),
    )
    result = image(ds)
    assert result.slice_index == 1
    assert result.pixel_spacing_mm == (0.5, 0.25)
    np.testing.assert_array_equal(result.values, RAMP.astype(np.float32) + 1)
    expected = image(
        dataset(RAMP, RescaleSlope=1, RescaleIntercept=1, WindowCenter=100, WindowWidth=200)
    )
    np.testing.assert_array_equal(result.display, expected.display)


@pytest.mark.parametrize("planar", [0, 1])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_colour_in_both_planar_configurations(planar: int, syntax: str) -> None:
    rgb = np.random.default_rng(1).integers(0, 255, (5, 7, 3), np.uint8)
    stored = rgb.transpose(2, 0, 1) if planar else rgb
    raw = stored.tobytes() + b"\0"
    ds = dataset(rgb, syntax, PlanarConfiguration=planar, PixelData=raw)
    ds["PixelData"].VR = "OB"
    result = image(ds)
    np.testing.assert_array_equal(result.display, rgb)
    assert result.values is None
    assert result.windowing == "colour"


def test_sixteen_bit_colour_is_scaled_by_its_stored_bits() -> None:
    rgb = np.array([[[0, 2048, 4095]]], np.uint16)
    result = image(dataset(rgb, BitsStored=12, HighBit=11))
    assert result.display.tolist() == [[[0, 128, 255]]]


def test_packed_bits_that_do_not_end_on_a_byte() -> None:
    bits = np.random.default_rng(2).integers(0, 2, (3, 5, 5), np.uint8)
    packed = np.packbits(bits.ravel(), bitorder="little").tobytes()
    ds = dataset(bits, BitsAllocated=1, BitsStored=1, HighBit=0, PixelData=packed)
    result = image(ds)
    np.testing.assert_array_equal(result.display, bits[1] * 255)


def test_float_pixel_data() -> None:
    ds = dataset(np.zeros((4, 4), np.uint16), BitsAllocated=32)
    del ds.PixelData, ds.BitsStored, ds.HighBit, ds.PixelRepresentation
    array = np.linspace(-1, 1, 16, dtype=np.float32).reshape(4, 4)
    array[0, 0] = np.nan
    ds.FloatPixelData = array.tobytes()
    result = image(ds)
    np.testing.assert_array_equal(result.values, array)
    assert codes(result) == ["not-finite"]
    assert result.display[0, 0] == 0
    assert result.display[3, 3] == 255


def test_the_dose_of_a_dose_grid() -> None:
    array = np.arange(16, dtype=np.uint32).reshape(4, 4)
    result = image(dataset(array, Modality="RTDOSE", DoseGridScaling="0.5", DoseUnits="GY"))
    np.testing.assert_array_equal(result.values, array * np.float32(0.5))
    assert result.unit == "Gy"


def test_a_free_text_unit_does_not_get_out() -> None:
    ds = dataset(RAMP, RescaleSlope=1, RescaleIntercept=0, RescaleType="DOE^JANE")
    assert image(ds).unit == "raw"


def test_a_frame_cut_short_is_shown_with_a_warning_and_a_stump_is_refused() -> None:
    whole = written(dataset(RAMP))
    result = image(whole[:-1000])
    assert codes(result) == ["truncated-pixels"]
    assert result.values is not None
    np.testing.assert_array_equal(result.values.ravel()[:3500], RAMP.ravel()[:3500])
    with pytest.raises(DecodeError) as caught:
        decode(whole[:-7000], "dicom")
    assert caught.value.reason_code == "truncated"


def test_a_huge_header_over_few_bytes_is_refused_before_allocation() -> None:
    ds = dataset(RAMP, Rows=65_535, Columns=65_535)
    with pytest.raises(DecodeError) as caught:
        image(ds)
    assert caught.value.reason_code == "too-many-pixels"
    ds = dataset(RAMP, Rows=10_000, Columns=10_000)
    with pytest.raises(DecodeError) as caught:
        image(ds)
    assert caught.value.reason_code == "truncated"


def test_a_deflate_bomb_is_stopped_while_it_inflates() -> None:
    raw = written(dataset(RAMP, DeflatedExplicitVRLittleEndian))
    at = raw.index(b"DICM") + 4
    length = struct.unpack_from("<L", raw, at + 8)[0]
    bomb = zlib.compressobj(9, zlib.DEFLATED, -15)
    payload = bomb.compress(bytes(50_000_000)) + bomb.flush()
    with pytest.raises(DecodeError) as caught:
        decode(
            raw[: at + 12 + length] + payload,
            "dicom",
            limits=Limits(max_decompressed_bytes=1 << 20),
        )
    assert caught.value.reason_code == "decompression-bomb"


def test_too_many_elements_and_fragments_are_refused() -> None:
    ds = dataset(np.zeros((4, 8, 8), np.uint16))
    ds.compress(RLELossless)
    with pytest.raises(DecodeError) as caught:
        image(ds, limits=Limits(max_fragments=2))
    assert caught.value.reason_code == "too-many-elements"
    with pytest.raises(DecodeError) as caught:
        image(dataset(RAMP), limits=Limits(max_header_reads=20))
    assert caught.value.reason_code == "too-many-elements"


@pytest.mark.parametrize("frames_before", range(8))
def test_sequences_nested_without_end_are_refused(frames_before: int) -> None:
    opening = struct.pack("<HH2sHL", 0x0040, 0xA730, b"SQ", 0, 0xFFFFFFFF)
    opening += struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
    raw = written(dataset(RAMP))
    at = raw.index(struct.pack("<HH", 0x0008, 0x0060))

    def decode_below(frames: int) -> None:
        # pydicom changes the exception where the stack ends in some of its functions.
        if frames:
            decode_below(frames - 1)
        else:
            decode(raw[:at] + opening * 5000, "dicom")

    with pytest.raises(DecodeError) as caught:
        decode_below(frames_before)
    assert caught.value.reason_code == "too-deep"


def test_a_file_that_ends_in_its_header_is_truncated_not_empty() -> None:
    raw = written(dataset(RAMP, PatientComments="x" * 200))
    with pytest.raises(DecodeError) as caught:
        decode(raw[: raw.index(b"xxxx") + 50], "dicom")
    assert caught.value.reason_code == "truncated"


@pytest.mark.parametrize(
    ("sop_class", "reason"),
    [
        ("1.2.840.10008.5.1.4.1.1.88.33", "structured-report"),
        ("1.2.840.10008.5.1.4.1.1.104.1", "encapsulated-document"),
        ("1.2.840.10008.5.1.4.1.1.481.3", "rt-structure-set"),
        ("1.2.840.10008.5.1.4.1.1.481.5", "rt-plan"),
        ("1.2.840.10008.5.1.4.1.1.9.1.1", "waveform"),
        ("1.2.840.10008.5.1.4.1.1.11.1", "presentation-state"),
        ("1.2.840.10008.5.1.4.1.1.66.1", "registration"),
        ("1.2.840.10008.5.1.4.1.1.2", "no-pixel-element"),
    ],
)
def test_a_file_without_pixels_is_an_outcome(sop_class: str, reason: str) -> None:
    ds = dataset(RAMP, SOPClassUID=sop_class)
    ds.file_meta.MediaStorageSOPClassUID = sop_class
    del ds.PixelData
    assert decode(written(ds), "dicom") == NoPixels(reason)


def test_a_headerless_data_set() -> None:
    raw = written(dataset(RAMP, ImplicitVRLittleEndian))
    meta_length = struct.unpack_from("<L", raw, 140)[0]
    result = image(raw[144 + meta_length :])
    assert codes(result) == ["transfer-syntax-missing"]
    np.testing.assert_array_equal(result.values, RAMP.astype(np.float32))


def test_a_video_is_refused_by_name() -> None:
    ds = dataset(RAMP)
    ds.compress(RLELossless)
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.102"
    with pytest.raises(DecodeError) as caught:
        image(ds)
    assert caught.value.reason_code == "unsupported-transfer-syntax"


def test_no_header_text_in_an_error() -> None:
    ds = dataset(RAMP, PatientName="DOE^JANE", BitsAllocated=24)
    with pytest.raises(DecodeError) as caught:
        image(ds)
    assert "DOE" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "name",
    [
        "CT_small.dcm",
        "MR_small_RLE.dcm",
        "MR_small_bigendian.dcm",
        "MR_small_jp2klossless.dcm",
        "MR_small_jpeg_ls_lossless.dcm",
        "JPEG2000.dcm",
        "image_dfl.dcm",
        "ExplVR_BigEnd.dcm",
        "SC_rgb_rle_16bit.dcm",
        "SC_rgb_jpeg_gdcm.dcm",
        "SC_rgb_small_odd.dcm",
        "SC_ybr_full_422_uncompressed.dcm",
        "SC_rgb_dcmtk_+eb+cy+np.dcm",
        "SC_jpeg_no_color_transform.dcm",
        "examples_palette.dcm",
        "examples_ybr_color.dcm",
        "rtdose.dcm",
        "liver_1frame.dcm",
        "JPGExtended.dcm",
    ],
)
def test_real_files_agree_with_pydicom(name: str) -> None:
    path = get_testdata_file(name, download=False)
    if path is None:
        pytest.skip(f"{name} is not installed")
    result = decode(path, "dicom")
    assert isinstance(result, DecodedImage)
    ds = dcmread(path)
    stored = pixel_array(ds, index=result.slice_index)
    if ds.PhotometricInterpretation == "PALETTE COLOR":
        expected = apply_color_lut(stored, ds)
        np.testing.assert_array_equal(result.display, expected >> (8 * (expected.itemsize - 1)))
    elif stored.ndim == 3:
        expected = stored if stored.itemsize == 1 else stored >> (ds.BitsStored - 8)
        assert np.abs(result.display.astype(int) - expected).max() <= 2  # rounding of YBR
    else:
        expected = apply_modality_lut(stored, ds) * float(ds.get("DoseGridScaling") or 1)
        np.testing.assert_allclose(result.values, expected, rtol=1e-6)


def test_a_scan_header_that_strict_decoders_refuse_is_corrected() -> None:
    path = get_testdata_file("JPEG-lossy.dcm", download=False)
    if path is None:
        pytest.skip("JPEG-lossy.dcm is not installed")
    result = decode(path, "dicom")
    assert isinstance(result, DecodedImage)
    assert result.display.std() > 10


def test_nothing_to_correct_in_a_sound_scan_header() -> None:
    assert repair_scan_header(b"") is None
    assert repair_scan_header(b"\xff\xd8\xff\xc0\x00") is None
    assert codestream_size(b"\xff\xd8\xff\xc0\x00\x0b\x08\x00\x10\x00\x20\x01") == (16, 32, 1, 8)


def test_segmented_palettes_expand_and_stop_at_their_count() -> None:
    words = np.array([0, 2, 5, 9, 1, 3, 12], np.uint16)  # two discrete, then linear to 12
    assert expand_segments(words, 100).tolist() == [5, 9, 10, 11, 12]
    bomb = np.tile(np.array([1, 65_535, 7], np.uint16), 10_000)
    assert len(expand_segments(bomb, 65_536)) == 65_536


def test_large_frames_are_thinned() -> None:
    result = image(dataset(np.zeros((100, 50), np.uint8)), limits=Limits(max_kept_pixels=1250))
    assert codes(result) == ["thinned"]
    assert result.display.shape == (50, 25)
    assert (result.rows, result.columns) == (100, 50)


@pytest.mark.parametrize("index", [0, 1])
def test_bytes_stored_as_big_endian_words_are_swapped_back(index: int) -> None:
    # PS3.5 8.2: OW pairs the bytes, also across the border of two frames of odd length.
    frames = np.random.default_rng(4).integers(0, 255, (2, 3, 5), np.uint8)
    swapped = np.frombuffer(frames.tobytes(), "<u2").byteswap().tobytes()
    ds = dataset(frames, ExplicitVRBigEndian, PixelData=swapped)
    ds["PixelData"].VR = "OW"
    result = image(ds, strategy="middle" if index else "first")
    np.testing.assert_array_equal(result.values, frames[index])
