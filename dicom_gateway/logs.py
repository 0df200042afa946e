"""Logs: one JSON object a line on standard error, with association ids and without patient data."""

from __future__ import annotations

import logging
import sys
import traceback
from pathlib import Path
from typing import Any

import structlog
from pydantic import ValidationError

from dicom_gateway.storing.statuses import StoreError

_MAX_PLACES = 8


def configure_logs(level: int = logging.INFO) -> None:
    """Set up structlog for a gateway process.

    pynetdicom's own records are silenced: they may quote values that a peer sent, and every event
    worth knowing is logged here.
    """
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    # aiokafka repeats each failed attempt; the publisher says once that the log is away.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        # A line and its end in one write: the receive processes share one standard error.
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def refusal_fields(error: BaseException) -> dict[str, Any]:
    """Say why an instance was refused, in the fields of a log line.

    The message of an unforeseen error may quote the dataset; its type and where it arose may not.
    """
    if isinstance(error, StoreError | OSError):
        return {"error": str(error)[:300]}
    said: dict[str, Any] = {"error": type(error).__name__}
    if not isinstance(error, ValidationError):
        said["places"] = places(error)
    return said


def places(error: BaseException) -> list[str]:
    """Tell where an unforeseen error arose, the innermost place last.

    A traceback would end with the error's message, which may quote the dataset.
    """
    frames = traceback.extract_tb(error.__traceback__)[-_MAX_PLACES:]
    return [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]
