"""The gateway as a whole: rules, TLS, storage commitment, STOW-RS, and a process that is killed."""

from __future__ import annotations

import os
import queue
import signal
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pynetdicom.ae import ApplicationEntity
from pynetdicom.presentation import build_context

from dicom_gateway import Gateway, GatewaySettings
from dicom_gateway.native.scp import NativeScp
from dicom_gateway.peers.tls import client_context
from dicom_gateway.storing.part10 import file_prefix
from schemas import FileReceived, decode
from tests.integration.test_gateway_commitment import NOW, Modality
from tests.support.certificates import Authority
from tests.support.dcmtk import dcmtk_env, missing_tools
from tests.support.upper_layer import (
    CT,
    EXPLICIT,
    IMPLICIT,
    Peer,
    associate_rq,
    context,
    dataset,
    echo_rq,
    p_data,
    pdv,
    pixels,
    store_rq,
)

pytestmark = pytest.mark.integration

MR = "1.2.840.10008.5.1.4.1.1.4"
GSPS = "1.2.840.10008.5.1.4.1.1.11.1"
JPEG = "1.2.840.10008.1.2.4.50"
PATHS = ["native", "pynetdicom"]

needs_dcmtk = pytest.mark.skipif(bool(missing_tools()), reason="apt-get install dcmtk")


def until(condition: Callable[[], object], what: str, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Gateway]]:
    with ExitStack() as stack:

        def begin(**changes: Any) -> Gateway:
            values: dict[str, Any] = {
                "data_dir": tmp_path / "data",
                "dicom_port": 0,
                "kafka_bootstrap_servers": "127.0.0.1:1",
                "shutdown_seconds": 0.0,
                "dicom_receive_processes": 1,
            }
            return stack.enter_context(Gateway(GatewaySettings(**(values | changes))))

        yield begin


def events(gateway: Gateway, wanted: int) -> list[FileReceived]:
    until(lambda: len(gateway.outbox.pending(10_000)) >= wanted, f"{wanted} instances are filed")
    assert gateway.filer.drained(10)
    found = [decode(record.value, FileReceived) for record in gateway.outbox.pending(10_000)]
    assert len(found) == wanted
    return found


# ---- rules of Application Entities

ENTITIES = f"""
[ae.CT]
tenant = "radiology"
dataset_id = "ct"
calling_ae_titles = ["SCANNER*"]
max_associations_per_peer = 2
sop_classes.allow = ["{CT}"]
sop_classes.ignore = ["{GSPS}"]
transfer_syntaxes.allow = ["{EXPLICIT}", "{IMPLICIT}"]

[ae.ELSEWHERE]
networks = ["192.0.2.0/24"]

[ae.FULL]
max_associations = 1
"""


@pytest.fixture(params=PATHS)
def ruled(request: pytest.FixtureRequest, start: Callable[..., Gateway], tmp_path: Path) -> Gateway:
    file = tmp_path / "entities.toml"
    file.write_text(ENTITIES)
    return start(dicom_entities_file=file, dicom_receive_path=request.param)


def ask(port: int, called: str, calling: str = "SCANNER1") -> tuple[int, bytes]:
    with Peer(port) as peer:
        peer.send(associate_rq(called=called.encode(), calling=calling.encode()))
        return peer.receive()


def test_titles_and_networks(ruled: Gateway) -> None:
    assert ask(ruled.port, "CT")[0] == 0x02
    assert ask(ruled.port, "OTHER") == (0x03, bytes((0, 1, 1, 7)))
    assert ask(ruled.port, "ct") == (0x03, bytes((0, 1, 1, 7)))
    assert ask(ruled.port, "CT", "WORKSTATION") == (0x03, bytes((0, 1, 1, 3)))
    assert ask(ruled.port, "ELSEWHERE") == (0x03, bytes((0, 1, 1, 3)))


@pytest.mark.parametrize(("called", "places"), [("CT", 2), ("FULL", 1)])
def test_limits_of_an_entity(ruled: Gateway, called: str, places: int) -> None:
    request = associate_rq(called=called.encode(), calling=b"SCANNER1")
    with ExitStack() as stack:
        peers = [stack.enter_context(Peer(ruled.port)) for _ in range(places)]
        for peer in peers:
            peer.associate(request)
        assert ask(ruled.port, called) == (0x03, bytes((0, 2, 3, 2)))
        # The others have places of their own.
        assert ask(ruled.port, "FULL" if called == "CT" else "CT")[0] == 0x02
        peers[0].release()
        until(lambda: ask(ruled.port, called)[0] == 0x02, "there is a place again")


def test_contexts_and_instances_follow_the_rules(ruled: Gateway) -> None:
    contexts = [
        context(1, CT, EXPLICIT),
        context(3, CT, JPEG),
        context(5, MR, EXPLICIT),
        context(7, GSPS, EXPLICIT),
    ]
    with Peer(ruled.port) as peer:
        peer.send(associate_rq(contexts, called=b"CT", calling=b"SCANNER1"))
        kind, body = peer.receive()
        assert kind == 0x02
        results = {}
        position = 68
        while position < len(body):
            item, length = body[position], int.from_bytes(body[position + 2 : position + 4], "big")
            if item == 0x21:
                results[body[position + 4]] = body[position + 6]
            position += 4 + length
        if isinstance(ruled.scp, NativeScp):
            # The second path leaves it to the C-STORE.
            assert {number: bool(result) for number, result in results.items()} == {
                1: False, 3: True, 5: True, 7: False,
            }  # fmt: skip

        def store(number: int, sop_class: str, uid: str) -> int:
            data = dataset(uid, sop_class=sop_class)
            peer.send(store_rq(uid, number=number, sop_class=sop_class))
            peer.send(p_data(pdv(number, 2, data)))
            return peer.status()

        assert store(1, CT, "1.2.1") == 0x0000
        assert store(7, GSPS, "1.2.2") == 0x0000
        # Under the context of another class.
        assert store(1, MR, "1.2.3") in (0x0124, 0x0122, 0xA900)
        assert store(1, CT, "1.2.4") == 0x0000
        peer.release()
    assert {event.relpath.rsplit("/", 1)[1] for event in events(ruled, 2)} == {"1.2.1", "1.2.4"}
    assert {(event.tenant, event.dataset_id) for event in events(ruled, 2)} == {("radiology", "ct")}


# ---- storage commitment


@contextmanager
def peer_with_reports() -> Iterator[Modality]:
    made = Modality()
    try:
        yield made
    finally:
        made.close()


def put(gateway: Gateway, uid: str, tls: ssl.SSLContext | None = None) -> None:
    entity = ApplicationEntity("MODALITY")
    assoc = entity.associate(
        "127.0.0.1",
        gateway.port,
        [build_context(CT, EXPLICIT)],
        ae_title="ARCHIVE",
        tls_args=(tls, None) if tls else None,
    )
    assert assoc.is_established
    data = dcmread(str(get_testdata_file("CT_small.dcm")))
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = uid
    assert assoc.send_c_store(data).Status == 0x0000
    assoc.release()


@pytest.mark.parametrize("path", PATHS)
def test_commitment_on_the_same_association(start: Callable[..., Gateway], path: str) -> None:
    gateway = start(dicom_receive_path=path)
    put(gateway, "1.2.3.4")
    events(gateway, 1)
    with peer_with_reports() as modality:
        assoc = modality.associate(gateway.port)
        for index in range(10):
            assert modality.ask(assoc, "1.2.3.4", transaction=f"1.2.{index}") == 0x0000
            event_type, report = modality.report()
            assert (event_type, report.TransactionUID) == (1, f"1.2.{index}")
        assert assoc.send_c_echo().Status == 0x0000
        assoc.release()
        assert modality.messages[:2] == ["N_ACTION_RSP", "N_EVENT_REPORT_RQ"]
    until(lambda: gateway.commitment.waiting == 0, "every report is confirmed")


@pytest.mark.parametrize("path", PATHS)
def test_commitment_on_an_association_of_ours(
    start: Callable[..., Gateway], path: str, tmp_path: Path
) -> None:
    with peer_with_reports() as modality:
        port = modality.listen(role=True)
        file = tmp_path / "entities.toml"
        file.write_text(
            f'[ae.ARCHIVE]\n[ae.ARCHIVE.commitment.MODALITY]\nhost = "127.0.0.1"\nport = {port}\n'
        )
        gateway = start(dicom_receive_path=path, dicom_entities_file=file)
        put(gateway, "1.2.3.4")
        events(gateway, 1)
        # It takes no report on the association that asked.
        modality.status = 0x0110
        assoc = modality.associate(gateway.port)
        assert modality.ask(assoc, "1.2.3.4") == 0x0000
        modality.report()
        modality.status = 0x0000
        assoc.release()
        assert modality.report()[0] == 1
        until(lambda: gateway.commitment.waiting == 0, "the report is confirmed")
        assert modality.negotiated


# ---- TLS


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def secured(
    start: Callable[..., Gateway], authority: Authority, request: pytest.FixtureRequest
) -> tuple[Gateway, ssl.SSLContext]:
    server = authority.issue(f"server{request.node.name[-6:-1]}", rsa=True)
    client = authority.issue(f"client{request.node.name[-6:-1]}", rsa=True)
    gateway = start(
        dicom_tls_certificate=server.certificate,
        dicom_tls_key=server.key,
        dicom_tls_ca=authority.certificate,
        dicom_tls_client_certificates="required",
        dicom_acse_timeout_seconds=2.0,
        dicom_network_timeout_seconds=3.0,
    )
    trusting = client_context(
        ca=authority.certificate,
        certificate=client.certificate,
        key=client.key,
        check_host_name=False,
        now=NOW.now(NOW.tzinfo),
    )
    return gateway, trusting


def test_commitment_over_mutual_tls(secured: tuple[Gateway, ssl.SSLContext]) -> None:
    gateway, trusting = secured
    put(gateway, "1.2.3.4", trusting)
    events(gateway, 1)
    with peer_with_reports() as modality:
        modality.entity.requested_contexts[0].transfer_syntax = [EXPLICIT]
        assoc = modality.entity.associate(
            "127.0.0.1",
            gateway.port,
            ae_title="ARCHIVE",
            evt_handlers=modality.handlers(),
            tls_args=(trusting, None),
        )
        assert assoc.is_established
        for index in range(3):
            assert modality.ask(assoc, "1.2.3.4", transaction=f"1.2.{index}") == 0x0000
            assert modality.report()[1].TransactionUID == f"1.2.{index}"
        assoc.release()


def tls_peer(port: int, trusting: ssl.SSLContext) -> Peer:
    peer = Peer(port)
    peer.socket = trusting.wrap_socket(peer.socket)
    return peer


def test_a_silent_association_over_tls_is_told(secured: tuple[Gateway, ssl.SSLContext]) -> None:
    gateway, trusting = secured
    with tls_peer(gateway.port, trusting) as peer:
        peer.associate()
        peer.send(echo_rq())
        assert peer.status() == 0x0000
        assert peer.receive() == (0x07, bytes((0, 0, 2, 0)))


def test_an_association_over_tls_is_told_of_the_stop(
    secured: tuple[Gateway, ssl.SSLContext],
) -> None:
    gateway, trusting = secured
    with tls_peer(gateway.port, trusting) as peer:
        peer.associate()
        peer.send(echo_rq())
        assert peer.status() == 0x0000
        gateway.stop()
        # Encrypted, as everything else.
        assert peer.receive() == (0x07, bytes((0, 0, 2, 0)))


def test_connections_without_a_handshake_end(secured: tuple[Gateway, ssl.SSLContext]) -> None:
    gateway, trusting = secured
    with ExitStack() as stack:
        silent = [stack.enter_context(Peer(gateway.port)) for _ in range(50)]
        silent[0].send(b"\x16\x03\x01")
        with tls_peer(gateway.port, trusting) as peer:
            peer.associate()
            peer.send(echo_rq())
            assert peer.status() == 0x0000
        assert all(peer.is_closed() for peer in silent)
    with Peer(gateway.port) as plain:
        plain.send(associate_rq())
        kind, _ = plain.receive()
        # An alert of TLS, or nothing.
        assert kind in (0x15, 0)


@needs_dcmtk
def test_dcmtk_pushes_a_megabyte_over_mutual_tls(
    secured: tuple[Gateway, ssl.SSLContext], authority: Authority, tmp_path: Path
) -> None:
    gateway, _ = secured
    client = authority.issue("dcmtk", rsa=True)
    path = tmp_path / "big.dcm"
    path.write_bytes(
        file_prefix(CT, "1.2.3.4", EXPLICIT) + dataset("1.2.3.4", tail=pixels(3_000_000))
    )
    subprocess.run(
        ["storescu", "--enable-tls", str(client.key), str(client.certificate),
         "--add-cert-file", str(authority.certificate), "127.0.0.1", str(gateway.port), str(path)],
        check=True,
        env=dcmtk_env(nodelay=True),
        timeout=60,
    )  # fmt: skip
    (event,) = events(gateway, 1)
    assert event.blob.size_bytes == path.stat().st_size


# ---- STOW-RS


@pytest.mark.parametrize("path", PATHS)
def test_stow_and_store_are_one_instance(start: Callable[..., Gateway], path: str) -> None:
    gateway = start(dicom_receive_path=path, stow_port=0)
    assert gateway.stow is not None
    assert gateway.health()[1]["parts"]["stow"]
    put(gateway, "1.2.3.4")
    (stored,) = events(gateway, 1)
    data = dcmread(str(get_testdata_file("CT_small.dcm")))
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    made = Path(gateway.outbox._path).parent / "sent.dcm"
    data.save_as(made)
    body = b"--b\r\nContent-Type: application/dicom\r\n\r\n" + made.read_bytes() + b"\r\n--b--\r\n"
    answer = httpx.post(
        f"http://127.0.0.1:{gateway.stow.port}/dicomweb/studies",
        content=body,
        headers={"Content-Type": 'multipart/related; type="application/dicom"; boundary=b'},
        timeout=30,
    )
    assert answer.status_code == 200, answer.text
    until(
        lambda: gateway.metrics.registry.get_sample_value(
            "biodatamine_gateway_instances_total", {"disposition": "same"}
        ),
        "the second is filed",
    )
    (event,) = events(gateway, 1)
    assert event.image_id == stored.image_id


# ---- a receive process that is killed


class Sender(threading.Thread):
    """Pushes instances until it is told to stop; connects again when it is cut off."""

    def __init__(self, port: int, number: int) -> None:
        super().__init__(daemon=True)
        self._port = port
        self._number = number
        self.enough = threading.Event()
        self.acknowledged: list[str] = []
        self.cuts = 0

    def run(self) -> None:
        for index in range(100_000):
            if self.enough.is_set():
                return
            uid = f"1.2.{self._number}.{index}"
            data = dataset(uid, tail=pixels(30_000))
            try:
                if not index or self.peer is None:
                    self.peer: Peer | None = Peer(self._port)
                    self.peer.associate()
                pieces = [data[start : start + 8000] for start in range(0, len(data), 8000)]
                last = len(pieces) - 1
                self.peer.send(store_rq(uid))
                for place, piece in enumerate(pieces):
                    self.peer.send(p_data(pdv(3, 2 if place == last else 0, piece)))
                if self.peer.status() == 0x0000:
                    self.acknowledged.append(uid)
            except (OSError, AssertionError):
                self.cuts += 1
                self.peer = None


@pytest.mark.parametrize("processes", [1, 2])
def test_kill_9_of_a_receive_process(start: Callable[..., Gateway], processes: int) -> None:
    gateway = start(dicom_receive_processes=processes)
    assert isinstance(gateway.scp, NativeScp)
    pool = gateway.scp._pool
    senders = [Sender(gateway.port, number) for number in range(4)]
    for sender in senders:
        sender.start()
    illness: queue.SimpleQueue[Any] = queue.SimpleQueue()
    watching = threading.Event()

    def watch() -> None:
        while not watching.wait(0.02):
            healthy, details = gateway.health()
            if not healthy:
                illness.put(details)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    for _ in range(2):
        before = [len(sender.acknowledged) for sender in senders]
        until(
            lambda before=before: all(
                len(sender.acknowledged) > count + 5
                for sender, count in zip(senders, before, strict=True)
            ),
            "everyone is served",
        )
        (victim, *_) = pool.pids
        os.kill(victim, signal.SIGKILL)
        until(
            lambda victim=victim: victim not in pool.pids and len(pool.pids) == processes,
            "another has taken its place",
        )
    before = [len(sender.acknowledged) for sender in senders]
    until(
        lambda: all(
            len(sender.acknowledged) > count + 5
            for sender, count in zip(senders, before, strict=True)
        ),
        "everyone is served again",
    )
    for sender in senders:
        sender.enough.set()
    for sender in senders:
        sender.join(30)
        if sender.peer is not None:
            sender.peer.release()
    watching.set()
    watcher.join()
    assert illness.empty(), illness.get()
    assert sum(sender.cuts for sender in senders) >= 2
    assert gateway.filer.drained(30)
    acknowledged = {uid for sender in senders for uid in sender.acknowledged}
    filed = {
        event.relpath.rsplit("/", 1)[1]
        for event in (decode(one.value, FileReceived) for one in gateway.outbox.pending(100_000))
    }
    assert acknowledged <= filed
    # At most one of each sender was on its way at each kill.
    assert len(filed - acknowledged) <= 2 * len(senders)
    assert gateway.scp.associations in range(len(senders) + 1)
    slots = [path for path in (gateway._settings.inbox_dir).glob("*.slot") if path.stat().st_size]
    assert slots == []
