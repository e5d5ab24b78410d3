"""How quantized weights learn: themselves behind their quantizers, or by an update of low rank."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from dmq_cli.wrap import Attached, QuantMixin

Rates = list[tuple[list[nn.Parameter], float]]
"""Parameters with the learning rate of each group."""


class WeightsInTraining(Protocol):
    """Holds what learns of all quantized weights; a module."""

    def rates(self) -> Rates:
        """All its parameters."""
        ...

    def place(self) -> None:
        """Put the weights as they are now into the layers, before a call of the network."""
        ...

    def settle(self) -> None:
        """Called after every step."""
        ...

    def finish(self) -> None:
        """Leave the learned weights in the layers, without gradients."""
        ...

    def parameters(self) -> Iterable[nn.Parameter]:
        """See nn.Module."""
        ...


class WeightsKind(Protocol):
    """A way in which weights learn."""

    @property
    def others(self) -> bool:
        """Whether biases, norms and layers in full precision learn as well."""
        ...

    def start(self, attached: Attached, lr: float) -> WeightsInTraining:
        """Begin with the weights as they are. lr: of the training."""
        ...


@dataclass(frozen=True)
class Latent:
    """Weights learn behind their quantizers, whose rounding gradients pass straight through; all other parameters learn too."""

    others = True

    def start(self, attached: Attached, lr: float) -> WeightsInTraining:
        """See WeightsKind."""
        return _LatentWeights(attached, lr)


class _LatentWeights(nn.Module):
    def __init__(self, attached: Attached, lr: float) -> None:
        super().__init__()
        self.layers, self.lr = list(quantized_layers(attached).values()), lr
        self.latent = nn.ParameterList(nn.Parameter(layer.latent_weight().detach().clone()) for layer in self.layers)

    def rates(self) -> Rates:
        return [(list(self.latent), self.lr)]

    def place(self) -> None:
        for layer, weight in zip(self.layers, self.latent, strict=True):
            layer.tuned, layer.baked = weight.view_as(weight), None

    def settle(self) -> None:
        pass

    @torch.no_grad()
    def finish(self) -> None:
        for layer, weight in zip(self.layers, self.latent, strict=True):
            layer.tuned = weight.detach().clone()


def quantized_layers(attached: Attached) -> dict[str, QuantMixin]:
    """The layers whose weights are quantized, by name."""
    quantized = {path.partition(".weight_quantizer")[0] for path in attached.quantizers("weight")}
    return {name: layer for name, layer in attached.layers().items() if name in quantized}


def other_parameters(attached: Attached) -> list[str]:
    """The names of the network's parameters that no weight quantizer stands before, without those of quantizers."""
    quantizers = {id(p) for quantizer in attached.quantizers().values() for p in quantizer.parameters()}
    weights = {f"{name}.weight" for name in quantized_layers(attached)}
    return [n for n, p in attached.model.named_parameters() if id(p) not in quantizers and n not in weights]


def low_rank(down: Tensor, up: Tensor) -> Tensor:
    """The product of up (out, rank) and down (rank, in, ...), in the shape of a weight."""
    return (up @ down.flatten(1)).view(len(up), *down.shape[1:])
