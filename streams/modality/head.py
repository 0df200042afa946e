"""The released pixel head: what a network's activations and the measures say of the modality.

Inference only, in plain numpy: each expert is one linear map of standardised inputs, the signal is
the mean of its experts' probabilities (a mixture doubts where they disagree; a mean of scores would
let the loudest win), and calibration is a temperature and a share of doubt, learned on sources that
the experts had not seen. How it is fitted: :mod:`streams.modality.learning.head`.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from streams.modality.heuristics import FEATURE_NAMES, describe, is_blank
from streams.modality.labels import FAMILIES
from streams.modality.opinion import MAX_EVIDENCE_CHARS, Opinion, softmax

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]

PIXELS: Final = "pixels"
HEURISTICS: Final = "heuristics"

_FORMAT: Final = 1
# Inputs further out than this many standard deviations say no more than that.
_CLIP: Final = 5.0
_MAX_FILE_BYTES: Final = 64 << 20
_MAX_DESCRIPTION_CHARS: Final = 1 << 16
_SHOWN: Final = 0.03
_LEAST: Final = 1e-6


class PixelHeadError(ValueError):
    """The head cannot be used; the message says what to do."""


@dataclass(frozen=True)
class Expert:
    """One linear map of some of the inputs.

    Parameters
    ----------
    views
        Places of the views whose activations it reads, in order.
    with_features
        Whether it reads the measures as well, after them.
    centre, scale
        float32 ``[D]``: inputs are ``(x - centre) / scale``, clipped to 5 either side.
    weights
        float32 ``[D, len(FAMILIES)]``.
    bias
        float32 ``[len(FAMILIES)]``.
    temperature
        What its scores are divided by, in units of which they are log-likelihoods.
    """

    views: tuple[int, ...]
    with_features: bool
    centre: Float32Array = field(repr=False)
    scale: Float32Array = field(repr=False)
    weights: Float32Array = field(repr=False)
    bias: Float32Array = field(repr=False)
    temperature: float = 1.0

    def scores(self, stages: Float32Array | None, features: Float32Array) -> Float64Array:
        """Return scores over the families.

        Parameters
        ----------
        stages
            float32 ``[N, V, S]``; may be None for an expert of the measures alone.
        features
            float32 ``[N, F]``.

        Returns
        -------
        ndarray
            float64 ``[N, len(FAMILIES)]``, divided by the temperature.
        """
        inputs = expert_inputs(self.views, self.with_features, stages, features)
        scaled = np.clip((inputs - self.centre) / self.scale, -_CLIP, _CLIP)
        return np.asarray((scaled @ self.weights + self.bias) / self.temperature, np.float64)


@dataclass(frozen=True)
class Calibration:
    """Scores to log-likelihoods, as measured on sources that were not trained on.

    Parameters
    ----------
    temperature
        What the mixed scores are divided by.
    doubt
        Share that is spread over all families whatever the scores.
    offsets
        float64 ``[len(FAMILIES)]``, added to the scores.
    """

    temperature: float
    doubt: float
    offsets: Float64Array = field(repr=False)

    def log_likelihoods(self, scores: Float64Array) -> Float64Array:
        """Calibrate ``[..., len(FAMILIES)]``."""
        probabilities = softmax(scores / self.temperature + self.offsets)
        return np.asarray(np.log(probabilities * (1 - self.doubt) + self.doubt / len(FAMILIES)))


@dataclass(frozen=True)
class Novelty:
    """How far a picture lies from everything known.

    Parameters
    ----------
    view
        Place of the view whose activations are compared.
    centre, scale
        float32 ``[S]``, as an expert's.
    projection
        float32 ``[S, P]``: to a space where the spread within a family is one in each direction.
    anchors
        float32 ``[A, P]``: the means of known families and sources in that space.
    quantiles
        float64 ``[Q]``: distances of pictures from sources that were not trained on, evenly spaced
        in rank.
    """

    view: int
    centre: Float32Array = field(repr=False)
    scale: Float32Array = field(repr=False)
    projection: Float32Array = field(repr=False)
    anchors: Float32Array = field(repr=False)
    quantiles: Float64Array = field(repr=False)

    def distances(self, stages: Float32Array) -> Float64Array:
        """Return the distance to the nearest anchor; ``[N, V, S]`` to float64 ``[N]``."""
        scaled = np.clip((stages[:, self.view] - self.centre) / self.scale, -_CLIP, _CLIP)
        places = (scaled @ self.projection).astype(np.float64)
        anchors = self.anchors.astype(np.float64)
        squares = (
            (places**2).sum(axis=1)[:, np.newaxis]
            + (anchors**2).sum(axis=1)
            - 2 * places @ anchors.T
        )
        return np.asarray(np.sqrt(np.maximum(squares.min(axis=1), 0.0)))

    def rank(self, distances: Float64Array) -> Float64Array:
        """Return the share of known pictures of unseen sources that lie nearer, 0 to 1."""
        share = np.searchsorted(self.quantiles, distances, side="left") / len(self.quantiles)
        return np.asarray(share, np.float64)


@dataclass(frozen=True)
class PixelHead:
    """Everything that the pixels' signals need to know.

    Parameters
    ----------
    embedder_version
        ``MODEL_VERSION`` of the embedder whose activations it reads.
    version
        Name of these weights.
    views
        Names of the views that it was trained on, in order.
    pixels
        Experts on activations and measures.
    heuristics
        Expert on the measures alone.
    calibrations
        Of the signals, by their names.
    known
        bool ``[len(FAMILIES)]``: families that training had from several sources. To the others
        the pixels alone give no more than an even chance.
    novelty_model
        Distance from everything known.
    """

    embedder_version: str
    version: str
    views: tuple[str, ...]
    pixels: tuple[Expert, ...] = field(repr=False)
    heuristics: Expert = field(repr=False)
    calibrations: Mapping[str, Calibration] = field(repr=False)
    known: NDArray[np.bool_] = field(repr=False)
    novelty_model: Novelty = field(repr=False)

    def check(self, model_version: str) -> None:
        """Raise :class:`PixelHeadError` unless the embedder is the one that it was trained on."""
        if model_version != self.embedder_version:
            raise PixelHeadError(
                f"the pixel head was trained on embedder {self.embedder_version}, and this is"
                f" {model_version}: use that one, or train a head for this one with"
                " `biodatamine modality train`"
            )

    def opinions(self, stages: Float32Array | None, features: Float32Array) -> tuple[Opinion, ...]:
        """Say what the pixels show.

        Parameters
        ----------
        stages
            float32 ``[V, S]``: activations of each view, as the embedder's STAGES; None when there
            is no embedder, which leaves the measures.
        features
            float32 ``[F]`` of :func:`streams.modality.heuristics.measure`.

        Returns
        -------
        tuple of Opinion
            ``pixels`` (unless there are no activations) and ``heuristics``; none of a blank slice.
        """
        measured = features[np.newaxis]
        words = ", ".join(describe(features))
        if is_blank(features):
            return ()
        found = [Opinion(HEURISTICS, self.heuristics_log_likelihoods(measured)[0], words)]
        if stages is not None:
            found.insert(0, self._look(stages[np.newaxis], measured))
        return tuple(
            Opinion(one.signal, one.log_likelihoods, one.evidence[:MAX_EVIDENCE_CHARS])
            for one in found
        )

    def novelty(self, stages: Float32Array, _features: Float32Array | None = None) -> float:
        """Return how unlike everything known a picture is.

        Parameters
        ----------
        stages
            float32 ``[V, S]``.
        _features
            The measures; not looked at so far.

        Returns
        -------
        float
            Share of pictures from sources that were not trained on, but of known kinds, that lie
            nearer; 1 is further than all of them.
        """
        return float(self.novelty_model.rank(self.novelty_model.distances(stages[np.newaxis]))[0])

    def pixels_log_likelihoods(self, stages: Float32Array, features: Float32Array) -> Float64Array:
        """Return calibrated log-likelihoods ``[N, len(FAMILIES)]`` of ``[N, V, S]``, ``[N, F]``."""
        scores = mixed_scores(self.pixels, stages, features)
        calibrated = self.calibrations[PIXELS].log_likelihoods(scores)
        return restrained(calibrated, self.known)

    def heuristics_log_likelihoods(self, features: Float32Array) -> Float64Array:
        """Return calibrated log-likelihoods ``[N, len(FAMILIES)]`` of the measures ``[N, F]``."""
        scores = self.heuristics.scores(None, features)
        return restrained(self.calibrations[HEURISTICS].log_likelihoods(scores), self.known)

    def _look(self, stages: Float32Array, features: Float32Array) -> Opinion:
        log_likelihoods = self.pixels_log_likelihoods(stages, features)[0]
        probabilities = softmax(log_likelihoods)
        order = np.argsort(-probabilities)
        shown = [
            f"{FAMILIES[place]} ({min(0.99, float(probabilities[place])):.2f})"
            for rank, place in enumerate(order[:3])
            if rank == 0 or probabilities[place] >= _SHOWN
        ]
        text = f"looks most like {', then '.join(shown)}"
        novelty = self.novelty(stages[0])
        if novelty > 0.95:
            text += f"; less like what is known than {novelty:.0%} of known kinds"
        return Opinion(PIXELS, log_likelihoods, text)

    def save(self, path: Path) -> None:
        """Write the head as an ``.npz`` of plain arrays."""
        arrays: dict[str, NDArray[np.generic]] = {}
        experts = {
            **{f"pixels{i}": e for i, e in enumerate(self.pixels)},
            HEURISTICS: self.heuristics,
        }
        for name, expert in experts.items():
            for part in ("centre", "scale", "weights", "bias"):
                arrays[f"{name}.{part}"] = getattr(expert, part)
        for part in ("centre", "scale", "projection", "anchors", "quantiles"):
            arrays[f"novelty.{part}"] = getattr(self.novelty_model, part)
        for name, calibration in self.calibrations.items():
            arrays[f"calibration.{name}.offsets"] = calibration.offsets
        arrays["known"] = self.known
        description = {
            "format": _FORMAT,
            "embedder_version": self.embedder_version,
            "version": self.version,
            "families": FAMILIES,
            "features": FEATURE_NAMES,
            "views": self.views,
            "experts": {
                name: {
                    "views": expert.views,
                    "with_features": expert.with_features,
                    "temperature": expert.temperature,
                }
                for name, expert in experts.items()
            },
            "novelty_view": self.novelty_model.view,
            "calibrations": {
                name: {"temperature": one.temperature, "doubt": one.doubt}
                for name, one in self.calibrations.items()
            },
        }
        arrays["description"] = np.array(json.dumps(description))
        with path.open("wb") as file:
            np.savez_compressed(file, **arrays)

    @classmethod
    def load(cls, path: Path) -> PixelHead:
        """Read a head.

        Raises
        ------
        PixelHeadError
            There is none, it is damaged, or it is for other families or measures.
        """
        try:
            if path.stat().st_size > _MAX_FILE_BYTES:
                raise PixelHeadError(f"{path.name} is too large for a pixel head")
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            description = json.loads(str(arrays["description"])[:_MAX_DESCRIPTION_CHARS])
            return _restored(description, arrays)
        except (OSError, KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise PixelHeadError(
                f"{path.name} is not a pixel head that can be read ({error});"
                " train one with `biodatamine modality train`"
            ) from error


def expert_inputs(
    views: Sequence[int],
    with_features: bool,
    stages: Float32Array | None,
    features: Float32Array,
) -> Float32Array:
    """Put side by side what an expert reads: float32 ``[N, D]``."""
    if views and stages is None:
        raise PixelHeadError("this expert reads activations, and there are none")
    parts = [] if stages is None else [stages[:, view] for view in views]
    if with_features:
        parts.append(features)
    joined: Float32Array = np.concatenate(parts, axis=1)
    return joined.astype(np.float32, copy=False)


def mixed_scores(
    experts: Sequence[Expert], stages: Float32Array | None, features: Float32Array
) -> Float64Array:
    """Mix what experts say, ``[N, len(FAMILIES)]``: the logarithm of their mean probabilities."""
    return mixture(np.stack([expert.scores(stages, features) for expert in experts], axis=1))


def mixture(scores: Float64Array) -> Float64Array:
    """Mix calibrated scores ``[N, E, len(FAMILIES)]`` of E experts."""
    return np.asarray(np.log(softmax(scores).mean(axis=1) + _LEAST))


def restrained(log_likelihoods: Float64Array, known: NDArray[np.bool_]) -> Float64Array:
    """Leave families known from one source or none no more than an even chance altogether.

    What they have above that goes to all the other families evenly, so that the answer is an
    abstention unless another signal agrees.
    """
    probabilities = softmax(log_likelihoods)
    if known.all() or not known.any():
        return np.asarray(np.log(probabilities))
    rare = probabilities[..., ~known].sum(axis=-1, keepdims=True)
    kept = np.minimum(1.0, 0.5 / np.maximum(rare, 1e-12))
    spare = rare * (1 - kept) / int(known.sum())
    return np.asarray(np.log(np.where(known, probabilities + spare, probabilities * kept)))


def _restored(
    description: Mapping[str, Any], arrays: Mapping[str, NDArray[np.generic]]
) -> PixelHead:
    for name, ours in (
        ("format", _FORMAT),
        ("families", [*FAMILIES]),
        ("features", [*FEATURE_NAMES]),
    ):
        if description[name] != ours:
            raise ValueError(f"its {name} are not those of this version")

    def part(name: str) -> Float32Array:
        array = arrays[name]
        if array.dtype.kind != "f" or not np.isfinite(array).all():
            raise ValueError(f"{name} holds what is not a number")
        return np.asarray(array.astype(np.float32))

    def expert(name: str) -> Expert:
        known = described[name]
        return Expert(
            tuple(int(view) for view in known["views"]),
            bool(known["with_features"]),
            part(f"{name}.centre"),
            part(f"{name}.scale"),
            part(f"{name}.weights"),
            part(f"{name}.bias"),
            float(known["temperature"]),
        )

    described = _mapping(description["experts"])
    calibrations = {
        name: Calibration(
            float(one["temperature"]),
            float(one["doubt"]),
            part(f"calibration.{name}.offsets").astype(np.float64),
        )
        for name, one in _mapping(description["calibrations"]).items()
    }
    count = sum(name.startswith(PIXELS) for name in described)
    return PixelHead(
        embedder_version=str(description["embedder_version"]),
        version=str(description["version"]),
        views=tuple(str(name) for name in description["views"]),
        pixels=tuple(expert(f"{PIXELS}{place}") for place in range(count)),
        heuristics=expert(HEURISTICS),
        calibrations=calibrations,
        known=np.asarray(arrays["known"], np.bool_),
        novelty_model=Novelty(
            int(description["novelty_view"]),
            part("novelty.centre"),
            part("novelty.scale"),
            part("novelty.projection"),
            part("novelty.anchors"),
            part("novelty.quantiles").astype(np.float64),
        ),
    )


def _mapping(value: object) -> dict[str, dict[str, Any]]:
    if not isinstance(value, dict):
        raise TypeError("its description is not of this form")
    return value
