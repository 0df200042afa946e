"""Settings: one documented list, and a secret that is made once."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from streams.settings import SecretError, Settings, environment_name

ROOT = Path(__file__).resolve().parents[2]
EVERY = sorted(Settings.model_fields)


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("BIODATAMINE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", EVERY)
def test_every_setting_says_what_it_is(name: str) -> None:
    description = Settings.model_fields[name].description
    assert description
    assert not description.endswith(".")
    assert len(description) <= 80


@pytest.mark.parametrize("name", EVERY)
def test_every_setting_has_a_default_that_works(name: str) -> None:
    assert not Settings.model_fields[name].is_required()


def test_units_stand_in_the_names() -> None:
    for name, field in Settings.model_fields.items():
        if field.annotation is float:
            assert re.search(r"_(seconds|bytes|mm)$", name), name


@pytest.mark.parametrize(
    ("variable", "text", "value"),
    [
        ("BIODATAMINE_TENANT", "clinic", "clinic"),
        ("BIODATAMINE_WORKER_STAGES", '["sniff","store"]', ("sniff", "store")),
        ("BIODATAMINE_INGEST_ROOTS", '["/a","/b"]', (Path("/a"), Path("/b"))),
        ("BIODATAMINE_LOG_IS_DURABLE", "false", False),
        ("BIODATAMINE_BATCH_MAX_EVENTS", "7", 7),
    ],
)
def test_settings_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, variable: str, text: str, value: Any
) -> None:
    monkeypatch.setenv(variable, text)
    name = variable.removeprefix("BIODATAMINE_").lower()
    assert getattr(Settings(), name) == value
    assert environment_name(name) == variable


def test_settings_come_from_a_file_of_the_working_folder(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("BIODATAMINE_TENANT=filed\nUNRELATED=1\n")
    assert Settings().tenant == "filed"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("clickhouse_url", "tcp://host:9000"),
        ("patient_hash_key", "short"),
        ("batch_max_events", 0),
        ("metrics_port", 70_000),
        ("session_timeout_seconds", 1),
        ("retry_max_seconds", 0),
        ("decode_memory_bytes", 1),
    ],
)
def test_a_setting_that_cannot_work_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=name):
        Settings(**{name: value})


def test_secrets_are_not_shown() -> None:
    settings = Settings(patient_hash_key="sixteen bytes or more")  # type: ignore[arg-type]
    assert "sixteen" not in repr(settings)
    assert "sixteen" not in str(settings.patient_hash_key)
    assert settings.patient_key == b"sixteen bytes or more"


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().tenant = "other"  # type: ignore[misc]


def test_blobs_lie_in_the_data_folder_unless_said_otherwise(tmp_path: Path) -> None:
    assert Settings(data_dir=tmp_path).blobs == str(tmp_path / "blobs")
    assert Settings(data_dir=tmp_path, blob_url="s3://bucket/x").blobs == "s3://bucket/x"


# The secret of the patient pseudonyms


def test_the_patient_key_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    key = Settings(data_dir=tmp_path).patient_key
    assert len(key) >= 32
    assert Settings(data_dir=tmp_path).patient_key == key
    path = tmp_path / "secrets" / "patient_hash_key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [entry.name for entry in path.parent.iterdir()] == ["patient_hash_key"]


def test_two_data_folders_have_two_keys(tmp_path: Path) -> None:
    keys = {Settings(data_dir=tmp_path / name).patient_key for name in "ab"}
    assert len(keys) == 2


RACER = """
import sys
from pathlib import Path
from streams.settings import Settings
settings = Settings(data_dir=Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
print(settings.patient_key.decode(), flush=True)
"""


def test_processes_that_race_get_the_same_key(tmp_path: Path) -> None:
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        for _ in range(4)
    ]
    try:
        for racer in racers:
            assert racer.stdout is not None
            assert racer.stdout.readline() == "ready\n"
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("\n")
            racer.stdin.flush()
        keys = {racer.stdout.readline() for racer in racers if racer.stdout}
    finally:
        for racer in racers:
            racer.communicate()
    assert len(keys) == 1
    assert len(keys.pop().strip()) == 64


def test_a_reader_never_sees_half_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []
    path = tmp_path / "secrets" / "patient_hash_key"
    fsync = os.fsync

    def look(descriptor: int) -> None:
        # The last step before the key is in place: whoever looks now finds nothing, or all.
        if path.exists():
            seen.append(path.read_bytes())
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", look)
    key = Settings(data_dir=tmp_path).patient_key
    assert seen == [key]


def test_a_key_that_was_made_meanwhile_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "secrets" / "patient_hash_key"
    link = os.link

    def be_first(source: str, target: Path) -> None:
        path.write_bytes(b"the key of the other process")
        link(source, target)

    monkeypatch.setattr(os, "link", be_first)
    assert Settings(data_dir=tmp_path).patient_key == b"the key of the other process"
    assert [entry.name for entry in path.parent.iterdir()] == ["patient_hash_key"]


@pytest.mark.parametrize("damage", [b"", b"too short"])
def test_a_damaged_key_is_not_used(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "secrets" / "patient_hash_key"
    path.parent.mkdir()
    path.write_bytes(damage)
    with pytest.raises(SecretError, match="backup"):
        _ = Settings(data_dir=tmp_path).patient_key
    assert path.read_bytes() == damage
