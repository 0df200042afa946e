"""Storage SCPs as processes of their own: our gateway, dcmtk's, Orthanc, and a plain pynetdicom."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from deploy.embedded.ports import free_port
from tests.support.dcmtk import dcmtk_env
from tests.support.stack import COMMAND, wait_for

ROOT = Path(__file__).resolve().parents[2]
NO_BROKER = "127.0.0.1:1"
_READY_SECONDS = 60.0
_STOP_SECONDS = 30.0


@dataclass(frozen=True)
class Command:
    """How a receiver is started.

    Parameters
    ----------
    argv : sequence of str
        The command.
    env : dict
        Environment variables on top of this process's.
    """

    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)


def gateway(
    folder: Path, port: int, *, brokers: str = NO_BROKER, settings: Mapping[str, str] | None = None
) -> Command:
    """Our gateway, over a data folder of its own.

    Parameters
    ----------
    folder, port : Path, int
        Data folder; where it listens.
    brokers : str
        Where it publishes; by default nobody is there, and everything stays in the outbox.
    settings : dict, optional
        Further environment variables, such as ``BIODATAMINE_DICOM_RECEIVE_PATH``.
    """
    env = {
        "BIODATAMINE_DATA_DIR": str(folder / "data"),
        "BIODATAMINE_DICOM_PORT": str(port),
        "BIODATAMINE_KAFKA_BOOTSTRAP_SERVERS": brokers,
        # An acknowledgement of the log settles a record, so that no database is needed.
        "BIODATAMINE_LOG_IS_DURABLE": "true",
        **(settings or {}),
    }
    return Command([*COMMAND, "gateway", "serve"], env)


def storescp(folder: Path, port: int, *, max_pdu_bytes: int = 131072) -> Command:
    """dcmtk's Storage SCP, as fast as it goes: data written as they come, a process each peer."""
    options = ["--bit-preserving", "--max-pdu", str(max_pdu_bytes)]
    return _storescp(folder, port, options)


def storescp_as_shipped(folder: Path, port: int) -> Command:
    """dcmtk's Storage SCP without these options: decodes each dataset and encodes it again."""
    return _storescp(folder, port, [])


def _storescp(folder: Path, port: int, options: Sequence[str]) -> Command:
    always = ["storescp", "--fork", "--accept-all"]
    return Command([*always, *options, "--output-directory", str(folder), str(port)])


def orthanc_program() -> str | None:
    """Path of Orthanc, if it is installed."""
    return shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin")


def orthanc_settings(
    folder: Path, port: int, *, http_port: int | None = None, max_pdu_bytes: int = 131072
) -> dict[str, object]:
    """Orthanc's settings that are not its defaults; ``SyncStorageArea`` is one, and named here."""
    return {
        "StorageDirectory": str(folder / "orthanc"),
        "IndexDirectory": str(folder / "orthanc"),
        "Plugins": [],
        "SyncStorageArea": True,
        "HttpServerEnabled": http_port is not None,
        "HttpPort": http_port or 0,
        "DicomAet": "ORTHANC",
        "DicomPort": port,
        "DicomThreadsCount": 16,
        "MaximumPduLength": max_pdu_bytes,
    }


def orthanc(folder: Path, port: int, *, http_port: int | None = None, **given: object) -> Command:
    """Orthanc without plugins, its storage in a folder.

    Parameters
    ----------
    folder, port : Path, int
        Takes storage and settings; where DICOM listens.
    http_port : int, optional
        Where its REST interface listens; without it there is none.
    given : dict
        Further settings of Orthanc.
    """
    program = orthanc_program()
    assert program is not None, "Orthanc is not installed: apt-get install orthanc"
    settings = {**orthanc_settings(folder, port, http_port=http_port), **given}
    config = folder / "orthanc.json"
    config.write_text(json.dumps(settings, indent=1))
    return Command([program, str(config)])


def plain_pynetdicom(folder: Path, port: int) -> Command:
    """A pynetdicom SCP that writes ``event.encoded_dataset()``."""
    return Command([sys.executable, "-m", "tests.support.plain_scp", str(port), str(folder)])


class ReceiverProcess:
    """A receiver that runs; everything that it started ends with it.

    Parameters
    ----------
    command : Command
        How it is started.
    port : int
        Where it will listen.
    log : Path
        Takes its output.
    nodelay : bool
        See ``dcmtk_env``; those that are not made with dcmtk look at the variable or always do.
    echo_options : sequence of str
        Options of the ``echoscu`` that finds out whether it answers, such as those for TLS.
    """

    def __init__(
        self,
        command: Command,
        port: int,
        log: Path,
        *,
        nodelay: bool = True,
        echo_options: Sequence[str] = (),
    ) -> None:
        self._echo_options = echo_options
        self._command = command
        self.port = port
        self._log = log
        self._nodelay = nodelay
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> ReceiverProcess:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    @property
    def process(self) -> psutil.Process:
        """Its first process."""
        assert self._process is not None
        return psutil.Process(self._process.pid)

    def start(self) -> None:
        """Start it and wait until it answers a C-ECHO."""
        env = dcmtk_env(nodelay=self._nodelay)
        env = {name: value for name, value in env.items() if not name.startswith("BIODATAMINE_")}
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command.argv,
                cwd=ROOT,
                env=env | dict(self._command.env),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        wait_for(self._answers, seconds=_READY_SECONDS, what=f"{self._command.argv} answers")

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            tail = self._log.read_text(errors="replace")[-3000:]
            msg = f"{self._command.argv} ended with status {self._process.returncode}:\n{tail}"
            raise AssertionError(msg)
        asked = subprocess.run(
            ["echoscu", "-to", "2", "-ta", "5", "-td", "5", "-aec", "BIODATAMINE",
             *self._echo_options, "127.0.0.1", str(self.port)],
            capture_output=True,
            check=False,
        )  # fmt: skip
        return asked.returncode == 0

    def kill(self) -> None:
        """Kill -9 all of it at once."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def stop(self) -> None:
        """Ask it to stop; kill what is left after a while."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_SECONDS)
        self.kill()

    def tree(self) -> list[psutil.Process]:
        """The first process and all that it started."""
        return [self.process, *self.process.children(recursive=True)]

    def cpu_seconds(self) -> float:
        """CPU time, user and system, of all its processes so far, those that ended included."""
        total = 0.0
        for process in self.tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
        return total

    def resident_bytes(self) -> int:
        """Resident memory of all its processes."""
        total = 0
        for process in self.tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
        return total

    def settle(self, seconds: float = 10.0) -> None:
        """Wait until it has nothing more to do: what it does after an answer counts as well."""
        deadline = time.monotonic() + seconds
        before = self.cpu_seconds()
        while time.monotonic() < deadline:
            time.sleep(0.3)
            now = self.cpu_seconds()
            if now - before < 0.02:
                return
            before = now


__all__ = [
    "NO_BROKER",
    "ROOT",
    "Command",
    "ReceiverProcess",
    "free_port",
    "gateway",
    "orthanc",
    "orthanc_program",
    "orthanc_settings",
    "plain_pynetdicom",
    "storescp",
    "storescp_as_shipped",
]
