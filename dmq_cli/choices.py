"""What conf/ and folders of one's own have to choose from, read without composing a job: methods, models, protocols."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dmq_cli.errors import ConfigError, must_be_given, nearest
from dmq_cli.obtain import find_network, reference_file
from dmq_cli.paths import choice_files, resolve

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
    for name in names("model"):
        about = choice_files("model")[name].read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
        present = find_network(resolve(model(name)["path"])) is not None
        rows.append({"name": name, "about": about, "present": present})
    return rows


def names(group: str) -> list[str]:
    """The choices of a group, sorted; of model only those that are models."""
    return [name for name in choice_files(group) if name != _OF_A_PATH]


def model(name: str, outputs: str = "outputs") -> dict[str, Any]:
    """A model's configuration, with its path under `outputs`. Raises ConfigError for an unknown name."""
    if name not in names("model"):
        raise ConfigError(f"There is no model {name}.{nearest(name, names('model'))}")
    found = _whole("model", name)
    return {**found, "path": found["path"].replace("${runtime.outputs}", outputs)}


def protocol(name: str) -> dict[str, Any]:
    """A protocol's configuration; what a user has to fill in is "???". Raises ConfigError for an unknown name."""
    if name not in names("protocol"):
        raise ConfigError(f"There is no protocol {name}.{nearest(name, names('protocol'))}")
    return _whole("protocol", name)


def protocol_with(name: str, words: Sequence[str]) -> dict[str, Any]:
    """`protocol` with what words like protocol.num_images=500 change. Raises ConfigError for an unknown name, key or word."""
    from omegaconf import OmegaConf

    section = protocol(name)
    for word in words:
        key = word.partition("=")[0].removeprefix("protocol.")
        if not word.startswith("protocol.") or "=" not in word:
            raise ConfigError(f"The word {word} is not understood here; write protocol.KEY=VALUE.")
        if key not in section:
            raise ConfigError(f"The protocol {name} has no key {key}.{nearest(key, list(section))}")
        given: Any = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={word.partition('=')[2]}"]))
        section[key] = given["value"]
    return section


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
    return [_whole("protocol", name) for name in names("protocol")]


def table(name: str) -> dict[str, Any]:
    """The section `table` of a file in conf/table, nothing resolved."""
    found: dict[str, Any] = read_choice(choice_files("table")[name])["table"]
    return found


def measures(outputs: str = "outputs") -> list[dict[str, Any]]:
    """name, extractor, images, columns and present (whether weights and references lie where it says) of every protocol."""
    rows = []
    for one in protocols():
        files = [resolve(str(value)) for key, value in one.items() if key.endswith("_path") and value is not None]
        reference = reference_file(one["reference"], one["reference_path"], outputs)
        present = all(file.exists() for file in [*files, *([] if reference is None else [reference])])
        row = {"name": one["name"], "extractor": one["extractor"], "images": one["num_images"]}
        rows.append({**row, "columns": list(one.get("columns", {}).values()), "present": present})
    return rows


def _whole(group: str, name: str) -> dict[str, Any]:
    """A choice of a group with what it takes from others of the same group; what it overrides in other groups is left out."""
    found = read_choice(choice_files(group)[name])
    for base in found.pop("defaults", []):
        if isinstance(base, str) and base != "_self_":
            found = {**_whole(group, base), **found}
    return found


def read_choice(file: Path) -> dict[str, Any]:
    """A YAML file as it stands, nothing composed or resolved."""
    from omegaconf import OmegaConf

    found: Any = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    return dict(found)
