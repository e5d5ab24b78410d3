from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from dmq_cli.errors import NumericsError
from dmq_cli.models import Denoiser, ModelDenoiser
from dmq_cli.sampling import batches, sample_images, walk
from tests.tiny import SHAPE, adapter, one_sentence, scheduler

DOUBLE = torch.float64


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_an_image_does_not_depend_on_its_batch(eta: float) -> None:
    def images(denoiser: Denoiser, seeds: range) -> Tensor:
        steps = list(walk(denoiser, scheduler(3), seeds, SHAPE, eta=eta, dtype=DOUBLE))
        assert torch.equal(sample_images(iter(steps)), steps[-1].following.clamp(-1, 1))
        return steps[-1].following

    # convolutions add up in another order for another batch size, so only the toy is the same to the last bit
    for denoiser, error in ((toy, 0.0), (ModelDenoiser(adapter()), 1e-11)):
        whole = images(denoiser, range(40, 47))
        assert whole.shape == (7, *SHAPE) and len({tuple(x.flatten().tolist()) for x in whole}) == 7
        for size in (1, 2, 3):
            parts = torch.cat([images(denoiser, batch) for batch in batches(range(40, 47), size)])
            assert torch.allclose(parts, whole, rtol=error, atol=0)


def toy(sample: Tensor, timestep: Tensor, cond: object = None) -> Tensor:
    return 0.3 * sample + timestep.double() / 1000


class Shift:
    """A correction that notes what it is given."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []

    def pre(self, sample: Tensor, call: int) -> Tensor:
        self.seen.append(("pre", call))
        return sample - 0.1 * call

    def post(self, eps: Tensor, call: int) -> Tensor:
        self.seen.append(("post", call))
        return eps * (1 + call)

    def variance(self, sigma: Tensor, noise_gain: Tensor, call: int) -> Tensor:
        self.seen.append(("variance", call))
        return sigma * 0.5**call


@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_the_walk_written_out(eta: float) -> None:
    plan, shift = scheduler(4, spacing="quad"), Shift()
    steps = list(walk(toy, plan, range(2), (1, 2, 2), eta=eta, correction=shift, dtype=DOUBLE))
    assert shift.seen == [(kind, call) for call in range(4) for kind in ("pre", "post", "variance")]
    rngs = [torch.Generator().manual_seed(seed) for seed in range(2)]

    def draw() -> Tensor:
        return torch.stack([torch.randn(1, 2, 2, generator=g, dtype=DOUBLE) for g in rngs])

    x = draw()
    for call, (step, timestep) in enumerate(zip(steps, plan.timesteps.tolist(), strict=True)):
        x = x - 0.1 * call
        eps = (0.3 * x + timestep / 1000) * (1 + call)
        assert (step.call, step.timestep) == (call, timestep)
        assert torch.allclose(step.sample, x, rtol=1e-13) and torch.allclose(step.eps, eps, rtol=1e-12, atol=1e-13)
        extra = draw() if eta else None
        x = plan.step(eps, timestep, x, eta=eta, noise=extra, variance=partial(shift.variance, call=call))
        assert torch.allclose(step.following, x, rtol=1e-12, atol=1e-13)


def test_only_the_final_image_is_clamped() -> None:
    steps = list(walk(lambda x, _t, _c=None: -x, scheduler(3), range(2), SHAPE))
    assert all(float(step.following.abs().max()) > 1 for step in steps)
    images = sample_images(iter(steps))
    assert torch.equal(images, steps[-1].following.clamp(-1, 1)) and float(images.abs().max()) == 1


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_an_estimate_that_is_not_finite_is_an_error(bad: float) -> None:
    def denoiser(sample: Tensor, timestep: Tensor, cond: object = None) -> Tensor:
        eps = 0 * sample
        if int(timestep) == 250:
            eps[1, 0, 0, 0] = bad
        return eps

    calls = []
    with pytest.raises(NumericsError, match=r"at timestep 250 \(call 2\)") as caught:
        for step in walk(denoiser, scheduler(4), range(2), SHAPE):
            calls.append(step.call)
    assert calls == [0, 1]
    one_sentence(caught.value)


def test_batches_hold_every_seed_once() -> None:
    ranges = list(batches(range(5, 16), 4))
    assert ranges == [range(5, 9), range(9, 13), range(13, 16)]
