"""Ask the embedder on Triton Inference Server, over gRPC, from asyncio.

One :class:`Embedder` per worker and event loop. It keeps one connection, which comes back by itself
when the server does, and turns every failure into one of :mod:`streams.inference.errors`.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferInput, InferRequestedOutput
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

from streams.inference.errors import (
    BadInput,
    BadOutput,
    ModelAbsent,
    ServiceUnavailable,
)
from streams.inference.outputs import Absent, EmbedResult, Ready, require_unit_norm

DEFAULT_TIMEOUT_SECONDS = 120.0
# Eight cost the server no more per image than 64 do, and bound how long one request takes: a large
# vision transformer on one CPU core needs seconds per image.
DEFAULT_IMAGES_PER_REQUEST = 8
_CONTROL_TIMEOUT_SECONDS = 10.0
_MAX_MESSAGE_BYTES = (1 << 31) - 1
_MAX_REASON = 400

# gRPC waits up to two minutes between attempts to reconnect; a restarted server should be used at
# once.
_CHANNEL_OPTIONS = [
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.use_local_subchannel_pool", 1),
]

_T = TypeVar("_T")


@dataclass(frozen=True)
class ModelShape:
    """What the server says that an embedder takes and gives.

    Side of an image in pixels, lengths of the vector and of the stages (0 without), images.
    """

    input_size: int
    dim: int
    max_batch_size: int
    stages_dim: int = 0

    @property
    def image(self) -> tuple[int, int, int]:
        """Shape of one image."""
        return (self.input_size, self.input_size, 3)


class Embedder:
    """Client of the Triton model that embeds images.

    Parameters
    ----------
    url
        ``host:port`` of Triton's gRPC endpoint.
    model
        Name in the model repository.
    timeout_seconds
        How long one request may take, waiting for its turn included.
    images_per_request
        A larger batch is sent in parts of this size, one after the other.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str = "embedder",
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        images_per_request: int = DEFAULT_IMAGES_PER_REQUEST,
    ) -> None:
        if images_per_request < 1:
            raise ValueError(f"images_per_request is {images_per_request}, expected 1 or more")
        self.url = url
        self.model = model
        self.timeout_seconds = timeout_seconds
        self.images_per_request = images_per_request
        self._client: Any = None
        self._shape: ModelShape | None = None

    async def __aenter__(self) -> Embedder:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; a later call opens a new one."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def embed(self, images: NDArray[np.uint8]) -> EmbedResult:
        """Embed a batch of images, in as many requests as its size makes necessary.

        Parameters
        ----------
        images
            uint8, shape (N, S, S, 3) with N >= 1, RGB, S the model's ``input_size``.

        Raises
        ------
        ServiceUnavailable
            The server is away, not ready or too slow. Ask again later.
        ModelAbsent
            The server does not serve the model, and says why.
        BadInput
            The images are not what the model takes.
        BadOutput
            The answer is not a set of unit vectors.
        """
        if images.dtype != np.uint8 or images.ndim != 4 or not len(images):
            raise BadInput(
                f"images are {images.dtype} of shape {images.shape},"
                " expected uint8 (N >= 1, S, S, 3)"
            )
        shape = await self._model_shape()
        if images.shape[1:] != shape.image:
            # The model may have been replaced by one of another size since its shape was asked for.
            self._shape = None
            shape = await self._model_shape()
        if images.shape[1:] != shape.image:
            raise BadInput(
                f"images have shape {images.shape[1:]}, model {self.model} takes {shape.image}"
            )
        step = min(self.images_per_request, shape.max_batch_size)
        parts = [
            await self._infer(images[start : start + step], shape)
            for start in range(0, len(images), step)
        ]
        versions = {version for _, _, version in parts}
        if len(versions) > 1:
            raise ServiceUnavailable(f"model {self.model} was replaced in the middle of a batch")
        return EmbedResult(
            require_unit_norm(np.concatenate([vectors for vectors, _, _ in parts])),
            self.model,
            versions.pop(),
            np.concatenate([stages for _, stages, _ in parts]) if shape.stages_dim else None,
        )

    async def model_state(self) -> Ready | Absent:
        """Ask whether the model is served, and which one it is.

        The version is the one that an answer carries: one blank image is embedded to learn it.

        Raises
        ------
        ServiceUnavailable
            The server cannot be asked, or the model is still loading.
        BadOutput
            The model answers, but not with a unit vector.
        """
        self._shape = None
        try:
            shape = await self._model_shape()
            blank = np.zeros((1, *shape.image), np.uint8)
            version = (await self.embed(blank)).version
        except ModelAbsent as error:
            return Absent(self.model, error.reason)
        return Ready(self.model, version, shape.input_size, shape.dim, shape.max_batch_size)

    async def _infer(
        self, images: NDArray[np.uint8], shape: ModelShape
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], str]:
        tensor = InferInput("IMAGE", list(images.shape), "UINT8")
        tensor.set_data_from_numpy(np.ascontiguousarray(images))
        lengths = {"EMBEDDING": shape.dim}
        if shape.stages_dim:
            lengths["STAGES"] = shape.stages_dim
        outputs = [InferRequestedOutput(name) for name in (*lengths, "MODEL_VERSION")]
        client = self._connected()
        result = await self._ask(
            client.infer(self.model, [tensor], outputs=outputs, client_timeout=self.timeout_seconds)
        )
        versions = result.as_numpy("MODEL_VERSION")
        if versions is None or not versions.size:
            raise BadOutput(f"model {self.model} answered without MODEL_VERSION")
        found = {
            name: self._checked(name, result.as_numpy(name), (len(images), length))
            for name, length in lengths.items()
        }
        stages = found.get("STAGES", np.empty((len(images), 0), np.float32))
        return found["EMBEDDING"], stages, bytes(versions.flat[0]).decode("utf-8", "replace")

    def _checked(
        self, name: str, found: NDArray[np.float32] | None, expected: tuple[int, int]
    ) -> NDArray[np.float32]:
        if found is None:
            raise BadOutput(f"model {self.model} answered without {name}")
        if found.shape != expected:
            self._shape = None
            raise BadOutput(
                f"model {self.model} answered {expected[0]} images with {name} of shape"
                f" {found.shape}, expected {expected}"
            )
        if not np.isfinite(found).all():
            raise BadOutput(f"model {self.model} answered with {name} that is not finite")
        return found

    async def _model_shape(self) -> ModelShape:
        if self._shape is None:
            client = self._connected()
            answer = await self._ask(
                client.get_model_config(self.model, client_timeout=_CONTROL_TIMEOUT_SECONDS)
            )
            self._shape = read_shape(self.model, answer.config)
        return self._shape

    def _connected(self) -> Any:
        # Made on first use: gRPC binds a channel to the running event loop.
        if self._client is None:
            self._client = InferenceServerClient(self.url, channel_args=_CHANNEL_OPTIONS)
        return self._client

    async def _ask(self, call: Awaitable[_T]) -> _T:
        """Await a call and turn its failure into one of ours."""
        try:
            return await call
        except InferenceServerException as error:
            await self._raise(error)
            raise

    async def _raise(self, error: InferenceServerException) -> None:
        code = str(error.status() or "").rpartition(".")[2]
        message = _one_line(error.message())
        self._shape = None
        if code == "INVALID_ARGUMENT":
            raise BadInput(f"model {self.model}: {message}") from error
        # Triton says UNAVAILABLE or NOT_FOUND of a model too, and gRPC says UNAVAILABLE of the
        # server.
        if code in ("UNAVAILABLE", "NOT_FOUND"):
            await self._raise_if_absent()
        if "is not healthy" in message:
            # Triton goes on saying READY and never starts the process again (server 2.51).
            message += (
                " Its python backend process died: `biodatamine up` restarts Triton by itself;"
                " elsewhere restart tritonserver."
            )
        raise ServiceUnavailable(f"{self.url}: {code.lower() or 'error'}: {message}") from error

    async def _raise_if_absent(self) -> None:
        """Raise ModelAbsent if the server is there and its index says that the model is not."""
        client = self._connected()
        try:
            index = await client.get_model_repository_index(client_timeout=_CONTROL_TIMEOUT_SECONDS)
        except InferenceServerException:
            return
        entries = [entry for entry in index.models if entry.name == self.model]
        if not entries:
            raise ModelAbsent(self.model, "it is not in the server's model repository")
        if any(entry.state in ("READY", "LOADING") for entry in entries):
            return
        reasons = [clean_reason(entry.reason) for entry in entries if entry.reason]
        raise ModelAbsent(self.model, "; ".join(reasons)[:_MAX_REASON] or "it is not loaded")


def read_shape(model: str, config: Any) -> ModelShape:
    """Read the shape of an embedder from its Triton configuration.

    Parameters
    ----------
    model
        Its name, for messages.
    config
        Triton's ``ModelConfig`` message.

    Raises
    ------
    BadOutput
        The model is something else than an embedder that takes batches.
    """
    inputs = {tensor.name: list(tensor.dims) for tensor in config.input}
    outputs = {tensor.name: list(tensor.dims) for tensor in config.output}
    try:
        side, width, channels = inputs["IMAGE"]
        (dim,) = outputs["EMBEDDING"]
    except (KeyError, ValueError):
        side = width = channels = dim = 0
    batch = int(config.max_batch_size)
    if not (0 < side == width and channels == 3 and dim > 0 and batch > 0):
        raise BadOutput(
            f"model {model} is not an embedder: it takes {inputs} and gives {outputs} in batches"
            f" of {batch}, expected IMAGE [S, S, 3] and EMBEDDING [D] in batches of 1 or more"
        )
    stages = outputs.get("STAGES", [0])
    return ModelShape(int(side), int(dim), batch, int(stages[0]) if len(stages) == 1 else 0)


def clean_reason(text: str) -> str:
    """Return the sentence in a reason of Triton's repository index, without its wrapping.

    The python backend puts ``Internal: TritonModelException:`` before a model's own words and a
    traceback after them.

    Parameters
    ----------
    text
        As the index has it.
    """
    sentence = re.split(r"\n\s*At:\s*\n", text, maxsplit=1)[0]
    sentence = re.sub(r"^\s*Internal: (TritonModelException: )?", "", sentence)
    return _one_line(sentence)


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())[:_MAX_REASON]
