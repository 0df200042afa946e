"""A series is one unit, whatever its slices and their order; references are what they say."""

from __future__ import annotations

import itertools
import json
from datetime import datetime, timedelta, timezone

import numpy as np
import pytest

from schemas.base import BlobRef
from schemas.events import FileAnalyzed
from schemas.facts import (
    DicomUids,
    Embedding,
    HeaderFacts,
    ImageSignals,
    ModalityDecision,
    Prediction,
)
from streams.profile.drift import Profile, Reference, Scope, features_for, freeze, unit_of
from streams.profile.drift.features import calibration_cell, expected_calibration_error
from streams.profile.drift.reference import ReferenceInvalidError

NOW = datetime(2026, 3, 1, tzinfo=timezone.utc)


def _file(index, *, model="A", age=60.0, mean=100.0, vector=None, series="1.2"):
    digest = f"{index:064x}"
    signals = {n: 1.0 for n in ImageSignals.model_fields if n not in ("histogram",)}
    signals.update(mean=mean, is_color=False, is_blank=False, histogram=(0.25,) * 4)
    embedding = None
    if vector is not None:
        embedding = Embedding.from_array(
            np.array(vector, dtype=np.float32), model="m", model_version="1"
        )
    return FileAnalyzed(
        event_id="e",
        occurred_at=NOW,
        trace_id="0" * 32,
        tenant="t",
        file_id=f"f{index}",
        image_id=digest,
        dataset_id="d",
        relpath=f"{index}.dcm",
        blob=BlobRef(uri="file:x", sha256=digest, size_bytes=1, media_type="application/dicom"),
        source="dicom",
        received_at=NOW + timedelta(seconds=index),
        dicom=DicomUids(study_uid="1", series_uid=series, instance_uid="3", sop_class_uid="4"),
        format="dicom",
        header=HeaderFacts(manufacturer_model=model, patient_age_years=age),
        outcome="decoded",
        signals=ImageSignals(**signals),
        modality=ModalityDecision(modality="CT", confidence=0.93, method="m", method_version="1"),
        predictions=(
            Prediction(
                model="p", model_version="1", task="bleed", label="no", score=0.2, calibration="c"
            ),
            Prediction(
                model="p", model_version="1", task="bleed", label="yes", score=0.8, calibration="c"
            ),
        ),
        embedding=embedding,
        processed_at=NOW,
    )


def test_a_series_is_one_unit_in_any_order():
    files = [
        _file(1, mean=10, vector=[1, 0, 0]),
        _file(2, mean=20, model="B", vector=[0, 1, 0]),
        _file(3, mean=90, model="B", vector=[0, 1, 0]),
    ]
    units = [
        unit_of(list(order), features=features_for(("bleed",)))
        for order in itertools.permutations(files)
    ]
    assert all(unit == units[0] for unit in units)
    values = units[0].values
    assert values["signals.mean"] == 20
    assert values["header.manufacturer_model"] == "B"
    assert np.allclose(values["embedding"], np.array([1, 2, 0]) / np.sqrt(5))
    assert values["prediction.bleed.label"] == "yes"
    assert values["prediction.bleed.score"] == 0.8
    assert "header.kvp" not in values
    assert units[0].event_time == NOW + timedelta(seconds=1)
    assert units[0].unit_id == "d/1.2"


def test_feedback_becomes_calibration():
    unit = unit_of([_file(1)], corrections={"f1": "MR"})
    assert unit.values["calibration"] == calibration_cell(0.93, right=False) == "9/wrong"
    assert "calibration" not in unit_of([_file(1)]).values
    assert expected_calibration_error({"9/right": 95, "9/wrong": 5}) == pytest.approx(0.0)
    assert expected_calibration_error({"9/wrong": 10}) == pytest.approx(0.95)
    assert expected_calibration_error({}) is None


def test_no_file_is_no_unit():
    with pytest.raises(ValueError, match="at least one"):
        unit_of([])


def _units(count, seed=0):
    random = np.random.default_rng(seed)
    return [
        unit_of(
            [
                _file(
                    k,
                    model=str(random.choice(["A", "B"])),
                    age=float(random.integers(20, 90)),
                    mean=float(random.normal(100, 10)),
                    vector=random.standard_normal(48),
                    series=f"1.{k}",
                )
            ]
        )
        for k in range(count)
    ]


def test_references_are_named_by_their_content():
    units = _units(260)
    whole = Profile(features_for(), sample_size=100)
    whole.add(units)
    parts = Profile(features_for(), sample_size=100)
    for start in range(260, 0, -13):
        part = Profile(features_for(), sample_size=100)
        part.add(units[start - 13 : start][::-1])
        parts.merge(part)
    until = NOW + timedelta(days=1)
    one = freeze(Scope("s", "site", "m:1"), whole, NOW, until)
    two = freeze(Scope("s", "site", "m:1"), parts, NOW, until)
    assert one.version == two.version
    assert len(whole.sample) == 100
    assert freeze(Scope("s", "other", "m:1"), whole, NOW, until).version != one.version
    back = Reference.from_json(one.to_json())
    assert back.version == one.version
    assert back.to_json() == one.to_json()
    # The identities of series stay out of it.
    assert "d/1." not in one.to_json()


def test_bad_references_say_so():
    few = Profile(features_for())
    few.add(_units(20))
    with pytest.raises(ReferenceInvalidError, match="too few"):
        freeze(Scope("s"), few, NOW, NOW)
    enough = Profile(features_for())
    enough.add(_units(210))
    document = json.loads(freeze(Scope("s"), enough, NOW, NOW).to_json())
    document["reference"]["unit_count"] += 1
    with pytest.raises(ReferenceInvalidError, match="changed"):
        Reference.from_json(json.dumps(document))
    document["reference"]["features"][0] = "weather"
    with pytest.raises(ReferenceInvalidError, match="weather"):
        Reference.from_json(json.dumps(document))
    for text in ("", "[]", "{}", '{"reference": 3}'):
        with pytest.raises(ReferenceInvalidError):
            Reference.from_json(text)
