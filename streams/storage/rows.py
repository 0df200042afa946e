"""Event to rows: one pure function, one place where a table's columns are filled.

Every row's key comes from the event (DESIGN.md section 4.3), so storing an event twice changes
nothing. A later stage's row of ``files`` repeats what the earlier ones knew and replaces them.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Mapping
from datetime import datetime
from functools import singledispatch
from typing import Any

from schemas import Event, FileAnalyzed, FileEvent, FileReceived, FileSniffed, UrlRequest
from schemas.facts import HeaderFacts
from schemas.identity import event_id
from streams.storage.request_rows import request_row

Rows = dict[str, list[dict[str, Any]]]
"""Table name to rows; the order of the tables is the order of the inserts."""

_STAGES = ("received", "sniffed", "analyzed")
_ARRAYS = frozenset(
    name
    for name, field in HeaderFacts.model_fields.items()
    if "tuple[" in str(field.annotation).lower()
)


@singledispatch
def rows_of(event: Event) -> Rows:
    """Map an event to the rows that keep it.

    Parameters
    ----------
    event : Event
        Any event; one that has no table gives no rows.

    Returns
    -------
    dict of str to list of dict
        Table to rows. ``files`` comes last: a row there says that the others are in place.
    """
    del event
    return {}


@rows_of.register
def _requested(event: UrlRequest) -> Rows:
    return {"ingest_requests": [request_row(event)]}


@rows_of.register
def _received(event: FileReceived) -> Rows:
    return {"files": [_file_row(event, stage="received", processed_at=event.received_at)]}


@rows_of.register
def _sniffed(event: FileSniffed) -> Rows:
    facts = event.header.model_dump()
    header = {
        **_key(event),
        "received_at": event.received_at,
        "format": event.format,
        "format_evidence": event.format_evidence,
        "suffix": event.suffix,
        **{name: list(value or ()) if name in _ARRAYS else value for name, value in facts.items()},
    }
    row = _file_row(event, stage="sniffed", processed_at=event.processed_at)
    row |= {
        "format": event.format,
        "modality": event.header.modality or "",
        "modality_method": "dicom-tag" if event.header.modality else "",
        "problems": [problem.code for problem in event.problems],
    }
    return {"header_facts": [header], "files": [_with_header(row, event.header)]}


@rows_of.register
def _analyzed(event: FileAnalyzed) -> Rows:
    decision = event.modality
    row = _file_row(event, stage="analyzed", processed_at=event.processed_at)
    row |= {
        "format": event.format,
        "outcome": event.outcome,
        "modality": decision.modality if decision else "",
        "modality_method": decision.method if decision else "",
        "modality_confidence": decision.confidence if decision else None,
        "modality_conflict": bool(decision and decision.conflict),
        "thumbnail_uri": event.thumbnail.uri if event.thumbnail else "",
        "problems": [problem.code for problem in event.problems],
        "absent_models": [model.model for model in event.absent_models],
    }
    rows: Rows = {}
    if event.signals is not None and event.pixels is not None:
        rows["image_signals"] = [
            {
                **_key(event),
                "received_at": event.received_at,
                "modality": row["modality"],
                "slice_strategy": event.pixels.slice_strategy,
                "slice_index": event.pixels.slice_index,
                "unit": event.pixels.unit,
                **event.signals.model_dump(exclude={"histogram"}),
                "histogram": list(event.signals.histogram),
            }
        ]
    if event.quality is not None:
        rows["image_quality"] = [
            {
                **_key(event),
                "received_at": event.received_at,
                "modality": row["modality"],
                **event.quality.model_dump(exclude={"perceptual_hash"}),
                "perceptual_hash": _number(event.quality.perceptual_hash),
            }
        ]
    if decision is not None or event.attributes:
        rows["modality_decisions"] = [_decision_row(event)]
    if event.embedding is not None:
        rows["embeddings"] = [
            {
                **_key(event),
                "model": event.embedding.model,
                "model_version": event.embedding.model_version,
                "received_at": event.received_at,
                "modality": row["modality"],
                "series_uid": row["series_uid"],
                "dim": event.embedding.dim,
                "vector": event.embedding.to_array(),
            }
        ]
    if event.predictions:
        rows["predictions"] = [
            {
                **_key(event),
                **prediction.model_dump(),
                "received_at": event.received_at,
            }
            for prediction in event.predictions
        ]
    rows["files"] = [_with_header(row, event.header)]
    return rows


def _decision_row(event: FileAnalyzed) -> dict[str, Any]:
    decision = event.modality
    votes = decision.votes if decision else ()
    return {
        **_key(event),
        "received_at": event.received_at,
        "modality": decision.modality if decision else "",
        "family": decision.family if decision else "",
        "abstained": bool(decision and decision.abstained),
        "abstained_reason": decision.abstained_reason if decision else "",
        "confidence": decision.confidence if decision else None,
        "novelty": decision.novelty if decision else None,
        "method": decision.method if decision else "",
        "method_version": decision.method_version if decision else "",
        "conflict": bool(decision and decision.conflict),
        "conflict_reason": decision.conflict_reason if decision else "",
        "vote_signals": [vote.signal for vote in votes],
        "vote_labels": [vote.label for vote in votes],
        "vote_weights": [vote.weight for vote in votes],
        "vote_confidences": [vote.confidence for vote in votes],
        "vote_evidences": [vote.evidence for vote in votes],
        "attribute_names": [attribute.name for attribute in event.attributes],
        "attribute_values": [attribute.value for attribute in event.attributes],
        "attribute_confidences": [attribute.confidence for attribute in event.attributes],
        "attribute_evidences": [attribute.evidence for attribute in event.attributes],
    }


def _number(hexadecimal: str | None) -> int | None:
    return None if hexadecimal is None else int(hexadecimal, 16)


def dead_letter_row(
    headers: Mapping[str, str], value: bytes, *, failed_at: datetime
) -> dict[str, Any]:
    """Map a dead letter to its row.

    Parameters
    ----------
    headers : mapping of str to str
        Headers that ``runtime.dead_letters`` wrote.
    value : bytes
        Original bytes of the message; only their digest and length enter the row.
    failed_at : datetime
        When the dead letter was written.
    """
    digest = hashlib.sha256(value).hexdigest()
    stage = headers.get("stage", "")
    reason = headers.get("reason", "")
    topic = headers.get("source-topic", "")
    file, image = _uuid(headers.get("file-id")), headers.get("image-id", "")
    # A file that is sent again fails again, in a message with another time: that is one row.
    subject = (str(file), image) if file else (digest,)
    return {
        "dead_letter_id": uuid.UUID(event_id("dead-letter", topic, stage, reason, *subject)),
        "stage": stage,
        "reason": reason,
        "error": headers.get("error", ""),
        "source_topic": topic,
        "source_partition": _integer(headers.get("source-partition"), bits=32),
        "source_offset": _integer(headers.get("source-offset"), bits=64),
        "failed_at": failed_at,
        "message_sha256": digest,
        "message_bytes": len(value),
        "tenant": headers.get("tenant", ""),
        "dataset_id": headers.get("dataset-id", ""),
        "file_id": file,
        "image_id": image,
        "trace_id": headers.get("trace-id", ""),
    }


def _integer(text: str | None, *, bits: int) -> int:
    # Anyone may have written to a dead-letter topic: what is no header of ours is -1.
    if text is None or not re.fullmatch("[0-9]{1,19}", text):
        return -1
    number = int(text)
    return number if number < 1 << (bits - 1) else -1


def _uuid(text: str | None) -> uuid.UUID | None:
    try:
        return uuid.UUID(text) if text else None
    except ValueError:
        return None


def _key(event: FileEvent) -> dict[str, Any]:
    return {
        "tenant": event.tenant,
        "dataset_id": event.dataset_id,
        "file_id": uuid.UUID(event.file_id),
        "image_id": event.image_id,
    }


def _file_row(event: FileEvent, *, stage: str, processed_at: datetime) -> dict[str, Any]:
    dicom, association = event.dicom, event.association
    return {
        **_key(event),
        "relpath": event.relpath,
        "stage": stage,
        "stage_rank": _STAGES.index(stage) + 1,
        "event_id": uuid.UUID(event.event_id),
        "trace_id": event.trace_id,
        "source": event.source,
        "received_at": event.received_at,
        "processed_at": processed_at,
        "size_bytes": event.blob.size_bytes,
        "media_type": event.blob.media_type,
        "blob_uri": event.blob.uri,
        "request_id": event.request_id or "",
        "association_id": association.association_id if association else "",
        "calling_ae_title": association.calling_ae_title if association else "",
        "called_ae_title": association.called_ae_title if association else "",
        "study_uid": dicom.study_uid if dicom else "",
        "series_uid": dicom.series_uid if dicom else "",
        "instance_uid": dicom.instance_uid if dicom else "",
        "sop_class_uid": dicom.sop_class_uid if dicom else "",
        "transfer_syntax_uid": event.blob.transfer_syntax or "",
        "conflicts_with": event.conflicts_with or "",
        "format": "",
        "outcome": "",
        "modality": "",
        "modality_method": "",
        "modality_confidence": None,
        "modality_conflict": False,
        "thumbnail_uri": "",
        "problems": [],
        "absent_models": [],
    }


def _with_header(row: dict[str, Any], header: HeaderFacts) -> dict[str, Any]:
    # A DICOM file that came by another way than C-STORE has its UIDs in the header only.
    for column in ("study_uid", "series_uid", "instance_uid", "sop_class_uid"):
        row[column] = row[column] or getattr(header, column) or ""
    row["transfer_syntax_uid"] = row["transfer_syntax_uid"] or header.transfer_syntax_uid or ""
    return row
