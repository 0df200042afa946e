"""The Storage SCP of pynetdicom's own documentation: writes the encoded dataset, nothing else."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Any

from pynetdicom import ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]


def main(port: int, folder: Path) -> None:
    """Serve until killed."""

    def store(event: Any) -> int:
        path = folder / f"{event.request.AffectedSOPInstanceUID}.dcm"
        path.write_bytes(event.encoded_dataset())
        return 0x0000

    def opened(event: Any) -> None:
        if os.environ.get("TCP_NODELAY") == "1":
            event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    entity = ApplicationEntity("PLAIN")
    entity.maximum_associations = 100
    entity.add_supported_context(Verification)
    for context in AllStoragePresentationContexts:
        entity.add_supported_context(str(context.abstract_syntax), ALL_TRANSFER_SYNTAXES)
    entity.start_server(
        ("127.0.0.1", port),
        block=True,
        evt_handlers=[(evt.EVT_C_STORE, store), (evt.EVT_CONN_OPEN, opened)],
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
