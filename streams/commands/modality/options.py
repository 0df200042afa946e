"""Options that the commands on labelled files share, and how a manifest becomes rows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from streams.commands.common import fail, progress_bar
from streams.commands.modality.extraction import Extracted, extract
from streams.commands.modality.manifest import Columns, ManifestError, Row, read_manifest

Manifests = Annotated[
    list[Path],
    typer.Argument(
        help="CSV files with a header line and at least the columns path, label and source."
    ),
]
Root = Annotated[
    Path | None,
    typer.Option(help="What the paths are relative to; each manifest's own folder by default."),
]
PathColumn = Annotated[str, typer.Option(help="Column that names the file.")]
NameColumn = Annotated[
    str,
    typer.Option(
        help="Column with the path that the path signal is shown, where files were renamed; "
        "the path column by default."
    ),
]
LabelColumn = Annotated[
    str, typer.Option(help="Column with what the file shows: CT, MR, CR/DX, non-medical, ...")
]
SourceColumn = Annotated[
    str,
    typer.Option(
        help="Column with where the file comes from (a hospital, data set, patient); files of one "
        "source are never split."
    ),
]
LicenceColumn = Annotated[str, typer.Option(help="Column with the licence, for the model card.")]
Where = Annotated[
    list[str] | None,
    typer.Option(metavar="COLUMN=VALUE", help="Take only rows with this value; may be repeated."),
]
Jobs = Annotated[int, typer.Option(min=0, help="Processes; 0 takes every core.")]
Cache = Annotated[
    Path | None,
    typer.Option(
        help="Folder that keeps what was extracted of each file, so that the next run is quick: "
        "technical header facts, measurements and activations; no pixels, no text, no identities, "
        "no dates.",
    ),
]
WithText = Annotated[
    bool, typer.Option("--text/--no-text", help="Read burnt-in text (needs the extra `ocr`).")
]


def labelled_rows(
    manifests: list[Path], columns: Columns, root: Path | None, where: list[str] | None
) -> list[Row]:
    """Read the rows whose labels name a family; tell of the others.

    Raises
    ------
    typer.Exit
        A manifest cannot be used; the error was printed.
    """
    wanted: dict[str, str] = {}
    for condition in where or ():
        column, sign, value = condition.partition("=")
        if not sign:
            fail(f"--where {condition}: write COLUMN=VALUE")
        wanted[column] = value
    rows: list[Row] = []
    try:
        for manifest in manifests:
            rows += read_manifest(manifest, columns=columns, root=root, where=wanted)
    except ManifestError as error:
        fail(str(error))
    strange = sorted({row.label for row in rows if row.family is None})
    if strange:
        count = sum(row.family is None for row in rows)
        typer.echo(
            f"{count} rows are left out, for their labels name no modality: {', '.join(strange)}",
            err=True,
        )
    known = [row for row in rows if row.family is not None]
    if not known:
        fail("no row has a label that names a modality: CT, MR, US, CR/DX, MG, non-medical, ...")
    return known


def extract_with_progress(
    rows: list[Row],
    *,
    copies: list[int] | None = None,
    jobs: int,
    cache: Path | None,
    with_text: bool,
) -> list[Extracted]:
    """Extract all rows under a progress bar; tell how many had no usable pixels.

    Raises
    ------
    typer.Exit
        There are no weights for the embedder, or a package is missing.
    """
    with progress_bar() as bar:
        task = bar.add_task("Looking at files", total=len(rows))
        found = extract(
            rows,
            copies=copies,
            with_text=with_text,
            jobs=jobs,
            kept_in=cache,
            on_progress=lambda done: bar.update(task, completed=done),
        )
    reasons: dict[str, int] = {}
    for extracted in found:
        if extracted.problem:
            reasons[extracted.problem] = reasons.get(extracted.problem, 0) + 1
    if reasons:
        told = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
        typer.echo(f"{sum(reasons.values())} files without usable pixels: {told}", err=True)
    return found
