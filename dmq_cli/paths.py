"""Find the package's files, in a checkout and in a wheel, and those that a user or another package adds.

Choices are YAML files in conf/, in the folder that --config-dir names and in conf/ of every installed package with an entry point in
the group `dmq.plugins`. Code of a user's own is in that folder, too, or in the working folder.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

from dmq_cli.errors import ConfigError

PACKAGE = Path(__file__).resolve().parent
PLUGINS = "dmq.plugins"
_user_folder: ContextVar[Path | None] = ContextVar("own", default=None)


def conf_folder() -> Path:
    """The folder of YAML files: inside the package in a wheel, beside it in a checkout."""
    for folder in (PACKAGE / "conf", PACKAGE.parent / "conf"):
        if (folder / "config.yaml").is_file():
            return folder
    raise ConfigError(
        f"The configuration folder conf/ was looked for in {PACKAGE} and beside it and is in neither; install dmq again."
    )


@contextmanager
def with_own(folder: Path | None) -> Iterator[None]:
    """Inside, choices and modules may also lie in this folder of the user's; None: in no such folder."""
    if folder is not None and not folder.is_dir():
        raise ConfigError(
            f"--config-dir {folder} was given, but there is no such folder; make it with dmq new, or correct the name."
        )
    token = _user_folder.set(None if folder is None else folder.absolute())
    try:
        yield
    finally:
        _user_folder.reset(token)


def own_folder() -> Path | None:
    """The folder of --config-dir."""
    return _user_folder.get()


@contextmanager
def importing() -> Iterator[None]:
    """Inside, modules in the user's own folder and in the working folder can be imported, unless installed ones have their names.

    Use it only to find the classes of a configuration: a library that tests whether another one is installed must not find a
    user's file instead.
    """
    user_folder = _user_folder.get()
    added = [str(folder) for folder in (user_folder, Path.cwd()) if folder is not None and str(folder) not in sys.path]
    sys.path += added
    try:
        yield
    finally:
        for folder in added:
            sys.path.remove(folder)


@cache
def plugins() -> dict[str, Path | None]:
    """Find the modules that installed packages name as entry points of `dmq.plugins`, each with its conf/, if it has one.

    Only the packages that contain a module are imported. Raises ConfigError for a module that does not exist.
    """
    return {entry.value: _conf_of(entry.name, entry.value) for entry in sorted(entry_points(group=PLUGINS))}


def plugin_folders() -> list[Path]:
    """conf/ of every plugin that has one."""
    return [folder for folder in plugins().values() if folder is not None]


def conf_folders() -> list[Path]:
    """List the folders of choices; a choice is read from the first one that has it."""
    user_folder = _user_folder.get()
    return [conf_folder(), *([] if user_folder is None else [user_folder]), *plugin_folders()]


def choice_files(group: str) -> dict[str, Path]:
    """Find the YAML file of every choice of a group, by its name, sorted."""
    files = [file for folder in reversed(conf_folders()) for file in (folder / group).glob("*.yaml")]
    return dict(sorted({file.stem: file for file in files}.items()))


def _conf_of(name: str, module: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(module)
    except ImportError:
        spec = None
    if spec is None:
        raise ConfigError(
            f"The plugin {name} names the module {module}, which is not there; install its package again, or remove it."
        )
    places = spec.submodule_search_locations or ([str(Path(spec.origin).parent)] if spec.origin else [])
    return next((Path(place) / "conf" for place in places if (Path(place) / "conf").is_dir()), None)


def resolve(path: str) -> Path:
    """Make a path absolute; `package:` stands for a path inside the package."""
    if path.startswith("package:"):
        return PACKAGE / path.removeprefix("package:")
    return Path(path).expanduser().absolute()
