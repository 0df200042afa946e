"""The supervisor with real processes: small servers that do what they are told to."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.embedded.children import ChildrenCheck
from deploy.embedded.errors import AlreadyRunningError, ServiceFailedError, StackError
from deploy.embedded.ports import free_port
from deploy.embedded.probes import http_ready, tcp_ready
from deploy.embedded.service import Liveness, RestartPolicy, ServiceSpec, ServiceState
from deploy.embedded.stack import Application, StackOptions, run_stack
from deploy.embedded.state import StackLock, read_stack
from deploy.embedded.supervisor import Supervisor

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]

# Listens on PORT, writes what happens to it to JOURNAL, and keeps a child as Triton does.
SERVER = """
import http.server, os, signal, subprocess, sys
name, port, journal = sys.argv[1], int(sys.argv[2]), sys.argv[3]
def write(what):
    with open(journal, "a") as file:
        file.write(f"{what} {name}\\n")
def leave(*_):
    write("stop")
    child.kill()
    os._exit(0)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
with open(f"{journal}.{name}.pids", "a") as file:
    file.write(f"{os.getpid()} {child.pid}\\n")
signal.signal(signal.SIGTERM, leave)
write("start")
print("listening", name, flush=True)
http.server.HTTPServer(("127.0.0.1", port), http.server.SimpleHTTPRequestHandler).serve_forever()
"""


class Trial:
    """Makes services, and knows what they did."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data_dir = folder / "data"
        self.journal = folder / "journal"
        self.script = folder / "server.py"
        self.script.write_text(SERVER)

    def argv(self, name: str, port: int) -> tuple[str, ...]:
        return (sys.executable, str(self.script), name, str(port), str(self.journal))

    def spec(self, name: str, **changes: Any) -> ServiceSpec:
        port = free_port()
        fields: dict[str, Any] = {
            "argv": self.argv(name, port),
            "env": dict(os.environ),
            "ready": tcp_ready("127.0.0.1", port),
        }
        return ServiceSpec(name=name, **{**fields, **changes})

    def note(self, what: str) -> Callable[[], Awaitable[None]]:
        async def write() -> None:
            with self.journal.open("a") as file:
                file.write(what + "\n")

        return write

    def events(self) -> list[str]:
        return self.journal.read_text().splitlines() if self.journal.exists() else []

    def pids(self) -> list[int]:
        """Every process that any service ever was, and their children."""
        return [
            int(pid)
            for path in self.folder.glob("journal.*.pids")
            for pid in path.read_text().split()
        ]


@pytest.fixture
def trial(tmp_path: Path) -> Trial:
    return Trial(tmp_path)


def running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def still_running(pids: list[int]) -> list[int]:
    """Those that have not vanished by a deadline."""
    deadline = time.monotonic() + 20
    while (left := [pid for pid in pids if running(pid)]) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


async def until(condition: Callable[[], object], what: str = "the condition") -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come true"
        await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def supervised(trial: Trial, *specs: ServiceSpec, **options: Any) -> Any:
    """Run services until the block ends; yields the supervisor once all are ready."""
    stop = asyncio.Event()
    supervisor = Supervisor(specs, trial.data_dir, interval_seconds=0.1, **options)
    task = asyncio.ensure_future(supervisor.run(stop))
    try:
        await until(lambda: supervisor.all_ready.is_set() or task.done(), "readiness")
        yield supervisor
    finally:
        stop.set()
        await task


def pid_of(supervisor: Supervisor, name: str) -> int | None:
    return next(status.pid for status in supervisor.snapshot() if status.name == name)


def state_of(supervisor: Supervisor, name: str) -> ServiceState:
    return next(status.state for status in supervisor.snapshot() if status.name == name)


async def test_services_start_after_what_they_need_and_stop_before_it(trial: Trial) -> None:
    specs = [
        trial.spec("worker", depends_on=("broker", "clickhouse")),
        trial.spec("clickhouse", after_ready=trial.note("migrated")),
        trial.spec("broker", before_start=trial.note("prepared"), after_ready=trial.note("topics")),
    ]
    async with supervised(trial, *specs) as supervisor:
        assert [status.name for status in supervisor.snapshot()] == [s.name for s in specs]
    events = trial.events()
    assert events.index("prepared") < events.index("start broker") < events.index("topics")
    assert max(events.index("topics"), events.index("migrated")) < events.index("start worker")
    assert events.index("stop worker") < events.index("stop broker")
    assert events.index("stop worker") < events.index("stop clickhouse")
    assert still_running(trial.pids()) == []


async def test_a_killed_service_comes_back_and_only_named_dependents_go_with_it(
    trial: Trial,
) -> None:
    broker = trial.spec("broker", after_ready=trial.note("topics"), restart_dependents=("worker",))
    specs = [
        broker,
        trial.spec("worker", depends_on=("broker",)),
        trial.spec("gateway", depends_on=("broker",)),
    ]
    async with supervised(trial, *specs) as supervisor:
        first = {name: pid_of(supervisor, name) for name in ("broker", "worker", "gateway")}
        trial.journal.write_text("")
        os.kill(first["broker"], signal.SIGKILL)
        await until(lambda: "start worker" in trial.events(), "the worker's restart")
        await until(supervisor.all_ready.is_set, "readiness")
        assert pid_of(supervisor, "broker") != first["broker"]
        assert pid_of(supervisor, "worker") != first["worker"]
        assert pid_of(supervisor, "gateway") == first["gateway"]
        # The worker returns only when the topics are there again.
        events = [event for event in trial.events() if event != "stop worker"]
        assert events == ["start broker", "topics", "start worker"]
        broker_status = supervisor.snapshot()[0]
        assert (broker_status.restarts, broker_status.state) == (1, ServiceState.READY)


async def test_the_children_of_a_killed_service_die_with_it(trial: Trial) -> None:
    async with supervised(trial, trial.spec("triton")) as supervisor:
        first = trial.pids()
        assert len(first) == 2
        os.kill(first[0], signal.SIGKILL)
        await until(lambda: pid_of(supervisor, "triton") not in (None, first[0]), "a restart")
        assert still_running(first) == []


async def test_a_service_that_keeps_dying_stops_the_stack_and_shows_its_last_lines(
    trial: Trial,
) -> None:
    doomed = trial.spec(
        "worker",
        argv=(sys.executable, "-c", "print('no such topic'); raise SystemExit(3)"),
        depends_on=("broker",),
        restart=RestartPolicy(max_restarts=2, backoff_seconds=0.01),
    )
    statuses: list[Any] = []
    supervisor = Supervisor(
        [trial.spec("broker"), doomed], trial.data_dir, on_status=statuses.append
    )
    with pytest.raises(ServiceFailedError) as raised:
        await asyncio.wait_for(supervisor.run(asyncio.Event()), 30)
    message = str(raised.value)
    assert "worker failed: exited with 3, after 2 restarts" in message
    assert "no such topic" in message
    assert str(trial.data_dir / "logs" / "worker.log") in message
    assert raised.value.last_lines == ("no such topic",) * 3
    assert [status.state for status in statuses[-1]] == [
        ServiceState.STOPPED,
        ServiceState.FAILED,
    ]
    assert still_running(trial.pids()) == []


async def test_a_service_that_never_becomes_ready_says_why(trial: Trial) -> None:
    silent = trial.spec(
        "clickhouse",
        ready=http_ready(f"http://127.0.0.1:{free_port()}/ping"),
        ready_timeout_seconds=0.3,
        restart=RestartPolicy(max_restarts=1, backoff_seconds=0.01),
    )
    supervisor = Supervisor([silent], trial.data_dir)
    with pytest.raises(ServiceFailedError, match=r"was not ready after .* does not accept"):
        await asyncio.wait_for(supervisor.run(asyncio.Event()), 30)
    assert still_running(trial.pids()) == []


async def test_a_service_that_runs_but_does_not_work_is_restarted(trial: Trial) -> None:
    asked: list[int] = []
    sick: list[int] = []

    async def check(pid: int) -> str | None:
        asked.append(pid)
        return "does not infer" if pid in sick else None

    triton = trial.spec(
        "triton",
        liveness=Liveness(check, interval_seconds=0.01),
        restart=RestartPolicy(backoff_seconds=0.01),
        restart_dependents=("worker",),
    )
    worker = trial.spec("worker", depends_on=("triton",))
    async with supervised(trial, triton, worker) as supervisor:
        first = pid_of(supervisor, "triton")
        assert first is not None
        await until(lambda: asked.count(first) > 5, "several checks")
        assert state_of(supervisor, "triton") is ServiceState.READY
        left = trial.pids()
        sick.append(first)
        await until(lambda: asked[-1] != first, "a check of the next process")
        await until(supervisor.all_ready.is_set, "readiness")
        status = supervisor.snapshot()[0]
        assert (status.restarts, status.last_error) == (1, "")
        assert still_running(left) == []  # its child and its dependent were restarted with it
        log = (trial.data_dir / "logs" / "triton.log").read_text()
        assert "killing: does not infer" in log


async def test_faults_that_pass_are_no_death(trial: Trial) -> None:
    answers: list[str | None] = []

    async def check(pid: int) -> str | None:
        answers.append(None if len(answers) % 3 == 2 else "busy")
        return answers[-1]

    liveness = Liveness(check, interval_seconds=0.01, max_faults=3)
    async with supervised(trial, trial.spec("triton", liveness=liveness)) as supervisor:
        await until(lambda: len(answers) > 12, "several checks")
        assert supervisor.snapshot()[0].restarts == 0
        await until(lambda: supervisor.snapshot()[0].last_error == "busy", "the fault's display")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [("hang", "did not say whether it works within 0 s"), ("raise", "OSError: no route")],
)
async def test_a_check_that_cannot_tell_counts_as_a_fault(
    trial: Trial, answer: str, reason: str
) -> None:
    async def check(pid: int) -> str | None:
        if answer == "hang":
            await asyncio.Event().wait()
        raise OSError("no route")

    doomed = trial.spec(
        "triton",
        liveness=Liveness(check, interval_seconds=0.01, timeout_seconds=0.05),
        restart=RestartPolicy(max_restarts=1, backoff_seconds=0.01),
    )
    supervisor = Supervisor([doomed], trial.data_dir)
    with pytest.raises(ServiceFailedError, match=reason):
        await asyncio.wait_for(supervisor.run(asyncio.Event()), 30)
    assert still_running(trial.pids()) == []


async def test_a_server_that_lost_a_child_is_restarted(trial: Trial) -> None:
    # The server never waits for its child, which stays a zombie: as Triton does with its stubs.
    check = ChildrenCheck(Path(sys.executable).name)
    liveness = Liveness(check, interval_seconds=0.01)
    async with supervised(trial, trial.spec("triton", liveness=liveness)) as supervisor:
        first, child = trial.pids()
        os.kill(child, signal.SIGKILL)
        await until(lambda: len(trial.pids()) == 4, "a restart")
        await until(supervisor.all_ready.is_set, "readiness")
        assert supervisor.snapshot()[0].restarts == 1
        assert still_running([first, child]) == []


async def test_a_hook_that_fails_is_tried_again_with_the_service(trial: Trial) -> None:
    calls = []

    async def migrate() -> None:
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("connection reset")

    restart = RestartPolicy(backoff_seconds=0.01)
    async with supervised(trial, trial.spec("clickhouse", after_ready=migrate, restart=restart)):
        assert len(calls) == 2


async def test_a_fatal_fault_of_a_hook_stops_the_stack(trial: Trial) -> None:
    async def create_topics() -> None:
        raise StackError("files-received has 3 partitions, 12 are wanted")

    supervisor = Supervisor([trial.spec("broker", after_ready=create_topics)], trial.data_dir)
    with pytest.raises(StackError, match="3 partitions"):
        await asyncio.wait_for(supervisor.run(asyncio.Event()), 30)
    assert still_running(trial.pids()) == []


async def test_a_service_that_ignores_the_request_to_stop_is_killed(trial: Trial) -> None:
    stubborn = trial.spec(
        "worker",
        argv=(
            sys.executable,
            "-c",
            "import signal, time\n"
            "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
            "print('up', flush=True)\n"
            "while True: time.sleep(1)",
        ),
        ready=None,
        stop_grace_seconds=0.2,
    )
    async with supervised(trial, stubborn) as supervisor:
        pid = pid_of(supervisor, "worker")
        log = trial.data_dir / "logs" / "worker.log"
        await until(lambda: "up" in log.read_text(), "its handler")
    assert pid is not None
    assert still_running([pid]) == []


async def test_a_service_grown_too_large_is_recycled_once_that_harms_nobody(trial: Trial) -> None:
    idle = asyncio.Event()
    asked = []

    async def harmless() -> bool:
        asked.append(1)
        return idle.is_set()

    broker = trial.spec(
        "broker",
        after_ready=trial.note("topics"),
        restart_dependents=("worker",),
        # Two interpreters of 6 to 24 MB each: above it, but not so far that they cannot wait.
        recycle_above_rss_bytes=6_000_000,
        recycle_when=harmless,
    )
    async with supervised(
        trial, broker, trial.spec("worker", depends_on=("broker",))
    ) as supervisor:
        await until(lambda: len(asked) > 2, "the question")
        assert trial.events().count("start broker") == 1
        trial.journal.write_text("")
        idle.set()
        await until(lambda: "start broker" in trial.events(), "the recycling")
        idle.clear()
        await until(lambda: "start worker" in trial.events(), "the worker's return")
        await until(supervisor.all_ready.is_set, "readiness")
        assert trial.events() == [
            "stop worker",
            "stop broker",
            "start broker",
            "topics",
            "start worker",
        ]


async def test_a_service_grown_far_too_large_is_recycled_whomever_that_harms(trial: Trial) -> None:
    async def harmless() -> bool:
        return False

    broker = trial.spec("broker", recycle_above_rss_bytes=1, recycle_when=harmless)
    async with supervised(trial, broker):
        await until(lambda: trial.events().count("start broker") > 1, "the recycling")


async def test_memory_and_cpu_of_a_service_count_its_children(trial: Trial) -> None:
    async with supervised(trial, trial.spec("triton")) as supervisor:
        # Two interpreters of at least 6 MB each.
        await until(lambda: supervisor.snapshot()[0].rss_bytes > 12e6, "a measurement")


# Says more than its log may hold, again and again; waits each time until the log is cut.
NOISY = """
import os, time
for number in range(10**9):
    print(f"{number:1000d}", flush=True)
    while os.fstat(1).st_size > 200_000:
        time.sleep(0.01)
"""


async def test_logs_are_bounded(trial: Trial) -> None:
    noisy = trial.spec("worker", argv=(sys.executable, "-c", NOISY), ready=None)
    log = trial.data_dir / "logs" / "worker.log"
    older = log.with_name("worker.log.1")

    def lines_written() -> int:
        return max((int(word) for word in log.read_bytes().split() if word.isdigit()), default=0)

    async with supervised(trial, noisy, max_log_bytes=50_000):
        await until(lambda: lines_written() > 1000, "a million bytes")
        assert sum(path.stat().st_size for path in (log, older)) < 500_000


async def test_a_running_stack_is_found_and_a_stopped_one_is_not(trial: Trial) -> None:
    assert read_stack(trial.data_dir) is None
    async with supervised(trial, trial.spec("broker")) as supervisor:
        found = read_stack(trial.data_dir)
        assert found is not None
        assert found.pid == os.getpid()
        assert found.services["broker"].pid == pid_of(supervisor, "broker")
        assert found.ready
    assert read_stack(trial.data_dir) is None


# The whole of `run_stack` in a process of its own, so that it can be interrupted and killed.
UP = """
import asyncio, json, sys
from pathlib import Path
from deploy.embedded.errors import StackError
from deploy.embedded.stack import Application, StackOptions, run_stack
data_dir, commands = Path(sys.argv[1]), json.loads(sys.argv[2])
applications = tuple(
    Application(name=name, argv=tuple(argv), ready_path="/") for name, argv in commands.items()
)
ready = asyncio.Event()
async def main():
    async def announce():
        await ready.wait()
        print("ready", flush=True)
    task = asyncio.ensure_future(announce())
    only = tuple(commands)
    options = StackOptions(data_dir=data_dir, only=only, applications=applications)
    await run_stack(options, ready=ready)
    task.cancel()
try:
    asyncio.run(main())
except StackError as error:
    sys.exit(f"error: {error}")
print("stopped", flush=True)
"""

# A stand-in for the worker and the gateway: serves where it is told to by its environment.
APPLICATION = """
import os, sys
sys.argv[2:2] = [os.environ["BIODATAMINE_METRICS_PORT"]]
exec(compile(open(sys.argv.pop()).read(), "server", "exec"))
"""


@pytest.fixture
def commands(trial: Trial) -> dict[str, list[str]]:
    application = trial.folder / "application.py"
    application.write_text(APPLICATION)
    return {
        name: [sys.executable, str(application), name, str(trial.journal), str(trial.script)]
        for name in ("worker", "gateway")
    }


@contextlib.contextmanager
def up(trial: Trial, commands: dict[str, list[str]]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", UP, str(trial.data_dir), json.dumps(commands)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_nothing_is_left_running_however_the_stack_ends(
    trial: Trial, commands: dict[str, list[str]], number: signal.Signals
) -> None:
    with up(trial, commands) as process:
        found = read_stack(trial.data_dir)
        assert found is not None
        pids = trial.pids()
        assert len(pids) == 4
        assert {service.pid for service in found.services.values()} <= set(pids)
        assert all(running(pid) for pid in pids)
        process.send_signal(number)
        output, errors = process.communicate(timeout=30)
        if number == signal.SIGKILL:
            assert process.returncode == -signal.SIGKILL
        else:
            assert (process.returncode, output, errors) == (0, "stopped\n", "")
            assert sorted(trial.events()[-2:]) == ["stop gateway", "stop worker"]
    assert still_running(pids) == []
    assert read_stack(trial.data_dir) is None


def test_a_killed_stack_comes_up_again_on_the_same_ports(
    trial: Trial, commands: dict[str, list[str]]
) -> None:
    with up(trial, commands) as process:
        before = read_stack(trial.data_dir)
        process.kill()
        process.wait()
    with up(trial, commands):
        after = read_stack(trial.data_dir)
    assert before is not None
    assert after is not None
    assert before.addresses == after.addresses
    assert before.pid != after.pid


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs parent-death signals")
def test_children_die_even_when_the_watchdog_was_killed_with_the_stack(
    trial: Trial, commands: dict[str, list[str]]
) -> None:
    with up(trial, commands) as process:
        found = read_stack(trial.data_dir)
        assert found is not None
        pids = [service.pid for service in found.services.values() if service.pid]
        listed = subprocess.run(
            ["pgrep", "-P", str(process.pid), "-f", "_watchdog"], capture_output=True, check=True
        )
        os.kill(int(listed.stdout), signal.SIGKILL)
        process.kill()
        process.wait()
        assert still_running(pids) == []
        for pid in trial.pids():  # with nobody to reap them, the grandchildren are ours to end
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


async def test_a_second_stack_on_the_same_folder_is_refused(
    trial: Trial, commands: dict[str, list[str]]
) -> None:
    with up(trial, commands) as process:
        options = StackOptions(data_dir=trial.data_dir, only=("worker",))
        with pytest.raises(AlreadyRunningError) as raised:
            await run_stack(options)
        assert f"process {process.pid}" in str(raised.value)
        assert "biodatamine status" in str(raised.value)
        assert process.poll() is None
        assert read_stack(trial.data_dir) is not None


async def test_cancelling_a_stack_stops_it(trial: Trial, commands: dict[str, list[str]]) -> None:
    ready = asyncio.Event()
    options = StackOptions(
        data_dir=trial.data_dir,
        only=("worker",),
        applications=(Application(name="worker", argv=tuple(commands["worker"]), ready_path="/"),),
    )
    task = asyncio.ensure_future(run_stack(options, ready=ready, handle_signals=False))
    await asyncio.wait_for(ready.wait(), 30)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert still_running(trial.pids()) == []
    with StackLock(trial.data_dir):
        pass
