"""Check whether a model repeats its training images: distance of samples to them, compared with that of unseen images."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_ROWS = 1000  # images compared at once


def nearest_distance(images: Tensor, references: Tensor) -> Tensor:
    """Root mean squared pixel difference of each image to the nearest reference. float (N, ...) and (M, ...) -> (N,)."""
    pixels = images[0].numel()
    rows, others = images.flatten(1), references.flatten(1)
    distances = [torch.cdist(batch, others).amin(1) for batch in torch.split(rows, _ROWS)]
    return torch.cat(distances) / math.sqrt(pixels)


def memorisation(samples: Tensor, train: Tensor, held_out: Tensor) -> dict[str, float]:
    """Nearest-neighbour distances in pixels of [-1, 1].

    median_sample and median_held_out: of samples and of unseen real images to the training images. copies: the fraction
    of samples nearer to a training image than 99 % of the unseen images are; 0.01 is what chance gives.
    """
    seen_distances, unseen = nearest_distance(samples, train), nearest_distance(held_out, train)
    return {
        "median_sample": float(seen_distances.median()),
        "median_held_out": float(unseen.median()),
        "copies": float((seen_distances < unseen.quantile(0.01)).float().mean()),
    }
