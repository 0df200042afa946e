"""``POST /ingest``: a URL as JSON, or files as multipart, to ``url-requests``.

Answers: 202 with the request's id; 400 what is asked for makes no sense; 401 no or a wrong token;
403 not from here, or an address or folder that may not be read; 404 a host that does not exist;
413 too large; 415 another content type; 503 the log or the blob store is away. Every answer but the
first has ``reason`` and ``detail``.
"""

from __future__ import annotations

import asyncio
import hmac
import uuid
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any

import orjson
from aiohttp import BodyPartReader, web

from schemas import UrlRequest
from streams.agents.ingest import limits_of, providers_of
from streams.agents.ingest_requests import make_request, require_servable
from streams.agents.uploads import upload_store, upload_url
from streams.ingest.addresses import AllowList
from streams.ingest.credentials import Credentials
from streams.ingest.errors import IngestError
from streams.ingest.guard import Guard
from streams.runtime.clock import Clock
from streams.runtime.emitter import Emitter, Outgoing
from streams.runtime.retry import ServiceFaultError
from streams.settings import Settings
from streams.storage.blobs import BlobError, BlobStore

_MAX_JSON_BYTES = 64 << 10
_MAX_FIELD_BYTES = 8192
_MAX_PARTS = 1000
_CHUNK_BYTES = 1 << 18
_IDLE_SECONDS = 60.0
_FIELDS = (
    *("url", "dataset_id", "dataset_name", "relpath", "credentials_ref", "sha256"),
    *("tenant", "request_id"),
)
_STATUSES = {
    "unauthorized-post": 401,
    "forbidden-address": 403,
    "forbidden-origin": 403,
    "outside-roots": 403,
    "not-found": 404,
    "too-large": 413,
    "too-many-parts": 413,
    "unsupported-content-type": 415,
}


class IngestRoutes:
    """The endpoint.

    Parameters
    ----------
    settings : Settings
        Token, bounds, allow-lists.
    emitter : Emitter
        Takes the requests.
    clock : Clock
        The present.
    """

    def __init__(self, settings: Settings, emitter: Emitter, clock: Clock) -> None:
        self._settings = settings
        self._emitter = emitter
        self._clock = clock
        self._token = settings.ingest_token.get_secret_value()
        limits = limits_of(settings)
        allowed = AllowList.parse(settings.ingest_allowed_hosts, settings.ingest_allowed_ports)
        self._guard = Guard(allowed)
        self._credentials = Credentials(
            settings.ingest_secrets,
            {
                name: secret.get_secret_value()
                for name, secret in settings.ingest_credentials.items()
            },
        )
        self._uploads: BlobStore = upload_store(settings.blobs)
        self._providers = providers_of(settings, limits, self._uploads)

    @property
    def routes(self) -> list[web.RouteDef]:
        """What a server adds to its own."""
        return [web.post("/ingest", self._serve)]

    async def _serve(self, request: web.Request) -> web.Response:
        try:
            self._require_trusted(request)
            if request.content_type == "application/json":
                asked = [await self._from_json(request)]
            elif request.content_type == "multipart/form-data":
                asked = await self._from_parts(request)
            else:
                raise IngestError(
                    "unsupported-content-type",
                    "send application/json with a url, or multipart/form-data with files",
                )
            await self._emitter.send([Outgoing.of(one) for one in asked])
        except IngestError as error:
            status = _STATUSES.get(error.reason, 400)
            return _answer(status, {"reason": error.reason, "detail": error.detail})
        except asyncio.TimeoutError:
            return _answer(408, {"reason": "too-slow", "detail": "nothing came for a minute"})
        except (ServiceFaultError, BlobError) as error:
            detail = "try again later: " + (
                error.service if isinstance(error, ServiceFaultError) else "the blob store"
            )
            return _answer(503, {"reason": "service-away", "detail": f"{detail} is away"})
        return _answer(
            202,
            {
                "request_id": asked[0].request_id,
                "tenant": asked[0].tenant,
                "dataset_id": asked[0].dataset_id,
                "event_ids": [one.event_id for one in asked],
            },
        )

    def _require_trusted(self, request: web.Request) -> None:
        if self._token:
            given = request.headers.get("Authorization", "")
            if not hmac.compare_digest(given.encode(), f"Bearer {self._token}".encode()):
                raise IngestError(
                    "unauthorized-post", "send Authorization: Bearer with BIODATAMINE_INGEST_TOKEN"
                )
            return
        # Without a token this machine is trusted, but not the web pages that its browser shows:
        # they send an Origin, or come under a name that somebody pointed here.
        host = (request.host or "").rpartition(":")[0] if ":" in request.host else request.host
        if (
            "Origin" in request.headers
            or not _is_loopback(request.remote or "")
            or not (host == "localhost" or _is_loopback(host.strip("[]")))
        ):
            raise IngestError(
                "forbidden-origin", "only this machine may post; set BIODATAMINE_INGEST_TOKEN"
            )

    async def _from_json(self, request: web.Request) -> UrlRequest:
        body = bytearray()
        while chunk := await _soon(request.content.readany()):
            body += chunk
            if len(body) > _MAX_JSON_BYTES:
                raise IngestError("too-large", f"more than {_MAX_JSON_BYTES} bytes of JSON")
        try:
            value = orjson.loads(bytes(body))
        except orjson.JSONDecodeError:
            raise IngestError("bad-request", "the body is not JSON") from None
        if not isinstance(value, dict) or not all(
            isinstance(item, str) or item is None for item in value.values()
        ):
            raise IngestError("bad-request", "the body is one JSON object of strings")
        fields = {name: item for name, item in value.items() if item is not None}
        return await self._made(fields)

    async def _made(self, fields: dict[str, str], *, trusted: bool = False) -> UrlRequest:
        unknown = sorted(set(fields) - set(_FIELDS))
        if unknown:
            known = ", ".join(_FIELDS)
            raise IngestError("bad-request", f"unknown fields; there are {known}")
        if not fields.get("url"):
            raise IngestError("bad-request", "url: what to fetch is missing")
        given: dict[str, Any] = {"tenant": self._settings.tenant, **fields}
        made = make_request(now=self._clock(), **given)
        if not trusted:
            if made.url.startswith("upload:"):
                raise IngestError("bad-url", "send files as multipart/form-data")
            await asyncio.to_thread(
                require_servable,
                made,
                providers=self._providers,
                credentials=self._credentials,
                guard=self._guard,
                roots=self._settings.ingest_roots,
            )
        return made

    async def _from_parts(self, request: web.Request) -> list[UrlRequest]:
        fields: dict[str, str] = {}
        files: list[tuple[str, str]] = []
        left = self._settings.ingest_max_upload_bytes
        if request.content_length is not None and request.content_length > left + (1 << 20):
            raise self._too_large()
        try:
            reader = await request.multipart()
            while (part := await _soon(reader.next())) is not None:
                if not isinstance(part, BodyPartReader) or part.name is None:
                    raise IngestError("bad-request", "a part has no name")
                if len(files) + len(fields) >= _MAX_PARTS:
                    raise IngestError("too-many-parts", f"more than {_MAX_PARTS} parts")
                if part.filename is None:
                    fields[part.name] = await _text(part)
                    continue
                url, size_bytes = await self._kept(part, left)
                left -= size_bytes
                files.append((url, part.filename))
        except (ValueError, AssertionError):
            raise IngestError("bad-request", "the body is not multipart/form-data") from None
        if not files:
            raise IngestError("bad-request", "no part is a file")
        if "url" in fields:
            raise IngestError("bad-request", "give files or a url, not both")
        fields.setdefault("request_id", uuid.uuid4().hex)
        fields.setdefault("dataset_id", "uploads")
        several = len(files) > 1
        folder = fields.pop("relpath", "")
        return [
            await self._made(
                {
                    **fields,
                    "url": url,
                    **_placed(folder, name if several else ""),
                },
                trusted=True,
            )
            for url, name in files
        ]

    async def _kept(self, part: BodyPartReader, left: int) -> tuple[str, int]:
        writer = await asyncio.to_thread(self._uploads.writer)
        size_bytes = 0
        try:
            while chunk := await _soon(part.read_chunk(_CHUNK_BYTES)):
                size_bytes += len(chunk)
                if size_bytes > left:
                    raise self._too_large()
                await asyncio.to_thread(writer.write, chunk)
            blob = await asyncio.to_thread(writer.commit)
        finally:
            writer.abort()
        return upload_url(blob, part.filename or "upload"), size_bytes

    def _too_large(self) -> IngestError:
        limit = self._settings.ingest_max_upload_bytes
        return IngestError(
            "too-large", f"more than {limit} bytes; see BIODATAMINE_INGEST_MAX_UPLOAD_BYTES"
        )


async def _soon(awaitable: Any) -> Any:
    return await asyncio.wait_for(awaitable, _IDLE_SECONDS)


async def _text(part: BodyPartReader) -> str:
    body = bytearray()
    while chunk := await _soon(part.read_chunk(_MAX_FIELD_BYTES)):
        body += chunk
        if len(body) > _MAX_FIELD_BYTES:
            raise IngestError("too-large", "a field is too long")
    return body.decode("utf-8", "replace")


def _placed(folder: str, name: str) -> dict[str, str]:
    # Several files of one upload are told apart by their names; one alone by what is in it.
    plain = name.replace("\\", "/").rpartition("/")[2]
    path = "/".join(part for part in (folder, plain) if part)
    return {"relpath": path[-1024:]} if path else {}


def _is_loopback(text: str) -> bool:
    try:
        return ip_address(text).is_loopback
    except ValueError:
        return False


def _answer(status: int, value: dict[str, Any]) -> web.Response:
    return web.json_response(value, status=status)


def routes(settings: Settings, emitter: Emitter, clock: Clock) -> Sequence[web.RouteDef]:
    """Make the endpoint's routes."""
    return IngestRoutes(settings, emitter, clock).routes
