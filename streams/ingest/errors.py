"""How fetching and unpacking end when they do not succeed."""

from __future__ import annotations


class IngestError(Exception):
    """A request, or one member of an archive, that cannot be served.

    Parameters
    ----------
    reason : str
        Short stable code; it becomes the dead letter's reason.
    detail : str
        What is wrong and what to do; nothing of a secret and no value of a file.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class LimitError(IngestError):
    """Ends the whole request, whatever member is being read: a bound, or a fault of the source."""


class SourceAwayError(Exception):
    """The other side does not serve now; trying again may heal it.

    Parameters
    ----------
    detail : str
        What it said.
    retry_after_seconds : float or None
        How long it asked to be left alone.
    """

    def __init__(self, detail: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after_seconds = retry_after_seconds


class SourceChangedError(Exception):
    """What stands under the URL is not what an earlier attempt began to read."""
