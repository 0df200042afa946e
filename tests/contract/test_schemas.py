"""The contract that other programs build on: topics, JSON Schemas, examples, codec."""

from __future__ import annotations

import base64
import json
import re
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

import schemas
from schemas import (
    EVENT_TOPICS,
    TOPICS,
    DecodeError,
    Event,
    FileEvent,
    decode,
    decode_topic,
    encode,
    generate,
    identity,
    key_of,
    topic_of,
)
from schemas.compat import breaking_changes
from schemas.topics import DEAD_LETTER_TOPICS, MAX_MESSAGE_BYTES, Topic

PACKAGE = Path(schemas.__file__).parent
JSON_FILES = sorted((PACKAGE / "json").iterdir())
EXAMPLE_FILES = sorted((PACKAGE / "examples").iterdir())
BY_NAME = {topic.name: topic for topic in EVENT_TOPICS}

STEPS = ["files-received", "files-sniffed", "files-analyzed"]

every_topic = pytest.mark.parametrize("topic", EVENT_TOPICS, ids=lambda topic: topic.name)
every_example = pytest.mark.parametrize("path", EXAMPLE_FILES, ids=lambda path: path.stem)


def topic_name(path: Path) -> str:
    return path.name.split(".")[0]


def committed_schema(topic: str) -> dict[str, Any]:
    return json.loads((PACKAGE / "json" / f"{topic}.json").read_text(encoding="utf-8"))


# Topics


def test_topics_are_those_of_the_design() -> None:
    assert [topic.name for topic in EVENT_TOPICS] == [
        "url-requests",
        "files-received",
        "files-sniffed",
        "files-analyzed",
        "series-completed",
        "clusters-updated",
        "drift-alerts",
        "feedback",
    ]


def test_topic_names_are_unique_and_use_hyphens() -> None:
    assert len(TOPICS) == len(EVENT_TOPICS) + len(DEAD_LETTER_TOPICS)
    for name in TOPICS:
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", name), name


@every_topic
def test_event_topic_has_a_dead_letter_topic_with_the_same_key(topic: Topic) -> None:
    dead_letters = TOPICS[topic.dead_letters]
    assert dead_letters.value_type is None
    assert dead_letters.key == topic.key
    assert dead_letters.retention_seconds >= topic.retention_seconds


@every_topic
def test_key_is_a_required_field_of_the_value(topic: Topic) -> None:
    assert topic.value_type is not None
    assert topic.value_type.model_fields[topic.key].is_required()
    assert topic.name == topic.value_type.TOPIC
    assert topic_of(topic.value_type) is topic


@every_topic
def test_topic_has_partitions_retention_and_a_summary(topic: Topic) -> None:
    assert topic.partitions >= 1
    assert topic.retention_seconds > 0
    assert topic.summary


# JSON Schemas


def test_every_topic_has_a_schema_and_no_schema_is_an_orphan() -> None:
    assert {path.name for path in JSON_FILES} == {f"{name}.json" for name in BY_NAME}


@every_topic
def test_committed_schema_is_the_generated_one(topic: Topic) -> None:
    text = (PACKAGE / "json" / f"{topic.name}.json").read_text(encoding="utf-8")
    assert text == generate.render(generate.schema_of(topic)), "run `python -m schemas.generate`"


@every_topic
def test_committed_schema_is_a_json_schema(topic: Topic) -> None:
    Draft202012Validator.check_schema(committed_schema(topic.name))


@every_topic
def test_model_is_compatible_with_the_committed_schema(topic: Topic) -> None:
    assert breaking_changes(committed_schema(topic.name), generate.schema_of(topic)) == []


def git(*arguments: str) -> str | None:
    """Answer of git about this checkout; None where there is no git or no such thing."""
    try:
        done = subprocess.run(
            ["git", "-C", str(PACKAGE), *arguments], capture_output=True, check=False, timeout=30
        )
    except OSError:
        return None
    return done.stdout.decode() if done.returncode == 0 else None


@every_topic
@pytest.mark.parametrize("baseline", ["last-commit", "last-release"])
def test_model_is_compatible_with_history(topic: Topic, baseline: str) -> None:
    # A file that was edited by hand, or deleted and made anew, agrees with the model but not with
    # history. A release binds for good; before the first one only the last commit does.
    revision: str | None = "HEAD"
    if baseline == "last-release":
        revision = git("describe", "--tags", "--abbrev=0", "--match", "v*")
    if not revision:
        pytest.skip("no release is tagged in this checkout")
    text = git("show", f"{revision.strip()}:./json/{topic.name}.json")
    if text is None:
        pytest.skip(f"{revision.strip()} has no schema of {topic.name} that git could show")
    assert breaking_changes(json.loads(text), generate.schema_of(topic)) == []


def properties_of(node: object) -> set[str]:
    names: set[str] = set()
    if isinstance(node, dict):
        if isinstance(node.get("properties"), dict):
            names |= node["properties"].keys()
        for value in node.values():
            names |= properties_of(value)
    return names


@every_topic
def test_no_field_is_named_like_patient_identity(topic: Topic) -> None:
    forbidden = re.compile(
        r"patient_(name|id|address|birth)|birth|accession|physician|operator|institution|address$"
    )
    found = {name for name in properties_of(committed_schema(topic.name)) if forbidden.search(name)}
    # The network address of the sending machine tells who sent, not who is shown.
    assert found <= {"peer_address"}


# Examples


def test_every_topic_has_an_example_and_no_example_is_an_orphan() -> None:
    names = {path.name for path in EXAMPLE_FILES}
    assert {f"{name}.json" for name in BY_NAME} <= names
    for path in EXAMPLE_FILES:
        assert path.suffix == ".json"
        assert topic_name(path) in BY_NAME, f"{path.name} is an example of no topic"


@every_example
def test_example_comes_back_from_the_codec_as_it_was(path: Path) -> None:
    data = path.read_bytes()
    event = decode_topic(topic_name(path), data)
    assert json.loads(encode(event)) == json.loads(data)
    assert decode(encode(event), type(event)) == event


@every_example
def test_example_validates_against_the_json_schema(path: Path) -> None:
    schema = committed_schema(topic_name(path))
    value = json.loads(path.read_bytes())
    validator = Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
    assert [error.message for error in validator.iter_errors(value)] == []
    # A misspelt optional field would be ignored on reading; an example must not hold one.
    assert unknown_fields(value, schema, schema) == []


def unknown_fields(value: object, schema: Any, root: dict[str, Any]) -> list[str]:
    while isinstance(schema, dict) and "$ref" in schema:
        schema = root["$defs"][schema["$ref"].removeprefix("#/$defs/")]
    if isinstance(schema, dict) and "anyOf" in schema:
        return min((unknown_fields(value, one, root) for one in schema["anyOf"]), key=len)
    if isinstance(value, dict) and isinstance(schema, dict) and "properties" in schema:
        known = schema["properties"]
        found = [name for name in value if name not in known]
        for name in value.keys() & known.keys():
            found += unknown_fields(value[name], known[name], root)
        return found
    if isinstance(value, list) and isinstance(schema, dict):
        return [name for item in value for name in unknown_fields(item, schema.get("items"), root)]
    return []


@every_example
def test_example_is_smaller_than_a_message_may_be(path: Path) -> None:
    event = decode_topic(topic_name(path), path.read_bytes())
    assert path.stat().st_size < MAX_MESSAGE_BYTES
    assert len(encode(event)) < MAX_MESSAGE_BYTES


@every_example
def test_example_has_a_message_key(path: Path) -> None:
    event = decode_topic(topic_name(path), path.read_bytes())
    assert key_of(event).decode() == json.loads(path.read_bytes())[BY_NAME[topic_name(path)].key]


@every_example
def test_example_of_a_file_carries_the_identities_that_its_content_gives(path: Path) -> None:
    event = decode_topic(topic_name(path), path.read_bytes())
    if not isinstance(event, FileEvent):
        pytest.skip("not about one file")
    assert event.image_id == event.blob.sha256
    assert event.file_id == identity.file_id(event.tenant, event.dataset_id, event.relpath)
    # Each step names its event after the one that it came from.
    name = identity.event_id("files-received", event.file_id, event.image_id)
    for topic in STEPS[1 : STEPS.index(event.TOPIC) + 1]:
        name = identity.event_id(topic, name)
    assert event.event_id == name
    if event.dicom is not None:
        dicom = event.dicom
        assert event.relpath == identity.dicom_relpath(
            dicom.study_uid, dicom.series_uid, dicom.instance_uid
        )


def filled_fields(value: object, schema: Any, root: dict[str, Any]) -> set[tuple[str, str]]:
    """(class, field) of everything that a value fills."""
    if isinstance(schema, dict) and "$ref" in schema:
        return filled_fields(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root)
    if isinstance(schema, dict) and "anyOf" in schema:
        return set().union(*(filled_fields(value, one, root) for one in schema["anyOf"]))
    if isinstance(value, dict) and isinstance(schema, dict) and "properties" in schema:
        known = {name: value[name] for name in schema["properties"] if name in value}
        filled = {(schema["title"], name) for name, inside in known.items() if inside != []}
        return filled.union(
            *(filled_fields(known[name], schema["properties"][name], root) for name in known)
        )
    if isinstance(value, list) and isinstance(schema, dict):
        return set().union(*(filled_fields(item, schema.get("items"), root) for item in value))
    return set()


def test_every_field_is_filled_in_some_example() -> None:
    filled: set[tuple[str, str]] = set()
    for path in EXAMPLE_FILES:
        schema = committed_schema(topic_name(path))
        filled |= filled_fields(json.loads(path.read_bytes()), schema, schema)
    known = {
        (one["title"], name)
        for topic in BY_NAME
        for schema in [committed_schema(topic)]
        for one in (schema, *schema.get("$defs", {}).values())
        for name in one.get("properties", ())
    }
    assert known - filled == set(), "fill these in an example under schemas/examples/"


# Codec


@given(data=st.binary(max_size=400), name=st.sampled_from(sorted(BY_NAME)))
def test_arbitrary_bytes_end_as_a_decode_error(data: bytes, name: str) -> None:
    with pytest.raises(DecodeError):
        decode_topic(name, data)


HOSTILE = {
    "nothing": b"",
    "deep array": b"[" * 100_000,
    "deep object": b'{"a":' * 30_000,
    "long number": b"1" * 100_000,
    "infinite number": b'{"occurred_at": 1e999999}',
    "not UTF-8": b"\xff\xfe\x00",
    "lone surrogate": b'{"event_id": "\\ud800"}',
    "null": b"null",
    "before the first year in UTC": b'{"occurred_at": "0001-01-01T00:00:00+14:00"}',
    "after the last year in UTC": b'{"occurred_at": "9999-12-31T23:59:59-14:00"}',
    "no time zone": b'{"occurred_at": "2026-01-01T00:00:00"}',
    "far too large": b" " * (5 * MAX_MESSAGE_BYTES),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
@every_topic
def test_hostile_bytes_end_as_a_decode_error(topic: Topic, data: bytes) -> None:
    with pytest.raises(DecodeError) as caught:
        decode_topic(topic.name, data)
    assert len(str(caught.value)) < 1000


def test_no_value_and_no_event_topic_have_their_own_reasons() -> None:
    for data, topic, reason in [
        (None, "feedback", "empty"),
        (b"", "feedback", "empty"),
        (b"{", "feedback", "not-json"),
        (b"{}", "feedback", "invalid"),
        (b" " * (5 * MAX_MESSAGE_BYTES), "feedback", "too-large"),
        (b"{}", "feedback-dlq", "no-event-topic"),
        (b"{}", "no-such-topic", "no-event-topic"),
    ]:
        with pytest.raises(DecodeError) as caught:
            decode_topic(topic, data)
        assert caught.value.reason == reason


SECRET = "DOE^JANE"


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Path of every value inside a JSON value."""
    children: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        children = list(value.items())
    elif isinstance(value, list):
        children = list(enumerate(value))
    return [path] + [found for key, child in children for found in places(child, (*path, key))]


def replaced(value: Any, path: tuple[Any, ...], by: Any) -> Any:
    if not path:
        return by
    key, *rest = path
    if isinstance(value, dict):
        return {**value, key: replaced(value[key], tuple(rest), by)}
    return [replaced(v, tuple(rest), by) if i == key else v for i, v in enumerate(value)]


@every_example
def test_a_refusal_never_shows_what_was_in_the_message(path: Path) -> None:
    value = json.loads(path.read_bytes())
    refused = 0
    for place in places(value):
        for wrong in (SECRET, {SECRET: SECRET}, [SECRET], {SECRET: [SECRET]}, SECRET * 2000):
            data = json.dumps(replaced(value, place, wrong)).encode()
            try:
                decode_topic(topic_name(path), data)
            except DecodeError as error:
                refused += 1
                assert SECRET not in str(error)
                assert error.__cause__ is None
                assert error.__suppress_context__
    assert refused > len(places(value))


def test_an_event_that_cannot_be_made_does_not_show_its_values() -> None:
    with pytest.raises(ValueError, match="occurred_at") as caught:
        schemas.Feedback(event_id=SECRET, occurred_at=SECRET)  # type: ignore[arg-type, call-arg]
    assert SECRET not in str(caught.value)


def embedding_values() -> st.SearchStrategy[dict[str, Any]]:
    return st.integers(1, 8).flatmap(
        lambda dim: st.fixed_dictionaries(
            {
                "model": st.just("embedder"),
                "model_version": st.text(max_size=20),
                "dim": st.just(dim),
                "vector_f32le": st.binary(min_size=4 * dim, max_size=4 * dim).map(
                    lambda data: base64.b64encode(data).decode()
                ),
            }
        )
    )


def values_of(schema: dict[str, Any], root: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values that a JSON Schema, as pydantic writes it, takes."""
    if "$ref" in schema:
        name = schema["$ref"].removeprefix("#/$defs/")
        return embedding_values() if name == "Embedding" else values_of(root["$defs"][name], root)
    if "anyOf" in schema:
        return st.one_of([values_of(one, root) for one in schema["anyOf"]])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "const" in schema:
        return st.just(schema["const"])
    kind = schema["type"]
    if kind == "object":
        if "properties" not in schema:
            return st.dictionaries(
                st.text(max_size=8), values_of(schema["additionalProperties"], root), max_size=3
            )
        fields = {key: values_of(one, root) for key, one in schema["properties"].items()}
        required = set(schema.get("required", ()))
        return st.fixed_dictionaries(
            {key: one for key, one in fields.items() if key in required},
            optional={key: one for key, one in fields.items() if key not in required},
        )
    if kind == "array":
        if "prefixItems" in schema:
            return st.tuples(*[values_of(one, root) for one in schema["prefixItems"]]).map(list)
        return st.lists(values_of(schema["items"], root), max_size=min(3, schema["maxItems"]))
    if kind == "string":
        return strings_of(schema)
    return {
        "integer": st.integers(schema.get("minimum", -(2**63)), schema.get("maximum", 2**63)),
        "number": st.floats(
            schema.get("minimum"), schema.get("maximum"), allow_nan=False, allow_infinity=False
        ),
        "boolean": st.booleans(),
        "null": st.none(),
    }[kind]


def strings_of(schema: dict[str, Any]) -> st.SearchStrategy[str]:
    if schema.get("format") == "date-time":
        return st.datetimes(
            datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=st.just(timezone.utc)
        ).map(datetime.isoformat)
    if "pattern" in schema:
        longest = schema.get("maxLength", 64)
        return st.from_regex(re.compile(schema["pattern"], re.ASCII), fullmatch=True).filter(
            lambda text: len(text) <= longest
        )
    return st.text(
        min_size=schema.get("minLength", 0), max_size=min(20, schema.get("maxLength", 20))
    )


@every_topic
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(data=st.data())
def test_whatever_the_json_schema_takes_makes_the_round_trip(
    topic: Topic, data: st.DataObject
) -> None:
    schema = generate.schema_of(topic)
    value = data.draw(values_of(schema, schema))
    event = decode_topic(topic.name, json.dumps(value).encode())
    assert isinstance(event, Event)
    again = encode(event)
    assert decode_topic(topic.name, again) == event
    Draft202012Validator(schema).validate(json.loads(again))


@every_example
def test_a_reader_survives_fields_that_it_does_not_know(path: Path) -> None:
    value = json.loads(path.read_bytes())
    event = decode_topic(topic_name(path), path.read_bytes())
    for place in places(value):
        inside = value
        for key in place:
            inside = inside[key]
        if isinstance(inside, dict) and "modality_counts" not in place:
            later = replaced(value, place, {**inside, "a_field_of_tomorrow": [1, {"x": None}]})
            assert decode_topic(topic_name(path), json.dumps(later).encode()) == event


def test_a_message_at_the_limit_is_refused_by_the_writer() -> None:
    (path,) = (path for path in EXAMPLE_FILES if path.name == "clusters-updated.json")
    event = decode(path.read_bytes(), schemas.ClustersUpdated)
    cluster = event.clusters[0].model_copy(update={"exemplars": ("x" * 36,) * 16})
    large = event.model_copy(update={"clusters": (cluster,) * 128})
    with pytest.raises(schemas.EncodeError) as caught:
        encode(large)
    assert caught.value.reason == "too-large"
    assert str(MAX_MESSAGE_BYTES) in str(caught.value)


@pytest.mark.parametrize("length_bytes", [0, 3, 12, 20])
def test_an_embedding_of_another_length_than_its_dim_is_refused(length_bytes: int) -> None:
    with pytest.raises(ValueError, match="dim asks for 16"):
        schemas.facts.Embedding(
            model="m",
            model_version="1",
            dim=4,
            vector_f32le=base64.b64encode(bytes(length_bytes)).decode(),
        )
