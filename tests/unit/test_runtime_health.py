"""Metrics and health as an operator meets them."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from streams.runtime.health import Health
from streams.runtime.http import HealthServer
from streams.runtime.metrics import METRICS, Metrics

NOW = datetime(2026, 3, 1, tzinfo=timezone.utc)


class Time:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def health(time: Time) -> Health:
    made = Health(time, unhealthy_after_seconds=10)
    made.ready = True
    return made


async def get(port: int, path: str) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}{path}") as answer,
    ):
        return answer.status, await answer.text()


async def test_the_list_of_metrics_is_what_a_worker_serves(health: Health) -> None:
    metrics = Metrics()
    server = HealthServer(metrics, health, host="127.0.0.1", port=0)
    port = await server.start()
    try:
        status, text = await get(port, "/metrics")
    finally:
        await server.stop()
    assert status == 200
    served = {family.name: family for family in text_string_to_metric_families(text)}
    assert set(served) == {definition.name for definition in METRICS}
    for definition in METRICS:
        assert served[definition.name].type == definition.kind
        assert served[definition.name].documentation == definition.help


@pytest.mark.parametrize("definition", METRICS, ids=lambda definition: definition.name)
def test_a_metric_says_what_it_counts(definition) -> None:  # type: ignore[no-untyped-def]
    assert definition.name.startswith("biodatamine_")
    assert definition.help
    assert not definition.name.endswith("_total")
    if definition.kind == "histogram":
        assert list(definition.buckets) == sorted(definition.buckets) != []
    metrics, labels = Metrics(), dict.fromkeys(definition.labels, "x")
    use = {"counter": metrics.count, "gauge": metrics.set, "histogram": metrics.observe}
    use[definition.kind](definition.name, 3, **labels)
    suffix = {"counter": "_total", "gauge": "", "histogram": "_sum"}[definition.kind]
    assert metrics.registry.get_sample_value(definition.name + suffix, labels) == 3


def test_a_metric_outside_the_list_does_not_exist() -> None:
    with pytest.raises(KeyError):
        Metrics().count("biodatamine_surprises")


async def test_healthz_answers_with_the_reasons(health: Health, time: Time) -> None:
    server = HealthServer(Metrics(), health, host="127.0.0.1", port=0)
    port = await server.start()
    try:
        assert await get(port, "/healthz") == (200, '{"ready": true, "faults": []}')
        health.fault("store", "clickhouse: away")
        assert (await get(port, "/healthz"))[0] == 200
        time.now += timedelta(seconds=10)
        status, text = await get(port, "/healthz")
        assert status == 503
        assert "clickhouse: away" in text
        health.clear("store")
        assert (await get(port, "/healthz"))[0] == 200
        health.ready = False
        assert (await get(port, "/healthz"))[0] == 503
    finally:
        await server.stop()


def test_a_fault_lasts_from_its_first_report(health: Health, time: Time) -> None:
    assert health.fault("store", "first") == 0
    time.now += timedelta(seconds=7)
    assert health.fault("store", "second") == 7
    time.now += timedelta(seconds=3)
    (fault,) = health.faults()
    assert (fault.reason, fault.since) == ("second", NOW)
    assert health.clear("store") is True
    assert health.clear("store") is False
    assert health.fault("store", "third") == 0


def test_the_longest_fault_comes_first_and_a_permanent_one_at_once(
    health: Health, time: Time
) -> None:
    health.fault("analyze", "triton: away")
    time.now += timedelta(seconds=20)
    health.fault("sniff", "internal errors", permanent=True)
    healthy, report = health.report()
    assert not healthy
    assert [(f["stage"], f["seconds"], f["permanent"]) for f in report["faults"]] == [  # type: ignore[attr-defined]
        ("analyze", 20.0, False),
        ("sniff", 0.0, True),
    ]
