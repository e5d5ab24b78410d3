"""Low-rank updates inside the quantizers, and a scale of activations for every step.

He, Liu, Wu, Zhou, Zhuang: EfficientDM: Efficient Quantization-Aware Fine-Tuning of Low-Bit Diffusion Models, ICLR 2024, arXiv:2310.03270.
Implemented: QALoRA, W^ = Q(W_0 + B A) with W_0 the weight quantized already and frozen (eq. 6), merged before it is quantized, so that
nothing is left of it when sampling; scale-aware rates, lr of a layer = mean of its scales / 2500 (as released); TALSQ, a scale and a zero
point of activations for each step (eq. 9), as scheme=efficientdm; distillation from the full-precision network along its trajectories.
Compared with ThisisBillhe/EfficientDM @ 293e212.
Deliberate deviations: the row of a step is chosen by the timestep, not by a counter in every module that one call more or less
desynchronises; batches mix steps, where the released code goes along one trajectory; updates of the scales of weights are not made twice
unless `double_update`, which is how the released code does it, since two of its parameters share their memory.
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
    """Updates of low rank. rate: the learning rate of a layer over the mean of its weight's scales; scale_lr: of those scales.

    Raises ConfigError for impossible settings.
    """

    rank: int = 32
    rate: float = 1 / 2500
    scale_lr: float = 1e-6
    double_update: bool = False
    others = False

    def __post_init__(self) -> None:
        if self.rank < 1 or self.rate <= 0 or self.scale_lr <= 0:
            raise ConfigError(
                f"QaLora was asked for rank={self.rank}, rate={self.rate}, scale_lr={self.scale_lr}; all of them are positive."
            )

    def start(self, attached: Attached, lr: float) -> WeightsInTraining:
        """See WeightsKind. lr is not used: every layer has its own."""
        return _LowRank(attached, self)


class _LowRank(nn.Module):
    def __init__(self, attached: Attached, record: QaLora) -> None:
        super().__init__()
        layers = quantized_layers(attached)
        self.layers, self.rate = list(layers.values()), record.rate
        self.base = [layer.weight_quantizer(layer.latent_weight()).detach().clone() for layer in self.layers]
        generator = torch.Generator().manual_seed(_SEED)
        self.down = nn.ParameterList(_kaiming(weight, record.rank, generator) for weight in self.base)
        self.up = nn.ParameterList(
            nn.Parameter(torch.zeros(len(weight), record.rank, dtype=weight.dtype, device=weight.device))
            for weight in self.base
        )
        self.scales = [_mean_scale(attached, name) for name in layers]

    def rates(self) -> Rates:
        factors = zip(self.scales, self.down, self.up, strict=True)
        return [([down, up], self.rate * scale) for scale, down, up in factors]

    def place(self) -> None:
        for layer, weight in zip(self.layers, self.merged(), strict=True):
            layer.tuned, layer.baked = weight, None

    def merged(self) -> list[Tensor]:
        triples = zip(self.base, self.down, self.up, strict=True)
        return [base + low_rank(down, up) for base, down, up in triples]

    @torch.no_grad()
    def finish(self) -> None:
        for layer, weight in zip(self.layers, self.merged(), strict=True):
            layer.tuned = weight.detach().clone()


def _kaiming(weight: Tensor, rank: int, generator: torch.Generator) -> nn.Parameter:
    """A of LoRA, (rank, in, ...): uniform with PyTorch's default bound 1/sqrt(fan in)."""
    shape = (rank, *weight.shape[1:])
    bound = 1 / math.sqrt(weight[0].numel())
    values = (torch.rand(shape, generator=generator) * 2 - 1) * bound
    return nn.Parameter(values.to(weight))


def _mean_scale(attached: Attached, layer: str) -> float:
    """The mean scale of a layer's weight, over channels and parts."""
    return sum(
        means := [_mean(q) for path, q in attached.quantizers("weight").items() if path.startswith(f"{layer}.weight")]
    ) / len(means)


def _mean(quantizer: TensorQuantizer) -> float:
    return float(torch.stack([parameter.detach().mean() for parameter, _ in source_of(quantizer).bounds()]).mean())
