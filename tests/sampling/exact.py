"""All samplers, their schedulers with a noise schedule in float64, and a denoiser whose every trajectory is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dmq_cli.ops import generators, noise
from dmq_cli.sampling import PLMS, DPMpp2M, DPMpp2S, Euler, Sampler, Scheduler, Solver, UniPC, walk
from tests.tiny import SCHEDULE

DOUBLE = torch.float64
SMALL = (2, 3, 3)
SEEDS = range(40, 44)
ALPHAS = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
SAMPLERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "ddim": (Sampler, {}),
    "ddpm": (Sampler, {"eta": 1.0}),
    "plms": (PLMS, {}),
    "dpmpp_2s": (DPMpp2S, {}),
    "dpmpp_2m": (DPMpp2M, {}),
    "unipc": (UniPC, {}),
    "euler": (Euler, {}),
}
SOLVERS = [name for name, (kind, _) in SAMPLERS.items() if kind is not Sampler]


def settings(name: str, steps: int, **options: Any) -> Any:
    kind, preset = SAMPLERS[name]
    return kind(steps, **preset, **options)


def exact(found: Any, alphas: np.ndarray[Any, Any] = ALPHAS, schedule: dict[str, Any] = SCHEDULE) -> Any:
    """The scheduler of these settings; diffusers keeps the noise schedule in float32, here it is float64."""
    scheduler = found.scheduler(schedule)
    inner = scheduler.inner if isinstance(scheduler, Solver) else scheduler
    assert np.allclose(inner.alphas_cumprod.numpy(), alphas, rtol=1e-3)
    inner.alphas_cumprod = torch.from_numpy(alphas)
    inner.final_alpha_cumprod = torch.tensor(1.0 if found.set_alpha_to_one else alphas[0], dtype=DOUBLE)
    if isinstance(scheduler, Solver):
        inner.place(found.visited(len(alphas)))
    return scheduler


def start(shape: Sequence[int] = SMALL, seeds: range = SEEDS, dtype: torch.dtype = DOUBLE) -> Tensor:
    """The noise that `walk` draws first."""
    return noise(shape, generators(seeds), dtype)


def end(denoiser: Any, plan: Scheduler, dtype: torch.dtype = DOUBLE, **options: Any) -> Tensor:
    return list(walk(denoiser, plan, SEEDS, SMALL, dtype=dtype, **options))[-1].following


def bent(sample: Tensor, timestep: Tensor, cond: object = None) -> Tensor:
    """A denoiser that is not linear and knows the time."""
    return torch.tanh(0.7 * sample + timestep.to(sample) / 900) + 0.1 * sample


def rounded(sample: Tensor, timestep: Tensor, cond: object = None) -> Tensor:
    """A quantized twin of `bent`."""
    return (0.8 * bent(sample, timestep) * 8).round() / 8 + 0.05


def bent_np(sample: np.ndarray[Any, Any], timestep: int) -> np.ndarray[Any, Any]:
    result: np.ndarray[Any, Any] = np.tanh(0.7 * sample + timestep / 900) + 0.1 * sample
    return result


def level(abar: float) -> tuple[float, float, float]:
    """alpha, sigma and lambda = log(alpha / sigma) of the papers on solvers; lambda is infinite at abar = 1."""
    sigma = np.sqrt(1 - abar)
    with np.errstate(divide="ignore"):
        return float(np.sqrt(abar)), float(sigma), float(np.log(np.sqrt(abar)) - np.log(sigma))


def plain(reference: Any, dtype: torch.dtype = DOUBLE) -> Tensor:
    """diffusers' own loop, as in its pipelines; the timesteps are set."""
    x: Tensor = start(dtype=dtype) * reference.init_noise_sigma
    for timestep in reference.timesteps:
        eps = bent(reference.scale_model_input(x, timestep), timestep.reshape(1))
        x = reference.step(eps, timestep, x).prev_sample
    return x
