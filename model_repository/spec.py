"""What a person may choose about an embedder, validated once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields

DEFAULT_BACKBONE = "tf_efficientnet_lite0"
HUB = "hub"
"""Value of ``weights`` that asks for timm's own weights from the Hugging Face hub."""

PRECISIONS = ("float32", "bfloat16")

_BACKBONE_NAME = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)?")
_DEVICE_NAME = re.compile(r"auto|cpu|cuda(:[0-9]+)?")


@dataclass(frozen=True)
class EmbedderSpec:
    """One embedder: a timm backbone, where its weights come from and how it runs.

    Parameters
    ----------
    backbone
        A timm model name, with or without its tag (``vit_base_patch14_dinov2.lvd142m``).
    weights
        Empty for weights that an installed package carries, ``hub`` to download timm's own,
        otherwise the path of a ``.safetensors`` (or ``.pth``, read without unpickling code) file.
    device
        ``auto`` (a GPU when torch sees one), ``cpu``, ``cuda`` or ``cuda:N``.
    threads
        CPU threads of one forward pass; 0 lets torch take every core. One thread costs the least
        CPU time; more answer sooner when cores are free, and cost more when they are not (threads
        wait for each other actively).
    image_size
        Side of the square input in pixels; 0 keeps the size that the backbone was trained for. Only
        backbones whose position table can be resampled (vision transformers) or that have none
        (convolutional) accept another.
    precision
        ``float32`` or ``bfloat16``.

    Raises
    ------
    ValueError
        A value is outside of what is described above.
    """

    backbone: str = DEFAULT_BACKBONE
    weights: str = ""
    device: str = "auto"
    threads: int = 1
    image_size: int = 0
    precision: str = "float32"

    def __post_init__(self) -> None:
        """Refuse values that could only fail later and less clearly."""
        if not _BACKBONE_NAME.fullmatch(self.backbone):
            raise ValueError(f"backbone {self.backbone!r} is not a timm model name")
        if not _DEVICE_NAME.fullmatch(self.device):
            raise ValueError(f"device {self.device!r}: expected auto, cpu, cuda or cuda:N")
        if not 0 <= self.threads <= 256:
            raise ValueError(f"threads {self.threads}: expected 0 (torch decides) to 256")
        if not (self.image_size == 0 or 32 <= self.image_size <= 2048):
            raise ValueError(f"image_size {self.image_size}: expected 0 (native) or 32 to 2048")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision {self.precision!r}: expected {' or '.join(PRECISIONS)}")

    @property
    def architecture(self) -> str:
        """The backbone's name without its weights tag."""
        return self.backbone.split(".")[0]

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, str]) -> EmbedderSpec:
        """Read the ``parameters`` of a Triton model configuration.

        Parameters
        ----------
        parameters
            Parameter name to its string value. Names of other users of the mapping (Triton's own
            are in upper case) are ignored; absent or empty ones keep their default.

        Raises
        ------
        ValueError
            A value cannot be used; the message names it.
        """
        chosen: dict[str, str | int] = {}
        for field in fields(cls):
            text = parameters.get(field.name, "").strip()
            if not text:
                continue
            if isinstance(field.default, int):
                if not text.isdecimal():
                    raise ValueError(f"{field.name} {text!r}: expected a whole number")
                chosen[field.name] = int(text)
            else:
                chosen[field.name] = text
        return cls(**chosen)  # type: ignore[arg-type]

    def as_parameters(self) -> dict[str, str]:
        """Return the inverse of :meth:`from_parameters`."""
        return {field.name: str(getattr(self, field.name)) for field in fields(self)}
