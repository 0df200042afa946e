"""Triton python-backend shell around :mod:`model_repository.backbone`.

``model_repository`` must be importable by the python backend: installed in its environment, or on
``PYTHONPATH``. When the repository is served from a checkout, the checkout is found by itself.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
import triton_python_backend_utils as pb_utils

try:
    import model_repository  # noqa: F401
except ImportError:
    checkout = Path(__file__).resolve().parents[3]
    if not (checkout / "model_repository" / "backbone.py").is_file():
        raise ImportError(
            "the package model_repository is not importable by Triton's python backend: install"
            " biodatamine[models] into its python, or set PYTHONPATH to the checkout"
        ) from None
    sys.path.append(str(checkout))

from model_repository.backbone import describe_backbone, load_backbone
from model_repository.serving import embed_requests
from model_repository.spec import EmbedderSpec
from model_repository.weights import WeightsError


def _parameters(config: dict) -> dict[str, str]:
    return {key: value["string_value"] for key, value in config.get("parameters", {}).items()}


class TritonPythonModel:
    """The model ``embedder``: IMAGE in, EMBEDDING, STAGES and MODEL_VERSION out."""

    @staticmethod
    def auto_complete_config(auto_complete_model_config):
        """Add inputs and outputs with the sizes of the backbone that the parameters name."""
        config = auto_complete_model_config.as_dict()
        try:
            shape = describe_backbone(EmbedderSpec.from_parameters(_parameters(config)))
        except (ValueError, WeightsError) as error:
            raise pb_utils.TritonModelException(str(error)) from None
        side = shape.input_size
        auto_complete_model_config.add_input(
            {"name": "IMAGE", "data_type": "TYPE_UINT8", "dims": [side, side, 3]}
        )
        auto_complete_model_config.add_output(
            {"name": "EMBEDDING", "data_type": "TYPE_FP32", "dims": [shape.dim]}
        )
        if shape.stages_dim:
            auto_complete_model_config.add_output(
                {"name": "STAGES", "data_type": "TYPE_FP32", "dims": [shape.stages_dim]}
            )
        auto_complete_model_config.add_output(
            {"name": "MODEL_VERSION", "data_type": "TYPE_STRING", "dims": [1]}
        )
        return auto_complete_model_config

    def initialize(self, args):
        """Load the backbone; one without weights does not load, and says why."""
        parameters = _parameters(json.loads(args["model_config"]))
        # A torch without CUDA beside a Triton that sees a GPU: "auto" then means the CPU.
        follows = {"cuda", "auto"} if torch.cuda.is_available() else {"cuda"}
        if args["model_instance_kind"] == "GPU" and parameters.get("device", "auto") in follows:
            parameters["device"] = f"cuda:{args['model_instance_device_id']}"
        try:
            self.backbone = load_backbone(EmbedderSpec.from_parameters(parameters))
        except (ValueError, WeightsError) as error:
            raise pb_utils.TritonModelException(str(error)) from None
        loaded = self.backbone
        pb_utils.Logger.log_info(
            f"embedder {loaded.version}: weights of {loaded.weights.source}, on {loaded.device}"
        )

    def execute(self, requests):
        """Embed the images of all requests in one pass; a faulty request fails alone."""
        images = [
            pb_utils.get_input_tensor_by_name(request, "IMAGE").as_numpy() for request in requests
        ]
        return [self._response(outcome) for outcome in embed_requests(self.backbone, images)]

    def _response(self, outcome):
        if isinstance(outcome, ValueError):
            error = pb_utils.TritonError(str(outcome), pb_utils.TritonError.INVALID_ARG)
            return pb_utils.InferenceResponse(output_tensors=[], error=error)
        if isinstance(outcome, Exception):
            error = pb_utils.TritonError(f"{type(outcome).__name__}: {outcome}")
            return pb_utils.InferenceResponse(output_tensors=[], error=error)
        version = self.backbone.version.encode()
        tensors = [
            pb_utils.Tensor("EMBEDDING", np.ascontiguousarray(outcome.vectors)),
            pb_utils.Tensor(
                "MODEL_VERSION", np.full((len(outcome.vectors), 1), version, dtype=np.object_)
            ),
        ]
        if self.backbone.stages_dim:
            tensors.append(pb_utils.Tensor("STAGES", np.ascontiguousarray(outcome.stages)))
        return pb_utils.InferenceResponse(output_tensors=tensors)
