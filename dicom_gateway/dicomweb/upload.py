"""The body of one Store request on its way into the receiver, part by part (PS3.18 section 10.5.1).

Synchronous: pieces of the body go in, instances become durable. Of a part never more is held than
its head, up to where it names itself; the rest goes to the receiver as it comes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import structlog

from dicom_gateway.aes.uid_rules import Verdict
from dicom_gateway.dicomweb.media_types import parse_media_type
from dicom_gateway.dicomweb.multipart import PartData, PartEvent, PartStart
from dicom_gateway.dicomweb.part10_reader import FileMeta, read_file_meta
from dicom_gateway.dicomweb.response import UNSUPPORTED_PART, Failed, Outcome, Stored
from dicom_gateway.logs import places
from dicom_gateway.storing.arrival import Origin
from dicom_gateway.storing.identifiers import (
    Identifiers,
    IncompleteHeaderError,
    read_identifiers,
)
from dicom_gateway.storing.part10 import is_instance_uid, is_uid
from dicom_gateway.storing.receiver import Incoming, Receiver
from dicom_gateway.storing.statuses import (
    StoreError,
    UnreadableDatasetError,
    reason_of,
    status_of,
)

DICOM = "application/dicom"

MAX_HEAD_BYTES = 1 << 20
"""How much of a dataset is held until it has named its study."""

_FIRST_LOOK_BYTES = 4096
_PLAIN_ENCODINGS = frozenset(("", "binary", "8bit", "7bit", "identity"))

_log = structlog.get_logger("dicom_gateway")


class Decoder(Protocol):
    """Takes the framing of a body apart, as those of ``dicom_gateway.dicomweb.multipart``."""

    def feed(self, data: bytes) -> Iterator[PartEvent]:
        """Take the next bytes."""

    def finish(self) -> Iterator[PartEvent]:
        """Say that no more bytes come."""


class StudyMismatchError(StoreError):
    """The instance belongs to another study than that of the URL."""

    status = 0xA901
    reason = "study-mismatch"


class UnsupportedPartError(StoreError):
    """The part is not application/dicom as it is."""

    status = UNSUPPORTED_PART
    reason = "unsupported-part"


Admission = Callable[[str, str], Verdict]
"""From SOP Class and transfer syntax UID; raises StoreError to refuse."""


class Upload:
    """One Store request.

    Parameters
    ----------
    receiver : Receiver
        Takes the instances.
    decoder : Decoder
        Of the request's framing.
    origin : Origin
        Of all its instances.
    study_uid : str
        Study that all must belong to; empty for any.
    admit : callable, optional
        Says of a SOP class and a transfer syntax what becomes of an instance; stores all by
        default. What it ignores is answered as stored.
    """

    def __init__(
        self,
        receiver: Receiver,
        decoder: Decoder,
        *,
        origin: Origin,
        study_uid: str = "",
        admit: Admission | None = None,
    ) -> None:
        self._receiver = receiver
        self._decoder = decoder
        self._origin = origin
        self._study_uid = study_uid
        self._admit = admit
        self._part: _Part | None = None
        # A request may be given up in one thread while another still works on its last piece.
        self._lock = threading.Lock()
        self._is_closed = False
        self.outcomes: list[Outcome] = []

    def feed(self, data: bytes) -> None:
        """Take the next piece of the body.

        Raises
        ------
        FramingError
            If the body is not framed as it says. Faults of single parts are outcomes instead.
        """
        with self._lock:
            if not self._is_closed:
                self._take(self._decoder.feed(data))

    def finish(self) -> None:
        """Say that the body is complete.

        Raises
        ------
        FramingError
            If it is not.
        """
        with self._lock:
            if not self._is_closed:
                self._take(self._decoder.finish())

    def abort(self) -> None:
        """Drop the part that is not complete; take nothing more. What is stored stays."""
        with self._lock:
            self._is_closed = True
            if self._part is not None:
                self._part.abort()
                self._part = None

    def _take(self, events: Iterator[PartEvent]) -> None:
        for event in events:
            if isinstance(event, PartStart):
                self._part = _Part(
                    event.headers, self._receiver, self._origin, self._study_uid, self._admit
                )
            elif self._part is None:
                continue
            elif isinstance(event, PartData):
                self._part.write(event.data)
            else:
                part, self._part = self._part, None
                self.outcomes.append(part.finish())


class _Part:
    """One part: its head is held until the receiver can be told which instance it is."""

    def __init__(
        self,
        headers: Mapping[str, str],
        receiver: Receiver,
        origin: Origin,
        study_uid: str,
        admit: Admission | None,
    ) -> None:
        self._receiver = receiver
        self._origin = origin
        self._study_uid = study_uid
        self._admit = admit
        self._head = bytearray()
        self._look_at_bytes = _FIRST_LOOK_BYTES
        self._meta: FileMeta | None = None
        self._uids = ("", "")
        self._sink: Incoming | None = None
        self._is_begun = False
        self._error: Exception | None = None
        try:
            _check_headers(headers)
        except StoreError as error:
            self._error = error

    def write(self, data: memoryview) -> None:
        if self._error is not None:
            return
        try:
            if self._is_begun:
                if self._sink is not None:
                    self._sink.write(data)
                return
            self._head += data
            if len(self._head) >= self._look_at_bytes:
                self._try_begin(at_end=False)
                # Twice as much next time: all looks together cost no more than two at the end.
                self._look_at_bytes = 2 * len(self._head)
        except Exception as error:  # noqa: BLE001 (every error has a status, see statuses.py)
            self._fail(error)

    def finish(self) -> Outcome:
        try:
            if self._error is None and not self._is_begun:
                self._try_begin(at_end=True)
            if self._error is None and self._sink is not None:
                self._sink.finish()
        except Exception as error:  # noqa: BLE001 (as above)
            self._fail(error)
        fault, uids = self._error, self._uids
        if fault is None:
            return Stored(*uids)
        if not (is_uid(uids[0]) and is_instance_uid(uids[1])):
            # They come from outside: what is no UID is not repeated.
            uids = ("", "")
        comment = fault.comment if isinstance(fault, StoreError) else reason_of(fault)
        return Failed(status_of(fault), reason_of(fault), comment, *uids)

    def abort(self) -> None:
        self._head = bytearray()
        if self._sink is not None:
            self._sink.abort()

    def _fail(self, error: Exception) -> None:
        self._error = error
        self.abort()
        if not isinstance(error, StoreError | OSError):
            _log.error(
                "stow-instance-fault",
                association_id=self._origin.association.association_id,
                error=type(error).__name__,
                places=places(error),
            )

    def _try_begin(self, *, at_end: bool) -> None:
        head = bytes(self._head)
        meta = self._meta
        if meta is None:
            meta = self._meta = read_file_meta(head, at_end=at_end)
            if meta is None:
                return
            self._uids = (meta.sop_class_uid, meta.sop_instance_uid)
            if not meta.transfer_syntax_uid:
                msg = "the File Meta Information names no Transfer Syntax UID"
                raise UnreadableDatasetError(msg)
        if self._study_uid or not all(self._uids):
            found = _identify(head, meta, at_end=at_end)
            if found is None:
                return
            # Of a file without Media Storage UIDs the dataset's are as good.
            self._uids = (
                self._uids[0] or found.sop_class_uid,
                self._uids[1] or found.sop_instance_uid,
            )
            if self._study_uid and found.study_uid != self._study_uid:
                msg = "the instance belongs to another study than the URL's"
                raise StudyMismatchError(msg)
        self._begin(head, meta)

    def _begin(self, head: bytes, meta: FileMeta) -> None:
        self._is_begun = True
        if (
            self._admit is None
            or self._admit(self._uids[0], meta.transfer_syntax_uid) is Verdict.STORE
        ):
            self._sink = self._receiver.begin(
                sop_class_uid=self._uids[0],
                sop_instance_uid=self._uids[1],
                transfer_syntax_uid=meta.transfer_syntax_uid,
                origin=self._origin,
            )
            if len(head) > meta.size_bytes:
                self._sink.write(memoryview(head)[meta.size_bytes :])
        self._head = bytearray()


def _identify(head: bytes, meta: FileMeta, *, at_end: bool) -> Identifiers | None:
    dataset = memoryview(head)[meta.size_bytes :]
    try:
        return read_identifiers(dataset, meta.transfer_syntax_uid, is_whole=at_end)
    except IncompleteHeaderError:
        if at_end:
            raise
    if len(head) > MAX_HEAD_BYTES:
        msg = f"the first {MAX_HEAD_BYTES} bytes do not name the study"
        raise UnreadableDatasetError(msg)
    return None


def _check_headers(headers: Mapping[str, str]) -> None:
    for name in ("content-transfer-encoding", "content-encoding"):
        if headers.get(name, "").lower() not in _PLAIN_ENCODINGS:
            msg = f"a part with a {name.title()} is not taken: send it as it is"
            raise UnsupportedPartError(msg)
    content_type = headers.get("content-type", "")
    try:
        # RFC 2387 lets a part be of the type that the whole body names; there is but one here.
        name = parse_media_type(content_type).name if content_type else DICOM
    except ValueError:
        name = ""
    if name != DICOM:
        msg = f"a part must be {DICOM}, a DICOM file each"
        raise UnsupportedPartError(msg)
