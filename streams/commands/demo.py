"""`biodatamine demo`: the main job on real files, from an empty folder to a query."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.commands.common import DataDir, clear_errors, console, fail, progress_bar, table

if TYPE_CHECKING:
    from deploy.embedded.state import Addresses
    from streams.send import SendReport
    from streams.storage.clickhouse import ClickHouse

_STALL_SECONDS = 120.0
_POLL_SECONDS = 0.5
_DATASET = "demo"
# What of the packages goes in besides DICOM: folder of a package, and patterns in it.
_SAMPLES = (
    ("nibabel", "tests/data", ("*.nii", "*.nii.gz")),
    (
        "skimage",
        "data",
        ("cell.png", "ihc.png", "microaneurysms.png", "retina.jpg", "multipage*.tif", "*.gif"),
    ),
)


@dataclass
class Expected:
    """What was sent and must be accounted for.

    Parameters
    ----------
    images : dict of str to str
        image_id to the name of the file.
    analyzed, dead : set of str
        Those that have a final row, and those that have a dead letter.
    """

    images: dict[str, str] = field(default_factory=dict)
    analyzed: set[str] = field(default_factory=set)
    dead: set[str] = field(default_factory=set)

    @property
    def missing(self) -> set[str]:
        """Images without a final row or a dead letter."""
        return self.images.keys() - self.analyzed - self.dead

    def look(self, database: ClickHouse) -> None:
        """Ask ClickHouse again about those that are missing."""
        asked = {"images": sorted(self.missing)}
        if not asked["images"]:
            return
        self.analyzed |= _column(
            database,
            "SELECT DISTINCT image_id FROM files "
            "WHERE stage = 'analyzed' AND image_id IN {images:Array(String)}",
            asked,
        )
        self.dead |= _column(
            database,
            "SELECT DISTINCT image_id FROM dead_letters WHERE image_id IN {images:Array(String)}",
            asked,
        )


def _column(database: ClickHouse, sql: str, parameters: dict[str, Any]) -> set[str]:
    return {str(row[0]) for row in database.query(sql, parameters)}


def demo(
    once: Annotated[bool, typer.Option("--once", help="End when all files are done.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Start everything, push real DICOM by C-STORE, ingest other formats, show what came out.

    Exit status 0 only if every file that was sent has a row, or a dead letter with a reason.
    """
    from streams.settings import Settings

    with clear_errors():
        folder = (data_dir or Settings().data_dir).absolute()
        samples = make_samples(folder / "demo")
        lost = asyncio.run(_run(folder, samples, once=once))
    raise typer.Exit(1 if lost else 0)


@dataclass(frozen=True)
class Samples:
    """Files of the demo.

    Parameters
    ----------
    dicom : list of Path
        Folders whose DICOM files are sent by C-STORE.
    other : list of (Path, str)
        Files of other formats, and their places in the dataset.
    roots : list of Path
        Folders from which the worker must be able to read.
    """

    dicom: list[Path]
    other: list[tuple[Path, str]]
    roots: list[Path]


def make_samples(folder: Path) -> Samples:
    """Find real files in installed packages, and make a few broken ones.

    Parameters
    ----------
    folder : Path
        Where the broken ones go.

    Raises
    ------
    typer.Exit
        If the packages with samples are not installed.
    """
    dicom = [path / "test_files" for path in _package("pydicom", "data")]
    dicom += [path for path in _package("data_store", "data") if path.is_dir()]
    located = []
    roots = []
    for package, inside, patterns in _SAMPLES:
        for base in _package(package, inside):
            roots.append(base)
            located += [
                (path, f"{package}/{path.name}")
                for pattern in patterns
                for path in sorted(base.glob(pattern))
            ]
    if not dicom or not located:
        fail("the demo's sample files are missing: pip install 'biodatamine[demo]'")
    broken = _make_broken(folder / "broken", located)
    return Samples(dicom, located + broken, [*roots, folder])


def _package(name: str, inside: str) -> list[Path]:
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        return []
    path = Path(spec.origin).parent / inside
    return [path] if path.exists() else []


def _make_broken(folder: Path, located: Sequence[tuple[Path, str]]) -> list[tuple[Path, str]]:
    folder.mkdir(parents=True, exist_ok=True)
    volume = next(path for path, _ in located if path.name.endswith(".nii.gz"))
    picture = next(path for path, _ in located if path.suffix == ".png")
    contents = {
        "empty.png": b"",
        "truncated.nii.gz": volume.read_bytes()[:2000],
        "half.png": picture.read_bytes()[:20000],
        "notes.dcm": b"not an image at all\n",
        "picture-called.dcm": picture.read_bytes(),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return [(folder / name, f"broken/{name}") for name in contents]


async def _run(folder: Path, samples: Samples, *, once: bool) -> int:
    from deploy.embedded.stack import run_stack
    from streams.commands.servers import StatusDisplay, stack_options

    began = time.monotonic()
    stop, ready = asyncio.Event(), asyncio.Event()
    where: list[Addresses] = []
    shown = StatusDisplay(quiet=True)
    console.rule("BioDataMine demo")
    console.print(f"Data folder: {folder}", highlight=False)

    def plan(planned: Any) -> None:
        where.append(planned.addresses)

    stack = asyncio.ensure_future(
        run_stack(
            stack_options(folder, ingest_roots=samples.roots),
            shown.update,
            stop,
            on_plan=plan,
            ready=ready,
        )
    )
    waiting = asyncio.ensure_future(ready.wait())
    try:
        await asyncio.wait({stack, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if stack.done():
            await stack
            fail("stopped before everything was ready")
        console.print(f"everything ready after {time.monotonic() - began:.1f} s")
        job = asyncio.ensure_future(_job(where[0], samples))
        await asyncio.wait({stack, job}, return_when=asyncio.FIRST_COMPLETED)
        if not job.done():
            job.cancel()
            await stack
            fail("stopped before all files were done")
        summary, lost = job.result()
        if not once:
            _print_connections(where[0])
            console.print("Everything keeps running; Ctrl-C stops it.")
            console.print(summary)
            await stack
        else:
            _print_connections(where[0])
    finally:
        waiting.cancel()
        stop.set()
        await asyncio.gather(stack, return_exceptions=True)
    if once:
        console.print(summary)
    return lost


async def _job(where: Addresses, samples: Samples) -> tuple[str, int]:
    from streams.commands.common import load_settings
    from streams.commands.ingest import request_files
    from streams.commands.send import print_send_report, send_with_progress
    from streams.storage.clickhouse import ClickHouse

    assert where.dicom_host and where.dicom_port and where.dicom_ae_title
    assert where.kafka_bootstrap_servers and where.clickhouse_dsn
    database = ClickHouse(where.clickhouse_dsn)
    settings = load_settings()
    began = time.monotonic()
    report = await asyncio.to_thread(
        send_with_progress,
        samples.dicom,
        host=where.dicom_host,
        port=where.dicom_port,
        called_aet=where.dicom_ae_title,
        calling_aet="DEMO-PACS",
    )
    print_send_report(report)
    await request_files(
        where.kafka_bootstrap_servers,
        samples.other,
        tenant=settings.tenant,
        dataset_id=_DATASET,
        idempotent=where.log_is_durable,
    )
    console.print(f"{len(samples.other)} files of other formats requested for ingest")
    expected = await asyncio.to_thread(_expected, report, samples)
    await _wait(expected, database)
    seconds = time.monotonic() - began
    await asyncio.to_thread(_print_results, database)
    console.print(f"{len(expected.images)} files in {seconds:.1f} s from the first C-STORE")
    lost = len(expected.missing)
    for image in sorted(expected.missing):
        console.print(f"[bold red]lost:[/] {expected.images[image]} ({image[:12]})")
    summary = (
        f"demo: {len(expected.images)} sent, {len(expected.analyzed)} analysed, "
        f"{len(expected.dead - expected.analyzed)} dead-lettered, {lost} lost"
    )
    database.close()
    return summary, lost


def _expected(report: SendReport, samples: Samples) -> Expected:
    """Name what must arrive: a receiver that answered Success owes us the image."""
    from dicom_gateway.storing.part10 import file_prefix
    from streams.send import FileResult, examine

    expected = Expected()
    for result in report.results:
        if result.outcome != "stored":
            continue
        file = examine(result.path)
        assert not isinstance(file, FileResult)
        digest = hashlib.sha256(
            file_prefix(file.sop_class_uid, file.sop_instance_uid, file.transfer_syntax_uid)
        )
        with result.path.open("rb") as source:
            source.seek(file.dataset_offset)
            digest.update(source.read())
        expected.images[digest.hexdigest()] = result.path.name
    for path, relpath in samples.other:
        expected.images[hashlib.sha256(path.read_bytes()).hexdigest()] = relpath
    return expected


async def _wait(expected: Expected, database: ClickHouse) -> None:
    with progress_bar() as progress:
        task = progress.add_task("analysed or dead-lettered", total=len(expected.images))
        left, since = len(expected.missing), time.monotonic()
        while left and time.monotonic() - since < _STALL_SECONDS:
            await asyncio.to_thread(expected.look, database)
            if len(expected.missing) < left:
                left, since = len(expected.missing), time.monotonic()
            progress.update(task, completed=len(expected.images) - left)
            await asyncio.sleep(_POLL_SECONDS if left else 0)


_TABLE = """
SELECT modality, format, count() AS files, countIf(outcome = 'decoded') AS decoded,
       countIf(outcome = 'no-pixels') AS no_pixels, countIf(outcome = 'not-an-image') AS unknown,
       uniqExactIf(study_uid, study_uid != '') AS studies, round(sum(size_bytes) / 1048576, 1) AS mb
FROM files FINAL GROUP BY modality, format ORDER BY files DESC, modality, format
"""
_FAILED = """
SELECT stage, reason, any(error), count() FROM dead_letters FINAL
GROUP BY stage, reason ORDER BY 4 DESC, 1, 2
"""
_EMBEDDED = "SELECT model_version, count(), any(dim) FROM embeddings FINAL GROUP BY model_version"


def _print_results(database: ClickHouse) -> None:
    names = ("modality", "format", "files", "decoded", "no pixels", "unknown", "studies", "MB")
    console.print(table("What arrived", names, database.query(_TABLE)))
    console.print(
        table(
            "What failed, and why", ("stage", "reason", "detail", "files"), database.query(_FAILED)
        )
    )
    console.print(table("Embeddings", ("model", "files", "dimensions"), database.query(_EMBEDDED)))


def _print_connections(where: Addresses) -> None:
    rows = [
        ("DICOM", f"{where.dicom_ae_title} at {where.dicom_host}:{where.dicom_port}"),
        ("Kafka bootstrap servers", where.kafka_bootstrap_servers),
        ("ClickHouse", where.clickhouse_dsn),
        ("Triton", f"{where.triton_http_url}, gRPC {where.triton_grpc}"),
        ("Metrics", f"{where.worker_metrics_url} {where.gateway_metrics_url}"),
    ]
    console.print(table("Where to connect", ("what", "where"), rows))
    console.print("Try, while it runs (`make demo` keeps it running, `--once` does not):")
    for line in (
        "biodatamine status",
        "biodatamine datasets",
        'biodatamine query "SELECT manufacturer, count() FROM header_facts FINAL GROUP BY 1"',
        "biodatamine dlq list",
        "biodatamine send FOLDER",
    ):
        console.print(f"  {line}", highlight=False)
