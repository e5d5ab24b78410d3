"""Images and protocols that the tests of the evaluator share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch_fidelity import feature_extractor_inceptionv3 as theirs

from dmq_cli.metrics import Images, Measurement, Protocol, Reference, Sample, measure
from dmq_cli.metrics.fidelity import compare
from dmq_cli.metrics.shown import classes

PAIRED = ("psnr", "ssim", "lpips")
SHIPPED = "package:zoo/weights/digits_cnn/model.safetensors"


def protocol(*, metrics: tuple[str, ...] = ("fd", "is", "kid", "prc", *PAIRED), **changes: Any) -> Protocol:
    """The embedded protocol, small; every field can be changed, and options of metrics as in kid={"subsets": 3}."""
    options = {name: changes.pop(name, {}) for name in metrics}
    options["kid"] = {"subset_size": 100, "subsets": 20, **options.get("kid", {})}
    fields: dict[str, Any] = {
        "name": "digits",
        "extractor": "digits_cnn",
        "extractor_path": SHIPPED,
        "extractor_sha256": None,
        "reference": "digits",
        "reference_path": None,
        "to_uint8": "edm",
        "num_images": 300,
        "metrics": {name: classes()[name](**options[name]) for name in metrics},
        "columns": {"fd": "FD-digits", "is": "IS-digits"},
    }
    return Protocol(**{**fields, **changes})


def measured(
    features: Mapping[str, Tensor], reference: Mapping[str, Tensor] | Reference, plan: Protocol, asked: Any = None
) -> Measurement:
    """What a protocol's metrics find in features."""
    known = reference if isinstance(reference, Reference) else Reference("real", "", features=reference)
    return measure(Sample(features, asked), known, plan)


def paired(images: Images, twins: Images, plan: Protocol | None = None) -> Measurement:
    """What the metrics of pairs find in two sets of images, pixel by pixel."""
    return compare(Sample(pixels=images), twins, plan or protocol(metrics=PAIRED))


def digits(start: int, stop: int) -> np.ndarray[Any, Any]:
    """Real digits as uint8 (N, 16, 16, 1), in a fixed random order."""
    from dmq_cli.zoo.digits import digit_images

    images = digit_images()[0]
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(3))
    return images[order[start:stop]].permute(0, 2, 3, 1).contiguous().numpy()


def noisy(images: np.ndarray[Any, Any], sigma: float) -> np.ndarray[Any, Any]:
    """Images with Gaussian noise of `sigma` grey levels, uint8 again."""
    noise = np.random.default_rng(0).normal(0, sigma, images.shape)
    worse: np.ndarray[Any, Any] = (images + noise).round().clip(0, 255).astype(np.uint8)
    return worse


class ImageSet(torch.utils.data.Dataset[Tensor]):
    """uint8 (N, H, W, C) as the channels-first dataset that torch-fidelity reads."""

    def __init__(self, images: np.ndarray[Any, Any]) -> None:
        self.images = torch.from_numpy(images).permute(0, 3, 1, 2)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]


def inception_state() -> dict[str, Tensor]:
    """Random weights of Inception's shapes, from torch-fidelity's constructor run without memory."""
    with torch.device("meta"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(theirs, "load_state_dict_from_url", lambda *args, **kwargs: {})
        patch.setattr(theirs.FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        shapes = theirs.FeatureExtractorInceptionV3("x", ["2048"]).state_dict()
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.ones(value.shape)
        if name.endswith("running_var")
        else torch.zeros((), dtype=torch.int64)
        if name.endswith("num_batches_tracked")
        else torch.randn(value.shape, generator=generator) * 0.05
        for name, value in shapes.items()
    }
