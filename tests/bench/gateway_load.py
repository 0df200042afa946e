"""Many associations, and long ones, into a whole stack: all there once, memory flat?"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from aiokafka import AIOKafkaConsumer, TopicPartition
from pydicom.data import get_testdata_file
from rich.console import Console
from rich.progress import Progress

from schemas import TOPICS, FileReceived, decode
from tests.bench.memory import slope
from tests.support.dcmtk import missing_tools, push
from tests.support.instances import make_instances
from tests.support.stack import Stack, running_stack, wait_for

_console = Console(stderr=True)
_TEMPLATE = "MR_small.dcm"
_TOPIC = TOPICS["files-received"]
_BLOB = re.compile(r"[0-9a-f]{64}")
_ROWS = "SELECT count(), uniqExact(image_id) FROM files FINAL"
_SHORT_AT_ONCE = 4
_SAMPLE_SECONDS = 1.0
# Pools, caches and interpreters fill up first; what matters is what goes on growing.
_WARM_SHARE = 0.4
_FLAT_MB = 10.0


@dataclass
class Load:
    """One way to push, and the gateway's resident memory meanwhile.

    Parameters
    ----------
    name : str
        As the figures name it.
    run : callable
        Pushes in a folder; is given a function to note acknowledged instances with.
    """

    name: str
    run: Callable[[Callable[[int], None]], None]
    acknowledged: int = 0
    seconds: float = 0.0
    counts: list[int] = field(default_factory=list)
    resident: list[int] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, count: int) -> None:
        """Add acknowledged instances."""
        with self.lock:
            self.acknowledged += count

    def figures(self) -> dict[str, object]:
        """What came out."""
        first = next(
            i for i, count in enumerate(self.counts) if count >= _WARM_SHARE * self.counts[-1]
        )
        warm = self.resident[first:]
        return {
            "acknowledged": self.acknowledged,
            "instances_per_second": round(self.acknowledged / self.seconds, 1),
            "resident_mb": [round(value / 2**20, 1) for value in (self.resident[0], *warm[::9])],
            "slope_bytes_per_instance": round(slope(self.counts[first:], warm), 1),
            "growth_mb": round((warm[-1] - warm[0]) / 2**20, 2),
        }


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark; print one JSON object last."""
    parser = argparse.ArgumentParser("biodatamine bench gateway_load", description=__doc__)
    parser.add_argument("--short", type=int, default=1000, help="associations of one instance")
    parser.add_argument("--long", type=int, default=10, help="associations of many instances")
    parser.add_argument("--instances", type=int, default=1000, help="of each long association")
    parser.add_argument("--receive-path", default="", help="dicom_receive_path of the gateway")
    options = parser.parse_args(arguments)
    if missing_tools():
        _console.print("not installed: dcmtk; apt-get install dcmtk")
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    env = {"BIODATAMINE_DICOM_RECEIVE_PATH": options.receive_path} if options.receive_path else {}
    with tempfile.TemporaryDirectory(prefix="biodatamine-bench-") as name:
        folder = Path(name)
        template = get_testdata_file(_TEMPLATE)
        assert template is not None
        total = options.short + options.long * options.instances
        _console.print(f"making {total} instances of {_TEMPLATE}")
        paths = make_instances(folder / "files", total, Path(template), series=50)
        with running_stack(folder / "data", env=env) as stack:
            report = _load(stack, paths, folder, options)
    print(json.dumps(report))
    return 0


def _load(
    stack: Stack, paths: Sequence[Path], folder: Path, options: argparse.Namespace
) -> dict[str, object]:
    port = stack.info.addresses.dicom_port
    assert port is not None
    short, long = paths[: options.short], paths[options.short :]

    def one_each(note: Callable[[int], None]) -> None:
        def one(number: int) -> None:
            note(push([[short[number]]], port=port, folder=folder / "short" / str(number)).stored)

        with ThreadPoolExecutor(_SHORT_AT_ONCE) as pool:
            list(pool.map(one, range(len(short))))

    def many_each(note: Callable[[int], None]) -> None:
        def one(number: int) -> None:
            done = push([long[number :: options.long]], port=port, folder=folder / f"long {number}")
            note(done.stored)

        with ThreadPoolExecutor(options.long) as pool:
            list(pool.map(one, range(options.long)))

    loads = [
        Load(f"{options.short} associations of 1", one_each),
        Load(f"{options.long} associations of {options.instances}", many_each),
    ]
    with Progress(console=_console) as progress:
        for load in loads:
            _sampled(load, stack, progress, _wanted(load, loads, options))
    acknowledged = sum(load.acknowledged for load in loads)
    database = stack.database()
    try:
        wait_for(
            lambda: database.query(_ROWS)[0][1] >= acknowledged,
            seconds=3600,
            what="every acknowledged instance has its row",
            pause_seconds=1,
        )
        rows, images = database.query(_ROWS)[0]
    finally:
        database.close()
    events = asyncio.run(_published(stack, acknowledged))
    published = len(events)
    # Other rooms keep blobs of their own in the store; these are the instances.
    stored = len({event.image_id for event in events.values()} & _blobs(stack))
    shown = {load.name: load.figures() for load in loads}
    counts = {
        "acknowledged": acknowledged,
        "stored": stored,
        "published": published,
        "images with a row": images,
        "rows": rows,
    }
    same = {acknowledged, stored, published, images, rows} == {len(paths)}
    return {
        "loads": shown,
        **counts,
        "bars": {
            "sent = acknowledged = stored = published = images with a row = rows": {
                "value": [len(paths), acknowledged, stored, published, images, rows],
                "goal": f"all {len(paths)}",
                "holds": same,
            },
            **{
                f"gateway's memory is flat, MB, {name}": {
                    "value": figures["growth_mb"],
                    "goal": f"<= {_FLAT_MB:.0f}",
                    "holds": float(str(figures["growth_mb"])) <= _FLAT_MB,
                }
                for name, figures in shown.items()
            },
        },
    }


def _wanted(load: Load, loads: Sequence[Load], options: argparse.Namespace) -> int:
    return int(options.short if load is loads[0] else options.long * options.instances)


def _sampled(load: Load, stack: Stack, progress: Progress, total: int) -> None:
    task = progress.add_task(load.name, total=total)
    before = len(_blobs(stack))
    worker = threading.Thread(target=load.run, args=(load.note,))
    began = time.monotonic()
    worker.start()
    while True:
        alive = worker.is_alive()
        load.counts.append(len(_blobs(stack)) - before)
        load.resident.append(_resident(stack))
        progress.update(task, completed=load.counts[-1])
        if not alive:
            break
        worker.join(_SAMPLE_SECONDS)
        load.seconds = time.monotonic() - began


def _blobs(stack: Stack) -> set[str]:
    names = (path.name for path in (stack.data_dir / "blobs").rglob("*"))
    return {name for name in names if _BLOB.fullmatch(name)}


def _resident(stack: Stack) -> int:
    total = 0
    for process in stack.processes()["gateway"]:
        with suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total


async def _published(stack: Stack, count: int) -> dict[str, FileReceived]:
    """Distinct events in the topic, by their id."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=stack.info.addresses.kafka_bootstrap_servers,
        auto_offset_reset="earliest",
    )
    await consumer.start()
    found: dict[str, FileReceived] = {}
    try:
        partitions = [TopicPartition(_TOPIC.name, i) for i in range(_TOPIC.partitions)]
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        deadline = time.monotonic() + 120
        last = False
        while not last:
            # One look more than needed: whatever comes then is one too many.
            last = len(found) >= count or time.monotonic() > deadline
            for messages in (await consumer.getmany(timeout_ms=1000)).values():
                events = [decode(one.value, FileReceived) for one in messages]
                found.update((event.event_id, event) for event in events)
    finally:
        await consumer.stop()
    return found
