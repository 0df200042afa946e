"""Storage commitment with real peers: pynetdicom in both roles, Orthanc, and kill -9."""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity

from deploy.embedded.ports import free_port
from dicom_gateway.commitment.ledger import CommitmentLedger, Requester
from dicom_gateway.commitment.request import (
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    CommitmentRequest,
    Reference,
)
from dicom_gateway.commitment.scu import CommitmentPeer, DeliveryError, deliver
from dicom_gateway.commitment.service import CommitmentPolicy, CommitmentService
from dicom_gateway.commitment.threaded import ActionHandler, add_commitment_context
from dicom_gateway.ledger.outbox import Outbox
from dicom_gateway.storing.arrived import Arrived
from dicom_gateway.storing.sop_classes import STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE
from schemas.events import received
from schemas.facts import DicomUids
from streams.storage.blobs import BlobStore

pytestmark = pytest.mark.integration

CT = "1.2.840.10008.5.1.4.1.1.2"
VERIFICATION = "1.2.840.10008.1.1"
TRANSACTION = "1.2.3.99"
NOW = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)


def utc_now() -> datetime:
    return datetime.now(timezone.utc)


def until(condition: Callable[[], object], what: str, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)


def arrive(outbox: Outbox, store: BlobStore, uid: str, sop_class: str = CT) -> None:
    event = received(
        tenant="t",
        dataset_id="d",
        relpath=f"1/2/{uid}",
        blob=store.put(uid.encode()),
        source="dicom",
        received_at=NOW,
        dicom=DicomUids(study_uid="1", series_uid="2", instance_uid=uid, sop_class_uid=sop_class),
    )
    outbox.append_all([Arrived.of(event)]).result()


class Archive:
    """A pynetdicom SCP that offers commitment through the service."""

    def __init__(self, folder: Path) -> None:
        self.outbox = Outbox(folder / "outbox.sqlite3")
        self.store = BlobStore(str(folder / "blobs"))
        self.peers: dict[str, CommitmentPeer] = {}
        self.service = CommitmentService(
            self.outbox,
            self.store,
            find_peer=lambda asker: self.peers.get(asker.ae_title),
            clock=utc_now,
            policy=CommitmentPolicy(settle_seconds=0.2, first_retry_seconds=0.2),
        )
        self.service.start()
        entity = ApplicationEntity("ARCHIVE")
        add_commitment_context(entity)
        entity.add_supported_context(VERIFICATION)
        handler = ActionHandler(
            self.service.handle_action,
            lambda assoc: Requester(
                assoc.requestor.ae_title.strip(), "ARCHIVE", "t", str(assoc.name)
            ),
            timeout_seconds=10,
        )
        self.server: Any = entity.start_server(
            ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_N_ACTION, handler)]
        )
        self.port = int(self.server.server_address[1])

    def close(self) -> None:
        self.server.shutdown()
        self.service.stop(20)
        self.outbox.close()


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    made = Archive(tmp_path)
    yield made
    made.close()


class Modality:
    """A pynetdicom peer that asks for commitment and takes reports, listening or not."""

    def __init__(self) -> None:
        self.reports: queue.Queue[tuple[int, Dataset]] = queue.Queue()
        self.messages: list[str] = []
        self.status = 0x0000
        self.entity = ApplicationEntity("MODALITY")
        self.entity.add_requested_context(STORAGE_COMMITMENT)
        self.entity.add_requested_context(VERIFICATION)
        self.server: Any = None

    def handlers(self) -> list[Any]:
        def report(event: Any) -> tuple[int, None]:
            self.reports.put((event.event_type, event.event_information))
            return self.status, None

        def note(event: Any) -> None:
            self.messages.append(type(event.message).__name__)

        return [(evt.EVT_N_EVENT_REPORT, report), (evt.EVT_DIMSE_RECV, note)]

    def listen(self, *, role: bool) -> int:
        entity = ApplicationEntity("MODALITY")
        roles = {"scu_role": False, "scp_role": True} if role else {}
        entity.add_supported_context(STORAGE_COMMITMENT, **roles)
        self.negotiated: list[Any] = []
        self.server = entity.start_server(
            ("127.0.0.1", 0),
            block=False,
            evt_handlers=[
                *self.handlers(),
                (evt.EVT_ACCEPTED, lambda event: self.negotiated.append(event.assoc)),
            ],
        )
        return int(self.server.server_address[1])

    def associate(self, port: int, syntax: str = EXPLICIT_VR_LITTLE_ENDIAN) -> Any:
        self.entity.requested_contexts[0].transfer_syntax = [syntax]
        assoc = self.entity.associate(
            "127.0.0.1", port, ae_title="ARCHIVE", evt_handlers=self.handlers()
        )
        assert assoc.is_established
        return assoc

    def ask(self, assoc: Any, *uids: str, transaction: str = TRANSACTION, **changes: Any) -> int:
        request = Dataset()
        request.TransactionUID = transaction
        request.ReferencedSOPSequence = []
        for uid in uids:
            item = Dataset()
            item.ReferencedSOPClassUID = CT
            item.ReferencedSOPInstanceUID = uid
            request.ReferencedSOPSequence.append(item)
        fields = {"action_type": 1, "instance_uid": STORAGE_COMMITMENT_INSTANCE} | changes
        status, _ = assoc.send_n_action(
            request, fields["action_type"], STORAGE_COMMITMENT, fields["instance_uid"]
        )
        return int(status.Status)

    def report(self) -> tuple[int, Dataset]:
        return self.reports.get(timeout=30)

    def close(self) -> None:
        if self.server is not None:
            self.server.shutdown()


@pytest.fixture
def modality() -> Iterator[Modality]:
    made = Modality()
    yield made
    made.close()


# ---- on the association that asked


@pytest.mark.parametrize("syntax", [EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN])
def test_the_report_comes_after_the_response_on_the_same_association(
    archive: Archive, modality: Modality, syntax: str
) -> None:
    arrive(archive.outbox, archive.store, "1.1")
    assoc = modality.associate(archive.port, syntax)
    for i in range(20):
        assert modality.ask(assoc, "1.1", transaction=f"1.2.{i}") == 0x0000
        event_type, report = modality.report()
        assert (event_type, report.TransactionUID) == (1, f"1.2.{i}")
        assert [item.ReferencedSOPInstanceUID for item in report.ReferencedSOPSequence] == ["1.1"]
    assoc.release()
    assert modality.messages == ["N_ACTION_RSP", "N_EVENT_REPORT_RQ"] * 20
    until(lambda: archive.service.waiting == 0, "every report is confirmed")


def test_the_association_can_be_used_while_the_report_is_on_its_way(
    archive: Archive, modality: Modality
) -> None:
    uids = [f"1.{i}" for i in range(400)]
    for uid in uids:
        arrive(archive.outbox, archive.store, uid)
    assoc = modality.associate(archive.port)
    assert modality.ask(assoc, *uids) == 0x0000
    event_type, report = modality.report()
    assert (event_type, len(report.ReferencedSOPSequence)) == (1, 400)
    until(lambda: archive.service.waiting == 0, "the report is confirmed")
    assert assoc.send_c_echo().Status == 0x0000
    assert modality.ask(assoc, "1.1", "1.999", transaction="1.2.7") == 0x0000
    event_type, report = modality.report()
    assert event_type == 2
    (failed,) = report.FailedSOPSequence
    assert (failed.ReferencedSOPInstanceUID, failed.FailureReason) == ("1.999", 0x0112)
    assoc.release()


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"action_type": 2}, 0x0123),
        ({"instance_uid": "1.2.3"}, 0x0112),
        ({"uids": ()}, 0x0115),
        ({"transaction": ""}, 0x0115),
    ],
)
def test_faults_of_a_request_are_answered_and_the_association_goes_on(
    archive: Archive, modality: Modality, changes: dict[str, Any], status: int
) -> None:
    arrive(archive.outbox, archive.store, "1.1")
    assoc = modality.associate(archive.port)
    fields = {"uids": ("1.1",), **changes}
    uids = fields.pop("uids")
    assert modality.ask(assoc, *uids, **fields) == status
    assert modality.ask(assoc, "1.1") == 0x0000
    assert modality.report()[0] == 1
    assoc.release()


# ---- on an association of ours


@pytest.mark.parametrize("role", [True, False])
def test_the_report_comes_over_a_new_association_when_the_first_is_gone(
    archive: Archive, modality: Modality, role: bool
) -> None:
    port = modality.listen(role=role)
    archive.peers["MODALITY"] = CommitmentPeer("MODALITY", "127.0.0.1", port)
    assoc = modality.associate(archive.port)
    # Not there yet: the report waits until the association has ended.
    assert modality.ask(assoc, "1.1") == 0x0000
    assoc.release()
    event_type, report = modality.report()
    assert (event_type, report.TransactionUID) == (2, TRANSACTION)
    (ours,) = modality.negotiated
    assert ours.requestor.ae_title == "ARCHIVE"
    (context,) = ours.accepted_contexts
    proposed = ours.requestor.role_selection[STORAGE_COMMITMENT]
    assert (proposed.scu_role, proposed.scp_role) == (False, True)
    # With the role agreed upon the acceptor is the service's SCU.
    assert (context.as_scu, context.as_scp) == ((True, False) if role else (False, True))
    until(lambda: archive.service.waiting == 0, "the report is confirmed")


def test_a_report_that_is_refused_on_one_way_comes_on_the_other_until_it_is_taken(
    archive: Archive, modality: Modality
) -> None:
    arrive(archive.outbox, archive.store, "1.1")
    archive.peers["MODALITY"] = CommitmentPeer("MODALITY", "127.0.0.1", modality.listen(role=True))
    modality.status = 0x0110
    assoc = modality.associate(archive.port)
    assert modality.ask(assoc, "1.1") == 0x0000
    for _ in range(3):
        modality.report()
    assert archive.service.waiting == 1
    modality.status = 0x0000
    until(lambda: archive.service.waiting == 0, "the report is taken")
    assoc.release()


def test_a_peer_that_does_not_listen_is_told_plainly() -> None:
    nobody = CommitmentPeer("MODALITY", "127.0.0.1", free_port())
    with pytest.raises(DeliveryError, match="check its address"):
        deliver(nobody, "ARCHIVE", 1, Dataset(), timeout_seconds=5)


def test_a_peer_without_the_service_is_told_plainly() -> None:
    entity = ApplicationEntity("OTHER")
    entity.add_supported_context(VERIFICATION)
    server: Any = entity.start_server(("127.0.0.1", 0), block=False)
    try:
        peer = CommitmentPeer("OTHER", "127.0.0.1", int(server.server_address[1]))
        with pytest.raises(DeliveryError, match="OTHER at"):
            deliver(peer, "ARCHIVE", 1, Dataset(), timeout_seconds=5)
    finally:
        server.shutdown()


# ---- kill -9

_KEEP_AND_WAIT = """
import sys
from pathlib import Path
from tests.integration.test_gateway_commitment import keep_and_wait
keep_and_wait(Path(sys.argv[1]))
"""


def keep_and_wait(folder: Path) -> None:
    """What the killed process does: accept, say so, and never get to report."""
    outbox = Outbox(folder / "outbox.sqlite3")
    store = BlobStore(str(folder / "blobs"))
    arrive(outbox, store, "1.1")
    stuck = threading.Event()
    service = CommitmentService(
        outbox,
        store,
        find_peer=lambda asker: CommitmentPeer(asker.ae_title, "127.0.0.1", 1),
        clock=utc_now,
        send=lambda *_: stuck.wait() and None,
    )
    service.start()
    request = CommitmentRequest(TRANSACTION, (Reference(CT, "1.1"),))
    service.submit(request, Requester("MODALITY", "ARCHIVE", "t"))
    print("accepted", flush=True)
    stuck.wait()


def test_kill_9_between_success_and_report_loses_no_report(
    tmp_path: Path, modality: Modality
) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", _KEEP_AND_WAIT, str(tmp_path)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).resolve().parents[2],
    )
    try:
        assert child.stdout is not None
        lines = iter(child.stdout.readline, b"")
        assert any(line.strip() == b"accepted" for line in lines)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    archive = Archive(tmp_path)
    try:
        assert archive.service.waiting == 1
        archive.peers["MODALITY"] = CommitmentPeer(
            "MODALITY", "127.0.0.1", modality.listen(role=True)
        )
        event_type, report = modality.report()
        assert (event_type, report.TransactionUID) == (1, TRANSACTION)
        until(lambda: archive.service.waiting == 0, "the report is confirmed")
        assert CommitmentLedger(archive.outbox).waiting() == {}
    finally:
        archive.close()


# ---- Orthanc

needs_orthanc = pytest.mark.skipif(
    shutil.which("Orthanc", path=os.environ["PATH"] + ":/usr/sbin") is None
    and not os.environ.get("CI"),
    reason="Orthanc is not installed (apt-get install orthanc)",
)


@pytest.fixture
def orthanc(tmp_path: Path, archive: Archive) -> Iterator[str]:
    """An Orthanc that knows the archive; gives the URL of its REST interface."""
    from tests.support import receivers

    http_port, dicom_port = free_port(), free_port()
    command = receivers.orthanc(
        tmp_path,
        dicom_port,
        http_port=http_port,
        RemoteAccessAllowed=False,
        AuthenticationEnabled=False,
        DicomModalities={
            "archive": {
                "AET": "ARCHIVE",
                "Host": "127.0.0.1",
                "Port": archive.port,
                "AllowStorageCommitment": True,
            }
        },
    )
    archive.peers["ORTHANC"] = CommitmentPeer("ORTHANC", "127.0.0.1", dicom_port)
    with receivers.ReceiverProcess(command, dicom_port, tmp_path / "orthanc.log"):
        yield f"http://127.0.0.1:{http_port}"


def _call(url: str, data: bytes | None = None) -> Any:
    with urllib.request.urlopen(urllib.request.Request(url, data=data), timeout=20) as answer:
        return json.load(answer)


@needs_orthanc
def test_orthanc_asks_and_understands_the_report(orthanc: str, archive: Archive) -> None:
    held, missing = CT, "1.2.840.10008.5.1.4.1.1.4"
    path = Path(str(get_testdata_file("CT_small.dcm")))
    uid = str(dcmread(path, stop_before_pixels=True).SOPInstanceUID)
    arrive(archive.outbox, archive.store, uid)

    def ask(*pairs: tuple[str, str]) -> dict[str, Any]:
        body = {"DicomInstances": [list(pair) for pair in pairs]}
        started = _call(
            f"{orthanc}/modalities/archive/storage-commitment", json.dumps(body).encode()
        )
        place = f"{orthanc}/storage-commitment/{started['ID']}"
        until(lambda: _call(place)["Status"] != "Pending", "Orthanc has its report")
        answer: dict[str, Any] = _call(place)
        return answer

    good = ask((held, uid))
    assert (good["Status"], good["RemoteAET"]) == ("Success", "ARCHIVE")
    assert [one["SOPInstanceUID"] for one in good["Success"]] == [uid]
    bad = ask((held, uid), (held, "1.2.3.4"), (missing, uid))
    assert bad["Status"] == "Failure"
    reasons = {(f["SOPClassUID"], f["SOPInstanceUID"]): f["FailureReason"] for f in bad["Failures"]}
    assert reasons == {(held, "1.2.3.4"): 0x0112, (missing, uid): 0x0119}
