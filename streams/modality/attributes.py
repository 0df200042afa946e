"""Plane, view, contrast phase and body part of an image, where the evidence allows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from schemas.facts import Attribute, HeaderFacts
from streams.modality.body_parts import BODY_PARTS, BodyPart
from streams.modality.cues import listed
from streams.modality.labels import CT, MG, MR, NM, RADIOGRAPH, XA, family_of
from streams.modality.opinion import MAX_EVIDENCE_CHARS, Provenance
from streams.modality.path import path_words
from streams.sniff import vocabulary

AttributeName = Literal["plane", "view", "contrast_phase", "body_part"]

# What a source counts for against others: a fact of geometry, a coded field, a word.
_GEOMETRY: Final = 8
_FIELD: Final = 3
_WORD: Final = 1
# Below this cosine no axis of the patient is nearer to the slice's normal than 37 degrees.
_MIN_COSINE: Final = 0.8
_COSINE_TOLERANCE: Final = 0.05

_PLANES: Final = ("axial", "coronal", "sagittal", "oblique")
# Term: view, as View Position (0018,5101) codes it.
_VIEW_TERMS: Final = {
    "anteroposterior": "AP",
    "posteroanterior": "PA",
    "lateral": "LAT",
    "craniocaudal": "CC",
    "mediolateral-oblique": "MLO",
}
_HEART_VIEWS: Final = ("short-axis", "long-axis", "four-chamber", "two-chamber")
_VIEW_CODES: Final = listed(
    "AP|PA|LL|RL|LAT|LLD|RLD|LLO|RLO|MLO|CC|ML|LM|LMO|XCC|XCCL|XCCM|FB|SIO|ISO|OBLIQUE|TANGENTIAL"
)
_LATERALS: Final = frozenset({"LL", "RL", "LAT"})
_VIEW_MARK = re.compile(r"[RL] ?-? ?(MLO|CC|XCCL|ML|LM)|(MLO|PA|AP|LAT)")
_PHASE_TERMS: Final = {
    "arterial": "arterial",
    "portal-venous": "portal-venous",
    "venous": "venous",
    "delayed": "delayed",
    "late-enhancement": "late-enhancement",
    "without-contrast": "native",
    "pre": "native",
    "with-contrast": "enhanced",
    "post": "enhanced",
    "contrast": "enhanced",
}
_VAGUE_PHASES: Final = frozenset({"pre", "post", "contrast"})
# A phase of enhancement is one with contrast: these do not disagree.
_ENHANCED: Final = listed("arterial|portal-venous|venous|delayed|late-enhancement|enhanced")


@dataclass(frozen=True, slots=True)
class _Finding:
    """One source's value, what it counts for, and how evidence calls the source."""

    value: str
    count: int
    source: str


def attributes(
    header: HeaderFacts,
    relpath: str = "",
    words: Sequence[str] = (),
    provenance: Provenance = "dicom",
) -> tuple[Attribute, ...]:
    """Find what can be said of plane, view, contrast phase and body part.

    Parameters
    ----------
    header : HeaderFacts
        Facts of the file's header.
    relpath : str
        Its path in the dataset.
    words : sequence of str
        Burnt-in text that was read.
    provenance : Provenance
        The geometry of a capture is that of a screen, and is not asked.

    Returns
    -------
    tuple of Attribute
        At most one of each name; none where nothing is known.
    """
    in_path = _terms_of(path_words(relpath))
    # Volumes are tomographic, whatever machine they are of.
    family = MR if provenance == "volume" else family_of(header.modality or "")
    found = (
        _decide("plane", _planes(header, in_path, provenance)),
        _decide("view", _views(header, relpath, words, family)),
        _decide("contrast_phase", _phases(header, in_path, family)),
        _body_part(header, in_path),
    )
    return tuple(attribute for attribute in found if attribute is not None)


def plane_of(orientation: Sequence[float]) -> str | None:
    """Name the plane of a slice by its direction cosines.

    Parameters
    ----------
    orientation : sequence of float
        Image Orientation (Patient) (0020,0037): cosines of the row and of the column to the
        patient's axes, left, posterior and head (PS3.3 C.7.6.2.1.1).

    Returns
    -------
    str or None
        ``axial``, ``coronal``, ``sagittal``; ``oblique`` where the slice's normal is more than 37
        degrees away from every axis; None where the cosines are none.
    """
    cosines = np.asarray(orientation, dtype=np.float64)
    if cosines.shape != (6,) or not (np.abs(cosines) <= 1 + _COSINE_TOLERANCE).all():
        return None
    row, column = cosines[:3], cosines[3:]
    # Two unit vectors at a right angle.
    strayed = (row @ row - 1, column @ column - 1, row @ column)
    if max(abs(float(error)) for error in strayed) > _COSINE_TOLERANCE:
        return None
    normal = np.abs(np.cross(row, column))
    if float(normal.max()) < _MIN_COSINE:
        return "oblique"
    return ("sagittal", "coronal", "axial")[int(normal.argmax())]


def _planes(
    header: HeaderFacts, in_path: tuple[str, ...], provenance: Provenance
) -> list[_Finding]:
    found = []
    if header.image_orientation is not None and provenance == "dicom":
        plane = plane_of(header.image_orientation)
        if plane is not None:
            found.append(_Finding(plane, _GEOMETRY, "direction cosines"))
    for terms, source in ((header.description_terms, "description"), (in_path, "path")):
        named = [term for term in terms if term in _PLANES]
        # ``axial oblique`` is an axial slice, tilted; two planes are a series of several.
        upright = [term for term in named if term != "oblique"] or named
        if len(upright) == 1:
            found.append(_Finding(upright[0], _WORD, source))
    return found


def _views(
    header: HeaderFacts, relpath: str, words: Sequence[str], family: str | None
) -> list[_Finding]:
    found = []
    view = (header.view_position or "").strip().upper()
    view = "LAT" if view == "LATERAL" else view
    if view in _VIEW_CODES:
        found.append(_Finding(view, _FIELD, "View Position (0018,5101)"))
    heart = [term for term in header.description_terms if term in _HEART_VIEWS]
    if len(heart) == 1:
        found.append(_Finding(heart[0], _WORD, "description"))
    # An MR series is named for its phase encoding: AP is no view there.
    if family not in (None, RADIOGRAPH, MG, XA, NM):
        return found
    named = [_VIEW_TERMS[term] for term in header.description_terms if term in _VIEW_TERMS]
    if len(named) == 1:
        found.append(_Finding(named[0], _WORD, "description"))
    for texts, source in ((path_words(relpath), "path"), (words, "burnt-in text")):
        marks = {_mark(text) for text in texts} - {None}
        if len(marks) == 1:
            found.append(_Finding(str(marks.pop()), _WORD, source))
    return found


def _mark(text: str) -> str | None:
    found = _VIEW_MARK.fullmatch(text.strip()[:16])
    return (found[1] or found[2]) if found else None


def _phases(header: HeaderFacts, in_path: tuple[str, ...], family: str | None) -> list[_Finding]:
    if family not in (None, CT, MR):
        return []
    found = []
    for terms, source in ((header.description_terms, "description"), (in_path, "path")):
        # ``pre``, ``post`` and ``contrast`` are words of any folder.
        vague = _VAGUE_PHASES if source == "path" else frozenset[str]()
        known = [term for term in terms if term in _PHASE_TERMS and term not in vague]
        named = dict.fromkeys(_PHASE_TERMS[term] for term in known)
        precise = [phase for phase in named if phase not in ("enhanced", "native")]
        # ``without and with contrast`` is a study of both; a precise phase is one of its series.
        chosen = precise if precise else list(named)
        if len(chosen) == 1:
            found.append(_Finding(chosen[0], _WORD, source))
    if header.contrast_agent is not None and (header.contrast_agent or found):
        value = "enhanced" if header.contrast_agent else "native"
        found.append(_Finding(value, _FIELD, "Contrast/Bolus Agent (0018,0010)"))
    return found


def _body_part(header: HeaderFacts, in_path: tuple[str, ...]) -> Attribute | None:
    coded = _parts_of(vocabulary.terms([(header.body_part or "").replace("_", " ")]))
    written = _parts_of(header.description_terms)
    if coded:
        # The field's own words are among the description's: they are no second witness, unless
        # the description names another region and not this one.
        regions = {part.region for part in written}
        written = [] if coded[0].region in regions else written
    named = (
        (coded, _FIELD, "Body Part Examined (0018,0015)"),
        (written, _WORD, "description"),
        (_parts_of(in_path), _WORD, "path"),
    )
    return _decide(
        "body_part",
        [_Finding(parts[0].code, count, source) for parts, count, source in named if parts],
    )


def _parts_of(terms: Iterable[str]) -> list[BodyPart]:
    """Return the parts named, those that are no whole region first."""
    parts = [BODY_PARTS[term] for term in terms if term in BODY_PARTS]
    return sorted(parts, key=lambda part: (part.code == part.region, part.region == "WHOLEBODY"))


def _terms_of(words: Iterable[str]) -> tuple[str, ...]:
    return vocabulary.terms([" ".join(word for word in words if len(word) > 2)[-256:]])


_REGION_OF: Final = {part.code: part.region for part in BODY_PARTS.values()}


def _agree(one: str, other: str) -> bool:
    """Tell whether two values can both be true: equal, or one says the other more precisely."""
    if one == other or {one, other} <= _LATERALS:
        return True
    if {one, other} <= _ENHANCED:
        return "enhanced" in (one, other)
    regions = {_REGION_OF.get(one, one), _REGION_OF.get(other, other)}
    return len(regions) == 1 and bool(regions & {one, other})


def _decide(name: AttributeName, findings: Sequence[_Finding]) -> Attribute | None:
    if not findings:
        return None
    # The most precise of what the strongest source agrees with.
    best = max(findings, key=lambda f: sum(g.count for g in findings if _agree(f.value, g.value)))
    agreeing = [finding for finding in findings if _agree(best.value, finding.value)]
    value = max((f.value for f in agreeing), key=_precision)
    agree = sum(finding.count for finding in agreeing)
    disagree = sum(finding.count for finding in findings) - agree
    confidence = None if agree == disagree else (agree + 1) / (agree + disagree + 2)
    said = ", ".join(f"{finding.source} says {finding.value}" for finding in findings)
    return Attribute(
        name=name, value=value, confidence=confidence, evidence=said[:MAX_EVIDENCE_CHARS]
    )


def _precision(value: str) -> int:
    """Rank a value over those that it implies."""
    if value in _REGION_OF:
        return int(_REGION_OF[value] != value)
    return int(value not in ("enhanced", "LAT"))


__all__ = ["AttributeName", "attributes", "plane_of"]
