"""The door: from a TCP connection to an association, without giving silent peers a thread.

One loop holds every connection that has not yet asked for an association: TLS handshake, then one
whole A-ASSOCIATE-RQ, within a deadline and within bytes that are bounded for each connection and
for all of them together. A probe that opens and closes a connection costs an entry in a table. Only
a request that is accepted gets a thread.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import ssl
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import structlog

from dicom_gateway.aes.entities import AssociationRefused
from dicom_gateway.native.negotiation import AssociationRequest, read_request
from dicom_gateway.native.pdu import (
    ABORT,
    ASSOCIATE_RQ,
    PDU_HEADER_BYTES,
    AbortReason,
    ProtocolError,
    abort_pdu,
    reject_pdu,
)

_log = structlog.get_logger("dicom_gateway")

MAX_REQUEST_BYTES = 512 * 1024
"""Longest A-ASSOCIATE-RQ: 128 contexts with 60 transfer syntaxes each take 250 kB."""

MAX_WAITING_BYTES = 4 << 20
"""What all connections together may have sent before their requests are whole."""

_MIN_REQUEST_BYTES = 68
_READ_BYTES = 64 * 1024
_LINGER_SECONDS = 1.0
_LENGTH = struct.Struct(">xxI")


@dataclass
class Knock:
    """A connection that has not yet asked for an association, or is being turned away."""

    number: int
    connection: socket.socket
    address: str
    deadline: float
    received: bytearray = field(default_factory=bytearray)
    is_handshaking: bool = False
    is_asking: bool = False
    is_leaving: bool = False


Welcome = Callable[[Knock, AssociationRequest], None]
"""Decides over a request; ``Door.let_in`` or ``Door.refuse`` follows, now or later."""


class Door:
    """Connections before their associations; everything runs in the loop that calls ``turn``.

    Parameters
    ----------
    selector : BaseSelector
        The loop's; the door registers its connections with themselves as data.
    welcome : callable
        Told of each request that is whole.
    on_gone : callable
        Told when a connection ends here and will never be let in.
    request_seconds : float
        Within this time a request has to be whole (the ARTIM timer of PS3.8 9.1.5).
    tls : SSLContext or None
        With which peers have to speak.
    clock : callable
        Monotonic seconds.
    """

    def __init__(
        self,
        selector: selectors.BaseSelector,
        welcome: Welcome,
        *,
        on_gone: Callable[[Knock], None],
        request_seconds: float,
        tls: ssl.SSLContext | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._selector = selector
        self._welcome = welcome
        self._on_gone = on_gone
        self._request_seconds = request_seconds
        self._tls = tls
        self._clock = clock
        self._knocks: dict[int, Knock] = {}
        # At least what they have sent; counted anew when it seems too much.
        self._waiting_bytes = 0

    def __contains__(self, knock: Knock) -> bool:
        return self._knocks.get(knock.number) is knock

    def knock(self, number: int, connection: socket.socket, address: str) -> None:
        """Take a new connection, by whose number it is known."""
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        knock = Knock(number, connection, address, self._clock() + self._request_seconds)
        if self._tls is not None:
            try:
                knock.connection = self._tls.wrap_socket(
                    connection, server_side=True, do_handshake_on_connect=False
                )
            except OSError:
                connection.close()
                self._on_gone(knock)
                return
            knock.is_handshaking = True
        self._knocks[number] = knock
        self._selector.register(knock.connection, selectors.EVENT_READ, knock)

    def ready(self, knock: Knock) -> None:
        """Go on with a connection that the selector named."""
        try:
            if knock.is_handshaking:
                self._shake_hands(knock)
            elif knock.is_leaving:
                if not knock.connection.recv(_READ_BYTES):
                    self._forget(knock)
            else:
                self._read(knock)
        except BlockingIOError:
            return
        except ssl.SSLWantReadError:
            self._selector.modify(knock.connection, selectors.EVENT_READ, knock)
        except ssl.SSLWantWriteError:
            self._selector.modify(knock.connection, selectors.EVENT_WRITE, knock)
        except ProtocolError as error:
            _log.warning(
                "no-association", peer_address=knock.address, reason=error.reason.name.lower(),
                error=str(error),
            )  # fmt: skip
            self._leave(knock, abort_pdu(error.reason))
        except AssociationRefused as refused:
            self.refuse(knock, refused)
        except ssl.SSLError as error:
            _log.warning(
                "tls-failed", peer_address=knock.address, error=error.reason or "no TLS",
                hint="does the peer speak TLS here, and trust our certificate?",
            )  # fmt: skip
            self._forget(knock)
        except OSError:
            self._forget(knock)

    def _shake_hands(self, knock: Knock) -> None:
        connection: Any = knock.connection
        connection.do_handshake()
        knock.is_handshaking = False
        self._selector.modify(connection, selectors.EVENT_READ, knock)
        self._read(knock)

    def _read(self, knock: Knock) -> None:
        while not knock.is_asking:
            needed = _needed(knock.received)
            data = knock.connection.recv(min(needed, _READ_BYTES))
            if not data:
                self._forget(knock)
                return
            knock.received += data
            if len(knock.received) > PDU_HEADER_BYTES and not _needed(knock.received):
                self._ask(knock)
                return
            self._waiting_bytes += len(data)
            if self._waiting_bytes > MAX_WAITING_BYTES:
                self._turn_away_largest()
                if knock.is_leaving or knock.number not in self._knocks:
                    return

    def _turn_away_largest(self) -> None:
        # Whoever comes next has sent least, and is no cause of it.
        waiting = [knock for knock in self._knocks.values() if not knock.is_asking]
        self._waiting_bytes = sum(len(knock.received) for knock in waiting)
        if self._waiting_bytes > MAX_WAITING_BYTES:
            largest = max(waiting, key=lambda knock: len(knock.received))
            _log.warning("too-many-requests-at-once", peer_address=largest.address)
            self._waiting_bytes -= len(largest.received)
            self._leave(largest, abort_pdu(AbortReason.NOT_SPECIFIED))

    def _ask(self, knock: Knock) -> None:
        if knock.received[0] == ABORT:
            self._forget(knock)
            return
        request = read_request(bytes(knock.received))
        knock.is_asking = True
        knock.received = bytearray()
        # What comes next belongs to the association.
        self._selector.unregister(knock.connection)
        self._welcome(knock, request)

    def let_in(self, knock: Knock) -> socket.socket:
        """Give up a connection whose request is accepted; blocking again."""
        del self._knocks[knock.number]
        knock.connection.setblocking(True)
        return knock.connection

    def refuse(self, knock: Knock, refused: AssociationRefused) -> None:
        """Answer with an A-ASSOCIATE-RJ."""
        _log.warning(
            "association-rejected",
            peer_address=knock.address,
            result=refused.result,
            source=refused.source,
            reason=refused.reason,
            why=str(refused),
        )
        if knock.is_asking:
            self._selector.register(knock.connection, selectors.EVENT_READ, knock)
            knock.is_asking = False
        self._leave(knock, reject_pdu(refused.result, refused.source, refused.reason))

    def turn(self) -> None:
        """Let go of those whose time is up; to be called about once a second."""
        now = self._clock()
        for knock in list(self._knocks.values()):
            if now >= knock.deadline and not knock.is_asking:
                if not knock.is_leaving:
                    _log.info(
                        "no-association-in-time",
                        peer_address=knock.address,
                        seconds=self._request_seconds,
                        received_bytes=len(knock.received),
                    )
                self._forget(knock)

    def close(self) -> None:
        """Let go of all."""
        for knock in list(self._knocks.values()):
            self._forget(knock)

    def _leave(self, knock: Knock, pdu: bytes) -> None:
        # The peer closes when it has read the answer; if it does not, we do.
        try:
            knock.connection.send(pdu)
            if not isinstance(knock.connection, ssl.SSLSocket):
                knock.connection.shutdown(socket.SHUT_WR)
        except OSError:
            self._forget(knock)
            return
        knock.is_leaving = True
        knock.received = bytearray()
        knock.deadline = self._clock() + _LINGER_SECONDS

    def _forget(self, knock: Knock) -> None:
        if self._knocks.pop(knock.number, None) is None:
            return
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(knock.connection)
        with contextlib.suppress(OSError):
            knock.connection.close()
        self._on_gone(knock)


def _needed(received: bytearray) -> int:
    """Tell how many bytes are lacking to a whole request; 0 if it is whole.

    Raises
    ------
    ProtocolError
        If it is none.
    """
    if not received:
        return PDU_HEADER_BYTES
    kind = received[0]
    if kind not in (ASSOCIATE_RQ, ABORT):
        known = 1 <= kind <= ABORT
        raise ProtocolError(
            AbortReason.UNEXPECTED_PDU if known else AbortReason.UNRECOGNIZED_PDU,
            f"a PDU of type {kind:#04x} before an association",
        )
    if len(received) < PDU_HEADER_BYTES:
        return PDU_HEADER_BYTES - len(received)
    (length,) = _LENGTH.unpack_from(received)
    shortest = _MIN_REQUEST_BYTES if kind == ASSOCIATE_RQ else 4
    if not shortest <= length <= MAX_REQUEST_BYTES:
        raise ProtocolError(
            AbortReason.INVALID_PARAMETER, f"a PDU of type {kind:#04x} that claims {length} bytes"
        )
    return PDU_HEADER_BYTES + int(length) - len(received)
