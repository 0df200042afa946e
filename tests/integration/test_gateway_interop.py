"""The gateway and the field: dcmtk, Orthanc and pynetdicom's own apps as its peers.

What a sender puts on the wire is what must lie in the blob store. dcmtk, Orthanc and pydicom encode
a dataset anew when they send it, so the bytes of the file on their side prove nothing; what they
sent is learned from ``storescp --bit-preserving``, to which they send the same instance first.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import ssl
import struct
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import SecondaryCaptureImageStorage
from pynetdicom import ALL_TRANSFER_SYNTAXES
from pynetdicom.ae import ApplicationEntity
from pynetdicom.dsutils import split_dataset

from dicom_gateway import GatewaySettings
from tests.support.dcmtk import dcmtk_env, missing_tools
from tests.support.raw_scu import RawScu
from tests.support.receivers import (
    ReceiverProcess,
    free_port,
    gateway,
    orthanc,
    orthanc_program,
    storescp,
)
from tests.support.stack import wait_for
from tests.support.syntaxes import make_instance

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(bool(missing_tools()), reason="apt-get install dcmtk"),
]
needs_orthanc = pytest.mark.skipif(orthanc_program() is None, reason="apt-get install orthanc")

_HAS_PATHS = "dicom_receive_path" in GatewaySettings.model_fields
RECEIVE_PATHS = ("native", "pynetdicom") if _HAS_PATHS else ("pynetdicom",)

_BLOB = re.compile(r"[0-9a-f]{64}")
_ARRIVAL_SECONDS = 20.0
_SENDER_SECONDS = 60.0

DCMTK_PROPOSALS = {
    "1.2.840.10008.1.2": "--propose-implicit",
    "1.2.840.10008.1.2.1": "--propose-little",
    "1.2.840.10008.1.2.2": "--propose-big",
    "1.2.840.10008.1.2.1.99": "--propose-deflated",
    "1.2.840.10008.1.2.4.50": "--propose-jpeg8",
    "1.2.840.10008.1.2.4.51": "--propose-jpeg12",
    "1.2.840.10008.1.2.4.70": "--propose-lossless",
    "1.2.840.10008.1.2.4.80": "--propose-jls-lossless",
    "1.2.840.10008.1.2.4.81": "--propose-jls-lossy",
    "1.2.840.10008.1.2.4.90": "--propose-j2k-lossless",
    "1.2.840.10008.1.2.4.91": "--propose-j2k-lossy",
    "1.2.840.10008.1.2.4.100": "--propose-mpeg2",
    "1.2.840.10008.1.2.4.101": "--propose-mpeg2-high",
    "1.2.840.10008.1.2.4.102": "--propose-mpeg4",
    "1.2.840.10008.1.2.4.103": "--propose-mpeg4-bd",
    "1.2.840.10008.1.2.4.104": "--propose-mpeg4-2-2d",
    "1.2.840.10008.1.2.4.105": "--propose-mpeg4-2-3d",
    "1.2.840.10008.1.2.4.106": "--propose-mpeg4-2-st",
    "1.2.840.10008.1.2.4.107": "--propose-hevc",
    "1.2.840.10008.1.2.4.108": "--propose-hevc10",
    "1.2.840.10008.1.2.5": "--propose-rle",
}


class Receiving(Protocol):
    """A receiver, and what it has of an instance."""

    port: int

    def files(self) -> Iterator[Path]:
        """Whole files that it has received."""


class _Folder:
    def __init__(self, port: int, folder: Path, name: re.Pattern[str]) -> None:
        self.port = port
        self._folder = folder
        self._name = name

    def files(self) -> Iterator[Path]:
        return (p for p in self._folder.rglob("*") if self._name.fullmatch(p.name))


def received(receiver: Receiving, instance: str) -> tuple[str, str]:
    """Transfer syntax and digest of the dataset that a receiver has of an instance."""

    def look() -> tuple[str, str] | None:
        for path in receiver.files():
            meta, offset = split_dataset(path)
            if meta.MediaStorageSOPInstanceUID == instance:
                data = path.read_bytes()[offset:]
                return str(meta.TransferSyntaxUID), hashlib.sha256(data).hexdigest()
        return None

    found: tuple[str, str] = wait_for(
        look, seconds=_ARRIVAL_SECONDS, what=f"{instance} is in the blob store"
    )
    return found


@pytest.fixture(scope="module", params=RECEIVE_PATHS)
def receive_path(request: pytest.FixtureRequest) -> str:
    """How the gateway receives."""
    return str(request.param)


@pytest.fixture(scope="module")
def running(receive_path: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiving]:
    """A gateway process, by each of its receive paths."""
    folder = tmp_path_factory.mktemp("gateway")
    port = free_port()
    command = gateway(folder, port, settings={"BIODATAMINE_DICOM_RECEIVE_PATH": receive_path})
    with ReceiverProcess(command, port, folder / "gateway.log"):
        yield _Folder(port, folder / "data" / "blobs", _BLOB)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiving]:
    """What was on the wire: dcmtk's SCP, which writes what comes."""
    folder = tmp_path_factory.mktemp("storescp")
    port = free_port()
    with ReceiverProcess(storescp(folder, port), port, folder.parent / "storescp.log"):
        yield _Folder(port, folder, re.compile(r"[A-Z]{2}[a-z]*\.[0-9.]+"))


def run(*command: str | Path) -> str:
    done = subprocess.run(
        [str(one) for one in command],
        capture_output=True,
        text=True,
        timeout=_SENDER_SECONDS,
        env=dcmtk_env(nodelay=True),
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


# ---- every transfer syntax


def test_pynetdicom_sends_every_transfer_syntax(running: Receiving, tmp_path: Path) -> None:
    sent = {}
    contexts = [(SecondaryCaptureImageStorage, syntax) for syntax in ALL_TRANSFER_SYNTAXES]
    with RawScu("127.0.0.1", running.port, contexts) as scu:
        for context in contexts:
            path = tmp_path / "sent.dcm"
            instance = make_instance(path, context[1])
            _, offset = split_dataset(path)
            data = path.read_bytes()[offset:]
            status = scu.store(data, context=context, sop_class=context[0], instance=instance)
            assert status == 0x0000, context[1]
            sent[instance] = (context[1], hashlib.sha256(data).hexdigest())
        assert scu.associations == 1
    assert len(sent) >= 45
    for instance, wanted in sent.items():
        assert received(running, instance) == wanted


@pytest.mark.parametrize(("syntax", "option"), DCMTK_PROPOSALS.items())
def test_dcmtk_storescu_sends_every_transfer_syntax_that_it_knows(
    running: Receiving, reference: Receiving, tmp_path: Path, syntax: str, option: str
) -> None:
    path = tmp_path / "sent.dcm"
    instance = make_instance(path, syntax)
    for receiver in (reference, running):
        run("storescu", "--required", option, "127.0.0.1", str(receiver.port), path)
    wanted = received(reference, instance)
    assert wanted[0] == syntax
    assert received(running, instance) == wanted


def test_dcmtk_dcmsend_sends_all_of_them_over_one_association(
    running: Receiving, reference: Receiving, tmp_path: Path
) -> None:
    instances = {
        make_instance(tmp_path / f"{number}.dcm", syntax): syntax
        for number, syntax in enumerate(DCMTK_PROPOSALS)
    }
    for receiver in (reference, running):
        run("dcmsend", "--decompress-never", "--scan-directories", "--single-association",
            "127.0.0.1", str(receiver.port), tmp_path)  # fmt: skip
    for instance in instances:
        assert received(running, instance) == received(reference, instance)


@pytest.mark.parametrize(
    "name", ["CT_small.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm", "693_UNCI.dcm"]
)
def test_pynetdicoms_storescu_app(
    running: Receiving, reference: Receiving, tmp_path: Path, name: str
) -> None:
    source = get_testdata_file(name, read=True)
    source.SOPInstanceUID = source.file_meta.MediaStorageSOPInstanceUID = (
        f"1.2.826.0.1.3680043.10.1445.{running.port}.{len(name)}.{ord(name[0])}"
    )
    path = tmp_path / name
    source.save_as(path)
    for receiver in (reference, running):
        run(sys.executable, "-m", "pynetdicom", "storescu", "127.0.0.1", str(receiver.port),
            path, "--required-contexts")  # fmt: skip
    instance = str(source.SOPInstanceUID)
    assert received(running, instance) == received(reference, instance)


# ---- Orthanc as a peer


class Orthanc:
    """Orthanc, driven over its REST interface."""

    def __init__(self, port: int) -> None:
        self._base = f"http://127.0.0.1:{port}"

    def post(self, path: str, body: bytes) -> Any:
        request = urllib.request.Request(self._base + path, data=body, method="POST")
        with urllib.request.urlopen(request, timeout=_SENDER_SECONDS) as answer:
            return json.load(answer)


@pytest.fixture(scope="module")
def orthanc_peer(
    running: Receiving, reference: Receiving, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Orthanc]:
    folder = tmp_path_factory.mktemp("orthanc")
    port, http_port = free_port(), free_port()
    command = orthanc(
        folder,
        port,
        http_port=http_port,
        OverwriteInstances=True,
        DicomModalities={
            "gateway": ["BIODATAMINE", "127.0.0.1", running.port],
            "reference": ["STORESCP", "127.0.0.1", reference.port],
        },
    )
    with ReceiverProcess(command, port, folder / "orthanc.log"):
        yield Orthanc(http_port)


@needs_orthanc
def test_orthanc_pushes_to_the_gateway(
    running: Receiving, reference: Receiving, orthanc_peer: Orthanc, tmp_path: Path
) -> None:
    instances, names = [], []
    for number, syntax in enumerate(DCMTK_PROPOSALS):
        path = tmp_path / f"{number}.dcm"
        instances.append(make_instance(path, syntax))
        names.append(orthanc_peer.post("/instances", path.read_bytes())["ID"])
    for peer in ("reference", "gateway"):
        answer = orthanc_peer.post(f"/modalities/{peer}/store", json.dumps(names).encode())
        assert (answer["InstancesCount"], answer["FailedInstancesCount"]) == (len(names), 0)
    for instance in instances:
        assert received(running, instance) == received(reference, instance)


@needs_orthanc
def test_orthanc_echoes(orthanc_peer: Orthanc) -> None:
    assert orthanc_peer.post("/modalities/gateway/echo", b"{}") == {}


# ---- TLS


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Private key and certificate, which all sides have and trust."""
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "90",
        "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
        "-keyout", key, "-out", certificate)  # fmt: skip
    return key, certificate


@pytest.fixture(scope="module")
def dcmtk_tls(identity: tuple[Path, Path]) -> list[str]:
    """dcmtk's options for mutual TLS."""
    key, certificate = map(str, identity)
    return ["--enable-tls", key, certificate, "--add-cert-file", certificate]


@pytest.fixture(scope="module")
def running_tls(
    receive_path: str,
    identity: tuple[Path, Path],
    dcmtk_tls: list[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Receiving]:
    """A gateway process that wants mutual TLS."""
    folder = tmp_path_factory.mktemp("gateway_tls")
    port = free_port()
    settings = {
        "BIODATAMINE_DICOM_RECEIVE_PATH": receive_path,
        "BIODATAMINE_DICOM_TLS_KEY": str(identity[0]),
        "BIODATAMINE_DICOM_TLS_CERTIFICATE": str(identity[1]),
        "BIODATAMINE_DICOM_TLS_CA": str(identity[1]),
        "BIODATAMINE_DICOM_TLS_CLIENT_CERTIFICATES": "required",
    }
    command = gateway(folder, port, settings=settings)
    with ReceiverProcess(command, port, folder / "gateway.log", echo_options=dcmtk_tls):
        yield _Folder(port, folder / "data" / "blobs", _BLOB)


def test_dcmtk_storescu_pushes_over_mutual_tls(
    running_tls: Receiving, reference: Receiving, dcmtk_tls: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "sent.dcm"
    instance = make_instance(path, "1.2.840.10008.1.2.1")
    run("storescu", "127.0.0.1", str(reference.port), path)
    run("storescu", *dcmtk_tls, "127.0.0.1", str(running_tls.port), path)
    assert received(running_tls, instance) == received(reference, instance)


def test_pynetdicom_pushes_over_mutual_tls(
    running_tls: Receiving, reference: Receiving, identity: tuple[Path, Path], tmp_path: Path
) -> None:
    path = tmp_path / "sent.dcm"
    instance = make_instance(path, "1.2.840.10008.1.2.1")
    context = ssl.create_default_context(cafile=str(identity[1]))
    context.load_cert_chain(identity[1], identity[0])
    entity = ApplicationEntity("TESTER")
    entity.add_requested_context(SecondaryCaptureImageStorage, "1.2.840.10008.1.2.1")
    for receiver, tls in ((reference, None), (running_tls, (context, "localhost"))):
        association = entity.associate("127.0.0.1", receiver.port, tls_args=tls)
        assert association.is_established
        assert association.send_c_store(dcmread(path)).Status == 0x0000
        association.release()
    assert received(running_tls, instance) == received(reference, instance)


def test_peers_without_tls_or_without_a_certificate_are_not_answered(
    running_tls: Receiving, identity: tuple[Path, Path], dcmtk_tls: list[str]
) -> None:
    where = ["127.0.0.1", str(running_tls.port)]
    waits = ["-to", "5", "-ta", "5", "-td", "5"]
    for options in ([], ["--anonymous-tls", "--add-cert-file", str(identity[1])]):
        asked = subprocess.run(
            ["echoscu", *waits, *options, *where], capture_output=True, timeout=60, check=False
        )
        assert asked.returncode != 0
    run("echoscu", *dcmtk_tls, *where)


@needs_orthanc
def test_orthanc_pushes_over_mutual_tls(
    running_tls: Receiving,
    reference: Receiving,
    identity: tuple[Path, Path],
    tmp_path: Path,
) -> None:
    port, http_port = free_port(), free_port()
    key, certificate = map(str, identity)
    command = orthanc(
        tmp_path,
        port,
        http_port=http_port,
        DicomTlsPrivateKey=key,
        DicomTlsCertificate=certificate,
        DicomTlsTrustedCertificates=certificate,
        DicomModalities={
            "gateway": {
                "AET": "BIODATAMINE",
                "Host": "127.0.0.1",
                "Port": running_tls.port,
                "UseDicomTls": True,
            },
            "reference": ["STORESCP", "127.0.0.1", reference.port],
        },
    )
    path = tmp_path / "sent.dcm"
    instance = make_instance(path, "1.2.840.10008.1.2.1")
    with ReceiverProcess(command, port, tmp_path / "orthanc.log"):
        peer = Orthanc(http_port)
        name = peer.post("/instances", path.read_bytes())["ID"]
        for modality in ("reference", "gateway"):
            answer = peer.post(f"/modalities/{modality}/store", json.dumps([name]).encode())
            assert answer["FailedInstancesCount"] == 0
    assert received(running_tls, instance) == received(reference, instance)


# ---- verification and AE titles


def test_pynetdicoms_echoscu_app(running: Receiving) -> None:
    run(sys.executable, "-m", "pynetdicom", "echoscu", "127.0.0.1", str(running.port))


@pytest.mark.parametrize("calling", ["STORESCU", "a", "lower case 1", "PACS/1#?*'\"", "A" * 16])
@pytest.mark.parametrize("called", ["BIODATAMINE", "ANY-SCP", "x"])
def test_dcmtk_echoscu_under_any_titles(running: Receiving, calling: str, called: str) -> None:
    run("echoscu", "-aet", calling, "-aec", called, "127.0.0.1", str(running.port))


@pytest.mark.parametrize(
    "title",
    [
        b" " * 16,
        bytes(16),
        b"PADDED".ljust(16, b"\0"),
        b"   LEADING      ",
        b"\\\x07\x1b[31m\r\n\t" * 2,
        b"Krankenh\xe4user 1 ",
        b"\xff" * 16,
    ],
)
def test_blank_and_odd_titles_on_the_wire(
    running: Receiving, receive_path: str, title: bytes
) -> None:
    title = title.ljust(16)[:16]
    with socket.create_connection(("127.0.0.1", running.port), timeout=20) as peer:
        peer.sendall(_associate_rq(called=title, calling=title))
        kind, body = _pdu(peer)
        if receive_path == "pynetdicom" and kind == 0x07:
            pytest.xfail("pynetdicom cannot read an AE title that is none; it aborts")
        assert kind == 0x02, f"A-ASSOCIATE-AC expected: {body!r}"
        # PS3.8 9.3.3: sent back as they came; pynetdicom moves them to the left.
        if receive_path == "native":
            assert body[4:36] == title * 2
        peer.sendall(_echo_rq())
        kind, body = _pdu(peer)
        assert kind == 0x04
        assert body.endswith(struct.pack("<HHIH", 0x0000, 0x0900, 2, 0x0000))
        peer.sendall(struct.pack(">BxI4x", 0x05, 4))
        assert _pdu(peer)[0] == 0x06


_VERIFICATION, _IMPLICIT = b"1.2.840.10008.1.1", b"1.2.840.10008.1.2"


def _item(kind: int, body: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(body)) + body


def _associate_rq(*, called: bytes, calling: bytes) -> bytes:
    # PS3.8 9.3.2
    context = struct.pack(">B3x", 1) + _item(0x30, _VERIFICATION) + _item(0x40, _IMPLICIT)
    user = _item(0x51, struct.pack(">I", 16384)) + _item(0x52, b"1.2.826.0.1.3680043.8.498.1")
    body = (
        struct.pack(">H2x", 1) + called + calling + bytes(32)
        + _item(0x10, b"1.2.840.10008.3.1.1.1") + _item(0x20, context) + _item(0x50, user)
    )  # fmt: skip
    return struct.pack(">BxI", 0x01, len(body)) + body


def _echo_rq() -> bytes:
    # PS3.7 9.3.5.1
    def element(number: int, value: bytes) -> bytes:
        return struct.pack("<HHI", 0x0000, number, len(value)) + value

    command = (
        element(0x0002, _VERIFICATION + b"\0") + element(0x0100, b"\x30\x00")
        + element(0x0110, b"\x01\x00") + element(0x0800, b"\x01\x01")
    )  # fmt: skip
    command = element(0x0000, struct.pack("<I", len(command))) + command
    value = struct.pack(">IBB", len(command) + 2, 1, 0x03) + command
    return struct.pack(">BxI", 0x04, len(value)) + value


def _pdu(peer: socket.socket) -> tuple[int, bytes]:
    kind, length = struct.unpack(">BxI", _exactly(peer, 6))
    return kind, _exactly(peer, length)


def _exactly(peer: socket.socket, size_bytes: int) -> bytes:
    got = b""
    while len(got) < size_bytes:
        piece = peer.recv(size_bytes - len(got))
        assert piece, "the gateway closed the connection"
        got += piece
    return got
