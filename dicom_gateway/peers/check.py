"""Verifies a DICOM peer by C-ECHO and says in plain words what is wrong.

It speaks with a socket of its own and pynetdicom's PDUs and messages, because pynetdicom's
association hides what tells the cases apart: the first bytes of a peer that is no DICOM peer, and
the alert of one that wants TLS. Each step has its time, and what a peer sends is bounded.
"""

from __future__ import annotations

import errno
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal

from pydicom.uid import UID, ImplicitVRLittleEndian
from pynetdicom.dimse_messages import C_ECHO_RQ, DIMSEMessage
from pynetdicom.dimse_primitives import C_ECHO
from pynetdicom.pdu import (
    A_ABORT_RQ,
    A_ASSOCIATE_AC,
    A_ASSOCIATE_RJ,
    A_ASSOCIATE_RQ,
    A_RELEASE_RQ,
    P_DATA_TF,
)
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    A_RELEASE,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
)
from pynetdicom.presentation import build_context

from dicom_gateway.peers.tls import validity
from dicom_gateway.peers.words import (
    ABORT_REASONS,
    CONTEXT_RESULTS,
    OTHER_PROTOCOLS,
    REJECTIONS,
    TOO_OLD,
)
from dicom_gateway.storing.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

VERIFICATION = "1.2.840.10008.1.1"

MAX_ANSWER_BYTES = 1 << 20
"""Longest PDU that is read; an answer to one presentation context takes a few hundred bytes."""

StepName = Literal["resolve", "connect", "tls", "association", "echo"]

_APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
_ASSOCIATE_AC, _ASSOCIATE_RJ, _P_DATA, _ABORT = 0x02, 0x03, 0x04, 0x07
_PDU_TYPES = range(0x01, 0x08)
_HEADER_BYTES = 6
_MAX_PDU_BYTES = 16_384
_CONTEXT_ID = 1
_PROBE_SECONDS = 3.0
_TLS_RECORDS = (0x15, 0x16)


@dataclass(frozen=True)
class Step:
    """One step of a check.

    Parameters
    ----------
    name : str
        ``resolve``, ``connect``, ``tls``, ``association`` or ``echo``.
    is_ok : bool
        Whether it went well.
    seconds : float
        How long it took.
    detail : str
        What was found.
    """

    name: StepName
    is_ok: bool
    seconds: float
    detail: str


@dataclass(frozen=True)
class Problem:
    """What is wrong.

    Parameters
    ----------
    code : str
        Short and stable, for machines.
    said : str
        In words.
    advice : str
        What to change, and on which side.
    """

    code: str
    said: str
    advice: str


@dataclass(frozen=True)
class CheckResult:
    """What a check found.

    Parameters
    ----------
    host, port : str, int
        Of the peer.
    called_ae_title, calling_ae_title : str
        As proposed.
    steps : tuple of Step
        Those that were taken; only the last can have failed.
    problem : Problem or None
        None if the peer answered C-ECHO with Success.
    """

    host: str
    port: int
    called_ae_title: str
    calling_ae_title: str
    steps: tuple[Step, ...]
    problem: Problem | None

    @property
    def is_ok(self) -> bool:
        """Whether the peer answered C-ECHO with Success."""
        return self.problem is None


class _Failed(Exception):  # noqa: N818 (ends a step; never leaves this module)
    def __init__(self, code: str, said: str, advice: str) -> None:
        super().__init__(said)
        self.problem = Problem(code, said, advice)


def check(
    host: str,
    port: int,
    *,
    called_ae_title: str,
    calling_ae_title: str,
    tls: ssl.SSLContext | None = None,
    timeout_seconds: float = 10.0,
    clock: Callable[[], float] = time.monotonic,
) -> CheckResult:
    """Verify a peer: resolve its name, connect, negotiate TLS and an association, send C-ECHO.

    Parameters
    ----------
    host, port : str, int
        Of the peer.
    called_ae_title, calling_ae_title : str
        To propose, 1 to 16 characters.
    tls : ssl.SSLContext or None
        See ``dicom_gateway.peers.tls.client_context``; None for no TLS.
    timeout_seconds : float
        Longest time that each step may take.
    clock : callable
        Monotonic seconds.

    Returns
    -------
    CheckResult
        Whatever happens on the way.
    """
    run = _Run(host, port, called_ae_title, calling_ae_title, tls, timeout_seconds, clock)
    problem = None
    try:
        run.go()
    except _Failed as failed:
        problem = failed.problem
    finally:
        run.close()
    return CheckResult(host, port, called_ae_title, calling_ae_title, tuple(run.steps), problem)


@dataclass
class _Run:
    host: str
    port: int
    called: str
    calling: str
    tls: ssl.SSLContext | None
    timeout: float
    clock: Callable[[], float]
    steps: list[Step] = field(default_factory=list)
    address: str = ""
    connection: socket.socket | None = None
    detail: str = ""
    until: float = 0.0

    @property
    def where(self) -> str:
        return f"{self.host}:{self.port}"

    def go(self) -> None:
        with self.step("resolve"):
            self.resolve()
        with self.step("connect"):
            self.connection = self.connect()
        if self.tls is not None:
            with self.step("tls"):
                self.connection = self.secure(self.connection, self.tls)
        with self.step("association"):
            context_result = self.associate()
        with self.step("echo"):
            self.echo(context_result)

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()

    @contextmanager
    def step(self, name: StepName) -> Iterator[None]:
        began = self.clock()
        self.until = began + self.timeout
        self.detail = ""
        try:
            yield
        except _Failed as failed:
            self.steps.append(Step(name, False, self.clock() - began, failed.problem.said))
            raise
        self.steps.append(Step(name, True, self.clock() - began, self.detail))

    def resolve(self) -> None:
        try:
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            said = getattr(error, "strerror", None) or error
            raise _Failed(
                "name-not-resolved",
                f"the name {self.host} does not resolve ({said})",
                "Check its spelling, or use the peer's IP address.",
            ) from error
        self.addresses = list(dict.fromkeys(entry[4][0] for entry in found))
        self.detail = ", ".join(map(str, self.addresses[:4]))

    def connect(self) -> socket.socket:
        last: OSError | None = None
        for address in self.addresses:
            try:
                made = self.open(str(address), max(0.001, self.until - self.clock()))
            except OSError as error:
                last = error
                continue
            self.address = str(address)
            self.detail = f"connected to {address} port {self.port}"
            return made
        assert last is not None
        raise self.not_connected(last) from last

    def open(self, address: str, seconds: float) -> socket.socket:
        made = socket.create_connection((address, self.port), seconds)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made

    def not_connected(self, error: OSError) -> _Failed:
        if isinstance(error, ConnectionRefusedError):
            return _Failed(
                "connection-refused",
                f"{self.where} refused the connection: the machine is there, and nothing listens "
                "on that port",
                "Start the peer's DICOM service, or correct the port (104 and 11112 are usual). A "
                "firewall that rejects looks the same.",
            )
        if isinstance(error, TimeoutError):
            return _Failed(
                "connection-timed-out",
                f"{self.where} did not answer within {self.timeout:g} s",
                "Check the address, that the machine is on, and that firewalls in between let TCP "
                f"to port {self.port} through: most drop what they do not allow.",
            )
        if error.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH):
            return _Failed(
                "unreachable",
                f"there is no way to {self.where} from here ({error.strerror})",
                "Check the address, and the routes and VPN between the two machines.",
            )
        return _Failed(
            "not-connected",
            f"cannot connect to {self.where}: {error.strerror or error}",
            "Check address and port.",
        )

    # TLS

    def secure(self, plain: socket.socket, context: ssl.SSLContext) -> ssl.SSLSocket:
        try:
            plain.settimeout(max(0.001, self.until - self.clock()))
            made = context.wrap_socket(plain, server_hostname=self.host)
        except ssl.SSLCertVerificationError as error:
            raise self.certificate_problem(error) from error
        except ssl.SSLError as error:
            raise self.tls_problem(error) from error
        except OSError as error:
            # Neither a handshake nor an alert: perhaps the peer does not know TLS at all.
            raise self.no_handshake(error) from error
        suite = made.cipher()
        self.detail = f"{made.version()}, {suite[0] if suite else ''}"
        der = made.getpeercert(binary_form=True)
        if der:
            with suppress(ValueError):
                self.detail += f"; the peer's certificate is good until {validity(der)[1]:%Y-%m-%d}"
        return made

    def certificate_problem(self, error: ssl.SSLCertVerificationError) -> _Failed:
        code, said = error.verify_code, error.verify_message
        if code == 10:
            return _Failed(
                "certificate-expired",
                f"the certificate of {self.where} has expired",
                "On the peer, install a new certificate; or correct this machine's clock.",
            )
        if code == 9:
            return _Failed(
                "certificate-not-yet-valid",
                f"the certificate of {self.where} is not good yet",
                "Check the clocks of both machines.",
            )
        if code in (62, 64):
            return _Failed(
                "certificate-for-another-host",
                f"the certificate of {self.where} is for another host ({said})",
                "Call it by a name in its certificate, get a certificate with this name, or give "
                "--tls-any-host-name where the certificates in --tls-ca are trusted by themselves.",
            )
        return _Failed(
            "certificate-not-trusted",
            f"the certificate of {self.where} is not trusted ({said})",
            "Name the certificate of its authority, or its own, with --tls-ca.",
        )

    def tls_problem(self, error: ssl.SSLError) -> _Failed:
        reason = (error.reason or str(error)).upper()
        if "CERTIFICATE_REQUIRED" in reason or "ALERT_HANDSHAKE_FAILURE" in reason:
            return self.client_certificate(reason)
        for word in ("UNKNOWN_CA", "BAD_CERTIFICATE", "CERTIFICATE_UNKNOWN", "CERTIFICATE_EXPIRED"):
            if word in reason:
                return _Failed(
                    "client-certificate-refused",
                    f"{self.where} does not trust our certificate ({reason.lower()})",
                    "On the peer, add this side's certificate or its authority to the trusted "
                    "ones; or give another one: --tls-cert, --tls-key.",
                )
        if any(word in reason for word in TOO_OLD):
            return _Failed(
                "tls-too-old",
                f"{self.where} offers no TLS 1.2 or 1.3 with the suites of BCP 195 "
                f"({reason.lower()})",
                "On the peer, turn TLS 1.2 on, with ECDHE and AES-GCM.",
            )
        return self.no_handshake(error)

    def client_certificate(self, reason: str) -> _Failed:
        return _Failed(
            "client-certificate-required",
            f"{self.where} wants a client certificate, or shares no TLS suite with us "
            f"({reason.lower()})",
            "Give ours with --tls-cert and --tls-key, and see that the peer trusts it.",
        )

    def no_handshake(self, error: OSError) -> _Failed:
        if self.speaks_dicom():
            return _Failed(
                "tls-not-expected",
                f"{self.where} speaks DICOM without TLS",
                "Leave --tls out, or turn TLS on at the peer (often on another port, 2762).",
            )
        if isinstance(error, TimeoutError):
            return self.silent("to the TLS handshake")
        return _Failed(
            "tls-failed",
            f"the TLS handshake with {self.where} failed ({getattr(error, 'reason', '') or error})",
            "Check that this is the peer's TLS port (2762 is usual), and its log.",
        )

    # Association and C-ECHO

    def associate(self) -> int:
        assert self.connection is not None
        header = b""
        try:
            self.connection.sendall(self.request())
            header = self.read(_HEADER_BYTES)
            if len(header) < _HEADER_BYTES:
                raise self.closed(header)
            kind = self.pdu_type(header)
            length = int.from_bytes(header[2:6], "big")
            body = self.read(length)
            if len(body) < length:
                raise self.closed(header + body)
        except TimeoutError as error:
            raise self.no_answer() from error
        except ssl.SSLError as error:
            if "ALERT" in (error.reason or ""):
                raise self.tls_problem(error) from error
            raise self.closed(b"") from error
        except OSError as error:
            raise self.closed(b"") from error
        if kind == _ASSOCIATE_RJ:
            raise self.rejected(A_ASSOCIATE_RJ(), header + body)
        if kind == _ABORT:
            raise self.aborted(header + body, "instead of an answer to our request")
        if kind != _ASSOCIATE_AC:
            raise self.not_dicom(header, f"PDU type {kind:#04x}")
        return self.accepted(header + body)

    def request(self) -> bytes:
        primitive = A_ASSOCIATE()
        primitive.application_context_name = UID(_APPLICATION_CONTEXT)
        primitive.calling_ae_title = self.calling
        primitive.called_ae_title = self.called
        context = build_context(VERIFICATION, ImplicitVRLittleEndian)
        context.context_id = _CONTEXT_ID
        primitive.presentation_context_definition_list = [context]
        length = MaximumLengthNotification()
        length.maximum_length_received = _MAX_PDU_BYTES
        implementation = ImplementationClassUIDNotification()
        implementation.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
        version = ImplementationVersionNameNotification()
        version.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        primitive.user_information = [length, implementation, version]
        return A_ASSOCIATE_RQ(primitive).encode()

    def read(self, size_bytes: int) -> bytes:
        # What came until the peer closed, if that is less.
        assert self.connection is not None
        received = bytearray()
        while len(received) < size_bytes:
            left = self.until - self.clock()
            if left <= 0:
                raise TimeoutError
            self.connection.settimeout(left)
            piece = self.connection.recv(min(size_bytes - len(received), 65_536))
            if not piece:
                break
            received += piece
        return bytes(received)

    def pdu_type(self, header: bytes) -> int:
        if header[0] in _TLS_RECORDS and header[1] == 0x03 and self.tls is None:
            raise self.tls_expected()
        for start, name in OTHER_PROTOCOLS:
            if header.startswith(start):
                raise self.not_dicom(header, name)
        length = int.from_bytes(header[2:6], "big")
        if header[0] not in _PDU_TYPES or header[1] != 0 or length > MAX_ANSWER_BYTES:
            raise self.not_dicom(header, "an unknown service")
        return header[0]

    def accepted(self, pdu: bytes) -> int:
        answer = A_ASSOCIATE_AC()
        try:
            answer.decode(pdu)
            primitive = answer.to_primitive()
            results = {
                context.context_id: context.result
                for context in primitive.presentation_context_definition_results_list
            }
            result = results[_CONTEXT_ID]
            information = primitive.user_information
        except Exception as error:
            raise self.not_dicom(pdu, "an answer that is no A-ASSOCIATE-AC") from error
        said = {type(item).__name__: item for item in information}
        version = said.get("ImplementationVersionNameNotification")
        length = said.get("MaximumLengthNotification")
        name = getattr(version, "implementation_version_name", None) or "unnamed software"
        limit = getattr(length, "maximum_length_received", 0) or "any"
        self.detail = f"accepted by {_printable(str(name))}, PDUs of {limit} bytes"
        return int(result or 0)

    def echo(self, context_result: int) -> None:
        assert self.connection is not None
        if context_result != 0:
            why = CONTEXT_RESULTS.get(context_result, f"result {context_result}")
            self.release()
            raise _Failed(
                "verification-not-supported",
                f"{self.where} accepts associations of {self.calling} with {self.called} but not "
                f"C-ECHO ({why})",
                "The way is clear; enable the Verification service at the peer to check it wholly.",
            )
        try:
            self.connection.sendall(b"".join(_echo_request()))
            status = self.echo_status()
        except TimeoutError as error:
            raise _Failed(
                "echo-timed-out",
                f"{self.where} accepted the association and did not answer C-ECHO within "
                f"{self.timeout:g} s",
                "The peer hangs: look into its log, or restart its DICOM service.",
            ) from error
        except OSError as error:
            raise self.closed_during_echo() from error
        self.release()
        if status != 0:
            raise _Failed(
                "echo-status",
                f"{self.where} answered C-ECHO with status 0x{status:04X} instead of Success",
                "Look into the peer's log for this status.",
            )
        self.detail = "Success"

    def echo_status(self) -> int:
        message = DIMSEMessage()
        for _ in range(64):
            header = self.read(_HEADER_BYTES)
            if len(header) < _HEADER_BYTES:
                raise self.closed_during_echo()
            kind = self.pdu_type(header)
            pdu = header + self.read(int.from_bytes(header[2:6], "big"))
            if kind == _ABORT:
                raise self.aborted(pdu, "instead of an answer to C-ECHO")
            if kind != _P_DATA:
                break
            try:
                data = P_DATA_TF()
                data.decode(pdu)
                if message.decode_msg(data.to_primitive()):
                    return int(message.command_set.Status)
            except Exception as error:
                raise self.bad_echo() from error
        raise self.bad_echo()

    def release(self) -> None:
        # Politely, but the answer changes nothing.
        assert self.connection is not None
        with suppress(OSError, _Failed):
            self.until = self.clock() + min(self.timeout, _PROBE_SECONDS)
            self.connection.sendall(A_RELEASE_RQ(A_RELEASE()).encode())
            self.read(_HEADER_BYTES + 4)

    def rejected(self, answer: A_ASSOCIATE_RJ, pdu: bytes) -> _Failed:
        try:
            answer.decode(pdu)
            codes = answer.result or 0, answer.source or 0, answer.reason_diagnostic or 0
        except Exception as error:  # noqa: BLE001 (as above)
            del error
            return self.not_dicom(pdu, "an answer that is no A-ASSOCIATE-RJ")
        result, source, reason = codes
        meaning, advice = REJECTIONS.get(
            (source, reason), ("a reason that the standard does not know", "Look into its log.")
        )
        how = "for now" if result == 2 else "for good"
        return _Failed(
            "rejected",
            f"{self.where} rejected the association {how}: {meaning} (result {result}, source "
            f"{source}, reason {reason})",
            advice.format(called=self.called, calling=self.calling, port=self.port),
        )

    def aborted(self, pdu: bytes, when: str) -> _Failed:
        source = reason = 0
        with suppress(Exception):
            abort = A_ABORT_RQ()
            abort.decode(pdu)
            source, reason = abort.source or 0, abort.reason_diagnostic or 0
        by = "its service provider" if source == 2 else "its application"
        why = f": {ABORT_REASONS.get(reason, reason)}" if source == 2 else ""
        return _Failed(
            "aborted",
            f"{self.where} aborted the association {when} (by {by}{why})",
            f"Look into the peer's log; some peers abort when they do not know {self.calling} or "
            "this machine's address.",
        )

    def closed(self, begun: bytes) -> _Failed:
        if self.tls is None and begun[:1] not in map(bytes, ([1], [2], [3])):
            for start, name in OTHER_PROTOCOLS:
                if begun and (begun.startswith(start) or start.startswith(begun)):
                    return self.not_dicom(begun, name)
            if self.speaks_tls():
                return self.tls_expected()
        alert = self.alert_after_handshake() if self.tls is not None else None
        if alert is not None:
            return self.tls_problem(alert)
        return _Failed(
            "closed",
            f"{self.where} closed the connection without an answer",
            "Some peers do so when they do not know the calling AE title or this machine's "
            "address: check both in the peer's configuration, and its log.",
        )

    def closed_during_echo(self) -> _Failed:
        return _Failed(
            "closed",
            f"{self.where} accepted the association and closed the connection upon C-ECHO",
            "Look into the peer's log: its DICOM service may have crashed.",
        )

    def bad_echo(self) -> _Failed:
        return _Failed(
            "bad-answer",
            f"{self.where} answered C-ECHO with something that is no C-ECHO response",
            "Look into the peer's log; its DICOM software is at fault.",
        )

    def no_answer(self) -> _Failed:
        if self.tls is None and self.speaks_tls():
            return self.tls_expected()
        if self.tls is None and self.speaks_http():
            return self.not_dicom(b"HTTP/", "a web server (HTTP)")
        return self.silent("to a request for an association")

    def silent(self, to_what: str) -> _Failed:
        return _Failed(
            "silent",
            f"{self.where} took the connection and said nothing {to_what} within "
            f"{self.timeout:g} s",
            "Either it is no DICOM service (check the port), or the DICOM service hangs (look into "
            "its log, restart it), or a firewall inspects the connection.",
        )

    def tls_expected(self) -> _Failed:
        return _Failed(
            "tls-expected",
            f"{self.where} wants TLS",
            "Add --tls, with --tls-ca for the certificates to trust; or use the peer's port "
            "without TLS.",
        )

    def not_dicom(self, begun: bytes, name: str) -> _Failed:
        shown = _printable(begun[:16].decode("latin-1"))
        return _Failed(
            "not-dicom",
            f"what listens on {self.where} is no DICOM service but {name} (it began with "
            f"{shown!r})",
            "Correct the port: 104 and 11112 are usual for DICOM.",
        )

    # Asking again, the other way

    def speaks_tls(self) -> bool:
        """Whether the peer answers a TLS handshake, well or with an alert."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        try:
            with (
                closing(self.open(self.address, self.probe_seconds)) as plain,
                context.wrap_socket(plain, server_hostname=self.host),
            ):
                return True
        except ssl.SSLError as error:
            return "ALERT" in (error.reason or "")
        except OSError:
            return False

    def alert_after_handshake(self) -> ssl.SSLError | None:
        """Read a server's verdict on our certificate, which in TLS 1.3 follows the handshake.

        What we send meanwhile can have the connection reset before the verdict is read.
        """
        assert self.tls is not None
        try:
            with (
                closing(self.open(self.address, self.probe_seconds)) as plain,
                self.tls.wrap_socket(plain, server_hostname=self.host) as secured,
            ):
                secured.recv(1)
        except ssl.SSLError as error:
            return error if "ALERT" in (error.reason or "") else None
        except OSError:
            pass
        return None

    def speaks_http(self) -> bool:
        """Whether the peer, who waits for the end of a line, is a web server."""
        try:
            with closing(self.open(self.address, self.probe_seconds)) as plain:
                plain.sendall(b"OPTIONS / HTTP/1.0\r\n\r\n")
                return plain.recv(_HEADER_BYTES).startswith(b"HTTP/")
        except OSError:
            return False

    def speaks_dicom(self) -> bool:
        """Whether the peer answers a request for an association without TLS."""
        try:
            with closing(self.open(self.address, self.probe_seconds)) as plain:
                plain.sendall(self.request())
                header = plain.recv(_HEADER_BYTES)
        except OSError:
            return False
        return header[:1] in (b"\x02", b"\x03", b"\x07") and header[1:2] == b"\0"

    @property
    def probe_seconds(self) -> float:
        return min(self.timeout, _PROBE_SECONDS)


def _echo_request() -> Iterator[bytes]:
    primitive = C_ECHO()
    primitive.MessageID = 1
    primitive.AffectedSOPClassUID = UID(VERIFICATION)
    message = C_ECHO_RQ()
    message.primitive_to_message(primitive)
    for piece in message.encode_msg(_CONTEXT_ID, _MAX_PDU_BYTES):
        yield P_DATA_TF(piece).encode()


def _printable(text: str) -> str:
    return "".join(c if c.isascii() and c.isprintable() else "." for c in text)[:64]
