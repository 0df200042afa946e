from __future__ import annotations

import pytest

from dicom_gateway.ledger.outbox import OutboxError
from dicom_gateway.storing import statuses
from dicom_gateway.storing.statuses import STORE_ERRORS, StoreError, reason_of, status_of
from streams.storage.blobs import BlobError


@pytest.mark.parametrize("error", STORE_ERRORS)
def test_every_error_has_its_row_in_the_documented_table(error: type[StoreError]) -> None:
    name = error.__name__.removesuffix("Error")
    rows = [line.split() for line in (statuses.__doc__ or "").splitlines()]
    assert [name, f"0x{error.status:04X}"] in [row[:2] for row in rows]


def test_no_failure_is_a_success_and_none_shares_a_status() -> None:
    values = [error.status for error in STORE_ERRORS]
    assert len(set(values)) == len(values)
    assert all(value not in (0x0000, 0xFF00, 0xB000) for value in values)
    assert len({error.reason for error in STORE_ERRORS}) == len(STORE_ERRORS)


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (BlobError("full"), 0xA700, "out-of-resources"),
        (OutboxError("full"), 0xA700, "out-of-resources"),
        (OSError(28, "No space left on device"), 0xA700, "out-of-resources"),
        (RuntimeError("a fault of ours"), 0x0110, "processing-failure"),
        (MemoryError(), 0x0110, "processing-failure"),
    ],
)
def test_foreign_errors(error: BaseException, status: int, reason: str) -> None:
    assert (status_of(error), reason_of(error)) == (status, reason)


def test_comment_fits_into_the_error_comment() -> None:
    assert len(StoreError("x" * 500).comment) == 64
