"""The interface to a network, whatever its family: all that the rest of the code uses of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from dmq_cli.models.prediction import Prediction
from dmq_cli.models.roles import ATTENTION_SLOTS, LAYER_SLOTS


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer. name: module path; role and part: see roles.py."""

    name: str
    role: str
    part: str


@dataclass(frozen=True)
class Site:
    """One place where a tensor is quantized: `module` holds it as `<slot>_quantizer`."""

    module: str
    role: str
    slot: str
    part: str

    @property
    def label(self) -> str:
        """The label that rules match, e.g. "resnet.conv1.weight" or "attn.prob"."""
        return f"{self.role}.{self.slot}"

    @property
    def name(self) -> str:
        """Path of the quantizer in the model, e.g. "conv_in.weight_quantizer"."""
        return f"{self.module}.{self.slot}_quantizer"


class Adapter(Protocol):
    """One family of networks."""

    model: nn.Module
    prediction: Prediction
    """The kind of the prediction: the noise, the velocity or the clean sample."""

    def predict(self, sample: Tensor, timestep: Tensor, cond: object) -> Tensor:
        """Call the network and return its prediction, (B, C, ...). sample (B, C, ...), timestep () or (B,), of training.

        cond: the family's condition, a mapping of tensors with a row for each sample, or None. Raises ModelError for a condition
        that does not fit.
        """
        ...

    def blank_cond(self, num: int) -> Mapping[str, Tensor] | None:
        """A `cond` of the right shapes for num samples, all zeros: for counts and traces, where values do not matter."""
        ...

    def layers(self) -> list[Layer]:
        """Every convolution and linear layer, each with its role, in model order."""
        ...

    def attentions(self) -> list[Layer]:
        """Every attention, role "attn" or "attn.cross"."""
        ...

    def units(self) -> list[str]:
        """Names of the units of reconstruction, in execution order; every layer lies in exactly one unit."""
        ...

    def temporal(self, timestep: Tensor, cond: object = None) -> dict[str, Tensor]:
        """Every block's projection of the time embedding, by layer name: {name: (B, width)}. timestep (B,).

        These are functions of the timestep alone, computed by the network's own (possibly quantized) layers. Where a class
        is embedded together with it, they are functions of both, the finite set is timesteps x classes, and `cond` has to
        have the "class_labels"; without them ModelError is raised, which refuses recon.temporal=joint.
        """
        ...

    def skip_splits(self) -> dict[str, tuple[int, int]]:
        """For shortcuts that read a concatenation: (channels from below, channels from the skip connection)."""
        ...

    def sample_shape(self) -> tuple[int, ...]:
        """The shape of one sample, channels first: (C, H, W) of an image."""
        ...


def sites(adapter: Adapter) -> list[Site]:
    """Every place that can be quantized: input and weight of each layer, then q, k, v and prob of each attention."""
    layer_sites = [Site(x.name, x.role, slot, x.part) for x in adapter.layers() for slot in LAYER_SLOTS]
    return layer_sites + [Site(x.name, x.role, slot, x.part) for x in adapter.attentions() for slot in ATTENTION_SLOTS]
