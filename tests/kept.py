"""What Hydra makes of dmq's own conf/, kept for as long as a process of tests lives: most of what short commands here take.

No test writes into that folder, so a file of it is parsed once, the files of the same choices are merged once, and the same words
are composed once. Everybody gets a copy. Where choices of other folders take part (--config-dir, plugins), Hydra composes each time.
"""

from __future__ import annotations

import functools
import os
import pickle
from collections.abc import Callable, Hashable, Iterable
from typing import Any

from hydra._internal import defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_store import ConfigStore
from hydra.core.singleton import Singleton
from hydra.types import RunMode
from omegaconf import OmegaConf, base

from dmq_cli.paths import conf_folder

CONF = os.path.realpath(conf_folder())
MOST = 256  # of a kind; what is wanted again is mostly wanted soon


class Copies:
    """What was made, by its key; everybody gets a copy of their own, from bytes, which takes a fifth of deepcopy's time."""

    def __init__(self) -> None:
        self._kept = dict[Hashable, bytes]()

    def __call__(self, key: Hashable, make: Callable[[], Any]) -> Any:
        if key not in self._kept:
            value = make()
            self._kept[key] = pickle.dumps(value)
            for oldest in list(self._kept)[:-MOST]:
                del self._kept[oldest]
            return value
        return pickle.loads(self._kept[key])


def keep_all() -> None:
    """Keep everything below."""
    for keep in (parse_once, read_once, merge_once, compose_once):
        keep()


def parse_once() -> None:
    """Keep the YAML files of conf/."""
    load, copies = OmegaConf.load, Copies()

    @functools.wraps(load)
    def loaded(file: Any) -> Any:
        name = os.path.realpath(getattr(file, "name", file))
        return copies(name, lambda: load(file)) if name.startswith(CONF + os.sep) else load(file)

    OmegaConf.load = staticmethod(loaded)  # type: ignore[method-assign, assignment]


def merge_once() -> None:
    """Keep which files the choices of groups lead to, and what these are together, before single values are changed."""
    find, kept_files = defaults_list._create_defaults_list, Copies()
    merge, kept_merged = ConfigLoaderImpl._compose_config_from_defaults_list, Copies()

    def place(source: Any) -> str:
        return f"{source.scheme()}://{source.path}"

    @functools.wraps(find)
    def found(repo: Any, config_name: str | None, overrides: Any, prepend_hydra: bool, skip_missing: bool) -> Any:
        choices = {name: value for name, value in vars(overrides).items() if name != "config_overrides"}

        def make() -> Any:
            files = find(repo, config_name, overrides, prepend_hydra, skip_missing)
            return files, {name: getattr(overrides, name) for name in choices}  # which choices there are, too

        if not _of_conf_alone(map(place, repo.get_sources())):
            return find(repo, config_name, overrides, prepend_hydra, skip_missing)
        key = pickle.dumps((config_name, choices, prepend_hydra, skip_missing, _widths()))
        files, after = kept_files(key, make)
        vars(overrides).update(after)
        return files

    @functools.wraps(merge)
    def merged(self: Any, defaults: Any, repo: Any) -> Any:
        if not _of_conf_alone(map(place, repo.get_sources())):
            return merge(self, defaults, repo)
        return kept_merged(pickle.dumps((defaults, _widths())), lambda: merge(self, defaults, repo))

    defaults_list._create_defaults_list = found
    ConfigLoaderImpl._compose_config_from_defaults_list = merged


def read_once() -> None:
    """Keep how interpolations are read; nobody changes what the grammar makes of them."""
    base.parse = functools.lru_cache(maxsize=4096)(base.parse)  # type: ignore[attr-defined]


def compose_once() -> None:
    """Keep the latest compositions."""
    load, copies = ConfigLoaderImpl._load_configuration_impl, Copies()

    @functools.wraps(load)
    def loaded(
        self: Any,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> Any:
        arguments = (config_name, overrides, run_mode, from_shell, validate_sweep_overrides)
        places = [place.path for place in self.config_search_path.get_path()]
        if not _of_conf_alone(places) or any("searchpath" in word for word in overrides):
            return load(self, *arguments)
        return copies(repr((arguments, _around(self))), lambda: load(self, *arguments))

    ConfigLoaderImpl._load_configuration_impl = loaded


def _of_conf_alone(places: Iterable[str | None]) -> bool:
    """Whether dmq's is the only folder of these places; the others are Hydra's own."""
    folders = [place.removeprefix("file://") for place in places if place and "pkg:" not in place]
    return [os.path.realpath(folder) for folder in folders if folder != "structured://"] == [CONF]


def _around(loader: Any) -> tuple[Any, ...]:
    """What else a composition depends on: where this process is, and what it was told of Hydra."""
    state = {
        kind.__name__: vars(instance)
        for kind, instance in Singleton._instances.items()
        if kind.__name__ == "JobRuntime"
    }
    places = [(place.provider, place.path) for place in loader.config_search_path.get_path()]
    return os.getcwd(), state, _widths(), places


def _widths() -> dict[str, str]:
    """The choices of bits that were registered, which no file has."""
    return {name: repr(node.node) for name, node in ConfigStore.instance().repo.get("bits", {}).items()}
