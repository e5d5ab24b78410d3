"""The lower end of learned ranges: where it goes, its gradients, and what is left of it for sampling."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dmq_cli.errors import SchemeError
from dmq_cli.quant import (
    Ends,
    Grid,
    IntervalScale,
    Log2,
    MlpScale,
    Nearest,
    PerStepScale,
    ScaleKind,
    Slot,
    StaticScale,
    StepContext,
    TensorQuantizer,
    Uniform,
    source_of,
)
from dmq_cli.recon.learning import descend
from dmq_cli.recon.scales import Scales
from dmq_cli.wrap import Rule, Scheme
from tests.tiny import one_sentence

TIMESTEPS = torch.tensor([990, 700, 300, 10])
KINDS: list[ScaleKind] = [StaticScale(), PerStepScale(), IntervalScale(5), MlpScale()]
KEPT: list[Ends] = ["low_fixed", "low_learned"]
LOW, HIGH = -0.28, 5.0
DOUBLE = torch.float64


def made(kind: ScaleKind, ends: Ends, grid: Grid | None = None) -> TensorQuantizer:
    """A quantizer of four bits on the range of a SiLU."""
    slot = Slot(grid or Uniform(4), StepContext(), TIMESTEPS, (), ends)
    quantizer = TensorQuantizer(slot.grid, kind.build(slot).double(), Nearest())
    source, low = source_of(quantizer), torch.tensor(LOW, dtype=DOUBLE)
    groups = max(source.groups, 1)
    pair = quantizer.grid.parameters(low.expand(groups), torch.tensor(HIGH, dtype=DOUBLE).expand(groups))
    source.fill(*pair, low.expand(groups))
    return quantizer


def at(quantizer: TensorQuantizer, x: Tensor) -> Tensor:
    """x quantized at the second of the steps."""
    context = getattr(quantizer.scale, "context", StepContext())
    with context.at(torch.tensor([1]), torch.tensor([700])):
        y: Tensor = quantizer(x)
    return y


def shrink(quantizer: TensorQuantizer, factor: float) -> None:
    """Scales of this many times their size, by what learns."""
    source = source_of(quantizer)
    with torch.no_grad():
        for scale, _ in source.bounds():
            scale.mul_(factor)
        if not source.bounds():  # a network: its last bias, through the softplus that is 1 at 0
            bias = source.learnable()[-1]
            bias[0] = np.log(np.expm1(factor)) - np.log(np.e - 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("factor", [0.3, 0.5, 0.8, 1.0, 1.7])
def test_the_lower_end_stays_where_calibration_put_it(kind: ScaleKind, factor: float) -> None:
    x = torch.tensor([[-1.0, LOW, 0.0, 1.0]], dtype=DOUBLE)
    scale = (HIGH - LOW) / 15 * factor
    zero = np.clip(np.round(-LOW / scale), 0, 15)
    for ends in KEPT:
        quantizer = made(kind, ends)
        shrink(quantizer, factor)
        y = at(quantizer, x)
        expected = (np.clip(np.round(x.numpy() / scale) + zero, 0, 15) - zero) * scale
        np.testing.assert_allclose(y.detach(), expected, rtol=1e-9, atol=1e-12)
        assert abs(float(y.min()) - LOW) <= scale / 2 + 1e-9, "the negative lobe is not clipped"
    moving = made(kind, "scale")
    shrink(moving, factor)
    assert float(at(moving, x).min()) == pytest.approx(-scale, rel=1e-9)  # the zero point stays at 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ends", KEPT)
def test_it_starts_as_calibration_left_it(kind: ScaleKind, ends: Ends) -> None:
    x = torch.linspace(-1, 6, 50, dtype=DOUBLE)[None]
    moving, anchored = made(kind, "scale"), made(kind, ends)
    assert torch.equal(at(moving, x), at(anchored, x))


def test_a_lower_end_that_rounds_to_zero_is_not_forgotten() -> None:
    """-0.28 with a scale of 0.7 has the zero point 0; once the scale is 0.3, it is 1."""
    quantizer = made(StaticScale(), "low_fixed")
    source_of(quantizer).fill(*(torch.tensor(v, dtype=DOUBLE) for v in (0.7, 0.0, LOW)))
    x = torch.tensor([[LOW]], dtype=DOUBLE)
    assert float(quantizer(x)) == 0
    shrink(quantizer, 0.3 / 0.7)
    assert float(quantizer(x)) == pytest.approx(-0.3)


@pytest.mark.parametrize("kind", KINDS[:3])
def test_gradients_move_the_end_that_clips(kind: ScaleKind) -> None:
    """Where values are clipped the output is an end of the range: low, or low + 15 scale; and the residual of rounding the zero
    point, as a value inside of the range has its own."""
    real = -LOW / ((HIGH - LOW) / 15)
    residual = real - round(real)
    for ends in KEPT:
        quantizer = made(kind, ends)
        source = source_of(quantizer)
        for parameter in source.learnable():
            parameter.requires_grad_(True)
        for value, by_scale in ((-4.0, 0.0), (50.0, 15.0)):
            source_of(quantizer).zero_grad()  # type: ignore[attr-defined]
            at(quantizer, torch.tensor([[value]], dtype=DOUBLE)).sum().backward()  # type: ignore[no-untyped-call]
            scale, *low = source.learnable()
            assert scale.grad is not None and float(scale.grad.sum()) == pytest.approx(by_scale + residual, abs=1e-9)
            assert [float(end.grad.sum()) for end in low if end.grad is not None] == pytest.approx([1.0] * len(low))
        assert len(source.low_ends()) == (ends == "low_learned")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ends", KEPT)
def test_what_samples_is_the_same_without_the_lower_end(kind: ScaleKind, ends: Ends) -> None:
    quantizer = made(kind, ends)
    with torch.no_grad():
        for number, parameter in enumerate(source_of(quantizer).learnable()):
            generator = torch.Generator().manual_seed(number)
            parameter.add_(0.03 * torch.randn(parameter.shape, generator=generator).to(parameter))
    x = torch.linspace(-1, 6, 200, dtype=DOUBLE).view(4, 50)
    context = getattr(quantizer.scale, "context", StepContext())
    for timesteps in (TIMESTEPS, TIMESTEPS[:1].expand(4)):
        with context.at(torch.arange(4), timesteps):
            learned = quantizer(x)
            frozen = TensorQuantizer(quantizer.grid, source_of(quantizer).frozen(), Nearest())
            assert torch.allclose(
                learned.detach(), frozen(x).detach(), rtol=1e-12, atol=0
            )  # of a network: batches of 4 and 1,000
    state = frozen.state_dict()
    assert "scale.low" not in state and torch.equal(state["scale.zero_point"], state["scale.zero_point"].round())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("grid", [Uniform(4, symmetric=True), Uniform(4, from_zero=True), Log2(4)])
def test_grids_whose_zero_point_is_0_have_no_lower_end(kind: ScaleKind, grid: Grid) -> None:
    quantizer = made(kind, "low_learned", grid)
    assert "scale.low" not in quantizer.state_dict() and source_of(quantizer).low_ends() == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ends", ["scale", *KEPT])
def test_learning_recovers_a_planted_range(kind: ScaleKind, ends: Ends) -> None:
    """The upper end of calibration is three times too high; the loss is that of the quantizer alone. Kept ends are closer."""
    x = torch.nn.functional.silu(3 * torch.randn(4, 500, generator=torch.Generator().manual_seed(1), dtype=DOUBLE) / 2)
    quantizer = made(kind, ends)
    shrink(quantizer, 3.0)
    learner = Scales(lr=0.02).start([quantizer], 150)
    assert learner is not None
    context = getattr(quantizer.scale, "context", StepContext())

    def error() -> Tensor:
        with context.at(torch.arange(4), TIMESTEPS):
            squared: Tensor = (quantizer(x) - x).square()
        return squared.mean()

    before = float(error().detach())
    for _ in range(150):
        learner.optimizer.zero_grad()
        error().backward()  # type: ignore[no-untyped-call]
        learner.optimizer.step()
        learner.settle()
    learner.finish()
    after = float(error().detach())
    assert after < 0.3 * before
    assert not any(parameter.requires_grad for parameter in nn.ModuleList([quantizer]).parameters())
    y = at(quantizer, torch.full((1, 1), LOW, dtype=DOUBLE))
    assert ends == "scale" or float(y.detach()) < -0.1


def test_a_scheme_says_it_for_all_activations_and_a_rule_for_some() -> None:
    scheme = Scheme([Rule("*", bits=4), Rule("*.input", range="low_learned")], range="low_fixed")
    assert (scheme + Scheme([])).range == "low_fixed"
    with pytest.raises(SchemeError, match=r"high.*low_fixed") as caught:
        Scheme([], range="high")  # type: ignore[arg-type]
    one_sentence(caught.value)
    with pytest.raises(SchemeError, match=r"high.*low_fixed"):
        Scheme([Rule("*", range="high")])  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS[:3], ids=lambda kind: type(kind).__name__)
def test_a_lower_end_that_a_step_took_above_zero_comes_back(kind: ScaleKind) -> None:
    """Above zero the zero point is the lowest code, whatever the lower end: all values below zero are lost, and no gradient says so."""
    quantizer = made(kind, "low_learned")
    values = torch.randn(512, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    (low,) = source_of(quantizer).low_ends()
    with torch.no_grad():
        low.fill_(0.6)
    learner = Scales(lr=0.01, decay=False).start([quantizer], 300)
    assert learner is not None
    for iteration in range(300):
        loss = (at(quantizer, values) - values).square().mean()
        descend([learner], loss, iteration, "It", "something")
        assert float(low.detach().max()) <= 0
    assert float(low.detach().min()) < -1.5 and float(loss.detach()) < 0.02
