"""When to refuse, and when to take again: full disks and full queues, before they hurt.

Refusing begins at one mark and ends at another, so that a gateway at the edge does not change its
mind with every instance.
"""

from __future__ import annotations

from dataclasses import dataclass

_RESUME_SHARE = 0.8


@dataclass(frozen=True)
class Load:
    """How full everything is.

    Parameters
    ----------
    free_bytes : int
        On the disk where instances arrive, for a process that is not root.
    inbox_bytes : int
        Durable, and not yet in ledger and blob store.
    outbox_records : int
        In the ledger, and not yet acknowledged by the log.
    """

    free_bytes: int
    inbox_bytes: int
    outbox_records: int


@dataclass(frozen=True)
class Watermarks:
    """How full it may become.

    Parameters
    ----------
    min_free_bytes, resume_free_bytes : int
        Free space from which on instances are refused, and taken again.
    max_inbox_bytes, max_outbox_records : int
        What may wait; taken again at 80 % of it.
    """

    min_free_bytes: int
    resume_free_bytes: int
    max_inbox_bytes: int
    max_outbox_records: int

    def pressure(self, load: Load, *, is_refusing: bool) -> str:
        """Say why instances are refused; '' if they are not.

        Parameters
        ----------
        load : Load
            How it is now.
        is_refusing : bool
            Whether they were until now.

        Returns
        -------
        str
            For the sender's log: at most 64 characters, as an Error Comment has.
        """
        share = _RESUME_SHARE if is_refusing else 1.0
        least = max(self.min_free_bytes, self.resume_free_bytes if is_refusing else 0)
        if load.free_bytes < least:
            return "the gateway's disk is full; send again later"
        if load.inbox_bytes >= share * self.max_inbox_bytes:
            return "the gateway's inbox is full; send again later"
        if load.outbox_records >= share * self.max_outbox_records:
            return "the gateway's outbox is full; send again later"
        return ""
