"""Find the files of foreign code: those of a module and of the user's own modules that it imports.

An installed distribution is identified by its name and version. Files that code reads while it runs (data, modules whose names it
computes) cannot be found in its source.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import platform
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec, PathFinder
from importlib.metadata import packages_distributions, version
from pathlib import Path

from dmq_cli.errors import ConfigError

_INSTALLED = {"site-packages", "dist-packages"}
_LIBRARY = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib"))
_SUFFIXES = (".py", *EXTENSION_SUFFIXES)


def own_files(modules: Iterable[str]) -> dict[str, Path]:
    """Find the files of these modules, their packages and the user's own modules that they import, inside functions too.

    Raises ConfigError for a module that has no such file.
    """
    files: dict[str, Path] = {}
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        for name in _with_parents(module) if module not in files and release(module) is None else ():
            spec = None if name in files else _spec(name)
            if spec is None:
                continue
            if _is_folder(spec):
                continue
            files[name] = _file(name, spec)
            if files[name].suffix == ".py":
                waiting += _imported(name, files[name], spec.submodule_search_locations is not None)
    return files


def release(module: str) -> str | None:
    """`torch 2.9.0` for a module of an installed distribution or of Python itself, `dmq` for dmq's; None for a user's own."""
    top = module.partition(".")[0]
    if top == "dmq_cli":
        return "dmq"
    spec = _spec(top)
    if spec is not None and _is_folder(spec) and module != top:
        spec = _spec(module)  # several distributions, and the user, may share such a package
    if spec is None:
        return None
    place = Path(spec.origin or next(iter(spec.submodule_search_locations or ()), ""))
    if _INSTALLED & set(place.parts):
        return (
            ", ".join(
                f"{distribution} {version(distribution)}" for distribution in sorted(set(_distributions().get(top, ())))
            )
            or None
        )
    library = spec.origin in ("built-in", "frozen") or any(place.is_relative_to(folder) for folder in _LIBRARY)
    return f"python {platform.python_version()}" if library else None


def _is_folder(spec: ModuleSpec) -> bool:
    """Whether it is a package without a file of its own."""
    return spec.origin is None and spec.submodule_search_locations is not None


@functools.cache
def _distributions() -> dict[str, list[str]]:
    return {name: list(names) for name, names in packages_distributions().items()}


def _with_parents(name: str) -> Iterator[str]:
    """`a`, `a.b` and `a.b.c`: importing the last one runs them all."""
    parts = name.split(".")
    return (".".join(parts[: count + 1]) for count in range(len(parts)))


def _spec(name: str) -> ModuleSpec | None:
    """Find the import specification of a module without importing it; None where there is no such module."""
    if name in sys.modules:
        spec = getattr(sys.modules[name], "__spec__", None)
        if name == "__main__" or not isinstance(spec, ModuleSpec):
            raise _without_source(name)
        return spec
    parent = name.rpartition(".")[0]
    if not parent:
        return importlib.util.find_spec(name)
    above = _spec(parent)
    places = None if above is None else above.submodule_search_locations
    return None if places is None else PathFinder.find_spec(name, list(places))


def _file(name: str, spec: ModuleSpec) -> Path:
    file = Path(spec.origin or "")
    if not spec.origin or not file.is_file() or not file.name.endswith(_SUFFIXES):
        raise _without_source(name)
    return file


def _without_source(name: str) -> ConfigError:
    return ConfigError(
        f"The configuration reaches code of the module {name}, which has no file of its own, so that a change of it could not be seen;"
        " put it into a .py file of another name that can be imported."
    )


def _imported(name: str, file: Path, package: bool) -> Iterator[str]:
    """The names that a module's import statements may mean, in functions too, and those of import_module("...")."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return  # importing it raises a better error
    package_name = name if package else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute("." * node.level + (node.module or ""), package_name)
            yield from (
                candidate
                for alias in node.names
                if base
                for candidate in (base, f"{base}.{alias.name}")
                if _is_name(candidate)
            )
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            first = node.args[0] if node.args else None
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield from filter(_is_name, [_absolute(first.value, package_name)])


def _absolute(name: str, package: str) -> str:
    """Resolve a relative name; "" for one that leads out of its package."""
    try:
        return importlib.util.resolve_name(name, package)
    except ImportError:
        return ""


def _is_name(name: str) -> bool:
    return all(part.isidentifier() for part in name.split("."))
