"""The gateway beside dcmtk's storescp, Orthanc and a plain pynetdicom SCP: speed and CPU."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pydicom
import pynetdicom
from pydicom.data import get_testdata_file
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from streams.runtime.topics import ensure_topics
from tests.support.dcmtk import missing_tools, push
from tests.support.instances import make_instances
from tests.support.receivers import (
    NO_BROKER,
    Command,
    ReceiverProcess,
    free_port,
    gateway,
    orthanc,
    orthanc_program,
    orthanc_settings,
    plain_pynetdicom,
    storescp,
    storescp_as_shipped,
)
from tests.support.servers import in_thread, tansu_server

_console = Console(stderr=True)
_TEMPLATE = "693_UNCI.dcm"  # CT, 512 x 512 x 16 bit, 0.5 MB
_WARM_UP = 8
_NAGLE_INSTANCES = 100
_SHIPPED = "dcmtk, as shipped"
_MAIN = ("gateway", "dcmtk", _SHIPPED, "orthanc", "pynetdicom")

Start = Callable[[Path, int], Command]


@dataclass(frozen=True)
class Entry:
    """One of the receivers side by side.

    Parameters
    ----------
    name : str
        As the figures name it.
    start : callable
        How it is started in a folder on a port.
    rounds, instances : int
        How often, with how many instances.
    nodelay : bool
        Whether it and its senders disable Nagle's algorithm.
    with_broker : bool
        Whether a broker takes what it publishes meanwhile.
    """

    name: str
    start: Start
    rounds: int
    instances: int
    nodelay: bool = True
    with_broker: bool = False


@dataclass(frozen=True)
class Sample:
    """One run."""

    instances_per_second: float
    mb_per_second: float
    cpu_ms_per_instance: float


@dataclass
class Figures:
    """All runs: by associations, by receiver."""

    samples: dict[tuple[int, str], list[Sample]] = field(default_factory=dict)

    def note(self, associations: int, name: str, sample: Sample) -> None:
        """Add one run."""
        self.samples.setdefault((associations, name), []).append(sample)

    def median(self, associations: int, name: str, what: str) -> float:
        """Median over the rounds."""
        return statistics.median(getattr(s, what) for s in self.samples[associations, name])


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark; print one JSON object last."""
    parser = argparse.ArgumentParser("biodatamine bench gateway", description=__doc__)
    parser.add_argument("--instances", type=int, default=400, help="0.5 MB CTs of each run")
    parser.add_argument("--rounds", type=int, default=3, help="the median counts")
    parser.add_argument("--associations", type=int, nargs="+", default=[1, 4, 10])
    parser.add_argument("--receive-path", default="", help="dicom_receive_path of the gateway")
    parser.add_argument(
        "--peer-pdu", type=int, default=131072, help="max PDU of dcmtk and Orthanc, bytes"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="setting of the gateway"
    )
    parser.add_argument("--only", nargs="+", default=[], help="receivers to run; no bars then")
    options = parser.parse_args(arguments)
    lacking = [*missing_tools(), *([] if orthanc_program() else ["orthanc"])]
    if lacking:
        _console.print(f"not installed: {', '.join(lacking)}; apt-get install dcmtk orthanc")
        return 2
    # Ended by SIGTERM as by Ctrl-C: through all that stops and removes what was started.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="biodatamine-bench-") as name:
        figures = _run(Path(name), options)
    _show(figures, options.associations)
    print(json.dumps(_report(figures, options)))
    return 0


def _entries(options: argparse.Namespace) -> list[Entry]:
    settings = dict(one.split("=", 1) for one in options.set)
    if options.receive_path:
        settings["BIODATAMINE_DICOM_RECEIVE_PATH"] = options.receive_path
    ours = partial(gateway, settings=settings)
    starts: dict[str, Start] = {
        "gateway": ours,
        "dcmtk": partial(storescp, max_pdu_bytes=options.peer_pdu),
        "orthanc": partial(orthanc, MaximumPduLength=options.peer_pdu),
        "pynetdicom": plain_pynetdicom,
    }
    few = min(options.instances, _NAGLE_INSTANCES)
    entries = [
        *(Entry(name, start, options.rounds, options.instances) for name, start in starts.items()),
        Entry(_SHIPPED, storescp_as_shipped, options.rounds, options.instances),
        Entry("gateway, publishing", ours, 1, options.instances, with_broker=True),
        *(Entry(f"{name}, Nagle", start, 1, few, nodelay=False) for name, start in starts.items()),
    ]
    return [one for one in entries if not options.only or one.name in options.only]


def _run(folder: Path, options: argparse.Namespace) -> Figures:
    template = get_testdata_file(_TEMPLATE)
    assert template is not None, f"{_TEMPLATE} comes with pydicom-data"
    paths = make_instances(folder / "files", options.instances, Path(template))
    warm_up = make_instances(folder / "warm", _WARM_UP, Path(template))
    runs = [
        (round_, count, entry)
        for round_ in range(options.rounds)
        for count in options.associations
        # Each round begins with another one, so that no receiver always comes after the same.
        for entry in _rotated(_entries(options), round_)
        if round_ < entry.rounds
    ]
    figures = Figures()
    with Progress(console=_console) as progress:
        task = progress.add_task("", total=len(runs))
        for round_, count, entry in runs:
            progress.update(task, description=f"round {round_ + 1}, {count} x {entry.name}")
            place = folder / "run"
            sample = _measure(entry, count, paths[: entry.instances], warm_up, place)
            figures.note(count, entry.name, sample)
            shutil.rmtree(place)
            progress.advance(task)
    return figures


def _rotated(entries: list[Entry], by: int) -> list[Entry]:
    by %= max(1, len(entries))
    return entries[by:] + entries[:by]


def _measure(
    entry: Entry, count: int, paths: Sequence[Path], warm_up: Sequence[Path], folder: Path
) -> Sample:
    taken = folder / "taken"
    taken.mkdir(parents=True)
    port = free_port()
    with _brokers(entry, folder) as more:
        command = entry.start(taken, port, **more)
        with ReceiverProcess(
            command, port, folder / "receiver.log", nodelay=entry.nodelay
        ) as receiver:
            push([warm_up], port=port, folder=folder / "warm", nodelay=entry.nodelay)
            receiver.settle()
            # What the last receiver left in the page cache is not this one's to write.
            os.sync()
            before = receiver.cpu_seconds()
            groups = [group for i in range(count) if (group := paths[i::count])]
            done = push(groups, port=port, folder=folder / "send", nodelay=entry.nodelay)
            receiver.settle()
            cpu = receiver.cpu_seconds() - before
            said = (folder / "receiver.log").read_text(errors="replace")[-2000:]
    if done.stored != len(paths):
        msg = (
            f"{entry.name} acknowledged {done.stored} of {len(paths)} over {count} associations\n"
            f"{done.log[-2000:]}\n{said}"
        )
        raise RuntimeError(msg)
    size = sum(path.stat().st_size for path in paths)
    return Sample(len(paths) / done.seconds, size / 1e6 / done.seconds, cpu * 1000.0 / len(paths))


@contextmanager
def _brokers(entry: Entry, folder: Path) -> Iterator[Mapping[str, str]]:
    if not entry.with_broker:
        yield {}
        return
    broker = tansu_server(folder)
    broker.start()
    try:
        in_thread(ensure_topics(broker.address))
        yield {"brokers": broker.address}
    finally:
        broker.kill()


def _report(figures: Figures, options: argparse.Namespace) -> dict[str, object]:
    shown: dict[str, dict[str, object]] = {}
    for (count, name), samples in figures.samples.items():
        speeds = [s.instances_per_second for s in samples]
        shown.setdefault(str(count), {})[name] = {
            "instances_per_second": round(statistics.median(speeds), 1),
            "slowest_and_fastest_round": [round(min(speeds), 1), round(max(speeds), 1)],
            "mb_per_second": round(figures.median(count, name, "mb_per_second"), 1),
            "cpu_ms_per_instance": round(figures.median(count, name, "cpu_ms_per_instance"), 2),
        }
    return {
        "instances": options.instances,
        "rounds": options.rounds,
        "cpus": os.cpu_count(),
        "receivers": _described(options),
        "associations": shown,
        "gateway as a multiple of (speed, CPU)": _ratios(figures, options.associations),
        "bars": {} if options.only else _bars(figures, options.associations),
    }


def _ratios(figures: Figures, counts: Sequence[int]) -> dict[str, dict[str, list[float]]]:
    """Speed and CPU an instance, as multiples of each other receiver's."""

    def ratio(count: int, name: str, what: str) -> float:
        other = figures.median(count, name, what)
        return round(figures.median(count, "gateway", what) / other, 2) if other else 0.0

    return {
        str(count): {
            name: [ratio(count, name, "instances_per_second"),
                   ratio(count, name, "cpu_ms_per_instance")]
            for name in _MAIN[1:]
            if {(count, "gateway"), (count, name)} <= set(figures.samples)
        }
        for count in counts
    }  # fmt: skip


def _described(options: argparse.Namespace) -> dict[str, object]:
    def version(*argv: str) -> str:
        said = subprocess.run(argv, capture_output=True, text=True, check=False).stdout
        return said.splitlines()[0] if said else "?"

    program = orthanc_program() or ""
    return {
        "python": platform.python_version(),
        "pydicom": pydicom.__version__,
        "pynetdicom": pynetdicom.__version__,
        "gateway": "fsync before Success, outbox on; the log is away "
        f"(nothing listens on {NO_BROKER}), so that all stays pending in the outbox",
        "gateway, publishing": "the same, publishing to an embedded broker meanwhile; one round",
        "dcmtk": " ".join(storescp(Path("DIR"), 0, max_pdu_bytes=options.peer_pdu).argv),
        _SHIPPED: " ".join(storescp_as_shipped(Path("DIR"), 0).argv)
        + " (decodes and encodes each dataset; no bar is about it)",
        "dcmtk version": version("storescp", "--version"),
        "orthanc": orthanc_settings(Path("DIR"), 0, max_pdu_bytes=options.peer_pdu),
        "orthanc version": version(program, "--version"),
        "senders": "dcmsend, one process each association; timed from the first request for an "
        "association to the last answer",
        "Nagle": f"TCP_NODELAY unset on both sides, one round of {_NAGLE_INSTANCES}; elsewhere "
        "TCP_NODELAY=1 for senders, dcmtk and Orthanc, and the same option set in the others",
    }


def _bars(figures: Figures, counts: Sequence[int]) -> dict[str, object]:
    bars: dict[str, object] = {}

    def bar(name: str, value: float, goal: float, *, at_least: bool) -> None:
        bars[name] = {
            "value": round(value, 2),
            "goal": f"{'>=' if at_least else '<='} {goal}",
            "holds": value >= goal if at_least else value <= goal,
        }

    for count in counts:

        def ratio(peer: str, what: str = "instances_per_second", count: int = count) -> float:
            return figures.median(count, "gateway", what) / figures.median(count, peer, what)

        at = f"at {count} association{'s' if count > 1 else ''}"
        bar(f"x Orthanc {at}", ratio("orthanc"), 2.0, at_least=True)
        bar(f"x plain pynetdicom {at}", ratio("pynetdicom"), 3.5, at_least=True)
        bar(f"x dcmtk {at}", ratio("dcmtk"), 0.8 if count == 1 else 1.0, at_least=True)
        cpu = ratio("dcmtk", "cpu_ms_per_instance")
        bar(f"CPU an instance, x dcmtk {at}", cpu, 1.2, at_least=False)
    return bars


def _show(figures: Figures, counts: Sequence[int]) -> None:
    table = Table(title="instances/s (MB/s; server CPU ms an instance)", title_justify="left")
    table.add_column("receiver")
    for count in counts:
        table.add_column(f"{count} assoc.", justify="right")
    for name in dict.fromkeys(name for _, name in figures.samples):
        cells = []
        for count in counts:
            speed, mb, cpu = (
                figures.median(count, name, what)
                for what in ("instances_per_second", "mb_per_second", "cpu_ms_per_instance")
            )
            cells.append(f"{speed:.0f} ({mb:.0f}; {cpu:.1f})")
        table.add_row(name, *cells)
    _console.print(table)
