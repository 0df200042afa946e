"""What both receive paths are made of, from the settings: the socket, the entities, TLS."""

from __future__ import annotations

import socket
import ssl
from datetime import datetime, timezone

from dicom_gateway.aes.entities import Entities, Entity
from dicom_gateway.aes.entities_file import EntitiesError, load_entities
from dicom_gateway.peers.tls import client_context, server_context
from dicom_gateway.settings import GatewaySettings

_BACKLOG = 512


class ListenError(OSError):
    """The SCP cannot listen; the message says where and what to do."""

    @classmethod
    def at(cls, host: str, port: int, error: OSError) -> ListenError:
        """Make the error of an address that cannot be had."""
        return cls(
            f"cannot listen on {host}:{port}: {error}; is another gateway running? "
            "Set BIODATAMINE_DICOM_PORT to a free port"
        )


def entities_of(settings: GatewaySettings) -> Entities:
    """Read the Application Entities.

    Raises
    ------
    EntitiesError
        If their file cannot be used; the message says what to mend.
    """
    return load_entities(
        settings.dicom_entities_file,
        ae_title=settings.dicom_ae_title,
        tenant=settings.tenant,
        dataset_id=settings.dicom_dataset_id,
    )


def stow_entity(settings: GatewaySettings, entities: Entities) -> Entity:
    """Find the entity whose tenant, dataset and rules hold for STOW-RS.

    Raises
    ------
    EntitiesError
        If the settings name none that there is, or leave open which.
    """
    title = settings.stow_ae_title or entities.default_ae_title or ""
    if not title and len(entities.ae) == 1:
        (title,) = entities.ae
    if title not in entities.ae:
        msg = (
            f"STOW-RS is served for one Application Entity: set BIODATAMINE_STOW_AE_TITLE to one "
            f"of {', '.join(sorted(entities.ae))}"
        )
        raise EntitiesError(msg)
    return entities.ae[title]


def tls_of(settings: GatewaySettings) -> ssl.SSLContext | None:
    """Make the TLS context of the SCP; None if it speaks without TLS.

    Raises
    ------
    TlsError
        If its files cannot be used.
    """
    if settings.dicom_tls_certificate is None:
        return None
    return server_context(
        certificate=settings.dicom_tls_certificate,
        key=settings.dicom_tls_key,
        password=settings.dicom_tls_key_password.get_secret_value(),
        ca=settings.dicom_tls_ca,
        client_certificates=settings.dicom_tls_client_certificates,
        now=datetime.now(timezone.utc),
    )


def client_tls_of(settings: GatewaySettings) -> ssl.SSLContext:
    """Make the TLS context of associations that we open, with the same files.

    Raises
    ------
    TlsError
        If its files cannot be used.
    """
    return client_context(
        ca=settings.dicom_tls_ca,
        certificate=settings.dicom_tls_certificate,
        key=settings.dicom_tls_key,
        password=settings.dicom_tls_key_password.get_secret_value(),
        # Certificates of modalities name an AE or a device more often than a host.
        check_host_name=False,
        now=datetime.now(timezone.utc),
    )


def listen(settings: GatewaySettings) -> socket.socket:
    """Listen for associations.

    Raises
    ------
    ListenError
        If the address is taken or not ours.
    """
    host, port = settings.dicom_host, settings.dicom_port
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise ListenError.at(host, port, error) from error
    return listener
