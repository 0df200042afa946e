"""One established association: fragments in, responses out, in a thread of its own.

The dataset of a C-STORE goes from the network to the disk as it comes, through one buffer. Every
wait has a deadline: a peer that says nothing between messages, one that trickles inside a message,
and one that does not read what it is sent.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import structlog

from dicom_gateway.logs import refusal_fields
from dicom_gateway.native.command import (
    C_CANCEL_RQ,
    C_ECHO_RQ,
    C_STORE_RQ,
    MAX_COMMAND_BYTES,
    N_ACTION_RQ,
    SUCCESS,
    UNRECOGNIZED_OPERATION,
    Command,
    read_command,
    write_event_report,
    write_response,
)
from dicom_gateway.native.negotiation import Acceptance, Context
from dicom_gateway.native.pdu import (
    RELEASE_RESPONSE,
    AbortReason,
    Ending,
    Fragment,
    ProtocolError,
    UpperLayer,
    abort_pdu,
    data_pdu,
    data_pdus,
)
from dicom_gateway.storing.arrival import Origin
from dicom_gateway.storing.receiver import Incoming, Receiver
from dicom_gateway.storing.sop_classes import (
    STORAGE_COMMITMENT,
    STORAGE_COMMITMENT_INSTANCE,
    VERIFICATION,
)
from dicom_gateway.storing.statuses import InvalidSopClassError, reason_of, status_of

_log = structlog.get_logger("dicom_gateway")

_FIRST_BUFFER_BYTES = 16 * 1024
_BUFFER_BYTES = 256 * 1024
_TICK_SECONDS = 1.0
_SEND_SECONDS = 30.0
_LINGER_SECONDS = 1.0
_MAX_ACTION_BYTES = 16 << 20


@dataclass(frozen=True)
class Limits:
    """How long a peer may take.

    Parameters
    ----------
    idle_seconds : float
        Between two messages.
    message_seconds : float
        Within this time a message has to be whole, or to have come at the slowest rate; then again.
    min_bytes_per_second : float
        Slowest rate of a message.
    max_pdu_bytes : int
        Longest PDU that was negotiated.
    max_message_bytes : int
        A longer message ends the association, also one that is read only to be refused.
    """

    idle_seconds: float
    message_seconds: float
    min_bytes_per_second: float
    max_pdu_bytes: int
    max_message_bytes: int


class Observer(Protocol):
    """Told what happens on an association."""

    def answered(self, status: int, reason: str) -> None:
        """Take note of how a C-STORE was answered."""

    def action(
        self, association: Association, request: Command, dataset: bytes, context: Context
    ) -> int:
        """Return the status of an N-ACTION."""


class Association:
    """An association from its acceptance to its end.

    Parameters
    ----------
    connection : socket
        Blocking; closed when ``run`` ends.
    acceptance : Acceptance
        What was negotiated.
    origin : Origin
        Where instances of it come from.
    judge : callable
        From SOP class and transfer syntax to whether an instance is stored (True) or answered with
        Success and dropped (False); raises a StoreError to refuse it.
    receiver : Receiver
        Takes instances.
    observer : Observer
        Told what happens.
    limits : Limits
        Deadlines.
    peer_max_pdu_bytes : int
        Longest PDU that the peer takes; 0 for no limit.
    clock : callable
        Monotonic seconds.
    """

    def __init__(
        self,
        connection: socket.socket,
        acceptance: Acceptance,
        *,
        origin: Origin,
        judge: Callable[[str, str], bool],
        receiver: Receiver,
        observer: Observer,
        limits: Limits,
        peer_max_pdu_bytes: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connection = connection
        self._is_tls = isinstance(connection, ssl.SSLSocket)
        self._acceptance = acceptance
        self.origin = origin
        self._judge = judge
        self._receiver = receiver
        self._observer = observer
        self._limits = limits
        self._peer_max_pdu_bytes = peer_max_pdu_bytes
        self._clock = clock
        self._upper = UpperLayer(limits.max_pdu_bytes)
        self._command = bytearray()
        self._request: Command | None = None
        self._context_id = 0
        self._incoming: Incoming | None = None
        self._failure: Exception | None = None
        self._action_data = bytearray()
        self._ended = False
        self._stopping = False
        self._lock = threading.Lock()
        self._is_idle = True
        self._reports: deque[bytes] = deque()
        self._outcomes: Counter[str] = Counter(stored=0, refused=0)
        self._unconfirmed: dict[int, Callable[[bool], None]] = {}
        self._next_message_id = 1
        # The peer's time, in which we wait for it; what we ourselves take is not held against it.
        self._silent_seconds = self._period_seconds = 0.0
        self._period_bytes = self._message_bytes = 0

    @property
    def name(self) -> str:
        """Its id, in logs and events."""
        return self.origin.association.association_id

    # ---- for other threads

    def stop(self) -> None:
        """End it with an A-ABORT, soon."""
        self._stopping = True
        # A TLS connection would lose its encryption; it looks up once in a tick.
        if not self._is_tls:
            with contextlib.suppress(OSError):
                self._connection.shutdown(socket.SHUT_RD)

    def report(
        self, event_type: int, encode: Callable[[str], bytes], done: Callable[[bool], None]
    ) -> None:
        """Send an N-EVENT-REPORT of storage commitment as soon as no message is in progress.

        It may take as long as the peer takes to read it.

        Parameters
        ----------
        event_type : int
            Event Type ID.
        encode : callable
            From a transfer syntax UID to the dataset's bytes.
        done : callable
            Told, from any thread, whether the peer has taken it.
        """
        found = next(
            (
                (number, context)
                for number, context in self._acceptance.contexts.items()
                if context.sop_class_uid == STORAGE_COMMITMENT
            ),
            None,
        )
        if found is None:
            done(False)
            return
        number, context = found
        with self._lock:
            if self._ended:
                done(False)
                return
            message_id = self._next_message_id
            self._next_message_id = message_id % 0xFFFF + 1
            command = write_event_report(
                message_id,
                sop_class_uid=STORAGE_COMMITMENT,
                sop_instance_uid=STORAGE_COMMITMENT_INSTANCE,
                event_type=event_type,
            )
            message = data_pdu(number, command, is_command=True) + data_pdus(
                number,
                encode(context.transfer_syntax_uid),
                is_command=False,
                max_pdu_bytes=self._peer_max_pdu_bytes,
            )
            self._unconfirmed[message_id] = done
            # Of TLS only one thread may do anything at a time; its own sends it at its next tick.
            if self._is_idle and not self._is_tls:
                # A connection that is lost is noticed by its own thread, which tells everyone.
                with contextlib.suppress(OSError):
                    self._connection.sendall(message)
            else:
                self._reports.append(message)

    def _reported(self, message_id: int, is_taken: bool) -> None:
        with self._lock:
            done = self._unconfirmed.pop(message_id, None)
        if done is not None:
            done(is_taken)

    # ---- its own thread

    def run(self) -> None:
        """Accept, serve until the peer ends it or breaks it, and close the connection."""
        how = "released"
        try:
            self._set_timeouts()
            self._send(self._acceptance.pdu)
            how = self._serve()
        except ProtocolError as error:
            how = "aborted"
            _log.warning(
                "association-aborted", association_id=self.name, reason=error.reason.name.lower(),
                error=str(error),
            )  # fmt: skip
            self._abort(error.reason)
        except OSError as error:
            how = "lost"
            _log.warning("association-lost", association_id=self.name, error=type(error).__name__)
        except Exception as error:  # noqa: BLE001 (a fault of ours ends this association only)
            how = "aborted"
            _log.error("association-fault", association_id=self.name, **refusal_fields(error))
            self._abort(AbortReason.NOT_SPECIFIED)
        finally:
            with self._lock:
                self._ended = True
                self._reports.clear()
                unconfirmed = list(self._unconfirmed)
            for message_id in unconfirmed:
                self._reported(message_id, False)
            if self._incoming is not None:
                self._incoming.abort()
            with contextlib.suppress(OSError):
                self._connection.close()
            _log.info("association-closed", association_id=self.name, how=how, **self._outcomes)

    def _set_timeouts(self) -> None:
        if self._is_tls:
            self._connection.settimeout(_TICK_SECONDS)
            return
        # Deadlines of the kernel: Python's own cost a poll() before each call.
        self._connection.setblocking(True)
        for option, seconds in (
            (socket.SO_RCVTIMEO, _TICK_SECONDS),
            (socket.SO_SNDTIMEO, _SEND_SECONDS),
        ):
            self._connection.setsockopt(
                socket.SOL_SOCKET, option, struct.pack("ll", *_timeval(seconds))
            )

    def _serve(self) -> str:
        view = memoryview(bytearray(_FIRST_BUFFER_BYTES))
        while True:
            count = self._receive(view)
            if not count:
                if self._is_idle:
                    self._become_idle()
                continue
            ending = self._feed(view[:count])
            if ending is not None:
                return ending
            if self._request is None and not self._command and self._upper.is_between_pdus:
                self._become_idle()
            elif self._incoming is not None and len(view) < _BUFFER_BYTES:
                view = memoryview(bytearray(_BUFFER_BYTES))

    def _receive(self, view: memoryview) -> int:
        asked = self._clock()
        try:
            count = self._connection.recv_into(view)
        except (BlockingIOError, TimeoutError, ssl.SSLWantReadError):
            count = -1
        if self._stopping:
            raise ProtocolError(AbortReason.NOT_SPECIFIED, "the gateway stops")
        if count == 0:
            raise ConnectionResetError
        waited_seconds = self._clock() - asked
        self._silent_seconds += waited_seconds
        if not self._is_idle:
            self._period_seconds += waited_seconds
            self._check_pace()
        elif self._silent_seconds > self._limits.idle_seconds:
            msg = f"nothing came for {self._limits.idle_seconds:.0f} s"
            raise ProtocolError(AbortReason.NOT_SPECIFIED, msg)
        if count < 0:
            return 0
        if self._is_idle:
            self._begin_count()
            with self._lock:
                self._is_idle = False
        self._silent_seconds = 0.0
        self._period_bytes += count
        self._message_bytes += count
        if self._message_bytes > self._limits.max_message_bytes:
            msg = f"a message of more than {self._limits.max_message_bytes} bytes"
            raise ProtocolError(AbortReason.INVALID_PARAMETER, msg)
        return count

    def _begin_count(self) -> None:
        self._period_seconds, self._period_bytes, self._message_bytes = 0.0, 0, 0

    def _check_pace(self) -> None:
        patience_seconds = self._limits.message_seconds
        if max(self._silent_seconds, self._period_seconds) <= patience_seconds:
            return
        wanted_bytes = self._period_seconds * self._limits.min_bytes_per_second
        if self._silent_seconds > patience_seconds or self._period_bytes < wanted_bytes:
            msg = (
                f"a message of which {self._message_bytes} bytes have come is not whole, and "
                f"{self._period_bytes} of them came in the last {self._period_seconds:.0f} s"
            )
            raise ProtocolError(AbortReason.NOT_SPECIFIED, msg)
        self._period_seconds, self._period_bytes = 0.0, 0

    def _feed(self, data: memoryview) -> str | None:
        for item in self._upper.feed(data):
            if isinstance(item, Fragment):
                self._take(item)
            elif item is Ending.ABORTED:
                return "aborted by the peer"
            elif self._request is not None or self._command:
                raise ProtocolError(AbortReason.UNEXPECTED_PDU, "a release inside a message")
            else:
                self._send(RELEASE_RESPONSE)
                self._linger()
                return "released"
        return None

    def _become_idle(self) -> None:
        with self._lock:
            while self._reports:
                self._send(self._reports.popleft())
            self._is_idle = True

    def _send(self, data: bytes) -> None:
        if not self._is_tls:
            self._connection.sendall(data)
            return
        self._connection.settimeout(_SEND_SECONDS)
        self._connection.sendall(data)
        self._connection.settimeout(_TICK_SECONDS)

    def _take(self, fragment: Fragment) -> None:
        if fragment.context_id not in self._acceptance.contexts:
            raise ProtocolError(
                AbortReason.INVALID_PARAMETER,
                f"presentation context {fragment.context_id} was not accepted",
            )
        in_message = bool(self._command) or self._request is not None
        if in_message and fragment.context_id != self._context_id:
            raise ProtocolError(
                AbortReason.INVALID_PARAMETER, "a message changes its presentation context"
            )
        self._context_id = fragment.context_id
        if fragment.is_command:
            if self._request is not None:
                raise ProtocolError(
                    AbortReason.UNEXPECTED_PARAMETER, "a command where a dataset is due"
                )
            self._command += fragment.data
            if len(self._command) > MAX_COMMAND_BYTES:
                raise ProtocolError(AbortReason.INVALID_PARAMETER, "a command set without an end")
            if fragment.is_last:
                request = read_command(self._command)
                self._command.clear()
                self._begin(request)
            return
        if self._request is None:
            raise ProtocolError(AbortReason.UNEXPECTED_PARAMETER, "a dataset without a command")
        self._take_data(self._request, fragment.data)
        if fragment.is_last:
            request, self._request = self._request, None
            self._finish(request)

    def _begin(self, request: Command) -> None:
        self._failure = None
        if request.field == C_STORE_RQ:
            self._begin_store(request)
        if request.has_dataset:
            self._request = request
        else:
            self._finish(request)

    def _begin_store(self, request: Command) -> None:
        context = self._acceptance.contexts[self._context_id]
        try:
            if context.sop_class_uid in (VERIFICATION, STORAGE_COMMITMENT):
                raise InvalidSopClassError("C-STORE on a context that is not for storage")
            if self._judge(request.sop_class_uid, context.transfer_syntax_uid):
                self._incoming = self._receiver.begin(
                    sop_class_uid=request.sop_class_uid,
                    sop_instance_uid=request.sop_instance_uid,
                    transfer_syntax_uid=context.transfer_syntax_uid,
                    origin=self.origin,
                )
        except Exception as error:  # noqa: BLE001 (every error has a status, see statuses.py)
            self._failure = error

    def _take_data(self, request: Command, data: memoryview) -> None:
        if self._incoming is not None:
            try:
                self._incoming.write(data)
            except Exception as error:  # noqa: BLE001 (as above; the rest is read and dropped)
                self._incoming, self._failure = None, error
        elif request.field == N_ACTION_RQ:
            if len(self._action_data) + len(data) > _MAX_ACTION_BYTES:
                raise ProtocolError(AbortReason.INVALID_PARAMETER, "an N-ACTION without an end")
            self._action_data += data

    def _finish(self, request: Command) -> None:
        # A peer may send the next message before it has our answer.
        self._begin_count()
        if request.field == C_STORE_RQ:
            self._finish_store(request)
        elif request.field == C_ECHO_RQ:
            self._answer(write_response(request, SUCCESS))
        elif request.field == N_ACTION_RQ:
            data, self._action_data = bytes(self._action_data), bytearray()
            context = self._acceptance.contexts[self._context_id]
            status = self._observer.action(self, request, data, context)
            self._answer(write_response(request, status, type_id=request.type_id))
        elif request.is_response:
            self._reported(request.message_id, request.status == SUCCESS)
        elif request.field == C_CANCEL_RQ:
            # There is nothing that could be cancelled.
            return
        else:
            self._answer(write_response(request, UNRECOGNIZED_OPERATION))

    def _finish_store(self, request: Command) -> None:
        incoming, self._incoming = self._incoming, None
        error = self._failure
        if incoming is not None:
            try:
                incoming.finish()
            except Exception as failure:  # noqa: BLE001 (every error has a status)
                error = failure
        if error is None:
            reason = "stored" if incoming is not None else "ignored"
            self._outcomes[reason] += 1
            self._answer(write_response(request, SUCCESS))
            self._observer.answered(SUCCESS, reason)
            return
        status, reason = status_of(error), reason_of(error)
        _log.warning(
            "instance-refused",
            association_id=self.name,
            status=f"0x{status:04X}",
            reason=reason,
            **refusal_fields(error),
        )
        self._outcomes["refused"] += 1
        self._observer.answered(status, reason)
        comment = getattr(error, "comment", reason)
        self._answer(write_response(request, status, comment=comment))

    def _answer(self, command: bytes) -> None:
        self._send(data_pdu(self._context_id, command, is_command=True))

    def _abort(self, reason: AbortReason) -> None:
        with contextlib.suppress(OSError):
            self._send(abort_pdu(reason))
            self._linger()

    def _linger(self) -> None:
        # Closing with unread bytes resets the connection, and the peer may never see what was sent
        # last. It has the chance to close first (PS3.8 9.1.5), for a short while.
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_WR)
            self._connection.settimeout(_LINGER_SECONDS)
            until = self._clock() + _LINGER_SECONDS
            scrap = bytearray(_FIRST_BUFFER_BYTES)
            while self._clock() < until and self._connection.recv_into(scrap):
                pass


def _timeval(seconds: float) -> tuple[int, int]:
    whole = int(seconds)
    return whole, int((seconds - whole) * 1e6)
