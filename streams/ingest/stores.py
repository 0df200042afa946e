"""Object stores and file servers through fsspec: S3, GCS, Azure, SFTP.

Where the store is comes from its library and the operator's settings, never from the request: a
request names a bucket and a key. SFTP names a host, so it goes through the same guard as HTTP.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from streams.ingest.credentials import Credential, Credentials, require_no_secrets
from streams.ingest.errors import IngestError, LimitError, SourceAwayError, SourceChangedError
from streams.ingest.guard import Guard
from streams.ingest.names import dataset_path
from streams.ingest.sources import Asked, Entry
from streams.ingest.stream import PIECE_BYTES

_EXTRAS = {
    "s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs",
    "abfss": "adlfs", "sftp": "paramiko", "ssh": "paramiko",
}  # fmt: skip
_HOSTED = ("sftp", "ssh")
_NEVER = ("file", "local", "http", "https", "ftp", "data", "github", "git", "reference")
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)


class StoreProvider:
    """An object, or all objects below a prefix that ends with a slash.

    Parameters
    ----------
    schemes : collection of str
        Which are allowed.
    credentials : Credentials
        Finds secrets of kind ``options`` (fsspec's storage options), bound to buckets or hosts.
    guard : Guard
        Checks the host of SFTP.
    max_bytes, max_files : int
        Largest object, and most of them.
    options : mapping of str to mapping, optional
        By scheme, the operator's own storage options, such as an ``endpoint_url``.
    """

    def __init__(
        self,
        schemes: Collection[str],
        credentials: Credentials,
        guard: Guard,
        *,
        max_bytes: int,
        max_files: int,
        options: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self._schemes = frozenset(scheme.lower() for scheme in schemes) - frozenset(_NEVER)
        self._credentials = credentials
        self._guard = guard
        self._max_bytes = max_bytes
        self._max_files = max_files
        self._options = options or {}

    def serves(self, url: str) -> bool:
        """Whether it is of an allowed scheme."""
        match = _SCHEME.match(url)
        return match is not None and match[1].lower() in self._schemes

    def entries(self, asked: Asked) -> Iterator[Entry]:
        """Give the object, or the objects below the prefix by name."""
        require_no_secrets(asked.url)
        if "::" in asked.url:
            raise IngestError("bad-url", "chained URLs are not served")
        match = _SCHEME.match(asked.url)
        assert match is not None
        scheme, place = match[1].lower(), asked.url[match.end() :]
        host = place.split("/")[0]
        credential = self._credentials.find(asked.credentials_ref)
        options = dict(self._options.get(scheme, {})) | self._secret(credential, host)
        if scheme in _HOSTED:
            name, address, port, place = self._hosted(asked.url)
            filesystem = _sftp(name, address, port, options)
        else:
            filesystem = _filesystem(scheme, options)
        with _faults():
            if place.endswith("/"):
                paths = self._below(filesystem, place)
            else:
                paths = [place]
            base = paths[0].rpartition("/")[0] if not place.endswith("/") else None
            for path in paths:
                info = filesystem.info(path)
                if info.get("type") != "file":
                    raise IngestError("not-a-file", "end a folder or prefix with a slash")
                root = str(filesystem._strip_protocol(place)).rstrip("/")
                relative = "" if base is not None else path.removeprefix(root).lstrip("/")
                source = StoreSource(filesystem, path, info, self._max_bytes)
                yield Entry(source, path=dataset_path(relative) if relative else "")

    def _below(self, filesystem: Any, place: str) -> list[str]:
        found = []
        for path in filesystem.find(place):
            found.append(path)
            if len(found) > self._max_files:
                raise LimitError("too-many-members", f"more than {self._max_files} objects")
        if not found:
            raise IngestError("not-found", "nothing is there, or the credentials do not see it")
        return sorted(found)

    @staticmethod
    def _secret(credential: Credential | None, host: str) -> dict[str, Any]:
        if credential is None:
            return {}
        if credential.kind != "options" or host.lower() not in credential.hosts:
            raise IngestError(
                "bad-credentials", "the secret must be of kind options, and name this bucket"
            )
        return dict(credential.values["options"])

    def _hosted(self, url: str) -> tuple[str, str, int, str]:
        try:
            parts = urlsplit(url)
            port = parts.port or 22
        except ValueError:
            raise IngestError("bad-url", "not a URL") from None
        host = parts.hostname or ""
        try:
            address = self._guard.addresses(host, port)[0]
        except OSError:
            raise SourceAwayError(f"{host} cannot be resolved") from None
        return host, str(address), port, unquote(parts.path)


class StoreSource:
    """The bytes of one object.

    Parameters
    ----------
    filesystem : AbstractFileSystem
        Where it is.
    path : str
        Which one.
    info : mapping
        What the store says of it.
    max_bytes : int
        Most that it may hold.
    """

    def __init__(self, filesystem: Any, path: str, info: Mapping[str, Any], max_bytes: int) -> None:
        self._filesystem = filesystem
        self._path = path
        self._max_bytes = max_bytes
        self.name = path.rstrip("/").rpartition("/")[2]
        self.media_type = ""
        self.size_bytes = info.get("size")
        tag = info.get("ETag") or info.get("etag") or info.get("mtime") or info.get("created")
        self.validator = f"{tag}:{self.size_bytes}" if tag else ""

    def chunks(self, offset: int = 0, validator: str = "") -> Iterator[bytes]:
        """Read from an offset to the end."""
        if offset and (not validator or validator != self.validator):
            raise SourceChangedError
        if isinstance(self.size_bytes, int) and self.size_bytes > self._max_bytes:
            raise LimitError(
                "download-too-large", f"{self.size_bytes} bytes; the limit is {self._max_bytes}"
            )
        with _faults(), self._filesystem.open(self._path, "rb", block_size=4 << 20) as file:
            if offset:
                file.seek(offset)
            while data := file.read(PIECE_BYTES):
                yield data


def _filesystem(scheme: str, options: Mapping[str, Any]) -> Any:
    import fsspec  # noqa: PLC0415 (some back ends take a second to import)

    try:
        with _faults():
            return fsspec.filesystem(scheme, skip_instance_cache=True, **options)
    except (ImportError, ValueError):
        raise _lacking(scheme) from None


def _sftp(name: str, address: str, port: int, options: Mapping[str, Any]) -> Any:
    try:
        from streams.ingest.sftp import open_sftp  # noqa: PLC0415 (paramiko is optional)
    except ImportError:
        raise _lacking("sftp") from None
    with _faults():
        return open_sftp(name, address, port, options)


def _lacking(scheme: str) -> IngestError:
    return IngestError(
        "unsupported-url",
        f"{scheme}:// needs the package {_EXTRAS.get(scheme, 'of its fsspec back end')}: "
        "pip install 'biodatamine[stores]'",
    )


class _faults:  # noqa: N801 (used like a function)
    """Say what a back end raises as ours, without what it quotes: keys may be in it."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        passed = (IngestError, SourceAwayError, SourceChangedError, ImportError, GeneratorExit)
        if error is None or isinstance(error, passed) or not isinstance(error, Exception):
            return
        name = type(error).__name__
        if isinstance(error, FileNotFoundError):
            raise IngestError("not-found", "nothing is there under this name") from error
        if isinstance(error, PermissionError) or "Credentials" in name or "Auth" in name:
            raise IngestError(
                "forbidden", f"the store refuses ({name}); check credentials_ref"
            ) from error
        if isinstance(error, OSError) or "Timeout" in name or "Connection" in name:
            raise SourceAwayError(f"the store does not serve ({name})") from error
        raise IngestError("bad-response", f"the store cannot be read ({name})") from error
