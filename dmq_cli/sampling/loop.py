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
from dmq_cli.models import Decoder, Denoiser, home
from dmq_cli.ops import CPU, generators, moved, noise
from dmq_cli.sampling.guidance import UNGUIDED, Guide
from dmq_cli.sampling.scheduler import Scheduler, on_device


class Correction(Protocol):
    """Changes the sample before a network call, the estimate after it, and the noise that the step adds.

    The estimate is the guided one, or with `guide.halves` both halves side by side.
    `call` counts 0.. in the scheduler's own list. variance: the standard deviation of the step's fresh noise, given the
    scheduler's own `sigma` and `noise_gain`, the size of the coefficient by which an error of the estimate enters the next
    sample (both 0-dim, >= 0). Only the scheduler knows that coefficient, only the correction knows how large the error is.
    Returning `sigma` itself changes nothing, to the last bit. It may also have finish(sample), which changes the last sample.
    """

    def pre(self, sample: Tensor, call: int) -> Tensor:
        """The sample that the network is called with."""
        ...

    def post(self, eps: Tensor, call: int) -> Tensor:
        """The estimate that the step is taken with."""
        ...

    def variance(self, sigma: Tensor, noise_gain: Tensor, *, call: int) -> Tensor:
        """The standard deviation of the noise that the step adds."""
        ...


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

    denoiser: the network itself; guide: its conditions, and how the two estimates of guidance become one. Samples are on its
    device from the first call on; noise is drawn on the CPU, the same for every device. Raises NumericsError where an estimate is
    not finite: at its call, or with the last one where samples are not on the CPU, so that nothing waits for the device before.
    """
    device, image_generators = home(denoiser), generators(seeds)
    plan = on_device(scheduler.fresh(), device)
    sample = moved(noise(shape, image_generators, dtype) * float(plan.init_noise_sigma), device)
    estimate, cond, finite = guide.around(denoiser), guide.cond(seeds, device), Finite()
    timesteps: list[int] = plan.timesteps.tolist()
    times = moved(torch.tensor(timesteps), device)[:, None]
    for call, (timestep, time) in enumerate(zip(timesteps, times, strict=True)):
        if correction is not None:
            sample = correction.pre(sample, call)
        network_input = plan.scale_model_input(sample, timestep)
        eps = estimate(network_input, time.clone(), cond)
        finite.see(eps, timestep)
        if correction is not None:
            eps = correction.post(eps, call)
        extra = moved(noise(shape, image_generators, dtype), device) if eta > 0 else None
        variance = None if correction is None else partial(correction.variance, call=call)
        following = plan.step(guide.join(eps), timestep, sample, eta=eta, noise=extra, variance=variance)
        if call + 1 == len(timesteps):
            finite.check()
            following = getattr(correction, "finish", _same)(following)
        yield Step(call, timestep, sample, network_input, eps, following)
        sample = following


class Finite:
    """Watches that the estimates of a walk are finite. Reading an answer makes the host wait for a device, so there they are read together."""

    def __init__(self) -> None:
        self._answers: list[Tensor] = []
        self._timesteps: list[int] = []

    def see(self, eps: Tensor, timestep: int) -> None:
        """Look at the estimate of the next call; on the CPU see `check`."""
        self._answers.append(eps.isfinite().all())
        self._timesteps.append(timestep)
        if eps.device == CPU:
            self.check()

    def check(self) -> None:
        """Raise NumericsError that names the first call whose estimate was not finite, if there is one since the last check."""
        answers = torch.stack(self._answers).tolist() if self._answers else []
        if not all(answers):
            call = len(self._timesteps) - len(answers) + answers.index(False)
            raise NumericsError(
                f"The noise estimate at timestep {self._timesteps[call]} (call {call}) has values that are not finite; check the weights and the quantization ranges."
            )
        self._answers.clear()


def _same(sample: Tensor) -> Tensor:
    return sample


@torch.inference_mode()
def sample_images(steps: Iterator[Step], decode: Decoder | None = None) -> Tensor:
    """Walk to the end: images (B, C, H, W) on the CPU, clamped to [-1, 1] at the end only; samples of another shape as they are.

    decode: of a latent model.
    """
    last = deque(steps, maxlen=1).pop().following
    images = (last if decode is None else decode(last)).cpu()
    return images.clamp(-1, 1) if images.dim() == 4 else images
