"""What sniffing takes and what it answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from schemas.facts import Format, HeaderFacts, Problem

MIN_KEY_BYTES = 16

ReasonCode = Literal["empty", "unreadable"]
"""Why a file cannot even be a row: it has no bytes, or its bytes could not be read."""

PROBLEM_CODES: dict[str, str] = {
    "corrupt-gzip": "a gzip stream that cannot be inflated",
    "depth-limit": "sequences are nested deeper than the limit",
    "element-limit": "the header has more elements than the limit",
    "encoding-mismatch": "the data set is encoded otherwise than its transfer syntax says",
    "format-by-name": "only the name says what the file is",
    "header-limit": "the header is longer than what is read of a file",
    "invalid-value": "a header field whose value its type does not allow; the detail names it",
    "malformed-header": "the header breaks its format's structure; facts so far are kept",
    "missing-file-meta": "a DICOM file without file meta information (group 0002)",
    "more-problems": "there were more problems than are kept",
    "oversized-value": "a header field longer than the limit; the detail names it",
    "reader-fault": "a header reader failed in an unforeseen way; worth a bug report",
    "suffix-mismatch": "the suffix names another format than the bytes",
    "truncated": "the file ends before its header or its header's promise does",
    "unknown-format": "no known image format; the detail says what it looks like",
    "unsupported-format": "an image format that is named but not read",
}
"""Every problem code that sniffing gives, and what it means."""


class SniffError(Exception):
    """The file cannot be a row.

    Parameters
    ----------
    reason_code : ReasonCode
        From a closed list; it becomes the dead letter's reason.
    detail : str
        What to look at, without content of the file.
    """

    def __init__(self, reason_code: ReasonCode, detail: str) -> None:
        super().__init__(f"{reason_code}: {detail}")
        self.reason_code: ReasonCode = reason_code
        self.detail = detail


@dataclass(frozen=True)
class SniffLimits:
    """Bounds of what one file may cost.

    Parameters
    ----------
    header_bytes : int
        Most bytes read of a file, whatever its size.
    first_read_bytes, next_read_bytes : int
        Size of the first read and of each later one.
    inflated_bytes : int
        Most bytes that a gzip or deflate stream may grow to.
    elements : int
        Most DICOM elements, items included, that are walked over.
    depth : int
        Deepest nesting of DICOM sequences that is walked over.
    value_bytes : int
        Longest value of one header field.
    image_directories : int
        Most TIFF directories, JPEG segments or PNG chunks that are followed.
    """

    header_bytes: int = 1 << 20
    first_read_bytes: int = 16 << 10
    next_read_bytes: int = 4 << 10
    inflated_bytes: int = 1 << 20
    elements: int = 20_000
    depth: int = 32
    value_bytes: int = 4 << 10
    image_directories: int = 128


@dataclass(frozen=True)
class SniffContext:
    """For whom a file is read, and how far.

    Parameters
    ----------
    patient_hash_key : bytes
        Secret of the installation, at least 16 bytes; keys of patients, sites and devices are
        made with it.
    tenant : str
        Whose file it is; the same patient has another key at another tenant.
    limits : SniffLimits
        Bounds of what one file may cost.

    Raises
    ------
    ValueError
        If the key is too short.
    """

    patient_hash_key: bytes = field(repr=False)
    tenant: str = "default"
    limits: SniffLimits = SniffLimits()

    def __post_init__(self) -> None:
        if len(self.patient_hash_key) < MIN_KEY_BYTES:
            msg = (
                f"the patient hash key must have at least {MIN_KEY_BYTES} bytes; "
                "set BIODATAMINE_PATIENT_HASH_KEY"
            )
            raise ValueError(msg)


@dataclass(frozen=True)
class Sniffed:
    """What the first bytes of a file say.

    Parameters
    ----------
    format : Format
        What the file is.
    format_evidence : str
        Why, in words; never content of the file.
    media_type : str
        IANA media type, or its usual unregistered name.
    header : HeaderFacts
        The allow-list of header fields.
    problems : tuple of Problem
        What a reader should know; codes are the keys of ``PROBLEM_CODES``.
    suffix : str
        The file name's suffix if it is a known one, else empty: a suffix can be anything, a
        person's name too.
    bytes_read : int
        How many bytes of the file were read for this.
    """

    format: Format
    format_evidence: str
    media_type: str
    header: HeaderFacts = field(default_factory=HeaderFacts)
    problems: tuple[Problem, ...] = ()
    suffix: str = ""
    bytes_read: int = 0
