"""`biodatamine ingest`: ask the stream to fetch files of this machine."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path
from typing import Annotated

import typer

from streams.commands.common import DataDir, clear_errors, console, errors, fail, load_settings
from streams.commands.inspect import walk


def ingest(
    paths: Annotated[list[Path], typer.Argument(help="Files or folders of this machine.")],
    dataset: Annotated[str, typer.Option(help="Dataset that they join.")] = "local",
    data_dir: DataDir = None,
) -> None:
    """Send files of any format into the stream, besides C-STORE.

    The worker reads them, so they must lie in a folder that it may read: `up --ingest-root FOLDER`.
    """
    for path in paths:
        if not path.exists():
            fail(f"{path} does not exist")
    with clear_errors():
        settings = load_settings(data_dir)
        located = [
            (file, file.relative_to(path if path.is_dir() else path.parent).as_posix())
            for path in paths
            for file in walk([path])
        ]
        not_requested = asyncio.run(
            request_files(
                settings.kafka_bootstrap_servers,
                located,
                tenant=settings.tenant,
                dataset_id=dataset,
                idempotent=settings.log_is_durable,
            )
        )
    count = len(located) - len(not_requested)
    console.print(f"{count:,} files requested for dataset {dataset}; see `biodatamine status`")
    skipped = [path for path in paths if not path.is_dir() and not path.is_file()]
    for path in skipped:
        errors.print(f"not requested: {_shown(path)} is not a regular file", markup=False)
    for path in not_requested:
        errors.print(
            f"not requested: the path is too long for a request, link to it from a shorter one: "
            f"{_shown(path)}",
            markup=False,
        )
    if not_requested or skipped:
        raise typer.Exit(1)


def _shown(path: Path) -> str:
    # A file may have any name, also one that a terminal obeys.
    return ascii(str(path))


async def request_files(
    bootstrap_servers: str,
    located: list[tuple[Path, str]],
    *,
    tenant: str,
    dataset_id: str,
    idempotent: bool,
) -> list[Path]:
    """Publish one request for each file.

    Parameters
    ----------
    bootstrap_servers : str
        Brokers.
    located : list of (Path, str)
        Files and their places in the dataset.
    tenant, dataset_id : str
        Where they belong.
    idempotent : bool
        Whether the brokers know idempotent producers.

    Returns
    -------
    list of Path
        Files whose paths no request can hold.

    Raises
    ------
    ServiceFaultError
        If the brokers cannot be reached.
    """
    from pydantic import ValidationError

    from schemas import UrlRequest
    from schemas.identity import event_id, file_id, trace_id
    from streams.ingest.local import dataset_path
    from streams.runtime.clock import utc_now
    from streams.runtime.emitter import Emitter, Outgoing

    now = utc_now()
    request_id = uuid.uuid4().hex
    requests, not_requested = [], []
    for path, name in located:
        relpath = dataset_path(name)
        file = file_id(tenant, dataset_id, relpath)
        url = path.absolute().as_uri()
        try:
            requests.append(
                UrlRequest(
                    event_id=event_id(UrlRequest.TOPIC, request_id, file),
                    occurred_at=now,
                    trace_id=trace_id(request_id, file),
                    tenant=tenant,
                    request_id=request_id,
                    dataset_id=dataset_id,
                    url=url,
                    relpath=relpath,
                )
            )
        except ValidationError as error:
            if any(fault["loc"] != ("url",) for fault in error.errors()):
                raise
            not_requested.append(path)
    emitter = Emitter(bootstrap_servers, idempotent=idempotent)
    try:
        for start in range(0, len(requests), 500):
            await emitter.send([Outgoing.of(request) for request in requests[start : start + 500]])
    finally:
        await emitter.stop()
    return not_requested
