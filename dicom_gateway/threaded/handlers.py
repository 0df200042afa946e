"""C-STORE on pynetdicom's receive path: dataset -> inbox (fsync) -> Success, no other Success."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import structlog
from pydicom.dataset import Dataset

from dicom_gateway.aes.entities import Entity
from dicom_gateway.aes.uid_rules import Verdict
from dicom_gateway.logs import refusal_fields
from dicom_gateway.metrics import Metrics
from dicom_gateway.storing.arrival import Origin
from dicom_gateway.storing.receiver import Receiver
from dicom_gateway.storing.statuses import SUCCESS, StoreError, reason_of, status_of
from dicom_gateway.threaded.spool import SpooledDataset
from schemas.facts import Association

_log = structlog.get_logger("dicom_gateway")

FindEntity = Callable[[Any], Entity]
"""From a pynetdicom association to the entity that it called."""


class StoreHandler:
    """Answers pynetdicom's C-STORE event.

    Parameters
    ----------
    receiver : Receiver
        Makes the instance durable.
    find_entity : callable
        Tells whose rules hold.
    metrics : Metrics
        Counts.
    """

    def __init__(self, receiver: Receiver, find_entity: FindEntity, metrics: Metrics) -> None:
        self._receiver = receiver
        self._find_entity = find_entity
        self._metrics = metrics

    def __call__(self, event: Any) -> int | Dataset:
        """Return the status of a C-STORE request; never raises."""
        spooled: SpooledDataset = event.request.DataSet
        started = time.perf_counter()
        try:
            self._metrics.answered(SUCCESS, self._store(event, spooled))
            return SUCCESS
        except Exception as error:  # noqa: BLE001 (every error has a status, see statuses.py)
            return self._refuse(event, error, time.perf_counter() - started)
        finally:
            spooled.close()

    def _store(self, event: Any, spooled: SpooledDataset) -> str:
        request, entity = event.request, self._find_entity(event.assoc)
        sop_class_uid = str(request.AffectedSOPClassUID or "")
        transfer_syntax_uid = str(event.context.transfer_syntax)
        if entity.check_instance(sop_class_uid, transfer_syntax_uid) is Verdict.IGNORE:
            return "ignored"
        with spooled.view() as dataset:
            incoming = self._receiver.begin(
                sop_class_uid=sop_class_uid,
                sop_instance_uid=str(request.AffectedSOPInstanceUID or ""),
                transfer_syntax_uid=transfer_syntax_uid,
                origin=Origin(entity.tenant, entity.dataset_id, association_of(event.assoc)),
            )
            incoming.write(dataset)
            incoming.finish()
        return "stored"

    def _refuse(self, event: Any, error: Exception, seconds: float) -> Dataset:
        status, reason = status_of(error), reason_of(error)
        self._metrics.answered(status, reason)
        _log.warning(
            "instance-refused",
            association_id=event.assoc.name,
            status=f"0x{status:04X}",
            reason=reason,
            seconds=round(seconds, 3),
            **refusal_fields(error),
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
