"""The stack of one machine: which services, where, in which order, and running them."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from deploy.embedded.broker import DEFAULT_RECYCLE_BYTES, tansu_spec
from deploy.embedded.clickhouse_service import DATABASE, USER, clickhouse_password, clickhouse_spec
from deploy.embedded.environment import PROJECT_ROOT, child_environment, python_module
from deploy.embedded.errors import StackError
from deploy.embedded.kafka import DEFAULT_HEAP, KafkaNode, find_kafka, kafka_spec
from deploy.embedded.ports import LOOPBACK, PortBook, PortRequest
from deploy.embedded.probes import http_ready
from deploy.embedded.service import Action, ServiceSpec
from deploy.embedded.state import Addresses, StackLock, end_leftovers, run_folder
from deploy.embedded.supervisor import OnStatus, Supervisor
from deploy.embedded.triton import triton_spec

DICOM_PORT = 11112
"""Port of the gateway unless it is taken: registered for DICOM (IANA)."""

SERVICES = ("broker", "clickhouse", "triton", "worker", "gateway")
BROKERS = ("embedded", "kafka")

Hook = Callable[[Addresses], Awaitable[None]]
IdleCheck = Callable[[Addresses], Awaitable[bool]]


@dataclass(frozen=True)
class Application:
    """A process of ours, which the stack runs without importing it.

    Parameters
    ----------
    name : str
        ``worker`` or ``gateway``.
    argv : tuple of str
        Command; it reads the BIODATAMINE_ variables.
    depends_on : tuple of str
        Parts that are ready before it starts, of those that run.
    env : mapping
        Further variables.
    ready_path : str
        Path on its metrics port that answers over HTTP once it serves.
    stop_grace_seconds : float
        How long it may take to finish what it has in hand.
    """

    name: str
    argv: tuple[str, ...]
    depends_on: tuple[str, ...] = ("broker", "clickhouse")
    env: Mapping[str, str] = field(default_factory=dict)
    ready_path: str = "/healthz"
    stop_grace_seconds: float = 20.0


def default_applications() -> tuple[Application, ...]:
    """Name the commands of the worker and the gateway.

    Neither waits for Triton: header facts do not need models.
    """
    return (
        Application(name="worker", argv=python_module("streams.cli", "worker")),
        Application(name="gateway", argv=python_module("streams.cli", "gateway", "serve")),
    )


@dataclass(frozen=True)
class StackOptions:
    """What to run and where.

    Parameters
    ----------
    data_dir : Path
        The one folder that everything is written to.
    only : tuple of str
        Parts to run, of `SERVICES`; empty for all.
    broker : str
        ``embedded`` (in memory) or ``kafka`` (a durable Apache Kafka node).
    kafka_home, kafka_heap : path, str
        The Apache Kafka distribution (None: what KAFKA_HOME names) and JVM options.
    kafka_port, clickhouse_port, dicom_port : int, optional
        Ports asked for; None and 0 leave the choice to the stack.
    triton_http_port, triton_grpc_port, triton_metrics_port : int, optional
        Likewise.
    worker_metrics_port, gateway_metrics_port : int, optional
        Likewise.
    dicom_host, dicom_ae_title : str
        Where the gateway listens and what it calls itself.
    model_repository : Path
        Triton's models.
    triton_env : mapping
        Variables for the models.
    blob_url : str
        Blob store; empty for ``blobs`` in the data folder.
    applications : tuple of Application
        The worker and the gateway.
    after_ready : mapping of str to callable
        By part: run with the addresses each time that the part becomes ready, before what depends
        on it starts. Makes topics, migrates tables.
    broker_idle : callable, optional
        Whether the embedded broker may be restarted now to free its memory, since nothing is in
        flight. Without it the broker is never recycled.
    broker_recycle_above_bytes : int
        Resident memory from which on that is asked.
    """

    data_dir: Path
    only: tuple[str, ...] = ()
    broker: str = "embedded"
    kafka_home: Path | None = None
    kafka_heap: str = DEFAULT_HEAP
    kafka_port: int | None = None
    clickhouse_port: int | None = None
    triton_http_port: int | None = None
    triton_grpc_port: int | None = None
    triton_metrics_port: int | None = None
    dicom_port: int | None = None
    worker_metrics_port: int | None = None
    gateway_metrics_port: int | None = None
    dicom_host: str = LOOPBACK
    dicom_ae_title: str = "BIODATAMINE"
    model_repository: Path = PROJECT_ROOT / "model_repository"
    triton_env: Mapping[str, str] = field(default_factory=dict)
    blob_url: str = ""
    applications: tuple[Application, ...] = field(default_factory=default_applications)
    after_ready: Mapping[str, Hook] = field(default_factory=dict)
    broker_idle: IdleCheck | None = None
    broker_recycle_above_bytes: int = DEFAULT_RECYCLE_BYTES

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the parts to run, in order.

        Raises
        ------
        StackError
            On a name that is none.
        """
        unknown = [name for name in self.only if name not in SERVICES]
        if unknown:
            msg = f"--only {','.join(unknown)}: no such part; there are {', '.join(SERVICES)}"
            raise StackError(msg)
        return tuple(name for name in SERVICES if not self.only or name in self.only)


@dataclass(frozen=True)
class StackPlan:
    """Services ready to be supervised.

    Parameters
    ----------
    specs : list of ServiceSpec
        The services.
    addresses : Addresses
        Where they will be.
    """

    specs: list[ServiceSpec]
    addresses: Addresses


def plan_stack(options: StackOptions) -> StackPlan:
    """Choose ports and describe every service.

    Parameters
    ----------
    options : StackOptions
        What to run.

    Returns
    -------
    StackPlan
        Services and their addresses; the ports are remembered for the next time.

    Raises
    ------
    StackError
        On an unknown part, a port that is taken, or software that is missing.
    """
    parts = options.parts
    if options.broker not in BROKERS:
        msg = f"--broker {options.broker}: no such broker; there are {', '.join(BROKERS)}"
        raise StackError(msg)
    data_dir = options.data_dir.absolute()
    run_folder(data_dir).mkdir(parents=True, exist_ok=True)
    book = PortBook(run_folder(data_dir) / "ports.json")
    ports = {
        request.key: book.claim(request)
        for part in parts
        for request in _port_requests(part, options)
    }
    book.save()
    addresses = _addresses(options, data_dir, ports)
    specs = [_spec(part, options, data_dir, ports, addresses) for part in parts]
    return StackPlan(specs=specs, addresses=addresses)


def build_stack(options: StackOptions) -> list[ServiceSpec]:
    """Describe every service of a stack; see `plan_stack`."""
    return plan_stack(options).specs


async def run_stack(
    options: StackOptions,
    on_status: OnStatus | None = None,
    stop: asyncio.Event | None = None,
    *,
    on_plan: Callable[[StackPlan], None] | None = None,
    ready: asyncio.Event | None = None,
    handle_signals: bool = True,
) -> None:
    """Run a stack until it is told to stop; nothing of it runs when this returns or raises.

    Parameters
    ----------
    options : StackOptions
        What to run.
    on_status : callable, optional
        Called with the list of statuses, at each change and about once a second.
    stop : asyncio.Event, optional
        Ends it in good order when set.
    on_plan : callable, optional
        Called once, with the addresses, before anything starts.
    ready : asyncio.Event, optional
        Set when every service has become ready for the first time.
    handle_signals : bool
        Whether SIGINT, SIGTERM and SIGHUP stop it, and a second one kills it.

    Raises
    ------
    StackError
        When it cannot start, or a service kept dying.
    """
    stop = stop or asyncio.Event()
    data_dir = options.data_dir.absolute()
    with StackLock(data_dir):
        # Before ports are chosen: what a killed stack left running may still hold them.
        await asyncio.to_thread(end_leftovers, data_dir)
        plan = await asyncio.to_thread(plan_stack, options)
        if on_plan is not None:
            on_plan(plan)
        supervisor = Supervisor(plan.specs, data_dir, addresses=plan.addresses, on_status=on_status)
        with _signals(supervisor, stop) if handle_signals else contextlib.nullcontext():
            announce = asyncio.ensure_future(_announce(supervisor, ready))
            try:
                await supervisor.run(stop)
            finally:
                announce.cancel()


async def _announce(supervisor: Supervisor, ready: asyncio.Event | None) -> None:
    if ready is not None:
        await supervisor.all_ready.wait()
        ready.set()


@contextlib.contextmanager
def _signals(supervisor: Supervisor, stop: asyncio.Event) -> Iterator[None]:
    def handle() -> None:
        if stop.is_set():
            supervisor.kill_now()  # asked twice: now
        stop.set()

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    loop = asyncio.get_running_loop()
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    for number in numbers:
        loop.add_signal_handler(number, handle)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def _port_requests(part: str, options: StackOptions) -> list[PortRequest]:
    by_part = {
        "broker": [("kafka", "the broker (Kafka protocol)", 9092)],
        "clickhouse": [("clickhouse", "ClickHouse (HTTP)", 8123)],
        "triton": [
            ("triton_http", "Triton (HTTP)", 8000),
            ("triton_grpc", "Triton (gRPC)", 8001),
            ("triton_metrics", "Triton (metrics)", 8002),
        ],
        "worker": [("worker_metrics", "the worker (metrics)", 9464)],
        "gateway": [
            ("dicom", "the gateway (DICOM)", DICOM_PORT),
            ("gateway_metrics", "the gateway (metrics)", 9465),
        ],
    }
    requests = by_part[part]
    if part == "broker" and options.broker == "kafka":
        requests = [*requests, ("kafka_controller", "Kafka's controller", 9093)]
    return [
        PortRequest(
            key=key,
            use=use,
            usual=usual,
            asked=getattr(options, f"{key}_port", None),
            option=f"--{key.replace('_', '-')}-port",
        )
        for key, use, usual in requests
    ]


def _addresses(options: StackOptions, data_dir: Path, ports: Mapping[str, int]) -> Addresses:
    def at(key: str, form: str) -> str | None:
        return form.format(f"{LOOPBACK}:{ports[key]}") if key in ports else None

    has_database = "clickhouse" in ports
    kept = run_folder(data_dir) / "clickhouse-password"
    return Addresses(
        kafka_bootstrap_servers=at("kafka", "{}"),
        log_is_durable=options.broker == "kafka",
        clickhouse_url=at("clickhouse", "http://{}"),
        clickhouse_user=USER if has_database else None,
        clickhouse_password=clickhouse_password(kept) if has_database else None,
        clickhouse_database=DATABASE if has_database else None,
        triton_http_url=at("triton_http", "http://{}"),
        triton_grpc=at("triton_grpc", "{}"),
        triton_metrics_url=at("triton_metrics", "http://{}/metrics"),
        dicom_host=options.dicom_host if "dicom" in ports else None,
        dicom_port=ports.get("dicom"),
        dicom_ae_title=options.dicom_ae_title if "dicom" in ports else None,
        worker_metrics_url=at("worker_metrics", "http://{}/metrics"),
        gateway_metrics_url=at("gateway_metrics", "http://{}/metrics"),
        blob_url=options.blob_url or str(data_dir / "blobs"),
    )


def _spec(
    part: str,
    options: StackOptions,
    data_dir: Path,
    ports: Mapping[str, int],
    addresses: Addresses,
) -> ServiceSpec:
    hook = options.after_ready.get(part)
    after_ready: Action | None = None if hook is None else partial(hook, addresses)
    if part == "broker":
        return _broker_spec(options, data_dir, ports, addresses, after_ready)
    if part == "clickhouse":
        return clickhouse_spec(
            folder=data_dir / "clickhouse",
            port=ports["clickhouse"],
            user=str(addresses.clickhouse_user),
            password=str(addresses.clickhouse_password),
            after_ready=after_ready,
        )
    if part == "triton":
        return triton_spec(
            data_dir=data_dir,
            model_repository=options.model_repository,
            http_port=ports["triton_http"],
            grpc_port=ports["triton_grpc"],
            metrics_port=ports["triton_metrics"],
            after_ready=after_ready,
            extra_env=options.triton_env,
        )
    return _application_spec(
        part,
        options,
        metrics_port=ports[f"{part}_metrics"],
        addresses=addresses,
        after_ready=after_ready,
    )


def _broker_spec(
    options: StackOptions,
    data_dir: Path,
    ports: Mapping[str, int],
    addresses: Addresses,
    after_ready: Action | None,
) -> ServiceSpec:
    if options.broker == "kafka":
        # Durable: its clients reconnect and find everything as it was.
        return kafka_spec(
            kafka_home=find_kafka(options.kafka_home),
            folder=data_dir / "kafka",
            node=KafkaNode(1, ports["kafka"], ports["kafka_controller"]),
            heap=options.kafka_heap,
            after_ready=after_ready,
        )
    idle = options.broker_idle
    return tansu_spec(
        port=ports["kafka"],
        after_ready=after_ready,
        # The worker's offsets are gone with the log. The gateway reconnects by itself and must not
        # be interrupted: a PACS may be sending.
        restart_dependents=("worker",) if "worker" in options.parts else (),
        recycle_above_rss_bytes=options.broker_recycle_above_bytes,
        recycle_when=None if idle is None else partial(idle, addresses),
    )


def _application_spec(
    part: str,
    options: StackOptions,
    *,
    metrics_port: int,
    addresses: Addresses,
    after_ready: Action | None,
) -> ServiceSpec:
    application = next((each for each in options.applications if each.name == part), None)
    if application is None:
        msg = f"the stack does not know how to start {part}: name its command in applications"
        raise StackError(msg)
    variables = {
        **application_variables(addresses, options.data_dir),
        "BIODATAMINE_METRICS_PORT": str(metrics_port),
        **application.env,
    }
    return ServiceSpec(
        name=part,
        argv=application.argv,
        env=child_environment(variables),
        address=_application_address(part, addresses, metrics_port),
        depends_on=tuple(name for name in application.depends_on if name in options.parts),
        # Any answer will do: 503 names a service that is away; a restart would not bring it back.
        ready=http_ready(
            f"http://{LOOPBACK}:{metrics_port}{application.ready_path}", any_status=True
        ),
        after_ready=after_ready,
        ready_timeout_seconds=120.0,
        stop_grace_seconds=application.stop_grace_seconds,
    )


def _application_address(part: str, addresses: Addresses, metrics_port: int) -> str:
    if part == "gateway":
        return f"{addresses.dicom_ae_title}@{addresses.dicom_host}:{addresses.dicom_port}"
    return f"http://{LOOPBACK}:{metrics_port}/metrics"


def application_variables(addresses: Addresses, data_dir: Path) -> dict[str, str]:
    """Write a stack's addresses as the environment variables of our settings.

    Parameters
    ----------
    addresses : Addresses
        Where the stack's parts are; of those that it does not run, nothing is said.
    data_dir : Path
        Data folder.
    """
    values: dict[str, object] = {
        "DATA_DIR": data_dir.absolute(),
        "BLOB_URL": addresses.blob_url,
        "KAFKA_BOOTSTRAP_SERVERS": addresses.kafka_bootstrap_servers,
        "CLICKHOUSE_URL": addresses.clickhouse_dsn,
        "TRITON_URL": addresses.triton_grpc,
        "DICOM_HOST": addresses.dicom_host,
        "DICOM_PORT": addresses.dicom_port,
        "DICOM_AE_TITLE": addresses.dicom_ae_title,
    }
    if addresses.kafka_bootstrap_servers is not None:
        values["LOG_IS_DURABLE"] = str(addresses.log_is_durable).lower()
    return {f"BIODATAMINE_{key}": str(value) for key, value in values.items() if value is not None}
