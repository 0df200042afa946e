"""Waiting out a service: exponential backoff with jitter, in place, as long as it takes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass


class ServiceFaultError(Exception):
    """A service that a stage needs is away; the batch waits and is tried again.

    Parameters
    ----------
    service : str
        Which one: ``clickhouse``, ``triton``, ``kafka``, ``blobs``.
    detail : str
        What it said.
    """

    def __init__(self, service: str, detail: str) -> None:
        super().__init__(f"{service}: {detail}")
        self.service = service
        self.detail = detail


@dataclass(frozen=True)
class Backoff:
    """How long to wait between attempts.

    Parameters
    ----------
    initial_seconds : float
        Upper bound of the first wait.
    max_seconds : float
        Upper bound of all later ones.
    factor : float
        Growth from one to the next.
    """

    initial_seconds: float = 0.2
    max_seconds: float = 15.0
    factor: float = 2.0

    def waits(self, chance: random.Random) -> Iterator[float]:
        """Yield the waits, in seconds, without end.

        Each lies between half its bound and its bound, so that many workers that lost the same
        service do not come back at the same instant.
        """
        bound = self.initial_seconds
        while True:
            yield bound * (0.5 + chance.random() / 2)
            bound = min(bound * self.factor, self.max_seconds)
