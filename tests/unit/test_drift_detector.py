"""The detector keeps its promise without drift, finds what moved, and names the cause."""

from __future__ import annotations

import math

import numpy as np
import pytest

from streams.profile.drift import Encoder, Profile, Scope, calibrate, freeze
from streams.profile.drift.channels import JOINT, MISSING, NOVEL
from streams.profile.drift.detector import Detector, make_bank
from streams.profile.drift.explain import explain, movers
from streams.profile.drift.features import BY_NAME
from tests.unit.drift_streams import DAY, FEATURES, draw


@pytest.fixture(scope="module")
def encoder():
    profile = Profile(FEATURES)
    profile.add_columns([f"r{k}" for k in range(3000)], draw(1, 3000))
    return Encoder(freeze(Scope("test"), profile, DAY, DAY))


@pytest.fixture(scope="module")
def bank(encoder):
    return make_bank(encoder.channels)


@pytest.fixture(scope="module")
def calibration(encoder):
    return calibrate(encoder, run_time_units=1000, runs=40)


def test_ratios_are_fair_or_less(encoder, bank):
    """Without drift no alternative gains in expectation: that is what the promise rests on."""
    for channel, table in zip(encoder.channels, bank.tables, strict=True):
        if table.shape[1]:
            expected = channel.probabilities @ table[:-1]
            assert (expected <= 1 + 1e-9).all()
            assert channel.probabilities.sum() == pytest.approx(1)
    assert bank.shares.sum() == pytest.approx(1)


def test_groups_have_equal_shares_of_the_false_alarms(encoder, bank):
    shares: dict[str, float] = {}
    for alternative, share in zip(bank.alternatives, bank.shares.tolist(), strict=True):
        group = encoder.channels[alternative.channel].group
        shares[group] = shares.get(group, 0.0) + share
    assert set(shares) == {"content", "patient", "intensity", "embedding", JOINT}
    assert max(shares.values()) == pytest.approx(min(shares.values()))


def test_blocks_are_the_recursion(encoder, bank):
    cells = encoder.encode(draw(5, 300), 300)
    by_hand = np.zeros(len(bank.shares))
    for ratios in bank.ratios(cells):
        by_hand = (by_hand + 1) * ratios
    detector = Detector(bank, math.inf)
    assert detector.update(cells) is None
    assert np.allclose(detector.statistics, by_hand, rtol=1e-9)
    single = Detector(bank, math.inf)
    for row in cells:
        single.update(row[None, :])
    assert np.allclose(single.statistics, by_hand, rtol=1e-12)


def test_what_says_nothing_changes_nothing(encoder, bank):
    detector = Detector(bank, math.inf)
    detector.update(encoder.encode(draw(5, 50), 50))
    before = detector.statistics.copy()
    detector.update(np.full((3, len(encoder.channels)), -1, dtype=np.int16))
    assert (detector.statistics == before).all()


def test_false_alarms_are_as_rare_as_stated(encoder, bank, calibration):
    alarms, streams = 0, 60
    for seed in range(streams):
        cells = encoder.encode(draw(100 + seed, 1000), 1000)
        detector, start = Detector(bank, calibration.threshold), 0
        while (found := detector.update(cells[start:])) is not None:
            alarms, start = alarms + 1, start + found + 1
            detector.reset()
    assert alarms <= streams


def test_calibration_is_the_same_every_time(encoder, calibration):
    assert calibrate(encoder, run_time_units=1000, runs=40) == calibration
    longer = calibrate(encoder, run_time_units=4000, runs=40)
    assert longer.threshold > calibration.threshold
    with pytest.raises(ValueError, match="longer"):
        calibrate(encoder, run_time_units=10)


@pytest.mark.parametrize(
    ("change", "first"),
    [
        ({"lateral": 0.3}, {"header.view_position"}),
        ({"older": 10.0}, {"header.patient_age_years"}),
        ({"brighter": 1.0}, {"signals.mean", "signals.p50"}),
        ({"moved": 1.5}, {"embedding"}),
    ],
)
def test_drift_is_found_dated_and_named(encoder, bank, calibration, change, first):
    right = 0
    for seed in range(5):
        cells = encoder.encode(draw(300 + seed, 1100, after=300, **change), 1100)
        detector = Detector(bank, calibration.threshold)
        found = detector.update(cells)
        assert found is not None
        if found < 300:
            continue
        assert found < 450
        begin, moved = explain(encoder.channels, bank, detector, cells[: found + 1])
        assert abs(begin - 300) < 60
        right += moved[0].feature.name in first
    assert right >= 4


def test_new_and_missing_values_have_cells(encoder):
    columns = draw(7, 3)
    columns["header.view_position"] = ["PA", None, "SUNRISE"]
    columns["header.patient_age_years"] = np.array([50.0, np.nan, np.inf])
    cells = encoder.encode(columns, 3)
    names = [channel.name for channel in encoder.channels]
    assert cells[:, names.index("header.view_position")].tolist()[1:] == [MISSING, NOVEL]
    assert cells[:, names.index("header.patient_age_years")].tolist()[1:] == [MISSING, MISSING]
    labels = encoder.channels[names.index("header.view_position")].labels
    assert labels[cells[0, names.index("header.view_position")]] == "PA"


def test_vectors_of_another_length_are_missing(encoder):
    columns = draw(7, 4)
    columns["embedding"] = np.ones((4, 5))
    cells = encoder.encode(columns, 4)
    places = [k for k, c in enumerate(encoder.channels) if c.name.startswith("embedding")]
    assert len(places) > 2
    assert (cells[:, places] == MISSING).all()


def test_a_feature_without_reference_is_not_watched():
    profile = Profile((*FEATURES, BY_NAME["calibration"]))
    profile.add_columns([f"r{k}" for k in range(400)], draw(1, 400))
    encoder = Encoder(freeze(Scope("test"), profile, DAY, DAY))
    bank = make_bank(encoder.channels)
    watched = {encoder.channels[a.channel].name for a in bank.alternatives}
    assert "calibration" not in watched
    assert "header.view_position" in watched


def test_nothing_moved_names_nothing(encoder, bank):
    assert movers(encoder.channels, bank, np.zeros((0, len(encoder.channels)), np.int16)) == ()
