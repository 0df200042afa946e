"""TLS contexts: what they accept, and what they say about files that cannot be used."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_gateway.peers.tls import (
    TLS_1_2_SUITES,
    TlsError,
    client_context,
    expiry,
    server_context,
    validity,
)
from tests.support.certificates import Authority, Identity

# Certificates made during the tests are good by then.
NOW = datetime.now(timezone.utc) + timedelta(hours=1)

pytestmark = pytest.mark.skipif(not shutil.which("openssl"), reason="makes certificates")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def server(authority: Authority) -> Identity:
    return authority.issue("server")


@pytest.fixture(scope="module")
def client(authority: Authority) -> Identity:
    return authority.issue("client")


def handshake(
    server: ssl.SSLContext, client: ssl.SSLContext, host: str = "127.0.0.1"
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Let two contexts talk over memory; a failure of either end is raised."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        server.wrap_bio(to_server, to_client, server_side=True),
        client.wrap_bio(to_client, to_server, server_hostname=host),
    ]
    waiting = list(ends)
    for _ in range(10):
        for end in list(waiting):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(end)
    assert not waiting
    return ends[0], ends[1]


def refusal(**given: object) -> str:
    with pytest.raises(TlsError) as caught:
        server_context(**{"now": NOW, **given})  # type: ignore[arg-type]
    return str(caught.value)


def test_both_ends_speak_tls_1_3(authority: Authority, server: Identity) -> None:
    ours, theirs = handshake(
        server_context(certificate=server.certificate, key=server.key, now=NOW),
        client_context(ca=authority.certificate, now=NOW),
    )
    assert (ours.version(), theirs.version()) == ("TLSv1.3", "TLSv1.3")


def test_tls_1_2_uses_the_suites_of_the_recommendation(
    authority: Authority, server: Identity
) -> None:
    old = client_context(ca=authority.certificate, now=NOW)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    ours, _ = handshake(
        server_context(certificate=server.certificate, key=server.key, now=NOW), old
    )
    assert ours.version() == "TLSv1.2"
    assert (ours.cipher() or ("",))[0] in TLS_1_2_SUITES


def test_what_is_not_recommended_is_off(server: Identity) -> None:
    context = server_context(certificate=server.certificate, key=server.key, now=NOW)
    offered = {suite["name"] for suite in context.get_ciphers() if suite["protocol"] == "TLSv1.2"}
    assert offered == set(TLS_1_2_SUITES)
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.options & ssl.OP_NO_COMPRESSION
    assert context.options & ssl.OP_NO_RENEGOTIATION


def test_old_tls_and_static_keys_are_refused(authority: Authority, server: Identity) -> None:
    ours = server_context(certificate=server.certificate, key=server.key, now=NOW)
    other = client_context(ca=authority.certificate, now=NOW)
    other.maximum_version = ssl.TLSVersion.TLSv1_2
    other.set_ciphers("ECDHE+AES+SHA384:ECDHE+AES+SHA256:!AESGCM")
    with pytest.raises(ssl.SSLError):
        handshake(ours, other)


def test_a_stranger_is_not_trusted(tmp_path: Path, authority: Authority, server: Identity) -> None:
    stranger = Authority(tmp_path, "stranger").issue("evil")
    ours = client_context(ca=authority.certificate, now=NOW)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server_context(certificate=stranger.certificate, key=stranger.key, now=NOW), ours)
    good = server_context(certificate=server.certificate, key=server.key, now=NOW)
    with pytest.raises(ssl.SSLCertVerificationError, match=r"(?i)hostname|not valid for"):
        handshake(good, ours, host="pacs.example.org")
    handshake(
        good,
        client_context(ca=authority.certificate, check_host_name=False, now=NOW),
        host="pacs.example.org",
    )


def test_the_certificate_of_one_device_can_be_trusted(server: Identity) -> None:
    handshake(
        server_context(certificate=server.certificate, key=server.key, now=NOW),
        client_context(ca=server.certificate, now=NOW),
    )


def test_mutual_tls(
    tmp_path: Path, authority: Authority, server: Identity, client: Identity
) -> None:
    def ours(asked: str) -> ssl.SSLContext:
        return server_context(
            certificate=server.certificate,
            key=server.key,
            ca=authority.certificate,
            client_certificates=asked,  # type: ignore[arg-type]
            now=NOW,
        )

    known = client_context(
        ca=authority.certificate, certificate=client.certificate, key=client.key, now=NOW
    )
    stranger = Authority(tmp_path, "stranger").issue("evil")
    unknown = client_context(
        ca=authority.certificate, certificate=stranger.certificate, key=stranger.key, now=NOW
    )
    without = client_context(ca=authority.certificate, now=NOW)
    assert handshake(ours("required"), known)[0].getpeercert()
    assert handshake(ours("optional"), known)[0].getpeercert()
    assert not handshake(ours("optional"), without)[0].getpeercert()
    assert not handshake(ours("none"), without)[0].getpeercert()
    for asked, bad in (("required", without), ("required", unknown), ("optional", unknown)):
        with pytest.raises(ssl.SSLError):
            handshake(ours(asked), bad)


def test_files_that_cannot_be_used(
    tmp_path: Path, authority: Authority, server: Identity, client: Identity
) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_text("")
    damaged = tmp_path / "damaged.pem"
    damaged.write_text("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n")
    missing = tmp_path / "missing.pem"
    assert "cannot read the certificate" in refusal(certificate=missing)
    assert "No such file" in refusal(certificate=server.certificate, key=missing)
    assert "Is a directory" in refusal(certificate=tmp_path)
    assert "holds no certificate" in refusal(certificate=empty)
    assert "damaged.pem" in refusal(certificate=damaged)
    assert "BEGIN PRIVATE KEY" in refusal(certificate=server.certificate, key=empty)
    assert "BEGIN PRIVATE KEY" in refusal(certificate=server.certificate)
    mismatch = refusal(certificate=server.certificate, key=client.key)
    assert "does not belong" in mismatch
    both = {"certificate": server.certificate, "key": server.key}
    assert "nothing to verify them with" in refusal(**both, client_certificates="required")
    assert "holds no certificate" in refusal(**both, client_certificates="required", ca=empty)
    with pytest.raises(TlsError, match="no certificate for it"):
        client_context(key=client.key, now=NOW)


def test_a_key_with_a_password(tmp_path: Path, server: Identity) -> None:
    locked = tmp_path / "locked.key"
    subprocess.run(
        ["openssl", "pkey", "-in", server.key, "-aes256", "-passout", "pass:hush", "-out", locked],
        check=True,
        timeout=60,
    )
    assert "has a password" in refusal(certificate=server.certificate, key=locked)
    wrong = refusal(certificate=server.certificate, key=locked, password="loud")
    assert "is the password right?" in wrong
    assert "loud" not in wrong
    server_context(certificate=server.certificate, key=locked, password="hush", now=NOW)


def test_a_key_may_be_in_the_same_file(tmp_path: Path, server: Identity) -> None:
    both = tmp_path / "both.pem"
    both.write_text(server.certificate.read_text() + server.key.read_text())
    server_context(certificate=both, now=NOW)


def test_a_certificate_out_of_date(authority: Authority, server: Identity) -> None:
    both = {"certificate": server.certificate, "key": server.key}
    end = expiry(server.certificate)
    assert end is not None
    assert f"expired on {end:%Y-%m-%d}" in refusal(**both, now=end + timedelta(seconds=1))
    early = refusal(**both, now=NOW - timedelta(days=2))
    assert "clock" in early
    with pytest.raises(TlsError, match="all trusted certificates"):
        client_context(ca=authority.certificate, now=NOW + timedelta(days=3650))
    day = timedelta(days=1)
    old = authority.issue("old", valid=(NOW - 3 * day, NOW - day))
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        handshake(
            server_context(certificate=old.certificate, key=old.key, now=NOW - 2 * day),
            client_context(ca=authority.certificate, now=NOW),
        )


@given(
    st.datetimes(datetime(1950, 1, 1), datetime(2049, 12, 31)),
    st.datetimes(datetime(2050, 1, 1), datetime(9999, 12, 31)),
    st.booleans(),
)
def test_dates_of_a_certificate(begin: datetime, end: datetime, has_version: bool) -> None:
    def der(tag: int, content: bytes) -> bytes:
        size = len(content)
        length = bytes((size,)) if size < 0x80 else b"\x82" + size.to_bytes(2, "big")
        return bytes((tag,)) + length + content

    dates = der(0x17, f"{begin:%y%m%d%H%M%S}Z".encode()) + der(
        0x18, f"{end.year:04d}{end:%m%d%H%M%S}Z".encode()
    )
    version = der(0xA0, der(0x02, b"\x02")) if has_version else b""
    body = version + der(0x02, b"\x01") + der(0x30, b"") + der(0x30, bytes(200)) + der(0x30, dates)
    found = validity(der(0x30, der(0x30, body)))
    assert found == tuple(d.replace(microsecond=0, tzinfo=timezone.utc) for d in (begin, end))


@given(st.binary(max_size=80), st.integers(0, 200))
def test_damaged_certificates_are_told(junk: bytes, cut: int) -> None:
    for der in (junk, b"\x30\x50\x30\x40" + junk, bytes(cut)):
        with pytest.raises(ValueError):
            validity(der)
