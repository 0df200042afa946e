"""What a gateway in this process says of itself."""

from __future__ import annotations

from dicom_gateway import Gateway


def answered(gateway: Gateway) -> int:
    """Tell how many C-STOREs were answered with Success and stored."""
    value = gateway.metrics.registry.get_sample_value(
        "biodatamine_gateway_responses_total", {"status": "0x0000", "reason": "stored"}
    )
    return int(value or 0)


def filed(gateway: Gateway) -> int:
    """Tell how many instances are in ledger and blob store: new, same and conflicting ones."""
    name = "biodatamine_gateway_instances_total"
    values = (
        gateway.metrics.registry.get_sample_value(name, {"disposition": disposition})
        for disposition in ("new", "same", "conflict")
    )
    return int(sum(value or 0 for value in values))
