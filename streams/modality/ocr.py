"""Reads text that is burnt into a picture, within bounds; the words are for this room only.

The model is PaddleOCR's recognition network as the ``rapidocr`` wheel carries it (Apache-2.0). Of
that package only the model file is used: ``text_lines`` finds machine-drawn text as well as its
detection network does, in a hundredth of the time.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from streams.modality.text_lines import Box, text_likely, text_lines

UInt8Array = npt.NDArray[np.uint8]
Float32Array = npt.NDArray[np.float32]

# Either carries a network: the first a later one, for later versions of Python.
_PACKAGES: Final = ("rapidocr", "rapidocr_onnxruntime")
_RUNTIME: Final = "onnxruntime"
_INSTALL: Final = 'pip install "biodatamine[ocr]"'
# The network's input: rows, least and most columns.
_HEIGHT: Final = 48
_MIN_WIDTH: Final = 48
_MAX_WIDTH: Final = 640
# Lines go through the network together up to this many columns: what is begun takes its time.
_BATCH_COLUMNS: Final = 512
# Room around a line, as a share of its height: the network learned from crops with some.
_MARGIN: Final = 0.2
# Texture is taken for one of the network's thousands of Chinese characters, or for a single digit.
_LETTER = re.compile(r"[A-Za-z0-9]")
_MIN_LETTERS: Final = 2


@dataclass(frozen=True, slots=True)
class ReadLimits:
    """Bounds of reading one picture.

    Parameters
    ----------
    max_seconds : float
        No line is begun after this time.
    max_lines : int
        Most lines that are read.
    min_score : float
        Least mean probability of a line's letters for it to count as read.
    """

    max_seconds: float = 0.8
    max_lines: int = 32
    min_score: float = 0.7


@dataclass(frozen=True, slots=True)
class Word:
    """A line of text that was read.

    Parameters
    ----------
    text : str
        The text. It may name a patient: it must not leave the process.
    box : Box
        Where it stands.
    score : float
        Mean probability of its letters, 0 to 1.
    """

    text: str = field(repr=False)
    box: Box
    score: float


@dataclass(frozen=True, slots=True)
class TextFound:
    """What was found written in a picture.

    Parameters
    ----------
    words : tuple of Word
        Lines that were read.
    boxes : tuple of Box
        Where text stands: the lines that were read, and those that there was no time or no reader
        for.
    area_fraction : float
        Share of the picture that the boxes cover, 0 to 1.
    timed_out : bool
        Whether time ran out before the last line.
    absent : str
        Why nothing could be read, and what to do; empty where a reader was there or not needed.
    """

    words: tuple[Word, ...] = field(default=(), repr=False)
    boxes: tuple[Box, ...] = ()
    area_fraction: float = 0.0
    timed_out: bool = False
    absent: str = ""

    @property
    def texts(self) -> tuple[str, ...]:
        """The text of each line; for ``text_opinion`` and ``attributes`` only."""
        return tuple(word.text for word in self.words)


@dataclass(frozen=True, slots=True)
class AbsentReader:
    """No reader, and why.

    Parameters
    ----------
    reason : str
        What is missing and what to do about it.
    """

    reason: str


class TextReader:
    """The recognition network, on one thread.

    Parameters
    ----------
    session : onnxruntime.InferenceSession
        The network.
    alphabet : sequence of str
        Its classes; the first is the blank of connectionist temporal classification.
    """

    def __init__(self, session: Any, alphabet: Sequence[str]) -> None:
        self._session = session
        self._alphabet = tuple(alphabet)
        self._input = session.get_inputs()[0].name

    @classmethod
    def load(cls) -> TextReader | AbsentReader:
        """Load the network from the wheel; takes half a second, so do it once a process."""
        reason = reader_absent_reason()
        if reason:
            return AbsentReader(reason)
        path = _model_file()
        if path is None:
            return AbsentReader(f"{_PACKAGES[0]} carries no recognition network; {_INSTALL}")
        try:
            onnxruntime = import_module(_RUNTIME)
            options = onnxruntime.SessionOptions()
            # Pictures are decoded in as many processes as there are cores.
            options.intra_op_num_threads = 1
            options.inter_op_num_threads = 1
            options.log_severity_level = 3
            session = onnxruntime.InferenceSession(
                str(path), sess_options=options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # noqa: BLE001 - a runtime that cannot start is an absent one
            return AbsentReader(f"{_RUNTIME} cannot load the network ({type(error).__name__})")
        letters = session.get_modelmeta().custom_metadata_map["character"].splitlines()
        return cls(session, ("", *letters, " "))

    def read(
        self,
        display: UInt8Array,
        lines: Sequence[Box],
        limits: ReadLimits = ReadLimits(),
        clock: Callable[[], float] = time.monotonic,
    ) -> TextFound:
        """Read lines.

        Parameters
        ----------
        display : ndarray
            uint8 ``[H, W]`` or ``[H, W, 3]``.
        lines : sequence of Box
            Of ``text_lines``.
        limits : ReadLimits
            Bounds to hold.
        clock : callable
            Seconds of a clock that never goes back.

        Returns
        -------
        TextFound
            Words that were read with enough certainty. What looked like text and could not be
            read is no text.
        """
        deadline = clock() + limits.max_seconds
        # Long lines say most.
        chosen = sorted(lines, key=_input_width, reverse=True)[: limits.max_lines]
        words: list[Word] = []
        unread: list[Box] = []
        for batch in _batches(chosen):
            if clock() >= deadline:
                unread += batch
                continue
            for box, (text, score) in zip(batch, self._recognise(display, batch), strict=True):
                if score >= limits.min_score and len(_LETTER.findall(text)) >= _MIN_LETTERS:
                    words.append(Word(text, box, score))
        unread += [box for box in lines if box not in chosen]
        boxes = (*(word.box for word in words), *unread)
        words.sort(key=lambda word: (word.box.top, word.box.left))
        return TextFound(
            tuple(words), boxes, _area_fraction(boxes, display), timed_out=bool(unread)
        )

    def _recognise(self, display: UInt8Array, lines: Sequence[Box]) -> list[tuple[str, float]]:
        width = max(_input_width(line) for line in lines)
        crops = np.stack([_crop(display, line, width) for line in lines])
        (scores,) = self._session.run(None, {self._input: crops})
        return [self._decode(row) for row in np.asarray(scores, dtype=np.float32)]

    def _decode(self, scores: Float32Array) -> tuple[str, float]:
        """Drop repeats and blanks of the best path (Graves et al., ICML 2006)."""
        best = scores.argmax(axis=1)
        kept = best != 0
        kept[1:] &= best[1:] != best[:-1]
        if not kept.any():
            return "", 0.0
        text = "".join(self._alphabet[i] for i in best[kept] if i < len(self._alphabet))
        return text.strip(), float(scores.max(axis=1)[kept].mean())


def read_text(
    display: UInt8Array,
    limits: ReadLimits = ReadLimits(),
    clock: Callable[[], float] = time.monotonic,
) -> TextFound:
    """Find and read burnt-in text, with this process's reader.

    Parameters
    ----------
    display : ndarray
        uint8 ``[H, W]`` or ``[H, W, 3]`` at full resolution.
    limits : ReadLimits
        Bounds to hold.
    clock : callable
        Seconds of a clock that never goes back.

    Returns
    -------
    TextFound
        Empty where no text is likely; with boxes only, and the reason, where there is no reader.
    """
    lines = text_lines(display)
    if not text_likely(lines):
        return TextFound()
    reader = _reader()
    if isinstance(reader, AbsentReader):
        return TextFound(
            boxes=lines, area_fraction=_area_fraction(lines, display), absent=reader.reason
        )
    return reader.read(display, lines, limits, clock)


@cache
def _reader() -> TextReader | AbsentReader:
    return TextReader.load()


def reader_absent_reason() -> str:
    """Say why text cannot be read here, without loading the model; empty where it can."""
    if not any(map(_is_installed, _PACKAGES)):
        return f"{_PACKAGES[0]} is not installed; {_INSTALL}"
    if not _is_installed(_RUNTIME):
        return f"{_RUNTIME} is not installed; {_INSTALL}"
    return ""


def _is_installed(package: str) -> bool:
    return find_spec(package) is not None


def _model_file() -> Path | None:
    for package in _PACKAGES:
        spec = find_spec(package)
        if spec is not None and spec.origin is not None:
            for path in sorted((Path(spec.origin).parent / "models").glob("*_rec_*.onnx")):
                return path
    return None


def _batches(lines: Sequence[Box]) -> Iterator[list[Box]]:
    """Group lines, sorted from the widest on, into runs of the network."""
    batch: list[Box] = []
    for line in lines:
        if batch and (len(batch) + 1) * _input_width(batch[0]) > _BATCH_COLUMNS:
            yield batch
            batch = []
        batch.append(line)
    if batch:
        yield batch


def _input_width(line: Box) -> int:
    """Return the columns of a line at the network's height, in steps that batches share."""
    ratio = (line.right - line.left) / max(1, line.bottom - line.top) / (1 + 2 * _MARGIN) + 0.4
    return int(np.clip(-(-ratio * _HEIGHT // 32) * 32, _MIN_WIDTH, _MAX_WIDTH))


def _crop(display: UInt8Array, line: Box, width: int) -> Float32Array:
    """Cut out a line with a margin; float32 ``[3, 48, width]``, -1 to 1, padded with grey."""
    margin = max(2, round(_MARGIN * (line.bottom - line.top)))
    top, left = max(0, line.top - margin), max(0, line.left - margin)
    piece = display[top : line.bottom + margin, left : line.right + margin]
    grey = Image.fromarray(np.ascontiguousarray(piece)).convert("L")
    columns = min(width, max(1, round(grey.width * _HEIGHT / grey.height)))
    small = np.asarray(grey.resize((columns, _HEIGHT), Image.Resampling.BILINEAR), dtype=np.float32)
    crop = np.zeros((3, _HEIGHT, width), dtype=np.float32)
    crop[:, :, :columns] = small / 127.5 - 1.0
    return crop


def _area_fraction(boxes: Sequence[Box], display: UInt8Array) -> float:
    total = display.shape[0] * display.shape[1]
    return min(1.0, sum(box.area for box in boxes) / total)
