"""The durable log: one or more Apache Kafka nodes (KRaft, broker and controller in one process)."""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
import subprocess
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.embedded.environment import child_environment
from deploy.embedded.errors import MissingSoftwareError, StackError
from deploy.embedded.ports import LOOPBACK
from deploy.embedded.probes import kafka_ready
from deploy.embedded.service import Action, ServiceSpec

DEFAULT_HEAP = "-Xms128m -Xmx512m"
_FORMAT_TIMEOUT_SECONDS = 120.0
_MAX_REPLICAS = 3


@dataclass(frozen=True)
class KafkaNode:
    """Ports of one node of a cluster.

    Parameters
    ----------
    node_id : int
        From 1.
    port, controller_port : int
        For clients and for the other nodes' controllers.
    """

    node_id: int
    port: int
    controller_port: int


def find_kafka(kafka_home: str | os.PathLike[str] | None) -> Path:
    """Check that a folder holds Apache Kafka and that there is a Java to run it.

    Parameters
    ----------
    kafka_home : path, optional
        An unpacked distribution, 3.7 or later; None for what KAFKA_HOME names.

    Raises
    ------
    MissingSoftwareError
        Saying which of them is missing.
    """
    home = kafka_home or os.environ.get("KAFKA_HOME")
    if not home:
        msg = (
            "--broker kafka needs KAFKA_HOME: set it to an unpacked Apache Kafka, 3.7 or later "
            "(kafka.apache.org/downloads), or leave out --broker to use the embedded broker"
        )
        raise MissingSoftwareError(msg)
    path = Path(home).expanduser().absolute()
    for script in ("kafka-server-start.sh", "kafka-storage.sh", "kafka-run-class.sh"):
        if not (path / "bin" / script).is_file():
            msg = f"KAFKA_HOME={home} holds no Apache Kafka: bin/{script} is missing there"
            raise MissingSoftwareError(msg)
    java_home = os.environ.get("JAVA_HOME")
    java = Path(java_home) / "bin" / "java" if java_home else None
    if java is not None and not java.is_file():
        msg = f"JAVA_HOME={java_home} has no bin/java: correct it, or unset it to use the PATH's"
        raise MissingSoftwareError(msg)
    if java is None and shutil.which("java") is None:
        msg = "Apache Kafka needs Java 17 or later: install it, or set JAVA_HOME"
        raise MissingSoftwareError(msg)
    return path


def node_properties(node: KafkaNode, nodes: Sequence[KafkaNode], log_dir: Path) -> str:
    """Server properties of a node, as Kafka reads them.

    Parameters
    ----------
    node : KafkaNode
        The node.
    nodes : sequence of KafkaNode
        Every node of the cluster, this one among them.
    log_dir : Path
        Where it keeps its log.
    """
    replicas = min(len(nodes), _MAX_REPLICAS)
    min_insync = max(1, replicas - 1)
    client = f"PLAINTEXT://{LOOPBACK}:{node.port}"
    voters = ",".join(f"{each.node_id}@{LOOPBACK}:{each.controller_port}" for each in nodes)
    properties = {
        "process.roles": "broker,controller",
        "node.id": node.node_id,
        "controller.quorum.voters": voters,
        "listeners": f"{client},CONTROLLER://{LOOPBACK}:{node.controller_port}",
        "advertised.listeners": client,
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": log_dir,
        "num.partitions": 1,
        "default.replication.factor": replicas,
        "min.insync.replicas": min_insync,
        "offsets.topic.replication.factor": replicas,
        "offsets.topic.num.partitions": 10,
        "transaction.state.log.replication.factor": replicas,
        "transaction.state.log.min.isr": min_insync,
        "transaction.state.log.num.partitions": 10,
        "group.initial.rebalance.delay.ms": 0,
        "unclean.leader.election.enable": "false",
        # A topic made by a typing error would have the wrong partitions: ours are made by hand.
        "auto.create.topics.enable": "false",
    }
    if replicas == 1:
        # No other copy exists: what was acknowledged must outlive a power cut, not only a crash.
        properties["log.flush.interval.messages"] = 1
        # Killed and started again, it must wait for its own former session to run out.
        properties["broker.session.timeout.ms"] = 3000
        properties["broker.heartbeat.interval.ms"] = 500
    return "".join(f"{key}={value}\n" for key, value in properties.items())


def cluster_id(path: Path) -> str:
    """Id of the cluster whose data lies in a folder; made once.

    Parameters
    ----------
    path : Path
        File that keeps it.
    """
    if path.is_file() and (known := path.read_text().strip()):
        return known
    made = "-"
    while made.startswith("-"):  # Kafka's tools would take it for an option
        made = base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(made + "\n")
    return made


def kafka_spec(
    *,
    kafka_home: Path,
    folder: Path,
    node: KafkaNode,
    nodes: Sequence[KafkaNode] | None = None,
    name: str = "broker",
    heap: str = DEFAULT_HEAP,
    after_ready: Action | None = None,
    restart_dependents: tuple[str, ...] = (),
) -> ServiceSpec:
    """Describe one Apache Kafka node.

    Parameters
    ----------
    kafka_home : Path
        The distribution; it is not written to.
    folder : Path
        Where the cluster keeps its id, and each node its properties and log.
    node, nodes : KafkaNode, sequence of KafkaNode
        The node, and all of them when it is not the only one.
    name : str
        The service's name.
    heap : str
        JVM options that bound its heap.
    after_ready, restart_dependents : callable, tuple of str, optional
        See `ServiceSpec`.
    """
    folder = folder.absolute()
    nodes = nodes or (node,)
    properties = folder / f"node-{node.node_id}.properties"
    log_dir = folder / f"node-{node.node_id}"
    environment = child_environment(
        {
            "KAFKA_HEAP_OPTS": heap,
            "LOG_DIR": str(folder / "server-logs"),
            # Without its default "-loggc": garbage collection logs have no bound that we know of.
            "EXTRA_ARGS": f"-name kafka-{node.node_id}",
        }
    )

    async def prepare() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        identity = cluster_id(folder / "cluster-id")
        properties.write_text(node_properties(node, nodes, log_dir))
        if not (log_dir / "meta.properties").is_file():
            await asyncio.to_thread(_format, kafka_home, properties, identity, environment)

    return ServiceSpec(
        name=name,
        argv=(str(kafka_home / "bin" / "kafka-server-start.sh"), str(properties)),
        env=environment,
        cwd=None,
        address=f"{LOOPBACK}:{node.port}",
        before_start=prepare,
        ready=kafka_ready(f"{LOOPBACK}:{node.port}"),
        after_ready=after_ready,
        ready_timeout_seconds=120.0,
        restart_dependents=restart_dependents,
        stop_grace_seconds=30.0,
    )


def _format(kafka_home: Path, properties: Path, identity: str, environment: dict[str, str]) -> None:
    command = [str(kafka_home / "bin" / "kafka-storage.sh"), "format", "--ignore-formatted"]
    done = subprocess.run(
        [*command, "-t", identity, "-c", str(properties)],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=_FORMAT_TIMEOUT_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        lines = done.stdout.decode(errors="replace").strip().splitlines()[-10:]
        output = "\n".join(f"  {line}" for line in lines)
        msg = f"Apache Kafka cannot prepare {properties.parent} (is Java 17 or later?):\n{output}"
        raise StackError(msg)
