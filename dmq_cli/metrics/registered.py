"""Register dmq's feature extractors with torch-fidelity, which finds them by name. Importing torchvision takes seconds."""

from __future__ import annotations

from typing import Any

from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY, register_feature_extractor
from torch_fidelity.utils import create_feature_extractor

from dmq_cli.metrics.digits import DigitsFeatures, FashionFeatures
from dmq_cli.metrics.inception import InceptionFeatures
from dmq_cli.metrics.semantic import ClipFeatures, Dinov2Features

for _name, _class in (
    ("dmq-digits-cnn", DigitsFeatures),
    ("dmq-fashion-cnn", FashionFeatures),
    ("dmq-inception", InceptionFeatures),
    ("dmq-dinov2", Dinov2Features),
    ("dmq-clip", ClipFeatures),
):
    if _name not in FEATURE_EXTRACTORS_REGISTRY:
        register_feature_extractor(_name, _class)


def layer_for(registered: str, metric: str) -> str:
    """Name the layer of an extractor that torch-fidelity reads for one of its metrics, fid or isc."""
    return str(FEATURE_EXTRACTORS_REGISTRY[registered].get_default_feature_layer_for_metric(metric))


def build(registered: str, layers: tuple[str, ...], path: str) -> Any:
    """Build an extractor of these layers in evaluation mode, with the weights at `path`."""
    return create_feature_extractor(
        registered, list(layers), cuda=False, verbose=False, feature_extractor_weights_path=path
    )
