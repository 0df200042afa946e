"""When a series is complete, and that a replay says the same."""

from __future__ import annotations

import hashlib
import json
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import schemas
from schemas import codec
from schemas.events import FileAnalyzed, FileSniffed
from streams.series.completion import CompletionSettings, SeriesCompletion
from streams.series.members import Members
from streams.series.outputs import (
    ArrivalRefused,
    Output,
    SeriesOpened,
    SeriesPutAway,
    SeriesVersion,
    completed_event,
)
from streams.series.records import (
    Arrival,
    Force,
    Record,
    SeriesKey,
    Tick,
    microseconds,
    moment,
    record_of,
)
from streams.series.watermark import Watermarks

EXAMPLES = Path(schemas.__file__).parent / "examples"
SECOND = 1_000_000
SETTINGS = CompletionSettings(
    idle_seconds=60, disorder_seconds=10, max_open_seconds=300, retain_hours=1
)
KEY = SeriesKey("t", "d", "1.2.3")


def arrival(
    number: int, at: float, *, key: SeriesKey = KEY, source: str = "0", image: str = "", **more: Any
) -> Arrival:
    image_id = hashlib.sha256(f"{key.series_uid}/{number}/{image}".encode()).hexdigest()
    return Arrival(
        source=source,
        key=key,
        study_uid="1.2",
        instance_uid=f"{key.series_uid}.{number}",
        image_id=image_id,
        at_us=round(at * SECOND),
        instance_number=number,
        **more,
    )


def tick(at: float, source: str = "0") -> Tick:
    return Tick(source, round(at * SECOND))


def versions(outputs: Iterable[Output]) -> list[SeriesVersion]:
    return [output for output in outputs if isinstance(output, SeriesVersion)]


def told(outputs: Iterable[Output]) -> list[tuple[int, str, float, int]]:
    return [(v.version, v.reason, v.at_us / SECOND, v.instance_count) for v in versions(outputs)]


def run(records: Iterable[Record], setup: CompletionSettings = SETTINGS) -> list[Output]:
    return SeriesCompletion(["0"], setup).feed(records)


# When a series is complete.


def test_a_quiet_series_is_complete_at_the_end_of_its_idle_time() -> None:
    machine = SeriesCompletion(["0"], SETTINGS)
    assert versions(machine.feed([arrival(1, 0), arrival(2, 30), tick(99.9)])) == []
    (version,) = versions(machine.feed([tick(100)]))
    assert (version.version, version.reason, version.at_us) == (1, "idle", 90 * SECOND)
    assert (version.instance_count, version.lowest_number, version.highest_number) == (2, 1, 2)
    assert machine.open_count == 0


def test_the_announced_count_completes_at_once_and_only_once() -> None:
    records = [arrival(n, n, expected_count=3) for n in (1, 2, 3)]
    late = [arrival(n, 20 + n, expected_count=3) for n in (4, 5)]
    assert told(run([*records, tick(13.1)])) == [(1, "expected-count", 3, 3)]
    assert told(run([*records, *late, tick(200)])) == [
        (1, "expected-count", 3, 3),
        (2, "idle", 85, 5),
    ]


def test_headers_that_disagree_announce_nothing() -> None:
    records = [arrival(1, 1, expected_count=2), arrival(2, 2, expected_count=3)]
    assert told(run([*records, tick(100)])) == [(1, "idle", 62, 2)]
    # And they stay unbelieved.
    records += [arrival(3, 3, expected_count=3)]
    assert told(run([*records, tick(100)])) == [(1, "idle", 63, 3)]


def test_one_image_an_acquisition_announces_nothing() -> None:
    records = [arrival(n, n, expected_count=1) for n in (1, 2)]
    assert told(run([*records, tick(100)])) == [(1, "idle", 62, 2)]


def test_a_file_that_is_a_volume_is_a_complete_series() -> None:
    whole = arrival(1, 1, expected_count=1, is_whole=True)
    assert told(run([whole, tick(20)])) == [(1, "expected-count", 1, 1)]


def test_late_data_makes_the_next_version() -> None:
    outputs = run([arrival(1, 0), arrival(2, 100), tick(200)])
    assert told(outputs) == [(1, "idle", 60, 1), (2, "idle", 160, 2)]
    assert [o.at_us / SECOND for o in outputs if isinstance(o, SeriesOpened)] == [0, 100]
    first, second = versions(outputs)
    assert first.set_hash != second.set_hash
    assert first.event_id != second.event_id


def test_an_instance_at_the_very_due_time_belongs_to_the_next_version() -> None:
    assert told(run([arrival(1, 0), arrival(2, 60), tick(200)])) == [
        (1, "idle", 60, 1),
        (2, "idle", 120, 2),
    ]
    assert told(run([arrival(1, 0), arrival(2, 59.999999), tick(200)])) == [
        (1, "idle", 119.999999, 2)
    ]


def test_the_same_instance_again_changes_nothing_and_keeps_no_timer_from_firing() -> None:
    once = run([arrival(1, 0), tick(500)])
    again = run([arrival(1, 0), arrival(1, 50), arrival(1, 55), arrival(1, 400), tick(500)])
    assert again == once
    assert told(again) == [(1, "idle", 60, 1)]


def test_other_bytes_under_the_same_uid_are_a_conflict_and_a_new_version() -> None:
    outputs = run([arrival(1, 0), arrival(1, 100, image="other"), tick(300)])
    first, second = versions(outputs)
    assert (second.version, second.instance_count, second.conflict_count) == (2, 1, 1)
    assert first.conflict_count == 0
    assert first.set_hash != second.set_hash


def test_a_person_may_force_completion_but_not_of_nothing() -> None:
    force = Force("0", KEY, 20 * SECOND)
    again = Force("0", KEY, 40 * SECOND)
    unknown = Force("0", KEY._replace(series_uid="9"), 20 * SECOND)
    outputs = run([arrival(1, 10), force, unknown, again, tick(200)])
    assert told(outputs) == [(1, "forced", 20, 1)]


def test_a_series_that_never_rests_gets_a_version_all_the_same() -> None:
    outputs = run([*(arrival(n, n * 50) for n in range(20)), tick(2000)])
    assert told(outputs) == [
        (1, "forced", 300, 6),
        (2, "forced", 600, 12),
        (3, "forced", 900, 18),
        (4, "idle", 1010, 20),
    ]


def test_series_of_other_datasets_are_other_series() -> None:
    other = KEY._replace(dataset_id="e")
    outputs = run([arrival(1, 0), arrival(1, 0, key=other), tick(100)])
    one, two = versions(outputs)
    assert one.set_hash == two.set_hash
    assert one.event_id != two.event_id


def test_a_series_takes_only_so_many_instances() -> None:
    setup = replace(SETTINGS, max_members=2)
    outputs = run([*(arrival(n, n) for n in (1, 2, 3, 1)), tick(100)], setup)
    refused = [output for output in outputs if isinstance(output, ArrivalRefused)]
    assert [output.instance_uid for output in refused] == ["1.2.3.3"]
    assert "2 instances" in refused[0].reason
    assert told(outputs) == [(1, "idle", 62, 2)]


@pytest.mark.parametrize("name", ["idle_seconds", "retain_hours", "max_series", "max_members"])
def test_settings_that_mean_nothing_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        CompletionSettings(**{name: 0})


# Event time.


def test_nothing_is_said_before_every_source_has_told_its_time() -> None:
    machine = SeriesCompletion(["0", "1"], SETTINGS)
    assert machine.feed([arrival(1, 0), tick(1000)]) == []
    assert machine.watermark_us is None
    assert told(machine.feed([tick(1000, "1")])) == [(1, "idle", 60, 1)]


def test_the_slowest_source_holds_the_others_back() -> None:
    machine = SeriesCompletion(["0", "1"], SETTINGS)
    machine.feed([arrival(1, 0), tick(1000), tick(20, "1")])
    assert machine.open_count == 1
    # What it still brings belongs to the first version, though source 0 is long past it.
    assert told(machine.feed([arrival(2, 30, source="1"), tick(1000, "1")])) == [(1, "idle", 90, 2)]
    assert min(machine.clocks.values(), key=lambda clock: clock or 0) == 990 * SECOND


def test_a_stamp_at_the_watermark_waits_for_company() -> None:
    machine = SeriesCompletion(["0", "1"], SETTINGS)
    here = [arrival(n, 10, expected_count=2) for n in (2, 3)]
    assert machine.feed([*here, tick(1000), tick(20, "1")]) == []
    assert machine.watermark_us == 10 * SECOND
    first, second = versions(
        machine.feed([arrival(1, 10, source="1", expected_count=2), tick(1000, "1")])
    )
    # The first two by name, whichever log was read first.
    members = Members()
    for one in (arrival(1, 10), arrival(2, 10)):
        members.add(one.instance_uid, one.image_id)
    assert first.set_hash == members.set_hash
    assert (first.reason, second.reason) == ("expected-count", "idle")


def test_a_source_that_nobody_named_is_refused() -> None:
    with pytest.raises(ValueError, match="'7' is not one of those"):
        run([tick(1, "7")])
    with pytest.raises(ValueError, match="at least one source"):
        Watermarks([], 0)


def test_a_record_behind_its_log_is_stamped_with_the_logs_time() -> None:
    marks = Watermarks(["0"], 10 * SECOND)
    assert marks.stamp("0", 100 * SECOND) == 100 * SECOND
    assert marks.stamp("0", 95 * SECOND) == 95 * SECOND
    assert marks.stamp("0", 5 * SECOND) == 90 * SECOND
    assert marks.low_us == 90 * SECOND


def test_moments_keep_their_microseconds() -> None:
    when = datetime(2026, 3, 4, 9, 18, 30, 123457, tzinfo=timezone.utc)
    assert moment(microseconds(when)) == when
    with pytest.raises(ValueError, match="time zone"):
        microseconds(when.replace(tzinfo=None))


# From events and to events.


def example(name: str) -> Any:
    kind = FileAnalyzed if name.startswith("files-analyzed") else FileSniffed
    return codec.decode((EXAMPLES / f"{name}.json").read_bytes(), kind)


def test_a_dicom_file_is_an_arrival_in_its_series() -> None:
    event = example("files-sniffed")
    record = record_of(event, "3")
    assert isinstance(record, Arrival)
    assert record.key == SeriesKey(event.tenant, event.dataset_id, event.dicom.series_uid)
    assert record.expected_count == event.header.images_in_acquisition == 240
    assert record.instance_number == 87
    assert moment(record.at_us) == event.received_at
    assert record == record_of(example("files-analyzed"), "3")
    # Found in an archive, it has its names from the header.
    assert record_of(event.model_copy(update={"dicom": None}), "3") == record


def test_a_picture_is_of_no_series_but_tells_the_time() -> None:
    event = example("files-sniffed.png")
    assert record_of(event, "3") == Tick("3", microseconds(event.received_at))


def test_a_nifti_file_is_a_series_of_its_own() -> None:
    event = example("files-sniffed.png").model_copy(update={"format": "nifti"})
    record = record_of(event, "3")
    assert isinstance(record, Arrival)
    assert (record.key.series_uid, record.is_whole) == (event.file_id, True)


def test_a_gateway_whose_clock_runs_ahead_does_not_take_the_partition_along() -> None:
    event = example("files-sniffed")
    ahead = event.model_copy(update={"received_at": event.processed_at + timedelta(days=365)})
    assert record_of(ahead, "3").at_us == microseconds(event.processed_at)


def test_the_event_of_a_version_names_no_clock() -> None:
    (version,) = versions(run([arrival(1, 0), tick(500)]))
    event = completed_event(version)
    assert event.event_id == version.event_id
    assert event.occurred_at == datetime(1970, 1, 1, 0, 1, tzinfo=timezone.utc)
    assert (event.series_uid, event.study_uid) == ("1.2.3", "1.2")
    assert codec.decode(codec.encode(event), type(event)) == event


# The set of a series.

PAIRS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3)), max_size=30)


@given(PAIRS, st.randoms(use_true_random=False))
def test_a_set_hash_depends_on_the_set_alone(
    pairs: list[tuple[int, int]], chance: random.Random
) -> None:
    def members_of(these: Iterable[tuple[int, int]]) -> Members:
        members = Members()
        for uid, image in these:
            assert members.add(f"1.{uid}", f"{image:064x}") == ((uid, image) not in seen)
            seen.add((uid, image))
        return members

    seen: set[tuple[int, int]] = set()
    members = members_of(pairs)
    shuffled = [*pairs, *pairs[:3]]
    chance.shuffle(shuffled)
    seen = set()
    other = members_of(shuffled)
    # Said independently of the code, as ClickHouse would.
    digests = sorted(
        hashlib.sha256(f"1.{uid}\x1f{image:064x}".encode()).digest() for uid, image in set(pairs)
    )
    assert members.set_hash == other.set_hash == hashlib.sha256(b"".join(digests)).hexdigest()
    assert members.instance_count == len({uid for uid, _ in pairs})
    assert members.member_count == len(set(pairs))
    packed = Members.unpack(members.pack())
    assert packed.pack() == members.pack() == other.pack()
    assert (packed.set_hash, packed.member_count) == (members.set_hash, members.member_count)
    assert all(packed.holds(f"1.{uid}", f"{image:064x}") for uid, image in pairs)
    assert not packed.holds("1.0", f"{9:064x}")


# Putting away, and coming back.


@dataclass
class Store:
    """What the agent keeps of series that were put away: all of it, by event time."""

    rows: dict[SeriesKey, list[SeriesPutAway]] = field(default_factory=lambda: defaultdict(list))
    asked: int = 0

    def keep(self, outputs: Iterable[Output]) -> None:
        for output in outputs:
            if isinstance(output, SeriesPutAway):
                self.rows[output.key].append(
                    replace(output, state=json.loads(json.dumps(output.state)))
                )

    def recall(self, key: SeriesKey, stamp_us: int) -> dict[str, Any] | None:
        self.asked += 1
        found = [row for row in self.rows[key] if row.at_us <= stamp_us]
        return max(found, key=lambda row: row.at_us).state if found else None


def test_a_series_is_put_away_and_a_very_late_instance_goes_on_from_there() -> None:
    store = Store()
    machine = SeriesCompletion(["0"], SETTINGS, store.recall)
    store.keep(machine.feed([arrival(1, 0), arrival(2, 1), tick(3700)]))
    assert (machine.series_count, len(store.rows[KEY])) == (0, 1)
    again, late = arrival(1, 4000), arrival(3, 4100)
    assert machine.unknown([again, tick(0)]) == {KEY}
    assert machine.feed([again, tick(4050)]) == []
    assert told(machine.feed([late, tick(4200)])) == [(2, "idle", 4160, 3)]


def test_a_replay_does_not_hear_of_what_it_has_yet_to_read() -> None:
    records = [arrival(1, 0), arrival(2, 8000), tick(8200), arrival(3, 20000), tick(40000)]
    store = Store()
    machine = SeriesCompletion(["0"], SETTINGS, store.recall)
    live: list[Output] = []
    for record in records:
        outputs = machine.feed([record])
        store.keep(outputs)
        live += outputs
    assert [row.at_us // SECOND for row in store.rows[KEY]] == [3660, 11660, 23660]
    replay = SeriesCompletion(["0"], SETTINGS, store.recall)
    # One batch: nothing that it puts away itself is kept in time; the live run's rows have to do.
    assert replay.feed(records) == live
    assert told(live) == [(1, "idle", 60, 1), (2, "idle", 8060, 2), (3, "idle", 20060, 3)]


def test_memory_is_bounded_in_series_and_what_is_put_away_early_is_not_lost() -> None:
    keys = [KEY._replace(series_uid=f"1.{n}") for n in range(40)]
    records: list[Record] = []
    for n, key in enumerate(keys):
        records += [arrival(k, 100 * n + k, key=key, expected_count=2) for k in (1, 2)]
    records += [arrival(3, 5000 + n, key=key) for n, key in enumerate(keys)]
    records += [tick(6000)]
    roomy = versions(run(records))
    store = Store()
    setup = replace(SETTINGS, max_series=5)
    machine = SeriesCompletion(["0"], setup, store.recall)
    narrow: list[SeriesVersion] = []
    most = 0
    for record in records:
        outputs = machine.feed([record])
        store.keep(outputs)
        narrow += versions(outputs)
        most = max(most, machine.series_count - machine.open_count)
    assert narrow == roomy
    assert len(narrow) == 80
    assert most <= 6


def test_what_was_touched_at_this_very_stamp_is_not_put_away_with_part_of_it() -> None:
    setup = replace(SETTINGS, max_series=1)
    other = KEY._replace(series_uid="1.2.4")
    pair = [arrival(n, 10, key=key, expected_count=2) for key in (KEY, other) for n in (1, 2)]
    records = [*pair, arrival(1, 50, key=other._replace(series_uid="1.2.5")), tick(500)]
    store = Store()
    machine = SeriesCompletion(["0"], setup, store.recall)
    live = machine.feed(records)
    store.keep(live)
    assert len(versions(live)) == 3
    assert sum(len(rows) for rows in store.rows.values()) >= 2
    assert SeriesCompletion(["0"], setup, store.recall).feed(records) == live


def test_a_state_of_another_format_is_refused() -> None:
    machine = SeriesCompletion(["0"], SETTINGS)
    with pytest.raises(ValueError, match="replay the topic"):
        machine.restore({"format": 0})


# Replay.


@dataclass
class Seen:
    """A series as the rule, and not the machine, sees it."""

    members: set[tuple[str, str]] = field(default_factory=set)
    versioned: int = 0
    changed: int | None = None
    last: int = 0
    expected: int | None = None
    void: bool = False


def by_the_rule(logs: dict[str, list[Record]], setup: CompletionSettings) -> set[tuple[Any, ...]]:
    """Versions after the text of the module: sort all stamped records, no heaps, no batches."""
    stamped: dict[SeriesKey, list[tuple[int, str, str, Arrival]]] = defaultdict(list)
    for log in logs.values():
        clock = None
        for record in log:
            reached = record.at_us - round(setup.disorder_seconds * SECOND)
            stamp = record.at_us if clock is None else max(record.at_us, clock)
            clock = reached if clock is None else max(clock, reached)
            if isinstance(record, Arrival):
                stamped[record.key].append((stamp, record.instance_uid, record.image_id, record))
    found: set[tuple[Any, ...]] = set()
    idle, longest = round(setup.idle_seconds * SECOND), round(setup.max_open_seconds * SECOND)
    for key, entries in stamped.items():
        seen = Seen()

        def close(key: SeriesKey, seen: Seen, reason: str, at: int) -> None:
            seen.versioned += 1
            seen.changed = None
            uids = len({uid for uid, _ in seen.members})
            found.add((key, seen.versioned, reason, at, uids, len(seen.members)))

        def let_time_pass(key: SeriesKey, seen: Seen, until: int) -> None:
            if seen.changed is not None:
                due = min(seen.last + idle, seen.changed + longest)
                if due <= until:
                    close(key, seen, "idle" if due == seen.last + idle else "forced", due)

        for stamp, uid, image, record in sorted(entries, key=lambda e: e[:3]):
            let_time_pass(key, seen, stamp)
            if (uid, image) in seen.members:
                continue
            seen.members.add((uid, image))
            seen.last = stamp
            seen.changed = stamp if seen.changed is None else seen.changed
            if record.expected_count is not None and record.expected_count >= 2:
                if seen.expected not in (None, record.expected_count):
                    seen.void = True
                seen.expected = record.expected_count
            if not seen.void and len({u for u, _ in seen.members}) == seen.expected:
                seen.void = True
                close(key, seen, "expected-count", stamp)
        let_time_pass(key, seen, 10**18)
    return found


@st.composite
def logs_of(draw: st.DrawFn) -> dict[str, list[Record]]:
    sources = ["0", "1", "2"][: draw(st.integers(1, 3))]
    logs: dict[str, list[Record]] = {source: [] for source in sources}
    now = 0
    for _ in range(draw(st.integers(1, 40))):
        now += draw(st.sampled_from([0, 1, 5, 20, 60, 61, 200]))
        # Some are late, some very.
        at = max(0, now - draw(st.sampled_from([0, 0, 0, 3, 10, 11, 150])))
        key = KEY._replace(series_uid=f"1.{draw(st.integers(0, 2))}")
        number = draw(st.integers(0, 5))
        image = draw(st.sampled_from(["", "", "", "other"]))
        expected = {"1.0": None, "1.1": 3, "1.2": draw(st.sampled_from([2, 2, 3]))}[key.series_uid]
        # One file always goes to one partition.
        source = sources[(number + len(image)) % len(sources)]
        logs[source].append(
            arrival(number, at, key=key, source=source, image=image, expected_count=expected)
        )
        if draw(st.booleans()):
            quiet = draw(st.sampled_from(sources))
            logs[quiet].append(tick(now, quiet))
    for source in sources:
        logs[source].append(tick(now + 10_000, source))
    return logs


def interleave(logs: dict[str, list[Record]], chance: random.Random) -> list[Record]:
    rest = {source: list(reversed(log)) for source, log in logs.items()}
    mixed = []
    while rest:
        source = chance.choice(sorted(rest))
        mixed.append(rest[source].pop())
        if not rest[source]:
            del rest[source]
    return mixed


def replay(
    logs: dict[str, list[Record]],
    chance: random.Random,
    setup: CompletionSettings,
    *,
    restart_chance: float = 0.3,
    store: Store | None = None,
) -> list[Output]:
    """Read the logs in some interleaving and batches, with restarts from the written state."""
    store = store or Store()
    machine = SeriesCompletion(sorted(logs), setup, store.recall)
    mixed = interleave(logs, chance)
    outputs: list[Output] = []
    while mixed:
        size = chance.choice([1, 1, 2, 5, 50])
        batch, mixed = mixed[:size], mixed[size:]
        new = machine.feed(batch)
        store.keep(new)
        outputs += new
        if chance.random() < restart_chance:
            written = json.dumps(machine.snapshot())
            machine = SeriesCompletion(sorted(logs), setup, store.recall)
            machine.restore(json.loads(written))
            assert json.dumps(machine.snapshot()) == written
    assert machine.pending_count == 0
    return outputs


@settings(max_examples=60, deadline=None)
@given(
    logs_of(),
    st.lists(st.integers(0, 2**32), min_size=2, max_size=3, unique=True),
    st.sampled_from([0.02, 0.05, 24.0]),
    st.sampled_from([1, 100]),
)
def test_a_replay_says_the_same_in_the_same_order(
    logs: dict[str, list[Record]], seeds: Sequence[int], retain_hours: float, max_series: int
) -> None:
    setup = replace(SETTINGS, retain_hours=retain_hours, max_series=max_series)
    # The later runs find in the store what the earlier ones put there.
    store = Store()
    runs = [replay(logs, random.Random(seed), setup, store=store) for seed in seeds]
    assert all(outputs == runs[0] for outputs in runs)
    at = [output.at_us for output in runs[0]]
    assert at == sorted(at)
    made = {
        (
            v.key,
            v.version,
            v.reason,
            v.at_us,
            v.instance_count,
            v.instance_count + v.conflict_count,
        )
        for v in versions(runs[0])
    }
    assert made == by_the_rule(logs, setup)


def laid_over(state: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A snapshot kept as rows, one a series, into which each batch's changes are written."""
    rows = {tuple(key): value for key, value in state.get("series", [])}
    rows.update({tuple(key): value for key, value in changes["series"]})
    for key in changes["gone"]:
        rows.pop(tuple(key), None)
    series = [[list(key), value] for key, value in sorted(rows.items())]
    return {**changes, "series": series}


@settings(max_examples=40, deadline=None)
@given(logs_of(), st.integers(0, 2**32), st.sampled_from([0.05, 24.0]))
def test_a_crash_between_any_two_writes_changes_no_version(
    logs: dict[str, list[Record]], seed: int, retain_hours: float
) -> None:
    chance = random.Random(seed)
    setup = replace(SETTINGS, retain_hours=retain_hours)
    expected = versions(replay(logs, chance, setup))
    store, made = Store(), {}
    machine = SeriesCompletion(sorted(logs), setup, store.recall)
    kept: dict[str, Any] = {"format": 1, "clocks": {}, "series": [], "pending": []}
    mixed = interleave(logs, chance)
    while mixed:
        size = chance.choice([1, 2, 5, 20])
        # What is put away is stored, versions are emitted, changes are written, offsets committed.
        outputs = machine.feed(mixed[:size])
        crash = chance.choice([None, None, "before storing", "before writing", "before committing"])
        if crash != "before storing":
            store.keep(outputs)
            for version in versions(outputs):
                assert made.setdefault(version.event_id, version) == version
            if crash != "before writing":
                kept = json.loads(json.dumps(laid_over(kept, machine.take_changes())))
        if crash is None:
            mixed = mixed[size:]
            continue
        machine = SeriesCompletion(sorted(logs), setup, store.recall)
        machine.restore(kept)
    assert sorted(made.values(), key=lambda v: (v.at_us, v.key, v.version)) == sorted(
        expected, key=lambda v: (v.at_us, v.key, v.version)
    )


@settings(max_examples=30, deadline=None)
@given(logs_of(), st.integers(0, 2**32))
def test_ticks_that_keep_their_promise_change_no_version(
    logs: dict[str, list[Record]], seed: int
) -> None:
    """A live run ticks quiet logs; a replay may know nothing of it."""
    setup = replace(SETTINGS, retain_hours=0.05)
    ticked: dict[str, list[Record]] = {}
    for source, log in logs.items():
        after = [record.at_us for record in log]
        ticked[source] = []
        for n, record in enumerate(log):
            # The latest time that all that follow, and their log, are past of.
            ticked[source] += [Tick(source, min(after[n:])), record]
    live = replay(ticked, random.Random(seed), setup)
    assert versions(live) == versions(replay(logs, random.Random(seed + 1), setup))
