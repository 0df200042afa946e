"""Peers that break the protocol, or use it up: each has its end, and others do not notice.

The bounds that hold for each of them: the deadline of the settings plus ``SLACK_SECONDS``, 10 MB of
memory over all processes of the gateway, a C-ECHO of somebody else within a second meanwhile, and
nothing in inbox or store that was not acknowledged. The second receive path cannot keep all of
them; ``PYNETDICOM_CANNOT`` says which.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.receivers import ReceiverProcess, free_port, gateway
from tests.support.stack import wait_for
from tests.support.upper_layer import (
    CT,
    EXPLICIT,
    RELEASE_RP,
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

MAX_PDU = 64 * 1024
MAX_DATASET = 1 << 20
ASSOCIATIONS = 8
REQUEST_SECONDS = 2.0
MESSAGE_SECONDS = 2.0
IDLE_SECONDS = 3.0
# Ticks of the loops, the time to say why, and a busy machine.
SLACK_SECONDS = 6.0
ECHO_SECONDS = 1.0
MORE_BYTES = 10_000_000

SETTINGS = {
    "BIODATAMINE_DICOM_MAX_PDU_BYTES": str(MAX_PDU),
    "BIODATAMINE_DICOM_MAX_DATASET_BYTES": str(MAX_DATASET),
    "BIODATAMINE_DICOM_MAX_ASSOCIATIONS": str(ASSOCIATIONS),
    "BIODATAMINE_DICOM_ACSE_TIMEOUT_SECONDS": str(REQUEST_SECONDS),
    "BIODATAMINE_DICOM_DIMSE_TIMEOUT_SECONDS": str(MESSAGE_SECONDS),
    "BIODATAMINE_DICOM_NETWORK_TIMEOUT_SECONDS": str(IDLE_SECONDS),
    "BIODATAMINE_DICOM_RECEIVE_PROCESSES": "2",
    "BIODATAMINE_SHUTDOWN_SECONDS": "0",
}

# What the second path does instead, as it was seen.
_WAITS_FOR_REST = "waits without a deadline until the PDU is whole"
_SAYS_NOT_WHY = "aborts, and gives no reason"
_SAYS_NOTHING = "closes the connection without an A-ABORT"
PYNETDICOM_CANNOT = {
    "pdu longer than negotiated": _WAITS_FOR_REST,
    "pdu of 1.5 GB": _SAYS_NOTHING,
    "pdv of length 0": _WAITS_FOR_REST,
    "pdv of length 1": _WAITS_FOR_REST,
    "pdv beyond its pdu": _WAITS_FOR_REST,
    "unknown pdu": _SAYS_NOT_WHY,
    "second request": _SAYS_NOT_WHY,
    "release in a message": "answers the release",
    "unaccepted context": "aborts at the end of its time between messages",
    "dataset without a command": _SAYS_NOT_WHY,
    "first pdu of 1.5 GB": _SAYS_NOTHING,
    "data before association": _SAYS_NOT_WHY,
    "unknown first pdu": _SAYS_NOT_WHY,
    "junk request": _SAYS_NOT_WHY,
    "silent association": "aborts as if it were its user (source 0)",
    "half a pdu": _WAITS_FOR_REST,
    "silence in a dataset": "aborts at the end of its time between messages",
    "request that trickles": _WAITS_FOR_REST,
    "dataset that trickles": _WAITS_FOR_REST,
    "dataset without an end": "reads it for ever",
    "silent connections": "counts them as associations, and rejects everybody else",
    "half requests": _WAITS_FOR_REST,
    "costly requests": "accepts them, after a second each",
}


class Gateway:
    """A gateway process, and what the tests look at."""

    def __init__(self, folder: Path, receive_path: str) -> None:
        self.path = receive_path
        self.port = free_port()
        settings = SETTINGS | {"BIODATAMINE_DICOM_RECEIVE_PATH": receive_path}
        self.process = ReceiverProcess(
            gateway(folder, self.port, settings=settings), self.port, folder / "gateway.log"
        )
        self._data = folder / "data"
        self.acknowledged = 0

    def stored(self) -> int:
        blobs = self._data / "blobs"
        return sum(path.is_file() and len(path.name) == 64 for path in blobs.rglob("*"))

    def are_whole(self) -> bool:
        """Whether the bytes of every blob are what its name says."""
        blobs = [path for path in (self._data / "blobs").rglob("*") if len(path.name) == 64]
        return all(hashlib.sha256(path.read_bytes()).hexdigest() == path.name for path in blobs)

    def unfinished(self) -> int:
        """Slots that hold something; spare ones are empty."""
        count = 0
        for path in (self._data / "gateway" / "inbox").glob("*.slot"):
            with contextlib.suppress(FileNotFoundError):
                count += path.stat().st_size > 0
        return count

    def store(self) -> None:
        """Store an instance, as a peer that keeps to everything."""
        self.acknowledged += 1
        uid = f"1.2.3.{self.acknowledged}"
        with Peer(self.port) as peer:
            peer.associate()
            peer.send(store_rq(uid) + p_data(pdv(3, 2, dataset(uid, tail=pixels(20_000)))))
            assert peer.status() == 0x0000
            peer.release()

    def echo(self) -> float:
        """A C-ECHO over an association of its own; seconds from connection to answer."""
        began = time.monotonic()
        with Peer(self.port) as peer:
            peer.associate()
            peer.send(echo_rq())
            assert peer.status() == 0x0000
            took = time.monotonic() - began
            peer.release()
        return took


@pytest.fixture(scope="module", params=["native", "pynetdicom"])
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    made = Gateway(tmp_path_factory.mktemp("gateway"), str(request.param))
    with made.process:
        # What Python loads at first use, and the buffers that are kept, are no growth.
        for _ in range(5):
            made.store()
        threads = [threading.Thread(target=made.store) for _ in range(ASSOCIATIONS - 1)]
        for thread in threads:
            thread.start()
            thread.join()
        for pdu in (struct.pack(">BxI", 0x01, 1_500_000_000), b"junk"):
            with Peer(made.port) as peer:
                peer.send(pdu)
                peer.socket.shutdown(socket.SHUT_WR)
                peer.receive()
        wait_for(lambda: made.stored() == made.acknowledged, seconds=30, what="all is filed")
        yield made


class Abuse:
    """What goes on while somebody breaks the protocol."""

    def __init__(self, running: Gateway) -> None:
        self._gateway = running
        self._done = threading.Event()
        self._echoes: list[float] = []
        self._failures: list[Exception] = []
        self._thread = threading.Thread(target=self._echo, daemon=True)

    def __enter__(self) -> Abuse:
        self._before_bytes = self._gateway.process.resident_bytes()
        self._most_bytes = self._before_bytes
        self._thread.start()
        return self

    def _echo(self) -> None:
        # At least once, and then as long as it goes on.
        while True:
            try:
                self._echoes.append(self._gateway.echo())
            except Exception as error:  # noqa: BLE001 (told when it ends)
                self._failures.append(error)
                return
            self._most_bytes = max(self._most_bytes, self._gateway.process.resident_bytes())
            if self._done.wait(0.1):
                return

    def __exit__(self, kind: Any, *error: object) -> None:
        self._done.set()
        self._thread.join(60)
        if kind is not None:
            return
        assert not self._failures, self._failures
        assert max(self._echoes) < ECHO_SECONDS, self._echoes
        assert self._most_bytes - self._before_bytes < MORE_BYTES
        wait_for(lambda: not self._gateway.unfinished(), seconds=20, what="the inbox is empty")
        assert self._gateway.stored() == self._gateway.acknowledged
        self._gateway.store()
        wait_for(
            lambda: self._gateway.stored() == self._gateway.acknowledged,
            seconds=20,
            what="the next instance is filed",
        )


@pytest.fixture
def abuse(running: Gateway, request: pytest.FixtureRequest) -> Abuse:
    name = request.node.callspec.params.get("name")
    if running.path == "pynetdicom" and name in PYNETDICOM_CANNOT:
        pytest.skip(f"pynetdicom {PYNETDICOM_CANNOT[name]}")
    return Abuse(running)


def ends_with(peer: Peer, within_seconds: float, wanted: bytes) -> None:
    """The peer is told why, and the connection ends."""
    began = time.monotonic()
    peer.socket.settimeout(within_seconds + SLACK_SECONDS)
    kind, body = peer.receive()
    assert (kind, body[-len(wanted) :]) == (wanted[0], wanted[-len(body) :])
    assert peer.is_closed()
    assert time.monotonic() - began < within_seconds + SLACK_SECONDS


def aborted(reason: int) -> bytes:
    return bytes((0x07, 0, 0, 0, 0, 4, 0, 0, 2, reason))


# ---- what breaks the protocol at once

HEAD = struct.pack(">BxI", 0x04, 1000)

BROKEN: dict[str, tuple[bytes, int]] = {
    "pdu longer than negotiated": (struct.pack(">BxI", 0x04, MAX_PDU + 1), 6),
    "pdu of 1.5 GB": (struct.pack(">BxI", 0x04, 1_500_000_000), 6),
    "pdv of length 0": (HEAD + struct.pack(">IBB", 0, 3, 0), 6),
    "pdv of length 1": (HEAD + struct.pack(">IBB", 1, 3, 0), 6),
    "pdv beyond its pdu": (HEAD + struct.pack(">IBB", 1001, 3, 0), 6),
    "unknown pdu": (b"\x09\x00\x00\x00\x00\x04abcd", 1),
    "second request": (associate_rq(), 2),
    "release in a message": (store_rq("1.9") + struct.pack(">BxI4x", 0x05, 4), 2),
    "unaccepted context": (store_rq("1.9", number=77), 6),
    "dataset without a command": (p_data(pdv(3, 2, b"data")), 5),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_breaks_the_protocol_is_aborted(running: Gateway, abuse: Abuse, name: str) -> None:
    sent, reason = BROKEN[name]
    with abuse, Peer(running.port) as peer:
        peer.associate()
        peer.send(sent)
        ends_with(peer, 0, aborted(reason))
    if name == "dataset without a command":
        # Behind a command it is one.
        return
    with Abuse(running), Peer(running.port) as peer:
        # The same in the middle of a dataset.
        peer.associate()
        peer.send(store_rq("1.9") + p_data(pdv(3, 0, dataset("1.9"))))
        peer.send(sent)
        kind, body = peer.receive()
        assert (kind, body[2]) == (0x07, 2)


FIRST: dict[str, tuple[bytes, int]] = {
    "first pdu of 1.5 GB": (struct.pack(">BxI", 0x01, 1_500_000_000) + bytes(100), 6),
    "data before association": (echo_rq(), 2),
    "unknown first pdu": (b"GET / HTTP/1.1\r\n\r\n", 1),
    "junk request": (struct.pack(">BxI", 0x01, 100) + os.urandom(100), 6),
}


@pytest.mark.parametrize("name", FIRST)
def test_what_is_no_request_is_aborted(running: Gateway, abuse: Abuse, name: str) -> None:
    sent, reason = FIRST[name]
    with abuse:
        for _ in range(20):
            with Peer(running.port) as peer:
                peer.send(sent)
                ends_with(peer, 0, aborted(reason))


# ---- what takes its time


@pytest.mark.parametrize("name", ["silent association"])
def test_an_association_that_says_nothing(running: Gateway, abuse: Abuse, name: str) -> None:
    with abuse, Peer(running.port) as peer:
        peer.associate()
        ends_with(peer, IDLE_SECONDS, aborted(0))


@pytest.mark.parametrize("name", ["half a pdu"])
def test_half_a_pdu(running: Gateway, abuse: Abuse, name: str) -> None:
    with abuse, Peer(running.port) as peer:
        peer.associate()
        peer.send(HEAD[:3])
        ends_with(peer, MESSAGE_SECONDS, aborted(0))


@pytest.mark.parametrize("name", ["silence in a dataset"])
def test_a_dataset_that_stops(running: Gateway, abuse: Abuse, name: str) -> None:
    with abuse, Peer(running.port) as peer:
        peer.associate()
        peer.send(store_rq("1.9") + p_data(pdv(3, 0, dataset("1.9", tail=pixels(20_000)))))
        ends_with(peer, MESSAGE_SECONDS, aborted(0))


def trickle(peer: Peer, data: bytes, per_second: float) -> float:
    """Send a byte after the other until the connection ends; return seconds that it took."""
    began = time.monotonic()
    peer.socket.settimeout(1 / per_second)
    for index in range(len(data)):
        peer.send(data[index : index + 1])
        with contextlib.suppress(TimeoutError, ConnectionResetError):
            # The wait is for the answer, not for time to pass.
            peer.socket.recv(1, socket.MSG_PEEK)
            break
    return time.monotonic() - began


@pytest.mark.parametrize("name", ["request that trickles"])
def test_a_request_a_byte_at_a_time(running: Gateway, abuse: Abuse, name: str) -> None:
    with abuse, Peer(running.port) as peer:
        assert trickle(peer, associate_rq(), 4) < REQUEST_SECONDS + SLACK_SECONDS
        assert peer.is_closed()


@pytest.mark.parametrize("name", ["dataset that trickles"])
def test_a_dataset_a_byte_at_a_time(running: Gateway, abuse: Abuse, name: str) -> None:
    with abuse, Peer(running.port) as peer:
        peer.associate()
        peer.send(store_rq("1.9") + HEAD)
        assert trickle(peer, pdv(3, 0, bytes(500)), 4) < MESSAGE_SECONDS + SLACK_SECONDS
        ends_with(peer, 0, aborted(0))


@pytest.mark.parametrize("name", ["dataset without an end"])
def test_a_dataset_without_an_end(running: Gateway, abuse: Abuse, name: str) -> None:
    piece = p_data(pdv(3, 0, bytes(32_000)))
    with abuse, Peer(running.port) as peer:
        peer.associate()
        peer.send(store_rq("1.9") + p_data(pdv(3, 0, dataset("1.9"))))
        sent_bytes, began = 0, time.monotonic()
        peer.socket.setblocking(False)
        while time.monotonic() - began < 30:
            answered, writable, _ = select.select([peer.socket], [peer.socket], [], 1.0)
            if answered:
                break
            if writable:
                # The kernel may take a part of a piece; the next turn goes on where it stopped.
                sent_bytes += peer.socket.send(piece[sent_bytes % len(piece) :])
        # Twice the limit, and what lies in the buffers of the connection.
        assert 2 * MAX_DATASET < sent_bytes + len(piece) < 2 * MAX_DATASET + (16 << 20)


# ---- what uses it up


@pytest.mark.parametrize("name", ["silent connections"])
def test_500_silent_connections(running: Gateway, abuse: Abuse, name: str) -> None:
    with abuse, contextlib.ExitStack() as stack:
        began = time.monotonic()
        peers = [stack.enter_context(Peer(running.port)) for _ in range(500)]
        for peer in peers:
            peer.socket.settimeout(REQUEST_SECONDS + SLACK_SECONDS)
            assert peer.is_closed()
        assert time.monotonic() - began < REQUEST_SECONDS + SLACK_SECONDS


def largest_request() -> bytes:
    syntaxes = [f"1.2.840.10008.1.2.{index}" for index in range(60)]
    return associate_rq([context(2 * i + 1, f"1.2.3.{i}", *syntaxes) for i in range(128)])


@pytest.mark.parametrize("name", ["half requests"])
def test_requests_that_never_become_whole_are_bounded_together(
    running: Gateway, abuse: Abuse, name: str
) -> None:
    half = largest_request()[:-1]
    with abuse, contextlib.ExitStack() as stack:
        peers = [stack.enter_context(Peer(running.port)) for _ in range(80)]
        for peer in peers:
            peer.socket.setblocking(False)
            with contextlib.suppress(OSError):
                peer.socket.send(half)
        for peer in peers:
            peer.socket.settimeout(REQUEST_SECONDS + SLACK_SECONDS)
            with contextlib.suppress(ConnectionResetError):
                while peer.socket.recv(1024):
                    pass


@pytest.mark.parametrize("name", ["costly requests"])
def test_costly_requests_do_not_hold_up_the_door(running: Gateway, abuse: Abuse, name: str) -> None:
    contexts = [context(1, CT, EXPLICIT)] * 10_000
    costly = associate_rq(contexts)
    assert len(costly) > 400_000
    with abuse:
        for _ in range(30):
            with Peer(running.port) as peer:
                peer.send(costly)
                ends_with(peer, 0, aborted(6))


def test_a_flood_of_associations(running: Gateway) -> None:
    # No C-ECHO of somebody else here: there is no place for it, and that is the rejection's point.
    with contextlib.ExitStack() as stack:
        peers: list[Peer] = []

        def fill() -> bool:
            # Those of earlier tests may still be ending.
            peer = stack.enter_context(Peer(running.port))
            peer.send(associate_rq())
            if peer.receive()[0] == 0x02:
                peers.append(peer)
            return len(peers) == ASSOCIATIONS

        wait_for(fill, seconds=20, what="all places are taken", pause_seconds=0.02)
        for _ in range(20):
            with Peer(running.port) as peer:
                peer.send(associate_rq())
                kind, body = peer.receive()
                assert (kind, body) == (0x03, bytes((0, 2, 3, 2)))
                assert peer.is_closed()
        peers[0].release()
        peers[0].socket.close()
        wait_for(lambda: _places(running) >= 1, seconds=20, what="there is a place again")


def _places(running: Gateway) -> int:
    with contextlib.ExitStack() as stack:
        for count in range(ASSOCIATIONS):
            peer = stack.enter_context(Peer(running.port))
            peer.send(associate_rq())
            if peer.receive()[0] != 0x02:
                return count
    return ASSOCIATIONS


# ---- who goes


def go(peer: Peer, how: str) -> None:
    if how == "reset":
        peer.reset()
    else:
        peer.socket.close()


@pytest.mark.parametrize("how", ["reset", "close"])
def test_a_sender_that_goes_in_mid_dataset(running: Gateway, abuse: Abuse, how: str) -> None:
    with abuse, Peer(running.port) as peer:
        peer.associate()
        peer.send(store_rq("1.9") + p_data(pdv(3, 0, dataset("1.9", tail=pixels(20_000)))) + HEAD)
        go(peer, how)
    # Not beside the echoes, which need a place themselves.
    wait_for(lambda: _places(running) == ASSOCIATIONS, seconds=20, what="it has ended")


@pytest.mark.parametrize("how", ["reset", "close"])
def test_a_sender_that_goes_before_the_response(running: Gateway, how: str) -> None:
    uid = f"1.5.{len(how)}"
    with Peer(running.port) as peer:
        peer.associate()
        peer.send(store_rq(uid) + p_data(pdv(3, 2, dataset(uid, tail=pixels(20_000)))))
        go(peer, how)
    wait_for(lambda: _places(running) == ASSOCIATIONS, seconds=20, what="it has ended")
    wait_for(lambda: not running.unfinished(), seconds=20, what="the inbox is empty")
    # Whole or not at all; both are right, for it was never answered.
    assert running.stored() - running.acknowledged in (0, 1)
    running.acknowledged = running.stored()
    assert running.are_whole()


def test_a_release_response_that_nobody_asked_for(running: Gateway) -> None:
    with Peer(running.port) as peer:
        peer.associate()
        peer.send(RELEASE_RP)
        kind, _ = peer.receive()
        assert kind in (0x07, 0)
