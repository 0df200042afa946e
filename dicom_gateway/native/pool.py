"""The receive processes of a gateway: started, fed with connections, replaced when one dies."""

from __future__ import annotations

import contextlib
import itertools
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import IO, Any

import structlog

from dicom_gateway.aes.entities import AssociationRefused, Entities, too_many
from dicom_gateway.listening import listen
from dicom_gateway.native.receive_process import Channel
from dicom_gateway.settings import GatewaySettings

_log = structlog.get_logger("dicom_gateway")

_ACCEPT_SECONDS = 0.5
_START_SECONDS = 60.0
_END_SECONDS = 10.0
_RESTART_PAUSE_SECONDS = 1.0
_CHILD = "from dicom_gateway.native.receive_process import main; main()"

SILENT_CONNECTIONS = 1024
"""Connections that may wait before their association, beside those that have one."""

OnMessage = Callable[["Process", str, tuple[Any, ...]], None]


@dataclass
class Guest:
    """A connection, and the association that it has or asks for."""

    address: str
    ae_title: str = ""


@dataclass
class Process:
    """One receive process as the gateway sees it."""

    token: str
    popen: subprocess.Popen[bytes]
    channel: Channel
    connections: socket.socket
    ready: threading.Event = field(default_factory=threading.Event)
    guests: dict[int, Guest] = field(default_factory=dict)


class ReceivePool:
    """Listens, and hands each connection to the receive process that has the fewest.

    Parameters
    ----------
    settings : GatewaySettings
        Where, and the bounds.
    entities : Entities
        Whose limits hold over all processes.
    on_message : callable
        Told of every message that is not the pool's own: arrivals and answers.
    on_death : callable
        Told the token of a process that died, after its last message.
    keep_open : file
        Whose descriptor the processes inherit; the lock of the data folder, so that no other
        gateway begins before they have ended.

    Raises
    ------
    ListenError
        If the address is taken or not ours.
    OSError
        If the processes do not come up.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        entities: Entities,
        *,
        on_message: OnMessage,
        on_death: Callable[[str], None],
        keep_open: IO[bytes],
    ) -> None:
        self._settings = settings
        self._entities = entities
        self._on_message = on_message
        self._on_death = on_death
        self._keep_open = keep_open
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._processes: list[Process] = []
        self._pressure = ""
        # Since when no process takes connections.
        self._lacking_since: float | None = None
        self._stopping = False
        self._listener = listen(settings)
        try:
            for _ in range(settings.dicom_receive_processes):
                self._start()
            deadline = time.monotonic() + _START_SECONDS
            for process in list(self._processes):
                if not process.ready.wait(max(0.0, deadline - time.monotonic())):
                    msg = "the receive processes did not start; their lines above say why"
                    raise OSError(msg)
        except BaseException:
            self.stop(0.0)
            raise
        self._thread = threading.Thread(target=self._accept, name="scp", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """TCP port on which it listens."""
        return int(self._listener.getsockname()[1])

    @property
    def is_running(self) -> bool:
        """Whether it takes connections, and a process is there to have them."""
        with self._lock:
            lacking_since = self._lacking_since
        # A process that died is replaced; that is no reason to end the others' work.
        return self._thread.is_alive() and (
            lacking_since is None or time.monotonic() - lacking_since < _START_SECONDS
        )

    @property
    def associations(self) -> int:
        """Associations that are open, or about to be."""
        with self._lock:
            return sum(bool(guest.ae_title) for guest in self._guests())

    @property
    def pids(self) -> list[int]:
        """Process ids, for whoever measures them."""
        with self._lock:
            return [process.popen.pid for process in self._processes]

    def set_pressure(self, why: str) -> None:
        """Tell all processes why nothing can be stored now; '' when it can again."""
        with self._lock:
            if why == self._pressure:
                return
            self._pressure = why
            processes = list(self._processes)
        for process in processes:
            with contextlib.suppress(OSError):
                process.channel.send("pressure", why)

    def stop(self, timeout_seconds: float) -> None:
        """Take no new connections, let the associations end, then abort what is left."""
        with self._lock:
            self._stopping = True
            processes = list(self._processes)
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for process in processes:
            with contextlib.suppress(OSError):
                process.channel.send("stop", timeout_seconds)
        deadline = time.monotonic() + timeout_seconds + _END_SECONDS
        for process in processes:
            try:
                process.popen.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.popen.kill()
                process.popen.wait()

    # ---- inside

    def _guests(self) -> list[Guest]:
        return [guest for process in self._processes for guest in process.guests.values()]

    def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        hand, take = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # A process that hangs must not hold up who comes for the others.
        hand.setblocking(False)
        token = uuid.uuid4().hex[:12]
        try:
            popen = subprocess.Popen(
                [sys.executable, "-c", _CHILD, str(theirs.fileno()),
                 str(take.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), take.fileno(), self._keep_open.fileno()),
            )  # fmt: skip
        finally:
            theirs.close()
            take.close()
        process = Process(token, popen, Channel(Connection(ours.detach())), hand)
        # One that dies at once is buried by who listens to it.
        with contextlib.suppress(OSError):
            process.channel.send(token, self._settings)
        with self._lock:
            self._processes.append(process)
            pressure = self._pressure
        if pressure:
            with contextlib.suppress(OSError):
                process.channel.send("pressure", pressure)
        threading.Thread(
            target=self._listen_to, args=(process,), name=f"receive-{token}", daemon=True
        ).start()

    def _accept(self) -> None:
        while not self._stopping:
            try:
                connection, address = self._listener.accept()
            except OSError as error:
                if self._stopping:
                    return
                # Out of file descriptors, most likely: connections wait in the backlog.
                _log.warning("not-accepting", error=str(error))
                time.sleep(_ACCEPT_SECONDS)
                continue
            with connection:
                self._hand_over(connection, str(address[0]))

    def _hand_over(self, connection: socket.socket, address: str) -> None:
        if not self._entities.accepts_address(address):
            _log.info("connection-refused", peer_address=address, why="no entity accepts it")
            return
        number = next(self._numbers)
        with self._lock:
            silent = sum(not guest.ae_title for guest in self._guests())
            ready = [process for process in self._processes if process.ready.is_set()]
            if not ready or silent >= SILENT_CONNECTIONS:
                return
            process = min(ready, key=lambda one: len(one.guests))
            process.guests[number] = Guest(address)
        try:
            socket.send_fds(
                process.connections, [f"{number} {address}".encode()], [connection.fileno()]
            )
        except OSError:
            with self._lock:
                process.guests.pop(number, None)

    def _listen_to(self, process: Process) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                kind, *rest = process.channel.receive()
                if kind == "ready":
                    process.ready.set()
                    with self._lock:
                        self._lacking_since = None
                elif kind == "gone":
                    with self._lock:
                        process.guests.pop(rest[0], None)
                elif kind == "ask":
                    number, ae_title, address = rest
                    refused = self._admit(process, number, ae_title, address)
                    process.channel.send("admit", number, refused)
                else:
                    self._on_message(process, kind, tuple(rest))
        self._bury(process)

    def _admit(
        self, process: Process, number: int, ae_title: str, address: str
    ) -> AssociationRefused | None:
        with self._lock:
            guests = [guest for guest in self._guests() if guest.ae_title]
            by_title = Counter(guest.ae_title for guest in guests)
            of_peer = sum(
                guest.ae_title == ae_title and guest.address == address for guest in guests
            )
            try:
                if len(guests) >= self._settings.dicom_max_associations:
                    return too_many(
                        f"{len(guests)} associations are open already (dicom_max_associations)"
                    )
                self._entities.ae[ae_title].check_load(
                    open_associations=by_title[ae_title], open_of_peer=of_peer
                )
            except AssociationRefused as refused:
                return refused
            if number in process.guests:
                process.guests[number].ae_title = ae_title
        return None

    def _bury(self, process: Process) -> None:
        try:
            status = process.popen.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            # It lives, yet nobody hears it: its senders are better off with another.
            process.popen.kill()
            status = process.popen.wait()
        process.channel.close()
        process.connections.close()
        with self._lock:
            self._processes.remove(process)
            stopping = self._stopping
            if self._lacking_since is None and not any(
                one.ready.is_set() for one in self._processes
            ):
                self._lacking_since = time.monotonic()
        # Its instances may be durable without having been reported.
        self._on_death(process.token)
        if stopping:
            return
        _log.error("receive-process-died", exit_status=status, associations=len(process.guests))
        time.sleep(_RESTART_PAUSE_SECONDS if process.ready.is_set() else 5 * _RESTART_PAUSE_SECONDS)
        if not self._stopping:
            self._start()
