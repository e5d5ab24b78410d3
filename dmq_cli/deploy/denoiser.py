"""A deployed network as a Denoiser: what all backends have in common."""

from __future__ import annotations

import abc
from collections.abc import Mapping

from torch import Tensor

from dmq_cli.errors import ConfigError
from dmq_cli.models.prediction import Prediction


class DeployedDenoiser(abc.ABC):
    """A Denoiser whose network runs in integers, at one timestep a call."""

    def __init__(self, prediction: Prediction) -> None:
        """prediction: what the network predicts."""
        self.prediction = prediction

    @property
    @abc.abstractmethod
    def sample_shape(self) -> tuple[int, ...]:
        """The shape of one sample, (C, H, W)."""

    @abc.abstractmethod
    def blank_cond(self, num: int) -> Mapping[str, Tensor] | None:
        """A condition of zeros for num samples; None where the network reads none."""

    @abc.abstractmethod
    def run(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """The network's prediction. inputs: sample (B, C, H, W) float32, timestep (1,), and the tensors of the condition."""

    def __call__(self, sample: Tensor, timestep: Tensor, cond: object = None) -> Tensor:
        """See Denoiser. All samples of a call have one timestep; ConfigError otherwise."""
        times = timestep.reshape(-1)
        if len(times) > 1 and bool((times != times[0]).any()):
            raise ConfigError(
                "The deployed network runs at one timestep at a time; give all samples of a call the same."
            )
        inputs = {"sample": sample.float(), "timestep": times[:1], **(cond if isinstance(cond, Mapping) else {})}
        return self.prediction.noise(self.run(inputs).to(sample), sample, timestep)
