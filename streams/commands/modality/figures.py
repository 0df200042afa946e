"""The figures of one evaluation, as one JSON-ready dictionary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from streams.modality.labels import FAMILIES
from streams.modality.learning import metrics
from streams.modality.learning.metrics import Answers

_MEASURES = {
    "accuracy": metrics.accuracy,
    "source_accuracy": metrics.source_accuracy,
    "coverage": metrics.coverage,
    "answered_accuracy": metrics.answered_accuracy,
    "minor_errors": metrics.minor_errors,
    "calibration_error": metrics.calibration_error,
}


def figures(answers: Answers, *, thin: Sequence[str] = ()) -> dict[str, Any]:
    """Measure answers, families that several sources taught apart from the thin ones.

    Parameters
    ----------
    answers : Answers
        Of labelled files.
    thin : sequence of str
        Families on which pixels alone are to abstain.
    """
    is_thin = np.isin(answers.truth, [FAMILIES.index(family) for family in thin])
    main = answers.only(~is_thin)
    rare = answers.only(is_thin)
    return {
        "files": len(main.truth),
        "sources": len(set(main.sources)),
        **{name: interval(measure, main) for name, measure in _MEASURES.items()},
        "thin_families": {
            "families": sorted(thin),
            "files": len(rare.truth),
            "abstained": interval(lambda a: 1 - metrics.coverage(a), rare),
            "confidently_wrong": interval(_confidently_wrong, rare),
        },
        "per_family": per_family(answers),
        "confusion": {
            "families": list(FAMILIES),
            "rows_true_columns_likeliest": metrics.confusion(answers).tolist(),
        },
        "reliability_curve": [
            {"confidence": confidence, "accuracy": right, "files": count}
            for confidence, right, count in metrics.reliability_curve(main)
        ],
    }


def interval(measure: Any, answers: Answers) -> dict[str, float | None]:
    """Measure with a 95 % interval over sources; None where nothing can be said."""
    figure = metrics.with_interval(measure, answers)
    return {
        name: None if np.isnan(value) else round(value, 4)
        for name, value in (("value", figure.value), ("low", figure.low), ("high", figure.high))
    }


def short(answers: Answers, *, thin: Sequence[str] = ()) -> dict[str, Any]:
    """Measure what an ablation is compared by."""
    main = answers.only(~np.isin(answers.truth, [FAMILIES.index(family) for family in thin]))
    return {
        "files": len(main.truth),
        **{
            name: interval(_MEASURES[name], main)
            for name in ("accuracy", "coverage", "answered_accuracy", "calibration_error")
        },
    }


def per_family(answers: Answers) -> dict[str, dict[str, Any]]:
    """Measure recall, precision and abstention of each family that occurs."""
    table: dict[str, dict[str, Any]] = {}
    for index, family in enumerate(FAMILIES):
        true = answers.truth == index
        named = (answers.best == index) & ~answers.abstained
        if not true.any():
            continue
        own = answers.only(true)
        table[family] = {
            "files": int(true.sum()),
            "sources": len(set(own.sources)),
            "recall": interval(metrics.accuracy, own),
            "precision_of_answers": round(float(true[named].mean()), 4) if named.any() else None,
            "abstained": round(float(own.abstained.mean()), 4),
        }
    return table


def _confidently_wrong(answers: Answers) -> float:
    if not len(answers.truth):
        return float("nan")
    return float((~answers.abstained & (answers.truth != answers.best)).mean())
