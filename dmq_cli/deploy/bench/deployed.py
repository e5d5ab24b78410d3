"""The quantized network with its correction: in integers, as `dmq export` writes it for a backend, or simulated."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dmq_cli.deploy.backends import BACKENDS, graph_backend
from dmq_cli.deploy.bench.network import TimedNetwork
from dmq_cli.deploy.bench.subjects import Callee, size_of
from dmq_cli.deploy.folder import CORRECTION, read_network
from dmq_cli.errors import ConfigError, nearest
from dmq_cli.models import model_shapes
from dmq_cli.models.parts import network_folder
from dmq_cli.obtain import WEIGHTS
from dmq_cli.sampling import Correction
from dmq_cli.store.tensors import load_tensors
from dmq_cli.wrap import QuantDenoiser

_SIMULATED = "diffusers"


@dataclass(frozen=True)
class Deployed:
    """words: of the command line, by which it differs from the configuration of the benchmark; format: of its export, a backend's for
    integers or diffusers for simulated ones. ConfigError for another.

    folder: of the export; correct: a correction method, that loads the tables from there. Both are known once it was exported.
    """

    words: tuple[str, ...] | list[str] = ()
    format: str = "openvino"
    folder: Path | None = None
    correct: Any = None

    def __post_init__(self) -> None:
        if self.format not in (formats := (_SIMULATED, *BACKENDS)):
            raise ConfigError(
                f"A subject was given format={self.format}, which is not known; use {' or '.join(formats)}.{nearest(str(self.format), formats)}"
            )

    @property
    def simulated(self) -> bool:
        """See Subject."""
        return self.format == _SIMULATED

    def exported(self, folder: Path, correct: Any) -> Deployed:
        """The same subject, when its export is there."""
        return replace(self, folder=folder, correct=correct)

    def check(self) -> None:
        """See Subject."""
        if not self.simulated:
            BACKENDS[self.format].runtime()

    def prepare(self, network: TimedNetwork) -> None:
        """It was exported before."""

    def load(self, network: TimedNetwork) -> Callee:
        """See Subject."""
        if self.folder is None:
            raise ValueError("a deployed network is loaded after it was exported")
        loaded = _simulated(self.folder, network) if self.simulated else self._in_integers(self.folder, network)
        correction: Correction | None = self.correct.load(load_tensors(self.folder / CORRECTION))
        return loaded if correction is None else self._corrected(loaded, correction)

    def _in_integers(self, folder: Path, network: TimedNetwork) -> Callee:
        denoiser = BACKENDS[self.format].denoiser(folder, network.prediction, network.threads)
        place = network_folder(folder) if graph_backend(self.format) is None else folder / self.format
        return Callee(lambda _, *inputs: denoiser(*inputs), denoiser.sample_shape, denoiser.blank_cond, size_of(place))

    def _corrected(self, loaded: Callee, correction: Correction) -> Callee:
        """With the correction around the call; under guidance it sees both halves of the estimate side by side."""
        halves = 2 if getattr(self.correct, "target", None) in ("uncond", "both") else 1

        def call(number: int, sample: Tensor, timestep: Tensor, cond: object) -> Tensor:
            eps: Any = loaded.call(number, correction.pre(sample, number), timestep, cond)
            return correction.post(torch.cat([eps] * halves, 1) if halves > 1 else eps, number)

        size = (Path(str(self.folder)) / CORRECTION).stat().st_size
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
