"""The gateway as a whole: started, watched and stopped in the right order."""

from __future__ import annotations

import fcntl
import signal
import threading
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any

import structlog

from dicom_gateway.handlers import Receiver, StoreHandler
from dicom_gateway.logs import configure_logs
from dicom_gateway.metrics import Metrics, MetricsServer
from dicom_gateway.outbox import Outbox
from dicom_gateway.publisher import Publisher, SettlementCheck
from dicom_gateway.scp import StorageScp
from dicom_gateway.settings import GatewaySettings
from streams.storage.blobs import BlobStore

_log = structlog.get_logger("dicom_gateway")

EXIT_STOPPED = 0
EXIT_PART_DIED = 1
EXIT_NOT_STARTED = 2

_STALE_BLOB_SECONDS = 3600.0
_WATCH_SECONDS = 1.0


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
        self.metrics = Metrics()
        undo: list[Callable[[], object]] = []
        try:
            self._lock = _lock(settings.gateway_dir)
            undo.append(self._lock.close)
            store = BlobStore(settings.blobs)
            # No gateway but this one writes here, yet other rooms do: spare what may be theirs.
            store.sweep(older_than_seconds=_STALE_BLOB_SECONDS, now_seconds=time.time())
            self.outbox = Outbox(settings.gateway_dir / "outbox.sqlite3", on_append=self._on_append)
            undo.append(self.outbox.close)
            self.publisher = Publisher(
                self.outbox,
                bootstrap_servers=settings.kafka_bootstrap_servers,
                log_is_durable=settings.log_is_durable,
                settlement=settlement,
                settle_interval_seconds=settings.settle_interval_seconds,
                metrics=self.metrics,
            )
            shown = self.metrics.outbox_records
            shown.labels("pending").set_function(lambda: self.outbox.counts().pending)
            shown.labels("published").set_function(lambda: self.outbox.counts().published)
            receiver = Receiver(
                store,
                self.outbox,
                tenant=settings.tenant,
                dataset_id=settings.dicom_dataset_id,
                clock=clock or _utc_now,
                metrics=self.metrics,
            )
            self.scp = StorageScp(settings, StoreHandler(receiver, self.metrics), self.metrics)
            undo.append(lambda: self.scp.stop(0.0))
            self.metrics_server = (
                None
                if settings.metrics_port is None
                else MetricsServer(
                    self.metrics,
                    self.health,
                    host=settings.metrics_host,
                    port=settings.metrics_port,
                )
            )
        except BaseException:
            for step in reversed(undo):
                step()
            raise
        self.publisher.start()

    def _on_append(self) -> None:
        publisher = getattr(self, "publisher", None)
        if publisher is not None:
            publisher.notify()

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
            "outbox": self.outbox.is_running,
            "publisher": self.publisher.is_running,
        }
        counts = self.outbox.counts()
        return all(parts.values()), {
            "parts": parts,
            "log": self.publisher.state,
            "pending": counts.pending,
            "published": counts.published,
            "dicom_port": self.port,
        }

    def stop(self) -> None:
        """Let associations end, drain the outbox, both for a bounded time; then close."""
        self.scp.stop(self._settings.shutdown_seconds)
        self.publisher.stop(self._settings.shutdown_seconds)
        self.outbox.close()
        if self.metrics_server is not None:
            self.metrics_server.close()
        self._lock.close()

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
        except OSError as error:
            _log.error("gateway-not-started", error=str(error))
            return EXIT_NOT_STARTED
        _log.info(
            "gateway-listening",
            ae_title=settings.dicom_ae_title,
            host=settings.dicom_host,
            port=gateway.port,
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
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        handle.close()
        msg = (
            f"another gateway runs on {folder}; stop it, or set BIODATAMINE_DATA_DIR to another "
            "folder"
        )
        raise GatewayBusyError(msg) from None
    return handle


def _utc_now() -> datetime:
    return datetime.now(timezone.utc)
