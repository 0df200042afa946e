"""Resident memory of every process while many small instances pass: flat, or how steep."""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil
from pydicom.data import get_testdata_file
from rich.console import Console
from rich.progress import Progress

from deploy.embedded.broker import DEFAULT_RECYCLE_BYTES
from tests.support.instances import make_instances
from tests.support.stack import Stack, running_stack, wait_for

_console = Console(stderr=True)
_TEMPLATE = "MR_small.dcm"
_DONE = "SELECT uniqExact(image_id) FROM files WHERE stage = 'analyzed'"
# Caches, pools and allocators fill up first; what matters is what goes on growing.
_WARM_SHARE = 0.4
_FLAT_BYTES_PER_INSTANCE = 1024.0
_SAMPLE_SECONDS = 2.0
_IDLE_SECONDS = 180.0


def slope(counts: Sequence[float], values: Sequence[float]) -> float:
    """Fit a line by Theil and Sen's median of slopes, which single steps do not bend."""
    x, y = np.asarray(counts, float), np.asarray(values, float)
    left, right = np.triu_indices(len(x), k=1)
    apart = x[right] > x[left]
    if not apart.any():
        return 0.0
    return float(np.median((y[right] - y[left])[apart] / (x[right] - x[left])[apart]))


class Sampler(threading.Thread):
    """Notes the resident memory of each service, and how many instances are done."""

    def __init__(self, stack: Stack, total: int) -> None:
        super().__init__(daemon=True)
        self._stack = stack
        self._total = total
        self._database = stack.database()
        self.counts: list[int] = []
        self.resident: dict[str, list[int]] = {}
        self.done = threading.Event()

    def run(self) -> None:
        """Sample until all instances are done."""
        with Progress(console=_console) as progress:
            task = progress.add_task("analysed", total=self._total)
            while not self.done.is_set():
                count = int(self._database.query(_DONE)[0][0])
                progress.update(task, completed=count)
                sums = _resident(self._stack)
                self.counts.append(count)
                for name, value in sums.items():
                    self.resident.setdefault(name, [0] * (len(self.counts) - 1)).append(value)
                if count >= self._total:
                    self.done.set()
                self.done.wait(_SAMPLE_SECONDS)


def _resident(stack: Stack) -> dict[str, int]:
    sums = {}
    for name, processes in stack.processes().items():
        total = 0
        for process in processes:
            try:
                total += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        sums[name] = total
    return sums


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark; print one JSON object last."""
    parser = argparse.ArgumentParser("biodatamine bench memory", description=__doc__)
    parser.add_argument("--files", type=int, default=20_000, help="instances to push")
    parser.add_argument("--associations", type=int, default=2)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="biodatamine-bench-") as name:
        folder = Path(name)
        template = get_testdata_file(_TEMPLATE)
        assert template is not None
        _console.print(f"making {options.files} instances of {_TEMPLATE}")
        make_instances(folder / "files", options.files, Path(template), series=100)
        with running_stack(folder / "data") as stack:
            sampler = Sampler(stack, options.files)
            sampler.start()
            began = time.perf_counter()
            stack.run(
                "send",
                str(folder / "files"),
                "--associations",
                str(options.associations),
                timeout_seconds=3600,
            )
            wait_for(sampler.done.is_set, seconds=3600, what="all analyzed", pause_seconds=1)
            wall = time.perf_counter() - began
            sampler.join(30)
            _console.print("waiting for the broker to give its memory back")
            broker_bytes = _once_idle(stack)
    print(json.dumps(_report(sampler, options.files, wall, broker_bytes)))
    return 0


def _once_idle(stack: Stack) -> int:
    """Return the broker's memory when it was recycled, or after a while in which it was not."""
    deadline = time.monotonic() + _IDLE_SECONDS
    while (size := _resident(stack)["broker"]) > DEFAULT_RECYCLE_BYTES:
        if time.monotonic() > deadline:
            break
        time.sleep(_SAMPLE_SECONDS)
    return size


def _report(sampler: Sampler, files: int, wall: float, broker_bytes: int) -> dict[str, object]:
    first = next(i for i, n in enumerate(sampler.counts) if n >= _WARM_SHARE * files)
    services = {}
    bars = {}
    for name, values in sampler.resident.items():
        rate = slope(sampler.counts[first:], values[first:])
        services[name] = {
            "start_mb": round(values[0] / 2**20, 1),
            "warm_mb": round(values[first] / 2**20, 1),
            "end_mb": round(values[-1] / 2**20, 1),
            "slope_bytes_per_instance": round(rate, 1),
        }
        if name == "broker":
            # Its memory is the log itself: it grows with each event and is bounded by recycling.
            bars["broker once idle, MB"] = {
                "value": round(broker_bytes / 2**20, 1),
                "goal": f"<= {DEFAULT_RECYCLE_BYTES >> 20}",
                "holds": broker_bytes <= DEFAULT_RECYCLE_BYTES,
            }
            continue
        bars[f"{name} is flat, bytes an instance"] = {
            "value": round(rate, 1),
            "goal": f"<= {_FLAT_BYTES_PER_INSTANCE:.0f}",
            "holds": rate <= _FLAT_BYTES_PER_INSTANCE,
        }
    return {
        "files": files,
        "files_per_second": round(files / wall, 1),
        "services": services,
        "bars": bars,
    }
