"""One association over a pair of sockets: deadlines by a clock that is passed in, and order."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from dicom_gateway.native import association as module
from dicom_gateway.native.association import Association, Limits
from dicom_gateway.native.command import Command
from dicom_gateway.native.negotiation import Acceptance, Context
from dicom_gateway.storing.arrival import Origin
from dicom_gateway.storing.inbox import Inbox
from dicom_gateway.storing.receiver import Arrival, Receiver
from dicom_gateway.storing.sop_classes import STORAGE_COMMITMENT, VERIFICATION
from schemas.facts import Association as Facts
from tests.support.stack import wait_for
from tests.support.upper_layer import (
    CT,
    EXPLICIT,
    IMPLICIT,
    RELEASE_RQ,
    Peer,
    command,
    dataset,
    echo_rq,
    p_data,
    pdv,
    pixels,
    store_rq,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
LIMITS = Limits(
    idle_seconds=300,
    message_seconds=60,
    min_bytes_per_second=100,
    max_pdu_bytes=16384,
    max_message_bytes=1 << 20,
)
CONTEXTS = {
    1: Context(VERIFICATION, IMPLICIT),
    3: Context(CT, EXPLICIT),
    5: Context(STORAGE_COMMITMENT, IMPLICIT),
}


class Time:
    """A clock that goes on only while the association waits for its peer."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.tick_seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class Line:
    """The association's end of the line; a wait that brings nothing takes a tick.

    After so many bytes at once the others come slowly, so many in a second.
    """

    def __init__(
        self, connection: socket.socket, time: Time, *, at_once_bytes: int, then_bytes: int
    ) -> None:
        self._connection = connection
        self._time = time
        self._at_once_bytes = at_once_bytes
        self._then_bytes = then_bytes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def recv_into(self, view: memoryview) -> int:
        is_slow = not self._at_once_bytes
        try:
            count = self._connection.recv_into(
                view[: self._then_bytes if is_slow else self._at_once_bytes]
            )
        except BlockingIOError:
            self._time.seconds += self._time.tick_seconds
            raise
        if is_slow:
            self._time.seconds += 1
        else:
            self._at_once_bytes -= count
        return count


class Both:
    """An association in a thread, and its peer."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.time = Time()
        self.arrivals: list[Arrival] = []
        self.answers: list[tuple[int, str]] = []
        self.folder = folder
        self._box = Inbox(folder, token="p", spare=0)
        receiver = Receiver(
            self._box,
            uri=str,
            on_arrival=self.arrivals.append,
            clock=lambda: NOW,
            max_dataset_bytes=200_000,
        )
        ours, theirs = socket.socketpair()
        line: Any = Line(
            ours,
            self.time,
            at_once_bytes=changes.pop("at_once_bytes", 1 << 40),
            then_bytes=changes.pop("then_bytes", 1),
        )
        self.association = Association(
            line,
            Acceptance(b"\x02\x00\x00\x00\x00\x00", CONTEXTS),
            origin=Origin(
                "t", "d", Facts(association_id="a", calling_ae_title="X", called_ae_title="Y")
            ),
            judge=changes.pop("judge", lambda *_: True),
            receiver=receiver,
            observer=self,
            limits=Limits(**(vars(LIMITS) | changes)),
            clock=self.time,
        )
        self.thread = threading.Thread(target=self.association.run, daemon=True)
        self.thread.start()
        self.peer = object.__new__(Peer)
        self.peer.socket = theirs
        theirs.settimeout(20)
        assert self.peer.receive() == (0x02, b"")

    def answered(self, status: int, reason: str) -> None:
        self.answers.append((status, reason))

    def action(
        self, association: Association, request: Command, dataset: bytes, context: Context
    ) -> int:
        self.action_data = dataset
        return 0x0000

    def ended(self) -> tuple[int, int] | None:
        """Source and reason of the A-ABORT with which it ended; None if there was none."""
        kind, body = self.peer.receive()
        while kind == 0x04:
            kind, body = self.peer.receive()
        self.peer.socket.close()
        self.thread.join(20)
        assert not self.thread.is_alive()
        # Only what was stored is left.
        assert len(list(self.folder.iterdir())) == len(self.arrivals)
        return (body[2], body[3]) if kind == 0x07 else None

    def close(self) -> None:
        self.peer.socket.close()
        self.thread.join(20)
        self._box.close()


@pytest.fixture
def both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(module, "_TICK_SECONDS", 0.02)
    made: list[Both] = []

    def make(**changes: Any) -> Both:
        made.append(Both(tmp_path / str(len(made)), **changes))
        return made[-1]

    yield make
    for one in made:
        one.close()


# ---- deadlines


def test_a_silent_association_ends_after_its_time(both: Any) -> None:
    one = both()
    one.time.tick_seconds = 29
    assert one.ended() == (2, 0)
    # 11 ticks are the first that are more than 300 s.
    assert one.time.seconds == 11 * 29


def test_a_message_that_stops_ends_after_its_time(both: Any) -> None:
    one = both()
    one.peer.send(store_rq("1.2") + p_data(pdv(3, 0, dataset("1.2"))))
    one.time.tick_seconds = 7
    assert one.ended() == (2, 0)
    assert one.time.seconds <= 70


@pytest.mark.parametrize("sent", [b"\x04", store_rq("1.2")[:9], store_rq("1.2"), RELEASE_RQ[:7]])
def test_what_is_not_whole_ends_after_the_time_of_a_message(both: Any, sent: bytes) -> None:
    one = both()
    one.peer.send(sent)
    one.time.tick_seconds = 7
    assert one.ended() == (2, 0)
    assert one.time.seconds <= 70


@pytest.mark.parametrize("at_once_bytes", [0, 10_000])
@pytest.mark.parametrize(("then_bytes", "is_whole"), [(1, False), (99, False), (101, True)])
def test_the_slowest_rate_holds_in_every_minute(
    both: Any, at_once_bytes: int, then_bytes: int, is_whole: bool
) -> None:
    # What came fast buys no time for what comes after it.
    one = both(at_once_bytes=at_once_bytes, then_bytes=then_bytes)
    data = dataset("1.2", tail=pixels(30_000))
    one.peer.send(store_rq("1.2") + p_data(pdv(3, 0, data[:15_000])))
    one.peer.send(p_data(pdv(3, 0, data[15_000:30_000])) + p_data(pdv(3, 2, data[30_000:])))
    if is_whole:
        assert one.peer.status() == 0x0000
        assert one.time.seconds > 200
    else:
        assert one.ended() == (2, 0)
        assert one.time.seconds <= 125


def test_our_own_time_is_not_held_against_the_peer(both: Any) -> None:
    one = both()

    # Judging takes an hour, in the middle of a message.
    def judge(*_: str) -> bool:
        one.time.seconds += 3600
        return True

    one.association._judge = judge
    data = dataset("1.2")
    one.peer.send(store_rq("1.2") + p_data(pdv(3, 0, data[:20]))[:-5])
    one.peer.send(p_data(pdv(3, 0, data[:20]))[-5:] + p_data(pdv(3, 2, data[20:])))
    assert one.peer.status() == 0x0000
    one.peer.release()
    assert len(one.arrivals) == 1


def test_idle_time_begins_anew_with_every_message(both: Any) -> None:
    one = both()
    for _ in range(5):
        one.peer.send(echo_rq())
        assert one.peer.status() == 0
        one.time.seconds += 299
    one.peer.release()


# ---- bounds


def test_a_message_without_an_end_is_read_so_far_and_no_further(both: Any) -> None:
    one = both(judge=lambda *_: False)
    one.peer.send(store_rq("1.2"))
    piece = p_data(pdv(3, 0, bytes(16_000)))
    for _ in range(80):
        one.peer.send(piece)
    assert one.ended() == (2, 6)


def test_many_messages_may_be_longer_than_one(both: Any) -> None:
    one = both()
    data = dataset("1.2", tail=pixels(150_000))
    pieces = [data[i : i + 16_000] for i in range(0, len(data), 16_000)]
    message = store_rq("1.2") + b"".join(
        p_data(pdv(3, 2 if index == len(pieces) - 1 else 0, piece))
        for index, piece in enumerate(pieces)
    )

    # All at once, so that no message ends where a read does.
    sender = threading.Thread(target=one.peer.send, args=(message * 20,))
    sender.start()
    assert [one.peer.status() for _ in range(20)] == [0] * 20
    sender.join()
    one.peer.release()


def test_a_dataset_beyond_the_limit_has_its_status(both: Any) -> None:
    one = both()
    one.peer.send(store_rq("1.2"))
    for index in range(20):
        one.peer.send(p_data(pdv(3, 2 if index == 19 else 0, bytes(16_000))))
    assert one.peer.status() == 0xA701
    one.peer.send(store_rq("1.2") + p_data(pdv(3, 2, dataset("1.2"))))
    assert one.peer.status() == 0x0000
    one.peer.release()


def test_a_command_without_an_end(both: Any) -> None:
    one = both()
    for _ in range(9):
        one.peer.send(p_data(pdv(3, 1, bytes(10_000))))
    assert one.ended() == (2, 6)


# ---- order


SAID = command(affected_class=CT, field=1, message_id=1, dataset=0, affected_instance="1.2")


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (p_data(pdv(3, 2, b"data")), 5),
        (store_rq("1.2") + p_data(pdv(3, 3, SAID)), 5),
        (p_data(pdv(7, 3, SAID)), 6),
        (store_rq("1.2") + p_data(pdv(1, 2, b"data")), 6),
        (p_data(pdv(3, 1, SAID[:10]), pdv(1, 3, SAID[10:])), 6),
        (p_data(pdv(3, 3, b"no command")), 6),
        (p_data(pdv(3, 3, b"")), 6),
        (store_rq("1.2") + RELEASE_RQ, 2),
        (store_rq("1.2") + p_data(pdv(3, 0, b"half")) + RELEASE_RQ, 2),
        (b"\x01\x00\x00\x00\x00\x44", 2),
        (b"\x09\x00\x00\x00\x00\x00", 1),
    ],
)
def test_what_breaks_the_order_is_aborted(both: Any, sent: bytes, reason: int) -> None:
    one = both()
    one.peer.send(sent)
    assert one.ended() == (2, reason)


@pytest.mark.parametrize("half", [b"", store_rq("1.2"), store_rq("1.2") + p_data(pdv(3, 0, b"x"))])
@pytest.mark.parametrize("how", ["close", "abort"])
def test_a_peer_that_goes_leaves_nothing(both: Any, half: bytes, how: str) -> None:
    one = both()
    one.peer.send(half + (b"\x07\x00\x00\x00\x00\x04\x00\x00\x00\x00" if how == "abort" else b""))
    one.peer.socket.shutdown(socket.SHUT_WR)
    assert one.ended() is None


def test_a_store_on_a_context_that_is_for_something_else(both: Any) -> None:
    one = both()
    one.peer.send(store_rq("1.2", number=1) + p_data(pdv(1, 2, dataset("1.2"))))
    assert one.peer.status() == 0x0122
    one.peer.send(echo_rq())
    assert one.peer.status() == 0x0000
    one.peer.release()


def test_an_unknown_request_is_answered_and_a_cancel_is_not(both: Any) -> None:
    one = both()
    find = command(affected_class=CT, field=0x20, message_id=1, dataset=0)
    cancel = command(field=0x0FFF, dataset=0x0101)
    one.peer.send(p_data(pdv(3, 3, find)) + p_data(pdv(3, 2, b"identifier")))
    assert one.peer.status() == 0x0211
    one.peer.send(p_data(pdv(3, 3, cancel)))
    one.peer.send(echo_rq())
    assert one.peer.status() == 0x0000
    one.peer.release()


def test_stop_aborts(both: Any) -> None:
    one = both()
    one.peer.send(store_rq("1.2"))
    one.association.stop()
    assert one.ended() == (2, 0)


def test_a_fault_of_ours_is_an_abort_and_tells_nothing_of_the_data(
    both: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    one = both()

    def fail(*_: Any) -> int:
        raise RuntimeError("Doe^Jane")

    one.action = fail
    said = command(requested_class=STORAGE_COMMITMENT, field=0x130, message_id=1, dataset=0x0101)
    one.peer.send(p_data(pdv(5, 3, said)))
    assert one.ended() == (2, 0)
    captured = capfd.readouterr()
    assert "Doe" not in captured.out + captured.err


# ---- reports of storage commitment


def test_a_report_waits_for_the_end_of_a_message(both: Any) -> None:
    one = both()
    taken: list[bool] = []
    data = dataset("1.2")
    one.peer.send(echo_rq())
    assert one.peer.status() == 0
    one.peer.send(store_rq("1.2") + p_data(pdv(3, 0, data[:20])))
    wait_for(
        lambda: one.association._incoming is not None,
        seconds=20,
        what="the dataset has begun",
        pause_seconds=0.01,
    )
    one.association.report(1, lambda syntax: syntax.encode(), taken.append)
    one.peer.send(p_data(pdv(3, 2, data[20:])))
    assert one.peer.status() == 0x0000
    kind, body = one.peer.receive()
    assert (kind, body[4]) == (0x04, 5)
    assert one.peer.receive()[1][6:] == IMPLICIT.encode()
    answer = command(field=0x8100, responded=1, dataset=0x0101, status=0)
    one.peer.send(p_data(pdv(5, 3, answer)))
    one.peer.release()
    one.thread.join(20)
    assert taken == [True]


def test_a_report_that_nobody_confirms_is_not_taken(both: Any) -> None:
    one = both()
    taken: list[bool] = []
    one.association.report(1, lambda syntax: b"xx", taken.append)
    one.peer.receive()
    one.peer.socket.close()
    one.thread.join(20)
    one.association.report(1, lambda syntax: b"xx", taken.append)
    assert taken == [False, False]


def test_random_bytes_end_it(both: Any) -> None:
    one = both()
    one.time.tick_seconds = 100
    one.peer.send(os.urandom(5000))
    assert one.ended() is not None
