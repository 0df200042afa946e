"""`biodatamine ingest`: ask the stream to fetch a URL, files of this machine, or standard input."""

from __future__ import annotations

import asyncio
import re
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from streams.commands.common import (
    AsJson,
    DataDir,
    clear_errors,
    console,
    errors,
    fail,
    load_settings,
    print_json,
)
from streams.commands.inspect import walk

if TYPE_CHECKING:
    from schemas import UrlRequest
    from streams.settings import Settings

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def ingest(
    sources: Annotated[
        list[str],
        typer.Argument(
            help="URLs, files or folders of this machine, or `-` for standard input.",
            metavar="URL|PATH|-...",
        ),
    ],
    dataset: Annotated[
        str, typer.Option(help="Dataset that they join; named after a URL, else `local`.")
    ] = "",
    name: Annotated[str, typer.Option(help="What people call the dataset.")] = "",
    relpath: Annotated[str, typer.Option(help="Place in the dataset, for one URL or `-`.")] = "",
    credentials: Annotated[
        str,
        typer.Option(help="Name of a secret of the worker: secret-file:NAME or setting:NAME."),
    ] = "",
    sha256: Annotated[str, typer.Option(help="What the download must be, for one URL.")] = "",
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Send files of any format into the stream, besides C-STORE.

    A URL (http, https, a GitHub or Kaggle page, s3, gs, az, sftp) is fetched by the worker, and
    archives are taken apart. Files of this machine are read by the worker as well, so they must lie
    in a folder that it may read: `up --ingest-root FOLDER`.

    Example: biodatamine ingest https://datasets.example.org/chest.zip --dataset chest
    """
    urls = [source for source in sources if _URL.match(source)]
    piped = "-" in sources
    paths = [Path(source) for source in sources if source != "-" and source not in urls]
    for path in paths:
        if not path.exists():
            fail(f"{path} does not exist; a URL begins with its scheme, such as https://")
    if (relpath or sha256) and (len(urls) + piped != 1 or paths):
        fail("--relpath and --sha256 are for one URL, or for `-`")
    requested: list[dict[str, str]] = []
    with clear_errors():
        settings = load_settings(data_dir)
        _require_readable(paths, settings)
        given = {
            "tenant": settings.tenant,
            "dataset_name": name,
            "relpath": relpath,
            "credentials_ref": credentials,
            "sha256": sha256,
        }
        made = [_request(url, dataset_id=dataset or None, **given) for url in urls]
        if piped:
            made.append(_request(_upload(settings.blobs), dataset_id=dataset or "local", **given))
        asyncio.run(_send(settings, made))
        requested += [_described(request) for request in made]
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
                dataset_id=dataset or "local",
                dataset_name=name,
                idempotent=settings.log_is_durable,
            )
        )
    count = len(located) - len(not_requested)
    if as_json:
        print_json({"requests": requested, "files": count, "not_requested": len(not_requested)})
    else:
        _print(requested, count, dataset or "local", has_paths=bool(paths))
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


def _print(requested: list[dict[str, str]], count: int, dataset: str, *, has_paths: bool) -> None:
    for request in requested:
        console.print(
            f"requested for dataset {request['dataset_id']}; "
            f"see `biodatamine datasets show {request['dataset_id']}`"
        )
    if has_paths:
        files = "1 file" if count == 1 else f"{count:,} files"
        console.print(f"{files} requested for dataset {dataset}; see `biodatamine status`")


def _require_readable(paths: list[Path], settings: Settings) -> None:
    """End the command if the worker may not read a path; it would refuse file by file."""
    from streams.agents.ingest_roots import recorded_roots
    from streams.ingest.errors import IngestError
    from streams.ingest.local import resolve_allowed

    roots = recorded_roots(settings.data_dir.absolute())
    if roots is None:
        # The worker is on another machine, or was never up: only it knows.
        return
    for path in paths:
        try:
            resolve_allowed(path.absolute().as_uri(), roots)
        except IngestError as error:
            allowed = ", ".join(map(_shown, roots)) or "none"
            _refuse(
                error.reason,
                f"the worker may not read {_shown(path)}, only what lies in: {allowed}. Start it "
                f"with `up --ingest-root FOLDER`, or with BIODATAMINE_INGEST_ROOTS",
            )


def _described(request: UrlRequest) -> dict[str, str]:
    return {
        "request_id": request.request_id,
        "dataset_id": request.dataset_id,
        "event_id": request.event_id,
    }


def _request(url: str, **given: Any) -> UrlRequest:
    from streams.agents.ingest_requests import make_request
    from streams.ingest.errors import IngestError
    from streams.runtime.clock import utc_now

    try:
        return make_request(url=url, now=utc_now(), **given)
    except IngestError as error:
        _refuse(error.reason, error.detail)


def _refuse(reason: str, detail: str) -> NoReturn:
    fail(f"{reason}: {detail}")
    raise AssertionError


def _upload(blobs_url: str) -> str:
    from streams.agents.uploads import upload_store, upload_url

    blob = upload_store(blobs_url).put_file(sys.stdin.buffer)
    return upload_url(blob, "stdin")


async def _send(settings: Settings, requests: list[UrlRequest]) -> None:
    from streams.runtime.emitter import Emitter, Outgoing

    if not requests:
        return
    emitter = Emitter(settings.kafka_bootstrap_servers, idempotent=settings.log_is_durable)
    try:
        await emitter.send([Outgoing.of(request) for request in requests])
    finally:
        await emitter.stop()


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
    dataset_name: str = "",
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
    dataset_name : str
        What people call the dataset; empty to leave it.

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
    from streams.ingest.names import dataset_path
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
                    dataset_name=dataset_name or None,
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
