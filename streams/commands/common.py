"""What commands share: where the running stack is, how tables look, how errors end."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.table import Table

from deploy.embedded.state import StackInfo, read_stack
from streams.settings import Settings, environment_name

if TYPE_CHECKING:
    from rich.progress import Progress

console = Console()
errors = Console(stderr=True)

DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        help="Folder of the stack; its running servers are found from there.",
        envvar="BIODATAMINE_DATA_DIR",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def load_settings(data_dir: Path | None = None, **given: Any) -> Settings:
    """Read the settings; addresses that are not set come from the running stack.

    Parameters
    ----------
    data_dir : Path, optional
        Data folder; ``BIODATAMINE_DATA_DIR`` or its default if it is None.
    given : dict
        Settings that win over all others.
    """
    if data_dir is not None:
        given["data_dir"] = data_dir
    settings = Settings(**given)
    stack = read_stack(settings.data_dir)
    found = _addresses(stack) if stack else {}
    missing = {
        name: value
        for name, value in found.items()
        if value is not None and name not in given and environment_name(name) not in os.environ
    }
    return Settings(**{**given, **missing}) if missing else settings


def _addresses(stack: StackInfo) -> dict[str, Any]:
    return {
        "kafka_bootstrap_servers": stack.addresses.kafka_bootstrap_servers,
        "clickhouse_url": stack.addresses.clickhouse_dsn,
        "triton_url": stack.addresses.triton_grpc,
        "blob_url": stack.addresses.blob_url,
        "log_is_durable": stack.addresses.log_is_durable,
    }


@contextmanager
def clear_errors() -> Iterator[None]:
    """End a command whose error is the user's or a server's with one line and exit status 1."""
    from pydantic import ValidationError

    from deploy.embedded.errors import StackError
    from streams.modality.model import ModelFileError
    from streams.runtime.retry import ServiceFaultError
    from streams.runtime.stage import UnknownStageError
    from streams.runtime.topics import TopicMismatchError
    from streams.settings import SecretError
    from streams.storage.blobs import BlobError
    from streams.storage.clickhouse import BadRowsError, StorageUnavailableError
    from streams.storage.migrate import MigrationError

    try:
        yield
    except (ServiceFaultError, StorageUnavailableError) as error:
        fail(f"{error}\nIs `biodatamine up` running here, or BIODATAMINE_* set? Try `status`.")
    except ValidationError as error:
        faults = error.errors(include_input=False, include_url=False)
        fail("; ".join(f"{'.'.join(map(str, f['loc'])) or 'setting'}: {f['msg']}" for f in faults))
    except (
        BadRowsError,
        BlobError,
        MigrationError,
        ModelFileError,
        SecretError,
        StackError,
        TopicMismatchError,
        UnknownStageError,
    ) as error:
        fail(str(error))


def fail(message: str, *, status: int = 1) -> None:
    """Print an error and end the command."""
    errors.print(f"[bold red]error:[/] {message}", highlight=False)
    raise typer.Exit(status)


def print_json(value: Any) -> None:
    """Print a value as JSON, indented for people; machines do not mind."""
    sys.stdout.buffer.write(orjson.dumps(value, default=str, option=orjson.OPT_INDENT_2) + b"\n")
    sys.stdout.flush()


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    """Make a table; numbers to the right, nothing for None."""
    made = Table(title=title, title_justify="left", header_style="bold")
    kept = [list(row) for row in rows]
    for index, name in enumerate(columns):
        numeric = bool(kept) and all(isinstance(row[index], int | float | None) for row in kept)
        made.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in kept:
        made.add_row(*("" if value is None else _text(value) for value in row))
    return made


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value)


def progress_bar() -> Progress:
    """Make a progress bar on standard error: what, how far, how many of how many, since when."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=errors,
    )
