"""Takes a commitment report to its receiver over an association of ours (PS3.4 J.3.3)."""

from __future__ import annotations

import ssl
from dataclasses import dataclass

from pydicom import Dataset
from pynetdicom import build_role
from pynetdicom.ae import ApplicationEntity

from dicom_gateway.commitment.request import (
    TRANSFER_SYNTAXES,
)
from dicom_gateway.storing.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_gateway.storing.sop_classes import STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE

SUCCESS = 0x0000
_WARNINGS = (0x0107, 0x0116, 0x0001)


class DeliveryError(Exception):
    """A report did not reach its receiver; the message says why and what to check."""


@dataclass(frozen=True)
class CommitmentPeer:
    """Where the reports of an application entity go.

    Parameters
    ----------
    ae_title : str
        Its AE title.
    host, port : str, int
        Where it listens.
    tls_context : ssl.SSLContext or None
        With which it is spoken to; None speaks without TLS.
    """

    ae_title: str
    host: str
    port: int
    tls_context: ssl.SSLContext | None = None


def deliver(
    peer: CommitmentPeer,
    own_ae_title: str,
    event_type: int,
    report: Dataset,
    *,
    timeout_seconds: float = 30.0,
) -> None:
    """Send one N-EVENT-REPORT over a new association.

    The requestor of the association proposes itself as the SCP of the service (PS3.7 D.3.3.4).
    Peers that do not answer the role are common, and get the report all the same.

    Parameters
    ----------
    peer : CommitmentPeer
        Who gets it.
    own_ae_title : str
        Which the peer had asked for commitment.
    event_type : int
        1 or 2.
    report : Dataset
        Event Information.
    timeout_seconds : float
        For the connection, the negotiation and the response, each.

    Raises
    ------
    DeliveryError
        If the peer did not confirm it.
    """
    entity = ApplicationEntity(own_ae_title)
    entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    entity.connection_timeout = entity.acse_timeout = timeout_seconds
    entity.dimse_timeout = entity.network_timeout = timeout_seconds
    entity.add_requested_context(STORAGE_COMMITMENT, list(TRANSFER_SYNTAXES))
    where = f"{peer.ae_title} at {peer.host}:{peer.port}"
    association = entity.associate(
        peer.host,
        peer.port,
        ae_title=peer.ae_title,
        ext_neg=[build_role(STORAGE_COMMITMENT, scp_role=True)],
        tls_args=(peer.tls_context, peer.host) if peer.tls_context else None,
    )
    if not association.is_established:
        how = "rejects the association" if association.is_rejected else "takes no association"
        msg = f"{where} {how}; check its address and AE titles, and that it listens"
        raise DeliveryError(msg)
    try:
        answer, _ = association.send_n_event_report(
            report, event_type, STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE
        )
    except (ValueError, RuntimeError):
        msg = f"{where} does not accept the Storage Commitment Push Model from us as its SCP"
        raise DeliveryError(msg) from None
    finally:
        if association.is_established:
            association.release()
    check_status(answer.get("Status"), where)


def check_status(status: int | None, where: str) -> None:
    """Raise DeliveryError if an N-EVENT-REPORT response is none or a failure."""
    if status is None:
        msg = f"{where} did not answer the report"
        raise DeliveryError(msg)
    if status != SUCCESS and status not in _WARNINGS:
        msg = f"{where} refuses the report with status 0x{status:04X}"
        raise DeliveryError(msg)
