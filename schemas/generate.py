"""Writes the JSON Schema of every event topic: ``python -m schemas.generate [--check]``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from schemas.compat import breaking_changes
from schemas.topics import EVENT_TOPICS, Topic

JSON_FOLDER = Path(__file__).parent / "json"
"""Where the generated schemas are kept."""

_COMMAND = "python -m schemas.generate"
_ADVICE = """\
A schema only gains optional fields; a breaking change is a new topic.
- Keep the field as it was and add an optional one beside it, or
- add a class and a topic with another name to schemas/events.py and schemas/topics.py, or
- if this topic was never released, delete its file under schemas/json/ and generate again.
"""


class _Generator(GenerateJsonSchema):
    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002, RUF100
        # "Burned In Annotation" says nothing that "burned_in_annotation" does not.
        return False

    def encode_default(self, dft: Any) -> Any:
        # The default of a nested value follows from that value's own schema.
        if isinstance(dft, BaseModel):
            return dft.model_dump(mode="json", exclude_defaults=True)
        return super().encode_default(dft)


def schema_of(topic: Topic) -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a topic's value.

    Parameters
    ----------
    topic : Topic
        An event topic.

    Raises
    ------
    ValueError
        If the topic carries dead letters: they have no schema.
    """
    if topic.value_type is None:
        msg = f"{topic.name} carries original bytes; only event topics have a schema"
        raise ValueError(msg)
    schema = topic.value_type.model_json_schema(schema_generator=_Generator)
    return {
        "$schema": _Generator.schema_dialect,
        "x-topic": topic.name,
        "x-key": topic.key,
        **_sorted_required(schema),
    }


def render(schema: dict[str, Any]) -> str:
    """Write a schema as text: sorted keys, two spaces, one newline at the end."""
    return json.dumps(schema, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def problems(topics: Iterable[Topic], folder: Path, *, check: bool) -> list[str]:
    """Say what keeps the folder from being regenerated or, with ``check``, from being up to date.

    Parameters
    ----------
    topics : iterable of Topic
        The event topics.
    folder : Path
        Folder of the committed schemas.
    check : bool
        Whether a file that is missing or differs is a problem, too.
    """
    found = []
    wanted = {topic.name: schema_of(topic) for topic in topics}
    for name, schema in wanted.items():
        path = folder / f"{name}.json"
        if not path.is_file():
            if check:
                found.append(f"{name}: {path.name} is missing; run `{_COMMAND}`")
            continue
        text = path.read_text(encoding="utf-8")
        try:
            changes = breaking_changes(json.loads(text), schema)
        except ValueError as error:
            found.append(f"{name}: {path.name} is no JSON Schema ({error}); restore it from git")
            continue
        found += [f"{name}: breaking: {change}" for change in changes]
        if check and not changes and text != render(schema):
            found.append(f"{name}: {path.name} is out of date; run `{_COMMAND}`")
    for path in sorted(folder.glob("*.json")):
        if path.stem not in wanted:
            found.append(
                f"{path.stem}: breaking: {path.name} belongs to no topic; put the topic back into "
                "schemas/topics.py, or delete the file if the topic was never released"
            )
    return found


def main(argv: Sequence[str] | None = None, *, folder: Path = JSON_FOLDER) -> int:
    """Write the schemas, or say why not; return the exit status."""
    parser = argparse.ArgumentParser(prog=_COMMAND, description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail if a schema is not up to date"
    )
    check: bool = parser.parse_args(argv).check
    found = problems(EVENT_TOPICS, folder, check=check)
    if found:
        advice = _ADVICE if any(": breaking: " in problem for problem in found) else ""
        sys.stderr.write("\n".join(found) + "\n" + advice)
        return 1
    if not check:
        folder.mkdir(parents=True, exist_ok=True)
        for topic in EVENT_TOPICS:
            path = folder / f"{topic.name}.json"
            path.write_text(render(schema_of(topic)), encoding="utf-8")
    return 0


def _sorted_required(node: Any) -> Any:
    # The order in which a class lists its fields is no part of the contract.
    if isinstance(node, dict):
        return {
            key: sorted(value)
            if key == "required" and isinstance(value, list)
            else _sorted_required(value)
            for key, value in node.items()
        }
    if isinstance(node, list):
        return [_sorted_required(item) for item in node]
    return node


if __name__ == "__main__":
    sys.exit(main())
