"""Peak signal-to-noise ratio of each image, or other sample, and its full-precision twin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dmq_cli.metrics.metric import UP, Shown
from dmq_cli.metrics.pairs import PairMetric, Pairwise
from dmq_cli.metrics.protocol import Protocol

PSNR_CAP = 100.0
"""dB of two identical images, whose PSNR is infinite. It is above any other PSNR of images up to 65,536 values: for one step in one
of N values PSNR is 48.13 + 10 log10(N) dB, 96.3 dB there.
"""


@dataclass(frozen=True)
class Psnr(PairMetric):
    """psnr in dB, 10 log10(255^2 / MSE) of every pair, then averaged; float64, up to PSNR_CAP.

    Of samples that are no images, whose values are meant to lie in [-1, 1], 10 log10(2^2 / MSE).
    """

    name = "psnr"
    results = (Shown("psnr", "PSNR to FP", UP, "dB"),)

    def pairwise(self, shape: Sequence[int], protocol: Protocol) -> Pairwise:
        """See PairMetric; samples of any shape."""
        return _psnr


def _psnr(a: Tensor, b: Tensor) -> Tensor:
    peak = 255.0 if a.dtype == torch.uint8 else 2.0
    mse = (a.double() - b.double()).square().flatten(1).mean(1)
    return (10 * torch.log10(peak**2 / mse)).clamp(max=PSNR_CAP)
