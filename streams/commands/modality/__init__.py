"""`biodatamine modality`: learn what files show from labelled ones, and measure how well."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from streams.commands.common import console, errors, fail, print_json, table
from streams.commands.modality import options as given

app = typer.Typer(
    no_args_is_help=True,
    help="Learn what files show from labelled ones, and measure how well. Needs no server.",
)

Groups = Annotated[
    list[str] | None,
    typer.Option(
        metavar="tags|path|pixels|text",
        help="Leave a group of signals out; may be repeated.",
    ),
]


@app.command()
def train(
    manifests: given.Manifests,
    out: Annotated[Path, typer.Option(help="Folder for the model, its card and its pictures.")],
    root: given.Root = None,
    path_column: given.PathColumn = "path",
    name_column: given.NameColumn = "",
    label_column: given.LabelColumn = "label",
    source_column: given.SourceColumn = "source",
    licence_column: given.LicenceColumn = "licence",
    where: given.Where = None,
    also: Annotated[
        list[Path] | None,
        typer.Option(
            help="More manifests, with the same columns, that are learned from and not counted in "
            "the figures: drawn or made-up pictures."
        ),
    ] = None,
    copies: Annotated[
        int,
        typer.Option(
            min=0,
            help="Augmented copies of a source's only picture; those of large sources get fewer.",
        ),
    ] = 16,
    folds: Annotated[int, typer.Option(min=2, help="Folds of the cross-validation.")] = 5,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    jobs: given.Jobs = 0,
    cache: given.Cache = None,
    text: given.WithText = True,
) -> None:
    """Learn a model from labelled files.

    Writes fusion.json, head.npz, CARD.md, figures.json and pictures to --out. Its figures come from
    models that saw nothing of the sources they were asked about: sources are held out whole.

    Example: biodatamine modality train labels.csv --out my-model
    """
    _needs("sklearn", "matplotlib")
    if out.exists() and not out.is_dir():
        fail(f"--out {out} is a file; name a folder")
    from streams.commands.modality.card import card
    from streams.commands.modality.extraction import embedder_version
    from streams.commands.modality.manifest import Columns
    from streams.commands.modality.pictures import draw
    from streams.commands.modality.training import copies_of
    from streams.commands.modality.training import train as learn
    from streams.modality.model import CARD_FILE, fusion_facts

    columns = Columns(
        path_column, name_column or path_column, label_column, source_column, licence_column
    )
    counted = given.labelled_rows(manifests, columns, root, where)
    more = given.labelled_rows(also, columns, None, None) if also else []
    rows = [*counted, *more]
    real = [place < len(counted) for place in range(len(rows))]
    version = _embedder(embedder_version)
    extracted = given.extract_with_progress(
        rows, copies=copies_of(rows, copies, real), jobs=jobs, cache=cache, with_text=text
    )
    try:
        with errors.status("Learning and cross-validating"):
            trained = learn(
                rows,
                extracted,
                embedder_version=version,
                counted=real,
                folds=folds,
                seed=seed,
            )
    except ValueError as error:
        fail(str(error))
    trained.model.save(out)
    (out / CARD_FILE).write_text(
        card(
            version=trained.model.version,
            embedder=version,
            rows=rows,
            thin=trained.thin,
            measured=trained.measured,
            reliabilities=fusion_facts(trained.model.fusion)["reliabilities"],
            command=_command(),
        ),
        encoding="utf-8",
    )
    _write_json(out / "figures.json", trained.measured)
    draw(trained.measured["all signals"], out)
    for name, found in trained.measured.items():
        console.print(_summary(name, found))
    console.print(f"{out}: {trained.model.version}; read {out / CARD_FILE}")


@app.command()
def evaluate(
    manifests: given.Manifests,
    model: Annotated[
        Path | None, typer.Option(help="Folder of a model; the released one by default.")
    ] = None,
    without: Groups = None,
    corrupt_tags: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of the files whose Modality is made to lie."),
    ] = 0.0,
    root: given.Root = None,
    path_column: given.PathColumn = "path",
    name_column: given.NameColumn = "",
    label_column: given.LabelColumn = "label",
    source_column: given.SourceColumn = "source",
    where: given.Where = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the figures to this file, or - to print.")
    ] = None,
    answers: Annotated[
        Path | None, typer.Option(help="Write every file's answer to this CSV file.")
    ] = None,
    pictures: Annotated[
        Path | None,
        typer.Option(help="Draw the reliability diagram, confusion and ablations in this folder."),
    ] = None,
    ablations: Annotated[
        bool, typer.Option(help="Measure every signal alone, and the fusion without each group.")
    ] = True,
    jobs: given.Jobs = 0,
    cache: given.Cache = None,
    text: given.WithText = True,
) -> None:
    """Measure a model on labelled files, which should be of sources that it has not seen.

    Accuracy counts the likeliest family of each file, given as the answer or not; coverage is the
    share that got an answer. Intervals (95 %) are from resampling sources.

    Example: biodatamine modality evaluate labels.csv --without tags --without path --json out.json
    """
    from streams.commands.modality.evaluation import corrupted, labelled, write_answers
    from streams.commands.modality.evaluation import evaluate as measure
    from streams.commands.modality.manifest import Columns
    from streams.modality.model import RELEASED, ModalityModel, ModelFileError, signals_of

    if pictures is not None:
        _needs("matplotlib")
    for path in (json_file, answers):
        if path is not None and not path.absolute().parent.is_dir():
            fail(f"{path.parent} is no folder, so that {path.name} cannot be written there")
    try:
        unheard = signals_of(without or ())
        learned = ModalityModel.load(model or RELEASED)
    except (ValueError, ModelFileError) as error:
        fail(str(error))
    columns = Columns(path_column, name_column or path_column, label_column, source_column)
    rows = given.labelled_rows(manifests, columns, root, where)
    if "pixels" not in (without or ()):
        _embedder(_checked(learned))
    extracted = given.extract_with_progress(
        rows, jobs=jobs, cache=cache, with_text=text and "text" not in (without or ())
    )
    files = labelled(rows, extracted, learned)
    found = {
        "model": learned.version,
        **measure(
            files,
            learned.fusion,
            thin=sorted(learned.fusion.thin),
            without=without or (),
            corrupt_tags=corrupt_tags,
            ablations=ablations,
        ),
    }
    if answers is not None:
        write_answers(answers, rows, corrupted(files, corrupt_tags), learned.fusion, unheard)
    if pictures is not None:
        from streams.commands.modality.pictures import draw

        draw(found, pictures)
    if str(json_file) == "-":
        print_json(found)
        return
    if json_file is not None:
        _write_json(json_file, found)
    _show(found)


def _show(found: dict[str, Any]) -> None:
    from streams.commands.modality.card import interval

    console.print(_summary(found["model"], found))
    rows = [
        (family, part["files"], part["sources"], interval(part["recall"]), _share(part))
        for family, part in found["per_family"].items()
    ]
    console.print(
        table("by family", ("family", "files", "sources", "recall %", "no answer %"), rows)
    )
    if "ablations" in found:
        compared = [
            (name, _percent(part.get("speaks")), interval(part["accuracy"]))
            for name, part in found["ablations"].items()
        ]
        names = ("asked", "speaks %", "accuracy %, silence counted as wrong")
        console.print(table("by signal", names, compared))
    if "wrong_tags" in found:
        lies = found["wrong_tags"]
        told = [
            ("tags that lie", lies["files_lying"], _percent(lies["flagged_of_lying"])),
            ("tags that are true", lies["files_true"], _percent(lies["flagged_of_true"])),
        ]
        console.print(table("conflicts", ("of", "files", "flagged %"), told))


def _summary(name: str, found: dict[str, Any]) -> Any:
    from streams.commands.modality.card import interval

    keys = (
        "accuracy",
        "source_accuracy",
        "coverage",
        "answered_accuracy",
        "minor_errors",
        "calibration_error",
    )
    rows = [(key.replace("_", " "), interval(found[key])) for key in keys]
    thin = found["thin_families"]
    if thin["files"]:
        rows += [
            (f"abstained on {thin['files']} files of thin families", interval(thin["abstained"])),
            ("confidently wrong on those", interval(thin["confidently_wrong"])),
        ]
    files, sources = found["files"], found["sources"]
    title = f"{name}: {files} files of {sources} sources"
    return table(title, ("figure", "% (95 % interval over sources)"), rows)


def _share(part: dict[str, Any]) -> str:
    return f"{100 * part['abstained']:.1f}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


def _needs(*packages: str) -> None:
    from importlib.util import find_spec

    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        fail(f"{', '.join(missing)} is not installed: pip install 'biodatamine[train]'")


def _embedder(ask: Any) -> str:
    """Name the embedder; end the command when there is none."""
    try:
        return str(ask())
    except ModuleNotFoundError as error:
        fail(f"{error.name} is not installed: pip install 'biodatamine[models]'")
    except Exception as error:  # noqa: BLE001 (weights, and a head of another embedder: both say why)
        fail(str(error))
    raise AssertionError


def _checked(learned: Any) -> Any:
    def ask() -> str:
        from streams.commands.modality.extraction import embedder_version

        version = embedder_version()
        if learned.head is not None:
            learned.head.check(version)
        return version

    return ask


def _write_json(path: Path, value: Any) -> None:
    import orjson

    path.write_bytes(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def _command() -> str:
    """Return the command line without the folders of this machine."""
    words = [Path(word).name if "/" in word else word for word in sys.argv[1:]]
    return " ".join(["biodatamine", *words])
