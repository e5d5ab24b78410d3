"""What a scheme asks for is what gets built, and ranges of single samples do not depend on the batch."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import numpy as np
import pytest
import torch
from torch import nn

from dmq_cli.errors import ConfigError
from dmq_cli.quant import (
    Dynamic,
    DynamicScale,
    Grid,
    Intervals,
    IntervalScale,
    Log2,
    MlpScale,
    Nearest,
    PerStep,
    PerStepScale,
    ScaleKind,
    ScaleSource,
    Slot,
    Static,
    StaticScale,
    StepContext,
    StepMLP,
    TensorQuantizer,
    Uniform,
    source_of,
)
from dmq_cli.wrap import QuantDenoiser, Rule
from tests.tiny import TIMESTEPS, data, one_sentence, scheme, wrapped

CHANNELS = (6, 1, 1)
KINDS: list[tuple[ScaleKind, type[nn.Module], bool, tuple[int, ...] | None, int]] = [
    # kind, what it builds, whether scales vary, the rows of its table (None: it has no table), ranges to fit
    (StaticScale(), Static, False, (), 1),
    (PerStepScale(), PerStep, True, (4,), 4),
    (IntervalScale(10), Intervals, True, (10,), 10),
    (MlpScale(), StepMLP, True, None, 1),
    (DynamicScale(), Dynamic, True, None, 0),
]


def slot(shape: tuple[int, ...] = (), grid: Grid | None = None) -> Slot:
    return Slot(grid or Uniform(5), StepContext(), TIMESTEPS, shape)


def test_every_kind_is_listed() -> None:
    import dmq_cli.quant.sources as module

    kinds = [kind for kind in vars(module).values() if isinstance(kind, type) and hasattr(kind, "build")]
    named = {kind for kind in kinds if kind is not ScaleKind and kind.__module__ == module.__name__}
    assert named == {type(kind) for kind, *_ in KINDS} and len(KINDS) == 5


@pytest.mark.parametrize("shape", [(), (6,), CHANNELS])
@pytest.mark.parametrize(("kind", "source", "varies", "rows", "groups"), KINDS, ids=lambda value: str(value))
def test_a_kind_builds_its_source_for_the_slot(
    kind: ScaleKind,
    source: type[nn.Module],
    varies: bool,
    rows: tuple[int, ...] | None,
    groups: int,
    shape: tuple[int, ...],
) -> None:
    place = slot(shape)
    assert kind.varies is varies
    if shape and rows is None:
        with pytest.raises(
            ConfigError, match=r"asked for scales of shape .*; leave granularity at PerTensor"
        ) as caught:
            kind.build(place)
        assert type(kind).__name__ in one_sentence(caught.value)
        return
    scale_source = kind.build(place)
    assert (
        type(scale_source) is source
        and source_of(TensorQuantizer(place.grid, scale_source, Nearest())).groups == groups
    )
    assert getattr(scale_source, "context", place.context) is place.context
    check_what_a_source_says(scale_source, varies)
    assert kind.by_step == (type(kind) is PerStepScale)
    if rows is not None:
        assert isinstance(scale_source, Static | PerStep)
        assert scale_source.scale.shape == scale_source.zero_point.shape == (*rows, *shape)
        assert (
            bool((scale_source.scale == 1).all())
            and not bool(scale_source.zero_point.any())
            and not scale_source.scale.requires_grad
        )
    if isinstance(scale_source, Dynamic):
        assert scale_source.grid == place.grid


def check_what_a_source_says(made: nn.Module, varies: bool) -> None:
    """That it varies as its kind does, keeps scales above zero, and gives the same scales once it is frozen."""
    source = cast(ScaleSource, made)
    scales = [name for name, _ in made.named_parameters() if name == "scale"]
    assert source.varies == varies and {least for _, least in source.bounds()} == ({1e-8} if scales else set())
    assert [id(parameter) for parameter, _ in source.bounds()] == [id(made.get_parameter(name)) for name in scales]
    assert all(any(bounded is other for other in source.learnable()) for bounded, _ in source.bounds())
    frozen = source.frozen()
    assert type(frozen) is (Intervals if isinstance(made, StepMLP) else type(made))
    assert frozen is made or not any(parameter.requires_grad for parameter in frozen.parameters())


@pytest.mark.parametrize(
    "wrong", [{"dim": 1}, {"dim": 7}, {"dim": 0}, {"width": 0}, {"layers": 0}, {"period": 1.0}, {"period": -2.0}]
)
def test_networks_that_cannot_be_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="MlpScale was asked for dim=") as caught:
        MlpScale(**wrong)
    one_sentence(caught.value)


@pytest.mark.parametrize(("kind", "source"), [(kind, source) for kind, source, *_ in KINDS if source is not Dynamic])
def test_a_source_takes_what_calibration_fits(kind: ScaleKind, source: type[nn.Module]) -> None:
    place = slot()
    quantizer = TensorQuantizer(place.grid, kind.build(place), Nearest())
    groups = source_of(quantizer).groups
    scale, zero_point = torch.linspace(0.1, 0.2, groups)[:, None], torch.arange(groups)[:, None] + 3.0
    source_of(quantizer).fill(scale, zero_point, None)
    with place.context.at(torch.tensor([0, 3]), torch.tensor([750, 0])):
        row_scale, zero = quantizer.scale(torch.zeros(2, 7))
        rows = source_of(quantizer).rows(2)
    assert torch.equal(row_scale.expand(2, 1), scale[rows]) and torch.equal(zero.expand(2, 1), zero_point[rows])
    assert isinstance(quantizer.scale, source)


@pytest.mark.parametrize("total", [100, 1000, 4000])
def test_tables_divide_the_timesteps_that_the_network_was_trained_at(total: int) -> None:
    place = replace(slot(), total=total)
    timesteps = torch.arange(0, total, total // 10)
    intervals, networks = IntervalScale(10).build(place), MlpScale(8, 8, 2).build(place)
    assert isinstance(intervals, Intervals) and isinstance(networks, StepMLP)
    generator = torch.Generator().manual_seed(0)
    for parameter in networks.learnable():
        parameter.add_(torch.randn(parameter.shape, generator=generator))
    with place.context.at(torch.zeros(1, dtype=torch.int64), timesteps):
        assert intervals.index().tolist() == list(range(10))
        scale, frozen = (source(torch.zeros(10, 2))[0] for source in (networks, networks.frozen()))
    assert torch.equal(scale, frozen) and len(scale.unique()) > 5


def test_a_given_number_of_timesteps_stays_and_too_many_sets_are_refused() -> None:
    place = replace(slot(), total=100)
    given = IntervalScale(10, total=500).build(place)
    assert isinstance(given, Intervals) and given.total == 500
    with pytest.raises(ConfigError, match="num=101 sets over 100 timesteps; use 1 to 100") as caught:
        IntervalScale(101).build(place)
    one_sentence(caught.value)


@pytest.mark.parametrize("shape", [(5, 3), (5, 4, 3), (5, 3, 4, 4)])
@pytest.mark.parametrize("grid", [Uniform(4), Uniform(4, symmetric=True), Uniform(4, from_zero=True), Log2(4)])
def test_each_sample_gets_what_it_would_get_alone(grid: Grid, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x *= torch.arange(1, 6).view(-1, *(1,) * (len(shape) - 1))
    quantizer = TensorQuantizer(grid, Dynamic(grid), Nearest())
    together = quantizer(x)
    assert quantizer.scale(x)[0].shape == quantizer.scale(x)[1].shape == (5, *(1,) * (len(shape) - 1))
    for i in range(5):
        assert torch.equal(together[i : i + 1], quantizer(x[i : i + 1]))


def test_a_sample_s_range_is_its_extremes() -> None:
    x = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[2] += 10
    scale, zero_point = Dynamic(Uniform(6))(x)
    flat = x.numpy().reshape(4, -1)
    low, high = np.minimum(flat.min(1), 0), np.maximum(flat.max(1), 0)
    np.testing.assert_allclose(scale.flatten(), (high - low) / 63, rtol=1e-14)
    np.testing.assert_array_equal(zero_point.flatten(), np.round(-low / ((high - low) / 63)))
    assert zero_point[2].item() == 0


def test_a_range_of_the_input_has_no_groups_parameters_or_gradient() -> None:
    source = Dynamic(Uniform(8))
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert source.groups == 0 and source.learnable() == [] and not source(x)[0].requires_grad
    with pytest.raises(RuntimeError, match="no groups"):
        source.rows(3)
    with pytest.raises(RuntimeError, match="cannot be filled"):
        source.fill(torch.ones(1), torch.ones(1))


def test_a_network_s_samples_do_not_depend_on_the_batch() -> None:
    """Up to the rounding of matrix products."""
    sample, timestep = data()
    run = QuantDenoiser(wrapped(scheme(Rule("*.input|attn.[qkvp]|attn.prob", scale=DynamicScale()), act=6)))
    apart = [run(sample[i : i + 1], timestep[i : i + 1]) for i in range(len(sample))]
    assert float((torch.cat(apart) - run(sample, timestep)).abs().max()) < 1e-14
