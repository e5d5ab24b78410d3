"""How scales learn while training: against the papers' formulas, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from dmq_cli.errors import ConfigError
from dmq_cli.ops import LsqStart
from dmq_cli.qat import Lsq, Nipq, Pact
from dmq_cli.qat.lsq import StepSize
from dmq_cli.qat.nipq import NoisyGrid, uniform_noise
from dmq_cli.qat.pact import ClippedGrid, FromMaximum, upper_end
from dmq_cli.quant import (
    Intervals,
    LowEnd,
    Nearest,
    PerStep,
    ScaleSource,
    Static,
    StepContext,
    StepMLP,
    TensorQuantizer,
    Uniform,
    source_of,
)
from tests.qat.runs import trained_network
from tests.tiny import one_sentence

GRID = Uniform(3, symmetric=True, narrow=True)
SCALE = 0.31
_WHOLE = torch.linspace(-2.13, 2.07, 81, dtype=torch.float64)
X = _WHOLE[((_WHOLE / SCALE).abs() <= 3) | ((_WHOLE / SCALE).abs() >= 3.5)]
"""Without those within half a code outside, where ops.fake_quant deviates from LSQ."""
ABOVE_ZERO = LowEnd(0, 7, learned=False)


def gradient(quantizer: TensorQuantizer, x: Tensor, parameter: Tensor) -> Tensor:
    """Of the sum of x quantized."""
    parameter.requires_grad_(True)
    (grad,) = torch.autograd.grad(quantizer(x).sum(), parameter)
    return grad


def lsq_gradient(x: Tensor, scale: float) -> Tensor:
    """Esser et al. 2020, eq. 3, summed."""
    u = x / scale
    inside = torch.round(u) - u
    return torch.where(u <= GRID.lo, float(GRID.lo), torch.where(u >= GRID.hi, float(GRID.hi), inside)).sum()


@pytest.mark.parametrize("weight", [True, False])
def test_a_step_size_has_the_gradient_of_lsq(weight: bool) -> None:
    source = Static(torch.tensor(SCALE, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64))
    quantizer = TensorQuantizer(GRID, StepSize(source, GRID.hi, weight), Nearest())
    x = X.expand(3, -1)
    features = x.numel() if weight else x[0].numel()
    expected = 3 * lsq_gradient(X, SCALE) / (features * GRID.hi) ** 0.5
    torch.testing.assert_close(gradient(quantizer, x, source.scale), expected)


CONTEXT = StepContext()
SOURCES: dict[str, Callable[[LowEnd | None], Static | PerStep | StepMLP]] = {
    "static": lambda low_end: Static(*_pair(()), low_end=low_end),
    "steps": lambda low_end: PerStep(CONTEXT, *_pair((4,)), low_end=low_end),
    "intervals": lambda low_end: Intervals(CONTEXT, *_pair((4,)), low_end=low_end),
    "network": lambda low_end: _network(low_end),
}
RANGES = {"scale": None, "low_fixed": LowEnd(0, 15, learned=False), "low_learned": LowEnd(0, 15, learned=True)}


def _pair(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    return torch.full(shape, 0.12, dtype=torch.float64), torch.full(shape, 2.0, dtype=torch.float64)


def _network(low_end: LowEnd | None) -> StepMLP:
    source = StepMLP(CONTEXT, 8, 6, 3, low_end=low_end).double()
    source.fill(*_pair(()))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # its last layer starts at zero, which no gradient passes
        for parameter in source.net:
            parameter.add_(0.1 * torch.randn(parameter.shape, dtype=torch.float64, generator=generator))
    return source


@pytest.mark.parametrize("ends", RANGES)
@pytest.mark.parametrize("kind", SOURCES)
def test_the_factor_of_lsq_is_on_the_whole_gradient_of_every_end(kind: str, ends: str) -> None:
    """A zero point that follows from the lower end and the scale carries a part of both gradients."""
    grid, source = Uniform(4), SOURCES[kind](RANGES[ends])
    x = nn.functional.silu(3 * torch.randn(4, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    parameters = source.learnable()

    def gradients(scale: nn.Module) -> tuple[Tensor, ...]:
        quantizer = TensorQuantizer(grid, scale, Nearest())
        with CONTEXT.at(torch.arange(4), torch.arange(4) * 250):
            return torch.autograd.grad((quantizer(x) - x).square().sum(), parameters)

    for parameter in parameters:
        parameter.requires_grad_(True)
    assert len(parameters) >= (2 if ends == "low_learned" else 1)
    balancing = StepSize(cast(ScaleSource, source), grid.hi, weight=False)
    plain, balanced = gradients(source), gradients(balancing)
    for whole, part in zip(plain, balanced, strict=True):
        assert whole.abs().max() > 0
        torch.testing.assert_close(part, whole / (50 * grid.hi) ** 0.5, rtol=1e-10, atol=1e-12)


def test_the_gradient_of_lsq_is_that_of_its_surrogate_by_finite_differences() -> None:
    """Where no code changes, s times a fixed code minus the part that moves with x / s."""
    step = 1e-7
    codes = torch.round(X / SCALE).clamp(GRID.lo, GRID.hi)
    inside = (X / SCALE).abs() <= GRID.hi

    def surrogate(s: float) -> Tensor:
        """codes(s0) moved by the straight-through part: round(x/s0) + x/s - x/s0 inside, the clipped code outside."""
        return (s * torch.where(inside, codes + X / s - X / SCALE, codes)).sum()

    numeric = (surrogate(SCALE + step) - surrogate(SCALE - step)) / (2 * step)
    source = Static(torch.tensor(SCALE, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64))
    analytic = gradient(TensorQuantizer(GRID, source, Nearest()), X, source.scale)
    torch.testing.assert_close(analytic, numeric, rtol=1e-6, atol=1e-6)


def test_lsq_starts_weights_at_twice_their_mean_magnitude() -> None:
    weight = torch.randn(2, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    scale, _ = GRID.parameters(*LsqStart().fit(weight, GRID))
    torch.testing.assert_close(scale, 2 * weight.abs().mean(1) / 3**0.5)


def pact(decay: float = 0.0) -> tuple[TensorQuantizer, Static]:
    """Values from -0.5 (three bits, the zero point 1) to 3."""
    source = Static(torch.tensor(0.5, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64), low_end=ABOVE_ZERO)
    return TensorQuantizer(ClippedGrid(Uniform(3)), source, Nearest()), source


def test_pact_gives_its_end_what_lies_beyond_it_and_nothing_else() -> None:
    quantizer, source = pact()
    x = torch.tensor([-1.0, -0.4, 0.2, 1.3, 2.9, 3.1, 7.0], dtype=torch.float64, requires_grad=True)
    per_end = 7  # the upper end is low + 7 s
    torch.testing.assert_close(gradient(quantizer, x, source.scale), torch.tensor(2.0 * per_end, dtype=torch.float64))
    (grad,) = torch.autograd.grad(quantizer(x).sum(), x)
    assert grad.tolist() == [0, 1, 1, 1, 1, 0, 0]


def test_pact_quantizes_as_the_grid_itself_and_keeps_values_below_zero() -> None:
    quantizer, source = pact()
    plain = TensorQuantizer(Uniform(3), source, Nearest())
    torch.testing.assert_close(quantizer(X * 2), plain(X * 2))
    assert float(quantizer(X * 2).min()) == -0.5


def test_pact_decays_its_ends() -> None:
    attached = trained_network()
    stand_ins = Pact(decay=0.5).start(attached)
    ends = [upper_end(q.grid, *source_of(q)(torch.zeros(()))) for q in stand_ins.activations]
    penalty = stand_ins.penalty()
    assert penalty is not None and len(ends) >= 20
    torch.testing.assert_close(penalty.detach(), 0.5 * torch.stack(ends).square().sum().detach())
    assert Pact(decay=0.0).start(attached).penalty() is None


def test_weights_of_pact_follow_their_greatest_magnitude() -> None:
    source = Static(torch.ones(2, 1, dtype=torch.float64), torch.zeros(2, 1, dtype=torch.float64))
    weight = torch.tensor([[1.0, -3.0], [0.6, 0.3]], dtype=torch.float64)
    scale, zero_point = FromMaximum(source, GRID)(weight)
    assert scale.tolist() == [[1.0], [pytest.approx(0.2)]] and not zero_point.any()


def test_noise_has_the_size_of_rounding_and_ends_get_gradients() -> None:
    source = Static(torch.tensor(0.5, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64))
    quantizer = TensorQuantizer(NoisyGrid(GRID), source, Nearest())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        errors = (quantizer(torch.full((20_000,), 0.3, dtype=torch.float64)) - 0.3) / 0.5
        outside = gradient(quantizer, torch.tensor([9.0, -9.0, 8.0], dtype=torch.float64), source.scale)
    assert abs(float(errors.detach().mean())) < 0.01 and float(errors.detach().abs().max()) <= 0.5
    assert float(errors.detach().var()) == pytest.approx(1 / 12, rel=0.05)
    assert float(outside) == GRID.hi + GRID.lo + GRID.hi


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_noise_is_uniform_without_neighbours_that_know_each_other(
    dtype: torch.dtype, layout: torch.memory_format
) -> None:
    like = torch.empty((9, 7, 31, 33), dtype=dtype).contiguous(memory_format=layout)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        noise, again = uniform_noise(like), uniform_noise(like)
    assert noise.dtype == dtype and noise.stride() == like.stride() and not torch.equal(noise, again)
    drawn = noise.double().as_strided((like.numel(),), (1,))
    assert float(drawn.min()) >= -0.5 and float(drawn.max()) <= 0.5
    shares = torch.histc(drawn, bins=16, min=-0.5, max=0.5) / len(drawn)
    assert float((shares - 1 / 16).abs().max()) < 5 * math.sqrt(1 / 16 / len(drawn))
    for apart in (1, 2, 3, 4):
        together = (drawn[apart:] * drawn[:-apart]).mean() * 12
        assert float(together.abs()) < 5 / math.sqrt(len(drawn))


@pytest.mark.parametrize("shape", [(), (1,), (3,), (0, 4)])
def test_noise_has_any_shape(shape: tuple[int, ...]) -> None:
    assert uniform_noise(torch.zeros(shape)).shape == shape


def test_noise_ends_with_the_training_and_while_it_is_judged() -> None:
    attached = trained_network()
    stand_ins = Nipq(rounded=0.25).start(attached)
    every = [*stand_ins.activations, *stand_ins.weights]
    assert len(every) >= 40 and all(isinstance(q.grid, NoisyGrid) for q in every)
    with stand_ins.rounding():
        assert not any(isinstance(q.grid, NoisyGrid) for q in every)
    stand_ins.progress(0.74)
    assert all(isinstance(q.grid, NoisyGrid) for q in every)
    stand_ins.progress(0.75)
    assert not any(isinstance(q.grid, NoisyGrid) for q in every)
    with stand_ins.rounding():
        pass
    assert not any(isinstance(q.grid, NoisyGrid) for q in every)


def test_stand_ins_leave_quantizers_as_they_were() -> None:
    attached = trained_network()
    before = [(q.grid, q.scale) for q in attached.quantizers().values()]
    for gradients in (Lsq(), Nipq()):
        gradients.start(attached).finish()
        assert [(q.grid, q.scale) for q in attached.quantizers().values()] == before


@pytest.mark.parametrize("make", [lambda: Pact(decay=-1.0), lambda: Nipq(rounded=1.5)])
def test_impossible_settings_are_refused(make: object) -> None:
    with pytest.raises(ConfigError) as caught:
        make()  # type: ignore[operator]
    one_sentence(caught.value)
