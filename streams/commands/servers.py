"""Running things: the whole stack, a worker; making topics and tables."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from datetime import datetime, timezone
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.commands.common import DataDir, clear_errors, console, fail, load_settings, table

if TYPE_CHECKING:
    from deploy.embedded.service import ServiceStatus
    from deploy.embedded.stack import StackOptions, StackPlan
    from deploy.embedded.state import Addresses


class BrokerKind(str, Enum):
    """What `up` runs as the log."""

    embedded = "embedded"
    kafka = "kafka"


Only = Annotated[
    str, typer.Option(help="Parts to start, e.g. `broker,clickhouse`; all without it.")
]
Broker = Annotated[
    BrokerKind,
    typer.Option(help="`embedded` keeps the log in memory; `kafka` is Apache Kafka of KAFKA_HOME."),
]
Backbone = Annotated[str, typer.Option(help="timm backbone that embeds images.")]
Weights = Annotated[
    str, typer.Option(help="Its weights: a safetensors file, or `hub` to download them.")
]
Roots = Annotated[
    list[Path] | None,
    typer.Option("--ingest-root", help="Folder from which `ingest` may read; repeatable."),
]
Port = Annotated[int | None, typer.Option(min=1, max=65535)]


def up(
    data_dir: DataDir = None,
    only: Only = "",
    broker: Broker = BrokerKind.embedded,
    ingest_root: Roots = None,
    backbone: Backbone = "",
    weights: Weights = "",
    dicom_host: Annotated[str, typer.Option(help="Where the gateway listens.")] = "127.0.0.1",
    ae_title: Annotated[
        str, typer.Option(help="The gateway's AE title; by default of its settings or its file.")
    ] = "",
    dicom_port: Port = None,
    kafka_port: Port = None,
    clickhouse_port: Port = None,
    triton_http_port: Port = None,
    triton_grpc_port: Port = None,
) -> None:
    """Start everything on this machine and show how it is; Ctrl-C stops it.

    Parts: broker, clickhouse, triton, worker, gateway. All listen on 127.0.0.1 and write to one
    data folder only.
    """
    from deploy.embedded.stack import run_stack

    with clear_errors():
        settings = load_settings(data_dir)
        options = stack_options(
            settings.data_dir,
            only=tuple(part.strip() for part in only.split(",") if part.strip()),
            broker=broker.value,
            ingest_roots=tuple(ingest_root or ()),
            backbone=backbone,
            weights=weights,
            dicom_host=dicom_host,
            dicom_ae_title=ae_title or _own_ae_title(),
            dicom_port=dicom_port,
            kafka_port=kafka_port,
            clickhouse_port=clickhouse_port,
            triton_http_port=triton_http_port,
            triton_grpc_port=triton_grpc_port,
        )
        shown = StatusDisplay()
        with shown:
            asyncio.run(run_stack(options, shown.update, on_plan=shown.plan))
        console.print("stopped")


def _own_ae_title() -> str:
    """Name the entity by which this machine's own tools call the gateway."""
    from dicom_gateway import GatewaySettings
    from dicom_gateway.aes.entities_file import EntitiesError
    from dicom_gateway.listening import entities_of

    try:
        entities = entities_of(GatewaySettings())
    except EntitiesError as error:
        fail(str(error))
    return entities.default_ae_title or next(iter(entities.ae))


def stack_options(
    data_dir: Path,
    *,
    ingest_roots: Sequence[Path] = (),
    backbone: str = "",
    weights: str = "",
    **given: Any,
) -> StackOptions:
    """Describe the stack of this machine.

    Parameters
    ----------
    data_dir : Path
        Its data folder.
    ingest_roots : sequence of Path
        Folders from which ``ingest`` may read.
    backbone, weights : str
        The embedder; empty for the default one.
    given : dict
        Further fields of ``StackOptions``.
    """
    import json

    from deploy.embedded.environment import python_module
    from deploy.embedded.stack import Application, StackOptions
    from model_repository.render import render
    from model_repository.spec import DEFAULT_BACKBONE, EmbedderSpec

    spec = EmbedderSpec(
        backbone=backbone
        or os.environ.get("BIODATAMINE_EMBEDDER_BACKBONE", "")
        or DEFAULT_BACKBONE,
        weights=weights or os.environ.get("BIODATAMINE_EMBEDDER_WEIGHTS", ""),
    )
    models = render(data_dir.absolute() / "triton" / "models", spec)
    # A worker of this machine may be killed at any time: its partitions should be free soon.
    worker_env = {
        **_keep_memory(largest_mib=4, spare_mib=64),
        "BIODATAMINE_SESSION_TIMEOUT_SECONDS": "6",
        "BIODATAMINE_INGEST_ROOTS": json.dumps([str(root.absolute()) for root in ingest_roots]),
    }
    return StackOptions(
        data_dir=data_dir,
        model_repository=models.path,
        triton_env={**models.environment, **_keep_memory(largest_mib=64, spare_mib=256)},
        applications=(
            Application(name="worker", argv=python_module("streams.cli", "worker"), env=worker_env),
            Application(name="gateway", argv=python_module("streams.cli", "gateway", "serve")),
        ),
        after_ready={"broker": _make_topics, "clickhouse": _make_tables},
        broker_idle=_nothing_in_flight,
        **given,
    )


def _keep_memory(*, largest_mib: int, spare_mib: int) -> dict[str, str]:
    """Have glibc keep freed memory for the next image.

    By default each array of an image or a network's layer is mapped, zeroed page by page and
    unmapped again: 3,000 page faults and 4 ms of CPU an image in the embedder alone.

    Parameters
    ----------
    largest_mib : int
        Largest block that comes from the kept memory.
    spare_mib : int
        How much may be kept.
    """
    return {
        "MALLOC_MMAP_THRESHOLD_": str(largest_mib << 20),
        "MALLOC_TRIM_THRESHOLD_": str(spare_mib << 20),
    }


async def _make_topics(addresses: Addresses) -> None:
    from streams.runtime.topics import ensure_topics

    assert addresses.kafka_bootstrap_servers is not None
    await ensure_topics(addresses.kafka_bootstrap_servers)


async def _make_tables(addresses: Addresses) -> None:
    from streams.storage.clickhouse import ClickHouse
    from streams.storage.migrate import migrate as apply

    assert addresses.clickhouse_dsn is not None
    database = ClickHouse(addresses.clickhouse_dsn)
    try:
        await asyncio.to_thread(apply, database)
    finally:
        database.close()


async def _nothing_in_flight(addresses: Addresses) -> bool:
    from streams.agents.stages import TOPICS_BY_STAGE
    from streams.runtime.lag import consumer_lag
    from streams.runtime.retry import ServiceFaultError
    from streams.settings import Settings

    worker_id = Settings().worker_id
    groups = {f"{worker_id}-{stage}": topics for stage, topics in TOPICS_BY_STAGE.items()}
    assert addresses.kafka_bootstrap_servers is not None
    try:
        lags = await consumer_lag(addresses.kafka_bootstrap_servers, groups)
    except ServiceFaultError:
        return False
    return not any(count for lag in lags.values() for count in lag.values())


class StatusDisplay:
    """A live table of the stack; plain lines where the output is no terminal.

    Parameters
    ----------
    quiet : bool
        Whether to print changes of state only.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        from rich.live import Live

        self._live = (
            Live(console=console, auto_refresh=False) if console.is_terminal and not quiet else None
        )
        self._states: dict[str, str] = {}
        self._addresses: Addresses | None = None
        self._announced = quiet

    def __enter__(self) -> StatusDisplay:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live:
            self._live.stop()

    def plan(self, plan: StackPlan) -> None:
        """Learn where the parts will be."""
        self._addresses = plan.addresses

    def update(self, statuses: Sequence[ServiceStatus]) -> None:
        """Show how the parts are."""
        if self._live:
            self._live.update(self._render(statuses), refresh=True)
            return
        for status in statuses:
            if self._states.get(status.name) != status.state.value:
                self._states[status.name] = status.state.value
                note = f" ({status.last_error})" if status.last_error else ""
                console.print(f"{status.name}: {status.state.value} {status.address}{note}")
        if not self._announced and all(s.state.value == "ready" for s in statuses):
            self._announced = True
            console.print(self._hints())

    def _render(self, statuses: Sequence[ServiceStatus]) -> Any:
        from rich.console import Group

        now = datetime.now(timezone.utc)
        rows = [
            (
                s.name,
                s.state.value,
                s.address,
                f"{(now - s.since).total_seconds():.0f} s",
                f"{s.rss_bytes / 2**20:.0f} MB" if s.rss_bytes else "",
                f"{s.cpu_percent:.0f} %" if s.rss_bytes else "",
                s.restarts,
                s.last_error[:80],
            )
            for s in statuses
        ]
        names = ("service", "state", "address", "for", "memory", "CPU", "restarts", "note")
        shown = table("BioDataMine", names, rows)
        ready = all(s.state.value == "ready" for s in statuses)
        return Group(shown, self._hints() if ready else "starting ...")

    def _hints(self) -> str:
        where = self._addresses
        lines = []
        if where and where.dicom_port:
            from deploy.embedded.stack import DICOM_PORT

            if where.dicom_port != DICOM_PORT:
                lines.append(
                    f"The gateway listens on {where.dicom_port}, not on {DICOM_PORT}: it was asked "
                    "to, or another program has that port. A PACS must know."
                )
            lines.append(
                f"Send DICOM to AE title {where.dicom_ae_title} at {where.dicom_host}:"
                f"{where.dicom_port}, or: biodatamine send FOLDER"
            )
        lines.append("Look: biodatamine status, biodatamine datasets")
        lines.append("Ctrl-C stops everything.")
        return "\n".join(lines)


def worker(
    stages: Annotated[
        str, typer.Option(help="Stages to run, e.g. `sniff,store`; all without it.")
    ] = "",
    data_dir: DataDir = None,
) -> None:
    """Run a stream worker: ingest, sniff, analyze, store, dead-letters."""
    from streams.app import create_app, run
    from streams.runtime.logs import configure_logs

    with clear_errors():
        given: dict[str, Any] = {}
        if stages:
            given["worker_stages"] = tuple(name.strip() for name in stages.split(","))
        settings = load_settings(data_dir, **given)
        configure_logs(settings.log_level)
        status = asyncio.run(run(create_app(settings)))
    raise typer.Exit(status)


def topics(
    data_dir: DataDir = None,
    check: Annotated[bool, typer.Option("--check", help="Only look, make nothing.")] = False,
) -> None:
    """Make the topics that the broker lacks; stop where a partition count differs."""
    from schemas import TOPICS
    from streams.runtime.topics import ensure_topics

    with clear_errors():
        settings = load_settings(data_dir)
        lacking = asyncio.run(
            ensure_topics(
                settings.kafka_bootstrap_servers,
                replication_factor=settings.topic_replication_factor,
                create=not check,
            )
        )
    names = {topic.name for topic in lacking}
    word = "missing" if check else "made"
    rows = [
        (t.name, t.key, t.partitions, f"{t.retention_seconds // 86_400} days",
         word if t.name in names else "there", t.summary)
        for t in TOPICS.values()
    ]  # fmt: skip
    console.print(table("Topics", ("topic", "key", "partitions", "retention", "", "holds"), rows))
    if check and lacking:
        raise typer.Exit(1)


def migrate(data_dir: DataDir = None) -> None:
    """Bring ClickHouse's tables up to date; running it again changes nothing."""
    from streams.storage.clickhouse import ClickHouse
    from streams.storage.migrate import load
    from streams.storage.migrate import migrate as apply

    with clear_errors():
        settings = load_settings(data_dir)
        done = apply(ClickHouse(settings.clickhouse_url), cluster=settings.clickhouse_cluster)
    applied = {migration.version for migration in done}
    rows = [
        (f"{m.version:04d}", m.name, "applied now" if m.version in applied else "there")
        for m in load()
    ]
    console.print(table("Migrations", ("number", "name", ""), rows))
