"""What Hydra makes of dmq's own conf/, kept for as long as a process of tests lives: half of what the commands here take.

No test writes into that folder, so a file of it is parsed once, and the same words are composed once. Everybody gets a copy.
Where choices of other folders take part (--config-dir, plugins), Hydra composes each time.
"""

from __future__ import annotations

import copy
import os
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_store import ConfigStore
from hydra.core.singleton import Singleton
from hydra.types import RunMode
from omegaconf import OmegaConf

from dmq_cli.paths import conf_folder

CONF = os.path.realpath(conf_folder())
MOST = 64  # compositions; one that is wanted again is mostly wanted soon


def parse_once() -> None:
    """Keep the YAML files of conf/."""
    load, kept = OmegaConf.load, dict[str, Any]()

    def loaded(file: Any) -> Any:
        name = os.path.realpath(getattr(file, "name", file))
        if not name.startswith(CONF + os.sep):
            return load(file)
        if name not in kept:
            kept[name] = load(file)
        return copy.deepcopy(kept[name])

    OmegaConf.load = staticmethod(loaded)  # type: ignore[method-assign, assignment]


def compose_once() -> None:
    """Keep the latest compositions."""
    load, kept = ConfigLoaderImpl._load_configuration_impl, dict[str, Any]()

    def loaded(
        self: Any,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> Any:
        given = (config_name, overrides, run_mode, from_shell, validate_sweep_overrides)
        if not _of_conf_alone(self, overrides):
            return load(self, *given)
        key = repr((given, _around(self)))
        if key not in kept:
            kept[key] = load(self, *given)
            for oldest in list(kept)[:-MOST]:
                del kept[oldest]
        return copy.deepcopy(kept[key])

    ConfigLoaderImpl._load_configuration_impl = loaded


def _of_conf_alone(loader: Any, overrides: list[str]) -> bool:
    folders = [place.path for place in loader.config_search_path.get_path() if place.path and "pkg:" not in place.path]
    own = [os.path.realpath(path.removeprefix("file://")) for path in folders if path != "structured://"]
    return own == [CONF] and not any("searchpath" in word for word in overrides)


def _around(loader: Any) -> tuple[Any, ...]:
    """What else a composition depends on: where this process is, and what it was told of Hydra."""
    state = {kind.__name__: vars(one) for kind, one in Singleton._instances.items() if kind.__name__ == "JobRuntime"}
    widths = {name: repr(node.node) for name, node in ConfigStore.instance().repo.get("bits", {}).items()}
    return os.getcwd(), state, widths, [(place.provider, place.path) for place in loader.config_search_path.get_path()]
