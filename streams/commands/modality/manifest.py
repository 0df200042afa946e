"""Reads the CSV that says which files show what, and where they come from."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from streams.modality.labels import family_of


class ManifestError(ValueError):
    """A manifest that cannot be used; the message says what to change."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns hold what.

    Parameters
    ----------
    path
        The file, relative to the root.
    name
        The path that the path signal is shown.
    label
        What the file shows: a DICOM modality code or a common name for one.
    source
        Where it comes from; files of one source are never split.
    licence
        Under which terms; optional, for the model card.
    """

    path: str = "path"
    name: str = "path"
    label: str = "label"
    source: str = "source"
    licence: str = "licence"


@dataclass(frozen=True, slots=True)
class Row:
    """One labelled file.

    Parameters
    ----------
    file
        Where it lies.
    name
        What the path signal is shown of its path.
    family
        What it shows; None when its label names no family.
    label, source, licence
        As the manifest has them.
    """

    file: Path
    name: str
    family: str | None
    label: str
    source: str
    licence: str


def read_manifest(
    manifest: Path,
    *,
    columns: Columns | None = None,
    root: Path | None = None,
    where: Mapping[str, str] | None = None,
) -> list[Row]:
    """Read a manifest.

    Parameters
    ----------
    manifest : Path
        A CSV file with a header line.
    columns : Columns, optional
        Names of its columns.
    root : Path, optional
        What paths are relative to; the manifest's folder by default.
    where : mapping, optional
        Keep rows whose columns have these values.

    Raises
    ------
    ManifestError
        It cannot be read, lacks a column, holds no row, or names a file that is not there.
    """
    columns = columns or Columns()
    root = root or manifest.parent
    try:
        with manifest.open(newline="", encoding="utf-8-sig") as text:
            reader = csv.DictReader(text)
            found = list(reader.fieldnames or ())
            records = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(f"{manifest} cannot be read: {error}") from error
    needed = {
        "--path-column": columns.path,
        "--name-column": columns.name,
        "--label-column": columns.label,
        "--source-column": columns.source,
    }
    for option, name in needed.items():
        if name not in found:
            raise ManifestError(
                f"{manifest} has no column {name!r}; it has {', '.join(found) or 'none'}: "
                f"name the right one by {option}"
            )
    for name in where or {}:
        if name not in found:
            raise ManifestError(f"{manifest} has no column {name!r} to choose rows by")
    rows = [
        _row(record, columns, root)
        for record in records
        if all(record[name] == value for name, value in (where or {}).items())
    ]
    if not rows:
        raise ManifestError(f"{manifest} has no rows" + (" that were asked for" if where else ""))
    missing = [row.file for row in rows if not row.file.is_file()]
    if missing:
        raise ManifestError(
            f"{len(missing)} of the {len(rows)} files are not there, {missing[0]} among them: "
            "say by --root what the paths are relative to"
        )
    return rows


def _row(record: Mapping[str, str], columns: Columns, root: Path) -> Row:
    label = (record[columns.label] or "").strip()
    return Row(
        file=root / record[columns.path],
        name=record[columns.name] or "",
        family=family_of(label),
        label=label,
        source=record[columns.source] or "",
        licence=record.get(columns.licence) or "",
    )


def sources_per_family(rows: Sequence[Row]) -> dict[str, int]:
    """Count the sources of each family."""
    pairs = {(row.family, row.source) for row in rows if row.family}
    return dict(Counter(family for family, _ in pairs if family))
