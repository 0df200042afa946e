"""Learns each signal's reliability from opinions on labelled files."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from streams.modality.fusion import PIXEL_SIGNALS, Fusion, pool
from streams.modality.labels import FAMILIES
from streams.modality.opinion import PROVENANCES, Float64Array, Opinion, Provenance, softmax

# How far a signal's reliability in one provenance may stray from its overall one: provenances with
# few files stay near it.
_STRAY = 4.0
# Exponents are a logistic function of what is fitted: no signal is trusted beyond its word, however
# seldom it was wrong in training. A wide prior around a half bounds signals that hardly ever speak.
_PRIOR_WIDTH = 3.0
_DROP = 0.35
_COPIES = 4
_FACTORS = np.geomspace(0.5, 3.0, 28)
# Accuracy that the answers above the threshold are to have on pixels alone.
_ANSWER_ACCURACY = 0.95


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled file as the fusion sees it.

    Parameters
    ----------
    opinions : sequence of Opinion
        The signals' say; that of the pixel head must come from a head that did not see the
        file's source (out of fold).
    provenance : Provenance
        How the pixels came into the file.
    family : str
        What it shows.
    source : str
        Where it comes from; every source weighs the same within its family, up to a root.
    novelty : float, optional
        How unlike all that was learned from its pixels are.
    """

    opinions: Sequence[Opinion]
    provenance: Provenance
    family: str
    source: str
    novelty: float | None = None

    def only(self, signals: Container[str]) -> Example:
        """Return the file as some of the signals alone see it."""
        kept = [opinion for opinion in self.opinions if opinion.signal in signals]
        looked = any(opinion.signal in PIXEL_SIGNALS for opinion in kept)
        return replace(self, opinions=kept, novelty=self.novelty if looked else None)


def source_weights(families: Sequence[str], sources: Sequence[str]) -> Float64Array:
    """Weigh files so that neither large sources nor large families drown the others.

    A source counts with the square root of its files, a family with that of its sources' sum.

    Returns
    -------
    ndarray
        float64 ``[N]``, mean 1.
    """
    pairs = list(zip(families, sources, strict=True))
    counts: dict[tuple[str, str], int] = {}
    for pair in pairs:
        counts[pair] = counts.get(pair, 0) + 1
    totals: dict[str, float] = {}
    for (family, _), count in counts.items():
        totals[family] = totals.get(family, 0.0) + count**0.5
    weights = np.array(
        [counts[pair] ** -0.5 * totals[pair[0]] ** -0.5 for pair in pairs], np.float64
    )
    return np.asarray(weights * (len(weights) / max(weights.sum(), 1e-12)))


def fit_fusion(
    examples: Sequence[Example], *, thin: frozenset[str], novelty_limit: float, seed: int = 0
) -> Fusion:
    """Learn reliabilities by maximum likelihood over random subsets of each file's signals.

    Parameters
    ----------
    examples : sequence of Example
        Labelled files; corrupted copies (wrong tags, misleading names) teach how far to trust.
    thin : frozenset of str
        Families with one source or none.
    novelty_limit : float
        Passed on to the fusion.
    seed : int
        Of the subsets.

    Raises
    ------
    ValueError
        No example, or one of an unknown family.
    """
    if not examples:
        raise ValueError("there is no labelled file to learn the fusion from")
    signals = sorted({opinion.signal for example in examples for opinion in example.opinions})
    votes, present = _stacked(examples, signals)
    truth = np.array([FAMILIES.index(example.family) for example in examples])
    where = np.array([PROVENANCES.index(example.provenance) for example in examples])
    weights = source_weights([e.family for e in examples], [e.source for e in examples])
    kept = _subsets(present, signals, seed)
    repeats = len(kept) // len(examples)
    problem = _Problem(
        votes=np.tile(votes, (repeats, 1, 1)) * kept[:, :, None],
        truth=np.tile(truth, repeats),
        where=np.tile(where, repeats),
        weights=np.tile(weights, repeats),
        repeats=repeats,
    )
    # Subsets without a signal teach nothing but the prior.
    problem = problem.only(kept.any(axis=1))
    count, places = len(signals), len(PROVENANCES)
    start = np.concatenate([np.zeros(count + count * places), [-4.0]])
    found = minimize(problem.loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 300})
    overall, strays, doubt = problem.unpack(found.x)
    reliabilities: dict[tuple[str, Provenance], float] = {
        (signal, provenance): float(expit(overall[s] + strays[s, p]))
        for s, signal in enumerate(signals)
        for p, provenance in enumerate(PROVENANCES)
    }
    learned = Fusion(reliabilities, float(doubt), 0.5, novelty_limit, thin)
    learned = replace(learned, pixels_alone=_sharpness(examples, learned))
    return replace(learned, answer_from=_threshold(examples, learned))


@dataclass(frozen=True)
class _Problem:
    """Weighted negative log-likelihood of the pool, and its gradient."""

    votes: Float64Array
    truth: NDArray[np.intp]
    where: NDArray[np.intp]
    weights: Float64Array
    repeats: int

    def only(self, rows: NDArray[np.bool_]) -> _Problem:
        return _Problem(
            self.votes[rows], self.truth[rows], self.where[rows], self.weights[rows], self.repeats
        )

    def unpack(self, x: Float64Array) -> tuple[Float64Array, Float64Array, float]:
        count = self.votes.shape[1]
        strays = x[count:-1].reshape(count, len(PROVENANCES))
        return x[:count], strays, float(1 / (1 + np.exp(-x[-1])))

    def loss(self, x: Float64Array) -> tuple[float, Float64Array]:
        overall, strays, doubt = self.unpack(x)
        size, total = self.votes.shape[2], self.weights.sum()
        exponents = expit(overall[None, :] + strays.T[self.where])
        shares = softmax(np.einsum("ns,nsk->nk", exponents, self.votes))
        rows = np.arange(len(self.truth))
        right = shares[rows, self.truth]
        likelihood = (1 - doubt) * right + doubt / size
        value = -float(self.weights @ np.log(likelihood)) / total
        pull = -(self.weights / total) * (1 - doubt) * right / likelihood
        toward = -shares * pull[:, None]
        toward[rows, self.truth] += pull
        slope = exponents * (1 - exponents)
        by_exponent = np.einsum("nk,nsk->ns", toward, self.votes) * slope
        by_stray = np.stack(
            [by_exponent[self.where == p].sum(axis=0) for p in range(len(PROVENANCES))], axis=1
        )
        by_overall = by_exponent.sum(axis=0)
        by_doubt = (
            float((-(self.weights / total) * (1 / size - right) / likelihood).sum())
            * doubt
            * (1 - doubt)
        )
        # Priors, per file: the subsets of a file's signals are no files of their own.
        scale = self.repeats / len(self.truth)
        away = overall / _PRIOR_WIDTH**2
        value += scale * float(
            0.5 * _STRAY * (strays**2).sum() + 0.5 * (overall**2).sum() / _PRIOR_WIDTH**2
        )
        by_stray += scale * _STRAY * strays
        by_overall += scale * away
        return value, np.concatenate([by_overall, by_stray.ravel(), [by_doubt]])


def _stacked(
    examples: Sequence[Example], signals: Sequence[str]
) -> tuple[Float64Array, NDArray[np.bool_]]:
    place = {signal: index for index, signal in enumerate(signals)}
    votes = np.zeros((len(examples), len(signals), len(FAMILIES)))
    present = np.zeros((len(examples), len(signals)), bool)
    for row, example in enumerate(examples):
        for opinion in example.opinions:
            # A constant changes nothing but the numbers' size.
            votes[row, place[opinion.signal]] = (
                opinion.log_likelihoods - opinion.log_likelihoods.max()
            )
            present[row, place[opinion.signal]] = True
    return votes, present


def _subsets(present: NDArray[np.bool_], signals: Sequence[str], seed: int) -> NDArray[np.bool_]:
    """Every file whole, by its pixels alone, by what is written alone, and by random subsets."""
    random = np.random.default_rng(seed)
    pixels = np.array([signal in PIXEL_SIGNALS for signal in signals])
    thinned = [present & (random.random(present.shape) > _DROP) for _ in range(_COPIES)]
    kept: NDArray[np.bool_] = np.concatenate(
        [present, present & pixels, present & ~pixels, *thinned]
    )
    if {"pixels", "heuristics"} <= set(signals):
        # As in the pool: where the head speaks, the measures do not count a second time.
        kept[:, signals.index("heuristics")] &= ~kept[:, signals.index("pixels")]
    return kept


def _seen(example: Example) -> list[Opinion]:
    return [opinion for opinion in example.opinions if opinion.signal in PIXEL_SIGNALS]


def _sharpness(examples: Sequence[Example], fusion: Fusion) -> float:
    """Return the factor with which pixels that stand alone are calibrated best."""
    kept = [(example, _seen(example)) for example in examples if _seen(example)]
    if not kept:
        return 1.0
    weights = source_weights([e.family for e, _ in kept], [e.source for e, _ in kept])

    def loss(factor: float) -> float:
        sharpened = replace(fusion, pixels_alone=factor)
        right = [
            pool(seen, example.provenance, sharpened)[FAMILIES.index(example.family)]
            for example, seen in kept
        ]
        return -float(weights @ np.log(right))

    return round(float(min(_FACTORS, key=loss)), 3)


def _threshold(examples: Sequence[Example], fusion: Fusion) -> float:
    """Return the least confidence from which answers by pixels alone are right often enough.

    It is bounded: from 0.8 on answers are given, whatever share of them is right.
    """
    confidence, right = [], []
    for example in examples:
        seen = _seen(example)
        if not seen or example.family in fusion.thin:
            continue
        probabilities = pool(seen, example.provenance, fusion)
        best = int(np.argmax(probabilities))
        confidence.append(float(probabilities[best]))
        right.append(FAMILIES[best] == example.family)
    for threshold in np.arange(0.30, 0.80, 0.01):
        answered = np.array(confidence) >= threshold
        if answered.any() and np.mean(np.array(right)[answered]) >= _ANSWER_ACCURACY:
            return float(round(threshold, 2))
    return 0.8
