"""Uploaded files: kept in the blob store under a place of their own until they are taken apart."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from schemas import BlobRef
from streams.ingest.errors import IngestError, SourceAwayError
from streams.ingest.sources import Asked, Entry
from streams.ingest.stream import PIECE_BYTES
from streams.storage.blobs import BlobError, BlobMissingError, BlobStore

_URL = re.compile(r"upload:([0-9a-f]{64})(?:/([^/?#]{1,255}))?")


def upload_store(blobs_url: str) -> BlobStore:
    """Open the place of uploads beside the blobs, where every worker finds it."""
    return BlobStore(f"{blobs_url.rstrip('/')}/uploads")


def upload_url(blob: BlobRef, name: str) -> str:
    """Name an upload in a request.

    Parameters
    ----------
    blob : BlobRef
        Where it is kept.
    name : str
        File name that it came with.
    """
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", name.replace("\\", "/").rpartition("/")[2])[-100:]
    return f"upload:{blob.sha256}" + (f"/{plain}" if plain.strip(".") else "")


class UploadProvider:
    """``upload:SHA256[/NAME]``, as ``POST /ingest`` and ``biodatamine ingest -`` make it.

    Parameters
    ----------
    uploads : BlobStore
        Where they are kept.
    """

    def __init__(self, uploads: BlobStore) -> None:
        self._uploads = uploads

    def serves(self, url: str) -> bool:
        """Whether it is an upload."""
        return url.startswith("upload:")

    def entries(self, asked: Asked) -> Iterator[Entry]:
        """Give the upload."""
        match = _URL.fullmatch(asked.url)
        if match is None:
            raise IngestError("bad-url", "an upload is upload:SHA256")
        yield Entry(UploadSource(self._uploads, match[1], match[2] or "upload"), origin="upload")

    def remove(self, url: str) -> None:
        """Forget an upload whose request has ended; harmless when it is gone."""
        match = _URL.fullmatch(url)
        root = self._uploads.local_root
        if match is None:
            return
        with contextlib.suppress(OSError):
            if root is not None:
                Path(root, match[1][:2], match[1]).unlink(missing_ok=True)
            else:
                import fsspec  # noqa: PLC0415 (some back ends take a second to import)

                uri = self._uploads.uri(match[1])
                fsspec.core.url_to_fs(uri)[0].rm_file(uri)


class UploadSource:
    """The bytes of one upload.

    Parameters
    ----------
    uploads : BlobStore
        Where it is kept.
    sha256, name : str
        Which one, and what it was called.
    """

    def __init__(self, uploads: BlobStore, sha256: str, name: str) -> None:
        self._uploads = uploads
        self._sha256 = sha256
        self.name = name
        self.media_type = ""
        self.validator = sha256

    def chunks(self, offset: int = 0, validator: str = "") -> Iterator[bytes]:
        """Read from an offset to the end; what has a digest for a name never changes."""
        del validator
        ref = BlobRef(uri=self._uploads.uri(self._sha256), sha256=self._sha256, size_bytes=0)
        try:
            with self._uploads.open(ref) as file:
                file.seek(offset)
                while data := file.read(PIECE_BYTES):
                    yield data
        except BlobMissingError:
            raise IngestError(
                "not-found", "the upload is gone: it is kept until its request has ended once"
            ) from None
        except BlobError as error:
            raise SourceAwayError("the upload cannot be read now") from error
