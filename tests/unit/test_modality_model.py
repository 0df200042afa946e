"""The released knowledge: what is written is read again, and what a decision says of a file."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.facts import HeaderFacts
from streams.modality.evidence import Evidence
from streams.modality.fusion import Fusion
from streams.modality.labels import FAMILIES, family_of
from streams.modality.learning.examples import (
    Labelled,
    answer,
    with_misleading_names,
    with_misleading_text,
    with_wrong_tags,
)
from streams.modality.learning.metrics import NOTHING
from streams.modality.model import (
    FUSION_FILE,
    GROUPS,
    ModalityModel,
    ModelFileError,
    decide,
    fusion_facts,
    fusion_from,
    signals_of,
)
from streams.modality.opinion import PROVENANCES, claim
from streams.modality.tags import TAG_SIGNALS

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
shares = st.floats(0, 1)
signals = st.sampled_from(sorted(frozenset().union(*GROUPS.values())))
fusions = st.builds(
    Fusion,
    st.dictionaries(
        st.tuples(signals, st.sampled_from(PROVENANCES)),
        st.floats(0, 5).map(lambda value: round(value, 6)),
    ),
    doubt=shares,
    answer_from=shares,
    novelty_limit=shares,
    thin=st.frozensets(st.sampled_from(FAMILIES)),
    pixels_alone=st.floats(0.1, 9),
)
TRUSTING = Fusion(
    {(signal, place): 0.6 for signal in (*TAG_SIGNALS, "path") for place in PROVENANCES},
    doubt=0.01,
    answer_from=0.6,
    novelty_limit=1.0,
)


def scan(modality: str | None = "CT", name: str = "a.dcm", **facts: object) -> Evidence:
    return Evidence("dicom", HeaderFacts(modality=modality, **facts), name)  # type: ignore[arg-type]


@given(fusions)
def test_a_fusion_comes_back_as_it_was(fusion: Fusion) -> None:
    assert fusion_from(orjson.loads(orjson.dumps(fusion_facts(fusion)))) == fusion


def test_a_model_comes_back_as_it_was(tmp_path: Path) -> None:
    model = ModalityModel("test-1", TRUSTING)
    model.save(tmp_path)
    assert ModalityModel.load(tmp_path) == model


@pytest.mark.parametrize(
    "change",
    [
        {"doubt": 2.0},
        {"thin": ["ZZ"]},
        {"pixels_alone": 0},
        {"reliabilities": {"path": {"dicom": -1}}},
        {"reliabilities": {"path": {"dicom": None}}},
    ],
)
def test_a_damaged_model_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    ModalityModel("test-1", TRUSTING).save(tmp_path)
    path = tmp_path / FUSION_FILE
    stored = orjson.loads(path.read_bytes())
    stored["fusion"] |= change
    path.write_bytes(orjson.dumps(stored))
    with pytest.raises(ModelFileError, match="modality train"):
        ModalityModel.load(tmp_path)


def test_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="modality train"):
        ModalityModel.load(tmp_path)


def test_the_released_model_is_whole() -> None:
    model = ModalityModel.load()
    assert model.head is not None
    spoken = {signal for signal, _ in model.fusion.reliabilities}
    assert set(TAG_SIGNALS) | {"pixels", "path"} <= spoken


def test_every_signal_is_in_one_group() -> None:
    members = [signal for group in GROUPS.values() for signal in group]
    assert len(members) == len(set(members))
    assert set(TAG_SIGNALS) == GROUPS["tags"]
    assert signals_of(("path", "text")) == {"path", "text"}
    with pytest.raises(ValueError, match="tags, path, pixels, text"):
        signals_of(("magic",))


@pytest.mark.parametrize("code", ["CR", "DX", "RG"])
def test_the_tag_names_the_code_within_the_family(code: str) -> None:
    decision = decide(scan(code), ModalityModel("test-1", TRUSTING))
    assert (decision.modality, decision.family, decision.abstained) == (code, "DX", False)


def test_tags_that_contradict_each_other_are_a_conflict() -> None:
    evidence = scan("MR", sop_class_uid=CT_IMAGE)
    decision = decide(evidence, ModalityModel("test-1", TRUSTING))
    assert decision.conflict
    assert "MR" in decision.conflict_reason
    assert "CT" in decision.conflict_reason


def test_a_tag_that_all_the_rest_overrules_is_a_conflict_and_a_name_is_none() -> None:
    model = ModalityModel("test-1", TRUSTING)
    overruled = scan("MR", sop_class_uid=CT_IMAGE, kvp=120.0, convolution_kernel="B30f")
    assert decide(overruled, model).family == "CT"
    assert decide(overruled, model).conflict
    named = decide(scan("MR", "ct_scan.dcm", sop_class_uid="1.2.840.10008.5.1.4.1.1.4"), model)
    assert (named.modality, named.conflict) == ("MR", False)


def test_reasons_are_told_whole() -> None:
    evidence = scan("MR", sop_class_uid=CT_IMAGE, kvp=120.0, rescale_intercept=-1024.0)
    reason = decide(evidence, ModalityModel("test-1", TRUSTING)).conflict_reason
    assert 0 < len(reason) <= 256
    assert not reason.endswith(";")


def test_a_decision_fits_its_event() -> None:
    model = ModalityModel("v" * 200, TRUSTING)
    decision = decide(scan("CT", "ct_axial_chest/" * 60, sop_class_uid=CT_IMAGE), model)
    assert decision.modality == "CT"
    assert len(decision.votes) >= 2
    assert all(vote.evidence for vote in decision.votes)
    assert all(math.isclose(vote.weight or 0, 0.6) for vote in decision.votes)


# Lies for the fusion to learn from

files = st.lists(
    st.builds(
        lambda family, tagged, number: Labelled(
            scan(family if tagged else None, f"{family}-{number}.dcm"), family, f"s{number}"
        ),
        st.sampled_from(("CT", "MR", "US", "MG")),
        st.booleans(),
        st.integers(0, 9),
    ),
    min_size=1,
    max_size=30,
)


@given(files, st.integers(0, 9))
def test_every_tag_lies_when_all_are_to(given_files: list[Labelled], seed: int) -> None:
    random = np.random.default_rng(seed)
    changed = with_wrong_tags(given_files, 1.0, random, sop_class_share=0.5)
    for before, after in zip(given_files, changed, strict=True):
        tag = after.evidence.header.modality
        assert (tag is None) == (before.evidence.header.modality is None)
        if tag is not None:
            assert family_of(tag) != before.family
        assert (after.family, after.source) == (before.family, before.source)
    assert with_wrong_tags(given_files, 0.0, random) == given_files


@given(files, st.integers(0, 9))
def test_misleading_names_are_of_other_families(given_files: list[Labelled], seed: int) -> None:
    names = {file.evidence.relpath: file.family for file in given_files}
    renamed = with_misleading_names(given_files, 1.0, np.random.default_rng(seed))
    for before, after in zip(given_files, renamed, strict=True):
        if after is not before:
            assert names[after.evidence.relpath] != before.family


@given(files, st.integers(0, 9))
def test_misleading_text_is_of_other_families(given_files: list[Labelled], seed: int) -> None:
    said = {family: claim("text", {family: 1.0}, family) for family in FAMILIES}
    marked = [
        replace(file, evidence=replace(file.evidence, text=said[file.family]))
        for file in given_files
    ]
    changed = with_misleading_text(marked, 1.0, np.random.default_rng(seed))
    for before, after in zip(marked, changed, strict=True):
        assert after.evidence.text is not None
        assert (after is before) == (after.evidence.text.evidence == before.family)


def test_answers_know_where_no_signal_spoke() -> None:
    given_files = [Labelled(scan("CT"), "CT", "a"), Labelled(scan(None, "7"), "MR", "b")]
    found = answer([file.example() for file in given_files], TRUSTING)
    assert found.best[0] == FAMILIES.index("CT")
    assert found.best[1] == NOTHING or found.abstained[1]
    silent = [given_files[1].example(without=signals_of(("tags", "path")))]
    assert answer(silent, TRUSTING).best[0] == NOTHING
