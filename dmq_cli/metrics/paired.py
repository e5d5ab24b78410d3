"""Numbers between two sets of images made from the same noise."""

from __future__ import annotations

import torch

from dmq_cli.errors import EvaluationError
from dmq_cli.metrics.extractors import Images, as_tensor

PSNR_CAP = 100.0
"""dB given to two identical images, whose PSNR is infinite. The smallest possible difference is far below
it up to images of 65,536 values: one step in one value of N is 48.13 + 10 log10(N) dB, 96.3 dB there.
"""


def psnr(images: Images, reference: Images) -> float:
    """Peak signal-to-noise ratio in dB, 10 log10(255^2 / MSE), computed for every pair of images and then
    averaged.

    images, reference: uint8 of the same shape, first axis the pairs. float64; identical pairs and
    everything above count as PSNR_CAP. Raises EvaluationError for other types, differing shapes or no
    images.
    """
    a, b = as_tensor(images), as_tensor(reference)
    if a.dtype != torch.uint8 or b.dtype != torch.uint8 or a.shape != b.shape or a.numel() == 0:
        raise EvaluationError(
            f"PSNR compares uint8 images of one shape, but found {a.dtype} {tuple(a.shape)} and {b.dtype} "
            f"{tuple(b.shape)}; give both sets from the same seeds, as uint8."
        )
    mse = (a.double() - b.double()).square().flatten(1).mean(1)
    return float((10 * torch.log10(255.0**2 / mse)).clamp(max=PSNR_CAP).mean())
