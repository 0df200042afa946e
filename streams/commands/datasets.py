"""`biodatamine datasets`: what there is, where it came from, and how far it is."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from streams.commands.common import (
    AsJson,
    DataDir,
    clear_errors,
    console,
    fail,
    load_settings,
    print_json,
    table,
)

app = typer.Typer(
    invoke_without_command=True, help="Datasets: stage, counts, failures, where they came from."
)

_LIST = """
SELECT dataset_id, name, source, stage, files, analyzed, failed, in_progress, refused, requests,
       requests_failed, size_bytes, modality_counts, mixed_modality, last_received_at
FROM datasets WHERE tenant = {tenant:String} ORDER BY last_received_at DESC, dataset_id
"""
_ONE = """
SELECT * FROM datasets WHERE tenant = {tenant:String} AND dataset_id = {dataset:String}
"""
_FAILURES = """
SELECT stage, reason, count() AS count FROM dead_letters FINAL
WHERE tenant = {tenant:String} AND dataset_id = {dataset:String}
  AND NOT (file_id IS NOT NULL AND (assumeNotNull(file_id), image_id) IN
      (SELECT file_id, image_id FROM files
       WHERE tenant = {tenant:String} AND dataset_id = {dataset:String} AND stage = 'analyzed'))
GROUP BY stage, reason ORDER BY count DESC, stage, reason
"""
_REQUESTS = """
SELECT toString(event_id) AS id, source, state, reason, error, files, unchanged, refused,
       file_bytes, fetched_bytes, requested_at
FROM ingest_requests FINAL
WHERE tenant = {tenant:String} AND dataset_id = {dataset:String}
ORDER BY requested_at DESC, id LIMIT {limit:UInt32}
"""

Tenant = Annotated[str, typer.Option(help="Whose datasets; by default of the settings.")]


@app.callback()
def list_datasets(
    context: typer.Context, data_dir: DataDir = None, tenant: Tenant = "", as_json: AsJson = False
) -> None:
    """List datasets, newest first: stage (queued, fetching, analysing, finalised, failed), counts.

    `datasets show ID` tells more of one.
    """
    if context.invoked_subcommand is not None:
        return
    from streams.storage.clickhouse import ClickHouse

    with clear_errors():
        settings = load_settings(data_dir)
        database = ClickHouse(settings.clickhouse_url)
        tenant = tenant or settings.tenant
        columns, rows = database.query_columns(_LIST, {"tenant": tenant})
    found = [dict(zip(columns, row, strict=True)) for row in rows]
    if as_json:
        print_json(found)
        return
    shown = [
        (
            one["dataset_id"], _of(one["name"], one["dataset_id"]), one["stage"], one["files"],
            one["analyzed"], one["failed"], one["in_progress"], one["refused"],
            _counts(one["modality_counts"]), one["source"],
        )
        for one in found
    ]  # fmt: skip
    names = ("dataset", "name", "stage", "files", "analyzed", "failed", "in progress", "refused",
             "modalities", "source")  # fmt: skip
    count = "1 dataset" if len(found) == 1 else f"{len(found):,} datasets"
    console.print(table(f"{count} of tenant {tenant}", names, shown))


@app.command("show")
def show_dataset(
    dataset_id: Annotated[str, typer.Argument(help="As `datasets` lists it.", metavar="ID")],
    data_dir: DataDir = None,
    tenant: Tenant = "",
    as_json: AsJson = False,
    limit: Annotated[int, typer.Option(help="Most requests that are shown.")] = 20,
) -> None:
    """Show one dataset: summary, duplicates, failures by reason, and where it came from."""
    from streams.commands.duplicates import find_duplicates
    from streams.storage.clickhouse import ClickHouse

    with clear_errors():
        settings = load_settings(data_dir)
        database = ClickHouse(settings.clickhouse_url)
        where: dict[str, Any] = {"tenant": tenant or settings.tenant, "dataset": dataset_id}
        columns, rows = database.query_columns(_ONE, where)
        if not rows:
            fail(f"no dataset {dataset_id}; see `biodatamine datasets`")
        found = dict(zip(columns, rows[0], strict=True))
        found["duplicates"] = find_duplicates(database, where)
        found["failures"] = _dicts(database, _FAILURES, where)
        found["latest_requests"] = _dicts(database, _REQUESTS, where | {"limit": limit})
    if as_json:
        print_json(found)
        return
    for name in ("modality_counts", "format_counts", "ext_counts"):
        found[name] = _counts(found[name])
    parts = ("duplicates", "failures", "latest_requests")
    summary = [(k, v) for k, v in found.items() if k not in parts]
    console.print(table(f"Dataset {dataset_id}", ("", ""), summary))
    _print_duplicates(found["duplicates"])
    if found["failures"]:
        failures = [tuple(row.values()) for row in found["failures"]]
        console.print(table("Failures", ("stage", "reason", "count"), failures))
    if found["latest_requests"]:
        requests = [
            (r["id"][:8], r["source"], r["state"], r["reason"], r["error"], r["files"],
             r["unchanged"], r["refused"], f"{r['requested_at']:%Y-%m-%d %H:%M:%S}")
            for r in found["latest_requests"]
        ]  # fmt: skip
        names = ("id", "source", "state", "reason", "error", "files", "unchanged", "refused", "at")
        console.print(table("Requests", names, requests))


def _print_duplicates(duplicates: dict[str, Any]) -> None:
    same_bytes, same_picture = duplicates["same_bytes"], duplicates["same_picture"]
    if not same_bytes["groups"] and not same_picture["groups"]:
        return
    told = [
        ("same bytes", same_bytes["groups"], same_bytes["files"], ""),
        ("same picture", same_picture["groups"], same_picture["files"],
         f"within {duplicates['max_distance_bits']} of 64 bits; blank images are left out"),
    ]  # fmt: skip
    if not duplicates["is_complete"]:
        told.append(("", "", "", f"only {duplicates['pictures']:,} pictures were compared"))
    console.print(table("Duplicates", ("", "groups", "files", ""), told))
    if duplicates["largest"]:
        names = ("files", "contents", "examples")
        rows = [
            (g["files"], g["contents"], "\n".join(g["examples"])) for g in duplicates["largest"]
        ]
        console.print(table("Files that show the same picture", names, rows))


def _dicts(database: Any, sql: str, parameters: dict[str, Any]) -> list[dict[str, Any]]:
    columns, rows = database.query_columns(sql, parameters)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _counts(counts: dict[str, int]) -> str:
    pairs = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{name or 'unknown'} {count:,}" for name, count in pairs)


def _of(name: str, dataset_id: str) -> str:
    return "" if name == dataset_id else name
