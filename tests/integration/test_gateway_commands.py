"""`biodatamine gateway check|aes` and `send --tls`, as a user types them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from pydicom.data import get_testdata_file
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity

from dicom_gateway.peers.tls import server_context
from tests.support.certificates import Authority
from tests.support.instances import make_instances

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
NOW = datetime.now(timezone.utc) + timedelta(hours=1)
CT = Path(str(get_testdata_file("CT_small.dcm")))


def run(folder: Path, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BIODATAMINE")}
    return subprocess.run(
        [sys.executable, "-m", "streams.cli", *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=folder,
        env={**kept, "PYTHONPATH": str(ROOT), "COLUMNS": "200", **environment},
    )


@contextmanager
def scp(**given: Any) -> Iterator[tuple[int, list[str]]]:
    stored: list[str] = []

    def keep(event: evt.Event) -> int:
        stored.append(str(event.request.AffectedSOPInstanceUID))
        return 0

    entity = ApplicationEntity("PEER")
    entity.require_called_aet = True
    entity.add_supported_context("1.2.840.10008.1.1")
    entity.add_supported_context(CTImageStorage, ExplicitVRLittleEndian)
    server = entity.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, keep)], **given
    )
    assert server is not None
    try:
        yield int(server.server_address[1]), stored
    finally:
        server.shutdown()


def test_check_says_that_a_peer_is_well_or_what_is_wrong(tmp_path: Path) -> None:
    with scp() as (port, _):
        good = run(tmp_path, "gateway", "check", "127.0.0.1", port, "--called", "PEER")
        wrong = run(tmp_path, "gateway", "check", "127.0.0.1", port, "--called", "OTHER", "--json")
    assert (good.returncode, wrong.returncode) == (0, 1)
    assert "All is well" in good.stdout
    found = json.loads(wrong.stdout)
    assert found["problem"]["code"] == "rejected"
    assert "OTHER" in found["problem"]["advice"]
    assert [step["name"] for step in found["steps"]] == ["resolve", "connect", "association"]


def test_check_knows_the_peers_of_the_entities_file(tmp_path: Path) -> None:
    file = tmp_path / "aes.toml"
    with scp() as (port, _):
        file.write_text(f'[ae.X.commitment.PEER]\nhost = "127.0.0.1"\nport = {port}\n')
        known = run(tmp_path, "gateway", "check", "PEER", BIODATAMINE_DICOM_ENTITIES_FILE=str(file))
        unknown = run(tmp_path, "gateway", "check", "NOBODY", "--file", file)
    assert known.returncode == 0, known.stderr
    assert unknown.returncode == 2
    assert "NOBODY" in unknown.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--called", "SEVENTEEN_LETTERS"), "--called"),
        (("--tls-ca", "ca.pem"), "--tls"),
        (("--tls", "--tls-ca", "missing.pem"), "missing.pem"),
        (("--tls", "--tls-any-host-name"), "--tls-ca"),
    ],
)
def test_check_refuses_what_makes_no_sense(
    tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    done = run(tmp_path, "gateway", "check", "127.0.0.1", 1, *options)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_aes_shows_rules_and_warnings(tmp_path: Path) -> None:
    file = tmp_path / "aes.toml"
    file.write_text('[ae."CT 1"]\ncalling_ae_titles = ["CT[0-9]"]\nsop_classes.ignore = ["images"]')
    shown = run(tmp_path, "gateway", "aes", "--file", file)
    assert shown.returncode == 0
    for words in ("CT 1", "CT[0-9]", "all; ignored: images", "Other called AE titles: rejected"):
        assert words in shown.stdout
    assert "set networks in" in shown.stderr
    data = json.loads(run(tmp_path, "gateway", "aes", "--file", file, "--json").stdout)
    assert data["ae"]["CT 1"]["calling_ae_titles"] == ["CT[0-9]"]
    assert len(data["warnings"]) == 1


def test_aes_without_a_file_is_the_entity_of_the_settings(tmp_path: Path) -> None:
    shown = run(tmp_path, "gateway", "aes", "--json", BIODATAMINE_DICOM_AE_TITLE="OURS")
    data = json.loads(shown.stdout)
    assert list(data["ae"]) == ["OURS"]
    assert data["default_ae_title"] == "OURS"


def test_a_bad_file_is_told_with_status_2(tmp_path: Path) -> None:
    file = tmp_path / "aes.toml"
    file.write_text("[CTSTORE]\n")
    done = run(tmp_path, "gateway", "aes", "--file", file)
    assert done.returncode == 2
    assert "write [ae.CTSTORE]" in done.stderr


def test_help_teaches(tmp_path: Path) -> None:
    assert "biodatamine gateway check PACS1" in run(tmp_path, "gateway", "check", "--help").stdout
    assert "[ae.BIODATAMINE]" in run(tmp_path, "gateway", "aes", "--help").stdout
    listed = run(tmp_path, "gateway", "--help").stdout
    assert all(name in listed for name in ("serve", "check", "aes"))


@pytest.mark.parametrize("asked", ["none", "required"])
def test_send_over_tls(tmp_path: Path, asked: str) -> None:
    authority = Authority(tmp_path / "authority")
    server, client = authority.issue("server"), authority.issue("client")
    files = make_instances(tmp_path / "files", 5, CT, series=1)
    context = server_context(
        certificate=server.certificate,
        key=server.key,
        ca=authority.certificate,
        client_certificates=asked,  # type: ignore[arg-type]
        now=NOW,
    )
    trusted = ("--tls", "--tls-ca", authority.certificate)
    own = ("--tls-cert", client.certificate, "--tls-key", client.key)
    with scp(ssl_context=context) as (port, stored):
        to = ("send", tmp_path / "files", "--host", "127.0.0.1", "--port", port, "--aec", "PEER")
        good = run(tmp_path, *to, *trusted, *own)
        assert good.returncode == 0, good.stderr
        assert len(set(stored)) == len(files)
        without = run(tmp_path, *to, *trusted)
        assert (without.returncode == 0) == (asked == "none")
        untrusted = run(tmp_path, *to, "--tls")
        plain = run(tmp_path, *to)
    assert (untrusted.returncode, plain.returncode) == (1, 1)
    assert "gateway check 127.0.0.1" in untrusted.stderr
    assert "gateway check 127.0.0.1" in plain.stderr
