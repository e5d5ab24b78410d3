"""Refuse overrides of keys that nothing reads, and overrides that remove a key that is needed."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, get_type_hints

from dmq_cli.errors import ConfigError, nearest
from dmq_cli.overrides.shape import choices, groups, parameters, section_of, unread

_NEEDED = {
    "model": ("name", "path"), "method": ("name", "cite"), "bits": ("weight", "act"), "budget": ("name",), "table": ("name",),
    "runtime": ("device", "batch_size", "guidance_calls", "threads", "outputs", "force", "upstream", "workers", "devices"),
    "store": ("lock",),
    "cond": ("guidance", "classes", "prompts"), "data": ("path",),
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
            raise ConfigError(
                f"{word} would leave no {group}; choose one, as in {_example(group)}.{_list_choices(group)}"
            )
        if key.startswith("hydra.") and word.startswith("+") and not _is_hydras(key.split(".")[1:]):
            raise ConfigError(f"{word} is read by nobody: Hydra has no {key}; leave it out.")
        _check_metrics(word, key, value)
        if key in _LABELS:
            raise ConfigError(
                f"{word} would only change what the run is called; choose another {_LABELS[key]} instead."
            )


def _check_metrics(word: str, key: str, value: str) -> None:
    """Refuse words of the former list of metrics, and the removal of a metric that would leave its options behind."""
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
    """Whether Hydra's own configuration has a key, or accepts any in its place."""
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
    names = choices(group)
    return f"{group}={'none' if 'none' in names else names[0]}"


def _list_choices(group: str) -> str:
    return f" There is: {', '.join(choices(group))}."


def check_config(config: Any, words: Sequence[str], sections: Collection[str] | None = None) -> None:
    """Raise ConfigError for a key that nothing reads, and for one that is missing. config: composed by Hydra; words: overrides.

    sections: the only ones whose keys are checked; None: all, for which the classes they name are imported.
    """
    from omegaconf import OmegaConf

    plain: Any = OmegaConf.to_container(config, resolve=False)
    plain.pop("hydra", None)
    _check_needed(plain, words)
    if not any(word.lstrip("+~").startswith(_OPTIONAL) for word in words) and plain["stage"] != _OPTIONAL:
        plain.pop(_OPTIONAL, None)  # unchanged from conf/; reading its constructors would import the training code
    if wrong := list(unread(plain, sections)):
        meant = suggestion(wrong[0], plain, wrong)
        raise ConfigError(f"{_word_of(wrong[0], words)} is read by nobody;{meant} leave it out.")


def _check_needed(config: Mapping[str, Any], words: Sequence[str]) -> None:
    for group in groups():
        section = config.get(group)
        if group == _OPTIONAL:
            _check_optional(words)
        elif not isinstance(section, Mapping) or (group not in _NEEDED and "_target_" not in section):
            raise ConfigError(
                f"There is no {group} in the configuration; choose one, as in {_example(group)}.{_list_choices(group)}"
            )
    for name, keys in _NEEDED.items():
        section = config.get(name)
        lacking = [key for key in keys if not isinstance(section, Mapping) or key not in section]
        if lacking:
            raise ConfigError(f"The configuration has no {name}.{lacking[0]}, which is needed; do not take it away.")
    for name in _NEEDED_VALUES:
        if name not in config:
            raise ConfigError(f"The configuration has no {name}, which is needed; do not take it away.")


def _check_optional(words: Sequence[str]) -> None:
    """Check the choice of an optional group: where it does not exist, Hydra silently chooses none."""
    for word in words:
        name = word.partition("=")[2]
        if word.startswith(f"{_OPTIONAL}=") and name not in choices(_OPTIONAL):
            raise ConfigError(f"There is no {_OPTIONAL} {name}.{nearest(name, choices(_OPTIONAL))}")


def _word_of(key: str, words: Sequence[str]) -> str:
    """Find the word that set a key; else name the key itself."""
    for word in words:
        word_key = word.lstrip("+~").partition("=")[0]
        if key == word_key or key.startswith(f"{word_key}."):
            return word
    return f"The key {key} of a file"


def suggestion(key: str, config: Mapping[str, Any], wrong: Sequence[str] = ()) -> str:
    """Write the part of a sentence that names the key probably meant: " did you mean sampler.eta? Write that, or".

    wrong: other keys that nothing reads.
    """
    section, _, last = key.rpartition(".")
    keys = [name for name in _keys(config, "") if name not in (key, *wrong) and not key.startswith(f"{name}.")]
    inside = [name for name in keys if section and name.rpartition(".")[0] == section]
    if close := _close(last, inside):
        return _meant(close)
    same = [name for name in keys if name.rpartition(".")[2] == last]
    if same:
        return _meant(max(same, key=lambda name: (name.split(".")[0] == key.split(".")[0], _likeness(name, key))))
    if close := _close(last, keys):
        return _meant(close)
    return _meant(*elsewhere) if (elsewhere := _elsewhere(last)) else ""


def _likeness(first: str, second: str) -> float:
    return difflib.SequenceMatcher(None, first, second).ratio()


def _meant(key: str, where: str = "") -> str:
    return f" did you mean {key}{where and f' (which {where} has)'}? Write that, or"


def _close(last: str, keys: Sequence[str]) -> str | None:
    """Find the key whose last part is most like this one, or ends with it."""
    names = {key.rpartition(".")[2]: key for key in reversed(keys)}
    ending = [name for name in names if name.endswith(f"_{last}")]
    close = difflib.get_close_matches(last, names, n=1, cutoff=0.7) or ending[-1:]
    return names[close[0]] if close else None


def _keys(node: Any, path: str) -> Iterator[str]:
    """Yield all keys that can be overridden, including parameters of a constructor that its YAML leaves out."""
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
    """Find a key of this name in another choice of its group, and that choice."""
    for group in _SUGGESTED:
        for choice in choices(group):
            for key in _keys(section_of(group, choice), group):
                if key.rpartition(".")[2] == last:
                    return key, f"{group}={choice}"
    return None
