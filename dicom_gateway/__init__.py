"""The Storage SCP: associations, C-STORE, C-ECHO, outbox, publisher.

``serve`` runs a gateway until it is told to stop; ``Gateway`` is the same inside another process.
"""

from dicom_gateway.ledger.publisher import SettlementCheck
from dicom_gateway.process import Gateway, serve
from dicom_gateway.settings import GatewaySettings

__all__ = ["Gateway", "GatewaySettings", "SettlementCheck", "serve"]
