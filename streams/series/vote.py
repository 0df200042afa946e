"""What a volume shows, from what its slices show: a vote, weighted by confidence."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from schemas.facts import ModalityDecision

WEIGHT_WITHOUT_CONFIDENCE: Final = 0.5
"""Weight of a slice whose decision has no calibrated confidence."""
MIXED_BELOW: Final = 0.9
"""Share of agreement below which a volume counts as mixed."""


@dataclass(frozen=True, slots=True)
class LabelShare:
    """One label's part of a vote."""

    label: str
    share: float
    count: int


@dataclass(frozen=True, slots=True)
class ModalityVote:
    """The modality of a volume.

    Parameters
    ----------
    label : str
        Label with most weight; of equal ones the first by name.
    share : float
        Its part of all weight, 0 to 1: how far the slices agree.
    confidence : float or None
        Mean confidence of the slices that agree, where they have one.
    is_mixed : bool
        Whether the share is below 0.9.
    count : int
        Slices that voted.
    abstained_count : int
        Slices whose decision abstained; they do not vote.
    ranking : tuple of LabelShare
        All labels, heaviest first.
    """

    label: str
    share: float
    confidence: float | None
    is_mixed: bool
    count: int
    abstained_count: int
    ranking: tuple[LabelShare, ...]


def vote_modality(decisions: Iterable[ModalityDecision]) -> ModalityVote | None:
    """Vote over the decisions on a volume's slices, in any order.

    Parameters
    ----------
    decisions : iterable of ModalityDecision
        One for each slice.

    Returns
    -------
    ModalityVote or None
        None if no slice votes.
    """
    confidences: dict[str, list[float | None]] = defaultdict(list)
    abstained = 0
    for decision in decisions:
        if decision.abstained:
            abstained += 1
        else:
            confidences[decision.modality].append(decision.confidence)
    # fsum is exact, so the order of the slices cannot tip a balance.
    weights = {
        label: math.fsum(WEIGHT_WITHOUT_CONFIDENCE if c is None else c for c in found)
        for label, found in confidences.items()
    }
    if not weights:
        return None
    total = math.fsum(weights.values())
    ranking = tuple(
        # Nothing but zeros: then heads are counted.
        LabelShare(label, weight / total if total else _head_share(confidences, label), count)
        for label, weight, count in sorted(
            ((label, weight, len(confidences[label])) for label, weight in weights.items()),
            key=lambda item: (-item[1], -item[2], item[0]),
        )
    )
    winner = ranking[0]
    known = [c for c in confidences[winner.label] if c is not None]
    return ModalityVote(
        label=winner.label,
        share=winner.share,
        confidence=math.fsum(known) / len(known) if known else None,
        is_mixed=winner.share < MIXED_BELOW,
        count=sum(len(found) for found in confidences.values()),
        abstained_count=abstained,
        ranking=ranking,
    )


def _head_share(confidences: dict[str, list[float | None]], label: str) -> float:
    return len(confidences[label]) / sum(len(found) for found in confidences.values())
