"""What comes with a request: its body as decoded pieces, or a form with external tables."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from aiohttp import BodyPartReader, web

from deploy.embedded.clickhouse import codings, native
from deploy.embedded.clickhouse.block_compression import BlockDecoder
from deploy.embedded.clickhouse.engine import Connection
from deploy.embedded.clickhouse.errors import ServerError
from deploy.embedded.clickhouse.sql import quote_name
from deploy.embedded.clickhouse.waiting import within

MAX_FORM_BYTES = 256 << 20  # of a multipart form with its external tables


@dataclass(frozen=True)
class ExternalTable:
    """A temporary table that came with the query as a file of a multipart form."""

    name: str
    structure: str
    input_format: str
    data: bytes


class Body:
    """A request's body, decoded, in pieces."""

    def __init__(self, request: web.BaseRequest, decompress: bool, timeout_seconds: float) -> None:
        coding = request.headers.get("Content-Encoding", "").strip().lower()
        self._decoder = codings.Decoder(coding) if coding not in ("", "identity") else None
        self._blocks = BlockDecoder() if decompress else None
        self._content = request.content
        self._timeout_seconds = timeout_seconds
        self._pieces = self._read()

    async def _read(self) -> AsyncIterator[bytes]:
        while True:
            try:
                raw = await within(self._timeout_seconds, self._content.readany())
            except asyncio.TimeoutError:
                raise ServerError(
                    209, f"No data came for {self._timeout_seconds:g} s; the upload is dropped"
                ) from None
            if not raw:
                break
            for plain in self._decoder.feed(raw) if self._decoder else (raw,):
                for piece in self._blocks.feed(plain) if self._blocks else (plain,):
                    yield piece
        if self._decoder:
            self._decoder.finish()
        if self._blocks:
            self._blocks.finish()

    async def read(self, least: int) -> tuple[bytes, bool]:
        """Return at least `least` bytes and whether the body has ended; fewer only at its end."""
        parts: list[bytes] = []
        size = 0
        async for piece in self._pieces:
            parts.append(piece)
            size += len(piece)
            if size >= least:
                return b"".join(parts), False
        return b"".join(parts), True


async def read_form(
    request: web.BaseRequest, timeout_seconds: float
) -> tuple[dict[str, str], dict[str, bytes]]:
    """Return the fields and the files of a multipart form.

    Raises
    ------
    ServerError
        36 when the form does not parse, 209 when it stalls, 396 beyond `MAX_FORM_BYTES`.
    """
    fields: dict[str, str] = {}
    files: dict[str, bytes] = {}
    left = MAX_FORM_BYTES
    try:
        reader = await request.multipart()
        while (part := await reader.next()) is not None:
            if not isinstance(part, BodyPartReader) or not part.name:
                raise ServerError(36, "Every part of the form needs a name")
            data = bytearray()
            while chunk := await within(timeout_seconds, part.read_chunk(1 << 16)):
                data += chunk
                left -= len(chunk)
                if left < 0:
                    raise ServerError(396, f"A form is larger than {MAX_FORM_BYTES} bytes")
            if part.filename is not None:
                files[part.name] = bytes(data)
            else:
                fields[part.name] = data.decode("utf-8", "surrogateescape")
    except asyncio.TimeoutError:
        raise ServerError(209, "No data came for too long; the upload is dropped") from None
    except (ValueError, RuntimeError) as error:
        raise ServerError(36, "The multipart form does not parse") from error
    return fields, files


def external_table(name: str, data: bytes, form: Mapping[str, str]) -> ExternalTable:
    """Return the table for one file of a form, from ``NAME_structure`` or ``NAME_types``."""
    structure = form.get(f"{name}_structure", "")
    if not structure:
        types = native.split_arguments(form.get(f"{name}_types", ""))
        structure = ", ".join(f"_{number} {kind}" for number, kind in enumerate(types, 1))
    if not structure:
        raise ServerError(
            36,
            f"The file {name[:64]!r} needs {name[:64]}_structure or {name[:64]}_types",
            "BAD_ARGUMENTS",
        )
    return ExternalTable(name, structure, form.get(f"{name}_format", "TabSeparated"), data)


def load_table(connection: Connection, table: ExternalTable) -> None:
    """Make the table on `connection` and fill it. Blocking."""
    name = quote_name(table.name)
    connection.execute(f"DROP TEMPORARY TABLE IF EXISTS {name}")
    connection.execute(f"CREATE TEMPORARY TABLE {name} ({table.structure}) ENGINE = Memory")
    inserter = connection.insert(f"INSERT INTO {name}", table.input_format)
    try:
        if table.data:
            inserter.append(table.data)
        inserter.finish()
    except BaseException:
        inserter.cancel()
        raise
