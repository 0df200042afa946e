"""Storage commitment over pynetdicom: the N-ACTION handler and the report's way back.

pynetdicom serves an association in one thread, which sends the response after the handler has
returned. The report goes out from the commitment thread, so two things are put around the
association's DIMSE provider when the first N-ACTION arrives: a lock, so that no two messages mix
their fragments (PS3.7 annex E), and a note of responses that are sent and received.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from io import BytesIO
from typing import Any

from pydicom import Dataset
from pydicom.uid import UID
from pynetdicom import evt
from pynetdicom.dimse_messages import N_EVENT_REPORT_RSP
from pynetdicom.dimse_primitives import N_ACTION, N_EVENT_REPORT
from pynetdicom.dsutils import encode

from dicom_gateway.commitment.ledger import Requester
from dicom_gateway.commitment.request import (
    MAX_REQUEST_BYTES,
    PROCESSING_FAILURE,
    TRANSFER_SYNTAXES,
)
from dicom_gateway.commitment.scu import DeliveryError, check_status
from dicom_gateway.commitment.service import Reply
from dicom_gateway.storing.sop_classes import STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE

_POLL_SECONDS = 0.05

HandleAction = Callable[..., int]
"""``CommitmentService.handle_action``."""


def add_commitment_context(entity: Any) -> None:
    """Let a pynetdicom AE accept the Storage Commitment Push Model, in the default roles."""
    entity.add_supported_context(STORAGE_COMMITMENT, list(TRANSFER_SYNTAXES))


class ActionHandler:
    """Answers pynetdicom's N-ACTION event; bind it as ``(evt.EVT_N_ACTION, handler)``.

    Parameters
    ----------
    handle_action : callable
        ``CommitmentService.handle_action``.
    requester_of : callable
        Tells from a pynetdicom association who asks.
    timeout_seconds : float
        How long the receiver of a report may take to confirm it.
    """

    def __init__(
        self,
        handle_action: HandleAction,
        requester_of: Callable[[Any], Requester],
        *,
        timeout_seconds: float = 30.0,
    ) -> None:
        self._handle_action = handle_action
        self._requester_of = requester_of
        self._timeout_seconds = timeout_seconds

    def __call__(self, event: Any) -> tuple[int, None]:
        """Return the status of an N-ACTION request; never raises."""
        request = event.request
        try:
            channel = _Channel.of(event.assoc)
            status = self._handle_action(
                sop_class_uid=str(request.RequestedSOPClassUID or ""),
                sop_instance_uid=str(request.RequestedSOPInstanceUID or ""),
                action_type=request.ActionTypeID,
                dataset=_bytes_of(request.ActionInformation),
                transfer_syntax_uid=str(event.context.transfer_syntax),
                requester=self._requester_of(event.assoc),
                reply=channel.reply(
                    request.MessageID,
                    event.context.context_id,
                    str(event.context.transfer_syntax),
                    self._timeout_seconds,
                ),
            )
        except Exception:  # noqa: BLE001 (pynetdicom would tell the dataset to its logger)
            status = PROCESSING_FAILURE
        return status, None


def _bytes_of(stream: Any) -> bytes:
    if stream is None:
        return b""
    # With the gateway's own DIMSE provider a dataset may lie in a file.
    view = getattr(stream, "view", None)
    if view is not None:
        with view() as data:
            # One byte more than is taken shows that it is too long.
            return bytes(data[: MAX_REQUEST_BYTES + 1])
    return bytes(stream.getbuffer()[: MAX_REQUEST_BYTES + 1])


class _Channel:
    """What is put around an association's DIMSE provider, once."""

    def __init__(self, assoc: Any) -> None:
        self._assoc = assoc
        self._lock = threading.Lock()
        self._changed = threading.Condition()
        self._answered: set[int] = set()
        self._statuses: dict[int, int | None] = {}
        self._last_message_id = 0
        self._send = assoc.dimse.send_msg
        assoc.dimse.send_msg = self._send_alone
        assoc.bind(evt.EVT_DIMSE_RECV, self._received)

    @classmethod
    def of(cls, assoc: Any) -> _Channel:
        # Only the association's own thread comes here.
        channel: _Channel | None = getattr(assoc, "_commitment_channel", None)
        if channel is None:
            channel = assoc._commitment_channel = cls(assoc)
        return channel

    def _send_alone(self, primitive: Any, context_id: int) -> None:
        with self._lock:
            self._send(primitive, context_id)
        if isinstance(primitive, N_ACTION) and primitive.MessageIDBeingRespondedTo is not None:
            with self._changed:
                self._answered.add(int(primitive.MessageIDBeingRespondedTo))
                self._changed.notify_all()

    def _received(self, event: Any) -> None:
        # pynetdicom drops a response that it does not wait for, after this.
        if isinstance(event.message, N_EVENT_REPORT_RSP):
            command = event.message.command_set
            with self._changed:
                self._statuses[int(command.get("MessageIDBeingRespondedTo", 0))] = command.get(
                    "Status"
                )
                self._changed.notify_all()

    def reply(
        self, message_id: int, context_id: int, transfer_syntax_uid: str, timeout_seconds: float
    ) -> Reply:
        self._answered.discard(message_id)

        def send(event_type: int, report: Dataset) -> bool:
            if not self._wait(lambda: message_id in self._answered, timeout_seconds):
                return False
            syntax = UID(transfer_syntax_uid)
            encoded = encode(report, syntax.is_implicit_VR, syntax.is_little_endian)
            if encoded is None:
                return False
            request = N_EVENT_REPORT()
            self._last_message_id += 1
            request.MessageID = number = self._last_message_id
            request.AffectedSOPClassUID = UID(STORAGE_COMMITMENT)
            request.AffectedSOPInstanceUID = UID(STORAGE_COMMITMENT_INSTANCE)
            request.EventTypeID = event_type
            request.EventInformation = BytesIO(encoded)
            self._send_alone(request, context_id)
            self._wait(lambda: number in self._statuses, timeout_seconds)
            try:
                check_status(self._statuses.pop(number, None), "the peer")
            except DeliveryError:
                return False
            return True

        return send

    def _wait(self, condition: Callable[[], bool], timeout_seconds: float) -> bool:
        # Nothing tells of an association's end from every path, hence the short waits.
        deadline = time.monotonic() + timeout_seconds
        with self._changed:
            while not condition():
                if not self._assoc.is_established or time.monotonic() >= deadline:
                    return condition()
                self._changed.wait(_POLL_SECONDS)
        return bool(self._assoc.is_established)
