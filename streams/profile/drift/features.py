"""The closed list of what is watched for drift, and how each is taken from a file's facts.

Every feature has a kind, which decides its sketch and its statistics:

========== ============================== =============================== ===================
kind       sketch                         effect size                     test
========== ============================== =============================== ===================
numeric    counts in logarithmic buckets  Wasserstein-1 / std             Kolmogorov-Smirnov
categorical counts of categories          Jensen-Shannon distance, bits   chi-squared
vector     moments, landmarks             MMD (random Fourier features)   permutation, gamma
========== ============================== =============================== ===================

and a role: ``acquisition`` for what the device and the staff decide, ``image`` for what the pixels
show of it, ``model`` for what models make of the pixels. Causes run from the first to the last,
and the list is in the order in which one cause brings the next along (a modality has its body
parts, a view its matrix). :mod:`streams.profile.drift.explain` names causes before their effects.

A feature of a file that has none is missing, and missing is itself a value that can drift: a
scanner that stops sending its kVp is news. Only calibration is skipped where nobody gave feedback.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

import numpy as np

from schemas.base import Value
from schemas.events import FileAnalyzed
from schemas.facts import HeaderFacts, ImageSignals, QualityFacts

Kind = Literal["numeric", "categorical", "vector"]
Role = Literal["acquisition", "image", "model"]
ROLES: Final[tuple[Role, ...]] = ("acquisition", "image", "model")
FeatureValue = float | str | tuple[float, ...]

MAX_CATEGORY_CHARS: Final = 64


@dataclass(frozen=True, slots=True)
class Feature:
    """One thing that is watched.

    Parameters
    ----------
    name : str
        Stable name, as it stands in alerts and tables.
    kind : {"numeric", "categorical", "vector"}
        Which sketch and statistics it gets.
    group : str
        Features of one group react together; a group has one share of the index and of the
        false alarms, however many features it holds.
    role : {"acquisition", "image", "model"}
        Place in the chain of causes.
    take : callable
        The value of a file, or None.
    skip_missing : bool
        Leave out units without a value instead of counting them as missing.
    """

    name: str
    kind: Kind
    group: str
    role: Role
    take: Callable[[FileAnalyzed], FeatureValue | None]
    skip_missing: bool = False


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    number = float(value)
    return number if math.isfinite(number) else None


def _text(value: object) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        value = "+".join(str(v) for v in value)
    text = str(value)[:MAX_CATEGORY_CHARS]
    return text or None


def _header_number(field: str) -> Callable[[FileAnalyzed], FeatureValue | None]:
    return lambda file: _number(getattr(file.header, field))


def _header_text(field: str) -> Callable[[FileAnalyzed], FeatureValue | None]:
    return lambda file: _text(getattr(file.header, field))


def _signal(field: str) -> Callable[[FileAnalyzed], FeatureValue | None]:
    return lambda file: None if file.signals is None else _number(getattr(file.signals, field))


def _quality(field: str) -> Callable[[FileAnalyzed], FeatureValue | None]:
    return lambda file: None if file.quality is None else _number(getattr(file.quality, field))


def _modality(file: FileAnalyzed) -> str | None:
    if file.modality is None or file.modality.abstained:
        return None
    return _text(file.modality.modality)


def _spacing(file: FileAnalyzed) -> float | None:
    spacing = file.header.pixel_spacing_mm or file.header.voxel_size_mm
    return _number(spacing[0]) if spacing else None


def _transfer_syntax(file: FileAnalyzed) -> str | None:
    return _text(file.header.transfer_syntax_uid or file.blob.transfer_syntax)


def _histogram(file: FileAnalyzed) -> tuple[float, ...] | None:
    """Return the square roots of the shares: Euclidean distance is then Hellinger's."""
    if file.signals is None or not file.signals.histogram:
        return None
    return tuple(math.sqrt(max(0.0, share)) for share in file.signals.histogram)


def _embedding(file: FileAnalyzed) -> tuple[float, ...] | None:
    if file.embedding is None:
        return None
    vector = file.embedding.to_array()
    if not bool(np.isfinite(vector).all()):
        return None
    return tuple(vector.tolist())


def _confidence(file: FileAnalyzed) -> float | None:
    return None if file.modality is None else file.modality.confidence


def _novelty(file: FileAnalyzed) -> float | None:
    return None if file.modality is None else _number(file.modality.novelty)


def _conflict(file: FileAnalyzed) -> str | None:
    return None if file.modality is None else _text(file.modality.conflict)


def _abstained(file: FileAnalyzed) -> str | None:
    return None if file.modality is None else _text(file.modality.abstained)


def _nothing(_: FileAnalyzed) -> None:
    """Take nothing: the value comes from elsewhere (a person's feedback)."""


def _acquisition(group: str, **kinds: Kind) -> tuple[Feature, ...]:
    return tuple(
        Feature(
            f"header.{field}",
            kind,
            group,
            "acquisition",
            _header_number(field) if kind == "numeric" else _header_text(field),
        )
        for field, kind in kinds.items()
    )


def _image(group: str, prefix: str, *fields: str) -> tuple[Feature, ...]:
    take = _signal if prefix == "signals" else _quality
    return tuple(
        Feature(f"{prefix}.{field}", "numeric", group, "image", take(field)) for field in fields
    )


CALIBRATION: Final = "calibration"
EMBEDDING: Final = "embedding"
HISTOGRAM: Final = "signals.histogram"

FEATURES: Final[tuple[Feature, ...]] = (
    Feature("modality", "categorical", "modality", "acquisition", _modality),
    *_acquisition("modality", modality="categorical", sop_class_uid="categorical"),
    *_acquisition(
        "content",
        body_part="categorical",
        view_position="categorical",
        laterality="categorical",
        patient_position="categorical",
        contrast_agent="categorical",
    ),
    *_acquisition("patient", patient_age_years="numeric", patient_sex="categorical"),
    *_acquisition(
        "scanner",
        manufacturer_model="categorical",
        device_key="categorical",
        manufacturer="categorical",
        magnetic_field_strength_tesla="numeric",
    ),
    *_acquisition(
        "protocol",
        scanning_sequence="categorical",
        convolution_kernel="categorical",
        kvp="numeric",
        exposure_mas="numeric",
        repetition_time_ms="numeric",
        echo_time_ms="numeric",
        inversion_time_ms="numeric",
        flip_angle_degrees="numeric",
        slice_thickness_mm="numeric",
    ),
    Feature("format", "categorical", "coding", "acquisition", lambda file: file.format),
    Feature("header.transfer_syntax_uid", "categorical", "coding", "acquisition", _transfer_syntax),
    *_acquisition(
        "coding",
        lossy_compressed="categorical",
        bits_stored="numeric",
        photometric_interpretation="categorical",
    ),
    *_acquisition("display", window_center="numeric", window_width="numeric"),
    *_acquisition("matrix", rows="numeric", columns="numeric", frames="numeric"),
    Feature("header.pixel_spacing_mm", "numeric", "matrix", "acquisition", _spacing),
    Feature(HISTOGRAM, "vector", "intensity", "image", _histogram),
    *_image("intensity", "signals", "mean", "std", "p05", "p50", "p95", "entropy_bits"),
    *_image("extent", "signals", "foreground_fraction", "aspect_ratio", "color_fraction"),
    *_image("extent", "quality", "text_area_fraction"),
    *_image("texture", "signals", "noise_sigma", "sharpness"),
    *_image("texture", "quality", "blur", "snr1", "cnr", "clipped_high_fraction"),
    Feature(EMBEDDING, "vector", "embedding", "model", _embedding),
    Feature("modality.confidence", "numeric", "prediction", "model", _confidence),
    Feature("modality.novelty", "numeric", "prediction", "model", _novelty),
    Feature("modality.conflict", "categorical", "prediction", "model", _conflict),
    Feature("modality.abstained", "categorical", "prediction", "model", _abstained),
    Feature(CALIBRATION, "categorical", "calibration", "model", _nothing, skip_missing=True),
)
"""What every scope watches. Predictions are added per task by :func:`prediction_features`."""

BY_NAME: Final[Mapping[str, Feature]] = MappingProxyType({f.name: f for f in FEATURES})


def prediction_features(task: str) -> tuple[Feature, Feature]:
    """Return the answer and the score of one task of the models on Triton.

    Parameters
    ----------
    task : str
        As in :class:`schemas.facts.Prediction`. Of several answers of a file the one with the
        highest score counts. Answers of other versions of a model belong to another scope.
    """

    def best(file: FileAnalyzed) -> tuple[str, float] | None:
        answers = [(p.score, p.label) for p in file.predictions if p.task == task]
        if not answers:
            return None
        score, label = max(answers)
        return label, score

    def label(file: FileAnalyzed) -> FeatureValue | None:
        found = best(file)
        return None if found is None else _text(found[0])

    def score(file: FileAnalyzed) -> FeatureValue | None:
        found = best(file)
        return None if found is None else found[1]

    return (
        Feature(f"prediction.{task}.label", "categorical", "prediction", "model", label),
        Feature(f"prediction.{task}.score", "numeric", "prediction", "model", score),
    )


def features_for(tasks: tuple[str, ...] = ()) -> tuple[Feature, ...]:
    """Return the closed list of a scope whose models answer these tasks."""
    return FEATURES + tuple(f for task in sorted(set(tasks)) for f in prediction_features(task))


def calibration_cell(confidence: float, right: bool) -> str:
    """Name the place of one checked answer in the reliability diagram: decile and outcome.

    Counts of these names hold the whole diagram, so its drift and the expected calibration error
    (Naeini et al., AAAI 2015) come from the same sketch.
    """
    decile = min(9, max(0, int(confidence * 10)))
    return f"{decile}/{'right' if right else 'wrong'}"


def expected_calibration_error(counts: Mapping[str, int]) -> float | None:
    """Return the expected calibration error of counted :func:`calibration_cell` names."""
    total, gap = 0, 0.0
    for decile in range(10):
        right, wrong = counts.get(f"{decile}/right", 0), counts.get(f"{decile}/wrong", 0)
        number = right + wrong
        total += number
        gap += abs(right - number * (decile + 0.5) / 10)
    return gap / total if total else None


def _check_list() -> None:
    """Fail at import when a named field is not one of the facts."""
    models: dict[str, type[Value]] = {
        "header": HeaderFacts,
        "signals": ImageSignals,
        "quality": QualityFacts,
    }
    for feature in FEATURES:
        prefix, _, field = feature.name.partition(".")
        if prefix in models and field not in models[prefix].model_fields:
            msg = f"feature {feature.name!r} names no field of {models[prefix].__name__}"
            raise LookupError(msg)


_check_list()

__all__ = [
    "BY_NAME",
    "CALIBRATION",
    "EMBEDDING",
    "FEATURES",
    "HISTOGRAM",
    "ROLES",
    "Feature",
    "FeatureValue",
    "Kind",
    "Role",
    "calibration_cell",
    "expected_calibration_error",
    "features_for",
    "prediction_features",
]
