"""Linear and convolution layers with a quantizer in front of the input and around the weight.

They are subclasses that share the original Parameters, so state-dict keys stay `conv_in.weight` and isinstance holds.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn


class QuantMixin:
    """Adds `input_quantizer` and `weight_quantizer` (identity where a tensor stays in full precision)."""

    weight: Tensor
    input_quantizer: nn.Module
    weight_quantizer: nn.Module
    baked: Tensor | None

    def quantized_weight(self) -> Tensor:
        """The weight as the quantized network sees it: the baked copy if there is one and quantization is on."""
        if self.baked is not None and getattr(self.weight_quantizer, "enabled", True):
            return self.baked
        quantized: Tensor = self.weight_quantizer(self.weight)
        return quantized

    @torch.no_grad()
    def bake(self) -> None:
        """Quantize the weight once and keep the result, so that sampling does not round it again at every call.

        A weight whose quantizer is off is not kept: it would pass for quantized when the quantizer is on again.
        """
        self.baked = None
        if getattr(self.weight_quantizer, "enabled", False):
            self.baked = self.quantized_weight().detach().contiguous()


class QuantLinear(QuantMixin, nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.linear(self.input_quantizer(input), self.quantized_weight(), self.bias)


class QuantConv1d(QuantMixin, nn.Conv1d):
    def forward(self, input: Tensor) -> Tensor:
        output: Tensor = self._conv_forward(self.input_quantizer(input), self.quantized_weight(), self.bias)
        return output


class QuantConv2d(QuantMixin, nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        output: Tensor = self._conv_forward(self.input_quantizer(input), self.quantized_weight(), self.bias)
        return output


def with_quantizers(layer: nn.Module, input_quantizer: nn.Module, weight_quantizer: nn.Module) -> nn.Module:
    """The layer's quantized subclass around the same Parameters. Raises TypeError for other kinds of layers."""
    for kind, quantized in ((nn.Linear, QuantLinear), (nn.Conv2d, QuantConv2d), (nn.Conv1d, QuantConv1d)):
        if type(layer) is kind:
            twin = cast(Any, quantized).__new__(quantized)
            own = ("_parameters", "_modules", "_buffers", "_non_persistent_buffers_set")
            twin.__dict__ = {k: v.copy() if k in own else v for k, v in layer.__dict__.items()}
            twin.input_quantizer, twin.weight_quantizer = input_quantizer, weight_quantizer
            twin.register_buffer("baked", None, persistent=False)  # goes along to another device or dtype
            return cast(nn.Module, twin)
    raise TypeError(f"{type(layer).__name__} has no quantized subclass")
