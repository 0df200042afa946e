"""The modality that the header claims: one signal, and no score (DESIGN.md section 4.8)."""

from __future__ import annotations

from schemas.facts import HeaderFacts, ModalityDecision, Vote

METHOD = "dicom-tag"
METHOD_VERSION = "1"


def decide_from_header(header: HeaderFacts) -> ModalityDecision | None:
    """Take the header's Modality (0008,0060) at its word.

    Parameters
    ----------
    header : HeaderFacts
        Facts of a file.

    Returns
    -------
    ModalityDecision or None
        The claim, with no confidence since nothing has checked it; None without a claim.
    """
    if not header.modality:
        return None
    evidence = f"Modality (0008,0060) is {header.modality}"
    return ModalityDecision(
        modality=header.modality[:32],
        method=METHOD,
        method_version=METHOD_VERSION,
        votes=(Vote(signal=METHOD, label=header.modality[:32], evidence=evidence),),
    )
