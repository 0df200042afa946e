"""Memory and CPU of the process groups of a stack."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import psutil


@dataclass(frozen=True)
class Usage:
    """What a process group uses.

    Parameters
    ----------
    rss_bytes : int
        Resident memory, summed over its processes (shared pages count once for each).
    cpu_percent : float
        CPU since the last sample; 100 is one core.
    """

    rss_bytes: int = 0
    cpu_percent: float = 0.0


class UsageMeter:
    """Samples process groups, keeping what CPU percentages are differences of."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, float], float] = {}  # (pid, creation time) to CPU seconds
        self._sampled_at = time.monotonic()

    def sample(self, groups: Iterable[int]) -> dict[int, Usage]:
        """Measure.

        Parameters
        ----------
        groups : iterable of int
            Process group ids; only descendants of this process are looked at.

        Returns
        -------
        dict of int to Usage
            By group.
        """
        wanted = set(groups)
        now = time.monotonic()
        elapsed = max(now - self._sampled_at, 1e-3)
        rss: dict[int, int] = defaultdict(int)
        cpu: dict[int, float] = defaultdict(float)
        seen: dict[tuple[int, float], float] = {}
        for process in psutil.Process().children(recursive=True) if wanted else []:
            try:
                group = os.getpgid(process.pid)
                if group not in wanted:
                    continue
                with process.oneshot():
                    times = process.cpu_times()
                    rss[group] += process.memory_info().rss
                    key = (process.pid, process.create_time())
            except (psutil.Error, ProcessLookupError):
                continue
            seen[key] = times.user + times.system
            # A process first seen now has used all its CPU seconds since the last sample.
            cpu[group] += seen[key] - self._seen.get(key, 0.0)
        self._seen, self._sampled_at = seen, now
        return {
            group: Usage(rss_bytes=rss[group], cpu_percent=100.0 * cpu[group] / elapsed)
            for group in wanted
        }
