"""Which series a study must have, by its kind: a small file of rules, checked when it is read.

.. code-block:: toml

    [[study]]
    kind = "chest-ct"
    when.modality = ["CT"]          # one of these among the study's series
    when.terms = ["chest"]          # all of these among its descriptions

    [[study.requires]]
    name = "thin axial slices"
    modality = ["CT"]               # one of these
    terms = ["thin-slice"]          # all of these
    any_terms = ["axial", "chest"]  # one of these
    instances_at_least = 40
    series_at_least = 1

The first rule whose ``when`` fits a study is the study's.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAX_FILE_CHARS: Final = 1 << 18
_MAX_FAULTS: Final = 20

_Modality = Annotated[str, Field(min_length=1, max_length=16, pattern=r"^[A-Z0-9_-]+$")]
_Term = Annotated[str, Field(min_length=1, max_length=64)]
_Name = Annotated[str, Field(min_length=1, max_length=64)]

# What to write for a key that is missing or wrong.
_EXAMPLES: Final = {
    "study": "[[study]], one table for each kind of study",
    "kind": 'kind = "chest-ct"',
    "when": 'when.modality = ["CT"]',
    "requires": "[[study.requires]], one table for each series that must be there",
    "name": 'name = "thin axial slices"',
    "modality": 'modality = ["CT"]: codes in capitals, in a list',
    "terms": 'terms = ["chest"]: words of the vocabulary, in a list',
    "any_terms": 'any_terms = ["axial", "chest"]: words of the vocabulary, in a list',
    "instances_at_least": "instances_at_least = 40",
    "series_at_least": "series_at_least = 1",
}


class RulesError(ValueError):
    """The rules cannot be used; the message says where and what to write."""


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


@dataclass(frozen=True, slots=True)
class SeriesFacts:
    """What rules ask of a completed series.

    Parameters
    ----------
    series_uid : str
        Which series.
    instance_count : int
        Its instances.
    modalities, terms : frozenset of str
        Of all its headers together.
    """

    series_uid: str
    instance_count: int
    modalities: frozenset[str]
    terms: frozenset[str]


class RequiredSeries(_Table):
    """A series that a study must have."""

    name: _Name
    modality: tuple[_Modality, ...] = Field(default=(), max_length=16)
    terms: tuple[_Term, ...] = Field(default=(), max_length=16)
    any_terms: tuple[_Term, ...] = Field(default=(), max_length=32)
    instances_at_least: int = Field(default=1, ge=1, le=1_000_000)
    series_at_least: int = Field(default=1, ge=1, le=1_000)

    def count(self, series: Sequence[SeriesFacts]) -> int:
        """Count the series that will do."""
        return sum(self._fits(one) for one in series)

    def missing(self, series: Sequence[SeriesFacts]) -> str | None:
        """Say in words what is missing; None when nothing is."""
        found = self.count(series)
        if found >= self.series_at_least:
            return None
        return f"{self.name}: {found} of {self.series_at_least} series"

    def _fits(self, series: SeriesFacts) -> bool:
        return (
            series.instance_count >= self.instances_at_least
            and (not self.modality or not series.modalities.isdisjoint(self.modality))
            and series.terms.issuperset(self.terms)
            and (not self.any_terms or not series.terms.isdisjoint(self.any_terms))
        )


class _When(_Table):
    modality: tuple[_Modality, ...] = Field(default=(), max_length=16)
    terms: tuple[_Term, ...] = Field(default=(), max_length=16)


class StudyRule(_Table):
    """What a kind of study is told by, and the series that it must have."""

    kind: _Name
    when: _When = _When()
    requires: tuple[RequiredSeries, ...] = Field(min_length=1, max_length=64)

    def fits(self, series: Sequence[SeriesFacts]) -> bool:
        """Tell whether a study with these series is of this kind."""
        modalities = frozenset().union(*(one.modalities for one in series))
        terms = frozenset().union(*(one.terms for one in series))
        return (
            not self.when.modality or not modalities.isdisjoint(self.when.modality)
        ) and terms.issuperset(self.when.terms)

    def missing(self, series: Sequence[SeriesFacts]) -> tuple[str, ...]:
        """Say in words which required series are missing."""
        faults = (required.missing(series) for required in self.requires)
        return tuple(fault for fault in faults if fault is not None)


class StudyRules(_Table):
    """All rules, in the order in which they are tried."""

    study: tuple[StudyRule, ...] = Field(default=(), max_length=256)

    def rule_for(self, series: Sequence[SeriesFacts]) -> StudyRule | None:
        """Return the first rule that fits a study with these series."""
        return next((rule for rule in self.study if rule.fits(series)), None)


def parse_rules(
    text: str, *, source: str, known_terms: Collection[str] | None = None
) -> StudyRules:
    """Read rules from the text of a TOML file.

    Parameters
    ----------
    text : str
        See the module's description.
    source : str
        Name of the file, for messages.
    known_terms : collection of str or None
        The vocabulary of description terms; a rule with another word could never be met.

    Raises
    ------
    RulesError
        If it is no TOML, or says what no rule can mean. All faults are named, up to 20.
    """
    if len(text) > MAX_FILE_CHARS:
        msg = f"{source} has {len(text)} characters; rules take at most {MAX_FILE_CHARS}"
        raise RulesError(msg)
    try:
        tables = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        msg = f"{source} is no TOML: {error}"
        raise RulesError(msg) from None
    try:
        rules = StudyRules.model_validate(tables)
    except ValidationError as error:
        faults = [_fault(details) for details in error.errors()[:_MAX_FAULTS]]
        raise RulesError(_message(source, faults)) from None
    faults = _meaning_faults(rules, known_terms)
    if faults:
        raise RulesError(_message(source, faults[:_MAX_FAULTS]))
    return rules


def _message(source: str, faults: Sequence[str]) -> str:
    return f"{source}:\n" + "\n".join(f"  {fault}" for fault in faults)


def _fault(details: Any) -> str:
    where, key = _place(details["loc"])
    if details["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, _EXAMPLES, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return f"{where}: there is no such key{hint}"
    problem = "is missing" if details["type"] == "missing" else details["msg"]
    example = _EXAMPLES.get(key)
    return f"{where}: {problem}" + (f"; write {example}" if example else "")


def _place(location: tuple[int | str, ...]) -> tuple[str, str]:
    where, key = "", ""
    for part in location:
        if isinstance(part, int):
            # People count tables from one.
            where += f"[{part + 1}]"
        else:
            where += f".{part}" if where else part
            key = part
    return where, key


def _meaning_faults(rules: StudyRules, known_terms: Collection[str] | None) -> list[str]:
    faults = []
    kinds: set[str] = set()
    for number, rule in enumerate(rules.study, 1):
        if rule.kind in kinds:
            faults.append(f"study[{number}].kind: {rule.kind!r} is the kind of an earlier rule")
        kinds.add(rule.kind)
        if known_terms is None:
            continue
        places = [(f"study[{number}].when.terms", rule.when.terms)]
        for position, required in enumerate(rule.requires, 1):
            base = f"study[{number}].requires[{position}]"
            places += [(f"{base}.terms", required.terms), (f"{base}.any_terms", required.any_terms)]
        faults += [
            _unknown_term(where, term, known_terms)
            for where, terms in places
            for term in terms
            if term not in known_terms
        ]
    return faults


def _unknown_term(where: str, term: str, known_terms: Collection[str]) -> str:
    near = difflib.get_close_matches(term, known_terms, n=3)
    hint = f"; near it are {', '.join(near)}" if near else ""
    return f"{where}: {term!r} is no term of the vocabulary{hint}"
