"""GitHub, Kaggle and object stores: which URL is whose, what is asked for, what errors mean."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from streams.ingest.credentials import Credentials
from streams.ingest.errors import IngestError, SourceAwayError
from streams.ingest.github import GitHubProvider
from streams.ingest.guard import Guard
from streams.ingest.http import HttpProvider
from streams.ingest.kaggle import KaggleProvider
from streams.ingest.limits import Limits
from streams.ingest.sources import Asked, Entry, Provider
from streams.ingest.stores import StoreProvider
from streams.ingest.web import Web
from tests.support import archives as a
from tests.support.web import Site, site

SHA = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "ghp_verysecret"


@pytest.fixture
def api() -> Iterator[Site]:
    with site() as made:
        yield made


def github(api: Site, secrets: dict[str, str] | None = None) -> GitHubProvider:
    web = Web(Limits(idle_seconds=2), api.allowed())
    return GitHubProvider(web, Credentials(None, secrets), api_url=api.url())


def kaggle(api: Site, secrets: dict[str, str] | None = None) -> KaggleProvider:
    web = Web(Limits(idle_seconds=2), api.allowed())
    return KaggleProvider(web, Credentials(None, secrets), api_url=api.url("/api/v1"))


def only(provider: Provider, url: str, reference: str | None = None) -> Entry:
    (entry,) = provider.entries(Asked(url, reference))
    return entry


def content(entry: Entry) -> bytes:
    return b"".join(entry.source.chunks())


def answer(api: Site, path: str, value: object) -> None:
    api.status(path, 200, body=json.dumps(value).encode())


# GitHub


@pytest.mark.parametrize(
    ("url", "served"),
    [
        ("https://github.com/o/r", True),
        ("https://www.github.com/o/r/", True),
        ("https://github.com/o/r/tree/main/data", True),
        ("https://github.com/o/r/releases/download/v1/x.zip", True),
        ("https://github.com/o/r/archive/main.zip", False),
        ("https://github.com/o", False),
        ("http://github.com/o/r", False),
        ("https://github.com.evil.example/o/r", False),
        ("https://evil.example/github.com/o/r", False),
    ],
)
def test_pages_of_repositories_are_githubs(api: Site, url: str, served: bool) -> None:
    assert github(api).serves(url) is served


def test_a_repository_is_its_default_branch_at_one_commit(api: Site) -> None:
    answer(api, "/repos/o/r", {"default_branch": "trunk"})
    answer(api, "/repos/o/r/commits/trunk", {"sha": SHA})
    api.file(f"/repos/o/r/zipball/{SHA}", a.zipped({"r-0123/a.png": b"a"}))
    entry = only(github(api), "https://github.com/o/r.git")
    assert (entry.origin, entry.strip_parts, entry.subfolder) == ("repository", 1, "")
    assert content(entry).startswith(b"PK")


def test_a_branch_with_slashes_is_told_from_the_folder_behind_it(api: Site) -> None:
    answer(api, "/repos/o/r/commits/feature%2Fnew", {"sha": SHA})
    entry = only(github(api), "https://github.com/o/r/tree/feature/new/data/train")
    assert entry.subfolder == "data/train"
    assert [hit.path for hit in api.hits] == [
        "/repos/o/r/commits/feature",
        "/repos/o/r/commits/feature%2Fnew",
    ]


def test_a_release_asset_is_asked_for_by_its_id(api: Site) -> None:
    answer(api, "/repos/o/r/releases/tags/v1", {"assets": [{"name": "x.zip", "id": 7}]})
    api.file("/repos/o/r/releases/assets/7", b"asset")
    entry = only(github(api), "https://github.com/o/r/releases/download/v1/x.zip")
    assert content(entry) == b"asset"
    assert entry.source.name == "x.zip"
    assert api.hits[-1].headers["accept"] == "application/octet-stream"


def test_a_token_goes_to_the_api_and_not_along_a_redirect(api: Site) -> None:
    with site() as storage:
        storage.file("/zip", b"PK")
        answer(api, "/repos/o/r/commits/main", {"sha": SHA})
        api.redirect(f"/repos/o/r/zipball/{SHA}", f"http://localhost:{storage.port}/zip")
        allowed = api.allowed(f"localhost:{storage.port}", f"127.0.0.1:{storage.port}")
        web = Web(Limits(idle_seconds=2), allowed)
        secrets = Credentials(None, {"gh": TOKEN})
        provider = GitHubProvider(web, secrets, api_url=api.url())
        entry = only(provider, "https://github.com/o/r/tree/main", "setting:gh")
        assert content(entry) == b"PK"
        assert {hit.headers["authorization"] for hit in api.hits} == {f"Bearer {TOKEN}"}
        assert "authorization" not in storage.hits[0].headers


@pytest.mark.parametrize(
    ("status", "headers", "reason"),
    [
        (401, {}, "unauthorized"),
        (403, {}, "forbidden"),
        (404, {}, "not-found"),
        (451, {}, "forbidden"),
        (403, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "99999999999"}, None),
        (403, {"Retry-After": "60"}, None),
        (429, {"Retry-After": "7"}, None),
        (500, {}, None),
    ],
)
def test_githubs_refusals_say_what_to_do(
    api: Site, status: int, headers: dict[str, str], reason: str | None
) -> None:
    api.status("/repos/o/r/commits/main", status, headers)
    url = "https://github.com/o/r/tree/main"
    if reason is None:
        with pytest.raises(SourceAwayError) as away:
            only(github(api, {"gh": TOKEN}), url, "setting:gh")
        if status == 429:
            assert away.value.retry_after_seconds == 7
        assert TOKEN not in str(away.value)
        return
    with pytest.raises(IngestError) as refused:
        only(github(api, {"gh": TOKEN}), url, "setting:gh")
    assert refused.value.reason == reason
    assert TOKEN not in str(refused.value)


@pytest.mark.parametrize("url", ["https://github.com/../r", "https://github.com/o%2Fx/r"])
def test_odd_names_of_repositories_are_refused(api: Site, url: str) -> None:
    with pytest.raises(IngestError) as refused:
        only(github(api), url)
    assert refused.value.reason == "bad-url"
    assert api.hits == []


# Kaggle


KEY = json.dumps({"username": "me", "key": "k4ggle"})


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("https://www.kaggle.com/datasets/o/chest", "/api/v1/datasets/download/o/chest"),
        (
            "https://kaggle.com/datasets/o/chest/versions/3",
            "/api/v1/datasets/download/o/chest?datasetVersionNumber=3",
        ),
        (
            "https://www.kaggle.com/competitions/skin/data",
            "/api/v1/competitions/data/download-all/skin",
        ),
        ("https://www.kaggle.com/c/skin", "/api/v1/competitions/data/download-all/skin"),
    ],
)
def test_a_page_of_kaggle_is_one_download(api: Site, url: str, path: str) -> None:
    api.file(path.partition("?")[0], b"PK")
    provider = kaggle(api, {"k": KEY})
    assert provider.serves(url)
    entry = only(provider, url, "setting:k")
    assert content(entry) == b"PK"
    assert api.hits[0].path == path
    assert api.hits[0].headers["authorization"] == "Basic bWU6azRnZ2xl"


@pytest.mark.parametrize(
    ("status", "reason"), [(401, "unauthorized"), (403, "forbidden"), (404, "not-found")]
)
def test_kaggles_refusals_say_what_to_do(api: Site, status: int, reason: str) -> None:
    api.status("/api/v1/competitions/data/download-all/skin", status)
    entry = only(kaggle(api, {"k": KEY}), "https://www.kaggle.com/c/skin", "setting:k")
    with pytest.raises(IngestError) as refused:
        content(entry)
    assert refused.value.reason == reason
    assert "Kaggle" in refused.value.detail
    assert "k4ggle" not in str(refused.value)


def test_kaggles_rate_limit_can_heal(api: Site) -> None:
    api.status("/api/v1/competitions/data/download-all/skin", 429, {"Retry-After": "3"})
    with pytest.raises(SourceAwayError) as away:
        content(only(kaggle(api), "https://www.kaggle.com/c/skin"))
    assert away.value.retry_after_seconds == 3


# Stores


@pytest.fixture
def memory() -> Iterator[None]:
    files = fsspec.filesystem("memory")
    files.pipe({"/bucket/set/b.png": b"bb", "/bucket/set/sub/a.png": b"a", "/bucket/other": b"o"})
    yield
    files.rm("/bucket", recursive=True)


def stores(*schemes: str, **given: object) -> StoreProvider:
    web = Web(Limits())
    values: dict[str, object] = {"max_bytes": 1000, "max_files": 100, **given}
    return StoreProvider(schemes, Credentials(None), web.guard, **values)  # type: ignore[arg-type]


@pytest.mark.usefixtures("memory")
def test_an_object_and_a_prefix_of_a_store() -> None:
    provider = stores("memory")
    assert provider.serves("memory://bucket/set/b.png")
    assert content(only(provider, "memory://bucket/set/b.png")) == b"bb"
    found = list(provider.entries(Asked("memory://bucket/set/")))
    assert [(entry.path, content(entry)) for entry in found] == [
        ("b.png", b"bb"),
        ("sub/a.png", b"a"),
    ]
    source = found[0].source
    assert b"".join(source.chunks(1, source.validator)) == b"b"


@pytest.mark.usefixtures("memory")
def test_stores_are_bounded_and_their_faults_are_ours() -> None:
    with pytest.raises(IngestError) as caught:
        content(only(stores("memory", max_bytes=1), "memory://bucket/set/b.png"))
    assert caught.value.reason == "download-too-large"
    with pytest.raises(IngestError) as caught:
        list(stores("memory", max_files=1).entries(Asked("memory://bucket/set/")))
    assert caught.value.reason == "too-many-members"
    for url, reason in {
        "memory://bucket/none": "not-found",
        "memory://nowhere/": "not-found",
        "memory://bucket/set": "not-a-file",
        "memory://x::file:///etc/passwd": "bad-url",
    }.items():
        with pytest.raises(IngestError) as caught:
            list(stores("memory").entries(Asked(url)))
        assert caught.value.reason == reason, url


@pytest.mark.parametrize("scheme", ["file", "local", "http", "ftp", "memory", "github"])
def test_no_store_is_served_that_is_not_allowed(scheme: str) -> None:
    provider = stores("s3", "file", "http", "local", "ftp", "github")
    assert not provider.serves(f"{scheme}://x/y")


def test_sftp_goes_through_the_guard() -> None:
    with pytest.raises(IngestError) as caught:
        list(stores("sftp").entries(Asked("sftp://127.0.0.1/etc/passwd")))
    assert caught.value.reason == "forbidden-address"


# Credentials in files


def test_a_secret_file_is_read_from_its_folder_only(tmp_path: Path, api: Site) -> None:
    folder = tmp_path / "secrets"
    folder.mkdir()
    (folder / "mine").write_text(
        json.dumps({"kind": "bearer", "hosts": ["127.0.0.1"], "token": "t0ken"})
    )
    (tmp_path / "outside").write_text("t0ken")
    credentials = Credentials(folder)
    web = Web(Limits(idle_seconds=2), api.allowed())
    api.file("/x", b"x")
    assert content(only(HttpProvider(web, credentials), api.url("/x"), "secret-file:mine")) == b"x"
    assert api.hits[0].headers["authorization"] == "Bearer t0ken"
    assert "t0ken" not in repr(credentials.find("secret-file:mine"))
    for reference in ("secret-file:../outside", "secret-file:..", "file:mine", "secret-file:none"):
        with pytest.raises(IngestError) as refused:
            credentials.find(reference)
        assert "t0ken" not in str(refused.value)


def test_a_signature_of_a_query_is_a_secret_as_well(api: Site) -> None:
    secret = {"kind": "query", "hosts": ["127.0.0.1"], "parameters": {"sig": "s1gned"}}
    credentials = Credentials(None, {"q": json.dumps(secret)})
    web = Web(Limits(idle_seconds=2), api.allowed())
    api.file("/x", b"x")
    assert content(only(HttpProvider(web, credentials), api.url("/x?a=b"), "setting:q")) == b"x"
    assert api.hits[0].path == "/x?a=b&sig=s1gned"


def test_the_guard_of_a_web_client_is_the_one_that_is_asked() -> None:
    assert isinstance(Web(Limits()).guard, Guard)
