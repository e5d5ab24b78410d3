"""Timestep-aware correction.

Yao et al.: Timestep-Aware Correction for Quantized Diffusion Models, ECCV 2024 (arXiv 2407.03917). Noise estimation
reconstruction (NER, eq. 8, 16-19), input bias correction (IBC, eq. 22-23), both pre-calculated on the corrected trajectory
(Algorithm 1) and applied as in eq. 24. No official code was found. Compared with another reading, OptiSys-ZJU/segquant @ 58b69c1: its K is
that of `pooling=mean` with k_threshold 0 (a test says so); it counts every pixel when it solves and masks where it applies K, one-sided
and by the quantized estimate, has no floor under |eps|, and by default no input correction. Where the paper leaves a choice:

* eq. 16 has the relative term summed, eq. 12 averaged: `relative_term` sum (as printed, default) or mean;
* the mask of eq. 18 is one-sided: `mask` two_sided (|eps| > tau, default) or one_sided;
* the sums of eq. 19 are pooled over the samples: `pooling` samples (default) or mean (of per-sample K);
* `inputs`: which sample the quantized estimate of eq. 19 is taken at. corrected: where the corrected trajectory stands, as Algorithm 1 is
  printed; the full-precision estimate it is compared with belongs to another sample then, and where the corrected one carries more noise,
  its estimate is larger for that reason alone, K falls below 1, less noise is removed, and so on. reference: the
  full-precision trajectory's sample for both, so that K measures the error of the network alone (conf/correct/tac.yaml);
* lambda2 of eq. 19 pulls by lambda2 N against a sum over the masked pixels, whose size depends on N: `pull` printed, or data:
  lambda2 times what that sum would be if the estimates were equal, so that K - 1 shrinks by about 1 / (1 + lambda2) at any size;
* K stays 1 below `least_timestep` (0: nowhere, as printed): at timestep 0 hardly any noise is left to be estimated.
* |eps| is floored by 1e-3 of its mean in quotients, so that they stay finite; it is the mask (k_threshold > 0) that keeps
  pixels near 0 from taking over;
* K is clamped to `clamp`; a K that is not finite is an error;
* eq. 23 for the last step shifts x_0, which is no input of the network: `correct_output` does, and is off by default.

An option that is not named means what is printed, so that a record from before the option means what it meant; conf/correct/tac.yaml,
which method=tac has, deviates in inputs, pull and least_timestep.

With guidance `target` says which estimate NER corrects: the guided one, the unconditional half alone (Appendix L: the conditional
one differs more from prompt to prompt) or each half with its own K. IBC shifts the input of both halves alike.
Appendix B's alternative to IBC, `noise_bias`, corrects the mean of the noise estimate instead of the input. The appendix
says neither where this goes relative to NER nor whether NER is on: it takes IBC's place, before NER, so that K is solved
on an estimate whose mean is right, and NER stays as `ner` says. It follows `timestep_aware` like NER: first call or all.
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
from dmq_cli.ops import by_channel, moved, places, with_places
from dmq_cli.sampling import TARGETS, UNGUIDED, Guide, Scheduler, Step, Target, parse_range, walk

_TABLES = ("gain", "bias", "noise_bias", "output_bias")
_OPTIONS = {
    "inputs": ("corrected", "reference"),
    "relative_term": ("sum", "mean"),
    "mask": ("two_sided", "one_sided"),
    "pooling": ("samples", "mean"),
    "pull": ("printed", "data"),
    "target": (None, *TARGETS),
}


@dataclass(frozen=True)
class Tac:
    """Options, see the top of the file. seeds: the noise it is estimated on; lambda1, lambda2, k_threshold: eq. 11 and 17;
    noise_bias: Appendix B.

    target: what is corrected under guidance; None where there is none. Raises ConfigError for values that cannot be.
    """

    seeds: str
    lambda1: float = 0.5
    lambda2: float = 1000.0
    k_threshold: float = 2.0
    ner: bool = True
    ibc: bool = True
    timestep_aware: bool = True
    noise_bias: bool = False
    relative_term: Literal["sum", "mean"] = "sum"
    mask: Literal["two_sided", "one_sided"] = "two_sided"
    pooling: Literal["samples", "mean"] = "samples"
    inputs: Literal["corrected", "reference"] = "corrected"
    pull: Literal["printed", "data"] = "printed"
    least_timestep: int = 0
    correct_output: bool = False
    clamp: tuple[float, float] = (0.2, 5.0)
    target: Target | None = None

    def __post_init__(self) -> None:
        if not (0 <= self.lambda1 <= 1 and self.lambda2 >= 0 and self.k_threshold >= 0):
            raise ConfigError(
                f"The correction was given lambda1={self.lambda1}, lambda2={self.lambda2}, k_threshold={self.k_threshold};"
                " lambda1 lies in 0..1, the others are not negative."
            )
        for name, values in _OPTIONS.items():
            if (value := getattr(self, name)) not in values:
                raise ConfigError(f"correct.{name}={value} is not known; use {' or '.join(map(str, values))}.")

    def check(self, eta: float) -> None:
        """Fits every eta; raises nothing."""

    def estimate(
        self, full: Denoiser, quantized: Denoiser, scheduler: Scheduler, shape: tuple[int, ...], eta: float = 0.0,
        dtype: torch.dtype = torch.float32, report: Callable[[int, int], None] = lambda done, total: None,
        guide: Guide = UNGUIDED,
    ) -> dict[str, Tensor]:  # fmt: skip
        """Algorithm 1, pre-calculation: {"gain": (S, C), "bias": (S, C, H, W)} and, if asked for, "noise_bias" like "bias" and
        "output_bias" (C, H, W).

        With guide.halves the gain is (S, 2 C) and the noise bias (S, 2 C, H, W), the unconditional half first.
        Both networks start from the same noise. At each call B is solved from where the corrected trajectory stands, K from
        there or from the reference (see `inputs`), both are applied, and only then is the next step taken.
        """
        seeds = parse_range(self.seeds)
        reference = list(walk(full, scheduler, seeds, shape, eta=eta, dtype=dtype, guide=guide))
        learner = _Learner(self, reference, _Same(quantized, guide, seeds) if self.inputs == "reference" else None)
        for step in walk(quantized, scheduler, seeds, shape, eta=eta, correction=learner, dtype=dtype, guide=guide):
            report(step.call + 1, len(reference))
        return {name: table.cpu() for name in _TABLES if (table := getattr(learner, name)) is not None}

    def shapes(self, calls: int, shape: tuple[int, ...], guided: bool) -> dict[str, tuple[int, ...]]:
        """See CorrectionMethod."""
        channels, *place = shape
        gains = channels * (2 if guided and self.target in ("uncond", "both") else 1)
        shapes: dict[str, tuple[int, ...]] = {"gain": (calls, gains), "bias": (calls, *shape)}
        noise_bias = {"noise_bias": (calls, gains, *place)} if self.noise_bias else {}
        return {**shapes, **noise_bias, **({"output_bias": shape} if self.correct_output else {})}

    def cost(self, calls: int) -> float:
        """See CorrectionMethod: both networks walk; the quantized one is asked again where the reference stands."""
        return both_trajectories(self.seeds, calls) * (1.5 if self.inputs == "reference" else 1.0)

    def load(self, tensors: Mapping[str, Tensor]) -> TacCorrection:
        """The correction that uses what `estimate` found."""
        return TacCorrection(tensors["gain"], tensors["bias"], tensors.get("noise_bias"), tensors.get("output_bias"))


class TacCorrection:
    """The tables in use, row = position in the scheduler's list of calls.

    gain K: (S, C); bias B: (S, C, H, W); noise_bias: (S, C, H, W), the mean error of the estimate, or None (Appendix B);
    output_bias: (C, H, W), B of x_0, or None.
    """

    def __init__(
        self, gain: Tensor, bias: Tensor, noise_bias: Tensor | None = None, output_bias: Tensor | None = None
    ) -> None:
        self.gain, self.bias, self.noise_bias, self.output_bias = gain, bias, noise_bias, output_bias

    def _follow(self, x: Tensor) -> None:
        """Move the tables to where samples are, once."""
        if self.gain.device != x.device:
            for name in _TABLES:
                table = getattr(self, name)
                setattr(self, name, None if table is None else moved(table, x.device))

    def pre(self, sample: Tensor, call: int) -> Tensor:
        """Input bias correction, eq. 23. The whole step starts from the corrected input, as in eq. 24."""
        self._follow(sample)
        return sample - self.bias[call].to(sample)

    def centre(self, eps: Tensor, call: int) -> Tensor:
        """Appendix B: the estimate (B, C, H, W) without its mean error; the estimate itself where there is no table."""
        self._follow(eps)
        return eps if self.noise_bias is None else eps - self.noise_bias[call].to(eps)

    def post(self, eps: Tensor, call: int) -> Tensor:
        """Noise estimation reconstruction, eq. 8, of the centred estimate."""
        return self.centre(eps, call) * by_channel(self.gain[call].to(eps), eps)

    def finish(self, sample: Tensor) -> Tensor:
        """Eq. 23 at the end: x_0 without its mean error; the sample itself where there is no table."""
        return sample if self.output_bias is None else sample - self.output_bias.to(sample)

    def variance(self, sigma: Tensor, noise_gain: Tensor, call: int) -> Tensor:
        """TAC leaves the sampler's noise as it is."""
        return sigma


class _Same:
    """The quantized network's estimate where the full-precision trajectory stands."""

    def __init__(self, quantized: Denoiser, guide: Guide, seeds: range) -> None:
        self.estimate, self.cond = guide.around(quantized), guide.cond(seeds, home(quantized))

    def __call__(self, step: Step) -> Tensor:
        return self.estimate(step.input, torch.tensor([step.timestep]), self.cond)


class _Learner(TacCorrection):
    """A correction that solves its own rows just before it uses them. same: see `_Same`; None: estimates where it stands itself."""

    def __init__(self, config: Tac, reference: list[Step], same: _Same | None) -> None:
        self.config, self.reference, self.same = config, reference, same
        calls, sample, eps = len(reference), reference[0].sample[0], reference[0].eps[0]
        noise_bias = eps.new_zeros(calls, *eps.shape) if config.noise_bias else None
        super().__init__(eps.new_ones(calls, len(eps)), sample.new_zeros(calls, *sample.shape), noise_bias)
        channels = len(sample)
        halves = [slice(start, start + channels) for start in range(0, len(eps), channels)]
        self.solved = halves[:1] if config.target == "uncond" else halves

    def pre(self, sample: Tensor, call: int) -> Tensor:
        """B, eq. 22; "first step only" corrects the input of the second call, the first one that a step has changed."""
        if self.config.ibc and (self.config.timestep_aware or call == 1):
            self.bias[call] = (sample - self.reference[call].sample).mean(0)
        return super().pre(sample, call)

    def finish(self, sample: Tensor) -> Tensor:
        if self.config.correct_output:
            self.output_bias = (sample - self.reference[-1].following).mean(0)
        return super().finish(sample)

    def post(self, eps: Tensor, call: int) -> Tensor:
        if self.config.timestep_aware or call == 0:
            estimate = eps if self.same is None else self.same(self.reference[call])
            for half in self.solved:
                self._solve(estimate, self.reference[call].eps[:, half], call, half)
        return super().post(eps, call)

    def _solve(self, eps: Tensor, full: Tensor, call: int, half: slice) -> None:
        """full: the full-precision estimate of the channels that are solved together."""
        if self.noise_bias is not None:
            self.noise_bias[call, half] = (eps[:, half] - full).mean(0)
        if self.config.ner and self.reference[call].timestep >= self.config.least_timestep:
            self.gain[call, half] = solve_gain(self.config, self.centre(eps, call)[:, half], full, call)


def solve_gain(config: Tac, quantized: Tensor, full: Tensor, call: int = 0) -> Tensor:
    """K of eq. 19 for every channel, (C,), from the two noise estimates (S, C, ...). Raises NumericsError if not finite."""
    quantized, full = with_places(quantized), with_places(full)
    pixels = full[0].numel()
    size = full.abs()
    tau = config.k_threshold * size.mean(tuple(range(1, size.dim())), keepdim=True)
    kept = ((full if config.mask == "one_sided" else size) > tau).to(full)
    floor = 1e-3 * size.mean()
    safe = torch.where(size < floor, floor.copysign(full), full)
    ratio = torch.where(kept > 0, quantized / safe, 0.0)  # an estimate that is 0 everywhere has quotients of no number
    weight = config.lambda1 * (pixels if config.relative_term == "sum" else 1)
    above = (1 - config.lambda1) * quantized * full * kept + weight * ratio * kept
    below = (1 - config.lambda1) * quantized**2 * kept + weight * ratio**2 * kept
    above, below = above.sum(places(above)), below.sum(places(below))
    pulled: float | Tensor = config.lambda2 * pixels
    if config.pull == "data":
        equal = ((1 - config.lambda1) * full**2 * kept + weight * kept).sum(
            places(full)
        )  # below, if the estimates were equal
        pulled = config.lambda2 * equal.clamp_min(1e-30)  # no pixel kept: K is 1
    above, below = above + pulled, below + pulled
    gain = above.sum(0) / below.sum(0) if config.pooling == "samples" else (above / below).mean(0)
    if not bool(gain.isfinite().all()):
        raise NumericsError(f"The noise gain K at call {call} is not finite: {_reason(config, quantized, full)}.")
    return gain.clamp(*config.clamp)


def _reason(config: Tac, quantized: Tensor, full: Tensor) -> str:
    """Why a gain is not finite, and what to do."""
    for name, estimate in (("quantized", quantized), ("full-precision", full)):
        if not bool(estimate.isfinite().all()):
            return f"the {name} network's estimate has NaN or infinity in it, so look for the step that made it"
    if config.lambda2 == 0:
        return (
            "in some channel no pixel is above the mask, or the quantized estimate is zero there, and correct.lambda2=0 leaves K"
            " open; give correct.lambda2 a positive value, which then sets K to 1"
        )
    return "the estimates are too large for these sums, so look at the weights of the model"
