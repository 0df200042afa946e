"""What one signal says about the modality: log-likelihoods over the families, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from streams.modality.labels import FAMILIES

Float64Array = NDArray[np.float64]

Provenance = Literal["dicom", "dicom-capture", "volume", "picture"]
"""How the pixels came into the file: an original DICOM image, a secondary capture or derived DICOM
picture, a NIfTI volume, an exported picture. A signal's reliability depends on it."""
PROVENANCES: Final[tuple[Provenance, ...]] = ("dicom", "dicom-capture", "volume", "picture")

# What a claim leaves to all the other families together. The fusion learns how far to trust it.
_DOUBT: Final = 0.02
MAX_EVIDENCE_CHARS: Final = 256


@dataclass(frozen=True, slots=True)
class Opinion:
    """One signal's say.

    Parameters
    ----------
    signal : str
        Name of the signal.
    log_likelihoods : ndarray
        float64 ``[len(FAMILIES)]``, up to a constant.
    evidence : str
        What it rests on, in words, without patient data.
    """

    signal: str
    log_likelihoods: Float64Array = field(repr=False)
    evidence: str

    @property
    def label(self) -> str:
        """The family it favours."""
        return FAMILIES[int(np.argmax(self.log_likelihoods))]

    def probabilities(self) -> Float64Array:
        """Return what it would say alone, under equal priors; float64, sums to 1."""
        return softmax(self.log_likelihoods)


def claim(signal: str, shares: Mapping[str, float], evidence: str) -> Opinion:
    """Make an opinion of families named outright.

    Parameters
    ----------
    signal : str
        Name of the signal.
    shares : mapping
        Family to relative share, at least one and all positive; 2 percent is left to the others.
    evidence : str
        What it rests on.
    """
    total = sum(shares.values())
    probabilities = np.full(len(FAMILIES), _DOUBT / len(FAMILIES))
    for family, share in shares.items():
        probabilities[FAMILIES.index(family)] += (1 - _DOUBT) * share / total
    return Opinion(signal, np.log(probabilities), evidence[:MAX_EVIDENCE_CHARS])


def softmax(scores: Float64Array) -> Float64Array:
    """Turn scores into probabilities along the last axis."""
    raised = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=-1, keepdims=True))
