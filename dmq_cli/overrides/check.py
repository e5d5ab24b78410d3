"""Refuses what a command asks for and nobody reads, and what it takes away although it is needed."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, get_type_hints

from dmq_cli.errors import ConfigError, nearest
from dmq_cli.overrides.shape import choices, groups, parameters, section_of, unread

_NEEDED = {
    "model": ("name", "path"), "method": ("name", "cite"), "bits": ("weight", "act"), "budget": ("name",), "table": ("name",),
    "runtime": ("device", "batch_size", "guidance_calls", "threads", "outputs", "force", "upstream"),
    "cond": ("guidance", "classes", "prompts"),
}  # fmt: skip
_NEEDED_VALUES = ("stage", "seeds", "fp_seeds", "calibrated_steps")
_LABELS = {"method.name": "method", "method.cite": "method", "bits.name": "bits", "budget.name": "budget"}
_NOTHING = ("null", "[]", "''", '""', "{}")
_SUGGESTED = ("sampler", "calib", "correct", "recon", "transform", "scheme", "protocol", "logger", "model")
_OPTIONAL = "train"  # models that dmq does not train have none


def check_words(words: Sequence[str]) -> None:
    """Raise ConfigError for overrides that leave a group without a choice, or only change what a run is called."""
    for word in words:
        key, _, value = word.lstrip("+~").partition("=")
        group = key.partition("@")[0]
        if group in groups() and (word.startswith("~") or value in _NOTHING):
            raise ConfigError(f"{word} would leave no {group}; choose one, as in {_example(group)}.{_known(group)}")
        if key.startswith("hydra.") and word.startswith("+") and not _is_hydras(key.split(".")[1:]):
            raise ConfigError(f"{word} is read by nobody: Hydra has no {key}; leave it out.")
        _check_metrics(word, key, value)
        if key in _LABELS:
            raise ConfigError(
                f"{word} would only change what the run is called; choose another {_LABELS[key]} instead."
            )


def _check_metrics(word: str, key: str, value: str) -> None:
    """Words of when metrics were a list, and one that would leave a metric's options behind."""
    if key == "protocol.metrics" and value.startswith("["):
        raise ConfigError(
            f"{word} is a list, but every metric has a section of its own; take one away with protocol.metrics.NAME=null, add one with"
            " +metric@protocol.metrics.NAME=NAME."
        )
    if key.startswith("protocol."):
        from dmq_cli.metrics.flat import MOVED

        if (moved := MOVED.get(key.removeprefix("protocol."))) is not None:
            raise ConfigError(
                f"{word} is read by nobody; it is an option of the metric: write protocol.{moved}={value}."
            )
    if word.startswith("~metric@protocol.metrics."):
        raise ConfigError(f"{word} would leave the metric's options behind; write {key.removeprefix('metric@')}=null.")


def _is_hydras(path: Sequence[str]) -> bool:
    """Whether Hydra's own configuration has a key, or takes any there."""
    from hydra.conf import HydraConf

    node: Any = HydraConf
    for name in path:
        fields = getattr(node, "__dataclass_fields__", None)
        if fields is None:  # a launcher's, a sweeper's, or a dictionary
            return True
        if name not in fields:
            return False
        node = get_type_hints(node)[name]
    return True


def _example(group: str) -> str:
    known = choices(group)
    return f"{group}={'none' if 'none' in known else known[0]}"


def _known(group: str) -> str:
    return f" There is: {', '.join(choices(group))}."


def check_config(config: Any, words: Sequence[str], sections: Collection[str] | None = None) -> None:
    """Raise ConfigError for a key that nobody reads, and for one that lacks. config: composed by Hydra; words: overrides.

    sections: the only ones in which such keys are looked for; None: all, for which what they name is imported.
    """
    from omegaconf import OmegaConf

    plain: Any = OmegaConf.to_container(config, resolve=False)
    plain.pop("hydra", None)
    _check_needed(plain, words)
    if not any(word.lstrip("+~").startswith(_OPTIONAL) for word in words) and plain["stage"] != _OPTIONAL:
        plain.pop(_OPTIONAL, None)  # as conf/ has it; looking at its constructors would import what trains
    if wrong := list(unread(plain, sections)):
        meant = suggestion(wrong[0], plain, wrong)
        raise ConfigError(f"{_asked(wrong[0], words)} is read by nobody;{meant} leave it out.")


def _check_needed(config: Mapping[str, Any], words: Sequence[str]) -> None:
    for group in groups():
        section = config.get(group)
        if group == _OPTIONAL:
            _check_optional(section, words)
        elif not isinstance(section, Mapping) or (group not in _NEEDED and "_target_" not in section):
            raise ConfigError(
                f"There is no {group} in the configuration; choose one, as in {_example(group)}.{_known(group)}"
            )
    for name, keys in _NEEDED.items():
        section = config.get(name)
        lacking = [key for key in keys if not isinstance(section, Mapping) or key not in section]
        if lacking:
            raise ConfigError(f"The configuration has no {name}.{lacking[0]}, which is needed; do not take it away.")
    for name in _NEEDED_VALUES:
        if name not in config:
            raise ConfigError(f"The configuration has no {name}, which is needed; do not take it away.")


def _check_optional(section: Any, words: Sequence[str]) -> None:
    """Hydra takes any choice of an optional group for none."""
    for word in words:
        name = word.partition("=")[2]
        if section is None and word.startswith(f"{_OPTIONAL}="):
            raise ConfigError(f"There is no {_OPTIONAL} {name}.{nearest(name, choices(_OPTIONAL))}")


def _asked(key: str, words: Sequence[str]) -> str:
    """The word that gave a key, else the key itself."""
    for word in words:
        own = word.lstrip("+~").partition("=")[0]
        if key == own or key.startswith(f"{own}."):
            return word
    return f"The key {key} of a file"


def suggestion(key: str, config: Mapping[str, Any], wrong: Sequence[str] = ()) -> str:
    """The part of a sentence that names the key that was probably meant: " did you mean sampler.eta? Write that, or".

    wrong: other keys that nobody reads.
    """
    section, _, last = key.rpartition(".")
    known = [one for one in _keys(config, "") if one not in (key, *wrong) and not key.startswith(f"{one}.")]
    inside = [one for one in known if section and one.rpartition(".")[0] == section]
    if close := _close(last, inside):
        return _meant(close)
    same = [one for one in known if one.rpartition(".")[2] == last]
    if same:
        return _meant(max(same, key=lambda one: (one.split(".")[0] == key.split(".")[0], _likeness(one, key))))
    if close := _close(last, known):
        return _meant(close)
    return _meant(*found) if (found := _elsewhere(last)) else ""


def _likeness(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()


def _meant(key: str, where: str = "") -> str:
    return f" did you mean {key}{where and f' (which {where} has)'}? Write that, or"


def _close(last: str, known: Sequence[str]) -> str | None:
    """The key whose last part is most like this one, or ends with it."""
    names = {one.rpartition(".")[2]: one for one in reversed(known)}
    ending = [name for name in names if name.endswith(f"_{last}")]
    close = difflib.get_close_matches(last, names, n=1, cutoff=0.7) or ending[-1:]
    return names[close[0]] if close else None


def _keys(node: Any, path: str) -> Iterator[str]:
    """All keys that can be overridden, also those that a constructor takes and its YAML leaves out."""
    if not isinstance(node, Mapping):
        return
    added = (parameters(str(node["_target_"])) or ()) if "_target_" in node else ()
    for name in dict.fromkeys([*node, *added]):
        if str(name).startswith("_"):
            continue
        key = f"{path}.{name}" if path else str(name)
        yield key
        yield from _keys(node.get(name), key)


def _elsewhere(last: str) -> tuple[str, str] | None:
    """A key of this name in a choice that was not made, and that choice."""
    for group in _SUGGESTED:
        for choice in choices(group):
            for key in _keys(section_of(group, choice), group):
                if key.rpartition(".")[2] == last:
                    return key, f"{group}={choice}"
    return None
