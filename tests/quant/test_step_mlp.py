"""TDQ's network of the timestep: equation 8, its start at the static scale, and the table it leaves behind."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from dmq_cli.quant import Intervals, MlpScale, Nearest, Static, StepContext, StepMLP, TensorQuantizer, Uniform
from dmq_cli.quant.step_mlp import encode

X = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
EVERY = torch.arange(1000)
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def filled(dtype: torch.dtype = torch.float64, layers: int = 4) -> tuple[StepContext, StepMLP]:
    context = StepContext()
    source = StepMLP(context, layers=layers).to(dtype)
    source.fill(torch.tensor([0.0237], dtype=dtype), torch.tensor([117.0], dtype=dtype))
    return context, source


def trained(dtype: torch.dtype = torch.float64) -> tuple[StepContext, StepMLP]:
    """A network that has moved: every parameter is another."""
    context, source = filled(dtype)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in source.learnable():
            parameter.add_(torch.randn(parameter.shape, generator=generator).to(dtype) / 10)
    return context, source


@pytest.mark.parametrize(("dim", "period"), [(2, 10_000.0), (6, 10_000.0), (64, 10_000.0), (8, 100.0)])
def test_the_encoding_is_equation_8(dim: int, period: float) -> None:
    timesteps = [0, 1, 17, 500, 999, 4321]
    printed = np.array(
        [[f(t / period ** (2 * i / dim)) for i in range(dim // 2) for f in (math.sin, math.cos)] for t in timesteps]
    )
    encoding = encode(torch.tensor(timesteps), dim, period)
    assert encoding.shape == (6, dim) and encoding.dtype == torch.float64
    sines, cosines = printed[:, 0::2], printed[:, 1::2]
    np.testing.assert_allclose(encoding, np.concatenate([sines, cosines], axis=1), rtol=0, atol=1e-12)


def test_the_scale_is_the_formula() -> None:
    _, source = trained()
    value = encode(EVERY, 64, 10_000.0).numpy()
    pairs = [p.detach().numpy() for p in source.learnable()]
    assert [p.shape for p in pairs[::2]] == [(64, 64), (64, 64), (64, 64), (1, 64)]
    for number in range(4):
        value = value @ pairs[2 * number].T + pairs[2 * number + 1]
        value = np.maximum(value, 0) if number < 3 else np.log1p(np.exp(value + np.log(np.e - 1)))
    np.testing.assert_allclose(source.scales(EVERY).detach(), 0.0237 * value[:, 0], rtol=1e-12)


@DTYPES
@pytest.mark.parametrize("layers", [1, 2, 4, 8])
def test_it_starts_as_the_static_scale_at_every_timestep(dtype: torch.dtype, layers: int) -> None:
    context, source = filled(dtype, layers)
    assert torch.equal(source.scales(EVERY), torch.full((1000,), 0.0237, dtype=dtype))
    static = Static(torch.tensor(0.0237, dtype=dtype), 117.0)
    mlp, plain = (TensorQuantizer(Uniform(8), scale, Nearest()) for scale in (source, static))
    with context.at(torch.tensor([0]), torch.tensor([3, 1, 999, 500, 501])):
        assert torch.equal(mlp(X.to(dtype)), plain(X.to(dtype)))


def test_a_frozen_network_is_the_live_one_bit_for_bit_in_single_precision() -> None:
    context, source = trained(torch.float32)
    table, x = source.frozen(), torch.ones(1, 1)
    assert isinstance(table, Intervals) and table.groups == 1000 and table.context is context
    assert len(set(table.scale.tolist())) > 900, "the scales must change for the comparison to mean something"
    for timestep in EVERY:
        with context.at(torch.tensor([0]), timestep[None]):
            for live, frozen in zip(source(x), table(x), strict=True):
                assert torch.equal(live.flatten(), frozen.flatten())
    with context.at(torch.tensor([0]), EVERY):
        assert torch.equal(source(torch.ones(1000, 1))[0], table(torch.ones(1000, 1))[0])


def test_a_frozen_network_is_the_live_one_up_to_a_few_ulp_in_double_precision() -> None:
    context, source = trained(torch.float64)
    table = source.frozen()
    for timestep in EVERY[::7]:
        with context.at(torch.tensor([0]), timestep[None]):
            live, frozen = source(torch.ones(1, 1))[0], table(torch.ones(1, 1))[0]
        torch.testing.assert_close(live, frozen, rtol=8 * torch.finfo(torch.float64).eps, atol=0)


def test_a_mixed_batch_is_the_samples_one_by_one() -> None:
    context, source = trained(torch.float32)
    quantizer, x = TensorQuantizer(Uniform(6), source, Nearest()), X.float()
    timesteps = torch.tensor([999, 0, 417, 418, 0])
    with context.at(torch.tensor([0]), timesteps):
        mixed = quantizer(x)
        assert source(x)[0].shape == (5, 1, 1, 1)
    for i in range(5):
        with context.at(torch.tensor([0]), timesteps[i : i + 1]):
            assert torch.equal(quantizer(x[i : i + 1]), mixed[i : i + 1])


def test_only_the_timestep_decides_and_none_is_off_the_grid() -> None:
    context, source = trained()
    per_step = []
    for step in range(3):
        with context.at(torch.tensor([step]), torch.tensor([123])):
            per_step.append(source(X)[0])
    assert torch.equal(per_step[0], per_step[1]) and torch.equal(per_step[1], per_step[2])
    scales = source.scales(torch.arange(-50, 1100))
    assert bool((scales > 0).all() and scales.isfinite().all())


@pytest.mark.parametrize("bias", [-30.0, -2000.0, 50.0])
def test_scales_stay_positive_wherever_training_goes(bias: float) -> None:
    _, source = filled(torch.float32)
    source.learnable()[-1].data.fill_(bias)
    scales = source.scales(EVERY)
    assert bool((scales >= 1e-8).all() and scales.isfinite().all())


def test_gradients_reach_every_layer_after_one_step() -> None:
    context, source = filled()
    quantizer = TensorQuantizer(Uniform(4), source, Nearest())
    assert not any(parameter.requires_grad for parameter in source.learnable()), "as other sources: until it learns"
    optimizer = torch.optim.Adam([parameter.requires_grad_() for parameter in source.learnable()], 1e-2)
    reached, losses = [], []
    for _ in range(30):
        with context.at(torch.tensor([0]), torch.tensor([900, 700, 500, 300, 10])):
            loss = (quantizer(X * torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]).view(5, 1, 1, 1)) - X).square().mean()
        optimizer.zero_grad()
        loss.backward()
        reached.append([bool(p.grad.any()) for p in source.learnable() if p.grad is not None])
        optimizer.step()
        losses.append(float(loss.detach()))
    assert reached[0] == [False] * 6 + [True] * 2, "the last layer starts at zero"
    assert reached[1] == [True] * 8 and len(reached[1]) == 8
    assert losses[-1] < losses[0]


def test_it_is_one_compiled_graph() -> None:
    context, source = trained()
    torch._dynamo.reset()
    compiled = torch.compile(source, backend="aot_eager", fullgraph=True)
    for timestep in (0, 3, 999):
        with context.at(torch.tensor([0]), torch.tensor([timestep])):
            assert torch.allclose(compiled(X)[0], source(X)[0], rtol=1e-14, atol=0)


def test_a_scope_without_a_timestep_is_an_error() -> None:
    context, source = filled()
    with pytest.raises(RuntimeError, match="timestep was read where only a step was set"):
        source(X)
    with pytest.raises(RuntimeError, match="timestep"), context.at(torch.tensor([1])):
        source(X)
    error = r"StepMLP was called with 5 sample\(s\), the StepContext holds 2"
    with pytest.raises(ValueError, match=error), context.at(torch.tensor([1]), torch.tensor([1, 2])):
        source(X)


def test_constructing_it_draws_nothing_from_the_global_generator_and_is_always_the_same() -> None:
    before = torch.random.get_rng_state()
    states = [StepMLP(StepContext()).state_dict() for _ in range(2)]
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0]) and len(states[0]) == 2 + 8


def test_weights_start_as_he_has_it() -> None:
    first: Tensor = StepMLP(StepContext(), dim=512, width=512).learnable()[0]
    assert float(first.detach().std()) == pytest.approx((2 / 512) ** 0.5, rel=0.01)
    assert abs(float(first.detach().mean())) < 1e-3


def test_sizes_are_those_asked_for() -> None:
    from dmq_cli.quant import Slot

    slot = Slot(Uniform(8), StepContext(), torch.tensor([0]))
    source = MlpScale(dim=8, width=5, layers=3).build(slot)
    assert isinstance(source, StepMLP) and source.groups == 1 and source.rows(3).tolist() == [0, 0, 0]
    assert [tuple(p.shape) for p in source.learnable()] == [(5, 8), (5,), (5, 5), (5,), (1, 5), (1,)]
