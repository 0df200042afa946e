"""Write a Triton model repository with the embedder that a person chose.

``python -m model_repository.render TARGET --backbone NAME --weights FILE`` writes one for a Triton
container, too. The model's shell imports this package, so the python that Triton's python backend
runs must have it: installed (``pip install biodatamine[models]``), or on ``PYTHONPATH``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from model_repository.spec import HUB, EmbedderSpec

MODEL_NAME = "embedder"
MAX_BATCH_SIZE = 64
# Long enough for workers that send at the same moment to share a pass, far below the cost of a
# pass.
MAX_QUEUE_DELAY_MICROSECONDS = 1000

_PACKAGE = Path(__file__).resolve().parent
_SHELL = Path("1", "model.py")
_INSTANCE_KIND = {"auto": "KIND_AUTO", "cpu": "KIND_CPU"}


@dataclass(frozen=True)
class ModelRepository:
    """A written repository and what the server needs to serve it.

    Parameters
    ----------
    path
        For ``tritonserver --model-repository``.
    environment
        For tritonserver's environment: ``PYTHONPATH`` with this package, for when it is not
        installed. Put it before a ``PYTHONPATH`` that is already there.
    """

    path: Path
    environment: dict[str, str]


def render(target_dir: Path, spec: EmbedderSpec | None = None) -> ModelRepository:
    """Write the model repository of one embedder; what an earlier call wrote is replaced.

    Nothing is imported that is slow to import, and weights are not looked for: a model without
    weights is Triton's to report, with the reason, in its repository index.

    Parameters
    ----------
    target_dir
        Folder for the repository; made if it is not there. Only ``embedder`` below it is touched.
    spec
        The embedder; the default one if left out.

    Raises
    ------
    OSError
        The folder cannot be written.
    """
    spec = _anchored(spec or EmbedderSpec())
    model = target_dir / MODEL_NAME
    (model / _SHELL).parent.mkdir(parents=True, exist_ok=True)
    (model / "config.pbtxt").write_text(render_config(spec), encoding="utf-8")
    (model / _SHELL).write_bytes((_PACKAGE / MODEL_NAME / _SHELL).read_bytes())
    return ModelRepository(target_dir.absolute(), {"PYTHONPATH": str(_PACKAGE.parent)})


def _anchored(spec: EmbedderSpec) -> EmbedderSpec:
    """Make a weights path independent of the folder in which the server is started."""
    if not spec.weights or spec.weights == HUB:
        return spec
    return replace(spec, weights=str(Path(spec.weights).expanduser().absolute()))


def render_config(spec: EmbedderSpec) -> str:
    """Return the text of ``config.pbtxt`` for an embedder.

    Inputs and outputs are not in it: the model completes them from the backbone when Triton loads
    it.
    """
    kind = _INSTANCE_KIND.get(spec.device, "KIND_GPU" if spec.device == "cuda" else "KIND_CPU")
    lines = [
        "# Written by model_repository/render.py.",
        "# Inputs and outputs follow from the backbone: 1/model.py adds them.",
        f"name: {_quoted(MODEL_NAME)}",
        'backend: "python"',
        f"max_batch_size: {MAX_BATCH_SIZE}",
        f"dynamic_batching {{ max_queue_delay_microseconds: {MAX_QUEUE_DELAY_MICROSECONDS} }}",
        f"instance_group [ {{ count: 1, kind: {kind} }} ]",
    ]
    lines += [
        f"parameters {{ key: {_quoted(key)}, value {{ string_value: {_quoted(value)} }} }}"
        for key, value in spec.as_parameters().items()
    ]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    r"""Quote a string for protobuf's text format; other bytes than printable ASCII as ``\ooo``."""
    plain = set(range(0x20, 0x7F)) - set(b'"\\')
    escaped = "".join(
        chr(byte) if byte in plain else f"\\{byte:03o}" for byte in text.encode("utf-8")
    )
    return f'"{escaped}"'


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a repository from the command line and print what to give to tritonserver."""
    parser = argparse.ArgumentParser(prog="python -m model_repository.render", description=__doc__)
    parser.add_argument("target", type=Path, help="folder for the repository")
    for name, default in EmbedderSpec().as_parameters().items():
        parser.add_argument(f"--{name.replace('_', '-')}", default=default)
    options = vars(parser.parse_args(arguments))
    target: Path = options.pop("target")
    try:
        repository = render(target, EmbedderSpec.from_parameters(options))
    except ValueError as error:
        parser.error(str(error))
    print(f"--model-repository={repository.path}")  # noqa: T201 - the command's output
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
