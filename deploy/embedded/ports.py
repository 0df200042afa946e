"""Which port a service listens on: the one asked for, the last one, the usual one, a free one."""

from __future__ import annotations

import contextlib
import json
import socket
from dataclasses import dataclass
from pathlib import Path

import psutil

from deploy.embedded.errors import PortTakenError, StackError
from deploy.embedded.files import write_atomically

LOOPBACK = "127.0.0.1"
_ALTERNATIVES = 100


@dataclass(frozen=True)
class PortRequest:
    """A port that something needs.

    Parameters
    ----------
    key : str
        Under which it is remembered, such as ``triton_grpc``.
    use : str
        Who wants it, for people: ``Triton (gRPC)``.
    usual : int
        The conventional port.
    asked : int, optional
        The port that the user asked for; 0 and None leave the choice to us.
    option : str
        How to ask for another: ``--triton-grpc-port``.
    """

    key: str
    use: str
    usual: int
    asked: int | None = None
    option: str = ""


def is_free(port: int, host: str = LOOPBACK) -> bool:
    """Whether a server could listen on a port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do, so that connections of the last run in TIME_WAIT do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def free_port(host: str = LOOPBACK) -> int:
    """Find a port that is free now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


class PortBook:
    """Hands out ports and remembers them for the next start on the same data folder.

    Parameters
    ----------
    path : Path
        Where they are remembered (JSON, key to port).
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._last = _read(path)
        self._claimed: dict[str, int] = {}

    def claim(self, request: PortRequest) -> int:
        """Choose a port.

        Parameters
        ----------
        request : PortRequest
            Who wants it.

        Returns
        -------
        int
            A port that is free and that this book gave to nobody else.

        Raises
        ------
        PortTakenError
            When the port that was asked for is in use.
        """
        if request.asked:
            port = self._asked(request, request.asked)
        else:
            port = self._choose(request)
        self._claimed[request.key] = port
        return port

    def save(self) -> None:
        """Remember what was handed out."""
        write_atomically(self._path, json.dumps({**self._last, **self._claimed}, indent=1).encode())

    def _asked(self, request: PortRequest, port: int) -> int:
        advice = f"choose another with {request.option} PORT, or 0 for any free port"
        if not 0 < port < 2**16:
            msg = f"{port} is no port for {request.use}: {advice}"
            raise StackError(msg)
        for key, other in self._claimed.items():
            if other == port:
                msg = f"port {port} was asked for {request.use} and for {key}: {advice}"
                raise PortTakenError(msg)
        if not is_free(port):
            owner = listener(port)
            holder = f" by {owner}" if owner else ""
            msg = f"port {port}, asked for {request.use}, is in use{holder}: stop that, or {advice}"
            raise PortTakenError(msg)
        return port

    def _choose(self, request: PortRequest) -> int:
        # Above the usual port and below the range from which the system takes the ports of
        # outgoing connections, so that none of those sits on it while the service restarts.
        shifted = request.usual % 10_000 + 20_000
        last = self._last.get(request.key)
        candidates = [*([last] if last else []), request.usual]
        candidates += range(shifted, shifted + _ALTERNATIVES)
        taken = set(self._claimed.values())
        for port in candidates:
            if port not in taken and is_free(port):
                return port
        while (port := free_port()) in taken:
            continue
        return port


def listener(port: int) -> str | None:
    """Name and process id of who listens on a port, where that may be known."""
    with contextlib.suppress(Exception):
        for connection in psutil.net_connections("tcp"):
            if (
                connection.status == psutil.CONN_LISTEN
                and connection.laddr.port == port
                and connection.pid
            ):
                return f"{psutil.Process(connection.pid).name()} (process {connection.pid})"
    return None


def _read(path: Path) -> dict[str, int]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}  # a lost memory of ports costs nothing but other ports
    if not isinstance(content, dict):
        return {}
    return {
        key: port
        for key, port in content.items()
        if isinstance(port, int) and 0 < port < 2**16  # edited by hand, perhaps
    }
