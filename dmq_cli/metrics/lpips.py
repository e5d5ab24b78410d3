"""LPIPS (Zhang et al., CVPR 2018, 1801.03924), version 0.1 on AlexNet, by the authors' package `lpips`.

The package brings the weights of its linear layers and would download AlexNet's; here they come from a file the user names.
"""

from __future__ import annotations

import functools
import importlib.util
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dmq_cli.errors import ConfigError, EvaluationError
from dmq_cli.metrics.metric import DOWN, Shown
from dmq_cli.metrics.pairs import PairMetric, Pairwise
from dmq_cli.metrics.protocol import Protocol
from dmq_cli.metrics.weights import read_weights

_SMALLEST = 31  # pixels a side; below, AlexNet's pooling has nothing left


@dataclass(frozen=True)
class Lpips(PairMetric):
    """lpips >= 0 of every pair, then averaged, where protocol.lpips_path names torchvision's AlexNet."""

    name = "lpips"
    results = (Shown("lpips", "LPIPS to FP", DOWN, digits=3),)
    weights = "lpips"

    def files(self, protocol: Protocol) -> dict[str, str]:
        """Hash AlexNet's weights, where the protocol names them."""
        if protocol.lpips_path is None:
            return {}
        return {"lpips": read_weights("lpips", protocol.lpips_path, protocol.weights_sha256.get("lpips"))[1]}

    def pairwise(self, shape: Sequence[int], protocol: Protocol) -> Pairwise | None:
        """See PairMetric. Raises ConfigError without the package, MissingWeightsError without the file, EvaluationError for
        another file than torchvision's or for samples that AlexNet cannot read."""
        if protocol.lpips_path is None:
            return None
        network = _build(protocol.lpips_path, self.files(protocol)["lpips"])
        if len(shape) != 3 or min(shape[:2]) < _SMALLEST or shape[2] not in (1, 3):
            raise EvaluationError(
                f"LPIPS reads grey or RGB images of at least {_SMALLEST}x{_SMALLEST} pixels, but found {'x'.join(map(str, shape))};"
                " leave protocol.lpips_path out."
            )
        return functools.partial(_distance, network)


@torch.no_grad()
def _distance(network: Any, a: Tensor, b: Tensor) -> Tensor:
    pairs = (images.permute(0, 3, 1, 2).expand(-1, 3, -1, -1).float() / 127.5 - 1 for images in (a, b))
    distance: Tensor = network(*pairs)
    return distance.flatten().double()


@functools.lru_cache(maxsize=1)
def _build(path: str, _sha256: str) -> Any:
    package = _package()
    with torch.device("meta"), warnings.catch_warnings():  # draws no random numbers
        warnings.simplefilter("ignore", UserWarning)  # lpips calls torchvision by arguments of old
        network = package.LPIPS(net="alex", pretrained=False, pnet_rand=True, verbose=False)
    linear = Path(package.__file__).parent / "weights" / "v0.1" / "alex.pth"
    state = torch.load(linear, map_location="cpu", weights_only=True)
    state |= {name.replace("lin", "lins.", 1): value for name, value in state.items()}  # the same layers once more
    backbone = torch.load(io.BytesIO(read_weights("lpips", path)[0]), map_location="cpu", weights_only=True)
    for name in network.net.state_dict():  # slice2.3.weight is features.3.weight of torchvision
        state[f"net.{name}"] = backbone["features." + name.partition(".")[2]]
    network.load_state_dict({**network.scaling_layer.state_dict(prefix="scaling_layer."), **state}, assign=True)
    return network.eval().requires_grad_(False)


def _package() -> Any:
    if importlib.util.find_spec("lpips") is None:
        raise ConfigError(
            "protocol.lpips_path was given, but LPIPS needs the package lpips; install it with: pip install 'dmq-cli[lpips]'."
        )
    import lpips

    return lpips
