from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dmq_cli.recon import AdaRound
from dmq_cli.recon.fine import LayerErrors, outputs_of
from dmq_cli.recon.units import ModuleUnit, layers_of
from dmq_cli.wrap import Attached, QuantDenoiser
from tests.recon.runs import FEW_UNITS, few, joint, run, small
from tests.tiny import SMALL, batches, data, network

NUM = 4
EXECUTED = {
    "up_blocks.0.resnets.0": ["conv1", "time_emb_proj", "conv2", "conv_shortcut"],
    "down_blocks.0.resnets.0": ["conv1", "time_emb_proj", "conv2"],
    "mid_block.attentions.0": ["to_q", "to_k", "to_v", "to_out.0"],
    "conv_in": [""],
}


def arguments(model: nn.Module, unit: str, forward: Any) -> dict[str, Tensor]:
    """What the unit is called with on all samples."""
    calls: list[Any] = []
    hook = model.get_submodule(unit).register_forward_pre_hook(lambda _m, args: calls.append(args))
    with torch.no_grad():
        forward(*data(NUM))
    hook.remove()
    return {str(number): value for number, value in enumerate(calls[0])}


def outputs(module: nn.Module, layers: list[str], inputs: dict[str, Tensor]) -> list[Tensor]:
    """What these layers of the module give, in the order in which they are named."""
    results: dict[str, Tensor] = {}
    hooks = [
        module.get_submodule(name).register_forward_hook(lambda _m, _x, y, name=name: results.update({name: y}))
        for name in layers
    ]
    with torch.no_grad():
        module(*inputs.values())
    for hook in hooks:
        hook.remove()
    return [results[name] for name in layers]


@pytest.mark.parametrize("unit", EXECUTED)
@pytest.mark.parametrize("p", [2.0, 2.4])
def test_the_errors_of_all_layers_but_the_last(unit: str, p: float) -> None:
    attached, full, layers = small(), network(**SMALL), EXECUTED[unit]
    inputs, other = arguments(attached.model, unit, QuantDenoiser(attached)), arguments(full, unit, full)
    with attached.at(data(NUM)[1]):
        with LayerErrors(attached, ModuleUnit(unit)) as errors:
            errors.see_full(other)
            attached.model.get_submodule(unit)(*inputs.values())
            total = float(errors.total(p))
        quantized = outputs(attached.model.get_submodule(unit), layers, inputs)
    reference = outputs(full.get_submodule(unit), layers, other)
    each = [
        float(((a - b).abs() ** p).sum(2 if a.ndim == 3 else 1).mean())
        for a, b in zip(quantized, reference, strict=True)
    ]
    assert {a.ndim for a in quantized} <= ({3} if "attentions" in unit else {2, 4}), "an attention's are (B, places, C)"
    assert total == pytest.approx(sum(each[:-1]), rel=1e-9) and min(each) > 1e-6
    assert set(layers_of(attached, ModuleUnit(unit))) == {f"{unit}.{name}".rstrip(".") for name in layers}


def test_the_full_precision_side_has_no_quantizer_of_another_unit_either() -> None:
    """Where the temporal layers are a unit of their own, their blocks must not see them quantized in full precision."""
    unit = "up_blocks.0.resnets.0"
    attached, full = small(weight=2), network(**SMALL)
    inputs = arguments(full, unit, full)
    block = ModuleUnit(unit, but=(f"{unit}.time_emb_proj",))
    with attached.at(data(NUM)[1]), LayerErrors(attached, block) as errors:
        errors.see_full(inputs)
    expected = outputs(full.get_submodule(unit), ["conv1", "conv2", "conv_shortcut"], inputs)
    assert list(errors.full) == [f"{unit}.{name}" for name in ("conv1", "conv2", "conv_shortcut")]
    for output, value in zip(errors.full.values(), expected, strict=True):
        assert torch.allclose(output, value, rtol=1e-12, atol=1e-12)


def test_quantizers_are_as_they_were_whatever_happens() -> None:
    attached = small()
    chosen = attached.quantizers()
    chosen["conv_in.input_quantizer"].enabled = False
    before = {name: quantizer.enabled for name, quantizer in chosen.items()}
    with LayerErrors(attached, ModuleUnit("conv_in")) as errors:
        errors.see_full({"0": data(NUM)[0]})
        assert {name: quantizer.enabled for name, quantizer in chosen.items()} == before
        with pytest.raises(RuntimeError):
            errors.see_full({"0": torch.zeros(1, 7)})
    assert {name: quantizer.enabled for name, quantizer in chosen.items()} == before and set(before.values()) == {
        True,
        False,
    }
    assert hooks(attached) == 0


def hooks(attached: Attached) -> int:
    return sum(len(module._forward_hooks) for module in attached.model.modules())


def test_outputs_come_in_the_order_of_the_calls() -> None:
    attached, unit = small(), "up_blocks.0.resnets.0"
    full = network(**SMALL)
    layers = dict(reversed(layers_of(attached, ModuleUnit(unit)).items()))
    with attached.at(data(NUM)[1]), outputs_of(layers) as results:
        attached.model.get_submodule(unit)(*arguments(full, unit, full).values())
    assert [name.removeprefix(f"{unit}.") for name in results] == EXECUTED[unit]


@pytest.mark.parametrize("weight", ["fine", "bias"])
def test_a_weight_in_the_loss_of_every_unit(tmp_path: Path, weight: str) -> None:
    """With steps too small to change anything the first losses grow with gamma, or with that of the mean error, along a line."""
    still = AdaRound(lr=1e-300, warmup=1.0)
    settings: list[dict[str, Any]] = [{weight: value} for value in (0.0, 0.4, 0.8)]
    first, second, third = (
        run(joint(1, rounding=still, scales=None, **fields), few(), tmp_path / str(number))["joint"]
        for number, fields in enumerate(settings)
    )
    assert list(first) == FEW_UNITS
    for unit in FEW_UNITS:
        slope = second[unit][0] - first[unit][0]
        assert third[unit][0] - first[unit][0] == pytest.approx(2 * slope, rel=1e-9, abs=1e-18)
        if weight == "fine":
            assert slope == 0 if unit.startswith("conv") else slope > 0, "one layer has none but the last"
        else:
            assert 0 < slope / 0.4 < first[unit][0], "no more than the squared error itself"


@pytest.mark.parametrize("killed", [False, True])
def test_hooks_are_removed(killed: bool, tmp_path: Path) -> None:
    attached, counted = few(), list[int]()

    def check(_: str, unit: str) -> bool:
        counted.append(hooks(attached))
        return killed and unit == FEW_UNITS[2]

    if killed:
        with pytest.raises(KeyboardInterrupt):
            run(joint(1, fine=0.8), attached, tmp_path, check)
    else:
        run(joint(1, fine=0.8), attached, tmp_path, check)
    assert counted == [1, 4, 4, 4, 1][: len(counted)] and hooks(attached) == 0


def test_a_vanishing_gamma_is_no_gamma(tmp_path: Path) -> None:
    """Gradients of two sums are added in another order, hence not bit for bit."""
    vanishing, none = few(), few()
    losses = run(joint(2, fine=1e-300), vanishing, tmp_path / "vanishing")["joint"]
    for unit, values in run(joint(2), none, tmp_path / "none")["joint"].items():
        assert losses[unit] == pytest.approx(values, rel=1e-10)
    sample, timestep = next(batches(NUM, NUM))
    assert torch.allclose(QuantDenoiser(vanishing)(sample, timestep), QuantDenoiser(none)(sample, timestep), rtol=1e-9)
