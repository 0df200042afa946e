"""Plane, view, contrast phase and body part, and how sure they are."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.facts import Attribute, HeaderFacts
from streams.modality.attributes import attributes, plane_of
from streams.modality.body_parts import BODY_PARTS
from streams.modality.opinion import MAX_EVIDENCE_CHARS, PROVENANCES, Provenance
from streams.sniff.vocabulary import TERMS

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)


def tilted(degrees: float) -> tuple[float, ...]:
    turn = math.radians(degrees)
    return (1.0, 0.0, 0.0, 0.0, math.cos(turn), math.sin(turn))


def known(
    relpath: str = "", words: tuple[str, ...] = (), provenance: Provenance = "dicom", **facts: Any
) -> dict[str, Attribute]:
    return {a.name: a for a in attributes(HeaderFacts(**facts), relpath, words, provenance)}


@pytest.mark.parametrize(
    ("orientation", "plane"),
    [
        (AXIAL, "axial"),
        ((-1.0, 0.0, 0.0, 0.0, 1.0, 0.0), "axial"),
        (CORONAL, "coronal"),
        (SAGITTAL, "sagittal"),
        (tilted(20), "axial"),
        (tilted(45), "oblique"),
        (tilted(70), "coronal"),
        ((0.0,) * 6, None),
        ((1.0, 0.0, 0.0, 1.0, 0.0, 0.0), None),
        ((2.0, 0.0, 0.0, 0.0, 2.0, 0.0), None),
        ((float("nan"),) * 6, None),
        ((1.0, 0.0), None),
    ],
)
def test_planes_by_direction_cosines(orientation: tuple[float, ...], plane: str | None) -> None:
    assert plane_of(orientation) == plane


@given(st.lists(st.floats(-1, 1), min_size=3, max_size=3), st.floats(0, 6.3))
def test_a_plane_does_not_depend_on_turns_within_it(normal: list[float], turn: float) -> None:
    axis = np.array(normal)
    if np.linalg.norm(axis) < 0.1:
        axis = np.array([0.0, 0.0, 1.0])
    axis = axis / np.linalg.norm(axis)
    helper = np.eye(3)[int(np.abs(axis).argmin())]
    row = np.cross(axis, helper)
    row /= np.linalg.norm(row)
    column = np.cross(axis, row)
    turned = (
        math.cos(turn) * row + math.sin(turn) * column,
        -math.sin(turn) * row + math.cos(turn) * column,
    )
    largest = float(np.abs(axis).max())
    if abs(largest - 0.8) > 1e-6 and np.sort(np.abs(axis))[-2] < largest - 1e-6:
        assert plane_of(np.concatenate(turned).tolist()) == plane_of([*row, *column])


def test_geometry_outweighs_words_and_disagreement_costs() -> None:
    alone = known(image_orientation=CORONAL)["plane"]
    agreed = known(image_orientation=CORONAL, description_terms=("coronal",))["plane"]
    disputed = known(image_orientation=CORONAL, description_terms=("axial",))["plane"]
    assert {alone.value, agreed.value, disputed.value} == {"coronal"}
    assert alone.confidence and agreed.confidence and disputed.confidence
    assert disputed.confidence < alone.confidence < agreed.confidence
    assert disputed.evidence == "direction cosines says coronal, description says axial"


def test_the_geometry_of_a_capture_is_not_asked() -> None:
    assert known(image_orientation=AXIAL, provenance="dicom-capture") == {}


def test_equal_sources_that_disagree_leave_no_confidence() -> None:
    plane = known("sag_t2.png", description_terms=("axial",), provenance="volume")["plane"]
    assert plane.confidence is None
    assert "description says axial, path says sagittal" in plane.evidence


def test_three_planes_in_a_description_are_none() -> None:
    assert "plane" not in known(description_terms=("axial", "coronal", "sagittal"))
    assert known(description_terms=("axial", "oblique"))["plane"].value == "axial"


@pytest.mark.parametrize(
    ("facts", "view"),
    [
        ({"view_position": "mlo"}, "MLO"),
        ({"view_position": "LATERAL", "modality": "DX"}, "LAT"),
        ({"modality": "CR", "description_terms": ("chest", "posteroanterior")}, "PA"),
        ({"relpath": "P1_R_MLO.jpg"}, "MLO"),
        ({"relpath": "chest_AP.png"}, "AP"),
        ({"words": ("Dr. Who", "R-CC")}, "CC"),
        ({"modality": "MR", "description_terms": ("four-chamber",)}, "four-chamber"),
    ],
)
def test_views(facts: dict[str, Any], view: str) -> None:
    assert known(**facts)["view"].value == view


def test_phase_encoding_is_no_view() -> None:
    facts = {"modality": "MR", "description_terms": ("anteroposterior", "echo-planar")}
    assert "view" not in known("epi_AP.dcm", **facts)
    assert "view" not in known("EPI_PE=PA_4.nii", provenance="volume")


def test_a_lateral_of_either_side_is_lateral() -> None:
    view = known(view_position="LL", modality="DX", description_terms=("lateral",))["view"]
    assert view.value == "LL"
    assert view.confidence == pytest.approx(5 / 6)


@pytest.mark.parametrize(
    ("facts", "phase"),
    [
        ({"description_terms": ("arterial",), "contrast_agent": True}, "arterial"),
        ({"description_terms": ("portal-venous", "contrast")}, "portal-venous"),
        ({"contrast_agent": True}, "enhanced"),
        ({"description_terms": ("without-contrast",)}, "native"),
        ({"modality": "MR", "description_terms": ("late-enhancement",)}, "late-enhancement"),
        ({"relpath": "liver/arterial_phase/1.png"}, "arterial"),
    ],
)
def test_contrast_phases(facts: dict[str, Any], phase: str) -> None:
    assert known(**facts)["contrast_phase"].value == phase


def test_contrast_that_is_disputed_or_meant_otherwise() -> None:
    disputed = known(contrast_agent=True, description_terms=("without-contrast",))
    assert disputed["contrast_phase"].value == "enhanced"
    assert disputed["contrast_phase"].confidence == pytest.approx(4 / 6)
    assert "native" in disputed["contrast_phase"].evidence
    both = known(description_terms=("without-contrast", "with-contrast"))
    assert "contrast_phase" not in both
    # An artery in ultrasound is anatomy; ``pre`` in a path is any word.
    assert "contrast_phase" not in known(modality="US", description_terms=("arterial",))
    assert "contrast_phase" not in known("Pre-Processed/post/1.png")


@pytest.mark.parametrize(
    ("facts", "part"),
    [
        ({"body_part": "CHEST"}, "CHEST"),
        ({"body_part": "THORAX"}, "CHEST"),
        ({"body_part": "BACINO"}, "PELVIS"),
        ({"body_part": "C_SPINE"}, "CSPINE"),
        ({"description_terms": ("abdomen", "liver")}, "LIVER"),
        ({"relpath": "Kopf_CT/3.png"}, "HEAD"),
        ({"body_part": "CHEST", "description_terms": ("chest", "lung")}, "CHEST"),
    ],
)
def test_body_parts(facts: dict[str, Any], part: str) -> None:
    assert known(**facts)["body_part"].value == part


def test_a_part_within_a_region_agrees_with_it() -> None:
    part = known("head/brain_1.dcm", body_part="HEAD")["body_part"]
    assert part.value == "BRAIN"
    assert part.confidence == pytest.approx(5 / 6)
    disputed = known("abdomen/1.dcm", body_part="CHEST")["body_part"]
    assert disputed.value == "CHEST"
    assert disputed.confidence == pytest.approx(4 / 6)


def test_an_unknown_body_part_is_not_repeated() -> None:
    assert known(body_part="MUELLER HANS") == {}


def test_body_parts_are_terms_of_the_vocabulary() -> None:
    assert set(BODY_PARTS) <= TERMS
    regions = {part.code for part in BODY_PARTS.values() if part.code == part.region}
    assert {part.region for part in BODY_PARTS.values()} == regions


@given(
    st.lists(st.sampled_from(sorted(TERMS)), max_size=32),
    st.text(max_size=64),
    st.none() | st.text(max_size=64),
    st.none() | st.text(max_size=64),
    st.none() | st.booleans(),
    st.none() | st.tuples(*[st.floats(allow_nan=False, allow_infinity=False)] * 6),
    st.lists(st.text(max_size=40), max_size=5),
    st.sampled_from(PROVENANCES),
)
def test_any_facts_give_attributes_of_closed_lists(
    terms: list[str],
    relpath: str,
    part: str | None,
    view: str | None,
    contrast: bool | None,
    orientation: tuple[float, float, float, float, float, float] | None,
    words: list[str],
    provenance: Provenance,
) -> None:
    header = HeaderFacts(
        description_terms=tuple(terms),
        body_part=part,
        view_position=view,
        contrast_agent=contrast,
        image_orientation=orientation,
    )
    found = attributes(header, relpath, words, provenance)
    assert len({attribute.name for attribute in found}) == len(found)
    for attribute in found:
        assert attribute.confidence is None or 0 < attribute.confidence < 1
        assert 0 < len(attribute.evidence) <= MAX_EVIDENCE_CHARS
        assert attribute.value.isascii()
