"""The low-rank branch: it changes nothing in full precision, it is the nearest of its rank, it takes outliers."""

from __future__ import annotations

import math
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from dmq_cli.errors import ConfigError, NumericsError
from dmq_cli.models import Adapter
from dmq_cli.store.tensors import load_tensors, save_tensors
from dmq_cli.transform import LowRank, channel_maxima
from dmq_cli.transform.svd import branch, smoothing
from dmq_cli.wrap import QuantDenoiser, attach, bake, load_state, state
from tests import families
from tests.tiny import TIMESTEPS, adapter, batches, data, network, one_sentence, scheme
from tests.transform.toys import PLANTED, ToyAdapter, calibration, full, layer_error, planted, quantized

EXCEPT = ("conv_in", "conv_out", "time_embedding.linear_1", "time_embedding.linear_2")


def weights() -> dict[str, Tensor]:
    plain = adapter()
    return {layer.name: plain.model.get_parameter(f"{layer.name}.weight") for layer in plain.layers()}


def test_all_layers_but_edges_and_time_embedding_get_a_branch_of_their_geometry() -> None:
    progress: list[int] = []
    tensors = LowRank(rank=6).estimate(adapter(), calibration, progress.append)
    every = weights()
    names = [name for name in every if name not in EXCEPT]
    parts = ("channel_scale", "branch_down", "branch_up")
    assert list(tensors) == [f"{name}.{part}" for name in names for part in parts] and progress == [3, 6, 8]
    for name in names:
        weight, rank = every[name], min(6, min(every[name].flatten(1).shape) // 2)
        assert tensors[f"{name}.channel_scale"].shape == (weight.shape[1],)
        assert tensors[f"{name}.branch_down"].shape == (rank, *weight.shape[1:])
        assert tensors[f"{name}.branch_up"].shape == (len(weight), rank)
    assert {len(tensors[f"{name}.branch_down"]) for name in names} == {4, 6}


@pytest.mark.parametrize("family", ["cond_unet", "dit"])
def test_transformer_blocks_get_branches_too_and_full_precision_stays(family: str) -> None:
    model = cast(Adapter, families.Conditioned(family, families.adapter(family), torch.float64))
    tensors = LowRank(rank=4).estimate(model, lambda: batches(4, 2))
    outside = {layer.name for layer in model.layers() if f"{layer.name}.channel_scale" not in tensors}
    assert {layer.role.partition(".")[0] for layer in model.layers() if layer.name in outside} <= {"edge", "time"}
    assert {"ff.in", "ff.out"} <= {layer.role for layer in model.layers() if layer.name not in outside}
    expected = model.predict(*data(), None)
    torch.testing.assert_close(full(quantized(model, tensors, rules=families.plain())), expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("rank", [1, 16])
def test_full_precision_stays_what_it_was(rank: int) -> None:
    tensors = LowRank(rank=rank).estimate(adapter(), calibration)
    scales = torch.cat([value for name, value in tensors.items() if name.endswith("channel_scale")])
    assert (scales - 1).abs().min() > 0
    sample, timestep = data()
    expected = network()(sample, timestep).sample
    assert float((full(quantized(adapter(), tensors)) - expected).abs().max()) <= 1e-10 * float(expected.abs().max())


def test_smoothing_is_that_of_a_loop() -> None:
    tensors, maxima = LowRank(alpha=0.3).estimate(adapter(), calibration), channel_maxima(adapter(), calibration)
    for name, weight in weights().items():
        if name in EXCEPT:
            continue
        for channel in range(weight.shape[1]):
            x = max(maxima[name][1][:, channel].tolist())
            w = max(abs(value) for value in weight[:, channel].flatten().tolist())
            assert tensors[f"{name}.channel_scale"][channel].item() == pytest.approx(x**0.3 / w**0.7, rel=1e-12)


def test_smoothing_survives_dead_channels() -> None:
    dead = smoothing(torch.tensor([0.0, 4.0, 1.0]), torch.tensor([1.0, 0.0, 4.0]), 0.5)
    assert torch.allclose(dead, torch.tensor([math.sqrt(4e-5), math.sqrt(4 / 4e-5), 0.5], dtype=torch.float64))
    for inputs, weights in ((torch.zeros(3), torch.ones(3)), (torch.ones(3), torch.zeros(3))):
        assert torch.equal(smoothing(inputs, weights, 0.5), torch.ones(3, dtype=torch.float64))
    ends = torch.tensor([2.0, 8.0]), torch.tensor([4.0, 5.0])
    assert torch.equal(smoothing(*ends, 1.0), ends[0].double()) and torch.equal(
        smoothing(*ends, 0.0), 1 / ends[1].double()
    )


@pytest.mark.parametrize("shape", [(12, 7, 3, 3), (16, 32), (30, 4, 1, 1)])
@pytest.mark.parametrize("rank", [1, 3])
def test_what_the_branch_leaves_is_the_tail_of_the_singular_values(shape: tuple[int, ...], rank: int) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    down, up = branch("x", weight, rank)
    flat, product = weight.flatten(1), up @ down.flatten(1)
    values = torch.linalg.svdvals(flat)
    tail, rounding = float(values[rank:].square().sum().sqrt()), 2**-10 * float(values[:rank].square().sum().sqrt())
    assert tail <= float((flat - product).norm()) * (1 + 1e-12) <= tail + rounding * rank
    assert torch.equal(up.half().double(), up) and torch.equal(down.half().double(), down), "values of float16"
    assert torch.allclose(up.norm(dim=0), down.flatten(1).norm(dim=1), rtol=1e-3), "both factors carry the root"


def test_a_weight_of_low_rank_leaves_only_rounding() -> None:
    generator = torch.Generator().manual_seed(1)
    left, right = (torch.randn(n, 2, generator=generator, dtype=torch.float64) for n in (12, 20))
    down, up = branch("x", left @ right.T, 2)
    assert float((left @ right.T - up @ down).norm()) < 2e-3 * float((left @ right.T).norm())


@pytest.mark.parametrize(("weight_bits", "act_bits"), [(4, 4), (4, 8)])
def test_four_bits_lose_less_where_outliers_were_planted(weight_bits: int, act_bits: int) -> None:
    plain = layer_error(quantized(planted(), {}, weight_bits, act_bits), PLANTED)
    tensors = LowRank(rank=4).estimate(planted(), calibration)
    only = {name: value for name, value in tensors.items() if name.endswith("channel_scale")}
    smooth = layer_error(quantized(planted(), only, weight_bits, act_bits), PLANTED)
    absorbed = layer_error(quantized(planted(), tensors, weight_bits, act_bits), PLANTED)
    assert absorbed < plain / 4 and absorbed < smooth / 2, (plain, smooth, absorbed)


def test_a_weight_with_one_row_is_smoothed_only() -> None:
    tensors = LowRank().estimate(ToyAdapter(), calibration)
    assert "conv.channel_scale" in tensors and "conv.branch_up" not in tensors
    assert tensors["tokens.branch_up"].shape == (8, 4) and tensors["vectors.branch_down"].shape == (4, 8)


def test_the_dtype_is_the_models_and_the_model_stays() -> None:
    plain = adapter(torch.float32)
    tensors = LowRank().estimate(plain, lambda: [(data()[0].float(), data()[1])])
    assert {value.dtype for value in tensors.values()} == {torch.float32}
    assert all(torch.equal(v, plain.model.state_dict()[k]) for k, v in network(torch.float32).state_dict().items())


def test_the_state_carries_the_branch_and_baking_changes_nothing(tmp_path: Any) -> None:
    attached = quantized(adapter(), LowRank().estimate(adapter(), calibration))
    expected = QuantDenoiser(attached)(*data())
    save_tensors(tmp_path / "x.safetensors", state(attached))
    other = attach(adapter(), scheme(act=4), TIMESTEPS)
    other.model.double()
    load_state(other, load_tensors(tmp_path / "x.safetensors"))
    assert torch.equal(QuantDenoiser(other)(*data()), expected)
    bake(other)
    assert torch.equal(QuantDenoiser(other)(*data()), expected)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"rank": 0}, "transform.rank=0 is not possible"),
        ({"alpha": 1.5}, "transform.alpha=1.5 is not possible"),
        ({"alpha": math.nan}, "transform.alpha=nan is not possible"),
        ({"match": "conv"}, "the pattern 'conv', which fits no role"),
    ],
)
def test_options_that_cannot_be_are_told(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        LowRank(**options)
    assert text in one_sentence(caught.value)


def test_a_branch_that_float16_cannot_hold_is_told() -> None:
    with pytest.raises(NumericsError) as caught:
        branch("conv", torch.full((4, 4), 1e10), 1)
    assert "The low-rank branch of conv has values that float16 cannot hold" in one_sentence(caught.value)
