"""Which families a term of the closed vocabulary is compatible with.

A term says more of some families than of others: ``flair`` is MR and nothing else, ``arterial`` a
phase of CT or MR, ``liver`` no modality at all. Terms that say nothing are not listed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from streams.modality.cues import Cue, listed
from streams.modality.labels import (
    CT,
    ES,
    MG,
    MICROSCOPY,
    MR,
    NM,
    OP,
    OPT,
    OTHER,
    PHOTOGRAPH,
    PT,
    RADIOGRAPH,
    US,
    XA,
)

Shares = Mapping[str, float]

# What excludes all else, what mostly does, and what merely leans.
_SURE: Final = 0.01
_CLEAR: Final = 0.04
_WEAK: Final = 0.2

_MR_ONLY = listed(
    "t1|t2|t2-star|flair|stir|diffusion|diffusion-tensor|apparent-diffusion-coefficient|"
    "turbo-spin-echo|gradient-echo|steady-state|mprage|fmri|susceptibility|time-of-flight|"
    "arterial-spin-labeling|dixon|field-map|cholangiopancreatography|late-enhancement"
)
# Short spellings of these are words of other trades too (``pc``, ``se``, ``pd``, ``ir``, ``fa``).
_MR_MOSTLY = listed(
    "proton-density|inversion-recovery|fractional-anisotropy|spin-echo|single-shot|echo-planar|"
    "phase-contrast|spectroscopy|fat-suppressed|in-phase|opposed-phase|magnitude|phase-image|b0|"
    "trace|mr"
)
_PLANES = ("axial", "coronal", "sagittal", "reformat")

TERM_SHARES: Final[Mapping[str, tuple[Shares, float]]] = {
    **{term: ({MR: 1.0}, _SURE) for term in _MR_ONLY},
    **{term: ({MR: 1.0}, _CLEAR) for term in _MR_MOSTLY},
    **{term: ({CT: 1.0, MR: 1.0, PT: 0.4, NM: 0.3}, _WEAK) for term in _PLANES},
    # Modalities by name. Both parts of a hybrid study carry its name.
    "ct": ({CT: 1.0, PT: 0.4, NM: 0.1}, _CLEAR),
    "pet": ({PT: 1.0, CT: 0.4, MR: 0.05}, _CLEAR),
    "spect": ({NM: 1.0, CT: 0.15}, _CLEAR),
    "ultrasound": ({US: 1.0}, _CLEAR),
    "radiograph": ({RADIOGRAPH: 1.0, XA: 0.1, MG: 0.1}, _CLEAR),
    "mammogram": ({MG: 1.0}, _CLEAR),
    "tomosynthesis": ({MG: 1.0, NM: 0.4, RADIOGRAPH: 0.2, CT: 0.2}, 0.1),
    "angiography": ({XA: 1.0, CT: 0.6, MR: 0.6, OP: 0.2, OPT: 0.1}, _CLEAR),
    "fluoroscopy": ({XA: 1.0, RADIOGRAPH: 0.2}, _CLEAR),
    "endoscopy": ({ES: 1.0, CT: 0.2}, _CLEAR),
    "dermoscopy": ({PHOTOGRAPH: 1.0}, _SURE),
    "fundus": ({OP: 1.0, OPT: 0.1}, _CLEAR),
    "oct": ({OPT: 1.0}, _CLEAR),
    # A biopsy is seen under the microscope, and guided by everything else.
    "histology": ({MICROSCOPY: 1.0, US: 0.2, MG: 0.2, CT: 0.2, MR: 0.1}, _CLEAR),
    "elastography": ({US: 1.0, MR: 0.3}, _CLEAR),
    "doppler": ({US: 1.0}, _CLEAR),
    # Kinds of series
    "localizer": ({CT: 1.0, MR: 1.0}, _WEAK),
    "low-dose": ({CT: 1.0, PT: 0.2}, 0.1),
    "high-resolution": ({CT: 1.0, MR: 0.3, OPT: 0.1}, _WEAK),
    "thin-slice": ({CT: 1.0, MR: 0.3}, 0.1),
    "thick-slice": ({CT: 1.0, MR: 0.3}, 0.1),
    "maximum-intensity-projection": ({CT: 1.0, MR: 1.0, PT: 0.6, NM: 0.2}, 0.1),
    "minimum-intensity-projection": ({CT: 1.0, MR: 1.0}, 0.1),
    "volume-rendering": ({CT: 1.0, MR: 0.5, OTHER: 0.5, US: 0.2}, 0.1),
    "dose-report": ({OTHER: 1.0, CT: 0.5}, 0.1),
    "attenuation-correction": ({PT: 1.0, NM: 0.5, CT: 0.5, MR: 0.2}, 0.1),
    "non-attenuation-corrected": ({PT: 1.0, NM: 0.3}, 0.05),
    "whole-body": ({PT: 1.0, NM: 0.6, CT: 0.5, MR: 0.3}, _WEAK),
    "perfusion": ({CT: 1.0, MR: 1.0, NM: 0.5}, 0.1),
    "mapping": ({MR: 1.0, CT: 0.2, NM: 0.2, OPT: 0.2}, _WEAK),
    "gated": ({CT: 1.0, MR: 1.0, NM: 0.8, PT: 0.3}, _WEAK),
    "short-axis": ({MR: 1.0, US: 0.5, NM: 0.4}, 0.1),
    "long-axis": ({MR: 1.0, US: 0.6, NM: 0.2}, 0.1),
    "four-chamber": ({US: 1.0, MR: 0.8}, 0.1),
    "two-chamber": ({US: 1.0, MR: 0.8}, 0.1),
    # Contrast
    "with-contrast": ({CT: 1.0, MR: 0.6, XA: 0.1}, _WEAK),
    "without-contrast": ({CT: 1.0, MR: 0.6}, _WEAK),
    "arterial": ({CT: 1.0, MR: 0.6, US: 0.4, XA: 0.3}, _WEAK),
    "portal-venous": ({CT: 1.0, MR: 0.6}, 0.1),
    "delayed": ({CT: 1.0, MR: 0.7, NM: 0.4, PT: 0.3}, _WEAK),
    "breath-hold": ({MR: 1.0, CT: 0.5}, 0.1),
    "free-breathing": ({MR: 1.0, CT: 0.3}, 0.1),
    # Projections. An echo-planar series is named for its phase encoding: ``ap`` and ``pa`` too.
    "craniocaudal": ({MG: 1.0}, _CLEAR),
    "mediolateral-oblique": ({MG: 1.0}, _SURE),
    "anteroposterior": ({RADIOGRAPH: 1.0, XA: 0.3, MR: 0.15, NM: 0.2}, 0.05),
    "posteroanterior": ({RADIOGRAPH: 1.0, XA: 0.1, MR: 0.15}, 0.05),
    "lateral": ({RADIOGRAPH: 1.0, XA: 0.4, MG: 0.2, CT: 0.15, NM: 0.2, US: 0.15}, 0.1),
    "portable": ({RADIOGRAPH: 1.0, US: 0.2}, 0.1),
    "upright": ({RADIOGRAPH: 1.0, XA: 0.2, MG: 0.1}, 0.1),
    # Tracers
    "fdg": ({PT: 1.0, CT: 0.4}, _CLEAR),
    "psma": ({PT: 1.0, CT: 0.4, NM: 0.1}, _CLEAR),
    "dotatate": ({PT: 1.0, CT: 0.4, NM: 0.2}, _CLEAR),
    "technetium": ({NM: 1.0, CT: 0.1}, _CLEAR),
    # Anatomy that few kinds of machine look at
    "breast": ({MG: 1.0, US: 0.5, MR: 0.5, MICROSCOPY: 0.2, PT: 0.15}, _WEAK),
    "retina": ({OP: 1.0, OPT: 0.8}, 0.1),
    "fetus": ({US: 1.0, MR: 0.15}, 0.1),
    "coronary": ({XA: 1.0, CT: 1.0, OPT: 0.1, US: 0.1}, 0.1),
    "carotid": ({US: 1.0, CT: 0.5, MR: 0.5, XA: 0.5}, _WEAK),
    "pulmonary-embolism": ({CT: 1.0, NM: 0.2, XA: 0.1}, 0.1),
    "teeth": ({RADIOGRAPH: 1.0, CT: 0.3, PHOTOGRAPH: 0.2, OTHER: 0.1}, 0.1),
    "thyroid": ({US: 1.0, NM: 0.5, CT: 0.2}, _WEAK),
    "skin": ({PHOTOGRAPH: 1.0, MICROSCOPY: 0.4}, 0.3),
    "planning": ({CT: 1.0, MR: 0.3, RADIOGRAPH: 0.2, PT: 0.2}, _WEAK),
}
"""Term of ``streams.sniff.vocabulary``: compatible families with their relative shares, and the
likelihood left to all others."""


def term_cues(terms: Iterable[str], weight: float = 1.0) -> list[Cue]:
    """Make cues of the terms that say something of the modality.

    Parameters
    ----------
    terms : iterable of str
        Terms of ``streams.sniff.vocabulary``; others are passed over.
    weight : float
        Exponent of each cue.
    """
    return [
        Cue(term, shares, floor, weight)
        for term in terms
        if (found := TERM_SHARES.get(term)) is not None
        for shares, floor in (found,)
    ]


__all__ = ["TERM_SHARES", "Shares", "term_cues"]
