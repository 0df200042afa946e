"""Identities: made from content and names, never from a clock (DESIGN.md section 4.1)."""

from __future__ import annotations

import hashlib
import hmac
import uuid
from collections.abc import Iterable

_NAMESPACE = uuid.UUID("6f1d7c55-3b0e-5a8e-9d0a-2b6d1f0e8c11")
_SEPARATOR = "\x1f"
_ESCAPE = "\x1e"


def _join(parts: Iterable[str]) -> str:
    # Paths and header fields are anybody's text and may hold the separator itself; escaped, two
    # different tuples never join to one name.
    return _SEPARATOR.join(
        part.replace(_ESCAPE, _ESCAPE + "0").replace(_SEPARATOR, _ESCAPE + "1") for part in parts
    )


def _uuid5(kind: str, parts: Iterable[str]) -> uuid.UUID:
    return uuid.uuid5(_NAMESPACE, _join((kind, *parts)))


def file_id(tenant: str, dataset_id: str, relpath: str) -> str:
    """Name the place that a file has in a dataset.

    Parameters
    ----------
    tenant, dataset_id : str
        Whose dataset, and which one.
    relpath : str
        Path inside the dataset; for DICOM ``dicom_relpath``.

    Returns
    -------
    str
        A UUID (version 5) that stays the same for other bytes at the same place.

    Raises
    ------
    ValueError
        If a name is no Unicode text (lone surrogates of an undecodable file name).
    """
    return str(_uuid5("file", (tenant, dataset_id, relpath)))


def dicom_relpath(study_uid: str, series_uid: str, instance_uid: str) -> str:
    """Path of a DICOM instance inside its dataset: study/series/instance UIDs."""
    return f"{study_uid}/{series_uid}/{instance_uid}"


def event_id(topic: str, *parts: str) -> str:
    """Name an event after its topic and subject, so that a replay makes the same name."""
    return str(_uuid5(f"event:{topic}", parts))


def trace_id(*parts: str) -> str:
    """Derive a W3C trace id (32 hex digits) from the names of what is traced."""
    return _uuid5("trace", parts).hex


def keyed_hash(key: bytes, *parts: str) -> str:
    """Pseudonym of a patient identity: HMAC-SHA256, shortened to 128 bits.

    Parameters
    ----------
    key : bytes
        Secret of the installation, at least 16 bytes; without it a hash of a short id could be
        reversed by trying all ids.
    parts : str
        Tenant, issuer and identity.

    Raises
    ------
    ValueError
        If the key is too short.
    """
    if len(key) < 16:
        msg = "the patient hash key must have at least 16 bytes; set BIODATAMINE_PATIENT_HASH_KEY"
        raise ValueError(msg)
    # A damaged header may hold what is no Unicode text; it gets a pseudonym like any other.
    message = _join(parts).encode("utf-8", "surrogatepass")
    return hmac.new(key, message, hashlib.sha256).hexdigest()[:32]
