"""File bytes to pixel arrays: decoded once, bounded, and never trusted.

The room is pure: it reads the bytes it is given and returns values. Its public surface is
``decode`` (one representative slice), ``render`` (slice, views, thumbnail and signals in one
picklable call), ``make_view``, ``thumbnail`` and ``compute_signals``.
"""

from __future__ import annotations

from streams.pixels.decode import FORMATS, decode
from streams.pixels.image import DecodedImage, DecodeWarning
from streams.pixels.limits import Limits
from streams.pixels.outcome import NO_PIXELS_REASONS, REASON_CODES, DecodeError, NoPixels
from streams.pixels.render import Rendered, RenderSpec, render
from streams.pixels.signals import ImageSignals, compute_signals
from streams.pixels.views import make_view, thumbnail

__all__ = [
    "FORMATS",
    "NO_PIXELS_REASONS",
    "REASON_CODES",
    "DecodeError",
    "DecodeWarning",
    "DecodedImage",
    "ImageSignals",
    "Limits",
    "NoPixels",
    "RenderSpec",
    "Rendered",
    "compute_signals",
    "decode",
    "make_view",
    "render",
    "thumbnail",
]
