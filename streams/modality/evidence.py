"""All that is known of one file, and what the signals make of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from schemas.facts import Format, HeaderFacts, ImageSignals, PixelFacts
from streams.modality.head import PixelHead
from streams.modality.opinion import Opinion, Provenance
from streams.modality.path import path_opinion
from streams.modality.provenance import provenance_of
from streams.modality.tags import tag_opinions, value_opinion

Float32Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Evidence:
    """One file, after its only decode.

    Parameters
    ----------
    format : Format
        What the file is.
    header : HeaderFacts
        Facts of its header.
    relpath : str
        Its path in the dataset.
    pixels : PixelFacts, optional
        Its matrix; None where there is none.
    signals : ImageSignals, optional
        Measurements of the slice.
    features : ndarray, optional
        float32 ``[len(FEATURE_NAMES)]`` of ``streams.modality.heuristics``.
    stages : ndarray, optional
        float32 ``[len(VIEWS), S]``: pooled activations of the embedder's stages for each view of
        ``streams.modality.crops``; None without a model.
    text : Opinion, optional
        What the text that is burnt into the picture says. The text itself may name a patient, and
        is left behind.
    """

    format: Format
    header: HeaderFacts
    relpath: str
    pixels: PixelFacts | None = None
    signals: ImageSignals | None = None
    features: Float32Array | None = field(default=None, repr=False)
    stages: Float32Array | None = field(default=None, repr=False)
    text: Opinion | None = None

    @property
    def provenance(self) -> Provenance:
        """How the pixels came into the file."""
        return provenance_of(self.format, self.header)


def written_opinions(evidence: Evidence) -> tuple[Opinion, ...]:
    """Ask the signals that read: header, path, burnt-in text."""
    found = (path_opinion(evidence.relpath), evidence.text)
    return (*tag_opinions(evidence.header, evidence.provenance), *_spoken(found))


def value_opinions(evidence: Evidence) -> tuple[Opinion, ...]:
    """Ask what the values before windowing say: Hounsfield units, counts, fractions."""
    if evidence.signals is None or evidence.pixels is None:
        return ()
    return _spoken((value_opinion(evidence.signals, evidence.pixels, evidence.provenance),))


def head_opinions(evidence: Evidence, head: PixelHead | None) -> tuple[Opinion, ...]:
    """Ask the head that looks at the picture."""
    if head is None or evidence.features is None:
        return ()
    return head.opinions(evidence.stages, evidence.features)


def novelty_of(evidence: Evidence, head: PixelHead | None) -> float | None:
    """Tell how unlike all that the head learned from a picture is, 0 to 1; None without a look."""
    if head is None or evidence.features is None or evidence.stages is None:
        return None
    return head.novelty(evidence.stages, evidence.features)


def _spoken(found: Iterable[Opinion | None]) -> tuple[Opinion, ...]:
    return tuple(opinion for opinion in found if opinion is not None)
