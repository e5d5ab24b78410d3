"""DDIM with any list of timesteps; with eta 1, DDPM.

Song, Meng, Ermon: Denoising Diffusion Implicit Models, ICLR 2021 (arXiv 2010.02502), eq. 12 and 16. diffusers' scheduler
has no quadratic spacing and takes the previous timestep to be a fixed stride away; here it is looked up in the list.

Ho, Jain, Abbeel: Denoising Diffusion Probabilistic Models, NeurIPS 2020 (arXiv 2006.11239), eq. 6-7: with eta 1, eq. 12 is the
posterior q(x_{t-1} | x_t, x_0) with the small variance, on any list of timesteps. Clipped they differ: DDIM's code keeps the
estimate in the direction, DDPM's takes the posterior's mean from the clipped x_0 and x_t, which `posterior` does. DDPM's large
variance (beta_t) and learned ones are not here.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from dmq_cli.errors import ConfigError
from dmq_cli.sampling.spacing import spaced


def ends(visited: list[int], stride: int | None) -> list[int]:
    """The timestep at which the step from each timestep ends: the next of the list, or `stride` below; -1: past timestep 0."""
    return [*visited[1:], -1] if stride is None else [max(timestep - stride, -1) for timestep in visited]


def check_levels(alphas_cumprod: Tensor, visited: list[int]) -> None:
    """Raise ConfigError if nothing of the image is left at a timestep (abar = 0), where x_0 does not follow from the noise.

    alphas_cumprod: (T,); visited: the timesteps, highest first.
    """
    empty = [timestep for timestep in visited if not float(alphas_cumprod[timestep]) > 0]
    if empty:
        raise ConfigError(
            f"The sampler visits timestep {empty[-1]}, where the model's noise schedule leaves nothing of the image (zero"
            " terminal SNR), so that a noise prediction does not determine it; choose another sampler.spacing, such as uniform."
        )


def levels_on(scheduler: Any, device: torch.device) -> None:
    """Move the noise levels of one of diffusers' schedulers, from which its steps are computed by arithmetic and square roots."""
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.to(device)
    scheduler.final_alpha_cumprod = scheduler.final_alpha_cumprod.to(device)


class DDIM(DDIMScheduler):  # type: ignore[misc]
    """diffusers' DDIM scheduler with the spacings of spacing.py, taking noise estimates. A Scheduler.

    posterior: a clipped x_0 changes the direction, too, as in DDPM's posterior mean.
    """

    posterior = False

    def set_spacing(self, num_inference_steps: int, spacing: str, offset: int = 0, fixed_stride: bool = False) -> None:
        """Choose the timesteps, highest first; `self.timesteps` and `self.previous` hold them and where their steps end.

        A step from t to t changes nothing at eta 0, so the timesteps that `quad` repeats are left out. fixed_stride: a step
        ends T // S below its timestep, as diffusers' does, not at the next of the list. Raises what `spaced` raises, and
        ConfigError for a timestep at which nothing of the image is left.
        """
        total = int(self.config.num_train_timesteps)
        visited = spaced(total, num_inference_steps, spacing, offset=offset)
        check_levels(self.alphas_cumprod, visited)
        self.num_inference_steps = len(visited)
        self.timesteps = torch.tensor(visited)
        self.previous = dict(zip(visited, ends(visited, total // len(visited) if fixed_stride else None), strict=True))

    def fresh(self) -> DDIM:
        """Return itself: steps keep no state."""
        return self

    def on(self, device: torch.device) -> DDIM:
        """A copy with its noise levels on a device."""
        placed = copy.copy(self)
        levels_on(placed, device)
        return placed

    def dense(self, num_inference_steps: int) -> DDIM:
        """A copy with this many evenly spaced timesteps."""
        scheduler = copy.deepcopy(self)
        scheduler.set_spacing(num_inference_steps, "uniform")
        return scheduler

    def step(
        self,
        model_output: Tensor,
        timestep: int,
        sample: Tensor,
        eta: float = 0.0,
        noise: Tensor | None = None,
        variance: Callable[[Tensor, Tensor], Tensor] | None = None,
        **_: Any,
    ) -> Tensor:
        """The sample at the previous timestep of the list (eq. 12), same shape. noise: needed for eta > 0.

        variance: (sigma of eq. 16, size of the estimate's coefficient in eq. 12) -> the sigma that is used, for the noise and
        for the direction; the coefficient is that of a step without clipping.
        """
        now, before = self._alpha(int(timestep)), self._alpha(self.previous[int(timestep)])
        clean = (sample - (1 - now).sqrt() * model_output) / now.sqrt()
        if self.config.clip_sample:
            clean = clean.clamp(-self.config.clip_sample_range, self.config.clip_sample_range)
            if self.posterior:
                model_output = (sample - now.sqrt() * clean) / (1 - now).sqrt()
        sigma = eta * ((1 - before) / (1 - now) * (1 - now / before)).sqrt()
        if variance is not None:
            # The estimate pushes the clean image down and the direction up: an error enters by the difference.
            through = (1 - before - sigma**2).sqrt() - (before * (1 - now) / now).sqrt()
            sigma = variance(sigma, through.abs())
        mean = before.sqrt() * clean + (1 - before - sigma**2).sqrt() * model_output
        return mean if noise is None or eta == 0 else mean + sigma * noise

    def _alpha(self, timestep: int) -> Tensor:
        alpha_cumprod: Tensor = self.alphas_cumprod[timestep] if timestep >= 0 else self.final_alpha_cumprod
        return alpha_cumprod
