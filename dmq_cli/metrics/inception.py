"""Inception v3 (Szegedy et al. 2016; TensorFlow's weights of 2015-12-05) and the spatial features of sFID.

The network is torch-fidelity's FeatureExtractorInceptionV3 without its constructor, which would download the
weights or unpickle them. sFID (Nash et al., ICML 2021, 2103.03841) is defined here as openai/guided-diffusion
computes it, evaluations/evaluator.py: the first 7 channels of TensorFlow's `mixed_6/conv:0`.
"""

from __future__ import annotations

import io
from typing import Any

import torch
from torch import Tensor, nn
from torch_fidelity import feature_extractor_inceptionv3 as inception
from torch_fidelity.feature_extractor_base import FeatureExtractorBase

from dmq_cli.metrics.protocol import SPATIAL
from dmq_cli.metrics.weights import read_weights

_SPATIAL_CHANNELS = 7


class InceptionFeatures(FeatureExtractorBase):  # type: ignore[misc]
    """torch-fidelity's Inception in float32: uint8 (B, 1 or 3, H, W) to its features, and `spatial` (B, 2023).

    Grey images are repeated to three channels. spatial: what the 1x1 convolution Mixed_6d.branch1x1.conv gives,
    before batch norm and ReLU, channels 0 to 6 of 192 at 17x17 places, flattened with the channels last as in
    TensorFlow. Raises MissingWeightsError without the file and EvaluationError if it is not the published one.
    """

    def __init__(
        self, name: str, features_list: list[str], feature_extractor_weights_path: str | None = None, **_: Any
    ) -> None:
        super().__init__(name, features_list)
        inception_layers = [layer for layer in features_list if layer != SPATIAL]
        self.network = _Network(name, inception_layers or ["2048"], feature_extractor_weights_path)
        self._spatial: list[Tensor] = []
        if SPATIAL in features_list:
            self.network.Mixed_6d.branch1x1.conv.register_forward_hook(self._keep)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The layers of `features_list`, in its order, of uint8 images (B, 1 or 3, H, W)."""
        self._spatial.clear()
        features = self.network(images.expand(-1, 3, -1, -1))
        by_layer = dict(zip(self.network.features_list, features, strict=True))
        if self._spatial:
            by_layer[SPATIAL] = self._spatial.pop()
        return tuple(by_layer[name] for name in self.features_list)

    def _keep(self, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
        self._spatial.append(output[:, :_SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1))

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        """See torch-fidelity: the names of its layers."""
        return (*inception.FeatureExtractorInceptionV3.get_provided_features_list(), SPATIAL)

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        """See torch-fidelity: the layer that a metric reads."""
        layer: str = inception.FeatureExtractorInceptionV3.get_default_feature_layer_for_metric(metric)
        return layer

    @staticmethod
    def can_be_compiled() -> bool:
        """See torch-fidelity: it cannot."""
        return False


class _Network(inception.FeatureExtractorInceptionV3):  # type: ignore[misc]
    """torch-fidelity's network, with the weights of a file that is read and checked by dmq."""

    def __init__(self, name: str, features_list: list[str], path: str | None) -> None:
        FeatureExtractorBase.__init__(self, name, features_list)
        self.feature_extractor_internal_dtype = torch.float32
        data, _sha256 = read_weights("inception-v3-compat", path)
        with torch.device("meta"):
            for layer, module in _layers().items():
                self.add_module(layer, module)
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        self.load_state_dict(state, assign=True)
        self.to(torch.float32).requires_grad_(False).eval()


def _layers() -> dict[str, nn.Module]:
    """The layers that FeatureExtractorInceptionV3 builds in its constructor, under the names its forward
    uses.
    """
    conv, pool = inception.BasicConv2d, nn.MaxPool2d
    return {
        "Conv2d_1a_3x3": conv(3, 32, kernel_size=3, stride=2),
        "Conv2d_2a_3x3": conv(32, 32, kernel_size=3),
        "Conv2d_2b_3x3": conv(32, 64, kernel_size=3, padding=1),
        "MaxPool_1": pool(kernel_size=3, stride=2),
        "Conv2d_3b_1x1": conv(64, 80, kernel_size=1),
        "Conv2d_4a_3x3": conv(80, 192, kernel_size=3),
        "MaxPool_2": pool(kernel_size=3, stride=2),
        "Mixed_5b": inception.InceptionA(192, pool_features=32),
        "Mixed_5c": inception.InceptionA(256, pool_features=64),
        "Mixed_5d": inception.InceptionA(288, pool_features=64),
        "Mixed_6a": inception.InceptionB(288),
        "Mixed_6b": inception.InceptionC(768, channels_7x7=128),
        "Mixed_6c": inception.InceptionC(768, channels_7x7=160),
        "Mixed_6d": inception.InceptionC(768, channels_7x7=160),
        "Mixed_6e": inception.InceptionC(768, channels_7x7=192),
        "Mixed_7a": inception.InceptionD(768),
        "Mixed_7b": inception.InceptionE_1(1280),
        "Mixed_7c": inception.InceptionE_2(2048),
        "AvgPool": nn.AdaptiveAvgPool2d(output_size=(1, 1)),
        "fc": nn.Linear(2048, 1008),
    }
