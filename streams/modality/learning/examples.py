"""Labelled evidence to what the fusion learns from and is measured on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from streams.modality.evidence import Evidence, value_opinions, written_opinions
from streams.modality.fusion import Fusion, fuse
from streams.modality.labels import FAMILIES, family_of
from streams.modality.learning.fusion import Example
from streams.modality.learning.metrics import NOTHING, Answers
from streams.modality.opinion import Opinion

# What a wrong tag says: the common codes, as a technician's wrong protocol or a converter leaves.
_TAGS = ("CT", "MR", "US", "CR", "DX", "MG", "NM", "PT", "XA", "RF", "OP", "OPT", "ES", "SM", "XC")
_SOP_CLASSES = {
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "MR": "1.2.840.10008.5.1.4.1.1.4",
    "US": "1.2.840.10008.5.1.4.1.1.6.1",
    "CR": "1.2.840.10008.5.1.4.1.1.1",
    "DX": "1.2.840.10008.5.1.4.1.1.1.1",
    "MG": "1.2.840.10008.5.1.4.1.1.1.2",
    "NM": "1.2.840.10008.5.1.4.1.1.20",
    "PT": "1.2.840.10008.5.1.4.1.1.128",
    "XA": "1.2.840.10008.5.1.4.1.1.12.1",
    "RF": "1.2.840.10008.5.1.4.1.1.12.2",
    "OP": "1.2.840.10008.5.1.4.1.1.77.1.5.1",
    "OPT": "1.2.840.10008.5.1.4.1.1.77.1.5.4",
    "ES": "1.2.840.10008.5.1.4.1.1.77.1.1",
    "SM": "1.2.840.10008.5.1.4.1.1.77.1.6",
    "XC": "1.2.840.10008.5.1.4.1.1.77.1.4",
}


@dataclass(frozen=True, slots=True)
class Labelled:
    """One labelled file, and what those who looked at it say.

    Parameters
    ----------
    evidence : Evidence
        What is known of it.
    family, source : str
        What it shows, and where it comes from.
    seen : sequence of Opinion
        Of the head that looks at the picture.
    novelty : float, optional
        How unlike all that was learned from its pixels are.
    """

    evidence: Evidence
    family: str
    source: str
    seen: Sequence[Opinion] = ()
    novelty: float | None = None

    def example(self, *, without: frozenset[str] = frozenset()) -> Example:
        """Return it as the fusion sees it, less some signals."""
        opinions = [
            opinion
            for opinion in (
                *written_opinions(self.evidence),
                *value_opinions(self.evidence),
                *self.seen,
            )
            if opinion.signal not in without
        ]
        return Example(opinions, self.evidence.provenance, self.family, self.source, self.novelty)


def with_wrong_tags(
    files: Sequence[Labelled],
    share: float,
    random: np.random.Generator,
    *,
    sop_class_share: float = 0.0,
) -> list[Labelled]:
    """Let the Modality tag lie in a share of the files that have one.

    Parameters
    ----------
    files : sequence of Labelled
        What to corrupt; it is not changed.
    share : float
        Of the files with a Modality, 0 to 1, chosen one by one.
    random : numpy.random.Generator
        Which, and what they then say.
    sop_class_share : float
        In how many of these the SOP Class tells the same lie.
    """
    return [
        _lying(file, random, sop_class_share)
        if file.evidence.header.modality and random.random() < share
        else file
        for file in files
    ]


def _lying(file: Labelled, random: np.random.Generator, sop_class_share: float) -> Labelled:
    wrong = [code for code in _TAGS if family_of(code) != file.family]
    code = wrong[int(random.integers(len(wrong)))]
    changes: dict[str, str] = {"modality": code}
    if random.random() < sop_class_share:
        changes["sop_class_uid"] = _SOP_CLASSES[code]
    header = file.evidence.header.model_copy(update=changes)
    return replace(file, evidence=replace(file.evidence, header=header))


def with_misleading_names(
    files: Sequence[Labelled], share: float, random: np.random.Generator
) -> list[Labelled]:
    """Give a share of the files the path of another one that shows something else.

    Parameters
    ----------
    files : sequence of Labelled
        What to rename; it is not changed.
    share : float
        Of the files, 0 to 1, chosen one by one.
    random : numpy.random.Generator
        Which, and whose name they get.
    """
    renamed = []
    for file in files:
        other = files[int(random.integers(len(files)))]
        if other.family != file.family and random.random() < share:
            file = replace(  # noqa: PLW2901
                file, evidence=replace(file.evidence, relpath=other.evidence.relpath)
            )
        renamed.append(file)
    return renamed


def with_misleading_text(
    files: Sequence[Labelled], share: float, random: np.random.Generator
) -> list[Labelled]:
    """Let a share of the files bear the text that is burnt into one that shows something else.

    Parameters
    ----------
    files : sequence of Labelled
        What to write on; it is not changed.
    share : float
        Of the files, 0 to 1, chosen one by one.
    random : numpy.random.Generator
        Which, and whose text they get.
    """
    written = [file for file in files if file.evidence.text is not None]
    marked = []
    for file in files:
        other = written[int(random.integers(len(written)))] if written else file
        if other.family != file.family and random.random() < share:
            evidence = replace(file.evidence, text=other.evidence.text)
            marked.append(replace(file, evidence=evidence))
        else:
            marked.append(file)
    return marked


def answer(examples: Sequence[Example], fusion: Fusion | Callable[[int], Fusion]) -> Answers:
    """Let a fusion answer labelled examples.

    Parameters
    ----------
    examples : sequence of Example
        Files whose answer is known.
    fusion : Fusion or callable
        What was learned; or which to take for the n-th example, in cross-validation.
    """
    best, confidence, abstained = [], [], []
    for place, example in enumerate(examples):
        learned = fusion if isinstance(fusion, Fusion) else fusion(place)
        fused = fuse(example.opinions, example.provenance, learned, novelty=example.novelty)
        silent = fused.confidence < 1.01 / len(FAMILIES)
        best.append(NOTHING if silent else FAMILIES.index(fused.family))
        confidence.append(fused.confidence)
        abstained.append(fused.abstained)
    return Answers(
        truth=np.array([FAMILIES.index(example.family) for example in examples], np.intp),
        best=np.array(best, np.intp),
        confidence=np.array(confidence),
        abstained=np.array(abstained, bool),
        sources=[example.source for example in examples],
    )
