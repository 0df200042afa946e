"""Why an instance is not stored, and the DICOM status that tells the sender.

Every way in which a C-STORE can end has one row. Only the first is a Success, and it is given only
when both the blob and its outbox record are on disk.

=========================  ======  ==========================================================
how it ends                status  meaning to the sender (PS3.4 B.2.3, PS3.7 annex C)
=========================  ======  ==========================================================
stored                     0x0000  Success
InvalidInstanceUid         0x0117  Invalid SOP Instance: the command's SOP Instance UID is none
InvalidSopClass            0x0122  SOP Class not supported: the command's SOP Class UID is none
SopClassNotAccepted        0x0124  Not authorized: the rules of the called Application Entity
                                   do not accept this SOP class
OutOfResources             0xA700  Out of resources: the disk, the blob store or the outbox
                                   cannot take it; send it again later
DatasetTooLarge            0xA701  Out of resources: longer than the configured limit
UidMismatch                0xA900  Data Set does not match: its SOP UIDs are not the command's
UnreadableDataset          0xC000  Cannot understand: the bytes are no dataset in the negotiated
                                   transfer syntax up to where an instance is named
EmptyDataset               0xC001  Cannot understand: there are no bytes
TransferSyntaxNotAccepted  0xC002  Cannot understand: the rules of the called Application
                                   Entity do not accept this transfer syntax
any other exception        0x0110  Processing failure: a fault of ours, told in our log
=========================  ======  ==========================================================

A dataset that breaks off after its Series Instance UID, or whose pixel data are damaged, is stored:
it names itself, the sender has nothing better, and what can be read of it is worth a row.

What the rules of an Application Entity ignore (``dicom_gateway.aes.entities``) is answered with
Success and not stored: its operator chose so.
"""

from __future__ import annotations

from typing import ClassVar

SUCCESS = 0x0000
PROCESSING_FAILURE = 0x0110


class StoreError(Exception):
    """An instance cannot be stored.

    Parameters
    ----------
    comment : str
        Reason for the sender's log, without values of the dataset; the Error Comment (0000,0902)
        holds its first 64 characters.
    """

    status: ClassVar[int] = PROCESSING_FAILURE
    reason: ClassVar[str] = "processing-failure"

    def __init__(self, comment: str) -> None:
        super().__init__(comment)
        self.comment = comment[:64]


class InvalidInstanceUidError(StoreError):
    """The command's Affected SOP Instance UID is not a UID."""

    status = 0x0117
    reason = "invalid-instance-uid"


class InvalidSopClassError(StoreError):
    """The command's Affected SOP Class UID is not a UID."""

    status = 0x0122
    reason = "invalid-sop-class"


class SopClassNotAcceptedError(StoreError):
    """The rules of the called Application Entity do not accept the SOP class."""

    status = 0x0124
    reason = "sop-class-not-accepted"


class OutOfResourcesError(StoreError):
    """The disk, the blob store or the outbox cannot take the instance."""

    status = 0xA700
    reason = "out-of-resources"


class DatasetTooLargeError(StoreError):
    """The dataset is longer than the configured limit."""

    status = 0xA701
    reason = "dataset-too-large"


class UidMismatchError(StoreError):
    """The dataset's SOP Class or Instance UID is absent or is not the command's."""

    status = 0xA900
    reason = "uid-mismatch"


class UnreadableDatasetError(StoreError):
    """The bytes are not a dataset in the negotiated transfer syntax."""

    status = 0xC000
    reason = "unreadable-dataset"


class EmptyDatasetError(StoreError):
    """The C-STORE request came without a dataset."""

    status = 0xC001
    reason = "empty-dataset"


class TransferSyntaxNotAcceptedError(StoreError):
    """The rules of the called Application Entity do not accept the transfer syntax."""

    status = 0xC002
    reason = "transfer-syntax-not-accepted"


STORE_ERRORS: tuple[type[StoreError], ...] = (
    InvalidInstanceUidError,
    InvalidSopClassError,
    SopClassNotAcceptedError,
    OutOfResourcesError,
    DatasetTooLargeError,
    UidMismatchError,
    UnreadableDatasetError,
    EmptyDatasetError,
    TransferSyntaxNotAcceptedError,
)


def status_of(error: BaseException) -> int:
    """DICOM status with which a C-STORE that raised ``error`` is answered."""
    if isinstance(error, StoreError):
        return error.status
    # BlobError, OutboxError and a full disk are all OSErrors.
    if isinstance(error, OSError):
        return OutOfResourcesError.status
    return PROCESSING_FAILURE


def reason_of(error: BaseException) -> str:
    """Short stable code of an error, for logs and metrics."""
    if isinstance(error, StoreError):
        return error.reason
    if isinstance(error, OSError):
        return OutOfResourcesError.reason
    return StoreError.reason
