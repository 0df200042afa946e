"""``dicom_gateway.peers.check`` against real peers, most of them broken in a way of their own."""

from __future__ import annotations

import http.server
import shutil
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from pydicom.data import get_testdata_file
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity

from dicom_gateway.peers.check import VERIFICATION, CheckResult, check
from dicom_gateway.peers.tls import client_context, server_context
from tests.support.certificates import Authority, Identity

pytestmark = pytest.mark.integration

# Certificates made during the tests are good by then.
NOW = datetime.now(timezone.utc) + timedelta(hours=1)
HOST = "127.0.0.1"
QUICK_SECONDS = 0.5
"""For peers that never answer."""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def identity(authority: Authority) -> Identity:
    return authority.issue("server")


@pytest.fixture(scope="module")
def trusting(authority: Authority) -> ssl.SSLContext:
    return client_context(ca=authority.certificate, now=NOW)


def verify(
    port: int,
    *,
    host: str = HOST,
    called: str = "PEER",
    calling: str = "CHECKER",
    tls: ssl.SSLContext | None = None,
    timeout_seconds: float = 10.0,
) -> CheckResult:
    return check(
        host,
        port,
        called_ae_title=called,
        calling_ae_title=calling,
        tls=tls,
        timeout_seconds=timeout_seconds,
    )


def code(result: CheckResult) -> str:
    return result.problem.code if result.problem else ""


@contextmanager
def scp(
    *,
    contexts: tuple[str, ...] = (VERIFICATION,),
    tls: ssl.SSLContext | None = None,
    prepare: Callable[[ApplicationEntity], object] = lambda entity: None,
    on_echo: Callable[[evt.Event], int] = lambda event: 0,
) -> Iterator[int]:
    entity = ApplicationEntity("PEER")
    for context in contexts:
        entity.add_supported_context(context)
    prepare(entity)
    server = entity.start_server(
        (HOST, 0), block=False, ssl_context=tls, evt_handlers=[(evt.EVT_C_ECHO, on_echo)]
    )
    assert server is not None
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()


@contextmanager
def peer(answer: Callable[[socket.socket], object]) -> Iterator[int]:
    """A TCP server that does what it is told with each connection, then closes it."""
    with socket.create_server((HOST, 0)) as listener:
        open_ones: list[socket.socket] = []

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                open_ones.append(connection)
                try:
                    if answer(connection) is not KEEP:
                        connection.close()
                except OSError:
                    connection.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in open_ones:
                connection.close()


KEEP = object()


def says(*pieces: bytes) -> Callable[[socket.socket], object]:
    def answer(connection: socket.socket) -> None:
        for piece in pieces:
            connection.recv(65536)
            connection.sendall(piece)

    return answer


@contextmanager
def dcmtk(program: str, *arguments: str | Path) -> Iterator[int]:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} of dcmtk is not installed")
    with socket.create_server((HOST, 0)) as listener:
        port = int(listener.getsockname()[1])
    process = subprocess.Popen(
        [found, *map(str, arguments), str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 20
        while True:
            assert process.poll() is None, f"{program} ended"
            try:
                socket.create_connection((HOST, port), 1).close()
                break
            except OSError:
                assert time.monotonic() < deadline, f"{program} does not listen"
                time.sleep(0.02)
        yield port
    finally:
        process.terminate()
        process.wait(10)


def test_a_good_peer() -> None:
    with scp() as port:
        result = verify(port)
    assert result.is_ok
    assert [step.name for step in result.steps] == ["resolve", "connect", "association", "echo"]
    assert all(step.is_ok and step.seconds >= 0 for step in result.steps)
    assert "PYNETDICOM" in result.steps[2].detail


def test_a_good_peer_over_tls(identity: Identity, trusting: ssl.SSLContext) -> None:
    ours = server_context(certificate=identity.certificate, key=identity.key, now=NOW)
    with scp(tls=ours) as port:
        result = verify(port, tls=trusting, host="localhost")
    assert result.is_ok
    assert [step.name for step in result.steps][2] == "tls"
    assert "TLSv1.3" in result.steps[2].detail
    assert "good until" in result.steps[2].detail


def test_a_name_that_does_not_resolve() -> None:
    result = verify(11112, host="no-such-host.invalid")
    assert code(result) == "name-not-resolved"
    assert [(step.name, step.is_ok) for step in result.steps] == [("resolve", False)]


def test_nothing_listens() -> None:
    with socket.create_server((HOST, 0)) as listener:
        port = listener.getsockname()[1]
    result = verify(port)
    assert code(result) == "connection-refused"
    assert result.steps[-1].name == "connect"


def test_packets_that_are_dropped() -> None:
    # A listener whose queue is full drops what comes, as a firewall does.
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        fillers = []
        try:
            for _ in range(8):
                filler = socket.socket()
                filler.setblocking(False)
                filler.connect_ex((HOST, port))
                fillers.append(filler)
            result = verify(port, timeout_seconds=QUICK_SECONDS)
        finally:
            for filler in fillers:
                filler.close()
    assert code(result) == "connection-timed-out"
    assert result.problem is not None
    assert "firewall" in result.problem.advice


def test_a_web_server() -> None:
    server = http.server.ThreadingHTTPServer((HOST, 0), http.server.BaseHTTPRequestHandler)
    server.RequestHandlerClass.log_message = lambda *_: None  # type: ignore[method-assign]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        result = verify(server.server_address[1], timeout_seconds=2.0)
    finally:
        server.shutdown()
        server.server_close()
    assert code(result) == "not-dicom"
    assert result.problem is not None
    assert "web server" in result.problem.said


@pytest.mark.parametrize(
    ("first", "words"),
    [
        (b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n", "SSH"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "web server"),
        (b"220 mail.example.org ESMTP\r\n", "mail or FTP"),
        (b"\x00\x01\x02\x03\x04\x05\x06\x07", "unknown service"),
        (b"\x02\x00\xff\xff\xff\xff" + bytes(100), "unknown service"),
        (b"\x02\x00\x00\x00\x00\x04" + bytes(4), "no A-ASSOCIATE-AC"),
    ],
)
def test_what_is_no_dicom_peer(first: bytes, words: str) -> None:
    with peer(says(first)) as port:
        result = verify(port)
    assert code(result) == "not-dicom"
    assert result.problem is not None
    assert words in result.problem.said
    assert result.problem.said.isprintable()


def test_a_silent_peer() -> None:
    with peer(lambda connection: KEEP) as port:
        result = verify(port, timeout_seconds=QUICK_SECONDS)
    assert code(result) == "silent"


def test_a_peer_that_trickles_is_not_waited_for() -> None:
    stop = threading.Event()

    def trickle(connection: socket.socket) -> None:
        connection.sendall(b"\x02\x00\x00\x00\x01\x00")
        while not stop.wait(0.05):
            connection.sendall(b"\0")

    with peer(trickle) as port:
        result = verify(port, timeout_seconds=QUICK_SECONDS)
        stop.set()
    assert code(result) == "silent"


def test_a_peer_that_closes() -> None:
    with peer(lambda connection: connection.recv(65536)) as port:
        assert code(verify(port)) == "closed"


def test_a_peer_that_resets() -> None:
    def reset(connection: socket.socket) -> None:
        # Not before it was connected to, and asked.
        connection.recv(1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with peer(reset) as port:
        assert code(verify(port)) == "closed"


@pytest.mark.parametrize(
    ("codes", "words"),
    [
        ((1, 1, 1), "log"),
        ((1, 1, 2), "DICOM port"),
        ((1, 1, 3), "add CHECKER"),
        ((1, 1, 7), "correct the called AE title PEER"),
        ((1, 2, 1), "log"),
        ((1, 2, 2), "DICOM port"),
        ((2, 3, 1), "try again later"),
        ((2, 3, 2), "raise its limit"),
    ],
)
def test_each_rejection_says_what_to_change(codes: tuple[int, int, int], words: str) -> None:
    with peer(says(b"\x03\x00\x00\x00\x00\x04\x00" + bytes(codes))) as port:
        result = verify(port)
    assert result.problem is not None
    assert result.problem.code == "rejected"
    assert words in result.problem.advice
    assert "result {}, source {}, reason {}".format(*codes) in result.problem.said
    assert ("for now" in result.problem.said) == (codes[0] == 2)


def test_a_rejection_that_the_standard_does_not_know() -> None:
    with peer(says(b"\x03\x00\x00\x00\x00\x04\x00\x09\x09\x09")) as port:
        result = verify(port)
    assert result.problem is not None


def test_a_pynetdicom_peer_with_rules() -> None:
    def by_called(entity: ApplicationEntity) -> None:
        entity.require_called_aet = True

    def by_calling(entity: ApplicationEntity) -> None:
        entity.require_calling_aet = ["MODALITY"]

    with scp(prepare=by_called) as port:
        wrong = verify(port, called="OTHER")
        assert verify(port, called="PEER").is_ok
    with scp(prepare=by_calling) as port:
        unknown = verify(port)
        assert verify(port, calling="MODALITY").is_ok
    assert (code(wrong), code(unknown)) == ("rejected", "rejected")
    assert wrong.problem is not None
    assert unknown.problem is not None
    assert "OTHER" in wrong.problem.advice
    assert "CHECKER" in unknown.problem.advice


def test_an_abort() -> None:
    with peer(says(b"\x07\x00\x00\x00\x00\x04\x00\x00\x02\x01")) as port:
        result = verify(port)
    assert code(result) == "aborted"
    assert result.problem is not None
    assert "service provider: unrecognized PDU" in result.problem.said


def test_a_peer_without_verification() -> None:
    with scp(contexts=(CTImageStorage,)) as port:
        result = verify(port)
    assert code(result) == "verification-not-supported"
    assert result.steps[-2].is_ok


def test_a_status_that_is_no_success() -> None:
    with scp(on_echo=lambda event: 0x0122) as port:
        result = verify(port)
    assert code(result) == "echo-status"
    assert result.problem is not None
    assert "0x0122" in result.problem.said


def test_an_abort_upon_echo() -> None:
    def abort(event: evt.Event) -> int:
        event.assoc.abort()
        return 0

    with scp(on_echo=abort) as port:
        assert code(verify(port)) == "aborted"


# TLS


def test_tls_where_none_is_given(identity: Identity) -> None:
    ours = server_context(certificate=identity.certificate, key=identity.key, now=NOW)
    with scp(tls=ours) as port:
        result = verify(port, timeout_seconds=3.0)
    assert code(result) == "tls-expected"


def test_tls_where_none_is_expected(trusting: ssl.SSLContext) -> None:
    with scp() as port:
        result = verify(port, tls=trusting, timeout_seconds=3.0)
    assert code(result) == "tls-not-expected"
    assert result.steps[-1].name == "tls"


def test_certificates_that_do_not_do(
    tmp_path: Path, authority: Authority, identity: Identity, trusting: ssl.SSLContext
) -> None:
    day = timedelta(days=1)
    old = authority.issue("old", valid=(NOW - 3 * day, NOW - day))
    early = authority.issue("early", valid=(NOW + day, NOW + 3 * day))
    other = authority.issue("other", hosts="DNS:pacs.example.org")
    stranger = Authority(tmp_path, "stranger").issue("server")
    for served, at, expected in (
        (old, NOW - 2 * day, "certificate-expired"),
        (early, NOW + 2 * day, "certificate-not-yet-valid"),
        (other, NOW, "certificate-for-another-host"),
        (stranger, NOW, "certificate-not-trusted"),
    ):
        ours = server_context(certificate=served.certificate, key=served.key, now=at)
        with scp(tls=ours) as port:
            assert code(verify(port, tls=trusting)) == expected


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_mutual_tls(
    tmp_path: Path, authority: Authority, identity: Identity, version: ssl.TLSVersion
) -> None:
    ours = server_context(
        certificate=identity.certificate,
        key=identity.key,
        ca=authority.certificate,
        client_certificates="required",
        now=NOW,
    )
    ours.maximum_version = version
    known = authority.issue("client")
    stranger = Authority(tmp_path, "stranger").issue("client")

    def client(own: Identity | None) -> ssl.SSLContext:
        given = {"certificate": own.certificate, "key": own.key} if own else {}
        return client_context(ca=authority.certificate, now=NOW, **given)

    with scp(tls=ours) as port:
        assert verify(port, tls=client(known)).is_ok
        assert code(verify(port, tls=client(None))) == "client-certificate-required"
        assert code(verify(port, tls=client(stranger))) == "client-certificate-refused"


def test_a_server_with_old_tls(identity: Identity, trusting: ssl.SSLContext) -> None:
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ours.load_cert_chain(identity.certificate, identity.key)
    ours.maximum_version = ssl.TLSVersion.TLSv1_2
    ours.set_ciphers("ECDHE+AES256:!AESGCM:!AESCCM:@SECLEVEL=0")
    with scp(tls=ours) as port:
        assert code(verify(port, tls=trusting)) in ("tls-too-old", "client-certificate-required")


# dcmtk


def test_storescp(tmp_path: Path, trusting: ssl.SSLContext) -> None:
    with dcmtk("storescp", "-od", tmp_path) as port:
        assert verify(port).is_ok
        assert code(verify(port, tls=trusting, timeout_seconds=3.0)) == "tls-not-expected"


def test_storescp_that_refuses(tmp_path: Path) -> None:
    with dcmtk("storescp", "-od", tmp_path, "--refuse") as port:
        result = verify(port)
    assert code(result) == "rejected"


def test_storescp_with_tls(
    tmp_path: Path, authority: Authority, identity: Identity, trusting: ssl.SSLContext
) -> None:
    tls = ("+tls", identity.key, identity.certificate, "+cf", authority.certificate)
    with dcmtk("storescp", "-od", tmp_path, *tls, "-ic") as port:
        assert verify(port, tls=trusting).is_ok
        assert code(verify(port, timeout_seconds=3.0)) == "tls-expected"
    client = authority.issue("client")
    own = client_context(
        ca=authority.certificate, certificate=client.certificate, key=client.key, now=NOW
    )
    with dcmtk("storescp", "-od", tmp_path, *tls, "-rc") as port:
        assert verify(port, tls=own).is_ok
        assert code(verify(port, tls=trusting)) == "client-certificate-required"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_storescu_sends_over_our_tls(authority: Authority, version: ssl.TLSVersion) -> None:
    program = shutil.which("storescu")
    if program is None:
        pytest.skip("storescu of dcmtk is not installed")
    # In TLS 1.2 dcmtk offers suites for RSA certificates only.
    identity = authority.issue("rsa", rsa=True)
    ours = server_context(
        certificate=identity.certificate,
        key=identity.key,
        ca=authority.certificate,
        client_certificates="required",
        now=NOW,
    )
    ours.maximum_version = version
    client = authority.issue("storescu")
    stored: list[bytes] = []

    def keep(event: evt.Event) -> int:
        stored.append(event.request.DataSet.getvalue())
        return 0

    entity = ApplicationEntity("PEER")
    entity.add_supported_context(CTImageStorage, ExplicitVRLittleEndian)
    server = entity.start_server(
        (HOST, 0), block=False, ssl_context=ours, evt_handlers=[(evt.EVT_C_STORE, keep)]
    )
    assert server is not None
    file = Path(str(get_testdata_file("CT_small.dcm")))
    try:
        done = subprocess.run(
            [program, "+tls", client.key, client.certificate, "+cf", authority.certificate,
             HOST, str(server.server_address[1]), file],
            check=False, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
    finally:
        server.shutdown()
    assert done.returncode == 0, done.stderr
    assert len(stored) == 1
    assert len(stored[0]) > 32_000


@pytest.mark.parametrize("asked", ["none", "required"])
def test_echoscu_speaks_to_our_tls(authority: Authority, identity: Identity, asked: str) -> None:
    program = shutil.which("echoscu")
    if program is None:
        pytest.skip("echoscu of dcmtk is not installed")
    ours = server_context(
        certificate=identity.certificate,
        key=identity.key,
        ca=authority.certificate,
        client_certificates=asked,  # type: ignore[arg-type]
        now=NOW,
    )
    client = authority.issue("echoscu")
    stranger = Authority(authority.certificate.parent / "stranger", "stranger").issue("echoscu")

    def echo(port: int, own: Identity) -> int:
        return subprocess.run(
            [program, "+tls", own.key, own.certificate, "+cf", authority.certificate,
             "-aec", "PEER", HOST, str(port)],
            check=False, capture_output=True, timeout=60,
        ).returncode  # fmt: skip

    with scp(tls=ours) as port:
        assert echo(port, client) == 0
        assert (echo(port, stranger) == 0) == (asked == "none")
