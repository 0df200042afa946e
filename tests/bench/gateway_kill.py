"""Kill -9 of the gateway at random moments of a push: is anything missing, or half there?"""

from __future__ import annotations

import argparse
import json
import signal
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from tests.support.dcmtk import missing_tools
from tests.support.kills import KilledGateway

_console = Console(stderr=True)


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark; print one JSON object last."""
    parser = argparse.ArgumentParser("biodatamine bench gateway_kill", description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--instances", type=int, default=180, help="of each push")
    parser.add_argument("--seed", type=int, default=20, help="of the moments")
    parser.add_argument("--receive-path", default="", help="dicom_receive_path of the gateway")
    options = parser.parse_args(arguments)
    if missing_tools():
        _console.print("not installed: dcmtk; apt-get install dcmtk")
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    settings = (
        {"BIODATAMINE_DICOM_RECEIVE_PATH": options.receive_path} if options.receive_path else {}
    )
    with tempfile.TemporaryDirectory(prefix="biodatamine-bench-") as name:
        killed = KilledGateway(
            Path(name), seed=options.seed, instances=options.instances, settings=settings
        )
        with Progress(console=_console) as progress:
            task = progress.add_task("kill -9", total=options.kills)
            report = killed.run(
                options.kills, lambda said: progress.update(task, advance=1, description=said)
            )
    counts = {
        "acknowledged but missing": len(report.missing),
        "acknowledged but without outbox record": len(report.unrecorded),
        "blobs that are not what their name says": len(report.broken),
        "false conflicts": report.conflicts,
        "processes left behind": report.orphans,
    }
    figures = {
        "sent": report.sent,
        "acknowledged": report.acknowledged,
        "kills": report.kills,
        "bars": {
            name: {"value": value, "goal": "0", "holds": value == 0}
            for name, value in counts.items()
        },
    }
    print(json.dumps(figures))
    return 0
