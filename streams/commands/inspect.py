"""`biodatamine inspect`: what a file is, from the same rooms as the stream, with no server."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from streams.commands.common import AsJson, console, errors, fail, print_json, table


def inspect(
    paths: Annotated[list[Path], typer.Argument(help="Files or folders.")],
    as_json: AsJson = False,
) -> None:
    """Say what files are: format, modality, header facts, image signals, problems.

    Patient identity appears as a hash whose key lasts for this command only.
    """
    from rich.progress import track

    for path in paths:
        if not path.exists():
            fail(f"{path} does not exist")
    files = list(walk(paths))
    key = secrets.token_bytes(32)
    shown = track(files, "Looking", console=errors, disable=len(files) < 8, transient=True)
    reports = [inspect_file(path, key) for path in shown]
    if as_json:
        print_json(reports)
    elif len(reports) == 1:
        _print_one(reports[0])
    else:
        names = ("file", "format", "modality", "size", "shows", "notes")
        console.print(table(f"{len(reports)} files", names, [_row(r) for r in reports]))


def walk(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield the regular files under paths, folders in order of their names."""
    for path in paths:
        if path.is_dir():
            yield from (p for p in sorted(path.rglob("*")) if p.is_file())
        elif path.is_file():
            yield path


def inspect_file(path: Path, patient_key: bytes) -> dict[str, Any]:
    """Describe one file.

    Parameters
    ----------
    path : Path
        The file.
    patient_key : bytes
        Secret of the pseudonyms.

    Returns
    -------
    dict
        JSON-ready; ``error`` where the file cannot be used, with the reason that its dead letter
        would have.
    """
    from streams.modality.header import decide_from_header
    from streams.pixels import DecodeError, NoPixels, RenderSpec, render
    from streams.sniff import SniffContext, SniffError, sniff

    report: dict[str, Any] = {"path": str(path)}
    try:
        size_bytes = path.stat().st_size
        with path.open("rb") as source:
            found = sniff(
                source,
                size_bytes=size_bytes,
                name=path.name,
                context=SniffContext(patient_hash_key=patient_key, tenant="inspect"),
            )
        decision = decide_from_header(found.header)
        report |= {
            "size_bytes": size_bytes,
            "format": found.format,
            "format_evidence": found.format_evidence,
            "media_type": found.media_type,
            "header": found.header.model_dump(
                mode="json", exclude_none=True, exclude_defaults=True
            ),
            "modality": decision.model_dump(mode="json") if decision else None,
            "problems": [problem.model_dump() for problem in found.problems],
        }
        if found.format == "unknown":
            report["outcome"] = "not-an-image"
            return report
        answer = render(path, found.format, RenderSpec(view_sizes=()))
    except (SniffError, DecodeError) as error:
        report["error"] = {"reason": error.reason_code, "detail": error.detail}
        return report
    except OSError as error:
        report["error"] = {"reason": "unreadable", "detail": type(error).__name__}
        return report
    if isinstance(answer, NoPixels):
        return report | {"outcome": "no-pixels", "no_pixels": answer.reason}
    report["problems"] += [{"code": w.code, "detail": w.text} for w in answer.warnings]
    return report | {
        "outcome": "decoded",
        "pixels": asdict(answer.info),
        "signals": asdict(answer.signals),
        "quality": answer.quality.model_dump(exclude_none=True),
    }


def _row(report: dict[str, Any]) -> tuple[str, ...]:
    header, pixels = report.get("header", {}), report.get("pixels", {})
    size = f"{pixels['columns']} x {pixels['rows']}" if pixels else ""
    if pixels and pixels["frames"] > 1:
        size += f" x {pixels['frames']}"
    notes = [problem["code"] for problem in report.get("problems", ())]
    if "error" in report:
        notes.insert(0, f"[red]{report['error']['reason']}[/]: {report['error']['detail']}")
    return (
        Path(report["path"]).name,
        report.get("format", ""),
        header.get("modality", ""),
        size,
        report.get("no_pixels") or " ".join(header.get("description_terms", ())),
        ", ".join(notes),
    )


def _print_one(report: dict[str, Any]) -> None:
    rows = []
    for name, value in report.items():
        if isinstance(value, dict):
            # A histogram is for machines: --json has it.
            shown = ((key, inner) for key, inner in value.items() if key != "histogram")
            rows += [(f"{name}.{key}", _short(inner)) for key, inner in shown]
        elif value not in (None, []):
            rows.append((name, _short(value)))
    console.print(table("", ("fact", "value"), rows))


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, list | tuple) and value and isinstance(value[0], dict):
        return "\n".join(", ".join(str(v) for v in item.values() if v) for item in value)
    if isinstance(value, list | tuple):
        short = [f"{v:.3g}" if isinstance(v, float) else str(v) for v in value]
        return ", ".join(short)
    return str(value)
