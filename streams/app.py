"""The application: one Faust app for each stage, sharing one process, one producer, one health.

Every stage has a consumer group of its own. With one group for all, a stage that waits for its
service would fill the buffers that the others are fed from: header facts must keep flowing while
the models are away (DESIGN.md section 2).
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import faust
import structlog
from aiohttp import web

from streams.agents import ingest, ingest_http, stages
from streams.runtime.attach import attach
from streams.runtime.clock import Clock, utc_now
from streams.runtime.emitter import Emitter
from streams.runtime.health import Health
from streams.runtime.http import HealthServer
from streams.runtime.metrics import Metrics
from streams.runtime.retry import Backoff
from streams.runtime.runner import Runner, RunnerOptions
from streams.runtime.stage import UnknownStageError
from streams.runtime.topics import TopicMismatchError, ensure_topics
from streams.settings import Settings

_log = structlog.get_logger(__name__)
_STOP_SECONDS = 10.0


@dataclass
class Application:
    """Everything that a worker process runs.

    Parameters
    ----------
    apps : dict of str to faust.App
        Stage name to its app.
    emitter : Emitter
        Shared producer.
    metrics, health : Metrics, Health
        What /metrics and /healthz show.
    closers : list of callable
        What to close when the worker ends.
    routes : list of RouteDef
        What its HTTP server has besides /metrics and /healthz.
    """

    settings: Settings
    apps: dict[str, faust.App]
    emitter: Emitter
    metrics: Metrics
    health: Health
    closers: list[Callable[[], None]] = field(default_factory=list)
    routes: list[web.RouteDef] = field(default_factory=list)


def create_app(settings: Settings, *, clock: Clock = utc_now) -> Application:
    """Put a worker together; nothing connects before ``run``.

    Parameters
    ----------
    settings : Settings
        Addresses, limits, and which stages to run.
    clock : Clock
        The present.

    Raises
    ------
    UnknownStageError
        If ``settings.worker_stages`` names a stage that does not exist.
    """
    wanted = settings.worker_stages or tuple(stages.FACTORIES)
    unknown = [name for name in wanted if name not in stages.FACTORIES]
    if unknown:
        msg = f"no stage {', '.join(unknown)}; stages: {', '.join(stages.FACTORIES)}"
        raise UnknownStageError(msg)
    metrics = Metrics()
    health = Health(clock, unhealthy_after_seconds=settings.unhealthy_after_seconds)
    emitter = Emitter(settings.kafka_bootstrap_servers, idempotent=settings.log_is_durable)
    options = RunnerOptions(
        backoff=Backoff(settings.retry_initial_seconds, settings.retry_max_seconds),
        internal_error_limit=settings.internal_error_limit,
    )
    application = Application(settings, {}, emitter, metrics, health)
    context = stages.Context(settings, metrics, clock, application.closers, emitter)
    for name in wanted:
        runner: Runner[Any] = Runner(
            stages.FACTORIES[name](context),
            emitter=emitter,
            metrics=metrics,
            health=health,
            clock=clock,
            options=options,
        )
        application.apps[name] = _faust_app(settings, name)
        attach(
            application.apps[name],
            runner,
            batch_max_events=settings.batch_max_events,
            batch_within_seconds=settings.batch_within_seconds,
        )
    if ingest.INGEST in wanted:
        application.routes += ingest_http.routes(settings, emitter, clock)
    return application


def _faust_app(settings: Settings, stage: str) -> faust.App:
    brokers = [
        f"kafka://{server.strip()}" for server in settings.kafka_bootstrap_servers.split(",")
    ]
    return faust.App(
        f"{settings.worker_id}-{stage}",
        broker=brokers,
        store="memory://",
        web_enabled=False,
        # Topics are made by `biodatamine topics`; a worker that made them would guess.
        topic_allow_declare=False,
        topic_disable_leader=True,
        consumer_auto_offset_reset="earliest",
        broker_session_timeout=settings.session_timeout_seconds,
        broker_rebalance_timeout=settings.session_timeout_seconds,
        broker_heartbeat_interval=max(settings.session_timeout_seconds / 5, 1.0),
        # A stage may wait long for a service; that is not a reason to lose its partitions.
        broker_max_poll_interval=86_400.0,
        broker_commit_livelock_soft_timeout=86_400.0,
        broker_commit_interval=1.0,
        # A batch that waits for its service must hold up neither a rebalance nor a stop: what it
        # has not finished stays uncommitted and comes again.
        stream_wait_empty=False,
        # What waits in memory is bounded: some batches ahead, no more.
        stream_buffer_maxsize=4 * settings.batch_max_events,
        loop=None,
    )


async def run(application: Application) -> int:
    """Run until SIGINT or SIGTERM, or until an app crashes.

    Returns
    -------
    int
        Exit status: 0 after a signal, 1 after a crash.

    Raises
    ------
    TopicMismatchError
        If a topic is missing, or has another partition count than the table says.
    """
    settings = application.settings
    missing = await ensure_topics(settings.kafka_bootstrap_servers, create=False)
    if missing:
        names = ", ".join(topic.name for topic in missing)
        msg = f"the brokers lack {names}: make them with `biodatamine topics`, then start again"
        raise TopicMismatchError(msg)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        server = HealthServer(
            application.metrics,
            application.health,
            host=settings.metrics_host,
            port=settings.metrics_port,
            routes=application.routes,
        )
        port = await server.start()
        stack.push_async_callback(server.stop)
        for closer in application.closers:
            stack.callback(closer)
        stack.push_async_callback(application.emitter.stop)
        apps = list(application.apps.values())
        for app in apps:
            stack.push_async_callback(_stop, app)
        await asyncio.gather(*(app.start() for app in apps))
        application.health.ready = True
        _log.info(
            "worker ready",
            stages=list(application.apps),
            metrics=f"http://{settings.metrics_host}:{port}/metrics",
        )
        return await _until_stopped(apps, stop)


async def _until_stopped(apps: Sequence[faust.App], stop: asyncio.Event) -> int:
    waits: list[Coroutine[Any, Any, object]] = [stop.wait()]
    waits += [app.wait_until_stopped() for app in apps]
    waiting = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for future in waiting:
            future.cancel()
    crashed = [app for app in apps if app.crashed]
    for app in crashed:
        _log.error("app crashed", app=app.conf.id, error=repr(app.crash_reason))
    return 0 if stop.is_set() else 1


async def _stop(app: faust.App) -> None:
    try:
        await asyncio.wait_for(app.stop(), _STOP_SECONDS)
    except asyncio.TimeoutError:
        # What was not finished was not committed, and comes again.
        _log.warning("app did not stop in time", app=app.conf.id)
