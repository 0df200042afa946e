"""Servers that the integration tests share."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from streams.runtime.topics import ensure_topics
from streams.storage.clickhouse import ClickHouse
from streams.storage.migrate import migrate
from tests.support.servers import (
    Server,
    clickhouse_server,
    clickhouse_url,
    in_thread,
    kafka_server,
    tansu_server,
)

_numbers = itertools.count()


@pytest.fixture(scope="session")
def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One ClickHouse for the session; a test that stops it starts it again."""
    server = clickhouse_server(tmp_path_factory.mktemp("clickhouse"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def database(clickhouse: Server) -> Iterator[ClickHouse]:
    """A migrated database of the test's own."""
    made = ClickHouse(clickhouse_url(clickhouse, f"test_{next(_numbers)}"))
    migrate(made)
    yield made
    made.close()


@pytest.fixture(scope="session")
def _kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = kafka_server(tmp_path_factory.mktemp("kafka"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(params=["embedded", "kafka"])
def bare_broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """A broker: the embedded one, new and empty, or the session's Apache Kafka."""
    if request.param == "kafka":
        yield request.getfixturevalue("_kafka")
        return
    server = tansu_server(tmp_path)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def broker(bare_broker: Server) -> Server:
    """A broker that has all topics; on Apache Kafka those of other tests hold messages already."""
    in_thread(ensure_topics(bare_broker.address))
    return bare_broker


@pytest.fixture
def is_kafka(bare_broker: Server) -> bool:
    """Whether the broker is Apache Kafka."""
    return bare_broker.spec.name == "broker" and "kafka" in bare_broker.spec.argv[0]
