"""Moving averages of ranges, against a loop."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dmq_cli.calib import fit_activations
from dmq_cli.errors import ConfigError
from dmq_cli.ops import Ema, MinMax
from dmq_cli.quant import PerStep, PerStepScale, Static, Uniform
from dmq_cli.wrap import Rule, state
from tests.tiny import TIMESTEPS, batches, data, one_sentence, scheme, wrapped


def extremes(num: int, groups: int = 3) -> tuple[Tensor, Tensor]:
    """Of each of `num` samples, around zero."""
    values = torch.randn(num, groups, 20, generator=torch.Generator().manual_seed(num), dtype=torch.float64)
    return values.amin(2), values.amax(2)


def loop(low: Tensor, high: Tensor, momentum: float, batch: int) -> tuple[list[float], list[float]]:
    """m <- momentum m + (1 - momentum) x, one batch after the other; the first one is the start."""
    order = torch.randperm(len(low), generator=torch.Generator().manual_seed(0)).tolist()
    ends: tuple[list[float], list[float]] = ([], [])
    for group in range(low.shape[1]):
        mean: tuple[float, float] | None = None
        for first in range(0, len(order), batch):
            rows = order[first : first + batch]
            now = min(float(low[r, group]) for r in rows), max(float(high[r, group]) for r in rows)
            mean = (
                now
                if mean is None
                else (
                    momentum * mean[0] + (1 - momentum) * now[0],
                    momentum * mean[1] + (1 - momentum) * now[1],
                )
            )
        assert mean is not None
        ends[0].append(min(mean[0], 0.0))
        ends[1].append(max(mean[1], 0.0))
    return ends


@pytest.mark.parametrize("num", [1, 15, 16, 17, 100])
@pytest.mark.parametrize(("momentum", "batch"), [(0.95, 16), (0.0, 16), (0.5, 1), (0.9, 7), (0.95, 1000)])
def test_the_average_is_the_loop_over_shuffled_batches(num: int, momentum: float, batch: int) -> None:
    low, high = extremes(num)
    ranges = Ema(momentum, batch).running(low, high)
    for mine, by_hand in zip(ranges, loop(low, high, momentum, batch), strict=True):
        torch.testing.assert_close(mine, torch.tensor(by_hand, dtype=torch.float64), rtol=1e-13, atol=1e-14)


def test_the_samples_are_shuffled() -> None:
    """Calibration sets come sorted by step: without it, the last ones would weigh the most."""
    high = torch.arange(640.0, dtype=torch.float64)[:, None]
    last_batches = Ema(0.0, 16).running(-high, high)[1], Ema(0.0, 16).running(-high.flip(0), high.flip(0))[1]
    assert all(100 < float(last) < 639 for last in last_batches)


@pytest.mark.parametrize("batch", [33, 1000])
def test_one_batch_of_all_samples_is_the_whole_range(batch: int) -> None:
    low, high = extremes(33)
    ranges = Ema(batch=batch).running(low, high)
    values = torch.cat([low, high]).T
    for mine, whole in zip(ranges, MinMax().fit(values, Uniform(8)), strict=True):
        assert torch.equal(mine, whole)


def test_ranges_contain_zero() -> None:
    low, high = torch.tensor([[2.0, -5.0], [3.0, -4.0]]), torch.tensor([[4.0, -2.0], [5.0, -1.0]])
    minimum, maximum = Ema(0.5, 1).running(low, high)
    assert minimum[0] == 0 and maximum[1] == 0 and maximum[0] > 4 and minimum[1] < -4


def test_averages_are_narrower_than_the_whole_range_and_never_wider() -> None:
    low, high = extremes(200)
    minimum, maximum = Ema().running(low, high)
    assert bool((minimum > low.amin(0)).all() and (maximum < high.amax(0)).all())


def test_a_weight_has_no_samples() -> None:
    values = torch.randn(4, 50, generator=torch.Generator().manual_seed(0))
    for mine, whole in zip(Ema().fit(values, Uniform(8)), MinMax().fit(values, Uniform(8)), strict=True):
        assert torch.equal(mine, whole)


@pytest.mark.parametrize("wrong", [{"momentum": 1.0}, {"momentum": -0.1}, {"batch": 0}, {"momentum": float("nan")}])
def test_averages_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="Ema was asked for momentum=") as caught:
        Ema(**wrong)  # type: ignore[arg-type]
    one_sentence(caught.value)


RULES = [Rule("*", ranges=Ema(0.8, 2)), Rule("resnet.*.input", scale=PerStepScale())]


def test_the_program_s_batch_size_changes_no_range() -> None:
    states = []
    for size in (16, 1, 3, 5):
        attached = wrapped(scheme(*RULES), fit=False)
        fit_activations(attached, batches(16, size))
        states.append(state(attached))
    assert len(states[0]) == 1 + 2 * 126
    for other in states[1:]:
        for name, value in other.items():
            torch.testing.assert_close(value, states[0][name], rtol=1e-9, atol=0)


def test_calibration_averages_what_each_sample_shows() -> None:
    """The input of the first convolution is the sample itself; the first block's is watched at every step."""
    attached = wrapped(scheme(*RULES), fit=False)
    sample, timestep = data(32)
    inputs: list[Tensor] = []
    block = attached.model.get_submodule("down_blocks.0.resnets.0.conv1")
    hook = block.register_forward_pre_hook(lambda _m, x: inputs.append(x[0]))
    fit_activations(attached, [(sample, timestep)])
    hook.remove()
    flat = sample.flatten(1)
    low, high = loop(flat.amin(1)[:, None], flat.amax(1)[:, None], 0.8, 2)
    source = attached.quantizers()["conv_in.input_quantizer"].scale
    assert isinstance(source, Static)
    assert float(source.scale) == pytest.approx((high[0] - low[0]) / 255, rel=1e-6)
    assert float(source.scale) < 0.98 * float(flat.max() - flat.min()) / 255
    steps = attached.quantizers()["down_blocks.0.resnets.0.conv1.input_quantizer"].scale
    assert isinstance(steps, PerStep) and len(inputs) == 1
    for step, at in enumerate(TIMESTEPS.tolist()):
        rows = inputs[0][timestep == at].flatten(1)
        low, high = loop(rows.amin(1)[:, None], rows.amax(1)[:, None], 0.8, 2)
        assert float(steps.scale[step]) == pytest.approx((high[0] - low[0]) / 255, rel=1e-6)
