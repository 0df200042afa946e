from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_gateway.storing.statuses import DatasetTooLargeError, OutOfResourcesError
from dicom_gateway.threaded.spool import SpooledDataset


def spooled(folder: Path, memory_bytes: int = 10, max_bytes: int = 100) -> SpooledDataset:
    return SpooledDataset(memory_bytes=memory_bytes, max_bytes=max_bytes, folder=folder)


@given(pieces=st.lists(st.binary(max_size=20), max_size=6))
def test_gives_back_what_was_written_from_memory_or_file(pieces: list[bytes]) -> None:
    dataset = spooled(Path(tempfile.gettempdir()), max_bytes=1000)
    for piece in pieces:
        assert dataset.write(piece) == len(piece)
    whole = b"".join(pieces)
    with dataset.view() as view:
        assert bytes(view) == whole
    assert dataset.size_bytes == len(whole)
    dataset.close()


def test_leaves_memory_and_leaves_no_name(tmp_path: Path) -> None:
    dataset = spooled(tmp_path)
    dataset.write(b"x" * 9)
    assert len(dataset.getvalue()) == 9
    dataset.write(b"y" * 9)
    assert dataset.getvalue() == b""
    assert list(tmp_path.iterdir()) == []
    with dataset.view() as view:
        assert bytes(view) == b"x" * 9 + b"y" * 9
    dataset.close()


def test_too_long_is_dropped_and_told(tmp_path: Path) -> None:
    dataset = spooled(tmp_path)
    for _ in range(30):
        dataset.write(b"x" * 9)
    with pytest.raises(DatasetTooLargeError), dataset.view():
        pass
    dataset.close()


def test_no_space_is_told_not_raised(tmp_path: Path) -> None:
    dataset = spooled(tmp_path / "missing")
    dataset.write(b"x" * 50)
    with pytest.raises(OutOfResourcesError), dataset.view():
        pass
