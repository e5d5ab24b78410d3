"""One sweep over the units: what is learned in it, on which inputs, against which loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dmq_cli.errors import ConfigError
from dmq_cli.recon.learners import AdaRound, SignSteps
from dmq_cli.recon.scales import Scales

ACTIVATIONS = ("input", "q", "k", "v", "prob")


@dataclass(frozen=True)
class Pass:
    """One sweep over the units. rounding, scales: what is learned; activations are quantized meanwhile if scales are learned.

    iterations: for each unit; 0 leaves the pass out. p: exponent of the loss.
    mix: the part of the elements of a unit's main input that come from the full-precision network, drawn anew at each
    iteration; mixed: "all" for the same of all its inputs (the time embedding); drop: the part of the elements that an activation quantizer lets through (both Wei et al., QDrop, ICLR 2022,
    arXiv 2203.05740, 0.5 there). fine: weight of the layers' own errors beside the unit's (EDA-DM's gamma). bias: weight of
    the mean error of each timestep, see `mean_error`.
    Raises ConfigError for nothing to learn or impossible numbers.
    """

    iterations: int
    rounding: AdaRound | SignSteps | None = None
    scales: Scales | None = None
    p: float = 2.0
    mix: float = 0.0
    drop: float = 0.0
    fine: float = 0.0
    bias: float = 0.0
    mixed: Literal["main", "all"] = "main"

    def __post_init__(self) -> None:
        if self.rounding is None and self.scales is None:
            raise ConfigError("A pass was asked for with neither rounding nor scales to learn; give it one of them.")
        if (
            self.iterations < 0
            or self.p <= 0
            or min(self.fine, self.bias) < 0
            or not (0 <= self.mix <= 1 and 0 <= self.drop <= 1)
            or self.mixed not in ("main", "all")
        ):
            raise ConfigError(
                f"A pass was asked for with iterations={self.iterations}, p={self.p}, mix={self.mix}, drop={self.drop},"
                f" fine={self.fine}, bias={self.bias}, mixed={self.mixed}; p is positive, mix and drop lie in 0..1, mixed is main or all,"
                " the others are not negative."
            )

    @property
    def slots(self) -> tuple[str, ...]:
        """The slots of the quantizers that learn."""
        return (("weight",) if self.rounding else ()) + (ACTIVATIONS if self.scales else ())

    @property
    def activations(self) -> bool:
        """Whether activations are quantized meanwhile."""
        return self.scales is not None

    @property
    def reads_full(self) -> bool:
        """Whether the unit's full-precision inputs are needed."""
        return self.mix > 0 or self.fine > 0

    @property
    def unordered(self) -> bool:
        """Whether no unit reads what another one has learned: all inputs are those of the full-precision network."""
        return self.mix == 1 and self.mixed == "all"
