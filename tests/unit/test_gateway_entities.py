"""Application Entities: who may call which title, from where, with what."""

from __future__ import annotations

import ipaddress
import pickle
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import (
    BasicTextSRStorage,
    CTImageStorage,
    EncapsulatedPDFStorage,
    ExplicitVRLittleEndian,
    GrayscaleSoftcopyPresentationStateStorage,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    MRImageStorage,
)

from dicom_gateway.aes.entities import (
    AssociationRefused,
    Entities,
    Entity,
    is_ae_title,
    plain_title,
    single_entity,
)
from dicom_gateway.aes.entities_file import (
    MAX_FILE_BYTES,
    EntitiesError,
    load_entities,
    parse_entities,
)
from dicom_gateway.aes.uid_rules import SOP_CLASSES, TRANSFER_SYNTAXES, SopClassRules, Verdict
from dicom_gateway.storing.statuses import SopClassNotAcceptedError, TransferSyntaxNotAcceptedError

TITLE_CHARACTERS = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "\\")
titles = (
    st.text(TITLE_CHARACTERS, min_size=1, max_size=16)
    .map(lambda title: title.strip(" "))
    .filter(bool)
)
literal_titles = st.text(string.ascii_letters + string.digits + "_- ", min_size=1, max_size=16).map(
    lambda title: title.strip(" ") or "X"
)
addresses = st.ip_addresses().map(str)


def parse(text: str) -> Entities:
    return parse_entities(text, source="aes.toml", tenant="t", dataset_id="d")


def faults(text: str) -> str:
    with pytest.raises(EntitiesError) as caught:
        parse(text)
    return str(caught.value)


def refusal(entities: Entities, called: str, calling: str, address: str) -> AssociationRefused:
    with pytest.raises(AssociationRefused) as caught:
        entities.find(called, calling, address)
    return caught.value


TWO = """
[ae.CTSTORE]
tenant = "radiology"
dataset_id = "ct"
calling_ae_titles = ["CT0?", "PACS*"]
networks = ["10.1.0.0/16", "fd00::/8"]
sop_classes.allow = ["images", "Basic Text SR Storage"]
sop_classes.ignore = ["presentation-states"]
transfer_syntaxes.allow = ["uncompressed", "jpeg-ls"]

[ae."OTHER ONE"]
max_associations = 3
max_associations_per_peer = 2
[ae."OTHER ONE".commitment.PACS1]
host = "pacs1.example.org"
port = 104
tls = true
"""


# Titles and addresses


@given(titles, titles, addresses, st.integers(0, 4), st.integers(0, 4), st.integers(0, 4))
def test_padding_of_titles_makes_no_difference(
    called: str, calling: str, address: str, left: int, right: int, nuls: int
) -> None:
    entities = Entities.model_validate({"ae": {called: {}}})
    padded = " " * left + called + " " * right + "\0" * nuls
    assert entities.find(padded, calling, address).ae_title == called


@given(titles, titles)
def test_without_a_file_everyone_is_accepted_by_any_title(called: str, calling: str) -> None:
    entities = single_entity(ae_title="BIODATAMINE", tenant="t", dataset_id="d")
    entity = entities.find(called, calling, "203.0.113.9")
    assert (entity.ae_title, entity.tenant, entity.dataset_id) == ("BIODATAMINE", "t", "d")


@given(st.text(max_size=40), st.text(max_size=40), st.text(max_size=40))
def test_whatever_a_peer_says_is_an_entity_or_a_rejection(
    called: str, calling: str, address: str
) -> None:
    entities = parse(TWO)
    try:
        found = entities.find(called, calling, address)
    except AssociationRefused as refused:
        assert (refused.result, refused.source) == (1, 1)
        assert refused.reason in (3, 7)
        assert refused.why.isprintable()
        assert len(refused.why) < 300
    else:
        assert found is entities.ae[plain_title(called)]


@given(st.text(max_size=20))
def test_a_title_is_one_only_within_the_value_representation(title: str) -> None:
    expected = (
        1 <= len(title) <= 16
        and title.strip(" ") == title
        and all(character in TITLE_CHARACTERS for character in title)
    )
    assert is_ae_title(title) == expected


@given(literal_titles, literal_titles)
def test_a_pattern_without_wildcards_is_that_title(listed: str, calling: str) -> None:
    entity = Entity(ae_title="X", calling_ae_titles=(listed,))
    assert entity.accepts_calling(calling) == (listed == calling)


@given(titles)
def test_a_star_is_any_title_but_no_odd_one(title: str) -> None:
    entity = Entity(ae_title="X", calling_ae_titles=("*",))
    assert entity.accepts_calling(title)
    for odd in ("", "   ", title + "\n", "\x01" + title, title.ljust(17, "X"), "é" + title[:3]):
        assert not entity.accepts_calling(odd)
        assert Entity(ae_title="X").accepts_calling(odd)


@given(st.ip_addresses(), st.data())
def test_an_address_is_accepted_as_its_network_says(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, data: st.DataObject
) -> None:
    prefix = data.draw(st.integers(0, address.max_prefixlen))
    other = data.draw(st.ip_addresses(v=address.version))
    network = ipaddress.ip_network((address, prefix), strict=False)
    entity = Entity.model_validate({"ae_title": "X", "networks": [str(network)]})
    assert entity.accepts_address(str(address))
    if getattr(other, "ipv4_mapped", None) is None:
        assert entity.accepts_address(str(other)) == (other in network)


@given(st.ip_addresses(v=4))
def test_a_v4_peer_of_a_v6_socket_is_a_v4_peer(address: ipaddress.IPv4Address) -> None:
    entity = Entity.model_validate({"ae_title": "X", "networks": [str(address)]})
    assert entity.accepts_address(f"::ffff:{address}")


def test_zones_and_what_is_no_address() -> None:
    entity = Entity.model_validate({"ae_title": "X", "networks": ["fe80::/10"]})
    assert entity.accepts_address("fe80::1%eth0")
    assert not entity.accepts_address("")
    assert not entity.accepts_address("workstation")
    assert Entity(ae_title="X").accepts_address("")


@pytest.mark.parametrize(
    ("called", "calling", "address", "reason", "words"),
    [
        ("NOBODY", "CT01", "10.1.0.1", 7, "no AE title 'NOBODY'"),
        ("ctstore", "CT01", "10.1.0.1", 7, "CTSTORE differs in case only"),
        ("", "CT01", "10.1.0.1", 7, "no AE title ''"),
        ("CTSTORE", "MR01", "10.1.0.1", 3, "no calling AE title 'MR01'"),
        ("CTSTORE", "ct01", "10.1.0.1", 3, "differs in case only"),
        ("CTSTORE", "  ", "10.1.0.1", 3, "blank"),
        ("CTSTORE", "CT01", "10.2.0.1", 3, "no peer at 10.2.0.1"),
        ("CTSTORE", "CT01", "2001:db8::1", 3, "networks"),
    ],
)
def test_refusals_have_the_codes_of_the_standard(
    called: str, calling: str, address: str, reason: int, words: str
) -> None:
    refused = refusal(parse(TWO), called, calling, address)
    assert (refused.result, refused.source, refused.reason) == (1, 1, reason)
    assert words in str(refused)


def test_a_refusal_can_cross_processes() -> None:
    refused = refusal(parse(TWO), "NOBODY", "CT01", "10.1.0.1")
    again = pickle.loads(pickle.dumps(refused))
    assert (again.result, again.source, again.reason, again.why) == (1, 1, 7, refused.why)
    entities = parse(TWO)
    assert pickle.loads(pickle.dumps(entities)) == entities


def test_an_unknown_called_title_goes_to_the_default_by_choice() -> None:
    entities = parse('default_ae_title = "CTSTORE"\n' + TWO)
    assert entities.find("WHOEVER", "CT01", "10.1.0.1").ae_title == "CTSTORE"
    assert entities.find("\x00\x01", "CT01", "10.1.0.1").ae_title == "CTSTORE"
    # Its rules hold all the same.
    assert refusal(entities, "WHOEVER", "MR01", "10.1.0.1").reason == 3


def test_an_address_that_no_entity_accepts() -> None:
    assert parse(TWO).accepts_address("203.0.113.9")  # "OTHER ONE" takes any
    closed = parse('[ae.A]\nnetworks = ["10.0.0.1"]\n[ae.B]\nnetworks = ["10.0.0.2"]')
    assert [closed.accepts_address(f"10.0.0.{last}") for last in (1, 2, 3)] == [True, True, False]


def test_limits_reject_for_now() -> None:
    entity = parse(TWO).ae["OTHER ONE"]
    entity.check_load(open_associations=2, open_of_peer=1)
    for full in (
        {"open_associations": 3, "open_of_peer": 0},
        {"open_associations": 2, "open_of_peer": 2},
    ):
        with pytest.raises(AssociationRefused) as caught:
            entity.check_load(**full)
        assert (caught.value.result, caught.value.source, caught.value.reason) == (2, 3, 2)
    parse(TWO).ae["CTSTORE"].check_load(open_associations=10_000, open_of_peer=10_000)


# Instances


@pytest.mark.parametrize(
    ("sop_class", "syntax", "verdict"),
    [
        (CTImageStorage, ExplicitVRLittleEndian, Verdict.STORE),
        (BasicTextSRStorage, JPEGLSLossless, Verdict.STORE),
        (GrayscaleSoftcopyPresentationStateStorage, ImplicitVRLittleEndian, Verdict.IGNORE),
        (GrayscaleSoftcopyPresentationStateStorage, JPEG2000Lossless, Verdict.IGNORE),
    ],
)
def test_what_is_stored_and_ignored(sop_class: str, syntax: str, verdict: Verdict) -> None:
    assert parse(TWO).ae["CTSTORE"].check_instance(sop_class, syntax) is verdict


def test_what_is_refused() -> None:
    entity = parse(TWO).ae["CTSTORE"]
    with pytest.raises(SopClassNotAcceptedError) as by_class:
        entity.check_instance(EncapsulatedPDFStorage, ExplicitVRLittleEndian)
    with pytest.raises(TransferSyntaxNotAcceptedError) as by_syntax:
        entity.check_instance(CTImageStorage, JPEGBaseline8Bit)
    assert (by_class.value.status, by_syntax.value.status) == (0x0124, 0xC002)
    assert not entity.accepts_sop_class(EncapsulatedPDFStorage)
    assert entity.accepts_sop_class(GrayscaleSoftcopyPresentationStateStorage)
    assert not entity.accepts_transfer_syntax(JPEGBaseline8Bit)


@given(st.sampled_from(sorted({*SOP_CLASSES.groups["images"], "1.2.3.4", "1.2.840.113619.4.27"})))
def test_without_rules_everything_is_stored(sop_class: str) -> None:
    assert Entity(ae_title="X").check_instance(sop_class, "1.2.3") is Verdict.STORE


def test_private_classes_are_a_group() -> None:
    rules = SopClassRules(allow=("images",), ignore=("private",))
    assert rules.judge("1.2.840.113619.4.27") is Verdict.IGNORE
    assert rules.judge(MRImageStorage) is Verdict.STORE
    assert SopClassRules(allow=("private",)).judge(MRImageStorage) is None


@pytest.mark.parametrize(
    "word", ["1.2.840.10008.5.1.4.1.1.2", "CTImageStorage", "ctimagestorage", "CT Image Storage"]
)
def test_a_class_may_be_written_in_several_ways(word: str) -> None:
    assert SOP_CLASSES.resolve(word) == {CTImageStorage}


def test_groups_of_transfer_syntaxes_divide_them() -> None:
    groups = TRANSFER_SYNTAXES.groups
    assert not groups["compressed"] & groups["uncompressed"]
    assert JPEG2000Lossless in groups["jpeg-2000"] <= groups["compressed"]
    assert JPEGBaseline8Bit in groups["jpeg"]
    assert not groups["jpeg"] & (groups["jpeg-ls"] | groups["jpeg-2000"] | groups["jpeg-xl"])
    assert all(groups.values())
    assert all(SOP_CLASSES.groups.values())


def test_one_word_that_may_mean_two_things_is_asked_about() -> None:
    assert len(TRANSFER_SYNTAXES.resolve("JPEG2000")) == 1
    assert len(TRANSFER_SYNTAXES.resolve("jpeg-2000")) == 4
    with pytest.raises(ValueError, match='write "jpeg-2000" or "JPEG2000"'):
        TRANSFER_SYNTAXES.resolve("jpeg2000")


# The file


def test_a_file_is_read() -> None:
    entities = parse(TWO)
    first, second = entities.ae["CTSTORE"], entities.ae["OTHER ONE"]
    assert (first.tenant, first.dataset_id) == ("radiology", "ct")
    assert (second.tenant, second.dataset_id) == ("t", "d")
    peer = second.commitment["PACS1"]
    assert (peer.host, peer.port, peer.tls) == ("pacs1.example.org", 104, True)
    assert (second.max_associations, second.max_associations_per_peer) == (3, 2)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["ae: is missing", "[ae.BIODATAMINE]"]),
        ("[ae.X\ntenant = 3", ["is no TOML", "line 1"]),
        ("[CTSTORE]", ["[CTSTORE]: write [ae.CTSTORE]"]),
        ("[ae.X]\ntennant = 'a'", ["[ae.X], tennant: there is no such key; did you mean tenant?"]),
        ("[ae.X]\nzzz = 'a'", ["[ae.X], zzz", "calling_ae_titles, networks"]),
        ("[ae.X]\nae_title = 'Y'", ["[ae.X], ae_title", "leave it out"]),
        ("[ae.X]\nmax_associations = 0", ["[ae.X], max_associations", "max_associations = 20"]),
        ("[ae.X]\ntenant = 'a b'", ["[ae.X], tenant", 'tenant = "radiology"']),
        ("[ae.X]\nnetworks = ['10.1.0.1/16']", ["[ae.X], networks", 'write "10.1.0.0/16"']),
        ("[ae.X]\nnetworks = ['ward']", ['"ward" is no network', "fd00::/8"]),
        ("[ae.X]\nnetworks = '10.0.0.1'", ["[ae.X], networks: ", "list"]),
        ("[ae.X]\ncalling_ae_titles = ['']", ["[ae.X], calling_ae_titles", "leave the list empty"]),
        ("[ae.X]\ncalling_ae_titles = ['SEVENTEEN_LETTERS']", ["is no AE title"]),
        ("[ae.X]\nsop_classes.allow = ['CTImageStorge']", ["did you mean CTImageStorage"]),
        ("[ae.X]\nsop_classes.alow = []", ["sop_classes.alow", "did you mean allow?"]),
        ("[ae.X]\ntransfer_syntaxes.ignore = ['zip']", ["is no transfer syntax", "compressed"]),
        (
            "[ae.X.commitment.P]\nhost = 'h'",
            ["[ae.X.commitment.P], port: is missing", "port = 104"],
        ),
        ("[ae.X.commitment.P]\nhost = 'h o'\nport = 1", ["[ae.X.commitment.P], host", "host ="]),
        ("[ae.SEVENTEEN_LETTERS]", ["is no AE title", "1 to 16"]),
        ("[ae.'X ']", ["spaces around it"]),
        ("default_ae_title = 'Z'\n[ae.X]", ["default_ae_title", "no table"]),
        ("ae = 3", ["ae: ", "[ae.BIODATAMINE]"]),
        ("source = 'x'\n[ae.X]", ["source: there is no such key"]),
    ],
)
def test_a_fault_names_file_table_and_key_and_what_to_write(text: str, words: list[str]) -> None:
    said = faults(text)
    assert all(line.startswith("aes.toml") for line in said.splitlines())
    for word in words:
        assert word in said


def test_all_faults_are_said_at_once() -> None:
    assert (
        len(
            faults(
                "[ae.X]\nmax_associations = 0\ntennant = 'a'\nnetworks = ['a', 'b']"
            ).splitlines()
        )
        == 3
    )


@given(st.text(max_size=200))
def test_no_text_is_more_than_a_fault(text: str) -> None:
    try:
        parse(text)
    except EntitiesError as error:
        assert str(error).startswith("aes.toml")


_json = st.recursive(
    st.one_of(st.booleans(), st.integers(-9, 9), st.text("aX ", max_size=3)),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(("host", "allow", "tls", "X")), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(sorted({*Entity.model_fields, "zzz"})), _json))
def test_no_value_is_more_than_a_fault(table: dict[str, object]) -> None:
    def toml(value: object) -> str:
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, dict):
            return "{" + ", ".join(f"{key} = {toml(one)}" for key, one in value.items()) + "}"
        if isinstance(value, list):
            return "[" + ", ".join(map(toml, value)) + "]"
        return f'"{value}"' if isinstance(value, str) else str(value)

    text = "[ae.X]\n" + "\n".join(f"{key} = {toml(value)}" for key, value in table.items())
    try:
        parse(text)
    except EntitiesError as error:
        assert "aes.toml: [ae.X" in str(error)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    def said(file: Path) -> str:
        with pytest.raises(EntitiesError) as caught:
            load_entities(file, ae_title="A", tenant="t", dataset_id="d")
        return str(caught.value)

    assert "BIODATAMINE_DICOM_ENTITIES_FILE" in said(tmp_path / "none.toml")
    assert "BIODATAMINE_DICOM_ENTITIES_FILE" in said(tmp_path)
    latin = tmp_path / "latin.toml"
    latin.write_bytes("# Zürich".encode("latin-1"))
    assert "UTF-8" in said(latin)
    large = tmp_path / "large.toml"
    large.write_bytes(b"#" * (MAX_FILE_BYTES + 1))
    assert "longer" in said(large)


def test_no_file_is_one_entity_of_the_settings() -> None:
    entities = load_entities(None, ae_title="A", tenant="t", dataset_id="d")
    assert list(entities.ae) == ["A"]


def test_start_up_says_what_is_open() -> None:
    (anything, anyone) = single_entity(ae_title="A", tenant="t", dataset_id="d").warnings()
    assert "every called AE title is taken for A" in anything
    assert "A accepts any calling AE title from any network" in anyone
    assert "BIODATAMINE_DICOM_ENTITIES_FILE" in anyone
    (other,) = parse(TWO).warnings()
    assert "OTHER ONE" in other
    assert "aes.toml" in other
    (half,) = parse('[ae.X]\nnetworks = ["10.0.0.0/8"]').warnings()
    assert "any calling AE title from networks 10.0.0.0/8: set calling_ae_titles in" in half
