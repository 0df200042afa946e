"""What /healthz answers: which stage waits for which service, and since when."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from streams.runtime.clock import Clock


@dataclass(frozen=True)
class Fault:
    """A fault that a stage waits out.

    Parameters
    ----------
    stage : str
        Who waits.
    reason : str
        For what, in words.
    since : datetime
        Since when.
    permanent : bool
        Whether only a person can end it.
    """

    stage: str
    reason: str
    since: datetime
    permanent: bool = False


class Health:
    """The state of a worker.

    Parameters
    ----------
    clock : Clock
        The present.
    unhealthy_after_seconds : float
        How long a fault may last before the worker calls itself unhealthy.
    """

    def __init__(self, clock: Clock, *, unhealthy_after_seconds: float) -> None:
        self._clock = clock
        self._unhealthy_after_seconds = unhealthy_after_seconds
        self._faults: dict[str, Fault] = {}
        self.ready = False

    def fault(self, stage: str, reason: str, *, permanent: bool = False) -> float:
        """Note that a stage waits; return for how many seconds it has."""
        known = self._faults.get(stage)
        since = known.since if known else self._clock()
        self._faults[stage] = Fault(stage, reason, since, permanent)
        return (self._clock() - since).total_seconds()

    def clear(self, stage: str) -> bool:
        """Note that a stage works again; return whether it had not."""
        return self._faults.pop(stage, None) is not None

    def faults(self) -> tuple[Fault, ...]:
        """Faults that last, longest first."""
        now = self._clock()
        lasting = (
            fault
            for fault in self._faults.values()
            if fault.permanent
            or (now - fault.since).total_seconds() >= self._unhealthy_after_seconds
        )
        return tuple(sorted(lasting, key=lambda fault: fault.since))

    def report(self) -> tuple[bool, dict[str, object]]:
        """Whether the worker is healthy, and a JSON object that says why not."""
        now = self._clock()
        faults = self.faults()
        return self.ready and not faults, {
            "ready": self.ready,
            "faults": [
                {
                    "stage": fault.stage,
                    "reason": fault.reason,
                    "since": fault.since.isoformat(),
                    "seconds": round((now - fault.since).total_seconds(), 1),
                    "permanent": fault.permanent,
                }
                for fault in faults
            ],
        }
