"""`biodatamine gateway`: run it, verify a peer, list the Application Entities."""

from __future__ import annotations

from datetime import datetime, timezone
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
    table,
)

if TYPE_CHECKING:
    import ssl

    from dicom_gateway.aes.entities import CommitmentPeer, Entities, Entity
    from dicom_gateway.aes.uid_rules import UidRules
    from dicom_gateway.peers.check import CheckResult

_BAD_FILE_STATUS = 2

EntitiesFile = Annotated[
    Path | None,
    typer.Option(
        "--file",
        help="TOML file with the Application Entities; without it there is one, from the settings.",
        envvar="BIODATAMINE_DICOM_ENTITIES_FILE",
    ),
]
Tls = Annotated[bool, typer.Option("--tls", help="Speak TLS (1.2 or 1.3, after BCP 195).")]
TlsCa = Annotated[
    Path | None,
    typer.Option(
        help="PEM file with the certificates that the peer is trusted by: its authority's, or its "
        "own. The system's without it."
    ),
]
TlsCertificate = Annotated[
    Path | None, typer.Option("--tls-cert", help="Our certificate, PEM, for peers that ask.")
]
TlsKey = Annotated[
    Path | None, typer.Option("--tls-key", help="Its private key, PEM, if in another file.")
]
TlsAnyHostName = Annotated[
    bool,
    typer.Option(
        "--tls-any-host-name",
        help="Do not ask that the peer's certificate is for this host; only for --tls-ca.",
    ),
]

# `\b` keeps the lines of a paragraph apart; a bracket that is no markup has a backslash.
_CHECK_HELP = """\
Verify a DICOM peer by C-ECHO, and say in plain words what is wrong.

Resolves the name, connects, negotiates TLS and an association, sends C-ECHO. The first step that
fails is explained, with what to change and on which side.

\b
biodatamine gateway check               (is our own gateway well?)
biodatamine gateway check pacs.example.org 104 --called PACS
biodatamine gateway check 10.1.0.9 2762 --called PACS --tls --tls-ca ca.pem
biodatamine gateway check PACS1         (as the entities file has it)

Exit status: 0 all is well, 1 something is wrong with the peer, 2 with the command or a file.
"""
_AES_HELP = """\
List the Application Entities: who may send what to which AE title, and whose it becomes.

They come from a TOML file (BIODATAMINE_DICOM_ENTITIES_FILE), which this command also checks
before a gateway is started with it:

\b
default_ae_title = "BIODATAMINE"          # for unknown called titles
\\[ae.BIODATAMINE]                          # every key is optional
tenant = "radiology"
dataset_id = "ct"
calling_ae_titles = ["CT0?", "PACS*"]     # shell patterns; empty: any
networks = ["10.1.0.0/16", "fd00::/8"]    # empty: any
max_associations = 20
max_associations_per_peer = 4
sop_classes.allow = ["images"]            # UIDs, names or groups
sop_classes.ignore = ["documents"]        # answered with Success, not stored
transfer_syntaxes.allow = ["uncompressed", "JPEGLSLossless"]
\\[ae.BIODATAMINE.commitment.PACS1]         # where to report storage commitment to
host = "10.1.0.9"
port = 104

Exit status: 0, or 2 if the file cannot be used.
"""

app = typer.Typer(no_args_is_help=True, help="The DICOM gateway: a durable Storage SCP.")


@app.command("serve")
def serve(data_dir: DataDir = None) -> None:
    """Receive C-STORE and publish to files-received; settings are BIODATAMINE_DICOM_*."""
    import dicom_gateway
    from streams.storage.clickhouse import ClickHouse
    from streams.storage.settlement import ClickHouseSettlement

    with clear_errors():
        settings = load_settings(data_dir)
        given: dict[str, Any] = {
            "data_dir": settings.data_dir,
            "blob_url": settings.blob_url,
            "kafka_bootstrap_servers": settings.kafka_bootstrap_servers,
            "log_is_durable": settings.log_is_durable,
        }
        # Only a log that forgets needs rows as proof; Apache Kafka's acknowledgement is one.
        settlement = (
            None
            if settings.log_is_durable
            else ClickHouseSettlement(ClickHouse(settings.clickhouse_url))
        )
        status = dicom_gateway.serve(dicom_gateway.GatewaySettings(**given), settlement)
    raise typer.Exit(status)


@app.command("check", help=_CHECK_HELP)
def check(
    peer: Annotated[
        str,
        typer.Argument(
            help="Host of the peer; or, without PORT, the AE title of a commitment peer in the "
            "entities file. The running stack's gateway without it.",
            show_default=False,
        ),
    ] = "",
    port: Annotated[
        int | None, typer.Argument(help="Its DICOM port.", min=1, max=65535, show_default=False)
    ] = None,
    called: Annotated[
        str, typer.Option("--called", "--aec", help="AE title of the peer, as it knows itself.")
    ] = "",
    calling: Annotated[
        str, typer.Option("--calling", "--aet", help="AE title that we say is ours.")
    ] = "",
    tls: Tls = False,
    tls_ca: TlsCa = None,
    tls_cert: TlsCertificate = None,
    tls_key: TlsKey = None,
    tls_any_host_name: TlsAnyHostName = False,
    timeout_seconds: Annotated[
        float, typer.Option("--timeout", min=0.1, help="Longest time for each step, seconds.")
    ] = 10.0,
    file: EntitiesFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Verify a DICOM peer by C-ECHO, and say in plain words what is wrong."""
    from dicom_gateway import GatewaySettings
    from dicom_gateway.aes.entities import is_ae_title
    from dicom_gateway.peers.check import check as check_peer

    gateway = GatewaySettings()
    if not peer:
        host, port, own = _own_gateway(gateway, data_dir)
        called = called or own
    elif port is None:
        known = _known_peer(_entities(file), peer)
        host, port, tls, called = known.host, known.port, tls or known.tls, called or peer
    else:
        host = peer
    called, calling = called or "ANY-SCP", calling or gateway.dicom_ae_title
    for title, option in ((called, "--called"), (calling, "--calling")):
        if not is_ae_title(title):
            _reject(
                f"{option} {title!a} is no AE title: 1 to 16 ASCII characters without backslash"
            )
    context = tls_client_context(
        tls=tls, ca=tls_ca, certificate=tls_cert, key=tls_key, any_host_name=tls_any_host_name
    )
    result = check_peer(
        host,
        port,
        called_ae_title=called,
        calling_ae_title=calling,
        tls=context,
        timeout_seconds=timeout_seconds,
    )
    if as_json:
        print_json(_check_as_json(result))
    else:
        _print_check(result)
    if not result.is_ok:
        raise typer.Exit(1)


@app.command("aes", help=_AES_HELP)
def aes(file: EntitiesFile = None, as_json: AsJson = False) -> None:
    """List the Application Entities: who may send what to which AE title, and whose it becomes."""
    entities = _entities(file)
    if as_json:
        print_json({**entities.model_dump(mode="json"), "warnings": list(entities.warnings())})
        return
    from rich.markup import escape

    rows = [row for entity in entities.ae.values() for row in _entity_rows(entity)]
    title = f"Application Entities of {entities.source or 'the settings'}"
    console.print(table(escape(title), ("AE title", "rule", "value"), rows))
    other = entities.default_ae_title
    fate = f"taken for {other}" if other else "rejected"
    console.print(f"Other called AE titles: {fate}", markup=False, highlight=False)
    _check_stow(entities)
    for warning in entities.warnings():
        errors.print("[bold yellow]warning:[/] ", end="")
        errors.print(warning, highlight=False, markup=False, soft_wrap=True)


def _check_stow(entities: Entities) -> None:
    from dicom_gateway import GatewaySettings
    from dicom_gateway.aes.entities_file import EntitiesError
    from dicom_gateway.listening import stow_entity

    settings = GatewaySettings()
    if settings.stow_port is None:
        return
    try:
        entity = stow_entity(settings, entities)
    except EntitiesError as error:
        _reject(str(error))
    console.print(f"STOW-RS: as {entity.ae_title}", markup=False, highlight=False)


def tls_client_context(
    *,
    tls: bool,
    ca: Path | None,
    certificate: Path | None,
    key: Path | None,
    any_host_name: bool,
) -> ssl.SSLContext | None:
    """Make what the TLS options of a command say; ends the command if they cannot be used."""
    from dicom_gateway.peers.tls import TlsError, client_context

    if not tls:
        if ca or certificate or key or any_host_name:
            _reject("--tls-... without --tls: add --tls to speak TLS")
        return None
    if any_host_name and ca is None:
        _reject(
            "--tls-any-host-name trusts any server of the system's authorities: name the peer's "
            "with --tls-ca"
        )
    try:
        return client_context(
            ca=ca,
            certificate=certificate,
            key=key,
            check_host_name=not any_host_name,
            now=datetime.now(timezone.utc),
        )
    except TlsError as error:
        _reject(str(error))


def _reject(message: str) -> NoReturn:
    from rich.markup import escape

    # The name of a table, [ae.X], would pass for markup.
    fail(escape(message), status=_BAD_FILE_STATUS)
    raise AssertionError


def _own_gateway(gateway: Any, data_dir: Path | None) -> tuple[str, int, str]:
    from deploy.embedded.state import read_stack

    stack = read_stack(load_settings(data_dir).data_dir)
    known = stack.addresses if stack and stack.addresses.dicom_port else None
    if known is None or known.dicom_port is None:
        return gateway.dicom_host, gateway.dicom_port, gateway.dicom_ae_title
    return (
        known.dicom_host or gateway.dicom_host,
        known.dicom_port,
        known.dicom_ae_title or gateway.dicom_ae_title,
    )


def _entities(file: Path | None) -> Entities:
    from dicom_gateway import GatewaySettings
    from dicom_gateway.aes.entities_file import EntitiesError
    from dicom_gateway.listening import entities_of

    try:
        return entities_of(GatewaySettings(dicom_entities_file=file))
    except EntitiesError as error:
        _reject(str(error))


def _known_peer(entities: Entities, ae_title: str) -> CommitmentPeer:
    known = {
        title: peer for entity in entities.ae.values() for title, peer in entity.commitment.items()
    }
    if ae_title not in known:
        names = ", ".join(sorted(known)) or "none"
        _reject(
            f"no port is given, and {entities.source or 'no entities file'} has no commitment peer "
            f"{ae_title!a} (it has: {names}); write: gateway check HOST PORT --called {ae_title}"
        )
    return known[ae_title]


def _entity_rows(entity: Entity) -> list[tuple[str, str, str]]:
    from rich.markup import escape

    def rules(given: UidRules) -> str:
        said = ", ".join(given.allow) or "all"
        return f"{said}; ignored: {', '.join(given.ignore)}" if given.ignore else said

    def limit(value: int | None) -> str:
        return "the gateway's limit" if value is None else str(value)

    shown = {
        "tenant, dataset": f"{entity.tenant}, {entity.dataset_id}",
        "calling AE titles": ", ".join(entity.calling_ae_titles) or "any",
        "networks": ", ".join(map(str, entity.networks)) or "any",
        "associations": limit(entity.max_associations),
        "associations of a peer": limit(entity.max_associations_per_peer),
        "SOP classes": rules(entity.sop_classes),
        "transfer syntaxes": rules(entity.transfer_syntaxes),
    }
    for title, peer in entity.commitment.items():
        way = " with TLS" if peer.tls else ""
        shown[f"commitment to {title}"] = f"{peer.host}:{peer.port}{way}"
    return [
        (escape(entity.ae_title) if index == 0 else "", escape(rule), escape(value))
        for index, (rule, value) in enumerate(shown.items())
    ]


def _print_check(result: CheckResult) -> None:
    from rich.markup import escape

    rows = [
        (
            step.name,
            "ok" if step.is_ok else "failed",
            f"{step.seconds * 1000:.1f} ms",
            escape(step.detail) if step.is_ok else "see below",
        )
        for step in result.steps
    ]
    title = (
        f"{result.called_ae_title} at {result.host}:{result.port}, "
        f"called as {result.calling_ae_title}"
    )
    console.print(table(escape(title), ("step", "", "took", "found"), rows))
    if result.problem is None:
        console.print("All is well: the peer answers C-ECHO.")
        return
    errors.print(f"[bold red]{result.problem.code}:[/] ", end="")
    errors.print(result.problem.said, highlight=False, markup=False, soft_wrap=True)
    errors.print(result.problem.advice, highlight=False, markup=False, soft_wrap=True)


def _check_as_json(result: CheckResult) -> dict[str, Any]:
    from dataclasses import asdict

    return {"is_ok": result.is_ok, **asdict(result)}
