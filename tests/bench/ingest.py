"""A zip of many small files over loopback: published, beside a plain download and unzip of it.

The same archive comes from the same server, a process of its own. The plain way is urllib and
zipfile to a folder, and curl and unzip where they are there; neither syncs anything to disk. Ingest
is the stage that a worker runs, in a process of its own: every file a durable blob, and its event
acknowledged by a broker. The ways take turns, each round begins with another one, and the median of
the rounds' ratios counts: whatever else the machine does meets all of a round. A second ratio is to
the plain way when its files are as durable, by one sync of all file systems after the last. Then a
synthetic zip of gigabytes passes through the same process, for its peak memory.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console

from tests.support.archives import zip_entry
from tests.support.servers import in_thread, tansu_server

_console = Console(stderr=True)
_MOST_TIMES = 1.5
_MOST_PEAK_BYTES = 300 << 20
_MEMBER_BYTES = 1 << 20
_KINDS = 8


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark; print one JSON object last."""
    parser = argparse.ArgumentParser("biodatamine bench ingest", description=__doc__)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--mean-bytes", type=int, default=32_768, help="mean size of a file")
    parser.add_argument("--rounds", type=int, default=5, help="of each way; the median counts")
    parser.add_argument("--gigabytes", type=float, default=5.0, help="of the synthetic stream")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="biodatamine-bench-") as name:
        folder = Path(name)
        archive = folder / "files.zip"
        total = _make(archive, options.files, options.mean_bytes)
        broker = tansu_server(folder)
        broker.start()
        server = _Server(archive, options.gigabytes)
        try:
            in_thread(_topics(broker.address))
            figures = _compare(folder, server.port, broker.address, options.rounds)
            peak = _peak(folder, server.port, broker.address, options.gigabytes)
        finally:
            server.stop()
            broker.stop()
    print(json.dumps(_report(options, archive_bytes=total, figures=figures, peak=peak)))
    return 0


async def _topics(address: str) -> None:
    from streams.runtime.topics import ensure_topics

    await ensure_topics(address)


def _make(path: Path, files: int, mean_bytes: int) -> int:
    # Half noise and half text: about as compressible as image files are.
    chance = random.Random(1)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(files):
            size = max(int(chance.expovariate(1 / mean_bytes)), 200)
            data = chance.randbytes(size // 2) + b"%08d" % number * (size // 16)
            archive.writestr(f"series-{number % 50:02d}/{number:06d}.dcm", data)
    _console.print(f"{files:,} files in {path.stat().st_size / 2**20:.0f} MiB")
    return path.stat().st_size


class _Server:
    """Serves the archive, and the synthetic one, from a process of its own."""

    def __init__(self, archive: Path, gigabytes: float) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "serve", str(archive), str(gigabytes)],
            env=_environment(),
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


def _environment() -> dict[str, str]:
    bare = {k: v for k, v in os.environ.items() if not k.startswith("BIODATAMINE_")}
    return bare | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}


def _serve(archive: Path, gigabytes: float) -> None:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(200)
            if self.path == "/files.zip":
                self.send_header("Content-Length", str(archive.stat().st_size))
                self.send_header("ETag", '"files"')
                self.end_headers()
                with archive.open("rb") as file:
                    self.connection.sendfile(file)
                return
            self.send_header("Connection", "close")
            self.end_headers()
            for piece in _synthetic(gigabytes):
                self.wfile.write(piece)

        def log_message(self, format: str, *arguments: Any) -> None:
            del format, arguments

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()


def _synthetic(gigabytes: float) -> Iterator[bytes]:
    """Make a zip of members of 1 MiB while it is read."""
    bodies = [random.Random(kind).randbytes(_MEMBER_BYTES) for kind in range(_KINDS)]
    sums = [zlib.crc32(body) for body in bodies]
    directory = bytearray()
    count = int(gigabytes * 1024)
    for number in range(count):
        kind, name = number % _KINDS, b"%08d.bin" % number
        entry = zip_entry(name, bodies[kind], size_bytes=_MEMBER_BYTES, crc=sums[kind], method=0)
        offset = number * len(entry)
        extra = struct.pack("<HHQ", 1, 8, offset)
        directory += struct.pack(
            "<4s6H3L5H2L", b"PK\x01\x02", 45, 45, 0, 0, 0, 0, sums[kind], _MEMBER_BYTES,
            _MEMBER_BYTES, len(name), len(extra), 0, 0, 0, 0, 0xFFFFFFFF,
        ) + name + extra  # fmt: skip
        yield entry
    yield bytes(directory)
    yield struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)


def _compare(folder: Path, port: int, broker: str, rounds: int) -> dict[str, list[float]]:
    url = f"http://127.0.0.1:{port}/files.zip"
    found: dict[str, list[float]] = {}

    def plain(place: Path) -> None:
        began = time.perf_counter()
        _plain(url, place)
        note("plain", time.perf_counter() - began)
        os.sync()
        note("plain, synced", time.perf_counter() - began)

    def tools(place: Path) -> None:
        began = time.perf_counter()
        _tools(url, place)
        note("curl and unzip", time.perf_counter() - began)

    def ingest(place: Path) -> None:
        note("ingest", _ingest(url, place, broker, int(place.name))["seconds"])

    def note(way: str, seconds: float) -> None:
        found.setdefault(way, []).append(seconds)

    ways = [plain, ingest]
    if shutil.which("curl") and shutil.which("unzip"):
        ways.append(tools)
    for number in range(rounds):
        turn = number % len(ways)
        for index, way in enumerate(ways[turn:] + ways[:turn]):
            # What one way has left to write shall not be the next one's load.
            os.sync()
            place = folder / str(number * len(ways) + index)
            place.mkdir()
            way(place)
            shutil.rmtree(place)
        _console.print({name: [round(s, 2) for s in times] for name, times in found.items()})
    return found


def _plain(url: str, folder: Path) -> None:
    with urllib.request.urlopen(url) as answer, (folder / "x.zip").open("wb") as file:
        shutil.copyfileobj(answer, file, 1 << 20)
    with zipfile.ZipFile(folder / "x.zip") as archive:
        archive.extractall(folder / "out")


def _tools(url: str, folder: Path) -> None:
    subprocess.run(["curl", "-s", "-o", str(folder / "x.zip"), url], check=True)
    subprocess.run(["unzip", "-q", str(folder / "x.zip"), "-d", str(folder / "out")], check=True)


def _ingest(url: str, folder: Path, broker: str, number: int) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, __file__, url, str(folder), broker, str(number)],
        env=_environment(),
        stdout=subprocess.PIPE,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _peak(folder: Path, port: int, broker: str, gigabytes: float) -> dict[str, Any]:
    url = f"http://127.0.0.1:{port}/synthetic"
    found = _ingest(url, folder / "synthetic", broker, 1000)
    if found["files"] != int(gigabytes * 1024):
        msg = f"{found['files']} files of the synthetic archive were published"
        raise AssertionError(msg)
    return found


def _report(
    options: argparse.Namespace,
    *,
    archive_bytes: int,
    figures: dict[str, list[float]],
    peak: dict[str, Any],
) -> dict[str, Any]:
    medians = {name: statistics.median(times) for name, times in figures.items() if times}
    ratios = {
        way: [mine / other for mine, other in zip(figures["ingest"], figures[way], strict=True)]
        for way in figures
        if way != "ingest"
    }
    times = statistics.median(ratios["plain"])
    return {
        "files": options.files,
        "archive_bytes": archive_bytes,
        "median_seconds": {name: round(value, 3) for name, value in medians.items()},
        "ratios": {way: [round(one, 2) for one in each] for way, each in ratios.items()},
        "median_ratio": {way: round(statistics.median(each), 2) for way, each in ratios.items()},
        "files_per_second": round(options.files / medians["ingest"]),
        "megabytes_per_second": round(archive_bytes / medians["ingest"] / 1e6, 1),
        "plain_megabytes_per_second": round(archive_bytes / medians["plain"] / 1e6, 1),
        "synthetic": peak,
        "bars": {
            "times a plain download and unzip": {
                "value": round(times, 2),
                "goal": f"<= {_MOST_TIMES}",
                "holds": times <= _MOST_TIMES,
            },
            f"peak MB on a stream of {options.gigabytes:g} GB": {
                "value": round(peak["peak_bytes"] / 2**20, 1),
                "goal": f"<= {_MOST_PEAK_BYTES >> 20}",
                "holds": peak["peak_bytes"] <= _MOST_PEAK_BYTES,
            },
        },
    }


async def _serve_one(url: str, folder: Path, broker: str, number: int) -> dict[str, Any]:
    from streams.agents.ingest import ingest_stage, make_ingest
    from streams.agents.ingest_requests import make_request
    from streams.runtime.clock import utc_now
    from streams.runtime.emitter import Emitter
    from streams.settings import Settings
    from streams.storage.blobs import BlobStore

    port = urlsplit(url).port
    settings = Settings(data_dir=folder, ingest_allowed_hosts=(f"127.0.0.1:{port}",))
    emitter = Emitter(broker, idempotent=False)
    await emitter.send([])
    blobs = BlobStore(settings.blobs)
    ingest = make_ingest(settings, blobs, None, emitter=emitter, clock=utc_now)
    stage = ingest_stage(blobs, (), max_file_bytes=settings.ingest_max_file_bytes, ingest=ingest)
    request = make_request(url=url, tenant=f"bench-{number}", now=utc_now())
    began = time.perf_counter()
    (result,) = await stage.process([request])
    seconds = time.perf_counter() - began
    ingest.close()
    await emitter.stop()
    status = Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) << 10
    files = sum(
        json.loads(path.read_bytes())["counts"]["files"]
        for path in (folder / "ingest").glob("*.json")
    )
    return {"result": repr(result), "files": files, "seconds": seconds, "peak_bytes": peak}


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        _serve(Path(sys.argv[2]), float(sys.argv[3]))
    else:
        one = _serve_one(sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
        print(json.dumps(asyncio.run(one)))
