"""The broker stops for a while in the middle of a push: does a C-STORE fail, is anything lost?"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from pydicom.data import get_testdata_file
from rich.console import Console

from tests.support.instances import make_instances
from tests.support.stack import COMMAND, Stack, running_stack, wait_for

_console = Console(stderr=True)
_TEMPLATE = "MR_small.dcm"
_ROWS = """
SELECT count(), countIf(status = 'analyzed'), countIf(versions != 1),
       countIf(processed_at < received_at)
FROM files_latest
"""


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark; print one JSON object last."""
    parser = argparse.ArgumentParser("biodatamine bench outage", description=__doc__)
    parser.add_argument("--files", type=int, default=2000, help="instances to push")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the broker stands")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="biodatamine-bench-") as name:
        folder = Path(name)
        template = get_testdata_file(_TEMPLATE)
        assert template is not None
        make_instances(folder / "files", options.files, Path(template), series=20)
        with running_stack(folder / "data") as stack:
            figures = _push_through_outage(stack, folder / "files", options)
    print(json.dumps(figures))
    return 0


def _push_through_outage(
    stack: Stack, folder: Path, options: argparse.Namespace
) -> dict[str, object]:
    database = stack.database()
    sender = subprocess.Popen(
        [*COMMAND, "send", str(folder), "--json", "--data-dir", str(stack.data_dir)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    wait_for(
        lambda: database.query("SELECT count() FROM files FINAL")[0][0] >= options.files // 20,
        seconds=120,
        what="the push is under way",
    )
    broker = stack.processes()["broker"][0]
    _console.print(f"the broker stands still for {options.seconds:.0f} s")
    stopped = time.perf_counter()
    broker.send_signal(signal.SIGSTOP)
    threading.Timer(options.seconds, broker.send_signal, (signal.SIGCONT,)).start()
    output, _ = sender.communicate(timeout=600)
    push_over = time.perf_counter() - stopped
    outcomes = [result["outcome"] for result in json.loads(output)["results"]]
    stored = outcomes.count("stored")
    wait_for(
        lambda: database.query(_ROWS)[0][1] >= stored,
        seconds=options.seconds + 600,
        what="everything acknowledged is analyzed",
        pause_seconds=0.5,
    )
    everything_over = time.perf_counter() - stopped
    rows, analyzed, not_once, out_of_order = database.query(_ROWS)[0]
    database.close()
    failed = len(outcomes) - stored
    return {
        "files": options.files,
        "outage_seconds": options.seconds,
        "push_ended_after_seconds": round(push_over, 1),
        "all_analyzed_after_seconds": round(everything_over, 1),
        "bars": {
            "C-STOREs that failed": {"value": failed, "goal": "0", "holds": failed == 0},
            "acknowledged but lost": {
                "value": stored - analyzed,
                "goal": "0",
                "holds": stored == analyzed == rows,
            },
            "not exactly once": {"value": not_once, "goal": "0", "holds": not_once == 0},
            "rooms out of order": {
                "value": out_of_order,
                "goal": "0",
                "holds": out_of_order == 0,
            },
        },
    }
