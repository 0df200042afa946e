"""Burnt-in text: found without a model, read within bounds, and told in closed terms only."""

from __future__ import annotations

from itertools import count

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageDraw, ImageFont

from streams.modality import ocr
from streams.modality.labels import FAMILIES
from streams.modality.ocr import AbsentReader, ReadLimits, TextReader, read_text
from streams.modality.opinion import MAX_EVIDENCE_CHARS, Opinion
from streams.modality.text import PATTERNS, text_opinion
from streams.modality.text_lines import Box, text_likely, text_lines

UInt8Array = npt.NDArray[np.uint8]

needs_reader = pytest.mark.skipif(bool(ocr.reader_absent_reason()), reason="needs the extra `ocr`")


def speckle(height: int = 480, width: int = 640, seed: int = 0) -> UInt8Array:
    """Draw a fan of smooth speckle on black, as ultrasound machines do."""
    noise = np.random.default_rng(seed).rayleigh(40, (height // 2, width // 2))
    picture = Image.fromarray(noise.clip(0, 255).astype(np.uint8))
    smooth = np.array(picture.resize((width, height), Image.Resampling.BICUBIC))
    y, x = np.mgrid[:height, :width]
    fan = (np.abs(x - width / 2) < y * 0.6) & (np.hypot(x - width / 2, y) < height * 0.85)
    return np.where(fan & (y > 60), smooth, 0).astype(np.uint8)


def written(picture: UInt8Array, *texts: tuple[int, int, str], size: int = 18) -> UInt8Array:
    """Write white text at (left, top)."""
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size)
    for left, top, text in texts:
        draw.text((left, top), text, fill=255 if image.mode == "L" else (255, 255, 255), font=font)
    return np.array(image)


LABELS = ((8, 8, "C5-1 12.0 MHz"), (500, 8, "MI 0.8 TIS 0.2"), (8, 450, "Gain 52 28Hz"))


def heard(*words: str) -> Opinion:
    opinion = text_opinion(words)
    assert opinion is not None
    return opinion


# Finding


@pytest.mark.parametrize("size", [11, 14, 18, 28])
def test_lines_are_found_where_they_stand(size: int) -> None:
    lines = text_lines(written(speckle(), *LABELS, size=size))
    assert text_likely(lines)
    for left, top, _ in LABELS:
        box = Box(top, left, top + round(1.4 * size), left + 3 * size)
        assert any(line.overlap(box) for line in lines), (left, top)


def test_dark_text_on_white_and_coloured_text_on_black() -> None:
    page = 255 - written(np.zeros((300, 500), np.uint8), (40, 60, "Dose report: total DLP 512"))
    assert text_likely(text_lines(page))
    yellow = written(np.zeros((300, 500, 3), np.uint8), (40, 60, "SINUS RHYTHM 25 mm/s"))
    yellow[:, :, 2] = 0
    assert text_likely(text_lines(yellow))


def test_large_titles_are_found_at_a_coarser_scale() -> None:
    page = written(np.zeros((1600, 2400), np.uint8), (200, 300, "PORTABLE"), size=120)
    assert text_likely(text_lines(page))


@pytest.mark.parametrize("seed", range(3))
def test_texture_borders_and_noise_are_no_text(seed: int) -> None:
    rng = np.random.default_rng(seed)
    assert not text_likely(text_lines(speckle(seed=seed)))
    assert not text_likely(text_lines(rng.integers(0, 256, (512, 512), dtype=np.uint8)))
    y, x = np.mgrid[:512, :512]
    disc = np.where(np.hypot(x - 256, y - 256) < 200, 180, 0).astype(np.uint8)
    assert not text_likely(text_lines(disc))
    box = np.zeros((512, 512), np.uint8)
    box[100:400, 100:400] = 200
    assert not text_likely(text_lines(box))


@given(
    hnp.arrays(
        np.uint8,
        st.tuples(st.integers(1, 80), st.integers(1, 80))
        | st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(3)),
    )
)
def test_any_picture_is_looked_at(picture: UInt8Array) -> None:
    height, width = picture.shape[:2]
    for line in text_lines(picture):
        assert 0 <= line.top < line.bottom <= height
        assert 0 <= line.left < line.right <= width


def test_a_picture_full_of_text_has_a_bounded_number_of_lines() -> None:
    rows = [(10, top, "TR 500 TE 12 FOV 240 " * 4) for top in range(0, 2000, 18)]
    lines = text_lines(written(np.zeros((2000, 1000), np.uint8), *rows, size=12))
    assert 0 < len(lines) <= 96


# Reading


@needs_reader
def test_what_is_written_is_read() -> None:
    found = read_text(written(speckle(), *LABELS), ReadLimits(max_seconds=60))
    joined = " ".join(found.texts).replace(" ", "").upper()
    for part in ("C5-1", "MHZ", "MI0.8", "28HZ"):
        assert part in joined
    assert not found.timed_out
    assert found.absent == ""
    assert 0 < found.area_fraction < 0.1
    assert len(found.boxes) == len(found.words)
    opinion = text_opinion(found.texts)
    assert opinion is not None
    assert opinion.label == "US"


@needs_reader
def test_a_picture_without_text_is_not_read() -> None:
    assert read_text(speckle()) == ocr.TextFound()


@needs_reader
def test_reading_ends_at_its_deadline_and_says_so() -> None:
    picture = written(speckle(), *LABELS)
    # The clock gives the deadline, lets one batch begin, and is over.
    ticks = count(step=1.0)
    found = read_text(picture, ReadLimits(max_seconds=1.5), clock=lambda: next(ticks))
    assert found.timed_out
    everything = read_text(picture, ReadLimits(max_seconds=60))
    assert len(found.words) < len(everything.words)
    # What there was no time for is still text.
    assert len(found.boxes) >= len(everything.boxes)


@needs_reader
def test_no_more_lines_are_read_than_allowed() -> None:
    found = read_text(written(speckle(), *LABELS), ReadLimits(max_seconds=60, max_lines=1))
    assert len(found.words) == 1
    assert found.timed_out


@needs_reader
def test_hostile_boxes_and_tiny_pictures_are_read() -> None:
    reader = TextReader.load()
    assert isinstance(reader, TextReader)
    picture = np.zeros((20, 4000), np.uint8)
    found = reader.read(picture, (Box(0, 0, 20, 4000), Box(5, 5, 6, 6)))
    assert found.words == ()


@pytest.mark.parametrize("missing", ["rapidocr", "onnxruntime"])
def test_an_absent_reader_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    # Whatever is installed here: the one package is not found, the others are.
    def found(name: str) -> object:
        return None if name.startswith(missing) else object()

    monkeypatch.setattr(ocr, "find_spec", found)
    ocr._reader.cache_clear()
    try:
        read = read_text(written(speckle(), *LABELS))
        assert read.words == ()
        # Where text stands is known without reading it.
        assert len(read.boxes) >= 3
        assert read.absent == f'{missing} is not installed; pip install "biodatamine[ocr]"'
        assert ocr.reader_absent_reason() == read.absent
        assert isinstance(TextReader.load(), AbsentReader)
        # Where there is nothing to read, no reader is missed.
        assert read_text(speckle()).absent == ""
    finally:
        ocr._reader.cache_clear()


def test_words_are_not_shown() -> None:
    word = ocr.Word("MUSTERMANN ERIKA", Box(0, 0, 1, 1), 0.9)
    assert "MUSTERMANN" not in repr(ocr.TextFound(words=(word,)))
    assert "MUSTERMANN" not in repr(word)


# Judging


@pytest.mark.parametrize(
    ("words", "family"),
    [
        (("C5-1 3.5MHz",), "US"),
        (("MI 1.1  TIS<0.4",), "US"),
        (("120 kVp", "W: 400 L: 40"), "CT"),
        (("mAs 160", "Algor BF3", "DFOV 25.0cm"), "CT"),
        (("TR: 4000.0", "TE:102"), "MR"),
        (("AX T2 FLAIR",), "MR"),
        (("L-MLO",), "MG"),
        (("R CC",), "MG"),
        (("PORTABLE AP",), "DX"),
        (("LAO 30 CRAN 20",), "XA"),
        (("SUV 0-7",), "PT"),
        (("Tc-99m MDP", "600 kcts"), "NM"),
        (("25 mm/s 10 mm/mV", "aVR", "V1"), "ECG"),
        (("OCT ART (20) Q: 31", "200 \u00b5m"), "OPT"),
        (("EVIS LUCERA", "CECUM"), "ES"),
        (("40X", "50 \u03bcm"), "SM"),
        (("Dose summary", "Patient name: ", "Page 1"), "OTHER"),
    ],
)
def test_what_machines_print(words: tuple[str, ...], family: str) -> None:
    assert heard(*words).label == family


@pytest.mark.parametrize(
    "words", [(), ("",), ("MUSTERMANN ERIKA", "12.03.1970", "R", "St. Mary"), ("1234 5678",)]
)
def test_names_dates_and_numbers_say_nothing(words: tuple[str, ...]) -> None:
    assert text_opinion(words) is None


def test_many_marks_make_more_certain() -> None:
    one, more = heard("120 kVp"), heard("120 kVp", "W: 400 L: 40", "DFOV 25 cm")
    place = FAMILIES.index("CT")
    assert more.probabilities()[place] > one.probabilities()[place]


def test_patterns_are_of_families() -> None:
    names = [pattern.name for pattern in PATTERNS]
    assert len(set(names)) == len(names)
    for pattern in PATTERNS:
        assert set(pattern.shares) <= set(FAMILIES)
        assert 0 < pattern.floor < 1


@given(st.lists(st.text(max_size=200), max_size=12))
def test_any_text_is_judged_and_none_is_repeated(words: list[str]) -> None:
    opinion = text_opinion([*words, "MUSTERMANN 12 MHz"])
    assert opinion is not None
    assert np.isfinite(opinion.log_likelihoods).all()
    assert len(opinion.evidence) <= MAX_EVIDENCE_CHARS
    assert opinion.evidence.startswith("burnt-in text: MHz")
    assert "MUSTERMANN" not in opinion.evidence


def test_patterns_take_linear_time_on_hostile_text() -> None:
    # Bounded, not timed: a pattern that backtracked without bound would never return.
    hostile = ("C5-1 " * 100, "9" * 160, "W: " * 80, "LAO:" * 60, "+ DIST" + " " * 150)
    text_opinion(hostile * 25)
