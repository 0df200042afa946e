"""What goes into the profile of a scope, and what comes out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streams.profile.identity import ClusterEvent
from streams.profile.outliers import Deviation, Neighbour
from streams.profile.refit import ClusterParameters, Fitted, Snapshot, refit


@dataclass(frozen=True)
class ProfileParameters:
    """How a scope is profiled. A replay needs the same.

    Parameters
    ----------
    limit
        Distinct vectors in the window.
    span_seconds
        Event time that the window covers.
    near_identical
        Distance of unit vectors, 0 to 2, up to which two count as one.
    refit_every
        Arrivals from refit to refit, once the window has that many times ten; before, a refit
        comes after every tenth of what has arrived.
    refit_lag
        Arrivals after which a refit's answer is applied; what is slower is waited for.
    first_refit
        Arrivals before the first refit.
    probes
        Cells that are searched for an arrival.
    alpha
        Share of usual images that may be called outliers.
    feature_names
        Named numbers that arrivals may carry.
    grace
        Refits that a cluster's id survives without a cluster.
    threads
        Threads of a refit; they change no result.
    clusters
        What a cluster is.
    """

    limit: int = 100_000
    span_seconds: float = 90 * 86_400.0
    near_identical: float = 0.02
    refit_every: int = 10_000
    refit_lag: int = 5_000
    first_refit: int = 200
    probes: int = 8
    alpha: float = 0.01
    feature_names: tuple[str, ...] = ()
    grace: int = 2
    threads: int = 1
    clusters: ClusterParameters = field(default_factory=ClusterParameters)

    def __post_init__(self) -> None:
        if not 1 <= self.refit_lag <= self.refit_every:
            raise ValueError("refit_lag must be from 1 to refit_every: one refit runs at a time")
        if self.first_refit < 2 or self.limit < 2:
            raise ValueError("first_refit and limit must be 2 or more")

    def until_next(self, arrivals: int) -> int:
        """Return how many arrivals after ``arrivals`` the next refit comes."""
        return max(1, min(self.refit_every, arrivals // 10))

    def lag(self, arrivals: int) -> int:
        """Return after how many arrivals a refit taken after ``arrivals`` is applied."""
        interval = self.until_next(arrivals)
        return max(1, self.refit_lag * interval // self.refit_every)


@dataclass(frozen=True)
class Arrival:
    """An embedded image.

    Parameters
    ----------
    key
        What it is called outside: its file id.
    event_time_seconds
        Since the epoch, UTC. The newest moves the window: bound what a header may claim before.
    vector
        Shape (D,); any length above 0.
    kind
        What the modality mix counts.
    features
        Named numbers, of the parameters' ``feature_names``.
    cluster
        The id it was given before a restart; used by ``rebuild`` alone.
    """

    key: str
    event_time_seconds: float
    vector: ArrayLike
    kind: str = ""
    features: Mapping[str, float] = field(default_factory=dict)
    cluster: int | None = None


@dataclass(frozen=True)
class Placement:
    """What is said of an arriving image at once.

    Parameters
    ----------
    key
        Its key.
    arrival
        Its number in the scope, from 1.
    admitted
        Whether it is in the window: false if it came too late.
    twin
        Key of the image that it nearly equals and is counted with.
    cluster
        Lasting id, or None.
    membership
        0 to 1.
    outlier_score
        GLOSH, 0 to 1: sparser than the densest of where it lies.
    distance
        To its ``min_samples``-th neighbour.
    p_value
        Share of the window that lies as far out; None as long as too few are known.
    outlier
        Whether the p-value is at most ``alpha``.
    nearest
        The nearest images of the window.
    deviations
        Of an outlier: the features that are least usual.
    place
        On the map; None before the first refit.
    """

    key: str
    arrival: int
    admitted: bool
    twin: str | None
    cluster: int | None
    membership: float
    outlier_score: float
    distance: float
    p_value: float | None
    outlier: bool
    nearest: tuple[Neighbour, ...]
    deviations: tuple[Deviation, ...]
    place: tuple[float, float] | None


@dataclass(frozen=True)
class ClusterSummary:
    """A cluster as it is shown.

    Parameters
    ----------
    cluster
        Lasting id.
    provisional
        Whether it formed since the last refit, and waits for the next to be confirmed.
    size, images
        Distinct vectors of the window, and images with all their copies.
    kinds
        Images of each kind: the modality mix.
    exemplars
        Keys, most typical first.
    centroid
        float32, shape (D,), length one.
    place
        On the map.
    stability
        Excess of mass; 0 of a provisional cluster.
    first_seconds, last_seconds
        Event times of its oldest and newest image in the window.
    """

    cluster: int
    provisional: bool
    size: int
    images: int
    kinds: Mapping[str, int]
    exemplars: tuple[str, ...]
    centroid: NDArray[np.float32]
    place: tuple[float, float]
    stability: float
    first_seconds: float
    last_seconds: float


@dataclass(frozen=True)
class Move:
    """An image whose cluster is another now.

    Parameters
    ----------
    key
        Of the image.
    before, after
        Lasting ids, or None.
    """

    key: str
    before: int | None
    after: int | None


@dataclass(frozen=True)
class ClusterUpdate:
    """What is announced after a refit, or when a provisional cluster forms.

    Parameters
    ----------
    arrival
        Number of the arrival before which it took effect.
    events
        Births, deaths, splits, merges.
    clusters
        All clusters now, by id.
    distinct, unclustered
        Vectors in the window, and those of them in no cluster.
    moves
        Images of the window whose cluster changed.
    """

    arrival: int
    events: tuple[ClusterEvent, ...]
    clusters: tuple[ClusterSummary, ...]
    distinct: int
    unclustered: int
    moves: tuple[Move, ...]


@dataclass(frozen=True)
class Absorbed:
    """What came of some arrivals.

    Parameters
    ----------
    placements
        One for each, in order.
    updates
        Announcements, in order.
    moves
        Images that came while a refit ran and have been placed anew by it.
    """

    placements: tuple[Placement, ...]
    updates: tuple[ClusterUpdate, ...]
    moves: tuple[Move, ...]


class Pending(Protocol):
    """A refit under way: a ``concurrent.futures.Future``, or anything with its ``result``."""

    def result(self) -> Fitted:
        """Return the answer; wait for it if need be."""
        ...


class Starter(Protocol):
    """Starts a refit, and returns at once."""

    def __call__(self, snapshot: Snapshot, /) -> Pending:
        """Start ``refit(snapshot)``."""
        ...


class Inline:
    """A refit that is done when its answer is asked for."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def result(self) -> Fitted:
        """Return the answer."""
        return refit(self._snapshot)
