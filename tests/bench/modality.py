"""How well the modality is told, cross-validated by source on labelled files, and what it costs.

Every figure is of models that saw nothing of the sources they are asked about. The labelled files
are those of BIODATAMINE_CORPUS unless --manifest names others. What was extracted of the files is
kept in --cache, so that a second run takes minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from streams.commands.common import progress_bar
from streams.commands.modality.extraction import embedder_version, extract
from streams.commands.modality.manifest import Columns, Row, read_manifest
from streams.commands.modality.training import copies_of, train

_console = Console(stderr=True)
_CORPUS = Columns(name="source_path", label="modality", source="origin_group", licence="licence")
_TIMED_FILES = 120
_WRONG = "DICOM, 15% of tags wrong, without path"


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark; print one JSON object last."""
    parser = argparse.ArgumentParser("biodatamine bench modality", description=__doc__)
    parser.add_argument("--manifest", type=Path, help="labelled files, instead of the corpus")
    parser.add_argument("--cache", type=Path, help="folder that keeps what was extracted")
    parser.add_argument(
        "--copies", type=int, default=16, help="augmented copies of a source's only picture"
    )
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=0, help="processes; 0 takes every core")
    options = parser.parse_args(arguments)
    rows = _rows(options.manifest)
    cost = _cost(rows)
    with progress_bar() as bar:
        task = bar.add_task("Looking at files", total=len(rows))
        extracted = extract(
            rows,
            copies=copies_of(rows, options.copies),
            jobs=options.jobs,
            kept_in=options.cache,
            on_progress=lambda done: bar.update(task, completed=done),
        )
    _console.print("learning and cross-validating")
    trained = train(rows, extracted, embedder_version=embedder_version(), folds=options.folds)
    measured = trained.measured
    print(
        json.dumps(
            {
                "files": len(rows),
                "sources": len({row.source for row in rows}),
                "cpu_ms_per_file": cost,
                "thin_families": list(trained.thin),
                "figures": measured,
                "bars": _bars(measured, cost),
            }
        )
    )
    return 0


def _rows(manifest: Path | None) -> list[Row]:
    if manifest is not None:
        found = read_manifest(manifest)
    else:
        corpus = os.environ.get("BIODATAMINE_CORPUS", "")
        assert corpus, "set BIODATAMINE_CORPUS to the labelled corpus, or name a --manifest"
        found = read_manifest(
            Path(corpus) / "manifest.csv", columns=_CORPUS, where={"content": "real"}
        )
    return [row for row in found if row.family is not None]


def _cost(rows: Sequence[Row]) -> dict[str, float]:
    """Measure the CPU time of everything that is done to one file, in this process."""
    from streams.commands.inspect import Inspector

    inspector = Inspector.load(None, network=True, text=True)
    assert not inspector.without_network, inspector.without_network
    chosen = np.random.default_rng(0).permutation(len(rows))[:_TIMED_FILES]
    files = [rows[place].file for place in chosen]
    for file in files[:5]:
        inspector.inspect(file)
    _console.print(f"timing {len(files)} files")
    spent = []
    for file in files:
        began = time.process_time()
        inspector.inspect(file)
        spent.append(1000 * (time.process_time() - began))
    return {
        "mean": round(float(np.mean(spent)), 1),
        "median": round(float(np.median(spent)), 1),
        "95th_percentile": round(float(np.percentile(spent, 95)), 1),
    }


def _bars(measured: dict[str, dict[str, Any]], cost: dict[str, float]) -> dict[str, Any]:
    pixels, wrong = measured["pixels only"], measured[_WRONG]
    margins = [
        figures["accuracy"]["value"]
        - max(
            part["accuracy"]["value"]
            for name, part in figures["ablations"].items()
            if name.endswith(" alone")
        )
        for figures in (measured["all signals"], wrong)
    ]
    return {
        "pixels only: accuracy on unseen sources": _least(pixels["accuracy"]["value"], 0.93),
        "pixels only: calibration error": _most(pixels["calibration_error"]["value"], 0.05),
        "pixels only: abstained on thin families": _least(
            pixels["thin_families"]["abstained"]["value"], 0.9
        ),
        "DICOM with 15 % of tags wrong: accuracy": _least(wrong["accuracy"]["value"], 0.97),
        "fused less the best single signal": _least(round(min(margins), 4), 0.0),
        "CPU ms a file, mean": _most(cost["mean"], 60.0),
    }


def _least(value: float, goal: float) -> dict[str, Any]:
    return {"value": value, "goal": f">= {goal}", "holds": value >= goal}


def _most(value: float, goal: float) -> dict[str, Any]:
    return {"value": value, "goal": f"<= {goal}", "holds": value <= goal}
