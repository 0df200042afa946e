"""The ``biodatamine`` command."""

from __future__ import annotations

import warnings

import typer

from streams.commands import (
    bench,
    datasets,
    demo,
    dlq,
    gateway,
    ingest,
    inspect,
    look,
    modality,
    send,
    servers,
)

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    help="Watches a stream of medical images: receives all, says what it is, keeps it queryable.",
    epilog="First time? `biodatamine demo` starts everything and pushes real files through it.",
)

app.command("demo", rich_help_panel="Run")(demo.demo)
app.command("up", rich_help_panel="Run")(servers.up)
app.command("worker", rich_help_panel="Run")(servers.worker)
app.add_typer(gateway.app, name="gateway", rich_help_panel="Run")
app.command("topics", rich_help_panel="Run")(servers.topics)
app.command("migrate", rich_help_panel="Run")(servers.migrate)
app.command("send", rich_help_panel="Send")(send.send)
app.command("ingest", rich_help_panel="Send")(ingest.ingest)
app.command("inspect", rich_help_panel="Look")(inspect.inspect)
app.add_typer(modality.app, name="modality", rich_help_panel="Look")
app.add_typer(datasets.app, name="datasets", rich_help_panel="Look")
app.command("status", rich_help_panel="Look")(look.status)
app.command("query", rich_help_panel="Look")(look.query)
app.command("settings", rich_help_panel="Look")(look.settings_list)
app.add_typer(dlq.app, name="dlq", rich_help_panel="Look")
app.command(
    "bench",
    rich_help_panel="Develop",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)(bench.bench)


def main() -> None:
    """Run the command."""
    # pydicom warns of each odd value in a file; what matters of them is in our own reports.
    warnings.filterwarnings("ignore", module=r"pydicom\..*")
    app()


if __name__ == "__main__":
    main()
