"""What the analyze stage asks of the embedder: a view size, vectors, or the reason for none."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from schemas.facts import AbsentModel, Embedding
from streams.inference.errors import BadInput, BadOutput, ModelAbsent, ServiceUnavailable
from streams.inference.outputs import Absent, Ready
from streams.inference.triton import Embedder
from streams.runtime.clock import Clock
from streams.runtime.retry import ServiceFaultError

_ASK_AGAIN = timedelta(seconds=30)


class EmbedderPort:
    """The embedder as the stage sees it.

    Parameters
    ----------
    embedder : Embedder
        Client of the model.
    clock : Clock
        The present; an absent model is asked for again every 30 seconds.
    """

    def __init__(self, embedder: Embedder, clock: Clock) -> None:
        self._embedder = embedder
        self._clock = clock
        self._state: Ready | Absent | None = None
        self._asked_at: datetime | None = None

    async def state(self) -> Ready | Absent:
        """Return what the model takes, or why it is not there.

        Raises
        ------
        ServiceFaultError
            If Triton cannot be asked now.
        """
        stale = (
            isinstance(self._state, Absent)
            and self._asked_at is not None
            and self._clock() - self._asked_at >= _ASK_AGAIN
        )
        if self._state is None or stale:
            try:
                self._state = await self._embedder.model_state()
            except (ServiceUnavailable, BadOutput) as error:
                raise ServiceFaultError("triton", str(error)) from error
            self._asked_at = self._clock()
        return self._state

    async def embed(self, views: Sequence[NDArray[np.uint8]]) -> list[Embedding | AbsentModel]:
        """Embed views, each uint8 (S, S, 3) with S of ``state``.

        Raises
        ------
        ServiceFaultError
            If Triton cannot answer now, or the model was replaced by one of another size.
        """
        state = await self.state()
        if not views:
            return []
        if isinstance(state, Absent):
            return [_absent(state)] * len(views)
        try:
            result = await self._embedder.embed(np.stack(views))
        except ModelAbsent as error:
            self._state, self._asked_at = Absent(error.model, error.reason), self._clock()
            return [_absent(self._state)] * len(views)
        except (ServiceUnavailable, BadOutput, BadInput) as error:
            # The views have the size that the model asked for: a refusal means that it changed.
            self._state = None
            raise ServiceFaultError("triton", str(error)) from error
        return [
            Embedding.from_array(vector, model=result.model, model_version=result.version)
            for vector in result.vectors
        ]


def _absent(state: Absent) -> AbsentModel:
    return AbsentModel(model=state.model, reason=state.reason[:500])
