"""For which instances the gateway takes responsibility, and the report that says so (PS3.4 J.3.3).

An instance is committed only when the ledger knows it under the SOP Class that was asked for, and
the blob store holds every file that came under its UID, at its full length. Each other way to end
has one row (Failure Reason (0008,1197): PS3.3 C.14.1.1).

===================  ======  ==================================================================
how it ends          reason  meaning to the sender
===================  ======  ==================================================================
held                 -       committed
LOOKUP_FAILED        0x0110  Processing failure: the store or the ledger cannot be asked now
NOT_HELD             0x0112  No such object instance: it never arrived, or its file is missing
CLASS_CONFLICT       0x0119  Class/instance conflict: it arrived under another SOP Class
CLASS_NOT_SUPPORTED  0x0122  Referenced SOP Class not supported: its UID is malformed
DUPLICATE            0x0131  Duplicate transaction UID: another request uses it
===================  ======  ==================================================================
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from pydicom import DataElement, Dataset
from pydicom.config import IGNORE
from pydicom.sequence import Sequence as DicomSequence

from dicom_gateway.commitment.request import CommitmentRequest, Reference
from dicom_gateway.ledger.outbox import HeldInstance
from dicom_gateway.storing.part10 import is_uid

_REFERENCED_SOP_CLASS_UID = 0x00081150
_REFERENCED_SOP_INSTANCE_UID = 0x00081155
_TRANSACTION_UID = 0x00081195

ALL_COMMITTED, FAILURES_EXIST = 1, 2
"""Event Type IDs (PS3.4 J.3.3.1)."""


class FailureReason(enum.IntEnum):
    """Values of (0008,1197)."""

    LOOKUP_FAILED = 0x0110
    NOT_HELD = 0x0112
    CLASS_CONFLICT = 0x0119
    CLASS_NOT_SUPPORTED = 0x0122
    DUPLICATE = 0x0131

    @property
    def label(self) -> str:
        """How logs and metrics call it."""
        return self.name.lower().replace("_", "-")


@dataclass(frozen=True)
class CommitmentResult:
    """The answer to a request.

    Parameters
    ----------
    transaction_uid : str
        Of the request.
    committed : tuple of Reference
        What is kept.
    failed : tuple of (Reference, FailureReason)
        What is not.
    """

    transaction_uid: str
    committed: tuple[Reference, ...]
    failed: tuple[tuple[Reference, FailureReason], ...]

    @property
    def event_type(self) -> int:
        """Event Type ID of the report."""
        return FAILURES_EXIST if self.failed else ALL_COMMITTED

    @property
    def reasons(self) -> dict[str, int]:
        """How many references failed, for each reason."""
        counts: dict[str, int] = {}
        for _, reason in self.failed:
            counts[reason.label] = counts.get(reason.label, 0) + 1
        return counts


def judge(
    request: CommitmentRequest,
    held: Mapping[str, Sequence[HeldInstance]],
    is_stored: Callable[[HeldInstance], bool],
) -> CommitmentResult:
    """Decide about each reference of a request.

    Parameters
    ----------
    request : CommitmentRequest
        What is asked.
    held : mapping
        What the ledger knows for each SOP Instance UID, of the tenant who asks.
    is_stored : callable
        Whether the blob store holds a file whole; raises OSError when it cannot be asked.
    """
    committed: list[Reference] = []
    failed: list[tuple[Reference, FailureReason]] = []
    for reference in request.references:
        reason = _fault(reference, held.get(reference.sop_instance_uid, ()), is_stored)
        if reason is None:
            committed.append(reference)
        else:
            failed.append((reference, reason))
    return CommitmentResult(request.transaction_uid, tuple(committed), tuple(failed))


def refuse_all(request: CommitmentRequest, reason: FailureReason) -> CommitmentResult:
    """Answer every reference of a request with the same reason."""
    return CommitmentResult(
        request.transaction_uid, (), tuple((one, reason) for one in request.references)
    )


def _fault(
    reference: Reference, held: Sequence[HeldInstance], is_stored: Callable[[HeldInstance], bool]
) -> FailureReason | None:
    if not held:
        if not is_uid(reference.sop_class_uid):
            return FailureReason.CLASS_NOT_SUPPORTED
        return FailureReason.NOT_HELD
    if all(one.sop_class_uid != reference.sop_class_uid for one in held):
        return FailureReason.CLASS_CONFLICT
    try:
        # Which of several files under one UID is the sender's, nobody can tell: all must be there.
        whole = all(is_stored(one) for one in held)
    except OSError:
        return FailureReason.LOOKUP_FAILED
    return None if whole else FailureReason.NOT_HELD


def report_of(result: CommitmentResult, *, retrieve_ae_title: str = "") -> Dataset:
    """Make the Event Information of the N-EVENT-REPORT (PS3.4 table J.3-2).

    Parameters
    ----------
    result : CommitmentResult
        What was decided.
    retrieve_ae_title : str
        Where the instances can be retrieved; empty leaves (0008,0054) out.
    """
    report = Dataset()
    report.add(_uid(_TRANSACTION_UID, result.transaction_uid))
    if retrieve_ae_title and result.committed:
        report.RetrieveAETitle = retrieve_ae_title
    if result.committed:
        report.ReferencedSOPSequence = DicomSequence(_items(result.committed))
    if result.failed:
        items = _items(reference for reference, _ in result.failed)
        for item, (_, reason) in zip(items, result.failed, strict=True):
            item.FailureReason = int(reason)
        report.FailedSOPSequence = DicomSequence(items)
    return report


def _items(references: Iterable[Reference]) -> list[Dataset]:
    items = []
    for reference in references:
        item = Dataset()
        item.add(_uid(_REFERENCED_SOP_CLASS_UID, reference.sop_class_uid))
        item.add(_uid(_REFERENCED_SOP_INSTANCE_UID, reference.sop_instance_uid))
        items.append(item)
    return items


def _uid(tag: int, text: str) -> DataElement:
    # Told back as they came, leading zeros and all; pydicom would warn of each on standard error.
    return DataElement(tag, "UI", text, validation_mode=IGNORE)
