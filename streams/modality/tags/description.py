"""What people wrote: series and study descriptions, body part, view."""

from __future__ import annotations

from typing import Final

from schemas.facts import HeaderFacts
from streams.modality.cues import Cue, listed, weigh
from streams.modality.labels import MG, MR, NM, OP, RADIOGRAPH, US, XA
from streams.modality.opinion import Opinion, Provenance
from streams.modality.terms import term_cues

SIGNAL: Final = "description"

# View Position (0018,5101), PS3.3 C.8.1.2 and C.8.11.7, CID 4014.
_BREAST_VIEWS: Final = listed("MLO|CC|ML|LM|LMO|XCC|XCCL|XCCM|FB|SIO|ISO|CV|AT|SPECIMEN")
_BODY_VIEWS: Final = listed(
    "AP|PA|LL|RL|LLD|RLD|LLO|RLO|LAT|LATERAL|OBLIQUE|AXIAL|TANGENTIAL|PLAO|PRAO|ALAO|ARAO"
)


def description_opinion(header: HeaderFacts, provenance: Provenance) -> Opinion | None:
    """Weigh the words of a header: terms of the vocabulary, and the view position.

    Parameters
    ----------
    header : HeaderFacts
        Facts of a DICOM or NIfTI header; body part and descriptions are among its terms.
    provenance : Provenance
        From ``provenance_of``.

    Returns
    -------
    Opinion or None
        None where no word says anything of the modality.
    """
    cues = term_cues(header.description_terms)
    if provenance == "volume" and "phase" in header.description_terms:
        # dcm2niix notes ``phase=`` in descrip: the direction of phase encoding.
        cues.append(Cue("phase", {MR: 1.0}, 0.1))
    view = (header.view_position or "").strip().upper()
    if view in _BREAST_VIEWS:
        cues.insert(0, Cue(f"view {view}", {MG: 1.0, US: 0.02}, 0.01))
    elif view in _BODY_VIEWS:
        shares = {RADIOGRAPH: 1.0, XA: 0.3, NM: 0.1, OP: 0.01, MG: 0.05}
        cues.insert(0, Cue(f"view {view}", shares, 0.02))
    return weigh(SIGNAL, cues, "described: ")
