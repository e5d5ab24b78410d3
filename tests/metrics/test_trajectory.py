"""Errors along a trajectory: planted ones are where they were planted, numbers are those of a direct computation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from dmq_cli.diagnose import Traced, Walks, trace
from dmq_cli.diagnose.watch import VALUES
from dmq_cli.models import ModelDenoiser
from dmq_cli.quant import ByLikelihood, Choice, DynamicScale, Log2, PerStepScale, Split
from dmq_cli.sampling import DPMpp2S, Guide, Scheduler, Step, walk
from dmq_cli.wrap import Attached, QuantDenoiser, Rule, quantizing
from tests import families
from tests.sampling.test_guidance import Told
from tests.tiny import SCHEDULE, SMALL, TIMESTEPS, scheduler, scheme, wrapped

SEEDS, CALLS, PLANTED = range(7, 12), 4, "mid_block.attentions.0"
DOUBLE = torch.float64


class Pair:
    """Full precision and its twin from one network; planted: the module whose output is doubled in the twin, alone."""

    def __init__(self, attached: Attached, planted: str | None = None) -> None:
        self.attached, self.planted = attached, planted
        self._full, self._quantized = ModelDenoiser(attached.adapter), QuantDenoiser(attached)

    def full(self, sample: Tensor, timestep: Tensor, cond: object = None) -> Tensor:
        with quantizing(self.attached, weights=False, activations=False):
            return self._full(sample, timestep, cond)

    def quantized(self, sample: Tensor, timestep: Tensor, cond: object = None) -> Tensor:
        if self.planted is None:
            return self._quantized(sample, timestep, cond)
        module = self.attached.model.get_submodule(self.planted)
        hook = module.register_forward_hook(lambda _m, _x, y: 2 * y, prepend=True)
        try:
            return self.full(sample, timestep, cond)
        finally:
            hook.remove()

    def walks(self, plan: Scheduler | None = None, **more: Any) -> Walks:
        return Walks(self.attached, self.full, self.quantized, plan or scheduler(CALLS), **{"dtype": DOUBLE, **more})


class Louder:
    """A correction that multiplies the estimate."""

    def pre(self, sample: Tensor, call: int) -> Tensor:
        return sample

    def post(self, eps: Tensor, call: int) -> Tensor:
        return 1.1 * eps

    def variance(self, sigma: Tensor, noise_gain: Tensor, call: int) -> Tensor:
        return sigma


def run(walks: Walks, size: int = 2) -> Traced:
    with torch.inference_mode():
        return trace(walks, SEEDS, size)


def relative(found: Tensor, full: Tensor) -> float:
    each = torch.stack([(a - b).pow(2).sum() / b.pow(2).sum() for a, b in zip(found, full, strict=True)])
    return float(each.quantile(0.5))


@pytest.fixture(scope="module")
def pair() -> Pair:
    return Pair(wrapped(scheme(weight=3), **SMALL))


@pytest.fixture(scope="module")
def traced(pair: Pair) -> Traced:
    return run(pair.walks())


def test_identical_networks_do_not_differ(pair: Pair) -> None:
    walks = Walks(pair.attached, pair.full, pair.full, scheduler(CALLS), dtype=DOUBLE, correction=Louder())
    tensors = run(walks).tensors
    for name, shape in (("trajectory", (5,)), ("eps", (4,)), ("block_error", (4, 10)), ("block_cosine", (4, 10))):
        value = tensors[f"{name}.quantized"]
        assert value.shape == shape and torch.equal(value, torch.full(shape, float(name == "block_cosine")))
    assert torch.equal(tensors["block_cosine_each.quantized"], torch.ones(len(SEEDS), 10))
    assert tensors["eps.corrected"][0] == pytest.approx(0.01) and tensors["trajectory.corrected"][0] == 0
    assert tensors["trajectory.corrected"][1:].min() > 0


def test_a_planted_error_shows_in_its_block_and_not_before(pair: Pair) -> None:
    result = run(Pair(pair.attached, PLANTED).walks())
    place = result.blocks.index(PLANTED)
    error, cosine = result.tensors["block_error.quantized"], result.tensors["block_cosine.quantized"]
    assert 0 < place < len(result.blocks) - 1
    assert torch.equal(error[0, :place], torch.zeros(place)) and error[0, place + 1 :].min() > 0
    assert error[0, place] == 1 and cosine[0, place] == pytest.approx(1), (
        "twice the vector: its own length off, no angle"
    )
    assert error[1, result.blocks.index("conv_in")] > 0, "the second call starts from another sample"


def test_errors_are_those_of_walks_of_their_own(pair: Pair, traced: Traced) -> None:
    shape = pair.attached.adapter.sample_shape()

    def steps(side: Any) -> list[Step]:
        return list(walk(side, scheduler(CALLS), SEEDS, shape, dtype=DOUBLE))

    full, quantized = steps(pair.full), steps(pair.quantized)
    wanted = [relative(q.sample, f.sample) for q, f in zip(quantized, full, strict=True)]
    wanted.append(relative(quantized[-1].following, full[-1].following))
    assert traced.tensors["trajectory.quantized"].tolist() == pytest.approx(wanted, rel=1e-5)
    wanted = [relative(q.eps, f.eps) for q, f in zip(quantized, full, strict=True)]
    assert traced.tensors["eps.quantized"].tolist() == pytest.approx(wanted, rel=1e-5)
    assert torch.equal(traced.finals["quantized"], quantized[-1].following) and "corrected" not in traced.finals
    last = traced.blocks.index("conv_out")
    assert traced.blocks[last:] == ["conv_out"], "whose output is the estimate"
    torch.testing.assert_close(traced.tensors["block_error.quantized"][:, last], traced.tensors["eps.quantized"])


def test_the_slope_is_that_of_both_estimates_on_the_same_input(pair: Pair, traced: Traced) -> None:
    """A least-squares line through the origin, channel by channel; the network is not observed while it is measured."""
    shape = pair.attached.adapter.sample_shape()
    expected = []
    for step in walk(pair.full, scheduler(CALLS), SEEDS, shape, dtype=DOUBLE):
        estimate = pair.quantized(step.sample, torch.tensor([step.timestep]))
        lines = [
            torch.linalg.lstsq(estimate[:, channel].reshape(-1, 1), step.eps[:, channel].reshape(-1, 1)).solution.item()
            for channel in range(shape[0])
        ]
        expected.append(lines)
    assert traced.tensors["slope"].shape == (CALLS, shape[0])
    torch.testing.assert_close(
        traced.tensors["slope"].double(), torch.tensor(expected, dtype=DOUBLE), rtol=1e-5, atol=0
    )
    same = run(Walks(pair.attached, pair.full, pair.full, scheduler(CALLS), dtype=DOUBLE)).tensors["slope"]
    assert torch.equal(same, torch.ones(CALLS, shape[0]))


def read(pair: Pair, call: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What layers, and their input quantizers, read in full precision at one call, of all samples together."""
    layers, inputs, quantized = pair.attached.layers(), dict[str, Tensor](), dict[str, Tensor]()
    handles = []
    for name, layer in layers.items():
        assert isinstance(layer, nn.Module)
        handles.append(layer.register_forward_pre_hook(lambda _m, x, n=name: inputs.update({n: x[0]})))
        handles.append(
            layer.input_quantizer.register_forward_pre_hook(lambda _m, x, n=name: quantized.update({n: x[0]}))
        )
    steps: Iterator[Step] = walk(pair.full, scheduler(CALLS), SEEDS, pair.attached.adapter.sample_shape(), dtype=DOUBLE)
    for _ in range(call + 1):
        next(steps)
    for handle in handles:
        handle.remove()
    return inputs, quantized


def test_activations_are_the_quartiles_of_what_quantizers_read(pair: Pair, traced: Traced) -> None:
    quartiles, exact = traced.tensors["activations"], 0
    assert traced.sites == list(read(pair, 0)[1]) and len(traced.sites) >= 25, "in the order in which they run"
    for call in (0, 3):
        for number, values in enumerate(read(pair, call)[1].values()):
            wanted = torch.quantile(values, torch.tensor([0, 0.25, 0.5, 0.75, 1], dtype=DOUBLE)).float()
            if values[0].numel() <= VALUES // len(SEEDS):
                exact += 1
                torch.testing.assert_close(quartiles[call, number], wanted)
            torch.testing.assert_close(quartiles[call, number, ::4], wanted[::4])
            spread = wanted[4] - wanted[0]
            assert (quartiles[call, number] - wanted).abs().max() < 0.02 * spread, "a sample of the values is enough"
    assert 2 * 10 < exact < 2 * len(traced.sites)


def test_channels_before_and_after_a_transform(pair: Pair) -> None:
    attached, scaled = wrapped(scheme(weight=3), **SMALL), "up_blocks.0.resnets.0.conv1"
    rate = torch.linspace(0.5, 2, attached.layers()[scaled].weight.shape[1], dtype=DOUBLE)
    attached.layers()[scaled].channel_scale = rate
    tensors, (inputs, quantized) = run(Pair(attached).walks()).tensors, read(Pair(attached), 2)
    full = {name.rpartition("full.")[2] for name in tensors if name.startswith("channel_max.full.")}
    assert full == {layer.name for layer in attached.adapter.layers() if layer.role in ("resnet.conv1", "resnet.conv2")}
    assert [name for name in tensors if "transformed" in name] == [f"channel_max.transformed.{scaled}"]
    for kind, values in (("full", inputs), ("transformed", quantized)):
        wanted = values[scaled].abs().amax((0, 2, 3)).float()
        torch.testing.assert_close(tensors[f"channel_max.{kind}.{scaled}"][2], wanted)


def test_nothing_depends_on_the_batch(pair: Pair, traced: Traced) -> None:
    whole = run(pair.walks(), size=5)
    assert traced.tensors.keys() == whole.tensors.keys() and len(whole.tensors) > 10
    for name, value in traced.tensors.items():
        torch.testing.assert_close(value, whole.tensors[name], rtol=1e-5, atol=1e-12)


def table(quantizer: nn.Module) -> Tensor:
    """The scales of a quantizer, a row for each step."""
    return cast(Tensor, cast(Any, quantizer).scale.scale)


def test_intervals_are_those_of_the_step() -> None:
    rules = [Rule("*.input", scale=PerStepScale()), Rule("time.*.input", scale=DynamicScale())]
    attached = wrapped(scheme(*rules, Rule("resnet.conv2.input", choice=ByLikelihood())), **SMALL)
    for choice in attached.choices().values():
        choice.choice.copy_(torch.tensor([1, 0, 0, 0]))
    result, dynamic = run(Pair(attached).walks()), 0
    for number, name in enumerate(result.sites):
        scales, quantizer = result.tensors["scales"][:, number], attached.layers()[name].input_quantizer
        if isinstance(quantizer, Split):
            tables = torch.stack([table(part) for part in quantizer.parts])
            torch.testing.assert_close(scales, tables.mean(0).float())
        elif isinstance(quantizer, Choice):
            assert isinstance(quantizer.parts[1].grid, Log2) and bool(scales[0].isnan())
            torch.testing.assert_close(scales[1:], table(quantizer.parts[0])[1:].float())
        elif name.startswith("time_embedding"):
            dynamic += 1
            assert len(set(scales.tolist())) == CALLS
        else:
            torch.testing.assert_close(scales, table(quantizer).float())
    assert dynamic == 2 and len(attached.choices()) >= 4 and len(TIMESTEPS) == CALLS


def test_the_interval_of_a_sample_of_its_own_range() -> None:
    attached = wrapped(scheme(Rule("edge.in.input", scale=DynamicScale())), fit=False, **SMALL)
    x = torch.stack([torch.linspace(-1, 1, 128), torch.linspace(-2, 2, 128)]).view(2, 2, 8, 8).double()
    assert float(attached.layers()["conv_in"].input_quantizer.interval(x)) == pytest.approx(3 / 255, rel=1e-3)


@pytest.mark.parametrize("family", ["cond_unet", "dit"])
def test_guidance_in_one_call_or_two(family: str) -> None:
    pair = Pair(families.wrapped(family, families.plain(act=6)))
    single, double = (run(pair.walks(scheduler(2), guide=Guide(Told(family), 2.0, calls, "both"))) for calls in (1, 2))
    assert (
        single.blocks == double.blocks and single.sites == double.sites and set(single.tensors) == set(double.tensors)
    )
    for name, value in single.tensors.items():
        if name != "activations":  # quartiles of other values where a row is long
            torch.testing.assert_close(value, double.tensors[name], rtol=1e-4, atol=1e-12)
    assert single.tensors["activations"].shape == (2, len(single.sites), 5)
    assert single.tensors["eps.quantized"].min() > 0 and single.tensors["block_cosine.quantized"].max() <= 1
    each, all_ = (single.tensors[f"block_cosine{name}.quantized"] for name in ("_each", ""))
    assert each.shape == (len(SEEDS), len(single.blocks)) and each[:, 2:].std(0).min() > 0, (
        "the first two see only the time"
    )
    torch.testing.assert_close(each.mean(0), all_.mean(0))


def test_a_sampler_that_calls_twice_in_a_step(pair: Pair) -> None:
    plan = DPMpp2S(4).scheduler(SCHEDULE)
    tensors = run(pair.walks(plan)).tensors
    assert len(tensors["eps.quantized"]) == len(plan.timesteps) > 4
    assert len(tensors["trajectory.quantized"]) == len(plan.timesteps) + 1
