"""Tables of the ledger's SQLite file, and the way of an older file to them."""

from __future__ import annotations

import sqlite3

import orjson

LAYOUT = 2
"""``user_version`` of the file. 1 had no SOP class, tenant and size, and no commitment table."""

_LEDGER = """
CREATE TABLE IF NOT EXISTS ledger (
    seq INTEGER PRIMARY KEY,
    event_id BLOB NOT NULL UNIQUE,
    file_id BLOB NOT NULL,
    image_id BLOB NOT NULL,
    sop_instance_uid TEXT NOT NULL,
    received_at TEXT NOT NULL,
    state INTEGER NOT NULL,
    log_partition INTEGER,
    log_offset INTEGER,
    message_key BLOB,
    event BLOB
)
"""

_FROM_1_TO_2 = (
    "ALTER TABLE ledger ADD COLUMN sop_class_uid TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE ledger ADD COLUMN tenant TEXT NOT NULL DEFAULT ''",
    # -1: not known. The event that told it is gone.
    "ALTER TABLE ledger ADD COLUMN size_bytes INTEGER NOT NULL DEFAULT -1",
)

_REST = (
    "CREATE INDEX IF NOT EXISTS ledger_file ON ledger (file_id)",
    "CREATE INDEX IF NOT EXISTS ledger_open ON ledger (state, seq) WHERE state < 2",
    "CREATE INDEX IF NOT EXISTS ledger_instance ON ledger (sop_instance_uid, tenant)",
    # Eight bytes tell images apart well enough to find the few rows to compare.
    "CREATE INDEX IF NOT EXISTS ledger_image ON ledger (substr(image_id, 1, 8))",
    """
    CREATE TABLE IF NOT EXISTS log_position (
        log_partition INTEGER PRIMARY KEY,
        log_offset INTEGER NOT NULL,
        event_id BLOB NOT NULL
    )
    """,
    """
    CREATE TABLE IF NOT EXISTS commitment (
        id INTEGER PRIMARY KEY,
        transaction_uid TEXT NOT NULL,
        tenant TEXT NOT NULL,
        peer_ae_title TEXT NOT NULL,
        own_ae_title TEXT NOT NULL,
        received_at REAL NOT NULL,
        reference_count INTEGER NOT NULL,
        refused_as INTEGER,
        request BLOB NOT NULL
    )
    """,
    "CREATE INDEX IF NOT EXISTS commitment_transaction ON commitment (transaction_uid)",
)


class LayoutError(Exception):
    """The file is of a later version, or holds what no version of ours wrote."""


def bring_up_to_date(connection: sqlite3.Connection) -> None:
    """Make the tables of a new file, or take an older file to the present layout.

    All in one transaction: a process killed in the middle leaves the file as it was.

    Raises
    ------
    LayoutError
        If the file is of a later layout or damaged.
    sqlite3.Error
        If it is no SQLite file or cannot be written.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        (layout,) = connection.execute("PRAGMA user_version").fetchone()
        if layout not in range(LAYOUT + 1):
            msg = (
                f"it has layout {layout} and this version knows up to {LAYOUT}; install the "
                "version that wrote it"
            )
            raise LayoutError(msg)
        if layout < LAYOUT:
            connection.execute(_LEDGER)
            for statement in _FROM_1_TO_2:
                connection.execute(statement)
            _fill_from_events(connection)
            for statement in _REST:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version={LAYOUT}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _fill_from_events(connection: sqlite3.Connection) -> None:
    last = 0
    while rows := connection.execute(
        "SELECT seq, event FROM ledger WHERE event IS NOT NULL AND seq>? ORDER BY seq LIMIT 1000",
        (last,),
    ).fetchall():
        last = rows[-1][0]
        connection.executemany(
            "UPDATE ledger SET sop_class_uid=?, tenant=?, size_bytes=? WHERE seq=?",
            [(*_facts(seq, event), seq) for seq, event in rows],
        )


def _facts(seq: int, event: bytes) -> tuple[str, str, int]:
    try:
        fields = orjson.loads(event)
        uids = fields.get("dicom") or {}
        return uids.get("sop_class_uid", ""), fields["tenant"], fields["blob"]["size_bytes"]
    except (ValueError, KeyError, TypeError, AttributeError):
        msg = f"the event of record {seq} cannot be read; restore the file from a copy"
        raise LayoutError(msg) from None
