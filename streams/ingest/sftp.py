"""SFTP to servers that are known: fsspec's client would hand a password to any."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import paramiko
from fsspec.implementations.sftp import SFTPFileSystem

from streams.ingest.errors import IngestError

_DEFAULT_PORT = 22


class _Known(paramiko.MissingHostKeyPolicy):  # type: ignore[misc]
    """Take a key that was named, or that the known hosts have; refuse every other.

    Parameters
    ----------
    name : str
        The server as known hosts write it.
    keys : paramiko.HostKeys
        What is known.
    """

    def __init__(self, name: str, keys: Any) -> None:
        self._name = name
        self._keys = keys

    def missing_host_key(self, client: Any, hostname: str, key: Any) -> None:
        if not self._keys.check(self._name, key):
            raise IngestError(
                "unknown-host-key",
                f"{self._name} shows the key {key.fingerprint}, which is not known: if it is the "
                "server's, write \"host_key\" into the secret's options, or add the server to the "
                "known hosts",
            )


class _KnownServer(SFTPFileSystem):  # type: ignore[misc]
    """fsspec's SFTP with a policy for host keys, which older releases of it cannot be given."""

    cachable = False

    def __init__(self, host: str, policy: _Known, **options: Any) -> None:
        self._policy = policy
        super().__init__(host, **options)

    def _connect(self) -> None:
        self.client = paramiko.SSHClient()
        self.client.set_missing_host_key_policy(self._policy)
        self.client.connect(self.host, **self.ssh_kwargs)
        self.ftp = self.client.open_sftp()


def open_sftp(name: str, address: str, port: int, options: Mapping[str, Any]) -> SFTPFileSystem:
    """Connect to a server whose host key is known.

    Parameters
    ----------
    name : str
        The server as the request names it.
    address : str
        Its address, which was checked.
    port : int
        Where it listens.
    options : mapping
        paramiko's, and two of ours: ``host_key``, the server's public key as OpenSSH writes it
        (``ssh-ed25519 AAAA...``), and ``known_hosts``, a file of such; ``~/.ssh/known_hosts`` when
        neither is given.

    Raises
    ------
    IngestError
        The key is not known (``unknown-host-key``), or what is given is none
        (``bad-credentials``).
    """
    rest = dict(options)
    host_key, known_hosts = rest.pop("host_key", None), rest.pop("known_hosts", None)
    entry = name if port == _DEFAULT_PORT else f"[{name}]:{port}"
    keys = paramiko.HostKeys()
    try:
        if host_key:
            kind, body = str(host_key).split()[:2]
            keys.add(entry, kind, paramiko.PKey.from_type_string(kind, base64.b64decode(body)))
        else:
            file = Path(known_hosts) if known_hosts else Path.home() / ".ssh" / "known_hosts"
            if known_hosts or file.is_file():
                keys.load(str(file))
    except (OSError, ValueError, paramiko.SSHException) as error:
        what = "host_key" if host_key else "known_hosts"
        raise IngestError(
            "bad-credentials", f"the option {what} of SFTP cannot be used ({type(error).__name__})"
        ) from error
    return _KnownServer(address, _Known(entry, keys), port=port, **rest)
