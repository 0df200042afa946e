"""Requests for commitment that wait for their report: in the ledger's file, lest one be lost."""

from __future__ import annotations

import sqlite3
import zlib
from dataclasses import dataclass

import orjson

from dicom_gateway.commitment.judge import FailureReason
from dicom_gateway.commitment.request import (
    CommitmentRequest,
    Reference,
    ResourceLimitationError,
)
from dicom_gateway.ledger.outbox import Outbox


@dataclass(frozen=True)
class Requester:
    """Who asks for commitment, and whom it asked.

    Parameters
    ----------
    ae_title : str
        Calling AE title: to it the report goes.
    own_ae_title : str
        Called AE title: from it the report comes.
    tenant : str
        Whose instances it may ask for.
    association_id : str
        Name of the association in the logs.
    """

    ae_title: str
    own_ae_title: str
    tenant: str
    association_id: str = ""


@dataclass(frozen=True)
class WaitingRequest:
    """A request that was accepted and not yet reported.

    ``received_at_seconds`` is since the epoch; ``refused_as`` answers every reference with one
    reason instead of looking it up.
    """

    request_id: int
    requester: Requester
    received_at_seconds: float
    refused_as: FailureReason | None
    request: CommitmentRequest


class CommitmentLedger:
    """The table of waiting requests.

    Parameters
    ----------
    outbox : Outbox
        In whose file it lies.
    max_requests, max_references : int
        How much may wait at the same time.
    """

    def __init__(
        self, outbox: Outbox, *, max_requests: int = 1000, max_references: int = 1_000_000
    ) -> None:
        self._outbox = outbox
        self._max_requests = max_requests
        self._max_references = max_references

    def add(self, request: CommitmentRequest, requester: Requester, now_seconds: float) -> int:
        """Keep a request; return its id when it is on disk.

        The same request of the same peer again is the one that waits. Another under a Transaction
        UID in use is kept as well, to be reported as a duplicate.

        Raises
        ------
        ResourceLimitationError
            If too much waits.
        OutboxError
            If it could not be made durable.
        """
        packed = _pack(request)

        def run(connection: sqlite3.Connection) -> int:
            same_uid = connection.execute(
                "SELECT id, tenant, peer_ae_title, own_ae_title, request FROM commitment"
                " WHERE transaction_uid=? AND refused_as IS NULL",
                (request.transaction_uid,),
            ).fetchall()
            who = (requester.tenant, requester.ae_title, requester.own_ae_title)
            for row in same_uid:
                if row[1:] == (*who, packed):
                    return int(row[0])
            requests, references = connection.execute(
                "SELECT count(*), coalesce(sum(reference_count), 0) FROM commitment"
            ).fetchone()
            if (
                requests >= self._max_requests
                or references + len(request.references) > self._max_references
            ):
                raise ResourceLimitationError("too many requests wait for their report")
            cursor = connection.execute(
                "INSERT INTO commitment (transaction_uid, tenant, peer_ae_title, own_ae_title,"
                " received_at, reference_count, refused_as, request)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    request.transaction_uid,
                    *who,
                    now_seconds,
                    len(request.references),
                    int(FailureReason.DUPLICATE) if same_uid else None,
                    packed,
                ),
            )
            return int(cursor.lastrowid or 0)

        return self._outbox.transact(run).result()

    def waiting(self) -> dict[int, float]:
        """Ids of all waiting requests, oldest first, and when each came (seconds since epoch)."""
        rows = self._outbox.query("SELECT id, received_at FROM commitment ORDER BY id", ())
        return dict(rows)

    def get(self, request_id: int) -> WaitingRequest | None:
        """Read a waiting request; None when it is reported already."""
        rows = self._outbox.query(
            "SELECT peer_ae_title, own_ae_title, tenant, received_at, refused_as, transaction_uid,"
            " request FROM commitment WHERE id=?",
            (request_id,),
        )
        if not rows:
            return None
        peer, own, tenant, received_at, refused_as, transaction_uid, packed = rows[0]
        return WaitingRequest(
            request_id,
            Requester(peer, own, tenant),
            received_at,
            None if refused_as is None else FailureReason(refused_as),
            CommitmentRequest(transaction_uid, _unpack(packed)),
        )

    def remove(self, request_id: int) -> None:
        """Forget a request that is reported or given up; returns when that is on disk."""
        self._outbox.transact(
            lambda connection: connection.execute(
                "DELETE FROM commitment WHERE id=?", (request_id,)
            )
        ).result()


def _pack(request: CommitmentRequest) -> bytes:
    # Lists of instances of one series differ in few digits: a tenth of the bytes is left.
    return zlib.compress(orjson.dumps([list(one) for one in request.references]), 1)


def _unpack(packed: bytes) -> tuple[Reference, ...]:
    return tuple(Reference(*one) for one in orjson.loads(zlib.decompress(packed)))
