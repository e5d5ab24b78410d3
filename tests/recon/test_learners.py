from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dmq_cli.errors import ConfigError
from dmq_cli.quant import (
    Dynamic,
    DynamicScale,
    FixedRound,
    MlpScale,
    Nearest,
    PerStep,
    SignRound,
    SoftRound,
    Static,
    StepMLP,
    TensorQuantizer,
    Uniform,
)
from dmq_cli.recon import AdaRound, Pass, Reconstruction, Scales, SignSteps
from dmq_cli.recon.learners import Learner
from dmq_cli.recon.learning import descend
from dmq_cli.wrap import Rule, state
from tests.recon.runs import ACTIVATIONS, FEW_UNITS, NUM, PER_STEP, SMALL_ACTIVATIONS, SMALL_WEIGHTS, few, run, small
from tests.tiny import TIMESTEPS, one_sentence

BITS, TOP = 3, 7
DYNAMIC = (Rule("*.input", scale=DynamicScale()), Rule("attn.q|attn.k|attn.v|attn.prob", scale=DynamicScale()))


class Layer:
    """A linear layer of eight outputs with a weight of 3 bits, the data it sees and the outputs it should give."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        self.weight, self.x = (torch.randn(n, 12, generator=generator, dtype=torch.float64) for n in (8, 16))
        low, high = self.weight.amin(1, keepdim=True), self.weight.amax(1, keepdim=True)
        self.scale = (high - low) / TOP
        self.zero_point = torch.round(-low / self.scale)
        self.quantizer = TensorQuantizer(Uniform(BITS), Static(self.scale, self.zero_point), Nearest())
        self.quantizer.requires_grad_(False)
        self.weights = {"weight": (self.quantizer, self.weight)}

    def loss(self, quantized: Tensor) -> Tensor:
        """Mean over samples of the squared distance."""
        return ((self.x @ quantized.T - self.x @ self.weight.T) ** 2).sum(1).mean()

    def descend(self, learner: Learner, iterations: int) -> Iterator[tuple[int, float]]:
        for iteration in range(iterations):
            yield iteration, descend([learner], self.loss(self.quantizer(self.weight)), iteration, "It", "something")[0]


def test_adaround_equals_the_loop_of_the_paper_step_for_step() -> None:
    layer, iterations, rate, weight = Layer(), 40, 0.05, 0.02
    learner = AdaRound(lr=rate, regulariser=weight, warmup=0.25, beta=(20.0, 2.0)).start(layer.weights, iterations)
    rounding = layer.quantizer.rounding
    assert isinstance(rounding, SoftRound)
    history = [(loss, rounding.alpha.detach().clone()) for _, loss in layer.descend(learner, iterations)]
    learner.finish()

    down = torch.floor(layer.weight / layer.scale)
    alpha = -torch.log(1.2 / (layer.weight / layer.scale - down + 0.1) - 1)
    mean, square = torch.zeros_like(alpha), torch.zeros_like(alpha)
    for i in range(iterations):
        alpha.requires_grad_(True)
        h = torch.clamp(1.2 / (1 + torch.exp(-alpha)) - 0.1, 0, 1)
        loss = layer.loss(layer.scale * (torch.clamp(down + h + layer.zero_point, 0, TOP) - layer.zero_point))
        if i >= 10:
            loss = loss + weight * (1 - (2 * h - 1).abs() ** (20 - 18 * (i - 10) / 29)).sum()
        (slope,) = torch.autograd.grad(loss, alpha)
        mean, square = 0.9 * mean + 0.1 * slope, 0.999 * square + 0.001 * slope**2
        step = mean / (1 - 0.9 ** (i + 1)) / ((square / (1 - 0.999 ** (i + 1))).sqrt() + 1e-8)
        alpha = alpha.detach() - rate * step
        assert history[i][0] == pytest.approx(float(loss.detach()), rel=1e-8, abs=1e-12)
        assert torch.allclose(history[i][1], alpha, rtol=1e-7, atol=1e-9)
    codes = torch.clamp(down + (alpha >= 0) + layer.zero_point, 0, TOP)
    assert isinstance(layer.quantizer.rounding, FixedRound)
    assert torch.equal(layer.quantizer(layer.weight), (codes - layer.zero_point) * layer.scale)
    nearest = torch.clamp(torch.round(layer.weight / layer.scale) + layer.zero_point, 0, TOP)
    assert not torch.equal(codes, nearest)
    assert layer.loss(layer.quantizer(layer.weight)) < layer.loss((nearest - layer.zero_point) * layer.scale)


def test_without_regulariser_there_is_no_penalty() -> None:
    layer = Layer()
    assert AdaRound(regulariser=0.0, warmup=0.0).start(layer.weights, 9).penalty(8) is None
    warm = AdaRound(warmup=0.5).start(layer.weights, 9)
    assert [warm.penalty(i) is None for i in range(9)] == [True] * 4 + [False] * 5


@pytest.mark.parametrize("lr", [None, 0.04, 10.0])
def test_offsets_move_by_the_sign_of_their_gradient_and_the_best_are_kept(lr: float | None) -> None:
    layer, iterations = Layer(), 8
    learner, history = SignSteps(lr).start(layer.weights, iterations), list[tuple[float, Tensor]]()
    rounding = layer.quantizer.rounding
    assert isinstance(rounding, SignRound)
    for i in range(iterations):
        before, rate = rounding.offset.detach().clone(), (lr or 1 / iterations) * (1 - i / iterations)
        codes = torch.round(layer.weight / layer.scale + before) + layer.zero_point
        quantized = ((codes.clamp(0, TOP) - layer.zero_point) * layer.scale).requires_grad_(True)
        (slope,) = torch.autograd.grad(layer.loss(quantized), quantized)
        loss, _ = descend([learner], layer.loss(layer.quantizer(layer.weight)), i, "It", "something")
        assert loss == pytest.approx(float(layer.loss(quantized.detach())), rel=1e-12)
        inside = (codes >= 0) & (codes <= TOP)
        after = (before - rate * slope.sign() * inside).clamp(-0.5, 0.5)
        assert torch.allclose(rounding.offset, after, rtol=0, atol=1e-15)
        assert int(inside.sum()) > 80 and bool((after[inside].abs() == 0.5).all() if lr == 10.0 else after.any())
        history.append((loss, codes.clamp(0, TOP)))
    learner.finish()
    assert isinstance(layer.quantizer.rounding, FixedRound)
    _, best = min(history, key=lambda pair: pair[0])
    assert torch.equal(layer.quantizer(layer.weight), (best - layer.zero_point) * layer.scale)


def test_ends_of_ranges_move_by_the_sign_of_their_gradient_and_the_best_are_kept() -> None:
    """AutoRound's min_scale and max_scale, written down once more with autograd over them."""
    layer, iterations = Layer(), 8
    low, high = -layer.zero_point * layer.scale, (TOP - layer.zero_point) * layer.scale
    learner, history = SignSteps(ranges=True).start(layer.weights, iterations), []
    v = torch.zeros_like(layer.weight)
    alpha, beta = torch.ones_like(low), torch.ones_like(high)

    def through(x: Tensor) -> Tensor:
        return (x.round() - x).detach() + x

    def by_hand() -> Tensor:
        scale = (beta * high - alpha * low) / TOP
        zero = through(-alpha * low / scale)
        return scale * ((through(layer.weight / scale + v) + zero).clamp(0, TOP) - zero)

    for i in range(iterations):
        for parameter in (v, alpha, beta):
            parameter.requires_grad_(True)
        loss = layer.loss(by_hand())
        slopes = torch.autograd.grad(loss, (v, alpha, beta))
        history.append((float(loss.detach()), by_hand().detach()))
        learner_loss, _ = descend([learner], layer.loss(layer.quantizer(layer.weight)), i, "It", "something")
        assert learner_loss == pytest.approx(history[-1][0], rel=1e-9)
        rate = (1 - i / iterations) / iterations
        v = (v.detach() - rate * slopes[0].sign()).clamp(-0.5, 0.5)
        alpha, beta = (
            (x.detach() - rate * g.sign()).clamp(0, 1) for x, g in zip((alpha, beta), slopes[1:], strict=True)
        )
    assert float(alpha.min()) < 1 and float(beta.min()) < 1, "some end moved"
    learner.finish()
    _, best = min(history, key=lambda pair: pair[0])
    assert isinstance(layer.quantizer.scale, Static) and isinstance(layer.quantizer.rounding, FixedRound)
    assert torch.allclose(layer.quantizer(layer.weight), best, rtol=1e-9, atol=1e-12)


def test_grids_with_zero_at_0_keep_their_ranges() -> None:
    quantizer = TensorQuantizer(Uniform(4, symmetric=True), Static(0.1), Nearest())
    weight = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    learner = SignSteps(ranges=True).start({"w": (quantizer, weight)}, 3)
    assert isinstance(quantizer.scale, Static)
    learner.finish()
    assert float(quantizer.scale.scale) == pytest.approx(0.1)


def test_signround_starts_as_nearest_bit_for_bit() -> None:
    attached, count = small(), 0
    for name, quantizer, weight, _ in attached.weight_pieces():
        before = quantizer(weight)
        learner = SignSteps().start({name: (quantizer, weight)}, 5)
        assert isinstance(quantizer.rounding, SignRound) and torch.equal(quantizer(weight), before)
        learner.finish()
        assert isinstance(quantizer.rounding, FixedRound) and torch.equal(quantizer(weight), before)
        count += 1
    assert count == SMALL_WEIGHTS


def test_signround_lowers_the_loss_of_a_layer() -> None:
    layer = Layer()
    before = float(layer.loss(layer.quantizer(layer.weight)))
    learner = SignSteps().start(layer.weights, 60)
    losses = [loss for _, loss in layer.descend(learner, 60)]
    learner.finish()
    after = float(layer.loss(layer.quantizer(layer.weight)))
    assert (
        losses[0] == pytest.approx(before)
        and after == pytest.approx(min(losses))
        and after < 0.95 * before < losses[-1]
    )


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("rules", [(), (PER_STEP,)])
def test_the_first_step_of_a_scale(relative: bool, rules: tuple[Rule, ...], tmp_path: Path) -> None:
    """Adam's first step is its learning rate, whatever the gradient."""
    attached, lr = small(*rules), 1e-3
    before = {name: q.scale.scale.detach().clone() for name, q in attached.quantizers().items()}  # type: ignore[operator]
    scale_pass = Pass(1, scales=Scales(lr=lr, relative=relative))
    run(Reconstruction({"scales": scale_pass}, batch_size=NUM), attached, tmp_path)
    for name, quantizer in attached.quantizers(*ACTIVATIONS).items():
        moved = (quantizer.scale.scale - before.pop(name)).abs()  # type: ignore[operator]
        start = quantizer.scale.scale.detach()  # type: ignore[operator]
        assert isinstance(quantizer.scale, PerStep if rules and "input" in name else Static)
        assert moved.shape == ((len(TIMESTEPS),) if isinstance(quantizer.scale, PerStep) else ())
        expected = torch.full_like(moved, lr * (float(start.mean()) if relative else 1.0))
        if rules and name == "time_embedding.linear_1.input_quantizer":
            expected[3] = 0.0  # timestep 0: sines and cosines of 0 are on the grid, and there is no gradient
        assert torch.allclose(moved, expected, rtol=5e-3, atol=1e-5 * float(expected.max())), name
    assert len(before) == SMALL_WEIGHTS  # the others moved
    assert all(torch.equal(q.scale.scale, before[n]) for n, q in attached.quantizers("weight").items())  # type: ignore[arg-type]


def test_learning_rates_fall_to_zero_along_half_a_cosine() -> None:
    layer, iterations, source = Layer(), 10, Static(torch.tensor(0.5))
    quantizer = TensorQuantizer(Uniform(8), source, Nearest())
    learners = [
        Scales(lr=0.01).start([quantizer], iterations),
        AdaRound(lr=0.02, decay=True).start(layer.weights, iterations),
    ]
    for learner, lr in zip(learners, (0.01 * 0.5, 0.02), strict=True):
        assert learner is not None and learner.scheduler is not None
        for i in range(iterations + 1):
            assert learner.optimizer.param_groups[0]["lr"] == pytest.approx(
                lr * (1 + math.cos(math.pi * i / iterations)) / 2, abs=1e-15
            )
            learner.optimizer.step()
            learner.scheduler.step()
    flat = [Scales(lr=0.01, decay=False).start([quantizer], 9), AdaRound().start(layer.weights, 9)]
    assert [flat_learner.scheduler for flat_learner in flat if flat_learner is not None] == [None, None]


def test_a_scale_stays_positive() -> None:
    quantizer = TensorQuantizer(Uniform(8), Static(torch.tensor(0.5, dtype=torch.float64)), Nearest())
    learner = Scales(lr=10.0, relative=False).start([quantizer], 3)
    assert learner is not None
    descend([learner], quantizer(torch.tensor([0.4], dtype=torch.float64)).sum(), 0, "It", "something")
    assert float(quantizer.scale.scale.detach()) == 1e-8  # type: ignore[operator]


def test_networks_of_scales_learn(tmp_path: Path) -> None:
    attached = few(Rule("*.input", scale=MlpScale(dim=8, width=6)))
    before, sources = state(attached), [q.scale for q in attached.quantizers("input").values()]
    losses = run(Reconstruction({"scales": Pass(4, scales=Scales(lr=0.01))}, batch_size=4), attached, tmp_path)
    after = state(attached)
    still = {key for key, value in before.items() if torch.equal(value, after[key])}
    nets = {key for key in before if ".scale.net." in key}
    assert len(nets) == 8 * len(sources) and len(sources) == 1 + 4 + 2 * 5 + 1 and not nets & still
    assert {key for key in still if "input" in key} == {k for k in before if "input" in k} - nets
    for source in sources:
        assert isinstance(source, StepMLP) and not any(p.requires_grad for p in source.parameters())
        assert len(set(source.scales(TIMESTEPS).tolist())) == len(TIMESTEPS), "a scale of its own for every step"
    assert list(losses["scales"]) == FEW_UNITS


def test_dynamic_scales_have_nothing_to_learn_and_are_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attached, other = (small(*DYNAMIC, fit=False) for _ in range(2))
    assert sum(isinstance(q.scale, Dynamic) for q in attached.quantizers().values()) == SMALL_ACTIVATIONS
    monkeypatch.setattr("dmq_cli.recon.units.capture", None)
    losses = run(Reconstruction({"scales": Pass(3, scales=Scales())}), attached, tmp_path)
    assert losses == {"scales": {}} and list(tmp_path.iterdir()) == []
    left, right = state(attached), state(other)
    assert left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


@pytest.mark.parametrize(
    ("kind", "fields", "words"),
    [
        *((AdaRound, options, "AdaRound was asked for lr=.*; lr and beta are positive") for options in (
            {"lr": 0.0}, {"regulariser": -1.0}, {"warmup": 1.1}, {"warmup": -0.1}, {"beta": (20.0, 0.0)},
        )),
        (SignSteps, {"lr": 0.0}, "SignSteps was asked for lr=0.0; use a positive number, or null for 1 / iterations"),
        (Scales, {"lr": -1.0}, "Scales were asked for lr=-1.0; use a positive number"),
    ],
)  # fmt: skip
def test_settings_of_learners_that_cannot_be(kind: Any, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        kind(**fields)
    one_sentence(caught.value)


def test_learners_together_take_the_steps_they_take_alone() -> None:
    """Two learners on two layers, one loss that is the sum: neither sees the other."""
    alone, together = ([Layer(), Layer()] for _ in range(2))
    kinds: list[Any] = [AdaRound(lr=0.05, warmup=0.0), SignSteps()]
    for kind, layer in zip(kinds, alone, strict=True):
        for _ in layer.descend(kind.start(layer.weights, 6), 6):
            pass
    learners = [kind.start(layer.weights, 6) for kind, layer in zip(kinds, together, strict=True)]
    for i in range(6):
        descend(
            learners,
            sum((linear.loss(linear.quantizer(linear.weight)) for linear in together), torch.zeros(())),
            i,
            "It",
            "x",
        )
    for linear, other in itertools.chain(zip(alone, together, strict=True)):
        pairs = zip(linear.quantizer.rounding.parameters(), other.quantizer.rounding.parameters(), strict=True)
        assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in pairs)
