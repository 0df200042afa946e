"""file:// requests: only regular files, only under the folders that the operator allowed."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streams.ingest.local import (
    MAX_RELPATH_CHARACTERS,
    IngestError,
    dataset_path,
    open_bounded,
    resolve,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "allowed"
    (folder / "sub").mkdir(parents=True)
    (folder / "a file.png").write_bytes(b"inside")
    (folder / "sub" / "b.png").write_bytes(b"below")
    (tmp_path / "allowed-not").mkdir()
    (tmp_path / "allowed-not" / "c.png").write_bytes(b"outside")
    (tmp_path / "secret.txt").write_text("outside")
    return folder


def refusal(url: str, *roots: Path) -> str:
    with pytest.raises(IngestError) as caught:
        resolve(url, roots)
    assert caught.value.detail
    return caught.value.reason


def test_a_file_under_a_root_is_found(root: Path) -> None:
    for path in (root / "a file.png", root / "sub" / "b.png"):
        assert resolve(path.as_uri(), [root]) == path
        assert resolve(path.as_uri().replace("file://", "file://localhost"), [root]) == path


def test_any_of_the_roots_will_do(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "allowed-not" / "c.png"
    assert resolve(path.as_uri(), [root, tmp_path / "allowed-not"]) == path


def test_without_roots_nothing_is_read(root: Path) -> None:
    assert refusal((root / "a file.png").as_uri()) == "outside-roots"


@pytest.mark.parametrize("way", ["../secret.txt", "sub/../../secret.txt", "%2e%2e/secret.txt"])
def test_traversal_does_not_leave_the_root(root: Path, way: str) -> None:
    assert refusal(f"{root.as_uri()}/{way}", root) == "outside-roots"


def test_a_name_that_begins_like_a_root_is_not_under_it(root: Path, tmp_path: Path) -> None:
    assert refusal((tmp_path / "allowed-not" / "c.png").as_uri(), root) == "outside-roots"


@pytest.mark.parametrize("target", ["secret.txt", "allowed-not"])
def test_a_symbolic_link_does_not_lead_out(root: Path, tmp_path: Path, target: str) -> None:
    (root / "link").symlink_to(tmp_path / target)
    url = (root / "link").as_uri() + ("" if target.endswith("txt") else "/c.png")
    assert refusal(url, root) == "outside-roots"


def test_a_symbolic_link_inside_is_followed(root: Path) -> None:
    (root / "link").symlink_to(root / "sub" / "b.png")
    assert resolve((root / "link").as_uri(), [root]) == root / "sub" / "b.png"


def test_a_root_may_be_a_symbolic_link(root: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(root)
    found = resolve((tmp_path / "alias" / "a file.png").as_uri(), [tmp_path / "alias"])
    assert found == root / "a file.png"


def test_a_loop_of_links_ends(root: Path) -> None:
    (root / "x").symlink_to(root / "y")
    (root / "y").symlink_to(root / "x")
    assert refusal((root / "x").as_uri(), root) in ("not-found", "outside-roots")


def test_what_is_no_regular_file_is_not_read(root: Path) -> None:
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(root)  # the path of a socket may have 107 bytes only
        try:
            listener.bind("socket")
        finally:
            os.chdir(here)
    for name in ("fifo", "socket", "sub", ""):
        assert refusal(f"{root.as_uri()}/{name}", root) == "not-a-file"


def test_a_device_is_not_read() -> None:
    assert refusal("file:///dev/zero", Path("/dev")) == "not-a-file"


def test_a_missing_file_is_said_so(root: Path) -> None:
    for name in ("nothing.png", "a%20file.png/below", "n" * 300):
        assert refusal(f"{root.as_uri()}/{name}", root) == "not-found"


def test_the_answer_does_not_tell_what_exists_outside(root: Path, tmp_path: Path) -> None:
    for name in ("secret.txt", "no-such-secret.txt", "no/such/folder"):
        assert refusal((tmp_path / name).as_uri(), root) == "outside-roots"


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/a.png",
        "s3://bucket/a.png",
        "file://elsewhere/etc/passwd",
        "file:etc/passwd",
        "file:../etc/passwd",
        "/etc/passwd",
        "etc/passwd",
        "",
        "file://[::1/etc/passwd",
        "file:///etc/pass%00wd",
        "file:///etc/pass\0wd",
        "\x00",
    ],
)
def test_other_urls_are_refused(url: str) -> None:
    assert refusal(url, Path("/")) == "unsupported-url"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.sampled_from(["..", ".", "sub", "link", "", "secret.txt", "b.png", "\0", "é"])))
def test_whatever_the_path_nothing_outside_is_found(root: Path, parts: list[str]) -> None:
    if not (root / "link").is_symlink():
        (root / "link").symlink_to(root.parent)
    url = f"{root.as_uri()}/{quote('/'.join(parts))}"
    try:
        found = resolve(url, [root])
    except IngestError:
        return
    assert found.is_relative_to(root)
    assert found.is_file()


@given(st.text())
def test_any_text_is_an_answer_or_a_refusal(url: str) -> None:
    with pytest.raises(IngestError):
        resolve(url, [])


def test_a_name_that_is_no_text_is_found(root: Path) -> None:
    path = Path(os.fsdecode(bytes(root) + b"/\xff\xe9 100%.png"))
    path.write_bytes(b"")
    assert resolve(path.as_uri(), [root]) == path


def test_what_took_the_place_of_a_file_is_judged_again(root: Path) -> None:
    (root / "empty").touch()
    (root / "link").symlink_to(root / "empty")
    os.mkfifo(root / "pipe")
    with pytest.raises(IngestError, match="not-a-file"), open_bounded(root / "pipe", 100):
        pytest.fail("opened")
    with pytest.raises(OSError, match="symbolic"), open_bounded(root / "link", 100):
        pytest.fail("opened")


def test_a_file_that_grows_while_it_is_read_stays_bounded(root: Path) -> None:
    (root / "log").write_bytes(b"1234")
    with open_bounded(root / "log", 6) as file, (root / "log").open("ab", buffering=0) as writer:
        assert file.read(1 << 20) == b"1234"
        writer.write(b"56")
        assert file.read(1 << 20) == b"56"
        writer.write(b"7")
        with pytest.raises(IngestError, match="too-large"):
            file.read(1 << 20)


@given(st.binary(min_size=1, max_size=1500).map(lambda name: name.replace(b"\0", b"0")))
def test_any_file_name_has_a_place(name: bytes) -> None:
    place = dataset_path(os.fsdecode(name))
    assert 1 <= len(place) <= MAX_RELPATH_CHARACTERS
    place.encode()


def test_long_places_keep_their_ends_and_stay_apart() -> None:
    one, two = (dataset_path(f"{start}/{'d' * 2000}/scan.nii.gz") for start in "ab")
    assert one != two
    assert one.endswith("/scan.nii.gz")
    assert len(one) == MAX_RELPATH_CHARACTERS
    assert dataset_path("a" * MAX_RELPATH_CHARACTERS) == "a" * MAX_RELPATH_CHARACTERS
