"""Everything hostile at once, among good files: each is accounted for, and nobody suffers.

One stack takes all of ``STORED`` by C-STORE and all of ``INGESTED`` by ``biodatamine ingest``, a
good file after each of them; what has become of each is then a test of its own.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file

from dicom_gateway.storing.part10 import is_instance_uid
from schemas.identity import dicom_relpath, file_id
from streams.commands.ingest import request_files
from streams.ingest.local import dataset_path
from tests.support import hostile as h
from tests.support.hostile_cases import (
    DOOR_STATUSES,
    INGESTED,
    STORED,
    TIMED_OUT,
    Fate,
    Ingested,
    Stored,
)
from tests.support.instances import make_instances
from tests.support.raw_scu import RawScu
from tests.support.stack import Stack, running_stack, wait_for

pytestmark = pytest.mark.acceptance

if sys.platform != "linux":  # pragma: no cover
    pytest.skip("the embedded stack runs on Linux", allow_module_level=True)

DECODE_TIMEOUT_SECONDS = 5.0
WHOLE_SECONDS = 300.0
"""From the first hostile file to the last one accounted for; a quiet machine takes 40 s."""

SERVICE_GROWTH_BYTES = 512 << 20
"""How far the peak of a service's own process may lie above what it held before."""

DECODER_PEAK_BYTES = 3 << 30
"""Most that the decoding process may hold while hostile files are decoded."""

TENANT, DATASET = "default", "hostile"
_POLL_SECONDS = 0.5

SPECIAL = {
    "link-out": "outside-roots",
    "link-to-nowhere": "not-found",
    "link-to-itself": "outside-roots",
    "pipe": "not-a-file",
    "folder": "not-a-file",
    "missing": "not-found",
    "sparse": "too-large",
}
"""What is no regular file, may not be read or is too large, and the reason that it gets."""


@dataclass
class Ending:
    """What the tables say of one file."""

    status: str = ""
    outcome: str = ""
    format: str = ""
    rows: int = 0
    reasons: list[str] = field(default_factory=list)

    @property
    def is_final(self) -> bool:
        return bool(self.reasons) or self.status == "analyzed"


@dataclass
class Aftermath:
    """What the run left behind."""

    statuses: dict[str, int | None]
    endings: dict[str, Ending]
    good: list[str]
    restarts: dict[str, int]
    growth_bytes: dict[str, int]
    decoder_peak_bytes: int
    metrics: str
    pids: dict[str, int]
    root: Path
    stack: Stack


def _instance(name: str, case: Stored) -> str:
    return h.instance_uid(name) if case.instance is None else case.instance


def _stored_file_id(name: str, case: Stored) -> str:
    """Say under which file_id an accepted dataset has to be found."""
    uids = {"study": h.STUDY, "series": h.SERIES} | case.uids
    names = (
        uid if is_instance_uid(uid := uids[level]) else f"no-{level}"
        for level in ("study", "series")
    )
    return file_id(TENANT, "pacs", dicom_relpath(*names, _instance(name, case)))


def _instance_file_id(path: Path) -> str:
    header = dcmread(path, stop_before_pixels=True)
    uids = (header.StudyInstanceUID, header.SeriesInstanceUID, header.SOPInstanceUID)
    return file_id(TENANT, "pacs", dicom_relpath(*map(str, uids)))


def _ingested_path(name: str, case: Ingested) -> str:
    number = list(INGESTED).index(name)
    return f"{number:04d}/{os.fsdecode(case.name) or name}"


def _write(root: Path) -> list[str]:
    """Write the files to ingest; return the paths of the good ones, which stand between them."""
    good = []
    for number, (name, case) in enumerate(INGESTED.items()):
        path = root / _ingested_path(name, case)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(case.data())
        mate = root / f"{number:04d}" / "~good.png"
        mate.write_bytes(h.encode(h.grey(20, 10_000 + number), "PNG"))
        good.append(str(mate.relative_to(root)))
    return good


def _special(root: Path) -> dict[str, Path]:
    """Make what ``SPECIAL`` names."""
    outside = root.parent / "outside.png"
    outside.write_bytes(h.encode(h.grey(21), "PNG"))
    paths = {name: root / name for name in SPECIAL}
    paths["link-out"].symlink_to(outside)
    paths["link-to-nowhere"].symlink_to(root / "gone.png")
    paths["link-to-itself"].symlink_to(paths["link-to-itself"])
    os.mkfifo(paths["pipe"])
    paths["folder"].mkdir()
    with paths["sparse"].open("wb") as file:
        file.truncate(20 << 30)
    return paths


def _store_all(stack: Stack, good: list[Path]) -> dict[str, int | None]:
    where = stack.info.addresses
    assert where.dicom_host and where.dicom_port
    mr = dcmread(good[0])
    good_context = (str(mr.SOPClassUID), str(mr.file_meta.TransferSyntaxUID))
    contexts = [good_context, *((h.CT, case.syntax) for case in STORED.values())]
    statuses: dict[str, int | None] = {}
    with RawScu(where.dicom_host, where.dicom_port, contexts) as scu:
        for (name, case), mate in zip(STORED.items(), good, strict=True):
            statuses[name] = scu.store(
                case.data(),
                context=(h.CT, case.syntax),
                sop_class=h.CT if case.sop_class is None else case.sop_class,
                instance=_instance(name, case),
            )
            raw = mate.read_bytes()
            answer = scu.store(
                raw[_dataset_offset(raw) :],
                context=good_context,
                sop_class=good_context[0],
                instance=str(dcmread(mate, stop_before_pixels=True).SOPInstanceUID),
            )
            assert answer == 0, f"the good instance after {name}: {answer}"
        assert scu.associations == 1, "a hostile dataset ended the association of a good one"
    return statuses


def _dataset_offset(raw: bytes) -> int:
    # The group length (0002,0000) counts what follows its twelve bytes.
    return 144 + int.from_bytes(raw[140:144], "little")


_ROWS = """
SELECT toString(file_id), status, outcome, format, versions FROM files_latest
"""
_LETTERS = "SELECT toString(file_id), reason FROM dead_letters FINAL WHERE file_id IS NOT NULL"


def _look(stack: Stack) -> dict[str, Ending]:
    database = stack.database()
    try:
        found: dict[str, Ending] = defaultdict(Ending)
        for file, status, outcome, format_name, rows in database.query(_ROWS):
            found[file] = Ending(status, outcome, format_name, rows)
        for file, reason in database.query(_LETTERS):
            found[file].reasons.append(reason)
        return found
    finally:
        database.close()


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def _peak(process: psutil.Process) -> int:
    status = Path(f"/proc/{process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s*(\d+) kB", status)
    assert found
    return int(found[1]) << 10


def _forget_peak(process: psutil.Process) -> None:
    # proc(5): 5 resets the peak resident set size to the present one.
    Path(f"/proc/{process.pid}/clear_refs").write_text("5")


@pytest.fixture(scope="module")
def after(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aftermath]:
    folder = tmp_path_factory.mktemp("bad-input")
    root = folder / "in"
    root.mkdir()
    good_paths = _write(root)
    template = get_testdata_file("MR_small.dcm")
    assert template is not None
    warm = make_instances(folder / "warm", 4, Path(template))
    instances = make_instances(folder / "good", len(STORED), Path(template))
    env = {"BIODATAMINE_DECODE_TIMEOUT_SECONDS": f"{DECODE_TIMEOUT_SECONDS:g}"}
    with running_stack(folder / "data", ["--ingest-root", str(root)], env) as stack:
        stack.run("send", *map(str, warm))
        wait_for(
            lambda: sum(end.is_final for end in _look(stack).values()) == len(warm),
            seconds=120,
            what="the first good files are analyzed",
        )
        services = {name: found[0] for name, found in stack.processes().items()}
        before = {name: _resident(process) for name, process in services.items()}
        for process in services.values():
            _forget_peak(process)
        stack.run("ingest", str(root), "--dataset", DATASET)
        special = _special(root)
        broker = stack.info.addresses.kafka_bootstrap_servers
        assert broker is not None
        asyncio.run(
            request_files(
                broker,
                [(path, name) for name, path in special.items()],
                tenant=TENANT,
                dataset_id=DATASET,
                idempotent=False,
            )
        )
        statuses = _store_all(stack, instances)
        expected = {_stored_file_id(name, STORED[name]) for name, s in statuses.items() if s == 0}
        good = [file_id(TENANT, DATASET, path) for path in good_paths]
        good += [_instance_file_id(path) for path in instances]
        ingested = [_ingested_path(name, case) for name, case in INGESTED.items()]
        expected |= {file_id(TENANT, DATASET, dataset_path(p)) for p in [*ingested, *SPECIAL]}
        expected |= set(good)
        peak = 0

        def is_over() -> bool:
            nonlocal peak
            for process in services["worker"].children(recursive=True):
                peak = max(peak, _resident(process))
            endings = _look(stack)
            return all(endings[file].is_final for file in expected)

        try:
            wait_for(
                is_over,
                seconds=WHOLE_SECONDS,
                what="every file is accounted for",
                pause_seconds=_POLL_SECONDS,
            )
        except AssertionError as error:
            endings = _look(stack)
            left = {n for n, c in STORED.items() if not endings[_stored_file_id(n, c)].is_final}
            left = {n for n in left if statuses[n] == 0}
            left |= {p for p in ingested if not _of_path(endings, p).is_final}
            raise AssertionError(f"{error}: {sorted(left)}") from None
        url = stack.info.addresses.worker_metrics_url
        assert url is not None
        with urllib.request.urlopen(url, timeout=10) as answer:
            metrics = answer.read().decode()
        yield Aftermath(
            statuses=statuses,
            endings=_look(stack),
            good=good,
            restarts={name: service.restarts for name, service in stack.info.services.items()},
            growth_bytes={name: _peak(p) - before[name] for name, p in services.items()},
            decoder_peak_bytes=peak,
            metrics=metrics,
            pids={name: process.pid for name, process in services.items()},
            root=root,
            stack=stack,
        )


def _of_path(endings: dict[str, Ending], relpath: str) -> Ending:
    return endings[file_id(TENANT, DATASET, dataset_path(relpath))]


def _check(ending: Ending, fate: Fate) -> None:
    assert ending.rows <= 1
    assert len(ending.reasons) <= 1, "one dead letter, not several"
    if ending.reasons:
        assert ending.status in ("", "failed")
        assert ending.reasons[0] in fate.reasons
    else:
        assert ending.status == "analyzed"
        assert ending.outcome in fate.outcomes


@pytest.mark.parametrize("name", STORED)
def test_what_is_stored_is_refused_or_accounted_for(after: Aftermath, name: str) -> None:
    case, status = STORED[name], after.statuses[name]
    assert status is not None, "no answer, or the association was aborted"
    ending = after.endings.get(_stored_file_id(name, case))
    if status != 0:
        assert status in DOOR_STATUSES
        assert status in case.fate.statuses
        assert ending is None, "what was refused leaves nothing"
        return
    assert ending is not None
    assert ending.format == "dicom", "its header facts are there whatever its pixels are"
    _check(ending, case.fate)


@pytest.mark.parametrize("name", INGESTED)
def test_what_is_ingested_is_accounted_for(after: Aftermath, name: str) -> None:
    case = INGESTED[name]
    _check(_of_path(after.endings, _ingested_path(name, case)), case.fate)


@pytest.mark.parametrize(
    ("name", "format_name"),
    [("a-png.dcm", "png"), ("a-dicom.png", "dicom"), ("a-nifti.tif", "nifti")],
)
def test_the_bytes_say_what_a_file_is(after: Aftermath, name: str, format_name: str) -> None:
    ending = _of_path(after.endings, _ingested_path(name, INGESTED[name]))
    assert ending.format == format_name


@pytest.mark.parametrize("name", SPECIAL)
def test_what_is_no_file_of_ours_is_one_dead_letter(after: Aftermath, name: str) -> None:
    ending = _of_path(after.endings, name)
    assert (ending.reasons, ending.rows) == ([SPECIAL[name]], 0)


def test_good_files_between_them_are_analyzed(after: Aftermath) -> None:
    assert len(after.good) == len(set(after.good)) == len(INGESTED) + len(STORED)
    for file in after.good:
        ending = after.endings[file]
        assert (ending.status, ending.outcome, ending.reasons) == ("analyzed", "decoded", [])


def test_no_service_restarted_and_all_still_work(after: Aftermath) -> None:
    assert set(after.restarts) == {"broker", "clickhouse", "triton", "worker", "gateway"}
    assert not any(after.restarts.values()), after.restarts
    found = after.stack.processes()
    assert {name: processes[0].pid for name, processes in found.items()} == after.pids
    assert after.stack.run("status").returncode == 0


def test_only_what_hangs_costs_a_decoder(after: Aftermath) -> None:
    reasons = [reason for ending in after.endings.values() for reason in ending.reasons]
    assert not [r for r in reasons if r.startswith("decoder-") and r != TIMED_OUT]
    assert "internal-error" not in reasons
    restarts = re.search(r"^biodatamine_decoder_restarts_total (\S+)$", after.metrics, re.M)
    assert restarts
    assert float(restarts[1]) == reasons.count(TIMED_OUT) >= 2


def test_memory_stays_bounded(after: Aftermath) -> None:
    assert all(grown < SERVICE_GROWTH_BYTES for grown in after.growth_bytes.values()), {
        name: f"{grown >> 20} MiB" for name, grown in after.growth_bytes.items()
    }
    assert 0 < after.decoder_peak_bytes < DECODER_PEAK_BYTES


def test_no_patient_text_gets_out(after: Aftermath) -> None:
    logs = [path for path in after.stack.data_dir.rglob("*.log*") if path.is_file()]
    assert any("worker" in path.name for path in logs)
    for path in logs:
        assert b"ZZHOSTILE" not in path.read_bytes(), path
    database = after.stack.database()
    tables = [
        name
        for (name,) in database.query(
            "SELECT name FROM system.tables WHERE database = "
            "currentDatabase() AND engine LIKE '%MergeTree'"
        )
    ]
    assert {"files", "header_facts", "dead_letters"} <= set(tables)
    for table in tables:
        leaks = database.query(
            f"SELECT countIf(position(formatRow('JSONEachRow', *), 'ZZHOSTILE') > 0) FROM {table}"
        )
        assert leaks == [(0,)], table


def test_a_path_that_no_request_can_hold_is_told(after: Aftermath) -> None:
    # Percent-encoded, each of these characters takes nine.
    folder = after.root / "long" / Path(*["\u6df1" * 80] * 8)
    folder.mkdir(parents=True)
    (folder / "deep.png").write_bytes(h.encode(h.grey(22), "PNG"))
    mate = after.root / "long" / "mate.png"
    mate.write_bytes(h.encode(h.grey(23), "PNG"))
    done = after.stack.run("ingest", str(mate.parent), "--dataset", "long", check=False)
    assert done.returncode == 1
    assert "not requested: the path is too long" in done.stderr
    mate_id = file_id(TENANT, "long", "mate.png")
    wait_for(
        lambda: _look(after.stack)[mate_id].status == "analyzed",
        seconds=60,
        what="its mate is analyzed",
    )
