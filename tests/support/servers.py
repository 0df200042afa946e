"""Single servers of the stack for tests: processes that can be stopped, killed and restarted."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest

from deploy.embedded.broker import tansu_spec
from deploy.embedded.clickhouse_service import clickhouse_spec
from deploy.embedded.errors import MissingSoftwareError
from deploy.embedded.kafka import KafkaNode, kafka_spec
from deploy.embedded.ports import free_port
from deploy.embedded.service import ServiceSpec

_T = TypeVar("_T")
_SHARED_KAFKA = Path(__file__).resolve().parents[3] / "shared" / "kafka"
CLICKHOUSE_USER, CLICKHOUSE_PASSWORD = "tester", "secret"


def in_thread(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine to its end, also where this thread has a running loop."""
    answer: list[_T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            answer.append(asyncio.run(coroutine))
        except BaseException as error:  # noqa: BLE001 (raised again below)
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return answer[0]


class Server:
    """One server process on a port that stays the same.

    Parameters
    ----------
    spec : ServiceSpec
        How it is started and asked whether it is ready.
    log : Path
        Takes its output.
    """

    def __init__(self, spec: ServiceSpec, log: Path) -> None:
        self.spec = spec
        self.address = spec.address
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it is ready."""
        if self.spec.before_start is not None:
            in_thread(self.spec.before_start())  # type: ignore[arg-type]
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self.spec.argv,
                env=self.spec.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + self.spec.ready_timeout_seconds
        reason: str | None = "not asked"
        while reason is not None:
            if self._process.poll() is not None or time.monotonic() > deadline:
                tail = self._log.read_text(errors="replace")[-3000:]
                msg = f"{self.spec.name} is not ready: {reason}\n{tail}"
                raise AssertionError(msg)
            assert self.spec.ready is not None
            reason = in_thread(self.spec.ready())  # type: ignore[arg-type]
            if reason is not None:
                time.sleep(0.05)

    def stop(self) -> None:
        """Ask it to stop, and see that nothing of it is left."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(self.spec.stop_grace_seconds)
        self.kill()

    def kill(self) -> None:
        """Kill -9 it and all that it started."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def clickhouse_server(folder: Path) -> Server:
    """Describe the embedded ClickHouse with its data in a folder."""
    pytest.importorskip("chdb", reason="pip install 'biodatamine[embedded]'")
    spec = clickhouse_spec(
        folder=folder / "clickhouse",
        port=free_port(),
        user=CLICKHOUSE_USER,
        password=CLICKHOUSE_PASSWORD,
    )
    return Server(spec, folder / "clickhouse.log")


def clickhouse_url(server: Server, database: str) -> str:
    """URL of a database of a ClickHouse server."""
    host = server.address.removeprefix("http://")
    return f"http://{CLICKHOUSE_USER}:{CLICKHOUSE_PASSWORD}@{host}/{database}"


def tansu_server(folder: Path) -> Server:
    """Describe an embedded broker, empty at every start."""
    try:
        return Server(tansu_spec(port=free_port()), folder / "broker.log")
    except MissingSoftwareError as error:
        pytest.skip(str(error))


def kafka_home() -> str | None:
    """Folder of an Apache Kafka distribution, where there is one and a Java to run it."""
    home = os.environ.get("KAFKA_HOME") or (str(_SHARED_KAFKA) if _SHARED_KAFKA.is_dir() else None)
    java = os.environ.get("JAVA_HOME") or shutil.which("java")
    return home if java else None


def kafka_server(folder: Path) -> Server:
    """Describe an Apache Kafka node with its data in a folder."""
    home = kafka_home()
    if home is None:
        pytest.skip("set KAFKA_HOME to an unpacked Apache Kafka, and install Java")
    node = KafkaNode(node_id=1, port=free_port(), controller_port=free_port())
    spec = kafka_spec(
        kafka_home=Path(home), folder=folder / "kafka", node=node, heap="-Xms64m -Xmx384m"
    )
    return Server(spec, folder / "kafka.log")
