"""Shared by the adapters of all families: name layers by patterns, find attentions, trace the order of execution."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dmq_cli.errors import ModelError
from dmq_cli.models.adapter import Adapter, Layer
from dmq_cli.models.prediction import NOISE, Prediction
from dmq_cli.models.role_patterns import PARTS, Patterns, part_of, role_of

Blocks = tuple[type[nn.Module], ...]

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class NamedParts(ABC):
    """Base of the adapters of all families.

    patterns: roles by path; parts: by the first name of a path; blocks: what is reconstructed as one piece. prediction: what
    `predict` returns, as the model's scheduler configuration says.
    """

    patterns: ClassVar[Patterns]
    blocks: ClassVar[Blocks]
    parts: ClassVar[Mapping[str, str]] = PARTS
    prediction: Prediction = NOISE

    def __init__(self, model: Any, tokens: int = 1) -> None:
        """tokens: how many a condition has where only costs and order matter (77 for CLIP's texts, 1 for a class)."""
        self.model, self.tokens = model, tokens

    @abstractmethod
    def predict(self, sample: Tensor, timestep: Tensor, cond: object) -> Tensor:
        """See Adapter."""

    @abstractmethod
    def blank_cond(self, num: int) -> Mapping[str, Tensor] | None:
        """See Adapter."""

    @abstractmethod
    def temporal(self, timestep: Tensor, cond: object = None) -> dict[str, Tensor]:
        """See Adapter."""

    @abstractmethod
    def skip_splits(self) -> dict[str, tuple[int, int]]:
        """See Adapter."""

    @abstractmethod
    def sample_shape(self) -> tuple[int, ...]:
        """See Adapter."""

    def layers(self) -> list[Layer]:
        """List every convolution and linear layer. Raises ModelError for a layer without a role."""
        return find_layers(self.model, self.patterns, self.attentions(), self.parts)

    def attentions(self) -> list[Layer]:
        """See Adapter."""
        return find_attentions(self.model, self.parts)

    def units(self) -> list[str]:
        """Blocks whole, other layers alone, in the order in which one forward pass runs them."""
        return executed(self.model, self.blocks, lambda: run_once(self))


def find_layers(
    model: nn.Module, patterns: Patterns, attentions: Sequence[Layer], parts: Mapping[str, str]
) -> list[Layer]:
    """Every convolution and linear layer, in model order. Raises ModelError for one that fits no pattern."""
    cross = tuple(f"{layer.name}." for layer in attentions if layer.role == "attn.cross")
    layers = []
    for name, module in model.named_modules():
        if isinstance(module, _LAYERS):
            role = _role(type(model).__name__, name, patterns)
            role = role.replace("attn.", "attn.cross.", 1) if name.startswith(cross) else role
            layers.append(Layer(name, role, part_of(name, parts)))
    return layers


def find_attentions(model: nn.Module, parts: Mapping[str, str]) -> list[Layer]:
    """Every attention: role "attn", or "attn.cross" where keys and values come from a condition."""
    from diffusers.models.attention_processor import Attention  # seconds to import

    named = ((name, module) for name, module in model.named_modules() if isinstance(module, Attention))
    return [
        Layer(name, "attn.cross" if module.is_cross_attention else "attn", part_of(name, parts))
        for name, module in named
    ]


def executed(model: nn.Module, blocks: Blocks, run: Callable[[], object]) -> list[str]:
    """The outermost modules that are blocks, and the layers outside of them, in the order in which `run` calls them."""
    order: list[str] = []
    hooks = [
        module.register_forward_pre_hook(lambda _m, _x, name=name: order.append(name))
        for name, module in _outermost(model, (*blocks, *_LAYERS))
    ]
    try:
        with torch.no_grad():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return list(dict.fromkeys(order))


def run_once(adapter: Adapter) -> Tensor:
    """Call the network once, with a sample of zeros at timestep 0 and a condition of zeros."""
    inputs = zeros(adapter.model, adapter.sample_shape())
    return adapter.predict(*inputs, adapter.blank_cond(1))


def zeros(model: nn.Module, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """A sample and a timestep to trace with, of the network's dtype and device (meta, too)."""
    reference = next(model.parameters())
    sample = torch.zeros(1, *shape, dtype=reference.dtype, device=reference.device)
    return sample, torch.zeros(1, dtype=torch.int64, device=reference.device)


def sample_shape(model: Any) -> tuple[int, int, int]:
    """(C, H, W) of one sample, by the network's configuration. Raises ModelError where that does not say."""
    size = model.config.sample_size
    sides = (size, size) if isinstance(size, int) else tuple(size or ())
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise ModelError(
            f"The {type(model).__name__} has sample_size={size} in its config.json, so the size of its images is unknown; write the"
            " height and width it was trained at there."
        )
    return int(model.config.in_channels), *sides


def condition(
    model: nn.Module, cond: object, num: int, needed: Sequence[str], optional: Sequence[str] = ()
) -> dict[str, Tensor]:
    """The tensors of `cond`, on the network's device and, if they are floating-point, of its dtype.

    cond: a mapping of tensors with num rows (None counts as not given), or None. Raises ModelError for a tensor that is
    missing, unknown or of another length.
    """
    named: Mapping[str, Any] = cond if isinstance(cond, Mapping) else {f"a {type(cond).__name__}": cond}
    tensors: dict[str, Tensor] = {name: value for name, value in named.items() if value is not None}
    unknown = [name for name in tensors if name not in (*needed, *optional)]
    missing = [name for name in needed if name not in tensors]
    if missing or unknown:
        _refuse(model, missing, unknown, needed)
    reference = next(model.parameters())
    for name, value in tensors.items():
        if value.shape[0] != num:
            raise ModelError(f"The condition {name} has {len(value)} rows for {num} samples; give one row for each.")
    return {n: v.to(reference) if v.is_floating_point() else v.to(reference.device) for n, v in tensors.items()}


def _refuse(model: nn.Module, missing: list[str], unknown: list[str], needed: Sequence[str]) -> None:
    takes = f"conditions by name: {', '.join(needed)}" if needed else "no condition"
    problem = f"{missing[0]} was not given" if missing else f"{unknown[0]} was given"
    raise ModelError(f"This {type(model).__name__} takes {takes}, but {problem}; use the conditions of this model.")


def _role(family: str, name: str, patterns: Patterns) -> str:
    if (role := role_of(name, patterns)) is not None:
        return role
    raise ModelError(
        f"Layer {name} of this {family} has no role in dmq, so no rule could quantize it; use a known family."
    )


def _outermost(model: nn.Module, kinds: Blocks, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    for name, child in model.named_children():
        path = f"{prefix}{name}"
        if isinstance(child, kinds):
            yield path, child
        else:
            yield from _outermost(child, kinds, f"{path}.")
