"""What headers say of the modality, field by field, and where they contradict themselves."""

from __future__ import annotations

import csv
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import UID_dictionary

from schemas.facts import HeaderFacts, ImageSignals, PixelFacts
from streams.modality.labels import FAMILIES, family_of
from streams.modality.opinion import MAX_EVIDENCE_CHARS, PROVENANCES, Opinion, Provenance
from streams.modality.provenance import CAPTURE_SOP_CLASSES, provenance_of
from streams.modality.tags import TAG_SIGNALS, contradictions, tag_opinions, value_opinion
from streams.modality.tags.sop_class import SOP_CLASS_SHARES
from streams.modality.terms import TERM_SHARES
from streams.sniff import SniffContext, sniff
from streams.sniff.vocabulary import TERMS

STORAGE = "1.2.840.10008.5.1.4.1.1."
CORPUS = Path(os.environ.get("BIODATAMINE_CORPUS", Path(__file__).parents[3] / "shared" / "corpus"))
MANIFEST = CORPUS / "manifest.csv"


def heard(provenance: Provenance = "dicom", **facts: Any) -> dict[str, Opinion]:
    return {o.signal: o for o in tag_opinions(HeaderFacts(**facts), provenance)}


def share(opinion: Opinion, family: str) -> float:
    return float(opinion.probabilities()[FAMILIES.index(family)])


@pytest.mark.parametrize(
    ("code", "family"),
    [("CT", "CT"), ("CR", "DX"), ("RF", "XA"), ("IVUS", "US"), ("GM", "SM"), ("DMS", "XC")],
)
def test_modality_is_taken_at_its_word(code: str, family: str) -> None:
    opinion = heard(modality=code)["modality-tag"]
    assert (opinion.label, opinion.evidence) == (family, f"Modality (0008,0060) is {code}")


@pytest.mark.parametrize("code", ["OT", "SC", "", "??", None])
def test_a_modality_that_says_nothing_claims_nothing(code: str | None) -> None:
    assert "modality-tag" not in heard(modality=code)


@pytest.mark.parametrize(
    ("number", "family"),
    [
        ("2", "CT"),
        ("4.1", "MR"),
        ("6.1", "US"),
        ("1.1.1", "DX"),
        ("13.1.3", "MG"),
        ("20", "NM"),
        ("130", "PT"),
        ("12.2.1", "XA"),
        ("77.1.5.1", "OP"),
        ("77.1.5.4", "OPT"),
        ("77.1.1.1", "ES"),
        ("77.1.6", "SM"),
        ("77.1.7", "XC"),
        ("9.1.1", "ECG"),
        ("104.1", "OTHER"),
    ],
)
def test_sop_classes_name_their_family(number: str, family: str) -> None:
    assert heard(sop_class_uid=STORAGE + number)["sop-class"].label == family


def test_captures_and_private_classes_claim_nothing() -> None:
    for uid in (*CAPTURE_SOP_CLASSES, "1.3.46.670589.5.0.1.1", f"{STORAGE}66"):
        assert "sop-class" not in heard(sop_class_uid=uid)


def test_every_image_class_of_the_standard_is_known_or_left_out_on_purpose() -> None:
    nobodys = ("Secondary Capture", "Hardcopy", "DICOS", "Eddy Current", "Stored Print", "Digital")
    for uid, entry in UID_dictionary.items():
        name = entry[0]
        if entry[1] != "SOP Class" or "Image" not in name or "Storage" not in name:
            continue
        if uid not in SOP_CLASS_SHARES:
            assert name.startswith(nobodys) or "Secondary Capture" in name, name


@pytest.mark.parametrize(
    ("facts", "family"),
    [
        ({"repetition_time_ms": 500.0, "echo_time_ms": 12.0}, "MR"),
        ({"magnetic_field_strength_tesla": 15_000.0}, "MR"),
        ({"kvp": 28.0, "exposure_mas": 60.0}, "MG"),
        ({"kvp": 120.0, "convolution_kernel": "B30f"}, "CT"),
        ({"rescale_slope": 1.0, "rescale_intercept": -1024.0}, "CT"),
        ({"rescale_type": "HU"}, "CT"),
        ({"rescale_type": "BQML", "rescale_slope": 9.1, "rescale_intercept": 0.0}, "PT"),
        ({"convolution_kernel": "XYZ Gauss5.00"}, "PT"),
        ({"image_type": ("ORIGINAL", "PRIMARY", "SINGLE PLANE")}, "XA"),
        ({"image_type": ("DERIVED", "PRIMARY", "VOLUME", "RESAMPLED")}, "SM"),
        ({"image_type": ("ORIGINAL", "PRIMARY", "WHOLE BODY", "EMISSION")}, "NM"),
        ({"image_type": ("ORIGINAL", "PRIMARY", "OBSTETRICAL")}, "US"),
    ],
)
def test_parameters_name_the_machine(facts: dict[str, Any], family: str) -> None:
    assert heard(**facts)["acquisition"].label == family


def test_parameters_of_two_machines_are_shared_among_them() -> None:
    alone = heard(kvp=75.0)["acquisition"]
    assert share(alone, "CT") > 0.1
    assert share(alone, "DX") > 0.1
    assert share(alone, "MR") < 0.05


def test_no_parameter_no_opinion() -> None:
    assert heard() == {}
    assert heard(kvp=0.0, echo_time_ms=0.0, inversion_time_ms=0.0) == {}


def test_a_matrix_of_colour_is_no_cross_section() -> None:
    colour = heard(samples_per_pixel=3, photometric_interpretation="YBR_FULL_422")["matrix"]
    assert max(share(colour, family) for family in ("CT", "MR", "PT", "DX", "MG")) < 0.01
    grey = heard(
        samples_per_pixel=1, photometric_interpretation="MONOCHROME2", bits_stored=12, rows=512
    )["matrix"]
    assert max(share(grey, family) for family in ("ES", "OP", "XC", "SM")) < 0.01


@pytest.mark.parametrize(
    ("facts", "family"),
    [
        ({"view_position": "MLO"}, "MG"),
        ({"view_position": "PA"}, "DX"),
        ({"description_terms": ("t2", "axial")}, "MR"),
        ({"description_terms": ("fdg", "whole-body")}, "PT"),
        ({"description_terms": ("ct", "thin-slice")}, "CT"),
        ({"description_terms": ("craniocaudal", "breast")}, "MG"),
    ],
)
def test_words_lean(facts: dict[str, Any], family: str) -> None:
    assert heard(**facts)["description"].label == family


def test_words_of_anatomy_say_nothing_of_the_machine() -> None:
    assert heard(description_terms=("liver", "abdomen", "left")) == {}


def test_hybrid_studies_are_shared() -> None:
    opinion = heard(description_terms=("pet", "ct"))["description"]
    assert share(opinion, "PT") == pytest.approx(share(opinion, "CT"))


def test_terms_are_those_of_the_vocabulary() -> None:
    assert set(TERM_SHARES) <= TERMS


@pytest.mark.parametrize(
    ("maker", "model", "family"),
    [
        ("HOLOGIC, Inc.", "Selenia Dimensions", "MG"),
        ("GE Healthcare", "Lunar iDXA", "DX"),
        ("Carl Zeiss Meditec", "CIRRUS HD-OCT 5000", "OPT"),
        ("SIEMENS", "TrioTim", "MR"),
        ("SIEMENS", "SOMATOM Force", "CT"),
        ("Philips Medical Systems", "EPIQ 7C", "US"),
        ("OLYMPUS", None, "ES"),
    ],
)
def test_makers_of_one_kind(maker: str, model: str | None, family: str) -> None:
    opinion = heard(manufacturer=maker, manufacturer_model=model)["manufacturer"]
    assert opinion.label == family


@pytest.mark.parametrize("maker", ["SIEMENS", "GE MEDICAL SYSTEMS", "Philips", "Acme", None])
def test_makers_of_everything_claim_nothing(maker: str | None) -> None:
    assert "manufacturer" not in heard(manufacturer=maker, manufacturer_model="Unheard Of")


def test_hybrid_machines_are_shared() -> None:
    opinion = heard(manufacturer="SIEMENS", manufacturer_model="Biograph64")["manufacturer"]
    assert share(opinion, "PT") == pytest.approx(share(opinion, "CT"))
    mmr = heard(manufacturer="SIEMENS", manufacturer_model="Biograph_mMR")["manufacturer"]
    assert mmr.label == "MR"


def test_a_wrong_tag_is_contradicted_by_what_the_machine_wrote() -> None:
    opinions = tag_opinions(
        HeaderFacts(
            modality="MR",
            sop_class_uid=f"{STORAGE}2",
            kvp=120.0,
            convolution_kernel="B30f",
            rescale_slope=1.0,
            rescale_intercept=-1024.0,
        ),
        "dicom",
    )
    said = contradictions(opinions)
    assert "Modality (0008,0060) is MR, but SOP Class is CT Image Storage" in said
    assert any("the header holds 120 kVp" in sentence for sentence in said)
    assert all("SOP Class is CT Image Storage, but" not in sentence for sentence in said)


def test_agreement_kin_and_leanings_are_no_contradiction() -> None:
    agreeing = HeaderFacts(modality="CT", sop_class_uid=f"{STORAGE}2", kvp=120.0)
    kin = HeaderFacts(modality="DX", sop_class_uid=f"{STORAGE}1.2")
    preview = HeaderFacts(
        modality="DX",
        sop_class_uid=f"{STORAGE}1.1",
        rows=169,
        columns=211,
        bits_stored=8,
        photometric_interpretation="MONOCHROME1",
        pixel_spacing_mm=(1.2, 1.2),
    )
    for header in (agreeing, kin, preview):
        assert contradictions(tag_opinions(header, "dicom")) == ()


def test_the_header_of_a_picture_is_that_of_its_export() -> None:
    facts = {"rows": 512, "columns": 512, "samples_per_pixel": 1, "bits_allocated": 8}
    assert heard("picture", **facts) == {}
    assert set(heard("volume", description_terms=("flair",), **facts)) == {"description"}


@pytest.mark.parametrize(
    ("facts", "family"),
    [
        ({"shape": (64, 64, 30, 200), "voxel_size_mm": (3.5, 3.5, 4.0)}, "MR"),
        ({"shape": (512, 512, 90), "voxel_size_mm": (0.8, 0.8, 2.5)}, "CT"),
        ({"shape": (182, 218, 182), "voxel_size_mm": (1.0, 1.0, 1.0)}, "MR"),
        ({"description_terms": ("phase",)}, "MR"),
    ],
)
def test_grids_of_volumes_lean(facts: dict[str, Any], family: str) -> None:
    opinions = heard("volume", **facts)
    assert len(opinions) == 1
    assert opinions.popitem()[1].label == family
    assert "description" not in heard("dicom", description_terms=("phase",))


def signals(lowest: float, highest: float) -> ImageSignals:
    middle = (lowest + highest) / 2
    return ImageSignals(
        mean=middle,
        std=1.0,
        minimum=lowest,
        maximum=highest,
        p01=lowest,
        p05=lowest,
        p50=middle,
        p95=highest,
        p99=highest,
        entropy_bits=5.0,
        foreground_fraction=0.5,
        color_fraction=0.0,
        sharpness=1.0,
        noise_sigma=1.0,
        aspect_ratio=1.0,
        is_color=False,
        is_blank=False,
    )


def pixels(bit_depth: int = 16, samples: int = 1) -> PixelFacts:
    return PixelFacts(
        rows=64,
        columns=64,
        frames=20,
        samples_per_pixel=samples,
        bit_depth=bit_depth,
        slice_strategy="middle",
        slice_index=10,
    )


@pytest.mark.parametrize(
    ("lowest", "highest", "family"),
    [
        (-1024, 3071, "CT"),
        (-1000, 1500, "CT"),
        (-3024, 1500, "CT"),
        (0, 900, "MR"),
        (-4096, 4094, "MR"),
    ],
)
def test_values_of_volumes(lowest: float, highest: float, family: str) -> None:
    opinion = value_opinion(signals(lowest, highest), pixels(), "volume")
    assert opinion is not None
    assert (opinion.signal, opinion.label) == ("values", family)


def test_display_levels_have_no_values() -> None:
    assert value_opinion(signals(-1024, 3071), pixels(), "picture") is None
    assert value_opinion(signals(0, 255), pixels(8, samples=3), "dicom") is None
    assert value_opinion(signals(7, 7), pixels(), "volume") is None


number = st.none() | st.floats(allow_nan=False, allow_infinity=False, width=32)
code = st.none() | st.text(max_size=64)
whole = st.none() | st.integers(0, 2**31)


NUMBERS = (
    "kvp",
    "exposure_mas",
    "repetition_time_ms",
    "echo_time_ms",
    "inversion_time_ms",
    "flip_angle_degrees",
    "magnetic_field_strength_tesla",
    "rescale_slope",
    "rescale_intercept",
    "slice_thickness_mm",
)
CODES = {
    "modality": ("CT", "MR", "OT", "RTIMAGE"),
    "sop_class_uid": tuple(sorted(SOP_CLASS_SHARES)),
    "rescale_type": ("HU", "BQML", "CNTS", "OD"),
    "photometric_interpretation": ("MONOCHROME1", "RGB", "PALETTE COLOR"),
    "convolution_kernel": ("B30f", "XYZ Gauss5.00"),
    "patient_position": ("HFS", "FFP"),
    "view_position": ("PA", "MLO"),
    "manufacturer": ("SIEMENS", "HOLOGIC, Inc."),
    "manufacturer_model": ("Biograph64", "Selenia"),
    "body_part": ("CHEST",),
    "conversion_type": ("WSD", "DI"),
}
WHOLES = ("rows", "columns", "frames", "samples_per_pixel", "bits_allocated", "bits_stored")


@st.composite
def headers(draw: st.DrawFn) -> HeaderFacts:
    facts: dict[str, Any] = {name: draw(number) for name in NUMBERS}
    facts |= {name: draw(st.sampled_from(known) | code) for name, known in CODES.items()}
    facts |= {name: draw(whole) for name in WHOLES}
    spacing = st.floats(0, 1e6, allow_nan=False)
    return HeaderFacts(
        **facts,
        image_type=tuple(draw(st.lists(st.text(max_size=64), max_size=8))),
        scanning_sequence=tuple(draw(st.lists(st.sampled_from(["SE", "GR", "??"]), max_size=3))),
        description_terms=tuple(draw(st.lists(st.sampled_from(sorted(TERMS)), max_size=32))),
        pixel_spacing_mm=draw(st.none() | st.tuples(spacing, spacing)),
        shape=tuple(draw(st.lists(st.integers(0, 2**31), max_size=7))),
        voxel_size_mm=tuple(draw(st.lists(spacing, max_size=3))),
    )


@given(headers(), st.sampled_from(PROVENANCES))
def test_any_header_is_heard(header: HeaderFacts, provenance: Provenance) -> None:
    opinions = tag_opinions(header, provenance)
    order = [TAG_SIGNALS.index(opinion.signal) for opinion in opinions]
    assert order == sorted(set(order))
    for opinion in opinions:
        assert opinion.log_likelihoods.shape == (len(FAMILIES),)
        assert np.isfinite(opinion.log_likelihoods).all()
        assert 0 < len(opinion.evidence) <= MAX_EVIDENCE_CHARS
    for sentence in contradictions(opinions):
        assert ", but " in sentence
    assert provenance_of("dicom", header) in ("dicom", "dicom-capture")


floats = st.floats(allow_nan=False, allow_infinity=False, width=32)


@given(floats, floats, st.integers(1, 64), st.sampled_from(PROVENANCES))
def test_any_values_are_weighed(
    one: float, other: float, bit_depth: int, provenance: Provenance
) -> None:
    low, high = sorted((one, other))
    opinion = value_opinion(signals(low, high), pixels(bit_depth), provenance)
    assert opinion is None or np.isfinite(opinion.log_likelihoods).all()


@pytest.mark.skipif(not MANIFEST.is_file(), reason="needs the image corpus (BIODATAMINE_CORPUS)")
def test_signals_on_real_headers() -> None:
    context = SniffContext(b"0123456789abcdef")
    right: Counter[str] = Counter()
    spoken: Counter[str] = Counter()
    files = 0
    with MANIFEST.open(newline="", encoding="utf-8") as file:
        rows = [r for r in csv.DictReader(file) if r["content"] == "real"]
    for row in rows:
        if row["format"] != "dicom":
            continue
        path = CORPUS / row["path"]
        with path.open("rb") as source:
            header = sniff(
                source, size_bytes=path.stat().st_size, name=path.name, context=context
            ).header
        if provenance_of("dicom", header) != "dicom":
            continue
        files += 1
        for opinion in tag_opinions(header, "dicom"):
            spoken[opinion.signal] += 1
            right[opinion.signal] += opinion.label == family_of(row["modality"])
    assert files > 150
    for signal, least in (
        ("modality-tag", 0.97),
        ("sop-class", 0.97),
        ("acquisition", 0.95),
        ("manufacturer", 0.95),
        ("description", 0.9),
    ):
        assert spoken[signal] > 0.6 * files, signal
        assert right[signal] > least * spoken[signal], signal
