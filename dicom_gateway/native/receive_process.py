"""A receive process: takes connections from the gateway, instances from them, and reports.

Started by ``pool``. It shares nothing with the
gateway but the inbox folder, a channel of messages, and a socket over which connections come. When
the gateway is gone, so is it.

Messages to the gateway::

    ("ready",)                          connections may come
    ("arrival", Arrival)                an instance is durable
    ("answered", status, reason)        a C-STORE was answered
    ("ask", number, ae_title, address)  may the association of this connection begin?
    ("gone", number)                    a connection ended, with its association if it had one
    ("action", ticket, fields)          storage commitment is asked for
    ("reported", ticket, taken)         whether a peer has taken a report

and from it::

    ("admit", number, refused)          None, or why not: AssociationRefused
    ("pressure", why)                   nothing can be stored now; "" if it can again
    ("acted", ticket, status)           answers an action
    ("report", ticket, association, event_type, dataset)
    ("stop", seconds)                   take no more connections, end within this time
"""

from __future__ import annotations

import contextlib
import pickle
import queue
import resource
import selectors
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable
from datetime import datetime, timezone
from multiprocessing.connection import Connection
from typing import Any

import structlog
from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import _config
from pynetdicom.dsutils import encode as encode_dataset

from dicom_gateway.aes.entities import AssociationRefused, Entity
from dicom_gateway.aes.uid_rules import Verdict
from dicom_gateway.commitment.ledger import Requester
from dicom_gateway.listening import entities_of, tls_of
from dicom_gateway.logs import configure_logs
from dicom_gateway.native.association import Association, Limits
from dicom_gateway.native.command import MAX_COMMAND_BYTES, Command
from dicom_gateway.native.door import Door, Knock
from dicom_gateway.native.negotiation import AssociationRequest, Context, accept
from dicom_gateway.settings import GatewaySettings
from dicom_gateway.storing.arrival import Origin
from dicom_gateway.storing.inbox import Inbox
from dicom_gateway.storing.receiver import Receiver
from dicom_gateway.storing.statuses import PROCESSING_FAILURE
from schemas.facts import Association as AssociationFacts
from streams.storage.blobs import BlobStore

_log = structlog.get_logger("dicom_gateway")

_TICK_SECONDS = 0.5
_END_SECONDS = 5.0
_ACTION_SECONDS = 15.0
_ADDRESS_BYTES = 256


class Channel:
    """Messages to and from the other side; sending is for any thread.

    Parameters
    ----------
    connection : Connection
        To a process of ours: what it sends is unpickled.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def fileno(self) -> int:
        """File descriptor, for a selector."""
        return self._connection.fileno()

    def send(self, *message: Any) -> None:
        """Send a message.

        Raises
        ------
        OSError
            If the other side is gone.
        """
        data = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
        with self._lock:
            self._connection.send_bytes(data)

    def receive(self) -> tuple[Any, ...]:
        """Wait for a message.

        Raises
        ------
        EOFError, OSError
            If the other side is gone.
        """
        message: tuple[Any, ...] = pickle.loads(self._connection.recv_bytes())  # noqa: S301 (ours)
        return message

    def close(self) -> None:
        """Close this side."""
        self._connection.close()


class ReceiveProcess:
    """The loop of a receive process.

    Parameters
    ----------
    settings : GatewaySettings
        As the gateway has them.
    token : str
        Names this process' slots in the inbox.
    uri : callable
        From a SHA-256 to the URI of its blob.
    channel : Channel
        To the gateway.
    connections : socket
        Over which connections come.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        *,
        token: str,
        uri: Callable[[str], str],
        channel: Channel,
        connections: socket.socket,
    ) -> None:
        # pynetdicom keeps this for the whole process; the process is ours.
        _config.UNRESTRICTED_STORAGE_SERVICE = True
        self._settings = settings
        self._channel = channel
        self._connections = connections
        self._entities = entities_of(settings)
        self._inbox = Inbox(settings.inbox_dir, token=token)
        self._pressure = ""
        self._receiver = Receiver(
            self._inbox,
            uri=uri,
            on_arrival=lambda arrival: channel.send("arrival", arrival),
            clock=lambda: datetime.now(timezone.utc),
            max_dataset_bytes=settings.dicom_max_dataset_bytes,
            pressure=lambda: self._pressure,
        )
        self._limits = Limits(
            idle_seconds=settings.dicom_network_timeout_seconds,
            message_seconds=settings.dicom_dimse_timeout_seconds,
            min_bytes_per_second=settings.dicom_min_bytes_per_second,
            max_pdu_bytes=settings.dicom_max_pdu_bytes,
            # A dataset beyond the limit is read to its end, so that its sender gets a status.
            max_message_bytes=2 * settings.dicom_max_dataset_bytes + MAX_COMMAND_BYTES,
        )
        self._selector = selectors.DefaultSelector()
        self._door = Door(
            self._selector,
            self._welcome,
            on_gone=self._gone,
            request_seconds=settings.dicom_acse_timeout_seconds,
            tls=tls_of(settings),
        )
        self._asking: dict[int, tuple[Knock, AssociationRequest, Entity]] = {}
        self._serving: dict[str, tuple[Association, threading.Thread]] = {}
        self._acted: dict[str, queue.SimpleQueue[int]] = {}
        self._lock = threading.Lock()
        self._stop_at: float | None = None

    def run(self) -> None:
        """Serve until the gateway says stop or is gone."""
        self._selector.register(self._channel, selectors.EVENT_READ)
        self._selector.register(self._connections, selectors.EVENT_READ)
        next_turn = time.monotonic() + _TICK_SECONDS
        with contextlib.suppress(EOFError, OSError):
            self._channel.send("ready")
            while not self._is_over():
                for key, _ in self._selector.select(_TICK_SECONDS):
                    if isinstance(key.data, Knock):
                        self._door.ready(key.data)
                    elif key.fileobj is self._channel:
                        self._hear(*self._channel.receive())
                    else:
                        self._take_connection()
                if time.monotonic() >= next_turn:
                    self._door.turn()
                    next_turn = time.monotonic() + _TICK_SECONDS
        self._end()

    def _is_over(self) -> bool:
        if self._stop_at is None:
            return False
        with self._lock:
            return not self._serving or time.monotonic() >= self._stop_at

    def _end(self) -> None:
        self._door.close()
        with self._lock:
            left = list(self._serving.values())
        for association, _ in left:
            association.stop()
        deadline = time.monotonic() + _END_SECONDS
        for _, thread in left:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._inbox.close()

    def _take_connection(self) -> None:
        data, descriptors, _, _ = socket.recv_fds(self._connections, _ADDRESS_BYTES, 1)
        if not data:
            raise EOFError
        number, address = data.decode().split(" ", 1)
        if not descriptors:
            _log.warning(
                "connection-lost", peer_address=address, why="no file descriptor is left",
                hint="raise the limit of open files (ulimit -n)",
            )  # fmt: skip
            self._channel.send("gone", int(number))
            return
        self._door.knock(int(number), socket.socket(fileno=descriptors[0]), address)

    def _hear(self, kind: str, *rest: Any) -> None:
        if kind == "admit":
            self._admit(*rest)
        elif kind == "pressure":
            (self._pressure,) = rest
        elif kind == "acted":
            ticket, status = rest
            asking = self._acted.get(ticket)
            if asking is not None:
                asking.put(status)
        elif kind == "report":
            self._report(*rest)
        elif kind == "stop":
            self._stop_at = time.monotonic() + rest[0]
            self._selector.unregister(self._connections)
            self._asking.clear()
            self._door.close()

    def _gone(self, knock: Knock) -> None:
        self._channel.send("gone", knock.number)

    def _welcome(self, knock: Knock, request: AssociationRequest) -> None:
        try:
            entity = self._entities.find(
                request.called_ae_title, request.calling_ae_title, knock.address
            )
        except AssociationRefused as refused:
            self._door.refuse(knock, refused)
            return
        self._asking[knock.number] = (knock, request, entity)
        self._channel.send("ask", knock.number, entity.ae_title, knock.address)

    def _admit(self, number: int, refused: AssociationRefused | None) -> None:
        knock, request, entity = self._asking.pop(number)
        if knock not in self._door:
            return
        if refused is not None:
            self._door.refuse(knock, refused)
            return
        acceptance = accept(
            request,
            max_pdu_bytes=self._settings.dicom_max_pdu_bytes,
            may_store=lambda sop_class, syntax: (
                entity.accepts_sop_class(sop_class) and entity.accepts_transfer_syntax(syntax)
            ),
        )
        facts = AssociationFacts(
            association_id=uuid.uuid4().hex[:16],
            calling_ae_title=request.calling_ae_title[:16],
            called_ae_title=request.called_ae_title[:16],
            peer_address=knock.address[:64],
        )
        association = Association(
            self._door.let_in(knock),
            acceptance,
            origin=Origin(entity.tenant, entity.dataset_id, facts),
            judge=lambda sop_class, syntax: (
                entity.check_instance(sop_class, syntax) is Verdict.STORE
            ),
            receiver=self._receiver,
            observer=self,
            limits=self._limits,
            peer_max_pdu_bytes=request.max_pdu_bytes,
        )
        _log.info(
            "association-established",
            **facts.model_dump(),
            contexts=len(acceptance.contexts),
            contexts_rejected=len(request.contexts) - len(acceptance.contexts),
        )
        thread = threading.Thread(
            target=self._serve, args=(association, number), name=association.name, daemon=True
        )
        with self._lock:
            self._serving[association.name] = (association, thread)
        thread.start()

    def _serve(self, association: Association, number: int) -> None:
        try:
            association.run()
        finally:
            with self._lock:
                del self._serving[association.name]
            with contextlib.suppress(OSError):
                self._channel.send("gone", number)

    # ---- what an association tells

    def answered(self, status: int, reason: str) -> None:
        """Pass on how a C-STORE was answered."""
        self._channel.send("answered", status, reason)

    def action(
        self, association: Association, request: Command, dataset: bytes, context: Context
    ) -> int:
        """Have the gateway answer an N-ACTION; wait for its status."""
        facts = association.origin.association
        ticket = uuid.uuid4().hex
        answer = self._acted[ticket] = queue.SimpleQueue()
        try:
            self._channel.send(
                "action",
                ticket,
                {
                    "sop_class_uid": request.sop_class_uid,
                    "sop_instance_uid": request.sop_instance_uid,
                    "action_type": request.type_id,
                    "dataset": dataset,
                    "transfer_syntax_uid": context.transfer_syntax_uid,
                    "requester": Requester(
                        ae_title=facts.calling_ae_title,
                        own_ae_title=facts.called_ae_title,
                        tenant=association.origin.tenant,
                        association_id=facts.association_id,
                    ),
                },
            )
            return answer.get(timeout=_ACTION_SECONDS)
        except queue.Empty:
            return PROCESSING_FAILURE
        finally:
            self._acted.pop(ticket, None)

    def _report(self, ticket: str, association_id: str, event_type: int, dataset: Dataset) -> None:
        def done(is_taken: bool) -> None:
            with contextlib.suppress(OSError):
                self._channel.send("reported", ticket, is_taken)

        def encode(transfer_syntax_uid: str) -> bytes:
            syntax = UID(transfer_syntax_uid)
            data = encode_dataset(dataset, syntax.is_implicit_VR, syntax.is_little_endian)
            assert data is not None, "a dataset of ours"
            return bytes(data)

        with self._lock:
            served = self._serving.get(association_id)
        if served is None:
            done(False)
        else:
            # A peer that does not read must not hold up the door.
            threading.Thread(
                target=served[0].report, args=(event_type, encode, done), daemon=True
            ).start()


def main() -> None:
    """Run with the file descriptors of the channel and of the connections as arguments."""
    # The terminal's Ctrl-C reaches the whole group; only the gateway decides when to end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # A thousand silent connections and what the associations open.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    channel = Channel(Connection(int(sys.argv[1])))
    connections = socket.socket(fileno=int(sys.argv[2]))
    token, settings = channel.receive()
    configure_logs()
    # Asked for the blobs' names only; the gateway has made their folders durable.
    store_uri = BlobStore(settings.blobs, fsync=False).uri
    ReceiveProcess(
        settings, token=token, uri=store_uri, channel=channel, connections=connections
    ).run()
