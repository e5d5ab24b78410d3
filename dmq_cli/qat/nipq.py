"""Pseudo-noise in place of rounding while training.

Shin, So, Park, Kang, Yoo, Park: NIPQ: Noise Proxy-Based Integrated Pseudo-Quantization, CVPR 2023, arXiv:2206.00820.
Implemented: inside the range x + n s instead of s round(x/s), n uniform in [-1/2, 1/2]; beyond it the ends, which get gradients; real
rounding in the last part of the training and in every evaluation.
Deliberate deviations: the released code (ECoLab-POSTECH/NIPQ @ b0da822) draws n from a histogram of the tensor's own rounding errors, which
is uniform but for tensors with few values a step, and takes half as long again. Bits are those asked for and do not learn: the paper's
regulariser draws learned widths to a budget, and is constant where they are fixed, as in TDQ's Table 1.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dmq_cli.errors import ConfigError
from dmq_cli.ops import Rounding, noisy_clip
from dmq_cli.qat.pact import ClippedGrid, ends
from dmq_cli.qat.stand_ins import StandIns
from dmq_cli.quant import Uniform
from dmq_cli.wrap import Attached


@dataclass(frozen=True)
class Nipq:
    """Noise stands for rounding. rounded: the last part of the training, in which it is real; ConfigError outside of [0, 1]."""

    rounded: float = 0.1
    weight_scales = True

    def __post_init__(self) -> None:
        if not 0 <= self.rounded <= 1:
            raise ConfigError(
                f"Nipq was asked for rounded={self.rounded}; it is a part of the training, between 0 and 1."
            )

    def start(self, attached: Attached) -> StandIns:
        """See Gradients."""
        return _Noise(attached, self.rounded)


class _Noise(StandIns):
    def __init__(self, attached: Attached, rounded: float) -> None:
        super().__init__(attached)
        self.rounded = rounded
        for quantizer in (q for q in (*self.activations, *self.weights) if isinstance(q.grid, Uniform)):
            self.replace(quantizer, "grid", NoisyGrid)

    @contextlib.contextmanager
    def rounding(self) -> Iterator[None]:
        noisy = [(quantizer, quantizer.grid) for quantizer, _, _ in self.originals]
        for quantizer, part, original in self.originals:
            setattr(quantizer, part, original)
        try:
            yield
        finally:
            for quantizer, grid in noisy:
                quantizer.grid = grid

    def progress(self, part: float) -> None:
        if part >= 1 - self.rounded:
            self.finish()


@dataclass(frozen=True)
class NoisyGrid(ClippedGrid):
    """Stands in for the grid of a quantizer: clipped values with noise like that of rounding, drawn from torch's global generator."""

    def __call__(self, x: Tensor, scale: Tensor, zero_point: Tensor, rounding: Rounding) -> Tensor:
        """See Grid."""
        return noisy_clip(x, *ends(self, scale, zero_point), uniform_noise(x), scale)


def uniform_noise(like: Tensor) -> Tensor:
    """Draw a tensor of this shape and layout, uniform in [-1/2, 1/2) in steps of 2**-16.

    A draw of 64 bits serves four elements, which takes half the time of `torch.rand`, and that is what a step with noise spends most on.
    """
    noise = torch.empty_like(like)
    draws = torch.empty(-(-noise.numel() // 4), dtype=torch.int64, device=noise.device).random_(-(2**63), None)
    return noise.copy_(draws.view(torch.int16).as_strided(noise.shape, noise.stride())).mul_(2.0**-16)
