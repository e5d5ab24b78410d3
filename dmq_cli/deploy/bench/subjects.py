"""The forms of a network that are compared: PyTorch's own, OpenVINO's in floating point, and OpenVINO's own int8."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dmq_cli.deploy.bench.network import TimedNetwork
from dmq_cli.deploy.openvino import FILE, OpenVinoDenoiser, runtime, write_float
from dmq_cli.deploy.traced import input_names
from dmq_cli.errors import ConfigError
from dmq_cli.models import ModelDenoiser

FLOAT = "float"
"""The folder, below the network's, of its OpenVINO graph in full precision."""
_CALIBRATED = 32  # samples that NNCF's statistics are taken from
Call = Callable[[int, Tensor, Tensor, object], object]
"""One network call: number of the sampler's call, sample, timestep, condition."""


@dataclass(frozen=True)
class Callee:
    """A subject that can be called. bytes: of the files or tensors it runs from."""

    call: Call
    sample_shape: tuple[int, ...]
    blank_cond: Callable[[int], Mapping[str, Tensor] | None]
    bytes: int


class Subject(Protocol):
    """One form of a network."""

    @property
    def simulated(self) -> bool:
        """Whether its integers are simulated in floating point."""
        ...

    def check(self) -> None:
        """Raise ConfigError where what it runs with is not installed."""
        ...

    def prepare(self, network: TimedNetwork) -> None:
        """Write what it is loaded from into the network's folder, where that is not there."""
        ...

    def load(self, network: TimedNetwork) -> Callee:
        """Load it, to run with the network's threads."""
        ...


@dataclass(frozen=True)
class Eager:
    """The network in PyTorch, as it is or compiled by inductor. dtype: float32 or bfloat16."""

    dtype: str = "float32"
    compiled: bool = False
    simulated = False

    def check(self) -> None:
        """Needs nothing; raises nothing."""

    def prepare(self, network: TimedNetwork) -> None:
        """Writes nothing."""

    def load(self, network: TimedNetwork) -> Callee:
        """See Subject."""
        adapter = network.adapter()
        nn.Module.to(adapter.model, getattr(torch, self.dtype))  # diffusers' own warns of its return to float32
        if self.compiled:
            adapter.model.compile(dynamic=False)
        denoiser = ModelDenoiser(adapter)
        size = sum(tensor.numel() * tensor.element_size() for tensor in adapter.model.state_dict().values())
        return Callee(
            lambda _, *inputs: denoiser(*inputs),
            adapter.sample_shape(),
            lambda num: _in_dtype(adapter.blank_cond(num), getattr(torch, self.dtype)),
            size,
        )


def _in_dtype(cond: Mapping[str, Tensor] | None, dtype: torch.dtype) -> Mapping[str, Tensor] | None:
    """Embeddings of this type; labels stay integers."""
    return cond and {name: value.to(dtype) if value.is_floating_point() else value for name, value in cond.items()}


@dataclass(frozen=True)
class OpenVino:
    """The network in full precision as an OpenVINO graph. precision: f32 or bf16, what it computes in."""

    precision: str = "f32"
    simulated = False

    def check(self) -> None:
        """See Subject."""
        runtime()

    def prepare(self, network: TimedNetwork) -> None:
        """Convert the network, once for all subjects that need it."""
        folder = network.folder / FLOAT
        if not (folder / FILE).is_file():
            write_float(folder, network.adapter())

    def load(self, network: TimedNetwork) -> Callee:
        """See Subject."""
        return load_graph(network.folder / FLOAT, network, self.precision)


@dataclass(frozen=True)
class Nncf:
    """OpenVINO's own int8: post-training quantization by NNCF with the statistics of its own, from noise at all timesteps."""

    simulated = False

    def check(self) -> None:
        """See Subject."""
        runtime()
        if importlib.util.find_spec("nncf") is None:
            raise ConfigError(
                "The subject nncf was asked for, but the package nncf is not installed; run: pip install 'dmq-cli[nncf]'."
            )

    def prepare(self, network: TimedNetwork) -> None:
        """Quantize the graph in full precision."""
        import nncf  # type: ignore[import-not-found, unused-ignore]

        OpenVino().prepare(network)
        folder, openvino = network.folder / "nncf", runtime()
        model = openvino.Core().read_model(network.folder / FLOAT / FILE)
        rows = nncf.Dataset(_calibration(network))
        with contextlib.redirect_stdout(sys.stderr):  # its progress is no result
            quantized = nncf.quantize(model, rows, subset_size=_CALIBRATED)
        (folder / FILE).parent.mkdir(parents=True)
        openvino.save_model(quantized, folder / FILE, compress_to_fp16=False)

    def load(self, network: TimedNetwork) -> Callee:
        """See Subject."""
        return load_graph(network.folder / "nncf", network, "f32")


def _calibration(network: TimedNetwork) -> list[dict[str, Any]]:
    """Inputs of the graph, one sample each: noise at timesteps spread over those of sampling."""
    adapter = network.adapter()
    samples = network.sample(_CALIBRATED, adapter.sample_shape())
    cond = {name: value.numpy() for name, value in (adapter.blank_cond(1) or {}).items()}
    every = network.timesteps
    steps = [every[number * len(every) // _CALIBRATED] for number in range(_CALIBRATED)]
    names = input_names(adapter)
    return [
        {names[0]: samples[number : number + 1].numpy(), names[1]: torch.tensor([step]).numpy(), **cond}
        for number, step in enumerate(steps)
    ]


def load_graph(folder: Path, network: TimedNetwork, precision: str) -> Callee:
    """Load an OpenVINO graph as it samples. folder: that `openvino/` lies in."""
    denoiser = OpenVinoDenoiser(folder, network.prediction, network.threads, precision)
    size = size_of((folder / FILE).parent)
    return Callee(lambda _, *inputs: denoiser(*inputs), denoiser.sample_shape, denoiser.blank_cond, size)


def size_of(folder: Path) -> int:
    """The bytes of all files below a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
