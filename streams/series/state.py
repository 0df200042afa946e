"""What is remembered of one series."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from streams.series.members import Members
from streams.series.outputs import Reason, SeriesVersion
from streams.series.records import Arrival, SeriesKey

_MAX_MODALITIES: Final = 16
_MAX_TERMS: Final = 256


@dataclass(slots=True)
class SeriesState:
    """Members, version and times of one series; times are stamps, microseconds since 1970 UTC.

    Parameters
    ----------
    study_uid : str
        Study of the first instance.
    first_us, last_us : int
        Stamps of the first and the last new member.
    changed_us : int or None
        Stamp of the first member that no version counts; None while there is none.
    touched_us : int
        Stamp of the last instance, known ones among them: what is in use stays in memory.
    version : int
        Last version; 0 before the first.
    version_us : int
        When it was completed.
    expected_count : int or None
        What the headers announce; None when they announce nothing or disagree.
    expects : bool
        Whether reaching ``expected_count`` still completes the series.
    """

    study_uid: str
    first_us: int
    last_us: int
    touched_us: int
    changed_us: int | None = None
    version: int = 0
    version_us: int = 0
    expected_count: int | None = None
    expects: bool = True
    lowest_number: int | None = None
    highest_number: int | None = None
    modalities: dict[str, int] = field(default_factory=dict)
    terms: set[str] = field(default_factory=set)
    members: Members = field(default_factory=Members)

    def add(self, arrival: Arrival, stamp_us: int, *, expected_minimum: int) -> bool:
        """Take an instance; return whether it is a new member."""
        self.touched_us = max(self.touched_us, stamp_us)
        if not self.members.add(arrival.instance_uid, arrival.image_id):
            return False
        self.last_us = max(self.last_us, stamp_us)
        if self.changed_us is None:
            self.changed_us = stamp_us
        self._expect(arrival, expected_minimum)
        number = arrival.instance_number
        if number is not None:
            low, high = self.lowest_number, self.highest_number
            self.lowest_number = number if low is None else min(low, number)
            self.highest_number = number if high is None else max(high, number)
        code = arrival.modality
        if code and (code in self.modalities or len(self.modalities) < _MAX_MODALITIES):
            self.modalities[code] = self.modalities.get(code, 0) + 1
        if len(self.terms) < _MAX_TERMS:
            self.terms.update(arrival.terms)
        return True

    @property
    def reached_expectation(self) -> bool:
        """Whether all announced instances are here, for the first time."""
        return self.expects and self.members.instance_count == self.expected_count

    def complete(self, key: SeriesKey, reason: Reason, at_us: int) -> SeriesVersion:
        """Close the next version over all members."""
        self.version += 1
        self.version_us = at_us
        self.changed_us = None
        if self.reached_expectation:
            # The announcement is spent: what comes beyond it shows that it was not the whole.
            self.expects = False
        return SeriesVersion(
            key=key,
            study_uid=self.study_uid,
            version=self.version,
            reason=reason,
            at_us=at_us,
            instance_count=self.members.instance_count,
            conflict_count=self.members.member_count - self.members.instance_count,
            set_hash=self.members.set_hash,
            expected_count=self.expected_count,
            lowest_number=self.lowest_number,
            highest_number=self.highest_number,
            modalities=tuple(sorted(self.modalities.items())),
            terms=tuple(sorted(self.terms)),
            first_us=self.first_us,
            last_us=self.last_us,
        )

    def to_plain(self) -> dict[str, Any]:
        """Return the state as JSON values."""
        return {
            "study_uid": self.study_uid,
            "first_us": self.first_us,
            "last_us": self.last_us,
            "touched_us": self.touched_us,
            "changed_us": self.changed_us,
            "version": self.version,
            "version_us": self.version_us,
            "expected_count": self.expected_count,
            "expects": self.expects,
            "lowest_number": self.lowest_number,
            "highest_number": self.highest_number,
            "modalities": dict(sorted(self.modalities.items())),
            "terms": sorted(self.terms),
            "members": self.members.pack(),
        }

    @classmethod
    def from_plain(cls, value: Mapping[str, Any]) -> SeriesState:
        """Return the state that ``to_plain`` wrote.

        Raises
        ------
        KeyError, ValueError
            If it is of something else.
        """
        plain = dict(value)
        plain["terms"] = set(plain["terms"])
        plain["modalities"] = dict(plain["modalities"])
        plain["members"] = Members.unpack(plain["members"])
        return cls(**plain)

    def _expect(self, arrival: Arrival, expected_minimum: int) -> None:
        announced = arrival.expected_count
        # One image an acquisition is what a series of many acquisitions says of each of its images.
        if announced is None or (announced < expected_minimum and not arrival.is_whole):
            return
        if self.expected_count is None and self.expects:
            self.expected_count = announced
        elif self.expected_count != announced:
            self.expected_count = None
            self.expects = False
