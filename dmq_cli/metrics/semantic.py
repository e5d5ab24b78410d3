"""Features of DINOv2 and CLIP, from folders in transformers' layout. torch-fidelity's own want torch.hub or TorchScript.

`dmq-dinov2`: FD-DINOv2 (Stein et al., NeurIPS 2023, 2306.04675) by the convention of their dgm-eval: images resized to
224x224 by Pillow's bicubic filter, as 8-bit pixels, ImageNet's mean and deviation, the class token after the last norm.
Position embeddings are interpolated as in facebookresearch/dinov2 of torch.hub, by a factor and not to a size as in
transformers, because the published numbers come from there.

`dmq-clip`: embeddings of images and of prompts (Radford et al., ICML 2021, 2103.00020). Images are prepared as in openai/CLIP:
shorter side by Pillow's bicubic filter, centre crop.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch_fidelity.feature_extractor_base import FeatureExtractorBase

from dmq_cli.errors import ConfigError, EvaluationError, ModelError
from dmq_cli.metrics.weights import find_folder
from dmq_cli.store.tensors import check_finite

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_SIDE = 224
_HUB_OFFSET = 0.1  # of the factor by which torch.hub's DINOv2 interpolates its position embeddings
_log = logging.getLogger("dmq")
_Resize = Callable[[Image.Image], Image.Image]


class Dinov2Features(FeatureExtractorBase):  # type: ignore[misc]
    """DINOv2: uint8 (B, 1 or 3, H, W) to features (B, D) float32. Weights: a folder of transformers' Dinov2Model.

    Raises MissingWeightsError without it, ModelError if it cannot be read, ConfigError without transformers.
    """

    def __init__(
        self, name: str, features_list: list[str], feature_extractor_weights_path: str | None = None, **_: Any
    ) -> None:
        super().__init__(name, features_list)
        self.model = _model("Dinov2Model", find_folder("dinov2", feature_extractor_weights_path)[0])
        self.model.embeddings.position_embeddings = nn.Parameter(self._positions(), requires_grad=False)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The class token (B, D) of uint8 images (B, 1 or 3, H, W)."""
        pixels = _prepared(images, lambda image: image.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC), *_IMAGENET)
        return (self.model(pixels).pooler_output,)

    def _positions(self) -> Tensor:
        """Position embeddings (1, 1 + patches, D) for 224x224 pixels, as torch.hub's network interpolates them."""
        embeddings: Tensor = self.model.embeddings.position_embeddings.detach()
        side, needed_side = math.isqrt(embeddings.shape[1] - 1), _SIDE // int(self.model.config.patch_size)
        if side == needed_side:
            return embeddings
        factor = (needed_side + _HUB_OFFSET) / side
        patches = embeddings[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
        patches = nn.functional.interpolate(patches, scale_factor=(factor, factor), mode="bicubic")
        return torch.cat([embeddings[:, :1], patches.flatten(2).transpose(1, 2)], 1)

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        """See torch-fidelity: the names of its layers."""
        return ("dinov2",)

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        """See torch-fidelity: the layer that a metric reads."""
        return "dinov2"

    @staticmethod
    def can_be_compiled() -> bool:
        """See torch-fidelity: it cannot."""
        return False


class ClipFeatures(FeatureExtractorBase):  # type: ignore[misc]
    """CLIP: uint8 (B, 1 or 3, H, W) to embeddings (B, D) of length 1, float32. Weights: a folder of transformers'
    CLIPModel with its tokenizer.

    Raises MissingWeightsError without it, ModelError if it cannot be read, NumericsError for NaN in it, ConfigError without transformers.
    """

    def __init__(
        self, name: str, features_list: list[str], feature_extractor_weights_path: str | None = None, **_: Any
    ) -> None:
        super().__init__(name, features_list)
        folder, _sha256 = find_folder("clip", feature_extractor_weights_path)
        self.model, self.tokenizer = _model("CLIPModel", folder), _tokenizer(folder)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Embeddings (B, D) of length 1 of uint8 images (B, 1 or 3, H, W)."""
        side = int(self.model.config.vision_config.image_size)
        pixels = _prepared(images, lambda image: _centre(image, side), *_CLIP)
        embeddings = self.model.visual_projection(self.model.vision_model(pixels).pooler_output)
        return (nn.functional.normalize(embeddings),)

    def too_long(self, prompts: Sequence[str]) -> int:
        """Count the prompts that are longer than the text encoder reads."""
        length = int(self.model.config.text_config.max_position_embeddings)
        return sum(len(tokens) > length for tokens in self.tokenizer(list(prompts), verbose=False).input_ids)

    def texts(self, prompts: Sequence[str]) -> Tensor:
        """Embed prompts, (N, D) of length 1, on the CPU; longer ones than the text encoder reads are cut off."""
        length = int(self.model.config.text_config.max_position_embeddings)
        tokens = self.tokenizer(
            list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        )
        tokens = tokens.to(self.model.device)
        read = self.model.text_model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)
        return nn.functional.normalize(self.model.text_projection(read.pooler_output)).cpu()

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        """See torch-fidelity: the names of its layers."""
        return ("clip",)

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        """See torch-fidelity: the layer that a metric reads."""
        return "clip"

    @staticmethod
    def can_be_compiled() -> bool:
        """See torch-fidelity: it cannot."""
        return False


@torch.no_grad()
def clip_texts(extractor: ClipFeatures, prompts: Sequence[str], images: int) -> Tensor:
    """Embed the prompt of each of N images, (N, D) of length 1. prompts: N.

    Prompts that are longer than CLIP reads are cut off, with a warning. Raises EvaluationError for another number of prompts, or
    for class numbers in their place.
    """
    if len(prompts) != images:
        raise EvaluationError(
            f"The CLIP score compares each image with its prompt, but found {images} images and {len(prompts)} prompts;"
            " sample them again."
        )
    if any(prompt.isdigit() for prompt in prompts):
        raise EvaluationError(
            "The CLIP score compares images with prompts, but this model was given class numbers; take it away with"
            " protocol.metrics.clip_score=null."
        )
    different = sorted(set(prompts))
    if cut := extractor.too_long(different):
        _log.warning(
            "CLIP reads only the beginning of %d of %d prompts: they are too long for it.", cut, len(different)
        )
    batches = [different[start : start + 100] for start in range(0, len(different), 100)]
    texts = torch.cat([extractor.texts(batch) for batch in batches])
    place = {text: number for number, text in enumerate(different)}
    return texts[torch.tensor([place[prompt] for prompt in prompts])]


def _prepared(images: Tensor, resize: _Resize, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Prepare uint8 (B, 1 or 3, H, W) for the network: resized as 8-bit pixels, then normalized."""
    pixels = images.cpu().expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().numpy()
    resized = np.stack([np.asarray(resize(Image.fromarray(array))) for array in pixels])
    scaled = torch.from_numpy(resized).permute(0, 3, 1, 2).float() / 255
    normal = (scaled - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    return normal.to(images.device)


def _centre(image: Image.Image, side: int) -> Image.Image:
    """Resize the shorter side to `side`, then crop the square in the middle, as torchvision does."""
    width, height = (int(side * length / min(image.size)) for length in image.size)
    x, y = round((width - side) / 2), round((height - side) / 2)
    return image.resize((width, height), Image.Resampling.BICUBIC).crop((x, y, x + side, y + side))


def _model(kind: str, folder: Path) -> Any:
    """Load the network of a folder, in float32, from safetensors; every tensor must have its values."""
    package = _transformers()
    try:
        model, report = getattr(package, kind).from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    except Exception as error:  # transformers and safetensors raise many kinds
        raise ModelError(
            f"The {kind} in {folder} could not be read ({_first(error)}); copy the folder again."
        ) from error
    if missing := sorted(report["missing_keys"]):
        raise ModelError(
            f"The {kind} in {folder} has no values for {len(missing)} of its tensors (first: {missing[0]}); copy the folder again."
        )
    check_finite(model.state_dict(), f"The {kind} in {folder}")
    return model.eval().requires_grad_(False)


def _tokenizer(folder: Path) -> Any:
    try:
        return _transformers().CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers and tokenizers raise many kinds
        raise ModelError(
            f"The tokenizer in {folder} could not be read ({_first(error)}); copy the folder again."
        ) from error


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ConfigError(
            "DINOv2 and CLIP need the package transformers; install it with: pip install 'dmq-cli[text]'."
        ) from error
    transformers.utils.logging.disable_progress_bar()  # it would draw over dmq's own
    return transformers


def _first(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
