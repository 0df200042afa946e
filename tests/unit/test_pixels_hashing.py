"""The same picture keeps its hash through formats and sizes; another picture has another."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.data import get_testdata_file

from streams.pixels import DecodedImage, decode
from streams.pixels.hashing import (
    MAX_DUPLICATE_DISTANCE,
    hamming_distance,
    leader_groups,
    neighbours,
    picture_hash,
    population,
)

PICTURES = ("CT_small.dcm", "MR_small.dcm", "693_UNCI.dcm", "examples_rgb_color.dcm")


def displays() -> dict[str, np.ndarray]:
    found = {}
    for name in PICTURES:
        path = get_testdata_file(name, download=False)
        if path is not None:
            image = decode(path, "dicom")
            assert isinstance(image, DecodedImage)
            found[name] = image.display
    assert len(found) >= 3
    return found


DISPLAYS = displays()


def encoded(image: Image.Image, kind: str, **options: int) -> np.ndarray:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, kind, **options)
    return np.asarray(Image.open(buffer).convert("RGB"))


CHANGES: dict[str, Callable[[Image.Image], np.ndarray]] = {
    "png": lambda image: encoded(image, "PNG"),
    "jpeg": lambda image: encoded(image, "JPEG", quality=60),
    "webp": lambda image: encoded(image, "WEBP", quality=70),
    "smaller": lambda image: np.asarray(image.resize((image.width // 2, image.height // 2))),
    "larger": lambda image: np.asarray(image.resize((image.width * 2, image.height * 2))),
    "small jpeg": lambda image: encoded(image.resize((200, 200)), "JPEG", quality=75),
    "darker": lambda image: (np.asarray(image) * 0.8).astype(np.uint8),
}


@pytest.mark.parametrize("change", sorted(CHANGES))
@pytest.mark.parametrize("name", sorted(DISPLAYS))
def test_a_copy_is_near_and_every_other_picture_is_far(name: str, change: str) -> None:
    original = picture_hash(DISPLAYS[name])
    copy = picture_hash(CHANGES[change](Image.fromarray(DISPLAYS[name])))
    assert original is not None
    assert copy is not None
    assert len(original) == 16
    assert hamming_distance(original, copy) <= MAX_DUPLICATE_DISTANCE
    for other, display in DISPLAYS.items():
        if other != name:
            found = picture_hash(display)
            assert found is not None
            assert hamming_distance(copy, found) > 2 * MAX_DUPLICATE_DISTANCE


def test_a_turn_or_a_flip_is_another_picture() -> None:
    display = DISPLAYS["CT_small.dcm"]
    original = picture_hash(display)
    assert original is not None
    for other in (np.rot90(display), display[::-1], display[:, ::-1]):
        found = picture_hash(np.ascontiguousarray(other))
        assert found is not None
        assert hamming_distance(original, found) > MAX_DUPLICATE_DISTANCE


@pytest.mark.parametrize("shape", [(1, 1), (50, 60), (50, 60, 3)])
def test_a_blank_picture_has_no_hash(shape: tuple[int, ...]) -> None:
    assert picture_hash(np.full(shape, 130, np.uint8)) is None


def test_a_picture_of_too_few_pixels_has_no_hash() -> None:
    rng = np.random.default_rng(2)
    assert picture_hash(rng.integers(0, 255, (31, 500)).astype(np.uint8)) is None
    assert picture_hash(rng.integers(0, 255, (32, 500)).astype(np.uint8)) is not None


@given(st.lists(st.integers(0, 2**64 - 1), max_size=40))
def test_population_counts_bits(numbers: list[int]) -> None:
    found = population(np.array(numbers, np.uint64))
    assert found.tolist() == [bin(number).count("1") for number in numbers]


@settings(max_examples=50)
@given(
    st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=6, unique=True),
    st.lists(st.lists(st.integers(0, 63), max_size=9), max_size=30),
    st.integers(0, 7),
)
def test_bands_find_every_pair_within_the_distance(
    seeds: list[int], flips: list[list[int]], distance: int
) -> None:
    made = set(seeds)
    for number, bits in enumerate(flips):
        value = seeds[number % len(seeds)]
        for bit in bits:
            value ^= 1 << bit
        made.add(value)
    hashes = sorted(made)
    found = neighbours(np.array(hashes, np.uint64), distance)
    assert found.is_complete
    expected = {
        (i, j)
        for i in range(len(hashes))
        for j in range(i + 1, len(hashes))
        if bin(hashes[i] ^ hashes[j]).count("1") <= distance
    }
    pairs = zip(found.first.tolist(), found.second.tolist(), strict=True)
    assert set(pairs) == expected


def test_work_is_bounded_and_says_so() -> None:
    assert neighbours(np.array([], np.uint64)).is_complete
    # All in one bucket of every band but one: as many comparisons as there are pairs.
    hashes = np.arange(256, dtype=np.uint64)
    assert neighbours(hashes, 1).is_complete
    assert not neighbours(hashes, 1, max_pairs=1000).is_complete
    with pytest.raises(ValueError, match="0 to 7"):
        neighbours(hashes, 8)


def test_a_chain_is_cut_into_groups_around_leaders() -> None:
    # 0-1-2-3-4, each near the next only; the heaviest leads.
    hashes = np.array([0, 0b1, 0b11, 0b111, 0b1111], np.uint64)
    near = neighbours(hashes, 1)
    assert leader_groups([1, 1, 5, 1, 1], near) == [[2, 1, 3]]
    assert leader_groups([1, 5, 1, 1, 1], near) == [[1, 0, 2], [3, 4]]
    assert leader_groups([1, 1], neighbours(np.array([0, 2**63 + 127], np.uint64))) == []
