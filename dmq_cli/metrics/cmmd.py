"""CMMD (Jayasumana et al., CVPR 2024, 2401.09603): MMD^2 with a Gaussian kernel on CLIP's embeddings of images.

The biased estimator of the authors' code (google-research, cmmd/distance.py), a V-statistic: all pairs count, an image with
itself too; embeddings of length 1, sigma 10, times 1000. In float64: the authors' float32 loses most digits in the
subtraction. Published numbers are of openai/clip-vit-large-patch14-336; name that folder as protocol.clip_path to compare
with them. Deviation: images that are not square are cropped, as CLIP's own preparation does, and not stretched.

The interval is by the influence function of the V-statistic, with the reference as it is: image x_i counts to first order as
2 (mean_j k(x_i, x_j) - mean_j k(x_i, y_j)). As for FD it is of the expectation for this many images.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dmq_cli.errors import ConfigError
from dmq_cli.metrics.interval import influence_interval
from dmq_cli.metrics.metric import DOWN, Measurement, Sample, SetMetric, Shown
from dmq_cli.metrics.protocol import Protocol
from dmq_cli.metrics.references.reference import Reference

_ROWS = 2048  # of a kernel matrix at a time


@dataclass(frozen=True)
class Cmmd(SetMetric):
    """cmmd >= 0, with the folder that protocol.clip_path names.

    sigma: of the kernel exp(-|x - y|^2 / (2 sigma^2)); scale: factor of MMD^2.
    """

    name = "cmmd"
    results = (Shown("cmmd", "CMMD", DOWN, digits=3, distance=True),)
    layers = ("clip",)
    weights = "clip"
    reference = "clip"
    whole = True

    sigma: float = 10.0
    scale: float = 1000.0

    def check(self, protocol: Protocol) -> None:
        """Raise ConfigError also for a kernel width or a scale that is not above 0."""
        super().check(protocol)
        for key, value in (("sigma", self.sigma), ("scale", self.scale)):
            if not value > 0:
                raise ConfigError(
                    f"Protocol {protocol.name} asks for metrics.cmmd.{key}={value}; give a number above 0."
                )

    def measure(self, images: Sample, reference: Reference, protocol: Protocol) -> Measurement:
        """Compares every image with every real one."""
        embeddings, real = images.features["clip"].double(), reference["clip"].double()
        within, across = self._means(embeddings, embeddings), self._means(embeddings, real)
        distance = self.scale * float(within.mean() + self._means(real, real).mean() - 2 * across.mean())
        influence = 2 * self.scale * (within - across)
        influence -= influence.mean()
        return Measurement(
            {self.name: distance}, {self.name: influence_interval(distance, influence)}, {self.name: influence}
        )

    def _means(self, x: Tensor, y: Tensor) -> Tensor:
        """The mean of the kernel of every x (N, D) over all y (M, D), (N,)."""
        gamma, lengths = 1 / (2 * self.sigma**2), y.square().sum(1)
        means = []
        for rows in torch.split(x, _ROWS):
            squares = rows.square().sum(1, keepdim=True) + lengths - 2 * rows @ y.T
            means.append(torch.exp(-gamma * squares).mean(1))
        return torch.cat(means)
