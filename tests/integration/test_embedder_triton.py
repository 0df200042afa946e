"""The embedder on a real tritonserver, asked by the client that the workers use."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
import numpy as np
import pytest
from tritonclient.grpc import InferInput
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

pytest.importorskip("torch", reason="pip install 'biodatamine[embedded]'")

import torch

from deploy.embedded.errors import MissingSoftwareError
from deploy.embedded.ports import free_port
from deploy.embedded.service import ServiceSpec
from deploy.embedded.triton import triton_spec
from model_repository.backbone import load_backbone
from model_repository.render import render
from model_repository.spec import EmbedderSpec
from model_repository.timm_import import import_timm
from streams.inference.errors import BadInput, InferenceError, ModelAbsent, ServiceUnavailable
from streams.inference.outputs import Absent, Ready
from streams.inference.triton import Embedder

timm = import_timm()

pytestmark = pytest.mark.integration

START_SECONDS = 90
POLL_SECONDS = 0.1


class Server:
    """A tritonserver that serves one model repository on ports that stay the same."""

    def __init__(self, folder: Path) -> None:
        self.models = folder / "models"
        self.log = folder / "triton.log"
        self.port = free_port()
        try:
            self._spec: ServiceSpec = triton_spec(
                data_dir=folder,
                model_repository=self.models,
                http_port=free_port(),
                grpc_port=self.port,
                metrics_port=free_port(),
            )
        except MissingSoftwareError as error:
            pytest.skip(str(error))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it answers; a model may have failed to load."""
        if self._spec.before_start is not None:
            asyncio.run(self._spec.before_start())  # type: ignore[arg-type]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._spec.argv,
                env=dict(self._spec.env),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        channel = grpc.insecure_channel(self.url)
        try:
            grpc.channel_ready_future(channel).result(timeout=deadline - time.monotonic())
        except grpc.FutureTimeoutError:
            self.kill()
            pytest.fail(f"tritonserver did not answer:\n{self.log.read_text()[-3000:]}")
        finally:
            channel.close()

    def kill(self) -> None:
        """Kill it and its python backend at once, as a crash would."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """Ask it to leave, then kill what is left of it."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=30)
            self.kill()


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    server = Server(folder)
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def lite0_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("lite0")) as server:
        render(server.models)
        server.start()
        yield server


def photos(count: int, side: int, seed: int = 0) -> np.ndarray:
    """Smooth random images: closer to an image than white noise is."""
    grid = np.random.default_rng(seed).integers(0, 256, (count, side // 8, side // 8, 3), np.uint8)
    return grid.repeat(8, axis=1).repeat(8, axis=2)


async def test_the_default_embedder_says_what_it_is(lite0_server: Server) -> None:
    async with Embedder(lite0_server.url) as embedder:
        state = await embedder.model_state()
    expected = load_backbone(EmbedderSpec()).version
    assert state == Ready("embedder", expected, input_size=224, dim=1280, max_batch_size=64)


async def test_vectors_are_those_of_the_backbone(lite0_server: Server) -> None:
    """21 images need three requests; the answer is in order and that of a plain call."""
    images = photos(21, 224)
    backbone = load_backbone(EmbedderSpec())
    async with Embedder(lite0_server.url) as embedder:
        result = await embedder.embed(images)
    assert (result.model, result.version) == ("embedder", backbone.version)
    assert result.vectors.dtype == np.float32
    np.testing.assert_allclose(result.vectors, backbone.embed(images), atol=1e-4)


async def test_callers_at_once_get_their_own_vectors(lite0_server: Server) -> None:
    batches = [photos(count, 224, seed=count) for count in (1, 3, 2, 5, 1)]
    async with Embedder(lite0_server.url) as one, Embedder(lite0_server.url) as other:
        alone = [(await one.embed(batch)).vectors for batch in batches]
        together = await asyncio.gather(
            *[(one, other)[i % 2].embed(batch) for i, batch in enumerate(batches)]
        )
    for expected, result in zip(alone, together, strict=True):
        np.testing.assert_allclose(result.vectors, expected, atol=1e-4)


async def test_a_request_of_another_size_fails_alone(lite0_server: Server) -> None:
    good = photos(2, 224)
    async with Embedder(lite0_server.url) as embedder:
        results = await asyncio.gather(
            embedder.embed(good),
            embedder.embed(photos(2, 64)),
            embedder.embed(good),
            return_exceptions=True,
        )
    assert isinstance(results[1], BadInput)
    assert "takes (224, 224, 3)" in str(results[1])
    np.testing.assert_allclose(results[0].vectors, results[2].vectors, atol=1e-4)


async def test_the_server_itself_refuses_another_size(lite0_server: Server) -> None:
    """What the client checks first is not the only guard."""
    images = photos(1, 64)
    tensor = InferInput("IMAGE", list(images.shape), "UINT8")
    tensor.set_data_from_numpy(images)
    client = InferenceServerClient(lite0_server.url)
    try:
        with pytest.raises(InferenceServerException, match="unexpected shape"):
            await client.infer("embedder", [tensor])
    finally:
        await client.close()


async def test_an_unknown_model_is_absent(lite0_server: Server) -> None:
    async with Embedder(lite0_server.url, model="nothing") as embedder:
        state = await embedder.model_state()
        assert state == Absent("nothing", "it is not in the server's model repository")
        with pytest.raises(ModelAbsent, match="nothing is absent"):
            await embedder.embed(photos(1, 224))


async def test_a_deadline_is_a_retryable_fault_and_the_client_goes_on(
    lite0_server: Server,
) -> None:
    images = photos(8, 224)
    async with Embedder(lite0_server.url) as embedder:
        await embedder.model_state()
        embedder.timeout_seconds = 0.001
        with pytest.raises(ServiceUnavailable, match="deadline_exceeded"):
            await embedder.embed(images)
        embedder.timeout_seconds = 60
        assert (await embedder.embed(images)).vectors.shape == (8, 1280)


async def ready_again(embedder: Embedder) -> Ready:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            state = await embedder.model_state()
        except ServiceUnavailable:
            state = None
        if isinstance(state, Ready):
            return state
        assert time.monotonic() < deadline, state
        await asyncio.sleep(POLL_SECONDS)


async def test_one_client_through_the_life_of_a_server(tmp_path: Path) -> None:
    """No weights, then weights from a file, then a crash, then a restart with other weights."""
    from safetensors.torch import save_file

    def weights(seed: int) -> EmbedderSpec:
        torch.manual_seed(seed)
        file = tmp_path / f"own {seed}.safetensors"
        save_file(timm.create_model("test_vit").state_dict(), file)
        return EmbedderSpec("test_vit", weights=str(file), image_size=96)

    with serving(tmp_path) as server:
        async with Embedder(server.url) as embedder:
            render(server.models, EmbedderSpec("vit_base_patch14_dinov2"))
            await asyncio.to_thread(server.start)
            state = await embedder.model_state()
            assert isinstance(state, Absent)
            assert state.reason.startswith("no weights for vit_base_patch14_dinov2: set weights=")
            with pytest.raises(ModelAbsent, match="no weights for vit_base_patch14_dinov2"):
                await embedder.embed(photos(1, 224))
            await asyncio.to_thread(server.stop)

            spec = weights(seed=1)
            backbone = load_backbone(spec)
            render(server.models, spec)
            await asyncio.to_thread(server.start)
            ready = await ready_again(embedder)
            assert ready == Ready("embedder", backbone.version, 96, backbone.dim, 64)
            images = photos(3, 96)
            result = await embedder.embed(images)
            np.testing.assert_allclose(result.vectors, backbone.embed(images), atol=1e-4)

            # A crash while a request is on its way: it fails as retryable, and nothing hangs.
            many = asyncio.create_task(embedder.embed(photos(4096, 96)))
            await asyncio.sleep(0)
            server.kill()
            with pytest.raises(InferenceError) as fault:
                await asyncio.wait_for(many, timeout=30)
            assert fault.value.retryable
            with pytest.raises(ServiceUnavailable, match="unavailable"):
                await embedder.embed(images)

            other = weights(seed=2)
            render(server.models, other)
            await asyncio.to_thread(server.start)
            replaced = await ready_again(embedder)
            assert replaced.version == load_backbone(other).version != ready.version
            assert (await embedder.embed(images)).version == replaced.version
