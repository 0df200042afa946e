"""What `biodatamine ingest` refuses before it asks anybody."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from streams.agents.ingest_roots import record_roots, recorded_roots
from streams.commands.ingest import ingest

app = typer.Typer()
app.command()(ingest)


@pytest.fixture
def allowed(tmp_path: Path) -> Path:
    folder = tmp_path / "allowed"
    folder.mkdir()
    return folder


def run(data_dir: Path, *sources: Path) -> tuple[int, str]:
    # Nobody listens there: what is not refused at once ends with another error.
    environment = {"BIODATAMINE_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1", "COLUMNS": "1000"}
    found = CliRunner().invoke(
        app, ["--data-dir", str(data_dir), *map(str, sources)], env=environment
    )
    return found.exit_code, " ".join(found.output.split())


def test_a_worker_tells_its_folders(tmp_path: Path, allowed: Path) -> None:
    assert recorded_roots(tmp_path) is None
    for roots in ([allowed], [], [allowed, tmp_path]):
        record_roots(tmp_path, roots)
        assert recorded_roots(tmp_path) == tuple(roots)
    (tmp_path / "ingest-roots.json").write_bytes(b"{")
    assert recorded_roots(tmp_path) is None


@pytest.mark.parametrize("through", ["", "link"])
def test_a_folder_that_the_worker_may_not_read_is_refused(
    tmp_path: Path, allowed: Path, through: str
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a.png").write_bytes(b"a")
    if through:
        (allowed / through).symlink_to(outside)
        outside = allowed / through
    record_roots(tmp_path, [allowed])
    status, output = run(tmp_path, outside)
    assert status == 1
    assert "outside-roots" in output
    assert "up --ingest-root FOLDER" in output
    assert "BIODATAMINE_INGEST_ROOTS" in output
    assert str(allowed) in output


@pytest.mark.parametrize("is_known", [True, False])
def test_what_it_may_read_or_what_nobody_knows_goes_to_the_stream(
    tmp_path: Path, allowed: Path, is_known: bool
) -> None:
    (allowed / "a.png").write_bytes(b"a")
    if is_known:
        record_roots(tmp_path, [allowed])
    status, output = run(tmp_path, allowed)
    assert status == 1
    assert "kafka" in output
    assert "outside-roots" not in output
