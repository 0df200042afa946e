"""The real servers of the embedded stack, as processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator, Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import psutil
import pytest
import tritonclient.grpc.aio as triton_grpc
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from tritonclient.grpc import InferInput
from tritonclient.utils import InferenceServerException

from deploy.embedded.kafka_cluster import KafkaCluster
from deploy.embedded.service import ServiceStatus
from deploy.embedded.stack import StackOptions, run_stack
from deploy.embedded.state import Addresses, read_stack
from deploy.embedded.triton import shared_memory_prefix

pytestmark = pytest.mark.integration

SHARED_KAFKA = Path(__file__).resolve().parents[3] / "shared" / "kafka"
KAFKA_HOME = os.environ.get("KAFKA_HOME") or (str(SHARED_KAFKA) if SHARED_KAFKA.exists() else None)
needs_kafka = pytest.mark.skipif(
    KAFKA_HOME is None or shutil.which("java") is None,
    reason="set KAFKA_HOME to an unpacked Apache Kafka, and install Java",
)
needs_triton = pytest.mark.skipif(
    find_spec("pytriton") is None, reason="no Triton is packaged for this Python"
)


async def until(condition: Callable[[], object], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen"
        await asyncio.sleep(0.05)


class Stack:
    """A running stack and what it last said of itself."""

    def __init__(self) -> None:
        self.addresses = Addresses()
        self.statuses: dict[str, ServiceStatus] = {}

    def status(self, statuses: list[ServiceStatus]) -> None:
        self.statuses = {status.name: status for status in statuses}

    def back(self, name: str, old_pid: int) -> bool:
        status = self.statuses[name]
        return status.state.value == "ready" and status.pid != old_pid


@contextlib.asynccontextmanager
async def running(data_dir: Path, *only: str, **options: Any) -> AsyncIterator[Stack]:
    stack, stop, ready = Stack(), asyncio.Event(), asyncio.Event()
    task = asyncio.ensure_future(
        run_stack(
            StackOptions(data_dir=data_dir, only=only, **options),
            stack.status,
            stop,
            on_plan=lambda plan: setattr(stack, "addresses", plan.addresses),
            ready=ready,
            handle_signals=False,
        )
    )
    try:
        await until(lambda: ready.is_set() or task.done(), "readiness", 120)
        if task.done():
            await task
        yield stack
    finally:
        stop.set()
        await task


async def create_topic(bootstrap_servers: str, name: str, replicas: int = 1) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(name, 1, replicas)])
    finally:
        await admin.close()


async def produce(bootstrap_servers: str, topic: str, values: list[bytes]) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap_servers, acks="all")
    await producer.start()
    try:
        for value in values:
            await producer.send_and_wait(topic, value)
    finally:
        await producer.stop()


async def consume(bootstrap_servers: str, topic: str, count: int) -> list[bytes]:
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=bootstrap_servers, auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        values: list[bytes] = []
        deadline = time.monotonic() + 30
        while len(values) < count and time.monotonic() < deadline:
            for records in (await consumer.getmany(timeout_ms=500)).values():
                values += [record.value for record in records]
        return values
    finally:
        await consumer.stop()


async def test_the_embedded_broker_gets_its_topics_again_when_it_comes_back(
    tmp_path: Path,
) -> None:
    calls: list[str] = []

    async def topics(addresses: Addresses) -> None:
        assert addresses.kafka_bootstrap_servers is not None
        calls.append(addresses.kafka_bootstrap_servers)
        await create_topic(addresses.kafka_bootstrap_servers, "files-received")

    async with running(tmp_path, "broker", after_ready={"broker": topics}) as stack:
        servers = stack.addresses.kafka_bootstrap_servers
        assert servers is not None
        assert not stack.addresses.log_is_durable
        await produce(servers, "files-received", [b"a", b"b"])
        assert await consume(servers, "files-received", 2) == [b"a", b"b"]
        pid = stack.statuses["broker"].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await until(lambda: stack.back("broker", pid), "the broker's return")
        assert calls == [servers, servers]
        # It forgot the log, but has the topic: at the same address, for clients that wait.
        await produce(servers, "files-received", [b"c"])
        assert await consume(servers, "files-received", 1) == [b"c"]


@needs_kafka
async def test_apache_kafka_keeps_its_log_over_kills_and_restarts(tmp_path: Path) -> None:
    options: dict[str, Any] = {"broker": "kafka", "kafka_home": Path(KAFKA_HOME or "")}

    async with running(tmp_path, "broker", **options) as stack:
        servers = stack.addresses.kafka_bootstrap_servers
        assert servers is not None
        assert stack.addresses.log_is_durable
        await create_topic(servers, "files-received")
        await produce(servers, "files-received", [b"a"])
        pid = stack.statuses["broker"].pid
        assert pid is not None
        assert psutil.Process(pid).name() == "java"
        os.kill(pid, signal.SIGKILL)
        await until(lambda: stack.back("broker", pid), "the broker's return")
        await produce(servers, "files-received", [b"b"])
    assert not psutil.pid_exists(pid)

    async with running(tmp_path, "broker", **options) as stack:
        assert stack.addresses.kafka_bootstrap_servers == servers
        assert await consume(servers, "files-received", 2) == [b"a", b"b"]


@needs_kafka
async def test_a_cluster_loses_nothing_when_the_leader_is_killed(tmp_path: Path) -> None:
    async with KafkaCluster(tmp_path, nodes=3, kafka_home=KAFKA_HOME) as cluster:
        pids = [cluster.pid(node.node_id) for node in cluster.nodes]
        await create_topic(cluster.bootstrap_servers, "files-received", replicas=3)
        await produce(cluster.bootstrap_servers, "files-received", [b"a"])
        admin = AIOKafkaAdminClient(bootstrap_servers=cluster.bootstrap_servers)
        await admin.start()
        described = await admin.describe_topics(["files-received"])
        await admin.close()
        leader = described[0]["partitions"][0]["leader"]
        await cluster.kill(leader)
        await produce(cluster.bootstrap_servers, "files-received", [b"b"])
        await cluster.start(leader)
        assert await consume(cluster.bootstrap_servers, "files-received", 2) == [b"a", b"b"]
    assert not any(psutil.pid_exists(pid) for pid in pids)


async def test_the_database_answers_those_who_know_its_password(tmp_path: Path) -> None:
    seen: list[Addresses] = []

    async def migrate(addresses: Addresses) -> None:
        seen.append(addresses)

    async with running(tmp_path, "clickhouse", after_ready={"clickhouse": migrate}) as stack:
        addresses = stack.addresses
        assert seen == [addresses]
        assert addresses.clickhouse_url is not None
        assert addresses.clickhouse_user is not None
        assert addresses.clickhouse_password is not None
        own = aiohttp.BasicAuth(addresses.clickhouse_user, addresses.clickhouse_password)
        guess = aiohttp.BasicAuth(addresses.clickhouse_user, "guess")
        async with aiohttp.ClientSession() as client:
            url = addresses.clickhouse_url
            async with client.post(url, data="SELECT 1 + 1", auth=own) as answer:
                assert (answer.status, await answer.text()) == (200, "2\n")
            async with client.post(url, data="SELECT 1", auth=guess) as answer:
                assert answer.status in (401, 403)
        pid = stack.statuses["clickhouse"].pid
        assert pid is not None
        assert not any(own.password in word for word in psutil.Process(pid).cmdline())


CONFIG = """
name: "{name}"
backend: "python"
max_batch_size: 8
input [ {{ name: "IN" data_type: TYPE_FP32 dims: [ -1 ] }} ]
output [ {{ name: "OUT" data_type: TYPE_FP32 dims: [ -1 ] }} ]
instance_group [ {{ kind: KIND_CPU count: 1 }} ]
"""

# Imports a package of ours and one of the environment, as the real models do.
IDENTITY = """
import psutil
import triton_python_backend_utils as backend
import schemas
class TritonPythonModel:
    def execute(self, requests):
        return [
            backend.InferenceResponse(
                [backend.Tensor("OUT", backend.get_input_tensor_by_name(each, "IN").as_numpy())]
            )
            for each in requests
        ]
"""

BROKEN = "raise RuntimeError('no weights')\n"


def make_model(repository: Path, name: str, code: str) -> None:
    version = repository / name / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(code)
    (repository / name / "config.pbtxt").write_text(CONFIG.format(name=name))


async def infer(url: str) -> np.ndarray[Any, Any]:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    tensor = InferInput("IN", list(values.shape), "FP32")
    tensor.set_data_from_numpy(values)
    async with triton_grpc.InferenceServerClient(url) as client:
        assert await client.is_server_ready()
        answer = await client.infer("identity", [tensor])
        assert not await client.is_model_ready("broken")
    output = answer.as_numpy("OUT")
    assert output is not None
    return output


@needs_triton
async def test_triton_serves_models_over_grpc_and_returns_after_a_kill(tmp_path: Path) -> None:
    repository = tmp_path / "models"
    make_model(repository, "identity", IDENTITY)
    make_model(repository, "broken", BROKEN)
    data_dir = tmp_path / "data"
    expected = np.arange(6, dtype=np.float32).reshape(2, 3)
    regions = Path("/dev/shm")
    prefix = shared_memory_prefix(data_dir)
    stale = regions / f"{prefix}of_a_killed_stack"
    stale.touch()

    async with running(data_dir, "triton", model_repository=repository) as stack:
        assert not stale.exists()
        url = stack.addresses.triton_grpc
        assert url is not None
        np.testing.assert_array_equal(await infer(url), expected)
        assert read_stack(data_dir) is not None
        assert "no weights" in (data_dir / "logs" / "triton.log").read_text()

        pid = stack.statuses["triton"].pid
        assert pid is not None
        stubs = psutil.Process(pid).children(recursive=True)
        assert any("stub" in stub.name() for stub in stubs)
        used = {region.name for region in regions.glob(f"{prefix}*")}
        os.kill(pid, signal.SIGKILL)
        await until(lambda: stack.back("triton", pid), "Triton's return", 120)
        await until(lambda: not any(map(alive, stubs)), "the end of the stubs")
        assert len(list(regions.glob(f"{prefix}*"))) <= len(used)
        np.testing.assert_array_equal(await infer(url), expected)
    assert list(regions.glob(f"{prefix}*")) == []


@needs_triton
async def test_triton_is_restarted_when_a_stub_of_its_python_backend_dies(tmp_path: Path) -> None:
    repository = tmp_path / "models"
    make_model(repository, "identity", IDENTITY)
    make_model(repository, "broken", BROKEN)
    async with running(tmp_path / "data", "triton", model_repository=repository) as stack:
        url = stack.addresses.triton_grpc
        pid = stack.statuses["triton"].pid
        assert url is not None
        assert pid is not None
        expected = await infer(url)
        # The model that did not load has none.
        (stub,) = psutil.Process(pid).children()
        stub.kill()
        with pytest.raises(InferenceServerException, match="is not healthy"):
            await infer(url)
        await until(lambda: stack.back("triton", pid), "Triton's return", 120)
        np.testing.assert_array_equal(await infer(url), expected)
        assert stack.statuses["triton"].restarts == 1
        log = (tmp_path / "data" / "logs" / "triton.log").read_text()
        assert "killing: has 0 of its 1 triton_python_backend_stub processes left" in log


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
