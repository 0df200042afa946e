"""Anatomy: terms of the vocabulary, their code strings, and the regions that they lie in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple


class BodyPart(NamedTuple):
    """A body part.

    Parameters
    ----------
    code : str
        Defined term of Body Part Examined (PS3.16 annex L).
    region : str
        Code of the region that it lies in; its own where it is one.
    """

    code: str
    region: str


# Region: its parts, each as term of the vocabulary, and its code where that is not the term.
_REGIONS: Final[Mapping[str, str]] = {
    "HEAD": "head skull brain pituitary=PITUITARY orbit=ORBIT retina=EYE sinuses=PSINUS "
    "temporal-bone=TEMPORALBONE face=FACE jaw=JAW teeth=TEETH",
    "NECK": "neck thyroid carotid",
    "CHEST": "chest lung heart coronary=CORONARYARTERY aorta pulmonary-embolism=CHEST mediastinum "
    "ribs=RIB sternum",
    "BREAST": "breast",
    "ABDOMEN": "abdomen liver gallbladder pancreas spleen kidney adrenal bowel=BOWEL stomach",
    "PELVIS": "pelvis bladder prostate uterus ovary fetus=FETUS hip sacrum=SSPINE",
    "LEG": "leg thigh femur knee lower-leg=LEG ankle foot",
    "ARM": "arm shoulder humerus elbow forearm wrist hand finger",
    "SPINE": "spine cervical-spine=CSPINE thoracic-spine=TSPINE lumbar-spine=LSPINE",
    "SKIN": "skin",
    "WHOLEBODY": "whole-body=WHOLEBODY",
}


def _parts() -> dict[str, BodyPart]:
    found: dict[str, BodyPart] = {}
    for region, parts in _REGIONS.items():
        for part in parts.split():
            term, _, code = part.partition("=")
            found[term] = BodyPart(code or term.upper().replace("-", ""), region)
    return found


BODY_PARTS: Final[Mapping[str, BodyPart]] = _parts()
"""Term of ``streams.sniff.vocabulary``: body part."""
