from __future__ import annotations

import pytest
import torch
from torch import nn

from dmq_cli.errors import ConfigError
from dmq_cli.quant import Nearest, PerStep, Split, Static, StepContext, TensorQuantizer, Uniform


def parts(context: StepContext) -> list[TensorQuantizer]:
    steps = PerStep(context, torch.tensor([0.1, 0.2]), torch.tensor([3.0, 4.0]))
    return [
        TensorQuantizer(Uniform(4), Static(0.3, 7.0), Nearest()),
        TensorQuantizer(Uniform(3), steps, Nearest()),
    ]


@pytest.mark.parametrize("dim", [1, -1])
def test_split_is_its_parts_side_by_side(dim: int) -> None:
    context = StepContext()
    first, second = parts(context)
    x = torch.randn(2, 8, 4) if dim == 1 else torch.randn(2, 4, 8)
    split = Split((3, 5), [first, second], dim)
    with context.at(torch.tensor([0, 1])):
        expected = torch.cat([first(x.narrow(dim, 0, 3)), second(x.narrow(dim, 3, 5))], dim)
        assert torch.equal(split(x), expected)
        assert torch.equal(torch.compile(split, backend="aot_eager", fullgraph=True)(x), expected)


def test_split_keeps_its_parts_in_the_state_dict() -> None:
    keys = Split((3, 5), parts(StepContext())).state_dict()
    assert set(keys) == {f"parts.{i}.scale.{name}" for i in (0, 1) for name in ("scale", "zero_point")}


@pytest.mark.parametrize("sizes", [(), (8,), (3, 3, 2), (8, 0)])
def test_one_part_per_size(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"Split was asked for sizes .* with 2 part\(s\)"):
        Split(sizes, [nn.Identity(), nn.Identity()])


def test_sizes_must_be_the_tensors() -> None:
    with pytest.raises(ConfigError, match=r"into \(3, 5\), 8 in all, and found 9; use"):
        Split((3, 5), [nn.Identity(), nn.Identity()])(torch.ones(2, 9))
