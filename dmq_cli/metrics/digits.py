"""The embedded protocols' extractors: digits_cnn and fashion_cnn behind torch-fidelity's interface."""

from __future__ import annotations

from typing import Any, ClassVar

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor
from torch_fidelity.feature_extractor_base import FeatureExtractorBase

from dmq_cli.errors import EvaluationError
from dmq_cli.metrics.protocol import SIDES
from dmq_cli.metrics.weights import read_weights
from dmq_cli.models.digits_cnn import DigitsCNN
from dmq_cli.models.fashion_cnn import FashionCNN
from dmq_cli.store.tensors import check_finite


class DigitsFeatures(FeatureExtractorBase):  # type: ignore[misc]
    """digits_cnn: uint8 (B, 1 or 3, 16, 16) to features (B, 64) and logits (B, 10).

    Three channels must be equal: the digits are grey. Raises EvaluationError for other images,
    MissingWeightsError without the file, EvaluationError for a file that does not hold a DigitsCNN, NumericsError for
    NaN in it.
    """

    extractor: ClassVar[str] = "digits_cnn"
    network: ClassVar[type[DigitsCNN]] = DigitsCNN
    trained_with: ClassVar[str] = "ddim_digits"

    def __init__(
        self, name: str, features_list: list[str], feature_extractor_weights_path: str | None = None, **_: Any
    ) -> None:
        super().__init__(name, features_list)
        data, _sha256 = read_weights(self.extractor, feature_extractor_weights_path)
        with torch.device("meta"):  # draws no random numbers
            self.model = self.network()
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
                f"Extractor {self.extractor} was asked to read {feature_extractor_weights_path}, but that does not "
                f"hold a {self.network.__name__} ({str(error).splitlines()[0]}); make it again with: "
                f"dmq train model={self.trained_with}"
            ) from error
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The layers of `features_list`, in its order, of uint8 images (B, 1 or 3, H, W) that are grey; EvaluationError for others."""
        grey, (height, width) = images[:, :1], SIDES[self.extractor]
        if images.shape[2:] != (height, width) or not bool((images == grey).all()):
            raise EvaluationError(
                f"Extractor {self.extractor} reads grey images of {height}x{width} pixels, but found (C, H, W) = "
                f"{tuple(images.shape[1:])}, or channels that differ; choose the protocol of this model."
            )
        features, logits = self.model(grey.contiguous().float() / 127.5 - 1)
        by_name = {"features": features, "logits": logits}
        return tuple(by_name[name] for name in self.features_list)

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        """See torch-fidelity: the names of its layers."""
        return "features", "logits"

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        """See torch-fidelity: the layer that a metric reads."""
        return "logits" if metric == "isc" else "features"

    @staticmethod
    def can_be_compiled() -> bool:
        """See torch-fidelity: it cannot."""
        return False


class FashionFeatures(DigitsFeatures):
    """fashion_cnn: uint8 (B, 1 or 3, 32, 32) to features (B, 64) and logits (B, 10); otherwise as DigitsFeatures."""

    extractor = "fashion_cnn"
    network = FashionCNN
    trained_with = "ddim_fashion train.unet=null"
