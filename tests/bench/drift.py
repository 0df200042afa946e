"""Drift: false alarms, delays, and the name that comes first.

1. No drift: streams of one stated run time each; false alarms are counted. Each stream is monitored
   with a reference of its own hospital, of 4,000 studies, that erred in its own way.
2. CheXstray's scenarios: after 500 to 600 studies without drift one cause changes. The delay in
   studies stands beside that of a daily batch of tests (:mod:`tests.bench._drift_baseline`) on the
   same streams, with the batch's threshold set so that it gave as many false alarms in part 1. The
   bar is set beside KS per feature; KS with chi-squared tests is printed as well. Where a day is
   just enough for the latter, half its delay is below what any detector can reach on average
   (Lorden, Ann. Math. Statist. 42:1897, 1971: the logarithm of the run time over the divergence).
3. With a corpus (BIODATAMINE_CORPUS), the same with signals of real radiographs: crops and gains
   vary from study to study, then the window, the compression or the noise changes in the pixels.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console

from streams.profile.drift import (
    DriftMonitor,
    Encoder,
    Profile,
    Scope,
    Unit,
    calibrate,
    features_for,
    freeze,
    make_band,
)
from streams.profile.drift.calibrate import Calibration
from streams.profile.drift.detector import Bank, Detector, make_bank
from streams.profile.drift.explain import explain
from tests.bench._drift_baseline import DailyTests
from tests.bench._drift_streams import (
    INTENSITY,
    NO_DRIFT,
    SCENARIOS,
    SILENT,
    TASK,
    TEXTURE,
    Scenario,
    make_columns,
)

_console = Console(stderr=True)
_REFERENCE_STUDIES = 4000
_WARM_STUDIES = 500
_DAY_STUDIES = 100
_START = datetime(2026, 1, 5, tzinfo=timezone.utc)
_BASELINES = ("ks", "ks+chi2")


@dataclass
class _Watched:
    """One reference, ready: ours and the daily tests."""

    encoder: Encoder
    bank: Bank
    calibration: Calibration
    daily: DailyTests


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark; print one JSON object last."""
    parser = argparse.ArgumentParser("biodatamine bench drift", description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="streams without drift")
    parser.add_argument("--runs", type=int, default=48, help="streams per scenario and strength")
    parser.add_argument("--references", type=int, default=6, help="references per kind of stream")
    parser.add_argument("--run-time", type=int, default=10_000, help="studies between false alarms")
    parser.add_argument("--longest", type=int, default=6_000, help="studies to wait for an alarm")
    options = parser.parse_args(arguments)
    began = time.perf_counter()
    references = {
        mixed: [_watch(k, mixed, options.run_time) for k in range(options.references)]
        for mixed in (False, True)
    }
    calm = {
        mixed: _no_drift(references[mixed], mixed, options.seeds, options.run_time)
        for mixed in (False, True)
    }
    rows = [
        _scenario(scenario, references[scenario.mixed], calm[scenario.mixed], options)
        for scenario in (*SCENARIOS, *SILENT)
    ]
    report = {
        "studies_per_day": _DAY_STUDIES,
        "stated_run_time_studies": options.run_time,
        "no_drift": {("mix" if m else "radiographs"): calm[m]["report"] for m in (False, True)},
        "scenarios": rows,
        "delay_ratios": _ratios(rows),
        "replay": _replay(),
        "real_signals": _real(options),
    }
    report["seconds"] = round(time.perf_counter() - began, 1)
    report["bars"] = _bars(report)
    print(json.dumps(report))
    return 0


def _watch(seed: int, mixed: bool, run_time: int) -> _Watched:
    scenario = Scenario("none", "", (), mixed=mixed)
    random = np.random.default_rng([seed, int(mixed), 1])
    columns = make_columns(random, _REFERENCE_STUDIES, scenario)
    watched = _freeze(columns, _REFERENCE_STUDIES, f"{seed}/{mixed}", run_time)
    _console.print(
        f"reference {seed} ({'mix' if mixed else 'radiographs'}): "
        f"{len(watched.encoder.channels)} channels, {len(watched.bank.shares)} alternatives, "
        f"threshold {watched.calibration.threshold:.0f}"
    )
    return watched


def _freeze(columns: dict, count: int, name: str, run_time: int) -> _Watched:
    profile = Profile(features_for((TASK,)))
    profile.add_columns([f"{name}/{k}" for k in range(count)], columns)
    reference = freeze(Scope(name), profile, _START, _START)
    encoder = Encoder(reference)
    return _Watched(
        encoder,
        make_bank(encoder.channels),
        calibrate(encoder, run_time_units=run_time),
        DailyTests(encoder, columns, count, _DAY_STUDIES),
    )


def _alarms(watched: _Watched, columns: dict, count: int) -> int:
    cells = watched.encoder.encode(columns, count)
    detector = Detector(watched.bank, watched.calibration.threshold)
    alarms, start = 0, 0
    while (found := detector.update(cells[start:])) is not None:
        alarms, start = alarms + 1, start + found + 1
        detector.reset()
    return alarms


def _no_drift(watched: list[_Watched], mixed: bool, seeds: int, run_time: int) -> dict:
    alarms, smallest = [], {name: [] for name in _BASELINES}
    scenario = Scenario("none", "", (), mixed=mixed)
    for seed in range(seeds):
        one = watched[seed % len(watched)]
        columns = make_columns(np.random.default_rng([seed, int(mixed), 2]), run_time, scenario)
        alarms.append(_alarms(one, columns, run_time))
        for name, values in one.daily.smallest_p(columns, run_time).items():
            smallest[name].append(values)
        if seed % 20 == 19:
            _console.print(f"no drift: {seed + 1} streams, {sum(alarms)} false alarms")
    thresholds = {}
    for name in _BASELINES:
        ordered = np.sort(np.concatenate(smallest[name]))
        # As many false alarms as ours; one if there was none.
        thresholds[name] = float(ordered[min(len(ordered) - 1, max(1, sum(alarms)))])
    return {
        "thresholds": thresholds,
        "report": {
            "streams": seeds,
            "false_alarms": sum(alarms),
            "per_run_time": round(sum(alarms) / seeds, 3),
            "streams_with_more_than_one": sum(n > 1 for n in alarms),
            "daily_p_thresholds": {n: float(f"{p:.2g}") for n, p in thresholds.items()},
        },
    }


def _join(first: dict, second: dict) -> dict:
    return {
        name: column + second[name]
        if isinstance(column, list)
        else np.concatenate((column, second[name]))
        for name, column in first.items()
    }


def _scenario(scenario: Scenario, watched: list[_Watched], calm: dict, options) -> dict:
    ours, theirs, named = [], {name: [] for name in _BASELINES}, Counter()
    early, begins = 0, []
    for run in range(options.runs):
        one = watched[run % len(watched)]
        random = np.random.default_rng([run, 3])
        before = _WARM_STUDIES + int(random.integers(_DAY_STUDIES))
        quiet = Scenario("none", "", (), mixed=scenario.mixed)
        count = before + options.longest
        columns = _join(
            make_columns(random, before, quiet), make_columns(random, options.longest, scenario)
        )
        found = _first_alarm(one, columns, count, before)
        if found is None:
            early += 1
            continue
        ours.append(found[0])
        if found[1]:
            named[found[1]] += 1
            begins.append(found[2])
        for name, delay in _daily_delays(one, columns, count, before, calm).items():
            theirs[name].append(delay)
    hits = sum(number for name, number in named.items() if name in scenario.injected)
    row = {
        "scenario": scenario.name,
        "strength": scenario.strength,
        "silent": scenario.silent,
        "runs": len(ours),
        "false_alarms_before": early,
        "delay": round(float(np.mean(ours)), 1),
        "delay_p90": round(float(np.quantile(ours, 0.9)), 1),
        **{f"delay {n}": round(float(np.mean(d)), 1) for n, d in theirs.items()},
        "named_first": dict(named.most_common(4)),
        "named_right": hits,
        "named": sum(named.values()),
        "begin_error_studies": float(np.median(begins)) if begins else None,
    }
    _console.print(
        f"{scenario.name:22s}{scenario.strength:12s} delay {row['delay']:7.1f}   "
        + "   ".join(f"{n} {row[f'delay {n}']:7.1f}" for n in _BASELINES)
        + f"   named {hits}/{row['named']} {row['named_first']}"
    )
    return row


def _first_alarm(
    one: _Watched, columns: dict, count: int, before: int
) -> tuple[int, str, int] | None:
    """Return delay, first name and error of the begin; None for an alarm before the change."""
    cells = one.encoder.encode(columns, count)
    detector = Detector(one.bank, one.calibration.threshold)
    found = detector.update(cells)
    if found is None:
        return count - before, "", 0
    if found < before:
        return None
    begin, moved = explain(one.encoder.channels, one.bank, detector, cells[: found + 1])
    return found - before + 1, moved[0].feature.name if moved else "(joint)", begin - before


def _daily_delays(
    one: _Watched, columns: dict, count: int, before: int, calm: dict
) -> dict[str, int]:
    delays = {}
    for name, values in one.daily.smallest_p(columns, count).items():
        ends = (np.flatnonzero(values < calm["thresholds"][name]) + 1) * _DAY_STUDIES
        after = ends[ends > before]
        delays[name] = int(after[0]) - before if after.size else count - before
    return delays


def _replay() -> dict:
    """Feed one drifting stream to the monitor in batches of 1, 7 and 400: results must agree."""
    random = np.random.default_rng(9)
    scenario = Scenario("", "", (), projection=0.3)
    columns = _join(make_columns(random, 500, NO_DRIFT), make_columns(random, 700, scenario))
    features = features_for((TASK,))
    units = [
        Unit(
            f"u{k}",
            f"s{k // 2}",
            _START + timedelta(minutes=14 * k + int(random.integers(30))),
            {f.name: v for f in features if (v := _value(columns.get(f.name), k)) is not None},
            f"file-{k}",
        )
        for k in range(1200)
    ]
    base = make_columns(np.random.default_rng(8), 2000, NO_DRIFT)
    profile = Profile(features)
    profile.add_columns([f"r{k}" for k in range(2000)], base)
    encoder = Encoder(freeze(Scope("replay"), profile, _START, _START))
    calibration = calibrate(encoder, run_time_units=5000, runs=16)
    band = make_band(encoder.reference)
    results = []
    began = time.perf_counter()
    for size in (1, 7, 400):
        monitor = DriftMonitor(encoder, calibration, band)
        out = []
        for start in range(0, len(units), size):
            out += monitor.add(units[start : start + size])
        results.append([*out, *monitor.finish()])
    took = time.perf_counter() - began
    return {
        "identical": results[0] == results[1] == results[2],
        "results": len(results[0]),
        "units_per_second": round(3 * len(units) / took),
    }


def _value(column, index: int):
    if column is None:
        return None
    value = column[index]
    if isinstance(value, np.ndarray):
        return tuple(value.tolist())
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    return None if value is None else str(value)


def _real(options) -> dict | None:
    """Run part 3; None without a corpus."""
    pictures = _radiographs()
    if not pictures:
        return None
    _console.print(f"real signals: {len(pictures)} radiographs")
    changes = {
        "window narrower (x0.8)": (_narrow, INTENSITY),
        "JPEG quality 20": (_compress, TEXTURE),
        "more noise (sigma 4)": (_noisy, TEXTURE),
    }
    random = np.random.default_rng(4)
    calm_rows = _pool(pictures, random, 24, lambda picture, _: picture)
    pools = {name: _pool(pictures, random, 8, change) for name, (change, _) in changes.items()}
    watched = []
    for k in range(2):
        columns = _drawn(calm_rows, np.random.default_rng([k, 5]), _REFERENCE_STUDIES)
        watched.append(_freeze(columns, _REFERENCE_STUDIES, f"real/{k}", options.run_time))
    alarms, smallest = 0, {name: [] for name in _BASELINES}
    streams = max(4, options.seeds // 10)
    for seed in range(streams):
        columns = _drawn(calm_rows, np.random.default_rng([seed, 6]), options.run_time)
        alarms += _alarms(watched[seed % 2], columns, options.run_time)
        for name, values in watched[seed % 2].daily.smallest_p(columns, options.run_time).items():
            smallest[name].append(values)
    calm = {
        "thresholds": {
            name: float(np.sort(np.concatenate(values))[max(1, alarms)])
            for name, values in smallest.items()
        }
    }
    rows = []
    for name, (_, injected) in changes.items():
        for weight in (0.25, 1.0):
            ours, theirs, hits = [], {n: [] for n in _BASELINES}, Counter()
            for run in range(options.runs // 2):
                seed = np.random.default_rng([run, 7])
                before = _WARM_STUDIES + int(seed.integers(_DAY_STUDIES))
                count = before + 3000
                columns = _join(
                    _drawn(calm_rows, seed, before),
                    _drawn(calm_rows, seed, 3000, pools[name], weight),
                )
                found = _first_alarm(watched[run % 2], columns, count, before)
                if found is None:
                    continue
                ours.append(found[0])
                hits[found[1]] += 1
                delays = _daily_delays(watched[run % 2], columns, count, before, calm)
                for baseline, delay in delays.items():
                    theirs[baseline].append(delay)
            rows.append(
                {
                    "change": name,
                    "weight": weight,
                    "delay": round(float(np.mean(ours)), 1),
                    **{f"delay {n}": round(float(np.mean(d)), 1) for n, d in theirs.items()},
                    "named_right": sum(n for f, n in hits.items() if f in injected),
                    "named": sum(n for f, n in hits.items() if f),
                    "named_first": dict(hits.most_common(4)),
                }
            )
            _console.print(rows[-1])
    return {
        "pictures": len(pictures),
        "no_drift": {"streams": streams, "false_alarms": alarms},
        "changes": rows,
    }


def _radiographs() -> list[np.ndarray]:
    from streams.pixels import DecodeError, NoPixels, RenderSpec, render

    root = os.environ.get("BIODATAMINE_CORPUS", "")
    if not root or not (Path(root) / "manifest.csv").is_file():
        return []
    found = []
    with (Path(root) / "manifest.csv").open() as lines:
        for line in csv.DictReader(lines):
            if line["modality"] != "CR/DX" or line["content"] != "real":
                continue
            try:
                spec = RenderSpec(view_sizes=(), thumbnail_max_side=0, with_display=True)
                done = render(Path(root) / line["path"], line["format"], spec)
            except DecodeError as error:
                _console.print(f"left out: {type(error).__name__}")
                continue
            if not isinstance(done, NoPixels) and done.display is not None:
                picture = Image.fromarray(done.display).convert("L")
                picture.thumbnail((256, 256))
                found.append(np.asarray(picture))
    return found


def _pool(pictures: list[np.ndarray], random: np.random.Generator, each: int, change) -> dict:
    """Measure crops of the pictures at varying gain, changed as asked."""
    from streams.pixels.signals import compute_signals

    rows = []
    for picture in pictures:
        for _ in range(each):
            high, wide = picture.shape
            keep = random.uniform(0.85, 1.0)
            top = int(random.uniform(0, 1 - keep) * high)
            left = int(random.uniform(0, 1 - keep) * wide)
            part = picture[top : top + int(keep * high), left : left + int(keep * wide)]
            levels = part * random.normal(1.0, 0.04) + random.normal(0.0, 3.0)
            changed = change(np.clip(levels, 0, 255).astype(np.uint8), random)
            rows.append(compute_signals(changed))
    names = ("mean", "std", "p05", "p50", "p95", "entropy_bits", "foreground_fraction")
    names += ("aspect_ratio", "color_fraction", "noise_sigma", "sharpness")
    table: dict = {f"signals.{n}": np.array([getattr(r, n) for r in rows]) for n in names}
    table["signals.histogram"] = np.sqrt(np.array([r.histogram for r in rows]))
    return table


def _drawn(
    calm: dict, random: np.random.Generator, count: int, changed: dict | None = None, weight=0.0
) -> dict:
    size = len(next(iter(calm.values())))
    place = random.integers(0, size, count)
    columns = {name: values[place] for name, values in calm.items()}
    if changed is not None:
        hit = random.random(count) < weight
        other = random.integers(0, len(next(iter(changed.values()))), count)
        for name, values in changed.items():
            columns[name] = columns[name].copy()
            columns[name][hit] = values[other[hit]]
    return columns


def _narrow(picture: np.ndarray, _: np.random.Generator) -> np.ndarray:
    return np.clip((picture.astype(float) - 128) / 0.8 + 128, 0, 255).astype(np.uint8)


def _compress(picture: np.ndarray, _: np.random.Generator) -> np.ndarray:
    data = io.BytesIO()
    Image.fromarray(picture).save(data, "JPEG", quality=20)
    return np.asarray(Image.open(data))


def _noisy(picture: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return np.clip(picture + random.normal(0, 4, picture.shape), 0, 255).astype(np.uint8)


def _ratios(rows: Sequence[dict]) -> dict[str, dict[str, float]]:
    """Return our mean delay over that of each daily batch, over all strengths of a scenario."""
    by_scenario: dict[str, list[dict]] = {}
    for row in rows:
        by_scenario.setdefault(row["scenario"], []).append(row)
    return {
        name: {
            baseline: round(
                sum(r["delay"] for r in same) / sum(r[f"delay {baseline}"] for r in same), 3
            )
            for baseline in _BASELINES
        }
        for name, same in by_scenario.items()
    }


def _bars(report: dict) -> dict:
    bars = {}
    for name, calm in report["no_drift"].items():
        bars[f"false alarms per stated run time, {name}"] = _bar(
            calm["per_run_time"], "<= 1", calm["per_run_time"] <= 1
        )
    for name, ratios in report["delay_ratios"].items():
        bars[f"delay over KS per feature and day, {name}"] = _bar(
            ratios["ks"], "<= 0.5", ratios["ks"] <= 0.5
        )
        rows = [r for r in report["scenarios"] if r["scenario"] == name]
        share = sum(r["named_right"] for r in rows) / max(1, sum(r["named"] for r in rows))
        bars[f"named first, {name}"] = _bar(round(share, 3), ">= 0.9", share >= 0.9)
    same = report["replay"]["identical"]
    bars["replay in other batches identical"] = _bar(same, "true", same)
    return bars


def _bar(value, goal: str, holds: bool) -> dict:
    return {"value": value, "goal": goal, "holds": bool(holds)}
