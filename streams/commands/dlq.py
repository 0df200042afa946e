"""Dead letters: what could not be used, why, and sending it again."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer

from schemas.topics import DEAD_LETTER_TOPICS
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

app = typer.Typer(no_args_is_help=True, help="List, show and replay dead letters.")

_LIST = """
SELECT toString(dead_letter_id) AS id, failed_at, stage, reason, error, source_topic,
       dataset_id, toString(file_id) AS file_id,
       file_id IS NOT NULL AND (assumeNotNull(file_id), image_id) IN
           (SELECT file_id, image_id FROM files WHERE stage = 'analyzed') AS resolved
FROM dead_letters FINAL
WHERE ({reason:String} = '' OR reason = {reason:String})
  AND ({stage:String} = '' OR stage = {stage:String})
ORDER BY failed_at DESC LIMIT {limit:UInt32}
"""
_SHOW = "SELECT * FROM dead_letters FINAL WHERE startsWith(toString(dead_letter_id), {id:String})"

Reason = Annotated[str, typer.Option(help="Only those with this reason.")]
StageName = Annotated[str, typer.Option("--stage", help="Only those of this stage.")]


@app.command("list")
def list_letters(
    data_dir: DataDir = None,
    reason: Reason = "",
    stage: StageName = "",
    limit: Annotated[int, typer.Option(help="Most rows.")] = 100,
    as_json: AsJson = False,
) -> None:
    """List dead letters, newest first; `resolved` are those whose file was analyzed later."""
    from streams.storage.clickhouse import ClickHouse

    with clear_errors():
        database = ClickHouse(load_settings(data_dir).clickhouse_url)
        columns, rows = database.query_columns(
            _LIST, {"reason": reason, "stage": stage, "limit": limit}
        )
    if as_json:
        print_json([dict(zip(columns, row, strict=True)) for row in rows])
        return
    short = [(row[0][:8], f"{row[1]:%Y-%m-%d %H:%M:%S}", *row[2:7], bool(row[8])) for row in rows]
    names = ("id", "failed at", "stage", "reason", "error", "topic", "dataset", "resolved")
    said = f"The newest {limit} dead letters" if len(rows) == limit else "Dead letters"
    console.print(table(said, names, short))
    if len(rows) == limit:
        console.print("There may be more: see --limit, --reason and --stage.")


@app.command("show")
def show_letter(
    letter_id: Annotated[str, typer.Argument(help="Id, or its first digits.")],
    data_dir: DataDir = None,
) -> None:
    """Show one dead letter whole, with its original message while the broker still has it."""
    from streams.storage.clickhouse import ClickHouse

    with clear_errors():
        settings = load_settings(data_dir)
        columns, rows = ClickHouse(settings.clickhouse_url).query_columns(_SHOW, {"id": letter_id})
        if not rows:
            fail(f"no dead letter {letter_id}; see `biodatamine dlq list`")
        for row in rows:
            shown: dict[str, Any] = dict(zip(columns, row, strict=True))
            found = asyncio.run(_find(settings, {str(shown["dead_letter_id"])}))
            message = next(iter(found.values()), None)
            shown["original"] = (
                message.value.decode("utf-8", "replace") if message else "no longer on the topic"
            )
            print_json(shown)


@app.command("replay")
def replay_letters(
    letter_ids: Annotated[
        list[str] | None, typer.Argument(help="Ids, or their first digits.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Replay all that are left.")] = False,
    data_dir: DataDir = None,
    reason: Reason = "",
    stage: StageName = "",
) -> None:
    """Send the original bytes to the topics that they came from.

    Do this when the cause is mended. Files that were analyzed meanwhile are left alone.
    """
    from streams.runtime.emitter import Emitter
    from streams.runtime.replay import send_again
    from streams.storage.clickhouse import ClickHouse

    if not (letter_ids or every or reason or stage):
        fail("say which: ids, --reason, --stage or --all")
    with clear_errors():
        settings = load_settings(data_dir)
        rows = ClickHouse(settings.clickhouse_url).query(
            _LIST, {"reason": reason, "stage": stage, "limit": 1_000_000}
        )
        wanted = {
            row[0]
            for row in rows
            if not row[8] and (not letter_ids or any(row[0].startswith(i) for i in letter_ids))
        }

        async def replay() -> tuple[int, int]:
            letters = await _find(settings, wanted)
            emitter = Emitter(settings.kafka_bootstrap_servers, idempotent=settings.log_is_durable)
            try:
                return await send_again(emitter, list(letters.values())), len(letters)
            finally:
                await emitter.stop()

        sent, found = asyncio.run(replay()) if wanted else (0, 0)
    console.print(f"{sent} sent again; {len(wanted) - found} no longer on their topics")


async def _find(settings: Any, ids: set[str]) -> dict[str, Any]:
    from streams.runtime.clock import utc_now
    from streams.runtime.dead_letters import read_headers
    from streams.runtime.replay import read_topics
    from streams.storage.rows import dead_letter_row

    found = {}
    names = [topic.name for topic in DEAD_LETTER_TOPICS]
    async for message in read_topics(settings.kafka_bootstrap_servers, names):
        row = dead_letter_row(read_headers(message.headers), message.value, failed_at=utc_now())
        if (letter_id := str(row["dead_letter_id"])) in ids:
            found[letter_id] = message
    return found
