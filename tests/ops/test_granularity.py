from __future__ import annotations

import pytest
import torch

from dmq_cli.errors import ConfigError
from dmq_cli.ops import PerChannel, PerInputChannel, PerTensor, fake_uniform, round_ste


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_per_channel_groups_one_row_per_index(axis: int) -> None:
    x = torch.randn(3, 4, 5)
    rows = PerChannel(axis).grouped(x)
    assert rows.shape == (x.shape[axis], x.numel() // x.shape[axis])
    for i, row in enumerate(rows):
        assert torch.equal(row, x.select(axis, i).reshape(-1))


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_per_channel_is_a_loop_of_per_tensor(axis: int) -> None:
    x = torch.randn(3, 4, 5, dtype=torch.float64)
    scale = torch.rand(x.shape[axis], dtype=torch.float64) + 0.1
    zero_point = torch.randint(0, 15, scale.shape).double()
    shape = PerChannel(axis).shape(x.ndim, len(scale))
    whole = fake_uniform(x, scale.view(shape), zero_point.view(shape), 0, 15, round_ste)
    for i in range(len(scale)):
        alone = fake_uniform(x.select(axis, i), scale[i], zero_point[i], 0, 15, round_ste)
        assert torch.equal(whole.select(axis, i), alone)


def test_per_tensor_is_one_row() -> None:
    x = torch.randn(2, 3)
    assert PerTensor().grouped(x).shape == (1, 6)
    assert PerTensor().shape(4, 1) == (1, 1, 1, 1)
    assert PerTensor().grouped(torch.empty(0, 3)).shape == (1, 0)


@pytest.mark.parametrize(("shape", "axis"), [((3, 4), 1), ((3, 5, 4), 2), ((3, 4, 5, 6), 1), ((3, 4, 2, 2, 2), 1)])
def test_input_channels_are_a_loop_over_channels(shape: tuple[int, ...], axis: int) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = PerInputChannel().channels(x)
    assert rows.shape == (3, 4, x.numel() // 12)
    scale, zero_point = torch.rand(4, dtype=torch.float64) + 0.1, torch.randint(0, 15, (4,)).double()
    view = PerInputChannel().shape(x.ndim, 4)
    if x.ndim < 5:
        whole = fake_uniform(x, scale.view(view), zero_point.view(view), 0, 15, round_ste)
    for channel in range(4):
        values = x.select(axis, channel)
        for sample in range(3):
            assert torch.equal(rows[sample, channel], values[sample].reshape(-1))
        if x.ndim < 5:
            alone = fake_uniform(values, scale[channel], zero_point[channel], 0, 15, round_ste)
            assert torch.equal(whole.select(axis, channel), alone)


def test_empty_channels_and_vectors() -> None:
    assert PerChannel().grouped(torch.empty(3, 0)).shape == (3, 0)
    assert PerChannel().grouped(torch.empty(0, 3)).shape == (0, 0)
    assert PerChannel().grouped(torch.ones(3)).shape == (3, 1)


def test_axis_outside_the_tensor_is_a_sentence() -> None:
    with pytest.raises(ConfigError, match=r"asked for axis 2, the tensor has 2 dimensions; choose"):
        PerChannel(2).shape(2, 5)
    with pytest.raises(ConfigError, match="axis -3"):
        PerChannel(-3).grouped(torch.ones(2, 2))
