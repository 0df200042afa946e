"""A cluster of Apache Kafka nodes that may be killed one by one: for tests and trials."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

from deploy.embedded.errors import ServiceFailedError
from deploy.embedded.kafka import KafkaNode, find_kafka, kafka_spec
from deploy.embedded.logs import ChildLog
from deploy.embedded.ports import free_port
from deploy.embedded.process import ChildProcess, describe_exit
from deploy.embedded.watchdog import Watchdog


class KafkaCluster:
    """N nodes on loopback; use it as an asynchronous context manager.

    Nodes are not restarted by themselves: that is for the test to decide.

    Parameters
    ----------
    folder : Path
        Data of the nodes; used again if it holds some.
    nodes : int
        How many.
    kafka_home : path, optional
        The distribution; None for what KAFKA_HOME names.
    heap : str
        JVM options that bound each node's heap.
    """

    def __init__(
        self,
        folder: Path,
        *,
        nodes: int = 1,
        kafka_home: str | Path | None = None,
        heap: str = "-Xms64m -Xmx384m",
    ) -> None:
        home = find_kafka(kafka_home)
        ports: list[int] = []
        while len(ports) < 2 * nodes:
            port = free_port()
            if port not in ports:
                ports.append(port)
        self.nodes = tuple(
            KafkaNode(node_id=i + 1, port=ports[2 * i], controller_port=ports[2 * i + 1])
            for i in range(nodes)
        )
        self._specs = {
            node.node_id: kafka_spec(
                kafka_home=home,
                folder=folder,
                node=node,
                nodes=self.nodes,
                name=f"kafka-{node.node_id}",
                heap=heap,
            )
            for node in self.nodes
        }
        self._folder = folder
        self._watchdog = Watchdog()
        self._running: dict[int, ChildProcess] = {}

    @property
    def bootstrap_servers(self) -> str:
        """Addresses of all nodes."""
        return ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def pid(self, node_id: int) -> int:
        """Process id of a running node."""
        return self._running[node_id].pid

    async def __aenter__(self) -> KafkaCluster:
        self._watchdog.start()
        try:
            for node in self.nodes:  # one after the other would wait for a quorum that is not there
                await self._spawn(node.node_id)
            await asyncio.gather(*(self._wait_ready(node.node_id) for node in self.nodes))
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(self.kill(node_id) for node_id in list(self._running)))
        self._watchdog.close()

    async def start(self, node_id: int) -> None:
        """Start a node that is down, and wait until it answers."""
        await self._spawn(node_id)
        await self._wait_ready(node_id)

    async def kill(self, node_id: int) -> None:
        """``kill -9`` a node."""
        await self._running.pop(node_id).end()

    async def stop(self, node_id: int) -> None:
        """Stop a node in good order."""
        spec = self._specs[node_id]
        await self._running.pop(node_id).stop(signal.SIGTERM, spec.stop_grace_seconds)

    async def _spawn(self, node_id: int) -> None:
        spec = self._specs[node_id]
        if spec.before_start is not None:
            await spec.before_start()
        self._running[node_id] = ChildProcess.start(
            spec.argv,
            env=spec.env,
            log=self._log(node_id),
            watchdog=self._watchdog,
        )

    async def _wait_ready(self, node_id: int) -> None:
        spec, process = self._specs[node_id], self._running[node_id]
        loop = asyncio.get_running_loop()
        deadline = loop.time() + spec.ready_timeout_seconds
        reason: str | None = "not asked yet"
        while process.running and loop.time() < deadline:
            reason = await spec.ready() if spec.ready is not None else None
            if reason is None:
                return
            await asyncio.sleep(0.1)
        if not process.running:
            reason = describe_exit(await process.wait())
        log = self._log(node_id)
        raise ServiceFailedError(spec.name, str(reason), log.tail(), str(log.path))

    def _log(self, node_id: int) -> ChildLog:
        return ChildLog(self._folder / f"node-{node_id}.log")
