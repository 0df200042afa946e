"""Sends DICOM files by C-STORE, as a PACS would: the Storage SCU behind ``biodatamine send``.

The dataset of a file goes over the wire as it stands in the file. It is neither decoded nor encoded
again, so each file needs a presentation context in its own transfer syntax; exactly those that are
needed are proposed.
"""

from __future__ import annotations

import os
import queue
import shutil
import socket
import ssl
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pynetdicom import _config, evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.presentation import build_context
from pynetdicom.status import STORAGE_SERVICE_CLASS_STATUS

from streams.sniff.dicom.encoding import DEFLATED_SYNTAXES

MAX_CONTEXTS = 128
"""Presentation contexts of one association (PS3.8 9.3.2.2: odd ids from 1 to 255)."""

MAX_UID_CHARACTERS = 64

_CONNECT_SECONDS = 10.0
_RESPONSE_SECONDS = 120.0
_CLOSED_POLL_SECONDS = 0.1
_MAX_PDU_BYTES = 256 * 1024
_PREAMBLE_BYTES = 128
# First group of a dataset without a preamble: 0002 or 0008, the latter in either byte order.
_HEADERLESS = (b"\x02\x00", b"\x08\x00", b"\x00\x08")
_MEDIA_STORAGE_DIRECTORY = "1.2.840.10008.1.3.10"

Outcome = Literal["stored", "refused", "failed", "skipped"]


class SendError(Exception):
    """Nothing could be sent; the message says why and what to do."""


@dataclass(frozen=True)
class FileResult:
    """What became of one file.

    Parameters
    ----------
    path : Path
        The file.
    outcome : str
        ``stored`` (Success or a warning), ``refused`` (the receiver said no), ``failed`` (no answer
        came) or ``skipped`` (it could not be sent).
    meaning : str
        In words: the status, or why the file was not sendable.
    status : int or None
        DICOM status of the response.
    size_bytes : int
        Size of the file.
    sop_instance_uid : str
        Under which it was sent; empty if it was skipped.
    """

    path: Path
    outcome: Outcome
    meaning: str
    status: int | None = None
    size_bytes: int = 0
    sop_instance_uid: str = ""


@dataclass(frozen=True)
class SendReport:
    """What became of all files.

    Parameters
    ----------
    results : tuple of FileResult
        One for each file, in no particular order.
    seconds : float
        How long sending took, reading the headers included.
    associations : int
        How many were opened.
    """

    results: tuple[FileResult, ...]
    seconds: float
    associations: int

    def count(self, outcome: Outcome) -> int:
        """Count files with this outcome."""
        return sum(result.outcome == outcome for result in self.results)

    @property
    def sent_bytes(self) -> int:
        """Bytes of the files that were stored."""
        return sum(result.size_bytes for result in self.results if result.outcome == "stored")

    @property
    def reasons(self) -> Counter[str]:
        """How often each reason kept a file from being stored."""
        return Counter(result.meaning for result in self.results if result.outcome != "stored")


OnProgress = Callable[[int, int, FileResult], None]
"""Called after each file, from one thread at a time, with how many are done, of how many."""


@dataclass(frozen=True)
class Sendable:
    """A file that can be sent, and how.

    Parameters
    ----------
    path : Path
        The file.
    sop_class_uid, sop_instance_uid, transfer_syntax_uid : str
        Of its dataset.
    dataset_offset : int
        Where the dataset begins in the file, bytes.
    is_complete : bool
        Whether preamble and File Meta Information say all this already.
    size_bytes : int
        Size of the file.
    """

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    dataset_offset: int
    is_complete: bool
    size_bytes: int

    @property
    def context(self) -> tuple[str, str]:
        """The presentation context that it needs: SOP class and transfer syntax."""
        return self.sop_class_uid, self.transfer_syntax_uid


def find_files(paths: Iterable[Path]) -> Iterator[Path]:
    """List the files under some files and folders, sorted, links to folders not followed.

    Raises
    ------
    SendError
        If a path does not exist.
    """
    for path in paths:
        if path.is_dir():
            for folder, folders, names in os.walk(path):
                folders.sort()
                yield from (Path(folder) / name for name in sorted(names))
        elif path.exists():
            yield path
        else:
            msg = f"{path} does not exist"
            raise SendError(msg)


def examine(path: Path) -> Sendable | FileResult:
    """Find out whether and how a file can be sent, from its header.

    Parameters
    ----------
    path : Path
        Any file.

    Returns
    -------
    Sendable or FileResult
        How to send it, or a result with the outcome ``skipped`` and the reason.
    """
    try:
        size_bytes = path.stat().st_size
        if not path.is_file():
            return FileResult(path, "skipped", "not a regular file")
        if size_bytes == 0:
            return FileResult(path, "skipped", "the file is empty")
        with path.open("rb") as file:
            return _examine(path, file, size_bytes)
    except OSError as error:
        return FileResult(path, "skipped", f"cannot be read: {error.strerror or error}")


def _examine(path: Path, file: BinaryIO, size_bytes: int) -> Sendable | FileResult:
    def skipped(why: str) -> FileResult:
        return FileResult(path, "skipped", why, size_bytes=size_bytes)

    head = file.read(_PREAMBLE_BYTES + 4)
    has_preamble = head[_PREAMBLE_BYTES:] == b"DICM"
    if not has_preamble and head[:2] not in _HEADERLESS:
        return skipped("not DICOM")
    meta, offset = _file_meta(file, _PREAMBLE_BYTES + 4 if has_preamble else 0)
    said = {
        "class": _uid(meta, "MediaStorageSOPClassUID"),
        "instance": _uid(meta, "MediaStorageSOPInstanceUID"),
        "syntax": _uid(meta, "TransferSyntaxUID"),
    }
    if said["class"] == _MEDIA_STORAGE_DIRECTORY:
        return skipped("a DICOMDIR lists files and is no instance")
    found = dict(said)
    # What is deflated is not inflated here: its File Meta Information has to do.
    if said["syntax"] not in DEFLATED_SYNTAXES:
        try:
            header = dcmread(
                path,
                stop_before_pixels=True,
                force=True,
                specific_tags=["SOPClassUID", "SOPInstanceUID"],
            )
        except Exception:  # noqa: BLE001 (pydicom raises all sorts; a receiver judges a broken file)
            if not all(said.values()):
                return skipped("its header cannot be read")
        else:
            found["class"], found["instance"] = (
                _uid(header, "SOPClassUID"),
                _uid(header, "SOPInstanceUID"),
            )
            found["syntax"] = said["syntax"] or _guessed_syntax(header)
    for key, name in (("class", "SOP Class UID"), ("instance", "SOP Instance UID")):
        if not found[key]:
            return skipped(f"no {name}" if has_preamble else f"no {name}, and no DICOM preamble")
    if not found["syntax"]:
        return skipped("no transfer syntax")
    return Sendable(
        path=path,
        sop_class_uid=found["class"],
        sop_instance_uid=found["instance"],
        transfer_syntax_uid=found["syntax"],
        dataset_offset=offset,
        is_complete=has_preamble and found == said,
        size_bytes=size_bytes,
    )


def _file_meta(file: BinaryIO, start: int) -> tuple[Dataset, int]:
    file.seek(start)
    try:
        meta = read_dataset(
            file,
            is_implicit_VR=False,
            is_little_endian=True,
            stop_when=lambda tag, _vr, _length: tag.group != 2,
        )
        return meta, file.tell()
    except Exception:  # noqa: BLE001 (whatever is wrong with it, there is none then)
        return Dataset(), start


def _uid(dataset: Dataset, keyword: str) -> str:
    try:
        value = str(dataset.get(keyword) or "").strip(" \x00")
    except Exception:  # noqa: BLE001 (pydicom decodes values late and in many ways)
        return ""
    return value if len(value) <= MAX_UID_CHARACTERS else ""


def _guessed_syntax(header: Dataset) -> str:
    is_implicit, is_little = header.original_encoding
    if is_implicit:
        return str(ImplicitVRLittleEndian)
    return str(ExplicitVRLittleEndian if is_little else ExplicitVRBigEndian)


def send(
    paths: Iterable[Path],
    *,
    host: str,
    port: int,
    called_aet: str = "BIODATAMINE",
    calling_aet: str = "BDM-SEND",
    on_progress: OnProgress | None = None,
    associations: int = 1,
    tls: ssl.SSLContext | None = None,
) -> SendReport:
    """Send all DICOM files among some files and folders by C-STORE.

    Each file is sent once; nothing is tried again.

    Parameters
    ----------
    paths : iterable of Path
        Files and folders.
    host, port : str, int
        Where the Storage SCP listens.
    called_aet, calling_aet : str
        AE titles of the receiver and of this sender.
    on_progress : callable, optional
        See ``OnProgress``.
    associations : int
        How many at the same time.
    tls : ssl.SSLContext, optional
        See ``dicom_gateway.peers.tls.client_context``; no TLS without it.

    Raises
    ------
    SendError
        If a path does not exist, nothing listens there, TLS fails, or the association is rejected.
    """
    # Sends the bytes behind the File Meta Information in pieces; pynetdicom keeps this for the
    # whole process.
    _config.STORE_SEND_CHUNKED_DATASET = True
    _config.LOG_HANDLER_LEVEL = "none"
    started = time.perf_counter()
    examined = [examine(path) for path in find_files(paths)]
    run = _Run(host, port, called_aet, calling_aet, on_progress, len(examined), tls)
    sendable = []
    for one in examined:
        if isinstance(one, FileResult):
            run.note(one)
        else:
            sendable.append(one)
    if sendable:
        run.require_listener()
        groups = group_by_association(sendable)
        if len(groups) == 1 and associations > 1:
            groups = [g for g in (groups[0][i::associations] for i in range(associations)) if g]
        with ThreadPoolExecutor(max_workers=associations) as pool:
            for done in [pool.submit(run.send_group, group) for group in groups]:
                done.result()
    return SendReport(tuple(run.results), time.perf_counter() - started, run.opened)


def group_by_association(files: Sequence[Sendable]) -> list[list[Sendable]]:
    """Divide files so that each group needs at most 128 presentation contexts.

    Within a group the order is kept.
    """
    contexts: dict[tuple[str, str], int] = {}
    for file in files:
        contexts.setdefault(file.context, len(contexts))
    groups: dict[int, list[Sendable]] = {}
    for file in files:
        groups.setdefault(contexts[file.context] // MAX_CONTEXTS, []).append(file)
    return list(groups.values())


@dataclass
class _Run:
    host: str
    port: int
    called_aet: str
    calling_aet: str
    on_progress: OnProgress | None
    total: int
    tls: ssl.SSLContext | None = None
    results: list[FileResult] = field(default_factory=list)
    opened: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, result: FileResult) -> None:
        with self.lock:
            self.results.append(result)
            if self.on_progress is not None:
                self.on_progress(len(self.results), self.total, result)

    def require_listener(self) -> None:
        try:
            with socket.create_connection((self.host, self.port), _CONNECT_SECONDS) as plain:
                if self.tls is not None:
                    self.tls.wrap_socket(plain, server_hostname=self.host).close()
        except ssl.SSLError as error:
            msg = f"TLS with {self.host}:{self.port} failed ({error.reason}); {self._hint}"
            raise SendError(msg) from error
        except OSError as error:
            msg = (
                f"nothing listens on {self.host}:{self.port} ({error}); is `biodatamine up` "
                "running? Its status table names host and port"
            )
            raise SendError(msg) from error

    def send_group(self, files: Sequence[Sendable]) -> None:
        left = list(files)
        assoc = self._associate(left)
        if not assoc.is_established:
            raise SendError(self._why_not(assoc))
        while left:
            file = left.pop(0)
            self.note(self._send(assoc, file))
            if assoc.is_established or not left:
                continue
            # The association ended over this file; the others get another one.
            assoc = self._associate(left)
            if not assoc.is_established:
                why = self._why_not(assoc)
                for lost in left:
                    self.note(_result(lost, "failed", why))
                return
        assoc.release()

    def _associate(self, files: Sequence[Sendable]) -> Any:
        entity = ApplicationEntity(self.calling_aet)
        entity.connection_timeout = _CONNECT_SECONDS
        entity.acse_timeout = _RESPONSE_SECONDS
        entity.dimse_timeout = _RESPONSE_SECONDS
        entity.network_timeout = _RESPONSE_SECONDS
        contexts = [
            build_context(sop_class, syntax)
            for sop_class, syntax in dict.fromkeys(file.context for file in files)
        ]
        with self.lock:
            self.opened += 1
        return entity.associate(
            self.host,
            self.port,
            contexts,
            ae_title=self.called_aet,
            max_pdu=_MAX_PDU_BYTES,
            tls_args=None if self.tls is None else (self.tls, self.host),
            evt_handlers=[
                (evt.EVT_CONN_OPEN, _opened),
                (evt.EVT_CONN_CLOSE, _closed),
            ],
        )

    def _why_not(self, assoc: Any) -> str:
        where = f"{self.called_aet} at {self.host}:{self.port}"
        if assoc.is_rejected:
            answer = assoc.acceptor.primitive
            return f"{where} rejected the association: {answer.reason_str}"
        if assoc.rejected_contexts:
            return f"{where} accepts none of the SOP classes or transfer syntaxes of these files"
        return f"{where} ended the association; see the receiver's log; {self._hint}"

    @property
    def _hint(self) -> str:
        return (
            f"`biodatamine gateway check {self.host} {self.port} --called {self.called_aet}"
            f"{' --tls ...' if self.tls else ''}` says what is wrong"
        )

    def _send(self, assoc: Any, file: Sendable) -> FileResult:
        accepted = {
            (str(context.abstract_syntax), str(context.transfer_syntax[0]))
            for context in assoc.accepted_contexts
        }
        if file.context not in accepted:
            return _result(file, "refused", "the receiver takes no such SOP class and syntax")
        try:
            if file.is_complete:
                response = assoc.send_c_store(file.path)
            else:
                with _completed(file) as path:
                    response = assoc.send_c_store(path)
        except (RuntimeError, ValueError, AttributeError, OSError) as error:
            return _result(file, "failed", f"not sent: {error}"[:200])
        if "Status" not in response:
            return _result(file, "failed", "no answer came, or the association was aborted")
        status = int(response.Status)
        # Warnings (Bxxx) mean that it was stored (PS3.4 B.2.3).
        stored = status == 0 or status >> 12 == 0xB
        return _result(file, "stored" if stored else "refused", _meaning(response), status)


class _DimseProvider(DIMSEServiceProvider):
    """Gives up waiting for a response when the connection has closed, and lets none be stolen.

    pynetdicom waits until its time is up, also when the receiver has died. And its reactor, which
    is meant to stand still while a request is under way, can run on for one more turn on a busy
    machine: it then takes the response for a request of the peer and drops it. We serve no
    requests, so the reactor gets nothing.
    """

    def __init__(self, assoc: Any) -> None:
        super().__init__(assoc)
        self.is_closed = False

    def get_msg(self, block: bool = False) -> Any:
        if not block:
            return None, None
        deadline = time.monotonic() + _RESPONSE_SECONDS
        while time.monotonic() < deadline:
            # A response that came before the end is still in the queue after it.
            was_closed = self.is_closed
            try:
                return self.msg_queue.get(timeout=0 if was_closed else _CLOSED_POLL_SECONDS)
            except queue.Empty:
                if was_closed:
                    break
        return None, None


def _opened(event: Any) -> None:
    event.assoc.dimse = _DimseProvider(event.assoc)
    # A C-STORE is a small PDU, then large ones. With Nagle's algorithm the large ones wait for the
    # small one's acknowledgement, which receivers delay by 40 ms.
    event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _closed(event: Any) -> None:
    if isinstance(event.assoc.dimse, _DimseProvider):
        event.assoc.dimse.is_closed = True


def _result(
    file: Sendable, outcome: Outcome, meaning: str, status: int | None = None
) -> FileResult:
    return FileResult(file.path, outcome, meaning, status, file.size_bytes, file.sop_instance_uid)


def _meaning(response: Dataset) -> str:
    status = int(response.Status)
    category, text = STORAGE_SERVICE_CLASS_STATUS.get(status, ("Unknown", ""))
    said = str(response.get("ErrorComment") or "")
    return f"0x{status:04X} " + ", ".join(filter(None, (category, text, said)))


class _completed:  # noqa: N801 (reads as a function: a context manager)
    """A copy of a file that lacks preamble or File Meta Information, with both."""

    def __init__(self, file: Sendable) -> None:
        self._file = file
        self._folder = tempfile.TemporaryDirectory(prefix="biodatamine-send-")

    def __enter__(self) -> Path:
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = UID(self._file.sop_class_uid)
        meta.MediaStorageSOPInstanceUID = UID(self._file.sop_instance_uid)
        meta.TransferSyntaxUID = UID(self._file.transfer_syntax_uid)
        path = Path(self._folder.name) / "instance.dcm"
        with path.open("wb") as target, self._file.path.open("rb") as source:
            target.write(bytes(_PREAMBLE_BYTES) + b"DICM")
            encoded = DicomBytesIO()
            write_file_meta_info(encoded, meta)
            target.write(encoded.getvalue())
            source.seek(self._file.dataset_offset)
            shutil.copyfileobj(source, target, 1 << 20)
        return path

    def __exit__(self, *error: object) -> None:
        self._folder.cleanup()
