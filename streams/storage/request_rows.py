"""Rows of ``ingest_requests``: where each request is, and what it gave."""

from __future__ import annotations

import uuid
from typing import Any
from urllib.parse import urlsplit

from schemas import UrlRequest

QUEUED, FETCHING, FETCHED, FAILED = "queued", "fetching", "fetched", "failed"

# Failing comes before success: a dead letter that is replayed may succeed in the end. Bytes never
# come near.
_VERSIONS = {QUEUED: 0, FETCHING: 1, FAILED: 1 << 61, FETCHED: 1 << 62}
_MAX_SOURCE_CHARACTERS = 512


def request_row(
    request: UrlRequest,
    state: str = QUEUED,
    *,
    files: int = 0,
    unchanged: int = 0,
    refused: int = 0,
    file_bytes: int = 0,
    fetched_bytes: int = 0,
    reason: str = "",
    error: str = "",
) -> dict[str, Any]:
    """Make the row of a request.

    Parameters
    ----------
    request : UrlRequest
        What was asked for.
    state : str
        ``queued``, ``fetching``, ``fetched`` or ``failed``.
    files, unchanged, refused : int
        Files found, those of them that were known, and members that were refused.
    file_bytes, fetched_bytes : int
        Bytes of the files, and bytes that came over the network.
    reason, error : str
        Why it failed.
    """
    return {
        "tenant": request.tenant,
        "dataset_id": request.dataset_id,
        "event_id": _uuid(request.event_id),
        "request_id": request.request_id,
        "trace_id": request.trace_id,
        "dataset_name": request.dataset_name or "",
        "source": shown_url(request.url),
        "state": state,
        "version": _VERSIONS[state] + fetched_bytes,
        "reason": reason,
        "error": error[:1000],
        "requested_at": request.occurred_at,
        "files": files,
        "unchanged": unchanged,
        "refused": refused,
        "file_bytes": file_bytes,
        "fetched_bytes": fetched_bytes,
    }


def shown_url(url: str) -> str:
    """Write a URL so that it can stand in a table: no user, query or fragment.

    Parameters
    ----------
    url : str
        Any text.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return "(not a URL)"
    if ":" in host:
        host = f"[{host}]"
    place = f"//{host}{f':{port}' if port else ''}" if host or parts.scheme == "file" else ""
    text = f"{parts.scheme}:{place}{parts.path}" if parts.scheme else parts.path
    clean = "".join(c if c.isprintable() else "?" for c in text)
    return clean.encode("utf-8", "replace").decode()[:_MAX_SOURCE_CHARACTERS]


def _uuid(text: str) -> uuid.UUID:
    try:
        return uuid.UUID(text)
    except ValueError:
        # Whoever writes to the topic may name events as they like.
        return uuid.uuid5(uuid.NAMESPACE_OID, text)
