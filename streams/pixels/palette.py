"""PALETTE COLOR pixels to RGB (PS3.3 C.7.6.3.1.5, C.7.9.2)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from streams.pixels.dicom_header import lut_descriptor, lut_entries, numbers_of, value_of
from streams.pixels.image import AnyArray, UInt8Array
from streams.pixels.outcome import DecodeError

_MAX_ENTRIES = 65_536


def apply_palette(stored: AnyArray, dataset: Dataset, *, big_endian: bool) -> UInt8Array:
    """Look up stored values in the data set's palette.

    Parameters
    ----------
    stored
        Integer ``[H, W]``.
    dataset
        Holds the palette descriptors and data, plain or segmented.
    big_endian
        Byte order of the table data.

    Returns
    -------
    ndarray
        uint8 ``[H, W, 3]``.

    Raises
    ------
    DecodeError
        ``inconsistent-header`` when the palette is missing or unusable.
    """
    channels = []
    first = 0
    for colour in ("Red", "Green", "Blue"):
        descriptor = lut_descriptor(
            numbers_of(dataset, f"{colour}PaletteColorLookupTableDescriptor")
        )
        if descriptor is None:
            raise DecodeError("inconsistent-header", "a palette descriptor is missing or unusable")
        count, first, bits = descriptor
        data = value_of(dataset, f"{colour}PaletteColorLookupTableData")
        entries: npt.NDArray[np.uint16] | None
        if data is not None:
            entries = lut_entries(data, count, bits, big_endian=big_endian)
        else:
            words = lut_entries(
                value_of(dataset, f"Segmented{colour}PaletteColorLookupTableData"),
                1 << 24,
                bits,
                big_endian=big_endian,
            )
            entries = None if words is None else expand_segments(words, count)
        if entries is None or not entries.size:
            raise DecodeError("inconsistent-header", "a palette table is missing or empty")
        channels.append(entries)
    # Many writers say 16 bits and store 8; a shift would then turn the image black.
    top = max(int(channel.max()) for channel in channels)
    shift = 8 if top > 0xFF else 0
    if not np.issubdtype(stored.dtype, np.signedinteger):
        first &= 0xFFFF
    length = max(len(channel) for channel in channels)
    table = np.zeros((length, 3), np.uint8)
    for number, channel in enumerate(channels):
        table[: len(channel), number] = channel >> shift
        table[len(channel) :, number] = channel[-1] >> shift
    index = np.clip(stored.astype(np.int64) - first, 0, length - 1)
    return np.asarray(table[index])


def expand_segments(words: npt.NDArray[np.uint16], count: int) -> npt.NDArray[np.uint16]:
    """Expand segmented palette data (PS3.3 C.7.9.2), never past ``count`` entries.

    Parameters
    ----------
    words
        The segments: opcode 0 discrete, 1 linear, 2 indirect.
    count
        Entries that the descriptor promises; 65536 at most.
    """
    out: list[npt.NDArray[Any]] = []
    _expand(words, 0, None, min(count, _MAX_ENTRIES), out, depth=0)
    if not out:
        return np.zeros(0, np.uint16)
    expanded: npt.NDArray[np.uint16] = np.concatenate(out)[:count].astype(np.uint16)
    return expanded


def _expand(
    words: npt.NDArray[np.uint16],
    position: int,
    segments: int | None,
    count: int,
    out: list[npt.NDArray[Any]],
    *,
    depth: int,
) -> None:
    filled = sum(len(piece) for piece in out)
    steps = 0
    while position + 1 < len(words) and filled < count and steps < _MAX_ENTRIES:
        if segments is not None and steps >= segments:
            return
        steps += 1
        opcode, length = int(words[position]), int(words[position + 1])
        if opcode == 0:
            piece = words[position + 2 : position + 2 + length]
            position += 2 + length
        elif opcode == 1 and position + 2 < len(words):
            end = int(words[position + 2])
            start = int(out[-1][-1]) if out and len(out[-1]) else end
            piece = np.rint(np.linspace(start, end, length + 1)[1:]).astype(np.uint16)
            position += 3
        elif opcode == 2 and position + 3 < len(words) and depth == 0:
            offset = (int(words[position + 3]) << 16 | int(words[position + 2])) // 2
            _expand(words, offset, length, count, out, depth=1)
            filled = sum(len(done) for done in out)
            position += 4
            continue
        else:
            return
        if len(piece):
            out.append(piece)
            filled += len(piece)
