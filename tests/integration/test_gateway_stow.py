"""STOW-RS against real clients: dicomweb-client, httpx, and bare sockets."""

from __future__ import annotations

import gzip
import hashlib
import io
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset

from dicom_gateway.dicomweb.credentials import Credentials
from dicom_gateway.dicomweb.part10_reader import read_file_meta
from dicom_gateway.dicomweb.stow import Pace, StowLimits, StowListenError, StowServer
from dicom_gateway.metrics import Metrics
from dicom_gateway.storing.inbox import Inbox
from dicom_gateway.storing.part10 import file_prefix
from dicom_gateway.storing.receiver import Arrival, Receiver
from schemas import FileReceived, decode

pytestmark = pytest.mark.integration

CT_FILE = Path(str(get_testdata_file("CT_small.dcm"))).read_bytes()
MR_FILE = Path(str(get_testdata_file("MR_small.dcm"))).read_bytes()
CT, MR = (dcmread(io.BytesIO(file)) for file in (CT_FILE, MR_FILE))
RELATED = 'multipart/related; type="application/dicom"; boundary=b'
NOW = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)


class Gateway:
    """A server over the real receiver, without ledger and blob store behind it."""

    def __init__(self, folder: Path, **options: Any) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.arrivals: list[Arrival] = []
        self.pressure = ""
        self._inbox = Inbox(folder, token="t", spare=options.pop("spare", 0))
        receiver = Receiver(
            self._inbox,
            uri=lambda sha256: f"file:///blobs/{sha256}",
            on_arrival=self.arrivals.append,
            clock=lambda: NOW,
            max_dataset_bytes=4 << 20,
            pressure=lambda: self.pressure,
        )
        self.metrics = Metrics()
        try:
            self.server = StowServer(
                options.pop("receiver", receiver),
                **{
                    "host": "127.0.0.1",
                    "port": 0,
                    "tenant": "clinic",
                    "dataset_id": "pacs",
                    "metrics": self.metrics,
                    **options,
                },
            )
        except BaseException:
            self._inbox.close()
            raise
        self.url = f"http://127.0.0.1:{self.server.port}/dicomweb"

    def events(self) -> list[FileReceived]:
        return [decode(arrival.arrived.value, FileReceived) for arrival in self.arrivals]

    def slots(self) -> int:
        return len(list(self.folder.glob("*.slot")))

    def post(self, content: Any, content_type: str = RELATED, **headers: str) -> httpx.Response:
        sent = {"Content-Type": content_type} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        return httpx.post(f"{self.url}/studies", content=content, headers=sent, timeout=30)

    def close(self) -> None:
        self.server.close(5.0)
        self._inbox.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Gateway]]:
    running: list[Gateway] = []

    def begin(**options: Any) -> Gateway:
        running.append(Gateway(tmp_path / f"inbox{len(running)}", **options))
        return running[-1]

    yield begin
    for gateway in running:
        gateway.close()


@pytest.fixture
def gateway(start: Callable[..., Gateway]) -> Gateway:
    return start()


def related(*files: bytes) -> bytes:
    parts = (b"\r\n--b\r\nContent-Type: application/dicom\r\n\r\n" + file for file in files)
    return b"".join(parts) + b"\r\n--b--"


def until(condition: Callable[[], object], what: str, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.01)


def raw(gateway: Gateway, sent: bytes, seconds: float = 20.0) -> bytes:
    """Send bytes, and read until the server closes."""
    with socket.create_connection(("127.0.0.1", gateway.server.port), timeout=seconds) as peer:
        peer.sendall(sent)
        peer.shutdown(socket.SHUT_WR)
        return read_all(peer)


def read_all(peer: socket.socket) -> bytes:
    received = b""
    try:
        while piece := peer.recv(65536):
            received += piece
    except ConnectionResetError:
        pass
    return received


def head(length: str, **headers: str) -> bytes:
    more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return (
        "POST /dicomweb/studies HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
        f"Content-Type: {RELATED}\r\n{length}\r\n{more}\r\n"
    ).encode()


def test_dicomweb_client_pushes_a_study(gateway: Gateway) -> None:
    web = pytest.importorskip("dicomweb_client.web")
    client = web.DICOMwebClient(url=gateway.url)
    answer = client.store_instances([CT], study_instance_uid=CT.StudyInstanceUID)
    (item,) = answer.ReferencedSOPSequence
    assert item.ReferencedSOPInstanceUID == CT.SOPInstanceUID
    client.store_instances([CT, MR])
    assert [event.dicom.instance_uid for event in gateway.events() if event.dicom] == [
        CT.SOPInstanceUID,
        CT.SOPInstanceUID,
        MR.SOPInstanceUID,
    ]
    first, second, _ = gateway.events()
    assert first.image_id == second.image_id


def test_dicomweb_client_learns_what_failed(gateway: Gateway) -> None:
    web = pytest.importorskip("dicomweb_client.web")
    client = web.DICOMwebClient(url=gateway.url)
    answer = client.store_instances([CT, MR], study_instance_uid=MR.StudyInstanceUID)
    assert answer.FailedSOPSequence[0].FailureReason == 0xA901
    assert answer.FailedSOPSequence[0].ReferencedSOPInstanceUID == CT.SOPInstanceUID
    assert answer.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == MR.SOPInstanceUID


def test_the_blob_is_what_c_store_would_have_made_of_it(gateway: Gateway) -> None:
    assert gateway.post(related(CT_FILE)).status_code == 200
    (event,) = gateway.events()
    found = read_file_meta(CT_FILE, at_end=True)
    assert found is not None
    made = file_prefix(found.sop_class_uid, found.sop_instance_uid, found.transfer_syntax_uid)
    assert event.image_id == hashlib.sha256(made + CT_FILE[found.size_bytes :]).hexdigest()
    assert event.association is not None
    assert event.association.peer_address == "127.0.0.1"
    assert event.association.calling_ae_title == event.association.called_ae_title == ""
    assert len(event.association.association_id) == 16


def test_chunked_with_any_pieces(gateway: Gateway) -> None:
    body = related(CT_FILE, MR_FILE)

    def pieces() -> Iterator[bytes]:
        for at in range(0, len(body), 997):
            yield body[at : at + 997]

    answer = gateway.post(pieces())
    assert answer.status_code == 200
    assert len(gateway.arrivals) == 2


def test_one_file_as_it_is(gateway: Gateway) -> None:
    answer = gateway.post(CT_FILE, "application/dicom")
    assert answer.status_code == 200
    assert len(gateway.arrivals) == 1


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("*/*", "application/dicom+json"),
        ("application/dicom+json", "application/dicom+json"),
        ("application/json", "application/json"),
        ("application/dicom+xml", "application/dicom+xml"),
        ("application/dicom+xml;q=0.5, application/dicom+json", "application/dicom+json"),
    ],
)
def test_the_answer_is_as_accepted(gateway: Gateway, accept: str, content_type: str) -> None:
    answer = gateway.post(related(CT_FILE), Accept=accept)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == content_type
    if content_type.endswith("json"):
        assert Dataset.from_json(answer.json()).ReferencedSOPSequence
    else:
        assert f">{CT.SOPInstanceUID}<" in answer.text


def test_some_are_stored_and_some_are_not(gateway: Gateway) -> None:
    answer = gateway.post(related(CT_FILE, b"no DICOM", MR_FILE))
    assert answer.status_code == 202
    module = Dataset.from_json(answer.json())
    assert len(module.ReferencedSOPSequence) == 2
    assert [item.FailureReason for item in module.OtherFailuresSequence] == [0xC000]
    assert "no DICOM file" in answer.headers["Warning"]
    sample = gateway.metrics.registry.get_sample_value
    name = "biodatamine_gateway_stow_instances_total"
    assert sample(name, {"status": "0x0000", "reason": "stored"}) == 2
    assert sample(name, {"status": "0xC000", "reason": "unreadable-dataset"}) == 1


def test_none_is_stored(gateway: Gateway) -> None:
    answer = gateway.post(related(b"no DICOM"))
    assert answer.status_code == 409
    assert gateway.slots() == 0


def test_out_of_resources_is_503_until_there_is_room(gateway: Gateway) -> None:
    gateway.pressure = "the disk is nearly full"
    answer = gateway.post(related(CT_FILE))
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "10"
    assert Dataset.from_json(answer.json()).FailedSOPSequence[0].FailureReason == 0xA700
    gateway.pressure = ""
    assert gateway.post(related(CT_FILE)).status_code == 200


def test_an_instance_that_is_too_large(gateway: Gateway) -> None:
    found = read_file_meta(CT_FILE, at_end=True)
    assert found is not None
    padding = struct.pack("<HH2sHI", 0x7FE1, 0x1001, b"UN", 0, 5 << 20) + bytes(5 << 20)
    answer = gateway.post(related(CT_FILE + padding))
    assert answer.status_code == 413
    assert Dataset.from_json(answer.json()).FailedSOPSequence[0].FailureReason == 0xA701
    assert gateway.slots() == 0


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("multipart/related", 400),
        ('multipart/related; type="application/dicom"', 400),
        ("multipart/related; boundary=" + "b" * 71, 400),
        ("multipart/form-data; boundary=b", 400),
        ('multipart/related; boundary="b', 400),
        ("", 400),
        ('multipart/related; type="application/dicom+json"; boundary=b', 415),
        ('multipart/related; type="application/dicom+xml"; boundary=b', 415),
        ("application/json", 415),
        ("text/plain", 415),
    ],
)
def test_content_types_that_are_refused(gateway: Gateway, content_type: str, status: int) -> None:
    answer = gateway.post(related(CT_FILE), content_type)
    assert answer.status_code == status
    assert "application/dicom" in answer.text or "boundary" in answer.text
    assert not gateway.arrivals


@pytest.mark.parametrize(
    "content_type",
    [
        'multipart/related;type="application/dicom";boundary="b"',
        "multipart/related; type=application/dicom; boundary=b",
        'Multipart/Related; Boundary="b"',
    ],
)
def test_content_types_that_are_taken(gateway: Gateway, content_type: str) -> None:
    assert gateway.post(related(CT_FILE), content_type).status_code == 200


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400),
        (b"--b--", 400),
        (b"--c\r\n\r\nx\r\n--c--", 400),
        (related(CT_FILE)[:-2], 400),
        (related(CT_FILE, MR_FILE)[:-6], 202),
        (b"--b\r\n\r\n" + CT_FILE[:9000], 400),
        (b"--b\r\nX: " + b"x" * 20_000 + b"\r\n\r\n" + CT_FILE + b"\r\n--b--", 400),
        (b"--b\r\nContent-Type: multipart/related; boundary=i\r\n\r\n--i--\r\n--b--", 415),
    ],
)
def test_bodies_that_are_not_framed(gateway: Gateway, content: bytes, status: int) -> None:
    answer = gateway.post(content)
    assert answer.status_code == status
    assert gateway.slots() == len(gateway.arrivals) == (1 if status == 202 else 0)


def test_other_requests(gateway: Gateway) -> None:
    def status(method: str, path: str, **headers: str) -> int:
        url = f"http://127.0.0.1:{gateway.server.port}{path}"
        return httpx.request(method, url, headers=headers).status_code

    assert status("GET", "/dicomweb/studies") == 405
    assert status("GET", "/") == 404
    assert status("POST", "/dicomweb/studies/1.2/series") == 404
    assert status("POST", "/dicomweb/studies/..%2F1.2", Content_Type=RELATED) in (400, 404)
    answer = httpx.options(f"{gateway.url}/studies")
    assert answer.status_code == 204
    assert answer.headers["Allow"] == "POST, OPTIONS"
    answer = httpx.post(f"{gateway.url}/studies/one", headers={"Content-Type": RELATED})
    assert (answer.status_code, answer.text) == (400, "the study of the URL is not a UID\n")
    assert gateway.post(related(CT_FILE), Accept="text/html").status_code == 406
    assert "aiohttp" not in answer.headers["Server"]


def test_gzip_is_refused(gateway: Gateway) -> None:
    bomb = gzip.compress(bytes(10 << 20))
    answer = gateway.post(bomb, Content_Encoding="gzip")
    assert answer.status_code == 415
    assert answer.headers["Accept-Encoding"] == "identity"


def test_cors_is_off_until_an_origin_is_allowed(start: Callable[..., Gateway]) -> None:
    viewer = "https://viewer.example"
    closed, opened = start(), start(allowed_origins=frozenset({viewer}))
    assert closed.post(related(CT_FILE), Origin=viewer).status_code == 403
    assert httpx.options(f"{closed.url}/studies", headers={"Origin": viewer}).status_code == 403
    asked = httpx.options(f"{opened.url}/studies", headers={"Origin": viewer})
    assert asked.headers["Access-Control-Allow-Origin"] == viewer
    assert "Authorization" in asked.headers["Access-Control-Allow-Headers"]
    answer = opened.post(related(CT_FILE), Origin=viewer)
    assert answer.headers["Access-Control-Allow-Origin"] == viewer
    assert opened.post(related(CT_FILE), Origin="https://other.example").status_code == 403


def test_credentials(start: Callable[..., Gateway]) -> None:
    gateway = start(credentials=Credentials(["t0ken"], ["user:word"]))
    answer = gateway.post(related(CT_FILE))
    assert answer.status_code == 401
    assert answer.headers.get_list("WWW-Authenticate") == [
        'Basic realm="dicomweb"',
        'Bearer realm="dicomweb"',
    ]
    assert gateway.post(related(CT_FILE), Authorization="Bearer other").status_code == 401
    assert not gateway.arrivals
    assert gateway.post(related(CT_FILE), Authorization="Bearer t0ken").status_code == 200
    assert httpx.post(
        f"{gateway.url}/studies",
        content=related(CT_FILE),
        headers={"Content-Type": RELATED},
        auth=("user", "word"),
    ).is_success


def test_a_client_that_asks_first_is_told_before_it_sends(gateway: Gateway) -> None:
    body = related(CT_FILE)
    with socket.create_connection(("127.0.0.1", gateway.server.port), timeout=20) as peer:
        peer.sendall(head(f"Content-Length: {len(body)}", Expect="100-continue"))
        assert peer.recv(4096) == b"HTTP/1.1 100 Continue\r\n\r\n"
        peer.sendall(body)
        assert read_all(peer).startswith(b"HTTP/1.1 200 OK\r\n")
    with socket.create_connection(("127.0.0.1", gateway.server.port), timeout=20) as peer:
        peer.sendall(head(f"Content-Length: {1 << 40}", Expect="100-continue"))
        assert peer.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_bounds_of_a_request(start: Callable[..., Gateway]) -> None:
    gateway = start(limits=StowLimits(max_request_bytes=60_000, max_parts=2))
    body = related(CT_FILE, CT_FILE)
    assert gateway.post(body).status_code == 413
    answer = gateway.post(iter([body]))
    assert answer.status_code in (202, 413)
    assert "BIODATAMINE_STOW_MAX_REQUEST_BYTES" in answer.text + answer.headers.get("Warning", "")
    tiny = b"--b\r\n\r\nx\r\n" * 2 + related(MR_FILE)[2:]
    answer = gateway.post(tiny)
    assert answer.status_code == 413
    assert len(Dataset.from_json(answer.json()).OtherFailuresSequence) == 3
    assert gateway.slots() == len(gateway.arrivals)


def test_what_came_before_a_bound_is_stored_and_named(start: Callable[..., Gateway]) -> None:
    gateway = start(limits=StowLimits(max_parts=1))
    answer = gateway.post(related(CT_FILE, MR_FILE))
    assert answer.status_code == 202
    module = Dataset.from_json(answer.json())
    assert module.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == CT.SOPInstanceUID
    assert module.OtherFailuresSequence[0].FailureReason == 0x0110
    assert len(gateway.arrivals) == 1


def test_a_body_that_stops_coming(start: Callable[..., Gateway]) -> None:
    gateway = start(limits=StowLimits(idle_seconds=0.3))
    with socket.create_connection(("127.0.0.1", gateway.server.port), timeout=30) as peer:
        peer.sendall(head("Content-Length: 100000") + related(CT_FILE)[:9000])
        assert peer.recv(4096).startswith(b"HTTP/1.1 408 ")
    until(lambda: gateway.slots() == 0, "the slot is gone")


def test_a_byte_at_a_time(start: Callable[..., Gateway]) -> None:
    gateway = start(limits=StowLimits(idle_seconds=0.5, min_bytes_per_second=1000))
    ended = threading.Event()
    with socket.create_connection(("127.0.0.1", gateway.server.port), timeout=30) as peer:
        peer.sendall(head("Content-Length: 100000"))

        def drip() -> None:
            # Always well before the deadline for silence; the rate is what ends it.
            while not ended.wait(0.05):
                try:
                    peer.sendall(b"x")
                except OSError:
                    return

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            answer = b""
            while not answer.endswith(b"bytes/s\n") and (piece := peer.recv(4096)):
                answer += piece
        finally:
            ended.set()
            thread.join()
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"slower than 1000 bytes/s" in answer


def test_the_pace_counts_waiting_only() -> None:
    pace = Pace(10.0, 100)
    assert pace.is_kept(9.9, 0)
    assert pace.is_kept(0.2, 1010)
    assert pace.is_kept(0.0, 0)
    assert pace.is_kept(9.0, 500)
    assert not pace.is_kept(2.0, 500)


def test_a_client_that_leaves_in_the_middle(gateway: Gateway) -> None:
    body = related(CT_FILE, MR_FILE)
    with socket.create_connection(("127.0.0.1", gateway.server.port), timeout=20) as peer:
        peer.sendall(head(f"Content-Length: {len(body)}") + body[: len(CT_FILE) + 6000])
        until(lambda: len(gateway.arrivals) == 1 and gateway.slots() == 2, "one and a half")
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    until(lambda: gateway.slots() == 1, "the half one is gone")
    assert gateway.post(related(CT_FILE)).status_code == 200


def test_a_body_that_ends_early_and_chunks_that_are_none(gateway: Gateway) -> None:
    answer = raw(gateway, head("Content-Length: 100000") + related(CT_FILE)[:9000])
    assert answer == b"" or answer[8:13] == b" 400 "
    # Who answers first, our handler or aiohttp's parser, in HTTP/1.0, is a matter of timing.
    answer = raw(gateway, head("Transfer-Encoding: chunked") + b"zz\r\nabc")
    assert answer == b"" or answer[8:13] == b" 400 "
    until(lambda: gateway.slots() == 0, "no slot is left")
    assert gateway.post(related(CT_FILE)).status_code == 200


def test_headers_without_end(gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_connection(("127.0.0.1", gateway.server.port), timeout=20) as peer:
        peer.sendall(b"POST /dicomweb/studies HTTP/1.1\r\nAuthorization: s3cret" + b"x" * 10_000)
        assert b" 400 " in peer.recv(4096)[:16]
    # What came may be a credential or a name; it is not for the log.
    assert "s3cret" not in caplog.text


def test_a_fault_of_ours(start: Callable[..., Gateway], capsys: pytest.CaptureFixture[str]) -> None:
    class Broken:
        def begin(self, **_: object) -> None:
            raise RuntimeError("Doe^Jane")

    gateway = start(receiver=Broken())
    answer = gateway.post(related(CT_FILE))
    assert answer.status_code == 409
    assert Dataset.from_json(answer.json()).FailedSOPSequence[0].FailureReason == 0x0110
    said = "".join(capsys.readouterr())
    assert "RuntimeError" in said
    assert "test_gateway_stow.py" in said
    assert "Doe" not in said


def test_silent_sockets_end_and_hinder_nobody(start: Callable[..., Gateway]) -> None:
    gateway = start(limits=StowLimits(max_connections=20))
    address = ("127.0.0.1", gateway.server.port)
    peers = [socket.create_connection(address, timeout=20) for _ in range(60)]
    try:
        assert gateway.post(related(CT_FILE)).status_code == 200
        # The first ones have been closed to make room.
        assert all(read_all(peer) == b"" for peer in peers[:40])
    finally:
        for peer in peers:
            peer.close()


def test_a_header_that_does_not_come(start: Callable[..., Gateway], monkeypatch: Any) -> None:
    monkeypatch.setattr("dicom_gateway.dicomweb.stow._LINGER_SECONDS", 0.1)
    gateway = start(limits=StowLimits(idle_seconds=0.2))
    with socket.create_connection(("127.0.0.1", gateway.server.port), timeout=20) as peer:
        peer.sendall(b"POST /dicomweb/stu")
        assert read_all(peer) == b""


def test_one_request_too_many(start: Callable[..., Gateway]) -> None:
    gateway = start(limits=StowLimits(max_requests=1))
    body = related(CT_FILE)
    sample = gateway.metrics.registry.get_sample_value
    with socket.create_connection(("127.0.0.1", gateway.server.port), timeout=20) as peer:
        peer.sendall(head(f"Content-Length: {len(body)}") + body[:100])
        until(
            lambda: sample("biodatamine_gateway_stow_requests_in_progress") == 1, "it is on its way"
        )
        answer = gateway.post(body)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "10")
        peer.sendall(body[100:])
        assert read_all(peer).startswith(b"HTTP/1.1 200 ")
    assert gateway.post(body).status_code == 200


def test_close_lets_a_request_end(start: Callable[..., Gateway]) -> None:
    gateway = start()
    body = related(CT_FILE)
    sample = gateway.metrics.registry.get_sample_value
    with socket.create_connection(("127.0.0.1", gateway.server.port), timeout=20) as peer:
        peer.sendall(head(f"Content-Length: {len(body)}") + body[:100])
        until(
            lambda: sample("biodatamine_gateway_stow_requests_in_progress") == 1, "it is on its way"
        )
        closing = threading.Thread(target=gateway.server.close, args=(20.0,))
        closing.start()
        until(lambda: not gateway.server.is_running, "it stops")
        peer.sendall(body[100:])
        assert read_all(peer).startswith(b"HTTP/1.1 200 ")
        closing.join()
    assert len(gateway.arrivals) == 1


def test_close_breaks_off_what_does_not_end(start: Callable[..., Gateway]) -> None:
    gateway = start()
    with socket.create_connection(("127.0.0.1", gateway.server.port), timeout=20) as peer:
        peer.sendall(head("Content-Length: 100000") + related(CT_FILE)[:9000])
        until(lambda: gateway.slots() == 1, "it has begun")
        gateway.server.close(0.1)
        read_all(peer)
    assert gateway.slots() == 0
    gateway.server.close(0.1)


def test_many_clients_at_once(gateway: Gateway) -> None:
    answers: list[int] = []

    def push() -> None:
        for _ in range(5):
            answers.append(gateway.post(related(CT_FILE, MR_FILE)).status_code)

    threads = [threading.Thread(target=push) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [200] * 30
    assert len(gateway.arrivals) == gateway.slots() == 60


def test_https(start: Callable[..., Gateway], tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-keyout", key, "-out", certificate, "-days", "1", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    gateway = start(ssl_context=context)
    trust = ssl.create_default_context(cafile=str(certificate))
    url = f"https://127.0.0.1:{gateway.server.port}/dicomweb/studies"
    answer = httpx.post(
        url, content=related(CT_FILE), headers={"Content-Type": RELATED}, verify=trust
    )
    assert answer.status_code == 200
    # Who speaks plain HTTP to it is refused, and hinders nobody.
    raw(gateway, b"GET / HTTP/1.1\r\n\r\n")
    assert httpx.get(url, verify=trust).status_code == 405


def test_a_port_that_is_taken(start: Callable[..., Gateway]) -> None:
    first = start()
    with pytest.raises(StowListenError, match="BIODATAMINE_STOW_PORT"):
        start(port=first.server.port)


def test_the_log_names_no_patient(gateway: Gateway, capsys: pytest.CaptureFixture[str]) -> None:
    gateway.post(related(CT_FILE, b"no DICOM"))
    gateway.server.close(5.0)
    said = "".join(capsys.readouterr())
    assert "stow-request" in said
    for value in (CT.PatientName, CT.PatientID):
        assert str(value) not in said
