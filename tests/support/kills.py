"""Kill -9 of a gateway at random moments of a push, and what is left of what it acknowledged."""

from __future__ import annotations

import hashlib
import random
import re
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from pydicom import dcmread
from pydicom.data import get_testdata_file

from dicom_gateway.ledger.outbox import Outbox
from schemas import FileReceived, decode
from tests.support.dcmtk import dcmtk_env
from tests.support.instances import make_instances
from tests.support.receivers import ReceiverProcess, free_port, gateway

_BLOB = re.compile(r"[0-9a-f]{64}")
_SENT = re.compile(r"I: Sending file: (.*)")
_STORED = "I: Received Store Response (Success)"
_RECOVERY_SECONDS = 60.0
_SENDER_SECONDS = 300.0
_ORPHAN_SECONDS = 20.0
# In turn: everything at once, as when a container ends; the first process alone; one of the others.
_VICTIMS = ("all", "main", "child")
# Small ones for many answers, large ones so that a moment in the middle of a dataset is likely.
_TEMPLATES = (("MR_small.dcm", 2), ("693_UNCI.dcm", 1))
_SENDERS = 3


@dataclass
class KillReport:
    """What came out.

    Parameters
    ----------
    kills : list of str
        Victim, moment and acknowledged instances of each kill.
    sent, acknowledged : int
        Instances that were sent, and that were answered with Success before a kill.
    missing : set of str
        SOP Instance UIDs that were acknowledged and are not in the blob store.
    unrecorded : set of str
        SOP Instance UIDs that were acknowledged and have no outbox record.
    broken : set of str
        Names of blobs whose bytes are not what the name says.
    conflicts : int
        Instances recorded as in conflict, although each was sent with the same bytes only.
    orphans : int
        Processes that went on after their gateway's first process was killed.
    """

    kills: list[str] = field(default_factory=list)
    sent: int = 0
    acknowledged: int = 0
    missing: set[str] = field(default_factory=set)
    unrecorded: set[str] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)
    conflicts: int = 0
    orphans: int = 0


class KilledGateway:
    """A gateway that is killed again and again while senders push.

    Parameters
    ----------
    folder : Path
        For everything.
    seed : int
        Of the moments.
    instances : int
        Of each push.
    settings : dict, optional
        Further environment variables of the gateway.
    """

    def __init__(
        self, folder: Path, *, seed: int, instances: int, settings: Mapping[str, str] | None = None
    ) -> None:
        self._folder = folder
        self._random = random.Random(seed)
        self._instances = instances
        port = free_port()
        self._gateway = ReceiverProcess(
            gateway(folder, port, settings=settings), port, folder / "gateway.log"
        )
        self._blobs = folder / "data" / "blobs"
        self._instance_of: dict[str, str] = {}
        self._sent: dict[Path, str] = {}
        self._acknowledged: set[str] = set()
        self.report = KillReport()

    def run(self, kills: int, on_kill: Callable[[str], None] = lambda _said: None) -> KillReport:
        """Push and kill so many times, then send everything again and look at what there is.

        Parameters
        ----------
        kills : int
            How often.
        on_kill : callable, optional
            Told of each.
        """
        try:
            self._gateway.start()
            began = time.monotonic()
            self._acknowledged |= self._push(self._make("undisturbed"))
            lasts_seconds = time.monotonic() - began
            for number in range(kills):
                # The first push also warms up; one that a kill came too late for tells more.
                lasts_seconds = min(lasts_seconds, self._kill_in_push(number, lasts_seconds))
                on_kill(self.report.kills[-1])
            self.report.sent, self.report.acknowledged = len(self._sent), len(self._acknowledged)
            # What got no answer is sent again, as a PACS does; what got one comes twice.
            again = self._push(list(self._sent))
            assert len(again) == len(self._sent), "a push without a kill was not taken whole"
            self._acknowledged |= again
            self._wait_for_acknowledged()
            self._gateway.stop()
            self._look_at_ledger()
            self._look_at_blobs(only_new=False)
        finally:
            self._gateway.kill()
        return self.report

    def _make(self, name: str) -> list[Path]:
        share = self._instances // sum(weight for _, weight in _TEMPLATES)
        paths = []
        for template, weight in _TEMPLATES:
            source = get_testdata_file(template)
            assert source is not None
            # The folder's last name makes the instances different from others.
            folder = self._folder / "sent" / f"{name} {template}"
            paths += make_instances(folder, share * weight, Path(source), series=2)
        self._random.shuffle(paths)
        for path in paths:
            self._sent[path] = str(dcmread(path, stop_before_pixels=True).SOPInstanceUID)
        return paths

    def _push(self, paths: list[Path]) -> set[str]:
        acknowledged: list[set[str]] = []

        def send(group: list[Path]) -> None:
            done = subprocess.run(
                ["storescu", "-v", "--required", "-aec", "BIODATAMINE", "127.0.0.1",
                 str(self._gateway.port), *map(str, group)],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_SENDER_SECONDS,
                env=dcmtk_env(nodelay=True),
                check=False,
            )  # fmt: skip
            acknowledged.append(self._answered(done.stdout + done.stderr))

        senders = [
            threading.Thread(target=send, args=(paths[i::_SENDERS],)) for i in range(_SENDERS)
        ]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
        return set().union(*acknowledged)

    def _answered(self, log: str) -> set[str]:
        found, current = set(), None
        for line in log.splitlines():
            if sent := _SENT.fullmatch(line):
                current = Path(sent[1])
            elif line == _STORED and current is not None:
                found.add(self._sent[current])
        return found

    def _kill_in_push(self, number: int, lasts_seconds: float) -> float:
        paths = self._make(f"push {number}")
        # Up to a little behind the end: what was just acknowledged is worth a moment too.
        moment = self._random.uniform(0.03, 1.1) * lasts_seconds
        victim = _VICTIMS[number % len(_VICTIMS)]
        killer = threading.Timer(moment, self._kill, (victim,))
        began = time.monotonic()
        killer.start()
        acknowledged = self._push(paths)
        whole_seconds = time.monotonic() - began
        killer.join()
        self._acknowledged |= acknowledged
        self.report.kills.append(
            f"{victim} after {moment:.2f} s: {len(acknowledged)} of {len(paths)} acknowledged"
        )
        self._look_at_blobs(only_new=True)
        self._gateway.kill()
        self._gateway.start()
        self._wait_for_acknowledged()
        return whole_seconds if len(acknowledged) == len(paths) else lasts_seconds

    def _kill(self, victim: str) -> None:
        children = self._gateway.process.children(recursive=True)
        if victim == "child" and children:
            self._random.choice(children).kill()
        elif victim == "main":
            self._gateway.process.kill()
            _, alive = psutil.wait_procs(children, timeout=_ORPHAN_SECONDS)
            self.report.orphans += len(alive)
        else:
            self._gateway.kill()

    def _wait_for_acknowledged(self) -> None:
        def missing() -> set[str]:
            self._look_at_blobs(only_new=True)
            return self._acknowledged - set(self._instance_of.values())

        deadline = time.monotonic() + _RECOVERY_SECONDS
        while (lost := missing()) and time.monotonic() < deadline:
            time.sleep(0.1)
        self.report.missing |= lost

    def _look_at_blobs(self, *, only_new: bool) -> None:
        for path in self._blobs.rglob("*"):
            if not _BLOB.fullmatch(path.name) or (only_new and path.name in self._instance_of):
                continue
            if hashlib.sha256(path.read_bytes()).hexdigest() != path.name:
                self.report.broken.add(path.name)
                continue
            meta = dcmread(path, stop_before_pixels=True).file_meta
            self._instance_of[path.name] = str(meta.MediaStorageSOPInstanceUID)

    def _look_at_ledger(self) -> None:
        outbox = Outbox(self._folder / "data" / "gateway" / "outbox.sqlite3")
        try:
            events = [decode(one.value, FileReceived) for one in outbox.pending(10_000_000)]
        finally:
            outbox.close()
        recorded = {
            event.dicom.instance_uid
            for event in events
            if event.dicom is not None and event.image_id in self._instance_of
        }
        self.report.unrecorded = self._acknowledged - recorded
        self.report.conflicts = sum(event.conflicts_with is not None for event in events)


__all__ = ["KillReport", "KilledGateway"]
