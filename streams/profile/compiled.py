"""Functions compiled to machine code by numba, with their Python types kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Return ``function`` compiled at its first call; the code is cached on disk.

    It runs without Python's lock, so that a refit in one thread does not hold up arrivals in
    another. Sums may be reassociated, for vector instructions, but the order is fixed when the
    code is compiled: a row's result does not depend on the rows beside it, as it would with a
    matrix product. Infinities are honoured.
    """
    fast = {"reassoc", "contract", "nsz", "arcp"}
    try:
        made = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=fast)(function)
    except RuntimeError:
        # A file system that can only be read, and no home: compile in every process anew. Set
        # NUMBA_CACHE_DIR to a folder that can be written to spare that.
        made = numba.njit(nogil=True, error_model="numpy", fastmath=fast)(function)
    return cast(Function, made)


@compiled
def dot(left: Any, right: Any) -> Any:
    """Return the inner product of two float32 vectors, in float32."""
    total = left[0] * right[0]
    for i in range(1, left.shape[0]):
        total += left[i] * right[i]
    return total


@compiled
def squared_distance(left: Any, right: Any) -> Any:
    """Return the squared Euclidean distance of two float32 vectors, in float32."""
    first = left[0] - right[0]
    total = first * first
    for i in range(1, left.shape[0]):
        delta = left[i] - right[i]
        total += delta * delta
    return total


@compiled
def keep_nearest(distances: Any, members: Any, distance: Any, member: Any) -> None:
    """Insert into an ascending list of fixed length; what is no nearer than its last is dropped.

    Parameters
    ----------
    distances, members
        float32 and int32, shape (K,); changed in place. Free places hold infinity and -1.
    distance, member
        What is offered. Of equals, the one that came first stays first.
    """
    place = distances.shape[0] - 1
    if not distance < distances[place]:
        return
    while place > 0 and distances[place - 1] > distance:
        distances[place] = distances[place - 1]
        members[place] = members[place - 1]
        place -= 1
    distances[place] = distance
    members[place] = member
