"""An instance comes in: checked, written as it arrives, durable before anyone says Success."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from dicom_gateway.storing.arrival import Origin
from dicom_gateway.storing.arrived import Arrived
from dicom_gateway.storing.identifiers import (
    Buffer,
    Identifiers,
    IncompleteHeaderError,
    read_identifiers,
)
from dicom_gateway.storing.inbox import Inbox, Slot
from dicom_gateway.storing.part10 import file_prefix, is_instance_uid, is_uid
from dicom_gateway.storing.statuses import (
    DatasetTooLargeError,
    EmptyDatasetError,
    InvalidInstanceUidError,
    InvalidSopClassError,
    OutOfResourcesError,
    UidMismatchError,
    UnreadableDatasetError,
)
from schemas import BlobRef
from schemas.events import received
from schemas.facts import DicomUids
from schemas.identity import dicom_relpath

MEDIA_TYPE = "application/dicom"
NO_STUDY = "no-study"
NO_SERIES = "no-series"
"""Path of an instance that names no study or series (Color Palettes, Hanging Protocols, ...)."""

_HEAD_BYTES = 64 * 1024
_MAX_HEAD_BYTES = 64 << 20
"""How much of a dataset is searched for its UIDs; they stand before all pixels."""


@dataclass(frozen=True)
class Arrival:
    """A durable instance that waits in the inbox to be filed.

    Parameters
    ----------
    slot : str
        Name of its file in the inbox.
    arrived : Arrived
        Its record for the ledger.
    durable_seconds : float
        How long the fsync took.
    """

    slot: str
    arrived: Arrived
    durable_seconds: float


class Receiver:
    """Takes instances, in any number of threads at once.

    Parameters
    ----------
    inbox : Inbox
        Where they become durable.
    uri : callable
        From a SHA-256 to the URI that the blob will have.
    on_arrival : callable
        Told, in the thread of the instance, of each one that is durable.
    clock : callable
        Returns the present, UTC.
    max_dataset_bytes : int
        A longer dataset is refused.
    pressure : callable
        Returns why nothing can be taken now, or ''.
    """

    def __init__(
        self,
        inbox: Inbox,
        *,
        uri: Callable[[str], str],
        on_arrival: Callable[[Arrival], None],
        clock: Callable[[], datetime],
        max_dataset_bytes: int,
        pressure: Callable[[], str] = lambda: "",
    ) -> None:
        self._inbox = inbox
        self._uri = uri
        self._on_arrival = on_arrival
        self._clock = clock
        self._max_dataset_bytes = max_dataset_bytes
        self._pressure = pressure

    def begin(
        self,
        *,
        sop_class_uid: str,
        sop_instance_uid: str,
        transfer_syntax_uid: str,
        origin: Origin,
    ) -> Incoming:
        """Begin an instance whose dataset comes piece by piece.

        Parameters
        ----------
        sop_class_uid, sop_instance_uid : str
            What the sender says that it is: Affected SOP Class and Instance UID of a C-STORE.
        transfer_syntax_uid : str
            In which the dataset is encoded.
        origin : Origin
            Where it comes from.

        Raises
        ------
        StoreError, OSError
            As the table in ``dicom_gateway.storing.statuses`` says.
        """
        if not is_instance_uid(sop_instance_uid):
            raise InvalidInstanceUidError("Affected SOP Instance UID is not a UID")
        if not is_uid(sop_class_uid):
            raise InvalidSopClassError("Affected SOP Class UID is not a UID")
        if why := self._pressure():
            raise OutOfResourcesError(why)
        try:
            prefix = file_prefix(sop_class_uid, sop_instance_uid, transfer_syntax_uid)
        except ValueError:
            raise UnreadableDatasetError("the transfer syntax has no UID") from None
        slot = self._inbox.take()
        try:
            slot.write(prefix)
        except BaseException:
            slot.discard()
            raise
        uids = (sop_class_uid, sop_instance_uid)
        return Incoming(self, slot, uids, transfer_syntax_uid, origin)

    def _make_durable(self, incoming: Incoming, found: Identifiers) -> None:
        slot = incoming.slot
        sha256 = slot.sha256
        event = received(
            tenant=incoming.origin.tenant,
            dataset_id=incoming.origin.dataset_id,
            relpath=dicom_relpath(
                found.study_uid or NO_STUDY,
                found.series_uid or NO_SERIES,
                found.sop_instance_uid,
            ),
            blob=BlobRef(
                uri=self._uri(sha256),
                sha256=sha256,
                size_bytes=slot.size_bytes,
                media_type=MEDIA_TYPE,
                transfer_syntax=incoming.transfer_syntax_uid,
            ),
            source=incoming.origin.source,
            received_at=self._clock(),
            dicom=DicomUids(
                study_uid=found.study_uid,
                series_uid=found.series_uid,
                instance_uid=found.sop_instance_uid,
                sop_class_uid=found.sop_class_uid,
            ),
            association=incoming.origin.association,
        )
        arrived = Arrived.of(event)
        began = time.perf_counter()
        stored = slot.commit(arrived.value)
        self._on_arrival(
            Arrival(
                slot=stored.name,
                arrived=arrived,
                durable_seconds=time.perf_counter() - began,
            )
        )


class Incoming:
    """One instance while it arrives; ``Receiver.begin`` makes it."""

    def __init__(
        self,
        receiver: Receiver,
        slot: Slot,
        uids: tuple[str, str],
        transfer_syntax_uid: str,
        origin: Origin,
    ) -> None:
        self._receiver = receiver
        self._uids = uids
        self._prefix_bytes = slot.size_bytes
        self._head = bytearray()
        self._max_bytes = receiver._max_dataset_bytes
        self.dataset_bytes = 0
        self.slot = slot
        self.transfer_syntax_uid = transfer_syntax_uid
        self.origin = origin

    def write(self, data: Buffer) -> None:
        """Take a piece of the dataset.

        Raises
        ------
        StoreError, OSError
            If it is too long, or the disk cannot take it; the instance is gone then.
        """
        try:
            self.dataset_bytes += len(data)
            if self.dataset_bytes > self._max_bytes:
                msg = f"the limit is {self._max_bytes} bytes"
                raise DatasetTooLargeError(msg)
            if len(self._head) < _HEAD_BYTES:
                self._head += data[: _HEAD_BYTES - len(self._head)]
            self.slot.write(data)
        except BaseException:
            self.abort()
            raise

    def finish(self) -> None:
        """Make the instance durable; only after this may anyone say Success.

        Raises
        ------
        StoreError, OSError
            As the table in ``dicom_gateway.storing.statuses`` says.
        """
        try:
            if not self.dataset_bytes:
                raise EmptyDatasetError("the request came without a dataset")
            found = self._identify()
            if (found.sop_class_uid, found.sop_instance_uid) != self._uids:
                raise UidMismatchError("the dataset's SOP UIDs are not the command's")
            self._receiver._make_durable(self, found)
        finally:
            self.abort()

    def abort(self) -> None:
        """Drop what has come; harmless after ``finish``."""
        self.slot.discard()

    def _identify(self) -> Identifiers:
        if self.dataset_bytes > len(self._head):
            try:
                return read_identifiers(self._head, self.transfer_syntax_uid, is_whole=False)
            except IncompleteHeaderError:
                # A new one: what raised the error still has its eye on the old.
                self._head = bytearray(
                    self.slot.read_back(
                        min(self.dataset_bytes, _MAX_HEAD_BYTES), offset=self._prefix_bytes
                    )
                )
        return read_identifiers(self._head, self.transfer_syntax_uid)
