"""Where two signals of one header cannot both be true."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import Final

import numpy as np

from streams.modality.labels import are_kin
from streams.modality.opinion import Opinion

# Share of probability that two claims have in common below which they exclude each other.
_MIN_OVERLAP: Final = 0.1
# Of a claim spread over many families nothing can be said that clashes.
_MIN_SHARE: Final = 0.6
# How a signal's evidence reads within a sentence; the others' does as it is.
_LEADS: Final[Mapping[str, str]] = {"acquisition": "the header holds "}
# The matrix leans, and excludes nothing: an export may have changed it.
_UNDECIDED: Final = frozenset({"matrix", "values"})


def contradictions(opinions: Iterable[Opinion]) -> tuple[str, ...]:
    """Say which of a header's claims exclude each other.

    Parameters
    ----------
    opinions : iterable of Opinion
        Of ``tag_opinions``.

    Returns
    -------
    tuple of str
        A short sentence for each pair, such as "Modality (0008,0060) is MR, but SOP Class is CT
        Image Storage". Families that share their physics (``are_kin``) do not contradict.
    """
    heard = [
        opinion
        for opinion in opinions
        if opinion.signal not in _UNDECIDED and opinion.probabilities().max() >= _MIN_SHARE
    ]
    return tuple(
        f"{_clause(one)}, but {_clause(other)}"
        for one, other in combinations(heard, 2)
        if not are_kin(one.label, other.label) and _overlap(one, other) < _MIN_OVERLAP
    )


def _overlap(one: Opinion, other: Opinion) -> float:
    return float(np.minimum(one.probabilities(), other.probabilities()).sum())


def _clause(opinion: Opinion) -> str:
    lead = _LEADS.get(opinion.signal, "")
    return f"{lead}{opinion.evidence}" + (f" ({opinion.label})" if lead else "")
