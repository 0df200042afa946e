"""The runner: every message ends as done or as a dead letter, and nothing leaves it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from schemas import BlobRef, DecodeError, Event, FileReceived, UrlRequest
from schemas.events import received
from schemas.topics import MAX_MESSAGE_BYTES
from streams.runtime.dead_letters import CUT, DeadLetter, read_headers
from streams.runtime.emitter import Outgoing
from streams.runtime.health import Health
from streams.runtime.metrics import Metrics
from streams.runtime.retry import Backoff, ServiceFaultError
from streams.runtime.runner import Runner, RunnerOptions
from streams.runtime.stage import Done, Incoming, Rejected, Result, Stage, decode_event

NOW = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
TOPIC = FileReceived.TOPIC
SECRET = "DOE^JANE"


@dataclass
class Time:
    """A clock that only `sleep` moves."""

    now: datetime = NOW
    slept: list[float] = field(default_factory=list)

    def __call__(self) -> datetime:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += timedelta(seconds=seconds)


@dataclass
class Recorder:
    """An emitter that keeps what it is given, after as many faults as it is told."""

    sent: list[Outgoing] = field(default_factory=list)
    faults: list[Exception] = field(default_factory=list)

    async def send(self, messages: Sequence[Outgoing]) -> None:
        if self.faults:
            raise self.faults.pop(0)
        self.sent.extend(messages)

    def dead(self) -> list[Outgoing]:
        return [message for message in self.sent if message.topic.endswith("-dlq")]

    def events(self) -> list[Outgoing]:
        return [message for message in self.sent if not message.topic.endswith("-dlq")]


Process = Callable[[Sequence[Any]], Awaitable[Sequence[Result]]]


class Trial:
    """A runner around a process function, and everything that it tells."""

    def __init__(
        self,
        process: Process,
        *,
        decode: Callable[[Incoming], Any] = decode_event,
        topic: str = TOPIC,
        limit: int = 100,
        unhealthy_after_seconds: float = 10,
    ) -> None:
        self.time = Time()
        self.emitter = Recorder()
        self.metrics = Metrics()
        self.health = Health(self.time, unhealthy_after_seconds=unhealthy_after_seconds)
        self.health.ready = True
        self.runner: Runner[Any] = Runner(
            Stage("trial", (topic,), decode, process),
            emitter=self.emitter,  # type: ignore[arg-type]
            metrics=self.metrics,
            health=self.health,
            clock=self.time,
            options=RunnerOptions(Backoff(1.0, 8.0), internal_error_limit=limit),
            sleep=self.time.sleep,
        )

    def metric(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, {"stage": "trial", **labels})


def event(index: int = 0) -> FileReceived:
    digest = f"{index:064x}"
    return received(
        tenant="clinic",
        dataset_id="chest",
        relpath=f"{index}.png",
        blob=BlobRef(uri=f"memory://{digest}", sha256=digest, size_bytes=1),
        source="local",
        received_at=NOW,
    )


def incoming(value: bytes, offset: int = 0, topic: str = TOPIC, key: bytes = b"k") -> Incoming:
    return Incoming(topic=topic, partition=3, offset=offset, key=key, value=value)


def message(index: int = 0) -> Incoming:
    return incoming(Outgoing.of(event(index)).value, index)


async def all_done(events: Sequence[Any]) -> Sequence[Result]:
    return [Done((one,)) for one in events]


# Faults of a message


async def test_an_undecodable_message_is_one_dead_letter_and_its_mates_go_on() -> None:
    trial = Trial(all_done)
    await trial.runner.run([message(1), incoming(b"{broken", 7, key=b"original key"), message(2)])
    (dead,) = trial.emitter.dead()
    assert dead.topic == f"{TOPIC}-dlq"
    assert (dead.key, dead.value) == (b"original key", b"{broken")
    assert read_headers(dead.headers) == {
        "stage": "trial",
        "reason": "not-json",
        "error": "not a FileReceived in JSON",
        "source-topic": TOPIC,
        "source-partition": "3",
        "source-offset": "7",
        "failed-at": NOW.isoformat(),
    }
    assert [m.value for m in trial.emitter.events()] == [message(1).value, message(2).value]
    assert trial.metric("biodatamine_events_total", outcome="done") == 2
    assert trial.metric("biodatamine_events_total", outcome="dead-lettered") == 1
    assert trial.metric("biodatamine_dead_letters_total", reason="not-json") == 1
    assert trial.metric("biodatamine_batch_events_sum") == 3


async def test_a_rejected_event_names_its_file_in_the_headers() -> None:
    async def process(events: Sequence[FileReceived]) -> Sequence[Result]:
        return [Rejected("too-blue", "the image is too blue") for _ in events]

    trial = Trial(process)
    await trial.runner.run([message(5)])
    headers = read_headers(trial.emitter.dead()[0].headers)
    subject = event(5)
    assert headers["reason"] == "too-blue"
    assert headers["error"] == "the image is too blue"
    assert headers["file-id"] == subject.file_id
    assert headers["image-id"] == subject.image_id
    assert headers["dataset-id"] == "chest"
    assert headers["tenant"] == "clinic"
    assert headers["trace-id"] == subject.trace_id


async def test_an_event_too_large_to_send_is_a_dead_letter_of_its_cause() -> None:
    huge = event().model_copy(update={"relpath": "x" * MAX_MESSAGE_BYTES})

    async def process(events: Sequence[FileReceived]) -> Sequence[Result]:
        return [Done((events[0], huge)), Done((events[1],))]

    trial = Trial(process)
    await trial.runner.run([message(1), message(2)])
    (dead,) = trial.emitter.dead()
    assert dead.value == message(1).value
    assert read_headers(dead.headers)["reason"] == "too-large"
    # Of the rejected item nothing is sent, not even the event that would have fitted.
    assert [m.value for m in trial.emitter.events()] == [message(2).value]


async def test_dead_letters_of_dead_letters_go_no_further_but_are_told() -> None:
    async def process(items: Sequence[Any]) -> Sequence[Result]:
        return [Rejected("refused", "no") for _ in items]

    trial = Trial(process, decode=lambda m: m.value, topic=f"{TOPIC}-dlq")
    with capture_logs() as logs:
        await trial.runner.run([incoming(b"x", topic=f"{TOPIC}-dlq")])
    assert trial.emitter.sent == []
    assert trial.metric("biodatamine_dead_letters_total", reason="refused") == 1
    assert [line["reason"] for line in logs if line["event"] == "dead letter"] == ["refused"]


async def test_text_that_is_not_unicode_does_not_stop_a_dead_letter() -> None:
    async def process(events: Sequence[Any]) -> Sequence[Result]:
        return [Rejected("blob-gone", "no file \udcff.png") for _ in events]

    trial = Trial(process)
    await trial.runner.run([message()])
    assert read_headers(trial.emitter.dead()[0].headers)["error"] == "no file \\udcff.png"


def test_a_dead_letter_always_fits_into_a_message() -> None:
    letter = DeadLetter(
        value=b"v" * 5_000_000,
        key=b"k" * 100_000,
        stage="sniff",
        reason="too-large",
        error="e" * 10_000,
        source_topic=TOPIC,
        source_partition=0,
        source_offset=0,
        failed_at=NOW,
    )
    sent = letter.message()
    size = len(sent.key) + len(sent.value) + sum(len(n) + len(v) for n, v in sent.headers)
    assert size < 1_000_000
    assert read_headers(sent.headers)[CUT] == "5000000"


# Faults of a service


async def test_a_service_fault_is_waited_out_in_place_with_backoff() -> None:
    attempts: list[int] = []
    away = 6

    async def process(events: Sequence[Event]) -> Sequence[Result]:
        attempts.append(len(events))
        if len(attempts) <= away:
            raise ServiceFaultError("triton", "connection refused")
        return [Done((one,)) for one in events]

    trial = Trial(process)
    await trial.runner.run([message(1), message(2)])
    assert attempts == [2] * (away + 1)
    assert len(trial.time.slept) == away
    for wait, bound in zip(trial.time.slept, (1, 2, 4, 8, 8, 8), strict=True):
        assert bound / 2 <= wait <= bound
    assert len(trial.emitter.events()) == 2
    assert trial.emitter.dead() == []
    assert trial.metric("biodatamine_retries_total", service="triton") == away


async def test_health_tells_a_lasting_fault_and_its_end() -> None:
    seen: list[tuple[bool, dict[str, Any], float | None]] = []

    async def process(events: Sequence[Event]) -> Sequence[Result]:
        healthy, report = trial.health.report()
        seen.append((healthy, report, trial.metric("biodatamine_stalled_seconds")))
        if trial.time.now < NOW + timedelta(seconds=40):
            raise ServiceFaultError("clickhouse", "away")
        return [Done() for _ in events]

    trial = Trial(process, unhealthy_after_seconds=10)
    await trial.runner.run([message()])
    at_once, later = seen[0], seen[-1]
    assert at_once[0] is True
    assert later[0] is False
    (fault,) = later[1]["faults"]
    assert fault["stage"] == "trial"
    assert "clickhouse: away" in fault["reason"]
    assert fault["permanent"] is False
    assert fault["seconds"] >= 40
    assert later[2] is not None and later[2] > 0
    # A fault shorter than the bound is no reason to restart a worker.
    short = [healthy for healthy, _, stalled in seen if stalled is not None and stalled < 1]
    assert all(short)
    assert trial.health.report() == (True, {"ready": True, "faults": []})
    assert trial.metric("biodatamine_stalled_seconds") == 0


@pytest.mark.parametrize(
    "fault", [ServiceFaultError("kafka", "away"), AssertionError("the client library is confused")]
)
async def test_whatever_the_sender_says_everything_is_sent_again(fault: Exception) -> None:
    calls = 0

    async def process(events: Sequence[Event]) -> Sequence[Result]:
        nonlocal calls
        calls += 1
        return [Done((one,)) for one in events]

    trial = Trial(process)
    trial.emitter.faults = [fault, fault]
    await trial.runner.run([message(1), incoming(b"")])
    assert calls == 1
    assert len(trial.time.slept) == 2
    assert [m.topic for m in trial.emitter.sent] == [TOPIC, f"{TOPIC}-dlq"]
    assert trial.metric("biodatamine_retries_total", service="kafka") == 2


# Faults of ours


async def test_an_unforeseen_error_is_narrowed_to_the_item_that_causes_it() -> None:
    async def process(events: Sequence[FileReceived]) -> Sequence[Result]:
        if any(one.relpath == "2.png" for one in events):
            raise KeyError(SECRET)
        return [Done((one,)) for one in events]

    trial = Trial(process)
    with capture_logs() as logs:
        await trial.runner.run([message(index) for index in range(5)])
    (dead,) = trial.emitter.dead()
    assert dead.value == message(2).value
    headers = read_headers(dead.headers)
    assert headers["reason"] == "internal-error"
    assert headers["error"].startswith("KeyError at test_runtime_runner.py:")
    assert len(trial.emitter.events()) == 4
    # What an exception says may come from the file: it stays out of headers and logs.
    assert SECRET not in str(headers)
    assert SECRET not in str(logs)


@pytest.mark.parametrize("answer", [[], [Done()], [Done()] * 3, [Done(), None], None])
async def test_a_stage_that_miscounts_its_results_loses_no_message(answer: Any) -> None:
    async def process(events: Sequence[Event]) -> Any:
        return answer if len(events) == 2 else [Done((events[0],))]

    trial = Trial(process)
    await trial.runner.run([message(1), message(2)])
    assert [m.value for m in trial.emitter.events()] == [message(1).value, message(2).value]


async def test_an_error_in_decoding_is_a_dead_letter_too() -> None:
    def decode(message: Incoming) -> Any:
        raise ZeroDivisionError

    trial = Trial(all_done, decode=decode)
    await trial.runner.run([message()])
    assert read_headers(trial.emitter.dead()[0].headers)["reason"] == "internal-error"


@pytest.mark.parametrize("where", ["process", "decode"])
async def test_internal_errors_in_a_row_stop_the_stage_before_it_drains_its_topic(
    where: str,
) -> None:
    broken = True

    async def process(events: Sequence[Event]) -> Sequence[Result]:
        if where == "process" and broken:
            raise RuntimeError
        return [Done() for _ in events]

    def decode(message: Incoming) -> Event:
        if where == "decode" and broken:
            raise RuntimeError
        return decode_event(message)

    trial = Trial(process, decode=decode, limit=3)
    await trial.runner.run([message(0)])
    broken = False
    await trial.runner.run([message(1)])  # a success in between: not in a row
    broken = True
    await trial.runner.run([message(2), message(3)])
    assert len(trial.emitter.dead()) == 3

    stopped = asyncio.ensure_future(trial.runner.run([message(4)]))
    while not trial.health.faults():
        await asyncio.sleep(0)
    for _ in range(100):
        await asyncio.sleep(0)
    assert not stopped.done(), "the batch must stay uncommitted"
    assert len(trial.emitter.dead()) == 3
    healthy, report = trial.health.report()
    assert not healthy
    (fault,) = report["faults"]  # type: ignore[misc]
    assert fault["permanent"] is True
    assert "3 internal errors in a row" in fault["reason"]
    stopped.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopped


async def test_an_empty_batch_is_no_work() -> None:
    async def process(events: Sequence[Event]) -> Sequence[Result]:
        raise AssertionError

    trial = Trial(process)
    await trial.runner.run([])
    assert trial.emitter.sent == []


# Whatever happens


OUTCOMES = ("done", "two-events", "rejected", "undecodable", "decode-crash", "crash", "too-large")


@settings(deadline=None, max_examples=150)
@given(
    batches=st.lists(
        st.lists(st.sampled_from(OUTCOMES), min_size=1, max_size=6), min_size=1, max_size=4
    ),
    process_faults=st.lists(st.booleans(), max_size=30),
    send_faults=st.lists(st.sampled_from(["fault", "surprise"]), max_size=4),
)
def test_every_message_ends_exactly_once(
    batches: list[list[str]], process_faults: list[bool], send_faults: list[str]
) -> None:
    faults = iter(process_faults)

    def decode(message: Incoming) -> tuple[str, FileReceived]:
        outcome = outcomes[message.offset]
        if outcome == "undecodable":
            raise DecodeError("invalid", "no event")
        if outcome == "decode-crash":
            raise IndexError
        return outcome, event(message.offset)

    def result(item: tuple[str, FileReceived]) -> Result:
        outcome, one = item
        if outcome == "crash":
            raise RuntimeError
        if outcome == "rejected":
            return Rejected("no", "no")
        if outcome == "too-large":
            return Done((one.model_copy(update={"relpath": "x" * MAX_MESSAGE_BYTES}),))
        return Done((one, one)) if outcome == "two-events" else Done((one,))

    async def process(items: Sequence[tuple[str, FileReceived]]) -> Sequence[Result]:
        if next(faults, False):
            raise ServiceFaultError("triton", "away")
        return [result(item) for item in items]

    trial = Trial(process, decode=decode, limit=1000)
    trial.emitter.faults = [
        ServiceFaultError("kafka", "away") if kind == "fault" else ValueError()
        for kind in send_faults
    ]
    flat = [outcome for batch in batches for outcome in batch]
    outcomes = dict(enumerate(flat))
    offset = 0
    for batch in batches:
        messages = [incoming(b"m%d" % (offset + i), offset + i) for i in range(len(batch))]
        assert asyncio.run(trial.runner.run(messages)) is None  # type: ignore[func-returns-value]
        offset += len(batch)

    good = {"done": 1, "two-events": 2}
    sent = Counter(relpath_of(m) for m in trial.emitter.events())
    assert sent == {f"{i}.png": good[o] for i, o in outcomes.items() if o in good}
    dead = Counter(m.value for m in trial.emitter.dead())
    assert dead == {b"m%d" % i: 1 for i, o in outcomes.items() if o not in good}
    total = sum(
        trial.metric("biodatamine_events_total", outcome=outcome) or 0
        for outcome in ("done", "dead-lettered")
    )
    assert total == len(flat)


def relpath_of(message: Outgoing) -> str:
    return FileReceived.model_validate_json(message.value).relpath


async def test_cancellation_passes_through() -> None:
    begun = asyncio.Event()

    async def process(events: Sequence[UrlRequest]) -> Sequence[Result]:
        begun.set()
        await asyncio.Event().wait()
        return []

    trial = Trial(process)
    task = asyncio.ensure_future(trial.runner.run([message()]))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert trial.emitter.sent == []
