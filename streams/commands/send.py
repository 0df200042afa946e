"""`biodatamine send`: C-STORE with a progress bar."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from streams.commands.common import AsJson, DataDir, console, fail, print_json, progress_bar, table
from streams.commands.gateway import (
    Tls,
    TlsAnyHostName,
    TlsCa,
    TlsCertificate,
    TlsKey,
    tls_client_context,
)

if TYPE_CHECKING:
    import ssl

    from streams.send import SendReport


def send(
    paths: Annotated[list[Path], typer.Argument(help="DICOM files, or folders of them.")],
    host: Annotated[
        str, typer.Option(help="Receiver; the running stack's gateway without it.")
    ] = "",
    port: Annotated[int, typer.Option(help="Its port.")] = 0,
    called_aet: Annotated[str, typer.Option("--aec", help="Called AE title.")] = "",
    calling_aet: Annotated[str, typer.Option("--aet", help="Calling AE title.")] = "BDM-SEND",
    associations: Annotated[int, typer.Option(min=1, max=32, help="How many at once.")] = 1,
    tls: Tls = False,
    tls_ca: TlsCa = None,
    tls_cert: TlsCertificate = None,
    tls_key: TlsKey = None,
    tls_any_host_name: TlsAnyHostName = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Send DICOM files by C-STORE, each as it is, and say what became of them.

    Exit status 0 if every file that could be sent was stored.
    """
    from deploy.embedded.state import read_stack
    from dicom_gateway import GatewaySettings
    from streams.commands.common import load_settings
    from streams.send import SendError

    stack = read_stack(load_settings(data_dir).data_dir)
    default = GatewaySettings()
    known = stack.addresses if stack and stack.addresses.dicom_port else None
    context = tls_client_context(
        tls=tls, ca=tls_ca, certificate=tls_cert, key=tls_key, any_host_name=tls_any_host_name
    )
    try:
        report = send_with_progress(
            paths,
            host=host or (known.dicom_host if known and known.dicom_host else default.dicom_host),
            port=port or (known.dicom_port if known and known.dicom_port else default.dicom_port),
            called_aet=called_aet
            or (known.dicom_ae_title if known and known.dicom_ae_title else default.dicom_ae_title),
            calling_aet=calling_aet,
            associations=associations,
            tls=context,
        )
    except SendError as error:
        fail(str(error))
    if as_json:
        results = [
            {"path": str(r.path), "outcome": r.outcome, "status": r.status, "meaning": r.meaning}
            for r in report.results
        ]
        print_json({"seconds": report.seconds, "results": results})
    else:
        print_send_report(report)
    if report.count("refused") or report.count("failed"):
        raise typer.Exit(1)


def send_with_progress(
    paths: Sequence[Path],
    *,
    host: str,
    port: int,
    called_aet: str,
    calling_aet: str,
    associations: int = 1,
    tls: ssl.SSLContext | None = None,
) -> SendReport:
    """Send files and show how far it is; see ``streams.send.send``."""
    from streams.send import FileResult
    from streams.send import send as send_files

    with progress_bar() as progress:
        task = progress.add_task(f"C-STORE to {called_aet}", total=None)

        def show(done: int, total: int, result: FileResult) -> None:
            del result
            progress.update(task, completed=done, total=total)

        return send_files(
            paths,
            host=host,
            port=port,
            called_aet=called_aet,
            calling_aet=calling_aet,
            associations=associations,
            tls=tls,
            on_progress=show,
        )


def print_send_report(report: SendReport) -> None:
    """Print what became of the files, reasons first."""
    stored = report.count("stored")
    seconds = max(report.seconds, 1e-9)
    console.print(
        f"{stored:,} stored, {report.count('refused')} refused, {report.count('failed')} failed, "
        f"{report.count('skipped')} not sendable; {report.sent_bytes / 2**20:.1f} MB in "
        f"{report.seconds:.1f} s ({stored / seconds:.0f} instances/s), "
        f"{report.associations} associations"
    )
    if report.reasons:
        console.print(table("Not stored", ("why", "files"), report.reasons.most_common()))
