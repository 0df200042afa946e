"""A worker process that fetches, what it is asked for, and what came of it."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from deploy.embedded.ports import free_port
from schemas import UrlRequest
from streams.agents.ingest_requests import make_request
from streams.runtime.clock import utc_now
from streams.runtime.emitter import Emitter, Outgoing
from streams.storage.clickhouse import ClickHouse
from tests.support.servers import Server
from tests.support.stack import wait_for

_names = itertools.count()
_PATIENCE_SECONDS = 90.0


class IngestWorker:
    """Runs some stages of a worker against real servers.

    Parameters
    ----------
    broker, database : Server, ClickHouse
        Where it reads and writes.
    folder : Path
        Its data folder.
    stages : sequence of str
        What it runs.
    env : dict
        Further settings.
    """

    def __init__(
        self,
        broker: Server,
        database: ClickHouse,
        folder: Path,
        *,
        durable: bool,
        stages: Sequence[str] = ("ingest", "sniff", "store", "dead-letters"),
        env: dict[str, str] | None = None,
    ) -> None:
        self.broker = broker
        self.database = database
        self.folder = folder
        self.durable = durable
        self.tenant = f"ingest-{os.getpid()}-{next(_names)}"
        self.port = free_port()
        self._stages = stages
        self._env = env or {}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """Variables of its process, and of commands beside it."""
        address = self.database.address
        return {k: v for k, v in os.environ.items() if not k.startswith("BIODATAMINE_")} | {
            "BIODATAMINE_DATA_DIR": str(self.folder),
            "BIODATAMINE_TENANT": self.tenant,
            "BIODATAMINE_KAFKA_BOOTSTRAP_SERVERS": self.broker.address,
            "BIODATAMINE_LOG_IS_DURABLE": json.dumps(self.durable),
            "BIODATAMINE_CLICKHOUSE_URL": (
                f"http://{address.user}:{address.password}@{address.host}:{address.port}"
                f"/{address.database}"
            ),
            "BIODATAMINE_WORKER_ID": self.tenant,
            "BIODATAMINE_WORKER_STAGES": json.dumps(list(self._stages)),
            "BIODATAMINE_METRICS_PORT": str(self.port),
            "BIODATAMINE_SESSION_TIMEOUT_SECONDS": "6",
            "BIODATAMINE_RETRY_MAX_SECONDS": "0.3",
            "BIODATAMINE_INGEST_PATIENCE_SECONDS": "5",
            **self._env,
        }

    @property
    def pid(self) -> int:
        """Process id."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the process."""
        with (self.folder / "worker.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "streams.cli", "worker"],
                env=self.environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def kill(self) -> None:
        """Kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def log(self) -> str:
        """What it wrote."""
        return (self.folder / "worker.log").read_text(errors="replace")

    def until(self, condition: Callable[[], Any], what: str, seconds: float = 0) -> Any:
        """Wait for a condition while the worker lives."""

        def check() -> Any:
            if self._process is not None and self._process.poll() is not None:
                msg = f"the worker ended with {self._process.returncode}:\n{self.log()[-3000:]}"
                raise AssertionError(msg)
            return condition()

        try:
            return wait_for(
                check, seconds=seconds or _PATIENCE_SECONDS, what=what, pause_seconds=0.02
            )
        except AssertionError as error:
            msg = f"{error}\n{self.log()[-3000:]}"
            raise AssertionError(msg) from None

    def ask(self, url: str, dataset_id: str = "set", **given: Any) -> UrlRequest:
        """Publish a request."""
        made = make_request(
            url=url, tenant=self.tenant, now=utc_now(), dataset_id=dataset_id, **given
        )

        async def send() -> None:
            emitter = Emitter(self.broker.address, idempotent=self.durable)
            try:
                await emitter.send([Outgoing.of(made)])
            finally:
                await emitter.stop()

        asyncio.run(send())
        return made

    def query(self, sql: str, **more: Any) -> list[tuple[Any, ...]]:
        """Ask ClickHouse, with ``tenant`` as a parameter."""
        return self.database.query(sql, {"tenant": self.tenant, **more})

    def rows(self, dataset_id: str = "set") -> set[tuple[str, str]]:
        """Paths and image ids of a dataset's files."""
        sql = (
            "SELECT relpath, image_id FROM files FINAL WHERE tenant = {tenant:String} "
            "AND dataset_id = {dataset:String}"
        )
        return set(self.query(sql, dataset=dataset_id))  # type: ignore[arg-type]

    def state(self, request: UrlRequest) -> str:
        """Where a request is."""
        sql = "SELECT state FROM ingest_requests FINAL WHERE event_id = {id:UUID}"
        found = self.query(sql, id=request.event_id)
        return str(found[0][0]) if found else ""

    def command(self, *arguments: str, stdin: bytes = b"", check: bool = True) -> str:
        """Run a ``biodatamine`` command beside it."""
        done = subprocess.run(
            [sys.executable, "-m", "streams.cli", *arguments],
            env=self.environment | {"COLUMNS": "200"},
            cwd=self.folder,
            input=stdin,
            capture_output=True,
            timeout=120,
            check=False,
        )
        assert not check or done.returncode == 0, done.stderr.decode()
        return done.stdout.decode() if check else done.stderr.decode() + done.stdout.decode()
