"""Moves tensors from an original layout into a diffusers network: every name once, every shape checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from dmq_cli.errors import ModelError
from dmq_cli.store.tensors import WEIGHT_DTYPES


@dataclass(frozen=True)
class Source:
    """The module of the original layout whose parameters a target module gets.

    part: None for all rows; 0, 1, 2 for the queries, keys or values of a joint projection whose rows are ordered
    (heads, 3, channels of a head), as openai's QKVAttentionLegacy reads them.
    """

    module: str
    part: int | None = None
    heads: int = 1


Modules = dict[str, Source]


def renamed(target: str, source: str, names: Mapping[str, str]) -> Modules:
    """Modules inside `target` and where they are inside `source`; names: target name -> source name."""
    return {f"{target}.{name}": Source(f"{source}.{original}") for name, original in names.items()}


def collect(
    targets: Mapping[str, Tensor], modules: Modules, tensors: Mapping[str, Tensor], what: str
) -> dict[str, Tensor]:
    """The tensors of a network by its own names, in float32 and its own shapes.

    wanted: the network's state dict (on the meta device will do). modules: may name more than the network has. given: the
    checkpoint. what: the sentence's start, such as "The network in file.ckpt". Raises ModelError where names are missing,
    left over, not used by any module, of other shapes or no floating-point numbers of 16 bits or more.
    """
    sources = {name: _source(name, modules) for name in targets}
    needed = {name for _, name in sources.values()}
    if lost := sorted(needed - set(tensors)):
        raise ModelError(f"{what} lacks {some(lost)}; it is a checkpoint of another architecture.")
    if extra := sorted(set(tensors) - needed):
        raise ModelError(f"{what} has {some(extra)}, which have no place; it is a checkpoint of another architecture.")
    return {
        name: _take(tensors[key], key, source, targets[name].shape, what) for name, (source, key) in sources.items()
    }


def some(names: Iterable[str], most: int = 3) -> str:
    """Write the number of names, and the first few."""
    listed = list(names)
    more = ", ..." if len(listed) > most else ""
    return f"{len(listed)} tensor{'s' * (len(listed) != 1)} ({', '.join(listed[:most])}{more})"


def _source(name: str, modules: Modules) -> tuple[Source, str]:
    module, _, leaf = name.rpartition(".")
    if module not in modules:
        raise ModelError(f"No map of names reaches {name} of the network that was to be built; report this as a bug.")
    return modules[module], f"{modules[module].module}.{leaf}"


def _take(tensor: Tensor, key: str, source: Source, shape: Sequence[int], what: str) -> Tensor:
    """The rows of `source`, without the trailing ones that make a 1x1 convolution of a linear layer."""
    rows = tuple(shape) if source.part is None else (3 * shape[0], *shape[1:])
    found_shape = tuple(tensor.shape)
    if found_shape[: len(rows)] != rows or set(found_shape[len(rows) :]) - {1} or tensor.dtype not in WEIGHT_DTYPES:
        raise ModelError(
            f"{what} has {key} of shape {found_shape} and type {tensor.dtype}, where {rows} is needed;"
            " it is a checkpoint of another architecture."
        )
    if source.part is not None:
        tensor = tensor.reshape(source.heads, 3, shape[0] // source.heads, *shape[1:])[:, source.part]
    return tensor.reshape(tuple(shape)).float()
