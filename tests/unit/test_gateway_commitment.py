"""Storage commitment without a network: the request, the decision, the service's times."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from pydicom import Dataset
from pynetdicom.dsutils import decode, encode

from dicom_gateway.commitment.judge import (
    CommitmentResult,
    FailureReason,
    judge,
    report_of,
)
from dicom_gateway.commitment.ledger import CommitmentLedger, Requester
from dicom_gateway.commitment.request import (
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    MAX_REFERENCES,
    TRANSFER_SYNTAXES,
    ActionRefusedError,
    CommitmentRequest,
    MistypedArgumentError,
    Reference,
    ResourceLimitationError,
    parse_action,
)
from dicom_gateway.commitment.scu import CommitmentPeer, DeliveryError
from dicom_gateway.commitment.service import CommitmentPolicy, CommitmentService, holds_whole
from dicom_gateway.ledger.outbox import HeldInstance, Outbox
from dicom_gateway.storing.arrived import Arrived
from dicom_gateway.storing.sop_classes import STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE
from schemas.events import received
from schemas.facts import DicomUids
from streams.storage.blobs import BlobStore

NOW = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
TRANSACTION = "1.2.3.99"
ASKER = Requester("ASKER", "BIODATAMINE", "t", "a1")


def action_dataset(references: list[Reference], transaction: str = TRANSACTION) -> Dataset:
    request = Dataset()
    request.TransactionUID = transaction
    request.ReferencedSOPSequence = []
    for reference in references:
        item = Dataset()
        item.ReferencedSOPClassUID = reference.sop_class_uid
        item.ReferencedSOPInstanceUID = reference.sop_instance_uid
        request.ReferencedSOPSequence.append(item)
    return request


def encoded(dataset: Dataset, syntax: str = EXPLICIT_VR_LITTLE_ENDIAN) -> bytes:
    data = encode(dataset, syntax == IMPLICIT_VR_LITTLE_ENDIAN, True)
    assert data is not None
    return data


def parse(data: bytes, syntax: str = EXPLICIT_VR_LITTLE_ENDIAN, **changes: Any) -> Any:
    fields: dict[str, Any] = {
        "sop_class_uid": STORAGE_COMMITMENT,
        "sop_instance_uid": STORAGE_COMMITMENT_INSTANCE,
        "action_type": 1,
        "dataset": data,
        "transfer_syntax_uid": syntax,
    }
    return parse_action(**(fields | changes))


# ---- the request

uids = st.from_regex(r"[12](\.(0|[1-9][0-9]{0,8})){1,6}", fullmatch=True)
reference_lists = st.lists(st.builds(Reference, uids, uids), min_size=1, max_size=20)


@given(
    references=reference_lists,
    syntax=st.sampled_from(TRANSFER_SYNTAXES),
    undefined=st.booleans(),
    more=st.booleans(),
)
def test_what_pydicom_writes_is_read(
    references: list[Reference], syntax: str, undefined: bool, more: bool
) -> None:
    dataset = action_dataset(references)
    dataset["ReferencedSOPSequence"].is_undefined_length = undefined
    if more:
        # Elements that nobody asks for, before, inside and after.
        dataset.RetrieveAETitle = "SOMEONE"
        inner = Dataset()
        inner.CodeValue = "1"
        dataset.ReferencedSeriesSequence = [inner]
        dataset["ReferencedSeriesSequence"].is_undefined_length = undefined
        dataset.StorageMediaFileSetID = "X"
        for item in dataset.ReferencedSOPSequence:
            item.is_undefined_length_sequence_item = undefined
            item.StorageMediaFileSetUID = "1.2"
            item.PurposeOfReferenceCodeSequence = [inner]
            item["PurposeOfReferenceCodeSequence"].is_undefined_length = undefined
    request = parse(encoded(dataset, syntax), syntax)
    assert request == CommitmentRequest(TRANSACTION, tuple(dict.fromkeys(references)))


@given(st.binary(max_size=300), st.sampled_from(TRANSFER_SYNTAXES))
def test_any_bytes_end_in_a_typed_error(data: bytes, syntax: str) -> None:
    with pytest.raises(ActionRefusedError):
        parse(data, syntax)


@given(st.data(), st.sampled_from(TRANSFER_SYNTAXES))
@settings(max_examples=300)
def test_a_damaged_request_is_read_or_refused(data: st.DataObject, syntax: str) -> None:
    whole = bytearray(encoded(action_dataset([Reference(CT, "1.2.5")] * 3), syntax))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    try:
        request = parse(cut, syntax)
    except ActionRefusedError:
        return
    # Whatever was read can be told back.
    report = report_of(CommitmentResult(request.transaction_uid, request.references, ()))
    assert encode(report, False, True)


GOOD = encoded(action_dataset([Reference(CT, "1.2.5")]))


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"sop_class_uid": "1.2.840.10008.1.1"}, 0x0118),
        ({"sop_class_uid": ""}, 0x0118),
        ({"sop_instance_uid": "1.2.3"}, 0x0112),
        ({"action_type": 2}, 0x0123),
        ({"action_type": None}, 0x0123),
        ({"dataset": b""}, 0x0115),
        ({"dataset": encoded(action_dataset([]))}, 0x0115),
        ({"dataset": encoded(action_dataset([Reference(CT, "1.2")], ""))}, 0x0115),
        ({"dataset": encoded(action_dataset([Reference(CT, "")]))}, 0x0115),
        ({"dataset": encoded(action_dataset([Reference("", "1.2")]))}, 0x0115),
        ({"dataset": GOOD[:-1]}, 0x0212),
        ({"dataset": GOOD + GOOD}, 0x0212),
        ({"dataset": b"no dataset"}, 0x0212),
        ({"transfer_syntax_uid": IMPLICIT_VR_LITTLE_ENDIAN}, 0x0212),
        ({"transfer_syntax_uid": "1.2.840.10008.1.2.2"}, 0x0212),
        ({"dataset": bytes((24 << 20) + 1)}, 0x0213),
    ],
)
def test_each_fault_of_a_request_has_its_status(changes: dict[str, Any], status: int) -> None:
    fields = {"data": GOOD, **changes}
    with pytest.raises(ActionRefusedError) as refused:
        parse(**fields)
    assert refused.value.status == status


def long_request(count: int) -> bytes:
    items = bytearray()
    for i in range(count):
        uid = f"1.2.{i:09d}".encode()
        element = struct.pack("<HHI", 0x0008, 0x1155, len(uid) + len(uid) % 2) + uid
        element += b"\x00" * (len(uid) % 2)
        body = struct.pack("<HHI", 0x0008, 0x1150, 4) + b"1.2\x00" + element
        items += struct.pack("<HHI", 0xFFFE, 0xE000, len(body)) + body
    return (
        struct.pack("<HHI", 0x0008, 0x1195, 4)
        + b"1.2\x00"
        + struct.pack("<HHI", 0x0008, 0x1199, len(items))
        + bytes(items)
    )


def test_references_are_limited() -> None:
    most = parse(long_request(MAX_REFERENCES), IMPLICIT_VR_LITTLE_ENDIAN)
    assert len(most.references) == MAX_REFERENCES
    with pytest.raises(ResourceLimitationError):
        parse(long_request(MAX_REFERENCES + 1), IMPLICIT_VR_LITTLE_ENDIAN)


def test_deep_nesting_is_refused() -> None:
    bomb = (
        struct.pack("<HHI", 0x0008, 0x1115, 0xFFFFFFFF) + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    ) * 5000
    with pytest.raises(MistypedArgumentError, match="nest"):
        parse(bomb, IMPLICIT_VR_LITTLE_ENDIAN)


# ---- the decision


def test_each_reason_has_its_case() -> None:
    held = {
        "1.1": [HeldInstance(CT, "a", 1)],
        "1.2": [HeldInstance(MR, "b", 1)],
        "1.3": [HeldInstance(CT, "gone", 1)],
        "1.4": [HeldInstance(CT, "broken", 1)],
        "1.5": [HeldInstance(CT, "a", 1), HeldInstance(CT, "gone", 1)],
        "1.6": [HeldInstance(CT, "a", 1), HeldInstance(CT, "b", 1)],
    }

    def is_stored(one: HeldInstance) -> bool:
        if one.image_id == "broken":
            raise OSError
        return one.image_id != "gone"

    references = (*(Reference(CT, f"1.{i}") for i in range(1, 8)), Reference("abc", "1.8"))
    result = judge(CommitmentRequest(TRANSACTION, references), held, is_stored)
    assert [r.sop_instance_uid for r in result.committed] == ["1.1", "1.6"]
    assert {r.sop_instance_uid: reason for r, reason in result.failed} == {
        "1.2": FailureReason.CLASS_CONFLICT,
        "1.3": FailureReason.NOT_HELD,
        "1.4": FailureReason.LOOKUP_FAILED,
        "1.5": FailureReason.NOT_HELD,
        "1.7": FailureReason.NOT_HELD,
        "1.8": FailureReason.CLASS_NOT_SUPPORTED,
    }
    assert result.event_type == 2
    report = decode(BytesIO(encoded(report_of(result, retrieve_ae_title="PACS"))), False, True)
    assert report.TransactionUID == TRANSACTION
    assert report.RetrieveAETitle == "PACS"
    assert [i.ReferencedSOPInstanceUID for i in report.ReferencedSOPSequence] == ["1.1", "1.6"]
    assert [i.FailureReason for i in report.FailedSOPSequence] == [
        0x0119, 0x0112, 0x0110, 0x0112, 0x0112, 0x0122,
    ]  # fmt: skip


def test_a_report_without_failures_has_no_failed_sequence() -> None:
    request = CommitmentRequest(TRANSACTION, (Reference(CT, "1.1"),))
    result = judge(request, {"1.1": [HeldInstance(CT, "a", 1)]}, lambda _: True)
    report = report_of(result)
    assert result.event_type == 1
    assert "FailedSOPSequence" not in report
    assert "RetrieveAETitle" not in report


def test_odd_uids_are_told_back_without_a_word(recwarn: pytest.WarningsRecorder) -> None:
    odd = (Reference("1.02.3", "1.2.000"), Reference(CT, "0a1b2c3d"))
    result = CommitmentResult("1.2.007", odd, ((odd[0], FailureReason.NOT_HELD),))
    for syntax in TRANSFER_SYNTAXES:
        data = encoded(report_of(result), syntax)
        assert parse(data, syntax).references == odd
    assert not recwarn.list


# ---- the service


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


class Stage:
    """A service without its thread, whose deliveries are written down."""

    def __init__(self, folder: Path, **policy: Any) -> None:
        self.clock = Clock()
        self.store = BlobStore(str(folder / "blobs"), fsync=False)
        self.path = folder / "outbox.sqlite3"
        self.outbox = Outbox(self.path)
        self.policy = CommitmentPolicy(**policy)
        self.sent: list[tuple[str, str, int, Dataset]] = []
        self.unreachable: set[str] = set()
        self.unknown: set[str] = set()
        self.attempts = 0
        self.service = self.start()

    def start(self, **more: Any) -> CommitmentService:
        self.registry = CollectorRegistry()
        return CommitmentService(
            self.outbox,
            self.store,
            find_peer=lambda asker: (
                None
                if asker.ae_title in self.unknown
                else CommitmentPeer(asker.ae_title, "nowhere", 1)
            ),
            clock=self.clock,
            policy=self.policy,
            send=self.send,
            registry=self.registry,
            **more,
        )

    def send(self, peer: CommitmentPeer, own: str, event_type: int, report: Dataset) -> None:
        self.attempts += 1
        if peer.ae_title in self.unreachable:
            raise DeliveryError("away")
        self.sent.append((peer.ae_title, own, event_type, report))

    def restart(self) -> None:
        self.outbox.close()
        self.outbox = Outbox(self.path)
        self.service = self.start()

    def arrive(self, uid: str, *, sop_class: str = CT, content: bytes = b"pixels") -> str:
        blob = self.store.put(content + uid.encode())
        event = received(
            tenant="t",
            dataset_id="d",
            relpath=f"1/2/{uid}",
            blob=blob,
            source="dicom",
            received_at=NOW,
            dicom=DicomUids(
                study_uid="1", series_uid="2", instance_uid=uid, sop_class_uid=sop_class
            ),
        )
        self.outbox.append_all([Arrived.of(event)]).result()
        return blob.sha256


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path)
    yield made
    made.outbox.close()


def asked(*uids: str, transaction: str = TRANSACTION) -> CommitmentRequest:
    return CommitmentRequest(transaction, tuple(Reference(CT, uid) for uid in uids))


def test_what_is_durable_is_committed(stage: Stage) -> None:
    stage.arrive("1.1")
    stage.service.submit(asked("1.1"), ASKER)
    assert stage.service.run_due() is None
    ((peer, own, event_type, report),) = stage.sent
    assert (peer, own, event_type) == ("ASKER", "BIODATAMINE", 1)
    assert report.TransactionUID == TRANSACTION
    assert stage.service.waiting == 0
    value = stage.registry.get_sample_value
    assert value("biodatamine_gateway_commitment_references_total", {"result": "committed"}) == 1


def test_an_instance_on_its_way_into_the_ledger_is_waited_for(stage: Stage) -> None:
    stage.service.submit(asked("1.1"), ASKER)
    assert stage.service.run_due() == pytest.approx(0.25)
    stage.clock.advance(0.25)
    stage.arrive("1.1")
    stage.service.run_due()
    assert [event_type for _, _, event_type, _ in stage.sent] == [1]


def test_an_instance_that_never_comes_fails_in_the_end(stage: Stage) -> None:
    stage.arrive("1.1")
    stage.service.submit(asked("1.1", "1.2"), ASKER)
    stage.service.run_due()
    assert stage.sent == []
    stage.clock.advance(5)
    stage.service.run_due()
    ((_, _, event_type, report),) = stage.sent
    assert event_type == 2
    assert [i.ReferencedSOPInstanceUID for i in report.FailedSOPSequence] == ["1.2"]


def test_another_tenants_instances_are_not_held(stage: Stage) -> None:
    stage.arrive("1.1")
    stage.service.submit(asked("1.1"), Requester("ASKER", "OTHER", "someone-else"))
    stage.clock.advance(5)
    stage.service.run_due()
    assert stage.sent[0][3].FailedSOPSequence[0].FailureReason == 0x0112


@pytest.mark.parametrize("damage", ["missing", "short"])
def test_a_blob_that_is_not_whole_is_not_committed(stage: Stage, damage: str) -> None:
    path = stage.store.local_root
    assert path is not None
    sha256 = stage.arrive("1.1")
    blob = path / sha256[:2] / sha256
    blob.unlink() if damage == "missing" else blob.write_bytes(b"p")
    stage.clock.advance(0)
    stage.service.submit(asked("1.1"), ASKER)
    stage.clock.advance(5)
    stage.service.run_due()
    assert stage.sent[0][3].FailedSOPSequence[0].FailureReason == 0x0112


def test_a_remote_store_is_asked_as_well(tmp_path: Path) -> None:
    store = BlobStore(f"memory://{tmp_path.name}")
    sha256 = store.put(b"x").sha256
    other = hashlib.sha256(b"y").hexdigest()
    assert holds_whole(store, HeldInstance(CT, sha256, 1))
    assert not holds_whole(store, HeldInstance(CT, other, 1))


def test_a_remote_store_answers_a_request(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.store = BlobStore(f"memory://{tmp_path.name}-remote")
    stage.service = stage.start()
    for i in range(40):
        stage.arrive(f"1.{i}")
    stage.service.submit(asked(*(f"1.{i}" for i in range(40))), ASKER)
    stage.service.run_due()
    assert stage.sent[0][2] == 1
    stage.outbox.close()


def test_the_association_that_asked_comes_first(stage: Stage) -> None:
    stage.arrive("1.1")
    told: list[int] = []
    stage.service.submit(asked("1.1"), ASKER, lambda kind, _: not told.append(kind))
    stage.service.run_due()
    assert (told, stage.sent) == ([1], [])


@pytest.mark.parametrize("fault", ["gone", "raises"])
def test_a_new_association_comes_second(stage: Stage, fault: str) -> None:
    def reply(event_type: int, report: Dataset) -> bool:
        if fault == "raises":
            raise ConnectionResetError
        return False

    stage.arrive("1.1")
    stage.service.submit(asked("1.1"), ASKER, reply)
    stage.service.run_due()
    assert len(stage.sent) == 1


def test_a_peer_that_is_away_is_asked_again_at_growing_intervals_and_others_meanwhile(
    stage: Stage,
) -> None:
    stage.unreachable.add("ASKER")
    stage.arrive("1.1")
    for i in range(10):
        stage.service.submit(asked("1.1", transaction=f"1.2.{i}"), ASKER)
    stage.service.submit(asked("1.1"), Requester("OTHER", "BIODATAMINE", "t"))
    pauses = [stage.service.run_due()]
    assert [title for title, *_ in stage.sent] == ["OTHER"]
    assert stage.attempts == 2
    for _ in range(3):
        stage.clock.advance(pauses[-1] or 0)
        pauses.append(stage.service.run_due())
    assert pauses == [pytest.approx(x) for x in (5, 10, 20, 40)]
    stage.unreachable.clear()
    stage.clock.advance(40)
    assert stage.service.run_due() is None
    assert len(stage.sent) == 11


def test_a_report_that_cannot_be_delivered_is_given_up_in_the_end(stage: Stage) -> None:
    stage.unknown.add("ASKER")
    stage.arrive("1.1")
    stage.service.submit(asked("1.1"), ASKER)
    spent = 0.0
    while (pause := stage.service.run_due()) is not None:
        spent += pause
        stage.clock.advance(pause)
    assert 86_400 <= spent <= 86_400 + 1800
    assert stage.service.waiting == 0
    value = stage.registry.get_sample_value
    assert value("biodatamine_gateway_commitment_reports_total", {"outcome": "given-up"}) == 1
    stage.restart()
    assert stage.service.waiting == 0


def test_a_restart_goes_on_where_it_ended(stage: Stage) -> None:
    stage.unreachable.add("ASKER")
    stage.arrive("1.1")
    stage.service.submit(asked("1.1"), ASKER, lambda kind, _: False)
    stage.service.run_due()
    stage.restart()
    assert stage.service.waiting == 1
    stage.unreachable.clear()
    stage.service.run_due()
    assert [(title, kind) for title, _, kind, _ in stage.sent] == [("ASKER", 1)]


def test_the_same_request_again_is_reported_once(stage: Stage) -> None:
    stage.arrive("1.1")
    first = stage.service.submit(asked("1.1"), ASKER)
    assert stage.service.submit(asked("1.1"), ASKER) == first
    stage.service.run_due()
    assert len(stage.sent) == 1


def test_another_request_under_a_transaction_uid_in_use_is_a_duplicate(stage: Stage) -> None:
    stage.arrive("1.1")
    stage.arrive("1.2")
    stage.service.submit(asked("1.1"), ASKER)
    stage.service.submit(asked("1.2"), ASKER)
    stage.service.submit(asked("1.1"), Requester("OTHER", "BIODATAMINE", "t"))
    stage.service.run_due()
    assert [(title, kind) for title, _, kind, _ in stage.sent] == [
        ("ASKER", 1), ("ASKER", 2), ("OTHER", 2),
    ]  # fmt: skip
    assert [
        item.FailureReason for _, _, kind, report in stage.sent if kind == 2
        for item in report.FailedSOPSequence
    ] == [0x0131, 0x0131]  # fmt: skip
    # It is reported: the UID is free again.
    stage.service.submit(asked("1.2"), ASKER)
    stage.service.run_due()
    assert stage.sent[-1][2] == 1


def test_waiting_requests_are_limited(stage: Stage) -> None:
    ledger = CommitmentLedger(stage.outbox, max_requests=2, max_references=10)
    service = stage.start(ledger=ledger)
    service.submit(asked("1.1", transaction="1.1"), ASKER)
    with pytest.raises(ResourceLimitationError):
        service.submit(asked(*(f"1.{i}" for i in range(10)), transaction="1.2"), ASKER)
    service.submit(asked("1.1", transaction="1.3"), ASKER)
    status = service.handle_action(
        sop_class_uid=STORAGE_COMMITMENT,
        sop_instance_uid=STORAGE_COMMITMENT_INSTANCE,
        action_type=1,
        dataset=GOOD,
        transfer_syntax_uid=EXPLICIT_VR_LITTLE_ENDIAN,
        requester=ASKER,
    )
    assert status == 0x0213


def test_a_request_that_cannot_be_kept_is_a_processing_failure(stage: Stage) -> None:
    stage.outbox.close()
    status = stage.service.handle_action(
        sop_class_uid=STORAGE_COMMITMENT,
        sop_instance_uid=STORAGE_COMMITMENT_INSTANCE,
        action_type=1,
        dataset=GOOD,
        transfer_syntax_uid=EXPLICIT_VR_LITTLE_ENDIAN,
        requester=ASKER,
    )
    assert status == 0x0110


def test_the_thread_works_and_stops(tmp_path: Path) -> None:
    import threading

    stage = Stage(tmp_path)
    stage.arrive("1.1")
    reported = threading.Event()
    stage.service.start()
    stage.service.submit(asked("1.1"), ASKER, lambda *_: not reported.set())
    assert reported.wait(20)
    assert stage.service.is_running
    stage.service.stop(20)
    assert not stage.service.is_running
    stage.outbox.close()
