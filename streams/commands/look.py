"""Looking at what is there: status, query, settings."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated, Any

import typer

from streams.commands.common import (
    AsJson,
    DataDir,
    clear_errors,
    console,
    load_settings,
    print_json,
    table,
)

_COUNTS = """
SELECT status, count() FROM files_latest GROUP BY status ORDER BY status
"""
_MIX = """
SELECT modality, format, count() AS files, countIf(status = 'analyzed') AS analyzed,
       countIf(status = 'failed') AS failed
FROM files_latest GROUP BY modality, format ORDER BY files DESC, modality, format
"""
_RATES = """
SELECT countIf(received_at > now64(3) - 60) / 60, countIf(processed_at > now64(3) - 60 AND
       stage = 'analyzed') / 60
FROM files FINAL
"""
_FAILURES = """
SELECT stage, reason, count() FROM dead_letters FINAL GROUP BY stage, reason ORDER BY 3 DESC
"""


def status(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Show services, lag of every stage, rates, counts, and what failed."""
    from deploy.embedded.state import read_stack
    from streams.runtime.retry import ServiceFaultError
    from streams.storage.clickhouse import ClickHouse, StorageUnavailableError

    with clear_errors():
        settings = load_settings(data_dir)
        stack = read_stack(settings.data_dir)
        report: dict[str, Any] = {"data_dir": str(settings.data_dir), "problems": []}
        report["services"] = (
            {name: vars(record) for name, record in stack.services.items()} if stack else {}
        )
        try:
            report["lag"] = asyncio.run(_lag(settings))
        except ServiceFaultError as error:
            report["problems"].append(str(error))
        try:
            database = ClickHouse(settings.clickhouse_url, timeout_seconds=15)
            report["files"] = dict(database.query(_COUNTS))
            report["mix"] = database.query(_MIX)
            received, analyzed = database.query(_RATES)[0]
            report["rates"] = {
                "received_per_second": received,
                "analyzed_per_second": analyzed,
            }
            report["dead_letters"] = database.query(_FAILURES)
        except StorageUnavailableError as error:
            report["problems"].append(str(error))
    if as_json:
        print_json(report)
    else:
        _print_status(report)
    if report["problems"]:
        raise typer.Exit(1)


async def _lag(settings: Any) -> dict[str, dict[str, int]]:
    from streams.agents.stages import TOPICS_BY_STAGE
    from streams.runtime.lag import consumer_lag

    groups = {f"{settings.worker_id}-{stage}": topics for stage, topics in TOPICS_BY_STAGE.items()}
    lags = await consumer_lag(settings.kafka_bootstrap_servers, groups)
    return {group.removeprefix(f"{settings.worker_id}-"): lag for group, lag in lags.items()}


def _print_status(report: dict[str, Any]) -> None:
    if report["services"]:
        rows = [
            (name, record["state"], record["address"], str(record["pid"]), record["restarts"])
            for name, record in report["services"].items()
        ]
        console.print(table("Services", ("service", "state", "address", "pid", "restarts"), rows))
    else:
        console.print(f"No stack of this machine in [bold]{report['data_dir']}[/].")
    if "lag" in report:
        lags = [
            (stage, sum(lag.values()), ", ".join(f"{t} {n:,}" for t, n in lag.items() if n))
            for stage, lag in report["lag"].items()
        ]
        console.print(table("Lag", ("stage", "messages", "on"), lags))
    if "files" in report:
        console.print(table("Files", ("status", "files"), report["files"].items()))
        console.print(
            table(
                "By modality", ("modality", "format", "files", "analyzed", "failed"), report["mix"]
            )
        )
        rates = report["rates"]
        console.print(
            f"Last minute: {rates['received_per_second']:.1f} received and "
            f"{rates['analyzed_per_second']:.1f} analyzed a second"
        )
        if report["dead_letters"]:
            console.print(
                table("Dead letters", ("stage", "reason", "messages"), report["dead_letters"])
            )
    for problem in report["problems"]:
        console.print(f"[bold red]away:[/] {problem}", highlight=False)


_LEAST_COLUMN_CHARACTERS = 9
"""Narrower than that, nobody reads a column: each row is shown from top to bottom."""


def query(
    sql: Annotated[str, typer.Argument(help="ClickHouse SQL; `-` reads it from standard input.")],
    data_dir: DataDir = None,
    as_json: AsJson = False,
    limit: Annotated[int, typer.Option(help="Most rows that a table shows.")] = 200,
) -> None:
    """Ask ClickHouse in SQL.

    Tables: files, header_facts, image_signals, embeddings, predictions, dead_letters.
    Views: files_latest (one row a file), datasets.

    Example: biodatamine query "SELECT modality, count() FROM files_latest GROUP BY modality"
    """
    from streams.storage.clickhouse import ClickHouse

    with clear_errors():
        settings = load_settings(data_dir)
        text = sys.stdin.read() if sql == "-" else sql
        columns, rows = ClickHouse(settings.clickhouse_url).query_columns(text)
    if as_json:
        print_json([dict(zip(columns, row, strict=True)) for row in rows])
        return
    if len(columns) * _LEAST_COLUMN_CHARACTERS > console.width:
        for number, row in enumerate(rows[:limit], 1):
            console.print(
                table(f"Row {number}", ("column", "value"), zip(columns, row, strict=True))
            )
    else:
        console.print(table("", columns, rows[:limit]))
    if len(rows) > limit:
        console.print(f"{limit} of {len(rows):,} rows; see --limit or --json")


def settings_list(as_json: AsJson = False) -> None:
    """List every setting: its environment variable, its value now, and what it means."""
    from dicom_gateway.settings import GatewaySettings
    from streams.settings import Settings, environment_name

    with clear_errors():
        settings, of_gateway = load_settings(), GatewaySettings()
    rows = [
        (environment_name(name), str(getattr(settings, name)), field.description)
        for name, field in Settings.model_fields.items()
    ]
    rows += [
        (environment_name(name), str(getattr(of_gateway, name)), f"gateway: {field.description}")
        for name, field in GatewaySettings.model_fields.items()
        if name not in Settings.model_fields
    ]
    if as_json:
        print_json([dict(zip(("variable", "value", "meaning"), row, strict=True)) for row in rows])
    else:
        console.print(table("Settings", ("variable", "value", "meaning"), rows))
