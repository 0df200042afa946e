"""The Storage SCP against real senders: pynetdicom's SCU, dcmtk's, and bare sockets."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import socket
import struct
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import UID
from pynetdicom import ALL_TRANSFER_SYNTAXES
from pynetdicom.ae import ApplicationEntity
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import split_dataset
from pynetdicom.presentation import build_context

from dicom_gateway import Gateway, GatewaySettings
from dicom_gateway.listening import ListenError
from dicom_gateway.process import GatewayBusyError
from dicom_gateway.storing.part10 import file_prefix
from dicom_gateway.storing.receiver import MEDIA_TYPE
from dicom_gateway.storing.sop_classes import NON_PATIENT_OBJECTS
from schemas import FileReceived, decode
from streams.send import SendError, examine, send
from streams.storage.blobs import BlobStore
from tests.support.gateways import answered, filed

pytestmark = pytest.mark.integration

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
IMPLICIT = "1.2.840.10008.1.2"
NOBODY = "127.0.0.1:1"
TEST_FILES = Path(str(get_testdata_file("CT_small.dcm"))).parent


def settings(folder: Path, **changes: Any) -> GatewaySettings:
    values: dict[str, Any] = {
        "data_dir": folder,
        "dicom_port": 0,
        "kafka_bootstrap_servers": NOBODY,
        "shutdown_seconds": 0.0,
    }
    return GatewaySettings(**(values | changes))


@pytest.fixture(params=["native", "pynetdicom"], autouse=True)
def receive_path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both receive paths pass the same tests."""
    monkeypatch.setenv("BIODATAMINE_DICOM_RECEIVE_PATH", request.param)
    monkeypatch.setenv("BIODATAMINE_DICOM_RECEIVE_PROCESSES", "1")
    return str(request.param)


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    with Gateway(settings(tmp_path)) as running:
        yield running


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(str(tmp_path / "blobs"))


def events(gateway: Gateway, wanted: int) -> list[FileReceived]:
    """Wait until so many instances are filed; return all events."""
    until(lambda: len(gateway.outbox.pending(10_000)) >= wanted, f"{wanted} instances are filed")
    assert gateway.filer.drained(10)
    found = [decode(record.value, FileReceived) for record in gateway.outbox.pending(10_000)]
    assert len(found) == wanted
    return found


def until(condition: Callable[[], object], what: str, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)


def dataset_bytes(*, instance: str = "1.2.3.4", sop_class: str = CT, tail: bytes = b"") -> bytes:
    def element(group: int, number: int, text: str) -> bytes:
        value = text.encode() + b"\x00" * (len(text) % 2)
        return struct.pack("<HH2sH", group, number, b"UI", len(value)) + value

    return (
        element(0x0008, 0x0016, sop_class)
        + element(0x0008, 0x0018, instance)
        + element(0x0020, 0x000D, "1.2.3")
        + element(0x0020, 0x000E, "1.2.3.9")
        + tail
    )


class Scu:
    """Sends raw dataset bytes under whatever command is wanted."""

    def __init__(self, port: int, sop_class: str = CT, syntax: str = EXPLICIT) -> None:
        entity = ApplicationEntity("TESTER")
        entity.dimse_timeout = entity.acse_timeout = entity.network_timeout = 20
        self.assoc = entity.associate(
            "127.0.0.1", port, [build_context(sop_class, syntax)], ae_title="BIODATAMINE"
        )
        assert self.assoc.is_established

    def __enter__(self) -> Scu:
        return self

    def __exit__(self, *error: object) -> None:
        self.assoc.release()

    def store(self, data: bytes, *, instance: str = "1.2.3.4", sop_class: str = CT) -> Any:
        request = C_STORE()
        request.MessageID = 1
        request.Priority = 2
        request.AffectedSOPClassUID = UID(sop_class)
        request._affected_sop_instance_uid = UID(instance)
        # None tells in the command that no dataset follows.
        request.DataSet = io.BytesIO(data) if data else None
        self.assoc._reactor_checkpoint.clear()
        until(lambda: self.assoc._is_paused, "the association pauses")
        self.assoc.dimse.send_msg(request, self.assoc.accepted_contexts[0].context_id)
        _, response = self.assoc.dimse.get_msg(block=True)
        self.assoc._reactor_checkpoint.set()
        return response


def test_every_transfer_syntax_is_stored_as_it_was_sent(gateway: Gateway, store: BlobStore) -> None:
    report = send([TEST_FILES], host="127.0.0.1", port=gateway.port)
    stored = [result for result in report.results if result.outcome == "stored"]
    assert len(stored) > 60
    assert {r.meaning for r in report.results if r.outcome in ("failed", "refused")} == set()
    until(lambda: answered(gateway) == filed(gateway) == len(stored), "all is filed")
    pending = gateway.outbox.pending(10_000)
    by_digest = {e.image_id: e for e in (decode(r.value, FileReceived) for r in pending)}
    syntaxes = set()
    for result in stored:
        file = examine(result.path)
        assert not isinstance(file, type(result))
        prefix = file_prefix(file.sop_class_uid, file.sop_instance_uid, file.transfer_syntax_uid)
        wanted = prefix + result.path.read_bytes()[file.dataset_offset :]
        event = by_digest[hashlib.sha256(wanted).hexdigest()]
        blob = store.read(event.blob)
        assert blob == wanted
        assert event.blob.size_bytes == len(wanted)
        assert event.blob.media_type == MEDIA_TYPE
        assert event.blob.transfer_syntax == file.transfer_syntax_uid
        meta = dcmread(io.BytesIO(blob), stop_before_pixels=True, force=False).file_meta
        assert meta.TransferSyntaxUID == file.transfer_syntax_uid
        assert event.dicom is not None
        assert event.dicom.instance_uid == file.sop_instance_uid
        syntaxes.add(file.transfer_syntax_uid)
    # Implicit, Explicit, Deflated, Big Endian, JPEG, JPEG-LS, JPEG 2000, RLE.
    assert len(syntaxes) >= 9


def test_the_event_says_where_it_came_from(gateway: Gateway) -> None:
    before = datetime.now(timezone.utc)
    with Scu(gateway.port) as scu:
        assert scu.store(dataset_bytes()).Status == 0x0000
    (event,) = events(gateway, 1)
    assert event.relpath == "1.2.3/1.2.3.9/1.2.3.4"
    assert (event.source, event.dataset_id) == ("dicom", "pacs")
    assert before <= event.received_at <= datetime.now(timezone.utc)
    assert event.association is not None
    assert event.association.calling_ae_title == "TESTER"
    assert event.association.called_ae_title == "BIODATAMINE"
    assert event.association.peer_address == "127.0.0.1"


def test_any_transfer_syntax_is_accepted(gateway: Gateway) -> None:
    wanted = [*ALL_TRANSFER_SYNTAXES, "1.2.840.113619.5.2", "1.3.6.1.4.1.9"]
    entity = ApplicationEntity("TESTER")
    assoc = entity.associate("127.0.0.1", gateway.port, [build_context(CT, uid) for uid in wanted])
    assert [str(c.transfer_syntax[0]) for c in assoc.accepted_contexts] == wanted
    assoc.release()


@pytest.mark.parametrize("sop_class", ["1.2.840.10008.5.1.4.1.1.9999", "1.3.12.2.1107.5.9.1"])
def test_unknown_and_private_sop_classes_are_stored(gateway: Gateway, sop_class: str) -> None:
    with Scu(gateway.port, sop_class=sop_class) as scu:
        response = scu.store(dataset_bytes(sop_class=sop_class), sop_class=sop_class)
    assert response.Status == 0x0000
    events(gateway, 1)


def test_objects_without_a_patient_are_stored(gateway: Gateway) -> None:
    for index, sop_class in enumerate(NON_PATIENT_OBJECTS):
        uid = f"1.2.3.{index}"
        data = dataset_bytes(sop_class=sop_class, instance=uid)
        with Scu(gateway.port, sop_class=sop_class) as scu:
            head = data[: data.index(b"\x20\x00\x0d\x00")]
            assert scu.store(head, sop_class=sop_class, instance=uid).Status == 0x0000
    for index, event in enumerate(events(gateway, len(NON_PATIENT_OBJECTS))):
        assert event.relpath == f"no-study/no-series/1.2.3.{index}"


def test_same_instance_twice_is_one_record_and_other_bytes_are_a_conflict(
    gateway: Gateway, store: BlobStore
) -> None:
    with Scu(gateway.port) as scu:
        for _ in range(3):
            assert scu.store(dataset_bytes()).Status == 0x0000
        assert scu.store(dataset_bytes(tail=b"\x28\x00\x10\x00US\x02\x00\x01\x00")).Status == 0x0000
    first, second = events(gateway, 2)
    assert first.file_id == second.file_id
    assert (first.conflicts_with, second.conflicts_with) == (None, first.image_id)
    assert store.exists(first.image_id)
    assert store.exists(second.image_id)
    until(lambda: filed(gateway) == 4, "all four are filed")
    value = gateway.metrics.registry.get_sample_value
    name = "biodatamine_gateway_instances_total"
    assert [value(name, {"disposition": d}) for d in ("new", "same", "conflict")] == [1, 2, 1]


BAD_DATASETS = (
    (b"", "1.2.3.4", 0xC001),
    (b"\x00", "1.2.3.4", 0xC000),
    (b"this is no DICOM at all" * 100, "1.2.3.4", 0xC000),
    (b"\xff" * 4096, "1.2.3.4", 0xC000),
    (dataset_bytes()[:40], "1.2.3.4", 0xC000),
    (b"\x08\x00\x05\x00UN\x00\x00\xf0\xff\xff\xff" + dataset_bytes(), "1.2.3.4", 0xC000),
    (dataset_bytes(instance="1.2.3.5"), "1.2.3.4", 0xA900),
    (dataset_bytes(sop_class="1.2.840.10008.5.1.4.1.1.4"), "1.2.3.4", 0xA900),
    (dataset_bytes(instance="../../x"), "../../x", 0x0117),
    (dataset_bytes(), "", 0x0117),
    (dataset_bytes(), "1" * 70, 0x0117),
)


def test_bad_datasets_get_their_status_and_the_association_goes_on(
    gateway: Gateway, store: BlobStore
) -> None:
    with Scu(gateway.port) as scu:
        for data, instance, status in BAD_DATASETS:
            response = scu.store(data, instance=instance)
            assert response.Status == status, (data[:40], instance)
            assert response.ErrorComment
        assert scu.store(dataset_bytes(), instance="1.2.3.4").Status == 0x0000
    (event,) = events(gateway, 1)
    blobs = [p for p in Path(str(store.local_root)).rglob("*") if p.is_file()]
    assert [p.name for p in blobs] == [event.image_id]


def test_a_dataset_cut_inside_its_pixels_is_stored(gateway: Gateway) -> None:
    tail = struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, 1 << 20) + bytes(100)
    with Scu(gateway.port) as scu:
        assert scu.store(dataset_bytes(tail=tail)).Status == 0x0000
    events(gateway, 1)


def test_a_dataset_beyond_memory_goes_over_a_file_and_beyond_the_limit_is_refused(
    tmp_path: Path,
) -> None:
    limits = settings(tmp_path, dicom_spool_bytes=64 * 1024, dicom_max_dataset_bytes=1 << 20)
    with Gateway(limits) as gateway, Scu(gateway.port) as scu:
        big = dataset_bytes(tail=os.urandom(1 << 19))
        assert scu.store(big).Status == 0x0000
        (event,) = events(gateway, 1)
        assert (
            BlobStore(limits.blobs).read(event.blob) == file_prefix(CT, "1.2.3.4", EXPLICIT) + big
        )
        too_long = dataset_bytes(instance="1.5", tail=bytes(2 << 20))
        assert scu.store(too_long, instance="1.5").Status == 0xA701
        assert scu.store(dataset_bytes(instance="1.6"), instance="1.6").Status == 0x0000
        events(gateway, 2)
        files = [path for path in (tmp_path / "gateway").rglob("*") if path.is_file()]
        assert [path for path in files if path.stat().st_size and path.suffix == ".slot"] == []


def test_a_blob_store_that_fails_delays_the_event_and_nothing_else(
    gateway: Gateway, store: BlobStore, tmp_path: Path
) -> None:
    # Root may write anywhere, so the folder is taken away instead of its permissions.
    (tmp_path / "blobs").rename(tmp_path / "away")
    with Scu(gateway.port) as scu:
        assert scu.store(dataset_bytes()).Status == 0x0000
    until(lambda: gateway.outbox.counts().pending, "the ledger knows it")
    assert gateway.outbox.pending(9) == []
    (tmp_path / "away").rename(tmp_path / "blobs")
    (event,) = events(gateway, 1)
    assert store.exists(event.image_id)


def test_a_ledger_that_fails_loses_nothing(tmp_path: Path) -> None:
    with Gateway(settings(tmp_path)) as gateway:
        gateway.outbox.close()
        with Scu(gateway.port) as scu:
            assert scu.store(dataset_bytes()).Status == 0x0000
        assert not gateway.health()[0]
    with Gateway(settings(tmp_path)) as gateway:
        (event,) = events(gateway, 1)
        assert BlobStore(str(tmp_path / "blobs")).exists(event.image_id)


def test_an_inbox_that_fails_is_out_of_resources(gateway: Gateway, tmp_path: Path) -> None:
    inbox = tmp_path / "gateway" / "inbox"
    inbox.rename(tmp_path / "away")
    with Scu(gateway.port) as scu:
        assert scu.store(dataset_bytes()).Status == 0xA700
        (tmp_path / "away").rename(inbox)
        assert scu.store(dataset_bytes()).Status == 0x0000
    events(gateway, 1)


def test_a_full_disk_is_refused_before_it_is_full(tmp_path: Path) -> None:
    with Gateway(settings(tmp_path, min_free_bytes=1 << 60)) as gateway:
        until(lambda: gateway.health()[1]["refusing"], "the watermark is seen")
        with Scu(gateway.port) as scu:
            until(lambda: scu.store(dataset_bytes()).Status == 0xA700, "stores are refused")
            echo = ApplicationEntity("TESTER").associate(
                "127.0.0.1", gateway.port, [build_context("1.2.840.10008.1.1")]
            )
            assert echo.send_c_echo().Status == 0x0000
            echo.release()


def test_a_monstrous_pdu_ends_its_association_only(gateway: Gateway) -> None:
    with socket.create_connection(("127.0.0.1", gateway.port), 10) as peer:
        peer.sendall(b"\x01\x00\xff\xff\xff\xff" + b"x" * 100)
        peer.settimeout(10)
        answer = peer.recv(1 << 16)
    # Either nothing or an A-ABORT (PS3.8 table 9-26).
    assert answer == b"" or answer[0] == 0x07
    with Scu(gateway.port) as scu:
        assert scu.store(dataset_bytes()).Status == 0x0000


@pytest.mark.parametrize(
    "junk", [b"GET / HTTP/1.1\r\n\r\n", b"\x04\x00\x00\x00\x00\x06abcdef", b""]
)
def test_strangers_on_the_port_harm_nobody(gateway: Gateway, junk: bytes) -> None:
    with socket.create_connection(("127.0.0.1", gateway.port), 10) as peer:
        peer.sendall(junk)
    with Scu(gateway.port) as scu:
        assert scu.store(dataset_bytes()).Status == 0x0000


def test_associations_are_limited(tmp_path: Path) -> None:
    with Gateway(settings(tmp_path, dicom_max_associations=2)) as gateway:
        with Scu(gateway.port), Scu(gateway.port):
            entity = ApplicationEntity("THIRD")
            third = entity.associate("127.0.0.1", gateway.port, [build_context(CT)])
            assert third.is_rejected
        until(lambda: not gateway.scp.associations, "both have ended")
        with Scu(gateway.port) as scu:
            assert scu.store(dataset_bytes()).Status == 0x0000


def test_connections_that_ask_for_nothing_take_no_place(tmp_path: Path) -> None:
    with Gateway(settings(tmp_path, dicom_max_associations=2)) as gateway:
        for _ in range(10):
            socket.create_connection(("127.0.0.1", gateway.port), 10).close()
        until(lambda: not gateway.scp.associations, "they are gone", 10)
        with Scu(gateway.port) as scu:
            assert scu.store(dataset_bytes()).Status == 0x0000


def test_an_open_association_is_aborted_when_the_gateway_stops(tmp_path: Path) -> None:
    gateway = Gateway(settings(tmp_path, shutdown_seconds=0.2))
    scu = Scu(gateway.port)
    gateway.stop()
    until(lambda: not scu.assoc.is_established, "the association ends")
    assert not gateway.publisher.is_running


def test_two_gateways_do_not_share_a_folder_or_a_port(gateway: Gateway, tmp_path: Path) -> None:
    with pytest.raises(GatewayBusyError, match="another gateway"):
        Gateway(settings(tmp_path))
    other = tmp_path / "other"
    with pytest.raises(ListenError, match="BIODATAMINE_DICOM_PORT"):
        Gateway(settings(other, dicom_port=gateway.port))
    # What failed to start left nothing behind: the folder can be used.
    Gateway(settings(other)).stop()


def test_metrics_and_health(tmp_path: Path) -> None:
    with Gateway(settings(tmp_path, metrics_port=0)) as gateway:
        with Scu(gateway.port) as scu:
            scu.store(dataset_bytes())
            scu.store(b"junk")
        events(gateway, 1)
        until(lambda: answered(gateway), "the answer is counted")
        assert gateway.metrics_server is not None
        base = f"http://127.0.0.1:{gateway.metrics_server.port}"
        shown = urllib.request.urlopen(f"{base}/metrics").read().decode()
        assert 'biodatamine_gateway_responses_total{reason="stored",status="0x0000"} 1.0' in shown
        assert (
            'biodatamine_gateway_responses_total{reason="unreadable-dataset",status="0xC000"} 1.0'
            in shown
        )
        assert 'biodatamine_gateway_outbox_records{state="pending"} 1.0' in shown
        health = json.load(urllib.request.urlopen(f"{base}/healthz"))
        assert health["healthy"] is True
        assert health["pending"] == 1
        gateway.outbox.close()
        with pytest.raises(urllib.error.HTTPError, match="503"):
            urllib.request.urlopen(f"{base}/healthz")


def test_nothing_of_the_patient_reaches_event_or_log(
    gateway: Gateway, capfd: pytest.CaptureFixture[str]
) -> None:
    name = struct.pack("<HH2sH", 0x0010, 0x0010, b"PN", 8) + b"Doe^Jane"
    data = dataset_bytes().replace(b"\x20\x00\x0d\x00UI", name + b"\x20\x00\x0d\x00UI")
    with Scu(gateway.port) as scu:
        assert scu.store(data).Status == 0x0000
        assert scu.store(data[:70], instance="1.2.3.4").Status == 0xC000
    events(gateway, 1)
    assert b"Doe" not in gateway.outbox.pending(9)[0].value
    captured = capfd.readouterr()
    assert "Doe" not in captured.out + captured.err


# ---- dcmtk, a sender that shares no code with the gateway

needs_dcmtk = pytest.mark.skipif(
    shutil.which("storescu") is None and not os.environ.get("CI"),
    reason="dcmtk is not installed (apt-get install dcmtk)",
)


@needs_dcmtk
def test_dcmtk_echo(gateway: Gateway) -> None:
    subprocess.run(["echoscu", "-aec", "BIODATAMINE", "127.0.0.1", str(gateway.port)], check=True)


@needs_dcmtk
@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("CT_small.dcm", "-xe"),
        ("MR_small_bigendian.dcm", "-xb"),
        ("MR_small_implicit.dcm", "-xi"),
        ("SC_rgb_jpeg_dcmtk.dcm", "-xy"),
        ("JPEG2000.dcm", "-xw"),
        ("MR_small_RLE.dcm", "-xr"),
        ("image_dfl.dcm", "-xd"),
    ],
)
def test_dcmtk_store(gateway: Gateway, store: BlobStore, name: str, option: str) -> None:
    path = str(get_testdata_file(name))
    subprocess.run(["storescu", option, "127.0.0.1", str(gateway.port), path], check=True)
    (event,) = events(gateway, 1)
    sent, got = dcmread(path), dcmread(io.BytesIO(store.read(event.blob)))
    assert got.file_meta.TransferSyntaxUID == sent.file_meta.TransferSyntaxUID
    assert got.SOPInstanceUID == sent.SOPInstanceUID
    assert got.PixelData == sent.PixelData


@needs_dcmtk
def test_same_dataset_from_two_senders_is_one_record(gateway: Gateway) -> None:
    path = Path(str(get_testdata_file("CT_small.dcm")))
    meta, offset = split_dataset(path)
    data = path.read_bytes()[offset:]
    with Scu(gateway.port) as scu:
        assert scu.store(data, instance=str(meta.MediaStorageSOPInstanceUID)).Status == 0
    send([path], host="127.0.0.1", port=gateway.port, calling_aet="OTHER")
    events(gateway, 1)


# ---- streams.send


def test_send_tells_for_each_file_what_became_of_it(gateway: Gateway, tmp_path: Path) -> None:
    folder = tmp_path / "to send"
    folder.mkdir()
    ct = Path(str(get_testdata_file("CT_small.dcm")))
    _, offset = split_dataset(ct)
    shutil.copy(ct, folder / "a.dcm")
    (folder / "b headerless").write_bytes(ct.read_bytes()[offset:])
    (folder / "c.txt").write_text("no DICOM" * 100)
    (folder / "d.dcm").touch()
    shutil.copy(str(get_testdata_file("DICOMDIR")), folder / "e")
    shutil.copy(str(get_testdata_file("no_meta_group_length.dcm")), folder / "f.dcm")
    (folder / "g.dcm").write_bytes(ct.read_bytes()[: offset + 500])
    seen: list[tuple[int, int]] = []
    report = send(
        [folder],
        host="127.0.0.1",
        port=gateway.port,
        on_progress=lambda done, total, _: seen.append((done, total)),
    )
    said = {result.path.name: (result.outcome, result.meaning) for result in report.results}
    assert said["a.dcm"][0] == "stored"
    assert said["b headerless"][0] == "stored"
    assert said["c.txt"] == ("skipped", "not DICOM")
    assert said["d.dcm"] == ("skipped", "the file is empty")
    assert said["e"] == ("skipped", "a DICOMDIR lists files and is no instance")
    assert said["f.dcm"] == ("skipped", "no SOP Class UID")
    assert said["g.dcm"][0] == "refused"
    assert "0xC000" in said["g.dcm"][1]
    assert seen == [(i, 7) for i in range(1, 8)]
    # With and without preamble it is the same dataset.
    events(gateway, 1)


def test_send_with_more_contexts_than_one_association_holds(
    gateway: Gateway, tmp_path: Path
) -> None:
    for i in range(130):
        sop_class = f"1.2.840.10008.5.1.4.1.1.88{i}"
        instance = f"1.2.3.{i}"
        data = dataset_bytes(sop_class=sop_class, instance=instance)
        prefix = file_prefix(sop_class, instance, EXPLICIT)
        (tmp_path / f"{i}.dcm").write_bytes(prefix + data)
    report = send([tmp_path / f"{i}.dcm" for i in range(130)], host="127.0.0.1", port=gateway.port)
    assert (report.count("stored"), report.associations) == (130, 2)
    events(gateway, 130)


def test_send_over_several_associations_at_once(gateway: Gateway, tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(40):
        data = file_prefix(CT, f"1.2.{i}", EXPLICIT) + dataset_bytes(instance=f"1.2.{i}")
        (folder / f"{i}.dcm").write_bytes(data)
    report = send([folder], host="127.0.0.1", port=gateway.port, associations=4)
    assert (report.count("stored"), report.associations) == (40, 4)
    assert len({event.image_id for event in events(gateway, 40)}) == 40


def test_send_to_nobody_says_what_to_do(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = Path(str(get_testdata_file("CT_small.dcm")))
    with pytest.raises(SendError, match=r"nothing listens .* `biodatamine up`"):
        send([path], host="127.0.0.1", port=port)
    with pytest.raises(SendError, match="does not exist"):
        send([tmp_path / "missing"], host="127.0.0.1", port=port)
