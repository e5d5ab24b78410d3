"""The embedded protocol's extractor: digits_cnn behind torch-fidelity's interface."""

from __future__ import annotations

from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor
from torch_fidelity.feature_extractor_base import FeatureExtractorBase

from dmq_cli.errors import EvaluationError
from dmq_cli.metrics.protocol import SIDES
from dmq_cli.metrics.weights import read_weights
from dmq_cli.models.digits_cnn import DigitsCNN
from dmq_cli.store.tensors import check_finite


class DigitsFeatures(FeatureExtractorBase):  # type: ignore[misc]
    """digits_cnn: uint8 (B, 1 or 3, 16, 16) to features (B, 64) and logits (B, 10).

    Three channels must be equal: the digits are grey. Raises EvaluationError for other images,
    MissingWeightsError without the file, EvaluationError for a file that does not hold a DigitsCNN, NumericsError for
    NaN in it.
    """

    def __init__(
        self, name: str, features_list: list[str], feature_extractor_weights_path: str | None = None, **_: Any
    ) -> None:
        super().__init__(name, features_list)
        data, _sha256 = read_weights("digits_cnn", feature_extractor_weights_path)
        with torch.device("meta"):  # draws no random numbers
            self.model = DigitsCNN()
        try:
            state = safetensors.torch.load(data)
            check_finite(state, f"The weights in {feature_extractor_weights_path}")
            self.model.load_state_dict(state, assign=True)
            if other_dtypes := [
                name for name, parameter in self.model.named_parameters() if parameter.dtype != torch.float32
            ]:
                raise RuntimeError(f"{other_dtypes[0]} is {state[other_dtypes[0]].dtype}, not torch.float32")
        except (SafetensorError, RuntimeError) as error:
            raise EvaluationError(
                f"Extractor digits_cnn was asked to read {feature_extractor_weights_path}, but that does not "
                f"hold a DigitsCNN ({str(error).splitlines()[0]}); make it again with: "
                "dmq train model=ddim_digits"
            ) from error
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        grey = images[:, :1]
        if images.shape[2:] != SIDES or not bool((images == grey).all()):
            raise EvaluationError(
                "Extractor digits_cnn reads grey images of 16x16 pixels, but found (C, H, W) = "
                f"{tuple(images.shape[1:])}, or channels that differ; choose the protocol of this model."
            )
        features, logits = self.model(grey.contiguous().float() / 127.5 - 1)
        by_name = {"features": features, "logits": logits}
        return tuple(by_name[name] for name in self.features_list)

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return "features", "logits"

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return "logits" if metric == "isc" else "features"

    @staticmethod
    def can_be_compiled() -> bool:
        return False
