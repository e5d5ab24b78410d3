"""The named tensors of a checkpoint: a safetensors file, or a pickle whose notes are read as tensors, and only those."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dmq_cli.errors import MissingWeightsError, ModelError
from dmq_cli.models.importers.archive import Archive, open_archive, storage
from dmq_cli.models.importers.entries import Nodes, choose, is_average, is_bare, places_of_copies
from dmq_cli.models.importers.restricted import Call, Global, Persistent

_TENSORS = ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor")
_PARAMETER = "torch._utils._rebuild_parameter"
_MAPPING = "collections.OrderedDict"


class State(NamedTuple):
    """A state dict. average: whether it is an average found beside the plain weights; taken: the entry that it is from, ""
    for the whole file; beside: other entries with weights, which were left."""

    tensors: dict[str, Tensor]
    average: bool
    taken: str = ""
    beside: tuple[str, ...] = ()


def read_state(path: Path) -> State:
    """The state dict of a checkpoint, with the averages of its weights in their places where they lie beside (see entries.py).

    It is the file itself, one of its entries, or the first of a list as ermongroup/ddim saves its training (model,
    optimizer, epoch, step, averages). "module." of DataParallel is left out. The tensors are views of the mapped file:
    nothing is read before it is used. Raises MissingWeightsError, ModelError.
    """
    if not path.is_file():
        raise MissingWeightsError(f"The checkpoint {path} does not exist; give the path of a file on this machine.")
    if path.suffix == ".safetensors":
        return State(_safetensors(path), False)
    archive = open_archive(path)
    tree = archive.tree
    if isinstance(tree, list | tuple) and tree:
        return _listed(archive, tree)
    if is_bare(_NODES, tree):
        return State(_tensors(archive, tree), False)
    choice = choose(_NODES, tree, path)
    state = _tensors(archive, choice.plain)
    average = {name if name in state else name.removeprefix("module."): node for name, node in choice.average.items()}
    if average:
        state |= _tensors(archive, average)
    return State(state, bool(average) or is_average(choice.taken), choice.taken, choice.beside)


def _listed(archive: Archive, items: list[object] | tuple[object, ...]) -> State:
    state = _tensors(archive, items[0])
    average = _average(archive, items[-1], state) if len(items) > 1 else {}
    if places := places_of_copies(_NODES, items[1:-1], state):
        _refuse(archive.path, f"its entry {int(places[0]) + 1} holds the same tensors once more")
    return State({**state, **average}, bool(average))


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"The file {path} is not a whole safetensors file ({error}); download it again.") from error
    return tensors


def _average(archive: Archive, node: object, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The averages at the end of a list, or nothing if its last entry is something else."""
    if not entries_of(node):
        return {}
    average = _tensors(archive, node)
    if not set(average) <= set(state):
        raise ModelError(f"The last entry of the list in {archive.path} is no average of the first; give another file.")
    return average


def _tensors(archive: Archive, node: object) -> dict[str, Tensor]:
    entries = entries_of(node)
    if not entries:
        _refuse(archive.path, f"its state dict is {_word(node)}")
    tensors: dict[str, Tensor] = {}
    for name, value in entries.items():
        tensor = tensor_of(archive, value)
        if not isinstance(name, str) or tensor is None:
            shown = repr(name[:80]) if isinstance(name, str) else _word(name)
            _refuse(archive.path, f"its entry {shown} is {_word(value)}")
        tensors[name] = tensor
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return tensors


def entries_of(node: object) -> dict[object, object] | None:
    """The entries of a dictionary, or of the note of an ordered one; None for another node."""
    if isinstance(node, dict):
        return node
    if not isinstance(node, Call) or name_of(node.function) != _MAPPING:
        return None
    args = node.args if isinstance(node.args, tuple) else ()
    listed = args[0] if args and isinstance(args[0], list) else []  # Python 2 wrote its items as an argument
    pairs = [tuple(pair) for pair in listed if isinstance(pair, list | tuple) and len(pair) == 2]
    return dict([pair for pair in pairs if isinstance(pair[0], str)] + node.items)


def _is_tensor(node: object) -> bool:
    """Whether this is the note of a tensor, which need not be a possible one."""
    return isinstance(node, Call) and name_of(node.function) in (*_TENSORS, _PARAMETER)


_NODES = Nodes(entries_of, _is_tensor)


def tensor_of(archive: Archive, node: object) -> Tensor | None:
    """A view of the mapped file, or None if the note is not one of a tensor."""
    if not isinstance(node, Call) or not isinstance(node.args, tuple) or not node.args:
        return None
    name, args = name_of(node.function), node.args
    if name == _PARAMETER and isinstance(args[0], Call) and name_of(args[0].function) in _TENSORS:
        return tensor_of(archive, args[0])
    if name not in _TENSORS or len(args) < 4 or not isinstance(args[0], Persistent):
        return None
    return _view(archive, args[0], args[1], args[2], args[3])


def _view(archive: Archive, reference: Persistent, offset: Any, size: Any, stride: Any) -> Tensor:
    key, dtype, count = storage(reference, archive.path)
    span = archive.spans.get(key)
    if span is None or count < 0 or span.nbytes < count * dtype.itemsize:
        _refuse(archive.path, f"the numbers {key[:80]!r} are missing or too few")
    if not (_sizes(size) and _sizes(stride) and _sizes((offset,)) and len(size) == len(stride)):
        _refuse(archive.path, "a tensor has impossible sizes")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if not 0 < prod(size) <= count or last >= count:
        _refuse(archive.path, "a tensor is empty, or larger than the numbers that it is made of")
    return _numbers(archive, span.start, dtype, count).as_strided(size, stride, offset)


def _numbers(archive: Archive, start: int, dtype: torch.dtype, count: int) -> Tensor:
    if start % dtype.itemsize:  # the legacy format does not align; torch wants it
        copied = bytearray(archive.memory[start : start + count * dtype.itemsize])
        return torch.frombuffer(copied, dtype=dtype)
    return torch.frombuffer(archive.memory, dtype=dtype, count=count, offset=start)


def _sizes(numbers: object) -> bool:
    """Whether these are sizes, strides or an offset that a tensor can have."""
    return (
        isinstance(numbers, tuple | list)
        and len(numbers) <= 8
        and all(type(n) is int and 0 <= n < 1 << 48 for n in numbers)
    )


def name_of(function: object) -> str:
    """The name of a call's function; "" where it is not a Global."""
    return function.name if isinstance(function, Global) else ""


def _word(node: object) -> str:
    """Describe the kind of a node, without its contents."""
    if isinstance(node, Call):
        return f"a call of {name_of(node.function)[:80]!r}"
    return f"the name {node.name[:80]!r}" if isinstance(node, Global) else f"a {type(node).__name__}"


def _refuse(path: Path, problem: str) -> NoReturn:
    raise ModelError(f"The file {path} is not a state dict of tensors ({problem}); nothing else is read from it.")
