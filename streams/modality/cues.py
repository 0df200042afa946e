"""Cues: single observations, each compatible with some families, put together into one claim."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from streams.modality.labels import FAMILIES
from streams.modality.opinion import MAX_EVIDENCE_CHARS, Opinion, claim

DEFAULT_FLOOR = 0.05


@dataclass(frozen=True, slots=True)
class Cue:
    """One observation and how well each family would explain it.

    Parameters
    ----------
    text : str
        The observation in words, without patient data.
    shares : mapping
        Family to likelihood relative to the others named; the largest counts as one.
    floor : float
        Likelihood of the families that are not named, relative to the largest: small where the
        observation all but excludes them.
    weight : float
        Exponent, 0 to 1: how much of the observation counts.
    """

    text: str
    shares: Mapping[str, float] = field(hash=False)
    floor: float = DEFAULT_FLOOR
    weight: float = 1.0

    def log_likelihood(self, family: str) -> float:
        """Return the weighted log-likelihood of a family, at most zero."""
        relative = self.shares.get(family, 0.0) / max(self.shares.values())
        return self.weight * math.log(max(relative, self.floor))


def weigh(signal: str, cues: Iterable[Cue], lead: str = "") -> Opinion | None:
    """Multiply the likelihoods of cues into one claim.

    Cues of one signal are written by the same hand and stand or fall together, so they make one
    opinion, whose reliability the fusion learns as a whole.

    Parameters
    ----------
    signal : str
        Name of the signal.
    cues : iterable of Cue
        What was observed, in the order in which evidence names it.
    lead : str
        Words before the observations.

    Returns
    -------
    Opinion or None
        None without cues.
    """
    observed = tuple(cues)
    if not observed:
        return None
    scores = {family: sum(c.log_likelihood(family) for c in observed) for family in FAMILIES}
    best = max(scores.values())
    shares = {family: math.exp(score - best) for family, score in scores.items()}
    # Far below the doubt that every claim leaves to the others, a share is nothing.
    named = {family: share for family, share in shares.items() if share > 1e-6}
    return claim(signal, named, _evidence(lead, tuple(dict.fromkeys(c.text for c in observed))))


def _evidence(lead: str, texts: tuple[str, ...]) -> str:
    """Name as many observations as there is room for, whole."""
    shown = lead
    for i, text in enumerate(texts):
        piece = text if i == 0 else f", {text}"
        if len(shown) + len(piece) > MAX_EVIDENCE_CHARS:
            break
        shown += piece
    return shown[:MAX_EVIDENCE_CHARS]


def listed(text: str) -> frozenset[str]:
    """Split a list that is written with ``|`` between its items."""
    return frozenset(text.split("|"))
