"""A Storage SCU that sends any bytes under any command, as a broken or hostile peer does."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

from pydicom.uid import UID
from pynetdicom.ae import ApplicationEntity
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.presentation import build_context

from tests.support.stack import wait_for

_PATIENCE_SECONDS = 30.0


class RawScu:
    """One association, opened again when the peer ends it.

    Parameters
    ----------
    host, port : str, int
        The Storage SCP.
    contexts : iterable of (str, str)
        SOP class and transfer syntax of each presentation context; at most 128.
    """

    def __init__(self, host: str, port: int, contexts: Iterable[tuple[str, str]]) -> None:
        self._host, self._port = host, port
        self._contexts = list(dict.fromkeys(contexts))
        self._assoc: Any = None
        self.associations = 0

    def __enter__(self) -> RawScu:
        return self

    def __exit__(self, *error: object) -> None:
        if self._assoc is not None and self._assoc.is_established:
            self._assoc.release()

    def store(
        self, dataset: bytes, *, context: tuple[str, str], sop_class: str, instance: str
    ) -> int | None:
        """Send a dataset; return the status, or None if the peer ended the association.

        Parameters
        ----------
        dataset : bytes
            Sent as they are; none sends a command without a dataset.
        context : (str, str)
            Under which it is sent.
        sop_class, instance : str
            What the command says that it is.
        """
        if self._assoc is None or not self._assoc.is_established:
            self._open()
        (context_id,) = (
            accepted.context_id
            for accepted in self._assoc.accepted_contexts
            if (str(accepted.abstract_syntax), str(accepted.transfer_syntax[0])) == context
        )
        request: Any = C_STORE()
        request.MessageID = 1
        request.Priority = 2
        # Past the checks of pynetdicom, which would not send such UIDs.
        request._affected_sop_class_uid = UID(sop_class)
        request._affected_sop_instance_uid = UID(instance)
        request.DataSet = io.BytesIO(dataset) if dataset else None
        # pynetdicom's reactor would take the response for a request of the peer.
        self._assoc._reactor_checkpoint.clear()
        wait_for(
            lambda: self._assoc._is_paused,
            seconds=_PATIENCE_SECONDS,
            what="the association pauses",
            pause_seconds=0.001,
        )
        try:
            self._assoc.dimse.send_msg(request, context_id)
            _, response = self._assoc.dimse.get_msg(block=True)
        finally:
            self._assoc._reactor_checkpoint.set()
        return None if response is None or response.Status is None else int(response.Status)

    def _open(self) -> None:
        entity = ApplicationEntity("HOSTILE")
        entity.dimse_timeout = entity.acse_timeout = entity.network_timeout = _PATIENCE_SECONDS
        self._assoc = entity.associate(
            self._host,
            self._port,
            [build_context(sop_class, syntax) for sop_class, syntax in self._contexts],
            ae_title="BIODATAMINE",
        )
        assert self._assoc.is_established, "the gateway does not take an association any more"
        assert len(self._assoc.accepted_contexts) == len(self._contexts)
        self.associations += 1
