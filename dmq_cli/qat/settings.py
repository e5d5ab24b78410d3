"""The settings of a training's steps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from dmq_cli.errors import ConfigError

if TYPE_CHECKING:
    from dmq_cli.qat.loop import Candidate


@dataclass(frozen=True)
class Settings:
    """iterations: optimizer steps; accumulate: parts that a batch is cut into, which changes memory and not the result.

    lr: of weights; scale_lr, weight_scale_lr: of scales, relative to their size or absolute (relative=False); what has a rate of 0 does
    not learn. adam_eps: what Adam adds to the root of the mean squared gradient; gradients that are not far above it take shorter steps.
    decay: cosine, linear or constant, after `warmup` steps; ema: decay of the average by step; clip: greatest norm of the gradient.
    candidates: how many averages, evenly spaced, are measured; choose: the one with the least loss on what is held out, with the least distance of its
    images from those of full precision, or the last. save_every: steps between checkpoints; dtype: of the network's products, while
    parameters, scales and their gradients stay in float32; float16, in which small gradients vanish, counts as float32. min_snr: see
    problems.Weighting. Raises ConfigError for impossible ones.
    """

    iterations: int = 1000
    batch_size: int = 64
    accumulate: int = 1
    lr: float = 1e-4
    scale_lr: float = 1e-3
    weight_scale_lr: float = 1e-3
    relative: bool = True
    weight_decay: float = 0.0
    adam_eps: float = 1e-8
    decay: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: int = 0
    ema: float = 0.995
    clip: float = 1.0
    candidates: int = 5
    choose: Literal["loss", "distance", "last"] = "distance"
    save_every: int = 250
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    min_snr: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        counts = {n: getattr(self, n) for n in ("iterations", "batch_size", "accumulate", "candidates", "save_every")}
        rates = {name: getattr(self, name) for name in ("lr", "scale_lr", "weight_scale_lr")}
        limits = {"clip": self.clip, "adam_eps": self.adam_eps}
        if self.min_snr is not None:
            limits["min_snr"] = self.min_snr
        for name, value in counts.items():
            if value < 1:
                raise ConfigError(f"recon.settings.{name}={value} trains nothing; use at least 1.")
        for name, value in {**rates, **limits}.items():
            if value < 0 or (name in limits and not value):
                raise ConfigError(f"recon.settings.{name}={value} is not possible; use a positive number.")
        if not any(rates.values()):
            raise ConfigError(
                f"A training was asked for a rate of 0 for all of {', '.join(rates)}; give one of them more."
            )
        if self.weight_decay < 0 or self.warmup < 0 or not 0 <= self.ema < 1:
            raise ConfigError(
                f"A training was asked for weight_decay={self.weight_decay}, warmup={self.warmup}, ema={self.ema}; the first two are at"
                " least 0, ema is at least 0 and below 1."
            )

    def schedule(self, step: int) -> float:
        """The factor of all learning rates at a step, which counts from 0."""
        warm = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        part = step / self.iterations
        falling = {"cosine": 0.5 * (1 + math.cos(math.pi * part)), "linear": 1 - part, "constant": 1.0}
        return warm * falling[self.decay]

    @property
    def products(self) -> torch.dtype:
        """The precision of the network's products."""
        return torch.bfloat16 if self.dtype == "bfloat16" else torch.float32

    @property
    def candidate_steps(self) -> frozenset[int]:
        """After which steps an average is measured; the last step is one of them."""
        count = min(self.candidates, self.iterations)
        return frozenset(round((number + 1) * self.iterations / count) for number in range(count))

    def merit(self, candidate: Candidate) -> float:
        """What is least for the candidate to be kept."""
        if self.choose == "last":
            return -float(candidate.step)
        return candidate.loss if self.choose == "loss" or candidate.distance is None else candidate.distance
