"""Looks at one damaged file as the worker does, and tells what it cost."""

from __future__ import annotations

import io
import time
from dataclasses import dataclass
from pathlib import Path

from streams.pixels import REASON_CODES, DecodeError, NoPixels, RenderSpec, render
from streams.sniff import PROBLEM_CODES, SniffContext, SniffError, SniffLimits, sniff

CONTEXT = SniffContext(b"0123456789abcdef")
_SPEC = RenderSpec(view_sizes=(224,))
_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Examined:
    """What came of one file.

    Parameters
    ----------
    format : str
        What sniffing answered; empty where the file has no bytes.
    outcomes : tuple of str
        What rendering answered, as the sniffed format and as the one that it was made of.
    faults : tuple of str
        What must not be: an exception that is none of the contract, a broken promise.
    sniff_seconds, render_seconds : float
        CPU time of both, the slowest rendering: what else the machine does counts little.
    memory_bytes : int
        Growth of the process at its peak; 0 where the kernel does not tell.
    """

    format: str
    outcomes: tuple[str, ...]
    faults: tuple[str, ...]
    sniff_seconds: float
    render_seconds: float
    memory_bytes: int


def examine(job: tuple[bytes, str]) -> Examined:
    """Sniff and render a file; runs in a process of its own.

    Parameters
    ----------
    job : tuple of bytes and str
        The file, and the format of the sound one that it was made of.
    """
    data, made_of = job
    faults: list[str] = []
    before = _reset_peak()
    began = time.process_time()
    found = _sniffed(data, faults)
    sniff_seconds = time.process_time() - began
    outcomes = []
    render_seconds = 0.0
    for name in dict.fromkeys((found, made_of)):
        if name in ("", "unknown"):
            continue
        began = time.process_time()
        outcomes.append(f"{name}: {_rendered(data, name, faults)}")
        render_seconds = max(render_seconds, time.process_time() - began)
    return Examined(
        format=found,
        outcomes=tuple(outcomes),
        faults=tuple(faults),
        sniff_seconds=sniff_seconds,
        render_seconds=render_seconds,
        memory_bytes=max(0, _memory("VmHWM") - before) if before else 0,
    )


def _sniffed(data: bytes, faults: list[str]) -> str:
    try:
        found = sniff(io.BytesIO(data), size_bytes=len(data), name="x.bin", context=CONTEXT)
    except SniffError as error:
        if data:
            faults.append(f"sniff: {error.reason_code}")
        return ""
    codes = {problem.code for problem in found.problems}
    if "reader-fault" in codes or not codes <= set(PROBLEM_CODES):
        faults.append(f"sniff: {[p.detail for p in found.problems if p.code == 'reader-fault']}")
    if found.bytes_read > SniffLimits().header_bytes or len(found.problems) > 32:
        faults.append(f"sniff: {found.bytes_read} bytes read, {len(found.problems)} problems")
    found.header.model_dump_json()
    return found.format


def _rendered(data: bytes, format_name: str, faults: list[str]) -> str:
    try:
        answer = render(data, format_name, _SPEC)
    except DecodeError as error:
        if error.reason_code not in REASON_CODES:
            faults.append(f"render: {error.reason_code}")
        return error.reason_code
    except MemoryError:
        faults.append("render: MemoryError")
        return "memory"
    except Exception as error:  # noqa: BLE001 - to find these is what this is for
        faults.append(f"render: {type(error).__name__}: {error}"[:200])
        return "raised"
    if isinstance(answer, NoPixels):
        return answer.reason
    answer.quality.model_dump_json()
    if answer.views[0].shape != (224, 224, 3) or not answer.thumbnail:
        faults.append("render: no view or thumbnail")
    return "decoded"


def _reset_peak() -> int:
    """Start the peak anew; return the present size in bytes, 0 where that cannot be done."""
    try:
        _CLEAR.write_text("5", encoding="ascii")
    except OSError:
        return 0
    return _memory("VmRSS")


def _memory(field: str) -> int:
    for line in _STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    return 0
