"""Checks on one stack of slices: whether it is evenly spaced, whole, straight and in order."""

from __future__ import annotations

import itertools
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Final

from streams.series.findings import Finding, about
from streams.series.stack import Stack

# Places and spacings are written with few digits; what differs by less is equal.
_SPACING_SHARE: Final = 0.01
_SPACING_MM: Final = 0.02
_GAP_FROM: Final = 1.5
_WHOLE_SHARE: Final = 0.05
_MOSTLY: Final = 0.9
_TILT_DEGREES: Final = 0.5
_OFF_LINE_MM: Final = 0.1


def usual_step_mm(stack: Stack) -> float | None:
    """Return the distance that neighbouring slices of a stack should have, mm.

    Where slices are missing most distances may be multiples of it. So it is the distance for each
    step of the instance numbers, or the one that the headers state, if the distances are whole
    multiples of it and one at least is it; otherwise the lower median, which of two distances is
    the one without the gap. Two slices alone cannot tell: the header may.

    Returns
    -------
    float or None
        None for less than two places.
    """
    steps = stack.steps_mm
    if not steps:
        return None
    for unit in (_step_by_number_mm(stack), stack.stated_spacing_mm):
        if unit and _makes(unit, steps):
            return unit
    return sorted(steps)[(len(steps) - 1) // 2]


def _step_by_number_mm(stack: Stack) -> float | None:
    if any(len(uids) > 1 for uids in stack.uids_by_place):
        return None
    numbers = [stack.numbers[uid] for uid in stack.uids]
    shares = [
        step / abs(after - before)
        for step, before, after in zip(stack.steps_mm, numbers, numbers[1:], strict=False)
        if before is not None and after is not None and after != before
    ]
    return statistics.median(shares) if len(shares) == len(stack.steps_mm) else None


def _makes(unit_mm: float, steps_mm: Sequence[float]) -> bool:
    multiples = [step / unit_mm for step in steps_mm]
    whole = [
        round(multiple)
        for multiple in multiples
        if round(multiple) >= 1 and abs(multiple - round(multiple)) <= _WHOLE_SHARE
    ]
    return len(whole) >= _MOSTLY * len(steps_mm) and (1 in whole or len(steps_mm) == 1)


def stack_findings(stack: Stack) -> list[Finding]:
    """Check one stack: repeats, spacing, line and numbering."""
    return [
        *_repeat_findings(stack),
        *_spacing_findings(stack),
        *_line_findings(stack),
        *_order_findings(stack),
    ]


def _repeat_findings(stack: Stack) -> list[Finding]:
    counts = [len(uids) for uids in stack.uids_by_place]
    # The commonest count; of two equally common ones the smaller.
    usual = min(Counter(counts).items(), key=lambda item: (-item[1], item[0]))[0]
    findings = []
    if usual > 1:
        words = f"{len(counts)} positions with {usual} slices each: phases, echoes or repetitions"
        findings.append(Finding("repeated-positions", words, (("slice_count", float(usual)),)))
    for place_mm, uids in zip(stack.places_mm, stack.uids_by_place, strict=True):
        if len(uids) == usual:
            continue
        code = "duplicate-position" if len(uids) > usual else "incomplete-position"
        words = f"{len(uids)} slices at {place_mm:.2f} mm where other positions have {usual}"
        measures = (("at_mm", place_mm), ("slice_count", float(len(uids))))
        findings.append(about(code, words, uids, measures))
    return findings


def _spacing_findings(stack: Stack) -> list[Finding]:
    steps, stated = stack.steps_mm, stack.stated_spacing_mm
    usual = usual_step_mm(stack)
    if usual is None:
        return []
    findings, uneven = [], []
    for index, step_mm in enumerate(steps):
        if step_mm >= _GAP_FROM * usual:
            findings.append(_gap(stack, index, usual))
        elif abs(step_mm - usual) > _tolerance_mm(usual):
            uneven.append(step_mm)
    if uneven:
        words = (
            f"{len(uneven)} of {len(steps)} distances differ from the usual {usual:.3f} mm: "
            f"{min(uneven):.3f} to {max(uneven):.3f} mm"
        )
        measures = (
            ("spacing_mm", usual),
            ("spacing_min_mm", min(uneven)),
            ("spacing_max_mm", max(uneven)),
        )
        findings.append(Finding("uneven-spacing", words, measures))
    if stated and abs(usual - stated) > _tolerance_mm(stated):
        words = f"the headers state {stated:.3f} mm and the positions have {usual:.3f} mm"
        both = (("stated_mm", stated), ("spacing_mm", usual))
        findings.append(Finding("stated-spacing", words, both))
    return findings


def _gap(stack: Stack, index: int, usual_mm: float) -> Finding:
    start, end = stack.places_mm[index], stack.places_mm[index + 1]
    missing = (end - start) / usual_mm - 1
    is_whole = abs(missing - round(missing)) <= 0.1
    lost = f": {round(missing)} missing" if is_whole else ""
    between = f"{end - start:.2f} mm between {start:.2f} and {end:.2f} mm"
    return Finding(
        "gap",
        f"{between}, usually {usual_mm:.2f} mm{lost}",
        (
            ("at_mm", (start + end) / 2),
            ("from_mm", start),
            ("to_mm", end),
            ("spacing_mm", usual_mm),
            ("missing_slices", missing),
        ),
        (stack.uids_by_place[index][-1], stack.uids_by_place[index + 1][0]),
    )


def _line_findings(stack: Stack) -> list[Finding]:
    if not stack.steps_mm:
        return []
    findings = []
    if stack.tilt_degrees >= _TILT_DEGREES:
        words = f"the slices are sheared by {stack.tilt_degrees:.1f} degrees against their normal"
        findings.append(Finding("tilted-gantry", words, (("tilt_degrees", stack.tilt_degrees),)))
    off = [
        (uid, distance)
        for uid, distance in zip(stack.uids, stack.off_line_mm, strict=True)
        if distance > _OFF_LINE_MM
    ]
    if off:
        farthest = max(distance for _, distance in off)
        words = f"{len(off)} slices lie up to {farthest:.2f} mm beside the line of the others"
        uids = [uid for uid, _ in off]
        findings.append(about("off-line", words, uids, (("distance_mm", farthest),)))
    return findings


def _order_findings(stack: Stack) -> list[Finding]:
    """Compare instance numbers with places, where each place has one slice."""
    numbers = [
        stack.numbers[uids[0]]
        for uids in stack.uids_by_place
        if len(uids) == 1 and stack.numbers[uids[0]] is not None
    ]
    known = [number for number in numbers if number is not None]
    if len(known) < len(stack.places_mm) or len(known) < 3:
        return []
    turns = [b - a for a, b in itertools.pairwise(known)]
    wrong = min(sum(turn < 0 for turn in turns), sum(turn > 0 for turn in turns))
    if not wrong:
        return []
    words = f"{wrong} of {len(turns)} steps go against the positions"
    return [Finding("number-order", words, (("step_count", float(wrong)),))]


def _tolerance_mm(spacing_mm: float) -> float:
    return min(max(_SPACING_SHARE * spacing_mm, _SPACING_MM), 0.25 * spacing_mm)
