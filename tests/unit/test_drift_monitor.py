"""The monitor follows event time, forgets no rule on replay, and tells what moved."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest

from streams.profile.drift import (
    Alert,
    DriftMonitor,
    DriftPoint,
    Encoder,
    MonitorSettings,
    Profile,
    Scope,
    Unit,
    calibrate,
    freeze,
    make_band,
)
from streams.profile.drift.calibrate import Calibration
from tests.unit.drift_streams import DAY, FEATURES, draw

_SETTINGS = MonitorSettings(lateness_seconds=1800)


@pytest.fixture(scope="module")
def parts():
    profile = Profile(FEATURES)
    profile.add_columns([f"r{k}" for k in range(3000)], draw(1, 3000))
    encoder = Encoder(freeze(Scope("test"), profile, DAY, DAY))
    calibration = calibrate(encoder, run_time_units=2000, runs=30)
    return encoder, calibration, make_band(encoder.reference)


def _units(columns, count, minutes=10.0, start=DAY):
    units = []
    for k in range(count):
        values = {}
        for name, column in columns.items():
            value = column[k]
            values[name] = (
                tuple(value.tolist())
                if isinstance(value, np.ndarray)
                else value
                if isinstance(value, str)
                else float(value)
            )
        when = start + timedelta(minutes=minutes * k)
        units.append(Unit(f"u{k:05d}", f"s{k // 2}", when, values, f"file-{k}"))
    return units


def _run(parts, units, batch=1, settings=_SETTINGS):
    monitor = DriftMonitor(*parts, settings)
    results = []
    for start in range(0, len(units), batch):
        results += monitor.add(units[start : start + batch])
    return [*results, *monitor.finish()], monitor


def test_replay_is_identical_in_any_batches_and_with_repeats(parts):
    units = _units(draw(21, 900, after=500, lateral=0.3), 900)
    first, _ = _run(parts, units)
    assert _run(parts, units, batch=37)[0] == first
    repeated = [u for k in range(0, 900, 50) for u in units[k : k + 50] + units[k : k + 50]]
    assert _run(parts, repeated, batch=10)[0] == first
    # Neighbours that change places within the allowed lateness change nothing.
    swapped = [u for k in range(0, 900, 2) for u in (units[k + 1], units[k])]
    assert _run(parts, swapped)[0] == first


def test_an_alert_tells_what_since_when_and_shows_examples(parts):
    units = _units(draw(22, 900, after=500, lateral=0.3), 900)
    results, monitor = _run(parts, units)
    alerts = [r for r in results if isinstance(r, Alert)]
    raised = alerts[0]
    assert raised.state == "raised"
    assert monitor.raised
    assert abs(raised.since - units[500].event_time) < timedelta(hours=8)
    assert units[500].event_time < raised.at < units[640].event_time
    assert raised.features[0].feature == "header.view_position"
    assert raised.changes[0] == "more LL"
    assert raised.features[0].effect_low > 0
    assert raised.features[0].p_value < 0.2
    laterals = {u.example for u in units[480:] if u.values["header.view_position"] == "LL"}
    assert raised.features[0].examples
    assert set(raised.features[0].examples) <= laterals
    assert {a.state for a in alerts[1:]} == {"continuing"}
    assert alerts[-1].study_count > raised.study_count


def test_points_are_days_and_few_units_are_insufficient(parts):
    quiet = _units(draw(23, 400), 400)
    lonely = _units(draw(24, 3), 3, start=DAY + timedelta(days=4))
    lonely = [Unit(f"x{u.unit_id}", u.study_id, u.event_time, u.values) for u in lonely]
    results, _ = _run(parts, quiet + lonely)
    points = [r for r in results if isinstance(r, DriftPoint)]
    assert [(p.since - DAY).days for p in points] == [0, 1, 2, 4]
    assert [p.state for p in points] == ["measured"] * 3 + ["insufficient"]
    assert points[-1].index is None
    assert points[-1].comparisons == ()
    assert points[0].unit_count == 144
    assert points[0].study_count == 72
    assert all(abs(p.index) < 5 for p in points[:3])
    assert all(p.drifted == () for p in points[:3])


def test_the_index_and_the_discoveries_follow_drift(parts):
    results, _ = _run(parts, _units(draw(25, 576, after=288, older=12.0, brighter=1.0), 576))
    points = [r for r in results if isinstance(r, DriftPoint)]
    assert max(p.index for p in points[:2]) < 5 < min(p.index for p in points[2:])
    assert {"header.patient_age_years", "signals.mean"} <= set(points[3].drifted)
    assert "header.view_position" not in points[3].drifted


def test_late_units_are_counted_and_left_out(parts):
    units = _units(draw(26, 100), 100)
    monitor = DriftMonitor(*parts, _SETTINGS)
    monitor.add(units)
    late = Unit("late", "s", DAY, units[0].values)
    monitor.add([late])
    assert monitor.late_count == 1
    (point,) = (r for r in monitor.finish() if isinstance(r, DriftPoint))
    assert point.unit_count == 100


def test_a_later_version_replaces_one_that_waits(parts):
    units = _units(draw(27, 20), 20, minutes=1.0)
    newer = Unit(units[5].unit_id, "other", units[5].event_time, units[5].values, version=2)
    older = Unit(units[5].unit_id, "oldest", units[5].event_time, units[5].values, version=1)
    monitor = DriftMonitor(*parts, _SETTINGS)
    monitor.add([*units, newer, older])
    (point,) = monitor.finish()
    assert isinstance(point, DriftPoint)
    assert point.unit_count == 20
    assert point.study_count == 11


def test_an_alert_is_cleared_once_and_can_come_again(parts):
    bad = draw(28, 400, lateral=0.4)
    good = draw(29, 500)
    columns = {
        name: column + good[name] + bad[name]
        if isinstance(column, list)
        else np.concatenate((column, good[name], bad[name]))
        for name, column in bad.items()
    }
    units = _units(columns, 1300)
    results, _ = _run(parts, units)
    states = [r.state for r in results if isinstance(r, Alert) and r.state != "continuing"]
    assert states == ["raised", "cleared", "raised"]
    cleared = next(r for r in results if isinstance(r, Alert) and r.state == "cleared")
    assert units[400].event_time < cleared.at < units[600].event_time


def test_a_full_waiting_room_goes_on(parts):
    settings = MonitorSettings(lateness_seconds=10**6, max_waiting=50)
    results, monitor = _run(parts, _units(draw(30, 300), 300), settings=settings)
    assert sum(r.unit_count for r in results if isinstance(r, DriftPoint)) == 300
    assert monitor.late_count == 0


def test_a_calibration_of_another_reference_is_refused(parts):
    encoder, _, band = parts
    with pytest.raises(ValueError, match="another reference"):
        DriftMonitor(encoder, Calibration("0" * 16, 1000, 5.0), band)
