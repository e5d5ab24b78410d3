"""What a module is called with and what it gives, in whatever form, as flat names and one tensor."""

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
    """What a module gives as one tensor (B, ...): itself, or of several, in tuples or mappings, all values of a sample.

    These lie side by side in the geometry of the first one, (B, C', places): a mean over places and batch of a sum over
    dim 1 is then the sum of those of each, where all have as many places. Zeros fill the last row. Raises ModelError for an
    output without any tensor of numbers.
    """
    if isinstance(output, Tensor):
        return output
    found = [value for _, value in _flat({"": output}) if isinstance(value, Tensor) and value.is_floating_point()]
    if not found:
        raise ModelError(
            f"A block of the network gave a {type(output).__name__} without a tensor, so it cannot be compared with another;"
            " leave its class out of the blocks of the family's adapter."
        )
    if len(found) == 1:
        return found[0]
    places = found[0].shape[2:].numel()
    values = torch.cat([value.reshape(len(value), -1) for value in found], 1)
    return torch.nn.functional.pad(values, (0, -values.shape[1] % places)).reshape(len(values), -1, places)


def _flat(named: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in named.items():
        inner = {str(i): one for i, one in enumerate(value)} if isinstance(value, tuple | list) else value
        if isinstance(inner, Mapping) and inner:
            yield from _flat({f"{name}.{key}": one for key, one in inner.items()})
        else:
            yield name, value


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    whole: dict[str, Any] = {}
    inside: dict[str, dict[str, Any]] = defaultdict(dict)
    for path, value in flat.items():
        name, _, rest = path.partition(".")
        if rest:
            inside[name][rest] = value
        else:
            whole[name] = value
    for name, pieces in inside.items():
        found = _nested(pieces)
        listed = all(key.isdigit() for key in found)
        whole[name] = tuple(found[key] for key in sorted(found, key=int)) if listed else found
    return whole
