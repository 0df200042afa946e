"""The main job as a user does it: demo, the same files twice, kill -9, a broker that is away."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from pydicom.data import get_testdata_file

from tests.support.instances import make_instances
from tests.support.stack import COMMAND, Stack, running_stack, wait_for

pytestmark = pytest.mark.acceptance

_ANALYZED = "SELECT count() FROM files_latest WHERE status = 'analyzed'"
_SUMMARY = re.compile(r"demo: (\d+) sent, (\d+) analysed, (\d+) dead-lettered, (\d+) lost\s*\Z")


def _run_demo(data_dir: Path) -> tuple[int, ...]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("BIODATAMINE_")}
    done = subprocess.run(
        [*COMMAND, "demo", "--once", "--data-dir", str(data_dir)],
        capture_output=True,
        text=True,
        env=env,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    match = _SUMMARY.search(done.stdout)
    assert match, done.stdout[-2000:]
    return tuple(int(number) for number in match.groups())


def _counts(stack: Stack) -> dict[str, list[tuple[object, ...]]]:
    database = stack.database()
    asked = {
        "files": "SELECT stage, count() FROM files FINAL GROUP BY stage ORDER BY stage",
        "latest": "SELECT status, count() FROM files_latest GROUP BY status ORDER BY status",
        "header_facts": "SELECT count() FROM header_facts FINAL",
        "image_signals": "SELECT count() FROM image_signals FINAL",
        "embeddings": "SELECT count(), uniqExact(model_version) FROM embeddings FINAL",
        "dead_letters": "SELECT stage, reason, count() FROM dead_letters FINAL "
        "GROUP BY stage, reason ORDER BY stage, reason",
    }
    counts = {name: database.query(sql) for name, sql in asked.items()}
    database.close()
    return counts


def test_demo_accounts_for_every_file_and_twice_changes_nothing(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    sent, analyzed, dead, lost = _run_demo(data_dir)
    assert lost == 0
    assert sent == analyzed + dead
    assert analyzed > 150
    assert dead > 0, "the demo sends broken files; they must be seen"
    with running_stack(data_dir, ["--only", "clickhouse"]) as stack:
        first = _counts(stack)
    assert _run_demo(data_dir) == (sent, analyzed, dead, lost)
    with running_stack(data_dir, ["--only", "clickhouse"]) as stack:
        assert _counts(stack) == first
        modalities = dict(
            stack.database().query("SELECT modality, count() FROM files_latest GROUP BY modality")
        )
        norms = stack.database().query(
            "SELECT min(x), max(x) FROM (SELECT L2Norm(vector) AS x FROM embeddings FINAL)"
        )[0]
    assert {"CT", "MR", "US", "NM"} <= modalities.keys()
    assert norms == pytest.approx((1.0, 1.0), abs=1e-3)


def test_kill_of_the_whole_stack_in_the_middle_of_a_push_loses_nothing(tmp_path: Path) -> None:
    paths = make_instances(tmp_path / "files", 500, _template("MR_small.dcm"))
    stack = Stack(tmp_path / "data")
    stack.start()
    try:
        outbox_of = stack.database()
        sender = subprocess.Popen(
            [
                *COMMAND,
                "send",
                str(tmp_path / "files"),
                "--json",
                "--data-dir",
                str(stack.data_dir),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        wait_for(
            lambda: outbox_of.query("SELECT uniqExact(image_id) FROM files")[0][0] >= 100,
            seconds=180,
            what="the push is under way",
            pause_seconds=0.02,
        )
        assert sender.poll() is None, "the push was over before the kill"
        stack.kill()
        output, _ = sender.communicate(timeout=300)
        results = json.loads(output)["results"]
        acknowledged = {Path(r["path"]).name for r in results if r["outcome"] == "stored"}
        assert 100 <= len(acknowledged) < len(paths)
        stack.start()
        database = stack.database()
        wait_for(
            lambda: database.query(_ANALYZED)[0][0] >= len(acknowledged),
            seconds=400,
            what="every acknowledged instance is analyzed",
        )
        wait_for(lambda: _lag(stack) == 0, seconds=180, what="nothing is in flight")
        rows = database.query(
            "SELECT instance_uid, count() FROM files_latest GROUP BY instance_uid"
        )
        assert all(count == 1 for _, count in rows)
        stored = {uid for uid, _ in rows}
        assert {_uid(tmp_path / "files" / name) for name in acknowledged} <= stored
    finally:
        stack.stop()


def test_a_broker_that_is_away_fails_no_store_and_loses_nothing(tmp_path: Path) -> None:
    make_instances(tmp_path / "files", 200, _template("MR_small.dcm"))
    with running_stack(tmp_path / "data") as stack:
        broker = stack.processes()["broker"][0]
        broker.send_signal(signal.SIGSTOP)
        try:
            stack.run("send", str(tmp_path / "files"))
        finally:
            broker.send_signal(signal.SIGCONT)
        # And then it dies, with all that its memory held.
        database = stack.database()
        wait_for(
            lambda: database.query("SELECT count() FROM files FINAL")[0][0] >= 20,
            seconds=180,
            what="the stream moves again",
        )
        psutil.Process(stack.info.services["broker"].pid).kill()
        wait_for(
            lambda: database.query(_ANALYZED)[0][0] == 200,
            seconds=400,
            what="every instance is analyzed",
        )
        stages = database.query("SELECT countIf(processed_at < received_at) FROM files FINAL")
        assert stages == [(0,)]


def test_ctrl_c_leaves_nothing_running(tmp_path: Path) -> None:
    stack = Stack(tmp_path / "data")
    stack.start()
    assert set(stack.info.services) == {"broker", "clickhouse", "triton", "worker", "gateway"}
    status = stack.run("status")
    assert "ready" in status.stdout
    stack.stop()  # fails if a process is left
    refused = stack.run("status", check=False)
    assert refused.returncode == 1
    assert "biodatamine up" in refused.stdout + refused.stderr or "away" in refused.stdout


def _lag(stack: Stack) -> int:
    report = json.loads(stack.run("status", "--json", check=False).stdout)
    return sum(n for lags in report.get("lag", {"?": {"?": 1}}).values() for n in lags.values())


def _template(name: str) -> Path:
    path = get_testdata_file(name)
    assert path is not None
    return Path(path)


def _uid(path: Path) -> str:
    from pydicom import dcmread

    return str(dcmread(path, stop_before_pixels=True).SOPInstanceUID)


if sys.platform != "linux":  # pragma: no cover
    pytest.skip("the embedded stack runs on Linux", allow_module_level=True)
