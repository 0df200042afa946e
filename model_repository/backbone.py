"""An image encoder that turns pixels into L2-normalised vectors, and knows which weights it has.

Preprocessing is timm's data configuration of the backbone: pixels in 0..1, minus ``mean``, divided
by ``std``. The caller resizes. For the packaged ``tf_efficientnet_lite0`` weights mean = std = 0.5
(pixels in -1..1) was confirmed by their ImageNet classifier on photographs of known content:
scikit-image's coffee cup is ``espresso`` with p = 0.95 (0.78 with the usual ImageNet mean and std,
and ``loudspeaker`` with pixels in 0..255), and scikit-learn's two sample photographs are ``palace``
and ``daisy`` (the latter only with 0.5). Bicubic and bilinear resizing agree on each.
"""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from model_repository.folding import fold_batch_norms
from model_repository.spec import EmbedderSpec
from model_repository.timm_import import import_timm
from model_repository.weights import WeightsError, WeightsFile, find_weights, read_state_dict

# On CPU four images at once cost the least: fewer pay per call, more leave the cache and make the C
# library map and unmap (and the kernel clear) every layer's output. 32 at once cost 40 % more than
# 4 for tf_efficientnet_lite0.
CPU_CHUNK = 4
GPU_CHUNK = 64
_DIGEST_CHARACTERS = 12
_MAX_STAGES = 7
_FOLDING_TOLERANCE = 1e-3


class EmbeddingError(Exception):
    """The forward pass gave something that is not a vector of length one."""


@dataclass(frozen=True)
class BackboneShape:
    """What goes in and what comes out of a backbone.

    Parameters
    ----------
    input_size
        Side of the square input in pixels.
    dim
        Length of the embedding.
    stages_dim
        Length of the stages' means; 0 when the network has no stages that are known.
    """

    input_size: int
    dim: int
    stages_dim: int = 0


class Embedded(NamedTuple):
    """What a backbone makes of images.

    Parameters
    ----------
    vectors
        float32, shape (N, dim); every row has an L2 norm of 1.
    stages
        float32, shape (N, stages_dim): the mean over the picture of every channel of every stage,
        in order.
    """

    vectors: NDArray[np.float32]
    stages: NDArray[np.float32]


@dataclass(frozen=True)
class Backbone:
    """A loaded backbone; make one with :func:`load_backbone`.

    Parameters
    ----------
    name
        timm architecture, without its weights tag.
    weights
        The file that the weights were read from.
    version
        ``name-digest``: the first 12 hexadecimal digits of the weights file's SHA-256. Whatever
        else changes the vectors is appended (``-224px`` for a resampled input size, ``-bf16``).
    input_size
        Side of the square input in pixels.
    dim
        Length of the embedding.
    stages_dim
        Length of the stages' means; 0 when the network has none.
    mean, std
        Per channel (red, green, blue), for pixels in 0..1.
    device
        Where the forward pass runs, as torch writes it.
    chunk
        Images per forward pass.
    """

    name: str
    weights: WeightsFile
    version: str
    input_size: int
    dim: int
    stages_dim: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    device: str
    chunk: int
    _network: Any
    _dtype: Any
    _scale: Any
    _shift: Any

    def check(self, images: NDArray[np.uint8]) -> None:
        """Raise ``ValueError`` unless ``images`` is what :meth:`embed` takes."""
        side = self.input_size
        if images.dtype != np.uint8:
            raise ValueError(f"images are {images.dtype}, expected uint8")
        if images.ndim != 4 or images.shape[1:] != (side, side, 3):
            raise ValueError(f"images have shape {images.shape}, expected (N, {side}, {side}, 3)")

    def embed(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Turn images into vectors of length one.

        Parameters
        ----------
        images
            uint8, shape (N, input_size, input_size, 3), RGB, 0 to 255.

        Returns
        -------
        ndarray
            float32, shape (N, dim); every row has an L2 norm of 1.

        Raises
        ------
        ValueError
            The images have another shape or type.
        EmbeddingError
            A vector is zero or not finite, so that it has no direction.
        """
        return self.embed_with_stages(images).vectors

    def embed_with_stages(self, images: NDArray[np.uint8]) -> Embedded:
        """Embed images and keep what the stages before the last one saw.

        The last layer is made to tell ImageNet's classes apart. Means of the earlier activations
        over the picture keep its texture, at next to no cost.

        Parameters
        ----------
        images
            As :meth:`embed` takes them.

        Raises
        ------
        ValueError, EmbeddingError
            As :meth:`embed`.
        """
        self.check(images)
        vectors = np.empty((len(images), self.dim), np.float32)
        stages = np.empty((len(images), self.stages_dim), np.float32)
        with torch.inference_mode(), _Stages(self._network) as seen:
            for start in range(0, len(images), self.chunk):
                pixels = _as_tensor(images[start : start + self.chunk])
                features = self._forward(pixels).float().cpu().numpy()
                rows = slice(start, start + len(features))
                vectors[rows] = features
                if self.stages_dim:
                    stages[rows] = seen.take().cpu().numpy()
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not (np.isfinite(norms).all() and (norms > 0).all()):
            raise EmbeddingError(f"{self.name} gave a vector of length zero or not finite")
        if not np.isfinite(stages).all():
            raise EmbeddingError(f"{self.name} gave stages that are not finite")
        vectors /= norms
        return Embedded(vectors, stages)

    def _forward(self, pixels: Any) -> Any:
        # uint8 NHWC seen as NCHW is what torch calls channels_last: the layout that its CPU
        # convolutions want.
        batch = pixels.to(self.device, non_blocking=True).permute(0, 3, 1, 2).to(self._dtype)
        return self._network(batch.mul_(self._scale).add_(self._shift))


def describe_backbone(spec: EmbedderSpec) -> BackboneShape:
    """Tell a backbone's input and output sizes without weights, memory or a forward pass.

    Raises
    ------
    WeightsError
        timm has no such backbone, or it cannot take ``image_size``.
    """
    with torch.device("meta"), torch.inference_mode():
        network = _create(spec)
        side = _input_size(network, spec)
        try:
            with _Stages(network) as seen:
                features = network(torch.empty(1, 3, side, side))
                stages_dim = int(seen.take().shape[1]) if seen.parts else 0
        except (AssertionError, RuntimeError) as error:
            raise WeightsError(
                f"{spec.backbone} does not take image_size={side}: {error}"
            ) from error
    return BackboneShape(side, int(features.shape[1]), stages_dim)


def load_backbone(spec: EmbedderSpec) -> Backbone:
    """Load a backbone with its weights, ready to embed.

    Every key of the file must be one of the network's and the other way round; only the classifier,
    which an embedding does not use, is left out.

    Raises
    ------
    WeightsAbsentError
        There are no weights for it (:func:`model_repository.weights.find_weights`).
    WeightsError
        The weights do not fit, or timm has no such backbone.
    """
    shape = describe_backbone(spec)
    weights = find_weights(spec)
    network = _create(spec)
    _load(network, read_state_dict(weights), spec, weights)
    if spec.threads:
        torch.set_num_threads(spec.threads)
    device = _device(spec.device)
    dtype = getattr(torch, spec.precision)
    network = _folded(network, shape.input_size)
    network = network.to(device, dtype, memory_format=torch.channels_last)
    data = import_timm().data.resolve_data_config({}, model=network)
    mean, std = tuple(data["mean"]), tuple(data["std"])
    return Backbone(
        name=spec.architecture,
        weights=weights,
        version=version_of(spec, weights.sha256),
        input_size=shape.input_size,
        dim=shape.dim,
        stages_dim=shape.stages_dim,
        mean=mean,
        std=std,
        device=str(device),
        chunk=CPU_CHUNK if device.type == "cpu" else GPU_CHUNK,
        _network=network,
        _dtype=dtype,
        _scale=_per_channel([1 / (255 * s) for s in std], device, dtype),
        _shift=_per_channel([-m / s for m, s in zip(mean, std, strict=True)], device, dtype),
    )


class _Stages:
    """Listens to the stages of a network while it is entered."""

    def __init__(self, network: Any) -> None:
        blocks = getattr(network, "blocks", None)
        blocks = list(blocks) if isinstance(blocks, torch.nn.Sequential) else []
        # Transformers have a dozen blocks that are alike: a few evenly spaced ones tell as much.
        step = max(1, -(-len(blocks) // _MAX_STAGES))
        self._blocks = blocks[::-step][::-1]
        self._handles: list[Any] = []
        self.parts: list[Any] = []

    def __enter__(self) -> _Stages:
        self._handles = [block.register_forward_hook(self._listen) for block in self._blocks]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def take(self) -> Any:
        """Return the means of the pass that has ended, float32 (N, stages_dim)."""
        means, self.parts = self.parts, []
        return torch.cat(means, dim=1)

    def _listen(self, _block: Any, _inputs: Any, output: Any) -> None:
        # (N, channels, height, width) of a convolution, (N, tokens, channels) of a transformer.
        places = (2, 3) if output.ndim == 4 else (1,)
        self.parts.append(output.float().mean(dim=places))


def version_of(spec: EmbedderSpec, sha256: str) -> str:
    """Name everything that decides which vectors come out.

    Parameters
    ----------
    spec
        The embedder.
    sha256
        Hexadecimal digest of its weights file.
    """
    parts = [spec.architecture, sha256[:_DIGEST_CHARACTERS]]
    if spec.image_size:
        parts.append(f"{spec.image_size}px")
    if spec.precision == "bfloat16":
        parts.append("bf16")
    return "-".join(parts)


def _create(spec: EmbedderSpec) -> Any:
    """Make the network without weights and without its classifier."""
    timm = import_timm()
    # timm would also fetch from addresses such as hf-hub:...; the spec allows registered names
    # only.
    if not timm.is_model(spec.backbone):
        raise WeightsError(f"timm {timm.__version__} has no backbone {spec.backbone}")
    options = {"img_size": spec.image_size} if spec.image_size and _has_fixed_size(spec) else {}
    try:
        return timm.create_model(spec.backbone, pretrained=False, num_classes=0, **options).eval()
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        size = f" with image_size={spec.image_size}" if spec.image_size else ""
        raise WeightsError(f"timm cannot make {spec.backbone}{size}: {error}") from error


def _has_fixed_size(spec: EmbedderSpec) -> bool:
    config = import_timm().models.get_pretrained_cfg(spec.backbone)
    return bool(config is not None and config.fixed_input_size)


def _input_size(network: Any, spec: EmbedderSpec) -> int:
    return spec.image_size or int(network.pretrained_cfg["input_size"][-1])


def _load(network: Any, state: dict[str, Any], spec: EmbedderSpec, weights: WeightsFile) -> None:
    # timm's own conversion per family: other projects' key names, and position tables for other
    # image sizes.
    convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    if weights.rename is None and convert is not None:
        try:
            state = convert(state, network)
        except Exception as error:
            # Conversions index, reshape and match keys of files that may be anything.
            raise WeightsError(
                f"{weights.path.name} ({weights.source}) is not for {spec.backbone}: {error!r}"
            ) from error
    classifiers = network.pretrained_cfg.get("classifier") or ()
    classifiers = (classifiers,) if isinstance(classifiers, str) else tuple(classifiers)
    prefixes = tuple(f"{classifier}." for classifier in classifiers)
    state = {
        key: tensor for key, tensor in state.items() if not (prefixes and key.startswith(prefixes))
    }
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        problem = " ".join(str(error).split())[:400]
        raise WeightsError(
            f"{weights.path.name} ({weights.source}) does not fit {spec.backbone}: {problem}"
        ) from error


def _folded(network: Any, side: int) -> Any:
    """Fold batch norms if that leaves the output as it was."""
    candidate = copy.deepcopy(network)
    with torch.inference_mode(False), torch.no_grad():
        if not fold_batch_norms(candidate):
            return network
    generator = torch.Generator().manual_seed(0)
    probe = torch.rand(2, 3, side, side, generator=generator) * 2 - 1
    with torch.inference_mode():
        expected, found = network(probe), candidate(probe)
    scale = expected.abs().max().clamp_min(1e-12)
    same = float((expected - found).abs().max() / scale) < _FOLDING_TOLERANCE
    return candidate if same else network


def _device(name: str) -> Any:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise WeightsError(f"device={name}: torch {torch.__version__} sees no GPU; set device=cpu")
    return torch.device(name)


def _as_tensor(images: NDArray[np.uint8]) -> Any:
    # torch refuses to share a read-only buffer quietly; a chunk is small enough to copy.
    return torch.from_numpy(
        np.ascontiguousarray(images) if images.flags.writeable else images.copy()
    )


def _per_channel(values: list[float], device: Any, dtype: Any) -> Any:
    return torch.tensor(values, device=device, dtype=dtype).view(1, 3, 1, 1)
