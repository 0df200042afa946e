"""ClickHouse's engine behind a ClickHouse HTTP endpoint, as a service."""

from __future__ import annotations

import secrets
from pathlib import Path

from deploy.embedded.environment import child_environment, python_module
from deploy.embedded.files import write_atomically
from deploy.embedded.ports import LOOPBACK
from deploy.embedded.probes import http_ready
from deploy.embedded.service import Action, ServiceSpec

USER = "biodatamine"
DATABASE = "biodatamine"


def clickhouse_password(path: Path) -> str:
    """Password of a data folder's database; made once.

    Parameters
    ----------
    path : Path
        File that keeps it, readable by its owner only.
    """
    if path.is_file() and (known := path.read_text().strip()):
        return known
    made = secrets.token_hex(16)
    write_atomically(path, made.encode())
    return made


def clickhouse_spec(
    *, folder: Path, port: int, user: str, password: str, after_ready: Action | None = None
) -> ServiceSpec:
    """Describe the database.

    Parameters
    ----------
    folder : Path
        Where it keeps its data.
    port : int
        Where it listens, on loopback.
    user, password : str
        Basic authentication of every request.
    after_ready : callable, optional
        Brings the tables up to date, each time that it has come up.
    """
    argv = python_module(
        "deploy.embedded.clickhouse",
        *("--host", LOOPBACK, "--port", str(port)),
        *("--path", str(folder.absolute())),
        *("--user", user),
    )
    return ServiceSpec(
        name="clickhouse",
        argv=argv,
        # Not in the command, which every user of this machine can read.
        env=child_environment({"CLICKHOUSE_PASSWORD": password}),
        address=f"http://{LOOPBACK}:{port}",
        ready=http_ready(f"http://{LOOPBACK}:{port}/ping", body=b"Ok."),
        after_ready=after_ready,
        ready_timeout_seconds=120.0,
        stop_grace_seconds=20.0,
    )
