"""What the analyze stage asks of the embedder: a view size, what it sees, or why nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
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


@dataclass(frozen=True, slots=True)
class Seen:
    """What the embedder made of one file's views.

    Parameters
    ----------
    embedding : Embedding
        Of the first view, the content of the slice.
    stages : ndarray or None
        float32 ``[V, S]``: activations of the stages for each view, where the model gives them.
    """

    embedding: Embedding
    stages: NDArray[np.float32] | None = field(repr=False)


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

    async def look(self, files: Sequence[NDArray[np.uint8]]) -> list[Seen | AbsentModel]:
        """Embed the views of files, each uint8 (V, S, S, 3) with V >= 1 and S of ``state``.

        Raises
        ------
        ServiceFaultError
            If Triton cannot answer now, or the model was replaced by one of another size.
        """
        state = await self.state()
        if not files:
            return []
        if isinstance(state, Absent):
            return [_absent(state)] * len(files)
        try:
            result = await self._embedder.embed(np.concatenate(files))
        except ModelAbsent as error:
            self._state, self._asked_at = Absent(error.model, error.reason), self._clock()
            return [_absent(self._state)] * len(files)
        except (ServiceUnavailable, BadOutput, BadInput) as error:
            # The views have the size that the model asked for: a refusal means that it changed.
            self._state = None
            raise ServiceFaultError("triton", str(error)) from error
        seen: list[Seen | AbsentModel] = []
        start = 0
        for views in files:
            vector, end = result.vectors[start], start + len(views)
            embedding = Embedding.from_array(
                vector, model=result.model, model_version=result.version
            )
            stages = None if result.stages is None else result.stages[start:end]
            seen.append(Seen(embedding, stages))
            start = end
        return seen


def _absent(state: Absent) -> AbsentModel:
    return AbsentModel(model=state.model, reason=state.reason[:500])
