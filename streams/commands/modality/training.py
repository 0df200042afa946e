"""Learns a modality model from labelled files, and measures it on sources that were held out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streams.commands.modality.evaluation import WRONG_TAGS_SHARE, evaluate
from streams.commands.modality.extraction import Extracted
from streams.commands.modality.manifest import Row, sources_per_family
from streams.modality.fusion import Fusion
from streams.modality.head import PixelHead
from streams.modality.labels import FAMILIES
from streams.modality.learning.examples import (
    Labelled,
    with_misleading_names,
    with_misleading_text,
    with_wrong_tags,
)
from streams.modality.learning.fusion import fit_fusion
from streams.modality.learning.head import TrainingImages, fit, out_of_fold
from streams.modality.learning.splits import folds_by_source
from streams.modality.model import ModalityModel, fusion_facts
from streams.modality.opinion import Opinion

# The fusion sees every file this often, each time with other lies told about some.
_DRAWS = 3
_LYING_SOP_CLASS_SHARE = 0.5
_MISLEADING_NAMES_SHARE = 0.3
_MISLEADING_TEXT_SHARE = 0.02
# Rare sources are multiplied most: what augmentation adds, it adds where there is little.
_FEWEST_COPIES, _MOST_COPIES = 2, 20
# Novelty is a share of held-out training images. Of the twentieth that is most unlike the rest a
# third was told wrong: there the pixels count for nothing.
_NOVELTY_LIMIT = 0.95


@dataclass(frozen=True)
class Trained:
    """A model and what was measured of it.

    Parameters
    ----------
    model
        What was learned from all files.
    thin
        Families with one source or none.
    measured
        Figures by what was asked, from cross-validation by source.
    """

    model: ModalityModel
    thin: tuple[str, ...]
    measured: dict[str, dict[str, Any]]


def copies_of(rows: Sequence[Row], base: int, counted: Sequence[bool] | None = None) -> list[int]:
    """Decide how many augmented copies of each picture to learn from.

    Parameters
    ----------
    rows : sequence of Row
        Labelled files.
    base : int
        Copies of the only file of a source; each of n files gets a square root of n fewer.
    counted : sequence of bool, optional
        Which files are real; there is no end of made-up ones, and they get the fewest copies.
    """
    size: dict[tuple[str | None, str], int] = {}
    for row in rows:
        size[row.family, row.source] = size.get((row.family, row.source), 0) + 1
    if not base:
        return [0] * len(rows)
    wanted = [round(base / size[row.family, row.source] ** 0.5) for row in rows]
    if counted is not None:
        wanted = [count if real else 0 for count, real in zip(wanted, counted, strict=True)]
    return [min(max(count, _FEWEST_COPIES), _MOST_COPIES) for count in wanted]


def train(
    rows: Sequence[Row],
    extracted: Sequence[Extracted],
    *,
    embedder_version: str,
    counted: Sequence[bool] | None = None,
    folds: int = 5,
    seed: int = 0,
) -> Trained:
    """Learn a model.

    Parameters
    ----------
    rows : sequence of Row
        Labelled files.
    extracted : sequence of Extracted
        Of each, with augmented copies.
    embedder_version : str
        What made the activations; the head will refuse others.
    counted : sequence of bool, optional
        Which files the figures are of; the others are learned from only (drawn pictures, say).
    folds : int
        Of the cross-validation.
    seed : int
        Of everything random.

    Returns
    -------
    Trained
        The model, and figures of models that did not see the sources they were asked about.
    """
    counts = [True] * len(rows) if counted is None else list(counted)
    real = sources_per_family([row for row, kept in zip(rows, counts, strict=True) if kept])
    thin = tuple(family for family in FAMILIES if real.get(family, 0) < 2)
    images, places = training_images(rows, extracted, counts)
    held_out = out_of_fold(images, folds=folds, seed=seed)
    looked = _looked(len(rows), places, held_out)
    files = [
        Labelled(found.evidence, row.family or "", row.source, seen, novelty)
        for row, found, (seen, novelty) in zip(rows, extracted, looked, strict=True)
    ]
    # A family of one source has no vote that was learned without it: of such files, as of made-up
    # ones, the fusion would learn a mistrust that real ones do not deserve.
    files = [file for file, kept in zip(files, counts, strict=True) if kept]
    usual = np.array([file.family not in thin for file in files])
    fold_of = folds_by_source(
        [file.family for file in files], [file.source for file in files], folds, seed
    )
    per_fold = [
        _fusion([files[place] for place in np.flatnonzero(usual & (fold_of != fold))], thin, seed)
        for fold in range(folds)
    ]
    measured = _measure(files, [per_fold[fold] for fold in fold_of], thin)
    head = fit(images, embedder_version=embedder_version, seed=seed)
    fusion = _fusion([files[place] for place in np.flatnonzero(usual)], thin, seed)
    return Trained(ModalityModel(_version(head, fusion), fusion, head), thin, measured)


def training_images(
    rows: Sequence[Row], extracted: Sequence[Extracted], counted: Sequence[bool]
) -> tuple[TrainingImages, NDArray[np.intp]]:
    """Stack what the head learns from: every picture, then the copies of each.

    Returns
    -------
    tuple
        The images, and for each original the row that it comes from.
    """
    places = np.array(
        [place for place, found in enumerate(extracted) if found.evidence.stages is not None],
        np.intp,
    )
    kept = [extracted[place] for place in places]
    stages: list[Any] = [found.evidence.stages for found in kept]
    features: list[Any] = [found.evidence.features for found in kept]
    originals = list(range(len(places)))
    for number, found in enumerate(kept):
        if found.copy_stages is not None and found.copy_features is not None:
            stages += list(found.copy_stages)
            features += list(found.copy_features)
            originals += [number] * len(found.copy_stages)
    origin = places[originals]
    images = TrainingImages(
        stages=np.stack(stages),
        features=np.stack(features),
        families=np.array([FAMILIES.index(rows[place].family or "") for place in origin], np.intp),
        sources=np.array([rows[place].source for place in origin]),
        originals=np.array(originals, np.intp),
        counted=np.array(counted, bool)[origin],
    )
    return images, places


def _looked(
    count: int, places: NDArray[np.intp], held_out: Any
) -> list[tuple[tuple[Opinion, ...], float | None]]:
    """Give every row what a head that did not see its source says of it."""
    found: list[tuple[tuple[Opinion, ...], float | None]] = [((), None)] * count
    for number, row in enumerate(held_out.rows):
        opinions = (
            Opinion("pixels", held_out.pixels[number], "held out"),
            Opinion("heuristics", held_out.heuristics[number], "held out"),
        )
        found[places[row]] = (opinions, float(held_out.novelty[number]))
    return found


def _fusion(files: Sequence[Labelled], thin: Sequence[str], seed: int) -> Fusion:
    random = np.random.default_rng(seed)
    examples = []
    for _ in range(_DRAWS):
        drawn = with_wrong_tags(
            files, WRONG_TAGS_SHARE, random, sop_class_share=_LYING_SOP_CLASS_SHARE
        )
        drawn = with_misleading_names(drawn, _MISLEADING_NAMES_SHARE, random)
        drawn = with_misleading_text(drawn, _MISLEADING_TEXT_SHARE, random)
        examples += [file.example() for file in drawn]
    return fit_fusion(examples, thin=frozenset(thin), novelty_limit=_NOVELTY_LIMIT, seed=seed)


def _measure(
    files: Sequence[Labelled],
    fusions: Sequence[Fusion],
    thin: Sequence[str],
) -> dict[str, dict[str, Any]]:
    dicom = [place for place, file in enumerate(files) if file.evidence.format == "dicom"]

    def measure(chosen: Sequence[int], **options: Any) -> dict[str, Any]:
        return evaluate(
            [files[place] for place in chosen],
            lambda number: fusions[chosen[number]],
            thin=thin,
            **options,
        )

    everything = range(len(files))
    return {
        "pixels only": measure(everything, without=("tags", "path", "text"), ablations=False),
        "all signals": measure(everything),
        "without path": measure(everything, without=("path",), ablations=False),
        f"DICOM, {WRONG_TAGS_SHARE:.0%} of tags wrong, without path": measure(
            dicom, without=("path",), corrupt_tags=WRONG_TAGS_SHARE
        ),
        "DICOM without tags and path": measure(dicom, without=("tags", "path"), ablations=False),
    }


def _version(head: PixelHead, fusion: Fusion) -> str:
    facts = f"{head.version} {sorted(fusion_facts(fusion).items())}"
    return f"modality-{hashlib.sha256(facts.encode()).hexdigest()[:12]}"
