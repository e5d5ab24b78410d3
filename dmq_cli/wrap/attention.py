"""Quantizers inside attention, without a copy of any library's attention code.

The processor runs the original one inside a function mode that redirects exactly one call, that of
`scaled_dot_product_attention`, to the same product written out with quantizers on q, k, v and the probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dmq_cli.models.roles import ATTENTION_SLOTS
from dmq_cli.quant import SiteQuantizer


class QuantAttention:
    """An attention processor for diffusers: `original` with the product quantized, called as it would be.

    temb is named because diffusers drops keywords that are not in the signature. observed: write the product out even where
    every quantizer is off, so that their inputs can be observed.
    """

    def __init__(self, original: Callable[..., Any], product: Callable[..., Tensor] | None = None) -> None:
        """product: what computes it, called as `attend`; None: that."""
        self.original, self.product = original, product or attend
        self.observed = False

    def __call__(self, attn: nn.Module, *args: Any, temb: Tensor | None = None, **named: Any) -> Any:
        """What the original processor returns, its product quantized where a quantizer is on."""
        if temb is not None:
            named["temb"] = temb
        if not self.observed and not any(quantizer.enabled for quantizer in slot_quantizers(attn)):
            return self.original(attn, *args, **named)
        calls: list[int] = []  # a list of this scope: torch.compile does not see attributes that a mode changes
        with _Redirect(attn, self.product, calls):
            output = self.original(attn, *args, **named)
        if len(calls) != 1:
            raise RuntimeError(f"{type(self.original).__name__} made {len(calls)} attention products instead of one")
        return output


def slot_quantizers(attn: nn.Module) -> list[SiteQuantizer]:
    """The quantizers of q, k, v and the probabilities, in this order."""
    return [getattr(attn, f"{slot}_quantizer") for slot in ATTENTION_SLOTS]


def attend(attn: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """softmax(q k^T * scale + mask) v with all four operands quantized. Shapes (B, heads, tokens, dim)."""
    quant_q, quant_k, quant_v, quant_prob = slot_quantizers(attn)
    logits = quant_q(query) @ quant_k(key).transpose(-1, -2) * scale
    if mask is not None:
        logits = logits + mask if mask.dtype != torch.bool else logits.masked_fill(~mask, -math.inf)
    output: Tensor = quant_prob(logits.softmax(-1)) @ quant_v(value)
    return output


def operands(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
    is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, float]:  # fmt: skip
    """Expand a call of torch's scaled_dot_product_attention to (query, key, value, mask, scale).

    A causal mask becomes a tensor, and key and value are repeated to the number of the query's heads.
    """
    if is_causal:
        attn_mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
    if enable_gqa:
        key, value = (x.repeat_interleave(query.shape[-3] // x.shape[-3], -3) for x in (key, value))
    return query, key, value, attn_mask, 1 / math.sqrt(query.shape[-1]) if scale is None else scale


class _Redirect(TorchFunctionMode):
    def __init__(self, attn: nn.Module, product: Callable[..., Tensor], calls: list[int]) -> None:
        super().__init__()
        self.attn, self.product = attn, product
        self.calls = calls

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not nn.functional.scaled_dot_product_attention:
            return func(*args, **kwargs)
        self.calls.append(1)
        return self.product(self.attn, *operands(*args, **kwargs))
