"""Requests through a real worker, broker and ClickHouse: killed, repeated, posted, listed."""

from __future__ import annotations

import hashlib
import json
import random
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from schemas import UrlRequest
from streams.storage.clickhouse import ClickHouse
from tests.support import archives as a
from tests.support.ingest_worker import IngestWorker
from tests.support.servers import Server
from tests.support.web import Site, listener, site

pytestmark = pytest.mark.integration

CHANCE = random.Random(11)
FILES = {f"s{n % 7}/{n:04d}.png": CHANCE.randbytes(6000) for n in range(700)}
EXPECTED = {(name, hashlib.sha256(data).hexdigest()) for name, data in FILES.items()}
KILLS = 10


@pytest.fixture
def web_site() -> Iterator[Site]:
    with site() as made:
        yield made


@pytest.fixture
def worker(
    bare_broker: Server,
    broker: Server,
    database: ClickHouse,
    tmp_path: Path,
    is_kafka: bool,
    web_site: Site,
) -> Iterator[IngestWorker]:
    if is_kafka:
        pytest.skip("the embedded broker is enough here")
    env = {"BIODATAMINE_INGEST_ALLOWED_HOSTS": json.dumps([f"127.0.0.1:{web_site.port}"])}
    made = IngestWorker(broker, database, tmp_path, durable=False, env=env)
    yield made
    made.kill()


def slowly(web_site: Site, path: str, data: bytes, *, bytes_per_second: float) -> None:
    """Serve bytes with ranges, as over a line of that speed."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        asked = request.headers.get("Range", "")
        start = int(asked[6:].split("-")[0]) if asked else 0
        request.send_response(206 if asked else 200)
        if asked:
            request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        request.send_header("ETag", '"one"')
        request.send_header("Content-Length", str(len(data) - start))
        request.end_headers()
        for at in range(start, len(data), 8192):
            piece = data[at : at + 8192]
            request.wfile.write(piece)
            web_site.sent_bytes += len(piece)
            time.sleep(len(piece) / bytes_per_second)

    web_site.answers[path] = answer


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_kills_at_any_moment_change_no_row(worker: IngestWorker, web_site: Site, kind: str) -> None:
    data = a.zipped(FILES) if kind == "zip" else a.tarred(FILES, mode="w:gz")
    slowly(web_site, "/x", data, bytes_per_second=1_500_000)
    worker.start()
    asked = worker.ask(web_site.url("/x"))
    chance = random.Random(len(data))
    for moment in sorted(chance.uniform(0.02, 0.98) for _ in range(KILLS)):
        goal = moment * len(data)
        worker.until(
            lambda goal=goal: web_site.sent_bytes >= goal or worker.state(asked) == "fetched",
            "some bytes are fetched",
        )
        worker.kill()
        worker.start()
    worker.until(lambda: worker.state(asked) == "fetched", "the request ends")
    worker.until(lambda: len(worker.rows()) >= len(FILES), "all rows are there")
    assert worker.rows() == EXPECTED
    letters = worker.query(
        "SELECT count() FROM dead_letters WHERE tenant = {tenant:String} AND stage = 'ingest'"
    )
    assert letters == [(0,)]
    # Each life goes on where the one before had come to, and not at the beginning.
    ranges = [hit.headers["range"] for hit in web_site.hits if "range" in hit.headers]
    starts = [int(text.removeprefix("bytes=").rstrip("-")) for text in ranges]
    assert starts
    assert starts == sorted(starts)
    left = {path.suffix for path in (worker.folder / "ingest").iterdir()}
    assert left == {".json"}


def test_the_same_again_is_cheap_and_a_change_is_a_version(
    worker: IngestWorker, web_site: Site
) -> None:
    web_site.file("/x.zip", a.zipped(FILES))
    worker.start()
    worker.ask(web_site.url("/x.zip"))
    worker.until(lambda: worker.rows() == EXPECTED, "all rows are there")
    # As if the models had seen them; there are none here.
    worker.database.command(
        "INSERT INTO files SELECT * REPLACE ('analyzed' AS stage, 3 AS stage_rank) "
        f"FROM files FINAL WHERE tenant = '{worker.tenant}'"
    )
    changed = FILES | {"s0/0000.png": b"another"}
    web_site.file("/y.zip", a.zipped(changed))
    again = worker.ask(web_site.url("/y.zip"))
    worker.until(lambda: worker.state(again) == "fetched", "the request ends")
    worker.until(lambda: len(worker.rows()) == len(FILES) + 1, "the new version is there")
    assert unchanged(worker, again) == [(len(FILES), len(FILES) - 1)]
    (shown,) = json.loads(worker.command("datasets", "--json"))
    assert (shown["files"], shown["analyzed"], shown["requests"]) == (len(FILES), len(FILES) - 1, 2)
    back = worker.ask(web_site.url("/x.zip"))
    worker.until(lambda: worker.state(back) == "fetched", "the request ends")
    # The first bytes of that file are known, but they are not what it holds now: a version again.
    assert unchanged(worker, back) == [(len(FILES), len(FILES) - 1)]


def unchanged(worker: IngestWorker, request: UrlRequest) -> list[tuple[int, int]]:
    sql = "SELECT files, unchanged FROM ingest_requests FINAL WHERE event_id = {id:UUID}"
    return worker.query(sql, id=request.event_id)  # type: ignore[return-value]


def test_hostile_requests_end_as_dead_letters_and_reach_nobody(
    worker: IngestWorker, web_site: Site
) -> None:
    with listener() as (port, arrived):
        web_site.redirect("/inside", f"http://127.0.0.1:{port}/")
        web_site.redirect("/loop", "/loop")
        web_site.file("/bomb.zip", a.nested_bomb(2, 16, 4))
        web_site.file("/quine.zip", a.overlapping(500))
        web_site.file("/cut.tar.gz", a.tarred(FILES, mode="w:gz")[:100_000])
        web_site.status("/login.zip", 200, {"Content-Type": "text/html"}, b"<html>Log in</html>")
        web_site.status("/closed", 401)
        wanted = {
            f"http://127.0.0.1:{port}/x": "forbidden-address",
            f"http://[::ffff:127.0.0.1]:{port}/x": "forbidden-address",
            f"http://0x7f.1:{port}/x": "odd-address",
            "http://169.254.169.254/latest/meta-data/": "forbidden-address",
            "file:///etc/passwd": "outside-roots",
            web_site.url("/inside"): "forbidden-address",
            web_site.url("/loop"): "too-many-redirects",
            web_site.url("/bomb.zip"): "compression-bomb",
            web_site.url("/quine.zip"): "directory-disagrees",
            web_site.url("/cut.tar.gz"): "truncated",
            web_site.url("/login.zip"): "wrong-content-type",
            web_site.url("/closed"): "unauthorized",
            web_site.url("/gone"): "not-found",
        }
        worker.start()
        asked = {url: worker.ask(url, "hostile") for url in wanted}

        def reasons() -> dict[str, str]:
            rows = worker.query(
                "SELECT trace_id, reason FROM dead_letters FINAL WHERE tenant = {tenant:String} "
                "AND stage = 'ingest' AND file_id IS NULL"
            )
            found = dict(rows)
            return {url: found.get(request.trace_id, "") for url, request in asked.items()}

        worker.until(lambda: all(reasons().values()), "each has its reason")
        assert reasons() == wanted
        worker.until(
            lambda: {worker.state(one) for one in asked.values()} == {"failed"}, "all have failed"
        )
        assert arrived == []
    shown = json.loads(worker.command("datasets", "show", "hostile", "--json"))
    assert {row["reason"] for row in shown["failures"] if row["stage"] == "ingest"} >= {
        "forbidden-address", "compression-bomb", "truncated",
    }  # fmt: skip
    assert shown["requests_failed"] == len(wanted)


def post(port: int, body: bytes, content_type: str, **headers: str) -> tuple[int, dict[str, Any]]:
    sent = {"Content-Type": content_type, **headers}
    asked = urllib.request.Request(f"http://127.0.0.1:{port}/ingest", body, sent)
    try:
        with urllib.request.urlopen(asked, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def multipart(fields: dict[str, str], files: dict[str, bytes]) -> tuple[bytes, str]:
    parts = [
        f'--b\r\nContent-Disposition: form-data; name="{n}"\r\n\r\n{v}\r\n'.encode()
        for n, v in fields.items()
    ]
    parts += [
        f'--b\r\nContent-Disposition: form-data; name="file"; filename="{n}"\r\n\r\n'.encode()
        + data
        + b"\r\n"
        for n, data in files.items()
    ]
    return b"".join(parts) + b"--b--\r\n", "multipart/form-data; boundary=b"


def is_up(port: int) -> Callable[[], bool]:
    def check() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=2):
                return True
        except OSError:
            return False

    return check


def test_post_and_command_bring_files_in(worker: IngestWorker, web_site: Site) -> None:
    few = dict(list(FILES.items())[:20])
    web_site.file("/x.zip", a.zipped(few))
    worker.start()
    worker.until(is_up(worker.port), "the worker serves")
    asked = {"url": web_site.url("/x.zip"), "dataset_id": "posted", "dataset_name": "A name"}
    status, answer = post(worker.port, json.dumps(asked).encode(), "application/json")
    assert (status, answer["dataset_id"]) == (202, "posted")
    body, kind = multipart({"dataset_id": "uploaded"}, {"x.zip": a.zipped(few), "über.png": b"png"})
    status, answer = post(worker.port, body, kind)
    assert status == 202, answer
    assert len(answer["event_ids"]) == 2
    worker.command("ingest", web_site.url("/x.zip"), "--dataset", "commanded")
    worker.command("ingest", "-", "--dataset", "piped", stdin=a.tarred(few, mode="w:gz"))
    expected = {(n, hashlib.sha256(d).hexdigest()) for n, d in few.items()}
    for dataset in ("posted", "commanded", "piped"):
        worker.until(lambda d=dataset: worker.rows(d) == expected, dataset)
    worker.until(
        lambda: (
            {name for name, _ in worker.rows("uploaded")}
            == {f"x.zip/{name}" for name in few} | {"über.png"}
        ),
        "uploads",
    )
    uploads = worker.folder / "blobs" / "uploads"
    worker.until(
        lambda: not [p for p in uploads.rglob("*") if p.is_file()], "the uploads are removed"
    )
    listed = {d["dataset_id"]: d for d in json.loads(worker.command("datasets", "--json"))}
    assert listed["posted"]["name"] == "A name"
    assert listed["posted"]["source"] == web_site.url("/x.zip")
    assert "posted" in worker.command("datasets")
    assert "A name" in worker.command("datasets", "show", "posted")
    assert "no dataset" in worker.command("datasets", "show", "none", check=False)


def test_post_refuses_at_the_door(worker: IngestWorker, web_site: Site) -> None:
    worker.start()
    worker.until(is_up(worker.port), "the worker serves")

    def said(value: object, **headers: str) -> tuple[int, str]:
        status, answer = post(
            worker.port, json.dumps(value).encode(), "application/json", **headers
        )
        assert answer.get("detail"), answer
        return status, answer["reason"]

    with listener() as (port, arrived):
        assert said({"url": f"http://127.0.0.1:{port}/"}) == (403, "forbidden-address")
        assert said({"url": f"http://localhost:{port}/"}) == (403, "forbidden-address")
        assert said({"url": "http://169.254.169.254/"}) == (403, "forbidden-address")
        assert said({"url": "http://2130706433/"}) == (400, "odd-address")
        assert arrived == []
    assert said({"url": "file:///etc/passwd"}) == (403, "outside-roots")
    assert said({"url": "gopher://x/"}) == (400, "unsupported-url")
    assert said({"url": "http://u:p@x.org/"}) == (400, "credentials-in-url")
    assert said({"url": "http://x.org/", "credentials_ref": "../../etc"})[0] == 400
    assert said({"url": web_site.url(), "dataset_id": "a/b"}) == (400, "bad-request")
    assert said({"url": web_site.url(), "oops": "1"}) == (400, "bad-request")
    assert said({"url": 5}) == (400, "bad-request")
    assert said([]) == (400, "bad-request")
    assert said({}) == (400, "bad-request")
    assert said({"url": "x" * 70_000}) == (413, "too-large")
    assert said({"url": "upload:" + "0" * 64})[0] == 400
    assert said({"url": web_site.url()}, Origin="http://evil.example") == (403, "forbidden-origin")
    assert said({"url": web_site.url()}, Host="evil.example") == (403, "forbidden-origin")
    assert post(worker.port, b"x", "text/plain")[0] == 415
    assert post(worker.port, b"{", "application/json")[0] == 400
    assert post(worker.port, b"rubbish", "multipart/form-data; boundary=b")[0] == 400
    assert (
        post(worker.port, multipart({"a": "b"}, {})[0], "multipart/form-data; boundary=b")[0] == 400
    )
    assert is_up(worker.port)()
