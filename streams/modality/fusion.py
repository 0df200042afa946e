"""The signals' opinions become one answer: a logarithmic opinion pool with learned reliabilities.

Every opinion is a vector of log-likelihoods. The pool adds them, each times the reliability that
was learned for its signal and for how the pixels came into the file (Genest and Zidek, Statistical
Science 1:114, 1986); a signal that is absent adds nothing. A share of doubt that no evidence
removes, learned too, keeps the confidence of many agreeing signals honest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from streams.modality.labels import ABSTAINED, FAMILIES
from streams.modality.opinion import Float64Array, Opinion, Provenance, softmax

PIXEL_SIGNALS = frozenset({"pixels", "heuristics", "values"})
"""Signals that look at the image; the others read what is written about it, or on it."""

_HEAD, _MEASURES = "pixels", "heuristics"
# From here on what is written is taken to name a family.
_NAMED = 0.5


@dataclass(frozen=True, slots=True)
class Fusion:
    """What was learned about the signals.

    Parameters
    ----------
    reliabilities : mapping
        ``(signal, provenance)`` to exponent, 0 (unheard) to 1 (taken at its word). A signal that
        was never seen in training has none, and is shown without counting.
    doubt : float
        Share of probability that is spread over all families whatever was said, 0 to 1.
    answer_from : float
        Confidence from which an answer is given; below it the fusion abstains.
    novelty_limit : float
        Novelty of the pixels (0 familiar, 1 unlike all that was learned from) beyond which they
        count for nothing.
    thin : frozenset of str
        Families learned from one source or none: pixels alone do not decide on them.
    pixels_alone : float
        Factor of the pixels' exponents where nothing written is heard: beside a header they say
        less that is new than they do by themselves.
    """

    reliabilities: Mapping[tuple[str, Provenance], float]
    doubt: float
    answer_from: float
    novelty_limit: float
    thin: frozenset[str] = frozenset()
    pixels_alone: float = 1.0

    def reliability(self, signal: str, provenance: Provenance) -> float:
        """Return the exponent of a signal; 0 for one that was not learned."""
        return self.reliabilities.get((signal, provenance), 0.0)


@dataclass(frozen=True, slots=True)
class Fused:
    """The answer.

    Parameters
    ----------
    probabilities : ndarray
        float64 ``[len(FAMILIES)]``, sums to 1.
    family : str
        The likeliest family.
    confidence : float
        Its probability.
    abstained : bool
        Whether it is too unsure to be given as an answer.
    reason : str
        Why it abstained; empty otherwise.
    conflict_reason : str
        Where what is written and what is seen disagree; empty where they agree.
    """

    probabilities: Float64Array = field(repr=False)
    family: str
    confidence: float
    abstained: bool
    reason: str
    conflict_reason: str

    @property
    def answer(self) -> str:
        """The family, or ``unknown``."""
        return ABSTAINED if self.abstained else self.family


def heard(opinions: Sequence[Opinion]) -> list[Opinion]:
    """Return the opinions that count: the head reads the measures too, and speaks for them."""
    looked = any(opinion.signal == _HEAD for opinion in opinions)
    return [opinion for opinion in opinions if not (looked and opinion.signal == _MEASURES)]


def pool(opinions: Sequence[Opinion], provenance: Provenance, fusion: Fusion) -> Float64Array:
    """Return the probabilities of the families; float64 ``[len(FAMILIES)]``.

    Without opinions every family is as likely as the others.
    """
    scores = np.zeros(len(FAMILIES))
    for opinion in heard(opinions):
        scores += fusion.reliability(opinion.signal, provenance) * opinion.log_likelihoods
    if all(opinion.signal in PIXEL_SIGNALS for opinion in opinions):
        scores *= fusion.pixels_alone
    return (1.0 - fusion.doubt) * softmax(scores) + fusion.doubt / len(FAMILIES)


def fuse(
    opinions: Sequence[Opinion],
    provenance: Provenance,
    fusion: Fusion,
    *,
    novelty: float | None = None,
) -> Fused:
    """Answer what a file shows.

    Parameters
    ----------
    opinions : sequence of Opinion
        Every signal's say, in any order.
    provenance : Provenance
        How the pixels came into the file.
    fusion : Fusion
        What was learned.
    novelty : float, optional
        How unlike all that was learned from the pixels are.
    """
    seen = [opinion for opinion in opinions if opinion.signal in PIXEL_SIGNALS]
    written = [opinion for opinion in opinions if opinion.signal not in PIXEL_SIGNALS]
    strange = novelty is not None and novelty > fusion.novelty_limit
    probabilities = pool(written if strange else [*written, *seen], provenance, fusion)
    best = int(np.argmax(probabilities))
    family, confidence = FAMILIES[best], float(probabilities[best])
    reason = ""
    if strange and confidence < fusion.answer_from:
        # All together give the guess that is shown; it is not given as an answer.
        probabilities = pool(opinions, provenance, fusion)
        best = int(np.argmax(probabilities))
        family, confidence = FAMILIES[best], float(probabilities[best])
        reason = "the pixels are unlike all that was learned from"
    elif confidence < fusion.answer_from:
        second = int(np.argsort(-probabilities, kind="stable")[1])
        reason = (
            f"{family} ({confidence:.2f}) is not sure enough; next is {FAMILIES[second]} "
            f"({probabilities[second]:.2f})"
        )
        if confidence < 2 / len(FAMILIES):
            reason = "nothing speaks for any modality"
    elif family in fusion.thin and not _says(written, family, provenance, fusion):
        reason = f"it looks like {family}, which too few sources taught; only a header can say so"
    return Fused(
        probabilities=probabilities,
        family=family,
        confidence=confidence,
        abstained=bool(reason),
        reason=reason,
        conflict_reason="" if strange else _conflict(seen, written, provenance, fusion),
    )


def _says(opinions: Sequence[Opinion], family: str, provenance: Provenance, fusion: Fusion) -> bool:
    """Tell whether what is written names a family by itself."""
    probabilities = pool(opinions, provenance, fusion)
    best = int(np.argmax(probabilities))
    return FAMILIES[best] == family and float(probabilities[best]) >= _NAMED


def _conflict(
    seen: Sequence[Opinion], written: Sequence[Opinion], provenance: Provenance, fusion: Fusion
) -> str:
    """Say where the tags and the pixels, each sure by themselves, disagree."""
    by_tags, by_pixels = pool(written, provenance, fusion), pool(seen, provenance, fusion)
    said, shown = FAMILIES[int(np.argmax(by_tags))], FAMILIES[int(np.argmax(by_pixels))]
    sure = min(float(by_tags.max()), float(by_pixels.max())) >= max(0.5, fusion.answer_from)
    if not sure or said == shown or shown in fusion.thin:
        return ""
    return (
        f"what is written says {said} ({by_tags.max():.2f}), "
        f"the pixels look like {shown} ({by_pixels.max():.2f})"
    )
