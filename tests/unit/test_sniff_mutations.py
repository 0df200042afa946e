"""Damaged files of every format end as an answer: no crash, bounded time and memory each.

A part of the run of ``biodatamine bench sniff --mutations 10000``, in the process that the worker
uses for decoding, and the same by hypothesis.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streams.pixels import DecodedImage, Limits, NoPixels, decode
from streams.runtime.isolation import Failure, IsolatedPool
from tests.support import hostile as h
from tests.support.examination import Examined, examine
from tests.support.mutations import DICOM, FORMATS, PLAIN, Mutant, mutant, seeds

# 1,500 of them take about half a minute.
COUNT = int(os.environ.get("BIODATAMINE_MUTATIONS", "1500"))
SEED = 20261121
# A hanging codec is what this guards against, not a slow machine.
TIMEOUT_SECONDS = 60.0
ADDRESS_SPACE_BYTES = 6 << 30
MAX_GROWTH_BYTES = 1 << 30


@pytest.fixture(scope="module")
def pool() -> Iterator[IsolatedPool]:
    made = IsolatedPool(
        examine,
        processes=1,
        timeout_seconds=TIMEOUT_SECONDS,
        memory_bytes=ADDRESS_SPACE_BYTES,
    )
    yield made
    made.close()


def look(pool: IsolatedPool, mutants: list[Mutant]) -> list[Examined | Failure]:
    return asyncio.run(pool.map([(one.data, one.format) for one in mutants]))


def test_the_sound_files_are_sound(pool: IsolatedPool) -> None:
    sound = [Mutant(n, "none", seed.name, seed.format, seed.data) for n, seed in enumerate(seeds())]
    assert {seed.format for seed in sound} == set(FORMATS)
    decoded = 0
    for one, found in zip(sound, look(pool, sound), strict=True):
        assert isinstance(found, Examined), one
        assert not found.faults, (one, found.faults)
        decoded += any(outcome.endswith("decoded") for outcome in found.outcomes)
    # Some of the packages' files are broken or hold no image.
    assert decoded >= 0.8 * len(sound)


def test_damaged_files_end_as_answers(pool: IsolatedPool) -> None:
    outcomes: Counter[str] = Counter()
    strategies: Counter[tuple[str, str]] = Counter()
    for start in range(0, COUNT, 100):
        part = [mutant(n, seed=SEED) for n in range(start, min(COUNT, start + 100))]
        for one, found in zip(part, look(pool, part), strict=True):
            assert isinstance(found, Examined), f"{one}: {found}"
            assert not found.faults, f"{one}: {found.faults}"
            assert found.memory_bytes <= MAX_GROWTH_BYTES, f"{one}: {found.memory_bytes} bytes"
            outcomes.update(outcome.split(": ")[1] for outcome in found.outcomes)
            strategies[one.strategy, one.format] += 1
    assert {name for name, _ in strategies} == {one.__name__ for one in (*PLAIN, *DICOM)}
    assert {kind for _, kind in strategies} == set(FORMATS)
    # Damage that always stops the reader at once, or never, would test little.
    assert outcomes["decoded"] > COUNT / 5
    assert sum(outcomes.values()) - outcomes["decoded"] > COUNT / 5


def test_the_same_number_gives_the_same_damage() -> None:
    for index in range(0, 400, 7):
        assert mutant(index, seed=3) == mutant(index, seed=3)
    assert any(mutant(n, seed=3).data != mutant(n, seed=4).data for n in range(5))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(index=st.integers(0, 2**40), seed=st.integers(0, 2**32))
def test_any_damage_ends_as_an_answer(pool: IsolatedPool, index: int, seed: int) -> None:
    one = mutant(index, seed=seed)
    (found,) = look(pool, [one])
    assert isinstance(found, Examined), f"{one}: {found}"
    assert not found.faults, f"{one}: {found.faults}"


def test_zeros_are_not_read_as_millions_of_elements() -> None:
    bomb = h.deflate(h.dataset("zeros", tail=bytes(8 << 20)))
    limits = Limits(max_header_reads=4_000)
    found = decode(h.part10(bomb, syntax=h.DEFLATED), "dicom", limits=limits)
    assert found == NoPixels("no-pixel-element")
    # A little padding is passed.
    element = h.element(0x7FE00010, "OW", bytes(2 * 64 * 64))
    padded = h.dataset("padding", tail=bytes(80) + element)
    assert isinstance(decode(h.part10(padded), "dicom", limits=limits), DecodedImage)
