"""SOP classes that the gateway treats by name."""

from __future__ import annotations

from pydicom.uid import (
    ColorPaletteStorage,
    CTDefinedProcedureProtocolStorage,
    GenericImplantTemplateStorage,
    HangingProtocolStorage,
    ImplantAssemblyTemplateStorage,
    ImplantTemplateGroupStorage,
    InventoryStorage,
    ProtocolApprovalStorage,
    XADefinedProcedureProtocolStorage,
)

VERIFICATION = "1.2.840.10008.1.1"
STORAGE_COMMITMENT = "1.2.840.10008.1.20.1"
STORAGE_COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1.1"
"""Storage Commitment Push Model and its well-known instance (PS3.4 annex J)."""

NON_PATIENT_OBJECTS = (
    HangingProtocolStorage,
    ColorPaletteStorage,
    GenericImplantTemplateStorage,
    ImplantAssemblyTemplateStorage,
    ImplantTemplateGroupStorage,
    CTDefinedProcedureProtocolStorage,
    ProtocolApprovalStorage,
    XADefinedProcedureProtocolStorage,
    InventoryStorage,
)
"""Storage SOP classes (PS3.4 annex GG) that pynetdicom's unrestricted service leaves out."""
