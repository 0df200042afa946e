"""One look at a decoded slice: everything the signals want of it, made where it was decoded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from streams.modality.crops import views
from streams.modality.heuristics import measure
from streams.modality.ocr import TextFound

UInt8Array = NDArray[np.uint8]
Float32Array = NDArray[np.float32]

ReadText = Callable[[UInt8Array], TextFound]


@dataclass(frozen=True, slots=True)
class Look:
    """What was made of a slice; small enough to cross processes, unlike the slice.

    Parameters
    ----------
    features : ndarray
        float32 ``[len(FEATURE_NAMES)]`` of ``streams.modality.heuristics``.
    views : ndarray or None
        uint8 ``[len(VIEWS), size, size, 3]`` of ``streams.modality.crops``; None without a model
        to look at them.
    words : tuple of str
        What was read in the picture. They may name a patient: only the signals see them.
    text_box_count : int or None
        Boxes of burnt-in text; None where nothing read.
    text_area_fraction : float or None
        Their share of the slice.
    """

    features: Float32Array = field(repr=False)
    views: UInt8Array | None = field(default=None, repr=False)
    words: tuple[str, ...] = field(default=(), repr=False)
    text_box_count: int | None = None
    text_area_fraction: float | None = None


def look_at(display: UInt8Array, *, view_size: int = 0, read: ReadText | None = None) -> Look:
    """Look at a slice.

    Parameters
    ----------
    display : ndarray
        uint8 ``[H, W]`` or ``[H, W, 3]``.
    view_size : int
        Side of the views in pixels; 0 for none.
    read : callable, optional
        Reads burnt-in text (``streams.modality.ocr.read_text``); None to leave it unread.
    """
    text = read(display) if read is not None else None
    unread = text is None or bool(text.absent)
    return Look(
        features=measure(display),
        views=views(display, view_size) if view_size else None,
        words=text.texts if text is not None else (),
        text_box_count=None if unread or text is None else len(text.boxes),
        text_area_fraction=None if unread or text is None else text.area_fraction,
    )
