"""Choose a uniform or a log2 grid for attention probabilities at each step, by the law that they follow.

The dynamically adaptive quantizer (DAQ) of Huang et al., TCAQ-DM, AAAI 2025, arXiv:2412.16700; the main text was at hand in
summaries only. For each attention and each step two laws on [x_min, inf) are fitted to the n positive probabilities x_i:

    power law    p(x) = (a - 1)/x_min (x / x_min)^-a       a = 1 + 1/L,     log likelihood n (-log(x_min L) - L - 1)
    exponential  p(x) = rate exp(-rate (x - x_min))        rate = 1/(mean x - x_min),        n (log rate - 1)

with L = mean log(x / x_min) (Clauset et al., SIAM Review 2009, arXiv:0706.1062, Table 2.1). Where the power law has the greater
likelihood the step uses log2, else uniform.

Choices: x_min is the least positive value of the step, its own maximum likelihood estimate under both laws. So neither law has a
threshold to tune, no value but zero is left out (a softmax gives zero only by underflow, and both grids have it), and one pass
is enough: n, sum x, sum log x and min x give both likelihoods. Laws that cannot be told apart, as where all values are equal, mean
uniform. Each attention is judged on what the full-precision network shows it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dmq_cli.calib.fit import Data, FitReport, watch
from dmq_cli.errors import NumericsError
from dmq_cli.ops import double
from dmq_cli.quant import ByLikelihood, Choice
from dmq_cli.wrap import Attached, observing

Batches = Callable[[], Data]
"""One pass over calibration inputs; not called where there is nothing to choose."""


def power_law_likelihood(x: Tensor, x_min: float) -> tuple[float, float]:
    """(a, log likelihood in nats) of the power law that fits best. x: all >= x_min > 0, not all equal to it."""
    values = double(x).flatten()
    spread = float((values / x_min).log().mean())
    return _power_law(len(values), spread, x_min)


def exponential_likelihood(x: Tensor, x_min: float) -> tuple[float, float]:
    """(rate, log likelihood in nats) of the exponential law that fits best. x: all >= x_min, not all equal to it."""
    values = double(x).flatten()
    return _exponential(len(values), float(values.mean()) - x_min)


def likelihood_ratio(x: Tensor) -> float:
    """Log likelihood of the power law minus that of the exponential, nats, over the positive values of x; 0 if there are none."""
    statistics = StepStatistics("x", 1)
    if x.numel():
        statistics.update(x.reshape(1, -1), torch.zeros(1, dtype=torch.int64))
    return float(statistics.ratios()[0])


class StepStatistics:
    """Statistics of a quantizer's positive inputs at each of S steps: count, sum, sum of logarithms and minimum, (S,) float64."""

    def __init__(self, name: str, steps: int) -> None:
        self.name = name
        self.count, self.total, self.logs = (torch.zeros(steps, dtype=torch.float64) for _ in range(3))
        self.least = torch.full((steps,), torch.inf, dtype=torch.float64)

    def update(self, x: Tensor, step: Tensor) -> None:
        """x: (B, ...), >= 0; step: (B,) int64. Raises NumericsError for values that are not finite."""
        rows = double(x.flatten(1))
        positive = rows > 0
        logs, sums = rows.where(positive, 1.0).log().sum(1).cpu(), rows.sum(1).cpu()
        if not bool((sums + logs).isfinite().all()):
            raise NumericsError(f"The values at {self.name} are not all finite; check the weights of the model.")
        self.count.index_add_(0, step, positive.sum(1).double().cpu())
        self.total.index_add_(0, step, rows.where(positive, 0.0).sum(1).cpu())
        self.logs.index_add_(0, step, logs)
        self.least.scatter_reduce_(0, step, rows.where(positive, torch.inf).amin(1).cpu(), "amin")

    def ratios(self) -> Tensor:
        """`likelihood_ratio` at every step, (S,) float64; 0 at steps without values and where all are equal."""
        rows = torch.stack([self.count, self.total, self.logs, self.least], 1).tolist()
        return torch.tensor([_ratio(*row) for row in rows], dtype=torch.float64)


@torch.no_grad()
def choose_by_likelihood(attached: Attached, data: Batches, report: FitReport = lambda done: None) -> None:
    """Set every choice of kind ByLikelihood: at each step log2 (1) where the power law is the likelier one, else uniform (0).

    data() gives batches as for fit_activations, run once in full precision. Steps without data take the choice of the nearest
    one with data. Raises NumericsError for values that are not finite and for an empty set.
    """
    choices = {name: choice for name, choice in attached.choices().items() if isinstance(choice.kind, ByLikelihood)}
    statistics = {name: StepStatistics(name, len(choice.choice)) for name, choice in choices.items()}
    hooks = [choice.register_forward_pre_hook(_hook(attached, statistics[name])) for name, choice in choices.items()]
    try:
        with observing(attached):
            watch(attached, data() if hooks else (), report)
    finally:
        for hook in hooks:
            hook.remove()
    for name, choice in choices.items():
        put_choice(name, choice, (statistics[name].ratios() > 0).long(), statistics[name].count > 0)


def put_choice(name: str, choice: Choice, parts: Tensor, has_data: Tensor) -> None:
    """Write a choice. parts: (S,) int64, valid where has_data (S,) is true; other steps take that of the nearest such step.

    Raises NumericsError if no step has data.
    """
    steps_with_data = has_data.nonzero().flatten()
    if not len(steps_with_data):
        raise NumericsError(
            f"The choice {name} got no values from the calibration set; use a set with at least one sample."
        )
    nearest = steps_with_data[(torch.arange(len(has_data))[:, None] - steps_with_data[None]).abs().argmin(1)]
    choice.choice.copy_(parts[nearest])


def _hook(attached: Attached, statistics: StepStatistics) -> Any:
    def see(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
        statistics.update(inputs[0].detach(), attached.context.step.cpu().expand(len(inputs[0])))

    return see


def _ratio(count: float, total: float, logs: float, least: float) -> float:
    if not count:
        return 0.0
    spread, excess = logs / count - math.log(least), total / count - least
    # Equal values leave nothing but rounding here, and both likelihoods grow without bound.
    if spread <= 1e-12 or excess <= 1e-12 * least:
        return 0.0
    return _power_law(count, spread, least)[1] - _exponential(count, excess)[1]


def _power_law(count: float, spread: float, least: float) -> tuple[float, float]:
    """spread: L, the mean of log(x / x_min)."""
    return 1 + 1 / spread, -count * (math.log(least * spread) + spread + 1)


def _exponential(count: float, excess: float) -> tuple[float, float]:
    """excess: mean x - x_min."""
    return 1 / excess, -count * (math.log(excess) + 1)
