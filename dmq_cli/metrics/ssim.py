"""Structural similarity (Wang et al., IEEE TIP 2004) of each image and its full-precision twin, by torchmetrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from dmq_cli.metrics.metric import UP, Shown
from dmq_cli.metrics.pairs import PairMetric, Pairwise
from dmq_cli.metrics.protocol import Protocol

SSIM_WINDOW = 11
"""Side of the Gaussian window, pixels; smaller images have no SSIM."""


@dataclass(frozen=True)
class Ssim(PairMetric):
    """ssim in [-1, 1], of every pair of images of at least SSIM_WINDOW pixels a side, then averaged.

    A Gaussian window of 11x11 with sigma 1.5, K = (0.01, 0.03), L = 255, in float32 (right to three digits where bright
    images are all but flat), the mean of all windows that lie inside the image, of each channel on its own.
    """

    name = "ssim"
    results = (Shown("ssim", "SSIM to FP", UP, digits=3),)

    def pairwise(self, shape: Sequence[int], protocol: Protocol) -> Pairwise | None:
        """See PairMetric; None for images smaller than the window, and for samples that are no images."""
        return _ssim if len(shape) == 3 and min(shape[:2]) >= SSIM_WINDOW else None


def _ssim(a: Tensor, b: Tensor) -> Tensor:
    from torchmetrics.functional.image import structural_similarity_index_measure  # seconds to import

    # Channels apart: torch convolves groups slowly, and float64 ten times more so.
    first, second = (images.permute(0, 3, 1, 2).flatten(0, 1)[:, None].float() for images in (a, b))
    _, windows = structural_similarity_index_measure(
        first, second, sigma=1.5, kernel_size=SSIM_WINDOW, data_range=255.0, return_full_image=True
    )
    edge = SSIM_WINDOW // 2  # torchmetrics pads; windows on padding are not in the paper
    inside: Tensor = windows[..., edge : windows.shape[-2] - edge, edge : windows.shape[-1] - edge]
    return inside.double().reshape(len(a), -1).mean(1)
