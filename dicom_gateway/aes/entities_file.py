"""Reads the file of Application Entities, and says what to write where it cannot.

What the file holds is described in ``dicom_gateway.aes.entities``.
"""

from __future__ import annotations

import difflib
import re
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from dicom_gateway.aes.entities import CommitmentPeer, Entities, Entity, single_entity
from dicom_gateway.aes.uid_rules import SopClassRules, TransferSyntaxRules

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAX_FILE_BYTES = 1 << 20
_MAX_FAULTS = 20

# What to write for a key whose value is wrong.
_EXAMPLES = {
    "default_ae_title": 'default_ae_title = "BIODATAMINE", an AE title that has a table',
    "ae": '[ae.BIODATAMINE], a table for each called AE title; [ae."CT STORE"] if it has spaces',
    "tenant": 'tenant = "radiology": letters, digits and . _ : @ -',
    "dataset_id": 'dataset_id = "ct": letters, digits and . _ : @ -',
    "calling_ae_titles": 'calling_ae_titles = ["CT0?", "PACS*"]',
    "networks": 'networks = ["10.1.0.0/16", "192.168.7.21", "fd00::/8"]',
    "max_associations": "max_associations = 20",
    "max_associations_per_peer": "max_associations_per_peer = 4",
    "sop_classes": 'sop_classes.allow = ["images", "CTImageStorage"]',
    "transfer_syntaxes": 'transfer_syntaxes.allow = ["uncompressed", "JPEGLSLossless"]',
    "commitment": 'a table [ae.TITLE.commitment.PEER] with host = "10.1.0.9" and port = 104',
    "host": 'host = "10.1.0.9"',
    "port": "port = 104",
    "tls": "tls = true",
}


class EntitiesError(ValueError):
    """The file of Application Entities cannot be used; the message says where and what to write."""


def parse_entities(text: str, *, source: str, tenant: str, dataset_id: str) -> Entities:
    """Read Application Entities from the text of a TOML file.

    Parameters
    ----------
    text : str
        See the module's description.
    source : str
        Name of the file, for messages.
    tenant, dataset_id : str
        Of entities that do not say theirs.

    Raises
    ------
    EntitiesError
        With one line for each fault: file, table, key, and what to write instead.
    """
    try:
        given: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        msg = f"{source} is no TOML: {error}"
        raise EntitiesError(msg) from None
    faults = _misplaced(given)
    tables = given.get("ae")
    if isinstance(tables, dict):
        own = {"tenant": tenant, "dataset_id": dataset_id}
        given["ae"] = {
            title: {**own, **table} if isinstance(table, dict) else table
            for title, table in tables.items()
        }
    try:
        entities = Entities.model_validate({**given, "source": source})
    except ValidationError as error:
        found = [_fault(dict(fault)) for fault in error.errors(include_url=False)]
        # A table in the wrong place is not also one that is missing.
        faults += [fault for fault in found if not (faults and fault.startswith("ae: is missing"))]
    if faults:
        raise EntitiesError("\n".join(f"{source}: {fault}" for fault in faults[:_MAX_FAULTS]))
    return entities


def load_entities(file: Path | None, *, ae_title: str, tenant: str, dataset_id: str) -> Entities:
    """Read the entities of a file, or make the one of the settings without a file.

    Raises
    ------
    EntitiesError
        If the file cannot be read or used.
    """
    if file is None:
        return single_entity(ae_title=ae_title, tenant=tenant, dataset_id=dataset_id)
    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            msg = f"{file} is longer than {MAX_FILE_BYTES} bytes: is it the right file?"
            raise EntitiesError(msg)
        text = content.decode("utf-8")
    except OSError as error:
        msg = (
            f"cannot read {file}: {error.strerror or error}; BIODATAMINE_DICOM_ENTITIES_FILE names "
            "it, and may be left out"
        )
        raise EntitiesError(msg) from error
    except UnicodeDecodeError:
        msg = f"{file} is no TOML: it is not encoded in UTF-8"
        raise EntitiesError(msg) from None
    return parse_entities(text, source=str(file), tenant=tenant, dataset_id=dataset_id)


def _misplaced(given: dict[str, Any]) -> list[str]:
    # [CTSTORE] instead of [ae.CTSTORE]: likelier than any other fault, so it gets its own words.
    found = [key for key, value in given.items() if key != "ae" and isinstance(value, dict)]
    for key in found:
        del given[key]
    faults = [f"[{key}]: write [ae.{_toml_key(key)}]" for key in found]
    if "source" in given:
        del given["source"]
        faults.append("source: there is no such key")
    tables = given.get("ae")
    if isinstance(tables, dict):
        faults += [
            f"[ae.{_toml_key(title)}], ae_title: the table's name is the AE title; leave it out"
            for title, table in tables.items()
            if isinstance(table, dict) and table.pop("ae_title", None) is not None
        ]
    return faults


def _toml_key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else f'"{key}"'


_SECTIONS: dict[str, type[BaseModel]] = {
    "sop_classes": SopClassRules,
    "transfer_syntaxes": TransferSyntaxRules,
}


def _fault(error: dict[str, Any]) -> str:
    names = [str(part) for part in error["loc"]]
    if names[:1] == ["ae"] and len(names) > 1:
        table, keys = f"[ae.{_toml_key(names[1])}], ", names[2:]
    else:
        table, keys = "", names
    if keys[:1] == ["commitment"] and len(keys) > 1:
        table = f"{table[:-3]}.commitment.{_toml_key(keys[1])}], "
        keys = keys[2:]
    known_in = _model_at(names)
    keys = [key for key in keys if key != "ae_title"]
    where = f"{table}{'.'.join(keys)}".rstrip(", ")
    kind, said = error["type"], error["msg"].removeprefix("Value error, ")
    said = said.replace("valid tuple", "list").replace("valid dictionary", "table")
    last = keys[-1] if keys else ""
    if kind == "extra_forbidden":
        known = [name for name in known_in.model_fields if name not in ("ae_title", "source")]
        near = difflib.get_close_matches(last, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"write one of {', '.join(known)}"
        return f"{where}: there is no such key; {hint}"
    if kind == "missing":
        return f"{where}: is missing; write {_EXAMPLES.get(last, last)}"
    named = [key for key in (*reversed(keys), *names[:1]) if key in _EXAMPLES]
    # What our own validators say, says what to write.
    hint = "" if kind == "value_error" or not named else f"; write {_EXAMPLES[named[0]]}"
    return f"{where}: {said}{hint}" if where else f"{said}{hint}"


def _model_at(names: list[str]) -> type[BaseModel]:
    if names[:1] != ["ae"] or len(names) < 3:
        return Entities
    if names[2] == "commitment":
        return CommitmentPeer
    if len(names) > 3 and names[2] in _SECTIONS:
        return _SECTIONS[names[2]]
    return Entity
