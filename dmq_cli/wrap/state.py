"""Save and load all that quantization adds to a network, as tensors with stable names."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from dmq_cli.errors import ArtifactCorruptError
from dmq_cli.quant import FixedRound, TensorQuantizer
from dmq_cli.wrap.attach import Attached
from dmq_cli.wrap.layers import EXTRAS

_GRID = "time_grid.timesteps"
TRAINED = "trained."
"""Before the name of a parameter that training changed."""


def state(attached: Attached) -> dict[str, Tensor]:
    """Collect scales, zero points, per-step tables, choices and rounding decisions of all quantizers, the tensors of transforms,
    fine-tuning and training, and the time grid."""
    return {
        _GRID: attached.grid.timesteps.detach().clone(),
        **{f"{TRAINED}{name}": value for name, value in attached.trained.tensors().items()},
        **extra_state(attached),
        **{f"{name}.choice": choice.choice.clone() for name, choice in attached.choices().items()},
        **quantizer_state(attached.quantizers()),
    }


def extra_state(attached: Attached) -> dict[str, Tensor]:
    """Collect the tensors that transforms and fine-tuning put into layers."""
    return {
        f"{name}.{extra}": value.detach().clone()
        for name, layer in attached.layers().items()
        for extra, value in layer.extras().items()
    }


def load_extra_state(attached: Attached, tensors: Mapping[str, Tensor]) -> None:
    """Load `extra_state`: extras that it lacks, and baked weights, are removed from layers.

    Raises ArtifactCorruptError for a name that is not one of a layer's extras, or a shape that does not fit the layer.
    """
    layers = attached.layers()
    for name, value in tensors.items():
        layer, _, extra = name.rpartition(".")
        if layer not in layers or extra not in EXTRAS or not _fits(value, extra, layers[layer].weight):
            raise _misfit(1, name)
    for layer, place in layers.items():
        place.baked = None
        for extra in EXTRAS:
            stored = tensors.get(f"{layer}.{extra}")
            if stored is not None:  # detached: a Parameter would join those of the network
                stored = stored.detach().to(place.weight.device, place.weight.dtype)
            setattr(place, extra, stored)


def load_state(attached: Attached, tensors: Mapping[str, Tensor]) -> None:
    """Load `state`, learned rounding included; strict, see load_quantizer_state. Baked weights are removed."""
    if _GRID not in tensors or tensors[_GRID].shape != attached.grid.timesteps.shape:
        raise ArtifactCorruptError(
            "The stored quantization state was made for another number of sampler steps; delete the artifact and run again."
        )
    attached.grid.timesteps.copy_(tensors[_GRID])
    trained = {n.removeprefix(TRAINED): value for n, value in tensors.items() if n.startswith(TRAINED)}
    attached.trained.load(attached.model, trained)
    remaining = {n: value for n, value in tensors.items() if n != _GRID and not n.startswith(TRAINED)}
    extras = {name: value for name, value in remaining.items() if name.rpartition(".")[2] in EXTRAS}
    load_extra_state(attached, extras)
    for name, choice in attached.choices().items():
        if f"{name}.choice" not in remaining or remaining[f"{name}.choice"].shape != choice.choice.shape:
            raise _misfit(1, f"{name}.choice")
        choice.choice.copy_(remaining.pop(f"{name}.choice"))
    for name, _, weight, _ in attached.weight_pieces():
        up = remaining.get(f"{name}.rounding.up")
        if up is not None and up.shape != weight.shape:
            raise _misfit(1, f"{name}.rounding.up")
    load_quantizer_state(attached.quantizers(), {k: v for k, v in remaining.items() if k not in extras})


def quantizer_state(quantizers: Mapping[str, TensorQuantizer]) -> dict[str, Tensor]:
    """Collect the tensors of some quantizers, named by path."""
    return {
        f"{name}.{key}": value.detach().clone()
        for name, quantizer in quantizers.items()
        for key, value in quantizer.state_dict().items()
    }


def load_quantizer_state(quantizers: Mapping[str, TensorQuantizer], tensors: Mapping[str, Tensor]) -> None:
    """Load `quantizer_state`. Raises ArtifactCorruptError unless names and shapes are exactly those of the quantizers."""
    for name, quantizer in quantizers.items():
        up = tensors.get(f"{name}.rounding.up")
        if up is not None:
            place = next((t for t in nn.Module.buffers(quantizer)), up)
            quantizer.rounding = FixedRound(up.clone().to(place.device))
    expected = quantizer_state(quantizers)
    wrong = sorted(set(expected) ^ set(tensors))
    wrong = wrong or [k for k, v in expected.items() if v.shape != tensors[k].shape]
    if wrong:
        raise _misfit(len(wrong), wrong[0])
    for name, quantizer in quantizers.items():
        stored = {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")}
        quantizer.load_state_dict(stored)


def _fits(value: Tensor, extra: str, weight: Tensor) -> bool:
    """Whether an extra has the shape that a layer of this weight can use; the rank of a branch is free."""
    shapes = {
        "channel_scale": weight.shape[1:2],
        "branch_down": value.shape[:1] + weight.shape[1:],
        "branch_up": weight.shape[:1] + value.shape[-1:],
        "tuned": weight.shape,
    }
    return value.shape == shapes[extra]


def _misfit(count: int, first: str) -> ArtifactCorruptError:
    return ArtifactCorruptError(
        f"The stored quantization state does not fit this network and scheme ({count} tensors differ,"
        f" first: {first}); delete the artifact and run again."
    )
