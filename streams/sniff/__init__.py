"""Bytes to format and header facts: header bytes only, whatever the suffix says."""

from streams.sniff.result import (
    PROBLEM_CODES,
    ReasonCode,
    SniffContext,
    Sniffed,
    SniffError,
    SniffLimits,
)
from streams.sniff.sniffer import sniff

__all__ = [
    "PROBLEM_CODES",
    "ReasonCode",
    "SniffContext",
    "SniffError",
    "SniffLimits",
    "Sniffed",
    "sniff",
]
