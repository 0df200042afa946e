"""Every setting of the stream, in one list, each with its environment variable and meaning."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from streams.ingest.addresses import AllowList
from streams.storage.clickhouse import Address

_MINIMUM_KEY_BYTES = 16


class SecretError(RuntimeError):
    """A secret of the data folder cannot be used; the message says what to do."""


class Settings(BaseSettings):
    """Settings of the workers and commands.

    Each is read from the environment variable ``BIODATAMINE_`` plus its name in capitals, or from
    a ``.env`` file in the working folder. ``biodatamine settings`` prints them all.
    """

    model_config = SettingsConfigDict(
        env_prefix="BIODATAMINE_", env_file=".env", extra="ignore", frozen=True
    )

    data_dir: Path = Field(
        default=Path("biodatamine-data"), description="folder of everything kept on this machine"
    )
    tenant: str = Field(
        default="default", description="whose data files are, unless said otherwise"
    )
    blob_url: str = Field(
        default="", description="fsspec URL of the blob store; empty for DATA_DIR/blobs"
    )
    kafka_bootstrap_servers: str = Field(
        default="127.0.0.1:9092", description="brokers, host:port, separated by commas"
    )
    log_is_durable: bool = Field(
        default=True,
        description="whether the broker keeps its log over a restart (false for the embedded one)",
    )
    topic_replication_factor: int = Field(
        default=1, ge=1, description="copies of each partition when `biodatamine topics` makes them"
    )
    clickhouse_url: str = Field(
        default="http://default:@127.0.0.1:8123/biodatamine",
        description="http[s]://USER:PASSWORD@HOST:PORT/DATABASE",
    )
    clickhouse_cluster: str = Field(
        default="", description="cluster name for replicated tables; empty for a single node"
    )
    triton_url: str = Field(default="127.0.0.1:8001", description="Triton's gRPC host:port")
    embedder_model: str = Field(default="embedder", description="Triton model that embeds images")
    modality_model: Path | None = Field(
        default=None,
        description="folder made by `modality train`; the released model by default",
    )
    read_text: bool = Field(
        default=True, description="read burnt-in text, where the extra `ocr` is installed"
    )
    patient_hash_key: SecretStr = Field(
        default=SecretStr(""),
        description="secret of the patient pseudonyms; empty makes one in DATA_DIR/secrets",
    )
    worker_id: str = Field(default="biodatamine", description="consumer group prefix of the worker")
    session_timeout_seconds: float = Field(
        default=30.0, ge=6.0, description="silence after which the brokers give up a worker"
    )
    worker_stages: tuple[str, ...] = Field(
        default=(), description="stages that this worker runs, as JSON list; empty for all"
    )
    metrics_host: str = Field(default="127.0.0.1", description="address of /metrics and /healthz")
    metrics_port: int = Field(default=9464, ge=0, le=65535, description="port; 0 picks a free one")
    batch_max_events: int = Field(default=64, ge=1, description="most events taken at once")
    batch_within_seconds: float = Field(
        default=0.1, gt=0, description="longest wait for a batch to fill"
    )
    decode_processes: int = Field(
        default=1, ge=1, description="processes that decode pixels, apart from the worker"
    )
    decode_timeout_seconds: float = Field(
        default=60.0, gt=0, description="longest time that decoding one file may take"
    )
    decode_memory_bytes: int = Field(
        default=6 << 30, ge=1 << 30, description="address space of one decoding process"
    )
    retry_initial_seconds: float = Field(default=0.2, gt=0, description="first wait of a retry")
    retry_max_seconds: float = Field(default=15.0, gt=0, description="longest wait of a retry")
    unhealthy_after_seconds: float = Field(
        default=10.0, gt=0, description="how long a service may fail before /healthz says so"
    )
    internal_error_limit: int = Field(
        default=100,
        ge=1,
        description="internal errors in a row after which a stage stops instead of dead-lettering",
    )
    ingest_roots: tuple[Path, ...] = Field(
        default=(),
        description="folders, as JSON list, from which file:// requests may read; none by default",
    )
    ingest_max_file_bytes: int = Field(
        default=8_000_000_000, ge=1, description="largest file that is ingested"
    )
    ingest_max_download_bytes: int = Field(
        default=2_000_000_000_000, ge=1, description="most bytes that one request may fetch"
    )
    ingest_max_unpacked_bytes: int = Field(
        default=4_000_000_000_000, ge=1, description="most bytes that one request may unpack to"
    )
    ingest_max_ratio: int = Field(
        default=200, ge=1, description="most unpacked bytes for a fetched one, above 256 MiB"
    )
    ingest_max_members: int = Field(
        default=500_000, ge=1, description="most files and members of one request"
    )
    ingest_max_depth: int = Field(
        default=4, ge=1, le=16, description="most archives inside each other"
    )
    ingest_max_seconds: float = Field(
        default=86_400.0, gt=0, description="longest time that one download may take"
    )
    ingest_patience_seconds: float = Field(
        default=600.0, ge=0, description="how long a source that is away is asked again"
    )
    ingest_parallel: int = Field(
        default=4, ge=1, le=64, description="requests that are fetched at the same time"
    )
    ingest_allowed_hosts: tuple[str, ...] = Field(
        default=(),
        description="NAME[:PORT] or NETWORK[:PORT] besides the public internet, as JSON list",
    )
    ingest_allowed_ports: tuple[int, ...] = Field(
        default=(80, 443), description="ports, as JSON list, that requests may reach anywhere"
    )
    ingest_store_schemes: tuple[str, ...] = Field(
        default=("s3", "gs", "gcs", "az", "abfs", "abfss", "sftp"),
        description="fsspec schemes, as JSON list, that requests may name",
    )
    ingest_store_options: dict[str, dict[str, Any]] = Field(
        default={},
        description="fsspec options by scheme, as JSON object, such as endpoint_url; no secrets",
    )
    ingest_secrets_dir: Path | None = Field(
        default=None,
        description="folder of secrets for requests; empty for DATA_DIR/secrets/ingest",
    )
    ingest_credentials: dict[str, SecretStr] = Field(
        default={}, description="secrets by name, as JSON object, for setting:NAME references"
    )
    ingest_token: SecretStr = Field(
        default=SecretStr(""),
        description="bearer token of POST /ingest; without it only this machine may post",
    )
    ingest_max_upload_bytes: int = Field(
        default=50_000_000_000, ge=1, description="largest body of POST /ingest"
    )
    github_api_url: str = Field(
        default="https://api.github.com", description="GitHub's REST API; another for Enterprise"
    )
    github_site: str = Field(default="github.com", description="host of GitHub's pages")
    kaggle_api_url: str = Field(
        default="https://www.kaggle.com/api/v1", description="Kaggle's HTTP API"
    )
    log_level: str = Field(default="INFO", description="DEBUG, INFO, WARNING or ERROR")

    @field_validator("clickhouse_url")
    @classmethod
    def _is_address(cls, value: str) -> str:
        Address.parse(value)
        return value

    @field_validator("ingest_allowed_hosts")
    @classmethod
    def _are_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        AllowList.parse(value)
        return value

    @field_validator("patient_hash_key")
    @classmethod
    def _is_long(cls, value: SecretStr) -> SecretStr:
        if 0 < len(value.get_secret_value().encode()) < _MINIMUM_KEY_BYTES:
            msg = f"needs at least {_MINIMUM_KEY_BYTES} bytes"
            raise ValueError(msg)
        return value

    @property
    def ingest_secrets(self) -> Path:
        """Folder of the secrets that requests name."""
        return self.ingest_secrets_dir or self.data_dir / "secrets" / "ingest"

    @property
    def blobs(self) -> str:
        """URL of the blob store."""
        return self.blob_url or str(self.data_dir.absolute() / "blobs")

    @cached_property
    def patient_key(self) -> bytes:
        """Secret of the patient pseudonyms; made once for a data folder if none is set."""
        given = self.patient_hash_key.get_secret_value()
        if given:
            return given.encode()
        path = self.data_dir / "secrets" / "patient_hash_key"
        if not path.exists():
            _make_key(path)
        key = path.read_bytes()
        if len(key) < _MINIMUM_KEY_BYTES:
            msg = (
                f"{path} holds {len(key)} bytes, too few for a key: restore it from a backup, or "
                "remove it if no file was received with it yet"
            )
            raise SecretError(msg)
        return key


def _make_key(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # The link puts the whole key in place at once, and only if no other process was first: all
    # processes of a data folder must make the same pseudonyms.
    descriptor, name = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_hex(32).encode())
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(name, path)
    finally:
        Path(name).unlink()
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def environment_name(field: str) -> str:
    """Environment variable of a setting."""
    return f"BIODATAMINE_{field.upper()}"
