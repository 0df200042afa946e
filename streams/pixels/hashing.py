"""A hash by which the same picture is found again after it was re-encoded, and its distances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from streams.pixels.image import UInt8Array

HASH_BITS: Final = 64
MAX_DUPLICATE_DISTANCE: Final = 6
"""Largest Hamming distance at which two pictures count as the same; see ``picture_hash``."""

_SIDE: Final = 32
_KEPT: Final = 8
# Eight bands of eight bits: two hashes that differ in at most seven bits share one (pigeonhole).
_BANDS: Final = 8
_BAND_BITS: Final = HASH_BITS // _BANDS
_POPULATION: Final = np.array([bin(n).count("1") for n in range(1 << 16)], np.uint8)
_BLOCK: Final = 1 << 20

UInt64Array = npt.NDArray[np.uint64]


def _cosines() -> npt.NDArray[np.float64]:
    """Return the first rows of the DCT-II matrix, without the constant one."""
    frequency = np.arange(1, _KEPT + 1)[:, np.newaxis]
    place = np.arange(_SIDE)[np.newaxis]
    return np.asarray(np.cos(np.pi * frequency * (2 * place + 1) / (2 * _SIDE)))


_DCT: Final = _cosines()


def picture_hash(display: UInt8Array) -> str | None:
    """Hash what a picture shows, so that re-encoded copies of it agree in nearly all bits.

    The picture is averaged to 32 x 32 luminances, and the signs about the median of its 64 lowest
    cosine terms are kept (the DCT hash of Zauner, "Implementation and benchmarking of perceptual
    image hash functions", 2010; terms that are constant along a side are left out, so that
    brightness and borders weigh less). It sees through format, JPEG and WebP loss, resizing and
    gamma; a crop, a turn or a flip is another picture.

    Measured on 828 images of 16 modalities: 99 % of JPEG copies (quality 90), 98 % of WebP copies
    (quality 60) and 97 % of those resized by 0.37 to 1.5 or to 256 pixels at JPEG quality 70 are
    within 6 bits; of 332,325 pairs of images from different sources one is, two exports of one
    study.

    Parameters
    ----------
    display
        uint8 ``[H, W]`` or ``[H, W, 3]``.

    Returns
    -------
    str or None
        64 bits as 16 hex digits; None where there is nothing to hash (a blank picture, or one
        with a side of less than 32 pixels, whose hash would be that of its interpolation).
    """
    if min(display.shape[:2]) < _SIDE:
        return None
    image = Image.fromarray(np.ascontiguousarray(display))
    # Large pictures are averaged over whole blocks first; on each channel this is faster than
    # the conversion to luminance of all pixels.
    factor = min(display.shape[:2]) // (4 * _SIDE)
    if factor > 1:
        image = image.reduce(factor)
    small = image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX)
    levels = np.asarray(small, np.float64)
    if np.ptp(levels) < 2:
        return None
    terms = (_DCT @ levels @ _DCT.T).ravel()
    bits = np.packbits(terms > np.median(terms))
    return bits.tobytes().hex()


def hamming_distance(first: str, second: str) -> int:
    """Count the bits in which two hashes of 16 hex digits differ."""
    return bin(int(first, 16) ^ int(second, 16)).count("1")


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Pairs of hashes that lie near each other.

    Parameters
    ----------
    first, second
        int64 ``[N]``, positions in the input; ``first < second``.
    is_complete
        Whether no pair was left out to stay within the bound of work.
    """

    first: npt.NDArray[np.int64]
    second: npt.NDArray[np.int64]
    is_complete: bool


def neighbours(
    hashes: UInt64Array, max_distance: int = MAX_DUPLICATE_DISTANCE, max_pairs: int = 50_000_000
) -> Neighbours:
    """Find all pairs of hashes within a Hamming distance, by bands, at bounded cost.

    Parameters
    ----------
    hashes
        uint64 ``[N]``, each once.
    max_distance
        Largest distance of a pair, at most 7: only hashes with one of eight bytes in common are
        compared.
    max_pairs
        Most comparisons to make.

    Raises
    ------
    ValueError
        If ``max_distance`` is not within 0 to 7.
    """
    if not 0 <= max_distance < _BANDS:
        msg = f"max_distance must be within 0 to {_BANDS - 1}"
        raise ValueError(msg)
    found: list[npt.NDArray[np.int64]] = []
    left = max_pairs
    if hashes.size < 2:
        return _merged(found, is_complete=True)
    for band in range(_BANDS):
        keys = (hashes >> np.uint64(band * _BAND_BITS)) & np.uint64((1 << _BAND_BITS) - 1)
        order = np.argsort(keys, kind="stable")
        cuts = np.flatnonzero(np.diff(keys[order])) + 1
        for members in np.split(order, cuts):
            pairs = _near_pairs(members, hashes, max_distance, left)
            if pairs is None:
                return _merged(found, is_complete=False)
            left -= len(members) * (len(members) - 1) // 2
            found.append(pairs)
    return _merged(found, is_complete=True)


def _near_pairs(
    members: npt.NDArray[np.int64], hashes: UInt64Array, max_distance: int, budget: int
) -> npt.NDArray[np.int64] | None:
    count = len(members)
    if count * (count - 1) // 2 > budget:
        return None
    values = hashes[members]
    rows = max(1, _BLOCK // max(1, count))
    parts = []
    for start in range(0, count, rows):
        differing = values[start : start + rows, np.newaxis] ^ values[np.newaxis]
        near = population(differing) <= max_distance
        one, other = np.nonzero(np.triu(near, start + 1))
        parts.append(np.stack((members[one + start], members[other]), axis=1))
    return np.asarray(np.concatenate(parts), np.int64)


def _merged(found: Sequence[npt.NDArray[np.int64]], *, is_complete: bool) -> Neighbours:
    pairs = np.concatenate([np.empty((0, 2), np.int64), *found])
    pairs = np.unique(np.sort(pairs, axis=1), axis=0)
    return Neighbours(pairs[:, 0], pairs[:, 1], is_complete)


def population(values: UInt64Array) -> npt.NDArray[np.uint8]:
    """Count the bits that are set in each number, uint64 of any shape."""
    words = np.ascontiguousarray(values)[..., np.newaxis].view(np.uint16)
    return np.asarray(_POPULATION[words].sum(axis=-1, dtype=np.uint8))


def leader_groups(weights: Sequence[int], near: Neighbours) -> list[list[int]]:
    """Group items around leaders, so that each member is near its leader.

    Chains of neighbours do not grow into one group: slices of a volume resemble the next one, and
    the last not the first.

    Parameters
    ----------
    weights
        Weight of each item; the heaviest become leaders first, then the earlier ones.
    near
        Pairs of items that are near each other.

    Returns
    -------
    list of list of int
        Groups of two or more, each led by its leader; an item is in one group at most.
    """
    around: dict[int, list[int]] = {}
    for one, other in zip(near.first.tolist(), near.second.tolist(), strict=True):
        around.setdefault(one, []).append(other)
        around.setdefault(other, []).append(one)
    taken: set[int] = set()
    groups = []
    for leader in sorted(around, key=lambda item: (-weights[item], item)):
        if leader in taken:
            continue
        group = [leader, *sorted(item for item in around[leader] if item not in taken)]
        if len(group) > 1:
            groups.append(group)
            taken.update(group)
    return groups
