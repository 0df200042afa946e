"""What people say about a file, laid over what was said by machine.

Corrections are kept, all of them. Of those on one field of one file the one with the latest event
time holds; of two at the same time the one with the greater event_id, so that every reader and
every replay agrees. An empty value withdraws: the machine's label stands again.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, NamedTuple, get_args

from schemas.events import Feedback

LabelField = Literal["modality", "body_part", "view_position", "outlier"]
LABEL_FIELDS: Final[tuple[str, ...]] = get_args(LabelField)
OUTLIER_VALUES: Final = ("no", "yes")


class FeedbackError(ValueError):
    """A correction that cannot hold; the message says what to write."""


class LabelKey(NamedTuple):
    """One field of one file."""

    tenant: str
    file_id: str
    field: str


@dataclass(frozen=True, slots=True)
class Correction:
    """The correction that holds for a field of a file.

    Parameters
    ----------
    key : LabelKey
        What it corrects.
    value : str or None
        The label; None if the correction was withdrawn.
    author : str
        Who.
    corrected_at : datetime
        When, UTC: the event's time.
    event_id : str
        The event that says so.
    overruled_count : int
        Earlier corrections of the same field that it overrules.
    is_disputed : bool
        Whether one of them, by somebody else, said something different.
    """

    key: LabelKey
    value: str | None
    author: str
    corrected_at: datetime
    event_id: str
    overruled_count: int = 0
    is_disputed: bool = False


@dataclass(frozen=True, slots=True)
class Label:
    """What holds for a field of a file: the machine's word, or a person's over it.

    Parameters
    ----------
    value : str or None
        What holds.
    analysed : str or None
        What the machine said.
    confidence : float or None
        How sure the machine was.
    correction : Correction or None
        Who changed or confirmed it, and when.
    """

    value: str | None
    analysed: str | None
    confidence: float | None = None
    correction: Correction | None = None

    @property
    def is_confirmed(self) -> bool | None:
        """Whether a person agrees with the machine; None if nobody said."""
        if self.correction is None or self.correction.value is None:
            return None
        return self.correction.value == self.analysed


def checked_value(field: str, value: str, known: Mapping[str, Collection[str]]) -> str:
    """Bring the value of a correction to the form in which labels are kept.

    Parameters
    ----------
    field : str
        Which label.
    value : str
        What was written; empty to withdraw.
    known : mapping
        Field to the values that it can have; a field without values takes any.

    Returns
    -------
    str
        The known value that differs in case, spaces and ``_`` at most.

    Raises
    ------
    FeedbackError
        If there is no such field, or the field no such value.
    """
    if field not in LABEL_FIELDS:
        msg = f"{field!r} cannot be corrected; there are: {', '.join(LABEL_FIELDS)}"
        raise FeedbackError(msg)
    written = value.strip()
    values = OUTLIER_VALUES if field == "outlier" else known.get(field, ())
    if not written or not values:
        return written
    by_form = {_form(one): one for one in values}
    found = by_form.get(_form(written))
    if found is None:
        near = difflib.get_close_matches(_form(written), by_form, n=3)
        names = sorted(by_form[form] for form in near) or sorted(values)[:16]
        msg = f"{written[:64]!r} is no {field}; write one of: {', '.join(names)}"
        raise FeedbackError(msg)
    return found


def resolve(events: Iterable[Feedback]) -> dict[LabelKey, Correction]:
    """Find the correction that holds for each field of each file.

    Parameters
    ----------
    events : iterable of Feedback
        In any order; the same event again changes nothing.

    Returns
    -------
    dict
        Corrections by what they correct, in the order of the keys.
    """
    said: dict[LabelKey, dict[str, Feedback]] = {}
    for event in events:
        key = LabelKey(event.tenant, event.file_id, event.field)
        said.setdefault(key, {})[event.event_id] = event
    return {key: _holding(key, said[key].values()) for key in sorted(said)}


def apply_correction(
    analysed: str | None, confidence: float | None, correction: Correction | None
) -> Label:
    """Lay a correction over what the machine said."""
    if correction is None or correction.value is None:
        return Label(analysed, analysed, confidence, correction)
    return Label(correction.value, analysed, confidence, correction)


def _holding(key: LabelKey, events: Iterable[Feedback]) -> Correction:
    ordered = sorted(events, key=lambda event: (event.occurred_at, event.event_id))
    last = ordered[-1]
    return Correction(
        key=key,
        value=last.value.strip() or None,
        author=last.author,
        corrected_at=last.occurred_at,
        event_id=last.event_id,
        overruled_count=len(ordered) - 1,
        is_disputed=any(
            event.author != last.author and event.value.strip() != last.value.strip()
            for event in ordered[:-1]
        ),
    )


def _form(value: str) -> str:
    return value.strip().upper().replace("_", "-").replace(" ", "-")
