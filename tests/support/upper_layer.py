"""The DICOM upper layer by hand, as a peer that keeps to it, or breaks it, puts it on the wire."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from contextlib import suppress

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
IMPLICIT = "1.2.840.10008.1.2"
VERIFICATION = "1.2.840.10008.1.1"

RELEASE_RQ = struct.pack(">BxI4x", 0x05, 4)
RELEASE_RP = struct.pack(">BxI4x", 0x06, 4)


def item(kind: int, value: bytes) -> bytes:
    """An item of an association request (PS3.8 9.3.2)."""
    return struct.pack(">BxH", kind, len(value)) + value


def context(number: int, sop_class: str, *syntaxes: str) -> bytes:
    """A presentation context of a request."""
    return item(
        0x20,
        struct.pack(">B3x", number)
        + item(0x30, sop_class.encode())
        + b"".join(item(0x40, syntax.encode()) for syntax in syntaxes),
    )


def associate_rq(
    contexts: Iterable[bytes] = (
        context(1, VERIFICATION, IMPLICIT),
        context(3, CT, EXPLICIT),
    ),
    *,
    called: bytes = b"BIODATAMINE",
    calling: bytes = b"TESTER",
    max_pdu_bytes: int = 16384,
    user_items: bytes = b"",
    version: int = 1,
    application_context: bytes = b"1.2.840.10008.3.1.1.1",
) -> bytes:
    """An A-ASSOCIATE-RQ (PS3.8 9.3.2)."""
    user = item(0x51, struct.pack(">I", max_pdu_bytes)) + item(0x52, b"1.2.3") + user_items
    body = (
        struct.pack(">H2x", version) + called.ljust(16) + calling.ljust(16) + bytes(32)
        + item(0x10, application_context) + b"".join(contexts) + item(0x50, user)
    )  # fmt: skip
    return struct.pack(">BxI", 0x01, len(body)) + body


def pdv(number: int, control: int, data: bytes) -> bytes:
    """A Presentation Data Value; bit 0 of ``control`` says command, bit 1 last (PS3.8 E.2)."""
    return struct.pack(">IBB", len(data) + 2, number, control) + data


def p_data(*values: bytes) -> bytes:
    """A P-DATA-TF of whole PDVs."""
    body = b"".join(values)
    return struct.pack(">BxI", 0x04, len(body)) + body


def command(**fields: int | str) -> bytes:
    """A command set (PS3.7 E.1); only those elements that tests need."""
    numbers = {
        "affected_class": 0x0002, "requested_class": 0x0003, "field": 0x0100,
        "message_id": 0x0110, "responded": 0x0120, "dataset": 0x0800, "status": 0x0900,
        "affected_instance": 0x1000, "requested_instance": 0x1001,
        "event_type": 0x1002, "action_type": 0x1008,
    }  # fmt: skip
    values = sorted((numbers[name], value) for name, value in fields.items())
    body = b""
    for number, value in values:
        data = struct.pack("<H", value) if isinstance(value, int) else value.encode()
        data += bytes(len(data) % 2)
        body += struct.pack("<HHI", 0, number, len(data)) + data
    return struct.pack("<HHII", 0, 0, 4, len(body)) + body


def echo_rq(number: int = 1) -> bytes:
    """A C-ECHO request as a PDU."""
    said = command(affected_class=VERIFICATION, field=0x30, message_id=1, dataset=0x0101)
    return p_data(pdv(number, 0x03, said))


def store_rq(instance: str, *, number: int = 3, sop_class: str = CT) -> bytes:
    """The command of a C-STORE whose dataset follows, as a PDU."""
    said = command(
        affected_class=sop_class, field=0x01, message_id=1, dataset=0, affected_instance=instance
    )
    return p_data(pdv(number, 0x03, said))


def dataset(instance: str, *, sop_class: str = CT, tail: bytes = b"") -> bytes:
    """A dataset that names itself, Explicit VR Little Endian."""

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


def pixels(size_bytes: int) -> bytes:
    """Pixel Data of OB, Explicit VR Little Endian."""
    return struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, size_bytes) + bytes(size_bytes)


class Peer:
    """A connection to a Storage SCP.

    Parameters
    ----------
    port : int
        Where it listens, on this machine.
    timeout_seconds : float
        How long an answer may take.
    """

    def __init__(self, port: int, *, timeout_seconds: float = 30.0) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout_seconds)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *error: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send bytes; a peer that has closed is no error, what it said can still be read."""
        with suppress(ConnectionResetError, BrokenPipeError):
            self.socket.sendall(data)

    def associate(self, request: bytes | None = None) -> None:
        """Open an association."""
        self.socket.sendall(associate_rq() if request is None else request)
        kind, body = self.receive()
        assert kind == 0x02, f"A-ASSOCIATE-AC expected: {kind:#x} {body[:16]!r}"

    def receive(self) -> tuple[int, bytes]:
        """Read a PDU: its type and what follows its header; (0, b"") at the end."""
        header = self._exactly(6)
        if not header:
            return 0, b""
        kind, length = struct.unpack(">BxI", header)
        return kind, self._exactly(length)

    def status(self) -> int:
        """Read a response that is one PDV in one PDU; return its status."""
        kind, body = self.receive()
        assert kind == 0x04, f"P-DATA-TF expected: {kind:#x} {body!r}"
        said, position = body[6:], 0
        while position < len(said):
            _, number, length = struct.unpack_from("<HHI", said, position)
            position += 8
            if number == 0x0900:
                return int.from_bytes(said[position : position + length], "little")
            position += length
        raise AssertionError("a response without a status")

    def is_closed(self) -> bool:
        """Read on; return whether the connection has ended, by a reset or not."""
        try:
            return not self.socket.recv(1)
        except ConnectionResetError:
            return True

    def release(self) -> None:
        """End the association."""
        self.socket.sendall(RELEASE_RQ)
        assert self.receive()[0] == 0x06

    def reset(self) -> None:
        """Close with a TCP reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def _exactly(self, size_bytes: int) -> bytes:
        got = b""
        while len(got) < size_bytes:
            try:
                piece = self.socket.recv(size_bytes - len(got))
            except ConnectionResetError:
                piece = b""
            if not piece:
                assert not got, "a PDU that breaks off"
                return b""
            got += piece
        return got
