"""Hooks that see the inputs and outputs of modules while a network runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping

from torch import nn

TARGET = "target"
"""The name under which a module's output stands beside the names of its arguments."""


class Reached(Exception):
    """Ends a forward pass as soon as the unit has been seen."""


@contextlib.contextmanager
def hooked(modules: Mapping[str, nn.Module], hook: Callable[[str], Callable[..., None]]) -> Iterator[None]:
    """Inside, hook(name) is called with module, arguments, keywords and output whenever that module has run."""
    handles = [m.register_forward_hook(hook(name), with_kwargs=True) for name, m in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
