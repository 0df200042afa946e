"""A backbone turns pixels into the vectors that its weights define."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="pip install 'biodatamine[models]'")

import torch

from model_repository.backbone import (
    Backbone,
    EmbeddingError,
    describe_backbone,
    load_backbone,
    version_of,
)
from model_repository.serving import embed_requests
from model_repository.spec import EmbedderSpec
from model_repository.timm_import import import_timm
from model_repository.weights import WeightsError, read_state_dict

timm = import_timm()
from safetensors.torch import save_file  # noqa: E402 - after the import that repairs torchvision


@pytest.fixture(scope="module")
def lite0() -> Backbone:
    return load_backbone(EmbedderSpec())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    """A vision transformer whose random weights come from a file, as a person's would."""
    torch.manual_seed(7)
    file = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file(timm.create_model("test_vit").state_dict(), file)
    return load_backbone(EmbedderSpec("test_vit", weights=str(file)))


def noise(count: int, side: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), np.uint8)


def test_lite0_says_what_it_is(lite0: Backbone) -> None:
    assert lite0.version == "tf_efficientnet_lite0-" + lite0.weights.sha256[:12]
    assert (lite0.input_size, lite0.dim) == (224, 1280)
    assert lite0.mean == lite0.std == (0.5, 0.5, 0.5)
    shape = describe_backbone(EmbedderSpec())
    assert (shape.input_size, shape.dim) == (224, 1280)


def test_dinov2_is_described_without_its_weights() -> None:
    shape = describe_backbone(EmbedderSpec("vit_base_patch14_dinov2"))
    assert (shape.input_size, shape.dim) == (518, 768)
    shape = describe_backbone(EmbedderSpec("vit_base_patch14_dinov2.lvd142m", image_size=224))
    assert (shape.input_size, shape.dim) == (224, 768)


def test_vectors_have_length_one_and_do_not_depend_on_their_batch(lite0: Backbone) -> None:
    images = noise(6, 224)
    together = lite0.embed(images)
    alone = np.concatenate([lite0.embed(image[None]) for image in images])
    assert together.dtype == np.float32
    assert together.shape == (6, 1280)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_stages_are_means_of_what_each_stage_saw(lite0: Backbone) -> None:
    images = noise(5, 224, seed=3)
    seen = []
    handles = [
        block.register_forward_hook(lambda _block, _inputs, output: seen.append(output))
        for block in lite0._network.blocks
    ]
    found = lite0.embed_with_stages(images[:2])
    for handle in handles:
        handle.remove()
    assert [len(output[0]) for output in seen] == [16, 24, 40, 80, 112, 192, 320]
    assert found.stages.shape == (2, lite0.stages_dim) == (2, 784)
    assert describe_backbone(EmbedderSpec()).stages_dim == lite0.stages_dim
    expected = np.concatenate([output.mean((2, 3)).numpy() for output in seen], axis=1)
    np.testing.assert_allclose(found.stages, expected, atol=1e-4)
    np.testing.assert_array_equal(found.vectors, lite0.embed(images[:2]))
    assert lite0.embed_with_stages(images).stages.shape == (5, 784)
    assert not any(block._forward_hooks for block in lite0._network.blocks)


def test_a_transformer_has_stages_too(tiny: Backbone) -> None:
    found = tiny.embed_with_stages(noise(2, tiny.input_size))
    assert found.stages.shape == (2, tiny.stages_dim)
    assert tiny.stages_dim % tiny.dim == 0
    assert 0 < tiny.stages_dim <= 7 * tiny.dim


def test_folding_and_layout_leave_the_network_what_it_was(lite0: Backbone) -> None:
    """The plain timm network with the packaged weights is the reference."""
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    network.load_state_dict(read_state_dict(lite0.weights), strict=True)
    network.reset_classifier(0)
    images = noise(3, 224, seed=1)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().float() / 255
    with torch.inference_mode():
        expected = torch.nn.functional.normalize(network((pixels - 0.5) / 0.5)).numpy()
    np.testing.assert_allclose(lite0.embed(images), expected, atol=2e-5)
    norms = [m for m in lite0._network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert not norms, "batch norms were not folded"


@pytest.mark.parametrize(("photo", "label"), [("china.jpg", "palace"), ("flower.jpg", "daisy")])
def test_the_weights_recognise_photographs(lite0: Backbone, photo: str, label: str) -> None:
    """Wrong weights, renaming or preprocessing would not find the right one of 1000 classes."""
    datasets = pytest.importorskip("sklearn.datasets")
    image_module = pytest.importorskip("PIL.Image")
    image = image_module.fromarray(datasets.load_sample_image(photo))
    resized = image.resize((round(image.width * 256 / image.height), 256), image_module.BICUBIC)
    left = (resized.width - 224) // 2
    pixels = np.asarray(resized.crop((left, 16, left + 224, 240)))
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    network.load_state_dict(read_state_dict(lite0.weights), strict=True)
    normal = (pixels / 255 - lite0.mean) / lite0.std
    with torch.inference_mode():
        logits = network(torch.from_numpy(normal).float().permute(2, 0, 1)[None])
    found = timm.data.ImageNetInfo().index_to_description(int(logits.argmax()))
    assert found.startswith(label)


def test_local_weights_give_the_vectors_of_that_network(tiny: Backbone) -> None:
    torch.manual_seed(7)
    network = timm.create_model("test_vit").eval()
    network.reset_classifier(0)
    images = noise(5, tiny.input_size)
    mean, std = torch.tensor(tiny.mean), torch.tensor(tiny.std)
    pixels = ((torch.from_numpy(images).float() / 255 - mean) / std).permute(0, 3, 1, 2)
    with torch.inference_mode():
        expected = torch.nn.functional.normalize(network(pixels)).numpy()
    np.testing.assert_allclose(tiny.embed(images), expected, atol=2e-5)
    assert tiny.weights.source == "file"
    assert tiny.version == f"test_vit-{tiny.weights.sha256[:12]}"


def test_dinov2_position_table_is_resampled_to_another_size(tmp_path: Path) -> None:
    """The small variant stands for the base one: same code, a quarter of the file."""
    torch.manual_seed(1)
    file = tmp_path / "dinov2.safetensors"
    save_file(timm.create_model("vit_small_patch14_dinov2").state_dict(), file)
    spec = EmbedderSpec("vit_small_patch14_dinov2", weights=str(file), image_size=56)
    backbone = load_backbone(spec)
    assert (backbone.input_size, backbone.dim) == (56, 384)
    assert backbone.version.endswith("-56px")
    vectors = backbone.embed(noise(2, 56))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_bfloat16_is_close_and_named(tiny: Backbone) -> None:
    spec = EmbedderSpec("test_vit", weights=str(tiny.weights.path), precision="bfloat16")
    backbone = load_backbone(spec)
    images = noise(4, tiny.input_size)
    assert backbone.version == f"{tiny.version}-bf16"
    assert (tiny.embed(images) * backbone.embed(images)).sum(axis=1).min() > 0.98


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((2, 10, 224, 3), np.uint8), ((224, 224, 3), np.uint8), ((1, 224, 224, 3), np.float32)],
)
def test_other_arrays_are_refused(lite0: Backbone, shape: tuple[int, ...], dtype: type) -> None:
    with pytest.raises(ValueError, match="expected"):
        lite0.embed(np.zeros(shape, dtype))


def test_a_vector_without_direction_is_an_error(tmp_path: Path) -> None:
    state = timm.create_model("test_vit", num_classes=0).state_dict()
    file = tmp_path / "zeros.safetensors"
    save_file({key: torch.zeros_like(value) for key, value in state.items()}, file)
    backbone = load_backbone(EmbedderSpec("test_vit", weights=str(file)))
    with pytest.raises(EmbeddingError, match="length zero"):
        backbone.embed(noise(1, backbone.input_size))


def test_read_only_images_are_taken(tiny: Backbone) -> None:
    images = noise(1, tiny.input_size)
    images.flags.writeable = False
    assert tiny.embed(images).shape == (1, tiny.dim)


def test_unknown_backbones_and_sizes_are_refused() -> None:
    with pytest.raises(WeightsError, match="has no backbone nonsense"):
        describe_backbone(EmbedderSpec("nonsense"))
    with pytest.raises(WeightsError, match="image_size=33"):
        describe_backbone(EmbedderSpec("test_vit", image_size=33))


def test_a_gpu_that_is_not_there_is_named() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(WeightsError, match="sees no GPU; set device=cpu"):
        load_backbone(EmbedderSpec(device="cuda"))


def test_version_names_everything_that_changes_vectors() -> None:
    digest = "0123456789abcdef" * 4
    assert version_of(EmbedderSpec(), digest) == "tf_efficientnet_lite0-0123456789ab"
    spec = EmbedderSpec("vit_base_patch14_dinov2.lvd142m", image_size=224, precision="bfloat16")
    assert version_of(spec, digest) == "vit_base_patch14_dinov2-0123456789ab-224px-bf16"


def test_requests_share_a_pass_and_are_split_again(tiny: Backbone) -> None:
    requests = [noise(count, tiny.input_size, seed=count) for count in (1, 3, 2)]
    outcomes = embed_requests(tiny, requests)
    for images, outcome in zip(requests, outcomes, strict=True):
        assert not isinstance(outcome, Exception)
        expected = tiny.embed_with_stages(images)
        np.testing.assert_allclose(outcome.stages, expected.stages, atol=1e-4)
        np.testing.assert_allclose(outcome.vectors, tiny.embed(images), atol=1e-5)


def test_a_faulty_request_fails_alone(tiny: Backbone) -> None:
    good = noise(2, tiny.input_size)
    outcomes = embed_requests(tiny, [good, noise(2, 10), good, good.astype(np.float32)])  # type: ignore[list-item]
    assert isinstance(outcomes[1], ValueError)
    assert isinstance(outcomes[3], ValueError)
    for outcome in (outcomes[0], outcomes[2]):
        assert not isinstance(outcome, Exception)
        np.testing.assert_allclose(outcome.vectors, tiny.embed(good), atol=1e-5)
    assert embed_requests(tiny, []) == []
    assert all(isinstance(o, ValueError) for o in embed_requests(tiny, [noise(1, 9)]))


def test_a_pass_that_fails_is_repeated_per_request(tiny: Backbone) -> None:
    """One request gives a vector without direction; the others of its batch get theirs."""

    class BlankImagesHaveNoDirection(torch.nn.Module):
        def __init__(self, network: torch.nn.Module) -> None:
            super().__init__()
            self.network = network
            self.blocks = network.blocks

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            dark = pixels.amax(dim=(1, 2, 3), keepdim=True)[:, :, 0, 0] <= pixels.new_tensor(-1.0)
            return self.network(pixels) * ~dark

    backbone = dataclasses.replace(tiny, _network=BlankImagesHaveNoDirection(tiny._network))
    good = noise(2, tiny.input_size)
    outcomes = embed_requests(backbone, [good, np.zeros_like(good), good])
    assert isinstance(outcomes[1], EmbeddingError)
    for outcome in (outcomes[0], outcomes[2]):
        assert not isinstance(outcome, Exception)
        np.testing.assert_allclose(outcome.vectors, tiny.embed(good), atol=1e-5)
    assert isinstance(embed_requests(backbone, [np.zeros_like(good)])[0], EmbeddingError)
