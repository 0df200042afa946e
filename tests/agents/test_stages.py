"""The list of stages, and how a worker is put together."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas import TOPICS
from streams.agents.stages import FACTORIES, TOPICS_BY_STAGE
from streams.app import create_app
from streams.runtime.stage import UnknownStageError
from streams.settings import Settings


def settings(folder: Path, *stages: str) -> Settings:
    return Settings(data_dir=folder, worker_stages=stages, clickhouse_url="http://127.0.0.1:1/x")


def test_every_stage_reads_the_topics_that_status_shows(tmp_path: Path) -> None:
    assert set(FACTORIES) == set(TOPICS_BY_STAGE)
    application = create_app(settings(tmp_path))
    try:
        assert set(application.apps) == set(FACTORIES)
        for name, app in application.apps.items():
            (agent,) = app.agents.values()
            assert agent.name == name
            assert set(agent.channel.topics) == set(TOPICS_BY_STAGE[name])
            assert set(TOPICS_BY_STAGE[name]) <= set(TOPICS)
            assert agent.concurrency == 1
    finally:
        for close in application.closers:
            close()


def test_each_stage_has_a_consumer_group_of_its_own(tmp_path: Path) -> None:
    application = create_app(settings(tmp_path, "sniff", "store"))
    assert [app.conf.id for app in application.apps.values()] == [
        "biodatamine-sniff",
        "biodatamine-store",
    ]


def test_an_unknown_stage_is_refused_with_those_that_exist(tmp_path: Path) -> None:
    with pytest.raises(UnknownStageError, match="no stage snif; stages: ingest, sniff, analyze"):
        create_app(settings(tmp_path, "snif"))
