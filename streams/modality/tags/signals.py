"""Everything that a header says of the modality, signal by signal."""

from __future__ import annotations

from typing import Final

from schemas.facts import HeaderFacts
from streams.modality.labels import OTHER, RADIOGRAPH, family_of
from streams.modality.opinion import Opinion, Provenance, claim
from streams.modality.tags import acquisition, description, manufacturer, matrix, sop_class

MODALITY_TAG: Final = "modality-tag"
TAG_SIGNALS: Final[tuple[str, ...]] = (
    MODALITY_TAG,
    sop_class.SIGNAL,
    acquisition.SIGNAL,
    matrix.SIGNAL,
    description.SIGNAL,
    manufacturer.SIGNAL,
)
"""The signals of ``tag_opinions``, in its order."""


def tag_opinions(header: HeaderFacts, provenance: Provenance) -> tuple[Opinion, ...]:
    """Hear every signal of the header.

    Parameters
    ----------
    header : HeaderFacts
        Facts of a file.
    provenance : Provenance
        From ``provenance_of``. The header of a picture describes its export, not its machine;
        that of a volume holds a grid and a few words.

    Returns
    -------
    tuple of Opinion
        Of the signals that say anything, in the order of ``TAG_SIGNALS``.
    """
    if provenance == "picture":
        return ()
    if provenance == "volume":
        heard: tuple[Opinion | None, ...] = (
            matrix.volume_opinion(header),
            description.description_opinion(header, provenance),
        )
    else:
        heard = (
            _modality_opinion(header.modality),
            sop_class.sop_class_opinion(header.sop_class_uid),
            acquisition.acquisition_opinion(header),
            matrix.matrix_opinion(header),
            description.description_opinion(header, provenance),
            manufacturer.manufacturer_opinion(header),
        )
    return tuple(opinion for opinion in heard if opinion is not None)


def _modality_opinion(code: str | None) -> Opinion | None:
    """Take Modality (0008,0060) at its word; OT, SC and unknown codes claim nothing."""
    family = family_of(code or "")
    if code is None or family is None:
        return None
    # Portal images are radiographs, but as many are drawn by the planning system.
    shares = {RADIOGRAPH: 1.0, OTHER: 1.0} if code.upper() == "RTIMAGE" else {family: 1.0}
    return claim(MODALITY_TAG, shares, f"Modality (0008,0060) is {code[:32]}")
