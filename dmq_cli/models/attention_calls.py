"""Find the modules that compute attention while a network runs, and refuse those that dmq could not quantize."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from dmq_cli.errors import ModelError
from dmq_cli.models.adapter import Adapter

_checked: set[tuple[Any, ...]] = set()
"""Structures that passed: networks built of the same modules compute attention in the same places."""


def check_attentions(adapter: Adapter, run: Callable[[], object]) -> None:
    """Check that only modules among the adapter's attentions compute attention during `run`, one call of the network.

    A structure that has passed before is not run again. Raises ModelError.
    """
    sites = [attention.name for attention in adapter.attentions()]
    key = (type(adapter), tuple(sites), *_structure(adapter.model))
    if key in _checked:
        return
    family = type(adapter.model).__name__
    for name in sites:
        if not callable(getattr(adapter.model.get_submodule(name), "processor", None)):
            raise ModelError(
                f"The attention {name} of this {family} has no processor, around which dmq puts its quantizers; give it one, as"
                " diffusers' attentions have it."
            )
    for callers in attention_callers(adapter.model, run):
        if not any(name in sites for name in callers):
            module = type(adapter.model.get_submodule(callers[-1])).__name__
            raise ModelError(
                f"The {module} at {callers[-1] or 'the top'} of this {family} computes attention, but is none of those that dmq"
                " knows there, so it would stay in full precision; use a network of a known family, or name it in the attentions of"
                " the family's adapter."
            )
    _checked.add(key)


@torch.no_grad()
def attention_callers(model: nn.Module, run: Callable[[], object]) -> list[tuple[str, ...]]:
    """For each attention that is computed in `run` the paths of the modules that are running, outermost ("") first."""
    running: list[str] = []
    watching = _Watching(running)
    with _followed(model, running), watching:
        run()
    return list(dict.fromkeys(watching.callers))


@contextlib.contextmanager
def _followed(model: nn.Module, running: list[str]) -> Iterator[None]:
    """Inside, `running` holds the paths of the modules that are running."""

    def enter(name: str) -> Callable[..., None]:
        return lambda *_: running.append(name)

    def leave(*_: Any) -> None:
        running.pop()

    hooks = [module.register_forward_pre_hook(enter(name), prepend=True) for name, module in model.named_modules()]
    hooks += [module.register_forward_hook(leave) for module in model.modules()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class _Watching(TorchFunctionMode):
    """Records the running modules at every attention of torch: scaled_dot_product_attention, multi_head_attention_forward, ..."""

    def __init__(self, running: list[str]) -> None:
        super().__init__()
        self.running, self.callers = running, list[tuple[str, ...]]()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "attention" in getattr(func, "__name__", ""):
            self.callers.append(tuple(self.running))
        return func(*args, **(kwargs or {}))


def _structure(model: nn.Module) -> Iterator[tuple[str, type, type]]:
    """Yield path, class and processor's class of every module."""
    for name, module in model.named_modules():
        yield name, type(module), type(getattr(module, "processor", None))
