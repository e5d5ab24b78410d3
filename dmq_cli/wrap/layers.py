"""Linear and convolution layers with a quantizer in front of the input and around the weight.

They are subclasses that share the original Parameters, so state-dict keys stay `conv_in.weight` and isinstance holds.
A transform's tensors (a scaling of input channels, a low-rank branch) do not change the layer's full-precision output.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from dmq_cli.quant import SiteQuantizer

EXTRAS = ("channel_scale", "branch_down", "branch_up", "tuned")


class QuantMixin:
    """Adds `input_quantizer` and `weight_quantizer` (see SiteQuantizer).

    channel_scale r (in channels,): the layer reads x / r and its weight is W r. branch_down, branch_up: a low-rank branch beside
    the quantized path, whose product is subtracted from the weight. tuned: a fine-tuned weight, used instead of the
    transformed one while weights are quantized.
    """

    weight: Tensor
    input_quantizer: SiteQuantizer
    weight_quantizer: SiteQuantizer
    baked: Tensor | None
    channel_scale: Tensor | None
    branch_down: Tensor | None
    branch_up: Tensor | None
    tuned: Tensor | None

    def forward(self, input: Tensor) -> Tensor:
        """The layer's output: of the quantized path, plus the branch where there is one."""
        if self.channel_scale is not None:
            input = input / self.per_channel(self.channel_scale)
        output = self.linear_map(self.input_quantizer(input), self.quantized_weight(), cast(Any, self).bias)
        if self.branch_down is None or self.branch_up is None:
            return output
        return output + self.branch(input, self.branch_down, self.branch_up)

    def linear_map(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Apply the layer's linear map without quantizers."""
        raise NotImplementedError

    def branch(self, input: Tensor, down: Tensor, up: Tensor) -> Tensor:
        """up(down(input)): down (rank, in, ...) in the layer's own geometry, up (out, rank)."""
        raise NotImplementedError

    def per_channel(self, vector: Tensor) -> Tensor:
        """Reshape (in channels,) so that it broadcasts to the input."""
        return vector.view(-1, *(1,) * (self.weight.dim() - 2))

    def transformed_weight(self) -> Tensor:
        """W r - up down: the weight of full precision."""
        weight = self.weight
        if self.channel_scale is not None:
            weight = weight * self.per_channel(self.channel_scale)
        if self.branch_down is not None and self.branch_up is not None:
            weight = weight - (self.branch_up @ self.branch_down.flatten(1)).view_as(weight)
        return weight

    def latent_weight(self) -> Tensor:
        """The weight that the weight quantizer quantizes."""
        return self.tuned if self.tuned is not None else self.transformed_weight()

    def quantized_weight(self) -> Tensor:
        """The weight as the quantized network sees it: the baked copy if there is one and quantization is on."""
        if not self.weight_quantizer.enabled:
            return self.transformed_weight()
        if self.baked is not None:
            return self.baked
        quantized: Tensor = self.weight_quantizer(self.latent_weight())
        return quantized

    @torch.no_grad()
    def bake(self) -> None:
        """Quantize the weight once and keep the result, so that calls do not quantize it again.

        A weight whose quantizer is off is not kept: it would count as quantized once the quantizer is on again.
        """
        self.baked = None
        if self.weight_quantizer.enabled:
            self.baked = self.quantized_weight().detach().contiguous()

    def extras(self) -> dict[str, Tensor]:
        """The tensors of EXTRAS that the layer has, by name."""
        return {name: value for name in EXTRAS if (value := getattr(self, name)) is not None}


class QuantLinear(QuantMixin, nn.Linear):
    """A Linear."""

    def linear_map(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """See QuantMixin."""
        return nn.functional.linear(input, weight, bias)

    def branch(self, input: Tensor, down: Tensor, up: Tensor) -> Tensor:
        """See QuantMixin."""
        return nn.functional.linear(nn.functional.linear(input, down), up)


class QuantConv1d(QuantMixin, nn.Conv1d):
    """A Conv1d."""

    def linear_map(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """See QuantMixin."""
        output: Tensor = self._conv_forward(input, weight, bias)
        return output

    def branch(self, input: Tensor, down: Tensor, up: Tensor) -> Tensor:
        """See QuantMixin."""
        return nn.functional.conv1d(self._conv_forward(input, down, None), up[..., None])


class QuantConv2d(QuantMixin, nn.Conv2d):
    """A Conv2d."""

    def linear_map(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """See QuantMixin."""
        output: Tensor = self._conv_forward(input, weight, bias)
        return output

    def branch(self, input: Tensor, down: Tensor, up: Tensor) -> Tensor:
        """See QuantMixin."""
        return nn.functional.conv2d(self._conv_forward(input, down, None), up[..., None, None])


def with_quantizers(layer: nn.Module, input_quantizer: nn.Module, weight_quantizer: nn.Module) -> nn.Module:
    """The layer's quantized subclass around the same Parameters. Raises TypeError for other kinds of layers."""
    for kind, quantized in ((nn.Linear, QuantLinear), (nn.Conv2d, QuantConv2d), (nn.Conv1d, QuantConv1d)):
        if type(layer) is kind:
            twin = cast(Any, quantized).__new__(quantized)
            copied = ("_parameters", "_modules", "_buffers", "_non_persistent_buffers_set")
            twin.__dict__ = {k: v.copy() if k in copied else v for k, v in layer.__dict__.items()}
            twin.input_quantizer, twin.weight_quantizer = input_quantizer, weight_quantizer
            for name in ("baked", *EXTRAS):  # as buffers they move with the layer to another device or dtype
                twin.register_buffer(name, None, persistent=False)
            return cast(nn.Module, twin)
    raise TypeError(f"{type(layer).__name__} has no quantized subclass")
