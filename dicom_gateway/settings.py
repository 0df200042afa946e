"""Settings of the gateway, read from the environment with the prefix ``BIODATAMINE_``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class GatewaySettings(BaseSettings):
    """Where the gateway listens, where it keeps what it received, and where it publishes."""

    model_config = SettingsConfigDict(env_prefix="BIODATAMINE_", extra="ignore", frozen=True)

    data_dir: Path = Field(
        default=Path("biodatamine-data"),
        description="folder of everything that must survive a restart",
    )
    blob_url: str = Field(
        default="", description="fsspec URL of the blob store; empty for DATA_DIR/blobs"
    )
    tenant: str = Field(default="default", description="whose data arrives here")
    dicom_dataset_id: str = Field(default="pacs", description="dataset that instances join")

    dicom_host: str = Field(default="127.0.0.1", description="where the Storage SCP listens")
    dicom_port: int = Field(
        default=11112, ge=0, le=65535, description="TCP port of the Storage SCP; 0 for a free one"
    )
    dicom_ae_title: str = Field(
        default="BIODATAMINE", min_length=1, max_length=16, description="the gateway's AE title"
    )
    dicom_entities_file: Path | None = Field(
        default=None,
        description="TOML file of Application Entities and rules, see `biodatamine gateway aes "
        "--help`; without it one entity takes everything from everyone",
    )
    dicom_receive_path: Literal["native", "pynetdicom"] = Field(
        default="native",
        description="native: processes of our own; pynetdicom: its threads, several times slower, "
        "for the day on which ours misbehaves",
    )
    dicom_receive_processes: int = Field(
        default_factory=lambda: min(4, os.cpu_count() or 1),
        ge=1,
        le=64,
        description="processes that receive; by default one for each core, at most four",
    )
    dicom_max_associations: int = Field(
        default=64,
        ge=1,
        le=400,
        description="associations at the same time; one more is rejected as a local limit",
    )
    dicom_max_pdu_bytes: int = Field(
        default=256 * 1024,
        ge=4096,
        le=16 * 1024 * 1024,
        description="largest P-DATA-TF PDU that senders may use",
    )
    dicom_max_dataset_bytes: int = Field(
        default=4 << 30, ge=1024, description="a longer dataset is refused with 0xA701"
    )
    dicom_spool_bytes: int = Field(
        default=32 << 20,
        ge=1024,
        description="on pynetdicom's receive path, longer datasets arrive in a file, not in memory",
    )
    dicom_acse_timeout_seconds: float = Field(
        default=30.0, gt=0, description="within this time a connection has to ask whole"
    )
    dicom_dimse_timeout_seconds: float = Field(
        default=60.0, gt=0, description="how long a message may pause, or take beside the rate"
    )
    dicom_network_timeout_seconds: float = Field(
        default=300.0, gt=0, description="how long an association may say nothing"
    )
    dicom_min_bytes_per_second: float = Field(
        default=4096.0, gt=0, description="slowest rate at which a message may come"
    )
    dicom_tls_certificate: Path | None = Field(
        default=None, description="PEM file; with it the SCP speaks TLS and nothing else"
    )
    dicom_tls_key: Path | None = Field(
        default=None, description="PEM file of its private key, if that is in another"
    )
    dicom_tls_key_password: SecretStr = Field(
        default=SecretStr(""), description="of the private key, if it has one"
    )
    dicom_tls_ca: Path | None = Field(
        default=None, description="PEM file with the certificates that peers are trusted by"
    )
    dicom_tls_client_certificates: Literal["none", "optional", "required"] = Field(
        default="none", description="none, optional or required, which is mutual TLS"
    )

    stow_host: str = Field(default="127.0.0.1", description="where STOW-RS is served")
    stow_port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="TCP port of STOW-RS, with the SCP's TLS files; none without it, 0 for a free "
        "one",
    )
    stow_ae_title: str = Field(
        default="",
        description="Application Entity whose tenant, dataset and rules hold for STOW-RS; empty "
        "for the default one, or the only one",
    )
    stow_credentials_file: Path | None = Field(
        default=None,
        description="`bearer TOKEN` or `basic USER:PASSWORD`, one a line; without it everyone may "
        "push",
    )
    stow_allowed_origins: tuple[str, ...] = Field(
        default=(), description="origins, as JSON list, of web pages that may push (CORS)"
    )
    stow_max_requests: int = Field(
        default=8, ge=1, le=1024, description="STOW-RS requests at the same time"
    )
    stow_max_request_bytes: int = Field(
        default=16 << 30, ge=1024, description="largest STOW-RS request"
    )
    stow_max_parts: int = Field(default=10_000, ge=1, description="most parts of one")

    min_free_bytes: int = Field(
        default=2 << 30, ge=0, description="with less free space C-STORE is answered with 0xA700"
    )
    resume_free_bytes: int = Field(
        default=3 << 30, ge=0, description="with so much free space it is taken again"
    )
    max_inbox_bytes: int = Field(
        default=4 << 30, ge=1, description="so much may wait to be filed; then 0xA700"
    )
    max_outbox_records: int = Field(
        default=5_000_000, ge=1, description="so many events may wait for the log; then 0xA700"
    )
    shutdown_seconds: float = Field(
        default=20.0,
        ge=0,
        description="how long a stop waits for associations, and then for the outbox to drain",
    )

    kafka_bootstrap_servers: str = Field(
        default="127.0.0.1:9092", description="brokers, host:port separated by commas"
    )
    log_is_durable: bool = Field(
        default=False,
        description="whether an acknowledged message survives the brokers' restart; if not, a "
        "record counts as done only when its row or dead letter exists",
    )
    settle_interval_seconds: float = Field(
        default=2.0,
        gt=0,
        description="how often to ask which records have their row, if the log is not durable",
    )

    metrics_host: str = Field(
        default="127.0.0.1", description="where /metrics and /healthz are served"
    )
    metrics_port: int | None = Field(
        default=None, ge=0, le=65535, description="their TCP port; 0 for a free one"
    )

    @property
    def gateway_dir(self) -> Path:
        """Folder of the outbox, its lock, the inbox and the spool."""
        return self.data_dir / "gateway"

    @property
    def inbox_dir(self) -> Path:
        """Folder in which instances become durable."""
        return self.gateway_dir / "inbox"

    @property
    def blobs(self) -> str:
        """URL of the blob store."""
        return self.blob_url or str((self.data_dir / "blobs").absolute())
