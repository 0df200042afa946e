"""The profile of one scope: its window, its clusters, its outliers, kept current.

Every arrival is placed at once by the last refit. A refit is started after a set number of
arrivals and its answer takes effect after another set number, not when it happens to be done; so a
replay gives the same however fast either runs, and in whatever batches the arrivals come. The
caller says where refits run, a thread or a process, and may look at ``waits_for`` before handing in
arrivals that would have to wait.

One writer: a profile is not to be used from two threads at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from streams.profile.cells import (
    BASIS_SAMPLE,
    Float32,
    Int32,
    assign_cells,
    fit_basis,
    fit_cells,
    number_of_cells,
)
from streams.profile.identity import ClusterEvent, Int64, match
from streams.profile.index import SlotIndex
from streams.profile.outliers import (
    CALIBRATION_SAMPLE,
    Calibration,
    Deviation,
    Neighbour,
    UsualFeatures,
    own_core,
)
from streams.profile.placing import Place, place
from streams.profile.provisional import Gathering
from streams.profile.refit import Fitted, Snapshot, refit
from streams.profile.values import (
    Absorbed,
    Arrival,
    ClusterSummary,
    ClusterUpdate,
    Inline,
    Move,
    Pending,
    Placement,
    ProfileParameters,
    Starter,
)
from streams.profile.vectors import unit
from streams.profile.window import EmbeddingWindow

_SHOWN = 5
_ANEW_PER_ARRIVAL = 2
_FEATURE_SAMPLE = 10_000
_REINDEX_FIRST = 1000
_TWIN_PROBES = 3


class ScopeProfile:
    """What one scope looks like now.

    Parameters
    ----------
    dimensions
        Length of the scope's embeddings.
    parameters
        How it is profiled.
    start
        Starts a refit beside the stream; by default it runs in place, when its answer is due.
    """

    def __init__(
        self,
        dimensions: int,
        parameters: ProfileParameters | None = None,
        start: Starter = Inline,
    ) -> None:
        self.parameters = parameters or ProfileParameters()
        self.dimensions = dimensions
        self.arrivals = 0
        options = self.parameters
        self.window = EmbeddingWindow(
            dimensions, options.limit, options.refit_lag, options.span_seconds
        )
        slots = self.window.vectors.shape[0]
        self._start = start
        self._pending: Pending | None = None
        self._apply_at = 0
        self._refit_at = options.first_refit
        self._fitted: Fitted | None = None
        self._root_death = np.zeros(0)
        self._core: Float32 = np.full(slots, np.inf, np.float32)
        # Core distances as they were on arrival, and when that was: what p-values are made of.
        self._arrival_core: Float32 = np.full(slots, np.nan, np.float32)
        self._arrival: Int64 = np.zeros(slots, np.int64)
        self._node: Int32 = np.full(slots, -1, np.int32)
        # The cluster that an image is in, and the one that it remembers while that one sleeps.
        self._cluster: Int64 = np.full(slots, -1, np.int64)
        self._memory: Int64 = np.full(slots, -1, np.int64)
        self._ids: Int64 = np.zeros(0, np.int64)
        self._asleep: dict[int, int] = {}
        self._provisional: dict[int, ClusterSummary] = {}
        self._next_id = 1
        self._gathering = Gathering()
        self._reach_squared = 0.0
        self._backlog: list[int] = []
        self._calibration = Calibration(np.zeros(0, np.float32))
        self._kinds: list[str] = []
        self._kind_numbers: dict[str, int] = {}
        self._kind_counts: dict[int, dict[int, int]] = {}
        self._features = np.full((slots, len(options.feature_names)), np.nan, np.float32)
        self._usual = UsualFeatures(
            options.feature_names, np.zeros((0, len(options.feature_names)))
        )
        self.clusters: tuple[ClusterSummary, ...] = ()

    @property
    def pending(self) -> Pending | None:
        """The refit under way, if there is one."""
        return self._pending

    @property
    def waits_for(self) -> Pending | None:
        """The refit whose answer the next arrival needs, if there is one."""
        return self._pending if self.arrivals + 1 == self._apply_at else None

    @property
    def until_wait(self) -> int | None:
        """Arrivals that can be absorbed before a refit's answer is needed; None without a refit."""
        return self._apply_at - self.arrivals - 1 if self._pending is not None else None

    def absorb(self, arrivals: Sequence[Arrival]) -> Absorbed:
        """Place arrivals, in order, and take them into the window.

        Raises
        ------
        BadVector
            If an embedding is unusable. Those before it have been absorbed: check vectors before,
            with ``streams.profile.vectors.unit``.
        """
        placements: list[Placement] = []
        updates: list[ClusterUpdate] = []
        moves: list[Move] = []
        for arrival in arrivals:
            vector = unit(arrival.vector, self.dimensions)
            self.arrivals += 1
            if self._pending is not None and self.arrivals == self._apply_at:
                updates.append(self._apply(self._pending.result()))
            placed, formed = self._absorb_one(arrival, vector)
            placements.append(placed)
            updates.extend(formed)
            moves.extend(self._place_anew())
            if self.arrivals == self._refit_at:
                self._begin_refit()
        return Absorbed(tuple(placements), tuple(updates), tuple(moves))

    def rebuild(self, arrivals: Iterable[Arrival], counted: int, next_id: int = 1) -> ClusterUpdate:
        """Fill an empty profile again after a restart, and refit it in place.

        Arrivals that carry the ``cluster`` they were given before hand their ids on.

        Parameters
        ----------
        arrivals
            What the window had, or more, in order of arrival.
        counted
            Arrivals of the scope so far, these among them; sets when the next refit comes.
        next_id
            The first id that has not been given.

        Raises
        ------
        ValueError
            If the profile is not empty, or there are fewer than two distinct vectors.
        """
        if self.arrivals:
            raise ValueError("a profile is rebuilt when it is new; make another")
        options = self.parameters
        reindex_at = _REINDEX_FIRST
        ids: set[int] = set()
        for arrival in arrivals:
            vector = unit(arrival.vector, self.dimensions)
            if self.window.is_late(arrival.event_time_seconds):
                continue
            squared, slots = self.window.index.search(vector, 1, _TWIN_PROBES)
            if squared.size and squared[0] <= options.near_identical**2:
                slot = int(slots[0])
                self._forget(self.window.repeat(slot, arrival.event_time_seconds))
                self._count_kind(slot, arrival.kind)
                continue
            slot = self._admit(arrival, vector)
            if arrival.cluster is not None:
                self._memory[slot] = arrival.cluster
                ids.add(arrival.cluster)
            if len(self.window) == reindex_at:
                self._index_anew()
                reindex_at *= 4
        self.arrivals = counted
        self._next_id = max(next_id, max(ids, default=0) + 1)
        self._ids = np.array(sorted(ids), np.int64)
        self._cluster[:] = self._memory
        update = self._apply(refit(self.snapshot()))
        self._refit_at = counted + options.until_next(counted)
        return update

    def snapshot(self) -> Snapshot:
        """Return what a refit of the window as it is would read."""
        slots = self.window.slots()
        return Snapshot(
            arrival=self.arrivals,
            vectors=self.window.vectors,
            slots=slots,
            former=self._memory[slots],
            parameters=self.parameters.clusters,
            map=self._fitted.map if self._fitted is not None else None,
            threads=self.parameters.threads,
        )

    def members(self) -> dict[str, int | None]:
        """Return the cluster of every image that stands for itself and its copies, by key."""
        return {
            self.window.keys[slot]: _or_none(int(self._cluster[slot]))
            for slot in self.window.slots()
        }

    def counts(self) -> dict[int | None, int]:
        """Return how many distinct vectors each cluster has; None is no cluster."""
        found, counts = np.unique(self._cluster[self.window.used], return_counts=True)
        return {_or_none(int(one)): int(count) for one, count in zip(found, counts, strict=True)}

    # Arrivals

    def _absorb_one(
        self, arrival: Arrival, vector: Float32
    ) -> tuple[Placement, list[ClusterUpdate]]:
        options = self.parameters
        neighbours = max(options.clusters.neighbours, options.clusters.min_samples)
        squared, slots = self.window.index.search(vector, neighbours, options.probes)
        core = self._own_core(squared)
        spot = self._place(squared, slots, core)
        nearest = tuple(
            Neighbour(self.window.keys[slot], distance)
            for distance, slot in zip(
                np.sqrt(squared[:_SHOWN]).tolist(), slots[:_SHOWN].tolist(), strict=True
            )
        )
        cluster = int(self._ids[spot.label]) if spot.label >= 0 else -1
        formed: list[ClusterUpdate] = []
        twin: str | None = None
        admitted = not self.window.is_late(arrival.event_time_seconds)
        p_value = self._calibration.p_value(core)
        if squared.size and squared[0] <= options.near_identical**2:
            slot = int(slots[0])
            twin = self.window.keys[slot]
            cluster = int(self._cluster[slot])
            if admitted:
                self._forget(self.window.repeat(slot, arrival.event_time_seconds))
                self._count_kind(slot, arrival.kind)
        elif admitted:
            if cluster < 0:
                cluster = self._join_provisional(squared, slots, core)
            slot = self._admit(arrival, vector)
            self._core[slot] = core
            self._arrival_core[slot] = core if self._fitted is not None else np.nan
            self._node[slot] = spot.node
            self._cluster[slot] = cluster
            self._memory[slot] = cluster
            if cluster < 0 and self._fitted is not None:
                formed = self._gather(slot, squared, slots, core)
                cluster = int(self._cluster[slot])
        outlier = p_value is not None and p_value <= options.alpha
        deviations: tuple[Deviation, ...] = ()
        if outlier and arrival.features:
            deviations = self._usual.deviations(arrival.features)
        return (
            Placement(
                key=arrival.key,
                arrival=self.arrivals,
                admitted=admitted,
                twin=twin,
                cluster=_or_none(cluster),
                membership=spot.membership if cluster >= 0 else 0.0,
                outlier_score=spot.outlier,
                distance=float(np.sqrt(core)),
                p_value=p_value,
                outlier=outlier,
                nearest=nearest,
                deviations=deviations,
                place=self._locate(vector),
            ),
            formed,
        )

    def _admit(self, arrival: Arrival, vector: Float32) -> int:
        slot, left = self.window.admit(arrival.key, arrival.event_time_seconds, vector)
        self._forget(left)
        self._arrival_core[slot] = np.nan
        self._arrival[slot] = self.arrivals
        self._node[slot] = -1
        self._cluster[slot] = -1
        self._memory[slot] = -1
        self._kind_counts[slot] = {}
        self._count_kind(slot, arrival.kind)
        for column, name in enumerate(self.parameters.feature_names):
            self._features[slot, column] = arrival.features.get(name, np.nan)
        return slot

    def _own_core(self, squared: Float32) -> float:
        if not squared.size:
            return float("inf")
        return float(squared[min(self.parameters.clusters.min_samples, squared.size) - 1])

    def _place(self, squared: Float32, slots: Int32, core: float) -> Place:
        if self._fitted is None:
            return Place(-1, -1, 0.0, 1.0)
        tree = self._fitted.hierarchy
        return place(
            squared,
            slots,
            core,
            self._core,
            self._node,
            tree.parent,
            tree.birth,
            tree.densest,
            self._fitted.node_label,
            self._root_death,
        )

    def _locate(self, vector: Float32) -> tuple[float, float] | None:
        if self._fitted is None:
            return None
        spot = self._fitted.map.locate(vector[None, :])[0]
        return float(spot[0]), float(spot[1])

    def _count_kind(self, slot: int, kind: str) -> None:
        number = self._kind_numbers.setdefault(kind, len(self._kinds))
        if number == len(self._kinds):
            self._kinds.append(kind)
        counts = self._kind_counts[slot]
        counts[number] = counts.get(number, 0) + 1

    def _forget(self, left: Iterable[int]) -> None:
        for slot in left:
            self._node[slot] = -1
            self._kind_counts.pop(slot, None)
            self._gathering.forget(slot)

    # Clusters between refits

    def _close(self, squared: Float32, slots: Int32, core: float) -> list[int]:
        """Return the neighbours that are linked by reach, nearest first."""
        if core > self._reach_squared:
            return []
        return [
            int(slot)
            for distance, slot in zip(squared, slots, strict=True)
            if distance <= self._reach_squared and self._core[slot] <= self._reach_squared
        ]

    def _join_provisional(self, squared: Float32, slots: Int32, core: float) -> int:
        if self._provisional:
            for slot in self._close(squared, slots, core):
                if int(self._cluster[slot]) in self._provisional:
                    return int(self._cluster[slot])
        return -1

    def _gather(
        self, slot: int, squared: Float32, slots: Int32, core: float
    ) -> list[ClusterUpdate]:
        # The fringe of a cluster is no new one: most neighbours must be in no cluster.
        if 2 * int((self._cluster[slots] >= 0).sum()) > slots.shape[0]:
            return []
        together = self._gathering.link(slot, self._close(squared, slots, core))
        if together < self.parameters.clusters.min_cluster_size(len(self.window)):
            return []
        members = self._gathering.take(slot)
        cluster = self._next_id
        self._next_id += 1
        self._cluster[members] = cluster
        self._memory[members] = cluster
        summary = self._provisional_summary(cluster, members)
        self._provisional[cluster] = summary
        self.clusters = (*self.clusters, summary)
        moves = tuple(Move(self.window.keys[one], None, cluster) for one in members if one != slot)
        return [self._update((ClusterEvent("born", cluster),), moves)]

    def _provisional_summary(self, cluster: int, members: list[int]) -> ClusterSummary:
        assert self._fitted is not None
        vectors = self.window.vectors[members]
        mean = vectors.mean(axis=0, dtype=np.float64)
        centroid = (mean / max(float(np.linalg.norm(mean)), 1e-12)).astype(np.float32)
        typical = np.argsort(self._core[members], kind="stable")
        shown = [members[one] for one in typical[: self.parameters.clusters.exemplars]]
        x, y = self._fitted.map.locate(vectors).mean(axis=0)
        return self._summary(cluster, True, np.array(members), shown, centroid, (x, y), 0.0)

    # Refits

    def _begin_refit(self) -> None:
        options = self.parameters
        self._refit_at = self.arrivals + options.until_next(self.arrivals)
        if self._pending is not None or len(self.window) < 2:
            return
        snapshot = self.snapshot()
        self._apply_at = self.arrivals + options.lag(self.arrivals)
        self.window.hold()
        self._pending = self._start(snapshot)

    def _apply(self, fitted: Fitted) -> ClusterUpdate:
        self._pending = None
        self.window.release()
        alive = self.window.used[fitted.slots]
        slots, label = fitted.slots[alive], fitted.label[alive]
        self._reindex(fitted, alive)
        matching = match(
            self._memory[slots],
            label,
            fitted.roots.shape[0],
            frozenset(int(one) for one in self._ids) | frozenset(self._provisional),
            self._asleep,
            self._next_id,
            self.parameters.grace,
        )
        before = self._cluster.copy()
        self._fitted = fitted
        self._root_death = fitted.hierarchy.death[fitted.roots]
        self._ids = matching.ids
        self._next_id = matching.next_id
        self._asleep = dict(matching.asleep)
        self._provisional = {}
        self._node[:] = -1
        self._node[slots] = fitted.hierarchy.node[alive]
        self._core[slots] = fitted.core[alive]
        asleep = np.array(sorted(self._asleep), np.int64)
        kept = np.isin(self._memory, np.concatenate((asleep, self._ids)))
        self._memory[~kept] = -1
        remembered = np.where(np.isin(self._memory[slots], asleep), self._memory[slots], -1)
        known = np.concatenate((self._ids, np.array([-1], np.int64)))[label]
        self._memory[slots] = np.where(label >= 0, known, remembered)
        self._cluster[:] = np.where(np.isin(self._memory, asleep), -1, self._memory)
        births = fitted.hierarchy.birth[fitted.roots]
        self._reach_squared = float(1.0 / np.median(births) ** 2) if births.size else 0.0
        self._calibration = self._calibrate()
        used = self.window.slots()
        sample = used[:: max(1, used.shape[0] // _FEATURE_SAMPLE)]
        self._usual = UsualFeatures(
            self.parameters.feature_names, self._features[sample].astype(np.float64)
        )
        self._gathering.keep(lambda slot: int(self._cluster[slot]) < 0)
        fresh = np.ones(used.shape[0], np.bool_)
        fresh[np.searchsorted(used, slots)] = False
        self._backlog = [int(slot) for slot in used[fresh][::-1]]
        self.clusters = tuple(sorted(self._summaries(fitted), key=lambda one: one.cluster))
        changed = used[before[used] != self._cluster[used]]
        moves = tuple(
            Move(
                self.window.keys[slot],
                _or_none(int(before[slot])),
                _or_none(int(self._cluster[slot])),
            )
            for slot in changed
        )
        return self._update(matching.events, moves)

    def _reindex(self, fitted: Fitted, alive: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> None:
        slots = fitted.slots[alive]
        missing = self.window.used.copy()
        missing[slots] = False
        fresh = np.flatnonzero(missing).astype(np.int32)
        coordinates, lengths = fitted.basis.project_rows(self.window.vectors, fresh)
        index = SlotIndex(self.window.vectors, fitted.basis, fitted.centroids)
        index.fill(
            np.concatenate((slots, fresh)),
            np.concatenate((fitted.coordinates[alive], coordinates)),
            np.concatenate((fitted.lengths[alive], lengths)),
            np.concatenate((fitted.cells[alive], assign_cells(coordinates, fitted.centroids))),
        )
        self.window.index = index

    def _calibrate(self) -> Calibration:
        """Return what core distances are usual for arrivals.

        They are those of earlier arrivals, when they arrived: found by the same search, in a
        window of much the same size. Older ones than half the stream came to a smaller window, and
        after a restart there are none; then images of the window are searched for as if they came.
        """
        used = self.window.slots()
        cores = self._arrival_core[used]
        cores = cores[np.isfinite(cores) & (2 * self._arrival[used] > self.arrivals)]
        if cores.shape[0] < min(CALIBRATION_SAMPLE, used.shape[0] // 2):
            sample = used[:: max(1, used.shape[0] // CALIBRATION_SAMPLE)]
            options = self.parameters
            cores = np.array(
                [
                    own_core(
                        self.window.index, int(slot), options.clusters.min_samples, options.probes
                    )
                    for slot in sample
                ],
                np.float32,
            )
        return Calibration.of(cores)

    def _index_anew(self) -> None:
        """Give a window that is being filled more cells."""
        slots = self.window.slots()
        vectors = self.window.vectors
        sample = vectors[slots[:: max(1, slots.shape[0] // BASIS_SAMPLE)]]
        basis = fit_basis(sample, self.parameters.clusters.dimensions)
        coordinates, lengths = basis.project_rows(vectors, slots)
        centroids = fit_cells(coordinates, number_of_cells(slots.shape[0]))
        index = SlotIndex(vectors, basis, centroids)
        index.fill(slots, coordinates, lengths, assign_cells(coordinates, centroids))
        self.window.index = index

    def _place_anew(self) -> list[Move]:
        """Place some of those that came while the refit ran, so that no arrival waits for all."""
        moves: list[Move] = []
        done = 0
        options = self.parameters
        neighbours = max(options.clusters.neighbours, options.clusters.min_samples) + 1
        while self._backlog and done < _ANEW_PER_ARRIVAL:
            slot = self._backlog.pop()
            if not self.window.used[slot] or self._node[slot] >= 0:
                continue
            done += 1
            squared, slots = self.window.index.search(
                self.window.vectors[slot], neighbours, options.probes
            )
            others = slots != slot
            squared, slots = squared[others], slots[others]
            core = self._own_core(squared)
            spot = self._place(squared, slots, core)
            self._core[slot] = core
            self._node[slot] = spot.node
            after = int(self._ids[spot.label]) if spot.label >= 0 else -1
            before = int(self._cluster[slot])
            if after >= 0 and after != before:
                self._cluster[slot] = after
                self._memory[slot] = after
                self._gathering.forget(slot)
                moves.append(Move(self.window.keys[slot], _or_none(before), after))
        return moves

    # What is shown

    def _summaries(self, fitted: Fitted) -> list[ClusterSummary]:
        order = np.argsort(self._cluster, kind="stable")
        order = order[self.window.used[order]]
        sorted_ids = self._cluster[order]
        found = []
        for label, cluster in enumerate(self._ids):
            first, last = np.searchsorted(sorted_ids, [cluster, cluster + 1])
            found.append(
                self._summary(
                    int(cluster),
                    False,
                    order[first:last],
                    [slot for slot in fitted.exemplar_slots[label] if self.window.used[slot]],
                    fitted.centroid[label],
                    (float(fitted.place[label, 0]), float(fitted.place[label, 1])),
                    float(fitted.hierarchy.stability[fitted.roots[label]]),
                )
            )
        return found

    def _summary(  # noqa: PLR0917
        self,
        cluster: int,
        provisional: bool,
        members: Int64,
        shown: Sequence[int],
        centroid: Float32,
        spot: tuple[float, float],
        stability: float,
    ) -> ClusterSummary:
        window = self.window
        kinds: dict[str, int] = {}
        for slot in members:
            for number, count in self._kind_counts[int(slot)].items():
                kinds[self._kinds[number]] = kinds.get(self._kinds[number], 0) + count
        return ClusterSummary(
            cluster=cluster,
            provisional=provisional,
            size=int(members.shape[0]),
            images=int(window.copies[members].sum()),
            kinds=dict(sorted(kinds.items())),
            exemplars=tuple(window.keys[slot] for slot in shown),
            centroid=centroid,
            place=(float(spot[0]), float(spot[1])),
            stability=stability,
            first_seconds=float(window.first_seconds[members].min(initial=np.inf)),
            last_seconds=float(window.seen_seconds[members].max(initial=-np.inf)),
        )

    def _update(self, events: tuple[ClusterEvent, ...], moves: tuple[Move, ...]) -> ClusterUpdate:
        return ClusterUpdate(
            arrival=self.arrivals,
            events=events,
            clusters=self.clusters,
            distinct=len(self.window),
            unclustered=int((self._cluster[self.window.used] < 0).sum()),
            moves=moves,
        )


def _or_none(cluster: int) -> int | None:
    return cluster if cluster >= 0 else None
