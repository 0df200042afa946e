"""What people say about a file: which word holds, what it tells of calibration, what is learned."""

from __future__ import annotations

import random
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import schemas
from schemas import codec
from schemas.events import Feedback
from streams.series.feedback import (
    Correction,
    FeedbackError,
    Label,
    LabelKey,
    apply_correction,
    checked_value,
    resolve,
)
from streams.series.reliability import bin_of, count_reliability
from streams.series.training import MANIFEST_COLUMNS, LabelledFile, training_rows

EXAMPLES = Path(schemas.__file__).parent / "examples"
NOON = datetime(2026, 3, 4, 12, tzinfo=timezone.utc)
KEY = LabelKey("default", "file-1", "modality")


def feedback(
    value: str,
    minutes: float = 0,
    *,
    author: str = "ann",
    event_id: str | None = None,
    file_id: str = "file-1",
    field: str = "modality",
) -> Feedback:
    return Feedback(
        event_id=event_id or f"{value}-{minutes}-{author}",
        occurred_at=NOON + timedelta(minutes=minutes),
        trace_id="0" * 32,
        file_id=file_id,
        field=field,  # type: ignore[arg-type]
        value=value,
        author=author,
    )


# Which word holds.


def test_a_correction_is_kept_with_who_and_when() -> None:
    event = codec.decode((EXAMPLES / "feedback.json").read_bytes(), Feedback)
    ((key, correction),) = resolve([event]).items()
    assert key == LabelKey("default", event.file_id, "modality")
    assert (correction.value, correction.author) == ("DX", "curator-3")
    assert (correction.corrected_at, correction.event_id) == (event.occurred_at, event.event_id)
    label = apply_correction("CR", 0.8, correction)
    assert (label.value, label.analysed, label.confidence) == ("DX", "CR", 0.8)
    assert label.is_confirmed is False


def test_the_later_word_holds_and_of_two_at_once_the_greater_id() -> None:
    early, late = feedback("CT", 0), feedback("MR", 5, author="bob")
    assert resolve([late, early])[KEY].value == "MR"
    assert resolve([late, early])[KEY].overruled_count == 1
    tie = [feedback("CT", event_id="a"), feedback("MR", event_id="b")]
    assert resolve(tie)[KEY].value == resolve(tie[::-1])[KEY].value == "MR"


def test_a_dispute_is_one_between_people() -> None:
    assert resolve([feedback("CT"), feedback("MR", 1, author="bob")])[KEY].is_disputed
    assert not resolve([feedback("CT"), feedback("MR", 1)])[KEY].is_disputed
    assert not resolve([feedback("CT"), feedback("CT", 1, author="bob")])[KEY].is_disputed


def test_fields_and_files_are_corrected_apart() -> None:
    events = [feedback("CT"), feedback("yes", field="outlier"), feedback("MR", file_id="file-2")]
    assert {key[1:]: c.value for key, c in resolve(events).items()} == {
        ("file-1", "modality"): "CT",
        ("file-1", "outlier"): "yes",
        ("file-2", "modality"): "MR",
    }


def test_an_empty_word_withdraws() -> None:
    correction = resolve([feedback("CT"), feedback(" ", 1)])[KEY]
    assert correction.value is None
    label = apply_correction("MR", 0.7, correction)
    assert (label.value, label.is_confirmed) == ("MR", None)
    assert label.correction is correction
    # And one may say something again.
    assert resolve([feedback("CT"), feedback("", 1), feedback("PT", 2)])[KEY].value == "PT"


def test_without_a_word_the_machine_holds() -> None:
    label = apply_correction("MR", 0.7, None)
    assert (label.value, label.is_confirmed) == ("MR", None)
    confirmed = apply_correction("MR", 0.7, resolve([feedback("MR")])[KEY])
    assert confirmed.is_confirmed is True


@given(
    st.lists(
        st.builds(
            feedback,
            st.sampled_from(["CT", "MR", ""]),
            st.integers(0, 3),
            author=st.sampled_from(["ann", "bob"]),
            file_id=st.sampled_from(["file-1", "file-2"]),
        ),
        max_size=12,
    ),
    st.randoms(use_true_random=False),
)
def test_order_and_repetition_do_not_matter(events: list[Feedback], chance: random.Random) -> None:
    again = [*events, *events[:4]]
    chance.shuffle(again)
    assert resolve(again) == resolve(events)
    assert list(resolve(again)) == sorted(resolve(events))


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("modality", " ct ", "CT"),
        ("modality", "non medical", "NON-MEDICAL"),
        ("modality", "", ""),
        ("outlier", "Yes", "yes"),
        ("body_part", "Left Knee", "Left Knee"),
    ],
)
def test_values_are_brought_to_their_form(field: str, value: str, expected: str) -> None:
    assert checked_value(field, value, {"modality": ["CT", "MR", "NON-MEDICAL"]}) == expected


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("modality", "CTT", "'CTT' is no modality; write one of: CT"),
        ("outlier", "perhaps", "write one of: no, yes"),
        ("colour", "red", "cannot be corrected; there are: modality"),
    ],
)
def test_values_that_cannot_hold_say_what_can(field: str, value: str, says: str) -> None:
    with pytest.raises(FeedbackError) as caught:
        checked_value(field, value, {"modality": ["CT", "MR"]})
    assert says in str(caught.value)


# Calibration.


def label(analysed: str | None, confidence: float | None, value: str | None) -> Label:
    correction = Correction(KEY, value, "ann", NOON, "e")
    return apply_correction(analysed, confidence, correction)


def test_correct_and_incorrect_are_counted_by_confidence() -> None:
    labels = [
        label("CT", 0.95, "CT"),
        label("CT", 0.91, "CT"),
        label("CT", 0.93, "MR"),
        label("CT", 1.0, "CT"),
        label("MR", 0.31, "CT"),
        label("MR", None, "CT"),
        label("MR", None, "MR"),
        label("MR", 0.5, None),
        label(None, 0.5, "MR"),
        Label("MR", "MR", 0.99),
    ]
    counts = count_reliability(labels)
    assert [(b.correct_count, b.incorrect_count) for b in counts.bins if b.count] == [
        (0, 1),
        (3, 1),
    ]
    assert (counts.bins[3].count, counts.bins[9].count, counts.count) == (1, 4, 5)
    assert (counts.unbinned_correct_count, counts.unbinned_incorrect_count) == (1, 1)
    assert counts.bins[9].accuracy == 0.75
    assert counts.bins[0].accuracy is None
    assert counts.calibration_error == pytest.approx((0.31 + abs(3 - 3.79)) / 5)
    assert count_reliability([]).calibration_error is None


def test_two_codes_of_one_family_may_be_the_same() -> None:
    family = {"CR": "DX", "DX": "DX", "CT": "CT"}
    counts = count_reliability([label("CR", 0.9, "DX")], lambda a, b: family[a] == family[b])
    assert counts.bins[9].correct_count == 1


def test_an_interval_holds_the_share_and_narrows() -> None:
    few = count_reliability([label("CT", 0.9, "CT")] * 3 + [label("CT", 0.9, "MR")]).bins[9]
    many = count_reliability(([label("CT", 0.9, "CT")] * 3 + [label("CT", 0.9, "MR")]) * 50).bins[9]
    # As scipy.stats.binomtest(3, 4).proportion_ci(method="wilson") has it.
    assert few.accuracy_interval == pytest.approx((0.3006, 0.9544), abs=1e-4)
    assert many.accuracy_interval[1] - many.accuracy_interval[0] < 0.13
    assert count_reliability([]).bins[0].accuracy_interval == (0, 1)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=40), st.integers(0, 40))
def test_counts_of_parts_add_up(said: list[tuple[float, bool]], cut: int) -> None:
    labels = [label("CT", confidence, "CT" if right else "MR") for confidence, right in said]
    whole, parts = count_reliability(labels), count_reliability(labels[:cut])
    parts = parts + count_reliability(labels[cut:])
    assert whole.count == parts.count == len(said)
    for one, two in zip(whole.bins, parts.bins, strict=True):
        assert (one.correct_count, one.incorrect_count) == (two.correct_count, two.incorrect_count)
        assert one.confidence_sum == pytest.approx(two.confidence_sum)
    for confidence, _ in said:
        found = whole.bins[bin_of(confidence)]
        assert found.low <= confidence <= found.high or confidence == pytest.approx(found.high)
        assert found.count


# Training.


def labelled(
    image: str, value: str | None, file_id: str = "f1", *, disputed: bool = False, tenant: str = "t"
) -> LabelledFile:
    correction = Correction(KEY, value, "ann", NOON, "e1", is_disputed=disputed)
    return LabelledFile(
        tenant=tenant,
        dataset_id="d",
        file_id=file_id,
        image_id=image * 64,
        relpath=f"folder/{file_id}",
        label=apply_correction("CT", 0.625, correction),
        patient_key=f"patient-{image}",
        licence="CC-BY-4.0",
    )


def test_what_people_said_is_what_is_learned_next() -> None:
    made = training_rows([labelled("b", "MR"), labelled("a", "CT", "f2")])
    assert [row["label"] for row in made.rows] == ["CT", "MR"]
    row = made.rows[1]
    assert tuple(row) == MANIFEST_COLUMNS
    assert row == {
        "path": f"bb/{'b' * 64}",
        "label": "MR",
        "source": "patient-b",
        "licence": "CC-BY-4.0",
        "relpath": "folder/f1",
        "dataset_id": "d",
        "file_id": "f1",
        "image_id": "b" * 64,
        "analysed": "CT",
        "confidence": "0.625",
        "author": "ann",
        "corrected_at": "2026-03-04T12:00:00+00:00",
        "event_id": "e1",
    }


def test_what_nobody_said_or_people_disagree_on_is_not_learned() -> None:
    silent = LabelledFile("t", "d", "f9", "9" * 64, "x", Label("CT", "CT", 0.9))
    made = training_rows(
        [
            silent,
            labelled("8", None),
            labelled("a", "MR", disputed=True),
            labelled("b", "MR"),
            labelled("b", "CT", "f2"),
            labelled("c", "MR", "f4"),
            labelled("c", "MR", "f3"),
        ]
    )
    assert [(row["image_id"][0], row["file_id"]) for row in made.rows] == [("c", "f3")]
    assert (made.disputed_count, made.contradicted_count) == (1, 1)


def test_tenants_are_not_mixed() -> None:
    with pytest.raises(ValueError, match="tenants t, u"):
        training_rows([labelled("a", "MR"), labelled("b", "MR", tenant="u")])
