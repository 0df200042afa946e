"""Folds that keep a source together: images of one source are alike in more than what they show."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def folds_by_source(
    families: Sequence[str], sources: Sequence[str], count: int, seed: int = 0
) -> NDArray[np.intp]:
    """Deal sources into folds so that families spread evenly.

    Parameters
    ----------
    families, sources : sequence of str
        Of every file.
    count : int
        Folds.
    seed : int
        Of the order among sources of one size.

    Returns
    -------
    ndarray
        intp ``[N]``: the fold of every file; files of one source share theirs.

    Raises
    ------
    ValueError
        There are fewer sources than folds.
    """
    unique = sorted(set(sources))
    if len(unique) < count:
        raise ValueError(f"{count} folds need as many sources; there are {len(unique)}")
    names = sorted(set(families))
    held = np.zeros((len(unique), len(names)))
    place = {source: index for index, source in enumerate(unique)}
    for family, source in zip(families, sources, strict=True):
        held[place[source], names.index(family)] += 1
    share = held / held.sum(axis=0, keepdims=True)
    order = np.random.default_rng(seed).permutation(len(unique))
    order = order[np.argsort(-share[order].max(axis=1), kind="stable")]
    fold_of = np.zeros(len(unique), np.intp)
    load = np.zeros((count, len(names)))
    dealt = np.zeros(count)
    for source in order:
        # Where this source's families are rarest so far; among equals, the emptiest fold.
        cost = load @ share[source] + 1e-3 * dealt
        fold = int(np.argmin(cost))
        fold_of[source] = fold
        load[fold] += share[source]
        dealt[fold] += held[source].sum() / held.sum()
    return fold_of[[place[source] for source in sources]]
