"""Numbers between two images made from the same noise, for every pair and as their mean.

PSNR; SSIM (Wang et al., IEEE TIP 2004) by torchmetrics; LPIPS (see perceptual.py) where the protocol names its weights.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dmq_cli.errors import EvaluationError
from dmq_cli.metrics.extractors import Images, as_tensor
from dmq_cli.metrics.perceptual import Lpips, load_lpips
from dmq_cli.metrics.protocol import Protocol

PSNR_CAP = 100.0
"""dB given to two identical images, whose PSNR is infinite. The smallest possible difference is far below
it up to images of 65,536 values: one step in one value of N is 48.13 + 10 log10(N) dB, 96.3 dB there.
"""

SSIM_WINDOW = 11
"""Pixels a side of SSIM's Gaussian window; smaller images have no SSIM."""

_VALUES = 2**19  # of a batch of images; SSIM holds ten times as many
_Pairwise = Callable[[Tensor, Tensor], Tensor]


def paired(images: Images, reference: Images, protocol: Protocol | None = None) -> dict[str, float]:
    """Mean over all pairs of every number of `per_image`."""
    return {name: float(values.mean()) for name, values in per_image(images, reference, protocol).items()}


def per_image(images: Images, reference: Images, protocol: Protocol | None = None) -> dict[str, Tensor]:
    """Numbers of every pair, each (N,) float64: psnr in dB up to PSNR_CAP, ssim in [-1, 1], lpips >= 0.

    images, reference: uint8 (N, H, W, 1 or 3) of the same shape. ssim is there for images of at least SSIM_WINDOW pixels a
    side, lpips where the protocol has lpips_path. Raises EvaluationError for other types, differing shapes or no images;
    for LPIPS what `load_lpips` raises.
    """
    a, b = _pairs(images, reference)
    numbers: dict[str, _Pairwise] = {"psnr": _psnr}
    if min(a.shape[1:3]) >= SSIM_WINDOW:
        numbers["ssim"] = _ssim
    if protocol is not None and protocol.lpips_path is not None:
        numbers["lpips"] = _lpips(load_lpips(protocol))
    return {name: _over_batches(each, a, b) for name, each in numbers.items()}


def psnr(images: Images, reference: Images) -> float:
    """Peak signal-to-noise ratio in dB, 10 log10(255^2 / MSE), computed for every pair of images and then
    averaged.

    images, reference: uint8 of the same shape, first axis the pairs. float64; identical pairs and
    everything above count as PSNR_CAP. Raises EvaluationError for other types, differing shapes or no
    images.
    """
    return float(_over_batches(_psnr, *_pairs(images, reference)).mean())


def ssim(images: Images, reference: Images) -> float:
    """Structural similarity in [-1, 1], computed for every pair of images and then averaged.

    A Gaussian window of 11x11 with sigma 1.5, K = (0.01, 0.03), L = 255, in float32 (right to three digits where bright
    images are all but flat), the mean of all windows that lie inside the image, of each channel on its own. Errors as in `psnr`, and EvaluationError for images smaller than the window.
    """
    a, b = _pairs(images, reference)
    if a.dim() != 4 or min(a.shape[1:3]) < SSIM_WINDOW:
        raise EvaluationError(
            f"SSIM compares images (N, H, W, C) of at least {SSIM_WINDOW}x{SSIM_WINDOW} pixels, its window, but found"
            f" {tuple(a.shape)}; leave it out."
        )
    return float(_over_batches(_ssim, a, b).mean())


def _pairs(images: Images, reference: Images) -> tuple[Tensor, Tensor]:
    a, b = as_tensor(images), as_tensor(reference)
    if a.dtype != torch.uint8 or b.dtype != torch.uint8 or a.shape != b.shape or a.numel() == 0:
        raise EvaluationError(
            f"PSNR compares uint8 images of one shape, but found {a.dtype} {tuple(a.shape)} and {b.dtype} "
            f"{tuple(b.shape)}; give both sets from the same seeds, as uint8."
        )
    return a, b


def _over_batches(number: _Pairwise, a: Tensor, b: Tensor) -> Tensor:
    size = max(1, _VALUES // a[0].numel())
    return torch.cat([number(*batch) for batch in zip(torch.split(a, size), torch.split(b, size), strict=True)])


def _psnr(a: Tensor, b: Tensor) -> Tensor:
    mse = (a.double() - b.double()).square().flatten(1).mean(1)
    return (10 * torch.log10(255.0**2 / mse)).clamp(max=PSNR_CAP)


def _ssim(a: Tensor, b: Tensor) -> Tensor:
    from torchmetrics.functional.image import structural_similarity_index_measure  # seconds to import

    # Channels apart: torch convolves groups slowly, and float64 ten times more so.
    ours, theirs = (one.permute(0, 3, 1, 2).flatten(0, 1)[:, None].float() for one in (a, b))
    _, windows = structural_similarity_index_measure(
        ours, theirs, sigma=1.5, kernel_size=SSIM_WINDOW, data_range=255.0, return_full_image=True
    )
    edge = SSIM_WINDOW // 2  # torchmetrics pads; windows on padding are not in the paper
    inside: Tensor = windows[..., edge : windows.shape[-2] - edge, edge : windows.shape[-1] - edge]
    return inside.double().reshape(len(a), -1).mean(1)


def _lpips(network: Lpips) -> _Pairwise:
    return lambda a, b: network(a.permute(0, 3, 1, 2), b.permute(0, 3, 1, 2))
