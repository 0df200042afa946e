"""The released knowledge about signals, and the decision that it makes of a file's evidence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from schemas.facts import HeaderFacts, ModalityDecision, Vote
from streams.modality.evidence import (
    Evidence,
    head_opinions,
    novelty_of,
    value_opinions,
    written_opinions,
)
from streams.modality.fusion import PIXEL_SIGNALS, Fused, Fusion, fuse
from streams.modality.head import PixelHead
from streams.modality.labels import FAMILIES, family_of
from streams.modality.opinion import Opinion, Provenance
from streams.modality.tags import contradictions

METHOD: Final = "fusion"
FUSION_FILE: Final = "fusion.json"
HEAD_FILE: Final = "head.npz"
CARD_FILE: Final = "CARD.md"
RELEASED: Final = Path(__file__).with_name("released")
_MAX_REASON_CHARS = 256
_TAG: Final = "modality-tag"


class ModelFileError(ValueError):
    """A model that cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class ModalityModel:
    """What was learned, under one version.

    Parameters
    ----------
    version : str
        Of everything below: the same version gives the same answers.
    fusion : Fusion
        Reliabilities of the signals.
    head : PixelHead, optional
        What looks at embeddings; None for a model that reads only.
    """

    version: str
    fusion: Fusion
    head: PixelHead | None = None

    @classmethod
    def load(cls, folder: Path = RELEASED) -> ModalityModel:
        """Read a model's folder.

        Raises
        ------
        ModelFileError
            A file is missing or damaged.
        """
        try:
            stored = orjson.loads((folder / FUSION_FILE).read_bytes())
            fusion, version = fusion_from(stored["fusion"]), str(stored["version"])
            head = PixelHead.load(folder / HEAD_FILE) if stored["has_head"] else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelFileError(
                f"{folder} holds no usable modality model ({error}); make one with "
                "`biodatamine modality train`"
            ) from error
        return cls(version, fusion, head)

    def save(self, folder: Path) -> None:
        """Write the model's folder."""
        folder.mkdir(parents=True, exist_ok=True)
        if self.head is not None:
            self.head.save(folder / HEAD_FILE)
        stored = {
            "version": self.version,
            "has_head": self.head is not None,
            "fusion": fusion_facts(self.fusion),
        }
        options = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE
        (folder / FUSION_FILE).write_bytes(orjson.dumps(stored, option=options))


@dataclass(frozen=True, slots=True)
class Weighed:
    """Every opinion on a file, and the answer.

    Parameters
    ----------
    opinions : tuple of Opinion
        Whoever had one.
    fused : Fused
        What came of them.
    provenance : Provenance
        How the pixels came into the file.
    novelty : float, optional
        How unlike all that was learned from the pixels are.
    """

    opinions: tuple[Opinion, ...]
    fused: Fused
    provenance: Provenance
    novelty: float | None


def weigh(evidence: Evidence, model: ModalityModel) -> Weighed:
    """Ask every signal about a file, and fuse.

    Parameters
    ----------
    evidence : Evidence
        What is known of the file.
    model : ModalityModel
        What was learned.
    """
    opinions = (
        *written_opinions(evidence),
        *value_opinions(evidence),
        *head_opinions(evidence, model.head),
    )
    novelty = None
    if any(opinion.signal in PIXEL_SIGNALS for opinion in opinions):
        novelty = novelty_of(evidence, model.head)
    fused = fuse(opinions, evidence.provenance, model.fusion, novelty=novelty)
    return Weighed(opinions, fused, evidence.provenance, novelty)


def decide(evidence: Evidence, model: ModalityModel) -> ModalityDecision:
    """Say what a file shows, with every vote.

    Parameters
    ----------
    evidence : Evidence
        What is known of the file.
    model : ModalityModel
        What was learned.
    """
    weighed = weigh(evidence, model)
    fused = weighed.fused
    reasons = conflicts(weighed)
    return ModalityDecision(
        modality=code_of(fused, evidence.header),
        confidence=fused.confidence,
        method=METHOD,
        method_version=model.version[:64],
        votes=tuple(
            _vote(opinion, weighed.provenance, model.fusion) for opinion in weighed.opinions
        )[:32],
        conflict=bool(reasons),
        conflict_reason=_joined(reasons),
        abstained=fused.abstained,
        abstained_reason=fused.reason[:_MAX_REASON_CHARS],
        family=fused.family,
        novelty=weighed.novelty,
    )


def conflicts(weighed: Weighed) -> tuple[str, ...]:
    """Say where a header and its pixels, the tag and the answer, or two tags disagree.

    Parameters
    ----------
    weighed : Weighed
        All that was said of a file.
    """
    fused = weighed.fused
    found = [fused.conflict_reason] if fused.conflict_reason else []
    tags = [opinion for opinion in weighed.opinions if opinion.signal in GROUPS["tags"]]
    for opinion in tags:
        overruled = not fused.abstained and opinion.label != fused.family
        if opinion.signal == _TAG and overruled and not found:
            found.append(
                f"Modality (0008,0060) is of {opinion.label}, all together say {fused.family} "
                f"({fused.confidence:.2f})"
            )
    return (*found, *contradictions(tags))


def _joined(reasons: Sequence[str]) -> str:
    """Join as many reasons as fit whole."""
    text = ""
    for reason in reasons:
        longer = f"{text}; {reason}" if text else reason[:_MAX_REASON_CHARS]
        if len(longer) > _MAX_REASON_CHARS:
            break
        text = longer
    return text


def code_of(fused: Fused, header: HeaderFacts) -> str:
    """Name the answer: the tag's own code where it is of the family that was found.

    Parameters
    ----------
    fused : Fused
        The answer.
    header : HeaderFacts
        Facts of the header; its Modality tells CR from DX, which no pixel does.
    """
    tag = (header.modality or "").strip().upper()
    return tag if not fused.abstained and family_of(tag) == fused.family else fused.answer


def fusion_facts(fusion: Fusion) -> dict[str, Any]:
    """Return a fusion as JSON-ready values."""
    table: dict[str, dict[str, float]] = {}
    for (signal, provenance), exponent in fusion.reliabilities.items():
        table.setdefault(signal, {})[provenance] = round(exponent, 6)
    return {
        "reliabilities": table,
        "doubt": fusion.doubt,
        "answer_from": fusion.answer_from,
        "novelty_limit": fusion.novelty_limit,
        "thin": sorted(fusion.thin),
        "pixels_alone": fusion.pixels_alone,
    }


def fusion_from(stored: Mapping[str, Any]) -> Fusion:
    """Read a fusion from ``fusion_facts``.

    Raises
    ------
    ValueError
        A number is out of its range, or a family is unknown.
    """
    reliabilities = {
        (signal, provenance): float(exponent)
        for signal, by_provenance in stored["reliabilities"].items()
        for provenance, exponent in by_provenance.items()
    }
    if not all(math.isfinite(value) and value >= 0 for value in reliabilities.values()):
        raise ValueError("a reliability is negative or not finite")
    thin = frozenset(stored["thin"])
    if unknown := thin - set(FAMILIES):
        raise ValueError(f"there is no family {', '.join(sorted(unknown))}")
    alone = float(stored["pixels_alone"])
    if not (math.isfinite(alone) and alone > 0):
        raise ValueError("pixels_alone is positive")
    shares = {name: float(stored[name]) for name in ("doubt", "answer_from", "novelty_limit")}
    if not all(0 <= value <= 1 for value in shares.values()):
        raise ValueError(f"{', '.join(shares)} are between 0 and 1")
    return Fusion(reliabilities=reliabilities, thin=thin, pixels_alone=alone, **shares)


def _vote(opinion: Opinion, provenance: Provenance, fusion: Fusion) -> Vote:
    return Vote(
        signal=opinion.signal[:64],
        label=opinion.label,
        weight=round(fusion.reliability(opinion.signal, provenance), 4),
        confidence=round(float(opinion.probabilities().max()), 4),
        evidence=opinion.evidence[:256],
    )


def signals_of(groups: Sequence[str]) -> frozenset[str]:
    """Return the signals of groups that people name: ``tags``, ``path``, ``pixels``, ``text``.

    Raises
    ------
    ValueError
        There is no such group.
    """
    found: set[str] = set()
    for group in groups:
        if group not in GROUPS:
            raise ValueError(f"no group of signals {group!r}; there are {', '.join(GROUPS)}")
        found |= GROUPS[group]
    return frozenset(found)


GROUPS: Final[dict[str, frozenset[str]]] = {
    "tags": frozenset(
        {"modality-tag", "sop-class", "acquisition", "matrix", "description", "manufacturer"}
    ),
    "path": frozenset({"path"}),
    "pixels": PIXEL_SIGNALS,
    "text": frozenset({"text"}),
}
"""Signals by the group that an ablation leaves out."""
