"""PTQD: the quantization error of the noise estimate, split into what follows the estimate and what does not.

He et al.: PTQD: Accurate Post-Training Quantization for Diffusion Models, NeurIPS 2023 (arXiv 2305.10657); equations are
written out, as the paper's numbers were not at hand. Per call, on the full-precision trajectory:

    eps_q - eps = k eps + residual,   residual of channel c ~ (bias_c, std^2)
    eps~ = (eps_q - bias) / (1 + k),  sigma_q = std / (1 + k)
    sigma' = sqrt(max(sigma^2 - (g sigma_q)^2, 0)),  g: the coefficient by which an error of eps enters x_{t-1}

and the direction coefficient sqrt(1 - abar' - sigma'^2) of DDIM is taken with sigma'. Choices and deviations:

* k is one ordinary least-squares slope over all elements, with an intercept, and max(k, 0) is used, as in the released
  code; like there, channels that differ in the mean of both eps and the error are part of the fit;
* `bias`: mean of the residual (paper, default) or of the raw error eps_q - eps (released code);
* std is taken over all elements about the channels' means, so it holds noise only; the released code averages the
  samples' own deviations, each about the mean of that sample over all channels;
* g is that of the step before sigma shrinks, as in the released code; with sigma' it is a little smaller, so that the
  variance of x_{t-1} given x_t comes out a little below sigma^2, never above where sigma' > 0;
* the mixed precision over steps is no correction and not here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dmq_cli.correct.base import both_trajectories
from dmq_cli.errors import ConfigError, NumericsError
from dmq_cli.models import Denoiser, home
from dmq_cli.ops import by_channel, double, moved, places
from dmq_cli.sampling import UNGUIDED, Guide, Scheduler, Target, parse_range, walk

_VARIANCES, _BIASES = ("auto", "on", "off"), ("residual", "raw")


@dataclass(frozen=True)
class Ptqd:
    """Options. seeds: the noise it is estimated on; correlation false: k = 0.

    target: guided or None, as its statistics are those of the guided estimate. variance: whether sigma makes room for the residual; auto where the sampler adds noise, on insists that it does, off
    never. Raises ConfigError for values that cannot be.
    """

    seeds: str
    variance: Literal["auto", "on", "off"] = "auto"
    bias: Literal["residual", "raw"] = "residual"
    correlation: bool = True
    target: Target | None = None

    def __post_init__(self) -> None:
        for name, known in (("variance", _VARIANCES), ("bias", _BIASES)):
            if (value := getattr(self, name)) not in known:
                raise ConfigError(f"correct.{name}={value} is not known; use {', '.join(known[:-1])} or {known[-1]}.")
        if self.target not in (None, "guided"):
            raise ConfigError(
                f"correct.target={self.target} does not go with PTQD, whose variance is that of the guided estimate; use guided."
            )

    def check(self, eta: float) -> None:
        """Raise ConfigError where variance=on meets a sampler without noise."""
        if self.variance == "on" and eta == 0:
            raise ConfigError(
                f"correct.variance=on needs a sampler that adds noise, but sampler.eta={eta}; use sampler=ddpm, or ddim with a positive sampler.eta, or set correct.variance=auto."
            )

    def estimate(
        self, full: Denoiser, quantized: Denoiser, scheduler: Scheduler, shape: tuple[int, ...], eta: float = 0.0,
        dtype: torch.dtype = torch.float32, report: Callable[[int, int], None] = lambda done, total: None,
        guide: Guide = UNGUIDED,
    ) -> dict[str, Tensor]:  # fmt: skip
        """{"slope": (S,), "bias": (S, C), "std": (S,)}, a row for each call, both networks at the full-precision samples.

        slope: k >= 0, without unit; bias and std: in units of the noise. Raises what `check` raises, and NumericsError
        where a row is not finite.
        """
        self.check(eta)
        calls, rows = len(scheduler.timesteps), []
        seeds = parse_range(self.seeds)
        estimate, cond = guide.around(quantized), guide.cond(seeds, home(quantized))
        for step in walk(full, scheduler, seeds, shape, eta=eta, dtype=dtype, guide=guide):
            estimated = estimate(step.input, torch.tensor([step.timestep]), cond)
            rows.append(fit_error(self, estimated, step.eps, step.call))
            report(step.call + 1, calls)
        names = ("slope", "bias", "std")
        return {
            name: torch.stack(row).to(dtype).cpu() for name, row in zip(names, zip(*rows, strict=True), strict=True)
        }

    def shapes(self, calls: int, shape: tuple[int, ...], guided: bool) -> dict[str, tuple[int, ...]]:
        """See CorrectionMethod."""
        return {"slope": (calls,), "bias": (calls, shape[0]), "std": (calls,)}

    def cost(self, calls: int) -> float:
        """See CorrectionMethod: both networks see every sample of the full-precision walk."""
        return both_trajectories(self.seeds, calls)

    def load(self, tensors: Mapping[str, Tensor]) -> PtqdCorrection:
        """The correction that uses what `estimate` found."""
        return PtqdCorrection(tensors["slope"], tensors["bias"], tensors["std"], self.variance != "off")


def fit_error(config: Ptqd, quantized: Tensor, full: Tensor, call: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """(k, bias (C,), std) in float64 of the two estimates (N, C, ...) of one call. Raises NumericsError if not finite."""
    eps = double(full)
    error = double(quantized) - eps
    about = eps - eps.mean()
    slope = (about * error).mean() / about.square().mean()
    slope = slope.clamp(min=0) if config.correlation else torch.zeros_like(slope)
    residual = error - slope * eps
    mean = residual.mean((0, *places(residual)))
    std = (residual - by_channel(mean, residual)).square().mean().sqrt()
    bias = mean if config.bias == "residual" else error.mean((0, *places(error)))
    if not bool(torch.stack([slope, bias.sum(), std]).isfinite().all()):
        raise NumericsError(
            f"The quantization error at call {call} has no finite slope, bias and deviation; check that both noise estimates are finite and that the full-precision one is not constant."
        )
    return slope, bias, std


class PtqdCorrection:
    """The tables in use: slope (S,), bias (S, C), std (S,), row = position in the scheduler's list of calls."""

    def __init__(self, slope: Tensor, bias: Tensor, std: Tensor, calibrate: bool = True) -> None:
        self.slope, self.bias, self.std, self.calibrate = slope, bias, std, calibrate

    def _follow(self, x: Tensor) -> None:
        """Move the tables to where samples are, once."""
        if self.slope.device != x.device:
            self.slope, self.bias, self.std = (moved(table, x.device) for table in (self.slope, self.bias, self.std))

    def pre(self, sample: Tensor, call: int) -> Tensor:
        """PTQD does not touch the sample."""
        return sample

    def post(self, eps: Tensor, call: int) -> Tensor:
        """(eps - bias) / (1 + k), same shape."""
        self._follow(eps)
        return (eps - by_channel(self.bias[call].to(eps), eps)) / (1 + self.slope[call].to(eps))

    def variance(self, sigma: Tensor, noise_gain: Tensor, call: int) -> Tensor:
        """What is left of sigma once the residual's share is taken out; 0 where the residual alone is more, same shape."""
        if not self.calibrate:
            return sigma
        self._follow(sigma)
        left = noise_gain * (self.std[call] / (1 + self.slope[call])).to(sigma)
        return (sigma**2 - left**2).clamp(min=0).sqrt()
