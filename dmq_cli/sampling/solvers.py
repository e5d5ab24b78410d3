"""Deterministic solvers: diffusers' schedulers on dmq's lists of timesteps.

* PlmsScheduler: Liu et al., Pseudo Numerical Methods for Diffusion Models on Manifolds, ICLR 2022 (arXiv 2202.09778), as in LDM's
  sampler: Adams-Bashforth estimates put into DDIM's step; the first step is Heun's (both ends averaged), not Runge-Kutta.
* SingleStepScheduler: Lu et al., DPM-Solver++ (arXiv 2211.01095), Algorithm 1 (2S). MultiStepScheduler: the same, Algorithm 2 (2M).
* UniPCScheduler: Zhao et al., UniPC, NeurIPS 2023 (arXiv 2302.04867), order 2, B_2(h).
* EulerScheduler: Karras et al., EDM, NeurIPS 2022 (arXiv 2206.00364), Algorithm 1 without the correction of its lines 6-8.

Deliberate deviations from diffusers: timesteps come from spacing.py, whole numbers also where diffusers has fractions
(Euler's linspace); PLMS looks the next timestep up in the list, not a fixed stride away, and combines estimates of the noise
also for a network that predicts the velocity, where diffusers combines velocities; 2M and Euler keep the sample's dtype,
where diffusers casts to float32, and Euler takes the estimate itself for the derivative (x - (x - sigma eps)) / sigma.
Euler's x, in units of x / sqrt(abar), starts at sqrt(1 + sigma^2) times the noise in every spacing, so that the network reads the
noise itself at its first call, as with the other samplers; diffusers_linspace and diffusers_trailing: sigma times, as there.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
from torch import Tensor

from dmq_cli.sampling.ddim import DDIM, ends, levels_on


class Solver:
    """A deterministic solver as the loop takes it. A Scheduler. inner: one of those below, which holds the state."""

    def __init__(self, inner: Any, ddim: DDIM) -> None:
        """ddim: on the same noise schedule."""
        self.inner, self.ddim = inner, ddim
        self.config, self.scale_model_input = inner.config, inner.scale_model_input

    timesteps = property(lambda self: self.inner.timesteps)
    alphas_cumprod = property(lambda self: self.inner.alphas_cumprod)
    init_noise_sigma = property(lambda self: self.inner.init_noise_sigma)

    def fresh(self) -> Solver:
        """A copy before its first call; self itself never takes a step in `walk`."""
        return Solver(copy.deepcopy(self.inner), self.ddim)

    def on(self, device: torch.device) -> Solver:
        """PLMS with its noise levels on a device; the others' coefficients have logarithms, and stay on the CPU."""
        if isinstance(self.inner, PlmsScheduler):
            levels_on(self.inner, device)
        return self

    def dense(self, num_inference_steps: int) -> DDIM:
        """DDIM on the same noise schedule with this many evenly spaced calls."""
        return self.ddim.dense(num_inference_steps)

    def step(
        self, model_output: Tensor, timestep: int, sample: Tensor, eta: float = 0.0, noise: Tensor | None = None,
        variance: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> Tensor:  # fmt: skip
        """The sampler's x at the next call, same shape. Calls come in order; eta, noise and variance do nothing."""
        moved: Tensor = self.inner.step(model_output, timestep, sample, return_dict=False)[0]
        return moved


def place_on_levels(scheduler: Any, visited: list[int]) -> None:
    """Give a new solver that works on sigma = sqrt((1 - abar) / abar) these timesteps, highest first.

    diffusers' set_timesteps would take the same sigmas from its own lists; UniPC's knows no other.
    """
    scheduler.num_inference_steps = len(visited)
    levels = ((1 - scheduler.alphas_cumprod) / scheduler.alphas_cumprod) ** 0.5
    last = levels[:1] if scheduler.config.final_sigmas_type == "sigma_min" else torch.zeros_like(levels[:1])
    scheduler.timesteps, scheduler.sigmas = torch.tensor(visited), torch.cat([levels[visited], last])


class PlmsScheduler(PNDMScheduler):  # type: ignore[misc]
    """PLMS on any list of timesteps."""

    def place(self, visited: list[int], stride: int | None = None) -> None:
        """One call at each timestep but the second, which has two: at the end of the first step, and from there on.

        stride: how far each step goes, where it is not to the next timestep.
        """
        self.set_timesteps(len(visited))
        self.timesteps = torch.tensor([*visited[:2], *visited[1:]])
        first, *later = zip(visited, ends(visited, stride), strict=True)
        again = first if stride is None else (visited[1] + stride, visited[1])
        self.moves = [first, again, *later]

    def _get_prev_sample(self, sample: Tensor, timestep: int, prev_timestep: int, model_output: Tensor) -> Tensor:
        """DDIM's step without noise, from and to where this call's step goes in the list."""
        moved: Tensor = super()._get_prev_sample(sample, *self.moves[self.counter], model_output)
        return moved


class SingleStepScheduler(DPMSolverSinglestepScheduler):  # type: ignore[misc]
    """DPM-Solver++(2S): calls 0, 2, 4, ... at the ends of the intervals, 1, 3, 5, ... in between."""

    def place(self, visited: list[int]) -> None:
        """See place_on_levels; and which calls are of first order."""
        place_on_levels(self, visited)
        self.order_list = self.get_order_list(len(visited))


class MultiStepScheduler(DPMSolverMultistepScheduler):  # type: ignore[misc]
    """DPM-Solver++(2M). An update takes the sample that the estimate was converted at, before diffusers' cast."""

    place = place_on_levels

    def convert_model_output(self, model_output: Tensor, *_: Any, sample: Tensor, **__: Any) -> Tensor:
        """x_0 as predicted from the estimate and the sample."""
        self.uncast = sample
        converted: Tensor = super().convert_model_output(model_output, sample=sample)
        return converted

    def dpm_solver_first_order_update(self, model_output: Tensor, *_: Any, **__: Any) -> Tensor:
        """One step of order 1."""
        moved: Tensor = super().dpm_solver_first_order_update(model_output, sample=self.uncast)
        return moved

    def multistep_dpm_solver_second_order_update(self, model_output_list: list[Tensor], *_: Any, **__: Any) -> Tensor:
        """One step of order 2."""
        moved: Tensor = super().multistep_dpm_solver_second_order_update(model_output_list, sample=self.uncast)
        return moved


class UniPCScheduler(UniPCMultistepScheduler):  # type: ignore[misc]
    """UniPC-2: each call's estimate first corrects the sample it was made at, then predicts the next one."""

    place = place_on_levels


class EulerScheduler(EulerDiscreteScheduler):  # type: ignore[misc]
    """Euler steps in sigma. The sampler's x is sqrt(1 + sigma^2) times what the network reads."""

    place = place_on_levels

    def scale_model_input(self, sample: Tensor, timestep: int) -> Tensor:
        """The network's input; timesteps in any order."""
        scaled: Tensor = sample / (self.sigmas[self.index_for_timestep(timestep)] ** 2 + 1) ** 0.5
        return scaled

    def step(self, model_output: Tensor, timestep: int, sample: Tensor, **_: Any) -> tuple[Tensor]:
        """x + (sigma' - sigma) eps."""
        index = self.index_for_timestep(timestep)
        return (sample + (self.sigmas[index + 1] - self.sigmas[index]) * model_output,)
