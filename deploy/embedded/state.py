"""What a running stack tells the world: one JSON file in its data folder, and a lock."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.embedded.errors import AlreadyRunningError
from deploy.embedded.files import write_atomically


@dataclass(frozen=True)
class Addresses:
    """Where the parts of a stack are; None for a part that it does not run.

    Parameters
    ----------
    kafka_bootstrap_servers : str, optional
        host:port of the broker.
    log_is_durable : bool
        Whether the broker keeps its log over a restart.
    clickhouse_url, clickhouse_user, clickhouse_password, clickhouse_database : str, optional
        ClickHouse's HTTP interface; the URL carries no credentials.
    triton_http_url, triton_grpc, triton_metrics_url : str, optional
        Triton: URL, host:port, URL.
    dicom_host, dicom_port, dicom_ae_title : str, int, str, optional
        The Storage SCP.
    worker_metrics_url, gateway_metrics_url : str, optional
        Prometheus metrics.
    blob_url : str, optional
        The blob store.
    """

    kafka_bootstrap_servers: str | None = None
    log_is_durable: bool = False
    clickhouse_url: str | None = None
    clickhouse_user: str | None = None
    clickhouse_password: str | None = None
    clickhouse_database: str | None = None
    triton_http_url: str | None = None
    triton_grpc: str | None = None
    triton_metrics_url: str | None = None
    dicom_host: str | None = None
    dicom_port: int | None = None
    dicom_ae_title: str | None = None
    worker_metrics_url: str | None = None
    gateway_metrics_url: str | None = None
    blob_url: str | None = None

    @property
    def clickhouse_dsn(self) -> str | None:
        """ClickHouse as one URL: ``http://USER:PASSWORD@HOST:PORT/DATABASE``."""
        if self.clickhouse_url is None:
            return None
        host = self.clickhouse_url.split("://", 1)[1]
        credentials = f"{self.clickhouse_user}:{self.clickhouse_password}"
        return f"http://{credentials}@{host}/{self.clickhouse_database}"


@dataclass(frozen=True)
class ServiceRecord:
    """One service as the state file shows it.

    Parameters
    ----------
    state, address : str
        As in the status table.
    pid, process_start : int, float, optional
        Process, and when the system started it (seconds of its own clock), which tells it from a
        later process with the same id.
    restarts : int
        How often it was started again.
    """

    state: str
    address: str = ""
    pid: int | None = None
    process_start: float | None = None
    restarts: int = 0


@dataclass(frozen=True)
class StackInfo:
    """A running stack.

    Parameters
    ----------
    pid, process_start : int, float, optional
        Its supervisor, and when the system started that.
    started_at : str
        When it came up, ISO 8601, UTC.
    data_dir : str
        Its data folder.
    addresses : Addresses
        Where its parts are.
    services : mapping
        Its services by name.
    """

    pid: int
    process_start: float | None
    started_at: str
    data_dir: str
    addresses: Addresses
    services: Mapping[str, ServiceRecord] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        """Whether every service is ready."""
        return all(service.state == "ready" for service in self.services.values())


def run_folder(data_dir: Path) -> Path:
    """Folder of the state, the lock and the remembered ports."""
    return data_dir / "run"


def state_path(data_dir: Path) -> Path:
    """Path of the state file."""
    return run_folder(data_dir) / "stack.json"


def process_start(pid: int) -> float | None:
    """When the system started a process; None when there is no such process.

    Parameters
    ----------
    pid : int
        Process id.

    Returns
    -------
    float or None
        Clock ticks since boot on Linux; elsewhere 0 for any live process.
    """
    try:
        # The name, in parentheses, may hold anything; field 22 counts from behind it (proc(5)).
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        if Path("/proc/self").exists():
            return None
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            pass
        return 0.0
    except OSError:
        return None
    if after_name[0] in "ZX":
        return None
    return float(after_name[19])


def is_alive(pid: int | None, started: float | None) -> bool:
    """Whether a process that was seen earlier still runs."""
    if pid is None or started is None:
        return False
    return process_start(pid) == started


def write_stack(info: StackInfo) -> None:
    """Write the state file."""
    content = json.dumps(dataclasses.asdict(info), indent=1).encode()
    write_atomically(state_path(Path(info.data_dir)), content)


def read_stack(data_dir: Path | str) -> StackInfo | None:
    """Find the stack that runs on a data folder.

    Parameters
    ----------
    data_dir : path
        Data folder.

    Returns
    -------
    StackInfo or None
        None when none runs; a state file that a killed stack left behind does not count.
    """
    info = _read(Path(data_dir))
    if info is None or not is_alive(info.pid, info.process_start):
        return None
    return info


class StackLock:
    """Holds a data folder for one supervisor; the system lets go of it when that dies.

    Parameters
    ----------
    data_dir : Path
        Data folder, made if need be.
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._descriptor: int | None = None

    def __enter__(self) -> StackLock:
        folder = run_folder(self._data_dir)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "stack.lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
            os.close(descriptor)
            msg = (
                f"a stack is already running on {self._data_dir} (process {owner}): "
                "use `biodatamine status` to see it, stop it, or give this one another --data-dir"
            )
            raise AlreadyRunningError(msg) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        self._descriptor = descriptor
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None


def end_leftovers(data_dir: Path, timeout_seconds: float = 5.0) -> list[str]:
    """Kill what a dead stack left running and forget its state. Call it with the lock held.

    Parameters
    ----------
    data_dir : Path
        Data folder.
    timeout_seconds : float
        How long to wait for the killed processes to vanish, so that their ports are free.

    Returns
    -------
    list of str
        Names of the services that were still running.
    """
    info = _read(data_dir)
    if info is None:
        return []
    left = {
        name: service
        for name, service in info.services.items()
        if is_alive(service.pid, service.process_start)
    }
    for service in left.values():
        if service.pid:  # group 0 would be our own
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(service.pid, signal.SIGKILL)
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline and any(
        is_alive(service.pid, service.process_start) for service in left.values()
    ):
        time.sleep(0.02)
    remove_stack(data_dir)
    return sorted(left)


def remove_stack(data_dir: Path) -> None:
    """Forget the state of a stack that has stopped."""
    state_path(data_dir).unlink(missing_ok=True)


def _read(data_dir: Path) -> StackInfo | None:
    try:
        content: dict[str, Any] = json.loads(state_path(data_dir).read_text())
        services = content.pop("services")
        addresses = content.pop("addresses")
        return StackInfo(
            **content,
            addresses=Addresses(**addresses),
            services={name: ServiceRecord(**service) for name, service in services.items()},
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
