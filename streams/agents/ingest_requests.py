"""Requests as people make them: checked at the door, so that a mistake is told at once."""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from datetime import datetime
from urllib.parse import unquote, urlsplit

from pydantic import ValidationError

from schemas import UrlRequest
from schemas.identity import event_id, trace_id
from streams.ingest.credentials import Credentials, require_no_secrets
from streams.ingest.errors import IngestError
from streams.ingest.guard import Guard
from streams.ingest.local import resolve_allowed
from streams.ingest.sources import Provider

_SUFFIXES = re.compile(r"(\.(zip|7z|tar|tgz|tbz2?|txz|tzst|gz|bz2|xz|zst|git))+$", re.IGNORECASE)


def make_request(
    *,
    url: str,
    tenant: str,
    now: datetime,
    dataset_id: str | None = None,
    dataset_name: str | None = None,
    relpath: str | None = None,
    credentials_ref: str | None = None,
    sha256: str | None = None,
    request_id: str | None = None,
) -> UrlRequest:
    """Make the request for one URL.

    Parameters
    ----------
    url : str
        Where to fetch from.
    tenant : str
        For whom.
    now : datetime
        The present.
    dataset_id : str, optional
        Dataset that the files join; by default one named after the URL.
    dataset_name, relpath, credentials_ref, sha256 : str, optional
        As ``schemas.UrlRequest``.
    request_id : str, optional
        Name of the request; a new one by default.

    Raises
    ------
    IngestError
        ``bad-request`` with the fields at fault, or what is wrong with the URL.
    """
    require_no_secrets(url)
    identifier = request_id or uuid.uuid4().hex
    name = event_id(UrlRequest.TOPIC, identifier, url, relpath or "")
    try:
        return UrlRequest(
            event_id=name,
            occurred_at=now,
            trace_id=trace_id(identifier, url, relpath or ""),
            tenant=tenant,
            request_id=identifier,
            dataset_id=dataset_id or dataset_of(url),
            dataset_name=dataset_name or None,
            url=url,
            relpath=relpath or None,
            credentials_ref=credentials_ref or None,
            sha256=sha256.lower() if sha256 else None,
        )
    except ValidationError as error:
        faults = error.errors(include_input=False, include_url=False)
        text = "; ".join(f"{'.'.join(map(str, f['loc']))}: {f['msg']}" for f in faults)
        raise IngestError("bad-request", text) from None


def dataset_of(url: str) -> str:
    """Name a dataset after the last part of its URL, or after its host."""
    try:
        parts = urlsplit(url)
        path = [part for part in unquote(parts.path, errors="replace").split("/") if part]
        host = parts.hostname or ""
    except ValueError:
        path, host = [], ""
    for text in (_SUFFIXES.sub("", path[-1]) if path else "", host, "dataset"):
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:128]
        if name:
            return name
    raise AssertionError


def require_servable(
    request: UrlRequest,
    *,
    providers: Sequence[Provider],
    credentials: Credentials,
    guard: Guard,
    roots: Sequence[object],
) -> None:
    """Refuse at the door what the worker would refuse later.

    Parameters
    ----------
    request : UrlRequest
        What is asked for.
    providers : sequence of Provider
        Who serves URLs.
    credentials : Credentials
        Which secrets there are.
    guard : Guard
        Which addresses may be reached.
    roots : sequence of Path
        Folders from which files may be read.

    Raises
    ------
    IngestError
        If it cannot be served as it is.
    """
    if not any(provider.serves(request.url) for provider in providers):
        raise IngestError(
            "unsupported-url", "http, https, file and the stores that the worker allows are served"
        )
    credentials.find(request.credentials_ref)
    parts = urlsplit(request.url)
    if parts.scheme == "file":
        resolve_allowed(request.url, roots)  # type: ignore[arg-type]
    elif parts.scheme in ("http", "https"):
        try:
            port = parts.port or (443 if parts.scheme == "https" else 80)
            guard.addresses(parts.hostname or "", port)
        except ValueError:
            raise IngestError("bad-url", "not a URL") from None
        except OSError:
            raise IngestError("not-found", "the URL's host cannot be resolved") from None
