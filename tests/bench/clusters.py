"""Rolling clusters and outliers: the bars of a window of 100,000 by 768, and why this engine.

The streams are made: a mixture on the sphere as image embeddings look, with components of unlike
size, spread and local subspace (14 dimensions of a common, decaying spectrum), a background
between them, and noise in all directions. Every draw is seeded.

Engines. The reference is the `hdbscan` package. On 768 dimensions it works out distances of all
pairs, slowly: it is run end to end on a small window, for its labels and its time (and
`fast_hdbscan`, where that is installed; its trees are made for few dimensions, so both get the
leading principal components too, and lose what lies outside them). On a large window the reference
is the package's own hierarchy over an exact minimum spanning tree, made here by products of all
pairs; on the small window that is checked against the package. Ours takes the tree over a graph of
approximate neighbours with exact distances, at a hundredth of the cost; what is lost is told by the
adjusted Rand index. Two other ways were weighed. A hierarchy that is itself kept current pays with
every arrival: FISHDBC (arXiv:1910.07283) takes insertions only, and the exact dynamic algorithm
(arXiv:2412.07789) is for its authors' own reasons replaced by a summary. A summary (data bubbles,
the same paper) is small and takes deletions, but images of one bubble share their fate, which costs
agreement where groups touch; "summary" shows how much. A refit beside the stream pays once for
every tenth of a window, and between refits an arrival is placed as `hdbscan.approximate_predict`
does.

Parts: engines, exact, window, stationary, turnover, outliers, long; `--only` picks some. The exact
tree of 100,000 takes minutes, and so do 50 refits and a million arrivals; `--quick` runs all of it
small, where the bars of time mean little. Set OPENBLAS_NUM_THREADS=1: refits bring their own
threads.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import resource
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numba
import numpy as np
from rich.console import Console

from streams.profile.cells import assign_cells, fit_basis, fit_cells
from streams.profile.neighbours import Neighbours
from streams.profile.outliers import OutlierReference, unlike_everything
from streams.profile.refit import ClusterParameters, Snapshot, refit
from streams.profile.scope import ScopeProfile
from streams.profile.spanning import core_squared
from streams.profile.values import Arrival, ProfileParameters

_console = Console(stderr=True)
_DIMENSIONS = 768
_PARTS = ("engines", "exact", "window", "stationary", "turnover", "outliers", "long")


class Mixture:
    """A stationary stream of unit vectors from components of unlike size and density."""

    def __init__(
        self,
        seed: int,
        components: int = 30,
        background: float = 0.06,
        dimensions: int = _DIMENSIONS,
        intrinsic: int = 14,
        factors: int = 128,
    ) -> None:
        chance = np.random.default_rng(seed)
        self._chance = chance
        factors = min(factors, dimensions)
        spectrum = (1.0 + np.arange(factors)) ** -0.6
        directions = np.linalg.qr(chance.standard_normal((dimensions, factors)))[0].T
        self._factors = directions * (spectrum / np.sqrt((spectrum**2).sum()))[:, None]
        self._common = chance.standard_normal(dimensions)
        self._common *= 0.8 / np.linalg.norm(self._common)
        self.components = components
        self._intrinsic = intrinsic
        self._centres = [self._centre() for _ in range(components)]
        self._bases = [self._base() for _ in range(components)]
        falling = 0.85 ** np.arange(components)
        self.weights = (1 - background) * (0.5 * falling / falling.sum() + 0.5 / components)
        self.background = background

    def _centre(self) -> np.ndarray:
        factors = self._factors.shape[0]
        return self._common + 0.7 * (self._chance.standard_normal(factors) @ self._factors)

    def _base(self) -> np.ndarray:
        shape = (self._intrinsic, self._factors.shape[0])
        base = (self._chance.standard_normal(shape) @ self._factors).astype(np.float32)
        falling = 0.93 ** np.arange(self._intrinsic)
        spread = self._chance.uniform(0.3, 0.8) / np.sqrt(self._intrinsic)
        return base * (spread * falling[:, None]).astype(np.float32)

    def add_component(self, share: float) -> int:
        """Add a component that makes ``share`` of what is drawn; return its number."""
        self._centres.append(self._centre())
        self._bases.append(self._base())
        self.weights = np.append(self.weights * (1 - share), share)
        self.background *= 1 - share
        self.components += 1
        return self.components - 1

    def remove_component(self, component: int) -> None:
        """Draw no more of a component."""
        gone = self.weights[component]
        self.weights = self.weights / (1 - gone)
        self.weights[component] = 0.0
        self.background /= 1 - gone

    def draw(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return float32 (count, D) unit vectors, and the component of each, -1 of none."""
        shares = np.append(self.weights, self.background)
        labels = self._chance.choice(self.components + 1, count, p=shares / shares.sum())
        labels[labels == self.components] = -1
        vectors = self._chance.standard_normal(
            (count, self._common.shape[0]), dtype=np.float32
        ) * np.float32(0.12 / np.sqrt(self._common.shape[0]))
        for label in np.unique(labels):
            rows = np.flatnonzero(labels == label)
            if label < 0:
                loose = self._chance.standard_normal((rows.size, self._factors.shape[0]))
                vectors[rows] += (self._common + loose @ self._factors).astype(np.float32)
            else:
                inside = self._chance.standard_normal(
                    (rows.size, self._intrinsic), dtype=np.float32
                )
                vectors[rows] += self._centres[label].astype(np.float32)
                vectors[rows] += inside @ self._bases[label]
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors, labels


def arrivals_of(vectors: np.ndarray, labels: np.ndarray, first: int) -> list[Arrival]:
    """Return arrivals numbered from ``first``, one a second."""
    return [
        Arrival(str(first + i), float(first + i), vectors[i], str(labels[i]))
        for i in range(vectors.shape[0])
    ]


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark; print one JSON object last."""
    parser = argparse.ArgumentParser(
        "biodatamine bench clusters",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", choices=_PARTS, default=list(_PARTS))
    parser.add_argument("--window", type=int, default=100_000, help="distinct vectors")
    parser.add_argument("--small", type=int, default=4000, help="window of the end-to-end engines")
    parser.add_argument("--exact", type=int, default=100_000, help="window of the exact tree")
    parser.add_argument("--refits", type=int, default=50, help="of the stationary stream")
    parser.add_argument("--arrivals", type=int, default=1_000_000, help="of the long stream")
    parser.add_argument("--threads", type=int, default=2, help="of a refit")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="everything small")
    options = parser.parse_args(arguments)
    if options.quick:
        options.window, options.small, options.exact = 5000, 1500, 3000
        options.refits, options.arrivals = 12, 30_000
    _warm_up()
    figures: dict[str, Any] = {}
    bars: dict[str, Any] = {}
    for part in _PARTS:
        if part in options.only:
            _console.print(f"{part} ...")
            began, cpu = time.perf_counter(), time.process_time()
            found = globals()[f"_{part}"](options, bars)
            found["seconds"] = round(time.perf_counter() - began, 1)
            found["cpu_seconds"] = round(time.process_time() - cpu, 1)
            figures[part] = found
            _console.print_json(json.dumps(found))
            gc.collect()
    print(json.dumps({"options": vars(options), **figures, "bars": bars}))
    return 0


def _bar(bars: dict[str, Any], name: str, value: float, goal: str, holds: bool) -> None:
    bars[name] = {"value": value, "goal": goal, "holds": bool(holds)}


def _warm_up() -> None:
    """Have everything compiled that is timed later."""
    vectors, labels = Mixture(99, components=4).draw(900)
    profile = ScopeProfile(_DIMENSIONS, ProfileParameters(limit=500, refit_every=50, refit_lag=20))
    profile.absorb(arrivals_of(vectors, labels, 0))


def _parameters(options: argparse.Namespace, **more: Any) -> ProfileParameters:
    return ProfileParameters(
        limit=options.window,
        refit_every=options.window // 10,
        refit_lag=options.window // 20,
        threads=options.threads,
        span_seconds=1e12,
        **more,
    )


def _snapshot(vectors: np.ndarray, threads: int, **clusters: Any) -> Snapshot:
    count = vectors.shape[0]
    return Snapshot(
        arrival=count,
        vectors=vectors,
        slots=np.arange(count, dtype=np.int32),
        former=np.full(count, -1, np.int64),
        parameters=ClusterParameters(**clusters),
        threads=threads,
    )


# Engines


def _engines(options: argparse.Namespace, bars: dict[str, Any]) -> dict[str, Any]:
    import hdbscan
    from sklearn.metrics import adjusted_rand_score

    vectors, truth = Mixture(options.seed).draw(options.small)
    settings = ClusterParameters()
    least = settings.min_cluster_size(options.small)
    found: dict[str, Any] = {"vectors": options.small, "min_cluster_size": least}
    labels: dict[str, np.ndarray] = {}

    def timed(name: str, work: Any) -> None:
        began = time.perf_counter()
        labels[name] = np.asarray(work())
        found[name] = {"seconds": round(time.perf_counter() - began, 2)}

    timed("ours", lambda: refit(_snapshot(vectors, 1)).label)
    reference = hdbscan.HDBSCAN(
        min_cluster_size=least, min_samples=settings.min_samples, core_dist_n_jobs=1
    )
    timed("hdbscan", lambda: reference.fit(vectors.astype(np.float64)).labels_)
    timed("exact tree", lambda: reference_labels(vectors, settings.min_samples, least))
    principal = refit(_snapshot(vectors, 1)).coordinates[:, :20].astype(np.float64)
    timed("hdbscan on 20 principal components", lambda: reference.fit(principal).labels_)
    timed("summary, ten to a bubble", lambda: _bubbles(vectors, options.small // 10, reference))
    try:
        import fast_hdbscan
    except ImportError:
        found["fast_hdbscan"] = "not installed"
    else:
        fast = fast_hdbscan.HDBSCAN(min_cluster_size=least, min_samples=settings.min_samples)
        fast.fit(principal[:500])
        timed("fast_hdbscan on 20 principal components", lambda: fast.fit(principal).labels_)
        timed("fast_hdbscan", lambda: fast.fit(vectors.astype(np.float64)).labels_)
        # Its way for many dimensions: Kruskal over a graph of neighbours by pynndescent.
        cosine = fast_hdbscan.HDBSCAN(
            min_cluster_size=least, min_samples=settings.min_samples, metric="cosine"
        )
        with contextlib.suppress(ImportError):
            timed("fast_hdbscan with pynndescent", lambda: cosine.fit(vectors).labels_)
    for name, label in labels.items():
        found[name]["clusters"] = int(label.max()) + 1
        found[name]["unclustered"] = round(float((label < 0).mean()), 4)
        found[name]["ari_hdbscan"] = round(adjusted_rand_score(labels["hdbscan"], label), 4)
        found[name]["ari_components"] = round(adjusted_rand_score(truth, label), 4)
    return found


def _bubbles(vectors: np.ndarray, count: int, reference: Any) -> np.ndarray:
    """Return labels by clustering the centroids of k-means in place of the vectors."""
    basis = fit_basis(vectors, 160)
    coordinates, _ = basis.project(vectors)
    centroids = fit_cells(coordinates, count)
    cells = assign_cells(coordinates, centroids)
    fewer = type(reference)(min_cluster_size=max(2, reference.min_cluster_size // 10))
    return fewer.fit(centroids.astype(np.float64)).labels_[cells]


def reference_labels(vectors: np.ndarray, min_samples: int, least: int) -> np.ndarray:
    """Return the labels of the `hdbscan` package's hierarchy over an exact spanning tree."""
    from hdbscan._hdbscan_linkage import label as linkage
    from hdbscan.hdbscan_ import _tree_to_labels

    left, right, weights = exact_tree(vectors, min_samples)
    order = np.argsort(weights, kind="stable")
    edges = np.column_stack((left[order], right[order], weights[order])).astype(np.float64)
    return _tree_to_labels(vectors, linkage(edges), min_cluster_size=least)[0]


def exact_tree(vectors: np.ndarray, min_samples: int, width: int = 32) -> tuple[np.ndarray, ...]:
    """Return the minimum spanning tree of mutual reachability, by products of all pairs.

    Boruvka's algorithm: every part takes its shortest way out. A vector whose nearest ``width``
    neighbours tell its own shortest way out, or that it cannot beat its part's, is not looked at;
    for the others all pairs are.
    """
    count = vectors.shape[0]
    squared = np.full((count, width), np.inf, np.float32)
    members = np.full((count, width), -1, np.int32)
    for begin in range(0, count, 512):
        _keep_rows(
            vectors[begin : begin + 512] @ vectors.T,
            begin,
            squared,
            members,
        )
    core = core_squared(Neighbours(members, squared), min_samples)
    part = np.arange(count)
    edges: list[tuple[int, int, float]] = []
    while True:
        roots = np.unique(part, return_inverse=True)[1].astype(np.int32)
        parts = int(roots.max()) + 1
        if parts == 1:
            break
        weight = np.full(count, np.inf, np.float32)
        target = np.full(count, -1, np.int32)
        bound = np.empty(count, np.float32)
        _ways_out(squared, members, core, roots, weight, target, bound)
        shortest = np.full(parts, np.inf, np.float32)
        np.minimum.at(shortest, roots, weight)
        unsure = np.flatnonzero((bound < weight) & (bound < shortest[roots]))
        # The likeliest first: each raises the bar for the rest of its part.
        unsure = unsure[np.argsort(bound[unsure], kind="stable")]
        for begin in range(0, unsure.size, 512):
            rows = unsure[begin : begin + 512]
            rows = rows[bound[rows] < shortest[roots[rows]]]
            if rows.size:
                _scan_rows(vectors[rows] @ vectors.T, rows, core, roots, weight, target)
                np.minimum.at(shortest, roots[rows], weight[rows])
        order = np.lexsort((weight, roots))
        firsts = order[np.searchsorted(roots[order], np.arange(parts))]
        group = np.arange(parts)
        for row in firsts[np.argsort(weight[firsts], kind="stable")]:
            a, b = _root(group, roots[row]), _root(group, roots[target[row]])
            if a != b:
                group[max(a, b)] = min(a, b)
                edges.append((int(row), int(target[row]), float(weight[row])))
        part = np.array([_root(group, one) for one in range(parts)])[roots]
    columns = np.array(edges)
    return columns[:, 0].astype(int), columns[:, 1].astype(int), np.sqrt(columns[:, 2])


def _root(group: np.ndarray, one: int) -> int:
    while group[one] != one:
        group[one] = group[group[one]]
        one = group[one]
    return int(one)


@numba.njit(cache=True)
def _keep_rows(products, begin, squared, members):
    width = squared.shape[1]
    for i in range(products.shape[0]):
        row = begin + i
        for other in range(products.shape[1]):
            distance = max(np.float32(0.0), np.float32(2.0) - np.float32(2.0) * products[i, other])
            if distance < squared[row, width - 1] and other != row:
                place = width - 1
                while place > 0 and squared[row, place - 1] > distance:
                    squared[row, place] = squared[row, place - 1]
                    members[row, place] = members[row, place - 1]
                    place -= 1
                squared[row, place] = distance
                members[row, place] = other


@numba.njit(cache=True)
def _ways_out(squared, members, core, roots, weight, target, bound):
    for row in range(members.shape[0]):
        for place in range(members.shape[1]):
            other = members[row, place]
            if other >= 0 and roots[other] != roots[row]:
                reach = max(squared[row, place], core[row], core[other])
                if reach < weight[row]:
                    weight[row] = reach
                    target[row] = other
        bound[row] = max(core[row], squared[row, members.shape[1] - 1])


@numba.njit(cache=True)
def _scan_rows(products, rows, core, roots, weight, target):
    for i in range(rows.shape[0]):
        row = rows[i]
        for other in range(products.shape[1]):
            if roots[other] == roots[row]:
                continue
            distance = np.float32(2.0) - np.float32(2.0) * products[i, other]
            reach = max(distance, core[row], core[other])
            if reach < weight[row]:
                weight[row] = reach
                target[row] = other


def _exact(options: argparse.Namespace, bars: dict[str, Any]) -> dict[str, Any]:
    from sklearn.metrics import adjusted_rand_score

    vectors, truth = Mixture(options.seed).draw(options.exact)
    settings = ClusterParameters()
    ours = refit(_snapshot(vectors, options.threads)).label
    least = settings.min_cluster_size(options.exact)
    began = time.perf_counter()
    reference = reference_labels(vectors, settings.min_samples, least)
    seconds = time.perf_counter() - began
    ari = round(float(adjusted_rand_score(reference, ours)), 4)
    _bar(bars, "ARI against batch hdbscan on the same window", ari, ">= 0.97", ari >= 0.97)
    return {
        "vectors": options.exact,
        "reference_seconds": round(seconds, 1),
        "clusters": [int(reference.max()) + 1, int(ours.max()) + 1],
        "unclustered": [round(float((x < 0).mean()), 4) for x in (reference, ours)],
        "ari": ari,
        "ari_components": [
            round(float(adjusted_rand_score(truth, x)), 4) for x in (reference, ours)
        ],
    }


# The window


def _window(options: argparse.Namespace, bars: dict[str, Any]) -> dict[str, Any]:
    mixture = Mixture(options.seed)
    vectors, labels = mixture.draw(options.window)
    before = _resident_bytes()
    # A second thread, for the refits that run without end while arrivals are timed.
    with ThreadPoolExecutor(2) as pool:
        profile = ScopeProfile(
            _DIMENSIONS, _parameters(options), lambda snapshot: pool.submit(refit, snapshot)
        )
        began = time.perf_counter()
        profile.rebuild(iter(arrivals_of(vectors, labels, 0)), options.window)
        rebuilt = time.perf_counter() - began
        del vectors
        snapshot = profile.snapshot()
        began = time.perf_counter()
        refit(snapshot)
        full = time.perf_counter() - began
        alone = _thousand(profile, mixture)
        single, beside, overlap = _beside(profile, mixture, pool)
    peak = _peak_bytes() - before
    _bar(bars, "rebuild of the window", round(rebuilt, 1), "< 30 s", rebuilt < 30)
    _bar(bars, "full refit", round(full, 2), "< 10 s", full < 10)
    p99 = round(float(np.quantile(single, 0.99) * 1000), 3)
    _bar(bars, "arrival placed beside a running refit, p99", p99, "< 20 ms", p99 < 20)
    _bar(bars, "1,000 arrivals absorbed", round(alone, 3), "< 0.5 s", alone < 0.5)
    gigabytes = round(peak / 1e9, 2)
    _bar(bars, "memory", gigabytes, "< 2.5 GB", gigabytes < 2.5)
    return {
        "rebuild_seconds": round(rebuilt, 2),
        "refit_seconds": round(full, 2),
        "thousand_arrivals_seconds": round(alone, 3),
        "thousand_arrivals_beside_a_refit_seconds": round(beside, 3),
        "arrival_beside_a_refit_ms": {
            name: round(float(np.quantile(single, q) * 1000), 3)
            for name, q in (("p50", 0.5), ("p99", 0.99), ("p999", 0.999), ("max", 1.0))
        },
        "arrivals_timed_beside_a_refit": overlap,
        "peak_gigabytes_above_the_start": gigabytes,
    }


def _thousand(profile: ScopeProfile, mixture: Mixture) -> float:
    times = []
    for _ in range(3):
        batch = arrivals_of(*mixture.draw(1000), profile.arrivals)
        began = time.perf_counter()
        profile.absorb(batch)
        times.append(time.perf_counter() - began)
    return float(np.median(times))


def _beside(
    profile: ScopeProfile, mixture: Mixture, pool: ThreadPoolExecutor
) -> tuple[np.ndarray, float, int]:
    """Time single arrivals, then a thousand, while refits run in the pool's thread."""
    batch = arrivals_of(*mixture.draw(2000), profile.arrivals)
    snapshot = profile.snapshot()
    stop = threading.Event()

    def refits() -> None:
        while not stop.is_set():
            refit(snapshot)

    running = pool.submit(refits)
    single = []
    for arrival in batch:
        began = time.perf_counter()
        profile.absorb([arrival])
        single.append(time.perf_counter() - began)
        # As they would come: otherwise the first second of a refit is all that is seen.
        time.sleep(0.002)
    thousand = _thousand(profile, mixture)
    stop.set()
    running.result()
    return np.array(single), thousand, len(single)


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# Identity


def _feed(profile: ScopeProfile, mixture: Mixture, count: int) -> Iterator[tuple[Any, Any]]:
    while count > 0:
        vectors, labels = mixture.draw(min(1000, count))
        count -= vectors.shape[0]
        yield profile.absorb(arrivals_of(vectors, labels, profile.arrivals)), labels


def _stationary(options: argparse.Namespace, bars: dict[str, Any]) -> dict[str, Any]:
    mixture = Mixture(options.seed)
    with ThreadPoolExecutor(1) as pool:
        profile = ScopeProfile(
            _DIMENSIONS, _parameters(options), lambda snapshot: pool.submit(refit, snapshot)
        )
        profile.rebuild(iter(arrivals_of(*mixture.draw(options.window), 0)), options.window)
        former = profile.members()
        kept: list[float] = []
        events = 0
        first: dict[str, int | None] = dict(former)
        changed: set[str] = set()
        while len(kept) < options.refits:
            for absorbed, _ in _feed(profile, mixture, 1000):
                for placed in absorbed.placements:
                    if placed.twin is None:
                        first[placed.key] = placed.cluster
                changed.update(move.key for move in absorbed.moves)
                for update in absorbed.updates:
                    changed.update(move.key for move in update.moves)
                    if any(not one.provisional for one in update.clusters) and update.moves:
                        events += len(update.events)
                        now = profile.members()
                        both = [key for key in former if key in now]
                        kept.append(sum(former[key] == now[key] for key in both) / len(both))
                        former = now
    lifelong = 1 - len(changed) / len(first)
    value = round(float(np.mean(kept)), 4)
    _bar(bars, "images that keep their id over a refit", value, ">= 0.98", value >= 0.98)
    value = round(lifelong, 4)
    _bar(
        bars, "images that keep their id for life, over all refits", value, ">= 0.98", value >= 0.98
    )
    return {
        "refits": len(kept),
        "kept_over_a_refit": {
            "mean": round(float(np.mean(kept)), 4),
            "least": round(min(kept), 4),
        },
        "kept_for_life": round(lifelong, 4),
        "images": len(first),
        "events": events,
    }


def _turnover(options: argparse.Namespace, bars: dict[str, Any]) -> dict[str, Any]:
    mixture = Mixture(options.seed)
    with ThreadPoolExecutor(1) as pool:
        profile = ScopeProfile(
            _DIMENSIONS, _parameters(options), lambda snapshot: pool.submit(refit, snapshot)
        )
        profile.rebuild(iter(arrivals_of(*mixture.draw(options.window), 0)), options.window)
        fresh = str(mixture.add_component(0.01))
        seen, needed, by = 0, None, ""
        gone = 5
        leaving = _cluster_of(profile, str(gone))
        mixture.remove_component(gone)
        retired = None
        spent = 0
        while spent < 2 * options.window and (needed is None or retired is None):
            for absorbed, labels in _feed(profile, mixture, 1000):
                for update in absorbed.updates:
                    until = update.arrival - profile.arrivals + len(labels)
                    for event in update.events:
                        mix = next((c for c in update.clusters if c.cluster == event.cluster), None)
                        if needed is None and mix and mix.kinds.get(fresh, 0) > 0.5 * mix.images:
                            needed = seen + int((labels[:until] == int(fresh)).sum())
                            by = "between refits" if mix.provisional else "by a refit"
                        if event.cluster == leaving and event.kind in ("died", "merged"):
                            retired = update.arrival - options.window
                seen += int((labels == int(fresh)).sum())
                spent += len(labels)
    _bar(
        bars,
        "members of a new cluster of 1 % before it is announced",
        needed if needed is not None else -1,
        "<= 300",
        needed is not None and needed <= 300,
    )
    _bar(
        bars,
        "arrivals until a vanished cluster is retired, in windows",
        round(retired / options.window, 2) if retired is not None else -1,
        "<= 1.5",
        retired is not None and retired <= 1.5 * options.window,
    )
    return {"members_until_announced": needed, "announced": by, "retired_after_arrivals": retired}


def _cluster_of(profile: ScopeProfile, kind: str) -> int:
    return max(profile.clusters, key=lambda one: one.kinds.get(kind, 0)).cluster


# Outliers


def _outliers(options: argparse.Namespace, bars: dict[str, Any]) -> dict[str, Any]:
    """Usual images that were held out, another scope's, and some like nothing seen."""
    count = min(options.window, 20_000)
    own, other = Mixture(options.seed), Mixture(options.seed + 1)
    nothing = Mixture(options.seed + 2, components=3)
    references = {
        name: OutlierReference([f"{name}-{i}" for i in range(count)], mixture.draw(count)[0])
        for name, mixture in (("own", own), ("other", other))
    }
    alpha = 0.01
    held_out = own.draw(10_000)[0]
    usual = [references["own"].compare(vector).p_value for vector in held_out]
    rate = float(np.mean([p <= alpha for p in usual]))
    seen = [unlike_everything(v, references).p_value for v in held_out[:2000]]
    foreign = [references["own"].compare(v).p_value <= alpha for v in other.draw(2000)[0]]
    foreign_seen = [unlike_everything(v, references).p_value <= alpha for v in other.draw(2000)[0]]
    novel = [unlike_everything(v, references).p_value <= alpha for v in nothing.draw(2000)[0]]
    profile = ScopeProfile(
        _DIMENSIONS, replace(_parameters(options), limit=count, refit_every=2000, refit_lag=1000)
    )
    rolling: list[bool] = []
    for absorbed, _ in _feed(profile, own, 2 * count):
        rolling.extend(one.outlier for one in absorbed.placements)
    rolled = float(np.mean(rolling[count:]))
    for name, value in (("a reference", rate), ("the rolling window", rolled)):
        _bar(
            bars,
            f"usual images called outliers at 1 %, against {name}",
            round(value, 4),
            "0.005 to 0.02",
            0.005 <= value <= 0.02,
        )
    caught = min(float(np.mean(foreign)), float(np.mean(novel)))
    _bar(bars, "injected images caught", round(caught, 4), ">= 0.95", caught >= 0.95)
    return {
        "reference": count,
        "usual_called_outliers": round(rate, 4),
        "usual_called_outliers_rolling": round(rolled, 4),
        "usual_called_unlike_everything": round(float(np.mean([p <= alpha for p in seen])), 4),
        "of_another_scope_caught_by_the_own": round(float(np.mean(foreign)), 4),
        "of_another_scope_called_unlike_everything": round(float(np.mean(foreign_seen)), 4),
        "of_no_scope_called_unlike_everything": round(float(np.mean(novel)), 4),
    }


# For long


def _long(options: argparse.Namespace, bars: dict[str, Any]) -> dict[str, Any]:
    """Cost of an arrival, in processor time of its own thread, as the stream goes on."""
    mixture = Mixture(options.seed)
    spans: list[list[float]] = []
    sizes: list[float] = []
    with ThreadPoolExecutor(1) as pool:
        profile = ScopeProfile(
            _DIMENSIONS, _parameters(options), lambda snapshot: pool.submit(refit, snapshot)
        )
        profile.rebuild(iter(arrivals_of(*mixture.draw(options.window), 0)), options.window)
        steps = 10
        for _ in range(steps):
            spent: list[float] = []
            for _ in range(options.arrivals // steps // 1000):
                batch = arrivals_of(*mixture.draw(1000), profile.arrivals)
                if profile.until_wait is not None and profile.until_wait < len(batch):
                    pending = profile.waits_for or profile.pending
                    if pending is not None:
                        pending.result()
                began = time.thread_time()
                profile.absorb(batch)
                spent.append(time.thread_time() - began)
            spans.append(spent)
            sizes.append(round(_resident_bytes() / 1e9, 2))
            _console.print(
                f"{profile.arrivals} arrivals, {np.mean(spent):.3f} ms each, {sizes[-1]} GB"
            )
    costs = [round(float(np.mean(span)), 4) for span in spans]
    growth = round(float(np.mean(costs[-3:]) / np.mean(costs[:3])), 3)
    _bar(bars, "cost of the last arrivals over the first", growth, "<= 1.1", growth <= 1.1)
    return {
        "arrivals": options.arrivals,
        "cpu_ms_per_arrival_by_tenth": costs,
        "resident_gigabytes_by_tenth": sizes,
        "growth": growth,
    }
