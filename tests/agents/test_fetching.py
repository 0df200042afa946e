"""Requests served whole: sources on loopback, real blobs, and what was published."""

from __future__ import annotations

import hashlib
import random
import tarfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import pytest

from schemas import FileReceived, UrlRequest, decode
from schemas.identity import event_id, file_id
from streams.agents.fetching import Fetcher, Outcome, Patience, StoppedError, Tools
from streams.agents.ingest_progress import ProgressStore
from streams.agents.uploads import UploadProvider, upload_url
from streams.ingest.credentials import Credentials
from streams.ingest.files import FileProvider
from streams.ingest.http import HttpProvider
from streams.ingest.limits import Limits
from streams.ingest.sources import Provider
from streams.ingest.web import Web
from streams.runtime.dead_letters import read_headers
from streams.runtime.emitter import Outgoing
from streams.runtime.retry import Backoff, ServiceFaultError
from streams.storage.blobs import BlobStore
from tests.support import archives as a
from tests.support.web import Site, site

NOW = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
CHANCE = random.Random(3)
FILES = {f"s/{n:03d}.png": CHANCE.randbytes(20_000) for n in range(60)}
ARCHIVES = {
    "zip": a.zipped(FILES),
    "streamed.zip": a.zipped(FILES, streamed=True),
    "tar": a.tarred(FILES),
    "tar.gz": a.tarred(FILES, mode="w:gz"),
    "7z": a.seven_zipped(FILES),
}


class Bench:
    """A fetcher, and what it published."""

    def __init__(self, folder: Path, allowed: Site | None = None) -> None:
        self.folder = folder
        self.blobs = BlobStore(str(folder / "blobs"), fsync=False)
        self.uploads = BlobStore(str(folder / "uploads"), fsync=False)
        self.sent: list[Outgoing] = []
        self.limits = Limits(idle_seconds=2, slow_window_seconds=1)
        self.allowed = allowed.allowed() if allowed else None
        self.secrets: dict[str, str] = {}
        self.patience = Patience(0.0, Backoff(0.01, 0.05))
        self.stop = threading.Event()
        self.broken_after: int | None = None
        (folder / "in").mkdir(exist_ok=True)

    def tools(self) -> Tools:
        web = Web(self.limits, self.allowed)
        providers: list[Provider] = [
            UploadProvider(self.uploads),
            FileProvider([self.folder / "in"], max_bytes=1 << 30, max_files=1000),
            HttpProvider(web, Credentials(None, self.secrets)),
        ]
        return Tools(
            blobs=self.blobs,
            providers=providers,
            limits=self.limits,
            progress=ProgressStore(self.folder / "progress"),
            publish=self.publish,
            clock=lambda: NOW,
            patience=self.patience,
            fsync=False,
        )

    def publish(self, messages: Sequence[Outgoing]) -> None:
        if self.broken_after is not None and len(self.sent) >= self.broken_after:
            raise ServiceFaultError("kafka", "away")
        self.sent.extend(messages)

    def fetch(self, url: str, **given: object) -> Outcome:
        return Fetcher(self.tools()).fetch(request(url, **given), self.stop)

    @property
    def events(self) -> list[FileReceived]:
        return [decode(m.value, FileReceived) for m in self.sent if m.topic == FileReceived.TOPIC]

    @property
    def files(self) -> dict[str, bytes]:
        return {event.relpath: self.blobs.read(event.blob) for event in self.events}

    @property
    def letters(self) -> list[tuple[str, str]]:
        found = [read_headers(m.headers) for m in self.sent if m.topic.endswith("-dlq")]
        return [(letter["reason"], letter.get("file-id", "")) for letter in found]


def request(url: str, **given: object) -> UrlRequest:
    return UrlRequest(
        event_id=event_id(UrlRequest.TOPIC, url),
        occurred_at=NOW,
        trace_id="1" * 32,
        tenant="clinic",
        request_id="r-1",
        dataset_id="set",
        url=url,
        **given,  # type: ignore[arg-type]
    )


@pytest.fixture
def web_site() -> Iterator[Site]:
    with site() as made:
        yield made


@pytest.fixture
def bench(tmp_path: Path, web_site: Site) -> Bench:
    return Bench(tmp_path, web_site)


def nothing_is_left(bench: Bench) -> bool:
    left = {path.suffix for path in (bench.folder / "progress").iterdir()}
    incoming = list((bench.folder / "blobs" / "incoming").iterdir())
    return left <= {".json"} and not incoming


# What comes out


@pytest.mark.parametrize("kind", ARCHIVES)
def test_an_archive_becomes_its_files(bench: Bench, web_site: Site, kind: str) -> None:
    web_site.file(f"/data.{kind}", ARCHIVES[kind])
    outcome = bench.fetch(web_site.url(f"/data.{kind}"))
    assert outcome.error is None
    assert bench.files == FILES
    assert (outcome.counts.files, outcome.counts.refused) == (len(FILES), 0)
    event = bench.events[0]
    assert event.file_id == file_id("clinic", "set", event.relpath)
    assert event.image_id == hashlib.sha256(FILES[event.relpath]).hexdigest()
    assert (event.source, event.received_at, event.request_id) == ("archive", NOW, "r-1")
    assert len(web_site.hits) == 1
    assert nothing_is_left(bench)


def test_a_single_file_takes_its_name_from_the_server(bench: Bench, web_site: Site) -> None:
    named = {"Content-Disposition": 'attachment; filename="../../scan 1.png"'}
    web_site.file("/get", b"png", headers=named)
    assert bench.fetch(web_site.url("/get?id=1")).error is None
    (event,) = bench.events
    assert (event.relpath, event.source) == ("scan 1.png", "url")


def test_a_relpath_is_the_place_of_a_file_and_the_folder_of_an_archive(
    bench: Bench, web_site: Site
) -> None:
    web_site.file("/a.png", b"png")
    web_site.file("/a.zip", a.zipped({"x/y.png": b"y"}))
    bench.fetch(web_site.url("/a.png"), relpath="in/here.png")
    bench.fetch(web_site.url("/a.zip"), relpath="in/there")
    assert set(bench.files) == {"in/here.png", "in/there/x/y.png"}


def test_a_folder_of_this_machine_gives_all_its_files(bench: Bench) -> None:
    root = bench.folder / "in" / "set"
    for name, data in {"a.png": b"a", "sub/b.zip": a.zipped({"c.png": b"c"})}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    (root / "link").symlink_to("/etc/passwd")
    assert bench.fetch(root.as_uri() + "/").error is None
    assert bench.files == {"a.png": b"a", "sub/b.zip/c.png": b"c"}
    outside = bench.fetch((bench.folder / "progress").as_uri() + "/")
    assert outside.error is not None
    assert outside.error.reason == "outside-roots"


def test_an_upload_is_taken_apart_and_can_be_removed(bench: Bench) -> None:
    blob = bench.uploads.put(ARCHIVES["zip"])
    url = upload_url(blob, "my data.zip")
    assert bench.fetch(url).error is None
    assert bench.files == FILES
    UploadProvider(bench.uploads).remove(url)
    assert not bench.uploads.exists(blob.sha256)
    gone = bench.fetch(url, relpath="again")
    assert gone.error is None, "the request has ended, and is not done again"


def test_files_are_published_while_the_rest_still_comes(bench: Bench, web_site: Site) -> None:
    data = ARCHIVES["zip"]
    published = threading.Event()

    def pieces() -> Iterator[bytes]:
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(data)}\r\n\r\n".encode()
        yield head + data[: len(data) // 2]
        # The other half only comes when files of the first half are out.
        assert published.wait(20)
        yield data[len(data) // 2 :]

    web_site.raw("/slow.zip", pieces)
    send = bench.publish

    def publish(messages: Sequence[Outgoing]) -> None:
        send(messages)
        published.set()

    bench.publish = publish  # type: ignore[method-assign]
    bench.limits = replace(bench.limits, idle_seconds=30, slow_window_seconds=60)
    # A batch goes out when it is half a second old and the next member is there.
    import streams.agents.fetching as fetching

    fetching_seconds, fetching._BATCH_SECONDS = fetching._BATCH_SECONDS, 0.0
    try:
        assert bench.fetch(web_site.url("/slow.zip")).error is None
    finally:
        fetching._BATCH_SECONDS = fetching_seconds
    assert bench.files == FILES


def test_names_that_come_twice_are_both_kept(bench: Bench, web_site: Site) -> None:
    pairs = [("a.png", b"1"), ("A.png", b"2"), ("a.png", b"3"), ("a.png", b"4"), ("a~2.png", b"5")]
    web_site.file("/x.zip", a.zipped(pairs))
    bench.fetch(web_site.url("/x.zip"))
    assert bench.files == {
        "a.png": b"1", "A.png": b"2", "a~2.png": b"3", "a~3.png": b"4", "a~2~2.png": b"5",
    }  # fmt: skip


def test_what_is_refused_is_a_dead_letter_and_the_others_are_kept(
    bench: Bench, web_site: Site
) -> None:
    members = [
        (tarfile.TarInfo("good"), b"good"),
        a.special("link", tarfile.SYMTYPE, "/etc/passwd"),
        (tarfile.TarInfo("../slip"), b"slip"),
        (tarfile.TarInfo("deep.zip"), b"PK\x03\x04 not a zip at all" * 9),
        (tarfile.TarInfo("last"), b"last"),
    ]
    web_site.file("/x.tar", a.tar_of(*members))
    outcome = bench.fetch(web_site.url("/x.tar"))
    assert outcome.error is None
    assert bench.files == {"good": b"good", "last": b"last"}
    assert bench.letters[:2] == [
        ("not-a-file", file_id("clinic", "set", "link")),
        ("unsafe-path", ""),
    ]
    assert bench.letters[2][1] == file_id("clinic", "set", "deep.zip")
    assert outcome.counts.refused == 3


def test_too_many_refused_members_end_the_request(bench: Bench, web_site: Site) -> None:
    links = [a.special(f"{n}", tarfile.SYMTYPE, "x") for n in range(50)]
    web_site.file("/x.tar", a.tar_of(*links))
    bench.limits = replace(bench.limits, bad_members=10)
    outcome = bench.fetch(web_site.url("/x.tar"))
    assert outcome.error is not None
    assert outcome.error.reason == "too-many-bad-members"
    assert len(bench.letters) == 11
    assert nothing_is_left(bench)


def test_a_file_that_is_too_large_is_refused_alone(bench: Bench, web_site: Site) -> None:
    web_site.file("/x.zip", a.zipped({"big": bytes(10_000), "small": b"s"}))
    bench.limits = replace(bench.limits, file_bytes=5000)
    assert bench.fetch(web_site.url("/x.zip")).error is None
    assert bench.files == {"small": b"s"}
    assert [reason for reason, _ in bench.letters] == ["too-large"]


# Hostile servers


def refused(bench: Bench, url: str, **given: object) -> str:
    outcome = bench.fetch(url, **given)
    assert outcome.error is not None
    assert bench.events == []
    return outcome.error.reason


def test_a_download_without_an_end_is_cut_off(bench: Bench, web_site: Site) -> None:
    def endless() -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        while True:
            yield b"10000\r\n" + bytes(0x10000) + b"\r\n"

    web_site.raw("/x", endless)
    bench.limits = replace(bench.limits, download_bytes=3 << 20)
    assert refused(bench, web_site.url("/x")) == "download-too-large"
    assert web_site.sent_bytes < 64 << 20


def test_a_length_that_is_too_large_is_refused_before_anything_is_read(
    bench: Bench, web_site: Site
) -> None:
    web_site.raw("/x", lambda: iter([b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999\r\n\r\n"]))
    bench.limits = replace(bench.limits, download_bytes=1 << 20)
    assert refused(bench, web_site.url("/x")) == "download-too-large"


@pytest.mark.parametrize("stated", [b"1000", b"-5", b"x", b"5, 6", b"99999999999999999999999"])
def test_a_length_that_lies_is_no_file(bench: Bench, web_site: Site, stated: bytes) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: " + stated + b"\r\n\r\nshort"
    web_site.raw("/x", lambda: iter([head]))
    assert refused(bench, web_site.url("/x")) in (
        "source-away", "bad-response", "download-too-large",
    )  # fmt: skip


def dripping(first: bytes) -> Iterator[bytes]:
    yield first
    while True:
        time.sleep(0.05)
        yield b"x"


@pytest.mark.parametrize(
    "first",
    [b"", b"HTTP/1.1 200 OK\r\nX-Long: ", b"HTTP/1.1 200 OK\r\nContent-Length: 999999\r\n\r\n"],
    ids=["status", "headers", "body"],
)  # fmt: skip
def test_a_server_that_drips_is_given_up(bench: Bench, web_site: Site, first: bytes) -> None:
    web_site.raw("/x", lambda: dripping(first))
    assert refused(bench, web_site.url("/x")) == "source-away"
    assert web_site.sent_bytes < 10_000


def test_a_server_that_says_nothing_is_given_up(bench: Bench, web_site: Site) -> None:
    done = threading.Event()

    def silent() -> Iterator[bytes]:
        done.wait(30)
        yield b""

    web_site.raw("/x", silent)
    bench.limits = replace(bench.limits, idle_seconds=0.3)
    try:
        assert refused(bench, web_site.url("/x")) == "source-away"
    finally:
        done.set()


def test_headers_without_an_end_are_given_up(bench: Bench, web_site: Site) -> None:
    def headers() -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\n"
        while True:
            yield b"X-A: " + b"a" * 8000 + b"\r\n"

    web_site.raw("/x", headers)
    assert refused(bench, web_site.url("/x")) == "source-away"
    assert web_site.sent_bytes < 16 << 20


def test_redirects_without_an_end_are_given_up(bench: Bench, web_site: Site) -> None:
    web_site.redirect("/x", "/x")
    assert refused(bench, web_site.url("/x")) == "too-many-redirects"
    assert len(web_site.hits) == bench.limits.redirects + 1


def test_a_web_page_in_place_of_an_archive_is_refused(bench: Bench, web_site: Site) -> None:
    web_site.status("/x.zip", 200, {"Content-Type": "text/html"}, b"<!doctype html><p>Log in")
    assert refused(bench, web_site.url("/x.zip")) == "wrong-content-type"


def test_an_encoded_body_is_refused(bench: Bench, web_site: Site) -> None:
    web_site.file("/x", a.gz(b"x"), headers={"Content-Encoding": "gzip"})
    assert refused(bench, web_site.url("/x")) == "bad-response"


@pytest.mark.parametrize(
    ("status", "reason"),
    [(400, "bad-response"), (401, "unauthorized"), (403, "forbidden"), (404, "not-found"),
     (410, "not-found"), (429, "source-away"), (500, "source-away"), (503, "source-away")],
)  # fmt: skip
def test_every_status_has_its_reason(
    bench: Bench, web_site: Site, status: int, reason: str
) -> None:
    web_site.status("/x", status)
    assert refused(bench, web_site.url("/x")) == reason
    assert len(web_site.hits) == 1


def test_only_what_can_heal_is_tried_again(bench: Bench, web_site: Site) -> None:
    bench.patience = Patience(5.0, Backoff(0.01, 0.05))
    web_site.status("/gone", 404)
    assert refused(bench, web_site.url("/gone")) == "not-found"
    assert len(web_site.hits) == 1
    answers = iter([429, 503, 500])

    def answer(handler: object) -> None:
        status = next(answers, None)
        if status is None:
            web_site.file("/x", b"at last")
            web_site.answers["/x"](handler)  # type: ignore[arg-type]
            return
        web_site.status("/x", status, {"Retry-After": "0"})
        web_site.answers["/x"](handler)  # type: ignore[arg-type]
        web_site.answers["/x"] = answer

    web_site.answers["/x"] = answer
    assert bench.fetch(web_site.url("/x")).error is None
    assert bench.files == {"x": b"at last"}


def test_no_url_of_this_machine_is_fetched_without_leave(tmp_path: Path, web_site: Site) -> None:
    web_site.file("/x", b"secret")
    bench = Bench(tmp_path, None)
    for url in (web_site.url("/x"), f"http://localhost:{web_site.port}/x", "http://[::1]/x"):
        assert refused(bench, url) == "forbidden-address"
    for url in ("gopher://x/", "upload:zz", "s3:x", "x"):
        assert refused(bench, url) in ("unsupported-url", "bad-url")
    assert web_site.hits == []


# Credentials


def test_a_secret_is_shown_to_its_host_and_to_no_other(bench: Bench, web_site: Site) -> None:
    with site() as other:
        web_site.redirect("/x", other.url("/y"))
        web_site.file("/z", b"z")
        other.file("/y", b"y")
        bench.allowed = web_site.allowed(f"localhost:{other.port}", f"127.0.0.1:{other.port}")
        web_site.redirect("/x", f"http://localhost:{other.port}/y")
        bench.secrets["mine"] = (
            '{"kind": "basic", "hosts": ["127.0.0.1"], "username": "u", "password": "hunter2"}'
        )
        assert bench.fetch(web_site.url("/z"), credentials_ref="setting:mine").error is None
        assert web_site.hits[-1].headers["authorization"] == "Basic dTpodW50ZXIy"
        assert bench.fetch(web_site.url("/x"), credentials_ref="setting:mine").error is None
        assert "authorization" in web_site.hits[-1].headers
        assert "authorization" not in other.hits[-1].headers
    everything = b"".join(m.value + b"".join(v for _, v in m.headers) for m in bench.sent)
    assert b"hunter2" not in everything


@pytest.mark.parametrize(
    ("secret", "reason"),
    [("{", "bad-credentials"), ("bare-token", "bad-credentials"),
     ('{"kind": "bearer", "token": "s3cret"}', "bad-credentials"),
     ('{"kind": "bearer", "hosts": ["x"], "token": "s3cret\\r\\nX: y"}', "bad-credentials"),
     (None, "no-such-credentials")],
)  # fmt: skip
def test_a_secret_that_cannot_be_used_is_a_reason_without_it(
    bench: Bench, web_site: Site, secret: str | None, reason: str
) -> None:
    if secret is not None:
        bench.secrets["mine"] = secret
    outcome = bench.fetch(web_site.url("/z"), credentials_ref="setting:mine")
    assert outcome.error is not None
    assert outcome.error.reason == reason
    assert "s3cret" not in str(outcome.error)
    assert web_site.hits == []


@pytest.mark.parametrize(
    "url",
    ["http://u:p@127.0.0.1/x", "https://x.org/?X-Amz-Signature=abc", "https://x.org/?access_token=a",
     "https://x.org/?a=b&sig=x"],
)  # fmt: skip
def test_a_url_with_a_secret_in_it_is_refused(bench: Bench, url: str) -> None:
    assert refused(bench, url) == "credentials-in-url"


# Digests


def test_nothing_is_published_of_a_file_with_another_digest(bench: Bench, web_site: Site) -> None:
    web_site.file("/x.zip", ARCHIVES["zip"])
    right = hashlib.sha256(ARCHIVES["zip"]).hexdigest()
    assert refused(bench, web_site.url("/x.zip"), sha256="0" * 64) == "digest-mismatch"
    assert nothing_is_left(bench)
    assert bench.fetch(web_site.url("/x.zip"), sha256=right).error is None
    assert bench.files == FILES


def test_a_digest_that_the_server_sends_is_checked(bench: Bench, web_site: Site) -> None:
    wrong = {"Repr-Digest": f"sha-256=:{'A' * 43}=:"}
    web_site.file("/x", b"x", headers=wrong)
    assert refused(bench, web_site.url("/x")) == "digest-mismatch"


# Going on


@pytest.mark.parametrize("kind", ARCHIVES)
@pytest.mark.parametrize("ranges", [True, False])
def test_a_connection_that_breaks_is_taken_up_where_it_broke(
    bench: Bench, web_site: Site, kind: str, ranges: bool
) -> None:
    data = ARCHIVES[kind]
    if ranges:
        web_site.file("/x", data, cut_after=300_000)
    else:
        cut = iter([len(data) // 2])

        def answer(handler: object) -> None:
            web_site.file("/x", data, ranges=False, cut_after=next(cut, None))
            web_site.answers["/x"](handler)  # type: ignore[arg-type]
            web_site.answers["/x"] = answer

        web_site.answers["/x"] = answer
    outcome = bench.fetch(web_site.url("/x"))
    assert outcome.error is None
    assert bench.files == FILES
    if ranges:
        assert web_site.sent_bytes < len(data) + (1 << 18)
    assert len(bench.events) == len(FILES)


@pytest.mark.parametrize("kind", ARCHIVES)
def test_a_request_that_was_interrupted_goes_on_without_its_past(
    bench: Bench, web_site: Site, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.agents.fetching._BATCH_FILES", 10)
    data = ARCHIVES[kind]
    web_site.file("/x", data)
    bench.broken_after = 25
    with pytest.raises(ServiceFaultError):
        bench.fetch(web_site.url("/x"))
    before = len(bench.sent)
    assert 0 < before < len(FILES)
    web_site.sent_bytes = 0
    bench.broken_after = None
    assert bench.fetch(web_site.url("/x")).error is None
    assert bench.files == FILES
    # What is stored is not fetched again: at most the batch that was under way.
    assert len(bench.events) <= len(FILES) + 20
    if kind in ("zip", "streamed.zip", "tar"):
        assert web_site.sent_bytes < len(data) * 0.75
        assert "range" in web_site.hits[-1].headers
    assert nothing_is_left(bench)


@pytest.mark.parametrize("at_once", [True, False])
def test_what_is_published_has_been_synced_under_its_name(
    bench: Bench, web_site: Site, monkeypatch: pytest.MonkeyPatch, at_once: bool
) -> None:
    monkeypatch.setattr("streams.agents.fetching._BATCH_FILES", 10)
    if at_once:
        # No batch waits for the next one to share its sync.
        monkeypatch.setattr("streams.agents.fetching._BATCH_SECONDS", 0.0)
    durable: set[str] = set()

    def syncfs(descriptor: int) -> int:
        del descriptor
        durable.update(path.name for path in (bench.folder / "blobs").glob("??/*"))
        return 0

    send, early = bench.publish, []

    def publish(messages: Sequence[Outgoing]) -> None:
        early.extend(m.key for m in messages if m.key.decode() not in durable)
        send(messages)

    monkeypatch.setattr("streams.storage.blob_batch._syncfs", syncfs)
    tools = replace(bench.tools(), publish=publish, fsync=True)
    web_site.file("/x.zip", ARCHIVES["zip"])
    assert Fetcher(tools).fetch(request(web_site.url("/x.zip")), bench.stop).error is None
    assert bench.files == FILES
    assert early == []


def test_a_stop_leaves_the_request_for_later(bench: Bench, web_site: Site) -> None:
    web_site.file("/x.zip", ARCHIVES["zip"])
    bench.stop.set()
    with pytest.raises(StoppedError):
        bench.fetch(web_site.url("/x.zip"))
    bench.stop.clear()
    assert bench.fetch(web_site.url("/x.zip")).error is None
    assert bench.files == FILES


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_a_file_that_changed_meanwhile_is_begun_anew(
    bench: Bench, web_site: Site, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.agents.fetching._BATCH_FILES", 10)
    web_site.file("/x", ARCHIVES[kind])
    bench.broken_after = 25
    with pytest.raises(ServiceFaultError):
        bench.fetch(web_site.url("/x"))
    bench.broken_after = None
    bench.sent.clear()
    asked = len(web_site.hits)
    other = {name: data[::-1] for name, data in FILES.items()}
    made = a.zipped(other) if kind == "zip" else a.tarred(other, mode="w:gz")
    web_site.file("/x", made, etag='"two"')
    assert bench.fetch(web_site.url("/x")).error is None
    if len(web_site.hits) > asked:
        assert bench.files == other
    else:
        # All of it had come before the fault: one version, whole, without another look.
        assert set(bench.files.items()) <= set(FILES.items())


def test_an_ended_request_is_not_done_again(bench: Bench, web_site: Site) -> None:
    web_site.file("/x.zip", ARCHIVES["zip"])
    first = bench.fetch(web_site.url("/x.zip"))
    again = bench.fetch(web_site.url("/x.zip"))
    assert first == again
    assert len(web_site.hits) == 1


def test_workspaces_of_the_dead_are_removed_and_those_of_the_living_are_not(
    tmp_path: Path,
) -> None:
    store = ProgressStore(tmp_path)
    for pid in (2**22 + 1, 1):
        (tmp_path / f"a.{pid}.work").mkdir()
        (tmp_path / f"a.{pid}.work" / "x").write_bytes(b"x")
    assert store.clear_workspaces() == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.1.work"]


# What is known


class Known:
    def __init__(self, *keys: tuple[str, str]) -> None:
        self.keys = set(keys)

    def has_files(self, tenant: str, dataset_id: str) -> bool:
        return True

    def unchanged(
        self, tenant: str, dataset_id: str, keys: Sequence[tuple[str, str]]
    ) -> set[tuple[str, str]]:
        return self.keys & set(keys)


def test_what_has_not_changed_is_not_published_again(bench: Bench, web_site: Site) -> None:
    web_site.file("/x.zip", ARCHIVES["zip"])
    bench.fetch(web_site.url("/x.zip"))
    known = Known(*((event.file_id, event.image_id) for event in bench.events))
    bench.sent.clear()
    changed = FILES | {"s/000.png": b"another"}
    web_site.file("/y.zip", a.zipped(changed))
    tools = replace(bench.tools(), known=known)
    outcome = Fetcher(tools).fetch(request(web_site.url("/y.zip")), bench.stop)
    assert list(bench.files) == ["s/000.png"]
    assert (outcome.counts.files, outcome.counts.unchanged) == (len(FILES), len(FILES) - 1)
