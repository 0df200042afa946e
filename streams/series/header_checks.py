"""Checks on the headers of a series that need no place in the patient."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from streams.series.findings import Finding, about
from streams.series.slices import SliceHeader

_MAX_NUMBERS: Final = 12
_MAX_VALUES: Final = 8

_Ranked = Sequence[tuple[Any, int]]


def number_findings(headers: Sequence[SliceHeader]) -> list[Finding]:
    """Check the instance numbers: none twice, none left out."""
    by_number: dict[int, list[SliceHeader]] = defaultdict(list)
    for header in headers:
        if header.instance_number is not None:
            by_number[header.instance_number].append(header)
    findings = []
    repeated = {number: same for number, same in by_number.items() if len(same) > 1}
    if repeated:
        words = f"{len(repeated)} instance numbers stand on several instances: {_list(repeated)}"
        first = [header.instance_uid for header in repeated[min(repeated)]]
        measures = (("number_count", float(len(repeated))),)
        findings.append(about("duplicate-number", words, first, measures))
    ordered = sorted(by_number)
    # Numbers that jump by design (every tenth, say) miss nothing.
    holes = [(a, b) for a, b in itertools.pairwise(ordered) if b - a > 1]
    missing = sum(b - a - 1 for a, b in holes)
    if holes and missing < len(ordered):
        numbers = itertools.chain.from_iterable(range(a + 1, b) for a, b in holes)
        words = f"{missing} instance numbers are missing: {_list(numbers)}"
        findings.append(Finding("missing-number", words, (("number_count", float(missing)),)))
    return findings


def _list(numbers: Iterable[int]) -> str:
    found = sorted(itertools.islice(numbers, 10_000))
    more = ", ..." if len(found) > _MAX_NUMBERS else ""
    return ", ".join(str(number) for number in found[:_MAX_NUMBERS]) + more


def matrix_findings(headers: Sequence[SliceHeader]) -> list[Finding]:
    """Check what all slices of a volume have in common: matrix, spacing, frame of reference."""
    findings = []
    for code, what, words in _COMMON:
        values = Counter(value for value in map(what, headers) if value is not None)
        if len(values) < 2:
            continue
        ranked = sorted(values.items(), key=lambda item: (-item[1], item[0]))
        usual = ranked[0][0]
        odd = [h.instance_uid for h in headers if what(h) not in (None, usual)]
        findings.append(about(code, words(ranked[:_MAX_VALUES]), odd, _count(len(values))))
    return findings


def _count(number: int) -> tuple[tuple[str, float], ...]:
    return (("value_count", float(number)),)


def _matrix(header: SliceHeader) -> tuple[int, int] | None:
    return (header.rows, header.columns) if header.rows and header.columns else None


def _spacing(header: SliceHeader) -> tuple[float, float] | None:
    spacing = header.pixel_spacing_mm
    # Four digits: the same spacing is written with more or fewer of them.
    return (float(f"{spacing[0]:.4g}"), float(f"{spacing[1]:.4g}")) if spacing else None


def _reference(header: SliceHeader) -> str | None:
    return header.frame_of_reference_uid or None


def _matrix_words(values: _Ranked) -> str:
    return ", ".join(f"{count} of {rows} x {columns}" for (rows, columns), count in values)


def _spacing_words(values: _Ranked) -> str:
    return ", ".join(f"{count} of {rows:g} x {columns:g} mm" for (rows, columns), count in values)


def _reference_words(values: _Ranked) -> str:
    return "frames of reference with " + ", ".join(f"{count} slices" for _, count in values)


_COMMON: Final[tuple[tuple[str, Callable[[SliceHeader], Any], Callable[[_Ranked], str]], ...]] = (
    ("mixed-matrix", _matrix, _matrix_words),
    ("mixed-pixel-spacing", _spacing, _spacing_words),
    ("mixed-frame-of-reference", _reference, _reference_words),
)
