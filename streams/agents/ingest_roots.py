"""Which folders the worker of a data folder may read, told to the command beside it.

``up`` gives a worker its folders, so that ``ingest`` cannot know them from its own settings.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import orjson

_NAME = "ingest-roots.json"


def record_roots(data_dir: Path, roots: Sequence[Path]) -> None:
    """Write down what a worker may read; what an earlier one wrote is replaced."""
    path = data_dir / _NAME
    temporary = path.with_name(f"{_NAME}.{os.getpid()}")
    temporary.write_bytes(orjson.dumps([os.fsdecode(root.absolute()) for root in roots]))
    temporary.replace(path)


def recorded_roots(data_dir: Path) -> tuple[Path, ...] | None:
    """Read what the worker of a data folder may read; None if no worker has said so."""
    try:
        found = orjson.loads((data_dir / _NAME).read_bytes())
        return tuple(Path(root) for root in found)
    except (OSError, ValueError, TypeError):
        return None
