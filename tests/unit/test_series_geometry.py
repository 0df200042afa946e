"""Do the slices of a series make a volume: on real series and on generated ones."""

from __future__ import annotations

import math
import os
import random
import warnings
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.facts import HeaderFacts
from streams.series.findings import FINDINGS, Finding
from streams.series.geometry import GeometryReport, check_geometry
from streams.series.slices import SliceHeader, slice_of
from streams.sniff import SniffContext, sniff

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
CONTEXT = SniffContext(b"0123456789abcdef")
TEST_FILES = Path(pydicom.__file__).parent / "data" / "test_files"
CORPUS = os.environ.get("BIODATAMINE_CORPUS", "")


def stack(
    count: int,
    *,
    spacing_mm: float = 2.5,
    orientation: tuple[float, ...] = AXIAL,
    start: tuple[float, float, float] = (-100.0, -120.0, 50.0),
    shift_mm: tuple[float, float] = (0.0, 0.0),
    prefix: str = "1",
    **more: Any,
) -> list[SliceHeader]:
    """Slices along their normal; ``shift_mm`` is how each lies beside the one before."""
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    step = np.cross(row, column) * spacing_mm + row * shift_mm[0] + column * shift_mm[1]
    facts = {
        "pixel_spacing_mm": (0.7, 0.7),
        "rows": 512,
        "columns": 512,
        "slice_thickness_mm": spacing_mm,
        "frame_of_reference_uid": "1.9",
        **more,
    }
    return [
        SliceHeader(
            instance_uid=f"{prefix}.{n + 1}",
            instance_number=n + 1,
            position_mm=tuple((np.array(start) + n * step).tolist()),
            orientation=orientation,  # type: ignore[arg-type]
            **facts,  # type: ignore[arg-type]
        )
        for n in range(count)
    ]


def one(report: GeometryReport, code: str) -> Finding:
    (found,) = [finding for finding in report.findings if finding.code == code]
    return found


# Generated series.


def test_an_even_stack_is_a_volume() -> None:
    report = check_geometry(reversed(stack(20)))
    assert report.findings == ()
    assert report.is_volume
    assert (report.kind, report.slice_count, report.position_count) == ("stack", 20, 20)
    assert report.order == tuple(f"1.{n}" for n in range(1, 21))
    assert report.spacing_mm == pytest.approx(2.5)
    assert report.extent_mm == pytest.approx(47.5)
    assert report.normal == (0.0, 0.0, 1.0)
    assert report.positions_mm == pytest.approx([50 + 2.5 * n for n in range(20)])


def test_numbers_may_run_against_the_normal() -> None:
    slices = [replace(s, instance_number=21 - (s.instance_number or 0)) for s in stack(20)]
    assert check_geometry(slices).is_volume


def test_a_missing_slice_is_a_gap_at_its_place() -> None:
    slices = stack(20)
    del slices[7]
    report = check_geometry(slices)
    gap = one(report, "gap")
    assert gap.measure("at_mm") == pytest.approx(50 + 7 * 2.5)
    assert gap.measure("missing_slices") == pytest.approx(1)
    assert gap.instance_uids == ("1.7", "1.9")
    assert gap.words == "5.00 mm between 65.00 and 70.00 mm, usually 2.50 mm: 1 missing"
    assert one(report, "missing-number").words == "1 instance numbers are missing: 8"
    assert not report.is_volume


def test_where_most_slices_are_missing_the_numbers_tell_the_spacing() -> None:
    slices = stack(60)
    kept = [slices[n] for n in (0, 3, 6, 9, 10, 13, 16)]
    report = check_geometry(kept)
    assert report.spacing_mm == pytest.approx(2.5)
    assert [f.measure("missing_slices") for f in report.findings if f.code == "gap"] == (
        pytest.approx([2] * 5)
    )


def test_two_slices_have_a_gap_if_the_header_says_so() -> None:
    slices = stack(10, spacing_between_slices_mm=2.5)
    report = check_geometry([slices[0], slices[4]])
    assert one(report, "gap").measure("missing_slices") == pytest.approx(3)
    assert check_geometry(slices[:2]).is_volume


def test_numbers_that_jump_by_design_are_no_gap() -> None:
    # Every thirtieth: one b-value of a diffusion series.
    slices = [replace(s, instance_number=30 * (s.instance_number or 0)) for s in stack(9)]
    assert check_geometry(slices).is_volume


def test_uneven_spacing_is_told_from_a_gap() -> None:
    slices = stack(10)
    moved = slices[4]
    assert moved.position_mm is not None
    x, y, z = moved.position_mm
    slices[4] = replace(moved, position_mm=(x, y, z + 0.4))
    report = check_geometry(slices)
    uneven = one(report, "uneven-spacing")
    assert uneven.measure("spacing_min_mm") == pytest.approx(2.1)
    assert uneven.measure("spacing_max_mm") == pytest.approx(2.9)
    assert "gap" not in report.codes()


def test_positions_written_with_few_digits_are_even() -> None:
    slices = [
        replace(s, position_mm=tuple(round(v, 2) for v in s.position_mm or ()))  # type: ignore[arg-type]
        for s in stack(200, spacing_mm=1.0 / 3)
    ]
    assert check_geometry(slices).is_volume


def test_a_position_twice_is_a_duplicate_and_all_twice_are_repeats() -> None:
    slices = stack(8)
    twice = replace(slices[3], instance_uid="1.99", instance_number=99)
    report = check_geometry([*slices, twice])
    duplicate = one(report, "duplicate-position")
    assert duplicate.measure("at_mm") == pytest.approx(57.5)
    assert duplicate.instance_uids == ("1.4", "1.99")

    repeats = [replace(s, instance_uid=f"2.{s.instance_uid}") for s in slices]
    repeats = [replace(s, instance_number=(s.instance_number or 0) + 8) for s in repeats]
    report = check_geometry([*slices, *repeats])
    assert report.is_volume
    assert one(report, "repeated-positions").measure("slice_count") == 2
    assert report.order[:4] == ("1.1", "2.1.1", "1.2", "2.1.2")

    report = check_geometry([*slices, *repeats[1:]])
    assert one(report, "incomplete-position").measure("at_mm") == pytest.approx(50)


def test_the_tilt_of_a_gantry_is_measured() -> None:
    shift = 2.5 * math.tan(math.radians(18.5))
    report = check_geometry(stack(12, shift_mm=(0, shift)))
    assert one(report, "tilted-gantry").measure("tilt_degrees") == pytest.approx(18.5)
    # One can stack sheared slices, knowing that they are.
    assert report.is_volume
    assert check_geometry(stack(12)).tilt_degrees == pytest.approx(0, abs=1e-6)


def test_one_slice_beside_the_line_does_not_bend_it() -> None:
    slices = stack(12)
    moved = slices[5]
    assert moved.position_mm is not None
    x, y, z = moved.position_mm
    slices[5] = replace(moved, position_mm=(x + 7, y, z))
    report = check_geometry(slices)
    off = one(report, "off-line")
    assert off.instance_uids == ("1.6",)
    assert off.measure("distance_mm") == pytest.approx(7)
    assert "tilted-gantry" not in report.codes()


def test_numbers_that_do_not_follow_the_positions_are_told() -> None:
    slices = stack(9)
    # Interleaved: odd ones first.
    order = [0, 5, 1, 6, 2, 7, 3, 8, 4]
    slices = [replace(s, instance_number=order[n] + 1) for n, s in enumerate(slices)]
    report = check_geometry(slices)
    assert one(report, "number-order").measure("step_count") == 4
    assert report.spacing_mm == pytest.approx(2.5)


def test_a_number_twice_is_told() -> None:
    slices = stack(5)
    slices[2] = replace(slices[2], instance_number=2)
    report = check_geometry(slices)
    assert one(report, "duplicate-number").instance_uids == ("1.2", "1.3")
    assert one(report, "missing-number").words.endswith(": 3")


def test_several_orientations_are_checked_stack_by_stack() -> None:
    axial, coronal = stack(9), stack(6, orientation=CORONAL, prefix="2")
    del axial[4]
    report = check_geometry([*coronal, *axial])
    assert report.kind == "stacks"
    orientations = one(report, "several-orientations")
    assert orientations.measure("angle_degrees") == pytest.approx(90)
    assert one(report, "gap").measure("at_mm") == pytest.approx(60)
    assert report.order[:8] == tuple(s.instance_uid for s in axial)
    assert set(report.order[8:]) == {s.instance_uid for s in coronal}


def test_a_localizer_may_lie_in_three_planes() -> None:
    planes = zip("abc", (AXIAL, CORONAL, SAGITTAL), strict=True)
    slices = [
        s for p, plane in planes for s in stack(3, orientation=plane, prefix=p, is_localizer=True)
    ]
    report = check_geometry(slices)
    assert report.kind == "localizer"
    assert report.codes() == {"localizer"}
    assert one(report, "localizer").measure("orientation_count") == 3


def test_multi_frame_objects_are_not_judged_by_their_first_frame() -> None:
    report = check_geometry(stack(2, frames=40))
    assert (report.kind, report.spacing_mm) == ("multi-frame", None)
    assert one(report, "multi-frame").measure("frame_count") == 80
    assert not report.is_volume


def test_images_without_a_place_are_no_stack() -> None:
    slices = [SliceHeader(f"1.{n}", instance_number=5 - n, rows=9, columns=9) for n in range(5)]
    report = check_geometry(slices)
    assert (report.kind, report.codes()) == ("no-geometry", {"no-geometry"})
    assert report.order == ("1.4", "1.3", "1.2", "1.1", "1.0")
    assert check_geometry([]).kind == "empty"
    assert check_geometry(stack(1)).kind == "single"


@pytest.mark.parametrize(
    "orientation",
    [(0.0,) * 6, (1, 0, 0, 1, 0, 0), (1, 0, 0, 0, 2, 0), (1, 0, 0, 0.1, 1, 0)],
)
def test_an_orientation_that_cannot_be_is_told(orientation: tuple[float, ...]) -> None:
    slices = stack(5)
    slices[1] = replace(slices[1], orientation=orientation)  # type: ignore[arg-type]
    report = check_geometry(slices)
    assert one(report, "invalid-orientation").instance_uids == ("1.2",)
    assert report.position_count == 4


def test_what_slices_must_have_in_common_is_checked() -> None:
    slices = stack(6)
    slices[2] = replace(slices[2], rows=256)
    slices[3] = replace(slices[3], pixel_spacing_mm=(0.8, 0.8))
    slices[4] = replace(slices[4], frame_of_reference_uid="1.8")
    slices[5] = replace(slices[5], pixel_spacing_mm=(0.700001, 0.7))
    report = check_geometry(slices)
    assert one(report, "mixed-matrix").words == "5 of 512 x 512, 1 of 256 x 512"
    assert one(report, "mixed-pixel-spacing").words == "5 of 0.7 x 0.7 mm, 1 of 0.8 x 0.8 mm"
    assert one(report, "mixed-pixel-spacing").instance_uids == ("1.4",)
    assert one(report, "mixed-frame-of-reference").instance_uids == ("1.5",)


def test_a_spacing_that_the_header_denies_is_told() -> None:
    report = check_geometry(stack(6, spacing_between_slices_mm=0.9))
    stated = one(report, "stated-spacing")
    assert (stated.measure("stated_mm"), stated.measure("spacing_mm")) == (0.9, pytest.approx(2.5))
    assert check_geometry(stack(6, spacing_between_slices_mm=-2.5)).is_volume


def test_findings_are_limited_and_closed() -> None:
    slices = [s for n, s in enumerate(stack(100)) if n % 5]
    report = check_geometry(slices)
    assert sum(finding.code == "gap" for finding in report.findings) == 8
    assert one(report, "too-many").words == "11 more of gap"
    assert all(finding.level == FINDINGS[finding.code][0] for finding in report.findings)
    with pytest.raises(ValueError, match="not in the list"):
        Finding("odd", "odd")


def test_too_many_slices_are_refused() -> None:
    with pytest.raises(ValueError, match="split it"):
        check_geometry(SliceHeader(str(n)) for n in range(100_002))


def test_a_slice_is_taken_from_header_facts() -> None:
    facts = HeaderFacts(
        instance_number=7,
        image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"),
        image_position_mm=(1, 2, 3),
    )
    header = slice_of("1.2", facts)
    assert (header.instance_uid, header.instance_number, header.position_mm) == (
        "1.2",
        7,
        (1, 2, 3),
    )
    assert header.is_localizer
    assert slice_of("1", HeaderFacts(description_terms=("localizer",))).is_localizer


# Invariants.


@st.composite
def planes(draw: st.DrawFn) -> tuple[float, ...]:
    angles = [draw(st.floats(-math.pi, math.pi)) for _ in range(3)]
    turn = np.eye(3)
    for axis, angle in enumerate(angles):
        rotation = np.eye(3)
        i, j = [(1, 2), (2, 0), (0, 1)][axis]
        rotation[i, i] = rotation[j, j] = math.cos(angle)
        rotation[i, j], rotation[j, i] = -math.sin(angle), math.sin(angle)
        turn = turn @ rotation
    return (*turn[:, 0].tolist(), *turn[:, 1].tolist())


@settings(max_examples=60, deadline=None)
@given(
    planes(),
    st.integers(5, 40),
    st.floats(0.1, 20),
    st.tuples(st.floats(-0.5, 0.5), st.floats(-0.5, 0.5)),
    st.randoms(use_true_random=False),
    st.data(),
)
def test_a_removed_slice_is_a_gap_in_any_plane_whatever_the_order(
    plane: tuple[float, ...],
    count: int,
    spacing_mm: float,
    shift: tuple[float, float],
    chance: random.Random,
    data: st.DataObject,
) -> None:
    moved = (shift[0] * spacing_mm, shift[1] * spacing_mm)
    slices = stack(count, spacing_mm=spacing_mm, orientation=plane, shift_mm=moved)
    whole = check_geometry(slices)
    assert whole.is_volume
    assert whole.spacing_mm == pytest.approx(spacing_mm, rel=1e-6)
    tilt = math.degrees(math.atan(math.hypot(*shift)))
    assert whole.tilt_degrees == pytest.approx(tilt, abs=1e-3)

    removed = data.draw(st.integers(1, count - 2))
    place_mm = whole.positions_mm[removed]
    rest = slices[:removed] + slices[removed + 1 :]
    if data.draw(st.booleans()):
        rest = [replace(s, instance_number=None) for s in rest]
    report = check_geometry(rest)
    gap = one(report, "gap")
    assert gap.measure("at_mm") == pytest.approx(place_mm, abs=1e-6 * max(1, abs(place_mm)))
    assert gap.measure("missing_slices") == pytest.approx(1, abs=1e-6)
    assert gap.instance_uids == (f"1.{removed}", f"1.{removed + 2}")
    shuffled = list(rest)
    chance.shuffle(shuffled)
    assert check_geometry(shuffled) == report


@settings(max_examples=40, deadline=None)
@given(planes(), st.integers(0, 2**32))
def test_cosines_that_differ_in_their_last_digits_are_one_plane(
    plane: tuple[float, ...], seed: int
) -> None:
    noise = np.random.default_rng(seed).uniform(-5e-5, 5e-5, (20, 6))
    slices = [
        replace(s, orientation=tuple((np.array(plane) + more).tolist()))  # type: ignore[arg-type]
        for s, more in zip(stack(20, orientation=plane, start=(0, 0, 0)), noise, strict=True)
    ]
    report = check_geometry(slices)
    assert (report.kind, report.position_count) == ("stack", 20)
    assert report.spacing_mm == pytest.approx(2.5, abs=1e-3)


HEADERS = st.builds(
    SliceHeader,
    instance_uid=st.sampled_from([f"1.{n}" for n in range(12)]),
    instance_number=st.none() | st.integers(-3, 12),
    position_mm=st.none() | st.tuples(*[st.sampled_from([0.0, 1.0, 1.001, 2.0, -5.0, 1e7])] * 3),
    orientation=st.none()
    | st.sampled_from([AXIAL, CORONAL, SAGITTAL, (0.0,) * 6, (-1.0, *AXIAL[1:])]),
    pixel_spacing_mm=st.none() | st.sampled_from([(0.5, 0.5), (1.0, 0.5)]),
    rows=st.none() | st.sampled_from([0, 16, 32]),
    columns=st.none() | st.sampled_from([16]),
    frames=st.none() | st.sampled_from([0, 1, 1, 1, 30]),
    slice_thickness_mm=st.none() | st.sampled_from([0.0, -1.0, 2.0, 1e-9]),
    spacing_between_slices_mm=st.none() | st.sampled_from([0.0, 1.0, -2.0, 1e-9]),
    frame_of_reference_uid=st.none() | st.sampled_from(["", "1.9", "1.8"]),
    is_localizer=st.sampled_from([False, False, False, True]),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(HEADERS, max_size=14), st.randoms(use_true_random=False))
def test_any_headers_are_answered_and_their_order_does_not_matter(
    slices: list[SliceHeader], chance: random.Random
) -> None:
    report = check_geometry(slices)
    shuffled = list(slices)
    chance.shuffle(shuffled)
    assert check_geometry(shuffled) == report
    assert sorted(report.order) == sorted({s.instance_uid for s in slices})
    assert report.slice_count == len(report.order)
    for finding in report.findings:
        assert finding.words
        assert all(math.isfinite(value) for _, value in finding.measures)


# Real series.


def real_series(root: Path, pattern: str = "*") -> dict[str, list[SliceHeader]]:
    found: dict[str, list[SliceHeader]] = defaultdict(list)
    for path in sorted(root.rglob(pattern)):
        if path.is_file() and path.stat().st_size < 5_000_000:
            with path.open("rb") as file, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                sniffed = sniff(
                    file, size_bytes=path.stat().st_size, name=path.name, context=CONTEXT
                )
            facts = sniffed.header
            if facts.series_uid and facts.instance_uid:
                found[facts.series_uid].append(slice_of(facts.instance_uid, facts))
    return found


def test_series_of_pydicoms_dicomdir_are_what_they_are() -> None:
    series = real_series(TEST_FILES / "dicomdirtests")
    found = sorted(
        (report.slice_count, report.kind, round(report.spacing_mm or 0, 2), sorted(report.codes()))
        for report in map(check_geometry, series.values())
        if report.slice_count > 2
    )
    assert found == [
        # "T/S/C RF FAST PILOT", which does not call itself a localizer.
        (3, "localizer", 0, ["localizer"]),
        (3, "localizer", 0, ["localizer"]),
        (4, "stack", 1.25, ["gap"]),
        (5, "stack", 2.5, []),
        (7, "projections", 0, ["projections"]),
        (50, "no-geometry", 0, ["no-geometry"]),
    ]


def corpus_series(folder: str) -> list[SliceHeader]:
    root = Path(CORPUS) / folder
    if not CORPUS or not root.is_dir():
        pytest.skip("BIODATAMINE_CORPUS names no corpus with this folder")
    return max(real_series(root).values(), key=len)


def test_a_sparse_real_pet_has_its_gaps() -> None:
    report = check_geometry(corpus_series("PT/FNNDSC-data"))
    assert report.spacing_mm == pytest.approx(3.375)
    assert report.codes() == {"gap", "too-many"}
    first = next(finding for finding in report.findings if finding.code == "gap")
    assert first.measure("missing_slices") == pytest.approx(round(first.measure("missing_slices")))


def test_the_tilt_of_a_real_gantry_is_found() -> None:
    report = check_geometry(corpus_series("CT/neurolabusc-dcm_qa_ct"))
    assert one(report, "tilted-gantry").measure("tilt_degrees") == pytest.approx(18.5, abs=0.05)
