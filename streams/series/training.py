"""Rows of the next training manifest: what people corrected or confirmed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from streams.series.feedback import Label

MANIFEST_COLUMNS: Final = (
    "path",
    "label",
    "source",
    "licence",
    "relpath",
    "dataset_id",
    "file_id",
    "image_id",
    "analysed",
    "confidence",
    "author",
    "corrected_at",
    "event_id",
)
"""Columns of a row; the first four are those that ``biodatamine modality train`` asks for."""


@dataclass(frozen=True, slots=True)
class LabelledFile:
    """A file and what holds for its modality.

    Parameters
    ----------
    tenant, dataset_id, file_id, image_id, relpath : str
        As its events have them.
    label : Label
        With the correction that holds.
    patient_key : str or None
        Whose it is: files of one patient must not be split between training and test.
    licence : str
        Terms of its dataset, if known.
    """

    tenant: str
    dataset_id: str
    file_id: str
    image_id: str
    relpath: str
    label: Label
    patient_key: str | None = None
    licence: str = ""


@dataclass(frozen=True, slots=True)
class TrainingRows:
    """Rows to write, and what was left out of them.

    Parameters
    ----------
    rows : tuple of dict
        By ``MANIFEST_COLUMNS``, ordered by image_id, one for each image.
    disputed_count : int
        Images left out because people disagree on a file.
    contradicted_count : int
        Images left out because the same bytes have other labels at other places.
    """

    rows: tuple[dict[str, str], ...]
    disputed_count: int
    contradicted_count: int


def training_rows(files: Iterable[LabelledFile]) -> TrainingRows:
    """Make the rows of files that a person looked at.

    Files without a correction, or with a withdrawn one, are passed over. Of the same bytes at
    several places the first by file_id stands for all, if they agree.

    Parameters
    ----------
    files : iterable of LabelledFile
        Of one tenant; in any order.

    Raises
    ------
    ValueError
        If files of several tenants come together: nobody may train on another's images unasked.
    """
    by_image: dict[str, list[LabelledFile]] = defaultdict(list)
    tenants = set()
    for file in files:
        tenants.add(file.tenant)
        if len(tenants) > 1:
            msg = f"files of tenants {', '.join(sorted(tenants))} do not go into one manifest"
            raise ValueError(msg)
        if file.label.is_confirmed is not None:
            by_image[file.image_id].append(file)
    rows, disputed, contradicted = [], 0, 0
    for _, places in sorted(by_image.items()):
        if any(_is_disputed(place) for place in places):
            disputed += 1
        elif len({place.label.value for place in places}) > 1:
            contradicted += 1
        else:
            rows.append(_row(places))
    return TrainingRows(tuple(rows), disputed, contradicted)


def _is_disputed(file: LabelledFile) -> bool:
    return file.label.correction is not None and file.label.correction.is_disputed


def _row(places: Sequence[LabelledFile]) -> dict[str, str]:
    file = min(places, key=lambda place: place.file_id)
    label, correction = file.label, file.label.correction
    confidence = "" if label.confidence is None else repr(label.confidence)
    return {
        # Where the blob store keeps it, below its root.
        "path": f"{file.image_id[:2]}/{file.image_id}",
        "label": label.value or "",
        "source": file.patient_key or file.dataset_id,
        "licence": file.licence,
        "relpath": file.relpath,
        "dataset_id": file.dataset_id,
        "file_id": file.file_id,
        "image_id": file.image_id,
        "analysed": label.analysed or "",
        "confidence": confidence,
        "author": correction.author if correction else "",
        "corrected_at": correction.corrected_at.isoformat() if correction else "",
        "event_id": correction.event_id if correction else "",
    }
