"""PyTorch: the network as it is, with oneDNN's int8 kernels in place of its convolutions and linear layers.

The exported folder is the packed one; integers are cut for the processor (lower.py) and laid out for its kernels when it is loaded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dmq_cli.deploy.denoiser import DeployedDenoiser
from dmq_cli.deploy.folder import read_network
from dmq_cli.deploy.lower import Lowered, lower
from dmq_cli.deploy.onednn import OnednnPiece
from dmq_cli.deploy.processor import weight_limit
from dmq_cli.errors import ConfigError
from dmq_cli.models import NOISE, Prediction
from dmq_cli.models.folder import tokens_of
from dmq_cli.models.parts import network_folder

_INTEGER = ("onednn::qconv_pointwise", "onednn::qlinear_pointwise")
_FLOATING = ("aten::convolution", "aten::addmm", "aten::mm")


def runtime() -> None:
    """Raise ConfigError for a PyTorch without oneDNN's kernels."""
    known = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not known or not hasattr(torch.ops.onednn, "qconv_pointwise"):
        raise ConfigError(
            "PyTorch was asked for int8, but this build of it has no int8 kernels of oneDNN; install one for x86, or use backend=onnx."
        )


class PytorchDenoiser(DeployedDenoiser):
    """The network with those kernels as a Denoiser."""

    def __init__(self, lowered: Lowered, prediction: Prediction) -> None:
        """lowered: with OnednnPiece; prediction: what the network predicts."""
        super().__init__(prediction)
        self.attached = lowered.attached

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """See DeployedDenoiser."""
        return self.attached.adapter.sample_shape()

    def blank_cond(self, num: int) -> Mapping[str, Tensor] | None:
        """See DeployedDenoiser."""
        return self.attached.adapter.blank_cond(num)

    @torch.no_grad()
    def run(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """See DeployedDenoiser."""
        cond = {name: value for name, value in inputs.items() if name not in ("sample", "timestep")}
        with self.attached.at(inputs["timestep"]):
            return self.attached.adapter.predict(inputs["sample"], inputs["timestep"], cond or None)


def denoiser(folder: Path, prediction: Prediction, threads: int | None = None) -> PytorchDenoiser:
    """Load a packed folder. threads: of the whole process in PyTorch, so they are set elsewhere."""
    runtime()
    network = read_network(network_folder(folder), tokens_of(folder))
    return PytorchDenoiser(lower(network, weight_limit(), OnednnPiece), prediction)


def product_counts(folder: Path) -> tuple[int, int]:
    """Count the products with weights of one call: in integers, and all."""
    deployed = denoiser(folder, NOISE)
    cond = deployed.attached.adapter.blank_cond(1)
    with _Calls() as calls:
        deployed(torch.zeros(1, *deployed.sample_shape), deployed.attached.grid.timesteps[:1], cond)
    integer = sum(calls.counts[name] for name in _INTEGER)
    return integer, integer + sum(calls.counts[name] for name in _FLOATING)


class _Calls(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operators that run inside of it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[func._schema.name] += 1
        return func(*args, **(kwargs or {}))
