"""A map in two dimensions that keeps its places from refit to refit.

The landmarks are the centres of cells, some hundred. They are laid out so that distances on the map
resemble those between embeddings, near ones above all: metric scaling by majorisation with weights
of one over the square (de Leeuw, 1977; Sammon, 1969). A later layout begins where the former map
would have put each landmark, and every landmark is held to that place with the weight of all its
distances together, so the map gives way slowly and never turns or flips. A picture lies among its
nearest landmarks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from streams.profile.cells import Float32
from streams.profile.compiled import compiled, dot

_AMONG = 6
_FIRST_ROUNDS = 200
_LATER_ROUNDS = 30


@dataclass(frozen=True)
class LandmarkMap:
    """Landmarks and where they lie.

    Parameters
    ----------
    landmarks
        float32, shape (L, D).
    places
        float32, shape (L, 2); distances on the map are in units of embedding distance.
    """

    landmarks: Float32
    places: Float32

    def locate(self, vectors: Float32) -> Float32:
        """Return where vectors lie: float32, shape (N, 2)."""
        places = np.empty((vectors.shape[0], 2), np.float32)
        _locate(np.ascontiguousarray(vectors), self.landmarks, self._halves, self.places, places)
        return places

    @cached_property
    def _halves(self) -> Float32:
        """Half the squared lengths of the landmarks."""
        halves: Float32 = 0.5 * np.einsum("ij,ij->i", self.landmarks, self.landmarks)
        return halves


def lay_out(landmarks: Float32, former: LandmarkMap | None, anchoring: float = 1.0) -> LandmarkMap:
    """Return a map of ``landmarks``.

    Parameters
    ----------
    landmarks
        float32, shape (L, D).
    former
        The map whose places are to be kept; None for the first.
    anchoring
        Weight of a landmark's former place, in units of the weight of all its distances.
    """
    count = landmarks.shape[0]
    squares = np.einsum("ij,ij->i", landmarks, landmarks)
    squared = squares[:, None] + squares[None, :] - 2.0 * (landmarks @ landmarks.T)
    distances = np.sqrt(np.maximum(squared, 0.0)).astype(np.float64)
    np.fill_diagonal(distances, 0.0)
    typical = float(np.median(distances[distances > 0])) if (distances > 0).any() else 1.0
    weights = 1.0 / np.maximum(distances, 0.05 * typical) ** 2
    np.fill_diagonal(weights, 0.0)
    if former is None:
        begin = _first_places(landmarks)
        anchors = np.zeros(count)
        rounds = _FIRST_ROUNDS
    else:
        begin = former.locate(landmarks).astype(np.float64)
        anchors = anchoring * weights.sum(axis=1)
        rounds = _LATER_ROUNDS
    places = begin.copy()
    _majorise(distances, weights, begin, anchors, places, rounds)
    return LandmarkMap(np.ascontiguousarray(landmarks), places.astype(np.float32))


def _first_places(landmarks: Float32) -> Any:
    centred = (landmarks - landmarks.mean(axis=0)).astype(np.float64)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    places = np.zeros((landmarks.shape[0], 2))
    kept = min(2, sizes.shape[0])
    places[:, :kept] = left[:, :kept] * sizes[:kept]
    # The sign of a singular vector is arbitrary.
    for axis in range(kept):
        if places[np.abs(places[:, axis]).argmax(), axis] < 0:
            places[:, axis] *= -1
    return places


@compiled
def _majorise(  # noqa: PLR0917
    distances: Any, weights: Any, held: Any, anchors: Any, places: Any, rounds: Any
) -> None:
    # One landmark at a time, the others fixed: the stress never rises.
    count = places.shape[0]
    for _ in range(rounds):
        for i in range(count):
            total = anchors[i]
            x = anchors[i] * held[i, 0]
            y = anchors[i] * held[i, 1]
            for j in range(count):
                if j == i:
                    continue
                dx = places[i, 0] - places[j, 0]
                dy = places[i, 1] - places[j, 1]
                length = np.sqrt(dx * dx + dy * dy)
                scale = distances[i, j] / length if length > 1e-12 else 0.0
                x += weights[i, j] * (places[j, 0] + scale * dx)
                y += weights[i, j] * (places[j, 1] + scale * dy)
                total += weights[i, j]
            if total > 0.0:
                places[i, 0] = x / total
                places[i, 1] = y / total


@compiled
def _locate(vectors: Any, landmarks: Any, halves: Any, places: Any, located: Any) -> None:
    among = min(_AMONG, landmarks.shape[0])
    near = np.empty(among, np.float32)
    which = np.empty(among, np.int32)
    for row in range(vectors.shape[0]):
        near[:] = np.inf
        which[:] = 0
        half = np.float32(0.5) * dot(vectors[row], vectors[row])
        for landmark in range(landmarks.shape[0]):
            distance = half + halves[landmark] - dot(vectors[row], landmarks[landmark])
            if distance < near[among - 1]:
                place = among - 1
                while place > 0 and near[place - 1] > distance:
                    near[place] = near[place - 1]
                    which[place] = which[place - 1]
                    place -= 1
                near[place] = distance
                which[place] = landmark
        # The last of them weighs nothing, so a change of neighbours makes no jump.
        x = 0.0
        y = 0.0
        total = 0.0
        for place in range(among):
            weight = 1.0 / max(near[place], 1e-9) - 1.0 / max(near[among - 1], 1e-9)
            weight = weight * weight
            x += weight * places[which[place], 0]
            y += weight * places[which[place], 1]
            total += weight
        if total > 0.0:
            located[row, 0] = x / total
            located[row, 1] = y / total
        else:
            located[row, 0] = places[which[0], 0]
            located[row, 1] = places[which[0], 1]
