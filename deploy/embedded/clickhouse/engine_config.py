"""The engine's configuration: small pools and caches, fsync on insert, no way to the host's files.

chDB reads them through ``?config-file=`` in the connection string of the first connection.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

SERVER_FILE = "engine.xml"
USERS_FILE = "users.xml"

# An insert is on disk before it is acknowledged. Merged parts are synced too, so the parts they
# replace need not be kept for the default eight minutes: checking thousands of them costs CPU.
MERGE_TREE_SETTINGS: dict[str, int] = {
    "fsync_after_insert": 1,
    "fsync_part_directory": 1,
    "min_rows_to_fsync_after_merge": 1,
    "min_compressed_bytes_to_fsync_after_merge": 1,
    "old_parts_lifetime": 60,
}

# Profile defaults, every one of them open to SETTINGS, SET and the URL.
PROFILE_SETTINGS: dict[str, int] = {
    "implicit_select": 0,  # chDB's shell habit: "sel" would be a column name instead of an error
    "async_insert": 0,  # an answer means that the rows are in a part
}

GRANTS = (
    "GRANT SHOW, SELECT, INSERT, ALTER, CREATE, DROP, UNDROP TABLE, TRUNCATE, OPTIMIZE, CHECK, "
    "KILL QUERY, dictGet, SYSTEM MERGES, SYSTEM FLUSH, SYSTEM DROP CACHE, "
    "SYSTEM RELOAD ON *.*",
    "GRANT TABLE ENGINE ON *",
    "GRANT SET DEFINER ON *",
)


@dataclass(frozen=True)
class EngineLimits:
    """Memory of the engine, in bytes.

    Attributes
    ----------
    memory_bytes : int
        Of all queries and merges together; a query beyond it fails with code 241.
    cache_bytes : int
        Of each mark and index cache.
    """

    memory_bytes: int = 2 << 30
    cache_bytes: int = 32 << 20


def server_xml(limits: EngineLimits) -> str:
    """Return the engine's server configuration."""
    caches = (
        "mark_cache_size",
        "primary_index_cache_size",
        "index_mark_cache_size",
        "query_condition_cache_size",
        "compiled_expression_cache_size",
        "vector_similarity_index_cache_size",
        "text_index_tokens_cache_size",
        "text_index_header_cache_size",
        "text_index_postings_cache_size",
        "parquet_metadata_cache_size",
        "iceberg_metadata_files_cache_size",
    )
    values: dict[str, object] = {
        "users_config": USERS_FILE,
        "max_server_memory_usage": limits.memory_bytes,
        "uncompressed_cache_size": 0,
        "index_uncompressed_cache_size": 0,
        **dict.fromkeys(caches, limits.cache_bytes),
        # chDB's own defaults, stated: two merges at a time, the rest on single threads.
        "background_pool_size": 2,
        "background_schedule_pool_size": 2,
        "background_move_pool_size": 1,
        "background_fetches_pool_size": 1,
        "background_common_pool_size": 1,
        "user_files_path": "user_files",
    }
    return _xml({**values, "merge_tree": MERGE_TREE_SETTINGS})


def users_xml(limits: EngineLimits) -> str:
    """Return the one user: anything with tables, nothing with files, URLs or processes."""
    profile = {**PROFILE_SETTINGS, "max_memory_usage": limits.memory_bytes * 3 // 4}
    user = {
        "password": "",
        "networks": {"ip": "::/0"},
        "profile": "default",
        "quota": "default",
    }
    grants = "".join(f"<query>{escape(grant)}</query>" for grant in GRANTS)
    return (
        "<clickhouse><users><default>"
        + _elements(user)
        + f"<grants>{grants}</grants></default></users>"
        + _elements({"profiles": {"default": profile}, "quotas": {"default": ""}})
        + "</clickhouse>\n"
    )


def write_config(directory: Path, limits: EngineLimits) -> None:
    """Write both files into `directory`, replacing older ones atomically."""
    for name, text in ((SERVER_FILE, server_xml(limits)), (USERS_FILE, users_xml(limits))):
        temporary = directory / f".{name}.new"
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(directory / name)


def _xml(values: dict[str, object]) -> str:
    return f"<clickhouse>{_elements(values)}</clickhouse>\n"


def _elements(values: Mapping[str, object]) -> str:
    parts = []
    for name, value in values.items():
        body = _elements(value) if isinstance(value, Mapping) else escape(str(value))
        parts.append(f"<{name}>{body}</{name}>")
    return "".join(parts)
