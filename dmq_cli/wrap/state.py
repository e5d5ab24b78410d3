"""Everything that quantization adds to a network, as tensors with stable names."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from dmq_cli.errors import ArtifactCorruptError
from dmq_cli.quant import FixedRound, TensorQuantizer
from dmq_cli.wrap.attach import Attached

_GRID = "time_grid.timesteps"


def state(attached: Attached) -> dict[str, Tensor]:
    """Scales, zero points, per-step tables and rounding decisions of all quantizers, and the time grid."""
    return {_GRID: attached.grid.timesteps.detach().clone(), **quantizer_state(attached.quantizers())}


def load_state(attached: Attached, tensors: Mapping[str, Tensor]) -> None:
    """Put `state` back, learned rounding included; strict, see load_quantizer_state. Baked weights are dropped."""
    rest = {name: value for name, value in tensors.items() if name != _GRID}
    if _GRID not in tensors or tensors[_GRID].shape != attached.grid.timesteps.shape:
        raise ArtifactCorruptError(
            "The stored quantization state was made for another number of sampler steps; delete the artifact and run again."
        )
    for name, _, weight, _ in attached.weight_pieces():
        up = rest.get(f"{name}.rounding.up")
        if up is not None and up.shape != weight.shape:
            raise _misfit(1, f"{name}.rounding.up")
    load_quantizer_state(attached.quantizers(), rest)
    attached.grid.timesteps.copy_(tensors[_GRID])
    for layer in attached.layers().values():
        layer.baked = None


def quantizer_state(quantizers: Mapping[str, TensorQuantizer]) -> dict[str, Tensor]:
    """Tensors of some quantizers, named by path."""
    return {
        f"{name}.{key}": value.detach().clone()
        for name, quantizer in quantizers.items()
        for key, value in quantizer.state_dict().items()
    }


def load_quantizer_state(quantizers: Mapping[str, TensorQuantizer], tensors: Mapping[str, Tensor]) -> None:
    """Put `quantizer_state` back. Raises ArtifactCorruptError unless every tensor has its place, and the right shape."""
    for name, quantizer in quantizers.items():
        if f"{name}.rounding.up" in tensors:
            quantizer.rounding = FixedRound(tensors[f"{name}.rounding.up"].clone())
    expected = quantizer_state(quantizers)
    wrong = sorted(set(expected) ^ set(tensors))
    wrong = wrong or [k for k, v in expected.items() if v.shape != tensors[k].shape]
    if wrong:
        raise _misfit(len(wrong), wrong[0])
    for name, quantizer in quantizers.items():
        own = {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")}
        quantizer.load_state_dict(own)


def _misfit(count: int, first: str) -> ArtifactCorruptError:
    return ArtifactCorruptError(
        f"The stored quantization state does not fit this network and scheme ({count} tensors differ,"
        f" first: {first}); delete the artifact and run again."
    )
