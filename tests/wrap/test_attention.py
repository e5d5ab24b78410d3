from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dmq_cli.quant import FullPrecision
from dmq_cli.wrap import Attached, QuantDenoiser, Rule, observing, quantizing
from dmq_cli.wrap.attention import QuantAttention, attend
from tests.tiny import data, network, scheme, wrapped

sdpa = nn.functional.scaled_dot_product_attention


class Products(TorchFunctionMode):
    """Counts the attention products that reach torch."""

    def __init__(self) -> None:
        super().__init__()
        self.count: int = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += int(func is sdpa)
        return func(*args, **(kwargs or {}))


def products(attached: Attached) -> int:
    with Products() as counter:
        QuantDenoiser(attached)(*data())
    return int(counter.count)


def test_exactly_the_quantized_attentions_are_redirected() -> None:
    attached = wrapped(scheme(Rule("attn.[qkvp]*", part="mid", bits=32), Rule("attn.to_*", bits=4)))
    assert len(attached.quantizers("prob")) == 3
    assert products(attached) == 1
    with quantizing(attached, weights=True, activations=False):
        assert products(attached) == 4
    with observing(attached):
        assert products(attached) == 0


@pytest.mark.parametrize("calls", [0, 2])
def test_another_number_of_products_is_an_error(calls: int) -> None:
    attached = wrapped()
    attn = attached.model.get_submodule("mid_block.attentions.0")

    def odd(_attn: nn.Module, x: Tensor, *_: Any) -> Tensor:
        for _call in range(calls):
            x = sdpa(x, x, x)
        return x

    with pytest.raises(RuntimeError, match=f"made {calls} attention products instead of one"):
        QuantAttention(odd)(attn, torch.ones(1, 1, 4, 4, dtype=torch.float64))


def bare(*, enabled: bool = False) -> nn.Module:
    """An attention whose quantizers do nothing."""
    module = nn.Module()
    for slot in ("q", "k", "v", "prob"):
        module.add_module(f"{slot}_quantizer", FullPrecision())
    return module


@pytest.mark.parametrize("mask", [None, "bool", "float"])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_the_written_out_product_is_torch_s(mask: str | None, scale: float | None) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 2, 3, 5, 4, generator=generator, dtype=torch.float64)
    attn_mask = None
    if mask == "bool":
        attn_mask = torch.rand(2, 1, 5, 5, generator=generator) > 0.3
        attn_mask[..., 0] = True
    elif mask == "float":
        attn_mask = torch.randn(2, 1, 5, 5, generator=generator, dtype=torch.float64)
    output = attend(bare(), q, k, v, attn_mask, 0.5 if scale is None else scale)
    assert torch.allclose(output, sdpa(q, k, v, attn_mask=attn_mask, scale=scale), rtol=0, atol=1e-12)


def test_observing_computes_full_precision() -> None:
    attached, (sample, timestep) = wrapped(), data()
    with observing(attached):
        output = QuantDenoiser(attached)(sample, timestep)
    assert torch.allclose(output, network()(sample, timestep).sample, rtol=0, atol=1e-12)
    modules = [attached.model.get_submodule(a.name) for a in attached.adapter.attentions()]
    assert len(modules) == 4 and not any(getattr(module.processor, "observed") for module in modules)  # noqa: B009


def test_each_operand_goes_through_its_quantizer() -> None:
    """The network with its last attention replaced by the product of separately quantized operands."""
    attached, (sample, timestep) = wrapped(scheme(act=4)), data()
    attn = attached.model.get_submodule("mid_block.attentions.0")
    operands: dict[str, tuple[Tensor, Tensor]] = {}
    hooks = [
        getattr(attn, f"{slot}_quantizer").register_forward_hook(
            lambda _m, x, y, slot=slot: operands.__setitem__(slot, (x[0], y))
        )
        for slot in ("q", "k", "v", "prob")
    ]
    outputs: list[Tensor] = []
    hooks.append(attn.to_out[0].register_forward_pre_hook(lambda _m, x: outputs.append(x[0])))  # type: ignore[index, union-attr]
    QuantDenoiser(attached)(sample, timestep)
    for hook in hooks:
        hook.remove()
    assert set(operands) == {"q", "k", "v", "prob"}
    assert operands["q"][0].shape == (8, 1, 16, 16)
    for before, after in operands.values():
        assert not torch.equal(before, after) and 1 < len(set(after.flatten().tolist())) <= 16
    (_, q), (_, k), (_, v), (prob, quantized) = (operands[slot] for slot in ("q", "k", "v", "prob"))
    assert torch.allclose(prob, (q @ k.mT / 4).softmax(-1), rtol=0, atol=1e-14)
    assert torch.allclose(outputs[0], (quantized @ v).transpose(1, 2).flatten(2), rtol=0, atol=1e-12)
    assert quantized.min() >= 0
