"""Timestep-aware correction.

Yao et al.: Timestep-Aware Correction for Quantized Diffusion Models, ECCV 2024 (arXiv 2407.03917). Noise estimation
reconstruction (NER, eq. 8, 16-19), input bias correction (IBC, eq. 22-23), both pre-calculated on the corrected trajectory
(Algorithm 1) and applied as in eq. 24. No official code was found. Where the paper leaves a choice:
* eq. 16 has the relative term summed, eq. 12 averaged: `relative_term` sum (as printed, default) or mean;
* the mask of eq. 18 is one-sided: `mask` two_sided (|eps| > tau, default) or one_sided;
* the sums of eq. 19 are pooled over the samples: `pooling` samples (default) or mean (of per-sample K);
* |eps| is floored by 1e-3 of its mean in quotients, so that they stay finite; it is the mask (k_threshold > 0) that keeps
  pixels near 0 from taking over;
* K is clamped to `clamp`; a K that is not finite is an error;
* x_0 is not shifted: it is no input of the network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dmq_cli.errors import ConfigError, NumericsError
from dmq_cli.models import Denoiser
from dmq_cli.sampling import DDIM, Step, parse_range, walk

_TERMS, _MASKS, _POOLINGS = ("sum", "mean"), ("two_sided", "one_sided"), ("samples", "mean")


@dataclass(frozen=True)
class Tac:
    """Options. seeds: the noise it is estimated on; lambda1, lambda2, k_threshold: eq. 11 and 17."""

    seeds: str
    lambda1: float = 0.5
    lambda2: float = 1000.0
    k_threshold: float = 2.0
    ner: bool = True
    ibc: bool = True
    timestep_aware: bool = True
    relative_term: Literal["sum", "mean"] = "sum"
    mask: Literal["two_sided", "one_sided"] = "two_sided"
    pooling: Literal["samples", "mean"] = "samples"
    clamp: tuple[float, float] = (0.2, 5.0)

    def __post_init__(self) -> None:
        if not (0 <= self.lambda1 <= 1 and self.lambda2 >= 0 and self.k_threshold >= 0):
            raise ConfigError(
                f"The correction was given lambda1={self.lambda1}, lambda2={self.lambda2}, k_threshold={self.k_threshold};"
                " lambda1 lies in 0..1, the others are not negative."
            )
        for name, known in (("relative_term", _TERMS), ("mask", _MASKS), ("pooling", _POOLINGS)):
            if (value := getattr(self, name)) not in known:
                raise ConfigError(f"correct.{name}={value} is not known; use {' or '.join(known)}.")

    def estimate(
        self, full: Denoiser, quantized: Denoiser, scheduler: DDIM, shape: tuple[int, int, int], eta: float = 0.0,
        dtype: torch.dtype = torch.float32, report: Callable[[int, int], None] = lambda done, total: None,
    ) -> dict[str, Tensor]:  # fmt: skip
        """Algorithm 1, pre-calculation: {"gain": (S, C), "bias": (S, C, H, W)}.

        Both networks start from the same noise. At each call K and B are solved from where the corrected trajectory
        stands, applied, and only then is the next step taken.
        """
        seeds = parse_range(self.seeds)
        reference = list(walk(full, scheduler, seeds, shape, eta=eta, dtype=dtype))
        calls = len(reference)
        tables = TacCorrection(torch.ones(calls, shape[0], dtype=dtype), torch.zeros(calls, *shape, dtype=dtype))
        learner = _Learner(self, reference, tables)
        for step in walk(quantized, scheduler, seeds, shape, eta=eta, correction=learner, dtype=dtype):
            report(step.call + 1, calls)
        return {"gain": tables.gain, "bias": tables.bias}

    def load(self, tensors: Mapping[str, Tensor]) -> TacCorrection:
        """The correction that uses what `estimate` found."""
        return TacCorrection(tensors["gain"], tensors["bias"])


class TacCorrection:
    """The tables in use. gain K: (S, C); bias B: (S, C, H, W); row = position in the scheduler's list of calls."""

    def __init__(self, gain: Tensor, bias: Tensor) -> None:
        self.gain, self.bias = gain, bias

    def pre(self, sample: Tensor, call: int) -> Tensor:
        """Input bias correction, eq. 23. The whole step starts from the corrected input, as in eq. 24."""
        return sample - self.bias[call].to(sample)

    def post(self, eps: Tensor, call: int) -> Tensor:
        """Noise estimation reconstruction, eq. 8."""
        return eps * self.gain[call].to(eps)[:, None, None]


class _Learner:
    """A correction that solves its own rows just before it uses them."""

    def __init__(self, config: Tac, reference: list[Step], tables: TacCorrection) -> None:
        self.config, self.reference, self.tables = config, reference, tables

    def pre(self, sample: Tensor, call: int) -> Tensor:
        """B, eq. 22; "first step only" corrects the input of the second call, the first one that a step has changed."""
        if self.config.ibc and (self.config.timestep_aware or call == 1):
            self.tables.bias[call] = (sample - self.reference[call].sample).mean(0)
        return self.tables.pre(sample, call)

    def post(self, eps: Tensor, call: int) -> Tensor:
        if self.config.ner and (self.config.timestep_aware or call == 0):
            self.tables.gain[call] = solve_gain(self.config, eps, self.reference[call].eps, call)
        return self.tables.post(eps, call)


def solve_gain(config: Tac, quantized: Tensor, full: Tensor, call: int = 0) -> Tensor:
    """K of eq. 19 for every channel, (C,), from the two noise estimates (S, C, H, W)."""
    pixels = full[0].numel()
    size = full.abs()
    tau = config.k_threshold * size.mean((1, 2, 3), keepdim=True)
    kept = ((full if config.mask == "one_sided" else size) > tau).to(full)
    floor = 1e-3 * size.mean()
    safe = torch.where(size < floor, floor.copysign(full), full)
    ratio = quantized / safe
    weight = config.lambda1 * (pixels if config.relative_term == "sum" else 1)
    above = (1 - config.lambda1) * quantized * full * kept + weight * ratio * kept
    below = (1 - config.lambda1) * quantized**2 * kept + weight * ratio**2 * kept
    pulled = config.lambda2 * pixels
    above, below = above.sum((2, 3)) + pulled, below.sum((2, 3)) + pulled
    gain = above.sum(0) / below.sum(0) if config.pooling == "samples" else (above / below).mean(0)
    if not bool(gain.isfinite().all()):
        raise NumericsError(
            f"The noise gain K at call {call} is not finite; lower correct.k_threshold or give correct.lambda2 a positive value."
        )
    return gain.clamp(*config.clamp)
