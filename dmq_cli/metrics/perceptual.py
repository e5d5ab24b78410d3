"""LPIPS (Zhang et al., CVPR 2018, 1801.03924), version 0.1 on AlexNet, by the authors' package `lpips`.

The package brings the weights of its linear layers and would download AlexNet's; here they come from a file the user names.
"""

from __future__ import annotations

import functools
import importlib.util
import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dmq_cli.errors import ConfigError, EvaluationError
from dmq_cli.metrics.protocol import Protocol
from dmq_cli.metrics.weights import read_weights

Lpips = Callable[[Tensor, Tensor], Tensor]
"""Two sets of images, uint8 (B, 1 or 3, H, W), to the distance of every pair, (B,) float64."""

_SMALLEST = 31  # pixels a side; below, AlexNet's pooling has nothing left


def load_lpips(protocol: Protocol) -> Lpips:
    """LPIPS on the weights that the protocol names, built once per process.

    Raises ConfigError without the package, MissingWeightsError without the file, EvaluationError for another file than
    torchvision's or for images that are too small.
    """
    wanted = protocol.weights_sha256.get("lpips")
    _, sha256 = read_weights("lpips", protocol.lpips_path, wanted)
    network = _build(str(protocol.lpips_path), sha256)

    @torch.no_grad()
    def distance(a: Tensor, b: Tensor) -> Tensor:
        if min(a.shape[2:]) < _SMALLEST:
            raise EvaluationError(
                f"LPIPS reads images of at least {_SMALLEST}x{_SMALLEST} pixels, but found {a.shape[2]}x{a.shape[3]};"
                " leave protocol.lpips_path out."
            )
        found: Tensor = network(*(one.expand(-1, 3, -1, -1).float() / 127.5 - 1 for one in (a, b)))
        return found.flatten().double()

    return distance


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
