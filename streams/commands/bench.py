"""Runs a benchmark of ``tests/bench``."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Annotated

import typer

from streams.commands.common import fail


def _folder() -> Path:
    for base in (Path.cwd(), Path(__file__).resolve().parents[2]):
        if (base / "tests" / "bench").is_dir():
            return base / "tests" / "bench"
    fail("benchmarks are part of the source tree: run this in a checkout of BioDataMine")
    raise AssertionError


def bench(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Which one; without a name they are listed.")] = "",
) -> None:
    """Run a benchmark; its last line is one JSON object with figures and bars.

    What follows the name is given to the benchmark; `biodatamine bench NAME --help` teaches it.
    """
    folder = _folder()
    names = sorted(p.stem for p in folder.glob("*.py") if not p.stem.startswith("_"))
    if not name:
        typer.echo("\n".join(names))
        return
    if name not in names:
        fail(f"no benchmark {name!r}; there are: {', '.join(names)}")
    # Benchmarks share tests/support with the tests.
    sys.path.insert(0, str(folder.parents[1]))
    spec = importlib.util.spec_from_file_location(f"bench_{name}", folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    raise typer.Exit(module.main(context.args))
