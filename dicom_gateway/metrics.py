"""The gateway's metrics, all in one list, and the small HTTP server that shows them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, make_wsgi_app

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """Everything that the gateway counts.

    Parameters
    ----------
    registry : CollectorRegistry, optional
        Where the metrics are registered; by default a registry of their own.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self.associations = Gauge(
            "biodatamine_gateway_associations", "Associations that are open", registry=self.registry
        )
        self.instances = Counter(
            "biodatamine_gateway_instances",
            "Instances answered with Success: new, same (seen before), conflict (other bytes)",
            ["disposition"],
            registry=self.registry,
        )
        self.received_bytes = Counter(
            "biodatamine_gateway_received_bytes",
            "Dataset bytes of instances answered with Success",
            registry=self.registry,
        )
        self.responses = Counter(
            "biodatamine_gateway_responses",
            "C-STORE responses by DICOM status and reason",
            ["status", "reason"],
            registry=self.registry,
        )
        self.durable_seconds = Histogram(
            "biodatamine_gateway_durable_seconds",
            "Seconds of the fsync that makes an instance and its record durable",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.inbox_instances = Gauge(
            "biodatamine_gateway_inbox_instances",
            "Instances that are durable and not yet in the ledger and the blob store",
            registry=self.registry,
        )
        self.inbox_bytes = Gauge(
            "biodatamine_gateway_inbox_bytes", "Their bytes", registry=self.registry
        )
        self.disk_free_bytes = Gauge(
            "biodatamine_gateway_disk_free_bytes",
            "Free space where instances arrive",
            registry=self.registry,
        )
        self.refusing = Gauge(
            "biodatamine_gateway_refusing",
            "1 while C-STORE is answered with 0xA700 since a watermark is passed",
            registry=self.registry,
        )
        self.outbox_records = Gauge(
            "biodatamine_gateway_outbox_records",
            "Records that are pending, or published and not settled",
            ["state"],
            registry=self.registry,
        )
        self.published = Counter(
            "biodatamine_gateway_published",
            "Events acknowledged by the log, repeated ones included",
            registry=self.registry,
        )
        self.publish_failures = Counter(
            "biodatamine_gateway_publish_failures",
            "Sessions with the log that ended in an error",
            ["error"],
            registry=self.registry,
        )
        self.settled = Counter(
            "biodatamine_gateway_settled",
            "Records whose row or dead letter was found",
            registry=self.registry,
        )
        self.log_losses = Counter(
            "biodatamine_gateway_log_losses",
            "Times that the log had forgotten what it had acknowledged",
            registry=self.registry,
        )

    def answered(self, status: int, reason: str) -> None:
        """Count a C-STORE response."""
        self.responses.labels(f"0x{status:04X}", reason).inc()


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _SilentHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: a scrape every few seconds is no news."""


class MetricsServer:
    """Serves ``/metrics`` (Prometheus) and ``/healthz`` (JSON; 503 when not healthy).

    Parameters
    ----------
    metrics : Metrics
        What is shown.
    health : callable
        Returns whether the gateway is healthy, and details for the body.
    host, port : str, int
        Where it listens; port 0 takes a free one.
    """

    def __init__(
        self,
        metrics: Metrics,
        health: Callable[[], tuple[bool, dict[str, Any]]],
        *,
        host: str,
        port: int,
    ) -> None:
        shown: Callable[..., Iterable[bytes]] = make_wsgi_app(metrics.registry)

        def application(
            environ: dict[str, Any], start_response: Callable[..., Any]
        ) -> Iterable[bytes]:
            path = environ.get("PATH_INFO")
            if path == "/metrics":
                return shown(environ, start_response)
            if path == "/healthz":
                healthy, details = health()
                start_response(
                    "200 OK" if healthy else "503 Service Unavailable",
                    [("Content-Type", "application/json")],
                )
                return [json.dumps({"healthy": healthy, **details}).encode()]
            start_response("404 Not Found", [("Content-Type", "text/plain")])
            return [b"try /metrics or /healthz\n"]

        self._server = make_server(
            host, port, application, server_class=_Server, handler_class=_SilentHandler
        )
        self.port = int(self._server.server_port)
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="metrics", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
