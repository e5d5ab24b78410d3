"""Base of metrics that compare each image, or other sample, with its twin from the same noise, value by value, and average."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dmq_cli.errors import EvaluationError
from dmq_cli.metrics.extractors import Images, as_tensor
from dmq_cli.metrics.interval import mean_interval
from dmq_cli.metrics.metric import Measurement, Sample, TwinMetric
from dmq_cli.metrics.protocol import Protocol

_VALUES = 2**19  # of a batch of images; SSIM holds ten times as many
Pairwise = Callable[[Tensor, Tensor], Tensor]
"""From two batches of images, uint8 (B, H, W, C), or of other samples, float32 (B, ...), to the number of every pair, (B,) float64."""


class PairMetric(TwinMetric):
    """The mean of a number of every pair; a pair's influence is its own number."""

    @abstractmethod
    def pairwise(self, shape: Sequence[int], protocol: Protocol) -> Pairwise | None:
        """Make the function that compares pairs; None where these have no such number. shape: of a sample, (H, W, C) if it is an
        image, any other if it is not.
        """

    def compare(self, images: Sample, twin: Sample, protocol: Protocol) -> Measurement:
        """The mean over pairs. Raises EvaluationError for other types than those of Pairwise, differing shapes or no images."""
        image_pixels, twin_pixels = _checked(images.pixels, twin.pixels)
        number = self.pairwise(tuple(image_pixels.shape[1:]), protocol)
        if number is None:
            return Measurement()
        values = _over_batches(number, image_pixels, twin_pixels)
        return Measurement({self.name: float(values.mean())}, {self.name: mean_interval(values)}, {self.name: values})


def _checked(images: Images | None, twin: Images | None) -> tuple[Tensor, Tensor]:
    if images is None or twin is None:
        raise EvaluationError(
            "Images were to be compared with their twins pixel by pixel, but there are none; give both."
        )
    a, b = as_tensor(images), as_tensor(twin)
    dtype = torch.uint8 if a.dim() == 4 else torch.float32
    if {a.dtype, b.dtype} != {dtype} or a.shape != b.shape or a.numel() == 0 or a.dim() < 2:
        raise EvaluationError(
            "Images and their twins must be uint8 (N, H, W, C), and other samples float32 (N, ...), of one shape, but found"
            f" {a.dtype} {tuple(a.shape)} and {b.dtype} {tuple(b.shape)}; give both sets from the same seeds."
        )
    return a, b


def _over_batches(number: Pairwise, a: Tensor, b: Tensor) -> Tensor:
    size = max(1, _VALUES // a[0].numel())
    return torch.cat([number(*batch) for batch in zip(torch.split(a, size), torch.split(b, size), strict=True)])
