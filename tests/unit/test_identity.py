"""Identities: the same for the same thing, different for different things, never from a clock."""

from __future__ import annotations

import re
import uuid

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from schemas import identity

# Text that leans towards what could confuse the joining of parts.
parts = st.text(st.sampled_from("ab/\\.\x1e\x1f01"), max_size=6) | st.text(max_size=20)
tuples = st.lists(parts, max_size=4).map(tuple)
keys = st.binary(min_size=16, max_size=64)


def test_identities_are_fixed_for_ever() -> None:
    # A change here would make every stored row an orphan.
    assert identity.file_id("default", "ds", "a/b.dcm") == "4f8b5b0d-12e0-5075-abcf-15a60f217d12"
    event = identity.event_id("files-received", "f", "i")
    assert event == "e28c8d96-8982-5bab-9223-11539c8b6d26"
    assert identity.trace_id("assoc-1") == "cccf6cbb46345f22a30d9a0ca51e91dc"
    pseudonym = identity.keyed_hash(b"0123456789abcdef", "default", "", "id")
    assert pseudonym == "7ef192ca57e676dc80b067d9959cf71c"


@given(parts, parts, parts)
def test_file_id_is_a_uuid_5_and_depends_on_nothing_else(
    tenant: str, dataset_id: str, relpath: str
) -> None:
    first = identity.file_id(tenant, dataset_id, relpath)
    assert str(uuid.UUID(first)) == first
    assert uuid.UUID(first).version == 5
    assert identity.file_id(tenant, dataset_id, relpath) == first


@given(st.tuples(parts, parts, parts), st.tuples(parts, parts, parts))
def test_file_id_tells_any_two_places_apart(
    one: tuple[str, str, str], other: tuple[str, str, str]
) -> None:
    assume(one != other)
    assert identity.file_id(*one) != identity.file_id(*other)


@given(tuples, tuples, keys)
def test_parts_never_run_into_each_other(
    one: tuple[str, ...], other: tuple[str, ...], key: bytes
) -> None:
    # ("",) joins to the same text as (); nothing is named after no part.
    assume(one != other and one and other)
    assert identity.event_id("feedback", *one) != identity.event_id("feedback", *other)
    assert identity.trace_id(*one) != identity.trace_id(*other)
    assert identity.keyed_hash(key, *one) != identity.keyed_hash(key, *other)


@pytest.mark.parametrize("separator", ["\x1f", "\x1e", "/", "\x1e1", "\x1e0"])
def test_a_separator_in_a_name_moves_no_border(separator: str) -> None:
    places = [
        ("a", f"b{separator}c", "d"),
        (f"a{separator}b", "c", "d"),
        ("a", "b", f"c{separator}d"),
    ]
    assert len({identity.file_id(*place) for place in places}) == 3
    assert identity.event_id("t", "a", "b") != identity.event_id("t", f"a{separator}b")


@given(tuples)
def test_kinds_and_topics_do_not_share_names(subject: tuple[str, ...]) -> None:
    named = {
        identity.file_id(*(*subject, "", "", "")[:3]),
        identity.event_id("files-received", *subject),
        identity.event_id("files-sniffed", *subject),
        str(uuid.UUID(identity.trace_id(*subject))),
    }
    assert len(named) == 4


@given(tuples)
def test_trace_id_is_one_of_w3c_trace_context(subject: tuple[str, ...]) -> None:
    found = identity.trace_id(*subject)
    assert re.fullmatch(r"[0-9a-f]{32}", found)
    assert found != "0" * 32


def test_dicom_relpath_is_study_series_instance() -> None:
    assert identity.dicom_relpath("1.2", "1.2.3", "1.2.3.4") == "1.2/1.2.3/1.2.3.4"


@given(tuples, keys, keys)
def test_keyed_hash_needs_the_key(subject: tuple[str, ...], key: bytes, other: bytes) -> None:
    # HMAC pads keys with zeros up to its block of 64 bytes.
    assume(key.rstrip(b"\0") != other.rstrip(b"\0"))
    found = identity.keyed_hash(key, *subject)
    assert re.fullmatch(r"[0-9a-f]{32}", found)
    assert identity.keyed_hash(key, *subject) == found
    assert identity.keyed_hash(other, *subject) != found


@given(st.binary(max_size=15))
def test_a_short_key_is_refused_and_not_shown(key: bytes) -> None:
    with pytest.raises(ValueError, match="BIODATAMINE_PATIENT_HASH_KEY") as caught:
        identity.keyed_hash(key, "default", "", "id")
    if len(key) > 3:
        assert repr(key) not in str(caught.value)


def test_text_that_is_no_unicode() -> None:
    # A file name that could not be decoded is refused; a damaged header field has a pseudonym.
    with pytest.raises(ValueError, match="surrogates"):
        identity.file_id("default", "ds", "scan\udcff.dcm")
    found = identity.keyed_hash(bytes(16), "default", "", "M\udcffller")
    assert found != identity.keyed_hash(bytes(16), "default", "", "Mller")


def test_an_escaped_separator_is_not_a_separator() -> None:
    names = ["\x1f", "\x1e", "\x1e0", "\x1e1", "\x1e\x1f", "\x1e1\x1f", "\x1f1"]
    assert len({identity.trace_id(name) for name in names}) == len(names)
