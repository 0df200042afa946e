"""Configurable Application Entities: who may send what to which AE title, and whose it becomes.

A TOML file has one table for each AE title that senders may call::

    # Who answers for a called AE title that has no table; without it such calls are rejected.
    default_ae_title = "BIODATAMINE"

    [ae.BIODATAMINE]                        # every key is optional
    tenant = "radiology"                    # else BIODATAMINE_TENANT
    dataset_id = "ct"                       # else BIODATAMINE_DICOM_DATASET_ID
    calling_ae_titles = ["CT0?", "PACS*"]   # shell patterns; empty: any
    networks = ["10.1.0.0/16", "fd00::/8"]  # empty: any
    max_associations = 20
    max_associations_per_peer = 4           # of one network address
    sop_classes.allow = ["images", "structured-reports"]        # empty: all
    sop_classes.ignore = ["presentation-states"]                # answered Success, not stored
    transfer_syntaxes.allow = ["uncompressed", "JPEGLSLossless"]

    [ae.BIODATAMINE.commitment.PACS1]       # where to report storage commitment to
    host = "10.1.0.9"
    port = 104
    tls = false

Without a file there is one entity, made from the settings, that answers for every called AE title
and accepts everyone, as a new installation must: it says so when it starts.

How AE titles are compared (PS3.5 6.2, VR AE)
    Spaces before and after are no part of a title, nor are the NULs with which some devices pad it.
    Case counts, as the standard has it; a rejection says so where only the case differs. A blank
    title, one longer than 16 characters or one with a character that a title cannot have (control
    characters, the backslash, anything beyond ASCII) is never a key of the file and matches no
    pattern: as called title it goes to ``default_ae_title`` or is rejected, as calling title it is
    accepted only where ``calling_ae_titles`` is empty.
"""

from __future__ import annotations

import fnmatch
import ipaddress
import re
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from dicom_gateway.aes.uid_rules import SopClassRules, TransferSyntaxRules, Verdict
from dicom_gateway.storing.statuses import SopClassNotAcceptedError, TransferSyntaxNotAcceptedError
from schemas.base import Identifier

MAX_AE_TITLE_CHARACTERS = 16

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

REJECTED_PERMANENT, REJECTED_TRANSIENT = 1, 2
SOURCE_USER, SOURCE_PRESENTATION = 1, 3
_CALLING_NOT_RECOGNIZED, _CALLED_NOT_RECOGNIZED = 3, 7
_LOCAL_LIMIT_EXCEEDED = 2

# What the VR AE may hold: the default repertoire without control characters and backslash.
_AE_TITLE = re.compile(r"[ -\[\]-~]{1,16}\Z")


class AssociationRefused(Exception):  # noqa: N818 (an answer to a peer, not a fault)
    """An association is to be rejected.

    Parameters
    ----------
    result, source, reason : int
        Of the A-ASSOCIATE-RJ (PS3.8 9.3.4).
    why : str
        In words, for our log.
    """

    def __init__(self, result: int, source: int, reason: int, why: str) -> None:
        super().__init__(result, source, reason, why)
        self.result = result
        self.source = source
        self.reason = reason
        self.why = why

    def __str__(self) -> str:
        return self.why


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CommitmentPeer(_Value):
    """Where a peer takes N-EVENT-REPORT on an association that we open (PS3.4 J.3.3).

    Parameters
    ----------
    host, port : str, int
        Its address.
    tls : bool
        Whether it speaks TLS.
    """

    host: str = Field(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9_.:%-]+$")
    port: int = Field(ge=1, le=65535)
    tls: bool = False


class Entity(_Value):
    """One Application Entity of ours, and its rules.

    Parameters
    ----------
    ae_title : str
        Under which it is called.
    tenant, dataset_id : str
        Whose data arrives here, and the dataset that it joins.
    calling_ae_titles : tuple of str
        Shell patterns of the AE titles that may call; empty for any.
    networks : tuple of IPv4Network or IPv6Network
        From where; empty for anywhere.
    max_associations, max_associations_per_peer : int or None
        Associations at the same time with it, and of one address with it; None for no limit but
        the gateway's.
    sop_classes, transfer_syntaxes : SopClassRules, TransferSyntaxRules
        What is stored, ignored and refused.
    commitment : dict of str to CommitmentPeer
        Calling AE title -> where it takes reports of storage commitment.
    """

    ae_title: str
    tenant: Identifier = "default"
    dataset_id: Identifier = "pacs"
    calling_ae_titles: tuple[str, ...] = ()
    networks: tuple[Network, ...] = ()
    max_associations: Annotated[int, Field(ge=1)] | None = None
    max_associations_per_peer: Annotated[int, Field(ge=1)] | None = None
    sop_classes: SopClassRules = SopClassRules()
    transfer_syntaxes: TransferSyntaxRules = TransferSyntaxRules()
    commitment: Mapping[str, CommitmentPeer] = Field(default_factory=dict)

    @field_validator("ae_title")
    @classmethod
    def _is_title(cls, title: str) -> str:
        if title != plain_title(title):
            msg = f"{_shown(title)} has spaces around it; write it without"
            raise ValueError(msg)
        return _checked_title(title)

    @field_validator("networks", mode="before")
    @classmethod
    def _are_networks(cls, given: Any) -> Any:
        if not isinstance(given, list | tuple):
            return given
        return tuple(_network(one) for one in given)

    @field_validator("calling_ae_titles")
    @classmethod
    def _can_match(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            if not pattern.strip():
                msg = "an empty pattern matches nothing; leave the list empty to accept any title"
                raise ValueError(msg)
            if not re.search(r"[*?\[]", pattern):
                _checked_title(pattern)
        return tuple(pattern.strip(" ") for pattern in patterns)

    @field_validator("commitment")
    @classmethod
    def _have_titles(cls, peers: Mapping[str, CommitmentPeer]) -> Mapping[str, CommitmentPeer]:
        return {_checked_title(title): peer for title, peer in peers.items()}

    @cached_property
    def _calling(self) -> re.Pattern[str] | None:
        if not self.calling_ae_titles:
            return None
        return re.compile("|".join(map(fnmatch.translate, self.calling_ae_titles)))

    def accepts_calling(self, calling_ae_title: str) -> bool:
        """Whether a peer of this AE title may call."""
        if self._calling is None:
            return True
        title = plain_title(calling_ae_title)
        return is_ae_title(title) and self._calling.match(title) is not None

    def accepts_address(self, address: str) -> bool:
        """Whether a peer may call from this address; one that is no IP address only where any may.

        Parameters
        ----------
        address : str
            IPv4 or IPv6, the latter with or without a zone; ``::ffff:10.0.0.1`` is ``10.0.0.1``.
        """
        if not self.networks:
            return True
        try:
            parsed = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
        return any(
            parsed in network or (mapped is not None and mapped in network)
            for network in self.networks
        )

    def accepts_sop_class(self, sop_class_uid: str) -> bool:
        """Whether to accept a presentation context of this SOP class; also if it is ignored."""
        return self.sop_classes.judge(sop_class_uid) is not None

    def accepts_transfer_syntax(self, transfer_syntax_uid: str) -> bool:
        """Whether to accept a presentation context in this transfer syntax; also if ignored."""
        return self.transfer_syntaxes.judge(transfer_syntax_uid) is not None

    def check_instance(self, sop_class_uid: str, transfer_syntax_uid: str) -> Verdict:
        """Decide over an instance.

        Returns
        -------
        Verdict
            ``STORE``, or ``IGNORE``: answer Success and store nothing.

        Raises
        ------
        SopClassNotAcceptedError, TransferSyntaxNotAcceptedError
            If the rules refuse it.
        """
        by_class = self.sop_classes.judge(sop_class_uid)
        if by_class is Verdict.IGNORE:
            return by_class
        by_syntax = self.transfer_syntaxes.judge(transfer_syntax_uid)
        if by_syntax is Verdict.IGNORE:
            return by_syntax
        if by_class is None:
            raise SopClassNotAcceptedError(f"{self.ae_title} does not accept this SOP class")
        if by_syntax is None:
            raise TransferSyntaxNotAcceptedError(
                f"{self.ae_title} does not accept this transfer syntax"
            )
        return Verdict.STORE

    def check_load(self, *, open_associations: int, open_of_peer: int) -> None:
        """Keep the limits of associations at the same time.

        Parameters
        ----------
        open_associations, open_of_peer : int
            How many this entity has now, and how many of them with the peer's address.

        Raises
        ------
        AssociationRefused
            If one more is too many: rejected-transient, local-limit-exceeded (PS3.8 9.3.4), which
            tells a sender to try again later.
        """
        limits = (
            (self.max_associations, open_associations, "max_associations"),
            (self.max_associations_per_peer, open_of_peer, "max_associations_per_peer"),
        )
        for limit, count, name in limits:
            if limit is not None and count >= limit:
                raise too_many(
                    f"{self.ae_title} has {count} associations already ({name} = {limit})"
                )


class Entities(_Value):
    """All Application Entities of the gateway.

    Parameters
    ----------
    ae : dict of str to Entity
        Called AE title -> entity.
    default_ae_title : str or None
        The entity that answers for other called AE titles; None rejects them.
    source : str
        File that they come from; empty if they come from the settings.
    """

    ae: Mapping[str, Entity] = Field(min_length=1)
    default_ae_title: str | None = None
    source: str = ""

    @model_validator(mode="before")
    @classmethod
    def _name(cls, given: Any) -> Any:
        # A table's key is its entity's AE title.
        tables = given.get("ae") if isinstance(given, dict) else None
        if not isinstance(tables, dict):
            return given
        named = {
            title: {**table, "ae_title": title}
            if isinstance(table, dict) and "ae_title" not in table
            else table
            for title, table in tables.items()
        }
        return {**given, "ae": named}

    @model_validator(mode="after")
    def _default_exists(self) -> Entities:
        if self.default_ae_title is not None and self.default_ae_title not in self.ae:
            msg = f'default_ae_title = "{self.default_ae_title}" has no table [ae.TITLE]'
            raise ValueError(msg)
        return self

    def find(self, called_ae_title: str, calling_ae_title: str, address: str) -> Entity:
        """Find the entity that is called, if the caller may call it.

        Parameters
        ----------
        called_ae_title, calling_ae_title : str
            As the A-ASSOCIATE-RQ has them; padding does not matter.
        address : str
            Network address of the peer.

        Raises
        ------
        AssociationRefused
            Rejected-permanent (1) by the service-user (1), with reason 7 if the called AE title is
            not recognized, 3 if the calling AE title is not, or if the address is in none of the
            entity's networks, for which PS3.8 9.3.4 has no reason of its own.
        """
        entity = self.called(called_ae_title)
        if not entity.accepts_address(address):
            raise AssociationRefused(
                REJECTED_PERMANENT,
                SOURCE_USER,
                _CALLING_NOT_RECOGNIZED,
                f"{entity.ae_title} accepts no peer at {address[:64]}; see its networks",
            )
        if not entity.accepts_calling(calling_ae_title):
            calling = plain_title(calling_ae_title)
            raise AssociationRefused(
                REJECTED_PERMANENT,
                SOURCE_USER,
                _CALLING_NOT_RECOGNIZED,
                f"{entity.ae_title} accepts no calling AE title {_shown(calling)}"
                f"{_case_hint(entity, calling)}; see its calling_ae_titles",
            )
        return entity

    def called(self, called_ae_title: str) -> Entity:
        """Find the entity that answers for a called AE title.

        Raises
        ------
        AssociationRefused
            Rejected-permanent, called AE title not recognized.
        """
        called = plain_title(called_ae_title)
        entity = self.ae.get(called)
        if entity is None and self.default_ae_title is not None:
            entity = self.ae[self.default_ae_title]
        if entity is None:
            raise AssociationRefused(
                REJECTED_PERMANENT,
                SOURCE_USER,
                _CALLED_NOT_RECOGNIZED,
                f"no AE title {_shown(called)} here{self._same_but_case(called)}",
            )
        return entity

    def _same_but_case(self, called: str) -> str:
        for title in self.ae:
            if title.casefold() == called.casefold():
                return f"; {title} differs in case only"
        return ""

    def accepts_address(self, address: str) -> bool:
        """Whether any entity accepts a peer at this address; if none does, close at once."""
        return any(entity.accepts_address(address) for entity in self.ae.values())

    def warnings(self) -> tuple[str, ...]:
        """Say what an operator should know at start-up: what is open to everyone."""
        said = []
        if self.default_ae_title is not None:
            said.append(
                f"every called AE title is taken for {self.default_ae_title}: a modality that "
                "calls a wrong one is not told"
            )
        for entity in self.ae.values():
            if entity.calling_ae_titles and entity.networks:
                continue
            who = (
                f"calling AE titles {', '.join(entity.calling_ae_titles)}"
                if entity.calling_ae_titles
                else "any calling AE title"
            )
            where = (
                f"networks {', '.join(map(str, entity.networks))}"
                if entity.networks
                else "any network"
            )
            todo = " and ".join(
                key for key in ("calling_ae_titles", "networks") if not getattr(entity, key)
            )
            said.append(
                f"{entity.ae_title} accepts {who} from {where}: set {todo} in "
                f"{self.source or 'a file named by BIODATAMINE_DICOM_ENTITIES_FILE'}"
            )
        return tuple(said)


def too_many(why: str) -> AssociationRefused:
    """Make the refusal of one association more: rejected-transient, local-limit-exceeded."""
    return AssociationRefused(REJECTED_TRANSIENT, SOURCE_PRESENTATION, _LOCAL_LIMIT_EXCEEDED, why)


def plain_title(title: str) -> str:
    """Take away what pads an AE title: spaces at both ends, NULs at the end."""
    return title.rstrip(" \0").lstrip(" ")


def is_ae_title(title: str) -> bool:
    """Whether a title without padding is one: 1 to 16 characters of the VR AE (PS3.5 6.2)."""
    return _AE_TITLE.match(title) is not None and title == plain_title(title)


def single_entity(*, ae_title: str, tenant: str, dataset_id: str) -> Entities:
    """Make the entities of a gateway without a file: one, which everyone may call by any title."""
    entity = Entity(ae_title=plain_title(ae_title), tenant=tenant, dataset_id=dataset_id)
    return Entities(ae={entity.ae_title: entity}, default_ae_title=entity.ae_title)


def _checked_title(title: str) -> str:
    plain = plain_title(title)
    if not is_ae_title(plain):
        msg = (
            f"{_shown(title)} is no AE title: 1 to {MAX_AE_TITLE_CHARACTERS} ASCII characters, "
            "none of them a control character or a backslash"
        )
        raise ValueError(msg)
    return plain


def _network(given: Any) -> Network:
    if isinstance(given, ipaddress.IPv4Network | ipaddress.IPv6Network):
        return given
    text = str(given)
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        try:
            hint = f'write "{ipaddress.ip_network(text, strict=False)}"'
        except ValueError:
            hint = 'write an address or a network, as "192.168.7.21", "10.1.0.0/16" or "fd00::/8"'
        msg = f'"{text[:64]}" is no network; {hint}'
        raise ValueError(msg) from None


def _shown(title: str) -> str:
    # A peer chose it: nothing of it may break a line of a log, or fill it.
    return ascii(title[:64])


def _case_hint(entity: Entity, calling: str) -> str:
    if not is_ae_title(calling):
        return ", which is no AE title" if calling else ", which is blank"
    folded = calling.upper()
    if any(fnmatch.fnmatchcase(folded, pattern.upper()) for pattern in entity.calling_ae_titles):
        return ", which differs in case only"
    return ""
