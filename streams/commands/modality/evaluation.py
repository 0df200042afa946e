"""Measures answers on labelled files: as they are, without signals, with tags that lie."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from streams.commands.modality.extraction import Extracted
from streams.commands.modality.figures import figures, short
from streams.commands.modality.manifest import Row
from streams.modality.evidence import head_opinions, novelty_of
from streams.modality.fusion import Fusion, fuse
from streams.modality.learning.examples import Labelled, answer, with_wrong_tags
from streams.modality.model import GROUPS, ModalityModel, Weighed, conflicts, signals_of

WRONG_TAGS_SHARE = 0.15
_ALL = frozenset().union(*GROUPS.values())
_SEED = 0


def evaluate(
    files: Sequence[Labelled],
    fusion: Fusion | Callable[[int], Fusion],
    *,
    thin: Sequence[str],
    without: Sequence[str] = (),
    corrupt_tags: float = 0.0,
    ablations: bool = True,
) -> dict[str, Any]:
    """Measure a fusion on labelled files.

    Parameters
    ----------
    files : sequence of Labelled
        What to answer, with what is true.
    fusion : Fusion or callable
        What was learned; or which to take for the n-th file, in cross-validation.
    thin : sequence of str
        Families on which pixels alone are to abstain.
    without : sequence of str
        Groups of signals that are not asked: ``tags``, ``path``, ``pixels``, ``text``.
    corrupt_tags : float
        Share of the files with a Modality whose tag is made to lie.
    ablations : bool
        Whether to measure every signal alone, and the fusion without each group.

    Returns
    -------
    dict
        JSON-ready figures.
    """
    unheard = signals_of(without)
    heard = [file.example(without=unheard) for file in corrupted(files, corrupt_tags)]
    found: dict[str, Any] = {
        "without": sorted(without),
        "corrupt_tags": corrupt_tags,
        **figures(answer(heard, fusion), thin=thin),
    }
    if corrupt_tags:
        found["wrong_tags"] = _wrong_tags(files, fusion, corrupt_tags, unheard)
    if ablations:
        found["ablations"] = _ablations(files, fusion, thin, unheard, corrupt_tags)
    return found


def labelled(
    rows: Sequence[Row], extracted: Sequence[Extracted], model: ModalityModel
) -> list[Labelled]:
    """Let a model's head look at labelled files."""
    files = []
    for row, found in zip(rows, extracted, strict=True):
        evidence = found.evidence
        seen = head_opinions(evidence, model.head)
        novelty = novelty_of(evidence, model.head)
        files.append(Labelled(evidence, row.family or "", row.source, seen, novelty))
    return files


def write_answers(
    path: Path,
    rows: Sequence[Row],
    files: Sequence[Labelled],
    fusion: Fusion,
    unheard: frozenset[str],
) -> None:
    """Write one line for each file: what is true, what was answered, and how sure."""
    with path.open("w", newline="", encoding="utf-8") as text:
        writer = csv.writer(text)
        writer.writerow(
            (
                "path",
                "source",
                "label",
                "family",
                "answer",
                "likeliest",
                "confidence",
                "reason",
                "conflict",
            )
        )
        for row, file in zip(rows, files, strict=True):
            example = file.example(without=unheard)
            fused = fuse(example.opinions, example.provenance, fusion, novelty=example.novelty)
            weighed = Weighed(tuple(example.opinions), fused, example.provenance, example.novelty)
            writer.writerow(
                (
                    row.name,
                    row.source,
                    row.label,
                    file.family,
                    fused.answer,
                    fused.family,
                    f"{fused.confidence:.4f}",
                    fused.reason,
                    "; ".join(conflicts(weighed)),
                )
            )


def corrupted(files: Sequence[Labelled], share: float) -> Sequence[Labelled]:
    """Let the Modality tag of a share of the files lie, the same ones at each call."""
    return with_wrong_tags(files, share, np.random.default_rng(_SEED)) if share else files


def _ablations(
    files: Sequence[Labelled],
    fusion: Fusion | Callable[[int], Fusion],
    thin: Sequence[str],
    unheard: frozenset[str],
    corrupt_tags: float,
) -> dict[str, Any]:
    examples = [file.example(without=unheard) for file in corrupted(files, corrupt_tags)]
    spoken = sorted({opinion.signal for example in examples for opinion in example.opinions})
    table = {"all signals": short(answer(examples, fusion), thin=thin)}
    for group, members in GROUPS.items():
        if members & set(spoken):
            rest = [example.only(_ALL - members) for example in examples]
            table[f"without {group}"] = short(answer(rest, fusion), thin=thin)
    for group, members in GROUPS.items():
        if len(members & set(spoken)) > 1:
            own = [example.only(members) for example in examples]
            table[f"{group} together alone"] = short(answer(own, fusion), thin=thin)
    for signal in spoken:
        own = [example.only({signal}) for example in examples]
        share = float(np.mean([bool(example.opinions) for example in own]))
        measured = short(answer(own, fusion), thin=thin)
        table[f"{signal} alone"] = {**measured, "speaks": round(share, 4)}
    return table


def _wrong_tags(
    files: Sequence[Labelled],
    fusion: Fusion | Callable[[int], Fusion],
    share: float,
    unheard: frozenset[str],
) -> dict[str, Any]:
    """Count how many of the lying tags are flagged as conflicts, and how many true ones."""
    flagged: dict[bool, list[bool]] = {True: [], False: []}
    for place, (file, given) in enumerate(zip(corrupted(files, share), files, strict=True)):
        if not file.evidence.header.modality:
            continue
        example = file.example(without=unheard)
        learned = fusion if isinstance(fusion, Fusion) else fusion(place)
        fused = fuse(example.opinions, example.provenance, learned, novelty=example.novelty)
        novelty = example.novelty
        weighed = Weighed(tuple(example.opinions), fused, example.provenance, novelty)
        flagged[file is not given].append(bool(conflicts(weighed)))
    return {
        "files_lying": len(flagged[True]),
        "flagged_of_lying": _share(flagged[True]),
        "files_true": len(flagged[False]),
        "flagged_of_true": _share(flagged[False]),
    }


def _share(found: Sequence[bool]) -> float | None:
    return round(float(np.mean(found)), 4) if found else None
