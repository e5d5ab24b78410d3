"""The network while it is trained: everything that learns, as the parameters of one module."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from dmq_cli.models import Cond
from dmq_cli.qat.batched import BatchedNetworks
from dmq_cli.qat.stand_ins import Gradients
from dmq_cli.qat.weights import Rates, WeightsKind, other_parameters
from dmq_cli.quant import StepMLP, TensorQuantizer, source_of
from dmq_cli.recon.passes import ACTIVATIONS
from dmq_cli.recon.scales import Scales, groups, settle
from dmq_cli.wrap import Attached


class Student(nn.Module):
    """Called with a batch, predicts as the quantized network does; until `finish` its quantizers learn as `gradients` says.

    weights: how weights learn, and with them the other parameters; lr: their rate; scales, weight_scales: the rates of scales. What has a
    rate of 0 stays as it is. dtype: of products.
    """

    def __init__(
        self, attached: Attached, weights: WeightsKind, gradients: Gradients, lr: float, scales: Scales, weight_scales: Scales,
        dtype: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        super().__init__()
        self.dtype = dtype
        self._attached = [attached]  # not as a module: it has parameters that do not learn
        self.weights = weights.start(attached, lr)
        others = attached.trained.open(attached.model, other_parameters(attached) if weights.others else [])
        activations, quantized = (attached.quantizers(*slots).values() for slots in (ACTIVATIONS, ("weight",)))
        self.networks = BatchedNetworks(source for q in activations if isinstance(source := q.scale, StepMLP))
        learning = [q for q in activations if not isinstance(q.scale, StepMLP)]
        scale_rates = [
            *_rates(scales, learning),
            *(_rates(weight_scales, quantized) if gradients.weight_scales else []),
        ]
        self.sources = [source_of(quantizer) for quantizer in (*learning, *quantized)]
        self.others = nn.ParameterList([*others, *(parameter for group, _ in scale_rates for parameter in group)])
        networks = list(self.networks.parameters())
        self._rates = [*self.weights.rates(), (others, lr), (networks, scales.lr), *scale_rates]
        self.stand_ins = gradients.start(attached)
        self.requires_grad_(True)
        for parameter in (parameter for group, rate in self._rates if not rate for parameter in group):
            parameter.requires_grad_(False)

    @property
    def attached(self) -> Attached:
        """The network."""
        return self._attached[0]

    def rates(self) -> Rates:
        """Every parameter that learns, in groups with their learning rates."""
        return [(group, rate) for group, rate in self._rates if group and rate]

    def forward(self, sample: Tensor, timestep: Tensor, cond: Cond = None) -> Tensor:
        """The network's own prediction (B, C, ...) for a batch."""
        self.weights.place()
        self.networks.place(timestep.reshape(-1))
        narrow = torch.autocast(sample.device.type, self.dtype, enabled=self.dtype != torch.float32)
        with self.attached.at(timestep), narrow:
            return self.attached.adapter.predict(sample, timestep, cond).to(sample)

    @torch.no_grad()
    def settle(self) -> None:
        """Bring every scale back to its least value, and every lower end to 0, where a step took it beyond."""
        self.weights.settle()
        settle(self.sources)

    def finish(self) -> None:
        """Leave what was learned in the network, whose quantizers are what they were otherwise; nothing requires gradients any more."""
        self.weights.finish()
        self.networks.finish()
        self.stand_ins.finish()
        self.requires_grad_(False)


def _rates(record: Scales, quantizers: Iterable[TensorQuantizer]) -> Rates:
    return [(group["params"], group["lr"]) for quantizer in quantizers for group in groups(record, quantizer)]
