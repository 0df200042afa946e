"""What a supervised service is, and what may be known of it."""

from __future__ import annotations

import enum
import signal
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from deploy.embedded.errors import StackError

Action = Callable[[], Awaitable[None]]
ReadyCheck = Callable[[], Awaitable["str | None"]]
"""Returns None when the service is ready, else why it is not."""
LiveCheck = Callable[[int], Awaitable["str | None"]]
"""Given the process id, returns None while the service works, else what is wrong with it."""
Gate = Callable[[], Awaitable[bool]]


@dataclass(frozen=True)
class Liveness:
    """How a service that runs is known to work.

    Parameters
    ----------
    check : callable
        Asked as soon as the service is ready, and then in each interval.
    interval_seconds, timeout_seconds : float
        Between two questions, and how long one may take; a late or failing check is a fault too.
    max_faults : int
        Faults in a row at which the service counts as dead.
    """

    check: LiveCheck
    interval_seconds: float = 2.0
    timeout_seconds: float = 5.0
    max_faults: int = 3


@dataclass(frozen=True)
class RestartPolicy:
    """When a dead service is started again, and when the stack gives up.

    Parameters
    ----------
    max_restarts : int
        Restarts allowed within the window, and starts allowed in a row that never became ready.
    window_seconds : float
        Length of the window.
    backoff_seconds, backoff_max_seconds : float
        First wait before a restart, doubled each time in the window, and the longest one.
    """

    max_restarts: int = 5
    window_seconds: float = 60.0
    backoff_seconds: float = 0.25
    backoff_max_seconds: float = 5.0


class RestartBudget:
    """Counts the deaths of one service against its policy. Time is passed in."""

    def __init__(self, policy: RestartPolicy) -> None:
        self._policy = policy
        self._deaths: deque[float] = deque()
        self._in_vain = 0

    def became_ready(self) -> None:
        """Forget the starts that came to nothing."""
        self._in_vain = 0

    def died(self, now: float) -> float | None:
        """Count a death.

        Parameters
        ----------
        now : float
            Seconds on a monotonic clock.

        Returns
        -------
        float or None
            Seconds to wait before the next start; None to give up.
        """
        policy = self._policy
        self._deaths.append(now)
        self._in_vain += 1
        while self._deaths[0] < now - policy.window_seconds:
            self._deaths.popleft()
        # A service that takes longer than the window to fail to become ready would never fill it.
        deaths = max(len(self._deaths), self._in_vain)
        if deaths > policy.max_restarts:
            return None
        return min(policy.backoff_seconds * 2.0 ** (deaths - 1), policy.backoff_max_seconds)


@dataclass(frozen=True)
class ServiceSpec:
    """One process to supervise.

    Parameters
    ----------
    name : str
        Unique; also the name of its log.
    argv : tuple of str
        Command.
    env : mapping
        Its whole environment.
    cwd : Path, optional
        Working folder.
    address : str
        Where people find it, for display.
    depends_on : tuple of str
        Services that are ready before this one starts, and outlive it when the stack stops.
    before_start, after_ready : callable, optional
        Awaited before each start, and each time that it becomes ready, before its dependents start.
    ready : callable, optional
        Asked until it returns None; without one, running is being ready.
    ready_timeout_seconds : float
        A start that takes longer counts as a death; it includes `after_ready`.
    liveness : Liveness, optional
        Asked while it is ready; without one, running is being alive.
    restart : RestartPolicy
        How often it may die.
    restart_dependents : tuple of str
        Services to restart with it, since what they know is gone with it.
    recycle_above_rss_bytes : int, optional
        Resident memory above which it is restarted as soon as `recycle_when` returns true; above
        eight times as much it is restarted in any case.
    recycle_when : callable, optional
        Whether a restart would harm nobody now; without one it is never recycled.
    stop_signal, stop_grace_seconds : signal, float
        How it is asked to stop, and how long before its process group is killed.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path | None = None
    address: str = ""
    depends_on: tuple[str, ...] = ()
    before_start: Action | None = None
    ready: ReadyCheck | None = None
    after_ready: Action | None = None
    ready_timeout_seconds: float = 60.0
    liveness: Liveness | None = None
    restart: RestartPolicy = field(default_factory=RestartPolicy)
    restart_dependents: tuple[str, ...] = ()
    recycle_above_rss_bytes: int | None = None
    recycle_when: Gate | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    stop_grace_seconds: float = 10.0


class ServiceState(str, enum.Enum):
    """Where a service is in its life."""

    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True)
class ServiceStatus:
    """What a status table shows of one service.

    Parameters
    ----------
    name, address : str
        Which, and where.
    state : ServiceState
        Where it is in its life.
    since : datetime
        When it entered the state, UTC.
    pid : int, optional
        Process id while it runs.
    restarts : int
        How often it was started again.
    last_error : str
        Why it last died or is not ready yet.
    rss_bytes, cpu_percent : int, float
        Resident memory and CPU (100 is one core) of its whole process group.
    """

    name: str
    state: ServiceState
    address: str
    since: datetime
    pid: int | None = None
    restarts: int = 0
    last_error: str = ""
    rss_bytes: int = 0
    cpu_percent: float = 0.0


def start_levels(specs: Iterable[ServiceSpec]) -> list[list[str]]:
    """Group services so that each depends only on those of earlier groups.

    Parameters
    ----------
    specs : iterable of ServiceSpec
        Services; all that they depend on are among them.

    Returns
    -------
    list of list of str
        Names, to start group after group and to stop in reverse.

    Raises
    ------
    StackError
        On a name given twice, an unknown dependency or a cycle.
    """
    pending = {}
    for spec in specs:
        if spec.name in pending:
            msg = f"two services are named {spec.name}"
            raise StackError(msg)
        pending[spec.name] = spec
    known = set(pending)
    for spec in pending.values():
        for other in (*spec.depends_on, *spec.restart_dependents):
            if other not in known:
                msg = f"{spec.name} refers to {other}, which is not a service of this stack"
                raise StackError(msg)
    levels: list[list[str]] = []
    done: set[str] = set()
    while pending:
        level = [name for name, spec in pending.items() if done.issuperset(spec.depends_on)]
        if not level:
            msg = f"these services wait for each other: {', '.join(pending)}"
            raise StackError(msg)
        levels.append(level)
        done.update(level)
        for name in level:
            del pending[name]
    return levels
