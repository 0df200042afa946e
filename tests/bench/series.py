"""Completion of series and studies: the same in every replay, its cost, and its memory.

The stream has series of all sizes over eight partitions: in and out of order, late, very late,
repeated, with other bytes, with announced counts that are right, wrong or missing. Each replay
reads the partitions in another interleaving, in other batches, and goes on from the written state
at other places; what it says must be the same to the byte, in the same order.
"""

from __future__ import annotations

import argparse
import hashlib
import heapq
import json
import random
import time
import tracemalloc
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rich.console import Console

from streams.series.completion import CompletionSettings, SeriesCompletion
from streams.series.geometry import check_geometry
from streams.series.outputs import Output, SeriesPutAway, SeriesVersion
from streams.series.records import Arrival, Record, SeriesKey, StudyKey, Tick
from streams.series.slices import SliceHeader
from streams.series.study import (
    StudyCompletion,
    StudyOutput,
    StudyPutAway,
    StudySettings,
    StudyVersion,
)

_console = Console(stderr=True)
_SECOND = 1_000_000
_SOURCES = tuple(str(n) for n in range(8))
_SETTINGS = CompletionSettings(retain_hours=0.5)
_STUDY_SETTINGS = StudySettings(retain_hours=0.5)
_DAY_SECONDS = 86_400.0

# Bars.
_MAX_CPU_MICROSECONDS = 100.0
_MAX_BYTES_PER_INSTANCE = 1024.0
_MAX_GROWTH = 1.2


def stream(instances: int, seed: int) -> Iterator[Arrival]:
    """Make arrivals in the order of their publishing, a series every 40 seconds."""
    chance = random.Random(seed)
    # What waits to be published: (publishing time, serial, arrival).
    waiting: list[tuple[float, int, Arrival]] = []
    now, made, serial = 1_000_000.0, 0, 0
    while made < instances:
        now += chance.expovariate(1 / 40.0)
        count = min(chance.choice([1, 1, 2, 20, 60, 150, 400]), instances - made)
        for published, arrival in _series(chance, now, count, made):
            serial += 1
            heapq.heappush(waiting, (published, serial, arrival))
        made += count
        while waiting and waiting[0][0] <= now:
            yield heapq.heappop(waiting)[-1]
    while waiting:
        yield heapq.heappop(waiting)[-1]


def _series(
    chance: random.Random, start: float, count: int, serial: int
) -> Iterator[tuple[float, Arrival]]:
    uid = f"1.2.{serial}"
    key = SeriesKey("default", "bench", uid)
    study_uid = f"1.2.{serial // 1000}.9"
    announced = chance.choice([None, None, count, count, count + 1, max(1, count - 1)])
    rate = chance.choice([0.05, 0.2, 2.0])
    # A gateway that was cut off sends all of it much later; its events keep their time.
    outage = chance.choice([0.0] * 30 + [40.0, 2000.0])
    at = start
    for number in range(1, count + 1):
        at += chance.expovariate(1 / rate)
        received = at
        if chance.random() < 0.001:
            received += chance.choice([70.0, 700.0, 5000.0])
        arrival = Arrival(
            source="",
            key=key,
            study_uid=study_uid,
            instance_uid=f"{uid}.{number}",
            image_id=hashlib.sha256(f"{uid}.{number}".encode()).hexdigest(),
            at_us=round(received * _SECOND),
            expected_count=announced,
            instance_number=number,
            modality="CT",
            terms=("chest", "axial"),
        )
        published = received + outage + chance.uniform(0, 3)
        yield published, _placed(arrival)
        if chance.random() < 0.01:
            yield published + chance.choice([1.0, 100.0, 4000.0]), _placed(arrival)
        if chance.random() < 0.001:
            other = replace(arrival, image_id=arrival.image_id[::-1])
            yield published + 1, _placed(other)


def _placed(arrival: Arrival) -> Arrival:
    # As the topic's key does: one image always goes to one partition.
    return replace(arrival, source=_SOURCES[int(arrival.image_id[:4], 16) % len(_SOURCES)])


def with_ticks(arrivals: Iterable[Arrival], every_seconds: float = 5.0) -> Iterator[Record]:
    """Tick all partitions as a live worker does that has read them to their end."""
    newest = ticked = 0
    for arrival in arrivals:
        newest = max(newest, arrival.at_us)
        if newest - ticked >= every_seconds * _SECOND:
            ticked = newest
            yield from (Tick(source, newest) for source in _SOURCES)
        yield arrival
    yield from (Tick(source, newest + round(_DAY_SECONDS * _SECOND)) for source in _SOURCES)


@dataclass
class Store:
    """The database of what was put away, by event time."""

    series: dict[SeriesKey, list[SeriesPutAway]] = field(default_factory=lambda: defaultdict(list))
    studies: dict[StudyKey, list[StudyPutAway]] = field(default_factory=lambda: defaultdict(list))

    def keep(self, outputs: Iterable[Output | StudyOutput]) -> None:
        """Write what was put away."""
        for output in outputs:
            if isinstance(output, SeriesPutAway):
                self.series[output.key].append(output)
            elif isinstance(output, StudyPutAway):
                self.studies[output.key].append(output)

    def recall_series(self, key: SeriesKey, stamp_us: int) -> dict[str, Any] | None:
        """Answer as ``completion.Recall`` asks."""
        return _latest(self.series.get(key, ()), stamp_us)

    def recall_study(self, key: StudyKey, at_us: int) -> dict[str, Any] | None:
        """Answer as ``study.StudyRecall`` asks."""
        return _latest(self.studies.get(key, ()), at_us)


def _latest(rows: Iterable[Any], at_us: int) -> dict[str, Any] | None:
    known = [row for row in rows if row.at_us <= at_us]
    return max(known, key=lambda row: row.at_us).state if known else None


@dataclass
class Told:
    """A digest of all that was said, in its order, and how much it was."""

    digest: Any = field(default_factory=hashlib.sha256)
    versions: int = 0
    later_versions: int = 0
    study_versions: int = 0
    put_away: int = 0

    def take(self, outputs: Iterable[Output | StudyOutput]) -> None:
        """Add what was said."""
        for output in outputs:
            self.digest.update(repr(output).encode())
            if isinstance(output, SeriesVersion):
                self.digest.update(output.event_id.encode())
                self.versions += 1
                self.later_versions += output.version > 1
            elif isinstance(output, StudyVersion):
                self.digest.update(output.event_id.encode())
                self.study_versions += 1
            elif isinstance(output, SeriesPutAway | StudyPutAway):
                self.put_away += 1


@dataclass
class Worker:
    """Both machines over one store, as an agent will hold them."""

    store: Store
    series: SeriesCompletion = field(init=False)
    studies: StudyCompletion = field(init=False)
    said: Told = field(default_factory=Told)
    studies_said: Told = field(default_factory=Told)

    def __post_init__(self) -> None:
        self._make()

    def _make(self) -> None:
        self.series = SeriesCompletion(_SOURCES, _SETTINGS, self.store.recall_series)
        self.studies = StudyCompletion(None, _STUDY_SETTINGS, self.store.recall_study)

    def feed(self, records: Sequence[Record]) -> None:
        """Take a batch."""
        outputs = self.series.feed(records)
        study_outputs = self.studies.feed(outputs, self.series.watermark_us)
        self.store.keep(outputs)
        self.store.keep(study_outputs)
        self.said.take(outputs)
        self.studies_said.take(study_outputs)

    def restart(self) -> None:
        """Go on from what was written."""
        written = json.dumps([self.series.snapshot(), self.studies.snapshot()])
        self._make()
        series, studies = json.loads(written)
        self.series.restore(series)
        self.studies.restore(studies)


def interleave(logs: dict[str, list[Record]], chance: random.Random, skew: int) -> Iterator[Record]:
    """Read the partitions in some order, one ahead of another by up to ``skew`` fetches."""
    places = dict.fromkeys(logs, 0)
    while places:
        slowest = min(places.values())
        source = chance.choice([s for s, place in places.items() if place <= slowest + skew])
        fetch = chance.choice([1, 7, 50, 500])
        log, place = logs[source], places[source]
        yield from log[place : place + fetch]
        places[source] = place + fetch
        if places[source] >= len(log):
            del places[source]


def replay(logs: dict[str, list[Record]], seed: int, restarts: int) -> tuple[Worker, float, int]:
    """Read the logs once; return the worker, its CPU seconds and the most that it held back."""
    chance = random.Random(seed)
    records = list(interleave(logs, chance, skew=chance.choice([500, 5_000, 50_000])))
    marks = sorted(chance.sample(range(len(records)), restarts))
    worker = Worker(Store())
    cpu, place, most_pending = 0.0, 0, 0
    while place < len(records):
        size = chance.choice([1, 3, 100, 1000])
        began = time.process_time()
        worker.feed(records[place : place + size])
        cpu += time.process_time() - began
        most_pending = max(most_pending, worker.series.pending_count)
        place += size
        while marks and marks[0] < place:
            marks.pop(0)
            worker.restart()
    return worker, cpu, most_pending


def memory(instances: int, seed: int) -> tuple[int, int, int]:
    """Stream without keeping it; return the peak bytes, and the most instances and series held."""
    series = SeriesCompletion(_SOURCES, _SETTINGS)
    studies = StudyCompletion(None, _STUDY_SETTINGS)
    held: dict[SeriesKey, int] = {}
    most_instances = most_series = 0
    tracemalloc.start()
    batch: list[Record] = []
    for record in with_ticks(stream(instances, seed)):
        batch.append(record)
        if len(batch) < 500:
            continue
        outputs = series.feed(batch)
        studies.feed(outputs, series.watermark_us)
        batch.clear()
        for output in outputs:
            if isinstance(output, SeriesVersion):
                held[output.key] = output.instance_count
            elif isinstance(output, SeriesPutAway):
                held.pop(output.key, None)
        most_instances = max(most_instances, sum(held.values()) + series.pending_count)
        most_series = max(most_series, series.series_count)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak, most_instances, most_series


def geometry_cpu_ms(slices: int) -> float:
    """Return the CPU milliseconds of checking one series."""
    headers = [
        SliceHeader(
            instance_uid=f"1.{n}",
            instance_number=n,
            position_mm=(0.0, 0.0, 0.625 * n),
            orientation=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
            pixel_spacing_mm=(0.7, 0.7),
            rows=512,
            columns=512,
        )
        for n in range(slices)
    ]
    began = time.process_time()
    assert check_geometry(headers).is_volume
    return (time.process_time() - began) * 1000


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark; print one JSON object last."""
    parser = argparse.ArgumentParser("biodatamine bench series", description=__doc__)
    parser.add_argument("--instances", type=int, default=100_000)
    parser.add_argument("--replays", type=int, default=5)
    parser.add_argument("--restarts", type=int, default=5, help="in each replay but the first")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args(arguments)
    _console.print(f"making {options.instances} instances")
    logs: dict[str, list[Record]] = {source: [] for source in _SOURCES}
    for record in with_ticks(stream(options.instances, options.seed)):
        logs[record.source].append(record)
    arrivals = sum(isinstance(record, Arrival) for log in logs.values() for record in log)
    digests, cpus, pendings = [], [], []
    worker = None
    for number in range(options.replays):
        worker, cpu, pending = replay(logs, number, options.restarts if number else 0)
        digests.append((worker.said.digest.hexdigest(), worker.studies_said.digest.hexdigest()))
        cpus.append(cpu)
        pendings.append(pending)
        _console.print(
            f"replay {number}: {worker.said.versions} versions of series, "
            f"{worker.studies_said.study_versions} of studies, {digests[-1][0][:12]}"
        )
    assert worker is not None
    del logs
    _console.print("measuring memory over streams of a quarter and of the whole length")
    short_peak, short_held, _ = memory(options.instances // 4, options.seed)
    peak, held_instances, held_series = memory(options.instances, options.seed)
    different = len(set(digests)) - 1
    micros = sorted(cpus)[len(cpus) // 2] / arrivals * 1e6
    per_instance = peak / max(1, held_instances)
    # What is held goes up and down with the stream; what it costs must not go up with its length.
    growth = per_instance / (short_peak / max(1, short_held))
    print(
        json.dumps(
            {
                "instances": options.instances,
                "arrivals": arrivals,
                "replays": options.replays,
                "series_versions": worker.said.versions,
                "later_versions": worker.said.later_versions,
                "study_versions": worker.studies_said.study_versions,
                "put_away": worker.said.put_away + worker.studies_said.put_away,
                "most_held_back": max(pendings),
                "cpu_microseconds_per_instance": round(micros, 1),
                "instances_per_cpu_second": round(1e6 / micros),
                "memory_peak_mb": round(peak / 2**20, 2),
                "held_instances": held_instances,
                "held_series": held_series,
                "geometry_cpu_ms_of_1000_slices": round(geometry_cpu_ms(1000), 1),
                "bars": {
                    "replays that say something else": {
                        "value": different,
                        "goal": "0",
                        "holds": different == 0,
                    },
                    "CPU microseconds an instance": {
                        "value": round(micros, 1),
                        "goal": f"<= {_MAX_CPU_MICROSECONDS:.0f}",
                        "holds": micros <= _MAX_CPU_MICROSECONDS,
                    },
                    "bytes an instance held": {
                        "value": round(per_instance, 1),
                        "goal": f"<= {_MAX_BYTES_PER_INSTANCE:.0f}",
                        "holds": per_instance <= _MAX_BYTES_PER_INSTANCE,
                    },
                    "bytes an instance held, four times the stream over once": {
                        "value": round(growth, 2),
                        "goal": f"<= {_MAX_GROWTH}",
                        "holds": growth <= _MAX_GROWTH,
                    },
                },
            }
        )
    )
    return 0
