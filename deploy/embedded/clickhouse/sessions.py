"""HTTP sessions: a connection that outlives its request, used by one request at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from deploy.embedded.clickhouse.engine import Connection
from deploy.embedded.clickhouse.errors import ServerError

DEFAULT_TIMEOUT_SECONDS = 60.0
MAX_TIMEOUT_SECONDS = 3600.0


@dataclass
class Session:
    """A named connection with what it must remember between requests.

    Attributes
    ----------
    baseline : dict
        The session's own values (None: default) of settings that requests overrode in their URL;
        forgotten when the session itself runs SET.
    """

    name: str
    connection: Connection
    timeout_seconds: float
    expires_at: float = 0.0
    busy: bool = True
    baseline: dict[str, str | None] = field(default_factory=dict)


class Sessions:
    """The sessions of one server. Called on the event loop only; connecting takes 0.1 ms.

    Parameters
    ----------
    connect : callable
        Returns a new connection.
    clock : callable
        Returns monotonic seconds.
    limit : int
        How many sessions may exist at a time.
    """

    def __init__(
        self, connect: Callable[[], Connection], clock: Callable[[], float], limit: int = 256
    ) -> None:
        self._connect = connect
        self._clock = clock
        self._limit = limit
        self._sessions: dict[str, Session] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def acquire(self, name: str, timeout_seconds: float, must_exist: bool) -> Session:
        """Return the session `name`, locked for one request; made when new.

        Raises
        ------
        ServerError
            372 when it must exist and does not, 373 while another request uses it, 202 when there
            are too many.
        """
        self.expire()
        session = self._sessions.get(name)
        if session is not None:
            if session.busy:
                raise ServerError(373, f"Session {name} is locked by a concurrent client")
            session.busy = True
            session.timeout_seconds = timeout_seconds
            return session
        if must_exist:
            raise ServerError(372, f"Session {name} not found")
        if len(self._sessions) >= self._limit:
            raise ServerError(
                202, f"Too many sessions: {self._limit} are open. Close or reuse some"
            )
        session = Session(name, self._connect(), timeout_seconds)
        self._sessions[name] = session
        return session

    def release(self, session: Session, close: bool = False) -> None:
        """Unlock a session, or end it."""
        session.busy = False
        session.expires_at = self._clock() + session.timeout_seconds
        if close:
            self._drop(session)

    def expire(self) -> None:
        """End the sessions that nobody used for their timeout."""
        now = self._clock()
        for session in [s for s in self._sessions.values() if not s.busy and s.expires_at <= now]:
            self._drop(session)

    def close(self) -> None:
        """End every session that is idle."""
        for session in [s for s in self._sessions.values() if not s.busy]:
            self._drop(session)

    def _drop(self, session: Session) -> None:
        del self._sessions[session.name]
        session.connection.close()
