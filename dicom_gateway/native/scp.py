"""The native receive path as the gateway sees it: a pool of processes, and what they tell."""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Callable
from typing import IO, Any

from pydicom.dataset import Dataset

from dicom_gateway.aes.entities import Entities
from dicom_gateway.commitment.service import CommitmentService
from dicom_gateway.metrics import Metrics
from dicom_gateway.native.pool import Process, ReceivePool
from dicom_gateway.settings import GatewaySettings
from dicom_gateway.storing.filing import Filer
from dicom_gateway.storing.receiver import Arrival

_REPORT_SECONDS = 30.0


class NativeScp:
    """Receive processes, and the answers to what they ask.

    Parameters
    ----------
    settings : GatewaySettings
        Where, and the bounds.
    entities : Entities
        Who may call.
    commitment : CommitmentService
        Answers N-ACTION.
    filer : Filer
        Told of processes that died.
    on_arrival : callable
        Told of each durable instance.
    metrics : Metrics
        Counts.
    keep_open : file
        See ``ReceivePool``.

    Raises
    ------
    OSError
        If it cannot start.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        *,
        entities: Entities,
        commitment: CommitmentService,
        filer: Filer,
        on_arrival: Callable[[Arrival], None],
        metrics: Metrics,
        keep_open: IO[bytes],
    ) -> None:
        self._commitment = commitment
        self._on_arrival = on_arrival
        self._metrics = metrics
        self._lock = threading.Lock()
        self._reports: dict[str, tuple[threading.Event, list[bool]]] = {}
        self._pool = ReceivePool(
            settings,
            entities,
            on_message=self._hear,
            on_death=filer.recover_from,
            keep_open=keep_open,
        )
        self.port = self._pool.port
        self.stop = self._pool.stop
        self.set_pressure = self._pool.set_pressure

    @property
    def is_running(self) -> bool:
        """Whether it takes associations."""
        return self._pool.is_running

    @property
    def associations(self) -> int:
        """Associations that are open."""
        return self._pool.associations

    def _hear(self, process: Process, kind: str, rest: tuple[Any, ...]) -> None:
        if kind == "arrival":
            self._on_arrival(rest[0])
        elif kind == "answered":
            self._metrics.answered(*rest)
        elif kind == "action":
            ticket, fields = rest
            association_id = fields["requester"].association_id
            status = self._commitment.handle_action(
                **fields,
                reply=lambda event_type, report: self._report(
                    process, association_id, event_type, report
                ),
            )
            process.channel.send("acted", ticket, status)
        elif kind == "reported":
            ticket, is_taken = rest
            with self._lock:
                waiting = self._reports.get(ticket)
            if waiting is not None:
                waiting[1].append(is_taken)
                waiting[0].set()

    def _report(
        self, process: Process, association_id: str, event_type: int, report: Dataset
    ) -> bool:
        ticket = uuid.uuid4().hex
        told, taken = threading.Event(), list[bool]()
        with self._lock:
            self._reports[ticket] = (told, taken)
        try:
            with contextlib.suppress(OSError):
                process.channel.send("report", ticket, association_id, event_type, report)
                told.wait(_REPORT_SECONDS)
            return bool(taken) and taken[0]
        finally:
            with self._lock:
                del self._reports[ticket]
