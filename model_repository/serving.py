"""What the Triton model does with its requests, apart from Triton's own types."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from model_repository.backbone import Backbone, Embedded

Outcome = Embedded | Exception
"""The vectors and stages of one request, or why it has none."""


def embed_requests(backbone: Backbone, requests: Sequence[NDArray[np.uint8]]) -> list[Outcome]:
    """Embed the images of several requests in one forward pass, and let no request harm another.

    Requests that are not images of the right shape are left out of the pass. If the pass itself
    fails, each request gets a pass of its own, so that only the one at fault fails.

    Parameters
    ----------
    backbone
        The loaded backbone.
    requests
        One array per request: uint8, shape (n, input_size, input_size, 3); n may differ.

    Returns
    -------
    list
        Per request, in order: vectors and stages of its n images, or the exception that it caused.
    """
    outcomes: list[Outcome] = [_fault(backbone, images) or _NOT_RUN for images in requests]
    sound = [index for index, outcome in enumerate(outcomes) if outcome is _NOT_RUN]
    if not sound:
        return outcomes
    batch = [requests[index] for index in sound]
    try:
        found = backbone.embed_with_stages(batch[0] if len(batch) == 1 else np.concatenate(batch))
    except Exception as error:  # noqa: BLE001 - whatever torch raises becomes the answer to a request
        for index, images in zip(sound, batch, strict=True):
            outcomes[index] = error if len(batch) == 1 else _embed_alone(backbone, images)
        return outcomes
    ends = np.cumsum([len(images) for images in batch])
    parts = (np.split(array, ends[:-1]) for array in found)
    for index, vectors, stages in zip(sound, *parts, strict=True):
        outcomes[index] = Embedded(vectors, stages)
    return outcomes


_NOT_RUN = ValueError("not run")


def _fault(backbone: Backbone, images: NDArray[np.uint8]) -> Exception | None:
    try:
        backbone.check(images)
    except ValueError as error:
        return error
    return None


def _embed_alone(backbone: Backbone, images: NDArray[np.uint8]) -> Outcome:
    try:
        return backbone.embed_with_stages(images)
    except Exception as error:  # noqa: BLE001 - as above
        return error
