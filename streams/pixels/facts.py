"""A rendered slice as the facts that an event carries."""

from __future__ import annotations

from dataclasses import asdict

from schemas.facts import ImageSignals, PixelFacts
from streams.pixels.render import Rendered


def pixel_facts(answer: Rendered) -> PixelFacts:
    """Return the matrix of the source, and the slice that was looked at."""
    info = answer.info
    return PixelFacts(
        rows=info.rows,
        columns=info.columns,
        frames=info.frames,
        samples_per_pixel=info.samples,
        bit_depth=info.bits_stored,
        photometric_interpretation=info.photometric[:64],
        slice_strategy=info.slice_strategy,
        slice_index=info.slice_index,
        unit=info.unit[:16],
    )


def image_signals(answer: Rendered) -> ImageSignals:
    """Return the measurements of the slice."""
    return ImageSignals.model_validate(asdict(answer.signals))
