"""Flatten a module's arguments, whatever their form, to names, and its output to one tensor."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from dmq_cli.errors import ModelError


def named_arguments(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments of a call: "0", "1", ... by position, the others by name; "name.0", "name.key" for what lies in one of them."""
    return dict(_flat({**{str(i): value for i, value in enumerate(args)}, **kwargs}))


def nested(flat: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """The positional and the named arguments that named_arguments made flat; a list comes back as a tuple."""
    whole = _nested(flat)
    positions = sorted((name for name in whole if name.isdigit()), key=int)
    return [whole[name] for name in positions], {k: v for k, v in whole.items() if not k.isdigit()}


def is_by_sample(value: object, num: int) -> bool:
    """Whether a value is a tensor with a row for each of num samples."""
    return isinstance(value, Tensor) and value.dim() > 0 and len(value) == num


def packed(output: Any) -> Tensor:
    """Pack a module's output into one tensor (B, ...): a tensor stays itself, several (tuples, mappings) are joined.

    Several are flattened per sample, concatenated, padded with zeros and reshaped to (B, C', places of the first one). Where
    all have as many places, the mean over batch and places of a sum over dim 1 is then the sum of each tensor's own. Raises
    ModelError for an output without any tensor of numbers.
    """
    if isinstance(output, Tensor):
        return output
    tensors = [value for _, value in _flat({"": output}) if isinstance(value, Tensor) and value.is_floating_point()]
    if not tensors:
        raise ModelError(
            f"A block of the network gave a {type(output).__name__} without a tensor, so it cannot be compared with another;"
            " leave its class out of the blocks of the family's adapter."
        )
    if len(tensors) == 1:
        return tensors[0]
    places = tensors[0].shape[2:].numel()
    values = torch.cat([value.reshape(len(value), -1) for value in tensors], 1)
    return torch.nn.functional.pad(values, (0, -values.shape[1] % places)).reshape(len(values), -1, places)


def _flat(named: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in named.items():
        inner = {str(i): entry for i, entry in enumerate(value)} if isinstance(value, tuple | list) else value
        if isinstance(inner, Mapping) and inner:
            yield from _flat({f"{name}.{key}": entry for key, entry in inner.items()})
        else:
            yield name, value


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    whole: dict[str, Any] = {}
    inside: dict[str, dict[str, Any]] = defaultdict(dict)
    for path, value in flat.items():
        name, _, inner_path = path.partition(".")
        if inner_path:
            inside[name][inner_path] = value
        else:
            whole[name] = value
    for name, pieces in inside.items():
        inner = _nested(pieces)
        listed = all(key.isdigit() for key in inner)
        whole[name] = tuple(inner[key] for key in sorted(inner, key=int)) if listed else inner
    return whole
