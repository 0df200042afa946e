"""Numbered SQL migrations, applied once each, on one node or a replicated cluster.

``${ON_CLUSTER}`` and ``${REPLICATED}`` in the files become empty for a single node; with a cluster
name they become ``ON CLUSTER 'name'`` and ``Replicated``, whose paths follow from the server's
``default_replica_path`` and macros. The same SQL therefore runs everywhere.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources

from streams.storage.clickhouse import ClickHouse

_NAME = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")

_LEDGER = """
CREATE TABLE IF NOT EXISTS schema_migrations ${ON_CLUSTER}
(
    version UInt16,
    name String,
    sha256 String,
    applied_at DateTime64(3, 'UTC') DEFAULT now64(3)
)
ENGINE = ${REPLICATED}ReplacingMergeTree
ORDER BY version
"""


class MigrationError(RuntimeError):
    """The migrations on disk and those in the database do not fit; the message says how."""


@dataclass(frozen=True)
class Migration:
    """One numbered SQL file.

    Parameters
    ----------
    version : int
        Its number; migrations run in this order.
    name : str
        What it does.
    sql : str
        Its statements, separated by semicolons at line ends.
    """

    version: int
    name: str
    sql: str

    @property
    def sha256(self) -> str:
        """Digest of the text; an applied migration must not change."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def load() -> tuple[Migration, ...]:
    """Read the migrations that this version of BioDataMine has.

    Raises
    ------
    MigrationError
        If a file name does not fit or a number is missing or used twice.
    """
    found = []
    for entry in resources.files("streams.storage").joinpath("migrations").iterdir():
        if not entry.name.endswith(".sql"):
            continue
        match = _NAME.fullmatch(entry.name)
        if match is None:
            msg = f"{entry.name}: a migration is named NNNN_name.sql"
            raise MigrationError(msg)
        found.append(Migration(int(match[1]), match[2], entry.read_text(encoding="utf-8")))
    found.sort(key=lambda migration: migration.version)
    if [migration.version for migration in found] != list(range(1, len(found) + 1)):
        msg = "migrations must be numbered 0001, 0002, ... without gaps"
        raise MigrationError(msg)
    return tuple(found)


def statements(sql: str, *, cluster: str = "") -> tuple[str, ...]:
    """Split a migration into statements and fill in the cluster.

    Parameters
    ----------
    sql : str
        Text of a migration; a statement ends with a semicolon at the end of a line.
    cluster : str
        Name of the cluster, empty for a single node.
    """
    text = sql.replace("${ON_CLUSTER}", f"ON CLUSTER '{cluster}'" if cluster else "")
    text = text.replace("${REPLICATED}", "Replicated" if cluster else "")
    bare = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("--"))
    return tuple(part.strip() for part in re.split(r";[ \t]*(?:\n|$)", bare) if part.strip())


def pending(migrations: Iterable[Migration], applied: dict[int, str]) -> tuple[Migration, ...]:
    """Pick the migrations that the database does not have yet.

    Parameters
    ----------
    migrations : iterable of Migration
        Those on disk.
    applied : dict of int to str
        Version to digest of those in the database.

    Raises
    ------
    MigrationError
        If an applied one was changed, or the database is ahead of this version of BioDataMine.
    """
    known = {migration.version: migration for migration in migrations}
    for version, sha256 in sorted(applied.items()):
        if version not in known:
            msg = (
                f"the database has migration {version:04d}, which this version of BioDataMine "
                "does not know; install the version that made it, or a newer one"
            )
            raise MigrationError(msg)
        if known[version].sha256 != sha256:
            msg = (
                f"migration {version:04d}_{known[version].name} was changed after it was applied; "
                "undo the change and put it into a new migration"
            )
            raise MigrationError(msg)
    return tuple(m for version, m in sorted(known.items()) if version not in applied)


def migrate(database: ClickHouse, *, cluster: str = "") -> tuple[Migration, ...]:
    """Bring the database up to date; running it again changes nothing.

    Returns
    -------
    tuple of Migration
        Those that were applied now.

    Raises
    ------
    MigrationError
        As ``pending``.
    StorageUnavailableError
        If the database cannot be reached.
    """
    database.create_database(cluster=cluster)
    for statement in statements(_LEDGER, cluster=cluster):
        database.command(statement)
    rows = database.query("SELECT version, sha256 FROM schema_migrations FINAL")
    todo = pending(load(), dict(rows))
    for migration in todo:
        # Every statement can run twice, so a migration that was cut off midway starts over.
        for statement in statements(migration.sql, cluster=cluster):
            database.command(statement)
        database.insert(
            "schema_migrations",
            [{"version": migration.version, "name": migration.name, "sha256": migration.sha256}],
        )
    return todo
