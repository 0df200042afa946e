"""What can be odd about a series' geometry: one closed list, in words and numbers."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

Level = Literal["note", "warning"]

MAX_PER_CODE: Final = 8
MAX_UIDS: Final = 8

FINDINGS: Final[dict[str, tuple[Level, str]]] = {
    "no-geometry": ("note", "images without position and orientation"),
    "localizer": ("note", "a localizer; its planes differ on purpose"),
    "projections": ("note", "projections through a volume, from several directions"),
    "multi-frame": ("note", "multi-frame objects; their frames' places are not in these headers"),
    "single-slice": ("note", "one slice only"),
    "repeated-positions": ("note", "every position was imaged as often as the others"),
    "tilted-gantry": ("note", "slices are shifted against their normal, as by a tilted gantry"),
    "several-orientations": ("warning", "the slices lie in more than one plane"),
    "invalid-orientation": (
        "warning",
        "direction cosines are no unit vectors at a right angle",
    ),
    "gap": ("warning", "a gap between two slices"),
    "uneven-spacing": ("warning", "the slices are not evenly spaced"),
    "off-line": ("warning", "slices are shifted sideways against the line of the others"),
    "duplicate-position": ("warning", "more slices than elsewhere at one position"),
    "incomplete-position": ("warning", "fewer slices than elsewhere at one position"),
    "missing-number": ("warning", "instance numbers are missing"),
    "duplicate-number": ("warning", "one instance number for several instances"),
    "number-order": ("warning", "instance numbers do not follow the positions"),
    "stated-spacing": ("warning", "the header states another spacing than the positions have"),
    "mixed-matrix": ("warning", "matrices of several sizes"),
    "mixed-pixel-spacing": ("warning", "several pixel spacings"),
    "mixed-frame-of-reference": ("warning", "several frames of reference"),
    "too-many": ("warning", "more findings of this kind are left out"),
}
"""Code: how serious, and what it means."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is odd or good to know.

    Parameters
    ----------
    code : str
        A key of ``FINDINGS``.
    words : str
        What was found, for a reader.
    measures : tuple of (str, float)
        Its numbers; names carry the unit, ``_mm`` or ``_degrees``.
    instance_uids : tuple of str
        The slices that it is about, at most 8.
    """

    code: str
    words: str
    measures: tuple[tuple[str, float], ...] = ()
    instance_uids: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.code not in FINDINGS:
            msg = f"{self.code!r} is not in the list of findings"
            raise ValueError(msg)

    @property
    def level(self) -> Level:
        """How serious it is."""
        return FINDINGS[self.code][0]

    def measure(self, name: str) -> float:
        """Return one of its numbers by name.

        Raises
        ------
        KeyError
            If it has no such number.
        """
        return dict(self.measures)[name]


def about(
    code: str,
    words: str,
    instance_uids: Iterable[str],
    measures: tuple[tuple[str, float], ...] = (),
) -> Finding:
    """Make a finding about slices, of which it names the first ones."""
    return Finding(code, words, measures, tuple(itertools.islice(instance_uids, MAX_UIDS)))


def limited(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Keep the first eight of each code, and say how many more there are."""
    kept: list[Finding] = []
    counts: Counter[str] = Counter()
    for finding in findings:
        counts[finding.code] += 1
        if counts[finding.code] <= MAX_PER_CODE:
            kept.append(finding)
    for code, count in sorted(counts.items()):
        if count > MAX_PER_CODE:
            left_out = count - MAX_PER_CODE
            measures = (("count", float(left_out)),)
            kept.append(Finding("too-many", f"{left_out} more of {code}", measures))
    return tuple(kept)
