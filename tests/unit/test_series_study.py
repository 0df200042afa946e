"""When a study is complete, and which series it must have."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.series.outputs import Output, SeriesOpened, SeriesVersion
from streams.series.records import SeriesKey, StudyKey
from streams.series.rules import RulesError, SeriesFacts, StudyRules, parse_rules
from streams.series.study import (
    StudyCompletion,
    StudyOutput,
    StudyPutAway,
    StudySettings,
    StudyVersion,
)

SECOND = 1_000_000
SETTINGS = StudySettings(idle_seconds=600, retain_hours=1)
STUDY = StudyKey("t", "d", "1.2")
TERMS = {"chest", "axial", "thin-slice", "localizer", "contrast"}

RULES = """
[[study]]
kind = "chest-ct"
when.modality = ["CT"]
when.terms = ["chest"]

[[study.requires]]
name = "thin slices"
modality = ["CT"]
terms = ["thin-slice"]
any_terms = ["axial", "contrast"]
instances_at_least = 40

[[study.requires]]
name = "localizer"
terms = ["localizer"]

[[study]]
kind = "any"
[[study.requires]]
name = "two series"
series_at_least = 2
"""


def rules() -> StudyRules:
    return parse_rules(RULES, source="rules.toml", known_terms=TERMS)


def opened(series: str, at: float, study: str = "1.2") -> SeriesOpened:
    return SeriesOpened(SeriesKey("t", "d", series), study, round(at * SECOND))


def completed(
    series: str,
    at: float,
    version: int = 1,
    count: int = 1,
    modality: str = "MR",
    terms: tuple[str, ...] = (),
    study: str = "1.2",
) -> SeriesVersion:
    at_us = round(at * SECOND)
    return SeriesVersion(
        key=SeriesKey("t", "d", series),
        study_uid=study,
        version=version,
        reason="idle",
        at_us=at_us,
        instance_count=count,
        conflict_count=0,
        set_hash=f"{hash((series, version)) % 2**64:064x}",
        expected_count=None,
        lowest_number=None,
        highest_number=None,
        modalities=((modality, count),),
        terms=terms,
        first_us=at_us,
        last_us=at_us,
    )


def told(outputs: Iterable[StudyOutput]) -> list[tuple[Any, ...]]:
    return [
        (v.version, v.reason, v.at_us / SECOND, len(v.series), v.missing)
        for v in outputs
        if isinstance(v, StudyVersion)
    ]


def run(outputs: Iterable[Output], until: float, rules: StudyRules | None = None) -> Any:
    return StudyCompletion(rules, SETTINGS).feed(outputs, round(until * SECOND))


# Completion.


def test_a_quiet_study_is_complete_when_its_last_series_was_for_a_while() -> None:
    outputs = [opened("1", 0), opened("2", 10), completed("1", 60), completed("2", 90)]
    assert told(run(outputs, 689)) == []
    (version,) = run(outputs, 690)
    assert told([version]) == [(1, "idle", 690, 2, ())]
    assert (version.series, version.instance_count, version.kind) == ((("1", 1), ("2", 1)), 2, None)


def test_an_open_series_keeps_its_study_open() -> None:
    outputs = [opened("1", 0), opened("2", 10), completed("1", 60)]
    assert told(run(outputs, 100_000)) == []
    assert told(run([*outputs, completed("2", 5000)], 5600)) == [(1, "idle", 5600, 2, ())]


def test_a_late_series_makes_the_next_version() -> None:
    outputs = [opened("1", 0), completed("1", 60), opened("2", 1000), completed("2", 1060)]
    assert told(run(outputs, 2000)) == [(1, "idle", 660, 1, ()), (2, "idle", 1660, 2, ())]
    changed = [opened("1", 0), completed("1", 60), opened("1", 1000), completed("1", 1060, 2)]
    first, second = run(changed, 2000)
    assert (first.series, second.series) == ((("1", 1),), (("1", 2),))
    assert first.set_hash != second.set_hash
    assert first.event_id != second.event_id


def test_a_study_with_all_it_must_have_is_complete_at_once_and_once() -> None:
    thin = {"count": 40, "modality": "CT", "terms": ("chest", "axial", "thin-slice")}
    outputs = [
        opened("1", 0),
        opened("2", 5),
        completed("1", 60, **thin),
        completed("2", 70, modality="CT", terms=("localizer",)),
        opened("3", 200),
        completed("3", 260, modality="CT"),
    ]
    made = run(outputs, 2000, rules())
    assert told(made) == [(1, "required-series", 70, 2, ()), (2, "idle", 860, 3, ())]
    assert {version.kind for version in made} == {"chest-ct"}


def test_what_is_missing_is_said_in_words() -> None:
    outputs = [
        opened("1", 0),
        completed("1", 60, count=39, modality="CT", terms=("chest", "axial", "thin-slice")),
    ]
    (version,) = run(outputs, 1000, rules())
    assert version.missing == ("thin slices: 0 of 1 series", "localizer: 0 of 1 series")
    (version,) = run([opened("1", 0), completed("1", 60)], 1000, rules())
    assert (version.kind, version.missing) == ("any", ("two series: 1 of 2 series",))


def test_a_study_is_put_away_and_goes_on_when_a_series_comes_late() -> None:
    kept: dict[StudyKey, StudyPutAway] = {}

    def recall(key: StudyKey, at_us: int) -> Any:
        return kept[key].state if key in kept and kept[key].at_us <= at_us else None

    machine = StudyCompletion(None, SETTINGS, recall)
    outputs = machine.feed([opened("1", 0), completed("1", 60)], 5000 * SECOND)
    away = [output for output in outputs if isinstance(output, StudyPutAway)]
    assert [output.at_us for output in away] == [(660 + 3600) * SECOND]
    assert machine.study_count == 0
    kept[STUDY] = away[0]
    late = machine.feed([opened("2", 6000), completed("2", 6060)], 7000 * SECOND)
    assert told(late) == [(2, "idle", 6660, 2, ())]


def test_a_study_takes_only_so_many_series_and_says_so() -> None:
    machine = StudyCompletion(None, StudySettings(max_series=2))
    outputs = [o for n in range(3) for o in (opened(str(n), n), completed(str(n), n + 0.5))]
    (version,) = machine.feed(outputs, 2000 * SECOND)
    assert (len(version.series), version.is_truncated) == (2, True)


def test_a_file_without_a_study_makes_none() -> None:
    assert run([opened("1", 0, ""), completed("1", 1, study="")], 10_000) == []


def test_settings_and_states_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="idle_seconds"):
        StudySettings(idle_seconds=0)
    with pytest.raises(ValueError, match="replay the topic"):
        StudyCompletion().restore({"format": "x"})


@st.composite
def stories(draw: st.DrawFn) -> list[Output]:
    now = 0
    versions: dict[str, int] = {}
    open_series: set[str] = set()
    story: list[Output] = []
    for _ in range(draw(st.integers(1, 25))):
        now += draw(st.sampled_from([1, 30, 599, 600, 601, 4000]))
        series = draw(st.sampled_from(["1", "2", "3", "4"]))
        study = {"1": "a", "2": "a", "3": "b", "4": ""}[series]
        if series in open_series:
            open_series.discard(series)
            versions[series] = versions.get(series, 0) + 1
            terms = draw(st.sampled_from([(), ("chest",), ("localizer",)]))
            story.append(completed(series, now, versions[series], 50, "CT", terms, study))
        else:
            open_series.add(series)
            story.append(opened(series, now, study))
    return story


@settings(max_examples=80, deadline=None)
@given(stories(), st.integers(0, 2**32))
def test_batches_and_restarts_change_nothing(story: list[Output], seed: int) -> None:
    chance = random.Random(seed)
    end = story[-1].at_us + 10**12
    kept: dict[StudyKey, list[StudyPutAway]] = {}

    def recall(key: StudyKey, at_us: int) -> Any:
        found = [row for row in kept.get(key, []) if row.at_us <= at_us]
        return found[-1].state if found else None

    whole = StudyCompletion(rules(), SETTINGS).feed(story, end)
    made: list[StudyOutput] = []
    rows: dict[tuple[str, ...], Any] = {}
    machine = StudyCompletion(rules(), SETTINGS, recall)
    rest = list(story)
    while rest:
        size = chance.randint(1, 4)
        batch, rest = rest[:size], rest[size:]
        # The watermark may lie anywhere between what was said and what is still to say.
        later = rest[0].at_us if rest else end
        new = machine.feed(batch, chance.choice([batch[-1].at_us, later, None]))
        for output in new:
            if isinstance(output, StudyPutAway):
                kept.setdefault(output.key, []).append(output)
        made += new
        changes = json.loads(json.dumps(machine.take_changes()))
        rows.update({tuple(key): value for key, value in changes["studies"]})
        for key in changes["gone"]:
            rows.pop(tuple(key), None)
        snapshot = json.loads(json.dumps(machine.snapshot()))
        assert snapshot["studies"] == [[list(key), rows[key]] for key in sorted(rows)]
        if chance.random() < 0.5:
            machine = StudyCompletion(rules(), SETTINGS, recall)
            machine.restore(snapshot)
    made += machine.feed([], end)
    assert made == whole


# Rules.


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[study]\n", "is no TOML"),
        ("study = 3", "study:"),
        ("[[study]]\nkind = 'x'", "study[1].requires: is missing; write [[study.requires]]"),
        (
            "[[study]]\nkind = 'x'\n[[study.requires]]\nname = 'a'\n"
            "[[study.requires]]\nname = 'b'\nmodalty = ['CT']",
            "study[1].requires[2].modalty: there is no such key; did you mean modality?",
        ),
        (
            "[[study]]\nkind = 'x'\n[[study.requires]]\nname = 'a'\nmodality = 'CT'",
            "study[1].requires[1].modality: ",
        ),
        (
            "[[study]]\nkind = 'x'\n[[study.requires]]\nname = 'a'\ninstances_at_least = 0",
            "write instances_at_least = 40",
        ),
        (
            "[[study]]\nkind = 'x'\n[[study.requires]]\nname = 'a'\nterms = ['thin-slise']",
            "study[1].requires[1].terms: 'thin-slise' is no term of the vocabulary; "
            "near it are thin-slice",
        ),
        (
            "[[study]]\nkind = 'x'\n[[study.requires]]\nname = 'a'\n" * 2,
            "study[2].kind: 'x' is the kind of an earlier rule",
        ),
        ("#" * (1 << 19), "rules take at most"),
    ],
)
def test_rules_that_cannot_be_used_say_where_and_what_to_write(text: str, says: str) -> None:
    with pytest.raises(RulesError) as caught:
        parse_rules(text, source="rules.toml", known_terms=TERMS)
    assert says in str(caught.value)
    assert str(caught.value).startswith("rules.toml")


@given(st.text(max_size=200))
def test_no_text_does_anything_but_parse_or_be_refused(text: str) -> None:
    try:
        parse_rules(text, source="x")
    except RulesError as error:
        assert str(error).startswith("x")


def test_the_first_rule_that_fits_is_the_studys() -> None:
    series = [SeriesFacts("1", 1, frozenset({"CT"}), frozenset({"chest"}))]
    assert getattr(rules().rule_for(series), "kind", None) == "chest-ct"
    series = [SeriesFacts("1", 1, frozenset({"CT"}), frozenset({"axial"}))]
    assert getattr(rules().rule_for(series), "kind", None) == "any"
    assert StudyRules().rule_for(series) is None
