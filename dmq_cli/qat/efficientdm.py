"""Low-rank updates inside the quantizers, and a scale of activations for every step.

He, Liu, Wu, Zhou, Zhuang: EfficientDM: Efficient Quantization-Aware Fine-Tuning of Low-Bit Diffusion Models, ICLR 2024, arXiv:2310.03270.
Implemented: QALoRA, W^ = Q(W_0 + B A) with W_0 the weight quantized already and frozen (eq. 6), merged before it is quantized, so that
nothing is left of it when sampling; scale-aware rates, lr of a layer = mean of its scales / 2500 (as released); TALSQ, a scale and a zero
point of activations for each step (eq. 9), as scheme=efficientdm; distillation from the full-precision network along its trajectories.
Compared with ThisisBillhe/EfficientDM @ 293e212.
Deliberate deviations: the row of a step is chosen by the timestep, not by a counter in every module that one call more or less
desynchronises; batches mix steps, where the released code goes along one trajectory; updates of the scales of weights are not made twice
unless `double_update`, which is how the released code does it, since two of its parameters share their memory. As in every training
here, and not in the released one, gradients are clipped, averages of the parameters are kept and the best of five is taken, and what is
matched is the network's own estimate, not the guided one, by its mean squared error, not by the sum, which Adam does not tell apart with so small an `adam_eps`; beside a scale learns the lower end of
the range, where the released code learns the zero point, at the same rate in its own unit, a code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dmq_cli.errors import ConfigError
from dmq_cli.qat.weights import Rates, WeightsInTraining, low_rank, quantized_layers
from dmq_cli.quant import TensorQuantizer, source_of
from dmq_cli.wrap import Attached

_SEED = 3407


@dataclass(frozen=True)
class QaLora:
    """Updates of low rank. rate: the learning rate of a layer over the mean of its weight's scales.

    double_update: the scales of weights move twice a step, the second time with the gradient of the frozen weight that they dequantize
    and the absolute rate scale_lr. Raises ConfigError for impossible settings.
    """

    rank: int = 32
    rate: float = 1 / 2500
    double_update: bool = False
    scale_lr: float = 1e-6
    others = False

    def __post_init__(self) -> None:
        if self.rank < 1 or self.rate <= 0 or self.scale_lr <= 0:
            raise ConfigError(
                f"QaLora was asked for rank={self.rank}, rate={self.rate}, scale_lr={self.scale_lr}; all of them are positive."
            )

    def start(self, attached: Attached, lr: float) -> WeightsInTraining:
        """See WeightsKind. lr is not used: every layer has its own."""
        return _LowRank(attached, self)


class _Frozen:
    """The weight of a layer as it was quantized: whole numbers and their scales, of each part of a split one."""

    def __init__(self) -> None:
        self.integers: list[Tensor] = []
        self.scales: list[Tensor] = []

    @torch.no_grad()
    def add(self, quantizer: TensorQuantizer, weight: Tensor) -> None:
        """Add the next part."""
        scale, zero_point = quantizer.scale(weight)
        self.integers.append(quantizer.codes(weight) - zero_point)
        self.scales.append(scale.detach().clone())

    def weight(self) -> Tensor:
        """The dequantized weight."""
        return torch.cat([number * scale for number, scale in zip(self.integers, self.scales, strict=True)], 1)


class _LowRank(nn.Module):
    def __init__(self, attached: Attached, record: QaLora) -> None:
        super().__init__()
        layers, self.record = quantized_layers(attached), record
        self.layers, self.frozen = list(layers.values()), {name: _Frozen() for name in layers}
        self.learned: list[nn.Parameter] = []
        dequantizing: list[nn.Parameter] = []
        for path, quantizer, weight, _ in attached.weight_pieces():
            frozen = self.frozen[path.partition(".weight_quantizer")[0]]
            frozen.add(quantizer, weight)
            if record.double_update:
                dequantizing.append(nn.Parameter(frozen.scales[-1]))
                frozen.scales[-1] = dequantizing[-1]
                self.learned.append(source_of(quantizer).bounds()[0][0])
        self.dequantizing, self.dequantizing_before = nn.ParameterList(dequantizing), list[Tensor]()
        weights, generator = [frozen.weight().detach() for frozen in self.frozen.values()], torch.Generator()
        generator.manual_seed(_SEED)
        self.down = nn.ParameterList(_kaiming(weight, record.rank, generator) for weight in weights)
        self.up = nn.ParameterList(nn.Parameter(weight.new_zeros(len(weight), record.rank)) for weight in weights)
        self.base = None if record.double_update else weights
        self.scales = [_mean(frozen.scales) for frozen in self.frozen.values()]

    def rates(self) -> Rates:
        factors = zip(self.scales, self.down, self.up, strict=True)
        return [
            *(([down, up], self.record.rate * scale) for scale, down, up in factors),
            (list(self.dequantizing), self.record.scale_lr),
        ]

    def place(self) -> None:
        self.dequantizing_before = [scale.detach().clone() for scale in self.dequantizing]
        for layer, weight in zip(self.layers, self.merged(), strict=True):
            layer.tuned, layer.baked = weight, None

    def merged(self) -> list[Tensor]:
        bases = self.base or [frozen.weight() for frozen in self.frozen.values()]
        return [base + low_rank(down, up) for base, down, up in zip(bases, self.down, self.up, strict=True)]

    @torch.no_grad()
    def settle(self) -> None:
        """Add the second update of every scale to the first: in the released code the two parameters are the same memory."""
        scales = zip(self.learned, self.dequantizing, self.dequantizing_before, strict=True)
        for quantizing, dequantizing, before in scales:
            quantizing.add_((dequantizing - before).view_as(quantizing))
            dequantizing.copy_(quantizing.view_as(dequantizing))

    @torch.no_grad()
    def finish(self) -> None:
        for layer, weight in zip(self.layers, self.merged(), strict=True):
            layer.tuned = weight.detach().clone()


def _mean(scales: list[Tensor]) -> float:
    return float(torch.stack([scale.detach().mean() for scale in scales]).mean())


def _kaiming(weight: Tensor, rank: int, generator: torch.Generator) -> nn.Parameter:
    """A of LoRA, (rank, in, ...): uniform with PyTorch's default bound 1/sqrt(fan in)."""
    bound = 1 / math.sqrt(weight[0].numel())
    values = (torch.rand((rank, *weight.shape[1:]), generator=generator) * 2 - 1) * bound
    return nn.Parameter(values.to(weight))
