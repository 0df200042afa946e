"""Storage commitment: takes requests, keeps them, decides, and reports (PS3.4 annex J).

An N-ACTION is answered with Success when the request is on disk. One thread then decides each
request against the ledger and the blob store and sends its report: first over the association that
asked, as long as that lives, then over associations of ours to the configured address, again and
again at growing intervals. A restart continues where the process ended.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge
from pydicom import Dataset

from dicom_gateway.commitment.judge import (
    CommitmentResult,
    FailureReason,
    judge,
    refuse_all,
    report_of,
)
from dicom_gateway.commitment.ledger import CommitmentLedger, Requester, WaitingRequest
from dicom_gateway.commitment.request import (
    PROCESSING_FAILURE,
    ActionRefusedError,
    CommitmentRequest,
    parse_action,
)
from dicom_gateway.commitment.scu import CommitmentPeer, DeliveryError, deliver
from dicom_gateway.ledger.outbox import HeldInstance, Outbox, OutboxError
from streams.storage.blobs import BlobStore

Reply: TypeAlias = Callable[[int, Dataset], bool]
"""Sends a report over the association that asked; False when it is gone or does not answer."""

Deliver: TypeAlias = Callable[[CommitmentPeer, str, int, Dataset], None]

SUCCESS = 0x0000

_LOOKUPS_AT_ONCE = 16
_ERROR_SECONDS = 5.0

_log = structlog.get_logger("dicom_gateway")


@dataclass(frozen=True)
class CommitmentPolicy:
    """Times of the service.

    Parameters
    ----------
    settle_seconds : float
        For how long an instance that is not held yet is waited for: it may have been acknowledged
        an instant ago and be on its way into the ledger.
    settle_interval_seconds : float
        How often it is looked for meanwhile.
    first_retry_seconds, longest_retry_seconds : float
        Interval before the second attempt to deliver a report, and its bound; it doubles.
    give_up_seconds : float
        After this time since the request its report is dropped, and the log says so.
    retrieve_ae_title : str
        Where what is committed can be retrieved; empty says nothing.
    """

    settle_seconds: float = 5.0
    settle_interval_seconds: float = 0.25
    first_retry_seconds: float = 5.0
    longest_retry_seconds: float = 1800.0
    give_up_seconds: float = 86_400.0
    retrieve_ae_title: str = ""


@dataclass
class _Job:
    """What is known of a waiting request beyond its row."""

    received_at: float
    due_at: float
    reply: Reply | None = None


@dataclass
class _Away:
    """A receiver that could not be reached: how often, and until when it is left alone."""

    attempts: int = 0
    until: float = 0.0


class CommitmentService:
    """Answers requests for storage commitment.

    Parameters
    ----------
    outbox : Outbox
        The ledger, and where waiting requests are kept.
    store : BlobStore
        The files.
    find_peer : callable
        Returns where the reports to a requester go, or None; asked anew for each attempt.
    clock : callable
        Returns the present, UTC.
    policy : CommitmentPolicy, optional
        Times.
    ledger : CommitmentLedger, optional
        With other bounds than the usual.
    send : callable, optional
        Delivers a report over a new association; raises DeliveryError.
    registry : CollectorRegistry, optional
        Where its metrics are shown.
    """

    def __init__(
        self,
        outbox: Outbox,
        store: BlobStore,
        *,
        find_peer: Callable[[Requester], CommitmentPeer | None],
        clock: Callable[[], datetime],
        policy: CommitmentPolicy | None = None,
        ledger: CommitmentLedger | None = None,
        send: Deliver = deliver,
        registry: CollectorRegistry | None = None,
    ) -> None:
        self._outbox = outbox
        self._store = store
        self._find_peer = find_peer
        self._clock = clock
        self._policy = policy or CommitmentPolicy()
        self._ledger = ledger or CommitmentLedger(outbox)
        self._send = send
        registry = registry or CollectorRegistry()
        self._actions = Counter(
            "biodatamine_gateway_commitment_actions",
            "N-ACTION responses by DICOM status",
            ["status"],
            registry=registry,
        )
        self._reports = Counter(
            "biodatamine_gateway_commitment_reports",
            "Reports by what became of them: same-association, new-association, given-up",
            ["outcome"],
            registry=registry,
        )
        self._references = Counter(
            "biodatamine_gateway_commitment_references",
            "Instances in delivered reports: committed, or the reason why not",
            ["result"],
            registry=registry,
        )
        waiting = Gauge(
            "biodatamine_gateway_commitment_waiting",
            "Requests that wait for their report",
            registry=registry,
        )
        waiting.set_function(lambda: self.waiting)
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopped = False
        now = self._now()
        self._jobs = {
            request_id: _Job(received_at, now)
            for request_id, received_at in self._ledger.waiting().items()
        }
        # So that many requests of one peer that is away do not hold up the others.
        self._away: dict[tuple[str, str], _Away] = {}
        self._thread = threading.Thread(target=self._run, name="commitment", daemon=True)

    def start(self) -> None:
        """Begin to report, what an earlier process left included."""
        self._thread.start()

    def stop(self, timeout_seconds: float) -> None:
        """End after the report that is being sent; what waits stays on disk."""
        self._stopped = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)

    @property
    def is_running(self) -> bool:
        """Whether its thread lives."""
        return self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """How many requests wait for their report."""
        with self._lock:
            return len(self._jobs)

    def wake(self) -> None:
        """Look again what is due, after a clock that is not the wall's was moved."""
        self._wake.set()

    # ---- the association's side

    def handle_action(
        self,
        *,
        sop_class_uid: str,
        sop_instance_uid: str,
        action_type: int | None,
        dataset: bytes,
        transfer_syntax_uid: str,
        requester: Requester,
        reply: Reply | None = None,
    ) -> int:
        """Answer an N-ACTION; never raises.

        Parameters
        ----------
        sop_class_uid, sop_instance_uid, action_type : str, str, int or None
            Requested SOP Class UID, Requested SOP Instance UID and Action Type ID of the command.
        dataset : bytes
            Action Information as received.
        transfer_syntax_uid : str
            Negotiated for the presentation context.
        requester : Requester
            Who asks.
        reply : callable, optional
            Sends the report over this association; called from another thread, perhaps before the
            response to the N-ACTION is sent: it has to wait for that.

        Returns
        -------
        int
            Status of the response, see ``dicom_gateway.commitment.request``.
        """
        try:
            request = parse_action(
                sop_class_uid=sop_class_uid,
                sop_instance_uid=sop_instance_uid,
                action_type=action_type,
                dataset=dataset,
                transfer_syntax_uid=transfer_syntax_uid,
            )
            self.submit(request, requester, reply)
        except Exception as error:  # noqa: BLE001 (every error has a status)
            refused = isinstance(error, ActionRefusedError)
            status = error.status if isinstance(error, ActionRefusedError) else PROCESSING_FAILURE
            self._actions.labels(f"0x{status:04X}").inc()
            _log.warning(
                "commitment-refused",
                association_id=requester.association_id,
                status=f"0x{status:04X}",
                reason=error.reason if isinstance(error, ActionRefusedError) else "failure",
                error=str(error) if refused or isinstance(error, OSError) else type(error).__name__,
            )
            return status
        self._actions.labels("0x0000").inc()
        return SUCCESS

    def submit(
        self, request: CommitmentRequest, requester: Requester, reply: Reply | None = None
    ) -> int:
        """Keep a request; return its id when it is on disk.

        Raises
        ------
        ResourceLimitationError
            If too many wait.
        OutboxError
            If it could not be made durable.
        """
        now = self._now()
        request_id = self._ledger.add(request, requester, now)
        with self._lock:
            job = self._jobs.setdefault(request_id, _Job(now, now))
            job.due_at = now
            job.reply = reply or job.reply
        _log.info(
            "commitment-requested",
            association_id=requester.association_id,
            transaction_uid=request.transaction_uid,
            references=len(request.references),
        )
        self._wake.set()
        return request_id

    # ---- the thread's side

    def run_due(self) -> float | None:
        """Work on each request that is due; return the seconds until the next is, None without one.

        The service's thread calls it; a test without that thread may.
        """
        for request_id in self._due():
            if self._stopped:
                break
            with self._lock:
                job = self._jobs[request_id]
            self._work(request_id, job)
        with self._lock:
            dues = [job.due_at for job in self._jobs.values()]
        return max(0.0, min(dues) - self._now()) if dues else None

    def _due(self) -> list[int]:
        now = self._now()
        with self._lock:
            return [request_id for request_id, job in self._jobs.items() if job.due_at <= now]

    def _run(self) -> None:
        while not self._stopped:
            self._wake.clear()
            try:
                pause = self.run_due()
            except Exception as error:  # noqa: BLE001 (the thread has to outlive any request)
                _log.error("commitment-fault", error=type(error).__name__, exc_info=True)
                pause = _ERROR_SECONDS
            self._wake.wait(pause)

    def _work(self, request_id: int, job: _Job) -> None:
        try:
            waiting = self._ledger.get(request_id)
            if waiting is None:
                self._forget(request_id)
                return
            result = self._decide(waiting)
        except OutboxError as error:
            _log.error("commitment-ledger-fails", error=str(error))
            job.due_at = self._now() + _ERROR_SECONDS
            return
        now = self._now()
        if result.failed and self._may_settle(result, now - job.received_at):
            job.due_at = now + self._policy.settle_interval_seconds
            return
        report = report_of(result, retrieve_ae_title=self._policy.retrieve_ae_title)
        over = self._report(waiting, job, result.event_type, report)
        now = self._now()
        if over is not None:
            self._finish(waiting, result, over)
        elif now - job.received_at >= self._policy.give_up_seconds:
            self._finish(waiting, result, "given-up")
        else:
            job.due_at = self._away[_pair(waiting.requester)].until

    def _may_settle(self, result: CommitmentResult, age_seconds: float) -> bool:
        return age_seconds < self._policy.settle_seconds and any(
            reason in (FailureReason.NOT_HELD, FailureReason.LOOKUP_FAILED)
            for _, reason in result.failed
        )

    def _decide(self, waiting: WaitingRequest) -> CommitmentResult:
        if waiting.refused_as is not None:
            return refuse_all(waiting.request, waiting.refused_as)
        held = self._outbox.find_instances(
            waiting.requester.tenant,
            (reference.sop_instance_uid for reference in waiting.request.references),
        )
        is_stored: Callable[[HeldInstance], bool] = functools.partial(holds_whole, self._store)
        if self._store.local_root is None:
            is_stored = _asked_at_once(is_stored, (one for ones in held.values() for one in ones))
        return judge(waiting.request, held, is_stored)

    def _report(
        self, waiting: WaitingRequest, job: _Job, event_type: int, report: Dataset
    ) -> str | None:
        reply, job.reply = job.reply, None
        if reply is not None:
            # Whatever a reply raises, the other way is left.
            with contextlib.suppress(Exception):
                if reply(event_type, report):
                    return "same-association"
        requester = waiting.requester
        away = self._away.setdefault(_pair(requester), _Away())
        if self._now() < away.until:
            return None
        peer = self._find_peer(requester)
        if peer is None:
            error = (
                "the association that asked is gone; configure where this AE title takes reports"
            )
        else:
            try:
                self._send(peer, requester.own_ae_title, event_type, report)
            except DeliveryError as failure:
                error = str(failure)
            except Exception as failure:  # noqa: BLE001 (a peer's fault is not the other peers')
                error = type(failure).__name__
            else:
                return "new-association"
        policy = self._policy
        delay_seconds = policy.first_retry_seconds * 2.0 ** min(away.attempts, 30)
        away.attempts += 1
        away.until = self._now() + min(delay_seconds, policy.longest_retry_seconds)
        _log.warning(
            "commitment-report-not-delivered",
            transaction_uid=waiting.request.transaction_uid,
            ae_title=requester.ae_title,
            attempt=away.attempts,
            error=error,
        )
        return None

    def _finish(self, waiting: WaitingRequest, result: CommitmentResult, outcome: str) -> None:
        self._away.pop(_pair(waiting.requester), None)
        self._ledger.remove(waiting.request_id)
        self._forget(waiting.request_id)
        self._reports.labels(outcome).inc()
        if outcome != "given-up":
            self._references.labels("committed").inc(len(result.committed))
            for reason, count in result.reasons.items():
                self._references.labels(reason).inc(count)
        say = _log.warning if result.failed or outcome == "given-up" else _log.info
        say(
            "commitment-reported" if outcome != "given-up" else "commitment-given-up",
            transaction_uid=result.transaction_uid,
            over=outcome,
            committed=len(result.committed),
            failed=result.reasons,
            examples=[
                f"{one.sop_instance_uid}: {reason.label}" for one, reason in result.failed[:5]
            ],
        )

    def _forget(self, request_id: int) -> None:
        with self._lock:
            self._jobs.pop(request_id, None)

    def _now(self) -> float:
        return self._clock().timestamp()


def _pair(requester: Requester) -> tuple[str, str]:
    return requester.own_ae_title, requester.ae_title


def holds_whole(store: BlobStore, one: HeldInstance) -> bool:
    """Whether the store holds a file, at its full length where that is known and cheap to ask.

    Raises
    ------
    OSError
        If the store cannot be asked.
    """
    if one.size_bytes < 0:
        return store.exists(one.image_id)
    return store.holds(one.image_id, one.size_bytes)


def _asked_at_once(
    is_stored: Callable[[HeldInstance], bool], held: Iterable[HeldInstance]
) -> Callable[[HeldInstance], bool]:
    # A remote store answers in tens of milliseconds: many questions go out together.
    def ask(one: HeldInstance) -> bool | OSError:
        try:
            return is_stored(one)
        except OSError as error:
            return error

    distinct = list(dict.fromkeys(held))
    with ThreadPoolExecutor(_LOOKUPS_AT_ONCE, "commitment-lookup") as pool:
        answers = dict(zip(distinct, pool.map(ask, distinct), strict=True))

    def answered(one: HeldInstance) -> bool:
        answer = answers[one]
        if isinstance(answer, OSError):
            raise answer
        return answer

    return answered
