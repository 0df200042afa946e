"""`biodatamine inspect`: what a file is, from the same rooms as the stream, with no server."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from streams.commands.common import (
    AsJson,
    clear_errors,
    console,
    errors,
    fail,
    print_json,
    table,
)

if TYPE_CHECKING:
    from schemas.facts import Format, HeaderFacts
    from streams.modality.model import ModalityModel
    from streams.pixels import Rendered


def inspect(
    paths: Annotated[list[Path], typer.Argument(help="Files or folders.")],
    model: Annotated[
        Path | None,
        typer.Option(help="Folder made by `modality train`; the released model by default."),
    ] = None,
    network: Annotated[bool, typer.Option(help="Look at the pixels with the network too.")] = True,
    text: Annotated[bool, typer.Option(help="Read burnt-in text.")] = True,
    as_json: AsJson = False,
) -> None:
    """Say what files are and show, with every vote and its evidence.

    Format, modality, header facts, quality, image signals, problems; from the same rooms as the
    stream, with no server. Patient identity appears as a hash whose key lasts for this command
    only.
    """
    from rich.progress import track

    for path in paths:
        if not path.exists():
            fail(f"{path} does not exist")
    files = [(file, _relpath(file, path)) for path in paths for file in walk([path])]
    if not files:
        fail("there are no files in it")
    with clear_errors():
        inspector = Inspector.load(model, network=network, text=text)
    if inspector.without_network:
        errors.print(f"[yellow]no network:[/] {inspector.without_network}", highlight=False)
    shown = track(files, "Looking", console=errors, disable=len(files) < 8, transient=True)
    reports = [inspector.inspect(path, relpath) for path, relpath in shown]
    if as_json:
        print_json(reports)
    elif len(reports) == 1:
        _print_one(reports[0])
    else:
        names = ("file", "format", "modality", "sure", "tag", "size", "shows", "notes")
        console.print(table(f"{len(reports)} files", names, [_row(r) for r in reports]))


def _relpath(file: Path, given: Path) -> str:
    """Return the path from the folder that was named on, its name included."""
    return file.relative_to(given.parent).as_posix() if given.is_dir() else file.name


def walk(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield the regular files under paths, folders in order of their names."""
    for path in paths:
        if path.is_dir():
            yield from (p for p in sorted(path.rglob("*")) if p.is_file())
        elif path.is_file():
            yield path


@dataclass(frozen=True)
class Inspector:
    """Describes files as the stream would, in this process.

    Parameters
    ----------
    patient_key : bytes
        Secret of the pseudonyms.
    model : ModalityModel
        Decides what files show.
    backbone : Backbone or None
        Looks at views; None to do without.
    without_network : str
        Why there is no backbone although one was asked for; empty otherwise.
    text : bool
        Whether to read burnt-in text.
    """

    patient_key: bytes
    model: ModalityModel
    backbone: Any
    without_network: str
    text: bool

    @classmethod
    def load(cls, folder: Path | None, *, network: bool, text: bool) -> Inspector:
        """Load what is there; a network that is not is told, and done without.

        Raises
        ------
        ModelFileError
            The folder holds no model.
        """
        from streams.modality.model import RELEASED, ModalityModel

        model = ModalityModel.load(folder or RELEASED)
        backbone, reason = _backbone_for(model) if network else (None, "")
        return cls(secrets.token_bytes(32), model, backbone, reason, text)

    def inspect(self, path: Path, relpath: str = "") -> dict[str, Any]:
        """Describe one file.

        Parameters
        ----------
        path : Path
            The file.
        relpath : str
            Its path as the path signal is shown it; its name by default.

        Returns
        -------
        dict
            JSON-ready; ``error`` where the file cannot be used, with the reason that its dead
            letter would have.
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
                    context=SniffContext(patient_hash_key=self.patient_key, tenant="inspect"),
                )
            decision = decide_from_header(found.header)
            report |= {
                "size_bytes": size_bytes,
                "format": found.format,
                "format_evidence": found.format_evidence,
                "media_type": found.media_type,
                "modality": decision.model_dump(mode="json") if decision else None,
                "header": found.header.model_dump(
                    mode="json", exclude_none=True, exclude_defaults=True
                ),
                "problems": [problem.model_dump() for problem in found.problems],
            }
            if found.format == "unknown":
                report["outcome"] = "not-an-image"
                return report
            spec = RenderSpec(view_sizes=(), thumbnail_max_side=0, with_display=True)
            answer = render(path, found.format, spec)
        except (SniffError, DecodeError) as error:
            report["error"] = {"reason": error.reason_code, "detail": error.detail}
            return report
        except OSError as error:
            report["error"] = {"reason": "unreadable", "detail": type(error).__name__}
            return report
        if isinstance(answer, NoPixels):
            return report | {"outcome": "no-pixels", "no_pixels": answer.reason}
        report["problems"] += [{"code": w.code, "detail": w.text} for w in answer.warnings]
        return report | self._shown(relpath or path.name, found.format, found.header, answer)

    def _shown(
        self, relpath: str, format_name: Format, header: HeaderFacts, answer: Rendered
    ) -> dict[str, Any]:
        from streams.modality.attributes import attributes
        from streams.modality.evidence import Evidence
        from streams.modality.look import look_at
        from streams.modality.model import decide
        from streams.modality.ocr import read_text
        from streams.modality.text import text_opinion
        from streams.pixels.facts import image_signals, pixel_facts

        assert answer.display is not None
        seen = look_at(
            answer.display,
            view_size=self.backbone.input_size if self.backbone else 0,
            read=read_text if self.text else None,
        )
        evidence = Evidence(
            format=format_name,
            header=header,
            relpath=relpath,
            pixels=pixel_facts(answer),
            signals=image_signals(answer),
            features=seen.features,
            stages=self.backbone.embed_with_stages(seen.views)[1] if self.backbone else None,
            text=text_opinion(seen.words),
        )
        found = attributes(header, relpath, seen.words, evidence.provenance)
        quality = answer.quality.model_dump(exclude_none=True)
        if seen.text_box_count is not None:
            quality["text_box_count"] = seen.text_box_count
            quality["text_area_fraction"] = seen.text_area_fraction
        return {
            "outcome": "decoded",
            "modality": decide(evidence, self.model).model_dump(mode="json"),
            "attributes": [attribute.model_dump(mode="json") for attribute in found],
            "pixels": asdict(answer.info),
            "quality": quality,
            "signals": asdict(answer.signals),
        }


def _backbone_for(model: ModalityModel) -> tuple[Any, str]:
    try:
        from model_repository.backbone import load_backbone
        from model_repository.spec import EmbedderSpec
        from model_repository.weights import WeightsError
    except ModuleNotFoundError as error:
        return None, f"{error.name} is not installed: pip install 'biodatamine[models]'"
    try:
        backbone = load_backbone(EmbedderSpec(device="cpu"))
        if model.head is not None:
            model.head.check(backbone.version)
    except (WeightsError, ValueError) as error:
        return None, str(error)
    return backbone, ""


def _row(report: dict[str, Any]) -> tuple[str, ...]:
    header, pixels = report.get("header", {}), report.get("pixels", {})
    size = f"{pixels['columns']} x {pixels['rows']}" if pixels else ""
    if pixels and pixels["frames"] > 1:
        size += f" x {pixels['frames']}"
    notes = [problem["code"] for problem in report.get("problems", ())]
    if "error" in report:
        notes.insert(0, f"[red]{report['error']['reason']}[/]: {report['error']['detail']}")
    decision = report.get("modality") or {}
    if decision.get("conflict_reason"):
        notes.insert(0, f"[yellow]{decision['conflict_reason']}[/]")
    if decision.get("abstained"):
        notes.insert(0, decision["abstained_reason"])
    sure = decision.get("confidence")
    return (
        escape(Path(report["path"]).name),
        report.get("format", ""),
        decision.get("modality", ""),
        "" if sure is None else f"{sure:.2f}",
        header.get("modality", ""),
        size,
        report.get("no_pixels") or " ".join(header.get("description_terms", ())),
        ", ".join(notes),
    )


def _print_one(report: dict[str, Any]) -> None:
    decision = dict(report.pop("modality", None) or {})
    votes = decision.pop("votes", ())
    rows = [(f"modality.{key}", _short(value)) for key, value in decision.items() if value != ""]
    for attribute in report.pop("attributes", ()):
        rows.append((attribute["name"], _attribute(attribute)))
    for name, value in report.items():
        if isinstance(value, dict):
            # A histogram is for machines: --json has it.
            shown = ((key, inner) for key, inner in value.items() if key != "histogram")
            rows += [(f"{name}.{key}", _short(inner)) for key, inner in shown]
        elif value not in (None, []):
            rows.append((name, escape(_short(value))))
    if votes:
        heard = [
            (vote["signal"], vote["label"], vote["confidence"], vote["weight"], vote["evidence"])
            for vote in votes
        ]
        names = ("signal", "says", "sure", "weight", "because")
        console.print(table("votes", names, heard))
    console.print(table("", ("fact", "value"), rows))


def _attribute(attribute: dict[str, Any]) -> str:
    sure = "" if attribute["confidence"] is None else f" ({attribute['confidence']:.2f})"
    return f"{attribute['value']}{sure}: {attribute['evidence']}"


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, list | tuple) and value and isinstance(value[0], dict):
        return "\n".join(", ".join(str(v) for v in item.values() if v) for item in value)
    if isinstance(value, list | tuple):
        short = [f"{v:.3g}" if isinstance(v, float) else str(v) for v in value]
        return ", ".join(short)
    return str(value)
