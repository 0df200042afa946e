"""No request reaches an address that is not public, however it is written."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.ingest.addresses import Address, AllowList, is_public, require_plain_host
from streams.ingest.errors import IngestError, SourceAwayError
from streams.ingest.guard import Guard
from streams.ingest.limits import Limits
from streams.ingest.web import Web
from tests.support.web import listener, site

FORBIDDEN = [
    "127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1",
    "172.31.255.255", "192.168.1.1", "100.64.0.1", "100.127.255.255", "169.254.169.254",
    "169.254.0.1", "168.63.129.16", "192.0.0.192", "192.0.2.1", "198.18.0.1", "198.51.100.7",
    "203.0.113.9", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255",
    "192.88.99.1", "100.100.100.200", "169.254.170.2",
    "::", "::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1",
    "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2002:7f00:1::", "2002:a00:1::1",
    "2001::1", "2001:0:53aa:64c::1", "fe80::1", "fe80::1%1", "fec0::1", "fc00::1", "fd00:ec2::254",
    "ff02::1", "2001:db8::1", "100::1", "3fff::1", "5f00::1", "2001:10::1",
]  # fmt: skip
PUBLIC = ["1.1.1.1", "8.8.8.8", "140.82.121.3", "172.15.0.1", "172.32.0.1", "100.128.0.1",
          "2606:4700:4700::1111", "2a00:1450:4001:81b::200e", "64:ff9b::808:808",
          "::ffff:8.8.8.8", "2002:808:808::1"]  # fmt: skip


@pytest.mark.parametrize("text", FORBIDDEN)
def test_special_addresses_are_not_public(text: str) -> None:
    assert not is_public(ip_address(text))


@pytest.mark.parametrize("text", PUBLIC)
def test_public_addresses_are(text: str) -> None:
    assert is_public(ip_address(text))


@given(st.ip_addresses())
def test_what_is_public_here_is_global_to_the_standard_library(address: Address) -> None:
    inner = address
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        inner = address.ipv4_mapped
    if is_public(address):
        translated = isinstance(inner, IPv6Address) and (
            inner in __import__("ipaddress").ip_network("64:ff9b::/96")
        )
        assert inner.is_global or translated


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_in_ipv6_clothes_is_judged_as_itself(address: IPv4Address) -> None:
    value = int(address)
    clothes = [0xFFFF << 32 | value, 0x64FF9B << 96 | value, 0x2002 << 112 | value << 80]
    for number in clothes:
        assert is_public(IPv6Address(number)) == is_public(address)


@pytest.mark.parametrize(
    "host",
    ["0x7f.1", "0x7f000001", "2130706433", "017700000001", "0177.0.0.1", "127.1", "127.0.1", "0",
     "127.0.0.01", "1.1.1.256", "00000177.0.0.1", "0x7f.0x0.0x0.0x1", "0x"],
)  # fmt: skip
def test_numbers_in_disguise_are_no_hosts(host: str) -> None:
    with pytest.raises(IngestError) as caught:
        require_plain_host(host)
    assert caught.value.reason == "odd-address"


@pytest.mark.parametrize("host", ["", ".", "a b", "a%b", "a@b", "x" * 300, "[::1]", "::g", "a\\b"])
def test_what_is_no_host_name_is_refused(host: str) -> None:
    with pytest.raises(IngestError):
        require_plain_host(host)


@pytest.mark.parametrize(
    "host", ["example.org", "example.org.", "1.1.1.1", "::1", "a-b.c1", "xn--e1afmkfd.com"]
)
def test_names_and_plain_addresses_are_hosts(host: str) -> None:
    require_plain_host(host)


# The allow-list


def permits(entries: Sequence[str], host: str, address: str, port: int = 443) -> bool:
    return AllowList.parse(entries).permits(host, ip_address(address), port)


def test_an_operator_can_allow_hosts_networks_and_ports() -> None:
    assert not permits([], "nas.local", "10.1.2.3")
    assert permits(["nas.local"], "NAS.local.", "10.1.2.3")
    assert not permits(["nas.local"], "other.local", "10.1.2.3")
    assert not permits(["nas.local"], "nas.local", "10.1.2.3", 8080)
    assert permits(["nas.local:8080"], "nas.local", "10.1.2.3", 8080)
    assert permits(["10.1.0.0/16"], "anything", "10.1.2.3")
    assert not permits(["10.1.0.0/16"], "anything", "10.2.2.3")
    assert permits(["127.0.0.1:8000"], "127.0.0.1", "127.0.0.1", 8000)
    assert not permits(["127.0.0.1:8000"], "127.0.0.1", "127.0.0.1", 8001)
    assert permits(["[fd00::]/8:9000"], "x", "fd12::1", 9000)
    assert permits([], "example.org", "1.1.1.1", 443)
    assert not permits([], "example.org", "1.1.1.1", 22)


@pytest.mark.parametrize("address", ["169.254.169.254", "::ffff:169.254.169.254", "fd00:ec2::254"])
def test_no_setting_opens_a_metadata_service(address: str) -> None:
    assert not permits(["169.254.0.0/16", "fd00::/8", "::/0", "meta"], "meta", address, 80)


@pytest.mark.parametrize("entry", ["", "http://x", "a b", "10.0.0.0/99", "x:99999", "*"])
def test_a_malformed_allow_list_says_so(entry: str) -> None:
    with pytest.raises(ValueError, match="an allowed host is"):
        AllowList.parse([entry])


# Through the guard: real sockets, and a listener that must stay alone


def of(*addresses: str) -> object:
    return lambda host, port: [ip_address(text) for text in addresses]


@pytest.mark.parametrize("addresses", [("127.0.0.1",), ("1.1.1.1", "127.0.0.1"), ("::1",)])
def test_one_forbidden_address_among_those_of_a_name_is_enough(addresses: tuple[str, ...]) -> None:
    guard = Guard(AllowList(), of(*addresses))  # type: ignore[arg-type]
    with pytest.raises(IngestError) as caught:
        guard.addresses("innocent.example", 80)
    assert caught.value.reason == "forbidden-address"
    assert "127.0.0.1" not in caught.value.detail, "the answer must not map somebody's network"


HOSTS = [
    "127.0.0.1", "localhost", "localhost.", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]",
    "[::127.0.0.1]", "0.0.0.0", "[::]", "0x7f.1", "2130706433", "0177.0.0.1", "127.1", "127.0.1",
    "①②⑦.⓪.⓪.①", "127。0。0。1", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "127.0.0.1.nip.invalid",
    "user@127.0.0.1", "1.1.1.1@127.0.0.1", "127.0.0.1%00.example.org", "[fe80::1%25lo]",
]  # fmt: skip


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("v6", [False, True])
def test_no_way_of_writing_loopback_reaches_it(host: str, v6: bool) -> None:
    with listener("::1" if v6 else "127.0.0.1") as (port, arrived):
        web = Web(Limits(idle_seconds=2), AllowList(ports=frozenset({80, 443, port})))
        with pytest.raises((IngestError, SourceAwayError)):  # noqa: SIM117
            with web.get(f"http://{host}:{port}/"):
                pass
        web.close()
    assert arrived == []


def test_a_redirect_to_loopback_is_not_followed() -> None:
    with site() as front, listener() as (port, arrived):
        allowed = AllowList.parse([f"127.0.0.1:{front.port}"])
        web = Web(Limits(idle_seconds=2), allowed)
        for number, status in enumerate((301, 302, 303, 307, 308)):
            for target in (
                f"http://127.0.0.1:{port}/",
                f"http://localhost:{port}/",
                f"//[::1]:{port}/",
            ):
                front.redirect(f"/{number}", target, status)
                with pytest.raises((IngestError, SourceAwayError)):  # noqa: SIM117
                    with web.get(front.url(f"/{number}")):
                        pass
        for target in ("file:///etc/passwd", "gopher://x/", "ftp://x/", "http://u:p@1.1.1.1/"):
            front.redirect("/odd", target)
            with pytest.raises(IngestError):  # noqa: SIM117
                with web.get(front.url("/odd")):
                    pass
        web.close()
    assert arrived == []


def test_a_resolver_that_changes_its_mind_changes_nothing() -> None:
    """DNS rebinding: the name is public when it is checked, and loopback ever after."""
    asked: list[str] = []

    def rebinding(host: str, port: int) -> Sequence[Address]:
        asked.append(host)
        return [ip_address("203.0.113.1" if len(asked) == 1 else "127.0.0.1")]

    with listener() as (port, arrived):
        # As if documentation addresses were public, so that the first answer passes.
        allowed = AllowList.parse(["203.0.113.0/24"], ports=(port,))
        web = Web(Limits(idle_seconds=0.3), allowed, resolver=rebinding)
        with pytest.raises((IngestError, SourceAwayError)):  # noqa: SIM117
            with web.get(f"http://rebind.example:{port}/"):
                pass
        assert asked == ["rebind.example"], "the name is resolved once for a connection"
        with pytest.raises(IngestError):  # noqa: SIM117
            with web.get(f"http://rebind.example:{port}/"):
                pass
        web.close()
    assert arrived == []


def test_the_name_goes_into_the_request_and_the_address_into_the_socket() -> None:
    with site() as real:
        real.status("/", 200, body=b"hello")
        allowed = AllowList.parse([f"data.example:{real.port}"])
        web = Web(Limits(), allowed, resolver=of("127.0.0.1"))  # type: ignore[arg-type]
        with web.get(real.url(host="data.example")) as response:
            assert b"".join(response.iter_raw()) == b"hello"
        web.close()
        assert real.hits[0].headers["host"] == f"data.example:{real.port}"


def test_a_name_that_does_not_resolve_is_away() -> None:
    def fails(host: str, port: int) -> Sequence[Address]:
        raise socket.gaierror

    web = Web(Limits(), resolver=fails)
    with pytest.raises(SourceAwayError, match="cannot be resolved"):  # noqa: SIM117
        with web.get("http://nowhere.example/"):
            pass


@given(st.text(max_size=40))
def test_any_text_as_a_url_ends_as_one_of_ours(text: str) -> None:
    def nobody(host: str, port: int) -> Sequence[Address]:
        raise socket.gaierror

    web = Web(Limits(), resolver=nobody)
    for url in (text, f"http://{text}", f"http://example.org/{text}", f"http://{text}:80/"):
        with pytest.raises((IngestError, SourceAwayError)):  # noqa: SIM117
            with web.get(url):
                pass
