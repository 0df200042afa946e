"""The gateway as a whole: started, watched and stopped in the right order."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import signal
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any

import structlog

from dicom_gateway.aes.entities import Entity
from dicom_gateway.aes.entities_file import EntitiesError
from dicom_gateway.commitment.ledger import Requester
from dicom_gateway.commitment.scu import CommitmentPeer
from dicom_gateway.commitment.service import CommitmentService
from dicom_gateway.commitment.threaded import ActionHandler
from dicom_gateway.dicomweb.credentials import read_credentials
from dicom_gateway.dicomweb.stow import StowLimits, StowServer
from dicom_gateway.ledger.outbox import Outbox
from dicom_gateway.ledger.publisher import Publisher, SettlementCheck
from dicom_gateway.listening import client_tls_of, entities_of, stow_entity, tls_of
from dicom_gateway.logs import configure_logs
from dicom_gateway.metrics import Metrics, MetricsServer
from dicom_gateway.native.scp import NativeScp
from dicom_gateway.settings import GatewaySettings
from dicom_gateway.storing.filing import Filer
from dicom_gateway.storing.inbox import Inbox
from dicom_gateway.storing.receiver import Arrival, Receiver
from dicom_gateway.storing.watermarks import Load, Watermarks
from dicom_gateway.threaded.handlers import StoreHandler, association_of
from dicom_gateway.threaded.scp import StorageScp
from streams.storage.blobs import BlobStore

_log = structlog.get_logger("dicom_gateway")

EXIT_STOPPED = 0
EXIT_PART_DIED = 1
EXIT_NOT_STARTED = 2

_STALE_BLOB_SECONDS = 3600.0
_WATCH_SECONDS = 1.0
_LOAD_SECONDS = 0.25
_LOCK_SECONDS = 10.0
_LOCK_PAUSE_SECONDS = 0.1
_SPARE_SLOTS = 8
_OWN_SLOTS = "gateway"


class GatewayBusyError(OSError):
    """Another gateway runs on the same data folder."""


class Gateway:
    """Storage SCP, outbox and publisher over one data folder.

    Parameters
    ----------
    settings : GatewaySettings
        Where and how.
    settlement : SettlementCheck or None
        See ``Publisher``.
    clock : callable, optional
        Returns the present, UTC; it stamps ``received_at``.

    Raises
    ------
    OSError
        If it cannot start; the message says what to do. Nothing is left running then.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        settlement: SettlementCheck | None = None,
        *,
        clock: Callable[[], datetime] | None = None,
    ) -> None:
        self._settings = settings
        self._clock = clock or _utc_now
        self.metrics = Metrics()
        self._refusing = ""
        with contextlib.ExitStack() as undo:
            lock = undo.enter_context(_lock(settings.gateway_dir))
            self._build(settings, settlement, lock, undo)
            self._undo = undo.pop_all()

    def _build(
        self,
        settings: GatewaySettings,
        settlement: SettlementCheck | None,
        lock: IO[bytes],
        undo: contextlib.ExitStack,
    ) -> None:
        # Everything closes in the opposite order: what receives first, what it needs last.
        self.entities = entities_of(settings)
        tls = tls_of(settings)
        store = BlobStore(settings.blobs)
        # No gateway but this one writes here, yet other rooms do: spare what may be theirs.
        store.sweep(older_than_seconds=_STALE_BLOB_SECONDS, now_seconds=time.time())
        self.outbox = Outbox(settings.gateway_dir / "outbox.sqlite3")
        undo.callback(self.outbox.close)
        self.publisher = Publisher(
            self.outbox,
            bootstrap_servers=settings.kafka_bootstrap_servers,
            log_is_durable=settings.log_is_durable,
            settlement=settlement,
            settle_interval_seconds=settings.settle_interval_seconds,
            metrics=self.metrics,
        )
        undo.callback(self._stop_publisher)
        self.filer = Filer(
            settings.inbox_dir, store, self.outbox, self.metrics, on_filed=self.publisher.notify
        )
        if recovered := self.filer.recover():
            _log.info("inbox-recovered", instances=recovered)
        undo.callback(self.filer.stop)
        self.commitment = CommitmentService(
            self.outbox,
            store,
            find_peer=self._find_peer,
            clock=self._clock,
            registry=self.metrics.registry,
        )
        undo.callback(self.commitment.stop, settings.shutdown_seconds)
        inbox = Inbox(settings.inbox_dir, token=_OWN_SLOTS, spare=_SPARE_SLOTS)
        undo.callback(inbox.close)
        self._receiver = Receiver(
            inbox,
            uri=store.uri,
            on_arrival=self._arrived,
            clock=self._clock,
            max_dataset_bytes=settings.dicom_max_dataset_bytes,
            pressure=lambda: self._refusing,
        )
        self.filer.start()
        self.commitment.start()
        self.scp: NativeScp | StorageScp
        if settings.dicom_receive_path == "native":
            self.scp = NativeScp(
                settings,
                entities=self.entities,
                commitment=self.commitment,
                filer=self.filer,
                on_arrival=self._arrived,
                metrics=self.metrics,
                keep_open=lock,
            )
        else:
            self.scp = StorageScp(
                settings,
                StoreHandler(self._receiver, self._entity_of, self.metrics),
                entities=self.entities,
                tls=tls,
                on_action=ActionHandler(self.commitment.handle_action, self._requester_of),
            )
        undo.callback(self.scp.stop, settings.shutdown_seconds)
        self.stow: StowServer | None = None
        if settings.stow_port is not None:
            self.stow = self._serve_stow(settings, settings.stow_port, tls)
            undo.callback(self.stow.close, settings.shutdown_seconds)
        self._show_metrics()
        self.metrics_server = None
        if settings.metrics_port is not None:
            self.metrics_server = MetricsServer(
                self.metrics, self.health, host=settings.metrics_host, port=settings.metrics_port
            )
            undo.callback(self.metrics_server.close)
        self._watch = threading.Thread(target=self._watch_load, name="watermarks", daemon=True)
        self._closing = threading.Event()
        undo.callback(self._closing.set)
        self._watch.start()
        self.publisher.start()

    def _show_metrics(self) -> None:
        shown = self.metrics.outbox_records
        shown.labels("pending").set_function(lambda: self.outbox.counts().pending)
        shown.labels("published").set_function(lambda: self.outbox.counts().published)
        self.metrics.associations.set_function(lambda: self.scp.associations)
        self.metrics.inbox_instances.set_function(lambda: self.filer.waiting[0])
        self.metrics.inbox_bytes.set_function(lambda: self.filer.waiting[1])
        self.metrics.refusing.set_function(lambda: float(bool(self._refusing)))

    def _stop_publisher(self) -> None:
        if self.publisher.is_running:
            self.publisher.stop(self._settings.shutdown_seconds)

    def _arrived(self, arrival: Arrival) -> None:
        self.metrics.durable_seconds.observe(arrival.durable_seconds)
        self.metrics.received_bytes.inc(arrival.arrived.size_bytes)
        self.filer.submit(arrival)

    def _entity_of(self, assoc: Any) -> Entity:
        assert isinstance(self.scp, StorageScp)
        return self.scp.entity_of(assoc)

    def _requester_of(self, assoc: Any) -> Requester:
        facts = association_of(assoc)
        return Requester(
            ae_title=facts.calling_ae_title,
            own_ae_title=facts.called_ae_title,
            tenant=self._entity_of(assoc).tenant,
            association_id=facts.association_id,
        )

    def _serve_stow(
        self, settings: GatewaySettings, port: int, tls: ssl.SSLContext | None
    ) -> StowServer:
        entity = stow_entity(settings, self.entities)
        credentials = settings.stow_credentials_file
        return StowServer(
            self._receiver,
            host=settings.stow_host,
            port=port,
            tenant=entity.tenant,
            dataset_id=entity.dataset_id,
            metrics=self.metrics,
            ssl_context=tls,
            credentials=None if credentials is None else read_credentials(credentials),
            allowed_origins=frozenset(settings.stow_allowed_origins),
            admit=entity.check_instance,
            limits=StowLimits(
                max_requests=settings.stow_max_requests,
                max_request_bytes=settings.stow_max_request_bytes,
                max_parts=settings.stow_max_parts,
            ),
        )

    def _find_peer(self, requester: Requester) -> CommitmentPeer | None:
        # Only the entity that was asked: no tenant's report goes to another tenant's host.
        entity = self.entities.called(requester.own_ae_title)
        peer = entity.commitment.get(requester.ae_title)
        if peer is None:
            return None
        tls = client_tls_of(self._settings) if peer.tls else None
        return CommitmentPeer(requester.ae_title, peer.host, peer.port, tls)

    def _watch_load(self) -> None:
        settings = self._settings
        marks = Watermarks(
            min_free_bytes=settings.min_free_bytes,
            resume_free_bytes=settings.resume_free_bytes,
            max_inbox_bytes=settings.max_inbox_bytes,
            max_outbox_records=settings.max_outbox_records,
        )
        while not self._closing.wait(_LOAD_SECONDS):
            try:
                free_bytes = shutil.disk_usage(settings.inbox_dir).free
            except OSError as error:
                _log.error("inbox-away", error=str(error))
                continue
            self.metrics.disk_free_bytes.set(free_bytes)
            load = Load(free_bytes, self.filer.waiting[1], self.outbox.counts().pending)
            refusing = marks.pressure(load, is_refusing=bool(self._refusing))
            if refusing != self._refusing:
                _log.warning(
                    "refusing" if refusing else "taking-again", why=refusing, **asdict(load)
                )
                self._refusing = refusing
                if isinstance(self.scp, NativeScp):
                    self.scp.set_pressure(refusing)

    @property
    def port(self) -> int:
        """TCP port of the Storage SCP."""
        return self.scp.port

    def health(self) -> tuple[bool, dict[str, Any]]:
        """Whether every part lives, and details.

        A log that is away is no illness of the gateway: senders get their Success all the same.
        """
        parts = {
            "scp": self.scp.is_running,
            "filer": self.filer.is_running,
            "outbox": self.outbox.is_running,
            "publisher": self.publisher.is_running,
            "commitment": self.commitment.is_running,
        }
        if self.stow is not None:
            parts["stow"] = self.stow.is_running
        counts = self.outbox.counts()
        return all(parts.values()), {
            "parts": parts,
            "log": self.publisher.state,
            "pending": counts.pending,
            "published": counts.published,
            "inbox": self.filer.waiting[0],
            "refusing": self._refusing,
            "dicom_port": self.port,
        }

    def stop(self) -> None:
        """Let associations end, file and publish what came, each for a bounded time; then close."""
        self._undo.close()

    def __enter__(self) -> Gateway:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()


def serve(settings: GatewaySettings, settlement: SettlementCheck | None = None) -> int:
    """Run a gateway until SIGTERM or SIGINT.

    Parameters
    ----------
    settings : GatewaySettings
        Where and how.
    settlement : SettlementCheck or None
        Tells which files have their row, when the log is not durable.

    Returns
    -------
    int
        Exit code: 0 stopped as asked, 1 a part of it died, 2 it could not start.
    """
    configure_logs()
    asked = threading.Event()
    previous = {
        number: signal.signal(number, lambda *_: asked.set())
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        try:
            gateway = Gateway(settings, settlement)
        except (OSError, EntitiesError) as error:
            _log.error("gateway-not-started", error=str(error))
            return EXIT_NOT_STARTED
        for warning in gateway.entities.warnings():
            _log.warning("open-to-everyone", warning=warning)
        _log.info(
            "gateway-listening",
            ae_titles=sorted(gateway.entities.ae),
            receive_path=settings.dicom_receive_path,
            host=settings.dicom_host,
            port=gateway.port,
            tls=settings.dicom_tls_certificate is not None,
            stow_port=gateway.stow.port if gateway.stow else None,
            metrics_port=gateway.metrics_server.port if gateway.metrics_server else None,
            bootstrap_servers=settings.kafka_bootstrap_servers,
            pending=gateway.outbox.counts().pending,
        )
        healthy = True
        while healthy and not asked.wait(_WATCH_SECONDS):
            healthy, details = gateway.health()
            if not healthy:
                _log.error("gateway-part-died", **details)
        gateway.stop()
        _log.info("gateway-stopped", pending=gateway.outbox.counts().pending)
        return EXIT_STOPPED if healthy else EXIT_PART_DIED
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _lock(folder: Path) -> IO[bytes]:
    folder.mkdir(parents=True, exist_ok=True)
    handle = (folder / "lock").open("wb")
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            # The receive processes of a gateway that was killed end within moments.
            if time.monotonic() < deadline:
                time.sleep(_LOCK_PAUSE_SECONDS)
                continue
        else:
            return handle
        handle.close()
        msg = (
            f"another gateway runs on {folder}; stop it, or set BIODATAMINE_DATA_DIR to another "
            "folder"
        )
        raise GatewayBusyError(msg)


def _utc_now() -> datetime:
    return datetime.now(timezone.utc)
