"""Feature extractors that torch-fidelity finds by name and that read their weights from files the user
names.

`dmq-digits-cnn` is the embedded protocol's. `dmq-inception` is torch-fidelity's FeatureExtractorInceptionV3
(Szegedy et al. 2016; TensorFlow's weights of 2015-12-05) without its constructor, which would download the
weights or unpickle them.
"""

from __future__ import annotations

import functools
import io
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch_fidelity import feature_extractor_inceptionv3 as inception
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY, register_feature_extractor
from torch_fidelity.utils import create_feature_extractor

from dmq_cli.errors import EvaluationError
from dmq_cli.metrics.protocol import EXTRACTORS, Protocol
from dmq_cli.metrics.weights import read_weights
from dmq_cli.models.digits_cnn import DigitsCNN
from dmq_cli.paths import resolve

Images = np.ndarray[Any, Any] | Tensor
"""uint8 (N, H, W, C) with 1 or 3 channels."""


class DigitsFeatures(FeatureExtractorBase):  # type: ignore[misc]
    """digits_cnn behind torch-fidelity's interface: uint8 (B, 1 or 3, 16, 16) to features (B, 64) and
    logits (B, 10).

    Three channels must be equal: the digits are grey. Raises EvaluationError for other images,
    MissingWeightsError without the file, EvaluationError for a file that does not hold a DigitsCNN.
    """

    def __init__(
        self, name: str, features_list: list[str], feature_extractor_weights_path: str | None = None, **_: Any
    ) -> None:
        super().__init__(name, features_list)
        data, _sha256 = read_weights("digits_cnn", feature_extractor_weights_path)
        with torch.device("meta"):  # draws no random numbers
            self.model = DigitsCNN()
        try:
            self.model.load_state_dict(safetensors.torch.load(data), assign=True)
        except (SafetensorError, RuntimeError) as error:
            raise EvaluationError(
                f"Extractor digits_cnn was asked to read {feature_extractor_weights_path}, but that does not "
                f"hold a DigitsCNN ({str(error).splitlines()[0]}); make it again with: "
                "dmq train model=ddim_digits"
            ) from error
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        grey = images[:, :1]
        if images.shape[2:] != (16, 16) or not bool((images == grey).all()):
            raise EvaluationError(
                "Extractor digits_cnn reads grey images of 16x16 pixels, but found (C, H, W) = "
                f"{tuple(images.shape[1:])}, or channels that differ; choose the protocol of this model."
            )
        features, logits = self.model(grey.contiguous().float() / 127.5 - 1)
        found = {"features": features, "logits": logits}
        return tuple(found[name] for name in self.features_list)

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return "features", "logits"

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return "logits" if metric == "isc" else "features"

    @staticmethod
    def can_be_compiled() -> bool:
        return False


class InceptionFeatures(inception.FeatureExtractorInceptionV3):  # type: ignore[misc]
    """torch-fidelity's Inception in float32, uint8 (B, 1 or 3, H, W) in; grey images are repeated to three
    channels.

    Raises MissingWeightsError without the file and EvaluationError if it is not the published one.
    """

    def __init__(
        self, name: str, features_list: list[str], feature_extractor_weights_path: str | None = None, **_: Any
    ) -> None:
        FeatureExtractorBase.__init__(self, name, features_list)
        self.feature_extractor_internal_dtype = torch.float32
        data, _sha256 = read_weights("inception-v3-compat", feature_extractor_weights_path)
        with torch.device("meta"):
            for layer, module in _inception_layers().items():
                self.add_module(layer, module)
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        self.load_state_dict(state, assign=True)
        self.to(torch.float32).requires_grad_(False).eval()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        features: tuple[Tensor, ...] = super().forward(images.expand(-1, 3, -1, -1))
        return features


def extractor_sha256(protocol: Protocol) -> str:
    """The sha256 of the weights a protocol uses, checked against the one it asks for. Errors as in
    `read_weights`.
    """
    return read_weights(protocol.extractor, protocol.extractor_path, protocol.extractor_sha256)[1]


def load_extractor(protocol: Protocol) -> Any:
    """The torch-fidelity extractor of a protocol in evaluation mode, weights checked, built once per
    process.

    It gives what the Fréchet distance reads, then what the inception score reads. Errors as in
    `read_weights`.
    """
    return _build(EXTRACTORS[protocol.extractor], str(resolve(protocol.extractor_path)), extractor_sha256(protocol))


@torch.no_grad()
def extract(images: Images, protocol: Protocol, batch_size: int = 250) -> dict[str, Tensor]:
    """Features of images: {"features": (N, D), "logits": (N, classes)}, float32 on the CPU.

    images: uint8 (N, H, W, 1 or 3). The batch size changes nothing beyond the rounding of float32. Raises
    EvaluationError for images of another kind; errors of weights as in `read_weights`.
    """
    pixels, extractor = _channels_first(images), load_extractor(protocol)
    pieces = [extractor(_resized(batch, protocol.resize)) for batch in torch.split(pixels, batch_size)]
    features, logits = (torch.cat(piece) for piece in zip(*pieces, strict=True))
    return {"features": features, "logits": logits}


def as_tensor(images: Images) -> Tensor:
    """The same images on the CPU in row-major order, copied only if read-only or in another order."""
    if isinstance(images, np.ndarray):
        return torch.from_numpy(np.require(images, requirements=["C", "W"]))
    return images.cpu().contiguous()


def _channels_first(images: Images) -> Tensor:
    pixels = as_tensor(images)
    if pixels.dtype != torch.uint8 or pixels.dim() != 4 or pixels.shape[3] not in (1, 3) or len(pixels) == 0:
        raise EvaluationError(
            "Images to evaluate must be uint8 (N, H, W, 1 or 3), but found "
            f"{str(pixels.dtype).removeprefix('torch.')} {tuple(pixels.shape)}; convert them with to_uint8 "
            "and put the channels last."
        )
    return pixels.permute(0, 3, 1, 2)


def _resized(pixels: Tensor, side: int | None) -> Tensor:
    """Mean of every square of pixels, float (B, C, side, side); unchanged where side is None."""
    return pixels if side is None else nn.functional.interpolate(pixels.float(), (side, side), mode="area")


@functools.lru_cache(maxsize=2)
def _build(registered: str, path: str, _sha256: str) -> Any:
    layer = FEATURE_EXTRACTORS_REGISTRY[registered].get_default_feature_layer_for_metric
    return create_feature_extractor(
        registered,
        [layer("fid"), layer("isc")],
        cuda=False,
        verbose=False,
        feature_extractor_weights_path=path,
    )


def _inception_layers() -> dict[str, nn.Module]:
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


for _name, _class in (("dmq-digits-cnn", DigitsFeatures), ("dmq-inception", InceptionFeatures)):
    if _name not in FEATURE_EXTRACTORS_REGISTRY:
        register_feature_extractor(_name, _class)
