"""Quantizers in the conditional families: what holds for UNets of pixels (test_attach, test_attention) holds for them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dmq_cli.calib.features import mid_features
from dmq_cli.diagnose import network_cost
from dmq_cli.errors import ModelError
from dmq_cli.quant import PerStepScale, Split
from dmq_cli.recon.capture import capture
from dmq_cli.recon.units import TemporalUnit, module_names, temporal_layers, units_of
from dmq_cli.wrap import Attached, QuantDenoiser, Rule, observing, quantizing
from tests.families import FAMILIES, cond, direct, network, plain, rows, wrapped
from tests.tiny import SHAPE, batches, data, scheduler

PER_STEP = Rule("*.input|attn.q|attn.k|attn.v|attn.prob", scale=PerStepScale())
ATTENTIONS = {"latent": 7, "cond_unet": 8, "dit": 2}
families = pytest.mark.parametrize("family", FAMILIES)
sdpa = nn.functional.scaled_dot_product_attention


@cache
def shared(family: str) -> Attached:
    """For tests that leave it as it is."""
    return wrapped(family, plain())


def run(attached: Attached, sample: Tensor, timestep: Tensor, given: object) -> Tensor:
    return QuantDenoiser(attached)(sample, timestep, given)


def close(one: Tensor, other: Tensor) -> bool:
    """Equal but for the order of sums in float64, which depends on the batch size; one flipped code is 1e-3 or more."""
    return torch.allclose(one, other, rtol=0, atol=1e-10)


@families
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_all_quantizers_off_is_the_network_bit_for_bit(family: str, dtype: torch.dtype) -> None:
    attached = wrapped(family, plain(), dtype)
    (sample, timestep), condition = data(dtype=dtype), cond(family, dtype=dtype)
    expected = direct(family, network(family, dtype), sample, timestep, condition)[:, :2]
    assert not torch.equal(run(attached, sample, timestep, condition), expected)
    with quantizing(attached, weights=False, activations=False):
        assert torch.equal(run(attached, sample, timestep, condition), expected)


@families
def test_mixed_steps_in_a_batch_are_the_steps_one_by_one(family: str) -> None:
    attached = wrapped(family, plain(PER_STEP))
    (sample, timestep), condition = data(), cond(family)
    together = run(attached, sample, timestep, condition)
    parts = [slice(i, i + 1) for i in range(len(sample))]
    apart = torch.cat([run(attached, sample[i], timestep[i], rows(condition, i)) for i in parts])
    assert close(together, apart) and not close(together, run(attached, sample, timestep.roll(1), condition))


class Products(TorchFunctionMode):
    """Notes the masks of the attention products that reach torch."""

    def __init__(self) -> None:
        super().__init__()
        self.masks: list[Tensor | None] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is sdpa:
            self.masks.append((kwargs or {}).get("attn_mask"))
        return func(*args, **(kwargs or {}))


def products(attached: Attached, given: object) -> list[Tensor | None]:
    with Products() as recorder:
        run(attached, *data(), given)
    return list(recorder.masks)


@families
def test_every_attention_makes_one_product_and_all_are_redirected(family: str) -> None:
    attached, condition = shared(family), cond(family)
    assert len(attached.quantizers("prob")) == ATTENTIONS[family]
    assert products(attached, condition) == []
    with observing(attached):
        assert products(attached, condition) == []
    with quantizing(attached, weights=True, activations=False):
        assert products(attached, condition) == [None] * ATTENTIONS[family]


def test_cross_attention_is_quantized_with_its_mask() -> None:
    attached, condition = shared("cond_unet"), cond("cond_unet") or {}
    masked = {**condition, "encoder_attention_mask": torch.tensor([1, 1, 1, 0, 0]).bool().expand(8, -1)}
    with quantizing(attached, weights=False, activations=False):
        expected = run(attached, *data(), masked)
        assert sum(mask is not None for mask in products(attached, masked)) == 4
        with observing(attached):
            assert close(run(attached, *data(), masked), expected)
        assert not close(run(attached, *data(), condition), expected)


@pytest.mark.parametrize("slot", ["q", "k", "v", "prob"])
def test_every_operand_of_cross_attention_is_quantized(slot: str) -> None:
    attached, condition = wrapped("cond_unet", plain()), cond("cond_unet")
    name = "mid_block.attentions.0.transformer_blocks.0.attn2"
    shapes: list[tuple[int, ...]] = []
    quantizer = attached.quantizers(slot)[f"{name}.{slot}_quantizer"]
    quantizer.register_forward_hook(lambda _m, _x, y: shapes.append(tuple(y.shape)))
    full = run(attached, *data(), condition)
    quantizer.enabled = False
    assert not torch.equal(run(attached, *data(), condition), full)
    tokens = {"q": 16, "prob": 16, "k": 5, "v": 5}[slot]
    assert shapes == [(8, 2, tokens, 5 if slot == "prob" else 8)] * 2


def test_the_split_shortcuts_of_conditional_unets() -> None:
    for family, splits in (("latent", 6), ("cond_unet", 4)):
        attached = wrapped(family, plain(Rule("resnet.shortcut.*", part="up", split=True)))
        sizes = attached.adapter.skip_splits()
        assert len(sizes) == splits and len([name for name in attached.quantizers() if ".parts." in name]) == 4 * splits
        for name, (below, skip) in sizes.items():
            quantizer = attached.model.get_submodule(f"{name}.input_quantizer")
            assert isinstance(quantizer, Split) and quantizer.sizes == (below, skip)


@families
def test_the_cost_counts_every_layer_and_attention(family: str) -> None:
    attached = shared(family)
    cost = network_cost(attached)
    assert cost.macs > 0 and cost.bops < cost.bops_fp
    assert cost.size_bytes_fp == 4 * sum(p.numel() for p in network(family).parameters())


@families
@pytest.mark.parametrize("kind", ["blocks", "layers"])
def test_every_unit_can_be_captured_and_run_again(family: str, kind: str, tmp_path: Path) -> None:
    """What runs twice in a pass (a DiT's first embedding) is captured once."""
    attached = shared(family)
    names = module_names(attached.adapter, kind)
    with quantizing(attached, weights=False, activations=False):
        assert len(names) > 4 and names == module_names(attached.adapter, kind)
    chosen = names if kind == "blocks" else [name for name in names if "emb" in name][:3]
    for unit in units_of(attached, kind, "block"):
        if unit.name in chosen:
            captured = unit.capture(
                attached,
                lambda: batches(8, 4),
                8,
                tmp_path / unit.name,
                activations=True,
                targets=None,
                reads_full=True,
            )
            inputs, target, timesteps = captured.batch(torch.arange(4))
            with quantizing(attached, weights=False, activations=False), attached.at(timesteps):
                again = unit.run(attached, captured.full(torch.arange(4)))
            assert close(again, target) and inputs.keys() == captured.full(torch.arange(4)).keys()


def test_joint_temporal_units_of_conditional_unets_and_of_transformers(tmp_path: Path) -> None:
    for family, layers in (("latent", 2 + 15), ("cond_unet", 2 + 8), ("dit", 3 * 2 + 1)):
        attached = shared(family)
        unit = TemporalUnit(temporal_layers(attached.adapter))
        assert len(unit.layers) == layers and isinstance(units_of(attached, "blocks", "joint")[0], TemporalUnit)
        options: dict[str, Any] = {"activations": True, "targets": None, "reads_full": False}
        if family == "dit":
            with pytest.raises(ModelError, match=r"use recon\.temporal=block"):
                unit.capture(attached, lambda: batches(8, 4), 8, tmp_path, **options)
        else:
            captured = unit.capture(attached, lambda: batches(8, 4), 8, tmp_path, **options)
            assert captured.batch(torch.arange(4))[1].shape[0] == 4


def test_calibration_reads_channels_of_mid_block_attention() -> None:
    attached = wrapped("cond_unet", plain(), torch.float32)
    denoiser = QuantDenoiser(attached)
    (features,) = mid_features(attached.adapter, denoiser, scheduler(), range(3), SHAPE, 0.0)
    assert features.shape == (4, 3, 16, 16)
    assert features.double().mean(2).abs().max() < 1e-6 < features.double().mean(3).abs().max(), (
        "of a norm over channels"
    )


def test_capture_is_not_confused_by_what_runs_twice(tmp_path: Path) -> None:
    attached, name = shared("dit"), "transformer_blocks.0.norm1.emb.timestep_embedder.linear_1"
    captured = capture(attached, name, lambda: batches(8, 4), 8, tmp_path, activations=True)
    assert captured.batch(torch.arange(8))[1].shape == (8, 12)
