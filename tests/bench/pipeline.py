"""Throughput and overhead of the whole pipeline, beside the bare work on the same files.

The bare work is what nobody can do without: decode each file, look at it (views, measurements,
burnt-in text), run the model; in a plain loop, one process, one thread. The pipeline adds DICOM
over the network, durable storage, Kafka, four stages, Triton, and ClickHouse. Both are counted in
CPU seconds of all their processes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from pydicom.data import get_testdata_file
from rich.console import Console

from tests.support.instances import make_instances
from tests.support.stack import running_stack, wait_for

_console = Console(stderr=True)
_TEMPLATE = "693_UNCI.dcm"
_DONE = "SELECT uniqExact(image_id) FROM files WHERE stage = 'analyzed'"

_BARE = """
import json, sys, time
import numpy as np
from pathlib import Path
from model_repository.backbone import load_backbone
from model_repository.spec import EmbedderSpec
from streams.agents.analyze import Job, look_job
backbone = load_backbone(EmbedderSpec(threads=1))
paths = sorted(Path(sys.argv[1]).iterdir())
def work(paths):
    for start in range(0, len(paths), 32):
        part = paths[start:start + 32]
        looked = [look_job(Job(p, "dicom", backbone.input_size, True)) for p in part]
        backbone.embed_with_stages(np.concatenate([answer.look.views for answer in looked]))
work(paths[:32])
cpu, wall = time.process_time(), time.perf_counter()
work(paths)
print(json.dumps({"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}))
"""


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark; print one JSON object last."""
    parser = argparse.ArgumentParser("biodatamine bench pipeline", description=__doc__)
    parser.add_argument("--files", type=int, default=600, help="instances to push")
    parser.add_argument("--associations", type=int, default=2)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="biodatamine-bench-") as name:
        folder = Path(name)
        template = get_testdata_file(_TEMPLATE)
        assert template is not None, "pip install 'biodatamine[demo]'"
        _console.print(f"making {options.files} instances of {template}")
        warm = make_instances(folder / "warm", 64, Path(template), series=1)
        paths = make_instances(folder / "files", options.files, Path(template))
        size = sum(path.stat().st_size for path in paths)
        bare = _bare(folder / "files")
        with running_stack(folder / "data") as stack:
            _push(stack, folder / "warm", len(warm), 1)
            before = _cpu_seconds(stack)
            began = time.perf_counter()
            _push(stack, folder / "files", len(warm) + len(paths), options.associations)
            wall = time.perf_counter() - began
            after = _cpu_seconds(stack)
    per_service = {
        name: round((after[name] - before.get(name, 0.0)) / len(paths) * 1000, 2) for name in after
    }
    pipeline = sum(per_service.values()) / 1000
    bare_per_file = bare["cpu"] / len(paths)
    ratio = pipeline / bare_per_file
    print(
        json.dumps(
            {
                "files": len(paths),
                "megabytes": round(size / 2**20, 1),
                "files_per_second": round(len(paths) / wall, 1),
                "bare_files_per_second": round(len(paths) / bare["wall"], 1),
                "bare_cpu_ms_per_file": round(bare_per_file * 1000, 2),
                "pipeline_cpu_ms_per_file": round(pipeline * 1000, 2),
                "pipeline_cpu_ms_per_file_by_service": per_service,
                "bars": {
                    "CPU of the pipeline over bare work": {
                        "value": round(ratio, 2),
                        "goal": "<= 1.5",
                        "holds": ratio <= 1.5,
                    }
                },
            }
        )
    )
    return 0


def _bare(folder: Path) -> dict[str, float]:
    _console.print("bare work: decode, look and model in a plain loop")
    done = subprocess.run(
        [sys.executable, "-c", _BARE, str(folder)], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def _push(stack, folder: Path, total: int, associations: int) -> None:
    _console.print(f"pushing {folder.name}")
    stack.run("send", str(folder), "--associations", str(associations))
    database = stack.database()
    wait_for(
        lambda: database.query(_DONE)[0][0] >= total,
        seconds=900,
        what=f"{total} files analyzed",
        # Each look is a query that ClickHouse's share is charged with.
        pause_seconds=1.0,
    )
    database.close()


def _cpu_seconds(stack) -> dict[str, float]:
    sums = {}
    for name, processes in stack.processes().items():
        times = [process.cpu_times() for process in processes]
        sums[name] = sum(t.user + t.system for t in times)
    return sums
