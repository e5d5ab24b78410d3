"""What the sampling loop asks of a scheduler, and what a model's own schedule tells it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from dmq_cli.errors import ConfigError

if TYPE_CHECKING:
    from dmq_cli.sampling.ddim import DDIM

_SCHEDULE = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "rescale_betas_zero_snr",
)


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
    def config(self) -> Any: ...

    @property
    def init_noise_sigma(self) -> Any:
        """Standard deviation of the sampler's x before the first call, a number or 0-dim."""
        ...

    def fresh(self) -> Scheduler:
        """A scheduler before its first call, for one walk; self where a step leaves nothing behind."""
        ...

    def dense(self, num_inference_steps: int) -> DDIM:
        """DDIM on the same noise schedule with this many evenly spaced calls."""
        ...

    def scale_model_input(self, sample: Tensor, timestep: int) -> Tensor:
        """What the network reads: the sampler's x (B, C, H, W) times a factor that depends on the timestep alone."""
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


def trained(schedule: dict[str, Any]) -> dict[str, Any]:
    """What of a model's scheduler configuration belongs to the training: the noise schedule.

    Raises ConfigError for a model that predicts something else than the noise, or the variance too.
    """
    if (kind := schedule.get("prediction_type", "epsilon")) != "epsilon":
        raise ConfigError(
            f"The model was trained to predict {kind}; dmq samples models that predict epsilon, the noise."
        )
    if str(variance := schedule.get("variance_type")).startswith("learned"):
        raise ConfigError(
            f"The model was trained to predict its variance too (variance_type={variance}); dmq samples models that predict the noise alone."
        )
    return {name: schedule[name] for name in _SCHEDULE if name in schedule}
