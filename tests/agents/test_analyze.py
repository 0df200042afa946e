"""The analyze stage: real decoding in real processes; only the model is played."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pydicom.data import get_testdata_file

from schemas import FileAnalyzed, FileSniffed, decode, encode
from schemas.events import received
from streams.agents.analyze import Job, analyze_stage, look_job
from streams.agents.embedding import EmbedderPort
from streams.agents.sniff import sniff_stage
from streams.inference.errors import BadInput, BadOutput, ModelAbsent, ServiceUnavailable
from streams.inference.outputs import Absent, EmbedResult, Ready
from streams.modality.crops import VIEWS
from streams.modality.fusion import Fusion
from streams.modality.model import ModalityModel
from streams.runtime.isolation import IsolatedPool
from streams.runtime.retry import ServiceFaultError
from streams.runtime.stage import Done, Rejected, Result, Stage
from streams.storage.blobs import BlobStore

NOW = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
LATER = NOW + timedelta(seconds=5)
KEY = b"a key of enough bytes"
CRASH = b"crash, please"
SIZE, DIM = 32, 4
FUSION = Fusion(
    {("modality-tag", "dicom"): 1.0, ("values", "dicom"): 0.3},
    doubt=0.01,
    answer_from=0.6,
    novelty_limit=1.0,
)


def job(order: Job) -> Any:
    """Look, but die of one file."""
    source = order.source
    data = source if isinstance(source, bytes) else source.read_bytes()
    if data.endswith(CRASH):
        os.kill(os.getpid(), signal.SIGSEGV)
    return look_job(order)


@pytest.fixture(scope="module")
def pool() -> Iterator[IsolatedPool]:
    made = IsolatedPool(job, processes=1, timeout_seconds=60, memory_bytes=6 << 30)
    yield made
    made.close()


class Model:
    """What `Embedder` asks of Triton, answered here: the mean colour of the view, normalised."""

    def __init__(self) -> None:
        self.present = True
        self.faults: list[Exception] = []
        self.asked = 0
        self.batches: list[tuple[int, ...]] = []

    async def model_state(self) -> Ready | Absent:
        self.asked += 1
        self._fault()
        if not self.present:
            return Absent("embedder", "no weights")
        return Ready("embedder", "toy-1", SIZE, DIM, 8)

    async def embed(self, images: NDArray[np.uint8]) -> EmbedResult:
        self._fault()
        self.batches.append(images.shape)
        vectors = np.ones((len(images), DIM), np.float32)
        vectors[:, :3] += images.mean(axis=(1, 2))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return EmbedResult(vectors, "embedder", "toy-1")

    def _fault(self) -> None:
        if self.faults:
            raise self.faults.pop(0)


class Trial:
    def __init__(self, folder: Path, pool: IsolatedPool) -> None:
        self.now = LATER
        self.blobs = BlobStore(str(folder / "blobs"), fsync=False)
        self.model = Model()
        port = EmbedderPort(self.model, self.clock)  # type: ignore[arg-type]
        self.port = port
        self.pool = pool
        self.stage = self.staged(ModalityModel("test-1", FUSION))
        self._sniff = sniff_stage(self.blobs, KEY, self.clock)

    def staged(self, model: ModalityModel) -> Stage[FileSniffed]:
        return analyze_stage(
            self.blobs, self.blobs, self.pool, self.port, model=model, clock=self.clock
        )

    def clock(self) -> datetime:
        return self.now

    async def sniffed(self, data: bytes, name: str) -> FileSniffed:
        event = received(
            tenant="clinic",
            dataset_id="mixed",
            relpath=name,
            blob=self.blobs.put(data),
            source="local",
            received_at=NOW,
        )
        (result,) = await self._sniff.process([event])
        assert isinstance(result, Done), result
        (found,) = result.events
        assert isinstance(found, FileSniffed)
        return found


@pytest.fixture
def trial(tmp_path: Path, pool: IsolatedPool) -> Trial:
    return Trial(tmp_path, pool)


def png(color: int = 200, side: int = 64) -> bytes:
    rows = np.arange(side, dtype=np.uint8)[:, None]
    pixels = np.clip(rows + np.zeros((side, side), np.uint8) + color // 2, 0, 255)
    buffer = BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def ramp(top: int, power: float, side: int = 64) -> bytes:
    """A ramp that stays dark (a high power) or light, whatever its contrast is stretched to."""
    rows = top * (np.arange(side) / side)[:, None] ** power + np.zeros((side, side))
    buffer = BytesIO()
    Image.fromarray(rows.astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def dicom(name: str) -> bytes:
    path = get_testdata_file(name)
    assert path is not None
    return Path(str(path)).read_bytes()


def analyzed(result: Result) -> FileAnalyzed:
    assert isinstance(result, Done), result
    (event,) = result.events
    assert isinstance(event, FileAnalyzed)
    assert decode(encode(event), FileAnalyzed) == event
    return event


async def test_an_image_gets_signals_a_thumbnail_an_embedding_and_its_modality(
    trial: Trial,
) -> None:
    before = await trial.sniffed(dicom("CT_small.dcm"), "ct.dcm")
    (result,) = await trial.stage.process([before])
    event = analyzed(result)
    assert event.outcome == "decoded"
    assert event.pixels is not None
    assert (event.pixels.rows, event.pixels.columns, event.pixels.unit) == (128, 128, "HU")
    assert event.signals is not None
    assert event.signals.maximum > event.signals.minimum
    assert event.modality is not None
    assert event.modality.modality == event.modality.family == "CT"
    assert event.modality.confidence is not None
    assert event.modality.confidence > 0.9
    assert (event.modality.method_version, event.modality.conflict) == ("test-1", False)
    tag = next(vote for vote in event.modality.votes if vote.signal == "modality-tag")
    assert (tag.label, tag.weight) == ("CT", 1.0)
    assert event.quality is not None
    assert event.quality.perceptual_hash
    assert ("plane", "axial") in [(a.name, a.value) for a in event.attributes]
    assert event.embedding is not None
    assert event.embedding.model_version == "toy-1"
    assert np.linalg.norm(event.embedding.to_array()) == pytest.approx(1)
    assert event.absent_models == ()
    assert event.thumbnail is not None
    with trial.blobs.open(event.thumbnail) as file, Image.open(file) as picture:
        assert picture.format == "WEBP"
        assert max(picture.size) <= 256
    assert trial.model.batches == [(len(VIEWS), SIZE, SIZE, 3)]


async def test_nothing_that_speaks_is_no_answer(trial: Trial) -> None:
    (result,) = await trial.stage.process([await trial.sniffed(png(), "a.png")])
    decision = analyzed(result).modality
    assert decision is not None
    assert (decision.modality, decision.abstained) == ("unknown", True)
    assert decision.abstained_reason


async def test_burnt_in_text_is_read_where_pixels_are_decoded_and_is_not_told(trial: Trial) -> None:
    pytest.importorskip("rapidocr")
    page = Image.new("L", (640, 480))
    pen = ImageDraw.Draw(page)
    font = ImageFont.load_default(22)
    for line, text in enumerate(("SMITH^JOHN", "120 kVp", "250 mAs", "W: 400 L: 40")):
        pen.text((16, 16 + 40 * line), text, fill=255, font=font)
    buffer = BytesIO()
    page.save(buffer, "PNG")
    (result,) = await trial.stage.process([await trial.sniffed(buffer.getvalue(), "a.png")])
    event = analyzed(result)
    assert event.modality is not None
    (vote,) = [vote for vote in event.modality.votes if vote.signal == "text"]
    assert "kV" in vote.evidence
    assert event.quality is not None
    assert event.quality.text_box_count == 4
    assert event.quality.text_area_fraction
    assert b"SMITH" not in encode(event).upper()


async def test_the_head_does_not_look_through_another_embedder(trial: Trial) -> None:
    stage = trial.staged(ModalityModel.load())
    (result,) = await stage.process([await trial.sniffed(dicom("CT_small.dcm"), "ct.dcm")])
    event = analyzed(result)
    assert event.embedding is not None
    (absent,) = event.absent_models
    assert absent.model == "modality-head"
    assert "toy-1" in absent.reason
    assert event.modality is not None
    assert event.modality.modality == "CT"
    assert "pixels" not in [vote.signal for vote in event.modality.votes]


async def test_what_was_known_is_carried_on(trial: Trial) -> None:
    before = await trial.sniffed(dicom("CT_small.dcm"), "ct.dcm")
    (result,) = await trial.stage.process([before])
    event = analyzed(result)
    for name in set(FileSniffed.model_fields) & set(FileAnalyzed.model_fields) - {
        "event_id", "processed_at", "problems", "schema_version",
    }:  # fmt: skip
        assert getattr(event, name) == getattr(before, name), name
    assert event.processed_at == LATER
    assert event.event_id != before.event_id


async def test_the_same_event_twice_is_the_same_answer(trial: Trial) -> None:
    before = await trial.sniffed(png(), "a.png")
    (first,) = await trial.stage.process([before])
    trial.now += timedelta(hours=1)
    (second,) = await trial.stage.process([before])
    one, two = analyzed(first), analyzed(second)
    assert one.event_id == two.event_id
    assert one.model_copy(update={"processed_at": two.processed_at}) == two


async def test_each_answer_belongs_to_its_file_whatever_its_mates_are(trial: Trial) -> None:
    """More than one part of a batch, and every kind of file among them."""
    truncated = dicom("MR_small.dcm")
    files = [
        (ramp(100, 4), "dark.png"),
        (b"not an image at all\n" * 10, "notes.txt"),
        (png()[:60], "half.png"),
        (dicom("reportsi.dcm"), "report.dcm"),
        (png(1) + CRASH, "crash.png"),
        (truncated[:-4000], "cut.dcm"),
        *((png(10 + number), f"{number}.png") for number in range(20)),
        (ramp(255, 0.25), "light.png"),
    ]
    events = [await trial.sniffed(data, name) for data, name in files]
    results = dict(zip([name for _, name in files], await trial.stage.process(events), strict=True))
    crash = results.pop("crash.png")
    assert crash == Rejected("decoder-crashed", "SIGSEGV")
    half = results.pop("half.png")
    assert isinstance(half, Rejected)
    assert half.reason in ("truncated", "corrupt")
    cut = results.pop("cut.dcm")
    assert isinstance(cut, Rejected) or analyzed(cut).problems
    found = {name: analyzed(result) for name, result in results.items()}
    assert all(found[name].relpath == name for name in found)
    assert found.pop("notes.txt").outcome == "not-an-image"
    report = found.pop("report.dcm")
    assert report.outcome == "no-pixels"
    assert "structured-report" in [problem.code for problem in report.problems]
    assert report.embedding is report.thumbnail is report.signals is None
    assert {event.outcome for event in found.values()} == {"decoded"}
    means = {name: event.signals.mean for name, event in found.items() if event.signals}
    assert min(means, key=means.__getitem__) == "dark.png"
    assert max(means, key=means.__getitem__) == "light.png"
    darkest = found["dark.png"].embedding
    lightest = found["light.png"].embedding
    assert darkest is not None
    assert lightest is not None
    assert darkest.to_array()[0] < lightest.to_array()[0]


@pytest.mark.parametrize(
    ("data", "name"),
    [(b"nothing of ours", "x.bin"), (dicom("reportsi.dcm"), "report.dcm"), (png()[:60], "h.png")],
    ids=["unknown", "no-pixels", "broken"],
)
async def test_a_batch_without_any_image_does_not_wait_for_a_model(
    trial: Trial, data: bytes, name: str
) -> None:
    (result,) = await trial.stage.process([await trial.sniffed(data, name)])
    assert isinstance(result, Done | Rejected)
    assert trial.model.batches == []


async def test_a_blob_that_is_gone_is_a_fault_of_its_message(trial: Trial, tmp_path: Path) -> None:
    event = await trial.sniffed(png(), "a.png")
    other = await trial.sniffed(png(3), "b.png")
    digest = event.blob.sha256
    (tmp_path / "blobs" / digest[:2] / digest).unlink()
    gone, there = await trial.stage.process([event, other])
    assert isinstance(gone, Rejected)
    assert gone.reason == "blob-gone"
    assert analyzed(there).outcome == "decoded"


# The model


async def test_an_absent_model_is_recorded_with_its_reason(trial: Trial) -> None:
    trial.model.present = False
    (result,) = await trial.stage.process([await trial.sniffed(png(), "a.png")])
    event = analyzed(result)
    assert event.outcome == "decoded"
    assert event.embedding is None
    assert [(m.model, m.reason) for m in event.absent_models] == [("embedder", "no weights")]
    assert event.thumbnail is not None


async def test_a_model_that_goes_between_two_questions_is_absent_too(trial: Trial) -> None:
    await trial.port.state()
    trial.model.faults = [ModelAbsent("embedder", "unloaded")]
    (result,) = await trial.stage.process([await trial.sniffed(png(), "a.png")])
    assert [m.reason for m in analyzed(result).absent_models] == ["unloaded"]


async def test_an_absent_model_is_asked_for_again_after_a_while(trial: Trial) -> None:
    event = await trial.sniffed(png(), "a.png")
    trial.model.present = False
    await trial.stage.process([event])
    trial.model.present = True
    (result,) = await trial.stage.process([event])
    assert analyzed(result).embedding is None
    assert trial.model.asked == 1
    trial.now += timedelta(seconds=30)
    (result,) = await trial.stage.process([event])
    assert analyzed(result).embedding is not None
    assert trial.model.asked == 2


@pytest.mark.parametrize(
    ("fault", "known"),
    [
        (ServiceUnavailable("away"), False),
        (BadOutput("no vector"), False),
        (ServiceUnavailable("away"), True),
        (BadOutput("no vector"), True),
        (BadInput("another size"), True),
    ],
)
async def test_a_fault_of_the_server_is_waited_out_and_then_forgotten(
    trial: Trial, fault: Exception, known: bool
) -> None:
    event = await trial.sniffed(png(), "a.png")
    if known:
        await trial.port.state()
    trial.model.faults = [fault]
    with pytest.raises(ServiceFaultError) as caught:
        await trial.stage.process([event])
    assert caught.value.service == "triton"
    (result,) = await trial.stage.process([event])
    assert analyzed(result).embedding is not None


async def test_a_store_that_takes_no_thumbnails_is_waited_out(trial: Trial, tmp_path: Path) -> None:
    event = await trial.sniffed(png(), "a.png")
    incoming = tmp_path / "blobs" / "incoming"
    incoming.rename(tmp_path / "away")
    with pytest.raises(ServiceFaultError) as caught:
        await trial.stage.process([event])
    assert caught.value.service == "blobs"
    (tmp_path / "away").rename(incoming)
    (result,) = await trial.stage.process([event])
    assert analyzed(result).thumbnail is not None
