"""Find the state dicts in a training checkpoint: a network's weights, their averages, and other entries.

A training script keeps more than it samples with: optimizers, moving averages under names of its own, another network's weights.
Averages of the same tensors are what the published projects sample with, so they are taken; entries that are not used are reported.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from dmq_cli.errors import ModelError

_PLAIN = ("state_dict", "model_state_dict", "model", "module", "params")
_AVERAGED = re.compile(r"(^|[._\-])ema([._\-0-9]|$)|averag|shadow", re.IGNORECASE)
_PREFIXES = (
    "",
    "module.",
    "ema_model.",
    "ema.",
    "model.",
)  # that average classes put before the names of what they average
_DEEPEST, _MOST = 6, 100_000

Node = object


@dataclass(frozen=True)
class Nodes:
    """Functions that read a file's nodes. mapping: a node's entries, None for another node; is_tensor: whether it is a tensor."""

    mapping: Callable[[Node], dict[object, object] | None]
    is_tensor: Callable[[Node], bool]


@dataclass(frozen=True)
class ChosenEntry:
    """Entries of a checkpoint, by their paths. plain: the weights; average: their averages, by the weights' names; beside: others."""

    plain: Node
    taken: str
    average: dict[str, Node]
    beside: tuple[str, ...]


def choose(nodes: Nodes, tree: Node, path: Path) -> ChosenEntry:
    """The weights in a checkpoint that is no bare state dict, and their averages if there are any.

    Raises ModelError for several averages and for averages without names, between which only a person can choose.
    """
    states = {name: node for name, node in _states(nodes, tree)}
    averages = {name: node for name, node in states.items() if _AVERAGED.search(name)}
    taken = next((name for name in _PLAIN if name in states and name not in averages), "")
    if not taken:
        taken = _only(averages, path)
        return ChosenEntry(_tensors(nodes, averages[taken]), taken, {}, tuple(name for name in states if name != taken))
    plain = {str(name) for name in _tensors(nodes, states[taken])}
    _refuse_unnamed(nodes, tree, len(plain), path)
    fitting = {name: named for name, node in averages.items() if (named := _fitted(_tensors(nodes, node), plain))}
    same = {name for name in states if _without_module(_names(nodes, states[name])) == _without_module(plain)}
    beside = tuple(
        name for name in states if name != taken and name not in fitting and name in (same | averages.keys())
    )
    if not fitting:
        return ChosenEntry(states[taken], taken, {}, beside)
    chosen = _only(fitting, path)
    return ChosenEntry(states[taken], chosen, fitting[chosen], (taken, *beside))


def is_average(name: str) -> bool:
    """Whether an entry's name says that it holds averages."""
    return bool(_AVERAGED.search(name))


def is_bare(nodes: Nodes, tree: Node) -> bool:
    """Whether a node holds tensors itself, so that nothing has to be chosen."""
    entries = nodes.mapping(tree)
    return not entries or any(nodes.is_tensor(value) for value in entries.values())


def places_of_copies(nodes: Nodes, items: Iterable[Node], names: Iterable[str]) -> list[str]:
    """Find the indices of the items that hold the same tensors as a state dict with these names."""
    tensor_names = _without_module(names)
    return [
        str(i)
        for i, item in enumerate(items)
        if any(_without_module(_names(nodes, x)) == tensor_names for _, x in _states(nodes, item))
    ]


def _only(averages: Mapping[str, object], path: Path) -> str:
    if not averages:
        _refuse(path, "has no state dict that dmq finds", f"save it under one of {', '.join(_PLAIN)}")
    if len(averages) > 1:
        _refuse(
            path, f"has several averages of its weights ({', '.join(averages)})", "save the one that is meant alone"
        )
    return next(iter(averages))


def _fitted(average: Mapping[str, Node], plain: set[str]) -> dict[str, Node]:
    """An average by the names of the weights; nothing where it does not belong to them, or to less than half of them."""
    for wrapper in ("", "module.", "model."):
        for prefix in _PREFIXES:
            named = {f"{wrapper}{n.removeprefix(prefix)}": node for n, node in average.items() if n.startswith(prefix)}
            if named.keys() <= plain and 2 * len(named) >= len(plain):
                return named
    return {}


def _refuse_unnamed(nodes: Nodes, tree: Node, count: int, path: Path) -> None:
    """Averages as a list, in the order of a model's parameters that only its code knows."""
    for name, node in _walk(nodes, tree):
        listed = isinstance(node, list | tuple) and sum(map(nodes.is_tensor, node))
        if listed and 2 * listed > count and _AVERAGED.search(name):
            _refuse(
                path, f"has averages of its weights without their names ({name})", "save them as a state dict, alone"
            )


def _states(nodes: Nodes, tree: Node) -> Iterator[tuple[str, Node]]:
    for name, node in _walk(nodes, tree):
        if _names(nodes, node):
            yield name, node


def _names(nodes: Nodes, node: Node) -> list[str]:
    return list(_tensors(nodes, node))


def _without_module(names: Iterable[str]) -> set[str]:
    return {name.removeprefix("module.") for name in names}


def _tensors(nodes: Nodes, node: Node) -> dict[str, Node]:
    """The tensors of a mapping, without the counters that some average classes keep between them."""
    entries = nodes.mapping(node) or {}
    return {name: value for name, value in entries.items() if isinstance(name, str) and nodes.is_tensor(value)}


def _walk(nodes: Nodes, tree: Node) -> Iterator[tuple[str, Node]]:
    """Every container with its path, each once: a hostile file may refer to itself."""
    waiting, visited = deque([("", tree, 0)]), set[int]()
    while waiting and len(visited) < _MOST:
        name, node, depth = waiting.popleft()
        entries = nodes.mapping(node)
        if entries is None and isinstance(node, list | tuple):
            entries = dict(enumerate(node))
        if entries is None or id(node) in visited or depth > _DEEPEST:
            continue
        visited.add(id(node))
        yield name, node
        waiting += [(f"{name}.{_word(key)}".lstrip("."), value, depth + 1) for key, value in entries.items()]


def _word(key: object) -> str:
    """A key as part of a path, fit to be printed."""
    if isinstance(key, str) and key.isprintable():
        return key[:80]
    return str(key) if type(key) is int and abs(key) < 1 << 32 else f"({type(key).__name__})"


def _refuse(path: Path, problem: str, advice: str) -> NoReturn:
    raise ModelError(f"The checkpoint {path} {problem}, and dmq does not guess; {advice}.")
