"""C-STORE: dataset -> blob (fsync) -> outbox record (fsync) -> Success, and no other Success."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import structlog
from pydantic import ValidationError
from pydicom.dataset import Dataset

from dicom_gateway.identifiers import Buffer, read_identifiers
from dicom_gateway.metrics import Metrics
from dicom_gateway.outbox import Disposition, Outbox
from dicom_gateway.part10 import file_prefix, is_instance_uid, is_uid
from dicom_gateway.spool import SpooledDataset
from dicom_gateway.statuses import (
    SUCCESS,
    EmptyDatasetError,
    InvalidInstanceUidError,
    InvalidSopClassError,
    StoreError,
    UidMismatchError,
    UnreadableDatasetError,
    reason_of,
    status_of,
)
from schemas import BlobRef
from schemas.events import received
from schemas.facts import Association, DicomUids
from schemas.identity import dicom_relpath
from streams.storage.blobs import BlobStore

MEDIA_TYPE = "application/dicom"
NO_STUDY = "no-study"
NO_SERIES = "no-series"
"""Path of an instance that names no study or series (Color Palettes, Hanging Protocols, ...)."""

_log = structlog.get_logger("dicom_gateway")


class Receiver:
    """Makes a received dataset durable.

    Parameters
    ----------
    store : BlobStore
        Takes the file.
    outbox : Outbox
        Takes the record.
    tenant, dataset_id : str
        Whose data it is, and the dataset that it joins.
    clock : callable
        Returns the present, UTC.
    metrics : Metrics
        Counts.
    """

    def __init__(
        self,
        store: BlobStore,
        outbox: Outbox,
        *,
        tenant: str,
        dataset_id: str,
        clock: Callable[[], datetime],
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._outbox = outbox
        self._tenant = tenant
        self._dataset_id = dataset_id
        self._clock = clock
        self._metrics = metrics

    def receive(
        self,
        dataset: Buffer,
        *,
        sop_class_uid: str,
        sop_instance_uid: str,
        transfer_syntax_uid: str,
        association: Association,
    ) -> Disposition:
        """Store one instance; when this returns, blob and record are on disk.

        Parameters
        ----------
        dataset : bytes-like
            Dataset as received.
        sop_class_uid, sop_instance_uid : str
            Affected SOP Class and Instance UID of the C-STORE request.
        transfer_syntax_uid : str
            Negotiated for the presentation context.
        association : Association
            Over which it came.

        Raises
        ------
        StoreError, OSError
            As the table in ``dicom_gateway.statuses`` says.
        """
        if not is_instance_uid(sop_instance_uid):
            raise InvalidInstanceUidError("Affected SOP Instance UID is not a UID")
        if not is_uid(sop_class_uid):
            raise InvalidSopClassError("Affected SOP Class UID is not a UID")
        if not len(dataset):
            raise EmptyDatasetError("the request came without a dataset")
        found = read_identifiers(dataset, transfer_syntax_uid)
        if (found.sop_class_uid, found.sop_instance_uid) != (sop_class_uid, sop_instance_uid):
            raise UidMismatchError("the dataset's SOP UIDs are not the command's")
        blob = self._put(dataset, sop_class_uid, sop_instance_uid, transfer_syntax_uid)
        event = received(
            tenant=self._tenant,
            dataset_id=self._dataset_id,
            relpath=dicom_relpath(
                found.study_uid or NO_STUDY, found.series_uid or NO_SERIES, sop_instance_uid
            ),
            blob=blob,
            source="dicom",
            received_at=self._clock(),
            dicom=DicomUids(
                study_uid=found.study_uid,
                series_uid=found.series_uid,
                instance_uid=sop_instance_uid,
                sop_class_uid=sop_class_uid,
            ),
            association=association,
        )
        with self._metrics.durable_seconds.labels("outbox").time():
            return self._outbox.append(event)

    def _put(
        self,
        dataset: Buffer,
        sop_class_uid: str,
        sop_instance_uid: str,
        transfer_syntax_uid: str,
    ) -> BlobRef:
        try:
            prefix = file_prefix(sop_class_uid, sop_instance_uid, transfer_syntax_uid)
        except ValueError:
            raise UnreadableDatasetError("the transfer syntax has no UID") from None
        with self._metrics.durable_seconds.labels("blob").time():
            writer = self._store.writer()
            try:
                writer.write(prefix)
                writer.write(dataset)
                return writer.commit(media_type=MEDIA_TYPE, transfer_syntax=transfer_syntax_uid)
            finally:
                writer.abort()


class StoreHandler:
    """Answers pynetdicom's C-STORE event.

    Parameters
    ----------
    receiver : Receiver
        Makes the instance durable.
    metrics : Metrics
        Counts.
    """

    def __init__(self, receiver: Receiver, metrics: Metrics) -> None:
        self._receiver = receiver
        self._metrics = metrics

    def __call__(self, event: Any) -> int | Dataset:
        """Return the status of a C-STORE request; never raises."""
        request = event.request
        spooled: SpooledDataset = request.DataSet
        started = time.perf_counter()
        try:
            with spooled.view() as dataset:
                disposition = self._receiver.receive(
                    dataset,
                    sop_class_uid=str(request.AffectedSOPClassUID or ""),
                    sop_instance_uid=str(request.AffectedSOPInstanceUID or ""),
                    transfer_syntax_uid=str(event.context.transfer_syntax),
                    association=association_of(event.assoc),
                )
            self._metrics.instances.labels(disposition.value).inc()
            self._metrics.received_bytes.inc(spooled.size_bytes)
            self._metrics.responses.labels("0x0000", "stored").inc()
            if disposition is Disposition.CONFLICT:
                _log.warning(
                    "conflicting-instance",
                    association_id=event.assoc.name,
                    instance_uid=str(request.AffectedSOPInstanceUID),
                    hint="other bytes came earlier under the same UIDs; both are kept",
                )
            return SUCCESS
        except Exception as error:  # noqa: BLE001 (every error has a status, see statuses.py)
            return self._refuse(event, error, time.perf_counter() - started)
        finally:
            spooled.close()

    def _refuse(self, event: Any, error: Exception, seconds: float) -> Dataset:
        status, reason = status_of(error), reason_of(error)
        self._metrics.responses.labels(f"0x{status:04X}", reason).inc()
        # The message of an unforeseen error may quote the dataset; its type may not.
        said = str(error) if isinstance(error, StoreError | OSError) else type(error).__name__
        _log.warning(
            "instance-refused",
            association_id=event.assoc.name,
            status=f"0x{status:04X}",
            reason=reason,
            error=said[:300],
            seconds=round(seconds, 3),
            exc_info=not isinstance(error, StoreError | OSError | ValidationError),
        )
        answer = Dataset()
        answer.Status = status
        answer.ErrorComment = error.comment if isinstance(error, StoreError) else reason
        return answer


def association_of(assoc: Any) -> Association:
    """Tell what an event says about a pynetdicom association."""
    return Association(
        association_id=assoc.name[:64],
        calling_ae_title=_title(assoc.requestor.ae_title),
        called_ae_title=_title(assoc.requestor.primitive.called_ae_title),
        peer_address=str(assoc.requestor.address)[:64],
    )


def _title(title: str | None) -> str:
    return "".join(c for c in (title or "").strip() if c.isprintable())[:16]
