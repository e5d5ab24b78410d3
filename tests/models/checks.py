"""What holds for the adapter of any family, checked against hooks of a forward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dmq_cli.models import Adapter, sites


def run(found: Adapter, timestep: Tensor | None = None, cond: object = None) -> Tensor:
    """One forward pass of zeros, at timestep 3 for two samples or at these."""
    at = torch.tensor([3, 3]) if timestep is None else timestep
    dtype = next(found.model.parameters()).dtype
    sample = torch.zeros(len(at), *found.sample_shape(), dtype=dtype)
    return found.predict(sample, at, found.blank_cond(len(at)) if cond is None else cond)


def check_names(found: Adapter) -> None:
    """Every layer of the model has a role, and every site a name of its own."""
    leaves = [name for name, m in found.model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    assert [layer.name for layer in found.layers()] == leaves and len(leaves) > 10
    everything = sites(found)
    assert len(everything) == len({site.name for site in everything})


def check_units(found: Adapter) -> list[str]:
    """Every layer lies in one unit, and the units come in the order in which their layers run."""
    units, ran = found.units(), list[str]()
    assert len(units) == len(set(units))
    hooks = [
        found.model.get_submodule(layer.name).register_forward_hook(lambda _m, _x, _y, n=layer.name: ran.append(n))
        for layer in found.layers()
    ]
    run(found)
    for hook in hooks:
        hook.remove()
    ran = list(dict.fromkeys(ran))
    assert sorted(ran) == sorted(layer.name for layer in found.layers())
    homes = [[i for i, unit in enumerate(units) if f"{name}.".startswith(f"{unit}.")] for name in ran]
    assert all(len(home) == 1 for home in homes)
    order = [home[0] for home in homes]
    assert order == sorted(order) and set(order) == set(range(len(units)))
    assert not any(m._forward_pre_hooks for m in found.model.modules())
    return units


class Cats(TorchFunctionMode):
    """Notes the channels of image-like tensors that are joined."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, ...]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.cat and args[0][0].ndim == 4:
            self.seen.append(tuple(piece.shape[1] for piece in args[0]))
        return func(*args, **(kwargs or {}))


def check_splits(found: Adapter) -> int:
    """The splits are the tensors that are joined in the up path; how many there are."""
    with Cats() as cats:
        run(found)
    ups = [unit for unit in found.units() if ".resnets." in unit and unit.startswith("up_blocks")]
    splits = found.skip_splits()
    assert splits == {f"{unit}.conv_shortcut": sizes for unit, sizes in zip(ups, cats.seen, strict=True)}
    for name, sizes in splits.items():
        assert sum(sizes) == found.model.get_submodule(name).in_channels
    return len(splits)


def check_temporal(found: Adapter, names: list[str], timestep: Tensor, cond: dict[str, Tensor] | None = None) -> None:
    """`temporal` is, by name and value, what the projections give while the whole network runs."""
    temporal, hooks = found.temporal(timestep, cond), []
    outputs: dict[str, Tensor] = {}
    for name in names:
        module = found.model.get_submodule(name)
        hooks.append(module.register_forward_hook(lambda _m, _x, y, n=name: outputs.update({n: y})))
    run(found, timestep, cond)
    for hook in hooks:
        hook.remove()
    assert set(temporal) == set(outputs) == set(names) and names
    assert all(torch.equal(temporal[name], outputs[name]) for name in names)
    assert all(temporal[name].shape == (len(timestep), found.model.get_submodule(name).out_features) for name in names)
