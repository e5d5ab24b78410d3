"""The sampling loop: a Denoiser, a scheduler and a correction, one random generator for each image."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from dmq_cli.errors import NumericsError
from dmq_cli.models import Decoder, Denoiser
from dmq_cli.ops import generators, noise
from dmq_cli.sampling.guidance import UNGUIDED, Guide
from dmq_cli.sampling.scheduler import Scheduler


class Correction(Protocol):
    """Changes the sample before a network call, the estimate after it, and the noise that the step adds.

    The estimate is the guided one, or with `guide.halves` both halves side by side.
    `call` counts 0.. in the scheduler's own list. variance: the standard deviation of the step's fresh noise, given the
    scheduler's own `sigma` and `noise_gain`, the size of the coefficient by which an error of the estimate enters the next
    sample (both 0-dim, >= 0). Only the scheduler knows that coefficient, only the correction knows how large the error is.
    Returning `sigma` itself changes nothing, to the last bit. It may also have finish(sample), which changes the last sample.
    """

    def pre(self, sample: Tensor, call: int) -> Tensor: ...

    def post(self, eps: Tensor, call: int) -> Tensor: ...

    def variance(self, sigma: Tensor, noise_gain: Tensor, *, call: int) -> Tensor: ...


@dataclass(frozen=True)
class Step:
    """One network call: the sampler's x after `pre`, the estimate after `post`, and the x that follows.

    input: what the network read; it differs from sample only where the scheduler scales it (Euler). eps: with
    `guide.halves` both halves, (B, 2 C, H, W), before they are joined.
    """

    call: int
    timestep: int
    sample: Tensor
    input: Tensor
    eps: Tensor
    following: Tensor


def walk(
    denoiser: Denoiser,
    scheduler: Scheduler,
    seeds: Sequence[int],
    shape: Sequence[int],
    *,
    eta: float = 0.0,
    correction: Correction | None = None,
    guide: Guide = UNGUIDED,
    dtype: torch.dtype = torch.float32,
) -> Iterator[Step]:
    """Yield every call from noise to images. Image i depends on seeds[i] only, whatever the batch and earlier walks.

    denoiser: the network itself; guide: its conditions, and how the two estimates of guidance become one. Samples stay on the
    CPU, where the noise is drawn; a Denoiser moves them to its device and back. Raises NumericsError where the estimate is not
    finite.
    """
    image_generators, plan = generators(seeds), scheduler.fresh()
    sample = noise(shape, image_generators, dtype) * float(plan.init_noise_sigma)
    estimate, cond = guide.around(denoiser), guide.cond(seeds)
    for call, timestep in enumerate(plan.timesteps.tolist()):
        if correction is not None:
            sample = correction.pre(sample, call)
        network_input = plan.scale_model_input(sample, timestep)
        eps = estimate(network_input, torch.tensor([timestep]), cond)
        if not bool(eps.isfinite().all()):
            raise NumericsError(
                f"The noise estimate at timestep {timestep} (call {call}) has values that are not finite; check the weights and the quantization ranges."
            )
        if correction is not None:
            eps = correction.post(eps, call)
        extra = noise(shape, image_generators, dtype) if eta > 0 else None
        variance = None if correction is None else partial(correction.variance, call=call)
        following = plan.step(guide.join(eps), timestep, sample, eta=eta, noise=extra, variance=variance)
        if call + 1 == len(plan.timesteps):
            following = getattr(correction, "finish", _same)(following)
        yield Step(call, timestep, sample, network_input, eps, following)
        sample = following


def _same(sample: Tensor) -> Tensor:
    return sample


@torch.inference_mode()
def sample_images(steps: Iterator[Step], decode: Decoder | None = None) -> Tensor:
    """Walk to the end: images (B, C, H, W), clamped to [-1, 1] at the end only; samples of another shape as they are.

    decode: of a latent model.
    """
    last = deque(steps, maxlen=1).pop().following
    images = last if decode is None else decode(last)
    return images.clamp(-1, 1) if images.dim() == 4 else images


def batches(seeds: range, size: int) -> Iterator[range]:
    """Consecutive pieces of at most `size` seeds, the last one included."""
    return (seeds[start : start + size] for start in range(0, len(seeds), size))
