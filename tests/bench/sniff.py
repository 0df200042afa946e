"""How fast the header pass is, whether the size of the pixels matters, and what damage does.

Files lie in the page cache. Each figure is the best of several rounds of one process, in CPU
seconds, so that other programs on the machine count little.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import struct
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from statistics import median
from typing import Any

from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from rich.console import Console
from rich.progress import track

from streams.runtime.isolation import Failure, IsolatedPool
from streams.settings import Settings
from streams.sniff import SniffContext, sniff
from tests.support.examination import examine
from tests.support.mutations import mutant

_console = Console(stderr=True)
_CONTEXT = SniffContext(b"0123456789abcdef")
_HALF_MEGABYTE = 512 << 10
_SIZES_BYTES = (_HALF_MEGABYTE, 8 << 20, 64 << 20)
_ROUNDS = 7
_TURNS, _SHORT = 150, 20
_PART = 64


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark; print one JSON object last."""
    parser = argparse.ArgumentParser("biodatamine bench sniff", description=__doc__)
    parser.add_argument("--files", type=int, default=200, help="files of each kind")
    parser.add_argument("--mutations", type=int, default=0, help="damaged files to look at")
    parser.add_argument("--seed", type=int, default=0, help="of the damage")
    parser.add_argument("--processes", type=int, default=1, help="that look at damaged files")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="biodatamine-bench-") as name:
        found = _speed(Path(name), options.files)
    if options.mutations:
        damage = asyncio.run(_damage(options.mutations, options.seed, options.processes))
        found["bars"] |= damage.pop("bars")
        found["mutations"] = damage
    print(json.dumps(found))
    return 0


def _bar(value: float, goal: str, *, holds: bool) -> dict[str, Any]:
    return {"value": value, "goal": goal, "holds": holds}


# Speed


def _headers() -> dict[str, Dataset]:
    """Return real headers, and one that is long as vendors make them."""
    found = {}
    for label, name in (
        ("CT", "693_UNCI.dcm"),
        ("CT with private tags", "CT_small.dcm"),
        ("MR", "MR_small.dcm"),
        ("enhanced MR", "emri_small.dcm"),
    ):
        path = get_testdata_file(name)
        assert path is not None, "pip install 'biodatamine[demo]'"
        found[label] = dcmread(path)
    long = dcmread(get_testdata_file("CT_small.dcm"))
    for group in (0x0019, 0x0021, 0x0023, 0x0025, 0x0027, 0x0043, 0x0045):
        block = long.private_block(group, "VENDOR HEADER 01", create=True)
        for element in range(60):
            block.add_new(element, "LO", f"value {group:04X} {element}" * 2)
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "T-D4000", "SRT", "Abdomen"
    inner = Dataset()
    inner.ProcedureCodeSequence = Items([item] * 3)
    long.RequestAttributesSequence = Items([inner] * 20)
    long.AnatomicRegionSequence = Items([item])
    long.add_new(0x00431028, "OB", bytes(30_000))
    found["CT with 420 private tags, sequences and a 30 kB value"] = long
    return found


def _write(path: Path, dataset: Dataset, size_bytes: int) -> None:
    """Write a dataset with pixel data to the end of a sparse file of a given size."""
    dataset = dcmread(_as_bytes(dataset))
    dataset.PixelData = b"\0\0"
    dataset["PixelData"].VR = "OW"
    for tag in [element.tag for element in dataset if element.tag > 0x7FE00010]:
        del dataset[tag]
    dataset.save_as(path, enforce_file_format=True)
    head = path.stat().st_size
    size_bytes = max(size_bytes, head + 2)
    size_bytes += (size_bytes - head) % 2
    with path.open("r+b") as file:
        file.seek(head - 6)
        file.write(struct.pack("<L", size_bytes - head + 2))
        file.truncate(size_bytes)


def _as_bytes(dataset: Dataset) -> BytesIO:
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    buffer.seek(0)
    return buffer


def _seconds(paths: Sequence[Path]) -> float:
    """Return the CPU seconds of one header pass over files: open, read, parse, close."""
    began = time.process_time()
    for path in paths:
        with path.open("rb", buffering=0) as source:
            found = sniff(
                source,  # type: ignore[arg-type]
                size_bytes=path.stat().st_size,
                name=path.name,
                context=_CONTEXT,
            )
    seconds = time.process_time() - began
    assert found.format == "dicom"
    assert found.header.rows
    assert not any(problem.code == "truncated" for problem in found.problems), found.problems
    return seconds


def _speed(folder: Path, count: int) -> dict[str, Any]:
    kinds: dict[str, list[Path]] = {}
    headers = _headers()
    for number, (label, dataset) in enumerate(headers.items()):
        paths = [folder / f"{number}-{index}.dcm" for index in range(count)]
        _write(paths[0], dataset, _HALF_MEGABYTE)
        whole = paths[0].read_bytes()
        for path in paths:
            # Not sparse: read into the page cache, as files that have just come are.
            path.write_bytes(whole)
        kinds[label] = paths
    sizes: dict[int, list[Path]] = {}
    for size_bytes in _SIZES_BYTES:
        path = folder / f"size-{size_bytes}.dcm"
        _write(path, headers["CT"], size_bytes)
        sizes[size_bytes] = [path] * _SHORT
    _console.print(f"header pass over {count} files of each of {len(kinds)} kinds")
    best = {label: min(_seconds(paths) for _ in range(_ROUNDS)) for label, paths in kinds.items()}
    # In turns, and each turn short, so that every size has some that nothing else disturbed.
    rounds = [{size: _seconds(paths) for size, paths in sizes.items()} for _ in range(_TURNS)]
    by_size = {size: min(one[size] for one in rounds) for size in sizes}
    rates = {label: count / seconds for label, seconds in best.items()}
    slowest, typical = min(rates.values()), rates["CT"]
    ratio = max(by_size.values()) / by_size[_HALF_MEGABYTE]
    return {
        "files": count,
        "files_per_second_per_core": {label: round(rate) for label, rate in rates.items()},
        "microseconds_by_file_megabytes": {
            f"{size / 2**20:g}": round(seconds / _SHORT * 1e6, 1)
            for size, seconds in by_size.items()
        },
        "bars": {
            "512 kB DICOM files per second and core": _bar(
                round(typical), ">= 2000", holds=typical >= 2000
            ),
            "the same with the slowest header": _bar(
                round(slowest), ">= 2000", holds=slowest >= 2000
            ),
            "time with 8 or 64 MB over time with 512 kB": _bar(
                round(ratio, 3), "<= 1.1", holds=ratio <= 1.1
            ),
        },
    }


# Damage


async def _damage(count: int, seed: int, processes: int) -> dict[str, Any]:
    settings = Settings()
    pool = IsolatedPool(
        examine,
        processes=processes,
        timeout_seconds=settings.decode_timeout_seconds,
        memory_bytes=settings.decode_memory_bytes,
    )
    outcomes: Counter[str] = Counter()
    faults: list[str] = []
    lost: list[str] = []
    sniffing: list[float] = []
    rendering: list[tuple[float, str]] = []
    memory: list[tuple[int, str]] = []
    try:
        for start in track(
            range(0, count, _PART), f"{count} damaged files", console=_console, transient=True
        ):
            part = [mutant(n, seed=seed) for n in range(start, min(count, start + _PART))]
            answers = await pool.map([(one.data, one.format) for one in part])
            for one, answer in zip(part, answers, strict=True):
                if isinstance(answer, Failure):
                    lost.append(f"{one}: {answer.reason}, {answer.detail}")
                    continue
                outcomes.update(outcome.split(": ")[1] for outcome in answer.outcomes)
                faults += [f"{one}: {fault}" for fault in answer.faults]
                sniffing.append(answer.sniff_seconds)
                rendering.append((answer.render_seconds, str(one)))
                memory.append((answer.memory_bytes, str(one)))
    finally:
        pool.close()
    slowest = max(rendering, default=(0.0, ""))
    largest = max(memory, default=(0, ""))
    for line in (lost + faults)[:40]:
        _console.print(line, style="red", markup=False, highlight=False)
    limit_seconds, limit_bytes = settings.decode_timeout_seconds / 6, 2 << 30
    return {
        "files": count,
        "seed": seed,
        "outcomes": dict(outcomes.most_common()),
        "lost": lost[:20],
        "faults": faults[:20],
        "median_sniff_milliseconds": round(1000 * median(sniffing), 3),
        "slowest_render": slowest[1],
        "largest": largest[1],
        "bars": {
            "damaged files that ended a process": _bar(len(lost), "0", holds=not lost),
            "damaged files with an answer outside the contract": _bar(
                len(faults), "0", holds=not faults
            ),
            "slowest damaged file, sniffed, CPU seconds": _bar(
                round(max(sniffing), 3), "<= 0.5", holds=max(sniffing) <= 0.5
            ),
            "slowest damaged file, rendered, CPU seconds": _bar(
                round(slowest[0], 3), f"<= {limit_seconds:g}", holds=slowest[0] <= limit_seconds
            ),
            "largest growth of memory by a damaged file, MB": _bar(
                round(largest[0] / 2**20, 1),
                f"<= {limit_bytes >> 20}",
                holds=largest[0] <= limit_bytes,
            ),
        },
    }
