"""What can go wrong when a model is asked, sorted by what the caller does about it."""

from __future__ import annotations


class InferenceError(Exception):
    """A model gave no answer.

    ``retryable`` says whether asking again later, unchanged, can help.
    """

    retryable = False


class ServiceUnavailable(InferenceError):  # noqa: N818 - a state, not a mistake
    """The server is away, starting, overloaded or too slow: wait and ask again."""

    retryable = True


class ModelAbsent(InferenceError):  # noqa: N818 - a state, not a mistake
    """The server is up but does not serve the model, for instance because it has no weights.

    Parameters
    ----------
    model
        Name in the model repository.
    reason
        Why it is not served, in the server's words.
    """

    def __init__(self, model: str, reason: str) -> None:
        super().__init__(f"model {model} is absent: {reason}")
        self.model = model
        self.reason = reason


class BadInput(InferenceError):  # noqa: N818 - a state, not a mistake
    """The request cannot be answered by this model, now or later."""


class BadOutput(InferenceError):  # noqa: N818 - a state, not a mistake
    """The model answered with something that is not what it promised."""
