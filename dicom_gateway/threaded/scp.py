"""The Storage SCP on pynetdicom: every storage SOP class, every transfer syntax, bounded."""

from __future__ import annotations

import socket
import ssl
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog
from pynetdicom import ALL_TRANSFER_SYNTAXES, _config, evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import C_STORE_RQ, DIMSEMessage
from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

from dicom_gateway.aes.entities import AssociationRefused, Entities, Entity
from dicom_gateway.commitment.threaded import add_commitment_context
from dicom_gateway.listening import ListenError
from dicom_gateway.settings import GatewaySettings
from dicom_gateway.storing.part10 import (
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
    MAX_UID_CHARACTERS,
)
from dicom_gateway.storing.sop_classes import NON_PATIENT_OBJECTS, VERIFICATION
from dicom_gateway.threaded.spool import SpooledDataset

_log = structlog.get_logger("dicom_gateway")

MAX_WAITING_REQUESTS = 8
"""Requests that a peer may send before it reads the answers; one is what the standard allows when
no asynchronous operations were negotiated (PS3.7 D.3.3.3)."""

MAX_CONTROL_PDU_BYTES = 1 << 20
"""Longest PDU that is not ours to limit: an A-ASSOCIATE-RQ of 128 contexts takes far less."""

_RECEIVE_BYTES = 256 * 1024
_LISTEN_BACKLOG = 128
_NO_UID = "-"
_EVENT_PROTOCOL_ERROR = "Evt19"


class _DimseProvider(DIMSEServiceProvider):
    """Assembles messages into spooled datasets instead of memory without a bound."""

    def __init__(self, assoc: Any, new_dataset: Callable[[], SpooledDataset]) -> None:
        super().__init__(assoc)
        self._new_dataset = new_dataset

    def receive_primitive(self, primitive: Any) -> None:
        if self.msg_queue.qsize() > MAX_WAITING_REQUESTS:
            self.dul.event_queue.put(_EVENT_PROTOCOL_ERROR)
            return
        if self.message is None:
            self.message = DIMSEMessage()
            self.message.data_set = self._new_dataset()
        super().receive_primitive(primitive)


def _complete_request(event: Any) -> None:
    # pynetdicom leaves a C-STORE without a SOP UID unanswered, and its sender waiting; over one
    # that is too long it aborts the association. A stand-in that is no UID lets the request
    # through to the handler, which has a status for it.
    message = event.message
    if isinstance(message, C_STORE_RQ):
        for keyword in ("AffectedSOPClassUID", "AffectedSOPInstanceUID"):
            uid = str(getattr(message.command_set, keyword, None) or "")
            if not 0 < len(uid) <= MAX_UID_CHARACTERS:
                setattr(message.command_set, keyword, _NO_UID)


class StorageScp:
    """Listens for associations until it is stopped.

    Parameters
    ----------
    settings : GatewaySettings
        Where, and the bounds.
    on_store : callable
        Answers pynetdicom's C-STORE event with a status.
    entities : Entities
        Who may call.
    tls : SSLContext or None
        With which peers have to speak.
    on_action : callable, optional
        Answers pynetdicom's N-ACTION event; without it storage commitment is not offered.

    Raises
    ------
    ListenError
        If the address is taken or not ours.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        on_store: Callable[[Any], Any],
        *,
        entities: Entities,
        tls: ssl.SSLContext | None = None,
        on_action: Callable[[Any], Any] | None = None,
    ) -> None:
        # pynetdicom keeps these for the whole process; the gateway has one of its own.
        _config.UNRESTRICTED_STORAGE_SERVICE = True
        _config.LOG_HANDLER_LEVEL = "none"
        self._settings = settings
        self._entities = entities
        self._open: dict[str, tuple[float, Entity, str]] = {}
        self._lock = threading.Lock()
        self._entity = _entity(settings)
        handlers: list[Any] = [
            (evt.EVT_C_STORE, on_store),
            (evt.EVT_DIMSE_RECV, _complete_request),
            (evt.EVT_REQUESTED, self._requested),
            (evt.EVT_ESTABLISHED, self._established),
            (evt.EVT_REJECTED, self._rejected),
            (evt.EVT_ABORTED, self._aborted),
            (evt.EVT_CONN_CLOSE, self._closed),
        ]
        if on_action is not None:
            handlers.append((evt.EVT_N_ACTION, on_action))
            add_commitment_context(self._entity)
        spool = settings.gateway_dir / "spool"
        spool.mkdir(parents=True, exist_ok=True)
        address = (settings.dicom_host, settings.dicom_port)
        try:
            self._server = _Server(
                self._entity,
                address,
                settings.dicom_ae_title,
                self._entity.supported_contexts,
                evt_handlers=handlers,
                ssl_context=tls,
                request_handler=_request_handler(settings, spool),
            )
        except OSError as error:
            raise ListenError.at(*address, error) from error
        self._entity._servers.append(self._server)
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            kwargs={"poll_interval": 0.2},
            name="scp",
            daemon=True,
        )
        self._thread.start()

    @property
    def port(self) -> int:
        """TCP port on which it listens."""
        return int(self._server.server_address[1])

    @property
    def is_running(self) -> bool:
        """Whether it takes associations."""
        return self._thread.is_alive()

    def stop(self, timeout_seconds: float) -> None:
        """Take no new associations, let the open ones end, then abort what is left."""
        self._server.shutdown()
        self._thread.join()
        deadline = time.monotonic() + timeout_seconds
        for assoc in list(self._entity.active_associations):
            assoc.join(max(0.0, deadline - time.monotonic()))
        for assoc in list(self._entity.active_associations):
            assoc.abort()

    @property
    def associations(self) -> int:
        """Associations that are open, or about to be."""
        return len(self._entity.active_associations)

    def entity_of(self, assoc: Any) -> Entity:
        """Tell which entity an open association called."""
        with self._lock:
            return self._open[assoc.name][1]

    def _requested(self, event: Any) -> None:
        assoc, request = event.assoc, event.assoc.requestor.primitive
        address = str(assoc.requestor.address)
        try:
            entity = self._entities.find(
                request.called_ae_title or "", request.calling_ae_title or "", address
            )
            with self._lock:
                mine = [peer for _, one, peer in self._open.values() if one is entity]
                entity.check_load(open_associations=len(mine), open_of_peer=mine.count(address))
                self._open[assoc.name] = (time.monotonic(), entity, address)
        except AssociationRefused as refused:
            _log.warning("association-rejected", peer_address=address, why=str(refused))
            assoc.acse.send_reject(refused.result, refused.source, refused.reason)
            assoc.is_rejected = True
            assoc.kill()

    def _established(self, event: Any) -> None:
        assoc = event.assoc
        _log.info(
            "association-established",
            association_id=assoc.name,
            calling_ae_title=assoc.requestor.ae_title,
            called_ae_title=assoc.requestor.primitive.called_ae_title,
            peer_address=assoc.requestor.address,
            contexts=len(assoc.accepted_contexts),
        )

    def _rejected(self, event: Any) -> None:
        _log.warning(
            "association-rejected",
            association_id=event.assoc.name,
            peer_address=event.assoc.requestor.address,
            limit=self._settings.dicom_max_associations,
        )

    def _aborted(self, event: Any) -> None:
        _log.warning("association-aborted", association_id=event.assoc.name)

    def _closed(self, event: Any) -> None:
        with self._lock:
            known = self._open.pop(event.assoc.name, None)
        if known is not None:
            _log.info(
                "association-closed",
                association_id=event.assoc.name,
                seconds=round(time.monotonic() - known[0], 3),
            )
        elif event.assoc.requestor.primitive is None:
            # Closed before it asked for an association, as a port scan or a health probe does.
            # pynetdicom would keep a place for it until its time is up; None is what that says.
            event.assoc.dul.to_user_queue.put(None)


class _Server(ThreadedAssociationServer):
    request_queue_size = _LISTEN_BACKLOG
    daemon_threads = True


def _entity(settings: GatewaySettings) -> ApplicationEntity:
    entity = ApplicationEntity(settings.dicom_ae_title)
    entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    entity.maximum_associations = settings.dicom_max_associations
    entity.maximum_pdu_size = settings.dicom_max_pdu_bytes
    entity.acse_timeout = settings.dicom_acse_timeout_seconds
    entity.dimse_timeout = settings.dicom_dimse_timeout_seconds
    entity.network_timeout = settings.dicom_network_timeout_seconds
    entity.add_supported_context(VERIFICATION)
    for sop_class in NON_PATIENT_OBJECTS:
        entity.add_supported_context(sop_class, ALL_TRANSFER_SYNTAXES)
    return entity


def _request_handler(settings: GatewaySettings, spool: Path) -> type[RequestHandler]:
    def new_dataset() -> SpooledDataset:
        return SpooledDataset(
            memory_bytes=settings.dicom_spool_bytes,
            max_bytes=settings.dicom_max_dataset_bytes,
            folder=spool,
        )

    max_pdu_bytes = max(settings.dicom_max_pdu_bytes + 64, MAX_CONTROL_PDU_BYTES)

    class Handler(RequestHandler):
        def _create_association(self) -> Any:
            self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            assoc = super()._create_association()
            assoc.name = uuid.uuid4().hex[:16]
            assoc.dimse = _DimseProvider(assoc, new_dataset)
            connection: Any = assoc.dul.socket

            def receive(size_bytes: int) -> bytearray:
                return _receive(connection.socket, size_bytes, max_pdu_bytes)

            connection.recv = receive
            return assoc

    return Handler


def _receive(connection: socket.socket, size_bytes: int, max_bytes: int) -> bytearray:
    # In place of pynetdicom's, which takes 4 KiB a call and as many of them as a peer announces.
    if size_bytes > max_bytes:
        msg = f"a PDU of {size_bytes} bytes; the limit is {max_bytes}"
        raise OSError(msg)
    received = bytearray()
    while len(received) < size_bytes:
        piece = connection.recv(min(size_bytes - len(received), _RECEIVE_BYTES))
        if not piece:
            break
        received += piece
    return received
