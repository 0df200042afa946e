"""An arrival as the ledger takes it: the event's bytes, and beside them what it looks up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from schemas import FileReceived, encode, key_of


@dataclass(frozen=True)
class Arrived:
    """One arrival, ready to be recorded.

    The event is encoded once, where the instance arrives; the ledger stores those bytes as they are
    and decodes them only to add ``conflicts_with``.

    Parameters
    ----------
    event_id, file_id : str
        UUIDs of the event and of the file's place.
    image_id : str
        SHA-256 of the file's bytes, hex.
    sop_instance_uid, sop_class_uid : str
        (0008,0018) and (0008,0016); empty for what is not DICOM.
    tenant : str
        Whose data it is.
    size_bytes : int
        Length of the file.
    received_at : str
        ISO 8601, UTC.
    key, value : bytes
        Message key and encoded event, without ``conflicts_with``: only the ledger knows what came
        earlier.
    """

    event_id: str
    file_id: str
    image_id: str
    sop_instance_uid: str
    sop_class_uid: str
    tenant: str
    size_bytes: int
    received_at: str
    key: bytes
    value: bytes

    @classmethod
    def of(cls, event: FileReceived) -> Arrived:
        """Make the record of an event; encodes it.

        Raises
        ------
        EncodeError
            If the event does not fit into a message.
        """
        uids = event.dicom
        return cls(
            event_id=event.event_id,
            file_id=event.file_id,
            image_id=event.image_id,
            sop_instance_uid=uids.instance_uid if uids else "",
            sop_class_uid=uids.sop_class_uid if uids else "",
            tenant=event.tenant,
            size_bytes=event.blob.size_bytes,
            received_at=event.received_at.isoformat().replace("+00:00", "Z"),
            key=key_of(event),
            value=encode(event),
        )

    @classmethod
    def of_encoded(cls, value: bytes) -> Arrived:
        """Make the record of an event that this gateway encoded itself; validates nothing again.

        Parameters
        ----------
        value : bytes
            What ``schemas.encode`` made of a ``FileReceived``.

        Raises
        ------
        ValueError
            If the bytes are no such event.
        """
        fields: dict[str, Any] = orjson.loads(value)
        try:
            uids = fields.get("dicom") or {}
            image_id = fields["image_id"]
            return cls(
                event_id=fields["event_id"],
                file_id=fields["file_id"],
                image_id=image_id,
                sop_instance_uid=uids.get("instance_uid", ""),
                sop_class_uid=uids.get("sop_class_uid", ""),
                tenant=fields["tenant"],
                size_bytes=fields["blob"]["size_bytes"],
                received_at=fields["received_at"],
                key=image_id.encode(),
                value=value,
            )
        except (KeyError, TypeError, AttributeError):
            msg = "the bytes are no files-received event of this gateway"
            raise ValueError(msg) from None
