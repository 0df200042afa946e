"""Whether two versions of a JSON Schema can live on one topic at the same time.

Old and new programs share a topic: messages written last month are replayed by today's readers,
and during a rolling upgrade, or at a hospital that upgrades later, yesterday's readers meet today's
messages. So both directions count:

- *new readers, old messages*: breaks when a field becomes required, a type or bound is narrowed,
  an enum shrinks, a pattern changes;
- *old readers, new messages*: breaks when a required field goes away, and also when a type or
  bound is widened or an enum grows, because a reader made from the old ``Literal`` refuses the
  new value and dead-letters the message.

What is left is the rule of DESIGN.md section 5: a schema only gains optional fields. A value that
an enum lacks is told in a new optional field beside it, or on a new topic.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Schema = Mapping[str, Any]

_NEW_READS_OLD = "new readers would refuse old messages"
_OLD_READS_NEW = "old readers would refuse new messages"

# Words about a schema that decide about no message.
_ANNOTATIONS = frozenset(
    {"$comment", "$defs", "$id", "$schema", "deprecated", "definitions", "description", "examples"}
    | {"readOnly", "title", "writeOnly", "x-topic"}
)
_COMPARED_IN_DEPTH = frozenset(
    {"$ref", "additionalProperties", "anyOf", "const", "default", "enum", "items", "oneOf"}
    | {"prefixItems", "properties", "required", "type"}
)
_LOWER_BOUNDS = frozenset({"exclusiveMinimum", "minItems", "minLength", "minProperties", "minimum"})
_UPPER_BOUNDS = frozenset({"exclusiveMaximum", "maxItems", "maxLength", "maxProperties", "maximum"})
_ABSENT = object()


def breaking_changes(old: Schema, new: Schema) -> list[str]:
    """List what keeps two versions of a schema from sharing a topic.

    Parameters
    ----------
    old, new : mapping
        JSON Schemas (draft 2020-12 as pydantic writes it), each with its own ``$defs``.

    Returns
    -------
    list of str
        One sentence for each breaking change, led by the path of the field; empty if the new
        version only gained optional fields. Titles and descriptions do not count.

    Raises
    ------
    ValueError
        If a ``$ref`` leads nowhere.
    """
    return list(dict.fromkeys(_Comparison(old, new).walk(old, new, "")))


@dataclass(frozen=True)
class _Comparison:
    old_root: Schema
    new_root: Schema
    # Pairs of references under comparison: a schema that contains itself is compared once.
    seen: frozenset[tuple[str, str]] = frozenset()

    def walk(self, old: object, new: object, path: str) -> Iterator[str]:
        references = (_reference(old), _reference(new))
        if references[0] and references[1]:
            pair = (references[0], references[1])
            if pair in self.seen:
                yield from _defaults(_as_mapping(old), _as_mapping(new), path)
                return
            inner = _Comparison(self.old_root, self.new_root, self.seen | {pair})
        else:
            inner = self
        old_flat = _resolve(old, self.old_root)
        new_flat = _resolve(new, self.new_root)
        if not old_flat and not new_flat:
            return  # both take anything
        yield from _defaults(old_flat, new_flat, path)
        yield from inner._alternatives(old_flat, new_flat, path)

    def _alternatives(self, old: Schema, new: Schema, path: str) -> Iterator[str]:
        old_branches = list(_branches(old, self.old_root))
        new_branches = list(_branches(new, self.new_root))
        if len(old_branches) == 1 and len(new_branches) == 1:
            yield from self._plain(old_branches[0], new_branches[0], path)
            return
        lost = [b for b in old_branches if not self._fits_any(b, new_branches, path, old=True)]
        gained = [b for b in new_branches if not self._fits_any(b, old_branches, path, old=False)]
        if len(lost) == 1 and len(gained) == 1:
            # One alternative on each side has no partner: it is the one that was changed.
            yield from self._plain(lost[0], gained[0], path)
            return
        for branch in lost:
            yield _say(path, f"no longer takes {_name(branch)}", _NEW_READS_OLD)
        for branch in gained:
            yield _say(path, f"now also takes {_name(branch)}", _OLD_READS_NEW)

    def _fits_any(self, branch: Schema, others: list[Schema], path: str, *, old: bool) -> bool:
        pairs = ((branch, other) if old else (other, branch) for other in others)
        return any(next(self._plain(first, second, path), None) is None for first, second in pairs)

    def _plain(self, old: Schema, new: Schema, path: str) -> Iterator[str]:
        if old.get("type") != new.get("type"):
            yield _say(
                path,
                f"type changed from {old.get('type', 'anything')} to {new.get('type', 'anything')}",
                "neither side would read the other",
            )
            return
        yield from _enums(old, new, path)
        yield from _constraints(old, new, path)
        yield from self._properties(old, new, path)
        yield from self._additional(old, new, path)
        yield from self._elements(old, new, path)

    def _properties(self, old: Schema, new: Schema, path: str) -> Iterator[str]:
        old_fields: Schema = old.get("properties", {})
        new_fields: Schema = new.get("properties", {})
        old_required = set(old.get("required", ()))
        new_required = set(new.get("required", ()))
        for name in sorted(old_fields.keys() | new_fields.keys() | old_required | new_required):
            where = f"{path}.{name}" if path else name
            if name in old_fields and name not in new_fields:
                yield _say(where, "removed", _removal(name in old_required))
                continue
            if name in old_required and name not in new_required:
                yield _say(where, "no longer required", _OLD_READS_NEW)
            if name in new_required and name not in old_required:
                verb = "now required" if name in old_fields else "added as a required field"
                yield _say(where, verb, _NEW_READS_OLD)
            if name in old_fields and name in new_fields:
                yield from self.walk(old_fields[name], new_fields[name], where)
            elif name in new_fields and _is_closed(old):
                yield _say(where, "added to an object that was closed", _OLD_READS_NEW)

    def _additional(self, old: Schema, new: Schema, path: str) -> Iterator[str]:
        where = f"{path}{{}}"
        before = old.get("additionalProperties", True)
        after = new.get("additionalProperties", True)
        if before is False and after is not False:
            yield _say(where, "now takes fields that were refused", _OLD_READS_NEW)
        elif after is False and before is not False:
            yield _say(where, "now refuses fields that were taken", _NEW_READS_OLD)
        elif before is not False:
            yield from self.walk(before, after, where)

    def _elements(self, old: Schema, new: Schema, path: str) -> Iterator[str]:
        before = old.get("prefixItems", [])
        after = new.get("prefixItems", [])
        if len(before) != len(after):
            yield _say(
                f"{path}[]",
                f"length of the tuple changed from {len(before)} to {len(after)}",
                "neither side would read the other",
            )
            return
        for index, (first, second) in enumerate(zip(before, after, strict=True)):
            yield from self.walk(first, second, f"{path}[{index}]")
        yield from self.walk(old.get("items", True), new.get("items", True), f"{path}[]")


def _say(path: str, change: str, consequence: str) -> str:
    return f"{path or 'the event'}: {change}; {consequence}"


def _removal(required: bool) -> str:
    if required:
        return _OLD_READS_NEW
    return "readers that use it would silently find its default"


def _as_mapping(schema: object) -> Schema:
    if schema is True:
        return {}
    if schema is False:
        return {"not": {}}
    if isinstance(schema, Mapping):
        return schema
    msg = f"not a JSON Schema: {type(schema).__name__}"
    raise ValueError(msg)


def _reference(schema: object) -> str | None:
    reference = _as_mapping(schema).get("$ref")
    return reference if isinstance(reference, str) else None


def _resolve(schema: object, root: Schema) -> Schema:
    """Follow ``$ref`` and a lone ``allOf``; what stands beside them wins over what they lead to."""
    flat = dict(_as_mapping(schema))
    visited: set[str] = set()
    while "$ref" in flat or len(flat.get("allOf", ())) == 1:
        if "$ref" in flat:
            reference = flat.pop("$ref")
            if reference in visited:
                msg = f"{reference} refers to itself"
                raise ValueError(msg)
            visited.add(reference)
            flat = {**_follow(reference, root), **flat}
        else:
            (only,) = flat.pop("allOf")
            flat = {**_as_mapping(only), **flat}
    return flat


def _follow(reference: str, root: Schema) -> Schema:
    if reference != "#" and not reference.startswith("#/"):
        msg = f"{reference} leads out of the schema; only references into $defs are followed"
        raise ValueError(msg)
    target: Any = root
    for part in reference.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(target, Mapping) or name not in target:
            msg = f"{reference} leads nowhere"
            raise ValueError(msg)
        target = target[name]
    return _as_mapping(target)


def _branches(schema: Schema, root: Schema) -> Iterator[Schema]:
    """Take ``anyOf``, ``oneOf`` and lists of types apart into plain alternatives."""
    for keyword in ("anyOf", "oneOf"):
        if keyword in schema:
            beside = {k: v for k, v in schema.items() if k not in (keyword, "default")}
            for branch in schema[keyword]:
                yield from _branches({**beside, **_resolve(branch, root)}, root)
            return
    kinds = schema.get("type")
    if isinstance(kinds, list):
        for kind in kinds:
            yield {**schema, "type": kind}
        return
    yield schema


def _name(schema: Schema) -> str:
    if "enum" in schema or "const" in schema:
        return ", ".join(sorted(map(repr, _allowed(schema) or ())))
    return str(schema.get("title") or schema.get("type") or "anything")


def _is_closed(schema: Schema) -> bool:
    return schema.get("additionalProperties", True) not in (True, {})


def _allowed(schema: Schema) -> list[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    values = schema.get("enum")
    return list(values) if values is not None else None


def _enums(old: Schema, new: Schema, path: str) -> Iterator[str]:
    before = _allowed(old)
    after = _allowed(new)
    if before is None and after is None:
        return
    if before is None:
        yield _say(path, "now takes listed values only", _NEW_READS_OLD)
        return
    if after is None:
        yield _say(path, "now takes any value", _OLD_READS_NEW)
        return
    # Values may be of any JSON type, so no sets; True and 1 are different values in JSON.
    known = [(type(value), value) for value in before]
    wanted = [(type(value), value) for value in after]
    for value in before:
        if (type(value), value) not in wanted:
            yield _say(path, f"no longer takes {value!r}", _NEW_READS_OLD)
    for value in after:
        if (type(value), value) not in known:
            yield _say(path, f"now also takes {value!r}", _OLD_READS_NEW)


def _constraints(old: Schema, new: Schema, path: str) -> Iterator[str]:
    for keyword in sorted((old.keys() | new.keys()) - _ANNOTATIONS - _COMPARED_IN_DEPTH):
        before = old.get(keyword, _ABSENT)
        after = new.get(keyword, _ABSENT)
        if before == after:
            continue
        change = f"{keyword} changed from {_show(before)} to {_show(after)}"
        yield _say(path, change, _direction(keyword, before, after))


def _direction(keyword: str, before: object, after: object) -> str:
    if keyword == "x-key":
        return "messages of one subject would go to another partition and lose their order"
    if keyword not in _LOWER_BOUNDS | _UPPER_BOUNDS:
        if before is _ABSENT:
            return _NEW_READS_OLD
        return _OLD_READS_NEW if after is _ABSENT else "neither side would read the other"
    if before is _ABSENT:
        return _NEW_READS_OLD
    if after is _ABSENT:
        return _OLD_READS_NEW
    grew = after > before  # type: ignore[operator]
    return _NEW_READS_OLD if grew == (keyword in _LOWER_BOUNDS) else _OLD_READS_NEW


def _show(value: object) -> str:
    return "none" if value is _ABSENT else repr(value)


def _defaults(old: Schema, new: Schema, path: str) -> Iterator[str]:
    # A message that leaves the field out means its default: another default rewrites history.
    before = old.get("default", _ABSENT)
    after = new.get("default", _ABSENT)
    if not _same_default(before, after):
        yield _say(
            path,
            f"default changed from {_show(before)} to {_show(after)}",
            "messages that leave it out would mean something else",
        )


def _same_default(before: object, after: object) -> bool:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        # The default of a nested value grows with the optional fields which that value gains.
        return all(key in after and _same_default(before[key], after[key]) for key in before)
    return type(before) is type(after) and before == after
