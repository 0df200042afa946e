"""S3 and SFTP as requests name them, against servers that speak them.

They run where the packages are: ``moto[server]`` and s3fs for one, asyncssh and paramiko for the
other.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from streams.ingest.addresses import AllowList
from streams.ingest.credentials import Credentials
from streams.ingest.errors import IngestError, SourceAwayError, SourceChangedError
from streams.ingest.limits import Limits
from streams.ingest.sources import Asked, Entry
from streams.ingest.stores import StoreProvider
from streams.ingest.web import Web
from streams.storage.blob_batch import BlobBatch
from streams.storage.blobs import BlobStore

pytestmark = pytest.mark.integration

LARGE = bytes(range(256)) * 20_000
FILES = {
    "set/a.png": b"a",
    "set/sub/large.bin": LARGE,
    "set/\u00e4 b.png": b"umlaut",
    "other": b"o",
}
BELOW = {name.removeprefix("set/"): data for name, data in FILES.items() if name != "other"}
USER, PASSWORD = "reader", "not-for-anybody"


def provider(
    scheme: str,
    host: str,
    secret: dict[str, Any],
    *,
    allowed: tuple[str, ...] = (),
    options: dict[str, Any] | None = None,
) -> StoreProvider:
    kept = {"store": json.dumps({"kind": "options", "hosts": [host], "options": secret})}
    return StoreProvider(
        [scheme],
        Credentials(None, kept),
        Web(Limits(), AllowList.parse(allowed, ())).guard,
        max_bytes=1 << 30,
        max_files=100,
        options={scheme: options or {}},
    )


def entries(made: StoreProvider, url: str) -> list[Entry]:
    return list(made.entries(Asked(url, "setting:store")))


def content(entry: Entry) -> bytes:
    return b"".join(entry.source.chunks())


def reason(made: StoreProvider, url: str) -> str:
    with pytest.raises(IngestError) as caught:
        for entry in entries(made, url):
            content(entry)
    assert PASSWORD not in str(caught.value)
    return caught.value.reason


def serves(made: StoreProvider, base: str) -> None:
    (one,) = entries(made, f"{base}/set/a.png")
    assert (content(one), one.source.name, one.path) == (b"a", "a.png", "")
    found = {entry.path: content(entry) for entry in entries(made, f"{base}/set/")}
    assert found == BELOW
    (large,) = entries(made, f"{base}/set/sub/large.bin")
    assert large.source.validator
    rest = large.source.chunks(1_000_001, large.source.validator)
    assert b"".join(rest) == LARGE[1_000_001:]
    assert reason(made, f"{base}/set/none") == "not-found"
    assert reason(made, f"{base}/none/") == "not-found"


# S3


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, Any]]:
    """Start an S3 with a bucket; give the options that reach it."""
    server_of = pytest.importorskip("moto.server", reason="moto[server] is not installed")
    s3fs = pytest.importorskip("s3fs")
    server = server_of.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        _, port = server.get_host_and_port()
        options = {"key": USER, "secret": PASSWORD, "endpoint_url": f"http://127.0.0.1:{port}"}
        bucket = s3fs.S3FileSystem(**options, skip_instance_cache=True)
        bucket.mkdir("images")
        for name, data in FILES.items():
            bucket.pipe_file(f"images/{name}", data)
        yield options
    finally:
        server.stop()


def s3_provider(s3: dict[str, Any]) -> StoreProvider:
    secret = {"key": s3["key"], "secret": s3["secret"]}
    return provider("s3", "images", secret, options={"endpoint_url": s3["endpoint_url"]})


def test_s3_objects_and_prefixes(s3: dict[str, Any]) -> None:
    made = s3_provider(s3)
    serves(made, "s3://images")
    assert reason(made, "s3://another/x") == "bad-credentials"


def test_an_s3_object_that_changed_is_not_gone_on_with(s3: dict[str, Any]) -> None:
    s3fs = pytest.importorskip("s3fs")
    bucket = s3fs.S3FileSystem(**s3, skip_instance_cache=True)
    bucket.pipe_file("images/changing", b"one")
    made = s3_provider(s3)
    before = entries(made, "s3://images/changing")[0].source.validator
    bucket.pipe_file("images/changing", b"two")
    with pytest.raises(SourceChangedError):
        next(entries(made, "s3://images/changing")[0].source.chunks(1, before))


def test_an_s3_that_is_away_can_heal(s3: dict[str, Any]) -> None:
    gone = {**s3, "endpoint_url": "http://127.0.0.1:1"}
    with pytest.raises(SourceAwayError):
        entries(s3_provider(gone), "s3://images/set/a.png")


def test_blobs_lie_in_s3(s3: dict[str, Any]) -> None:
    store = BlobStore("s3://images/blobs", options=s3)
    batch = BlobBatch(store)
    data = [b"small", LARGE, b""]
    refs = [batch.add([one]) for one in data]
    batch.commit()
    batch.abort()
    assert [store.read(ref) for ref in refs] == data
    assert all(store.holds(ref.sha256, ref.size_bytes) for ref in refs)


# SFTP


class _Sftp:
    """An SFTP server over a folder, in a thread with an event loop of its own."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = self._run(self._listen()).result(30)
        self.port: int = self._server.get_port()

    def _run(self, work: Any) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _listen(self) -> Any:
        asyncssh = pytest.importorskip("asyncssh")
        server = self
        self.attempts = 0

        class OneUser(asyncssh.SSHServer):  # type: ignore[misc, name-defined]
            def begin_auth(self, username: str) -> bool:
                del username
                return True

            def password_auth_supported(self) -> bool:
                return True

            def validate_password(self, username: str, password: str) -> bool:
                server.attempts += 1
                return (username, password) == (USER, PASSWORD)

        root = str(self._root)
        key = asyncssh.generate_private_key("ssh-ed25519")
        self.host_key = key.export_public_key().decode().strip()
        return await asyncssh.listen(
            "127.0.0.1",
            0,
            server_factory=OneUser,
            server_host_keys=[key],
            sftp_factory=lambda channel: asyncssh.SFTPServer(channel, chroot=root.encode()),
        )

    def stop(self) -> None:
        """End it."""

        async def close() -> None:
            self._server.close()
            await self._server.wait_closed()

        self._run(close()).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()


@pytest.fixture(scope="module")
def sftp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Sftp]:
    pytest.importorskip("asyncssh", reason="asyncssh is not installed")
    pytest.importorskip("paramiko")
    root = tmp_path_factory.mktemp("sftp")
    for name, data in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    server = _Sftp(root)
    try:
        yield server
    finally:
        server.stop()


def sftp_provider(sftp: _Sftp, **secret: str) -> StoreProvider:
    allowed = (f"127.0.0.1:{sftp.port}",)
    given = {"username": USER, "password": PASSWORD, "host_key": sftp.host_key, **secret}
    return provider("sftp", f"127.0.0.1:{sftp.port}", given, allowed=allowed)


def test_sftp_files_and_folders(sftp: _Sftp) -> None:
    serves(sftp_provider(sftp), f"sftp://127.0.0.1:{sftp.port}")


def test_sftp_refuses_a_wrong_password(sftp: _Sftp) -> None:
    made = sftp_provider(sftp, password="wrong")
    assert reason(made, f"sftp://127.0.0.1:{sftp.port}/set/a.png") == "forbidden"


def test_sftp_gives_no_password_to_a_server_that_is_not_known(sftp: _Sftp, tmp_path: Path) -> None:
    """Neither with the key of another server, nor with known hosts that lack this one."""
    asyncssh = pytest.importorskip("asyncssh")
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    (tmp_path / "known_hosts").write_text(f"elsewhere.example {sftp.host_key}\n")
    url, before = f"sftp://127.0.0.1:{sftp.port}/set/a.png", sftp.attempts
    assert reason(sftp_provider(sftp, host_key=other), url) == "unknown-host-key"
    known = sftp_provider(sftp, host_key="", known_hosts=str(tmp_path / "known_hosts"))
    assert reason(known, url) == "unknown-host-key"
    assert sftp.attempts == before
    (tmp_path / "known_hosts").write_text(f"[127.0.0.1]:{sftp.port} {sftp.host_key}\n")
    serves(known, f"sftp://127.0.0.1:{sftp.port}")


def test_sftp_with_a_host_key_that_is_none(sftp: _Sftp) -> None:
    made = sftp_provider(sftp, host_key="ssh-ed25519 not-base64")
    assert reason(made, f"sftp://127.0.0.1:{sftp.port}/set/a.png") == "bad-credentials"


def test_sftp_reaches_no_forbidden_address(sftp: _Sftp) -> None:
    secret = {"username": USER, "password": PASSWORD}
    made = provider("sftp", f"127.0.0.1:{sftp.port}", secret)
    assert reason(made, f"sftp://127.0.0.1:{sftp.port}/set/a.png") == "forbidden-address"
