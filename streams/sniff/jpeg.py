"""JPEG headers: the walk over segments up to the frame header (ITU-T T.81 Annex B)."""

from __future__ import annotations

from typing import Literal

from streams.sniff.report import Report
from streams.sniff.result import SniffLimits
from streams.sniff.window import LimitReachedError, Window

Kind = Literal["jpeg", "jpeg-ls"]

_JPEG_LS_FRAME = 0xF7
_NOT_FRAMES = frozenset({0xC4, 0xC8, 0xCC})
_FRAMES = frozenset(range(0xC0, 0xD0)) - _NOT_FRAMES
_LOSSLESS_FRAMES = frozenset({0xC3, 0xC7, 0xCB, 0xCF})
_STANDALONE = frozenset({0x01, *range(0xD0, 0xD8)})
_START_OF_SCAN = 0xDA
_END_OF_IMAGE = 0xD9
_ADOBE = 0xEE


def is_jpeg(head: bytes) -> bool:
    """Tell JPEG by its start of image and a marker after it."""
    return head.startswith(b"\xff\xd8\xff") and len(head) > 3 and head[3] >= 0xC0


def read(window: Window, limits: SniffLimits, report: Report) -> Kind:
    """Walk to the frame header and read it; entropy-coded data is never touched.

    Returns
    -------
    {"jpeg", "jpeg-ls"}
        JPEG-LS (ITU-T T.87) begins like JPEG; only its frame header tells.
    """
    try:
        return _walk(window, limits, report)
    except LimitReachedError:
        report.problem("header-limit", "no frame header so far")
    return "jpeg"


def _walk(window: Window, limits: SniffLimits, report: Report) -> Kind:
    pos = 2
    adobe_transform: int | None = None
    for _ in range(limits.image_directories):
        head = window.take(pos, 20)
        if len(head) < 4:
            report.problem("truncated", "the file ends before its frame header")
            return "jpeg"
        if head[0] != 0xFF:
            break
        marker = head[1]
        if marker == 0xFF:
            pos += 1
            continue
        if marker in _STANDALONE:
            pos += 2
            continue
        length = int.from_bytes(head[2:4], "big")
        if marker in _FRAMES or marker == _JPEG_LS_FRAME:
            _frame(
                head,
                marker,
                adobe_transform=adobe_transform,
                window=window,
                pos=pos,
                report=report,
            )
            return "jpeg-ls" if marker == _JPEG_LS_FRAME else "jpeg"
        if marker in (_START_OF_SCAN, _END_OF_IMAGE) or length < 2:
            break
        if marker == _ADOBE and head[4:9] == b"Adobe" and len(head) > 15:
            adobe_transform = head[15]
        pos += 2 + length
    report.problem("malformed-header", "no frame header")
    return "jpeg"


def _frame(
    head: bytes,
    marker: int,
    *,
    adobe_transform: int | None,
    window: Window,
    pos: int,
    report: Report,
) -> None:
    if len(head) < 10:
        report.problem("truncated", "the file ends inside its frame header")
        return
    facts = report.facts
    depth, samples = head[4], head[9]
    rows, columns = int.from_bytes(head[5:7], "big"), int.from_bytes(head[7:9], "big")
    # T.81 B.2.2: zero rows are told by a marker after the first scan.
    for name, value in (("rows", rows), ("columns", columns)):
        if value:
            facts[name] = value
        else:
            report.problem("invalid-value", name)
    if not 2 <= depth <= 16 or samples not in (1, 2, 3, 4):
        report.problem("invalid-value", "frame header")
        return
    component_ids = window.take(pos + 10, 3 * samples)[::3]
    facts.update(
        samples_per_pixel=samples,
        bits_allocated=8 if depth <= 8 else 16,
        bits_stored=depth,
        frames=1,
        pixel_signed=False,
    )
    if marker != _JPEG_LS_FRAME:
        facts["lossy_compressed"] = marker not in _LOSSLESS_FRAMES
    if samples == 1:
        facts["photometric_interpretation"] = "MONOCHROME2"
    elif samples == 3:
        is_rgb = adobe_transform == 0 or component_ids == b"RGB"
        facts["photometric_interpretation"] = "RGB" if is_rgb else "YBR_FULL"
    elif samples == 4:
        facts["photometric_interpretation"] = "CMYK"
