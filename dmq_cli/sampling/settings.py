"""The settings of samplers: the records that conf/sampler/ fills, and the schedulers they make for a model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from dmq_cli.errors import ConfigError
from dmq_cli.sampling.ddim import DDIM, check_levels
from dmq_cli.sampling.scheduler import filled, trained
from dmq_cli.sampling.solvers import Solver
from dmq_cli.sampling.spacing import spaced


@dataclass(frozen=True)
class Sampler:
    """DDIM, or DDPM with eta 1. eta: 0 deterministic .. 1 ancestral; spacing and steps_offset: see `spaced`.

    set_alpha_to_one: end at the clean image; otherwise at the noise of timestep 0, as latent models do. posterior,
    fixed_stride: see DDIM, where they act on what is clipped and on where steps end.
    """

    num_inference_steps: int
    spacing: str = "uniform"
    eta: float = 0.0
    set_alpha_to_one: bool = True
    clip_sample: bool = False
    clip_sample_range: float = 1.0
    steps_offset: int = 0
    posterior: bool = False
    fixed_stride: bool = False

    name: ClassVar[str] = "ddim"
    reference: ClassVar[str] = "DDIMScheduler"

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ConfigError(f"sampler.eta={self.eta} is not possible; use 0 (deterministic) to 1 (ancestral).")
        if not 0 < self.clip_sample_range < math.inf:
            raise ConfigError(
                f"sampler.clip_sample_range={self.clip_sample_range} is not possible; give a number above 0."
            )
        if self.posterior and self.eta != 1:
            raise ConfigError(
                f"sampler.eta={self.eta} is not possible with sampler=ddpm, whose noise is that of eta 1; use sampler=ddim."
            )

    @property
    def calls(self) -> int:
        """Network calls of a trajectory, as asked for."""
        return self.num_inference_steps

    def scheduler(self, schedule: dict[str, Any]) -> DDIM:
        """The scheduler for a model trained with this noise schedule (a diffusers scheduler configuration).

        Raises ConfigError for a model that predicts the variance too, and what `spaced` raises.
        """
        clipping = {"clip_sample": self.clip_sample, "clip_sample_range": self.clip_sample_range}
        ddim = DDIM(**trained(schedule), **clipping, set_alpha_to_one=self.set_alpha_to_one)
        ddim.posterior = self.posterior
        ddim.alphas_cumprod = filled(ddim.alphas_cumprod, schedule)
        ddim.set_spacing(self.num_inference_steps, self.spacing, self.steps_offset, self.fixed_stride)
        return ddim


@dataclass(frozen=True)
class Deterministic:
    """The settings that all deterministic solvers share. eta: 0; the others as with Sampler.

    name: of its file in conf/sampler/; reference: diffusers' scheduler of its kind; without_zero: see `spaced`.
    Raises ConfigError for another eta.
    """

    num_inference_steps: int
    spacing: str = "linspace"
    eta: float = 0.0
    set_alpha_to_one: bool = True
    steps_offset: int = 0

    name: ClassVar[str]
    reference: ClassVar[str]
    solver: ClassVar[Any]
    per_step: ClassVar[int] = 1
    without_zero: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.eta != 0:
            raise ConfigError(
                f"sampler.eta={self.eta} is not possible with {type(self).__name__}, which adds no noise; use eta 0, or sampler=ddim."
            )

    @property
    def calls(self) -> int:
        """Network calls of a trajectory, as asked for."""
        return self.num_inference_steps * self.per_step

    def scheduler(self, schedule: dict[str, Any]) -> Solver:
        """See Sampler.scheduler. Raises ConfigError also for a schedule or a number of steps the solver cannot take."""
        training = trained(schedule)
        ddim = DDIM(**training, set_alpha_to_one=self.set_alpha_to_one, clip_sample=False)
        if training.pop("rescale_betas_zero_snr", False):  # not all of diffusers' solvers know it
            training["trained_betas"] = ddim.betas.tolist()
        inner = self.solver(**training, **self.options())
        inner.alphas_cumprod = ddim.alphas_cumprod = filled(inner.alphas_cumprod, schedule)
        visited = self.visited(int(inner.config.num_train_timesteps))
        check_levels(inner.alphas_cumprod, visited)
        self.place(inner, visited)
        return Solver(inner, ddim)

    def place(self, inner: Any, visited: list[int]) -> None:
        """Give the new scheduler its timesteps."""
        inner.place(visited)

    def options(self) -> dict[str, Any]:
        """Options of the scheduler besides the noise schedule."""
        return {"final_sigmas_type": "zero" if self.set_alpha_to_one else "sigma_min"}

    def visited(self, total: int) -> list[int]:
        """The timesteps of the calls, highest first, each once, of a model of `total`. Raises ConfigError."""
        return spaced(
            total, self.num_inference_steps, self.spacing, self.per_step, self.steps_offset, self.without_zero
        )
