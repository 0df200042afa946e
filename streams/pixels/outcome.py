"""How a decode can end without an image: a closed list of failures, and files without pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

ReasonCode = Literal[
    "empty",
    "truncated",
    "corrupt",
    "inconsistent-header",
    "too-many-pixels",
    "too-many-bytes",
    "too-many-elements",
    "decompression-bomb",
    "unsupported-format",
    "unsupported-transfer-syntax",
    "unsupported-layout",
    "unsupported-compression",
    "missing-companion",
    "unreadable",
    "out-of-memory",
    "too-deep",
]
NoPixelsReason = Literal[
    "structured-report",
    "encapsulated-document",
    "rt-structure-set",
    "rt-plan",
    "waveform",
    "presentation-state",
    "directory",
    "registration",
    "surface-or-fiducials",
    "spectroscopy",
    "raw-data",
    "video",
    "no-pixel-element",
]

REASON_CODES: tuple[str, ...] = get_args(ReasonCode)
NO_PIXELS_REASONS: tuple[str, ...] = get_args(NoPixelsReason)


class DecodeError(Exception):
    """The only exception that leaves this room.

    Parameters
    ----------
    reason_code
        One of ``REASON_CODES``.
    detail
        Text for a person. It is made of numbers of the image header (sizes, counts) and fixed
        wording; it never quotes a header string or a library's message, because both can carry
        patient data.
    """

    def __init__(self, reason_code: ReasonCode, detail: str) -> None:
        super().__init__(reason_code, detail)
        self.reason_code: ReasonCode = reason_code
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason_code}: {self.detail}"


def is_control_flow(error: BaseException) -> bool:
    """Tell an interrupt from a failure: a panic in a Rust codec is a BaseException as well."""
    return isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit))


@dataclass(frozen=True, slots=True)
class NoPixels:
    """A readable file that has no image in it, such as a report or a structure set.

    Parameters
    ----------
    reason
        One of ``NO_PIXELS_REASONS``.
    """

    reason: NoPixelsReason
