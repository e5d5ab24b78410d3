from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from dmq_cli.errors import ConfigError
from dmq_cli.quant import PerStep, StepContext, TimeGrid


def test_step_outside_of_a_scope_is_an_error() -> None:
    context = StepContext()
    with pytest.raises(RuntimeError, match=r"read outside StepContext\.at"):
        _ = context.step
    with pytest.raises(ZeroDivisionError), context.at(torch.tensor([1])):
        _ = 1 / 0
    with pytest.raises(RuntimeError, match="outside"):
        _ = context.step


def test_scopes_nest() -> None:
    context = StepContext()
    with context.at(torch.tensor([1])):
        with context.at(torch.tensor([2, 3])):
            assert context.step.tolist() == [2, 3]
        assert context.step.tolist() == [1]


@pytest.mark.parametrize("wrong", [torch.tensor(1), torch.tensor([1.0]), torch.tensor([[1]])])
def test_a_step_is_a_vector_of_int64(wrong: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"pass int64 of shape"), StepContext().at(wrong):
        pass


def test_a_copied_model_shares_one_context_of_its_own() -> None:
    context = StepContext()
    model = nn.Sequential(*(PerStep(context, torch.ones(3), torch.zeros(3)) for _ in range(2)))
    twin = copy.deepcopy(model)
    first, second = twin[0], twin[1]
    assert isinstance(first, PerStep) and isinstance(second, PerStep)
    assert first.context is second.context and first.context is not context
    assert set(model.state_dict()) == {"0.scale", "0.zero_point", "1.scale", "1.zero_point"}


def test_time_grid_takes_the_nearest_timestep() -> None:
    grid = TimeGrid(torch.tensor([900, 600, 300, 0]))  # descending, as samplers go
    timesteps = torch.tensor([0, 100, 160, 300, 449, 451, 750, 751, 999, 5000])
    assert grid(timesteps).tolist() == [3, 3, 2, 2, 2, 1, 0, 0, 0, 0]
    assert grid(torch.tensor(310)).tolist() == [2]
    assert grid(torch.tensor(299.6)).dtype == torch.int64
    assert TimeGrid(torch.tensor([0.1, 80.0]))(torch.tensor([0.0, 50.0])).tolist() == [0, 1]


def test_time_grid_is_in_the_state_dict_and_compiles() -> None:
    grid, other = TimeGrid(torch.tensor([5, 1])), TimeGrid(torch.tensor([0, 0]))
    other.load_state_dict(grid.state_dict())
    assert other.timesteps.tolist() == [5, 1]
    compiled = torch.compile(grid, backend="aot_eager", fullgraph=True)
    assert compiled(torch.tensor([2, 4])).tolist() == [1, 0]


@pytest.mark.parametrize("wrong", [torch.empty(0), torch.tensor(1), torch.zeros(2, 2)])
def test_time_grid_needs_a_vector(wrong: torch.Tensor) -> None:
    with pytest.raises(ConfigError, match="TimeGrid was given"):
        TimeGrid(wrong)


def test_a_scope_opened_while_compiling_is_one_graph() -> None:
    context, grid = StepContext(), TimeGrid(torch.tensor([900, 600, 300]))
    source = PerStep(context, torch.tensor([1.0, 2.0, 3.0]), torch.zeros(3))

    def scale_at(x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        with context.at(grid(timestep)):
            scale: torch.Tensor = source(x)[0]
        return scale

    compiled = torch.compile(scale_at, backend="aot_eager", fullgraph=True)
    for timestep in (310, 590):
        args = torch.ones(2, 3), torch.tensor(timestep)
        assert torch.equal(compiled(*args), scale_at(*args))
    with pytest.raises(RuntimeError, match="outside"):
        _ = context.step
