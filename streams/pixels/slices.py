"""Rules that choose the one slice, frame or page that stands for a file."""

from __future__ import annotations

from typing import Literal, get_args

SliceStrategy = Literal["middle", "first"]
SLICE_STRATEGIES: tuple[str, ...] = get_args(SliceStrategy)


def choose_index(strategy: SliceStrategy, count: int) -> int:
    """Return the zero-based index of the chosen slice.

    "middle" is the default everywhere: the ends of a volume or a cine are where there is nothing
    to see (air above the head, before the contrast), and it needs no look at the pixels.

    Parameters
    ----------
    strategy
        "middle" (``count // 2``) or "first".
    count
        Slices there are, at least 1.
    """
    return 0 if strategy == "first" else count // 2
