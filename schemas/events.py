"""The events, one class for each topic of DESIGN.md section 5."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from schemas import identity
from schemas.base import BlobRef, Event, Identifier, RelPath, Sha256, UtcDatetime
from schemas.facts import (
    AbsentModel,
    Association,
    Attribute,
    ClusterSummary,
    DicomUids,
    DriftedFeature,
    Embedding,
    Format,
    HeaderFacts,
    ImageSignals,
    ModalityDecision,
    PixelFacts,
    Prediction,
    Problem,
    QualityFacts,
)

Source = Literal["dicom", "dicomweb", "url", "archive", "repository", "upload", "local"]


class UrlRequest(Event):
    """Where to fetch files from, for which tenant and dataset.

    Credentials are a reference to a setting or a secret file, never a secret.
    """

    TOPIC: ClassVar[str] = "url-requests"

    request_id: str = Field(min_length=1, max_length=64)
    dataset_id: Identifier
    url: str = Field(min_length=1, max_length=4096)
    credentials_ref: str | None = Field(default=None, max_length=256)
    relpath: RelPath | None = Field(
        default=None,
        description="place in the dataset of the one file; members of an archive come below it",
    )
    dataset_name: str | None = Field(
        default=None, max_length=128, description="what people call the dataset"
    )
    sha256: Sha256 | None = Field(
        default=None,
        description="what the download must be; nothing of another one is published",
    )


class FileEvent(Event):
    """What every event about one file carries along, so that no step has to go back."""

    file_id: str = Field(max_length=36)
    image_id: Sha256
    dataset_id: Identifier
    relpath: RelPath
    blob: BlobRef
    source: Source
    received_at: UtcDatetime
    dicom: DicomUids | None = None
    association: Association | None = None
    request_id: str | None = Field(default=None, max_length=64)
    conflicts_with: Sha256 | None = Field(
        default=None,
        description="image_id of other bytes that came earlier for the same file_id",
    )


class FileReceived(FileEvent):
    """A file is durable in the blob store."""

    TOPIC: ClassVar[str] = "files-received"


class FileSniffed(FileEvent):
    """Format and header facts of a file, from its first bytes."""

    TOPIC: ClassVar[str] = "files-sniffed"

    format: Format
    format_evidence: str = Field(default="", max_length=256)
    suffix: str = Field(default="", max_length=32)
    header: HeaderFacts = HeaderFacts()
    problems: tuple[Problem, ...] = Field(default=(), max_length=32)
    processed_at: UtcDatetime


class FileAnalyzed(FileEvent):
    """What the pixels of a file show.

    ``outcome`` is ``decoded`` when there was an image to look at, ``no-pixels`` for DICOM objects
    that hold none (reports, structure sets, waveforms), ``not-an-image`` for unknown formats.
    """

    TOPIC: ClassVar[str] = "files-analyzed"

    format: Format
    header: HeaderFacts = HeaderFacts()
    outcome: Literal["decoded", "no-pixels", "not-an-image"]
    pixels: PixelFacts | None = None
    signals: ImageSignals | None = None
    quality: QualityFacts | None = None
    modality: ModalityDecision | None = None
    attributes: tuple[Attribute, ...] = Field(default=(), max_length=16)
    predictions: tuple[Prediction, ...] = Field(default=(), max_length=64)
    embedding: Embedding | None = None
    thumbnail: BlobRef | None = None
    absent_models: tuple[AbsentModel, ...] = Field(default=(), max_length=16)
    problems: tuple[Problem, ...] = Field(default=(), max_length=32)
    processed_at: UtcDatetime


class SeriesCompleted(Event):
    """A version of a series is complete; late data makes the next version."""

    TOPIC: ClassVar[str] = "series-completed"

    dataset_id: Identifier
    series_uid: str = Field(max_length=64)
    study_uid: str = Field(max_length=64)
    version: int = Field(ge=1)
    reason: Literal["idle", "expected-count", "forced"]
    instance_count: int = Field(ge=0)
    set_hash: Sha256


class ClustersUpdated(Event):
    """The clusters of a scope after a change."""

    TOPIC: ClassVar[str] = "clusters-updated"

    scope: str = Field(min_length=1, max_length=256)
    model_version: str = Field(max_length=128)
    window_size: int = Field(ge=0)
    outlier_count: int = Field(ge=0)
    clusters: tuple[ClusterSummary, ...] = Field(default=(), max_length=128)


class DriftAlert(Event):
    """What moved in a scope, by how much and since when."""

    TOPIC: ClassVar[str] = "drift-alerts"

    scope: str = Field(min_length=1, max_length=256)
    reference: str = Field(max_length=128)
    state: Literal["raised", "continuing", "cleared", "insufficient"]
    since: UtcDatetime
    index: float | None = None
    study_count: int = Field(ge=0)
    features: tuple[DriftedFeature, ...] = Field(default=(), max_length=64)


class Feedback(Event):
    """A person's correction of what was said about a file."""

    TOPIC: ClassVar[str] = "feedback"

    file_id: str = Field(max_length=36)
    field: Literal["modality", "body_part", "view_position", "outlier"]
    value: str = Field(max_length=128)
    author: Identifier
    note: str = Field(default="", max_length=1024)


def received(
    *,
    tenant: str,
    dataset_id: str,
    relpath: str,
    blob: BlobRef,
    source: Source,
    received_at: UtcDatetime,
    trace_id: str | None = None,
    dicom: DicomUids | None = None,
    association: Association | None = None,
    request_id: str | None = None,
    conflicts_with: str | None = None,
) -> FileReceived:
    """Make the event of a durable file; its identities follow from its content and place.

    Raises
    ------
    pydantic.ValidationError
        If a name or path is outside the contract.
    """
    file = identity.file_id(tenant, dataset_id, relpath)
    return FileReceived(
        event_id=identity.event_id(FileReceived.TOPIC, file, blob.sha256),
        occurred_at=received_at,
        trace_id=trace_id or identity.trace_id(file, blob.sha256),
        tenant=tenant,
        file_id=file,
        image_id=blob.sha256,
        dataset_id=dataset_id,
        relpath=relpath,
        blob=blob,
        source=source,
        received_at=received_at,
        dicom=dicom,
        association=association,
        request_id=request_id,
        conflicts_with=conflicts_with,
    )
