"""Ranges per timestep and channel against loops over what plain hooks see."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dmq_cli.errors import NumericsError
from dmq_cli.models import Adapter
from dmq_cli.transform import channel_maxima
from tests.tiny import TIMESTEPS, adapter, data, network, one_sentence
from tests.transform.toys import ToyAdapter, calibration


def by_loop(values: Tensor, timestep: Tensor, channel_dim: int) -> dict[tuple[int, int], float]:
    """(timestep, channel) -> max |value|."""
    maxima: dict[tuple[int, int], float] = {}
    for row, step in zip(values, timestep.tolist(), strict=True):
        for channel, part in enumerate(row.movedim(channel_dim - 1, 0)):
            maxima[step, channel] = max([maxima.get((step, channel), 0.0), *map(abs, part.flatten().tolist())])
    return maxima


def recorded(plain: Adapter) -> dict[str, Tensor]:
    inputs: dict[str, Tensor] = {}
    for name, module in plain.model.named_modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            module.register_forward_pre_hook(lambda _m, x, name=name: inputs.__setitem__(name, x[0]))
    plain.predict(*data(), None)
    return inputs


@pytest.mark.parametrize("made", [adapter, ToyAdapter])
def test_the_maxima_are_those_of_a_loop(made: type[ToyAdapter]) -> None:
    progress: list[int] = []
    maxima, inputs = channel_maxima(made(), calibration, report=progress.append), recorded(made())
    assert list(maxima) == [layer.name for layer in made().layers()] and progress == [3, 6, 8]
    dims = set()
    for name, (steps, table) in maxima.items():
        assert steps.tolist() == sorted(TIMESTEPS.tolist())
        channel_dim = 1 if inputs[name].ndim == 4 else inputs[name].ndim - 1
        dims.add(inputs[name].ndim)
        expected = by_loop(inputs[name], data()[1], channel_dim)
        assert table.shape == (4, inputs[name].shape[channel_dim]) and table.dtype == torch.float64
        assert len(expected) == table.numel()
        for (step, channel), value in expected.items():
            assert table[steps.tolist().index(step), channel].item() == pytest.approx(value, rel=1e-12)
    assert dims == {2, 3, 4}


def test_only_the_named_layers_are_watched_and_nothing_stays() -> None:
    plain = adapter()
    assert list(channel_maxima(plain, calibration, ["conv_in"])) == ["conv_in"]
    assert not any(module._forward_pre_hooks for module in plain.model.modules())
    assert all(torch.equal(v, plain.model.state_dict()[k]) for k, v in network().state_dict().items())


def test_no_samples_and_numbers_that_are_none_are_told() -> None:
    with pytest.raises(NumericsError, match="got no inputs from the calibration set") as nothing:
        channel_maxima(adapter(), lambda: iter(()), ["conv_in"])
    broken = data()[0].clone()
    broken[0, 0, 0, 0] = torch.nan
    plain = adapter()
    with pytest.raises(NumericsError, match="layer conv_in has values that are not finite") as nan:
        channel_maxima(plain, lambda: [(broken, data()[1])], ["conv_in"])
    assert one_sentence(nothing.value) and one_sentence(nan.value)
    assert not any(module._forward_pre_hooks for module in plain.model.modules())
