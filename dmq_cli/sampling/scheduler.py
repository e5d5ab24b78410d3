"""The interface of a scheduler to the sampling loop, and the noise schedule it is made with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from dmq_cli.errors import ConfigError
from dmq_cli.models import PREDICTIONS, levels, noise_schedule
from dmq_cli.ops import CPU

if TYPE_CHECKING:
    from dmq_cli.sampling.ddim import DDIM


class Scheduler(Protocol):
    """One way from noise to images, call by call. config: diffusers' own record."""

    @property
    def timesteps(self) -> Tensor:
        """(S,) int64: one for each network call, in order; a timestep that is called twice is there twice."""
        ...

    @property
    def alphas_cumprod(self) -> Tensor:
        """abar of the training timesteps, (T,)."""
        ...

    @property
    def config(self) -> Any:
        """Diffusers' own record of its settings."""
        ...

    @property
    def init_noise_sigma(self) -> Any:
        """Standard deviation of the sampler's x before the first call, a number or 0-dim."""
        ...

    def fresh(self) -> Scheduler:
        """A scheduler before its first call, for one walk; self where steps keep no state."""
        ...

    def dense(self, num_inference_steps: int) -> DDIM:
        """DDIM on the same noise schedule with this many evenly spaced calls."""
        ...

    def scale_model_input(self, sample: Tensor, timestep: int) -> Tensor:
        """The network's input: the sampler's x (B, C, H, W) times a factor that depends on the timestep alone."""
        ...

    def step(
        self, model_output: Tensor, timestep: int, sample: Tensor, *, eta: float = 0.0, noise: Tensor | None = None,
        variance: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> Tensor:  # fmt: skip
        """The sampler's x at the next call, or the image after the last one.

        noise: like sample, needed for eta > 0. variance: (sigma, size of the estimate's coefficient) -> the sigma that is
        used; asked only by schedulers that can add noise.
        """
        ...


def on_device(scheduler: Scheduler, device: torch.device) -> Scheduler:
    """A scheduler for samples on a device: its `on(device)` where it has one, else itself.

    DDIM and PLMS then compute as on the CPU, to the last bit: a number of the CPU would be divided by through its inverse.
    """
    if device == CPU:
        return scheduler
    place: Callable[[torch.device], Scheduler] | None = getattr(scheduler, "on", None)
    return scheduler if place is None else place(device)


def trained(schedule: dict[str, Any]) -> dict[str, Any]:
    """Select the noise schedule, what belongs to training, from a model's scheduler configuration.

    What the network predicts is not part of it: a Denoiser returns the noise. Raises ConfigError for a model that predicts
    something else than PREDICTIONS, or the variance too.
    """
    if (kind := schedule.get("prediction_type", "epsilon")) not in PREDICTIONS:
        raise ConfigError(
            f"The model was trained to predict {kind}; dmq samples models that predict {', '.join(PREDICTIONS[:-1])} or"
            f" {PREDICTIONS[-1]}."
        )
    if str(variance := schedule.get("variance_type")).startswith("learned"):
        raise ConfigError(
            f"The model was trained to predict its variance too (variance_type={variance}); dmq samples models that predict the image or its noise alone."
        )
    return noise_schedule(schedule)


def filled(alphas_cumprod: Tensor, schedule: Mapping[str, Any]) -> Tensor:
    """Replace an abar of 0 (zero terminal SNR) by diffusers' smallest number, as the Denoiser of a network that does not
    predict the noise does; see models/prediction.py.
    """
    kind = schedule.get("prediction_type", "epsilon")
    return alphas_cumprod if kind == "epsilon" else levels(schedule).to(alphas_cumprod)
