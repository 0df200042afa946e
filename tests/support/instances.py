"""Many DICOM instances from one real file: same pixels, a UID of its own each."""

from __future__ import annotations

import hashlib
from io import BytesIO
from pathlib import Path

from pydicom import dcmread

_PLACE = "1.2.826.0.1.3680043.10.1445.999999999999"


def make_instances(folder: Path, count: int, template: Path, *, series: int = 10) -> list[Path]:
    """Write instances that differ in their SOP and Series Instance UIDs, and from folder to folder.

    Parameters
    ----------
    folder : Path
        Where to write them.
    count : int
        How many.
    template : Path
        A real DICOM file.
    series : int
        Over how many series to spread them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    series_uids = [_uid(f"series {index}") for index in range(series)]
    templates = []
    for series_uid in series_uids:
        dataset = dcmread(template)
        dataset.SOPInstanceUID = _PLACE
        dataset.file_meta.MediaStorageSOPInstanceUID = _PLACE
        dataset.SeriesInstanceUID = series_uid
        dataset.StudyInstanceUID = _uid("study")
        buffer = BytesIO()
        dataset.save_as(buffer, enforce_file_format=True)
        templates.append(buffer.getvalue())
    paths = []
    for index in range(count):
        path = folder / f"{index:06d}.dcm"
        uid = _uid(f"{folder.name} {template.name} {index}")
        path.write_bytes(templates[index % series].replace(_PLACE.encode(), uid.encode()))
        paths.append(path)
    return paths


def _uid(name: str) -> str:
    # As long as the place that it takes, so that no length in the file changes.
    digits = str(int(hashlib.sha256(name.encode()).hexdigest(), 16))[: len("999999999999")]
    return _PLACE[: -len("999999999999")] + "1" + digits[1:]
