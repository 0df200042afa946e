"""TLS for DICOM, as BCP 195 recommends it: contexts for both ends, and errors that say what to do.

PS3.15 B.12, "BCP 195 RFC 8996, 9325 TLS Secure Transport Connection Profile": TLS 1.3 preferred,
TLS 1.2 with the suites of RFC 9325 4.2 (ephemeral elliptic-curve keys, AES-GCM), nothing older, no
compression, no renegotiation. A peer is trusted if its certificate, or one that signed it, is in
the given file: hospitals list certificates of single devices as often as those of an authority.

Give servers a certificate with an RSA key of 2048 bits or more: in TLS 1.2, dcmtk's default profile
(3.6.7) has no suite for a certificate on an elliptic curve.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Literal

ClientCertificates = Literal["none", "optional", "required"]
"""Whether a server asks clients for a certificate, and whether it insists."""

TLS_1_2_SUITES = (
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
)
"""Suites of RFC 9325 4.2, by OpenSSL's names; those of TLS 1.3 are all good and all on."""

EXPIRES_SOON = timedelta(days=30)

_MAX_PEM_BYTES = 4 << 20
_PEM_CERTIFICATE = re.compile(
    r"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----"
)
_SEQUENCE, _UTC_TIME, _GENERALIZED_TIME, _VERSION = 0x30, 0x17, 0x18, 0xA0


class TlsError(OSError):
    """TLS cannot be set up; the message names the file and says what to do."""


def server_context(
    *,
    certificate: Path,
    key: Path | None = None,
    ca: Path | None = None,
    client_certificates: ClientCertificates = "none",
    password: str = "",
    now: datetime,
) -> ssl.SSLContext:
    """Make the context of a server.

    Parameters
    ----------
    certificate : Path
        PEM file with its certificate and then those that signed it.
    key : Path or None
        PEM file with the private key; None if it is in ``certificate``.
    ca : Path or None
        PEM file with the certificates that clients are trusted by.
    client_certificates : str
        ``none``, ``optional`` or ``required``; the latter is mutual TLS.
    password : str
        Of the private key; empty if it has none.
    now : datetime
        The present, for the certificates' dates.

    Raises
    ------
    TlsError
        If a file is missing or damaged, key and certificate do not belong together, or a
        certificate is out of date.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER)
    _load_identity(context, certificate, key, password, now)
    if client_certificates == "none":
        return context
    if ca is None:
        msg = (
            f"client certificates are {client_certificates} and there is nothing to verify them "
            "with: name a PEM file with the certificates of the clients or of their authority"
        )
        raise TlsError(msg)
    _load_trusted(context, ca, now)
    optional = client_certificates == "optional"
    context.verify_mode = ssl.CERT_OPTIONAL if optional else ssl.CERT_REQUIRED
    return context


def client_context(
    *,
    ca: Path | None = None,
    certificate: Path | None = None,
    key: Path | None = None,
    password: str = "",
    check_host_name: bool = True,
    now: datetime,
) -> ssl.SSLContext:
    """Make the context of a client, which always verifies the server's certificate.

    Parameters
    ----------
    ca : Path or None
        PEM file with the certificates that the server is trusted by; None for the system's.
    certificate, key : Path or None
        The client's own, for servers that ask for one.
    password : str
        Of the private key; empty if it has none.
    check_host_name : bool
        Whether the server's certificate must be for the host that is called. Certificates of
        modalities often name none; then only those in ``ca`` decide.
    now : datetime
        The present, for the certificates' dates.

    Raises
    ------
    TlsError
        As for ``server_context``.
    """
    context = _context(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = check_host_name
    if ca is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        _load_trusted(context, ca, now)
    if certificate is not None:
        _load_identity(context, certificate, key, password, now)
    elif key is not None:
        msg = f"there is a private key, {key}, and no certificate for it: name that too"
        raise TlsError(msg)
    return context


def validity(der: bytes) -> tuple[datetime, datetime]:
    """Read from when until when a certificate is good.

    Parameters
    ----------
    der : bytes
        X.509 certificate in DER.

    Returns
    -------
    tuple of datetime
        notBefore and notAfter, UTC (RFC 5280 4.1.2.5).

    Raises
    ------
    ValueError
        If it is no certificate.
    """
    tag, start, end = _element(der, 0, len(der))
    tag, start, end = _element(der, start, end)
    if tag != _SEQUENCE:
        msg = "no certificate"
        raise ValueError(msg)
    fields = _elements(der, start, end)
    first = next(fields, None)
    # version [0] is optional; then serialNumber, signature, issuer, validity.
    skipped = 3 if first is not None and first[0] == _VERSION else 2
    for _ in range(skipped):
        next(fields, None)
    found = next(fields, None)
    if found is None or found[0] != _SEQUENCE:
        msg = "a certificate without validity"
        raise ValueError(msg)
    times = [_time(tag, der[a:b]) for tag, a, b in _elements(der, found[1], found[2])]
    if len(times) != 2:
        msg = "a certificate whose validity has no two dates"
        raise ValueError(msg)
    return times[0], times[1]


def expiry(file: Path) -> datetime | None:
    """Tell when the first certificate of a PEM file ends; None if there is none to read."""
    try:
        return validity(next(_certificates(file)))[1]
    except (OSError, ValueError, StopIteration):
        return None


def _context(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Level 2: RSA keys of 2048 bits or more, and no signatures with SHA-1 (RFC 9325 4.5).
    context.set_ciphers(":".join(TLS_1_2_SUITES) + ":@SECLEVEL=2")
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def _load_identity(
    context: ssl.SSLContext, certificate: Path, key: Path | None, password: str, now: datetime
) -> None:
    _require_file(certificate, "certificate")
    if key is not None:
        _require_file(key, "private key")
    holder = key or certificate

    def give_password() -> str:
        # Without this, OpenSSL would ask for it on the terminal of a server.
        if not password:
            msg = f"the private key in {holder} has a password: give it, or store the key without"
            raise TlsError(msg)
        return password

    _require_valid(certificate, now)
    try:
        context.load_cert_chain(certificate, key, give_password)
    except TlsError:
        raise
    except ssl.SSLError as error:
        raise TlsError(_why_not_loaded(error, certificate, holder, password)) from error


def _why_not_loaded(error: ssl.SSLError, certificate: Path, holder: Path, password: str) -> str:
    reason = error.reason or ""
    if reason == "KEY_VALUES_MISMATCH":
        return (
            f"the private key in {holder} does not belong to the certificate in {certificate}: "
            "name the key that it was made with, and put the server's own certificate first"
        )
    if reason.endswith("KEY_TOO_SMALL"):
        return f"the key in {certificate} is too short: make one of RSA 2048 bits or EC P-256"
    if reason.endswith("MD_TOO_WEAK"):
        return f"{certificate} is signed with a digest as weak as SHA-1: make it again with SHA-256"
    if password:
        return f"cannot read the private key in {holder}: is the password right? ({reason})"
    return (
        f"cannot read a private key in PEM from {holder}: it needs a block "
        f"-----BEGIN PRIVATE KEY----- ({reason or error})"
    )


def _load_trusted(context: ssl.SSLContext, ca: Path, now: datetime) -> None:
    _require_file(ca, "trusted certificates")
    ends = [validity(der)[1] for der in _trusted(ca)]
    if max(ends) < now:
        msg = f"all trusted certificates in {ca} have expired, the last on {max(ends):%Y-%m-%d}"
        raise TlsError(msg)
    try:
        context.load_verify_locations(ca)
    except ssl.SSLError as error:
        msg = f"cannot read the certificates in {ca}: {error.reason or error}"
        raise TlsError(msg) from error


def _trusted(ca: Path) -> list[bytes]:
    try:
        found = list(_certificates(ca))
        for der in found:
            validity(der)
    except ValueError as error:
        msg = f"cannot read the certificates in {ca}: {error}"
        raise TlsError(msg) from error
    if not found:
        msg = f"{ca} holds no certificate in PEM (-----BEGIN CERTIFICATE-----)"
        raise TlsError(msg)
    return found


def _require_file(file: Path, what: str) -> None:
    try:
        with file.open("rb"):
            pass
    except OSError as error:
        msg = f"cannot read the {what} {file}: {error.strerror or error}"
        raise TlsError(msg) from error


def _require_valid(certificate: Path, now: datetime) -> None:
    begin, end = validity(_trusted(certificate)[0])
    if end < now:
        msg = f"the certificate in {certificate} expired on {end:%Y-%m-%d}: get a new one"
        raise TlsError(msg)
    if begin > now:
        msg = (
            f"the certificate in {certificate} is good from {begin:%Y-%m-%d %H:%M} UTC on: is this "
            "machine's clock right?"
        )
        raise TlsError(msg)


def _certificates(file: Path) -> Iterator[bytes]:
    with file.open("rb") as opened:
        text = opened.read(_MAX_PEM_BYTES).decode("ascii", errors="replace")
    for block in _PEM_CERTIFICATE.finditer(text):
        yield ssl.PEM_cert_to_DER_cert(block.group())


def _elements(der: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    while start < end:
        tag, begin, start = _element(der, start, end)
        yield tag, begin, start


def _element(der: bytes, at: int, end: int) -> tuple[int, int, int]:
    # One element of DER (X.690): its tag, and where its content begins and ends.
    if end - at < 2:
        msg = "no certificate: it breaks off"
        raise ValueError(msg)
    tag, length, begin = der[at], der[at + 1], at + 2
    if length >= 0x80:
        count = length & 0x7F
        if not 1 <= count <= 4 or begin + count > end:
            msg = "no certificate: an odd length"
            raise ValueError(msg)
        length = int.from_bytes(der[begin : begin + count], "big")
        begin += count
    if begin + length > end:
        msg = "no certificate: it breaks off"
        raise ValueError(msg)
    return tag, begin, begin + length


def _time(tag: int, content: bytes) -> datetime:
    text = content.decode("ascii", errors="replace")
    if tag == _UTC_TIME:
        # RFC 5280 4.1.2.5.1: two digits of the year, from 1950 to 2049.
        text = ("19" if text[:2] >= "50" else "20") + text
    elif tag != _GENERALIZED_TIME:
        msg = "a certificate with an odd date"
        raise ValueError(msg)
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=timezone.utc)
