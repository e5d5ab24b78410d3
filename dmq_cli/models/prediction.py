"""From what a network predicts to the noise estimate, in which all samplers and corrections are written.

With x_t = sqrt(abar) x_0 + sqrt(1 - abar) eps:
epsilon: eps itself. v_prediction (Salimans and Ho, ICLR 2022, arXiv 2202.00512, appendix D): v = sqrt(abar) eps - sqrt(1 - abar) x_0,
so eps = sqrt(abar) v + sqrt(1 - abar) x_t. sample: x_0, so eps = (x_t - sqrt(abar) x_0) / sqrt(1 - abar).

At zero terminal SNR (abar = 0; Lin et al., WACV 2024, arXiv 2305.08891) eps is x_t whatever the network says, and x_0 would be
lost. There abar is taken to be 2^-24, as in diffusers' solvers; x_0 comes back from eps within 2^-12 of x_t in float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dmq_cli.errors import ModelError
from dmq_cli.models.schedule import PREDICTIONS, noise_schedule

LEAST = 2.0**-24
"""The value that replaces an abar of 0."""


@dataclass(frozen=True)
class Prediction:
    """The kind of a network's prediction, one of PREDICTIONS. alphas_cumprod: abar of the training timesteps, (T,), None for epsilon."""

    kind: str = "epsilon"
    alphas_cumprod: Tensor | None = None
    _moved: dict[torch.device, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    def noise(self, output: Tensor, sample: Tensor, timestep: Tensor) -> Tensor:
        """The noise estimate from the network's output, both (B, ...) like the sample. timestep: () or (B,), whole numbers.

        Raises ModelError for timesteps between those of training, where abar is unknown, unless the network predicts the noise.
        """
        if self.alphas_cumprod is None:
            return output
        abar = self._at(timestep, self.alphas_cumprod).to(sample).reshape(-1, *(1,) * (sample.dim() - 1))
        if self.kind == "v_prediction":
            return abar.sqrt() * output + (1 - abar).sqrt() * sample
        return (sample - abar.sqrt() * output) / (1 - abar).sqrt()

    def target(self, clean: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """What the network should predict for `clean` (B, ...) with this noise, in training: the noise, v or the sample itself."""
        if self.alphas_cumprod is None:
            return noise
        if self.kind == "sample":
            return clean
        abar = self._at(timestep, self.alphas_cumprod).to(clean).reshape(-1, *(1,) * (clean.dim() - 1))
        return abar.sqrt() * noise - (1 - abar).sqrt() * clean

    def _at(self, timestep: Tensor, alphas_cumprod: Tensor) -> Tensor:
        """abar at timesteps. alphas_cumprod: abar of the training timesteps, (T,)."""
        whole = timestep.to(torch.int64)
        if timestep.is_floating_point() and not bool((whole == timestep).all()):
            raise ModelError(
                f"The model predicts {self.kind}, which is the noise at timesteps of training only, and was asked for {timestep.tolist()};"
                " use whole timesteps."
            )
        if timestep.device not in self._moved:
            with torch.inference_mode(False):  # training may use it as well
                self._moved[timestep.device] = alphas_cumprod.to(timestep.device)
        return self._moved[timestep.device][whole]


NOISE = Prediction()
"""The Prediction of a network that predicts the noise itself."""


def prediction_of(schedule: Mapping[str, Any]) -> Prediction:
    """Read the kind of prediction from a noise schedule (a diffusers scheduler configuration). Raises ModelError for another kind."""
    kind = schedule.get("prediction_type", "epsilon")
    if kind not in PREDICTIONS:
        raise ModelError(
            f"The model's scheduler says prediction_type={kind}, which dmq does not know; it samples models that predict"
            f" {', '.join(PREDICTIONS[:-1])} or {PREDICTIONS[-1]}."
        )
    return NOISE if kind == "epsilon" else Prediction(kind, levels(schedule))


def levels(schedule: Mapping[str, Any]) -> Tensor:
    """abar of the training timesteps, (T,) float32; LEAST where nothing of the image is left."""
    from diffusers import DDIMScheduler  # seconds to import

    alphas_cumprod: Tensor = DDIMScheduler(**noise_schedule(schedule)).alphas_cumprod
    return alphas_cumprod.where(alphas_cumprod > 0, LEAST)
