"""Which network addresses a request may reach: public ones, and what an operator allows.

The tables follow the IANA special-purpose registries (RFC 6890 and its updates), written out, since
``ipaddress.is_global`` has changed its mind between Python versions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

from streams.ingest.errors import IngestError

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_FORBIDDEN_V4 = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this network, and unspecified
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carrier-grade NAT
        "127.0.0.0/8",  # loopback
        "169.254.0.0/16",  # link-local, and cloud metadata
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.31.196.0/24",  # AS112
        "192.52.193.0/24",  # AMT
        "192.88.99.0/24",  # 6to4 relay
        "192.168.0.0/16",  # private
        "192.175.48.0/24",  # AS112
        "198.18.0.0/15",  # benchmarking
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
)
_PUBLIC_V6 = IPv6Network("2000::/3")
_FORBIDDEN_V6 = tuple(
    IPv6Network(text)
    for text in (
        "2001::/23",  # protocol assignments, Teredo among them
        "2001:db8::/32",  # documentation
        "2620:4f:8000::/48",  # AS112
        "3fff::/20",  # documentation
    )
)
_NAT64 = IPv6Network("64:ff9b::/96")
_SIX_TO_FOUR = IPv6Network("2002::/16")

METADATA = frozenset(
    ip_address(text)
    for text in (
        "169.254.169.254",  # most clouds
        "169.254.170.2",  # AWS ECS
        "169.254.170.23",  # AWS EKS
        "fd00:ec2::254",  # AWS over IPv6
        "fd00:ec2::23",
        "fd20:ce::254",  # Google over IPv6
        "100.100.100.200",  # Alibaba
        "192.0.0.192",  # Oracle
        "168.63.129.16",  # Azure, in public address space
    )
)
"""Addresses that hand out a machine's credentials; no setting opens them."""

_CANONICAL_V4 = re.compile(r"(?:(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)(?:\.(?!$)|$)){4}", re.ASCII)
# What inet_aton takes: decimal, octal and hexadecimal parts, one to four of them.
_NUMERIC_PART = re.compile(r"(?:0[xX][0-9a-fA-F]*|[0-9]+)", re.ASCII)


def embedded_v4(address: IPv6Address) -> IPv4Address | None:
    """Find the IPv4 address that an IPv6 address leads to, if it does.

    Mapped (RFC 4291), compatible (deprecated there), NAT64 (RFC 6052) and 6to4 (RFC 3056).
    """
    value = int(address)
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _NAT64 or (value >> 32 == 0 and value > 1):
        return IPv4Address(value & 0xFFFFFFFF)
    if address in _SIX_TO_FOUR:
        return IPv4Address((value >> 80) & 0xFFFFFFFF)
    return None


def is_public(address: Address) -> bool:
    """Whether an address is one of the open internet, and no metadata service.

    Parameters
    ----------
    address : IPv4Address or IPv6Address
        As a resolver gave it.
    """
    if address in METADATA:
        return False
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _FORBIDDEN_V4)
    inner = embedded_v4(address)
    if inner is not None:
        return is_public(inner)
    if address.scope_id or address not in _PUBLIC_V6:
        return False
    return not any(address in network for network in _FORBIDDEN_V6)


def require_plain_host(host: str) -> None:
    """Refuse a host that is a number in disguise.

    ``0x7f.1``, ``2130706433``, ``0177.0.0.1`` and ``127.1`` are all loopback to a resolver. What
    they resolve to is checked as well; nobody with good intentions writes them.

    Raises
    ------
    IngestError
        If it is one.
    """
    text = host.rstrip(".")
    if not text or len(text) > 253:
        raise IngestError("bad-url", "the URL names no host, or one that is too long")
    if any(ord(c) <= 0x20 or c in '%\\/@#?"<>^`{|}' for c in text):
        raise IngestError("bad-url", "the URL's host holds characters that no host name has")
    if ":" in text:
        try:
            IPv6Address(text)
        except ValueError:
            raise IngestError("bad-url", "the URL's host is no IPv6 address") from None
        return
    parts = text.split(".")
    if _NUMERIC_PART.fullmatch(parts[-1]) and not _CANONICAL_V4.fullmatch(text):
        raise IngestError(
            "odd-address", "write an IPv4 address as four decimal numbers, or use the host's name"
        )


@dataclass(frozen=True)
class AllowList:
    """Hosts and networks that an operator permits besides the public internet.

    Parameters
    ----------
    names : mapping of str to frozenset of int or None
        Host names, lower case, and the ports allowed there; None for those of ``ports``.
    networks : tuple of (network, ports)
        Addresses, likewise.
    ports : frozenset of int
        Ports that are allowed everywhere.
    """

    names: dict[str, frozenset[int]] = field(default_factory=dict)
    networks: tuple[tuple[Network, frozenset[int]], ...] = ()
    ports: frozenset[int] = frozenset({80, 443})

    @classmethod
    def parse(cls, entries: Iterable[str], ports: Iterable[int] = (80, 443)) -> AllowList:
        """Read ``nas.example.org``, ``10.1.0.0/16``, ``127.0.0.1:8000``, ``[fd00::]/8:443``.

        Raises
        ------
        ValueError
            If an entry is of another kind.
        """
        names: dict[str, frozenset[int]] = {}
        networks: list[tuple[Network, frozenset[int]]] = []
        for entry in entries:
            host, port = _split_port(entry.strip())
            own = frozenset({port}) if port else frozenset()
            try:
                networks.append((ip_network(host.replace("[", "").replace("]", "")), own))
            except ValueError:
                name = host.lower().rstrip(".")
                if not re.fullmatch(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?", name):
                    msg = f"{entry!r}: an allowed host is NAME, ADDRESS or NETWORK, each [:PORT]"
                    raise ValueError(msg) from None
                names[name] = names.get(name, frozenset()) | own
        return cls(names, tuple(networks), frozenset(ports))

    def permits(self, host: str, address: Address, port: int) -> bool:
        """Whether a connection may be made.

        Parameters
        ----------
        host : str
            Name as the URL has it.
        address : IPv4Address or IPv6Address
            One of those that it resolved to.
        port : int
            Where to.
        """
        inner = embedded_v4(address) if isinstance(address, IPv6Address) else None
        if address in METADATA or inner in METADATA:
            return False
        own = self.names.get(host.lower().rstrip("."))
        if own is not None:
            return port in self.ports | own
        for network, ports in self.networks:
            if address.version == network.version and address in network:
                return port in self.ports | ports
        return is_public(address) and port in self.ports


def _split_port(entry: str) -> tuple[str, int | None]:
    head, colon, tail = entry.rpartition(":")
    bare_v6 = head.count(":") and "]" not in head
    if colon and tail.isdecimal() and not bare_v6 and 0 < int(tail) < 65_536:
        return head, int(tail)
    return entry, None
