"""What the Triton client decides without a server."""

from __future__ import annotations

import socket

import numpy as np
import pytest
from tritonclient.grpc import model_config_pb2

from streams.inference.errors import BadInput, BadOutput, ServiceUnavailable
from streams.inference.triton import Embedder, clean_reason, read_shape


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


async def test_no_server_is_a_retryable_fault(closed_port: int) -> None:
    async with Embedder(f"127.0.0.1:{closed_port}") as embedder:
        with pytest.raises(ServiceUnavailable, match=f"127.0.0.1:{closed_port}: unavailable"):
            await embedder.embed(np.zeros((1, 224, 224, 3), np.uint8))
        with pytest.raises(ServiceUnavailable):
            await embedder.model_state()


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((0, 224, 224, 3), np.uint8), ((224, 224, 3), np.uint8), ((1, 224, 224, 3), np.float32)],
)
async def test_arrays_that_are_no_images_are_refused_before_any_connection(
    closed_port: int, shape: tuple[int, ...], dtype: type
) -> None:
    async with Embedder(f"127.0.0.1:{closed_port}") as embedder:
        with pytest.raises(BadInput, match="expected uint8"):
            await embedder.embed(np.zeros(shape, dtype))


def test_requests_of_no_images_are_refused() -> None:
    with pytest.raises(ValueError, match="images_per_request is 0"):
        Embedder("127.0.0.1:1", images_per_request=0)


async def test_closing_twice_or_unused_is_harmless(closed_port: int) -> None:
    embedder = Embedder(f"127.0.0.1:{closed_port}")
    await embedder.close()
    await embedder.close()


def config(image: list[int], embedding: list[int], batch: int = 64) -> model_config_pb2.ModelConfig:
    tensors = {
        "input": [model_config_pb2.ModelInput(name="IMAGE", dims=image)],
        "output": [model_config_pb2.ModelOutput(name="EMBEDDING", dims=embedding)],
    }
    return model_config_pb2.ModelConfig(max_batch_size=batch, **tensors)


def test_the_shape_is_read_from_the_configuration() -> None:
    shape = read_shape("embedder", config([518, 518, 3], [768]))
    assert (shape.input_size, shape.dim, shape.max_batch_size) == (518, 768, 64)
    assert read_shape("embedder", config([32, 32, 3], [4], batch=1)).max_batch_size == 1


@pytest.mark.parametrize(
    ("image", "embedding", "batch"),
    [
        ([3, 224, 224], [768], 8),
        ([224, 112, 3], [768], 8),
        ([-1, -1, 3], [768], 8),
        ([224, 224, 3], [-1], 8),
        ([224, 224, 3], [768, 1], 8),
        ([224, 224, 3], [768], 0),
    ],
)
def test_another_kind_of_model_is_refused(
    image: list[int], embedding: list[int], batch: int
) -> None:
    with pytest.raises(BadOutput, match="is not an embedder"):
        read_shape("embedder", config(image, embedding, batch))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "Internal: TritonModelException: no weights for x: set it\n\nAt:\n  m.py(72): f\n",
            "no weights for x: set it",
        ),
        (
            "Internal: ModuleNotFoundError: No module named 'torch'",
            "ModuleNotFoundError: No module",
        ),
        ("unloaded", "unloaded"),
        ("a\n  b\tc", "a b c"),
    ],
)
def test_reasons_lose_their_wrapping(text: str, expected: str) -> None:
    assert clean_reason(text).startswith(expected)
    assert len(clean_reason(text * 500)) <= 400
