"""Names of members: whatever they hold, a path inside the dataset or a refusal comes out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.identity import file_id
from streams.agents.ingest_requests import dataset_of, make_request
from streams.ingest.errors import IngestError
from streams.ingest.names import MAX_RELPATH_CHARACTERS, member_path, zip_name
from streams.runtime.clock import utc_now
from streams.storage.request_rows import shown_url

PARTS = st.lists(
    st.sampled_from(["..", ".", "", "a", "C:", "b.png", "\\", "//", "\x00", "\x1b", "ü", "~", " "])
    | st.text(max_size=8),
    max_size=12,
)


@given(parts=PARTS, separator=st.sampled_from(["/", "\\", "//"]), backslashes=st.booleans())
def test_a_member_stays_inside(parts: list[str], separator: str, backslashes: bool) -> None:
    try:
        path = member_path(separator.join(parts), backslashes=backslashes)
    except IngestError as error:
        assert error.reason == "unsafe-path"
        return
    assert not path.startswith("/")
    assert len(path) <= MAX_RELPATH_CHARACTERS
    for part in path.split("/") if path else ():
        assert part not in ("", ".", "..")
        assert part.isprintable() or not part.isascii()
    assert "\0" not in path
    assert "\x1b" not in path
    if path:
        file_id("t", "d", path)


@given(st.binary(max_size=60), st.booleans())
def test_any_bytes_are_a_name_or_a_refusal(raw: bytes, utf8: bool) -> None:
    try:
        path = member_path(zip_name(raw, utf8=utf8), backslashes=True)
    except IngestError:
        return
    path.encode("utf-8")


@given(st.text(max_size=30))
def test_plain_names_stay_as_they_are(text: str) -> None:
    name = "".join(c for c in text if c.isalnum()) or "x"
    assert member_path(f"folder/{name}.png") == f"folder/{name}.png"


def test_long_names_keep_their_end_and_stay_apart() -> None:
    one, other = (member_path("/".join([c * 100] * 15) + "/a.png") for c in "ab")
    assert one.endswith("/a.png")
    assert one != other


def test_too_many_folders_are_refused() -> None:
    with pytest.raises(IngestError):
        member_path("a/" * 100 + "x")


@given(st.text(max_size=60))
def test_any_url_names_a_dataset_and_can_be_shown(text: str) -> None:
    for url in (text, f"https://example.org/{text}", f"https://{text}/x"):
        name = dataset_of(url)
        assert 1 <= len(name) <= 128
        try:
            made = make_request(url=url, tenant="t", now=utc_now())
        except IngestError:
            continue
        assert made.dataset_id == name
        shown_url(url).encode("utf-8")


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://x.org/data/chest.tar.gz?x=1", "chest"),
        ("https://github.com/o/repo.git", "repo"),
        ("https://www.kaggle.com/datasets/o/chest-xray", "chest-xray"),
        ("s3://bucket/prefix/", "prefix"),
        ("https://x.org/", "x.org"),
        ("https://x.org/%D1%84%D0%B0%D0%B9%D0%BB", "x.org"),
    ],
)
def test_a_dataset_is_named_after_its_url(url: str, name: str) -> None:
    assert dataset_of(url) == name


def test_a_url_is_shown_without_its_secrets() -> None:
    shown = shown_url("https://me:pw@x.org:8443/a/b.zip?sig=abc#frag")
    assert shown == "https://x.org:8443/a/b.zip"
    assert shown_url("http://[::1]:80/x") == "http://[::1]:80/x"
    assert shown_url("file:///in/a.png") == "file:///in/a.png"
    assert shown_url("http://[oops") == "(not a URL)"
