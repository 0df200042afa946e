"""Workers on real brokers and the real ClickHouse: whatever is killed, every file once."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from deploy.embedded.ports import free_port
from schemas import FileSniffed, decode
from schemas.events import received
from streams.agents.stages import TOPICS_BY_STAGE
from streams.runtime.emitter import Emitter, Outgoing
from streams.runtime.lag import consumer_lag
from streams.runtime.replay import read_topics
from streams.storage.blobs import BlobStore
from streams.storage.clickhouse import ClickHouse
from tests.support.servers import Server
from tests.support.stack import wait_for

pytestmark = pytest.mark.integration

PATIENCE_SECONDS = 90.0
NOW = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
_names = itertools.count()


def png(number: int) -> bytes:
    """One grey pixel, and a remark that makes the file unlike all others."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return len(data).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")

    header = (1).to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0])
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"tEXt", b"Comment\0%d" % number)
        + chunk(b"IDAT", zlib.compress(b"\0\x80"))
        + chunk(b"IEND", b"")
    )


class Trial:
    """A worker process, what it is fed, and what came of it."""

    def __init__(
        self, broker: Server, database: ClickHouse, folder: Path, *, durable: bool
    ) -> None:
        self.broker = broker
        self.database = database
        self.tenant = self.worker_id = f"trial-{os.getpid()}-{next(_names)}"
        self.blobs = BlobStore(str(folder / "blobs"), fsync=False)
        self.durable = durable
        self.metrics_port = free_port()
        self.published = 0
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *stages: str, ready: bool = True) -> None:
        address = self.database.address
        env = {k: v for k, v in os.environ.items() if not k.startswith("BIODATAMINE_")} | {
            "BIODATAMINE_DATA_DIR": str(self._folder),
            "BIODATAMINE_BLOB_URL": self.blobs.url,
            "BIODATAMINE_KAFKA_BOOTSTRAP_SERVERS": self.broker.address,
            "BIODATAMINE_LOG_IS_DURABLE": json.dumps(self.durable),
            "BIODATAMINE_CLICKHOUSE_URL": (
                f"http://{address.user}:{address.password}@{address.host}:{address.port}"
                f"/{address.database}"
            ),
            "BIODATAMINE_WORKER_ID": self.worker_id,
            "BIODATAMINE_WORKER_STAGES": json.dumps(stages),
            "BIODATAMINE_METRICS_PORT": str(self.metrics_port),
            "BIODATAMINE_SESSION_TIMEOUT_SECONDS": "6",
            "BIODATAMINE_RETRY_MAX_SECONDS": "0.3",
            "BIODATAMINE_UNHEALTHY_AFTER_SECONDS": "0.5",
            "BIODATAMINE_BATCH_MAX_EVENTS": "16",
        }
        with (self._folder / "worker.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "streams.cli", "worker"],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        if ready:
            self.until(lambda: self.health()[0] == 200, "the worker is ready")

    def health(self) -> tuple[int, dict[str, Any]]:
        url = f"http://127.0.0.1:{self.metrics_port}/healthz"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)
        except OSError:
            return 0, {}

    def metric(self, line: str) -> float:
        url = f"http://127.0.0.1:{self.metrics_port}/metrics"
        with urllib.request.urlopen(url, timeout=5) as answer:
            for each in answer.read().decode().splitlines():
                if each.startswith(line + " "):
                    return float(each.rpartition(" ")[2])
        return 0.0

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        assert self._process is not None

        def check() -> Any:
            if self._process is not None and self._process.poll() is not None:
                msg = f"the worker ended with {self._process.returncode}:\n{self.log()[-3000:]}"
                raise AssertionError(msg)
            return condition()

        try:
            return wait_for(check, seconds=PATIENCE_SECONDS, what=what, pause_seconds=0.05)
        except AssertionError as error:
            msg = f"{error}\n{self.log()[-3000:]}"
            raise AssertionError(msg) from None

    def log(self) -> str:
        return (self._folder / "worker.log").read_text(errors="replace")

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = None

    def terminate(self) -> int:
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        status = self._process.wait(30)
        self._process = None
        return status

    def close(self) -> None:
        if self._process is not None:
            self.kill()

    def publish(self, count: int) -> None:
        messages = []
        for number in range(self.published, self.published + count):
            event = received(
                tenant=self.tenant,
                dataset_id="trial",
                relpath=f"{number}.png",
                blob=self.blobs.put(png(number)),
                source="local",
                received_at=NOW,
            )
            messages.append(Outgoing.of(event))
        self.send(messages)
        self.published += count

    def send(self, messages: list[Outgoing]) -> None:
        async def send() -> None:
            emitter = Emitter(self.broker.address, idempotent=self.durable)
            try:
                await emitter.send(messages)
            finally:
                await emitter.stop()

        asyncio.run(send())

    def lag(self, stage: str) -> int:
        group = f"{self.worker_id}-{stage}"
        lags = asyncio.run(consumer_lag(self.broker.address, {group: TOPICS_BY_STAGE[stage]}))
        return sum(lags[group].values())

    def sniffed(self) -> list[str]:
        async def read() -> list[str]:
            return [
                event.relpath
                async for message in read_topics(self.broker.address, [FileSniffed.TOPIC])
                if (event := decode(message.value, FileSniffed)).tenant == self.tenant
            ]

        return asyncio.run(read())

    def stored(self, table: str = "files", where: str = "stage = 'sniffed'") -> int:
        rows = self.database.query(
            f"SELECT count() FROM {table} FINAL WHERE tenant = {{tenant:String}} AND {where}",
            {"tenant": self.tenant},
        )
        return int(rows[0][0])

    def all_stored(self) -> bool:
        return self.stored() == self.published

    def assert_everything_once(self) -> None:
        self.until(self.all_stored, "every file is stored")
        self.until(lambda: self.lag("store") == self.lag("sniff") == 0, "all is committed")
        assert self.stored() == self.stored(where="1") == self.published
        assert self.stored("header_facts", "1") == self.published
        assert self.stored("files", "1") == self.published
        assert self.stored("dead_letters", "1") == 0
        names = self.database.query(
            "SELECT uniqExact(relpath), count() FROM files_latest WHERE tenant = {tenant:String}",
            {"tenant": self.tenant},
        )
        assert names == [(self.published, self.published)]


@pytest.fixture
def trial(broker: Server, database: ClickHouse, tmp_path: Path, is_kafka: bool) -> Iterator[Trial]:
    made = Trial(broker, database, tmp_path, durable=is_kafka)
    yield made
    made.close()


def hold_in_the_middle(trial: Trial) -> None:
    """Bring the store stage to where one table of a batch is written and the next is not."""
    trial.database.command("RENAME TABLE files TO files_away")
    trial.publish(40)
    trial.until(
        lambda: trial.metric('biodatamine_retries_total{service="clickhouse",stage="store"}'),
        "the store stage meets the missing table",
    )
    trial.until(lambda: trial.lag("sniff") == 0, "sniff is done and has committed")


def let_go(trial: Trial) -> None:
    trial.database.command("RENAME TABLE files_away TO files")


def test_offsets_are_committed_only_when_the_work_is_durable(trial: Trial) -> None:
    trial.start("sniff", "store")
    before = trial.lag("store")
    trial.until(lambda: trial.lag("store") == 0 or before == 0, "older messages are done")
    hold_in_the_middle(trial)
    # The sniff stage, beside it in the same process, has committed all; the store stage nothing.
    assert trial.lag("store") == 2 * trial.published
    let_go(trial)
    trial.assert_everything_once()


@pytest.mark.parametrize("end", ["kill", "terminate"])
def test_a_worker_that_ends_in_the_middle_of_a_batch_loses_and_doubles_nothing(
    trial: Trial, end: str
) -> None:
    trial.start("sniff", "store")
    trial.until(lambda: trial.lag("store") == 0, "older messages are done")
    hold_in_the_middle(trial)
    if end == "kill":
        trial.kill()
    else:
        assert trial.terminate() == 0
    assert trial.lag("store") == 2 * trial.published, "the batch must not be committed"
    let_go(trial)
    trial.start("sniff", "store")
    trial.assert_everything_once()


def test_kills_at_any_moment_lose_and_double_nothing(trial: Trial) -> None:
    trial.start("sniff", "store")
    for share in (0.2, 0.6):
        trial.publish(150)
        goal = trial.published - 150 * (1 - share)
        trial.until(lambda goal=goal: trial.stored() >= goal, "some files are stored")
        trial.kill()
        trial.start("sniff", "store", ready=False)
    trial.assert_everything_once()


def test_a_stage_that_waits_for_its_service_holds_up_no_other(
    trial: Trial, clickhouse: Server
) -> None:
    trial.start("sniff", "store")
    trial.publish(20)
    trial.until(trial.all_stored, "the first files are stored")
    clickhouse.kill()
    try:
        trial.publish(100)
        trial.until(
            lambda: len(set(trial.sniffed())) == trial.published, "sniff goes on without ClickHouse"
        )
        _, report = trial.until(
            lambda: (found := trial.health())[0] == 503 and found, "health says so"
        )
        assert [fault["stage"] for fault in report["faults"]] == ["store"]
        assert "clickhouse" in report["faults"][0]["reason"]
        assert trial.metric('biodatamine_stalled_seconds{stage="store"}') > 0
    finally:
        clickhouse.start()
    trial.assert_everything_once()
    trial.until(lambda: trial.health() == (200, {"ready": True, "faults": []}), "health says so")
    assert trial.metric('biodatamine_stalled_seconds{stage="store"}') == 0


def test_what_cannot_be_used_is_a_dead_letter_and_a_row(trial: Trial) -> None:
    trial.start("sniff", "store", "dead-letters")
    trial.publish(5)
    missing = received(
        tenant=trial.tenant,
        dataset_id="trial",
        relpath="gone.png",
        blob=trial.blobs.put(b"here").model_copy(update={"sha256": "0" * 64}),
        source="local",
        received_at=NOW,
    )
    garbage = os.urandom(16).hex().encode()
    trial.send([Outgoing.of(missing), Outgoing("files-received", b"key", garbage)])
    trial.until(trial.all_stored, "the good ones are stored")
    # The sniff stage gives up on both, and so does the store stage on what is no event.
    found = trial.until(
        lambda: len(rows := letters(trial, len(garbage))) >= 3 and rows, "the others are rows"
    )
    assert found == [
        ("sniff", "blob-gone", missing.file_id),
        ("sniff", "not-json", None),
        ("store", "not-json", None),
    ]
    original = asyncio.run(originals(trial, garbage))
    assert original == [(b"key", b"not-json"), (b"key", b"not-json")]


def letters(trial: Trial, length: int) -> list[tuple[Any, ...]]:
    return [
        (stage, reason, str(file) if file else None)
        for stage, reason, file in trial.database.query(
            "SELECT stage, reason, file_id FROM dead_letters FINAL "
            "WHERE tenant = {tenant:String} OR (tenant = '' AND message_bytes = {length:UInt32}) "
            "ORDER BY stage, reason",
            {"tenant": trial.tenant, "length": length},
        )
    ]


async def originals(trial: Trial, value: bytes) -> list[tuple[bytes, bytes]]:
    return [
        (message.key, message.headers["reason"])
        async for message in read_topics(trial.broker.address, ["files-received-dlq"])
        if message.value == value
    ]


def test_a_worker_without_topics_says_what_to_do(
    bare_broker: Server, database: ClickHouse, tmp_path: Path, is_kafka: bool
) -> None:
    if is_kafka:
        pytest.skip("the Apache Kafka of the session has its topics")
    trial = Trial(bare_broker, database, tmp_path, durable=False)
    trial.start("sniff", ready=False)
    process = trial._process
    assert process is not None
    assert process.wait(60) == 1
    assert "make them with `biodatamine topics`" in " ".join(trial.log().split())
