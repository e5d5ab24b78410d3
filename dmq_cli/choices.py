"""What conf/ and folders of one's own have to choose from: methods, models, protocols. Hydra is imported where something is composed."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from dmq_cli.errors import ConfigError, must_be_given, nearest
from dmq_cli.obtain import find_network, reference_file
from dmq_cli.paths import choice_files, conf_folders, resolve

_OF_A_PATH = "folder"  # the model file that `model=/a/folder` fills


def methods() -> list[dict[str, Any]]:
    """name, groups and cite of every file in conf/method. groups: what it chooses, e.g. {"calib": "uniform", ...}."""
    rows: list[dict[str, Any]] = []
    for file in choice_files("method").values():
        found = read_choice(file)
        chosen = [one for one in found.get("defaults", []) if isinstance(one, dict)]  # not _self_
        groups = {str(key).rpartition("/")[2]: value for one in chosen for key, value in one.items()}
        rows.append({"name": file.stem, "groups": groups, "cite": " ".join(found["method"]["cite"].split())})
    return rows


def models() -> list[dict[str, Any]]:
    """name, about and present of every model: what it is, and whether its network is where it is looked for."""
    rows = []
    for name, section in _sections("model", names("model")).items():
        present = find_network(resolve(section["path"])) is not None
        rows.append({"name": name, "about": about("model", name), "present": present})
    return rows


def about(group: str, name: str) -> str:
    """The first line of a choice's file, which says what it is."""
    text = choice_files(group)[name].read_text(encoding="utf-8")
    return text.partition("\n")[0].lstrip("# ")


def names(group: str) -> list[str]:
    """The choices of a group, sorted; of model only those that are models."""
    return [name for name in choice_files(group) if name != _OF_A_PATH]


def model(name: str, outputs: str = "outputs") -> dict[str, Any]:
    """A model's configuration, with its path under `outputs`. Raises ConfigError for an unknown name."""
    if name not in names("model"):
        raise ConfigError(f"There is no model {name}.{nearest(name, names('model'))}")
    return _sections("model", (name,), outputs)[name]


def protocol(name: str) -> dict[str, Any]:
    """A protocol's configuration; what a user has to fill in is "???". Raises ConfigError for an unknown name."""
    if name not in names("protocol"):
        raise ConfigError(f"There is no protocol {name}.{nearest(name, names('protocol'))}")
    return _sections("protocol", (name,))[name]


def protocol_with(name: str, words: Sequence[str]) -> dict[str, Any]:
    """`protocol` with what overrides such as protocol.num_images=500 change. Raises ConfigError for an unknown name or word,
    Hydra's errors for a key that does not exist.
    """
    if name not in names("protocol"):
        raise ConfigError(f"There is no protocol {name}.{nearest(name, names('protocol'))}")
    for word in words:
        if not word.lstrip("+~").startswith(("protocol.", "metric@protocol.metrics.")):
            raise ConfigError(f"The word {word} is not understood here; write protocol.KEY=VALUE.")
    found: dict[str, Any] = composed((f"protocol={name}", *words))["protocol"]
    return found


def check_given(section: Mapping[str, Any]) -> None:
    """Raise ConfigError for a value of a protocol that a user has to fill in and did not."""
    for key, value in section.items():
        if value == "???":
            raise ConfigError(must_be_given(f"protocol.{key}"))


def table_parts(name: str) -> list[str]:
    """The files of conf/table that fill a table: NAME, then NAME__PART in order. Raises ConfigError for an unknown name."""
    known = names("table")
    if name not in known:
        raise ConfigError(f"There is no table {name}.{nearest(name, known)}")
    return [name, *(other for other in known if other.startswith(f"{name}__"))]


def protocols() -> list[dict[str, Any]]:
    """The configuration of every protocol; what a user has to fill in is "???"."""
    return list(_sections("protocol", names("protocol")).values())


def table(name: str) -> dict[str, Any]:
    """The section `table` of a file in conf/table, nothing resolved."""
    found: dict[str, Any] = read_choice(choice_files("table")[name])["table"]
    return found


def measures(outputs: str = "outputs") -> list[dict[str, Any]]:
    """name, extractor, images, columns (or metrics) and present (whether weights and references lie where it says) of every protocol."""
    rows = []
    for one in protocols():
        files = [resolve(str(value)) for key, value in one.items() if key.endswith("_path") and value is not None]
        name, path = one["reference"], one["reference_path"]
        reference = None if name is None else reference_file(name, path, outputs)
        present = all(file.exists() for file in [*files, *([] if reference is None else [reference])])
        row = {"name": one["name"], "extractor": one["extractor"] or "", "images": one["num_images"]}
        columns = list(one.get("columns", {}).values()) or [key for key, metric in one["metrics"].items() if metric]
        rows.append({**row, "columns": columns, "present": present})
    return rows


def _sections(group: str, chosen: Iterable[str], outputs: str = "outputs") -> dict[str, dict[str, Any]]:
    """Choices of a group by name, composed at once: each in a place of its own."""
    files = choice_files(group)
    changed = tuple(file.stat().st_mtime_ns for file in files.values())  # of a folder of one's own
    return copy.deepcopy(_composed_sections(group, tuple(chosen), outputs, tuple(conf_folders()), changed))


@lru_cache(maxsize=64)
def _composed_sections(
    group: str, chosen: tuple[str, ...], outputs: str, folders: tuple[Path, ...], changed: tuple[int, ...]
) -> dict[str, dict[str, Any]]:
    words = tuple(f"+{group}@chosen.{name}={name}" for name in chosen)
    sections: dict[str, dict[str, Any]] = composed(words, outputs)["chosen"]
    return sections


def composed(words: Sequence[str], outputs: str | None = None) -> dict[str, Any]:
    """The configuration that `dmq evaluate` makes of these words, resolved; what a user has to fill in stays "???".

    outputs: the value of runtime.outputs, where the words do not give it. Raises Hydra's errors for words that do not compose.
    """
    from omegaconf import OmegaConf

    found = compose_words("evaluate", words)
    if outputs is not None:
        found.runtime.outputs = outputs
    plain: Any = OmegaConf.to_container(found, resolve=True)
    return dict(plain)


def compose_words(verb: str, words: Sequence[str]) -> Any:
    """What Hydra composes of the words of a verb, with the choices of own folders and plugins; nothing is resolved yet."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    first, *others = conf_folders()
    with initialize_config_dir(str(first), version_base="1.3"):
        search_path = GlobalHydra.instance().config_loader().get_search_path()
        for folder in others:
            search_path.append("dmq", str(folder))
        return compose("config", [f"stage={verb}", *words])


def read_choice(file: Path) -> dict[str, Any]:
    """A YAML file as it stands, nothing composed or resolved."""
    from omegaconf import OmegaConf

    found: Any = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    return dict(found)
