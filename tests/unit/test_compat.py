"""Which changes of a schema break a topic, and which do not."""

from __future__ import annotations

import copy
import json
from typing import Annotated, Any, Literal, Optional, Union

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from schemas import generate
from schemas.compat import breaking_changes
from schemas.topics import Topic

REFUSED_BY_NEW = "new readers would refuse old messages"
REFUSED_BY_OLD = "old readers would refuse new messages"


def event(required: tuple[str, ...] = ("size",), **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required)}


def changes(old: Any, new: Any, **beside: Any) -> list[str]:
    """Breaking changes between two versions of one required field."""
    return breaking_changes(event(size=old, **beside), event(size=new, **beside))


# One case each: what changed, and whose fault it would be.

NARROWER = {
    "minimum raised": ({"type": "integer", "minimum": 0}, {"type": "integer", "minimum": 1}),
    "minimum added": ({"type": "integer"}, {"type": "integer", "minimum": 1}),
    "maximum lowered": ({"type": "number", "maximum": 2}, {"type": "number", "maximum": 1}),
    "exclusive maximum added": ({"type": "number"}, {"type": "number", "exclusiveMaximum": 1}),
    "shorter": ({"type": "string", "maxLength": 9}, {"type": "string", "maxLength": 8}),
    "not empty": ({"type": "string"}, {"type": "string", "minLength": 1}),
    "pattern added": ({"type": "string"}, {"type": "string", "pattern": "^a"}),
    "format added": ({"type": "string"}, {"type": "string", "format": "date-time"}),
    "fewer items": ({"type": "array", "maxItems": 9}, {"type": "array", "maxItems": 8}),
    "enum shrunk": ({"enum": ["a", "b"]}, {"enum": ["a"]}),
    "enum to const": ({"enum": ["a", "b"]}, {"const": "a"}),
    "enum added": ({"type": "string"}, {"type": "string", "enum": ["a"]}),
    "null refused": ({"anyOf": [{"type": "string"}, {"type": "null"}]}, {"type": "string"}),
    "object closed": ({"type": "object"}, {"type": "object", "additionalProperties": False}),
}


@pytest.mark.parametrize(("old", "new"), NARROWER.values(), ids=NARROWER.keys())
def test_narrowing_breaks_new_readers_and_widening_breaks_old_ones(old: Any, new: Any) -> None:
    (narrowed,) = changes(old, new)
    assert narrowed.startswith("size")
    assert narrowed.endswith(REFUSED_BY_NEW)
    (widened,) = changes(new, old)
    assert widened.endswith(REFUSED_BY_OLD)


EITHER_WAY = {
    "type": ({"type": "integer"}, {"type": "string"}),
    "integer to number": ({"type": "integer"}, {"type": "number"}),
    "pattern": ({"type": "string", "pattern": "a"}, {"type": "string", "pattern": "b"}),
    "multipleOf": ({"type": "integer", "multipleOf": 2}, {"type": "integer", "multipleOf": 3}),
    "an unknown word": ({"type": "string", "contentX": 1}, {"type": "string", "contentX": 2}),
    "const": ({"const": 1}, {"const": True}),
    "default": ({"type": "integer", "default": 1}, {"type": "integer", "default": 2}),
    "default of another type": ({"default": 0}, {"default": False}),
    "no default": ({"type": "integer", "default": 1}, {"type": "integer"}),
    "items": (
        {"type": "array", "items": {"type": "string"}},
        {"type": "array", "items": {"type": "integer"}},
    ),
    "one part of a tuple": (
        {"type": "array", "prefixItems": [{"type": "number"}, {"type": "number"}]},
        {"type": "array", "prefixItems": [{"type": "number"}, {"type": "string"}]},
    ),
    "length of a tuple": (
        {"type": "array", "prefixItems": [{"type": "number"}] * 2},
        {"type": "array", "prefixItems": [{"type": "number"}] * 3},
    ),
    "values of a mapping": (
        {"type": "object", "additionalProperties": {"type": "integer"}},
        {"type": "object", "additionalProperties": {"type": "string"}},
    ),
    "keys of a mapping": (
        {"type": "object", "propertyNames": {"pattern": "a"}},
        {"type": "object", "propertyNames": {"pattern": "b"}},
    ),
    "one of two alternatives": (
        {"anyOf": [{"type": "integer"}, {"type": "string"}]},
        {"anyOf": [{"type": "integer"}, {"type": "boolean"}]},
    ),
}


@pytest.mark.parametrize(("old", "new"), EITHER_WAY.values(), ids=EITHER_WAY.keys())
def test_change_breaks_in_both_directions(old: Any, new: Any) -> None:
    assert changes(old, new)
    assert changes(new, old)


SAME = {
    "title and description": (
        {"type": "string", "title": "Size", "description": "how large"},
        {"type": "string", "examples": ["a"]},
    ),
    "order of alternatives": (
        {"anyOf": [{"type": "string"}, {"type": "null"}]},
        {"anyOf": [{"type": "null"}, {"type": "string"}]},
    ),
    "list of types": (
        {"type": ["string", "null"]},
        {"anyOf": [{"type": "string"}, {"type": "null"}]},
    ),
    "order of an enum": ({"enum": ["a", "b"]}, {"enum": ["b", "a"]}),
    "enum of one": ({"const": "a"}, {"enum": ["a"]}),
    "lone allOf": ({"allOf": [{"type": "string"}]}, {"type": "string"}),
    "anything": (True, {}),
}


@pytest.mark.parametrize(("old", "new"), SAME.values(), ids=SAME.keys())
def test_another_way_to_say_the_same_is_no_change(old: Any, new: Any) -> None:
    assert changes(old, new) == []
    assert changes(new, old) == []


def test_required_fields() -> None:
    one = event(size={"type": "integer"})
    two = event(("size", "unit"), size={"type": "integer"}, unit={"type": "string"})
    optional = event(("size",), size={"type": "integer"}, unit={"type": "string"})
    assert breaking_changes(one, optional) == []
    assert breaking_changes(one, two) == [f"unit: added as a required field; {REFUSED_BY_NEW}"]
    assert breaking_changes(optional, two) == [f"unit: now required; {REFUSED_BY_NEW}"]
    assert breaking_changes(two, optional) == [f"unit: no longer required; {REFUSED_BY_OLD}"]
    assert breaking_changes(two, one) == [f"unit: removed; {REFUSED_BY_OLD}"]
    (removed,) = breaking_changes(optional, one)
    assert removed.startswith("unit: removed; readers that use it")


def test_a_closed_reader_refuses_any_new_field() -> None:
    closed = {**event(size={"type": "integer"}), "additionalProperties": False}
    grown = {**event(size={"type": "integer"}, unit={}), "additionalProperties": False}
    assert breaking_changes(closed, grown) == [
        f"unit: added to an object that was closed; {REFUSED_BY_OLD}"
    ]


def test_references_are_followed_and_places_named() -> None:
    old = event(
        header={"$ref": "#/$defs/Header"},
        votes={"type": "array", "items": {"$ref": "#/$defs/Vote"}},
        origin={"anyOf": [{"$ref": "#/$defs/Vote"}, {"type": "null"}], "default": None},
    ) | {
        "$defs": {
            "Header": event((), pair={"prefixItems": [{"$ref": "#/$defs/Vote"}], "type": "array"}),
            "Vote": event((), label={"type": "string", "maxLength": 8}),
        }
    }
    new = copy.deepcopy(old)
    new["$defs"]["Vote"]["properties"]["label"]["maxLength"] = 7
    said = f"maxLength changed from 8 to 7; {REFUSED_BY_NEW}"
    assert sorted(breaking_changes(old, new)) == [
        f"header.pair[0].label: {said}",
        f"origin.label: {said}",
        f"votes[].label: {said}",
    ]


def test_a_definition_may_move_and_be_renamed() -> None:
    inline = event(blob=event(("uri",), uri={"type": "string"}))
    referred = event(blob={"$ref": "#/$defs/Blob"}) | {
        "$defs": {"Blob": event(("uri",), uri={"type": "string"})}
    }
    assert breaking_changes(inline, referred) == []
    assert breaking_changes(referred, inline) == []


def test_a_schema_that_contains_itself_is_compared_once() -> None:
    tree = {"$ref": "#/$defs/Node"} | {
        "$defs": {
            "Node": event(
                ("name",),
                name={"type": "string"},
                children={"type": "array", "items": {"$ref": "#/$defs/Node"}},
            )
        }
    }
    assert breaking_changes(tree, tree) == []
    changed = copy.deepcopy(tree)
    changed["$defs"]["Node"]["properties"]["name"]["maxLength"] = 3
    assert breaking_changes(tree, changed) == [
        f"name: maxLength changed from none to 3; {REFUSED_BY_NEW}"
    ]


def test_the_default_of_a_nested_value_may_gain_fields_only() -> None:
    def nested(default: dict[str, Any]) -> dict[str, Any]:
        return {"type": "object", "default": default}

    assert changes(nested({"a": 1}), nested({"a": 1, "b": None})) == []
    assert changes(nested({"a": 1}), nested({"a": 2}))
    assert changes(nested({"a": 1}), nested({}))


def test_another_message_key_is_breaking() -> None:
    assert breaking_changes({"x-key": "image_id"}, {"x-key": "file_id"})


@pytest.mark.parametrize("reference", ["#/$defs/None", "other.json", "#/$defs/Loop"])
def test_a_reference_that_leads_nowhere_is_an_error(reference: str) -> None:
    schema = {"$ref": reference, "$defs": {"Loop": {"$ref": "#/$defs/Loop"}}}
    with pytest.raises(ValueError, match=r"leads|refers"):
        breaking_changes(schema, schema)


# Properties over generated schemas.

scalars = st.one_of(
    st.builds(
        lambda low, span: {"type": "integer", "minimum": low, "maximum": low + span},
        st.integers(-9, 9),
        st.integers(1, 9),
    ),
    st.builds(lambda n: {"type": "string", "maxLength": n}, st.integers(1, 99)),
    st.builds(
        lambda values: {"type": "string", "enum": sorted(values)},
        st.sets(st.sampled_from("abcdef"), min_size=2),
    ),
    st.just({"type": "boolean"}),
    st.just({"type": "number", "default": 1.5}),
)
names = st.sampled_from(["rows", "columns", "required", "properties", "type", "items", "title"])


@st.composite
def objects(draw: st.DrawFn, inner: st.SearchStrategy[Any] = scalars) -> dict[str, Any]:
    fields = draw(st.dictionaries(names, inner, min_size=1, max_size=4))
    required = draw(st.sets(st.sampled_from(sorted(fields))))
    return {"type": "object", "properties": fields, "required": sorted(required)}


any_schema = st.recursive(
    scalars,
    lambda inner: st.one_of(
        objects(inner),
        inner.map(lambda one: {"type": "array", "items": one}),
        inner.map(lambda one: {"anyOf": [one, {"type": "null"}], "default": None}),
        inner.map(lambda one: {"type": "object", "additionalProperties": one}),
        st.lists(inner, min_size=1, max_size=3).map(
            lambda many: {"type": "array", "prefixItems": many}
        ),
    ),
    max_leaves=6,
)


def objects_inside(schema: Any) -> list[dict[str, Any]]:
    """Every object schema inside a schema (the dictionaries themselves, to be changed)."""
    found = []
    if isinstance(schema, dict):
        if isinstance(schema.get("properties"), dict) and "required" in schema:
            found.append(schema)
            for inner in schema["properties"].values():
                found += objects_inside(inner)
        for word in ("items", "additionalProperties"):
            found += objects_inside(schema.get(word))
        for word in ("anyOf", "prefixItems"):
            for inner in schema.get(word, ()):
                found += objects_inside(inner)
    return found


@given(objects(any_schema))
def test_no_schema_breaks_itself(schema: dict[str, Any]) -> None:
    assert breaking_changes(schema, copy.deepcopy(schema)) == []


@given(objects(any_schema), any_schema, st.data())
def test_adding_an_optional_field_anywhere_is_never_breaking(
    old: dict[str, Any], added: dict[str, Any], data: st.DataObject
) -> None:
    new = copy.deepcopy(old)
    data.draw(st.sampled_from(objects_inside(new)))["properties"]["added"] = added
    assert breaking_changes(old, new) == []


@given(objects(any_schema), any_schema, st.data())
def test_adding_or_removing_a_required_field_anywhere_is_always_breaking(
    old: dict[str, Any], added: dict[str, Any], data: st.DataObject
) -> None:
    new = copy.deepcopy(old)
    place = data.draw(st.sampled_from(objects_inside(new)))
    place["properties"]["added"] = added
    place["required"].append("added")
    assert any(REFUSED_BY_NEW in change for change in breaking_changes(old, new))
    assert any(REFUSED_BY_OLD in change for change in breaking_changes(new, old))


@given(objects(any_schema), st.data())
def test_changing_whether_a_field_is_required_is_always_breaking(
    old: dict[str, Any], data: st.DataObject
) -> None:
    new = copy.deepcopy(old)
    place = data.draw(st.sampled_from(objects_inside(new)))
    name = data.draw(st.sampled_from(sorted(place["properties"])))
    place["required"] = sorted(set(place["required"]) ^ {name})
    assert breaking_changes(old, new)


@given(objects(any_schema), st.data())
def test_removing_any_field_is_always_breaking(old: dict[str, Any], data: st.DataObject) -> None:
    new = copy.deepcopy(old)
    place = data.draw(st.sampled_from(objects_inside(new)))
    name = data.draw(st.sampled_from(sorted(place["properties"])))
    del place["properties"][name]
    place["required"] = [one for one in place["required"] if one != name]
    assert breaking_changes(old, new)


# The verdict against what pydantic, which our readers are made of, really does.


class Inner(BaseModel):
    model_config = ConfigDict(extra="ignore")
    label: str = Field(default="", max_length=3)


KINDS: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "int": (int, st.integers(-3, 12)),
    "small int": (Annotated[int, Field(ge=0, le=9)], st.integers(0, 9)),
    "number": (float, st.floats(-2, 2)),
    "word": (str, st.text(max_size=4)),
    "one of two": (Literal["a", "b"], st.sampled_from("ab")),
    "one of three": (Literal["a", "b", "c"], st.sampled_from("abc")),
    "maybe word": (Optional[str], st.none() | st.text(max_size=4)),  # noqa: UP045 (at run time, 3.10)
    "int or word": (Union[int, str], st.integers(0, 3) | st.text(max_size=2)),  # noqa: UP007
    "pair": (tuple[int, int], st.tuples(st.integers(0, 3), st.integers(0, 3))),
    "many": (tuple[int, ...], st.lists(st.integers(0, 3), max_size=3).map(tuple)),
    "counts": (dict[str, int], st.dictionaries(st.text(max_size=2), st.integers(0, 3), max_size=2)),
    "nested": (Inner, st.builds(Inner, label=st.text(max_size=3))),
}
kinds = st.sampled_from(sorted(KINDS))
fields = st.dictionaries(st.sampled_from("pqrs"), st.tuples(kinds, st.booleans()), max_size=3)


def model(definition: dict[str, tuple[str, bool]]) -> type[BaseModel]:
    """Build a reader; an optional field may be left out and is None then, as ours are."""
    made: dict[str, Any] = {}
    for name, (kind, required) in definition.items():
        annotation, _ = KINDS[kind]
        made[name] = (annotation, ...) if required else (Optional[annotation], None)  # noqa: UP045
    return create_model("Reader", __config__=ConfigDict(extra="ignore", strict=True), **made)


def written(
    definition: dict[str, tuple[str, bool]], reader: type[BaseModel], data: st.DataObject
) -> bytes:
    values = {
        name: data.draw(KINDS[kind][1])
        for name, (kind, required) in definition.items()
        if required or data.draw(st.booleans())
    }
    event = reader.model_validate(values)
    # As our codec writes: what is None is left out, unless it is the value of a required field.
    kept = {n for n in values if values[n] is not None or definition[n][1]}
    return event.model_dump_json(include=kept).encode()


@settings(max_examples=300, deadline=None)
@given(old=fields, changed=fields, dropped=st.sets(st.sampled_from("pqrs")), data=st.data())
def test_readers_read_each_other_where_nothing_is_reported(
    old: dict[str, tuple[str, bool]],
    changed: dict[str, tuple[str, bool]],
    dropped: set[str],
    data: st.DataObject,
) -> None:
    new = {name: one for name, one in {**old, **changed}.items() if name not in dropped}
    old_reader, new_reader = model(old), model(new)
    found = breaking_changes(old_reader.model_json_schema(), new_reader.model_json_schema())
    for definition, writer, reader, said in (
        (old, old_reader, new_reader, REFUSED_BY_NEW),
        (new, new_reader, old_reader, REFUSED_BY_OLD),
    ):
        message = written(definition, writer, data)
        try:
            reader.model_validate_json(message)
        except ValidationError:
            assert any(said in change or "neither side" in change for change in found)


# The command


@pytest.fixture
def committed(tmp_path: Any) -> Any:
    assert generate.main([], folder=tmp_path) == 0
    return tmp_path


def test_generate_writes_the_same_bytes_again(committed: Any) -> None:
    before = {path.name: path.read_bytes() for path in committed.iterdir()}
    assert generate.main([], folder=committed) == 0
    assert {path.name: path.read_bytes() for path in committed.iterdir()} == before
    assert all(data.endswith(b"}\n") for data in before.values())
    assert generate.main(["--check"], folder=committed) == 0


def test_check_writes_nothing_and_names_what_is_missing(tmp_path: Any, capsys: Any) -> None:
    assert generate.main(["--check"], folder=tmp_path) == 1
    assert list(tmp_path.iterdir()) == []
    said = capsys.readouterr().err
    assert "feedback.json is missing; run `python -m schemas.generate`" in said
    assert "a breaking change is a new topic" not in said


def test_an_outdated_description_is_found_by_check_and_mended(committed: Any, capsys: Any) -> None:
    path = committed / "feedback.json"
    good = path.read_text()
    path.write_text(good.replace("A person's correction", "Somebody's correction"))
    assert generate.main(["--check"], folder=committed) == 1
    assert "feedback.json is out of date" in capsys.readouterr().err
    assert generate.main([], folder=committed) == 0
    assert path.read_text() == good


@pytest.mark.parametrize("arguments", [[], ["--check"]])
def test_a_breaking_change_is_refused_and_nothing_written(
    committed: Any, capsys: Any, arguments: list[str]
) -> None:
    path = committed / "feedback.json"
    schema = json.loads(path.read_text())
    # The last release had a field that the model has not.
    schema["properties"]["severity"] = {"type": "integer"}
    schema["required"].append("severity")
    path.write_text(json.dumps(schema))
    (committed / "files-sniffed.json").unlink()
    before = path.read_bytes()
    assert generate.main(arguments, folder=committed) == 1
    assert path.read_bytes() == before
    assert not (committed / "files-sniffed.json").exists()
    said = capsys.readouterr().err
    assert f"feedback: breaking: severity: removed; {REFUSED_BY_OLD}" in said
    assert "A schema only gains optional fields; a breaking change is a new topic." in said


def test_a_schema_without_a_topic_is_refused(committed: Any, capsys: Any) -> None:
    (committed / "old-topic.json").write_text("{}")
    assert generate.main([], folder=committed) == 1
    assert "old-topic.json belongs to no topic" in capsys.readouterr().err


def test_a_damaged_schema_is_named(committed: Any, capsys: Any) -> None:
    (committed / "feedback.json").write_text("{<<<<<<< ours")
    assert generate.main([], folder=committed) == 1
    assert "restore it from git" in capsys.readouterr().err


def test_dead_letters_have_no_schema() -> None:
    with pytest.raises(ValueError, match="only event topics have a schema"):
        generate.schema_of(Topic("feedback-dlq", "file_id", 1, 1, None, "original bytes"))
