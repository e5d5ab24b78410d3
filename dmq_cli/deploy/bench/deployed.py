"""The quantized network with its correction: in integers, as `dmq export format=openvino` writes it, or simulated."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dmq_cli.deploy.bench.network import TimedNetwork
from dmq_cli.deploy.bench.subjects import Callee, load_graph
from dmq_cli.deploy.folder import read_network
from dmq_cli.deploy.openvino import runtime
from dmq_cli.models import model_shapes
from dmq_cli.models.parts import network_folder
from dmq_cli.obtain import WEIGHTS
from dmq_cli.sampling import Correction
from dmq_cli.store.tensors import load_tensors
from dmq_cli.wrap import QuantDenoiser

TABLES = "correction/tables.safetensors"


@dataclass(frozen=True)
class Deployed:
    """words: of the command line, by which it differs from the configuration of the benchmark; format: of its export, openvino for
    integers or diffusers for simulated ones.

    folder: of the export; correct: a correction method, that loads the tables from there. Both are known once it was exported.
    """

    words: tuple[str, ...] | list[str] = ()
    format: str = "openvino"
    folder: Path | None = None
    correct: Any = None

    @property
    def simulated(self) -> bool:
        """See Subject."""
        return self.format != "openvino"

    def exported(self, folder: Path, correct: Any) -> Deployed:
        """The same subject, when its export is there."""
        return replace(self, folder=folder, correct=correct)

    def check(self) -> None:
        """See Subject."""
        if not self.simulated:
            runtime()

    def prepare(self, network: TimedNetwork) -> None:
        """It was exported before."""

    def load(self, network: TimedNetwork) -> Callee:
        """See Subject."""
        if self.folder is None:
            raise ValueError("a deployed network is loaded after it was exported")
        loaded = _simulated(self.folder, network) if self.simulated else load_graph(self.folder, network, "f32")
        correction: Correction | None = self.correct.load(load_tensors(self.folder / TABLES))
        return loaded if correction is None else self._corrected(loaded, correction)

    def _corrected(self, loaded: Callee, correction: Correction) -> Callee:
        """With the correction around the call; under guidance it sees both halves of the estimate side by side."""
        halves = 2 if getattr(self.correct, "target", None) in ("uncond", "both") else 1

        def call(number: int, sample: Tensor, timestep: Tensor, cond: object) -> Tensor:
            eps: Any = loaded.call(number, correction.pre(sample, number), timestep, cond)
            return correction.post(torch.cat([eps] * halves, 1) if halves > 1 else eps, number)

        size = (Path(str(self.folder)) / TABLES).stat().st_size
        return replace(loaded, call=call, bytes=loaded.bytes + size)


def _simulated(folder: Path, network: TimedNetwork) -> Callee:
    """Load a packed export."""
    place = network_folder(folder)
    attached = read_network(place, getattr(model_shapes(network.model), "tokens", 1))
    denoiser = QuantDenoiser(attached)
    return Callee(
        lambda _, *inputs: denoiser(*inputs),
        attached.adapter.sample_shape(),
        attached.adapter.blank_cond,
        (place / WEIGHTS).stat().st_size,
    )
