"""The parameters learned while a unit is reconstructed: roundings and weights (scales.py: scales), each with its optimiser.

AdaRound: Nagel et al., ICML 2020 (arXiv 2004.10568), eq. 24 (regulariser), Adam without a schedule as in the released BRECQ.
SignRound: Cheng et al., Optimize Weight Rounding via Signed Gradient Descent, EMNLP Findings 2024 (arXiv 2309.05516), compared with
intel/auto-round @ b9f3d00 (algorithms/quantization/sign_round, data_type/int.py, wrapper.py):

    codes = clip(round(W / s + V) + z, 0, 2^b - 1),  s = (beta max W - alpha min W) / (2^b - 1),  z = round(-alpha min W / s)

V follows the sign of its gradient, from 0, with steps of 1 / iterations that fall linearly to 0, and so stays within half a code; what
had the lowest loss of its own batch is kept (with a constant step size the last V is worse than none); a unit reads the quantized
predecessors' outputs. All that agrees. alpha and beta, in [0, 1] and with the same steps, learn with ranges=True, which is the paper's
and the released default, but not here: ranges of weights are searched before (scheme=minmax starts at the extremes, as theirs).
Deviations: 300 iterations of 16 samples at budget=light, theirs 200 of 8; activations, which they leave alone or quantize as they
come, have scales that learn afterwards, as in BRECQ.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from dmq_cli.errors import ConfigError
from dmq_cli.quant import SignRound, SoftRound, TensorQuantizer
from dmq_cli.recon.clipping import Clip, can_clip
from dmq_cli.recon.losses import beta_schedule

Weights = Mapping[str, tuple[TensorQuantizer, Tensor]]
"""Weight quantizers by path, each with the weight it quantizes."""


class Learner(Protocol):
    """One group of parameters during one unit."""

    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler | None

    def penalty(self, iteration: int) -> Tensor | None:
        """The term that is added to the loss at this iteration."""
        ...

    def seen(self, loss: float) -> None:
        """Take notice of the loss at the current parameters; called before every step."""
        ...

    def settle(self) -> None:
        """Clamp the parameters to their range after a step."""
        ...

    def finish(self) -> None:
        """Fix the learned decisions, and detach parameters from the gradient."""
        ...


@dataclass(frozen=True)
class AdaRound:
    """Learned rounding by a rectified sigmoid. regulariser 0: decisions are forced by the end only (EDA-DM).

    warmup: fraction of the iterations without regulariser; decay: cosine of the learning rate to 0.
    """

    lr: float = 1e-3
    regulariser: float = 0.01
    warmup: float = 0.2
    beta: tuple[float, float] = (20.0, 2.0)
    decay: bool = False

    def __post_init__(self) -> None:
        if self.lr <= 0 or self.regulariser < 0 or not 0 <= self.warmup <= 1 or min(self.beta) <= 0:
            raise ConfigError(
                f"AdaRound was asked for lr={self.lr}, regulariser={self.regulariser}, warmup={self.warmup}, beta={list(self.beta)};"
                " lr and beta are positive, regulariser is not negative, warmup lies in 0..1."
            )

    def start(self, weights: Weights, iterations: int) -> Learner:
        """Give every weight its learned rounding, starting at its own fraction."""
        return _Rounding(self, weights, iterations)


@dataclass(frozen=True)
class SignSteps:
    """Learned rounding by offsets in [-0.5, 0.5] and signed gradients. lr: None takes 1 / iterations, as the paper.

    ranges: the ends of each range learn, too: factors in [0, 1] of where they are. Only on grids whose zero point places the range.
    """

    lr: float | None = None
    ranges: bool = False

    def __post_init__(self) -> None:
        if self.lr is not None and self.lr <= 0:
            raise ConfigError(
                f"SignSteps was asked for lr={self.lr}; use a positive number, or null for 1 / iterations."
            )

    def start(self, weights: Weights, iterations: int) -> Learner:
        """Give every weight its learned rounding, starting at the nearest code."""
        return _Signs(self, weights, iterations)


class _Rounding:
    def __init__(self, record: AdaRound, weights: Weights, iterations: int) -> None:
        self.record, self.iterations = record, iterations
        self.soft = _replace(weights, SoftRound)
        self.optimizer: torch.optim.Optimizer = torch.optim.Adam([r.alpha for _, r in self.soft], lr=record.lr)
        self.scheduler = cosine(self.optimizer, iterations) if record.decay else None

    def penalty(self, iteration: int) -> Tensor | None:
        beta = beta_schedule(iteration, self.iterations, self.record.warmup, *self.record.beta)
        if beta is None or self.record.regulariser == 0:
            return None
        return self.record.regulariser * torch.stack([r.regulariser(beta) for _, r in self.soft]).sum()

    def seen(self, loss: float) -> None:
        pass

    def settle(self) -> None:
        pass

    def finish(self) -> None:
        for quantizer, rounding in self.soft:
            quantizer.rounding = rounding.frozen()


class _Signs:
    def __init__(self, record: SignSteps, weights: Weights, iterations: int) -> None:
        clipped = [(q, weight) for q, weight in weights.values() if record.ranges and can_clip(q)]
        self.clips = [Clip(quantizer, weight) for quantizer, weight in clipped]
        self.rounds = _replace(weights, SignRound)
        self.offsets = [r.offset for _, r in self.rounds]
        self.factors = [factor for clip in self.clips for factor in (clip.low_factor, clip.high_factor)]
        self.lowest, self.best = math.inf, self._now()
        rate = record.lr or 1 / iterations
        self.optimizer: torch.optim.Optimizer = SignSGD([*self.offsets, *self.factors], rate)
        self.scheduler: torch.optim.lr_scheduler.LRScheduler | None = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda i: max(0.0, 1 - i / iterations)
        )

    def _now(self) -> list[Tensor]:
        return [parameter.detach().clone() for parameter in (*self.offsets, *self.factors)]

    def penalty(self, iteration: int) -> Tensor | None:
        return None

    def seen(self, loss: float) -> None:
        if loss < self.lowest:
            self.lowest, self.best = loss, self._now()

    @torch.no_grad()
    def settle(self) -> None:
        for offset in self.offsets:
            offset.clamp_(-0.5, 0.5)
        for factor in self.factors:
            factor.clamp_(0, 1)

    @torch.no_grad()
    def finish(self) -> None:
        for parameter, best in zip((*self.offsets, *self.factors), self.best, strict=True):
            parameter.copy_(best)
        for clip in self.clips:
            clip.finish()
        for quantizer, rounding in self.rounds:
            quantizer.rounding = rounding.frozen()


class TunedWeights:
    """Learned weights, each behind its quantizer: gradients pass straight through rounding to nearest."""

    def __init__(self, weights: Iterable[Tensor], lr: float) -> None:
        """weights: leaf tensors; they require gradients until `finish`."""
        self.weights = [weight.requires_grad_(True) for weight in weights]
        self.optimizer: torch.optim.Optimizer = torch.optim.Adam(self.weights, lr=lr)
        self.scheduler: torch.optim.lr_scheduler.LRScheduler | None = None

    def penalty(self, iteration: int) -> Tensor | None:
        """No penalty."""
        return None

    def seen(self, loss: float) -> None:
        """Do nothing."""

    def settle(self) -> None:
        """Do nothing."""

    def finish(self) -> None:
        """Stop requiring gradients."""
        for weight in self.weights:
            weight.requires_grad_(False)


class SignSGD(torch.optim.Optimizer):
    """Every parameter takes a step of lr against the sign of its gradient."""

    def __init__(self, parameters: Iterable[Tensor], lr: float) -> None:
        super().__init__(list(parameters), {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step; closure is not used."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.sub_(group["lr"] * parameter.grad.sign())


def _replace(weights: Weights, kind: Callable[[Tensor], Any]) -> list[tuple[TensorQuantizer, Any]]:
    replaced = []
    for quantizer, weight in weights.values():
        scale, _ = quantizer.scale(weight)
        quantizer.rounding = kind(weight.detach() / scale)
        replaced.append((quantizer, quantizer.rounding))
    return replaced


def cosine(optimizer: torch.optim.Optimizer, iterations: int) -> torch.optim.lr_scheduler.LRScheduler:
    """The learning rate falls to 0 along half a cosine."""
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, iterations))
