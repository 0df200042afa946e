"""What the values before windowing say: Hounsfield units, signal intensities, activities."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from schemas.facts import ImageSignals, PixelFacts
from streams.modality.cues import Cue, weigh
from streams.modality.labels import CT, MR, NM, OTHER, PT, RADIOGRAPH
from streams.modality.opinion import Opinion, Provenance

VALUES: Final = "values"

# Outside the reconstructed circle CT scanners write these.
_CT_PADDING: Final = frozenset({-1500.0, -2000.0, -2048.0, -3024.0, -3072.0, -8192.0, -10000.0})
_AIR_HU: Final = (-1100.0, -900.0)
# The lowest value of a phase image in 12 bits with a sign: minus pi.
_PHASE: Final = (-4096.0, -3900.0)


def value_opinion(
    signals: ImageSignals, pixels: PixelFacts, provenance: Provenance
) -> Opinion | None:
    """Weigh the range of the slice's values.

    Parameters
    ----------
    signals : ImageSignals
        Statistics of the values before windowing.
    pixels : PixelFacts
        Their unit and the shape of the source.
    provenance : Provenance
        Pictures have display levels only, which say nothing.

    Returns
    -------
    Opinion or None
        None for pictures, colour, 8-bit data and flat slices.
    """
    if provenance == "picture" or pixels.samples_per_pixel > 1 or signals.is_color:
        return None
    if signals.is_blank or signals.maximum <= signals.minimum:
        return None
    return weigh(VALUES, _cues(signals, pixels, provenance))


def _cues(signals: ImageSignals, pixels: PixelFacts, provenance: Provenance) -> Iterator[Cue]:
    lowest, highest = signals.minimum, signals.maximum
    if lowest in _CT_PADDING or (_AIR_HU[0] <= lowest <= _AIR_HU[1] and highest > -300):
        text = f"values from {lowest:g} to {highest:g}, as of Hounsfield units"
        yield Cue(text, {CT: 1.0, MR: 0.02}, 0.02)
    elif _PHASE[0] <= lowest <= _PHASE[1] and -_PHASE[1] <= highest <= -_PHASE[0]:
        yield Cue("values about zero, as of a phase image", {MR: 1.0, CT: 0.1}, 0.05)
    if provenance != "volume":
        return
    if lowest >= 0 and highest > 1 and pixels.bit_depth > 8:
        yield Cue("no negative values", {MR: 1.0, PT: 0.5, NM: 0.3, CT: 0.15, OTHER: 0.1}, 0.05)
    elif lowest >= 0 and highest <= 1:
        yield Cue("values from 0 to 1", {MR: 1.0, OTHER: 1.0, CT: 0.3, PT: 0.2}, 0.05)
    elif -900 < lowest < 0:
        shares = {MR: 1.0, CT: 0.6, OTHER: 0.6, PT: 0.2, NM: 0.1, RADIOGRAPH: 0.02}
        yield Cue(f"values from {lowest:.3g} to {highest:.3g}", shares, 0.02)
    elif pixels.bit_depth <= 8 and pixels.frames > 1:
        yield Cue("a volume", {MR: 1.0, CT: 0.6, OTHER: 0.4, PT: 0.3, NM: 0.1}, 0.05)
