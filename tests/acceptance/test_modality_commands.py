"""A curator labels files, learns a model of them, and asks how good it is."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.data import get_testdata_file

pytestmark = pytest.mark.acceptance

# Three sorts of picture that anyone tells apart: grain in a sector, smooth blobs, drawn lines.
FAMILIES = ("US", "CT", "non-medical")
SOURCES = tuple(f"hospital {letter}" for letter in "ABCDEF")
UNSEEN = ("hospital G", "hospital H")
Command = Callable[..., "subprocess.CompletedProcess[str]"]


def picture(family: str, random: np.random.Generator) -> Image.Image:
    side = int(random.integers(140, 240))
    rows, columns = np.mgrid[:side, :side] / side
    if family == "US":
        angle = np.arctan2(columns - 0.5, rows + 0.05)
        inside = (np.abs(angle) < 0.6) & (np.hypot(rows, columns - 0.5) < 0.95)
        grain = random.rayleigh(60, (side, side))
        return Image.fromarray((np.clip(grain, 0, 255) * inside).astype(np.uint8))
    if family == "CT":
        disc = np.hypot(rows - 0.5, (columns - 0.5) * 1.3) < 0.42
        soft = 110 + 40 * np.sin(9 * rows + random.random() * 6) * np.cos(7 * columns)
        noise = random.normal(0, 6, (side, side))
        return Image.fromarray((np.clip(soft + noise, 0, 255) * disc).astype(np.uint8))
    flat = np.full((side, side, 3), 250, np.uint8)
    for _ in range(12):
        top, left = random.integers(0, side - 30, 2)
        height, width = random.integers(5, 30, 2)
        flat[top : top + height, left : left + width] = random.integers(0, 255, 3)
    return Image.fromarray(flat)


def labelled(folder: Path, sources: Iterable[str], seed: int) -> Path:
    """Write pictures of each family from each source, and their manifest."""
    random = np.random.default_rng(seed)
    folder.mkdir()
    lines = [
        (
            f"{family}-{source[-1]}-{number}.png".replace("US", "a").replace("CT", "b"),
            family,
            source,
        )
        for source in sources
        for family in FAMILIES
        for number in range(3)
    ]
    for name, family, _ in lines:
        picture(family, random).save(folder / name)
    with (folder / "manifest.csv").open("w", newline="") as text:
        csv.writer(text).writerows([("path", "label", "source"), *lines])
    return folder / "manifest.csv"


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Command:
    here = tmp_path_factory.mktemp("here")

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "streams.cli", *map(str, words)],
            capture_output=True,
            text=True,
            timeout=600,
            cwd=here,
            check=False,
            env=None,
        )

    return run


@pytest.fixture(scope="module")
def model(command: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    manifest = labelled(folder / "seen", SOURCES, seed=1)
    done = command(
        "modality", "train", manifest, "--out", folder / "model", "--copies", 1, "--folds", 3,
        "--cache", folder / "cache", "--no-text",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder / "model"


def test_training_writes_a_model_its_card_and_its_pictures(model: Path) -> None:
    assert {path.name for path in model.iterdir()} == {
        "fusion.json", "head.npz", "CARD.md", "figures.json",
        "reliability.png", "confusion.png", "ablations.png",
    }  # fmt: skip
    card = (model / "CARD.md").read_text()
    for source in SOURCES:
        assert source in card
    assert str(model.parent) not in card
    figures = json.loads((model / "figures.json").read_text())
    assert figures["pixels only"]["files"] == len(SOURCES) * len(FAMILIES) * 3
    with Image.open(model / "confusion.png") as drawn:
        assert min(drawn.size) > 200


def test_a_model_answers_sources_that_it_has_not_seen(
    model: Path, command: Command, tmp_path: Path
) -> None:
    manifest = labelled(tmp_path / "unseen", UNSEEN, seed=2)
    done = command(
        "modality", "evaluate", manifest, "--model", model, "--without", "path",
        "--json", tmp_path / "found.json", "--answers", tmp_path / "answers.csv",
        "--pictures", tmp_path / "drawn",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["files"] == len(UNSEEN) * len(FAMILIES) * 3
    assert found["sources"] == len(UNSEEN)
    assert found["without"] == ["path"]
    # Kinds that are this unlike are told apart; a head that learned nothing has a third.
    assert found["accuracy"]["value"] >= 0.8
    assert 0 <= found["calibration_error"]["value"] <= 1
    assert "pixels alone" in found["ablations"]
    with (tmp_path / "answers.csv").open(newline="") as text:
        answers = list(csv.DictReader(text))
    assert len(answers) == found["files"]
    right = [row["likeliest"] == row["family"] for row in answers]
    assert np.mean(right) == pytest.approx(found["accuracy"]["value"], abs=1e-3)
    assert (tmp_path / "drawn" / "reliability.png").is_file()


def test_inspect_shows_every_vote_and_why(model: Path, command: Command) -> None:
    path = get_testdata_file("CT_small.dcm")
    done = command("inspect", path, "--model", model, "--json")
    assert done.returncode == 0, done.stderr
    (report,) = json.loads(done.stdout)
    votes = {vote["signal"]: vote for vote in report["modality"]["votes"]}
    assert {"modality-tag", "sop-class", "acquisition", "pixels"} <= set(votes)
    assert "CT" in votes["sop-class"]["evidence"]
    assert all(vote["evidence"] for vote in votes.values())
    told = command("inspect", path, "--model", model)
    assert "because" in told.stdout
    assert "Modality" in told.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("evaluate", "{manifest}", "--without", "magic"), "tags, path, pixels, text"),
        (("evaluate", "{manifest}", "--label-column", "kind"), "--label-column"),
        (("evaluate", "{manifest}", "--model", "nowhere"), "modality train"),
        (("evaluate", "none.csv"), "cannot be read"),
        (("train", "{manifest}", "--out", "x", "--folds", "99"), "sources"),
    ],
)
def test_errors_say_what_to_do(
    words: tuple[str, ...], says: str, command: Command, tmp_path: Path
) -> None:
    manifest = labelled(tmp_path / "few", UNSEEN[:1], seed=3)
    done = command("modality", *(word.format(manifest=manifest) for word in words))
    assert done.returncode == 1
    assert says in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
