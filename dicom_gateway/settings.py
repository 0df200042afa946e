"""Settings of the gateway, read from the environment with the prefix ``BIODATAMINE_``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class GatewaySettings(BaseSettings):
    """Where the gateway listens, where it keeps what it received, and where it publishes.

    Parameters
    ----------
    data_dir : Path
        Folder of everything that must survive a restart; the outbox lies in ``gateway/`` below it.
    blob_url : str
        fsspec URL of the blob store; empty means ``blobs/`` below ``data_dir``.
    tenant, dicom_dataset_id : str
        Whose data arrives here, and the dataset that it joins.
    dicom_host, dicom_port, dicom_ae_title : str, int, str
        Where the Storage SCP listens and the AE title that it goes by; port 0 takes a free one.
    dicom_max_associations : int
        Associations at the same time; one more is rejected as a local limit (PS3.8 9.3.4).
    dicom_max_pdu_bytes : int
        Largest P-DATA-TF PDU that senders may use (PS3.8 annex D.1).
    dicom_max_dataset_bytes : int
        Largest dataset that is stored; a longer one is refused with 0xA700.
    dicom_spool_bytes : int
        Datasets up to this size wait in memory while they arrive, longer ones in a file without a
        name, so that memory stays flat whatever is sent.
    dicom_acse_timeout_seconds, dicom_dimse_timeout_seconds, dicom_network_timeout_seconds : float
        How long an association may take to be negotiated, to answer, and to say nothing.
    dicom_receive_path : str
        ``native`` receives in processes of our own under pynetdicom's negotiation; ``pynetdicom``
        in its threads, several times slower, for the day on which ours misbehaves.
    dicom_receive_processes : int
        Processes that receive; by default as many as there are cores, at most four.
    dicom_entities_file : Path or None
        TOML file with the Application Entities and their rules (``dicom_gateway.entities``);
        without it one entity takes everything from everyone.
    dicom_min_bytes_per_second : float
        Slowest rate at which a message may come, beside ``dicom_dimse_timeout_seconds``.
    dicom_tls_certificate, dicom_tls_key : Path or None
        PEM files; with them the SCP speaks TLS and nothing else.
    dicom_tls_key_password : SecretStr
        Of the private key; empty if it has none.
    dicom_tls_ca : Path or None
        PEM file with the certificates that clients are trusted by.
    dicom_tls_client_certificates : str
        ``none``, ``optional`` or ``required`` (mutual TLS).
    stow_host, stow_port : str, int or None
        Where STOW-RS (DICOMweb) is served, with the TLS files of the SCP; port 0 takes a free one,
        None serves none.
    stow_ae_title : str
        Application Entity whose tenant, dataset and rules hold for STOW-RS; by default
        ``dicom_ae_title``.
    stow_credentials_file : Path or None
        ``bearer TOKEN`` or ``basic USER:PASSWORD``, one a line; without it everyone may push.
    stow_allowed_origins : tuple of str
        Origins of web pages that may push (CORS).
    stow_max_requests, stow_max_request_bytes, stow_max_parts : int
        Bounds of STOW-RS: requests at once, bytes and parts of one.
    min_free_bytes, resume_free_bytes : int
        Below so much free space C-STORE is answered with 0xA700; above so much, with Success again.
    max_inbox_bytes : int
        So much may wait to be filed; more is refused with 0xA700.
    max_outbox_records : int
        So many events may wait for the log; more are refused with 0xA700.
    shutdown_seconds : float
        How long a stop waits for associations to end, and then for the outbox to drain.
    kafka_bootstrap_servers : str
        Brokers, ``host:port`` separated by commas.
    log_is_durable : bool
        Whether an acknowledged message survives the brokers' restart (Apache Kafka with
        ``acks=all``). The embedded broker keeps its log in memory: there, a record counts as done
        only when its row or dead letter exists.
    settle_interval_seconds : float
        How often the publisher asks which records have their row, and whether the log still holds
        what was published; only while there are such records and the log is not durable.
    metrics_host, metrics_port : str, int or None
        Where ``/metrics`` and ``/healthz`` are served; port 0 takes a free one, None serves none.
    """

    model_config = SettingsConfigDict(env_prefix="BIODATAMINE_", extra="ignore", frozen=True)

    data_dir: Path = Path("biodatamine-data")
    blob_url: str = ""
    tenant: str = "default"
    dicom_dataset_id: str = "pacs"

    dicom_host: str = "127.0.0.1"
    dicom_port: int = Field(default=11112, ge=0, le=65535)
    dicom_ae_title: str = Field(default="BIODATAMINE", min_length=1, max_length=16)
    dicom_max_associations: int = Field(default=64, ge=1, le=400)
    dicom_receive_path: Literal["native", "pynetdicom"] = "native"
    dicom_receive_processes: int = Field(
        default_factory=lambda: min(4, os.cpu_count() or 1), ge=1, le=64
    )
    dicom_entities_file: Path | None = None
    dicom_min_bytes_per_second: float = Field(default=4096.0, gt=0)
    dicom_tls_certificate: Path | None = None
    dicom_tls_key: Path | None = None
    dicom_tls_key_password: SecretStr = SecretStr("")
    dicom_tls_ca: Path | None = None
    dicom_tls_client_certificates: Literal["none", "optional", "required"] = "none"
    dicom_max_pdu_bytes: int = Field(default=256 * 1024, ge=4096, le=16 * 1024 * 1024)
    dicom_max_dataset_bytes: int = Field(default=4 << 30, ge=1024)
    dicom_spool_bytes: int = Field(default=32 << 20, ge=1024)
    dicom_acse_timeout_seconds: float = Field(default=30.0, gt=0)
    dicom_dimse_timeout_seconds: float = Field(default=60.0, gt=0)
    dicom_network_timeout_seconds: float = Field(default=300.0, gt=0)
    stow_host: str = "127.0.0.1"
    stow_port: int | None = Field(default=None, ge=0, le=65535)
    stow_ae_title: str = ""
    stow_credentials_file: Path | None = None
    stow_allowed_origins: tuple[str, ...] = ()
    stow_max_requests: int = Field(default=8, ge=1, le=1024)
    stow_max_request_bytes: int = Field(default=16 << 30, ge=1024)
    stow_max_parts: int = Field(default=10_000, ge=1)
    min_free_bytes: int = Field(default=2 << 30, ge=0)
    resume_free_bytes: int = Field(default=3 << 30, ge=0)
    max_inbox_bytes: int = Field(default=4 << 30, ge=1)
    max_outbox_records: int = Field(default=5_000_000, ge=1)
    shutdown_seconds: float = Field(default=20.0, ge=0)

    kafka_bootstrap_servers: str = "127.0.0.1:9092"
    log_is_durable: bool = False
    settle_interval_seconds: float = Field(default=2.0, gt=0)

    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = Field(default=None, ge=0, le=65535)

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
