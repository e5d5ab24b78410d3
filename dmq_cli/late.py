"""Import the names of a package when they are first used, so that `from dmq_cli.models import Numerics` imports no diffusers."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def late(package: str, where: Mapping[str, tuple[str, ...]]) -> tuple[Callable[[str], Any], list[str]]:
    """Make `__getattr__` and `__all__` of a package. where: its modules, each with the names that the package takes from it."""
    homes = {name: module for module, names in where.items() for name in names}

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{package}.{homes[name]}"), name)
        setattr(sys.modules[package], name, value)
        return value

    return find, sorted(homes)
