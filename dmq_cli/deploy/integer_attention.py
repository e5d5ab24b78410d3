"""Attention's products in integers: both factors are codes, and what their zero points add is taken off behind.

With codes a, b of scales s, t and zero points y, z:
    (a - y)(b - z) s t = (a b - y colsum(b) - z rowsum(a) + K y z) s t,   K terms in a sum.
The second factor is signed, as runtimes want it; a zero point that is 0 adds nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from dmq_cli.deploy.integer_quantizers import TableQuantizer
from dmq_cli.quant import TensorQuantizer
from dmq_cli.wrap import slot_quantizers

PAIRS = (("q", "k"), ("prob", "v"))
"""The slots of the factors of both products."""


def product_name(attention: str, first_slot: str) -> str:
    """The name of one of attention's products, by the slot of its first factor."""
    return f"{attention}.{'qk' if first_slot == 'q' else 'pv'}"


class IntegerAttention(nn.Module):
    """softmax(q k^T * scale + mask) v, either product in integers or with its quantizers written out; called as `attend`."""

    def __init__(self, quantizers: Sequence[nn.Module], integer: Sequence[bool]) -> None:
        """quantizers: of q, k, v and the probabilities; integer: for each product, whether it is."""
        super().__init__()
        q, k, v, prob = quantizers
        self.logits = _IntegerProduct(q, k) if integer[0] else None
        self.output = _IntegerProduct(prob, v) if integer[1] else None

    def forward(
        self, attn: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float
    ) -> Tensor:
        """Shapes (B, heads, tokens, dim)."""
        quant_q, quant_k, quant_v, quant_prob = slot_quantizers(attn)
        turned = key.transpose(-1, -2)
        logits = quant_q(query) @ quant_k(turned) if self.logits is None else self.logits(query, turned)
        logits = logits * scale
        if mask is not None:
            logits = logits + mask if mask.dtype.is_floating_point else logits.masked_fill(~mask, -math.inf)
        prob = logits.softmax(-1)
        output: Tensor = quant_prob(prob) @ quant_v(value) if self.output is None else self.output(prob, value)
        return output


class _IntegerProduct(nn.Module):
    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        if not isinstance(first, TensorQuantizer) or not isinstance(second, TensorQuantizer):
            raise TypeError(f"{type(first).__name__} and {type(second).__name__} are no single quantizers")
        self.first, self.second = TableQuantizer(first), TableQuantizer(second, signed=True)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x (..., N, K) times y (..., K, M)."""
        (scale, zero), (second_scale, second_zero) = self.first.ends(x), self.second.ends(y)
        codes, second_codes = self.first(x), self.second(y)
        total: Tensor = codes @ second_codes
        if not self.second.zero_is_zero:
            total = total - second_zero * codes.sum(-1, keepdim=True)
        if not self.first.zero_is_zero:
            total = total - zero * (second_codes - second_zero).sum(-2, keepdim=True)
        product: Tensor = total * (scale * second_scale)
        return product
