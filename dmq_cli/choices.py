"""The choices in conf/, the user's own folder and plugins: methods, models, protocols. Hydra is imported only to compose."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from dmq_cli.errors import ConfigError, must_be_given, nearest
from dmq_cli.obtain import FASHION, fashion_folder, fashion_missing, find_network, reference_file
from dmq_cli.paths import choice_files, conf_folders, resolve

_OF_A_PATH = "folder"  # the model file that `model=/a/folder` fills


def methods() -> list[dict[str, Any]]:
    """List name, groups and cite of every file in conf/method. groups: its choices, e.g. {"calib": "uniform", ...}."""
    rows: list[dict[str, Any]] = []
    for file in choice_files("method").values():
        content = read_choice(file)
        chosen = [default for default in content.get("defaults", []) if isinstance(default, dict)]  # not _self_
        groups = {str(key).rpartition("/")[2]: value for default in chosen for key, value in default.items()}
        rows.append({"name": file.stem, "groups": groups, "cite": " ".join(content["method"]["cite"].split())})
    return rows


def models() -> list[dict[str, Any]]:
    """List name, about and present of every model: its description, and whether its network exists."""
    rows = []
    for name, section in _sections("model", names("model")).items():
        present = find_network(resolve(section["path"])) is not None
        rows.append({"name": name, "about": about("model", name), "present": present})
    return rows


def about(group: str, name: str) -> str:
    """Read the description of a choice, the first line of its file."""
    text = choice_files(group)[name].read_text(encoding="utf-8")
    return text.partition("\n")[0].lstrip("# ")


def names(group: str) -> list[str]:
    """List the choices of a group, sorted; of model only those that are models."""
    return [name for name in choice_files(group) if name != _OF_A_PATH]


def model(name: str, outputs: str = "outputs") -> dict[str, Any]:
    """A model's configuration, with its path under `outputs`. Raises ConfigError for an unknown name."""
    if name not in names("model"):
        raise ConfigError(f"There is no model {name}.{nearest(name, names('model'))}")
    return _sections("model", names("model"), outputs)[name]  # two cost as much as all


def protocol(name: str) -> dict[str, Any]:
    """Compose a protocol's configuration; values left to the user are "???". Raises ConfigError for an unknown name."""
    if name not in names("protocol"):
        raise ConfigError(f"There is no protocol {name}.{nearest(name, names('protocol'))}")
    return _sections("protocol", (name,))[name]


def protocol_with(name: str, words: Sequence[str]) -> dict[str, Any]:
    """Compose a protocol with overrides such as protocol.num_images=500. Raises ConfigError for an unknown name or word, Hydra's
    errors for a key that does not exist.
    """
    if name not in names("protocol"):
        raise ConfigError(f"There is no protocol {name}.{nearest(name, names('protocol'))}")
    for word in words:
        if not word.lstrip("+~").startswith(("protocol.", "metric@protocol.metrics.")):
            raise ConfigError(f"The word {word} is not understood here; write protocol.KEY=VALUE.")
    section: dict[str, Any] = composed((f"protocol={name}", *words))["protocol"]
    return section


def check_given(section: Mapping[str, Any]) -> None:
    """Raise ConfigError for a value of a protocol that is left to the user and is still "???"."""
    for key, value in section.items():
        if value == "???":
            raise ConfigError(must_be_given(f"protocol.{key}"))


def table_parts(name: str) -> list[str]:
    """List the files of conf/table that fill a table: NAME, then NAME__PART in order. Raises ConfigError for an unknown name."""
    table_names = names("table")
    if name not in table_names:
        raise ConfigError(f"There is no table {name}.{nearest(name, table_names)}")
    return [name, *(part for part in table_names if part.startswith(f"{name}__"))]


def protocols() -> list[dict[str, Any]]:
    """Compose the configuration of every protocol; values left to the user are "???"."""
    return list(_sections("protocol", names("protocol")).values())


def table(name: str) -> dict[str, Any]:
    """Read the section `table` of a file in conf/table, nothing resolved."""
    section: dict[str, Any] = read_choice(choice_files("table")[name])["table"]
    return section


def measures(outputs: str = "outputs") -> list[dict[str, Any]]:
    """List name, extractor, images, columns (or metrics) and present (whether its weights and reference exist) of every protocol."""
    rows = []
    for settings in protocols():
        files = [resolve(str(value)) for key, value in settings.items() if key.endswith("_path") and value is not None]
        name, path = settings["reference"], settings["reference_path"]
        reference = None if name is None else reference_file(name, path, outputs)
        present = all(file.exists() for file in [*files, *([] if reference is None else [reference])])
        present &= name != FASHION or fashion_missing(fashion_folder(path)) is None
        row = {"name": settings["name"], "extractor": settings["extractor"] or "", "images": settings["num_images"]}
        columns = list(settings.get("columns", {}).values())
        columns = columns or [key for key, metric in settings["metrics"].items() if metric]
        rows.append({**row, "columns": columns, "present": present})
    return rows


def _sections(group: str, chosen: Iterable[str], outputs: str = "outputs") -> dict[str, dict[str, Any]]:
    """Compose choices of a group in one call, each under a key of its own; returns them by name."""
    files = choice_files(group)
    changed = tuple(file.stat().st_mtime_ns for file in files.values())  # of a folder of one's own
    return copy.deepcopy(_composed_sections(group, tuple(chosen), outputs, tuple(conf_folders()), changed))


@lru_cache(maxsize=64)
def _composed_sections(
    group: str, chosen: tuple[str, ...], outputs: str, folders: tuple[Path, ...], changed: tuple[int, ...]
) -> dict[str, dict[str, Any]]:
    sections: dict[str, dict[str, Any]] = _resolved(_composed_choices(group, chosen, folders, changed), outputs)[
        "chosen"
    ]
    return sections


@lru_cache(maxsize=64)
def _composed_choices(
    group: str, chosen: tuple[str, ...], _folders: tuple[Path, ...], _changed: tuple[int, ...]
) -> Any:
    """What is the same wherever outputs lie; the last two only say whether it still holds."""
    return compose_words("evaluate", [f"+{group}@chosen.{name}={name}" for name in chosen])


def composed(words: Sequence[str], outputs: str | None = None) -> dict[str, Any]:
    """Compose the configuration that `dmq evaluate` makes of these words, resolved; values left to the user stay "???".

    outputs: the value of runtime.outputs, where the words do not give it. Raises Hydra's errors for words that do not compose.
    """
    return _resolved(compose_words("evaluate", words), outputs)


def _resolved(config: Any, outputs: str | None) -> dict[str, Any]:
    from omegaconf import OmegaConf

    if outputs is not None:
        config.runtime.outputs = outputs
    plain: Any = OmegaConf.to_container(config, resolve=True)
    return dict(plain)


def compose_words(verb: str, words: Sequence[str]) -> Any:
    """Compose the words of a verb with Hydra, with the choices of own folders and plugins; nothing is resolved yet."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    first, *more_folders = conf_folders()
    with initialize_config_dir(str(first), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        for folder in more_folders:
            loader.get_search_path().prepend("dmq", str(folder), anchor="schema")  # which has to stay the last
        loader.repository.initialize_sources(loader.get_search_path())
        return compose("config", [f"stage={verb}", *words])


def read_choice(file: Path) -> dict[str, Any]:
    """Read a YAML file, nothing composed or resolved."""
    from omegaconf import OmegaConf

    content: Any = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    return dict(content)
