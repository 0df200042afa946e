"""Fit the pixel head: shrunk linear discriminants, balanced by source, calibrated out of source.

There are few sources and many activations, and what must generalise is the step to a new source.
Hence linear discriminants whose spread within a family includes the spread between its sources and
its augmented copies (Friedman, Regularized Discriminant Analysis, JASA 84:165, 1989, for the
shrinkage), sources weighted by the square root of their size, and temperatures from sources left
out (Guo et al., On Calibration of Modern Neural Networks, ICML 2017).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from streams.modality.crops import VIEWS
from streams.modality.head import (
    HEURISTICS,
    PIXELS,
    Calibration,
    Expert,
    Novelty,
    PixelHead,
    expert_inputs,
    mixture,
    restrained,
)
from streams.modality.labels import FAMILIES
from streams.modality.opinion import softmax

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

DEFAULT_FOLDS: Final = 5
# A family counts as known when it has at least this many sources, and pictures.
_MIN_SOURCES: Final = 2
_MIN_PICTURES: Final = 8
_SHRINKAGE: Final = 0.1
_COMPONENTS: Final = 128
# Weight of a source is its size to this power; of a family, the sum of its sources' to that.
_SOURCE_POWER: Final = 0.25
_FAMILY_POWER: Final = 0.5
_ABSENT_BIAS: Final = -30.0
# Generated pictures make rare families broad. They are rarer than others wherever pictures come
# from, too: e^-3 of the prior gained two points of accuracy on sources left out.
_RARE_OFFSET: Final = -3.0
_MIN_SCALE: Final = 1e-6
_CLIP: Final = 5.0
_QUANTILES: Final = 201
_NOVELTY_COMPONENTS: Final = 64
_TEMPERATURES: Final = np.geomspace(0.1, 20.0, 107)
_DOUBTS: Final = (0.005, 0.01, 0.02, 0.04, 0.08, 0.15)


@dataclass(frozen=True)
class Recipe:
    """What one expert reads and how strongly it is held back.

    Parameters
    ----------
    views
        Places of the views.
    with_features
        Whether the measures are read as well.
    components
        Principal components that are kept of each view.
    shrinkage
        Share of the pooled covariance that is replaced by a multiple of the identity.
    """

    views: tuple[int, ...]
    with_features: bool
    components: int = _COMPONENTS
    shrinkage: float = _SHRINKAGE


RECIPES: Final[tuple[Recipe, ...]] = (
    Recipe((0,), True),
    # Few directions learn little of the sources: worse at what is common, better at what is rare.
    Recipe((0,), False, components=48),
    Recipe((1,), False, components=48),
    Recipe((), True),
)
"""Experts of the signal, chosen by what they do together on sources left out: the content with and
without measures, its detail, and the measures alone."""
HEURISTICS_RECIPE: Final = Recipe((), True)


@dataclass(frozen=True)
class TrainingImages:
    """Labelled pictures and augmented copies of them, as arrays.

    Parameters
    ----------
    stages
        float32 ``[N, V, S]``: the embedder's STAGES of each view.
    features
        float32 ``[N, F]``: measures.
    families
        int64 ``[N]``: places in ``FAMILIES``.
    sources
        str ``[N]``: where each comes from; folds never split one.
    originals
        int64 ``[N]``: the row that a copy was made of; an original's own row for itself.
    counted
        bool ``[N]``: pictures of patients, or photographs, as they occur. Generated pictures,
        test patterns and noise are learned from, but neither calibrated on nor counted as a source
        of their family. All are when it is None.
    """

    stages: Float32Array = field(repr=False)
    features: Float32Array = field(repr=False)
    families: IntArray = field(repr=False)
    sources: NDArray[np.str_] = field(repr=False)
    originals: IntArray = field(repr=False)
    counted: BoolArray | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Refuse arrays that do not belong together."""
        count = len(self.families)
        lengths = {len(a) for a in (self.stages, self.features, self.sources, self.originals)}
        if lengths != {count} or self.stages.ndim != 3 or self.features.ndim != 2:
            raise ValueError("stages, features, families, sources and originals differ in length")
        if count == 0 or not (self.originals < count).all() or (self.originals < 0).any():
            raise ValueError("there must be images, and originals must be rows of them")
        if (self.families < 0).any() or (self.families >= len(FAMILIES)).any():
            raise ValueError("families must be places in FAMILIES")
        if self.counted is not None and len(self.counted) != count:
            raise ValueError("counted differs in length")
        if (self.sources[self.originals] != self.sources).any():
            raise ValueError("a copy must be of its original's source")

    def rows(self) -> IntArray:
        """Return the rows of the originals."""
        return np.flatnonzero(self.originals == np.arange(len(self.originals)))

    def counts(self) -> BoolArray:
        """Return which rows are counted, bool ``[N]``."""
        return np.ones(len(self.families), np.bool_) if self.counted is None else self.counted


@dataclass(frozen=True)
class OutOfFold:
    """What heads said of pictures whose source they had not seen.

    Parameters
    ----------
    rows
        int64 ``[M]``: the originals.
    pixels, heuristics
        float64 ``[M, len(FAMILIES)]``: calibrated log-likelihoods.
    novelty
        float64 ``[M]``: share of the others that lie nearer to what was known.
    """

    rows: IntArray
    pixels: Float64Array = field(repr=False)
    heuristics: Float64Array = field(repr=False)
    novelty: Float64Array = field(repr=False)


@dataclass(frozen=True)
class _Unseen:
    """Uncalibrated scores of the originals by experts that had not seen their source."""

    rows: IntArray
    experts: Float64Array
    heuristics: Float64Array
    distances: Float64Array


def fit(
    data: TrainingImages, *, embedder_version: str, folds: int = DEFAULT_FOLDS, seed: int = 0
) -> PixelHead:
    """Fit a head on all pictures, calibrated on sources left out in turn.

    Parameters
    ----------
    data
        The pictures; at least two sources.
    embedder_version
        ``MODEL_VERSION`` of the embedder that made the activations.
    folds
        Parts that the sources are divided into.
    seed
        Decides the parts; nothing else is left to chance.
    """
    unseen = _unseen_scores(data, folds, seed)
    temperatures, calibrations = _calibrate(data, unseen)
    head = _fit_uncalibrated(data, np.ones(len(data.families), np.bool_), embedder_version)
    judged = _judged(data, unseen.rows)
    quantiles = np.quantile(unseen.distances[judged], np.linspace(0, 1, _QUANTILES))
    head = replace(
        head,
        pixels=tuple(
            replace(expert, temperature=temperature)
            for expert, temperature in zip(head.pixels, temperatures, strict=True)
        ),
        calibrations=calibrations,
        novelty_model=replace(head.novelty_model, quantiles=quantiles),
    )
    digest = hashlib.sha256()
    for expert in (*head.pixels, head.heuristics):
        digest.update(expert.weights.tobytes())
    return replace(head, version=f"pixels-{digest.hexdigest()[:12]}")


def out_of_fold(data: TrainingImages, *, folds: int = DEFAULT_FOLDS, seed: int = 0) -> OutOfFold:
    """Return what heads that had not seen a picture's source say of it, for the fusion to learn.

    Parameters
    ----------
    data, folds, seed
        As :func:`fit`.
    """
    unseen = _unseen_scores(data, folds, seed)
    temperatures, calibrations = _calibrate(data, unseen)
    blended = mixture(unseen.experts / np.asarray(temperatures)[:, np.newaxis])
    known = _known(data)
    judged = _judged(data, unseen.rows)
    quantiles = np.quantile(unseen.distances[judged], np.linspace(0, 1, _QUANTILES))
    return OutOfFold(
        rows=unseen.rows,
        pixels=restrained(calibrations[PIXELS].log_likelihoods(blended), known),
        heuristics=restrained(calibrations[HEURISTICS].log_likelihoods(unseen.heuristics), known),
        novelty=np.searchsorted(quantiles, unseen.distances, side="left") / _QUANTILES,
    )


def divide(families: IntArray, sources: NDArray[np.str_], folds: int, seed: int) -> IntArray:
    """Divide sources into folds, so that each has its share of each family's pictures and sources.

    Parameters
    ----------
    families, sources
        int64 and str ``[N]``.
    folds
        Number of folds, at least 2 and at most the number of sources.
    seed
        Decides among equals.

    Returns
    -------
    ndarray
        int64 ``[N]``, the fold of each picture.
    """
    names = np.unique(sources)
    if not 2 <= folds <= len(names):
        raise ValueError(f"{folds} folds of {len(names)} sources: need 2 to as many as sources")
    rng = np.random.default_rng(seed)
    counts = {
        name: np.bincount(families[sources == name], minlength=len(FAMILIES)).astype(np.float64)
        for name in rng.permutation(names)
    }
    pictures, places = np.zeros((folds, len(FAMILIES))), np.zeros((folds, len(FAMILIES)))
    chosen: dict[str, int] = {}
    # The largest first: what comes later evens out.
    for name in sorted(counts, key=lambda one: -counts[one].max()):
        shown = counts[name] > 0
        burden = (pictures[:, shown] / counts[name][shown]).sum(axis=1)
        burden += 0.3 * places[:, shown].sum(axis=1) + 0.5 * rng.random(folds)
        fold = int(np.argmin(burden))
        chosen[name] = fold
        pictures[fold] += counts[name]
        places[fold] += shown
    return np.array([chosen[name] for name in sources], np.int64)


def balanced_weights(families: IntArray, sources: NDArray[np.str_]) -> Float64Array:
    """Weigh pictures so that a large source does not outvote the others; mean 1.

    A source weighs its size to the power of a quarter within its family, a family the square root
    of what its sources weigh together.
    """
    weights = np.zeros(len(families))
    for family in np.unique(families):
        of_family = families == family
        together = 0.0
        for source in np.unique(sources[of_family]):
            rows = of_family & (sources == source)
            size = int(rows.sum())
            weights[rows] = size**_SOURCE_POWER / size
            together += size**_SOURCE_POWER
        weights[of_family] *= together**_FAMILY_POWER / together
    return np.asarray(weights / weights.mean())


def fit_expert(data: TrainingImages, chosen: BoolArray, recipe: Recipe) -> Expert:
    """Fit one expert on some of the rows, by weighted and shrunk linear discriminants.

    Parameters
    ----------
    data
        The pictures.
    chosen
        bool ``[N]``: rows to learn from.
    recipe
        What it reads.
    """
    families = data.families[chosen]
    weights = balanced_weights(families, data.sources[chosen])
    stages = data.stages[chosen] if recipe.views else None
    inputs = expert_inputs(recipe.views, recipe.with_features, stages, data.features[chosen])
    centre = np.average(inputs, axis=0, weights=weights)
    scale = np.sqrt(np.average((inputs - centre) ** 2, axis=0, weights=weights))
    # What hardly varies in training must not decide elsewhere.
    scale = np.where(scale > _MIN_SCALE, scale, np.inf)
    scaled = np.clip((inputs - centre) / scale, -_CLIP, _CLIP).astype(np.float64)
    width = data.stages.shape[2]
    parts = [scaled[:, i * width : (i + 1) * width] for i in range(len(recipe.views))]
    bases = [_components(part, weights, recipe.components) for part in parts]
    reduced = [part @ basis for part, basis in zip(parts, bases, strict=True)]
    if recipe.with_features:
        bases.append(np.eye(data.features.shape[1]))
        reduced.append(scaled[:, len(parts) * width :])
    slopes, bias = _discriminants(
        np.concatenate(reduced, axis=1), families, weights, recipe.shrinkage
    )
    edges = np.cumsum([0, *(basis.shape[1] for basis in bases)])
    full = np.concatenate(
        [basis @ slopes[edges[i] : edges[i + 1]] for i, basis in enumerate(bases)]
    )
    return Expert(
        views=recipe.views,
        with_features=recipe.with_features,
        centre=centre.astype(np.float32),
        scale=np.where(np.isfinite(scale), scale, 1e30).astype(np.float32),
        weights=full.astype(np.float32),
        bias=bias.astype(np.float32),
    )


def _components(part: Float64Array, weights: Float64Array, count: int) -> Float64Array:
    """Principal axes of standardised inputs, each scaled to unit variance, ``[D, <= count]``."""
    share = (weights / weights.sum())[:, np.newaxis]
    covariance = part.T @ (part * share)
    values, axes = np.linalg.eigh(covariance)
    count = int(min(count, (values > values[-1] * 1e-6).sum(), len(part)))
    kept = slice(len(values) - count, None)
    return np.asarray(axes[:, kept] / np.sqrt(values[kept]))


def _discriminants(
    inputs: Float64Array, families: IntArray, weights: Float64Array, shrinkage: float
) -> tuple[Float64Array, Float64Array]:
    """Linear discriminants with equal priors: slopes ``[D, K]`` and bias ``[K]``."""
    means, spread = _pooled(inputs, families, weights, shrinkage)
    slopes = np.linalg.solve(spread, means.T)
    bias = -0.5 * (means.T * slopes).sum(axis=0)
    absent = np.bincount(families, minlength=len(FAMILIES)) == 0
    slopes[:, absent] = 0.0
    bias[absent] = _ABSENT_BIAS
    return slopes, bias


def _pooled(
    inputs: Float64Array, families: IntArray, weights: Float64Array, shrinkage: float
) -> tuple[Float64Array, Float64Array]:
    """Weighted means ``[K, D]`` and the shrunk covariance within families ``[D, D]``."""
    means = np.zeros((len(FAMILIES), inputs.shape[1]))
    for family in np.unique(families):
        rows = families == family
        means[family] = np.average(inputs[rows], axis=0, weights=weights[rows])
    rest = (inputs - means[families]) * np.sqrt(weights / weights.sum())[:, np.newaxis]
    spread = rest.T @ rest
    level = max(float(np.trace(spread)) / len(spread), 1e-12)
    return means, (1 - shrinkage) * spread + shrinkage * level * np.eye(len(spread))


def _fit_novelty(data: TrainingImages, chosen: BoolArray, view: int = 0) -> Novelty:
    """Fit distances in the space where families spread by one in each direction."""
    view = min(view, data.stages.shape[1] - 1)
    families, sources = data.families[chosen], data.sources[chosen]
    weights = balanced_weights(families, sources)
    inputs = data.stages[chosen, view].astype(np.float64)
    centre = np.average(inputs, axis=0, weights=weights)
    scale = np.sqrt(np.average((inputs - centre) ** 2, axis=0, weights=weights))
    scale = np.where(scale > _MIN_SCALE, scale, 1e30)
    scaled = np.clip((inputs - centre) / scale, -_CLIP, _CLIP)
    basis = _components(scaled, weights, _NOVELTY_COMPONENTS)
    reduced = scaled @ basis
    _, spread = _pooled(reduced, families, weights, _SHRINKAGE)
    values, axes = np.linalg.eigh(spread)
    projection = basis @ (axes / np.sqrt(values))
    places = scaled @ projection
    anchors = [
        np.average(places[rows], axis=0, weights=weights[rows])
        for family in np.unique(families)
        for rows in (families == family,)
    ]
    return Novelty(
        view,
        centre.astype(np.float32),
        scale.astype(np.float32),
        projection.astype(np.float32),
        np.stack(anchors).astype(np.float32),
        np.zeros(1),
    )


def _fit_uncalibrated(data: TrainingImages, chosen: BoolArray, version: str) -> PixelHead:
    return PixelHead(
        embedder_version=version,
        version="",
        views=VIEWS[: data.stages.shape[1]],
        pixels=tuple(fit_expert(data, chosen, recipe) for recipe in _recipes(data)),
        heuristics=fit_expert(data, chosen, HEURISTICS_RECIPE),
        calibrations={},
        known=_known(data),
        novelty_model=_fit_novelty(data, chosen),
    )


def _recipes(data: TrainingImages) -> Sequence[Recipe]:
    return [recipe for recipe in RECIPES if max(recipe.views, default=0) < data.stages.shape[1]]


def _known(data: TrainingImages) -> BoolArray:
    originals = data.rows()
    originals = originals[data.counts()[originals]]
    families, sources = data.families[originals], data.sources[originals]
    several = [
        len(np.unique(sources[families == family])) >= _MIN_SOURCES
        for family in range(len(FAMILIES))
    ]
    return np.array(several) & (np.bincount(families, minlength=len(FAMILIES)) >= _MIN_PICTURES)


def _unseen_scores(data: TrainingImages, folds: int, seed: int) -> _Unseen:
    rows = data.rows()
    fold_of = np.zeros(len(data.families), np.int64)
    fold_of[rows] = divide(data.families[rows], data.sources[rows], folds, seed)
    fold_of = fold_of[data.originals]
    recipes = _recipes(data)
    experts = np.zeros((len(rows), len(recipes), len(FAMILIES)))
    heuristics, distances = np.zeros((len(rows), len(FAMILIES))), np.zeros(len(rows))
    for fold in range(folds):
        held = fold_of[rows] == fold
        chosen = fold_of != fold
        stages, features = data.stages[rows[held]], data.features[rows[held]]
        for place, recipe in enumerate(recipes):
            experts[held, place] = fit_expert(data, chosen, recipe).scores(stages, features)
        expert = fit_expert(data, chosen, HEURISTICS_RECIPE)
        heuristics[held] = expert.scores(None, features)
        distances[held] = _fit_novelty(data, chosen).distances(stages)
    return _Unseen(rows, experts, heuristics, distances)


def _calibrate(data: TrainingImages, unseen: _Unseen) -> tuple[list[float], dict[str, Calibration]]:
    judged = _judged(data, unseen.rows)
    families = data.families[unseen.rows[judged]]
    even = np.zeros(len(FAMILIES))
    known = _known(data)
    rare = np.where(known, 0.0, _RARE_OFFSET) if known.any() else even
    # Every picture counts once here: a confidence is about pictures.
    temperatures = [
        _best_calibration(unseen.experts[judged, place], families, even).temperature
        for place in range(unseen.experts.shape[1])
    ]
    blended = mixture(unseen.experts[judged] / np.asarray(temperatures)[:, np.newaxis])
    return temperatures, {
        PIXELS: _best_calibration(blended, families, rare),
        HEURISTICS: _best_calibration(unseen.heuristics[judged], families, rare),
    }


def _judged(data: TrainingImages, rows: IntArray) -> BoolArray:
    """Tell which originals confidence is measured on: counted ones of known families."""
    judged = data.counts()[rows] & _known(data)[data.families[rows]]
    # Without a family of several sources there is nothing better than all.
    return judged if judged.any() else np.ones(len(rows), np.bool_)


def _best_calibration(
    scores: Float64Array, families: IntArray, offsets: Float64Array
) -> Calibration:
    """Choose temperature and doubt by the likelihood of the truth."""
    best, found = np.inf, Calibration(1.0, _DOUBTS[-1], offsets)
    for temperature in _TEMPERATURES:
        truth = softmax(scores / temperature + offsets)[np.arange(len(families)), families]
        for doubt in _DOUBTS:
            loss = -float(np.log(truth * (1 - doubt) + doubt / len(FAMILIES)).mean())
            if loss < best:
                best, found = loss, Calibration(float(temperature), doubt, offsets)
    return found
